//! The local back: worker processes of this machine, each with one lane in each direction.
//!
//! # Protocol
//!
//! No lock crosses processes. For each worker there is a segment with two lanes: tasks to it, results from it. All
//! results lanes ring one bell, the pool's. See [`wire`] for the messages, and [`worker`] for what a worker promises.
//!
//! # How much a worker is given
//!
//! About [`AHEAD`] of work behind what it is running, so that it does not idle while the parent reacts, and at most
//! [`TASKS_AHEAD`] tasks. How long a task takes is learnt from the worker, per function; until it is known, and for
//! tasks that may be longer than [`LONG`], a worker gets one at a time. What was queued behind an item that turns out
//! longer than ever before stays there until that is done.
//!
//! # When a worker dies
//!
//! Its pidfd says so; a watch on it rings the pool's bell, or polls if nobody waits. What it has committed is taken in
//! first. Of the rest, the first item of a message up to `started` was in hand; everything behind was never started. A
//! replacement is started at once, unless this process has been interrupted and is about to end.
//!
//! A worker that tells nonsense, or whose lanes are damaged, is killed, and nothing it tells counts from then on. It may
//! have run any item of the messages up to `started`, so all of those without a result were in hand: none is run twice
//! unless its attempts allow it.
//!
//! # When workers fail
//!
//! The rules, which [`Pool`](crate::Pool) tells to users:
//!
//! 1. An initialiser fails by panicking, or by ending its worker: a worker says before it calls it, and after it. It is
//!    the same in all workers, so failures are counted for the pool. [`MAX_FAILED_INITS`] of them break the pool, also if
//!    other workers are healthy: those were started in another world, before a licence ran out, and if they were to
//!    hide the failures the pool would start workers for ever. What ends the count is a replacement whose initialiser
//!    succeeds, for that one was started in today's world. A first worker that becomes ready late does not.
//! 2. A start fails if the worker cannot be started, ends before it is ready (and not in its initialiser), or ends with
//!    work given to it of which it never began any, without a result ever. [`MAX_FAILED_STARTS`] of them without a
//!    result from any worker in between break the pool if no worker is ready. If one is, its work goes on, and starts
//!    are tried every [`RETRY_SLOWLY`].
//! 3. A worker that ends while a large function is on its way into it: [`MAX_FUNCTION_DEATHS`] in a row, and the function
//!    is refused. So it costs its own callers, not the pool.
//! 4. After any of these, and after the end of a worker that was idle and had never done anything, the next start is put
//!    off by [`RETRY_START`]: nothing spins. A timer sees to it if nobody waits.
//! 5. Workers that were killed by request, in damage, or with an item in hand count for nothing: each has cost somebody
//!    an attempt, or was meant.

mod builder;
mod slot;
mod wire;
mod worker;

pub use builder::Builder;

use crate::{
    Death, Error, TaskError,
    back::{Attendant, Back, Capabilities, Envelope, Event, Events, FunctionId, Submit, Waiter},
};
use procession_channel::Bell;
use procession_parcel::{Erased, Parcel};
use procession_process::{
    StartMethod,
    watch::{self, WatchId},
};
use procession_sys::{Deadline, Spin};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use slot::{Alarm, Failures, Recipe, Slot, Verdict};
use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use wire::Times;

/// How much work a worker has behind what it is running, in nanoseconds.
const AHEAD: u64 = 50_000;
/// How many tasks a worker has at most.
const TASKS_AHEAD: usize = 256;
/// Nothing is queued behind or before a task that takes longer than this, in nanoseconds.
const LONG: u64 = 250_000;
/// How often deaths are looked for where no watch tells of them.
const LOOK_FOR_DEATHS: Duration = Duration::from_millis(20);
/// So many starts may fail, so many initialisers, and so many workers that take in the same function.
const MAX_FAILED_STARTS: u32 = 32;
const MAX_FAILED_INITS: u32 = 3;
const MAX_FUNCTION_DEATHS: u32 = 3;
/// How long the next start is put off after a failure, and after too many.
const RETRY_START: Duration = Duration::from_millis(50);
const RETRY_SLOWLY: Duration = Duration::from_secs(1);
/// Longer than this, in nanoseconds, is as long as this for a task and for an item: a worker may tell anything.
const LONGEST: u64 = 1 << 40;
/// How long workers have between SIGTERM and SIGKILL, and how long the kernel has after that.
const GRACE: Duration = Duration::from_millis(200);
const LAST_WAIT: Duration = Duration::from_secs(5);

/// The local back.
#[derive(Debug)]
pub(crate) struct Local {
    recipe: Recipe,
    /// `None` where a worker could not be replaced yet.
    slots: Vec<Option<Slot>>,
    alarm: Arc<Alarm>,
    functions: HashMap<FunctionId, Function>,
    /// The number of the next worker's name.
    next_number: u64,
    next_look: Deadline,
    next_start: Deadline,
    /// What tells that `next_start` has come.
    timer: Option<WatchId>,
    failures: Failures,
    broken: bool,
    closed: bool,
}

#[derive(Debug)]
struct Function {
    parcel: Arc<Parcel>,
    /// How long an item takes, in nanoseconds, once that is known.
    item: Option<u64>,
    /// How many workers in a row have died of taking it in, and why it is refused.
    deaths: u32,
    refused: Option<TaskError>,
}

impl Local {
    fn start(recipe: Recipe, workers: usize) -> Result<Local, Error> {
        let bell = Bell::new().map_err(|error| Error::new("make a pool's bell", error))?;
        let now = Deadline::now();
        let mut local = Local {
            recipe,
            slots: Vec::new(),
            alarm: Arc::new(Alarm { rung: AtomicBool::new(false), bell, attendant: OnceLock::new() }),
            functions: HashMap::new(),
            next_number: 1,
            next_look: now,
            next_start: now,
            timer: None,
            failures: Failures::default(),
            broken: false,
            closed: false,
        };
        for _ in 0..workers {
            // If one cannot be started, those that were end with `local`.
            let slot = local.start_unwatched()?;
            local.slots.push(Some(slot));
        }
        // Only now, since the watch is a thread, and a process with threads is not forked. Later workers of a pool that
        // was to fork come from the fork server for the same reason.
        for slot in local.slots.iter_mut().flatten() {
            slot.watch(&local.alarm);
        }
        if local.recipe.start_method.unwrap_or_else(StartMethod::default_method) == StartMethod::Fork {
            local.recipe.start_method = Some(StartMethod::ForkServer);
        }
        Ok(local)
    }

    fn start_worker(&mut self) -> Result<Slot, Error> {
        let mut slot = self.start_unwatched()?;
        slot.replacement = true;
        slot.watch(&self.alarm);
        Ok(slot)
    }

    fn start_unwatched(&mut self) -> Result<Slot, Error> {
        let slot = Slot::start(&self.recipe, self.next_number, &self.alarm)?;
        self.next_number += 1;
        Ok(slot)
    }

    /// The worker that should get a task of `time` nanoseconds, or of unknown length.
    fn choose(&self, time: Option<u64>) -> Option<usize> {
        let open = self.slots.iter().enumerate().filter_map(|(index, slot)| Some((index, slot.as_ref()?)));
        let takes = |slot: &Slot| {
            let (running, behind) = slot.times();
            let short = running < LONG && time.is_some_and(|time| time < LONG);
            slot.takes_more()
                && (slot.tasks() == 0 || (short && behind < AHEAD && slot.tasks() < TASKS_AHEAD))
        };
        let free = open.filter(|(_, slot)| takes(slot));
        free.min_by_key(|(_, slot)| (slot.load, slot.tasks())).map(|(index, _)| index)
    }

    /// Takes in the deaths of workers, and replaces them.
    fn look_after_workers(&mut self, events: &mut Events) {
        // In an orderly end the workers are stopped, which says nothing about them, and new ones would only be in the
        // way. Who waits for results that nobody is left to compute waits for the end of the process.
        let ending = self.closed || self.broken || procession_process::interrupted();
        for index in 0..self.slots.len() {
            let ended = self.slots[index].as_ref().and_then(|slot| slot.process.exit_status());
            if let Some(exit) = ended
                && let Some(mut slot) = self.slots[index].take()
            {
                while slot.collect(events, |_| {}).is_some_and(|count| count > 0) {}
                self.failures.learn(&mut slot);
                let (verdict, function) = (slot.verdict(exit), slot.died_of_function());
                let death = slot.end(exit, events);
                if !ending {
                    self.judge(verdict, &death, events);
                    self.blame(function, &death);
                }
            }
        }
        while let Some(index) = self.slots.iter().position(Option::is_none) {
            if ending || self.broken || !self.next_start.passed() {
                return;
            }
            match self.start_worker() {
                Ok(slot) => self.slots[index] = Some(slot),
                Err(error) => {
                    self.failures.starts += 1;
                    self.put_off_starts();
                    self.judge_starts(&error.to_string(), events);
                }
            }
        }
    }

    /// What a death means for the starts to come.
    fn judge(&mut self, verdict: Verdict, death: &Death, events: &mut Events) {
        match verdict {
            Verdict::Good => return,
            Verdict::Idle => {}
            Verdict::Start => self.failures.starts += 1,
            Verdict::Initializer(why) => {
                self.failures.inits += 1;
                if self.failures.inits >= MAX_FAILED_INITS {
                    let count = self.failures.inits;
                    self.give_up(&format!("its initialiser failed {count} times: {why}"), events);
                }
            }
        }
        self.put_off_starts();
        self.judge_starts(&format!("it ended before it had done anything: {death}"), events);
    }

    fn judge_starts(&mut self, last: &str, events: &mut Events) {
        let count = self.failures.starts;
        if count >= MAX_FAILED_STARTS && !self.slots.iter().flatten().any(|slot| slot.ready) {
            self.give_up(&format!("{count} starts failed in a row, the last one: {last}"), events);
        }
    }

    /// Counts a death for the function that was the cause of it, if one was.
    fn blame(&mut self, function: Option<FunctionId>, death: &Death) {
        let Some(function) = function.and_then(|id| self.functions.get_mut(&id)) else { return };
        function.deaths += 1;
        if function.deaths >= MAX_FUNCTION_DEATHS {
            let bytes = function.parcel.bytes().len();
            function.refused = Some(TaskError::BadFunction(format!(
                "{MAX_FUNCTION_DEATHS} workers ended while its {bytes} bytes were on their way into them, the last: {death}"
            )));
        }
    }

    /// Lets some time pass before the next start, and sees to it that it comes though nobody may be waiting.
    fn put_off_starts(&mut self) {
        let delay = if self.failures.starts < MAX_FAILED_STARTS { RETRY_START } else { RETRY_SLOWLY };
        self.next_start = Deadline::after(delay);
        if let Some(timer) = self.timer.take() {
            watch::unwatch(timer);
        }
        // Without a timer, it comes with the next call.
        self.timer = timer(delay).and_then(|timer| watch::watch(timer.as_fd(), self.alarm.callback())).ok();
    }

    fn give_up(&mut self, why: &str, events: &mut Events) {
        if !self.broken {
            self.broken = true;
            events.push(Event::Broken { error: TaskError::Broken(why.into()) });
        }
    }
}

impl Back for Local {
    fn capabilities(&self) -> Capabilities {
        Capabilities { kills: true, ..Capabilities::default() }
    }

    fn workers(&self) -> usize {
        self.slots.len()
    }

    fn define(&mut self, id: FunctionId, _function: &Arc<Erased>, parcel: &Arc<Parcel>) {
        let function = Function { parcel: parcel.clone(), item: None, deaths: 0, refused: None };
        self.functions.insert(id, function);
    }

    fn undefine(&mut self, id: FunctionId) {
        self.functions.remove(&id);
        for slot in self.slots.iter_mut().flatten() {
            slot.undefine(id);
        }
    }

    fn submit(&mut self, task: &Envelope<'_>) -> Submit {
        let Some(function) = self.functions.get(&task.function) else {
            return Submit::Refused(TaskError::BadFunction("it was not defined".to_owned()));
        };
        if let Some(error) = &function.refused {
            return Submit::Refused(error.clone());
        }
        let Some(records) = task.arguments.inline() else {
            return Submit::Refused(TaskError::BadArguments("this pool passes no descriptors".to_owned()));
        };
        let time = function.item.map(|item| item.saturating_mul(u64::from(task.items)).min(LONGEST));
        let Some(index) = self.choose(time) else { return Submit::Full };
        if let Some(slot) = &mut self.slots[index] {
            // What is not known may be long.
            slot.give(task, records, &function.parcel, time.unwrap_or(LONG));
        }
        Submit::Accepted
    }

    fn poll(&mut self, events: &mut Events) {
        let Local { slots, functions, failures, .. } = self;
        for slot in slots.iter_mut().flatten() {
            slot.flush();
            slot.ring();
            if !slot.has_news() {
                continue;
            }
            // One that tells nonsense is killed, and its death found like any other.
            slot.collect(events, |times| {
                if let Some(function) = functions.get_mut(&times.function) {
                    function.deaths = 0;
                    function.item = Some(estimate(function.item, times));
                }
            });
            failures.learn(slot);
        }
        let rung = self.alarm.rung.load(Ordering::Relaxed) && self.alarm.rung.swap(false, Ordering::Acquire);
        if rung || self.next_look.passed() {
            self.next_look = Deadline::after(LOOK_FOR_DEATHS);
            self.look_after_workers(events);
        }
    }

    fn item_time(&self, id: FunctionId) -> Option<Duration> {
        self.functions.get(&id)?.item.map(Duration::from_nanos)
    }

    fn waiter(&self) -> Arc<dyn Waiter> {
        Arc::new(BellWaiter { bell: self.alarm.bell.clone(), spin: Mutex::new(Some(Spin::adaptive())) })
    }

    fn set_attendant(&mut self, attendant: Attendant) {
        // There is one pool for this back, so this is the first.
        let _ = self.alarm.attendant.set(attendant);
    }

    fn pids(&self) -> Vec<u32> {
        self.slots.iter().flatten().map(|slot| slot.process.pid()).collect()
    }

    fn kill_worker(&mut self, index: usize) -> bool {
        let Some(slot) = self.slots.get_mut(index).and_then(Option::as_mut) else { return false };
        let kills = slot.process.is_alive() && slot.process.kill().is_ok();
        slot.killed |= kills;
        kills
    }

    fn close(&mut self) {
        self.closed = true;
        for slot in self.slots.iter_mut().flatten() {
            slot.close();
        }
    }

    fn terminate(&mut self) {
        self.closed = true;
        let slots = std::mem::take(&mut self.slots);
        for slot in slots.iter().flatten() {
            let _ = slot.process.terminate();
        }
        let grace = Deadline::after(GRACE);
        for slot in slots.iter().flatten() {
            if !matches!(slot.process.wait_timeout(grace.remaining()), Ok(Some(_))) {
                let _ = slot.process.kill();
            }
        }
        let last = Deadline::after(LAST_WAIT);
        for slot in slots.iter().flatten() {
            let _ = slot.process.wait_timeout(last.remaining());
        }
    }

    fn has_ended(&mut self) -> bool {
        let running = |slot: &Slot| slot.process.exit_status().is_none();
        !self.slots.iter().flatten().any(running)
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        if let Some(timer) = self.timer.take() {
            watch::unwatch(timer);
        }
        self.terminate();
    }
}

/// What an item takes, by what was thought before and what a worker tells, which may be anything.
///
/// It goes up at once and down slowly: a function that was long of late may be so again, and what is queued behind it
/// would wait.
fn estimate(old: Option<u64>, times: Times) -> u64 {
    let new = (times.nanos / u64::from(times.items.max(1))).clamp(1, LONGEST);
    old.map_or(new, |old| new.max((3 * old + new) / 4))
}

/// A descriptor that is readable once `delay` has passed.
fn timer(delay: Duration) -> io::Result<OwnedFd> {
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
    let once = Itimerspec {
        it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
        it_value: Timespec::try_from(delay).map_err(|_| io::ErrorKind::InvalidInput)?,
    };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &once)?;
    Ok(timer)
}

/// Sleeps on the pool's bell.
#[derive(Debug)]
struct BellWaiter {
    bell: Bell,
    /// Taken out while somebody waits with it.
    spin: Mutex<Option<Spin>>,
}

impl Waiter for BellWaiter {
    fn wait_while(&self, deadline: Option<Deadline>, pending: &mut dyn FnMut() -> bool) {
        // Not held while it sleeps, since another thread may come to take over.
        let lock = || self.spin.lock().unwrap_or_else(PoisonError::into_inner);
        let mut spin = lock().take().unwrap_or_else(Spin::adaptive);
        self.bell.wait_while(deadline, &mut spin, pending);
        *lock() = Some(spin);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_times_a_worker_tells_they_can_be_reckoned_with() {
        let told = |items, nanos| Times { function: FunctionId(0), items, nanos };
        let mut item = None;
        for times in [told(0, u64::MAX), told(1, u64::MAX), told(u32::MAX, 0), told(1, u64::MAX), told(0, 0)]
        {
            item = Some(estimate(item, times));
            assert!(item.is_some_and(|item| (1..=LONGEST).contains(&item)));
        }
        assert_eq!(estimate(Some(100), told(10, 5000)), 500);
        assert_eq!(estimate(Some(500), told(10, 1000)), 400);
    }
}
