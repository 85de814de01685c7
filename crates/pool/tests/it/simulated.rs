//! The front over the simulator: deaths, delays, doubles, disorder and losses, by seed.

use procession_pool::{
    Pool, TaskError, Work,
    simulated::{Faults, Simulated},
};
use procession_testkit::storm::Rng;
use std::{cell::RefCell, collections::BTreeMap, time::Duration};

thread_local! {
    /// How often each item was run. The simulator runs items in the thread that polls.
    static RUNS: RefCell<BTreeMap<u64, u32>> = const { RefCell::new(BTreeMap::new()) };
}

fn triple(n: u64) -> u64 {
    RUNS.with_borrow_mut(|runs| *runs.entry(n).or_default() += 1);
    assert!(n % 41 != 40, "a bad number");
    n * 3
}

fn runs(n: u64) -> u32 {
    RUNS.with_borrow(|runs| runs.get(&n).copied().unwrap_or(0))
}

fn share(rng: &mut Rng, most: u64) -> f64 {
    if rng.chance(1, 3) { 0.0 } else { rng.below(most) as f64 / 100.0 }
}

/// One random pool, one random call. Returns how many items failed by a death.
fn one_world(seed: u64) -> u64 {
    let mut rng = Rng::from_seed(seed);
    let faults = Faults {
        death: share(&mut rng, 15),
        idle_death: share(&mut rng, 15),
        loss: share(&mut rng, 40),
        duplicate: share(&mut rng, 40),
        slow: share(&mut rng, 5),
        delay: Duration::from_micros(rng.below(100)),
    };
    let workers = 1 + rng.below(5) as usize;
    let items = rng.below(150);
    let retries = if rng.chance(1, 2) { 0 } else { 1000 };
    RUNS.take();
    let pool = Pool::with_back(Simulated::new(seed, workers, faults));
    let input = (0..items).filter(move |n| retries == 0 || n % 41 != 40);
    let wanted: Vec<u64> = input.clone().collect();
    let mut tasks = pool.tasks(triple, input).retry(retries).quarantine(0);
    if rng.chance(2, 3) {
        tasks = tasks.chunk_size(1 + rng.below(20) as usize);
    }
    if rng.chance(1, 2) {
        tasks = tasks.window(1 + rng.below(30) as usize);
    }
    let mut deaths = 0;
    let mut check = |n: u64, result: Result<u64, TaskError>| match result {
        Ok(value) => {
            assert_eq!(value, n * 3, "seed {seed}: the wrong value for {n}");
            let times = runs(n);
            assert!(times >= 1 && (retries > 0 || times == 1), "seed {seed}: {n} was run {times} times");
        }
        Err(TaskError::Panicked(panic)) => {
            assert_eq!(n % 41, 40, "seed {seed}: {n} does not panic");
            assert_eq!(panic.message(), "a bad number");
        }
        Err(TaskError::Died(died)) => {
            assert_eq!(retries, 0, "seed {seed}: {n} had retries left");
            assert_eq!(wanted[died.item as usize], n, "seed {seed}: the error is of another item");
            assert!(runs(n) <= 1, "seed {seed}: {n} was run {} times", runs(n));
            deaths += 1;
        }
        Err(error) => panic!("seed {seed}: {n} failed: {error}"),
    };
    if rng.chance(1, 2) {
        let results: Vec<_> = tasks.ordered().collect();
        assert_eq!(results.len(), wanted.len(), "seed {seed}: items were lost or doubled");
        for (n, result) in wanted.iter().zip(results) {
            check(*n, result);
        }
    } else {
        // An error does not say which argument it had; the values do.
        let mut left = wanted.clone();
        let mut failed = 0;
        for result in tasks.unordered() {
            match result {
                Ok(value) => {
                    let at = left.iter().position(|n| n * 3 == value);
                    left.remove(
                        at.unwrap_or_else(|| panic!("seed {seed}: {value} came twice, or from nowhere")),
                    );
                    check(value / 3, Ok(value));
                }
                Err(_) => failed += 1,
            }
        }
        assert_eq!(left.len(), failed, "seed {seed}: items were lost or doubled");
    }
    pool.join();
    deaths
}

#[test]
fn in_two_thousand_worlds_of_faults_each_item_has_one_right_result() {
    let _watchdog = procession_testkit::test_watchdog();
    let first = Rng::from_env_or(1).next_u64() >> 32;
    let deaths: u64 = (0..2000).map(|world| one_world(first + world)).sum();
    assert!(deaths > 1000, "the worlds are too peaceful to show anything: {deaths} deaths");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let _watchdog = procession_testkit::test_watchdog();
    let run = || {
        let faults = Faults { death: 0.1, loss: 0.1, delay: Duration::from_micros(40), ..Faults::NONE };
        let pool = Pool::with_back(Simulated::new(7, 3, faults));
        let results: Vec<String> =
            pool.imap_unordered(|n: u64| n, 0..300).map(|result| format!("{result:?}")).collect();
        results
    };
    let first = run();
    assert!(first.iter().any(|result| result.contains("SIGKILL")), "nobody died");
    assert_eq!(first, run());
}

#[test]
fn an_error_of_a_fallible_function_arrives_with_its_type_and_sources() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::with_back(Simulated::new(1, 2, Faults::NONE));
    let parse = |text: String| -> Result<i32, std::num::ParseIntError> { text.parse() };
    let texts = ["1", "x", "3"].map(str::to_owned);
    let results = pool.tasks_of(Work::fallible(parse), texts.clone()).collect_results();
    assert_eq!(results[0].as_ref().ok(), Some(&1));
    assert_eq!(results[2].as_ref().ok(), Some(&3));
    let error = results[1].as_ref().unwrap_err();
    assert!(error.remote().unwrap().type_name().contains("ParseIntError"), "{error}");
    assert_eq!(error.to_string(), "task failed: invalid digit found in string");
    assert!(pool.try_map(parse, texts).unwrap_err().remote().is_some());
}
