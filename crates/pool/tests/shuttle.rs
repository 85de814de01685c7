//! The pool's state machine under random schedules and random deaths: the front and the driver as they are, over a model
//! of the lanes, the workers and their supervision; and mistakes that must be found.
//!
//! `RUSTFLAGS="--cfg shuttle" cargo test --release -p procession-pool --test shuttle --target-dir target/shuttle`
//!
//! A worker of the model is a thread, and what it shares with the pool are the words of its two lanes: what was sent,
//! which message it has begun, the results that it committed, whether it is dead. Each change of them is one step, and it
//! may die before each. The model has no timeouts, so what a wait would miss until its slice is over is a deadlock here.
#![cfg(shuttle)]

use procession_parcel::{Erased, Parcel};
use procession_pool::{
    Bug, Cause, Death, Pool, TaskError,
    back::{Attendant, Back, Capabilities, Envelope, Event, Events, FunctionId, Key, Submit, Waiter},
    plant,
};
use procession_process::ExitStatus;
use procession_sys::Deadline;
use shuttle::{
    rand::{Rng, thread_rng},
    sync::{Condvar, Mutex},
    thread,
};
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

/// Mistakes in the model itself, which stand for those of a back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
enum Slip {
    /// Results are fetched before it is known that the worker is dead: the last ones are lost.
    FetchedBeforeDeath = 1,
    /// A worker says what it begins after it has begun.
    BegunTooLate,
    /// The bell is rung before there is something to see.
    RungTooEarly,
    /// Who waits reads the bell after its last look.
    BellReadLate,
    /// A death rings nobody.
    SilentDeath,
}

static SLIP: AtomicU32 = AtomicU32::new(0);

fn slips(slip: Slip) -> bool {
    SLIP.load(Ordering::Relaxed) == slip as u32
}

/// Where the driver sleeps.
#[derive(Debug, Default)]
struct Bell {
    rung: Mutex<u64>,
    changed: Condvar,
}

impl Bell {
    fn ring(&self) {
        *self.rung.lock().unwrap() += 1;
        self.changed.notify_all();
    }
}

#[derive(Debug)]
struct BellWaiter(Arc<Bell>);

impl Waiter for BellWaiter {
    fn wait_while(&self, _: Option<Deadline>, pending: &mut dyn FnMut() -> bool) {
        loop {
            let mut before = *self.0.rung.lock().unwrap();
            if !pending() {
                return;
            }
            if slips(Slip::BellReadLate) {
                before = *self.0.rung.lock().unwrap();
            }
            let mut rung = self.0.rung.lock().unwrap();
            while *rung == before {
                rung = self.0.changed.wait(rung).unwrap();
            }
        }
    }
}

/// A message to a worker: a task.
#[derive(Clone, Debug)]
struct Message {
    key: Key,
    function: Arc<Erased>,
    arguments: Vec<Vec<u8>>,
}

/// What a worker and the pool share. It outlives the worker.
#[derive(Debug, Default)]
struct Lanes {
    sent: VecDeque<Message>,
    closed: bool,
    /// How many messages it has begun, and the results that nobody fetched yet.
    begun: u64,
    results: Vec<(Key, u32, Vec<u8>)>,
    dead: bool,
}

/// What all workers of a world share.
#[derive(Debug, Default)]
struct World {
    bell: Arc<Bell>,
    attendant: Mutex<Option<Attendant>>,
    /// How often each item was run: by its argument.
    runs: Mutex<BTreeMap<Vec<u8>, u32>>,
    /// And how often its result was committed.
    commits: Mutex<BTreeMap<Vec<u8>, u32>>,
    /// How many deaths are left.
    deaths: Mutex<u32>,
    /// Items of 100 and more wait for this.
    open: Mutex<bool>,
    opened: Condvar,
}

struct Dead;

impl World {
    /// A step of a worker: it may be its last.
    fn step(&self) -> Result<(), Dead> {
        let mut deaths = self.deaths.lock().unwrap();
        if *deaths > 0 && thread_rng().gen_range(0..8) == 0 {
            *deaths -= 1;
            return Err(Dead);
        }
        Ok(())
    }

    fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.opened.notify_all();
    }

    fn work(&self, lanes: &(Mutex<Lanes>, Condvar)) -> Result<(), Dead> {
        loop {
            self.step()?;
            let message = {
                let mut state = lanes.0.lock().unwrap();
                loop {
                    if let Some(message) = state.sent.pop_front() {
                        break message;
                    }
                    if state.closed {
                        return Ok(());
                    }
                    state = lanes.1.wait(state).unwrap();
                }
            };
            self.step()?;
            if !slips(Slip::BegunTooLate) {
                lanes.0.lock().unwrap().begun += 1;
            }
            for (item, argument) in (0..).zip(&message.arguments) {
                self.step()?;
                let mut output = Vec::new();
                assert!(message.function.call_bytes(argument, &mut output).is_value());
                *self.runs.lock().unwrap().entry(argument.clone()).or_default() += 1;
                // 100 in the wire's integers, which are of variable length.
                if argument[0] >= 100 {
                    let mut open = self.open.lock().unwrap();
                    while !*open {
                        open = self.opened.wait(open).unwrap();
                    }
                }
                self.step()?;
                if slips(Slip::RungTooEarly) {
                    self.bell.ring();
                }
                {
                    let mut state = lanes.0.lock().unwrap();
                    state.results.push((message.key, item, output));
                    *self.commits.lock().unwrap().entry(argument.clone()).or_default() += 1;
                }
                if !slips(Slip::RungTooEarly) {
                    self.bell.ring();
                }
            }
            if slips(Slip::BegunTooLate) {
                lanes.0.lock().unwrap().begun += 1;
            }
        }
    }
}

/// A worker as the pool has it.
#[derive(Debug)]
struct Slot {
    lanes: Arc<(Mutex<Lanes>, Condvar)>,
    /// What it was given and has not finished: key, items, results fetched, the number of its message.
    given: VecDeque<(Key, u32, u32, u64)>,
    sent: u64,
}

#[derive(Debug)]
struct Model {
    world: Arc<World>,
    depth: usize,
    slots: Vec<Slot>,
    functions: HashMap<FunctionId, Arc<Erased>>,
    closed: bool,
}

impl Model {
    /// Two workers that have at most so many tasks each.
    fn new(world: &Arc<World>, depth: usize) -> Model {
        let slots = (0..2).map(|_| Model::start(world)).collect();
        Model { world: world.clone(), depth, slots, functions: HashMap::new(), closed: false }
    }

    fn start(world: &Arc<World>) -> Slot {
        let lanes: Arc<(Mutex<Lanes>, Condvar)> = Arc::default();
        let (its, world) = (lanes.clone(), world.clone());
        thread::spawn(move || {
            let _ = world.work(&its);
            its.0.lock().unwrap().dead = true;
            if !slips(Slip::SilentDeath) {
                world.bell.ring();
                let attendant = world.attendant.lock().unwrap().clone();
                if let Some(attendant) = attendant {
                    attendant.attend();
                }
            }
        });
        Slot { lanes, given: VecDeque::new(), sent: 0 }
    }
}

impl Slot {
    fn fetch(&mut self, events: &mut Vec<Event>) {
        let results = std::mem::take(&mut self.lanes.0.lock().unwrap().results);
        for (key, item, value) in results {
            let mut records = (value.len() as u32).to_le_bytes().to_vec();
            records.extend_from_slice(&value);
            events.push(Event::Results { key, first: item, count: 1, records });
            let Some(given) = self.given.front_mut().filter(|given| given.0 == key) else {
                panic!("a result of a task that it does not have")
            };
            given.2 += 1;
            if given.2 == given.1 {
                self.given.pop_front();
            }
        }
    }

    fn is_dead(&self) -> bool {
        self.lanes.0.lock().unwrap().dead
    }
}

impl Back for Model {
    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }
    fn workers(&self) -> usize {
        self.slots.len()
    }
    fn define(&mut self, id: FunctionId, function: &Arc<Erased>, _: &Arc<Parcel>) {
        self.functions.insert(id, function.clone());
    }
    fn undefine(&mut self, id: FunctionId) {
        self.functions.remove(&id);
    }
    fn submit(&mut self, task: &Envelope<'_>) -> Submit {
        let depth = self.depth;
        let Some(slot) =
            self.slots.iter_mut().filter(|slot| slot.given.len() < depth).min_by_key(|slot| slot.given.len())
        else {
            return Submit::Full;
        };
        let mut rest = task.arguments.inline().unwrap();
        let mut arguments = Vec::new();
        while let Some((length, behind)) = rest.split_first_chunk::<4>() {
            let (argument, behind) = behind.split_at(u32::from_le_bytes(*length) as usize);
            arguments.push(argument.to_vec());
            rest = behind;
        }
        slot.sent += 1;
        slot.given.push_back((task.key, task.items, 0, slot.sent));
        let message = Message { key: task.key, function: self.functions[&task.function].clone(), arguments };
        slot.lanes.0.lock().unwrap().sent.push_back(message);
        slot.lanes.1.notify_one();
        Submit::Accepted
    }
    fn poll(&mut self, events: &mut Events) {
        for index in 0..self.slots.len() {
            let slot = &mut self.slots[index];
            let mut results = Vec::new();
            if slips(Slip::FetchedBeforeDeath) {
                slot.fetch(&mut results);
            }
            let dead = slot.is_dead();
            if !slips(Slip::FetchedBeforeDeath) {
                slot.fetch(&mut results);
            }
            // The end of a task may be told before its last results.
            let late = dead && thread_rng().gen_range(0..2) == 0;
            if !late {
                results.drain(..).for_each(|event| events.push(event));
            }
            if !dead || self.closed {
                results.drain(..).for_each(|event| events.push(event));
                continue;
            }
            let begun = slot.lanes.0.lock().unwrap().begun;
            let death = Arc::new(Death {
                worker: "Model".to_owned(),
                pid: 1,
                exit: ExitStatus::Signal { signal: 9, core_dumped: false },
                cause: Cause::Itself,
                peak_memory: None,
            });
            for (key, _, completed, number) in slot.given.drain(..) {
                let in_hand = u32::from(number <= begun);
                events.push(Event::Ended { key, completed, in_hand, death: death.clone() });
            }
            results.drain(..).for_each(|event| events.push(event));
            self.slots[index] = Model::start(&self.world);
        }
    }
    fn waiter(&self) -> Arc<dyn Waiter> {
        Arc::new(BellWaiter(self.world.bell.clone()))
    }
    fn set_attendant(&mut self, attendant: Attendant) {
        *self.world.attendant.lock().unwrap() = Some(attendant);
    }
    fn close(&mut self) {
        self.closed = true;
        for slot in &self.slots {
            slot.lanes.0.lock().unwrap().closed = true;
            slot.lanes.1.notify_all();
        }
    }
    fn terminate(&mut self) {
        self.close();
        self.world.open();
    }
    fn has_ended(&mut self) -> bool {
        self.slots.iter().all(Slot::is_dead)
    }
}

fn double(n: u64) -> u64 {
    n * 2
}

impl World {
    fn count(of: &Mutex<BTreeMap<Vec<u8>, u32>>, n: u64) -> u32 {
        // One byte for a small number.
        of.lock().unwrap().get(&vec![n as u8]).copied().unwrap_or(0)
    }

    /// An item has the outcome that it may have.
    fn check(&self, n: u64, retries: u32, result: &Result<u64, TaskError>, died: &mut u32) {
        let (runs, commits) = (World::count(&self.runs, n), World::count(&self.commits, n));
        match result {
            Ok(value) => {
                assert_eq!(*value, 2 * n);
                assert!((1..=1 + retries).contains(&runs), "{n} was run {runs} times");
                assert_eq!(commits, 1, "{n} has two results");
            }
            Err(TaskError::Died(error)) => {
                *died += 1;
                assert_eq!(error.attempt, 1 + retries);
                assert!(runs <= 1 + retries, "{n} was run {runs} times");
                assert_eq!(commits, 0, "the result of {n} was lost");
            }
            Err(error) => panic!("{n}: {error}"),
        }
    }
}

/// Two threads use a pool of two workers, of which some die.
fn deaths_under_two_callers() {
    const DEATHS: u32 = 2;
    let world = Arc::new(World { deaths: Mutex::new(DEATHS), ..World::default() });
    let pool = Arc::new(Pool::with_back(Model::new(&world, 2)));
    let retries = thread_rng().gen_range(0..3);
    let callers = [0_u64, 20].map(|base| {
        let (pool, world) = (pool.clone(), world.clone());
        thread::spawn(move || {
            let chunk = thread_rng().gen_range(1..4);
            let tasks = pool.tasks(double, base..base + 4).retry(retries).quarantine(0).chunk_size(chunk);
            let mut died = 0;
            if base == 0 {
                let results = tasks.collect_results();
                assert_eq!(results.len(), 4);
                for (n, result) in (base..).zip(&results) {
                    world.check(n, retries, result, &mut died);
                }
            } else {
                let mut results: Vec<_> = tasks.unordered().collect();
                assert_eq!(results.len(), 4);
                results.retain(Result::is_ok);
                let mut values: Vec<u64> = results.into_iter().map(Result::unwrap).collect();
                values.sort_unstable();
                values.dedup();
                values.iter().for_each(|value| world.check(value / 2, retries, &Ok(*value), &mut died));
                died = 4 - values.len() as u32;
            }
            died
        })
    });
    let died: u32 = callers.map(|caller| caller.join().unwrap()).into_iter().sum();
    // Each failure took as many deaths as there are attempts, of workers that died once, with one item in hand.
    assert!(died * (1 + retries) <= DEATHS - *world.deaths.lock().unwrap(), "{died} items died");
    match Arc::into_inner(pool) {
        Some(pool) => pool.join(),
        None => unreachable!("nobody else has it"),
    }
}

/// One waits for what ends only after the others have what they want: whoever drives must pass on results, and the driving.
fn a_long_call_and_short_ones() {
    let world = Arc::new(World::default());
    // Nothing is queued behind what may be long.
    let pool = Arc::new(Pool::with_back(Model::new(&world, 1)));
    let long = pool.submit(double, 100).unwrap();
    let short: Vec<_> = (0..2)
        .map(|n| {
            let pool = pool.clone();
            thread::spawn(move || assert_eq!(pool.apply(double, n).unwrap(), 2 * n))
        })
        .collect();
    let waiter = thread::spawn(move || assert_eq!(long.get().unwrap(), 200));
    short.into_iter().for_each(|short| short.join().unwrap());
    world.open();
    waiter.join().unwrap();
    drop(pool);
}

/// A pool that is terminated while others wait and workers die: every wait ends.
fn an_end_under_fire() {
    let world = Arc::new(World { deaths: Mutex::new(1), ..World::default() });
    let pool = Arc::new(Pool::with_back(Model::new(&world, 2)));
    let callers: Vec<_> = (0..2)
        .map(|base| {
            let pool = pool.clone();
            thread::spawn(move || {
                for result in pool.tasks(double, base * 20..base * 20 + 3).chunk_size(1).ordered() {
                    match result {
                        Ok(value) => assert!(value % 2 == 0),
                        Err(error) => assert!(error.is_terminated() || error.death().is_some(), "{error}"),
                    }
                }
            })
        })
        .collect();
    pool.terminate();
    callers.into_iter().for_each(|caller| caller.join().unwrap());
}

/// How many schedules.
fn schedules(usual: usize) -> usize {
    std::env::var("PROCESSION_SCHEDULES").ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

fn holds(model: fn()) {
    shuttle::check_random(model, schedules(3000));
    shuttle::check_pct(model, schedules(3000), 3);
}

#[test]
fn results_are_right_whoever_dies_and_whoever_drives() {
    holds(deaths_under_two_callers);
}

#[test]
fn who_drives_passes_on_what_others_wait_for() {
    holds(a_long_call_and_short_ones);
}

#[test]
fn every_wait_ends_with_the_pool() {
    holds(an_end_under_fire);
}

/// The model must find this mistake.
fn finds(bug: Bug, model: fn()) {
    procession_sys::planted::finds(&bug, || {
        plant(Some(bug));
        holds(model);
    });
}

/// The model must find this mistake of its own back.
fn finds_slip(slip: Slip, model: fn()) {
    procession_sys::planted::finds(&slip, || {
        SLIP.store(slip as u32, Ordering::Relaxed);
        holds(model);
    });
}

macro_rules! found {
    ($($test:ident: $bug:expr, $model:expr;)*) => { $(
        #[test]
        fn $test() {
            finds($bug, $model);
        }
    )* };
}

macro_rules! found_in_the_back {
    ($($test:ident: $slip:expr, $model:expr;)*) => { $(
        #[test]
        fn $test() {
            finds_slip($slip, $model);
        }
    )* };
}

found! {
    finds_a_driver_that_hands_over_to_nobody: Bug::NoHandOver, a_long_call_and_short_ones;
    finds_that_nobody_is_told_of_results: Bug::NoWordOfSettlement, a_long_call_and_short_ones;
    finds_that_what_was_in_hand_runs_again: Bug::HandRunsAgain, deaths_under_two_callers;
    finds_that_what_is_behind_spends_an_attempt: Bug::BehindSpends, deaths_under_two_callers;
    finds_that_results_on_their_way_are_forgotten: Bug::EndForgetsResults, deaths_under_two_callers;
}

found_in_the_back! {
    finds_that_results_are_fetched_before_the_death: Slip::FetchedBeforeDeath, deaths_under_two_callers;
    finds_that_a_worker_says_too_late_what_it_begins: Slip::BegunTooLate, deaths_under_two_callers;
    finds_a_bell_that_is_rung_too_early: Slip::RungTooEarly, a_long_call_and_short_ones;
    finds_a_bell_that_is_read_too_late: Slip::BellReadLate, a_long_call_and_short_ones;
    finds_a_death_that_rings_nobody: Slip::SilentDeath, deaths_under_two_callers;
}
