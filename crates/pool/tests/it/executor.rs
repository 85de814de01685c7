//! CPython's tests of how its executor fails, is started and ends, each under every start method; see
//! `docs/conformance.md`. Where its pool is broken by a worker that dies, ours goes on.

use crate::support::{Gate, Notebook, die_by, each_method, gate, note, pool_under, settled};
use procession_pool::{Pool, TaskError};
use procession_process::StartMethod;
use procession_testkit::isolated;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _, ser::Error as _};
use std::{fs::File, time::Duration};

each_method! {
    a_task_that_fails_or_ends_its_worker_while_it_is_decoded_is_its_own_error,
    a_function_that_fails_or_ends_its_worker_is_its_own_error,
    a_result_that_fails_or_ends_its_worker_while_it_is_encoded_is_its_own_error,
    a_result_that_cannot_be_decoded_here_is_its_own_error,
    a_pool_whose_worker_was_just_killed_by_its_task_can_be_joined,
    a_pool_that_was_given_what_cannot_be_encoded_can_be_joined,
    workers_that_die_over_large_arguments_hang_nobody,
    more_than_all_workers_have_room_for_can_be_submitted_while_nobody_looks,
    a_call_that_is_cancelled_at_once_does_not_delay_the_end,
    a_pool_that_is_closed_without_waiting_gives_its_results,
    a_pool_that_is_joined_at_once_has_done_everything,
    what_a_worker_was_given_is_dropped_there_without_another_task,
    an_initialiser_that_fails_breaks_the_pool_for_all_that_wait,
}

const BOUND: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum Way {
    Exit,
    Error,
    Crash,
}

const WAYS: [Way; 3] = [Way::Exit, Way::Error, Way::Crash];

impl Way {
    /// Fails by returning, or not at all.
    fn happen(self) -> Result<(), String> {
        match self {
            Way::Exit => std::process::exit(1),
            Way::Error => Err("by design".to_owned()),
            Way::Crash => die_by(9),
        }
    }

    /// What becomes of the item: a death, or an error in words.
    #[track_caller]
    fn check(self, error: &TaskError) {
        match (self, error) {
            (Way::Exit | Way::Crash, TaskError::Died(_)) => {}
            (Way::Error, error) if error.to_string().contains("by design") => {}
            (way, error) => panic!("{way:?}: {error}"),
        }
    }
}

/// Fails in the process that decodes it.
#[derive(Debug, Serialize)]
struct AtDecoding(Way);

impl<'de> Deserialize<'de> for AtDecoding {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<AtDecoding, D::Error> {
        let way = Way::deserialize(deserializer)?;
        way.happen().map_err(D::Error::custom)?;
        Ok(AtDecoding(way))
    }
}

/// Fails in the process that encodes it.
#[derive(Debug, Deserialize)]
struct AtEncoding(Way);

impl Serialize for AtEncoding {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.happen().map_err(S::Error::custom)?;
        self.0.serialize(serializer)
    }
}

/// A call in which each way to fail comes, alone and with others behind it.
fn fails<A, R>(method: StartMethod, f: fn(A) -> R, argument: fn(Way) -> A)
where
    A: Serialize + serde::de::DeserializeOwned + 'static,
    R: Serialize + serde::de::DeserializeOwned + std::fmt::Debug + 'static,
{
    let pool = pool_under(method, 2);
    for way in WAYS {
        let behind: Vec<_> = (0..5).map(|n| pool.submit(|n: u64| n + 1, n).unwrap()).collect();
        way.check(&pool.submit(f, argument(way)).unwrap().get().unwrap_err());
        way.check(&pool.apply(f, argument(way)).unwrap_err());
        let results = pool.tasks(f, [way; 3].map(argument)).chunk_size(3).collect_results();
        results.iter().for_each(|result| way.check(result.as_ref().unwrap_err()));
        assert!(behind.into_iter().map(|task| task.get().unwrap()).eq(1..6));
    }
    assert_eq!(pool.apply(|n: u64| n, 7).unwrap(), 7);
    pool.join();
}

fn a_task_that_fails_or_ends_its_worker_while_it_is_decoded_is_its_own_error(method: StartMethod) {
    fails(method, |_: AtDecoding| (), AtDecoding);
}

fn a_function_that_fails_or_ends_its_worker_is_its_own_error(method: StartMethod) {
    fails(method, |way: Way| way.happen().unwrap(), |way| way);
}

fn a_result_that_fails_or_ends_its_worker_while_it_is_encoded_is_its_own_error(method: StartMethod) {
    fails(method, AtEncoding, |way| way);
}

/// To exit or crash there ends this program; that is no pool's matter.
fn a_result_that_cannot_be_decoded_here_is_its_own_error(method: StartMethod) {
    let pool = pool_under(method, 2);
    let call = |()| AtDecoding(Way::Error);
    for _ in 0..3 {
        let error = pool.submit(call, ()).unwrap().get().unwrap_err();
        assert!(matches!(&error, TaskError::BadResult(why) if why.contains("by design")), "{error}");
        assert!(pool.map(call, [(); 3]).is_err());
    }
    assert_eq!(pool.apply(|n: u64| n, 7).unwrap(), 7);
    pool.join();
}

fn a_pool_whose_worker_was_just_killed_by_its_task_can_be_joined(method: StartMethod) {
    let pool = pool_under(method, 1);
    let task = pool.submit(|()| Way::Crash.happen().is_ok(), ()).unwrap();
    assert!(pool.join_timeout(BOUND).is_ok());
    Way::Crash.check(&task.get().unwrap_err());
}

fn a_pool_that_was_given_what_cannot_be_encoded_can_be_joined(method: StartMethod) {
    let pool = pool_under(method, 1);
    assert!(pool.submit(|_: AtEncoding| 1, AtEncoding(Way::Error)).is_err());
    let rest = pool.submit(|n: u64| n, 7).unwrap();
    assert!(pool.join_timeout(BOUND).is_ok());
    assert_eq!(rest.get().unwrap(), 7);
}

fn workers_that_die_over_large_arguments_hang_nobody(method: StartMethod) {
    let pool = pool_under(method, 2);
    let data = vec![7_u8; 4 << 20];
    let results = pool.tasks(|_: Vec<u8>| Way::Crash.happen().is_ok(), (0..10).map(|_| data.clone()));
    let results = results.chunk_size(1).collect_results();
    results.iter().for_each(|result| Way::Crash.check(result.as_ref().unwrap_err()));
    assert_eq!(pool.apply(|data: Vec<u8>| data.len(), data).unwrap(), 4 << 20);
    pool.join();
}

fn more_than_all_workers_have_room_for_can_be_submitted_while_nobody_looks(method: StartMethod) {
    let held = Gate::new();
    let pool = pool_under(method, 1);
    let first = pool.submit(gate, held.path()).unwrap();
    let tasks: Vec<_> = (0..20_000_u64).map(|n| pool.submit(|n: u64| n, n).unwrap()).collect();
    held.open();
    assert!(tasks.into_iter().map(|task| task.get().unwrap()).eq(0..20_000));
    assert_eq!(first.get().unwrap(), 7);
    pool.join();
}

fn a_call_that_is_cancelled_at_once_does_not_delay_the_end(method: StartMethod) {
    let held = Gate::new();
    let pool = pool_under(method, 1);
    let first = pool.submit(gate, held.path()).unwrap();
    let cancelled = pool.submit(|n: u64| n, 1).unwrap();
    let last = pool.submit(|n: u64| n, 2).unwrap();
    let was = cancelled.cancel();
    held.open();
    assert!(pool.join_timeout(BOUND).is_ok());
    assert_eq!((first.get().unwrap(), last.get().unwrap()), (7, 2));
    // Whether it was started already is known by now.
    match cancelled.get() {
        Err(TaskError::Cancelled) => {}
        result => assert!(!was && result.unwrap() == 1),
    }
}

fn a_pool_that_is_closed_without_waiting_gives_its_results(method: StartMethod) {
    let held = Gate::new();
    let pool = pool_under(method, 2);
    let pids = pool.worker_pids();
    let first = pool.submit(gate, held.path()).unwrap();
    let task = pool.map_async(|n: i64| n.abs(), -5..5).unwrap();
    pool.close();
    assert!(pool.submit(|n: u64| n, 1).is_err());
    held.open();
    assert_eq!(task.get().unwrap(), [5, 4, 3, 2, 1, 0, 1, 2, 3, 4]);
    assert_eq!(first.get().unwrap(), 7);
    assert!(pool.join_timeout(BOUND).is_ok());
    assert!(pids.iter().all(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists()));
}

fn a_pool_that_is_joined_at_once_has_done_everything(method: StartMethod) {
    let pool = pool_under(method, 4);
    let nap = |n: u64| {
        std::thread::sleep(Duration::from_millis(n % 7));
        n
    };
    let tasks: Vec<_> = (0..200).map(|n| pool.submit(nap, n).unwrap()).collect();
    pool.join();
    assert!(tasks.into_iter().map(|task| task.get().unwrap()).eq(0..200));
}

/// Notes its end in any process but the one that made it.
#[derive(Debug, Serialize, Deserialize)]
struct Noted {
    path: String,
    maker: u32,
}

impl Drop for Noted {
    fn drop(&mut self) {
        if std::process::id() != self.maker {
            note(&self.path, 1);
        }
    }
}

fn what_a_worker_was_given_is_dropped_there_without_another_task(method: StartMethod) {
    let pool = pool_under(method, 1);
    let notes = Notebook::new();
    let noted = Noted { path: notes.path(), maker: std::process::id() };
    // An argument that becomes the result.
    let back = pool.submit(|noted: Noted| noted, noted).unwrap().get().unwrap();
    assert_eq!(notes.wait_for(1), [1]);
    drop(back);
    pool.join();
    assert_eq!(notes.read(), [1]);
}

fn an_initialiser_that_fails_breaks_the_pool_for_all_that_wait(method: StartMethod) {
    let broken = |()| panic!("error in the initialiser");
    let pool = Pool::builder().workers(2).start_method(method).initializer(broken, ()).build().unwrap();
    let is_broken = |error: &TaskError| matches!(error, TaskError::Broken(why) if why.contains("error in the initialiser"));
    // One of them may find the pool broken already.
    let tasks: Vec<_> = (0..10).filter_map(|n| pool.submit(|n: u64| n, n).ok()).collect();
    for task in tasks {
        let error = task.get().unwrap_err();
        assert!(is_broken(&error), "{error}");
    }
    let error = pool.map(|n: u64| n, 0..3).unwrap_err();
    assert!(is_broken(&error), "{error}");
    assert!(pool.join_timeout(BOUND).is_ok());
}

#[test]
fn a_pool_whose_initialiser_fails_leaves_nothing_behind() {
    isolated!({
        for method in [StartMethod::ForkServer, StartMethod::Spawn] {
            let round = || {
                let pool = Pool::builder().workers(2).start_method(method);
                let pool = pool.initializer(|()| panic!("error in the initialiser"), ()).build().unwrap();
                assert!(pool.apply(|n: u64| n, 1).is_err());
            };
            // What lives as long as the program.
            round();
            let before = settled();
            (0..3).for_each(|_| round());
            before.assert_settles(Duration::from_secs(10));
        }
    });
}

#[test]
fn a_pool_that_cannot_start_all_of_its_workers_is_an_error_and_leaves_none() {
    isolated!({
        const WORKERS: usize = 4;
        procession_testkit::limits::Surroundings::new().nofile(128).apply().unwrap();
        let build = || Pool::builder().workers(WORKERS).start_method(StartMethod::ForkServer).build();
        drop(build().unwrap());
        let mut held: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
        let (mut failures, mut left) = (0, held.len());
        loop {
            let before = settled();
            match build() {
                Ok(pool) => {
                    // With one descriptor less the last of the workers had none.
                    assert_eq!(pool.worker_pids().len(), WORKERS);
                    break;
                }
                Err(error) => {
                    let why = error.to_string();
                    assert!(why.contains("open files") || why.contains("descriptor"), "{why}");
                }
            }
            before.assert_settles(Duration::from_secs(10));
            failures += 1;
            assert!(held.pop().is_some(), "{left} descriptors are not enough");
            left -= 1;
        }
        assert!(failures > WORKERS, "{failures}");
    });
}
