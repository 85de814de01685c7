//! Workers killed all the time: every result arrives once and is right, and without retries the errors are exactly
//! the items that were in hand.

use crate::support::{Notebook, note};
use procession_pool::{Pool, Work, task};
use procession_testkit::storm::Rng;
use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

/// Kills a random worker every few milliseconds while `body` runs; returns the number of kills too.
fn under_fire<T>(pool: &Pool, seed: u64, body: impl FnOnce() -> T) -> (T, u64) {
    let (stop, kills) = (AtomicBool::new(false), AtomicU64::new(0));
    let result = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut rng = Rng::from_seed(seed);
            while !stop.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_micros(rng.within(500..6000)));
                let victim = rng.below(pool.workers() as u64) as usize;
                kills.fetch_add(u64::from(pool.kill_worker(victim)), Ordering::Relaxed);
            }
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
        stop.store(true, Ordering::Relaxed);
        result
    });
    (result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)), kills.into_inner())
}

fn work(n: u64) -> u64 {
    crate::support::spin(Duration::from_micros(n % 97));
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[test]
fn with_retries_every_result_arrives_once_and_is_right() {
    let _watchdog = procession_testkit::test_watchdog();
    let seed = Rng::from_env_or(11).next_u64();
    let pool = Pool::new(3).unwrap();
    let (values, kills) = under_fire(&pool, seed, || {
        pool.tasks(work, 0..20_000).chunk_size(7).retry(1000).quarantine(0).collect()
    });
    assert!(values.unwrap().into_iter().eq((0..20_000).map(work)));
    let (values, more) = under_fire(&pool, seed + 1, || {
        let results = pool.tasks(work, 0..20_000).retry(1000).quarantine(0).unordered();
        let mut values: Vec<u64> = results.map(Result::unwrap).collect();
        values.sort_unstable();
        values
    });
    let mut wanted: Vec<u64> = (0..20_000).map(work).collect();
    wanted.sort_unstable();
    assert_eq!(values, wanted);
    assert!(kills + more > 20, "only {kills} and {more} kills");
    pool.join();
}

#[test]
fn without_retries_the_errors_are_the_items_that_were_in_hand() {
    let _watchdog = procession_testkit::test_watchdog();
    let seed = Rng::from_env_or(12).next_u64();
    let notebook = Notebook::new();
    let path = notebook.path();
    let noted = task!(move |n: u64| {
        note(path, n);
        work(n)
    }; path);
    let pool = Pool::new(3).unwrap();
    let (results, kills) = under_fire(&pool, seed, || {
        pool.tasks_of(Work::task(&noted), 0..20_000).chunk_size(5).collect_results()
    });
    let mut runs = BTreeMap::<u64, u32>::new();
    for n in notebook.read() {
        *runs.entry(n).or_default() += 1;
    }
    let mut failed = 0;
    for (n, result) in (0_u64..).zip(&results) {
        let times = runs.get(&n).copied().unwrap_or(0);
        match result {
            Ok(value) => assert_eq!((*value, times), (work(n), 1), "item {n}"),
            Err(error) => {
                assert_eq!(error.death().unwrap().item, n, "{error}");
                assert!(times <= 1, "item {n} failed, and was run {times} times");
                failed += 1;
            }
        }
    }
    assert_eq!(results.len(), 20_000);
    assert!(failed <= kills, "{failed} items failed by {kills} kills");
    assert!(failed > 5, "only {failed} items failed by {kills} kills");
    pool.join();
}
