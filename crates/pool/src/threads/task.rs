//! A task as the threads have it, and the part of it that others may reach into while it runs.

use crate::{
    Death, TaskError,
    back::{Event, Key},
    records::{self, PushError},
    seeing::Name,
    work::judge,
};
use procession_parcel::Erased;
use procession_sys::Deadline;
use std::{
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

/// A function that was defined.
#[derive(Debug)]
pub(super) struct Function {
    pub(super) erased: Erased,
    /// How long an item takes, in nanoseconds; 0 as long as that is not known.
    item: AtomicU64,
    /// What a timeline calls it.
    name: OnceLock<String>,
}

impl Function {
    pub(super) fn new(erased: Erased) -> Function {
        Function { erased, item: AtomicU64::new(0), name: OnceLock::new() }
    }

    /// What a timeline calls it. Only the first call takes long.
    pub(super) fn name(&self) -> &str {
        self.name.get_or_init(|| Name::of(&self.erased).text())
    }

    /// How long an item takes, in nanoseconds, once that is known.
    pub(super) fn item(&self) -> Option<u64> {
        Some(self.item.load(Ordering::Relaxed)).filter(|item| *item > 0)
    }

    /// Takes in a measurement. It goes up at once and down slowly, since what is queued behind a long item waits.
    pub(super) fn measured(&self, items: u32, nanos: u64) {
        let new = (nanos / u64::from(items.max(1))).max(1);
        let item = self.item().map_or(new, |old| new.max((3 * (old / 4)).saturating_add(new / 4)));
        self.item.store(item.max(1), Ordering::Relaxed);
    }
}

/// A task.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) key: Key,
    pub(super) function: Arc<Function>,
    pub(super) items: u32,
    pub(super) arguments: Vec<u8>,
    /// Only where it has a limit or may be cancelled: all others are run without a lock or a clock per item.
    pub(super) guard: Option<Guard>,
}

impl Task {
    /// What all of it should take, in nanoseconds, once that is known.
    pub(super) fn time(&self) -> Option<u64> {
        Some(self.function.item()?.saturating_mul(u64::from(self.items)))
    }

    /// Runs one item; what it comes to is added to `run`.
    pub(super) fn run(&self, item: u32, argument: Option<&[u8]>, run: &mut Run) {
        let Some(argument) = argument else {
            let error = TaskError::BadArguments("the task has fewer items than it says".to_owned());
            return run.failed(self.key, item, error);
        };
        let call = |output: &mut Vec<u8>| judge(self.function.erased.call_bytes(argument, output));
        match records::push(&mut run.records, call) {
            Ok(()) => run.count += 1,
            Err(PushError::Write(error)) => run.failed(self.key, item, error),
            Err(PushError::TooLarge(bytes)) => {
                run.failed(self.key, item, TaskError::BadResult(format!("it has {bytes} bytes, encoded")));
            }
        }
    }
}

/// What items of one task came to and nobody was told of yet.
#[derive(Debug, Default)]
pub(super) struct Run {
    first: u32,
    count: u32,
    records: Vec<u8>,
    events: Vec<Event>,
    /// Of the values since the last look.
    pub(super) bytes: u64,
}

impl Run {
    fn failed(&mut self, key: Key, item: u32, error: TaskError) {
        self.end_values(key);
        self.first = item + 1;
        self.events.push(Event::Failed { key, item, error });
    }

    fn end_values(&mut self, key: Key) {
        if self.count > 0 {
            self.bytes += self.records.len() as u64;
            let Run { first, count, .. } = *self;
            self.events.push(Event::Results {
                key,
                first,
                count,
                records: std::mem::take(&mut self.records),
            });
            self.first += count;
            self.count = 0;
        }
    }

    /// Moves everything to `out`.
    pub(super) fn take(&mut self, key: Key, out: &mut Vec<Event>) {
        self.end_values(key);
        out.append(&mut self.events);
    }

    /// Makes room for the results of another task.
    pub(super) fn reset(&mut self) {
        self.first = 0;
        self.records.clear();
    }
}

/// What decides between the thread that runs a task and those who want to end it. Whoever has the lock decides what
/// becomes of the running item: it has a result, or it is left behind; and of the next: started, or cancelled.
#[derive(Debug)]
pub(super) struct Guard {
    pub(super) limit: Option<Duration>,
    /// Whether what runs is asked to end.
    pub(super) asked: AtomicBool,
    state: Mutex<Progress>,
}

#[derive(Debug, Default)]
struct Progress {
    /// Items below this were started, and items below that have ended. They differ by the one that runs.
    started: u32,
    done: u32,
    /// No item is started any more.
    over: bool,
    /// The item that ran was given up, and its thread with it.
    left: bool,
    /// When the item that runs is out of time, and when it was cancelled for good.
    due: Option<Deadline>,
    kill: Option<Deadline>,
    /// What was not told yet.
    events: Vec<Event>,
}

/// What becomes of a task's next item.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Next {
    /// It runs. Look after it at this time.
    Run(Option<Deadline>),
    /// It was cancelled.
    Over,
    /// So was the thread that asks.
    Left,
}

/// Why an item is given up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum GivenUp {
    Limit(Duration),
    Cancelled,
}

impl Guard {
    pub(super) fn new(limit: Option<Duration>) -> Guard {
        Guard { limit, asked: AtomicBool::new(false), state: Mutex::default() }
    }

    /// No user code runs under this lock, so a poisoned one is whole.
    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread is about to start the next item.
    pub(super) fn start(&self) -> Next {
        let mut state = self.lock();
        if state.left {
            return Next::Left;
        }
        if state.over {
            return Next::Over;
        }
        state.started += 1;
        state.due = self.limit.map(Deadline::after);
        Next::Run(state.due)
    }

    /// The thread has ended an item; false if that was given up meanwhile, and nothing of it matters any more.
    pub(super) fn end(&self, key: Key, run: &mut Run, out: Option<&mut Vec<Event>>) -> bool {
        let mut state = self.lock();
        if state.left {
            return false;
        }
        state.done += 1;
        state.due = None;
        run.take(key, &mut state.events);
        if let Some(out) = out {
            out.append(&mut state.events);
        }
        true
    }

    /// The thread has done with the task: takes out what was not told yet.
    pub(super) fn finish(&self, out: &mut Vec<Event>) {
        let mut state = self.lock();
        state.over = true;
        out.append(&mut state.events);
    }

    /// Nothing of it is started any more. The first item that was not, and whether one runs.
    pub(super) fn cancel(&self) -> (Option<u32>, bool) {
        let mut state = self.lock();
        let first = (!state.over).then_some(state.started);
        state.over = true;
        (first, state.started > state.done && !state.left)
    }

    /// The item that runs is to be given up then.
    pub(super) fn kill_at(&self, at: Deadline) {
        let mut state = self.lock();
        state.kill = Some(state.kill.map_or(at, |kill| kill.min(at)));
    }

    /// When to look after it.
    pub(super) fn due(&self) -> Option<Deadline> {
        let state = self.lock();
        if state.started == state.done || state.left {
            return None;
        }
        [state.due, state.kill].into_iter().flatten().min()
    }

    /// Gives up the item that runs, if it is out of time: its thread is left behind.
    pub(super) fn give_up(&self) -> Option<GivenUp> {
        let mut state = self.lock();
        if state.started == state.done || state.left {
            return None;
        }
        let why = match (state.kill, state.due, self.limit) {
            (Some(kill), ..) if kill.passed() => GivenUp::Cancelled,
            (_, Some(due), Some(limit)) if due.passed() => GivenUp::Limit(limit),
            _ => return None,
        };
        (state.left, state.over) = (true, true);
        self.asked.store(true, Ordering::Relaxed);
        Some(why)
    }

    /// After [`give_up`](Guard::give_up): what the task came to.
    pub(super) fn end_of(&self, key: Key, death: Arc<Death>, out: &mut Vec<Event>) {
        let mut state = self.lock();
        out.append(&mut state.events);
        out.push(Event::Ended { key, completed: state.done, in_hand: 1, death });
    }
}
