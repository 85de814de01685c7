//! Workers that end: what that means, who comes in their place, and when the pool ends one itself.

use super::{
    Local, MAX_FAILED_INITS, MAX_FAILED_STARTS, MAX_FUNCTION_DEATHS, RETRY_SLOWLY, RETRY_START,
    output::Listener, slot::Verdict,
};
use crate::{
    Death, TaskError,
    back::{Event, Events, FunctionId, WorkerInfo, WorkerState},
    seeing::log,
};
use procession_sys::Deadline;
use std::{collections::VecDeque, fmt, time::Duration};

/// When workers are ended, or come back. See [`Builder`](super::Builder).
#[derive(Default)]
pub(super) struct Policy {
    pub(super) recycle_tasks: Option<u64>,
    pub(super) recycle_items: Option<u64>,
    pub(super) recycle_age: Option<Duration>,
    pub(super) idle: Option<Duration>,
    pub(super) restart_limit: Option<(u32, Duration)>,
    pub(super) listener: Option<Listener>,
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Policy")
    }
}

/// What is known of an index, whichever worker is there.
#[derive(Debug)]
pub(super) struct Place {
    /// How many workers were started for it.
    pub(super) starts: u64,
    /// Whether its worker was retired for want of work, and is not to be replaced before there is more.
    pub(super) retired: bool,
    /// When its worker was last found to have told something, or to have had no work when it was given some.
    pub(super) heard: Deadline,
}

impl Default for Place {
    fn default() -> Place {
        Place { starts: 0, retired: false, heard: Deadline::from_nanos(0) }
    }
}

/// When workers died of late, for the restart limit.
pub(super) type Deaths = VecDeque<Deadline>;

impl Local {
    /// Whether workers that end are not replaced.
    ///
    /// In an orderly end the workers are stopped, which says nothing about them, and new ones would only be in the way.
    /// Who waits for results that nobody is left to compute waits for the end of the process.
    pub(super) fn is_ending(&self) -> bool {
        self.closed || self.broken || procession_process::interrupted()
    }

    /// The first index that should have a worker and has none.
    fn vacant(&self) -> Option<usize> {
        let vacant = |index: &usize| self.slots[*index].is_none() && !self.places[*index].retired;
        (0..self.target.min(self.slots.len())).find(vacant)
    }

    /// Takes in the deaths of workers, and replaces them. Each process that is asked for its end costs system calls, so it is
    /// `all` only if there is reason to; those that no watch tells of are always asked.
    pub(super) fn look_after_workers(&mut self, all: bool, events: &mut Events) {
        let ending = self.is_ending();
        for index in 0..self.slots.len() {
            let asked = self.slots[index].as_ref().filter(|slot| all || !slot.is_watched());
            let ended = asked.and_then(|slot| slot.process.exit_status());
            if let Some(exit) = ended
                && let Some(mut slot) = self.slots[index].take()
            {
                while slot.collect(events, |_| {}).is_some_and(|count| count > 0) {}
                slot.collect_growing(events);
                self.failures.learn(&mut slot);
                let (verdict, function) = (slot.verdict(exit), slot.died_of_function());
                self.places[index].retired = slot.is_retired();
                let meant = slot.was_meant_to_end() || ending;
                self.past.add(&slot);
                let death = slot.end(exit, events);
                log::ended(&death.worker, meant, || death.to_string());
                if !ending {
                    self.judge(verdict, &death, events);
                    self.blame(function, &death);
                    if !meant {
                        self.count(&death, events);
                    }
                }
            }
        }
        while self.slots.len() > self.target && matches!(self.slots.last(), Some(None)) {
            self.slots.pop();
            self.places.pop();
            self.crowd.truncate(self.slots.len());
        }
        while let Some(index) = self.vacant() {
            if ending || self.broken || !self.next_start.passed() {
                return;
            }
            if let Err(error) = self.replace(index) {
                self.failures.starts += 1;
                self.put_off_starts();
                self.judge_starts(&error.to_string(), events);
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

    /// Counts a death for the user's limit.
    fn count(&mut self, death: &Death, events: &mut Events) {
        let Some((limit, window)) = self.policy.restart_limit else { return };
        let now = Deadline::now();
        self.deaths.push_back(now);
        while self.deaths.front().is_some_and(|first| first.plus(window) < now) {
            self.deaths.pop_front();
        }
        if self.deaths.len() > limit as usize {
            let count = self.deaths.len();
            self.give_up(&format!("{count} workers died within {window:?}, the last one: {death}"), events);
        }
    }

    /// Lets some time pass before the next start, and sees to it that it comes though nobody may be waiting.
    fn put_off_starts(&mut self) {
        let delay = if self.failures.starts < MAX_FAILED_STARTS { RETRY_START } else { RETRY_SLOWLY };
        self.next_start = Deadline::after(delay);
        self.timer.arm(self.next_start, &self.alarm);
    }

    fn give_up(&mut self, why: &str, events: &mut Events) {
        if !self.broken {
            self.broken = true;
            events.push(Event::Broken { error: TaskError::Broken(why.into()) });
        }
    }

    /// Looks at the clock on behalf of the workers, and sees to it that it is looked at again when that is due.
    pub(super) fn look_at_clock(&mut self) {
        let now = Deadline::now();
        let ending = self.is_ending();
        let waits = !ending && self.vacant().is_some();
        let mut next = waits.then_some(self.next_start);
        for slot in self.slots.iter_mut().flatten() {
            let mut dues = [slot.look_at_hand(now), None, None];
            if !ending && !slot.is_leaving() {
                dues[1] = self.policy.recycle_age.and_then(|age| slot.look_at_age(age, now));
                dues[2] = self.policy.idle.and_then(|idle| slot.look_at_idleness(idle, now));
            }
            next = next.into_iter().chain(dues.into_iter().flatten()).min();
        }
        if let Some(next) = next {
            self.timer.arm(next, &self.alarm);
        }
    }

    /// Brings a worker back that was retired for want of work: where it is now.
    pub(super) fn bring_back(&mut self) -> Option<usize> {
        if self.is_ending() || !self.next_start.passed() {
            return None;
        }
        let retired = |index: &usize| self.slots[*index].is_none() && self.places[*index].retired;
        let index = (0..self.target.min(self.slots.len())).find(retired)?;
        self.places[index].retired = false;
        // If it cannot be started, it is tried as any other that is missing.
        self.replace(index).is_ok().then_some(index)
    }

    /// Keeps this many workers from now on.
    pub(super) fn resize_to(&mut self, workers: usize) {
        self.target = workers.max(1);
        while self.slots.len() < self.target {
            self.slots.push(None);
            self.places.push(Place::default());
        }
        for slot in self.slots[self.target..].iter_mut().flatten() {
            slot.leave(true);
        }
        // The next poll starts those that are missing.
        self.alarm.rung.store(true, std::sync::atomic::Ordering::Release);
    }

    pub(super) fn infos(&self) -> Vec<WorkerInfo> {
        let now = Deadline::now().as_nanos();
        let info = |(index, place): (usize, &Place)| {
            let restarts = place.starts.saturating_sub(1);
            let Some(slot) = self.slots[index].as_ref() else {
                let mut info = WorkerInfo::new(index, String::new());
                info.state = WorkerState::Absent;
                info.restarts = restarts;
                return info;
            };
            let mut info = WorkerInfo::new(index, slot.process.name());
            info.pid = Some(slot.process.pid());
            info.state = slot.state();
            info.restarts = restarts;
            (info.tasks, info.items) = (slot.tally.tasks_given - slot.tasks() as u64, slot.tally.items);
            (info.queued, info.in_hand) = (slot.tasks(), slot.tasks_in_hand());
            info.age = Duration::from_nanos(now.saturating_sub(slot.tally.born.as_nanos()));
            let beat = slot.beat(Some(now));
            info.busy = Duration::from_nanos(beat.busy).min(info.age);
            info.start_up = slot.start_up(&beat);
            info.bytes_in = slot.tally.bytes_in;
            info.bytes_out = slot.tally.bytes_out;
            info
        };
        self.places.iter().enumerate().map(info).collect()
    }
}
