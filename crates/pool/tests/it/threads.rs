//! One pool, many threads.

use crate::support::pools;
use procession_pool::{Pool, TaskError, Work, task};
use std::time::Duration;

#[test]
fn threads_that_use_one_pool_get_their_own_results() {
    let _watchdog = procession_testkit::test_watchdog();
    for pool in pools(2) {
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                let pool = &pool;
                scope.spawn(move || {
                    for round in 0..20 {
                        let base = thread * 1_000_000 + round;
                        let values =
                            pool.tasks(|n: u64| n + 1, base..base + 500).chunk_size(3).collect().unwrap();
                        assert!(values.into_iter().eq(base + 1..base + 501));
                        assert_eq!(pool.apply(|n: u64| n * 2, base).unwrap(), base * 2);
                    }
                });
            }
        });
        pool.join();
    }
}

#[test]
fn a_short_call_returns_though_another_thread_waits_for_a_long_one() {
    let _watchdog = procession_testkit::test_watchdog();
    for pool in pools(2) {
        let long = pool.submit(|()| std::thread::sleep(Duration::from_secs(3600)), ()).unwrap();
        std::thread::scope(|scope| {
            // It drives, or waits for the driver; both must let the others have their results.
            let waiter = scope.spawn(|| long.get());
            for n in 0..200_u32 {
                assert_eq!(pool.apply(|n: u32| n, n).unwrap(), n);
            }
            assert!(!waiter.is_finished());
            pool.terminate();
            assert!(matches!(waiter.join().unwrap(), Err(TaskError::Terminated)));
        });
    }
}

#[test]
fn close_refuses_new_calls_and_join_waits_for_old_ones() {
    let _watchdog = procession_testkit::test_watchdog();
    for pool in pools(2) {
        let slow = |n: u64| {
            std::thread::sleep(Duration::from_millis(20));
            n
        };
        let submitted: Vec<_> = (0..10).map(|n| pool.submit(slow, n).unwrap()).collect();
        pool.close();
        assert!(pool.submit(slow, 1).unwrap_err().is_terminated());
        assert!(pool.map(|n: u32| n, 0..3).unwrap_err().is_terminated());
        assert!(pool.imap(|n: u32| n, 0..3).next().unwrap().unwrap_err().is_terminated());
        pool.join();
        for (n, task) in submitted.into_iter().enumerate() {
            assert_eq!(task.get().unwrap(), n as u64);
        }
    }
}

#[test]
fn a_join_that_times_out_gives_the_pool_back() {
    let _watchdog = procession_testkit::test_watchdog();
    for pool in pools(1) {
        let gate = crate::support::Notebook::new();
        let path = gate.path();
        let wait = task!(move |n: u64| {
        crate::support::wait_until(|| std::fs::metadata(path).unwrap().len() > 0);
        n
    }; path);
        let submitted = pool.submit_work(&Work::task(&wait), &7).unwrap();
        let pool = pool.join_timeout(Duration::from_millis(1)).unwrap_err();
        assert!(pool.apply(|n: u64| n, 1).unwrap_err().is_terminated(), "it takes no more calls");
        crate::support::note(gate.path(), 1);
        pool.join_timeout(Duration::from_secs(3600)).unwrap();
        assert_eq!(submitted.get().unwrap(), 7);
        Pool::new(1).unwrap().join_timeout(Duration::MAX).unwrap();
    }
}

#[test]
fn an_iterator_outlives_its_pool_and_ends() {
    let _watchdog = procession_testkit::test_watchdog();
    for pool in pools(2) {
        let mut results = pool.imap(|n: u64| n, 0..);
        assert_eq!(results.next().unwrap().unwrap(), 0);
        drop(pool);
        let rest: Vec<_> = results.collect();
        assert!(rest.last().unwrap().as_ref().unwrap_err().is_terminated());
    }
}
