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
//! longer than ever before stays there until that is done. Which worker gets a task is [`crowd`]'s matter.
//!
//! # When a worker dies
//!
//! Its pidfd says so; a watch on it rings the pool's bell, or polls if nobody waits. Processes are asked for their end when
//! it has rung, and for [`LOOK_FOR_ALL`] after that, since where the status of a process is relayed it may come later than
//! its pidfd says; those without a watch are asked every [`LOOK_AROUND`]; and all of them every [`LOOK_FOR_ALL`], lest
//! anything depend on a watch. What it has committed is taken in first. Of the rest, the first item of a message up to `started` was in hand; everything behind was never started. A
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

mod aborts;
mod builder;
mod cargo;
mod control;
mod crowd;
mod fragments;
mod hand;
mod memory;
mod output;
mod past;
mod pulse;
#[cfg(feature = "sandbox")]
mod sandbox;
mod slot;
mod supervision;
mod timer;
#[cfg(all(test, feature = "auto-init"))]
mod truths;
mod wire;
mod worker;

pub use builder::Builder;
pub use output::{OutputLine, OutputStream};
#[cfg(feature = "sandbox")]
pub use sandbox::Sandbox;

use crate::{
    Error, TaskError,
    back::{
        Attendant, Back, Cancel, Capabilities, Envelope, Events, FunctionId, History, Key, Submit, Waiter,
        WorkerInfo,
    },
    seeing::log,
};
use crowd::Crowd;
use output::Reader;
use past::Past;
use procession_channel::Bell;
use procession_parcel::{Erased, Parcel};
use procession_process::StartMethod;
use procession_shm::HeapRing;
use procession_sys::{Deadline, Spin};
use rustc_hash::FxHashMap;
use slot::{Alarm, Failures, Recipe, Slot};
use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use supervision::{Deaths, Place, Policy};
use timer::Timer;
use wire::Times;

/// How much work a worker has behind what it is running, in nanoseconds.
const AHEAD: u64 = 50_000;
/// How many tasks a worker has at most.
const TASKS_AHEAD: usize = 256;
/// Nothing is queued behind or before a task that takes longer than this, in nanoseconds.
const LONG: u64 = 250_000;
/// How often all workers are looked at, and deaths looked for where no watch tells of them.
const LOOK_AROUND: Duration = Duration::from_millis(20);
/// How often deaths are looked for where a watch tells of them, and how long every [`LOOK_AROUND`] after one has told.
const LOOK_FOR_ALL: Duration = Duration::from_secs(1);
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
    policy: Policy,
    /// `None` where a worker could not be replaced yet, or need not be.
    slots: Vec<Option<Slot>>,
    /// As many as `slots`.
    places: Vec<Place>,
    /// How many workers there should be. While there are more, the last ones are about to end.
    target: usize,
    deaths: Deaths,
    crowd: Crowd,
    /// What reads the output of workers, if somebody wants it.
    reader: Option<Reader>,
    alarm: Arc<Alarm>,
    functions: FxHashMap<FunctionId, Function>,
    past: Past,
    /// The number of the next worker's name.
    next_number: u64,
    /// When all workers are looked at, and when all are asked for their end; until when that is at each look.
    next_look: Deadline,
    next_asking: Deadline,
    asking_until: Deadline,
    next_start: Deadline,
    /// What tells that the time for something has come.
    timer: Timer,
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
    fn start(recipe: Recipe, policy: Policy, workers: usize) -> Result<Local, Error> {
        let bell = Bell::new().map_err(|error| Error::new("make a pool's bell", error))?;
        let failed = |error| Error::new("read the output of a pool's workers", error);
        let reader = policy.listener.clone().map(Reader::new).transpose().map_err(failed)?;
        let now = Deadline::now();
        memory::prepare();
        let mut local = Local {
            recipe,
            policy,
            slots: Vec::new(),
            places: Vec::new(),
            target: workers,
            deaths: Deaths::new(),
            crowd: Crowd::new(now),
            reader,
            alarm: Arc::new(Alarm { rung: AtomicBool::new(false), bell, attendant: OnceLock::new() }),
            functions: FxHashMap::default(),
            past: Past::default(),
            next_number: 1,
            next_look: now,
            next_asking: now,
            asking_until: now,
            next_start: now,
            timer: Timer::default(),
            failures: Failures::default(),
            broken: false,
            closed: false,
        };
        for index in 0..workers {
            // If one cannot be started, those that were end with `local`.
            let slot = local.start_unwatched(index)?;
            local.slots.push(Some(slot));
            local.places.push(Place { starts: 1, ..Place::default() });
        }
        // Only now, since the watch is a thread, and a process with threads is not forked. Later workers of a pool that
        // was to fork come from the fork server for the same reason.
        for (index, slot) in local.slots.iter_mut().flatten().enumerate() {
            slot.watch(&local.alarm);
            log::started(slot.process.name(), Some(slot.process.pid()), index, false);
        }
        if let Some(reader) = &mut local.reader {
            reader.start().map_err(failed)?;
        }
        if local.recipe.start_method.unwrap_or_else(StartMethod::default_method) == StartMethod::Fork {
            local.recipe.start_method = Some(StartMethod::ForkServer);
        }
        // The first look at ages and idleness.
        local.look_at_clock();
        Ok(local)
    }

    /// Sends on what this worker is to get, and takes in what it tells.
    fn look_at(&mut self, index: usize, around: bool, events: &mut Events) {
        let Local { slots, places, functions, failures, crowd, .. } = self;
        let Some(slot) = slots.get_mut(index).and_then(Option::as_mut) else { return };
        slot.flush();
        slot.judge_suspect(events);
        slot.tell_started(events);
        if !slot.has_news() {
            if around {
                slot.collect_growing(events);
                failures.learn(slot);
            }
            return;
        }
        places[index].heard = crowd.now;
        // One that tells nonsense is killed, and its death found like any other.
        slot.collect(events, |times| {
            if let Some(function) = functions.get_mut(&times.function) {
                function.deaths = 0;
                function.item = Some(estimate(function.item, times));
            }
        });
        failures.learn(slot);
    }

    /// Starts a worker where there is none.
    fn replace(&mut self, index: usize) -> Result<(), Error> {
        let mut slot = self.start_unwatched(index)?;
        slot.replacement = true;
        slot.watch(&self.alarm);
        log::started(slot.process.name(), Some(slot.process.pid()), index, self.places[index].starts > 0);
        self.slots[index] = Some(slot);
        self.places[index].starts += 1;
        if self.policy.recycle_age.is_some() || self.policy.idle.is_some() {
            self.look_at_clock();
        }
        Ok(())
    }

    fn start_unwatched(&mut self, index: usize) -> Result<Slot, Error> {
        let slot = Slot::start(&self.recipe, index, self.next_number, &self.alarm, self.reader.as_ref())?;
        self.next_number += 1;
        Ok(slot)
    }
}

impl Back for Local {
    fn capabilities(&self) -> Capabilities {
        Capabilities { kills: true, resizes: true, started: true, plain: true, ..Capabilities::default() }
    }

    fn workers(&self) -> usize {
        self.target
    }

    fn ring(&self) -> Option<HeapRing> {
        self.recipe.ring.as_ref().map(HeapRing::beside)
    }

    fn define(&mut self, id: FunctionId, function: &Arc<Erased>, parcel: &Arc<Parcel>) {
        self.past.names.add(id, function);
        if let Some(timeline) = &self.recipe.timeline {
            timeline.define(id, self.past.names.get(id.0).text());
        }
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
        let Some(index) = self.choose(time) else {
            // One that was retired and comes back has nothing to do.
            return if self.bring_back().is_some() { self.submit(task) } else { Submit::Full };
        };
        if let Some(slot) = &mut self.slots[index] {
            self.crowd.note_work(index, slot, &mut self.places[index]);
            // What is not known may be long.
            slot.give(task, records, &function.parcel, time.unwrap_or(LONG));
            if slot.has_had_enough(&self.policy) {
                slot.leave(false);
            }
        }
        if let Some(limit) = task.limit {
            // It may begin at once, and not earlier.
            self.timer.arm_within(limit, &self.alarm);
        }
        Submit::Accepted
    }

    fn poll(&mut self, events: &mut Events) {
        self.crowd.now = Deadline::now();
        // What rings after this is seen by the next poll.
        let rung = self.alarm.rung.load(Ordering::Relaxed) && self.alarm.rung.swap(false, Ordering::Acquire);
        let look = rung || self.next_look <= self.crowd.now;
        self.ring();
        for nth in 0..self.looked_at(look) {
            let index = self.nth_looked_at(nth, look);
            self.look_at(index, look, events);
        }
        if look {
            self.next_look = self.crowd.now.plus(LOOK_AROUND);
            if rung {
                self.asking_until = self.crowd.now.plus(LOOK_FOR_ALL);
            }
            let all = rung || self.crowd.now < self.asking_until || self.next_asking <= self.crowd.now;
            if all {
                self.next_asking = self.crowd.now.plus(LOOK_FOR_ALL);
            }
            self.look_after_workers(all, events);
            self.look_at_clock();
            self.forget_idle();
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
        let kills = slot.process.is_alive() && slot.process.signal_group(libc::SIGKILL).is_ok();
        slot.killed |= kills;
        kills
    }

    fn restart_worker(&mut self, index: usize) -> bool {
        let Some(slot) = self.slots.get_mut(index).and_then(Option::as_mut) else { return false };
        slot.leave(true);
        true
    }

    fn resize(&mut self, workers: usize) {
        self.resize_to(workers);
    }

    fn worker_infos(&self) -> Vec<WorkerInfo> {
        self.infos()
    }

    fn history(&self) -> History {
        self.past_and_present()
    }

    fn cancel(&mut self, key: Key, how: Cancel) {
        if self.slots.iter_mut().flatten().any(|slot| slot.cancel(key, how))
            && matches!(how, Cancel::Kill { .. })
        {
            self.look_at_clock();
        }
    }

    fn close(&mut self) {
        self.closed = true;
        for slot in self.slots.iter_mut().flatten() {
            slot.close();
        }
    }

    fn terminate(&mut self) {
        self.closed = true;
        self.places.clear();
        self.crowd.truncate(0);
        let mut slots = std::mem::take(&mut self.slots);
        slots.iter().flatten().for_each(|slot| self.past.add(slot));
        for slot in slots.iter().flatten() {
            let _ = slot.process.signal_group(libc::SIGTERM);
        }
        let grace = Deadline::after(GRACE);
        for slot in slots.iter().flatten() {
            if !matches!(slot.process.wait_timeout(grace.remaining()), Ok(Some(_))) {
                let _ = slot.process.signal_group(libc::SIGKILL);
            }
        }
        let last = Deadline::after(LAST_WAIT);
        for slot in slots.iter().flatten() {
            let _ = slot.process.wait_timeout(last.remaining());
        }
        if let Some(timeline) = &self.recipe.timeline {
            slots.iter_mut().flatten().for_each(Slot::show_termination);
            timeline.finish();
        }
        for slot in slots.iter().flatten() {
            log::ended(slot.process.name(), true, || "the pool has ended".to_owned());
        }
        slots.iter_mut().flatten().for_each(Slot::discard);
    }

    fn has_ended(&mut self) -> bool {
        let running = |slot: &Slot| slot.process.exit_status().is_none();
        !self.slots.iter().flatten().any(running)
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.timer.disarm();
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
