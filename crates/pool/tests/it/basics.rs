//! Values, order and small errors, with real workers.

use crate::support::{Gate, gate, pools, settled};
use procession_pool::{Pool, TaskError, task};
use procession_process::StartMethod;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, time::Duration};

#[test]
fn map_gives_the_values_in_the_order_of_the_items() {
    let _watchdog = procession_testkit::test_watchdog();
    for pool in pools(2) {
        for length in [0, 1, 7, 8, 9, 1000, 100_000] {
            let squares = pool.map(|n: u64| n * n, 0..length).unwrap();
            assert!(squares.into_iter().eq((0..length).map(|n| n * n)), "{length} items");
        }
        for chunk in [1, 3, 100_000] {
            let values = pool.tasks(|n: u32| n + 1, 0..10_000).chunk_size(chunk).collect().unwrap();
            assert!(values.into_iter().eq(1..=10_000), "chunks of {chunk}");
        }
        pool.join();
    }
}

#[test]
fn an_unordered_iteration_gives_each_result_once() {
    let _watchdog = procession_testkit::test_watchdog();
    for pool in pools(3) {
        let results: Vec<u32> = pool.imap_unordered(|n: u32| n, 0..20_000).map(Result::unwrap).collect();
        assert_eq!(results.len(), 20_000);
        assert_eq!(results.into_iter().collect::<BTreeSet<_>>().len(), 20_000);
    }
}

#[test]
fn arguments_and_results_of_any_size_cross() {
    let _watchdog = procession_testkit::test_watchdog();
    for pool in pools(2) {
        let sizes = [0, 1, 60_000, 65_536, 70_000, 300_000, 5_000_000, 10, 1_000_000];
        let echo = |bytes: Vec<u8>| bytes.into_iter().rev().collect::<Vec<u8>>();
        let make = |size: usize| (0..size).map(|i| (i % 251) as u8).collect::<Vec<u8>>();
        for chunk in [1, 4] {
            let results = pool.tasks(echo, sizes.map(make)).chunk_size(chunk).collect().unwrap();
            for (size, result) in sizes.into_iter().zip(results) {
                assert!(result.into_iter().rev().eq(make(size)), "{size} bytes in chunks of {chunk}");
            }
        }
        // Far more results than a lane holds, while nobody takes them in.
        let submitted = pool.submit(|n: usize| vec![7_u8; n], 3_000_000).unwrap();
        assert_eq!(pool.apply(|n: u8| n, 5).unwrap(), 5);
        assert_eq!(submitted.get().unwrap().len(), 3_000_000);
    }
}

#[test]
fn captured_data_is_sent_beside_the_function() {
    let _watchdog = procession_testkit::test_watchdog();
    for pool in pools(2) {
        let (factor, table) = (3_u64, vec![10_u64, 20, 30]);
        let scale = task!(move |n: u64| n * factor + table[n as usize % 3]; factor, table);
        let values = pool.map_with(&scale, 0..6).unwrap();
        assert_eq!(values, [10, 23, 36, 19, 32, 45]);
        // As many functions as are kept defined, and more.
        for n in 0..200_u64 {
            let add = task!(move |x: u64| x + n; n);
            assert_eq!(pool.map_with(&add, [1, 2]).unwrap(), [n + 1, n + 2]);
        }
        assert_eq!(pool.map_with(&scale, [1]).unwrap(), [23]);
    }
}

#[test]
fn apply_and_submit_give_one_value() {
    let _watchdog = procession_testkit::test_watchdog();
    for pool in pools(1) {
        assert_eq!(pool.apply(|(a, b): (i32, i32)| a - b, (5, 7)).unwrap(), -2);
        let closed = Gate::new();
        let slow = pool.submit(gate, closed.path()).unwrap();
        assert!(!slow.ready());
        let slow = slow.get_timeout(Duration::from_millis(1)).unwrap_err();
        closed.open();
        assert!(slow.get_timeout(Duration::from_secs(60)).is_ok_and(|result| result.is_ok()));
        let both = [pool.submit(|n: u8| n, 1).unwrap(), pool.submit(|n: u8| n, 2).unwrap()];
        assert_eq!(both.map(|one| one.get().unwrap()), [1, 2]);
    }
}

#[test]
fn a_panic_is_that_items_error_and_the_worker_lives_on() {
    let _watchdog = procession_testkit::test_watchdog();
    for pool in pools(1) {
        let pid = pool.apply(|()| std::process::id(), ()).unwrap();
        let shy = |n: u32| if n == 3 { panic!("not {n}") } else { n };
        let results = pool.tasks(shy, 0..6).chunk_size(6).collect_results();
        let panic = results[3].as_ref().unwrap_err().panic().unwrap();
        assert_eq!(panic.message(), "not 3");
        assert!(panic.location().unwrap().contains("basics.rs"), "{panic}");
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 5);
        // map waits for all and gives the first error in the order of the items.
        let error = pool.map(|n: u32| assert!(n < 2, "too large: {n}"), 0..5).unwrap_err();
        assert!(error.to_string().ends_with("too large: 2"), "{error}");
        assert_eq!(pool.apply(|()| std::process::id(), ()).unwrap(), pid, "the worker was replaced");
    }
}

#[derive(Debug)]
struct Awkward(u32);

impl Serialize for Awkward {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0 == 1 {
            Err(serde::ser::Error::custom("cannot be written"))
        } else {
            serializer.serialize_u32(self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Awkward {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Awkward, D::Error> {
        let number = u32::deserialize(deserializer)?;
        if number == 2 { Err(serde::de::Error::custom("cannot be read")) } else { Ok(Awkward(number)) }
    }
}

#[test]
fn what_cannot_be_encoded_or_decoded_is_that_items_error() {
    let _watchdog = procession_testkit::test_watchdog();
    for pool in pools(2) {
        let arguments = || (0..4).map(Awkward);
        let results = pool.tasks(|awkward: Awkward| awkward.0, arguments()).chunk_size(4).collect_results();
        assert!(matches!(&results[0], Ok(0)));
        assert!(
            matches!(&results[1], Err(TaskError::BadArguments(why)) if why.contains("cannot be written"))
        );
        assert!(matches!(&results[2], Err(TaskError::BadArguments(why)) if why.contains("cannot be read")));
        assert!(matches!(&results[3], Ok(3)));
        let results = pool.tasks(Awkward, 0..4).chunk_size(4).collect_results();
        assert!(results[0].is_ok() && results[3].is_ok());
        assert!(matches!(&results[1], Err(TaskError::BadResult(why)) if why.contains("cannot be written")));
        assert!(matches!(&results[2], Err(TaskError::BadResult(why)) if why.contains("cannot be read")));
    }
}

#[test]
fn an_initialiser_runs_in_each_worker_before_its_first_task() {
    use std::sync::atomic::{AtomicU32, Ordering};
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::builder()
        .workers(2)
        .initializer(|n: u32| GIVEN.store(n, Ordering::Relaxed), 77)
        .build()
        .unwrap();
    let seen = pool.tasks(|_: u32| GIVEN.load(Ordering::Relaxed), 0..50).chunk_size(1).collect().unwrap();
    assert!(seen.into_iter().all(|given| given == 77));
    assert_eq!(GIVEN.load(Ordering::Relaxed), 0);
}

#[test]
fn workers_are_daemonic_and_named_and_ignore_ctrl_c() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::builder().workers(1).name("Smith").build().unwrap();
    let (name, daemon) = pool
        .apply(
            |()| {
                let me = procession_process::current_process();
                (me.name().to_owned(), me.daemon())
            },
            (),
        )
        .unwrap();
    assert_eq!((name.as_str(), daemon), ("Smith-1", true));
    pool.apply(
        |()| {
            let pid = std::process::id().to_string();
            std::process::Command::new("kill").args(["-INT", &pid]).status().map(drop).map_err(|_| ())
        },
        (),
    )
    .unwrap()
    .unwrap();
}

#[test]
fn workers_start_by_the_method_that_was_asked_for() {
    let _watchdog = procession_testkit::test_watchdog();
    for method in [StartMethod::ForkServer, StartMethod::Spawn] {
        let pool = Pool::builder().workers(2).start_method(method).build().unwrap();
        let seen = pool.apply(|()| procession_process::current_process().start_method(), ()).unwrap();
        assert_eq!(seen, Some(method));
        assert!(pool.kill_worker(0));
        assert_eq!(pool.map(|n: u32| n, 0..100).unwrap().len(), 100);
    }
}

/// A process with threads is not forked, so this one is a child with a single one.
#[test]
fn a_pool_that_forks_takes_its_replacements_from_the_fork_server() {
    let _watchdog = procession_testkit::test_watchdog();
    fn body((): ()) {
        let method = |(): ()| procession_process::current_process().start_method();
        let pool = Pool::builder().workers(2).start_method(StartMethod::Fork).build().unwrap();
        assert_eq!(pool.map(|n: u32| n + 1, 0..100).unwrap().iter().sum::<u32>(), 5050);
        assert_eq!(pool.apply(method, ()).unwrap(), Some(StartMethod::Fork));
        for _ in 0..2 {
            assert!(pool.kill_worker(0));
            assert!(pool.kill_worker(1));
            assert_eq!(pool.map(|n: u32| n, 0..100).unwrap().len(), 100);
        }
        assert_eq!(pool.apply(method, ()).unwrap(), Some(StartMethod::ForkServer));
    }
    let single =
        procession_process::Process::builder().start_method(StartMethod::Spawn).spawn(body, ()).unwrap();
    single.join().unwrap();
}

#[test]
fn a_task_may_own_a_pool() {
    let _watchdog = procession_testkit::test_watchdog();
    for pool in pools(2) {
        let sums = pool
            .map(
                |n: u64| {
                    let inner = Pool::new(2).unwrap();
                    inner.map(|x: u64| x * x, 0..n).unwrap().into_iter().sum::<u64>()
                },
                [3, 4, 5],
            )
            .unwrap();
        assert_eq!(sums, [5, 14, 30]);
    }
}

#[test]
fn nothing_is_left_behind_by_a_pool() {
    procession_testkit::isolated!({
        let _watchdog = procession_testkit::test_watchdog();
        // What lives as long as the program: the fork server, the watcher.
        drop(Pool::new(1));
        let before = settled();
        for round in 0..5 {
            let pool = Pool::new(3).unwrap();
            assert_eq!(pool.map(|n: u32| n, 0..100).unwrap().len(), 100);
            assert!(pool.kill_worker(0));
            drop(pool.imap(|n: u32| n, 0..).next());
            if round % 2 == 0 { pool.join() } else { drop(pool) }
        }
        before.assert_settles(Duration::from_secs(10));
    });
}
