//! Workers killed all the time: every result arrives once and is right, and without retries the errors are exactly
//! the items that were in hand.

use crate::support::{Notebook, note};
use procession_pool::{Pool, Work, task};
use procession_testkit::storm::Rng;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

/// Kills a random worker every few milliseconds while `body` runs.
fn under_fire(pool: &Pool, seed: u64, stop: &AtomicBool, kills: &AtomicU64, body: impl FnOnce()) {
    std::thread::scope(|scope| {
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
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
}

fn work(n: u64) -> u64 {
    crate::support::spin(Duration::from_micros(n % 97));
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// A storm of at least so many kills and a hundred times as many items, in rounds of this many.
const ROUND: u64 = 5_000;

/// Runs `round` with its number until there were enough kills and items; returns both. `cargo xtask soak` deals out ten
/// thousand kills among a million items.
fn storm(pool: &Pool, seed: u64, mut round: impl FnMut(u64)) -> (u64, u64) {
    let wanted = u64::from(procession_testkit::storm::kills(100));
    let start = std::time::Instant::now();
    let (stop, kills) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut rounds = 0;
    under_fire(pool, seed, &stop, &kills, || {
        while rounds * ROUND < 100 * wanted || kills.load(Ordering::Relaxed) < wanted {
            round(rounds);
            rounds += 1;
        }
    });
    let kills = kills.into_inner();
    println!("{} items and {kills} kills in {:.0} s", rounds * ROUND, start.elapsed().as_secs_f64());
    (rounds * ROUND, kills)
}

#[test]
fn with_retries_every_result_arrives_once_and_is_right() {
    let _watchdog = procession_testkit::watchdog!(Duration::from_secs(120));
    let seed = Rng::from_env_or(11).next_u64();
    let pool = Pool::new(3).unwrap();
    let tasks = |round: u64| pool.tasks(work, round * ROUND..(round + 1) * ROUND).retry(1000).quarantine(0);
    storm(&pool, seed, |round| {
        let wanted = (round * ROUND..(round + 1) * ROUND).map(work);
        match round % 4 {
            0 => assert!(tasks(round).chunk_size(1).collect().unwrap().into_iter().eq(wanted)),
            1 => assert!(tasks(round).chunk_size(7).ordered().map(Result::unwrap).eq(wanted)),
            2 => assert!(tasks(round).ordered().map(Result::unwrap).eq(wanted)),
            _ => {
                let mut values: Vec<u64> = tasks(round).unordered().map(Result::unwrap).collect();
                let mut wanted: Vec<u64> = wanted.collect();
                values.sort_unstable();
                wanted.sort_unstable();
                assert_eq!(values, wanted);
            }
        }
    });
    pool.join();
}

#[test]
fn without_retries_the_errors_are_the_items_that_were_in_hand() {
    let _watchdog = procession_testkit::watchdog!(Duration::from_secs(120));
    let seed = Rng::from_env_or(12).next_u64();
    let pool = Pool::new(3).unwrap();
    // Each worker dies once, with at most one item in hand.
    let mut victims = BTreeSet::new();
    let (_, kills) = storm(&pool, seed, |round| {
        let notebook = Notebook::new();
        let path = notebook.path();
        let noted = task!(move |n: u64| {
            note(path, n);
            work(n)
        }; path);
        let chunk = [1, 5, 50][round as usize % 3];
        let results = pool.tasks_of(Work::task(&noted), 0..ROUND).chunk_size(chunk).collect_results();
        let mut runs = BTreeMap::<u64, u32>::new();
        for n in notebook.read() {
            *runs.entry(n).or_default() += 1;
        }
        assert_eq!(results.len() as u64, ROUND);
        for (n, result) in (0_u64..).zip(&results) {
            let times = runs.get(&n).copied().unwrap_or(0);
            match result {
                Ok(value) => assert_eq!((*value, times), (work(n), 1), "item {n}"),
                Err(error) => {
                    let died = error.death().unwrap();
                    assert_eq!((died.item, died.attempt), (n, 1), "{error}");
                    assert_eq!(died.death.exit.signal(), Some(libc::SIGKILL), "{error}");
                    assert!(times <= 1, "item {n} failed, and was run {times} times");
                    assert!(victims.insert(died.death.worker.clone()), "two items failed with {error}");
                }
            }
        }
    });
    println!("{} items were in hand", victims.len());
    assert!(victims.len() as u64 <= kills, "{} items failed by {kills} kills", victims.len());
    assert!(victims.len() > 5, "only {} items failed by {kills} kills", victims.len());
    pool.join();
}
