//! Every way to die, in every place, under every call: no hang, the right error on the right item, and the pool is usable
//! afterwards.
//!
//! | | decoding the argument | initialiser | running | encoding the result | decoding it here |
//! |---|---|---|---|---|---|
//! | exit, abort, SIGSEGV, SIGKILL | `Died` | `Broken` | `Died` | `Died` | not tested: it ends the program itself |
//! | panic | `Panicked` | `Broken` | `Panicked` | `Panicked` | goes on in the caller's thread, for that item only; from a handle, `BadResult` |
//!
//! "Under every call" is: `apply`, `map`, `imap_unordered`, `submit`. What breaks a pool breaks it for good: there, "usable
//! afterwards" means that every call is told the same at once.

use crate::support::die_by;
use procession_pool::{Pool, TaskError, Work};
use procession_process::ExitStatus;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::panic::{AssertUnwindSafe, catch_unwind};

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum Way {
    Exit,
    Abort,
    Segv,
    Kill,
    Panic,
}

const WAYS: [Way; 5] = [Way::Exit, Way::Abort, Way::Segv, Way::Kill, Way::Panic];

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
enum Place {
    Arguments,
    Running,
    Result,
    /// In the process that waits for the result.
    Here,
    Nowhere,
}

fn die(way: Way) {
    match way {
        Way::Exit => std::process::exit(7),
        Way::Abort => std::process::abort(),
        Way::Segv => {
            // SAFETY: it takes no pointers. It is raised rather than caused, since a fault of our own would be undefined
            // behaviour; the handler for overflowed stacks goes by.
            unsafe {
                libc::signal(libc::SIGSEGV, libc::SIG_DFL);
            }
            die_by(libc::SIGSEGV)
        }
        Way::Kill => die_by(libc::SIGKILL),
        Way::Panic => panic!("as it was told"),
    }
}

/// An argument that may be deadly to decode.
#[derive(Clone, Copy, Serialize)]
struct Argument {
    number: u64,
    place: Place,
    way: Way,
}

impl<'de> Deserialize<'de> for Argument {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Argument, D::Error> {
        let (number, place, way) = Deserialize::deserialize(deserializer)?;
        if place == Place::Arguments {
            die(way);
        }
        Ok(Argument { number, place, way })
    }
}

/// A result that may be deadly to encode, or to decode.
#[derive(Debug)]
struct Outcome {
    number: u64,
    place: Place,
    way: Way,
}

impl Serialize for Outcome {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.place == Place::Result {
            die(self.way);
        }
        (self.number, self.place, self.way).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Outcome {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Outcome, D::Error> {
        let (number, place, way) = Deserialize::deserialize(deserializer)?;
        if place == Place::Here {
            die(way);
        }
        Ok(Outcome { number, place, way })
    }
}

fn run(Argument { number, place, way }: Argument) -> Outcome {
    if place == Place::Running {
        die(way);
    }
    Outcome { number, place, way }
}

/// The error of the one item that is deadly.
fn check(way: Way, error: &TaskError, at: u64, what: &str) {
    let died = |exit: ExitStatus| {
        let died = error.death().unwrap_or_else(|| panic!("{what}: {error}"));
        assert_eq!((died.item, died.attempt, died.death.exit), (at, 1, exit), "{what}: {error}");
        assert!(matches!(error, TaskError::Died(_)), "{what}: {error}");
    };
    let signal = |signal| ExitStatus::Signal { signal, core_dumped: false };
    match way {
        Way::Exit => died(ExitStatus::Code(7)),
        Way::Abort => died(signal(libc::SIGABRT)),
        Way::Segv => died(signal(libc::SIGSEGV)),
        Way::Kill => died(signal(libc::SIGKILL)),
        Way::Panic => assert_eq!(error.panic().unwrap().message(), "as it was told", "{what}: {error}"),
    }
}

const ITEMS: u64 = 9;
const DEADLY: u64 = 4;

/// Items of which one is deadly.
fn arguments(place: Place, way: Way) -> impl ExactSizeIterator<Item = Argument> {
    (0..ITEMS as u32).map(u64::from).map(move |number| Argument {
        number,
        place: if number == DEADLY { place } else { Place::Nowhere },
        way,
    })
}

fn deadly(place: Place, way: Way) -> Argument {
    Argument { number: DEADLY, place, way }
}

/// A deadly item under every call, in a pool that lives on.
fn each_call(pool: &Pool, place: Place, way: Way) {
    let what = format!("{way:?} while {place:?}");
    check(way, &pool.apply(run, deadly(place, way)).unwrap_err(), 0, &format!("apply: {what}"));

    let task = pool.submit(run, deadly(place, way)).unwrap();
    let others: Vec<_> =
        arguments(Place::Nowhere, way).map(|argument| pool.submit(run, argument).unwrap()).collect();
    check(way, &task.get().unwrap_err(), 0, &format!("submit: {what}"));
    for (number, other) in others.into_iter().enumerate() {
        assert_eq!(other.get().unwrap().number, number as u64, "{what}");
    }

    let error = pool.map(run, arguments(place, way)).unwrap_err();
    check(way, &error, DEADLY, &format!("map: {what}"));
    let results = pool.tasks(run, arguments(place, way)).chunk_size(5).collect_results();
    for (number, result) in results.into_iter().enumerate() {
        match result {
            Ok(outcome) => assert_eq!(outcome.number, number as u64, "map: {what}"),
            Err(error) => {
                assert_eq!(number as u64, DEADLY, "map: {what}: {error}");
                check(way, &error, DEADLY, &format!("map: {what}"));
            }
        }
    }

    let mut seen = Vec::new();
    let mut errors = 0;
    for result in pool.imap_unordered(run, arguments(place, way)) {
        match result {
            Ok(outcome) => seen.push(outcome.number),
            Err(error) => {
                errors += 1;
                check(way, &error, DEADLY, &format!("imap_unordered: {what}"));
            }
        }
    }
    seen.sort_unstable();
    let wanted: Vec<u64> = (0..ITEMS).filter(|number| *number != DEADLY).collect();
    assert_eq!((errors, seen), (1, wanted), "imap_unordered: {what}");

    assert_eq!(pool.map(|n: u64| n + 1, 0..20).unwrap().len(), 20, "usable after {what}");
}

fn every_way(place: Place) {
    let _watchdog = procession_testkit::watchdog!(std::time::Duration::from_secs(120));
    let pool = Pool::new(2).unwrap();
    for way in WAYS {
        each_call(&pool, place, way);
    }
    assert_eq!(pool.worker_pids().len(), 2);
    pool.join();
    // Threads can only panic.
    let pool = Pool::threads(2).unwrap();
    each_call(&pool, place, Way::Panic);
    pool.join();
}

#[test]
fn death_while_decoding_the_argument() {
    every_way(Place::Arguments);
}

#[test]
fn death_while_running() {
    every_way(Place::Running);
}

#[test]
fn death_while_encoding_the_result() {
    every_way(Place::Result);
}

/// Only a panic: anything else ends the program that holds the pool, as it should.
#[test]
fn panic_while_decoding_the_result_goes_on_in_the_caller_and_costs_that_item_only() {
    let _watchdog = procession_testkit::test_watchdog();
    for pool in crate::support::pools(2) {
        let here = || deadly(Place::Here, Way::Panic);
        let message =
            |panic: Box<dyn std::any::Any + Send>| panic.downcast_ref::<&str>().copied().unwrap().to_owned();
        let apply = catch_unwind(AssertUnwindSafe(|| pool.apply(run, here())));
        assert_eq!(message(apply.unwrap_err()), "as it was told");
        let task = pool.submit(run, here()).unwrap();
        // A handle's value may be decoded in the pool's own thread, for a callback.
        assert!(matches!(task.get(), Err(TaskError::BadResult(_))));
        let map = catch_unwind(AssertUnwindSafe(|| pool.map(run, arguments(Place::Here, Way::Panic))));
        assert_eq!(message(map.unwrap_err()), "as it was told");
        let mut results = pool.imap_unordered(run, arguments(Place::Here, Way::Panic));
        let (mut values, mut panics) = (0, 0);
        loop {
            match catch_unwind(AssertUnwindSafe(|| results.next())) {
                Ok(Some(result)) => values += u64::from(result.is_ok()),
                Ok(None) => break,
                Err(_) => panics += 1,
            }
        }
        assert_eq!((values, panics), (ITEMS - 1, 1));
        assert_eq!(pool.map(|n: u64| n + 1, 0..20).unwrap().len(), 20);
        pool.join();
    }
}

/// Whatever kills the initialiser, each call is told so, and so is each later one, at once.
#[test]
fn death_in_the_initialiser() {
    let _watchdog = procession_testkit::watchdog!(std::time::Duration::from_secs(120));
    for way in WAYS {
        let pool = || Pool::builder().workers(2).initializer(die, way).build().unwrap();
        let status = match way {
            Way::Exit => "status 7",
            Way::Abort => "SIGABRT",
            Way::Segv => "SIGSEGV",
            Way::Kill => "SIGKILL",
            Way::Panic => "as it was told",
        };
        let broken = |error: TaskError, call: &str| {
            let told = matches!(&error, TaskError::Broken(why) if why.contains(status));
            assert!(told, "{call}, {way:?} in the initialiser: {error}");
        };
        let nothing = |way| Argument { number: 1, place: Place::Nowhere, way };
        broken(pool().apply(run, nothing(way)).unwrap_err(), "apply");
        let one = pool();
        broken(one.submit(run, nothing(way)).unwrap().get().unwrap_err(), "submit");
        broken(one.map(run, arguments(Place::Nowhere, way)).unwrap_err(), "map, later");
        broken(pool().map(run, arguments(Place::Nowhere, way)).unwrap_err(), "map");
        let results: Vec<_> = pool().imap_unordered(run, arguments(Place::Nowhere, way)).collect();
        assert!(!results.is_empty());
        results.into_iter().for_each(|result| broken(result.unwrap_err(), "imap_unordered"));
    }
    let pool = Pool::threads_builder().workers(2).initializer(die, Way::Panic).build().unwrap();
    let error = pool.map(|n: u64| n, 0..3).unwrap_err();
    assert!(matches!(&error, TaskError::Broken(why) if why.contains("as it was told")), "{error}");
}

/// Whose drop panics, too.
struct Vicious;

impl Drop for Vicious {
    fn drop(&mut self) {
        panic!("and another one");
    }
}

fn throw(kind: u64) -> u64 {
    match kind {
        0 => std::panic::panic_any(7_i32),
        1 => std::panic::panic_any(String::from("a string")),
        2 => std::panic::panic_any("a text"),
        3 => std::panic::panic_any(vec![1_u8; 1 << 20]),
        4 => std::panic::panic_any(Box::new(Vicious) as Box<dyn std::any::Any + Send>),
        5 => std::panic::panic_any(Vicious),
        6 => std::panic::resume_unwind(Box::new(())),
        7 => panic!("{}", "long ".repeat(1 << 20)),
        8 => panic!("\u{0}\u{1F980}"),
        other => other,
    }
}

#[test]
fn a_panic_with_a_payload_of_any_type_is_that_items_error() {
    let _watchdog = procession_testkit::test_watchdog();
    for pool in crate::support::pools(2) {
        for chunk in [1, 4] {
            let results = pool.tasks(throw, 0..20).chunk_size(chunk).collect_results();
            for (kind, result) in (0..20).zip(results) {
                match (kind, result) {
                    (9.., result) => assert_eq!(result.unwrap(), kind),
                    (_, Err(TaskError::Panicked(panic))) => match kind {
                        1 => assert_eq!(panic.message(), "a string"),
                        2 => assert_eq!(panic.message(), "a text"),
                        7 => assert!(panic.message().starts_with("long long")),
                        8 => assert_eq!(panic.message(), "\u{0}\u{1F980}"),
                        _ => {}
                    },
                    (_, result) => panic!("payload {kind}: {result:?}"),
                }
            }
        }
        assert_eq!(pool.apply(throw, 30).unwrap(), 30);
    }
}

#[test]
fn a_stack_overflow_anywhere_is_that_items_error() {
    #[expect(unconditional_recursion, reason = "that is the point")]
    fn deep(n: u64) -> u64 {
        std::hint::black_box([n; 100])[0] + deep(std::hint::black_box(n))
    }
    struct Deep(u64);
    impl Serialize for Deep {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_u64(if self.0 == DEADLY { deep(self.0) } else { self.0 })
        }
    }
    impl<'de> Deserialize<'de> for Deep {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Deep, D::Error> {
            u64::deserialize(deserializer).map(Deep)
        }
    }
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::new(2).unwrap();
    let calls = [Work::function(|n: u64| Deep(if n == DEADLY { deep(n) } else { n })), Work::function(Deep)];
    for work in calls {
        let results = pool.tasks_of(work, 0..ITEMS).chunk_size(3).collect_results();
        for (n, result) in (0..ITEMS).zip(results) {
            match result {
                Ok(value) => assert_eq!(value.0, n),
                Err(error) => {
                    assert_eq!((n, error.death().unwrap().item), (DEADLY, DEADLY), "{error}");
                    assert!(error.death().unwrap().death.exit.signal().is_some(), "{error}");
                }
            }
        }
    }
    assert_eq!(pool.worker_pids().len(), 2);
}

/// Owns a pool that is in the middle of everything: running, queued, results on their way.
fn busy_owner(path: String) {
    let pool = Pool::new(4).unwrap();
    let work = procession_pool::task!(move |n: u64| {
        crate::support::note(path, u64::from(std::process::id()));
        crate::support::spin(std::time::Duration::from_micros(n % 300));
        vec![7_u8; 3000]
    }; path);
    let _ = pool.tasks_of(Work::task(&work), 0..u64::MAX).chunk_size(1).unordered().count();
}

#[test]
fn workers_are_gone_within_a_second_of_their_parents_death_in_the_middle_of_work() {
    let _watchdog = procession_testkit::test_watchdog();
    for _ in 0..3 {
        let notebook = crate::support::Notebook::new();
        let parent = procession_process::Process::spawn(busy_owner, notebook.path()).unwrap();
        let workers: std::collections::BTreeSet<u64> = loop {
            let seen: std::collections::BTreeSet<u64> = notebook.wait_for(50).into_iter().collect();
            if seen.len() == 4 {
                break seen;
            }
        };
        parent.kill().unwrap();
        let killed = std::time::Instant::now();
        let lives = |pid: &u64| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // A zombie is gone: who reaps it is not ours to say.
            !stat.is_empty() && !stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z'))
        };
        crate::support::wait_until(|| !workers.iter().any(lives));
        // The promise is one second; this bound has slack for machines that are busy.
        assert!(killed.elapsed() < std::time::Duration::from_secs(10), "{:?}", killed.elapsed());
    }
}
