//! A back that is simulated: workers that die, events that are late, doubled, out of order or lost, all decided by a
//! seed and replayed by it.
//!
//! The functions are really called, in the polling thread, one after the other; only processes and time are simulated.
//! A run with the same seed and the same calls is the same run. It tests the front, and whatever a user builds on a
//! pool:
//!
//! ```
//! use procession_pool::{Pool, simulated::Faults};
//!
//! let faults = Faults { death: 0.05, loss: 0.1, ..Faults::NONE };
//! let pool = Pool::simulated_builder(42).workers(3).faults(faults).build();
//! let tasks = pool.tasks(|n: u32| n + 1, 0..100).retry(100).quarantine(0);
//! assert_eq!(tasks.collect()?, (1..=100).collect::<Vec<_>>());
//! # Ok::<(), procession_pool::TaskError>(())
//! ```
//!
//! # Simulated time
//!
//! An item takes up to 10 µs, and [slow](Faults::slow) ones up to 10 ms. Its function is called when that time is over, so
//! [`cancelled`](crate::cancelled) tells it what was asked until then. By [`pass`] it takes as much longer as it wants;
//! meanwhile its worker may die, or be killed since the item runs longer than its limit. Limits, and the grace of a
//! [cancel](Cancel::Kill), are in simulated time, which stands still while nobody polls.

mod random;
mod world;

use self::{random::Random, world::Happening};
use crate::{
    Death, Pool, TaskError,
    back::{
        Back, Cancel, Capabilities, Envelope, Events, FunctionId, History, Key, Submit, Waiter, WorkerInfo,
        WorkerState,
    },
    pool::Defaults,
    records::{Layout, Layouts},
};
use procession_parcel::{Erased, Parcel};
use procession_sys::Deadline;
use std::{
    cell::Cell,
    collections::{BTreeMap, HashMap, VecDeque},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

/// What goes wrong, and how often. The shares are probabilities.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Faults {
    /// A worker dies with an item in hand: half of the times before it was run, half of them after, with the result
    /// not yet committed.
    pub death: f64,
    /// A worker dies between two items.
    pub idle_death: f64,
    /// A task, an event, a query or its answer is lost.
    pub loss: f64,
    /// An event arrives twice.
    pub duplicate: f64,
    /// An item takes a thousand times as long as others, up to 10 ms.
    pub slow: f64,
    /// The longest delay of a task or an event, in simulated time. An item takes up to 10 µs, so a larger delay
    /// brings them out of order.
    pub delay: Duration,
}

impl Faults {
    /// A world where nothing goes wrong.
    pub const NONE: Faults =
        Faults { death: 0.0, idle_death: 0.0, loss: 0.0, duplicate: 0.0, slow: 0.0, delay: Duration::ZERO };

    /// A world where everything goes wrong now and then.
    pub const SOME: Faults = Faults {
        death: 0.02,
        idle_death: 0.02,
        loss: 0.05,
        duplicate: 0.05,
        slow: 0.02,
        delay: Duration::from_micros(30),
    };
}

/// How long the front waits for a sign of life, in simulated time.
const PATIENCE: Duration = Duration::from_millis(2);
/// How many tasks a worker is given at once.
const DEPTH: usize = 4;
/// How long an item takes at most, how much slower a slow one is, and how long until a dead worker is replaced, in
/// simulated nanoseconds.
const ITEM: u64 = 10_000;
const SLOWER: u64 = 1000;
const RESTART: u64 = 100_000;

/// How many polls there are between two looks at the real clock.
const STEPS: u32 = 1 << 14;

thread_local! {
    /// What the item that this thread simulates has asked for by [`pass`], in nanoseconds.
    static PASSED: Cell<u64> = const { Cell::new(0) };
}

/// Lets simulated time pass in the item that calls it: it takes that much longer. Outside of a simulation it does nothing.
pub fn pass(time: Duration) {
    PASSED.set(PASSED.get().saturating_add(nanos(time)));
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Pool {
    /// A simulated pool of four workers in which [everything goes wrong now and then](Faults::SOME), as `seed` decides; see
    /// [`simulated`](crate::simulated).
    pub fn simulated(seed: u64) -> Pool {
        Pool::simulated_builder(seed).build()
    }

    /// Describes a simulated pool in detail.
    pub fn simulated_builder(seed: u64) -> Builder {
        Builder { seed, workers: 4, faults: Faults::SOME, retries: 0 }
    }
}

/// Describes a simulated pool. Made by [`Pool::simulated_builder`].
#[derive(Clone, Copy, Debug)]
#[must_use = "a builder does nothing until it builds"]
pub struct Builder {
    seed: u64,
    workers: usize,
    faults: Faults,
    retries: u32,
}

impl Builder {
    /// How many workers there are. The default is 4.
    pub fn workers(self, workers: usize) -> Builder {
        Builder { workers, ..self }
    }

    /// What goes wrong. The default is [`Faults::SOME`].
    pub fn faults(self, faults: Faults) -> Builder {
        Builder { faults, ..self }
    }

    /// How often an item is tried again after its worker died with it in hand, or after it panicked, unless the call
    /// says otherwise. The default is 0.
    pub fn retry(self, times: u32) -> Builder {
        Builder { retries: times, ..self }
    }

    /// Makes the pool.
    ///
    /// # Panics
    ///
    /// As [`Simulated::new`].
    pub fn build(self) -> Pool {
        let defaults = Defaults { retries: self.retries, ..Defaults::default() };
        Pool::new_with(Box::new(self.back()), defaults)
    }

    /// Makes only the back: for a back that wraps it.
    ///
    /// # Panics
    ///
    /// As [`Simulated::new`].
    #[must_use]
    pub fn back(self) -> Simulated {
        Simulated::new(self.seed, self.workers, self.faults)
    }
}

/// The simulated back.
#[derive(Debug)]
pub struct Simulated {
    random: Random,
    faults: Faults,
    now: u64,
    /// What will happen, by time and a number that keeps equal times apart.
    agenda: BTreeMap<(u64, u64), Happening>,
    happenings: u64,
    workers: Vec<Worker>,
    /// How many of the workers are kept. Those behind them were retired.
    kept: usize,
    /// What is known of each task that the front has not told us to forget.
    ledger: HashMap<Key, Record>,
    functions: HashMap<FunctionId, Arc<Erased>>,
    closed: bool,
    deaths: u64,
    /// Whether it can do with plain numbers: as the seed decides.
    plain: bool,
}

#[derive(Debug, Default)]
struct Worker {
    tasks: VecDeque<Job>,
    /// Tasks that were given to it, those on their way included.
    given: usize,
    alive: bool,
    /// It ends after the task that it runs, to be replaced unless it was retired.
    leaving: bool,
    /// Counts its processes, the deaths of its place included, and the items of each.
    life: u32,
    restarts: u64,
    turn: u64,
    /// The item that it runs.
    busy: Option<Item>,
    items: u64,
    jobs: u64,
    busy_time: u64,
    bytes_in: u64,
    bytes_out: u64,
}

/// An item that runs.
#[derive(Debug)]
struct Item {
    since: u64,
    /// What it came to, once its function was called, and whether the worker dies before that is committed.
    result: Option<Result<Vec<u8>, TaskError>>,
    dies: bool,
}

#[derive(Debug)]
struct Job {
    key: Key,
    function: Arc<Erased>,
    arguments: Vec<u8>,
    layouts: Layouts,
    limit: Option<Duration>,
    /// Items that are done, and how many of them were reported. The one behind them may run.
    done: u32,
    reported: u32,
    /// Nothing is started from this item on.
    end: u32,
    asked: bool,
}

/// What became of a task so far.
#[derive(Debug, Default)]
struct Record {
    lost: bool,
    cancelled: bool,
    layout: Layout,
    results: Vec<Option<Result<Vec<u8>, TaskError>>>,
    ended: Option<(u32, bool, Arc<Death>)>,
}

impl Simulated {
    /// A simulation of `workers` workers.
    ///
    /// # Panics
    ///
    /// If there are no workers, or a fault is certain, so that nothing could ever be done.
    #[must_use]
    pub fn new(seed: u64, workers: usize, faults: Faults) -> Simulated {
        assert!(workers > 0, "a pool has at least one worker");
        let Faults { death, idle_death, loss, duplicate, slow, .. } = faults;
        for share in [death, idle_death, loss, duplicate, slow] {
            assert!(
                (0.0..1.0).contains(&share),
                "a fault's share is at least 0 and less than 1, not {share}"
            );
        }
        Simulated {
            random: Random(seed),
            faults,
            now: 0,
            agenda: BTreeMap::new(),
            happenings: 0,
            workers: (0..workers).map(|_| Worker { alive: true, ..Worker::default() }).collect(),
            kept: workers,
            ledger: HashMap::new(),
            functions: HashMap::new(),
            closed: false,
            deaths: 0,
            plain: seed.count_ones().is_multiple_of(2),
        }
    }

    /// How many workers have died so far.
    #[must_use]
    pub fn deaths(&self) -> u64 {
        self.deaths
    }

    fn takes_more(&self, worker: usize) -> bool {
        let state = &self.workers[worker];
        state.alive && !state.leaving && state.given < DEPTH
    }
}

/// Lets simulated time pass. It looks at the clock so seldom that what happens does not depend on real time, unless
/// somebody waits for nothing.
#[derive(Debug)]
struct Steps;

impl Waiter for Steps {
    fn sleeps(&self) -> bool {
        false
    }

    fn wait_while(&self, deadline: Option<Deadline>, pending: &mut dyn FnMut() -> bool) {
        let mut step = 0_u32;
        while pending() {
            step = step.wrapping_add(1);
            if step.is_multiple_of(STEPS) && deadline.is_some_and(Deadline::passed) {
                return;
            }
            if step.is_multiple_of(64) {
                // Others may want the pool's lock.
                std::thread::yield_now();
            }
        }
    }
}

impl Back for Simulated {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            kills: true,
            resizes: true,
            started: true,
            patience: Some(PATIENCE),
            plain: self.plain,
            ..Capabilities::default()
        }
    }

    fn workers(&self) -> usize {
        self.kept
    }

    fn define(&mut self, id: FunctionId, function: &Arc<Erased>, _parcel: &Arc<Parcel>) {
        self.functions.insert(id, function.clone());
    }

    fn undefine(&mut self, id: FunctionId) {
        self.functions.remove(&id);
    }

    fn submit(&mut self, task: &Envelope<'_>) -> Submit {
        let free: Vec<usize> = (0..self.kept).filter(|worker| self.takes_more(*worker)).collect();
        if free.is_empty() {
            return Submit::Full;
        }
        let (Some(arguments), Some(function)) = (task.arguments.inline(), self.functions.get(&task.function))
        else {
            return Submit::Refused(TaskError::BadFunction("the simulation does not know it".to_owned()));
        };
        let job = Job {
            key: task.key,
            function: function.clone(),
            arguments: arguments.to_vec(),
            layouts: task.layouts,
            limit: task.limit,
            done: 0,
            reported: 0,
            end: task.items,
            asked: false,
        };
        let worker = free[self.random.below(free.len() as u64) as usize];
        let lost = self.chance(self.faults.loss);
        let results = (0..task.items).map(|_| None).collect();
        self.ledger
            .insert(task.key, Record { lost, results, layout: task.layouts.values, ..Record::default() });
        if !lost {
            self.workers[worker].given += 1;
            self.workers[worker].bytes_in += arguments.len() as u64;
            let delay = self.delay();
            self.schedule(delay, Happening::Arrival { worker, job });
        }
        Submit::Accepted
    }

    fn poll(&mut self, events: &mut Events) {
        // Time passes until there is something to tell, and a little where nothing will ever happen.
        while events.is_empty() {
            let Some(((time, _), happening)) = self.agenda.pop_first() else {
                self.now += nanos(PATIENCE) / 4;
                return;
            };
            self.now = time;
            self.happen(happening, events);
            // The front has a say in between.
            if matches!(self.agenda.first_key_value(), Some(((next, _), _)) if *next > time.saturating_add(ITEM))
            {
                break;
            }
        }
    }

    fn query(&mut self, key: Key) {
        if !self.chance(self.faults.loss) {
            let delay = self.delay();
            self.schedule(delay, Happening::Query(key));
        }
    }

    fn forget(&mut self, key: Key) {
        self.ledger.remove(&key);
    }

    fn now(&self) -> Deadline {
        Deadline::from_nanos(self.now)
    }

    fn waiter(&self) -> Arc<dyn Waiter> {
        Arc::new(Steps)
    }

    fn kill_worker(&mut self, index: usize) -> bool {
        let lives = index < self.kept && self.workers[index].alive;
        if lives {
            self.die(index, crate::Cause::Requested);
        }
        lives
    }

    fn restart_worker(&mut self, index: usize) -> bool {
        let lives = index < self.kept && self.workers[index].alive;
        if lives {
            self.dismiss(index);
        }
        lives
    }

    fn resize(&mut self, workers: usize) {
        let before = std::mem::replace(&mut self.kept, workers.max(1));
        for index in self.kept..before {
            if self.workers[index].alive {
                self.dismiss(index);
            }
        }
        for index in before..self.kept {
            if index == self.workers.len() {
                self.workers.push(Worker { alive: true, ..Worker::default() });
            } else if !self.workers[index].alive {
                self.schedule(RESTART, Happening::Restart { worker: index });
            }
        }
    }

    fn worker_infos(&self) -> Vec<WorkerInfo> {
        let infos = self.workers[..self.kept].iter().enumerate().map(|(index, worker)| {
            let mut info = WorkerInfo::new(index, world::name(index, worker.life));
            info.state = match worker {
                Worker { alive: false, .. } => WorkerState::Absent,
                Worker { leaving: true, .. } => WorkerState::Ending,
                Worker { busy: Some(_), .. } => WorkerState::Busy,
                _ => WorkerState::Idle,
            };
            (info.restarts, info.items, info.queued) = (worker.restarts, worker.items, worker.given);
            (info.bytes_in, info.bytes_out) = (worker.bytes_in, worker.bytes_out);
            (info.tasks, info.in_hand) = (worker.jobs, usize::from(worker.busy.is_some()));
            (info.age, info.busy) = (Duration::from_nanos(self.now), Duration::from_nanos(worker.busy_time));
            info
        });
        infos.collect()
    }

    fn history(&self) -> History {
        let mut history = History::default();
        for worker in &self.workers[self.kept..] {
            history.gone.workers += 1;
            history.gone.tasks += worker.jobs;
            history.gone.items += worker.items;
            history.gone.busy += Duration::from_nanos(worker.busy_time);
            history.gone.bytes_in += worker.bytes_in;
            history.gone.bytes_out += worker.bytes_out;
        }
        history
    }

    fn cancel(&mut self, key: Key, how: Cancel) {
        let delay = self.delay();
        self.schedule(delay, Happening::Cancel { key, how });
    }

    fn close(&mut self) {
        self.closed = true;
    }

    fn terminate(&mut self) {
        self.closed = true;
        self.agenda.clear();
        self.ledger.clear();
        for worker in &mut self.workers {
            *worker = Worker::default();
        }
    }

    fn has_ended(&mut self) -> bool {
        self.closed && self.workers.iter().all(|worker| worker.given == 0)
    }
}

/// Calls a function as an item that was asked to end, or was not; tells what it came to, and how much longer it takes.
fn call(
    function: &Erased,
    argument: &[u8],
    layouts: Layouts,
    asked: bool,
) -> (Result<Vec<u8>, TaskError>, u64) {
    let before = PASSED.replace(0);
    let mut output = Vec::new();
    let call = || crate::work::judge(function.call_plainly(argument, layouts.plainly(), &mut output));
    let result = crate::token::with_token(Rc::new(move || asked), call);
    (result.map(|()| output), PASSED.replace(before))
}
