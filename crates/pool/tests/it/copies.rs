//! Forked copies of a process that owns a pool.

use procession_pool::{Pool, TaskError};
use procession_testkit::isolated::forked;
use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

fn is_copy<T>(result: Result<T, TaskError>) -> bool {
    matches!(result, Err(TaskError::ForkedCopy))
}

#[test]
fn in_a_forked_copy_every_call_fails_and_dropping_does_nothing() {
    let _watchdog = procession_testkit::test_watchdog();
    procession_testkit::isolated!({
        let pool = Pool::new(2).unwrap();
        assert_eq!(pool.map(|n: u64| n, 0..10).unwrap().len(), 10);
        let slow = |n: u64| {
            std::thread::sleep(Duration::from_millis(20));
            n
        };
        let mut held: Vec<_> = (0..10).map(|n| Some(pool.submit(slow, n).unwrap())).collect();
        let mut results = Some(pool.imap(slow, 0..20));
        assert_eq!(results.as_mut().unwrap().next().unwrap().unwrap(), 0);
        let mut owned = Some(pool);
        let pids = owned.as_ref().unwrap().worker_pids();
        let body = || {
            let pool = owned.take().unwrap();
            assert!(is_copy(pool.apply(|n: u64| n, 1)));
            assert!(is_copy(pool.map(|n: u64| n, 0..3)));
            let mut refused = pool.imap(|n: u64| n, 0..3);
            assert!(refused.next().is_some_and(is_copy) && refused.next().is_none());
            let mut results = results.take().unwrap();
            assert!(results.by_ref().any(is_copy) && results.next().is_none());
            assert!((pool.worker_pids().is_empty(), pool.kill_worker(0)) == (true, false));
            let first = held[0].take().unwrap();
            assert!(first.ready() && is_copy(first.get()));
            held.clear();
            pool.close();
            pool.terminate();
            drop((results, refused));
            pool.join_timeout(Duration::ZERO).unwrap();
        };
        forked(body);
        // All of that was the copy's; here the pool is whole.
        assert_eq!(owned.as_ref().unwrap().worker_pids(), pids);
        let values: Vec<u64> = held.into_iter().map(|one| one.unwrap().get().unwrap()).collect();
        assert!(values.into_iter().eq(0..10));
        assert!(results.unwrap().map(Result::unwrap).eq(1..20));
        owned.unwrap().join();
    });
}

#[test]
fn a_copy_that_is_made_while_the_pool_is_locked_does_not_hang() {
    let _watchdog = procession_testkit::test_watchdog();
    procession_testkit::isolated!({
        let pool = Pool::new(1).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        pool.apply(|n: u64| n, 1).unwrap();
                    }
                });
            }
            for _ in 0..50 {
                forked(|| assert!(is_copy(pool.apply(|n: u64| n, 1))));
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert_eq!(pool.apply(|n: u64| n, 2).unwrap(), 2);
    });
}
