//! A back that is simulated: workers that die, events that are late, doubled, out of order or lost, all decided by a
//! seed and replayed by it.
//!
//! The functions are really called, in the polling thread, one after the other; only processes and time are simulated.
//! A run with the same seed and the same calls is the same run. It tests the front, and whatever a user builds on a
//! pool:
//!
//! ```
//! use procession_pool::{Pool, simulated::{Faults, Simulated}};
//!
//! let faults = Faults { death: 0.05, loss: 0.1, ..Faults::NONE };
//! let pool = Pool::with_back(Simulated::new(42, 3, faults));
//! let tasks = pool.tasks(|n: u32| n + 1, 0..100).retry(100).quarantine(0);
//! assert_eq!(tasks.collect()?, (1..=100).collect::<Vec<_>>());
//! # Ok::<(), procession_pool::TaskError>(())
//! ```

use crate::{
    Cause, Death, TaskError,
    back::{Back, Capabilities, Envelope, Event, Events, FunctionId, Key, NoSleep, Submit, Waiter},
    records,
    work::judge,
};
use procession_parcel::{Erased, Parcel};
use procession_process::ExitStatus;
use procession_sys::Deadline;
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
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
    /// The longest delay of a task or an event, in simulated time. An item takes up to 10 µs, so a larger delay
    /// brings them out of order.
    pub delay: Duration,
}

impl Faults {
    /// A world where nothing goes wrong.
    pub const NONE: Faults =
        Faults { death: 0.0, idle_death: 0.0, loss: 0.0, duplicate: 0.0, delay: Duration::ZERO };
}

/// How long the front waits for a sign of life, in simulated time.
const PATIENCE: Duration = Duration::from_millis(2);
/// How many tasks a worker is given at once.
const DEPTH: usize = 4;
/// How long an item takes at most, and how long until a dead worker is replaced, in simulated nanoseconds.
const ITEM: u64 = 10_000;
const RESTART: u64 = 100_000;

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
    /// What is known of each task that the front has not told us to forget.
    ledger: HashMap<Key, Record>,
    functions: HashMap<FunctionId, Arc<Erased>>,
    closed: bool,
    deaths: u64,
}

#[derive(Debug, Default)]
struct Worker {
    tasks: VecDeque<Job>,
    /// Tasks that were given to it, those on their way included.
    given: usize,
    alive: bool,
    /// Counts its processes.
    life: u32,
    /// Whether an item of it is on the agenda.
    busy: bool,
}

#[derive(Debug)]
struct Job {
    key: Key,
    function: Arc<Erased>,
    items: u32,
    arguments: Vec<u8>,
    /// Items that are done, and how many of them were reported.
    done: u32,
    reported: u32,
}

/// What became of a task so far.
#[derive(Debug, Default)]
struct Record {
    lost: bool,
    results: Vec<Result<Vec<u8>, TaskError>>,
    ended: Option<(u32, bool, Arc<Death>)>,
}

#[derive(Debug)]
enum Happening {
    Arrival { worker: usize, job: Job },
    ItemEnds { worker: usize, life: u32 },
    Restart { worker: usize },
    Report(Report),
    Query(Key),
}

/// An event on its way; what it says is looked up in the ledger when it arrives.
#[derive(Clone, Copy, Debug)]
enum Report {
    Items { key: Key, from: u32, to: u32 },
    Ended(Key),
    Unknown(Key),
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
        let Faults { death, idle_death, loss, duplicate, .. } = faults;
        for share in [death, idle_death, loss, duplicate] {
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
            ledger: HashMap::new(),
            functions: HashMap::new(),
            closed: false,
            deaths: 0,
        }
    }

    fn schedule(&mut self, after: u64, happening: Happening) {
        self.happenings += 1;
        self.agenda.insert((self.now.saturating_add(after), self.happenings), happening);
    }

    fn delay(&mut self) -> u64 {
        let longest = u64::try_from(self.faults.delay.as_nanos()).unwrap_or(u64::MAX);
        self.random.below(longest.saturating_add(1))
    }

    fn chance(&mut self, share: f64) -> bool {
        self.random.chance(share)
    }

    fn report(&mut self, report: Report) {
        let copies = if self.chance(self.faults.duplicate) { 2 } else { 1 };
        for _ in 0..copies {
            if !self.chance(self.faults.loss) {
                let delay = self.delay();
                self.schedule(delay, Happening::Report(report));
            }
        }
    }

    fn happen(&mut self, happening: Happening, events: &mut Events) {
        match happening {
            Happening::Arrival { worker, job } => {
                if self.workers[worker].alive {
                    self.workers[worker].tasks.push_back(job);
                    self.go_on(worker);
                } else {
                    // It waits in the lane, and dies with the worker's successor not knowing of it.
                    self.workers[worker].given -= 1;
                    let death = self.death(worker);
                    self.end(&job, 0, false, &death);
                }
            }
            Happening::ItemEnds { worker, life } => {
                if self.workers[worker].life == life {
                    self.item(worker);
                }
            }
            Happening::Restart { worker } => {
                let worker = &mut self.workers[worker];
                worker.alive = true;
                worker.life += 1;
            }
            Happening::Report(report) => self.deliver(report, events),
            Happening::Query(key) => self.answer(key),
        }
    }

    fn go_on(&mut self, worker: usize) {
        let state = &mut self.workers[worker];
        if state.busy || state.tasks.is_empty() {
            return;
        }
        state.busy = true;
        let life = state.life;
        let time = 1 + self.random.below(ITEM);
        self.schedule(time, Happening::ItemEnds { worker, life });
    }

    fn item(&mut self, worker: usize) {
        self.workers[worker].busy = false;
        if self.chance(self.faults.idle_death) {
            return self.die(worker, false);
        }
        let dies = self.chance(self.faults.death);
        if dies && self.chance(0.5) {
            return self.die(worker, true);
        }
        let Some(mut job) = self.workers[worker].tasks.pop_front() else { return };
        let rest = &job.arguments[records::offset_of(&job.arguments, job.done)..];
        let mut output = Vec::new();
        let result = match records::split(rest) {
            Some((input, _)) => judge(job.function.call_bytes(input, &mut output)),
            None => Err(TaskError::BadArguments("the task has fewer items than it says".to_owned())),
        };
        if dies {
            self.workers[worker].tasks.push_front(job);
            return self.die(worker, true);
        }
        if let Some(record) = self.ledger.get_mut(&job.key) {
            record.results.push(result.map(|()| output));
        }
        job.done += 1;
        let complete = job.done == job.items;
        if complete || self.chance(0.5) {
            self.report(Report::Items { key: job.key, from: job.reported, to: job.done });
            job.reported = job.done;
        }
        if complete {
            self.workers[worker].given -= 1;
        } else {
            self.workers[worker].tasks.push_front(job);
        }
        self.go_on(worker);
    }

    fn die(&mut self, worker: usize, in_hand: bool) {
        self.deaths += 1;
        let death = self.death(worker);
        let state = &mut self.workers[worker];
        state.alive = false;
        state.life += 1;
        state.busy = false;
        let tasks = std::mem::take(&mut state.tasks);
        state.given -= tasks.len();
        for (index, job) in tasks.iter().enumerate() {
            self.end(job, job.done, in_hand && index == 0, &death);
        }
        self.schedule(RESTART, Happening::Restart { worker });
    }

    fn end(&mut self, job: &Job, completed: u32, in_hand: bool, death: &Arc<Death>) {
        if let Some(record) = self.ledger.get_mut(&job.key) {
            record.ended = Some((completed, in_hand, death.clone()));
        }
        // In any order: what was done but not reported, and the end.
        self.report(Report::Ended(job.key));
        if job.done > job.reported {
            self.report(Report::Items { key: job.key, from: job.reported, to: job.done });
        }
    }

    fn death(&self, worker: usize) -> Arc<Death> {
        Arc::new(Death {
            worker: format!("Simulated-{}", worker + 1),
            pid: self.workers[worker].life,
            exit: ExitStatus::Signal { signal: libc::SIGKILL, core_dumped: false },
            cause: Cause::Itself,
            peak_memory: None,
        })
    }

    fn deliver(&mut self, report: Report, events: &mut Events) {
        match report {
            Report::Unknown(key) => events.push(Event::Unknown { key }),
            Report::Ended(key) => {
                let ended = self.ledger.get(&key).and_then(|record| record.ended.clone());
                if let Some((completed, in_hand, death)) = ended {
                    events.push(Event::Ended { key, completed, in_hand: in_hand.into(), death });
                }
            }
            Report::Items { key, from, to } => {
                let Some(record) = self.ledger.get(&key) else { return };
                let mut first = from;
                let mut run = events.buffer();
                for item in from..to.min(record.results.len() as u32) {
                    match &record.results[item as usize] {
                        Ok(value) => records::append(&mut run, value),
                        Err(error) => {
                            if item > first {
                                let records = std::mem::take(&mut run);
                                events.push(Event::Results { key, first, count: item - first, records });
                            }
                            events.push(Event::Failed { key, item, error: error.clone() });
                            first = item + 1;
                        }
                    }
                }
                if to > first {
                    events.push(Event::Results { key, first, count: to - first, records: run });
                } else {
                    events.recycle(run);
                }
            }
        }
    }

    fn answer(&mut self, key: Key) {
        let Some(record) = self.ledger.get(&key) else { return self.report(Report::Unknown(key)) };
        if record.lost {
            return self.report(Report::Unknown(key));
        }
        let (results, ended) = (record.results.len() as u32, record.ended.is_some());
        if results > 0 {
            self.report(Report::Items { key, from: 0, to: results });
        }
        if ended {
            self.report(Report::Ended(key));
        }
    }
}

impl Back for Simulated {
    fn capabilities(&self) -> Capabilities {
        Capabilities { patience: Some(PATIENCE), ..Capabilities::default() }
    }

    fn workers(&self) -> usize {
        self.workers.len()
    }

    fn define(&mut self, id: FunctionId, function: &Arc<Erased>, _parcel: &Arc<Parcel>) {
        self.functions.insert(id, function.clone());
    }

    fn undefine(&mut self, id: FunctionId) {
        self.functions.remove(&id);
    }

    fn submit(&mut self, task: &Envelope<'_>) -> Submit {
        let free = |worker: &&usize| self.workers[**worker].alive && self.workers[**worker].given < DEPTH;
        let all: Vec<usize> = (0..self.workers.len()).collect();
        let free: Vec<usize> = all.iter().filter(free).copied().collect();
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
            items: task.items,
            arguments: arguments.to_vec(),
            done: 0,
            reported: 0,
        };
        let worker = free[self.random.below(free.len() as u64) as usize];
        let lost = self.chance(self.faults.loss);
        self.ledger.insert(task.key, Record { lost, ..Record::default() });
        if !lost {
            self.workers[worker].given += 1;
            let delay = self.delay();
            self.schedule(delay, Happening::Arrival { worker, job });
        }
        Submit::Accepted
    }

    fn poll(&mut self, events: &mut Events) {
        // Time passes until there is something to tell, and a little where nothing will ever happen.
        while events.is_empty() {
            let Some(((time, _), happening)) = self.agenda.pop_first() else {
                self.now += PATIENCE.as_nanos() as u64 / 4;
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
        Arc::new(NoSleep)
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
        self.closed
    }
}

/// SplitMix64: small, and good enough to decide who dies.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`, which is not 0.
    fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(limit)) >> 64) as u64
    }

    fn chance(&mut self, share: f64) -> bool {
        // 53 bits, as many as a double holds.
        share > 0.0 && ((self.next() >> 11) as f64) < share * (1u64 << 53) as f64
    }
}
