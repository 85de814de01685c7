//! What is particular about a pool of threads.

use crate::{
    bare::{Bare, Fate},
    support::{Notebook, wait_until},
};
use procession_pool::{
    Cause, Pool, TaskError,
    back::{Back, Cancel, WorkerState},
    cancelled,
    threads::Threads,
};
use procession_testkit::Census;
use std::{
    collections::BTreeSet,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Ends when told to.
#[derive(Default)]
struct Gate(AtomicBool, AtomicU64);

impl Gate {
    const fn new() -> Gate {
        Gate(AtomicBool::new(false), AtomicU64::new(0))
    }

    fn pass(&self) {
        self.1.fetch_add(1, Ordering::SeqCst);
        wait_until(|| self.0.load(Ordering::SeqCst));
    }

    fn wait_for(&self, count: u64) {
        wait_until(|| self.1.load(Ordering::SeqCst) >= count);
    }

    fn open(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn back(workers: usize) -> Threads {
    Pool::threads_builder().workers(workers).back().unwrap()
}

const LIMIT: Duration = Duration::from_millis(30);

#[test]
fn an_item_that_runs_too_long_is_left_behind_and_what_is_behind_it_runs_elsewhere() {
    static GATE: Gate = Gate::new();
    fn stuck(n: u64) -> u64 {
        if n == 2 {
            GATE.pass();
        }
        n * 2
    }
    let _watchdog = procession_testkit::test_watchdog();
    let mut bare = Bare::new(back(1), stuck);
    let first = bare.submit(&[0, 1, 2, 3, 4], Some(LIMIT));
    let second = bare.submit(&[7], Some(Duration::from_secs(3600)));
    let ended = Fate::Ended(Cause::TimeLimit(LIMIT));
    let values = |bare: &mut Bare<_>, key| bare.fates(key);
    assert_eq!(values(&mut bare, first), [Fate::Value(0), Fate::Value(2), ended, Fate::Behind, Fate::Behind]);
    assert_eq!(values(&mut bare, second), [Fate::Value(14)]);
    let info = &bare.back.worker_infos()[0];
    assert_eq!((info.left_behind, info.restarts), (1, 1), "{info:?}");
    assert_eq!(info.name, "PoolThread-2");
    // What it comes to in the end is nobody's business.
    GATE.open();
    let third = bare.submit(&[8], None);
    assert_eq!(values(&mut bare, third), [Fate::Value(16)]);
    assert_eq!(bare.known(first)[2], Some(Fate::Ended(Cause::TimeLimit(LIMIT))));
}

#[test]
fn an_item_that_was_left_behind_learns_of_it_and_its_thread_ends() {
    static TOLD: AtomicBool = AtomicBool::new(false);
    fn patient(_: u64) -> u64 {
        wait_until(cancelled);
        TOLD.store(true, Ordering::SeqCst);
        0
    }
    let _watchdog = procession_testkit::test_watchdog();
    let mut bare = Bare::new(back(2), patient);
    let key = bare.submit(&[1], Some(LIMIT));
    assert_eq!(bare.fates(key), [Fate::Ended(Cause::TimeLimit(LIMIT))]);
    wait_until(|| TOLD.load(Ordering::SeqCst));
    assert!(!cancelled());
}

#[test]
fn a_time_limit_is_kept_though_nobody_waits() {
    static GATE: Gate = Gate::new();
    fn stuck(n: u64) -> u64 {
        if n == 0 {
            GATE.pass();
        } else {
            GATE.open();
        }
        n
    }
    let _watchdog = procession_testkit::test_watchdog();
    let mut bare = Bare::new(back(1), stuck);
    let first = bare.submit(&[0], Some(LIMIT));
    GATE.wait_for(1);
    wait_until(|| bare.back.worker_infos()[0].left_behind == 1);
    let second = bare.submit(&[1], None);
    assert_eq!(bare.fates(second), [Fate::Value(1)], "there is a thread for it");
    assert_eq!(bare.fates(first), [Fate::Ended(Cause::TimeLimit(LIMIT))]);
}

#[test]
fn what_is_cancelled_before_it_starts_never_does() {
    static GATE: Gate = Gate::new();
    static RUNS: Mutex<Vec<u64>> = Mutex::new(Vec::new());
    fn noted(n: u64) -> u64 {
        RUNS.lock().unwrap().push(n);
        if n == 0 {
            GATE.pass();
        }
        n
    }
    let _watchdog = procession_testkit::test_watchdog();
    for how in [Cancel::Queued, Cancel::Ask] {
        RUNS.lock().unwrap().clear();
        let mut bare = Bare::new(back(1), noted);
        // So that more is taken in while one runs, the function must be known as short.
        GATE.open();
        let known = bare.submit(&[5], None);
        assert_eq!(bare.fates(known), [Fate::Value(5)]);
        GATE.0.store(false, Ordering::SeqCst);
        GATE.1.store(0, Ordering::SeqCst);
        let running = bare.submit(&[0, 1, 2], None);
        GATE.wait_for(1);
        let queued = bare.submit(&[3, 4], None);
        bare.cancel(queued, how);
        bare.cancel(running, how);
        let told = bare.known(queued);
        GATE.open();
        let cancelled = Fate::Cancelled;
        assert_eq!(bare.fates(running), [Fate::Value(0), cancelled.clone(), cancelled.clone()]);
        if told[0].is_some() {
            assert_eq!(told, [Some(cancelled.clone()), Some(cancelled)], "at once");
            // Nor later.
            let last = bare.submit(&[6], None);
            assert_eq!(bare.fates(last), [Fate::Value(6)]);
            assert_eq!(*RUNS.lock().unwrap(), [5, 0, 6]);
        } else {
            // It was not with the back yet, which then knows nothing of it.
            assert_eq!(bare.fates(queued), [Fate::Value(3), Fate::Value(4)]);
        }
        bare.cancel(running, Cancel::Kill { grace: Duration::ZERO });
    }
}

#[test]
fn what_runs_can_be_asked_to_end_or_be_given_up() {
    static GATE: Gate = Gate::new();
    fn two_kinds(n: u64) -> u64 {
        if n == 0 {
            wait_until(cancelled);
        } else {
            GATE.pass();
        }
        n
    }
    let _watchdog = procession_testkit::test_watchdog();
    let mut bare = Bare::new(back(2), two_kinds);
    let polite = bare.submit(&[0], None);
    let deaf = bare.submit(&[1, 2], None);
    GATE.wait_for(1);
    bare.cancel(polite, Cancel::Kill { grace: Duration::from_secs(3600) });
    assert_eq!(bare.fates(polite), [Fate::Value(0)], "it ended by itself, and has a result");
    bare.cancel(deaf, Cancel::Kill { grace: LIMIT });
    assert_eq!(bare.fates(deaf), [Fate::Ended(Cause::Cancelled), Fate::Cancelled]);
    assert_eq!(bare.back.worker_infos().iter().map(|info| info.left_behind).sum::<u64>(), 1);
    GATE.open();
}

#[test]
fn terminate_does_not_wait_for_ever_and_asks_what_runs_to_end() {
    static GATE: Gate = Gate::new();
    static TOLD: AtomicBool = AtomicBool::new(false);
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::threads(2).unwrap();
    let polite = |(): ()| {
        GATE.1.fetch_add(1, Ordering::SeqCst);
        wait_until(cancelled);
        TOLD.store(true, Ordering::SeqCst);
    };
    let polite = pool.submit(polite, ()).unwrap();
    let deaf = pool.submit(|(): ()| GATE.pass(), ()).unwrap();
    GATE.wait_for(2);
    pool.terminate();
    assert!(polite.get().unwrap_err().is_terminated() && deaf.get().unwrap_err().is_terminated());
    wait_until(|| TOLD.load(Ordering::SeqCst));
    GATE.open();
}

#[test]
fn an_initialiser_runs_in_each_thread_before_its_first_task() {
    thread_local! {
        static GIVEN: AtomicU64 = const { AtomicU64::new(0) };
    }
    let _watchdog = procession_testkit::test_watchdog();
    let init = |n: u64| GIVEN.with(|given| given.store(n, Ordering::Relaxed));
    let pool = Pool::threads_builder().workers(3).initializer(init, 77).build().unwrap();
    let given = |_: u64| GIVEN.with(|given| given.load(Ordering::Relaxed));
    let seen = pool.tasks(given, 0..50).chunk_size(1).collect().unwrap();
    assert!(seen.into_iter().all(|given| given == 77));
    assert_eq!(GIVEN.with(|given| given.load(Ordering::Relaxed)), 0);
}

#[test]
fn an_initialiser_that_fails_breaks_the_pool_with_the_cause_and_one_that_recovers_does_not() {
    static RUNS: AtomicU64 = AtomicU64::new(0);
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::threads_builder().workers(2).initializer(|()| panic!("no licence"), ()).build().unwrap();
    let error = pool.map(|n: u32| n, 0..10).unwrap_err();
    assert!(matches!(&error, TaskError::Broken(why) if why.contains("no licence")), "{error}");
    pool.join();
    let init = |()| assert!(RUNS.fetch_add(1, Ordering::SeqCst) % 3 == 2, "not this time");
    let pool = Pool::threads_builder().workers(1).initializer(init, ()).build().unwrap();
    assert_eq!(pool.apply(|n: u64| n, 4).unwrap(), 4);
    assert_eq!(RUNS.load(Ordering::SeqCst), 3);
}

fn names(bare: &Bare<Threads>) -> BTreeSet<String> {
    bare.back.worker_infos().into_iter().map(|info| info.name).collect()
}

#[test]
fn a_pool_can_be_resized_and_its_threads_replaced_while_they_work() {
    static GATE: Gate = Gate::new();
    fn gated(n: u64) -> u64 {
        if n == 0 {
            GATE.pass();
        }
        n
    }
    let _watchdog = procession_testkit::test_watchdog();
    let mut bare = Bare::new(back(1), gated);
    let slow = bare.submit(&[0], None);
    GATE.wait_for(1);
    assert_eq!(bare.back.worker_infos()[0].state, WorkerState::Busy);
    bare.back.resize(3);
    assert_eq!((bare.back.workers(), names(&bare).len()), (3, 3));
    for n in 1..50 {
        let key = bare.submit(&[n], None);
        assert_eq!(bare.fates(key), [Fate::Value(n)]);
    }
    bare.back.resize(1);
    assert_eq!(bare.back.workers(), 1);
    let before = names(&bare);
    assert!(bare.back.restart_worker(0) && !bare.back.restart_worker(1));
    assert!(names(&bare).is_disjoint(&before));
    // The one that left is still at its task, which counts.
    let key = bare.submit(&[5], None);
    assert_eq!(bare.fates(key), [Fate::Value(5)]);
    GATE.open();
    assert_eq!(bare.fates(slow), [Fate::Value(0)]);
    assert_eq!(bare.back.worker_infos()[0].restarts, 1);
    bare.back.close();
    wait_until(|| bare.back.has_ended());
}

#[test]
fn the_workers_of_a_pool_of_threads_tell_what_they_did() {
    let _watchdog = procession_testkit::test_watchdog();
    let mut bare = Bare::new(back(2), |n| n + 1);
    for n in 0..100 {
        let key = bare.submit(&[n, n], None);
        assert_eq!(bare.fates(key), [Fate::Value(n + 1), Fate::Value(n + 1)]);
    }
    let idle = |info: &procession_pool::back::WorkerInfo| info.state == WorkerState::Idle;
    wait_until(|| bare.back.worker_infos().iter().all(idle));
    let infos = bare.back.worker_infos();
    assert_eq!(infos.iter().map(|info| info.items).sum::<u64>(), 200);
    assert!(infos.iter().all(|info| info.pid.is_none() && info.age > info.busy && info.queued == 0));
    assert!(infos.iter().any(|info| info.busy > Duration::ZERO && info.bytes_in > 0));
}

#[test]
fn what_waits_for_a_thread_begins_though_nobody_waits() {
    let _watchdog = procession_testkit::test_watchdog();
    let notebook = Notebook::new();
    let path = notebook.path();
    let note = procession_pool::task!(move |n: u64| {
        crate::support::note(path, n);
        std::thread::sleep(Duration::from_millis(5));
    }; path);
    let pool = Pool::threads(2).unwrap();
    let work = procession_pool::Work::task(&note);
    let submitted: Vec<_> = (0..20).map(|n| pool.submit_work(&work, &n).unwrap()).collect();
    notebook.wait_for(20);
    assert!(submitted.into_iter().all(|task| task.get().is_ok()));
}

#[test]
fn no_thread_is_left_by_a_pool_that_ended() {
    procession_testkit::isolated!({
        let _watchdog = procession_testkit::test_watchdog();
        let before = Census::take();
        for round in 0..10 {
            let pool = Pool::threads(3).unwrap();
            assert_eq!(pool.map(|n: u32| n, 0..100).unwrap().len(), 100);
            drop(pool.imap(|n: u32| n, 0..).next());
            if round % 2 == 0 { pool.join() } else { drop(pool) }
        }
        before.assert_settles(Duration::from_secs(10));
    });
}

#[test]
fn a_task_that_ends_its_own_pool_does_not_wait_for_itself() {
    static POOL: Mutex<Option<Pool>> = Mutex::new(None);
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::threads(1).unwrap();
    let ends = |(): ()| drop(POOL.lock().unwrap().take());
    let submitted = pool.submit(ends, ()).unwrap();
    *POOL.lock().unwrap() = Some(pool);
    // It may have run before the pool was there to be ended.
    let ended = submitted.get();
    assert!(ended.is_ok() || ended.unwrap_err().is_terminated());
    drop(POOL.lock().unwrap().take());
}

#[test]
fn who_waits_learns_that_a_thread_has_nothing_to_do_any_more() {
    /// So long that none is queued behind another.
    fn long(n: u64) -> u64 {
        let end = Instant::now() + Duration::from_micros(400);
        while Instant::now() < end {}
        n
    }
    let _watchdog = procession_testkit::test_watchdog();
    let mut bare = Bare::new(back(1), long);
    let keys: Vec<_> = (0..2_000).map(|n| bare.submit(&[n], None)).collect();
    for (n, key) in keys.into_iter().enumerate() {
        assert_eq!(bare.fates(key), [Fate::Value(n as u64)]);
    }
}
