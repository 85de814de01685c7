//! Input is taken as it is needed, and no sooner.

use crate::support::{Gate, Notebook, gate, note, open_gate, pools, spin};
use procession_pool::{Pool, TaskError, TimedOut, Work, task};
use serde::{Deserialize, Serialize};
use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

#[test]
fn an_infinite_input_is_taken_within_the_window() {
    let _watchdog = procession_testkit::test_watchdog();
    for pool in pools(2) {
        for ordered in [true, false] {
            let taken = Cell::new(0_u64);
            let input = (0_u64..).inspect(|n| taken.set(n + 1));
            let tasks = pool.tasks(|n: u64| n, input).window(50);
            assert_eq!(taken.get(), 0, "nothing is taken before a result is asked for");
            let mut results = if ordered { tasks.ordered() } else { tasks.unordered() };
            for given in 0..2000 {
                let value = results.next().unwrap().unwrap();
                assert!(!ordered || value == given);
                assert!(taken.get() <= given + 51, "{} were taken when {given} were given", taken.get());
            }
        }
    }
}

#[test]
fn slow_items_are_not_taken_far_ahead_of_the_workers() {
    let _watchdog = procession_testkit::test_watchdog();
    for pool in pools(2) {
        let taken = Cell::new(0_usize);
        let input = (0_u64..).inspect(|_| taken.set(taken.get() + 1));
        let notebook = Notebook::new();
        let path = notebook.path();
        let slow = task!(move |n: u64| {
        note(path, n);
        std::thread::sleep(Duration::from_millis(5));
        n
    }; path);
        let mut results = pool.tasks_of(Work::task(&slow), input).ordered();
        for given in 0..30 {
            let before = taken.get();
            let begun = notebook.read().len();
            assert!(before <= begun + 5, "{before} were taken when {begun} were begun");
            assert_eq!(results.next().unwrap().unwrap(), given);
        }
    }
}

#[test]
fn an_adaptive_chunk_grows_for_fast_items() {
    let _watchdog = procession_testkit::test_watchdog();
    for pool in pools(2) {
        let sum: u64 = pool.imap(|n: u64| n, 0..300_000).map(Result::unwrap).sum();
        assert_eq!(sum, 299_999 * 300_000 / 2);
    }
}

#[test]
fn a_timeout_loses_nothing() {
    let _watchdog = procession_testkit::test_watchdog();
    for pool in pools(1) {
        let slow = Gate::new();
        let paths = [slow.path(), String::new()];
        let mut results =
            pool.tasks(|path: String| (path.len(), gate(path)).0, paths.clone()).chunk_size(1).ordered();
        assert!(matches!(results.next_timeout(Duration::from_millis(1)), Err(TimedOut)));
        slow.open();
        let values: Vec<usize> = results.map(Result::unwrap).collect();
        assert_eq!(values, [paths[0].len(), 0]);
    }
}

#[test]
fn what_is_dropped_before_it_was_started_is_never_run() {
    static BEGUN: AtomicU64 = AtomicU64::new(0);
    let _watchdog = procession_testkit::test_watchdog();
    for pool in pools(1) {
        let slow = |n: u64| {
            BEGUN.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(5));
            n
        };
        let mut results = pool.tasks(slow, 0..1_000_000).chunk_size(1).unordered();
        assert!(results.next().unwrap().is_ok());
        let submitted: Vec<_> = (0..200).map(|n| pool.submit(slow, n).unwrap()).collect();
        drop(submitted);
        drop(results);
        let begun = pool.apply(|()| BEGUN.load(Ordering::Relaxed), ()).unwrap();
        assert!(begun < 20, "{begun} were begun");
    }
}

#[test]
fn the_front_of_an_ordered_iteration_does_not_stop_the_others() {
    let _watchdog = procession_testkit::test_watchdog();
    for pool in pools(2) {
        let front = Gate::new();
        let path = front.path();
        // The first one ends when nearly all of the others have been run.
        let uneven = task!(
            move |n: u64| {
                match n {
                    0 => drop(gate(path.clone())),
                    450 => open_gate(path.clone()),
                    _ => {}
                }
                (n, format!("{}, {:?}", std::process::id(), std::thread::current().id()))
            };
            path
        );
        let results = pool.tasks_of(Work::task(&uneven), 0..500).chunk_size(1).collect().unwrap();
        let first = &results[0].1;
        let others = results.iter().filter(|(_, worker)| worker != first).count();
        assert!(results.iter().map(|(n, _)| *n).eq(0..500));
        assert!(others > 400, "{others} of 500 were run by the free worker");
    }
}

#[test]
fn a_chain_of_iterations_of_one_pool_ends_with_it() {
    let _watchdog = procession_testkit::test_watchdog();
    for pool in pools(2) {
        let inner = pool.imap(|n: u64| n + 1, 0_u64..);
        let mut outer = pool.imap(|n: u64| n * 2, inner.map_while(Result::ok));
        assert_eq!(outer.next().unwrap().unwrap(), 2);
        pool.terminate();
        // The outer one drops the inner one, whose end is noted by the same pool.
        assert!(outer.last().unwrap().unwrap_err().is_terminated());
    }
}

/// Takes everything from `results`, through panics; gives the values and the number of panics.
fn through_panics<T>(mut results: impl Iterator<Item = Result<T, TaskError>>) -> (Vec<T>, usize) {
    let (mut values, mut panics) = (Vec::new(), 0);
    loop {
        match catch_unwind(AssertUnwindSafe(|| results.next())) {
            Ok(Some(value)) => values.push(value.unwrap()),
            Ok(None) => return (values, panics),
            Err(_) => panics += 1,
        }
    }
}

#[test]
fn a_panic_of_the_input_loses_nothing_that_was_taken_from_it() {
    let _watchdog = procession_testkit::test_watchdog();
    for pool in pools(2) {
        for chunk in [1, 4, 7] {
            let input = (0_u64..3000).inspect(|n| assert!(n % 1000 != 777, "no {n}"));
            let tasks = pool.tasks(|n: u64| n, input).chunk_size(chunk).window(1 << 20);
            let (values, panics) = through_panics(tasks.ordered());
            assert_eq!(panics, 3);
            assert!(values.into_iter().eq((0..3000).filter(|n| n % 1000 != 777)), "in chunks of {chunk}");
        }
    }
}

#[derive(Serialize)]
struct Explosive(u64);

impl<'de> Deserialize<'de> for Explosive {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Explosive, D::Error> {
        let number = u64::deserialize(deserializer)?;
        assert!(number % 10 != 3, "cannot stand {number}");
        Ok(Explosive(number))
    }
}

#[test]
fn a_panic_in_decoding_a_result_costs_that_result_only() {
    let _watchdog = procession_testkit::test_watchdog();
    for pool in pools(2) {
        let (values, panics) = through_panics(pool.tasks(Explosive, 0..100).chunk_size(10).ordered());
        assert_eq!((values.len(), panics), (90, 10));
        assert!(values.into_iter().map(|value| value.0).eq((0..100).filter(|n| n % 10 != 3)));
    }
}

#[test]
fn sizes_beyond_all_measure_are_as_good_as_large_ones() {
    let _watchdog = procession_testkit::test_watchdog();
    for pool in pools(2) {
        for size in [usize::MAX, usize::MAX / 4 + 1, 1 << 32] {
            let tasks = pool.tasks(|n: u64| n, 0..10).chunk_size(size);
            assert!(tasks.ordered().map(Result::unwrap).eq(0..10));
            let tasks = pool.tasks(|n: u64| n, 0..10).window(size).retry(u32::MAX);
            assert!(tasks.ordered().map(Result::unwrap).eq(0..10));
        }
        // An input may say of itself what it likes.
        struct Liar(u64);
        impl Iterator for Liar {
            type Item = u64;
            fn next(&mut self) -> Option<u64> {
                self.0 += 1;
                (self.0 <= 10).then_some(self.0)
            }
            fn size_hint(&self) -> (usize, Option<usize>) {
                (usize::MAX, Some(usize::MAX))
            }
        }
        assert!(pool.map(|n: u64| n, Liar(0)).unwrap().into_iter().eq(1..=10));
        let mut results = pool.imap(|n: u64| n, 0..1);
        assert!(results.next_timeout(Duration::MAX).unwrap().unwrap().is_ok());
    }
}

#[test]
fn short_items_do_not_wait_for_a_long_one_while_a_worker_is_free() {
    let _watchdog = procession_testkit::test_watchdog();
    for round in 0..10 {
        let path = std::env::temp_dir().join(format!("procession-long-{}-{round}", std::process::id()));
        let long = path.to_str().unwrap().to_owned();
        let pool = Pool::new(2).unwrap();
        let submitted = pool.submit(gate, long.clone()).unwrap();
        pool.tasks(gate, vec![String::new(); 4]).chunk_size(1).collect().unwrap();
        assert!(!submitted.ready());
        let items = [long.as_str(), "", "", "", "", ""].map(str::to_owned);
        let pool_of_items = Pool::new(2).unwrap();
        let mut results = pool_of_items.tasks(gate, items).chunk_size(1).unordered();
        assert!(results.by_ref().take(5).all(|result| result.is_ok()));
        std::fs::write(&path, "").unwrap();
        assert_eq!(results.count(), 1);
        submitted.get().unwrap();
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn the_results_of_quick_items_come_though_a_long_one_follows_them_in_their_chunk() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::new(1).unwrap();
    for chunk in [100, 20_000] {
        let (closed, long) = (Gate::new(), chunk - 1);
        let path = closed.path();
        // Nobody opens the gate before all of its predecessors have been handed out.
        let work = task!(move |n: u32| { if n == long { gate(path.clone()); } n }; path, long);
        let mut results = pool.tasks_of(Work::task(&work), 0..chunk).chunk_size(chunk as usize).ordered();
        for n in 0..long {
            assert_eq!(results.next().unwrap().unwrap(), n);
        }
        closed.open();
        assert_eq!(results.next().unwrap().unwrap(), long);
        assert!(results.next().is_none());
    }
}

#[test]
fn results_before_a_long_item_come_though_other_workers_die_all_the_time() {
    let _watchdog = procession_testkit::test_watchdog();
    let (pool, closed, long) = (Pool::new(2).unwrap(), Gate::new(), 20_000);
    let path = closed.path();
    let work = task!(move |n: u32| { if n == long { gate(path.clone()); } n }; path, long);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let late =
                    pool.tasks(|()| spin(Duration::from_secs(60)), [()]).deadline(Duration::from_millis(3));
                assert!(late.collect().is_err());
            }
        });
        let mut results = pool.tasks_of(Work::task(&work), 0..=long).chunk_size(20_001).ordered();
        for n in 0..long {
            assert_eq!(results.next().unwrap().unwrap(), n);
        }
        over.store(true, Ordering::Relaxed);
        closed.open();
        assert_eq!(results.next().unwrap().unwrap(), long);
    });
}
