//! The whole front over the simulator, by seed: every call, with deaths, losses, disorder, retries, limits, cancels, and a
//! pool that changes its size.
//!
//! A back between the two puts limits on what passes by, and cancels some of it, in all three ways; so the front is
//! tested with them whichever call they come from. `cargo xtask soak` runs a hundred thousand seeds
//! (`PROCESSION_SEEDS`), `cargo test` a thousand.

use procession_parcel::{Erased, Parcel};
use procession_pool::{
    Cause, Pool, TaskError, Work,
    back::{
        Attendant, Back, Cancel, Capabilities, Envelope, Events, FunctionId, Key, Submit, Waiter, WorkerInfo,
    },
    cancelled,
    simulated::{Faults, Simulated, pass},
    task,
};
use procession_sys::Deadline;
use procession_testkit::storm::Rng;
use std::{
    cell::RefCell,
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

/// What the items that are simulated did.
#[derive(Clone, Copy, Default)]
struct Runs {
    /// How often it was run, and how often it saw that it was asked to end.
    times: u32,
    asked: u32,
}

thread_local! {
    static RUNS: RefCell<BTreeMap<u64, Runs>> = const { RefCell::new(BTreeMap::new()) };
}

/// These fail by themselves, and these take 20 µs longer than others.
fn is_bad(n: u64) -> bool {
    n % 41 == 40
}
fn is_long(n: u64) -> bool {
    n % 17 == 16
}

fn value(n: u64) -> u64 {
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn work(n: u64) -> u64 {
    let asked = cancelled();
    RUNS.with_borrow_mut(|runs| {
        let runs = runs.entry(n).or_default();
        runs.times += 1;
        runs.asked += u32::from(asked);
    });
    if is_long(n) {
        pass(Duration::from_micros(20));
    }
    assert!(!is_bad(n), "a bad number");
    value(n)
}

fn runs(n: u64) -> Runs {
    RUNS.with_borrow(|runs| runs.get(&n).copied().unwrap_or_default())
}

/// What the back in between does.
#[derive(Clone, Copy, Debug)]
struct Habits {
    limit: Option<Duration>,
    /// One task of so many is cancelled.
    cancels: Option<u64>,
    /// One poll of so many changes the number of workers, or kills or restarts one.
    changes: Option<u64>,
}

/// What was done to tasks: by kind of cancel.
#[derive(Debug, Default)]
struct Deeds {
    cancelled: u64,
    killed: u64,
}

#[derive(Debug)]
struct Meddler {
    inner: Simulated,
    rng: Rng,
    habits: Habits,
    under_way: Vec<Key>,
    deeds: Arc<Mutex<Deeds>>,
}

impl Back for Meddler {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
    fn workers(&self) -> usize {
        self.inner.workers()
    }
    fn define(&mut self, id: FunctionId, function: &Arc<Erased>, encoding: &Arc<Parcel>) {
        self.inner.define(id, function, encoding);
    }
    fn undefine(&mut self, id: FunctionId) {
        self.inner.undefine(id);
    }
    fn submit(&mut self, task: &Envelope<'_>) -> Submit {
        let mut task = *task;
        task.limit = self.habits.limit;
        let cancels = self.habits.cancels.is_some_and(|of| self.rng.chance(1, of));
        task.cancellable = cancels;
        let answer = self.inner.submit(&task);
        if cancels && matches!(answer, Submit::Accepted) {
            self.under_way.push(task.key);
        }
        answer
    }
    fn poll(&mut self, events: &mut Events) {
        if !self.under_way.is_empty() && self.rng.chance(1, 3) {
            let key = self.under_way.swap_remove(self.rng.below(self.under_way.len() as u64) as usize);
            let grace = Duration::from_micros(self.rng.below(30));
            let how = *self.rng.pick(&[Cancel::Queued, Cancel::Ask, Cancel::Kill { grace }]);
            let mut deeds = self.deeds.lock().unwrap();
            deeds.cancelled += 1;
            deeds.killed += u64::from(matches!(how, Cancel::Kill { .. }));
            self.inner.cancel(key, how);
        }
        if self.habits.changes.is_some_and(|of| self.rng.chance(1, of)) {
            let index = self.rng.below(6) as usize;
            match self.rng.below(3) {
                0 => self.inner.resize(index),
                1 => drop(self.inner.restart_worker(index)),
                _ => drop(self.inner.kill_worker(index)),
            }
            assert!(!self.inner.worker_infos().is_empty());
        }
        self.inner.poll(events);
    }
    fn query(&mut self, key: Key) {
        self.inner.query(key);
    }
    fn forget(&mut self, key: Key) {
        self.inner.forget(key);
    }
    fn now(&self) -> Deadline {
        self.inner.now()
    }
    fn item_time(&self, id: FunctionId) -> Option<Duration> {
        self.inner.item_time(id)
    }
    fn waiter(&self) -> Arc<dyn Waiter> {
        self.inner.waiter()
    }
    fn set_attendant(&mut self, attendant: Attendant) {
        self.inner.set_attendant(attendant);
    }
    fn worker_infos(&self) -> Vec<WorkerInfo> {
        self.inner.worker_infos()
    }
    fn cancel(&mut self, key: Key, how: Cancel) {
        self.inner.cancel(key, how);
    }
    fn close(&mut self) {
        self.inner.close();
    }
    fn terminate(&mut self) {
        self.inner.terminate();
    }
    fn has_ended(&mut self) -> bool {
        self.inner.has_ended()
    }
}

fn share(rng: &mut Rng, most: u64) -> f64 {
    if rng.chance(1, 3) { 0.0 } else { rng.below(most) as f64 / 100.0 }
}

/// How often each kind of outcome was seen.
#[derive(Clone, PartialEq, Debug, Default)]
struct Tally {
    values: u64,
    panics: u64,
    deaths: u64,
    timeouts: u64,
    cancels: u64,
    asked: u64,
}

struct World {
    seed: u64,
    retries: u32,
    faults: Faults,
    habits: Habits,
    deeds: Arc<Mutex<Deeds>>,
}

impl World {
    /// An item has this outcome; `place` is where it was in its call, if that is known.
    fn check(&self, n: u64, place: Option<u64>, result: &Result<u64, TaskError>, tally: &mut Tally) {
        let World { seed, retries, faults, habits, .. } = self;
        let Runs { times, asked } = runs(n);
        tally.asked += u64::from(asked);
        assert!(times <= 1 + retries, "seed {seed}: {n} was run {times} times with {retries} retries");
        let kills = faults.death > 0.0 || habits.changes.is_some();
        match result {
            Ok(given) => {
                tally.values += 1;
                assert_eq!(*given, value(n), "seed {seed}: the wrong value for {n}");
                assert!(times >= 1 && !is_bad(n), "seed {seed}: {n} has a value, and was run {times} times");
                assert!(
                    habits.limit.is_none_or(|limit| !is_long(n) || limit > Duration::from_micros(20)),
                    "seed {seed}: {n} ran longer than {:?}",
                    habits.limit
                );
            }
            Err(TaskError::Panicked(panic)) => {
                tally.panics += 1;
                assert!(is_bad(n) && panic.message() == "a bad number", "seed {seed}: {n}: {panic}");
                assert!(times >= 1);
            }
            Err(TaskError::Died(died)) => {
                tally.deaths += 1;
                assert!(kills, "seed {seed}: {n} died in a world without deaths");
                assert!(
                    place.is_none_or(|place| place == died.item),
                    "seed {seed}: the error is of another item"
                );
                assert_eq!(died.attempt, retries + 1, "seed {seed}: {n} had attempts left");
                assert!(matches!(died.death.cause, Cause::Itself | Cause::Requested));
            }
            Err(TaskError::TimedOut(died)) => {
                tally.timeouts += 1;
                let limit = habits.limit.unwrap_or_else(|| panic!("seed {seed}: {n} has no limit"));
                assert_eq!(died.death.cause, Cause::TimeLimit(limit));
                assert!(
                    place.is_none_or(|place| place == died.item),
                    "seed {seed}: the error is of another item"
                );
                assert!(
                    limit < Duration::from_micros(30) || faults.slow > 0.0,
                    "seed {seed}: {n} is not as slow as {limit:?}"
                );
                assert!(died.attempt <= retries + 1);
                // It is not tried again for that.
                assert!(
                    kills || is_bad(n) || died.attempt == 1,
                    "seed {seed}: {n} spent {} attempts",
                    died.attempt
                );
            }
            Err(TaskError::Cancelled) => {
                tally.cancels += 1;
                assert!(self.deeds.lock().unwrap().cancelled > 0, "seed {seed}: nobody cancelled {n}");
                if self.deeds.lock().unwrap().killed == 0 && *retries == 0 {
                    assert_eq!(times, 0, "seed {seed}: {n} was cancelled, and was run");
                }
            }
            Err(error) => panic!("seed {seed}: {n} failed: {error}"),
        }
    }
}

/// One random pool, some random calls.
fn one_world(seed: u64, tally: &mut Tally) {
    let mut rng = Rng::from_seed(seed);
    let faults = Faults {
        death: share(&mut rng, 15),
        idle_death: share(&mut rng, 15),
        loss: share(&mut rng, 40),
        duplicate: share(&mut rng, 40),
        slow: share(&mut rng, 5),
        delay: Duration::from_micros(rng.below(100)),
    };
    let habits = Habits {
        limit: rng.chance(1, 2).then(|| Duration::from_micros(rng.within(2..60))),
        cancels: rng.chance(1, 2).then(|| rng.within(1..20)),
        changes: rng.chance(1, 3).then(|| rng.within(10..100)),
    };
    let retries = *rng.pick(&[0, 1, 3, 1000]);
    let deeds = Arc::new(Mutex::new(Deeds::default()));
    let inner = Pool::simulated_builder(seed).workers(1 + rng.below(5) as usize).faults(faults).back();
    let meddler = Meddler { inner, rng: rng.split(), habits, under_way: Vec::new(), deeds: deeds.clone() };
    let pool = Pool::with_back(meddler);
    let world = World { seed, retries, faults, habits, deeds };
    RUNS.take();
    // A bad number is tried again as often as it may.
    let numbers = |from: u64, count: u64| (from..from + count).filter(move |n| retries < 1000 || !is_bad(*n));
    let mut next = 0;
    // An iteration that stays open while the others run, and one that is given up.
    let mut open = pool
        .tasks(work, numbers(1 << 32, 50))
        .retry(retries)
        .quarantine(0)
        .chunk_size(3)
        .window(10)
        .ordered();
    let mut given_up = pool.tasks(work, numbers(1 << 33, 50)).retry(retries).quarantine(0).unordered();
    given_up.next();
    let mut opened = numbers(1 << 32, 50).zip(0_u64..);
    for _ in 0..1 + rng.below(4) {
        let count = rng.below(60);
        let input: Vec<u64> = numbers(next, count).collect();
        next += count;
        let mut tasks = pool.tasks(work, input.clone()).retry(retries).quarantine(0);
        if rng.chance(2, 3) {
            tasks = tasks.chunk_size(1 + rng.below(20) as usize);
        }
        if rng.chance(1, 2) {
            tasks = tasks.window(1 + rng.below(30) as usize);
        }
        let places = input.iter().copied().zip(0_u64..);
        match rng.below(4) {
            0 => {
                let results = tasks.collect_results();
                assert_eq!(results.len(), input.len(), "seed {seed}: items were lost or doubled");
                places.zip(results).for_each(|((n, at), result)| world.check(n, Some(at), &result, tally));
            }
            1 => {
                let mut results = tasks.ordered();
                places.for_each(|(n, at)| {
                    let result = results.next().unwrap_or_else(|| panic!("seed {seed}: {n} was lost"));
                    world.check(n, Some(at), &result, tally);
                });
                assert!(results.next().is_none(), "seed {seed}: items were doubled");
            }
            2 => {
                // An error does not say which argument it had, unless its worker died; the values do.
                let mut left = input.clone();
                let mut failed = 0;
                for result in tasks.unordered() {
                    let number = match &result {
                        Ok(given) => left.iter().position(|n| value(*n) == *given),
                        Err(error) => error.death().and_then(|died| {
                            let number = input[died.item as usize];
                            left.iter().position(|n| *n == number)
                        }),
                    };
                    match (number, &result) {
                        (Some(at), _) => world.check(left.remove(at), None, &result, tally),
                        (None, Err(TaskError::Panicked(_) | TaskError::Cancelled)) => failed += 1,
                        _ => panic!("seed {seed}: {result:?} came twice, or from nowhere"),
                    }
                }
                assert_eq!(left.len(), failed, "seed {seed}: items were lost or doubled");
            }
            _ => {
                // `submit` has the retries of its pool, which are none.
                let world = World { retries: 0, deeds: world.deeds.clone(), ..world };
                let base = 1 << 34 | (next - count);
                let handles: Vec<_> = (0..count).map(|n| pool.submit(work, base + n).unwrap()).collect();
                for (n, handle) in (base..).zip(handles) {
                    if rng.chance(1, 10) {
                        drop(handle);
                    } else {
                        world.check(n, Some(0), &handle.get(), tally);
                    }
                }
            }
        }
        for (n, at) in opened.by_ref().take(5) {
            let result = open.next().unwrap_or_else(|| panic!("seed {seed}: {n} was lost"));
            world.check(n, Some(at), &result, tally);
        }
    }
    drop(given_up);
    if rng.chance(1, 2) {
        for (n, at) in opened {
            let result = open.next().unwrap_or_else(|| panic!("seed {seed}: {n} was lost"));
            world.check(n, Some(at), &result, tally);
        }
        assert!(open.next().is_none());
    }
    drop(open);
    if rng.chance(1, 2) { pool.join() } else { drop(pool) }
}

/// How many seeds.
fn seeds() -> u64 {
    std::env::var("PROCESSION_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1000)
}

#[test]
fn in_every_world_of_a_storm_of_seeds_each_item_has_one_right_outcome() {
    let _watchdog = procession_testkit::watchdog!(Duration::from_secs(300));
    let first = Rng::from_env_or(1).next_u64() >> 32;
    let mut tally = Tally::default();
    let start = std::time::Instant::now();
    for world in 0..seeds() {
        one_world(first + world, &mut tally);
    }
    println!("{} seeds from {first} in {:.1} s: {tally:?}", seeds(), start.elapsed().as_secs_f64());
    let Tally { values, panics, deaths, timeouts, cancels, asked } = tally;
    for (count, what) in [
        (values, "values"),
        (panics, "panics"),
        (deaths, "deaths"),
        (timeouts, "items that ran too long"),
        (cancels, "cancelled items"),
        (asked, "items that saw that they were asked"),
    ] {
        assert!(count > seeds() / 20, "only {count} {what}: the worlds show nothing");
    }
}

#[test]
fn a_world_is_the_same_each_time() {
    let _watchdog = procession_testkit::test_watchdog();
    for seed in 3_019_026_285..3_019_026_285 + 100 {
        let (mut one, mut two) = (Tally::default(), Tally::default());
        one_world(seed, &mut one);
        one_world(seed, &mut two);
        assert_eq!(one, two, "seed {seed}");
    }
}

#[test]
fn a_simulated_pool_is_made_by_its_seed_alone() {
    let _watchdog = procession_testkit::test_watchdog();
    let run = |seed| {
        let pool = Pool::simulated(seed);
        let results = pool.tasks(|n: u64| n, 0..200).chunk_size(3).unordered();
        results.map(|result| format!("{result:?}")).collect::<Vec<_>>()
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
    let pool = Pool::simulated_builder(5).workers(2).retry(100).build();
    let add = 7_u64;
    let work = Work::task(&task!(move |n: u64| n + add; add));
    assert!(pool.tasks_of(work, 0..500).collect().unwrap().into_iter().eq(7..507));
    assert_eq!(pool.workers(), 2);
}
