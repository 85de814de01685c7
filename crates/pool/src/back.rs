//! The border between who decides ([the front](crate)) and who runs: the [`Back`] trait.
//!
//! A back is given tasks and reports events. What it may do and what it must do:
//!
//! * It may report events in any order and more than once. If it may lose tasks or events it says so
//!   ([`Capabilities::patience`]) and answers [`Back::query`].
//! * It runs each item of a task at most once per [`Key`]. A task of which it says [`Event::Unknown`] has never been
//!   started and never will be.
//! * When a worker dies, it reports [`Event::Ended`] for each task which that worker had, saying how many of its items
//!   have a result (those results are, or will be, reported as well) and how many of the next ones were in hand.

pub use crate::records::{Layout, Layouts};

use crate::{Death, TaskError, seeing::Name};
use procession_parcel::{Erased, Parcel};
use procession_shm::HeapRing;
use procession_sys::Deadline;
use serde::{Deserialize, Serialize};
use std::{fmt, sync::Arc, time::Duration};

/// The version of the task envelope. A back that talks to workers of other builds sends it along.
pub const ENVELOPE_VERSION: u16 = 2;

/// Names one dispatch of one task. It is never used again in the same pool.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Key {
    /// The task.
    pub task: u64,
    /// Which try of its items this is, from 1.
    pub attempt: u32,
}

/// Names a function that was given to [`Back::define`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FunctionId(pub u32);

/// Everything a back needs to know of one task.
#[derive(Clone, Copy, Debug)]
pub struct Envelope<'a> {
    /// The key under which its events are reported.
    pub key: Key,
    /// What to call with each item.
    pub function: FunctionId,
    /// Reserved, 0.
    pub flags: u32,
    /// Higher runs first, where a back keeps a queue of its own.
    pub priority: i32,
    /// How long each of its items may run, from its start. The back ends the worker of an item that overruns.
    pub limit: Option<Duration>,
    /// Whether [`Back::cancel`] may be called for it.
    pub cancellable: bool,
    /// The number of items.
    pub items: u32,
    /// How the items follow each other, and how their values are to: records, unless this back [can](Capabilities::plain) do
    /// with others.
    pub layouts: Layouts,
    /// The items.
    pub arguments: Arguments<'a>,
}

/// The items of a task.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub enum Arguments<'a> {
    /// One after the other, in the [layout](Envelope::layouts) of items: as a rule, its length (`u32`, little endian), then
    /// the encoded argument.
    Inline(&'a [u8]),
}

impl Arguments<'_> {
    /// The records, if they are inline.
    #[must_use]
    pub fn inline(&self) -> Option<&[u8]> {
        match self {
            Arguments::Inline(records) => Some(records),
        }
    }
}

impl fmt::Debug for Arguments<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Arguments::Inline(records) => write!(f, "Inline({} bytes)", records.len()),
        }
    }
}

/// What a back can do, so that the front knows what to ask of it.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Capabilities {
    /// Whether arguments may carry descriptors.
    pub descriptors: bool,
    /// Whether a running task can be killed.
    pub kills: bool,
    /// Whether [`Back::resize`] does anything.
    pub resizes: bool,
    /// Whether it reports [`Event::Started`], for one item at least of each task that may be cancelled.
    pub started: bool,
    /// Whether items, and their values, may be plain numbers that follow each other without lengths.
    pub plain: bool,
    /// `None` if no task and no event is ever lost. Otherwise how long to wait for a sign of life of a task before
    /// asking by [`Back::query`].
    pub patience: Option<Duration>,
}

/// The answer to [`Back::submit`].
#[derive(Debug)]
pub enum Submit {
    /// The task is on its way.
    Accepted,
    /// Every worker has enough to do; ask again after the next events.
    Full,
    /// This back can never run it: that task's error.
    Refused(TaskError),
}

/// How to cancel a task; see [`Back::cancel`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Cancel {
    /// It is not started any more, if it was not yet; if it runs, nothing happens to it.
    Queued,
    /// Besides, if it runs, it is asked to end: [`cancelled`](crate::cancelled) says true in it from now on.
    Ask,
    /// Besides, if it still runs after the time that is given, its worker is killed and replaced.
    Kill {
        /// How long it has to end by itself.
        grace: Duration,
    },
}

/// A worker as its back knows it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WorkerInfo {
    /// Its index: which of the pool's workers it is, the same for its replacements.
    pub index: usize,
    /// Its name, `PoolWorker-3` for example. A replacement has another one.
    pub name: String,
    /// Its pid, where workers are processes.
    pub pid: Option<u32>,
    /// What it does now.
    pub state: WorkerState,
    /// How many processes came before it at this index.
    pub restarts: u64,
    /// How many of those were left behind, where workers are threads: they still ran an item that was given up.
    pub left_behind: u64,
    /// How many items it has finished, and how many tasks it has been given and not finished.
    pub items: u64,
    /// See `items`.
    pub queued: usize,
    /// How many tasks it has finished, and how many of those that it has it has begun.
    pub tasks: u64,
    /// See `tasks`.
    pub in_hand: usize,
    /// How long it took from its start until it was ready, where that is known and it is.
    pub start_up: Option<Duration>,
    /// How long it has lived, and how much of that it has worked, as far as it has told.
    pub age: Duration,
    /// See `age`.
    pub busy: Duration,
    /// The bytes that were sent to it and came from it.
    pub bytes_in: u64,
    /// See `bytes_in`.
    pub bytes_out: u64,
}

impl WorkerInfo {
    /// A worker of which nothing else is known yet.
    #[must_use]
    pub fn new(index: usize, name: impl Into<String>) -> WorkerInfo {
        WorkerInfo {
            index,
            name: name.into(),
            pid: None,
            state: WorkerState::Starting,
            restarts: 0,
            left_behind: 0,
            items: 0,
            queued: 0,
            tasks: 0,
            in_hand: 0,
            start_up: None,
            age: Duration::ZERO,
            busy: Duration::ZERO,
            bytes_in: 0,
            bytes_out: 0,
        }
    }
}

/// What was done so far, besides what [`WorkerInfo`]s tell.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct History {
    /// What workers did that are gone, all together.
    pub gone: Gone,
    /// How many tasks wait with the back that no worker was given yet.
    pub queued: usize,
    /// What took longest of all, by the time per item, the longest first; some of it.
    pub slowest: Vec<Slow>,
}

/// What workers did that are gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Gone {
    /// How many there were.
    pub workers: u64,
    /// As in [`WorkerInfo`].
    pub tasks: u64,
    /// As in [`WorkerInfo`].
    pub items: u64,
    /// As in [`WorkerInfo`].
    pub age: Duration,
    /// As in [`WorkerInfo`].
    pub busy: Duration,
    /// As in [`WorkerInfo`].
    pub bytes_in: u64,
    /// As in [`WorkerInfo`].
    pub bytes_out: u64,
}

/// Items that took long.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Slow {
    /// The function that was called with them.
    pub function: String,
    /// How many were measured together: one, where an item takes longer than some 10 µs.
    pub items: u32,
    /// How long they took together.
    pub time: Duration,
    /// By which the function's name is looked up.
    #[serde(skip)]
    name: Option<Name>,
}

impl Slow {
    /// Items of `function` that took so long.
    #[must_use]
    pub fn new(function: impl Into<String>, items: u32, time: Duration) -> Slow {
        Slow { function: function.into(), items, time, name: None }
    }

    pub(crate) fn of(name: Name, items: u32, time: Duration) -> Slow {
        Slow { function: String::new(), items, time, name: Some(name) }
    }

    /// Looks the function's name up. To be called under no lock.
    pub(crate) fn look_up(&mut self) {
        if let Some(name) = self.name.take() {
            self.function = name.text();
        }
    }

    /// How long one of them took.
    #[must_use]
    pub fn each(&self) -> Duration {
        self.time / self.items.max(1)
    }
}

/// What a worker does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub enum WorkerState {
    /// It starts, or its initialiser runs.
    Starting,
    /// It has nothing to do.
    Idle,
    /// It has work.
    Busy,
    /// It finishes what it has and then ends.
    Ending,
    /// It has died and is not replaced yet, or was retired for want of work.
    Absent,
}

/// What happened.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// An item has been started.
    Started {
        /// The task.
        key: Key,
        /// The item's index in the task.
        item: u32,
    },
    /// Items that follow each other have returned values.
    Results {
        /// The task.
        key: Key,
        /// The first item's index in the task.
        first: u32,
        /// How many items.
        count: u32,
        /// One after the other, in the [layout](Envelope::layouts) of the task's values.
        records: Vec<u8>,
    },
    /// An item has failed without harm to its worker: it panicked, its argument or result could not cross, or it was
    /// cancelled before it started ([`TaskError::Cancelled`]).
    Failed {
        /// The task.
        key: Key,
        /// The item's index in the task.
        item: u32,
        /// Why.
        error: TaskError,
    },
    /// The worker that had this task has died.
    Ended {
        /// The task.
        key: Key,
        /// So many of its first items have been reported as results or failures, or will be.
        completed: u32,
        /// How many of the items after those had been started, or may have been. More than one only if the worker's
        /// word is not to be trusted any more.
        in_hand: u32,
        /// How the worker died.
        death: Arc<Death>,
    },
    /// The answer to a query: this task was lost on its way. It was never started and never will be.
    Unknown {
        /// The task.
        key: Key,
    },
    /// No worker can be kept alive. Every task that is unfinished gets this error, and so does every later one.
    Broken {
        /// Why.
        error: TaskError,
    },
}

/// The events of one poll, and spare buffers for their records.
#[derive(Debug, Default)]
pub struct Events {
    list: Vec<Event>,
    spare: Vec<Vec<u8>>,
}

impl Events {
    /// How many buffers are kept for later use, and up to which size.
    const SPARE: usize = 512;
    const SPARE_BYTES: usize = 64 * 1024;

    /// Adds an event.
    pub fn push(&mut self, event: Event) {
        self.list.push(event);
    }

    /// An empty buffer, perhaps one that was used before.
    #[must_use]
    pub fn buffer(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
    }

    /// Takes back a buffer that has served.
    pub fn recycle(&mut self, mut buffer: Vec<u8>) {
        if self.spare.len() < Events::SPARE && (1..=Events::SPARE_BYTES).contains(&buffer.capacity()) {
            buffer.clear();
            self.spare.push(buffer);
        }
    }

    /// The number of events.
    #[must_use]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Takes out all events: for those who drive a back themselves.
    pub fn drain(&mut self) -> impl Iterator<Item = Event> + '_ {
        self.list.drain(..)
    }

    pub(crate) fn take(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.list)
    }

    pub(crate) fn give_back(&mut self, list: Vec<Event>) {
        debug_assert!(list.is_empty());
        if self.list.is_empty() {
            self.list = list;
        }
    }
}

/// Who runs tasks. See the [module](crate::back) for what the front relies on.
pub trait Back: Send + fmt::Debug {
    /// What this back can do. It never changes.
    fn capabilities(&self) -> Capabilities;

    /// The number of workers it means to keep.
    fn workers(&self) -> usize;

    /// An end of the ring by which blocks of a heap travel in its tasks' arguments and results, if it was made on one. Where
    /// there is one, each record ends with what the pool says of its blocks.
    fn ring(&self) -> Option<HeapRing> {
        None
    }

    /// Makes `function` known under `id`, before the first task that names it. `parcel` is what is
    /// sent of it to workers that run the same program; what it has captured may need descriptors.
    fn define(&mut self, id: FunctionId, function: &Arc<Erased>, parcel: &Arc<Parcel>);

    /// Forgets `id`: no unfinished task names it, and no later one will until it is defined anew.
    fn undefine(&mut self, id: FunctionId);

    /// Offers a task.
    fn submit(&mut self, task: &Envelope<'_>) -> Submit;

    /// Collects what has happened, without waiting; also sends on what could not be sent before, and replaces workers
    /// that have died.
    fn poll(&mut self, events: &mut Events);

    /// Asks about a task that has not been heard of for long; the answer is an event.
    fn query(&mut self, _key: Key) {}

    /// Says that nothing about this task matters any more.
    fn forget(&mut self, _key: Key) {}

    /// The time that `patience` is measured in: the monotonic clock, unless the back has one of its own.
    fn now(&self) -> Deadline {
        Deadline::now()
    }

    /// How long one item of this function takes, once that is known.
    fn item_time(&self, _id: FunctionId) -> Option<Duration> {
        None
    }

    /// Something to wait with while nothing happens.
    fn waiter(&self) -> Arc<dyn Waiter>;

    /// Takes a function that polls this back, to be called from any thread when something has happened while perhaps
    /// nobody waits: a worker has died, and should be replaced.
    fn set_attendant(&mut self, _attend: Attendant) {}

    /// The pids of the workers that live, where they are processes.
    fn pids(&self) -> Vec<u32> {
        Vec::new()
    }

    /// Kills a worker by its index, if there is one and it lives; tells whether it did.
    fn kill_worker(&mut self, _index: usize) -> bool {
        false
    }

    /// Has a worker end once it has finished the task that it is running, and replaced; tells whether there was one.
    /// What was queued behind that task runs elsewhere.
    fn restart_worker(&mut self, _index: usize) -> bool {
        false
    }

    /// Means to keep this many workers from now on, if it [can](Capabilities::resizes). Those that are too many finish the
    /// task that they are running; what was queued behind it runs elsewhere.
    fn resize(&mut self, _workers: usize) {}

    /// The workers, by index.
    fn worker_infos(&self) -> Vec<WorkerInfo> {
        Vec::new()
    }

    /// What was done so far, besides what the workers' infos tell.
    fn history(&self) -> History {
        History::default()
    }

    /// Cancels a task that was submitted as cancellable. What has become of it comes as events, as always: items that
    /// were kept from starting as [`Event::Failed`] with [`TaskError::Cancelled`], those that were killed as
    /// [`Event::Ended`] with [`Cause::Cancelled`](crate::Cause::Cancelled), all others as what they came to.
    fn cancel(&mut self, _key: Key, _how: Cancel) {}

    /// Tells the workers to end once they have run what they were given.
    fn close(&mut self);

    /// Ends the workers at once, and returns when they are gone, or after a bounded time.
    fn terminate(&mut self);

    /// After [`close`](Back::close): whether all workers are gone.
    fn has_ended(&mut self) -> bool;
}

/// Polls a back when nobody else does; see [`Back::set_attendant`].
#[derive(Clone)]
pub struct Attendant(Arc<dyn Fn() + Send + Sync>);

impl Attendant {
    pub(crate) fn new(attend: impl Fn() + Send + Sync + 'static) -> Attendant {
        Attendant(Arc::new(attend))
    }

    /// Polls the back, unless somebody is at it.
    pub fn attend(&self) {
        (self.0)();
    }
}

impl fmt::Debug for Attendant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Attendant")
    }
}

/// Waits for a back's next event, without holding the pool's lock.
pub trait Waiter: Send + Sync + fmt::Debug {
    /// Returns when `pending` says false, or at the deadline. `pending` is called before each sleep, after it, and
    /// while spinning; it polls the back.
    ///
    /// Two threads may be in it at once: one of them is about to leave.
    fn wait_while(&self, deadline: Option<Deadline>, pending: &mut dyn FnMut() -> bool);

    /// Whether it sleeps. One that does not belongs to a back whose time passes by being polled: the pool polls it only for
    /// threads that wait, for callbacks and for futures, so that what happens depends on nothing else.
    fn sleeps(&self) -> bool {
        true
    }
}

/// For backs that need no sleep: their time passes by being polled.
#[derive(Debug, Default)]
pub struct NoSleep;

impl Waiter for NoSleep {
    fn wait_while(&self, deadline: Option<Deadline>, pending: &mut dyn FnMut() -> bool) {
        while pending() && !deadline.is_some_and(Deadline::passed) {
            std::thread::yield_now();
        }
    }

    fn sleeps(&self) -> bool {
        false
    }
}
