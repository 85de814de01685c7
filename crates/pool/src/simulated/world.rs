//! What happens in a simulation, and when.

use super::{Faults, ITEM, Item, Job, RESTART, SLOWER, Simulated, Worker, call, nanos};
use crate::{
    Cause, Death, TaskError,
    back::{Cancel, Event, Events, Key},
};
use procession_process::ExitStatus;
use std::{mem, sync::Arc};

#[derive(Debug)]
pub(super) enum Happening {
    Arrival {
        worker: usize,
        job: Job,
    },
    /// The item that this worker runs, in this turn of its: its function is called, it has ended, it is out of time.
    Call {
        worker: usize,
        turn: u64,
    },
    Commit {
        worker: usize,
        turn: u64,
    },
    Overrun {
        worker: usize,
        turn: u64,
    },
    /// It was cancelled for good, and its grace is over.
    Kill {
        worker: usize,
        turn: u64,
    },
    Restart {
        worker: usize,
    },
    Cancel {
        key: Key,
        how: Cancel,
    },
    Report(Report),
    Query(Key),
}

/// An event on its way; what it says is looked up in the ledger when it arrives.
#[derive(Clone, Copy, Debug)]
pub(super) enum Report {
    Started(Key, u32),
    Items { key: Key, from: u32, to: u32 },
    Ended(Key),
    Unknown(Key),
}

/// The name of a worker that died, or lives, at a place for the `life`-th time.
pub(super) fn name(worker: usize, life: u32) -> String {
    format!("Simulated-{}-{}", worker + 1, life + 1)
}

impl Simulated {
    pub(super) fn schedule(&mut self, after: u64, happening: Happening) {
        self.happenings += 1;
        self.agenda.insert((self.now.saturating_add(after), self.happenings), happening);
    }

    pub(super) fn delay(&mut self) -> u64 {
        self.random.below(nanos(self.faults.delay).saturating_add(1))
    }

    pub(super) fn chance(&mut self, share: f64) -> bool {
        self.random.chance(share)
    }

    fn report(&mut self, report: Report) {
        let Faults { duplicate, loss, .. } = self.faults;
        let copies = if self.chance(duplicate) { 2 } else { 1 };
        for _ in 0..copies {
            if !self.chance(loss) {
                let delay = self.delay();
                self.schedule(delay, Happening::Report(report));
            }
        }
    }

    pub(super) fn happen(&mut self, happening: Happening, events: &mut Events) {
        match happening {
            Happening::Arrival { worker, job } => self.arrive(worker, job),
            Happening::Call { worker, turn } => {
                if self.runs(worker, turn) {
                    self.call_item(worker);
                }
            }
            Happening::Commit { worker, turn } => {
                if self.runs(worker, turn) {
                    self.commit(worker);
                }
            }
            Happening::Overrun { worker, turn } => {
                if self.runs(worker, turn) {
                    let limit = self.workers[worker].tasks.front().and_then(|job| job.limit);
                    self.die(worker, Cause::TimeLimit(limit.unwrap_or_default()));
                }
            }
            Happening::Kill { worker, turn } => {
                if self.runs(worker, turn) {
                    self.die(worker, Cause::Cancelled);
                }
            }
            Happening::Restart { worker } => {
                // It may have been retired meanwhile, or have been started.
                let state = &mut self.workers[worker];
                if worker < self.kept && !state.alive {
                    (state.alive, state.leaving) = (true, false);
                    state.life += 1;
                    state.restarts += 1;
                }
            }
            Happening::Cancel { key, how } => self.cancel_task(key, how),
            Happening::Report(report) => self.deliver(report, events),
            Happening::Query(key) => self.answer(key),
        }
    }

    /// Whether the item that the worker ran in this turn still runs.
    fn runs(&self, worker: usize, turn: u64) -> bool {
        self.workers[worker].busy.is_some() && self.workers[worker].turn == turn
    }

    fn arrive(&mut self, worker: usize, mut job: Job) {
        let state = &mut self.workers[worker];
        if !state.alive || state.leaving {
            // It waits in the lane, and dies with the worker's successor not knowing of it.
            state.given -= 1;
            let death = self.death(worker, Cause::Itself);
            return self.end(&job, false, &death);
        }
        if self.ledger.get(&job.key).is_some_and(|record| record.cancelled) {
            state.given -= 1;
            return self.keep_from_starting(&mut job, 0);
        }
        state.tasks.push_back(job);
        self.go_on(worker);
    }

    /// The worker starts its next item, if there is one.
    fn go_on(&mut self, worker: usize) {
        let Faults { idle_death, slow, .. } = self.faults;
        let state = &self.workers[worker];
        if state.busy.is_some() || state.tasks.is_empty() || !state.alive {
            return;
        }
        if self.chance(idle_death) {
            return self.die(worker, Cause::Itself);
        }
        let slower = if self.chance(slow) { SLOWER } else { 1 };
        let time = (1 + self.random.below(ITEM)) * slower;
        let state = &mut self.workers[worker];
        state.busy = Some(Item { since: self.now, result: None, dies: false });
        state.turn += 1;
        let turn = state.turn;
        let Some(job) = state.tasks.front() else { return };
        let (key, item, limit) = (job.key, job.done, job.limit.map_or(u64::MAX, nanos));
        self.report(Report::Started(key, item));
        if time <= limit {
            self.schedule(time, Happening::Call { worker, turn });
        } else {
            self.schedule(limit, Happening::Overrun { worker, turn });
        }
    }

    fn call_item(&mut self, worker: usize) {
        let share = self.faults.death;
        let dies = self.chance(share);
        if dies && self.chance(0.5) {
            return self.die(worker, Cause::Itself);
        }
        let state = &mut self.workers[worker];
        let (Some(job), Some(item)) = (state.tasks.front(), &mut state.busy) else { return };
        let layout = job.layouts.items;
        let rest = &job.arguments[layout.offset_of(&job.arguments, job.done)..];
        let (result, more) = match layout.split(rest) {
            Some((input, _)) => call(&job.function, input, job.layouts, job.asked),
            None => (Err(TaskError::BadArguments("the task has fewer items than it says".to_owned())), 0),
        };
        (item.result, item.dies) = (Some(result), dies);
        let (turn, left) =
            (state.turn, job.limit.map_or(u64::MAX, nanos).saturating_sub(self.now - item.since));
        if more > left {
            self.schedule(left, Happening::Overrun { worker, turn });
        } else if more > 0 {
            self.schedule(more, Happening::Commit { worker, turn });
        } else {
            self.commit(worker);
        }
    }

    /// The item that runs has ended.
    fn commit(&mut self, worker: usize) {
        let state = &mut self.workers[worker];
        if state.busy.as_ref().is_some_and(|item| item.dies) {
            return self.die(worker, Cause::Itself);
        }
        let (Some(mut job), Some(item)) = (state.tasks.pop_front(), state.busy.take()) else { return };
        state.items += 1;
        state.busy_time += self.now - item.since;
        if let Some(Ok(output)) = &item.result {
            state.bytes_out += output.len() as u64;
        }
        if let Some(place) = self.ledger.get_mut(&job.key).and_then(|r| r.results.get_mut(job.done as usize))
        {
            *place = item.result;
        }
        job.done += 1;
        let complete = job.done == job.end;
        if complete || self.chance(0.5) {
            self.report(Report::Items { key: job.key, from: job.reported, to: job.done });
            job.reported = job.done;
        }
        let state = &mut self.workers[worker];
        if complete {
            state.given -= 1;
            state.jobs += 1;
            if state.leaving {
                return self.leave(worker);
            }
        } else {
            state.tasks.push_front(job);
        }
        self.go_on(worker);
    }

    /// The items from `first` on are cancelled.
    fn keep_from_starting(&mut self, job: &mut Job, first: u32) {
        let (key, end) = (job.key, job.end);
        job.end = first.min(end);
        let Some(record) = self.ledger.get_mut(&key) else { return };
        for place in &mut record.results[first as usize..end as usize] {
            *place = Some(Err(TaskError::Cancelled));
        }
        if first < end {
            self.report(Report::Items { key, from: first, to: end });
        }
    }

    fn cancel_task(&mut self, key: Key, how: Cancel) {
        if let Some(record) = self.ledger.get_mut(&key) {
            // It may not have arrived yet.
            record.cancelled = true;
        }
        let is_its = |job: &Job| job.key == key;
        let found = self
            .workers
            .iter()
            .enumerate()
            .find_map(|(w, state)| Some((w, state.tasks.iter().position(is_its)?)));
        let Some((worker, at)) = found else { return };
        let state = &mut self.workers[worker];
        let (runs, turn) = (at == 0 && state.busy.is_some(), state.turn);
        let Some(mut job) = state.tasks.remove(at) else { return };
        let first = job.done + u32::from(runs);
        job.asked |= runs && how != Cancel::Queued;
        if runs || job.reported < job.done {
            self.report(Report::Items { key, from: job.reported, to: job.done });
            job.reported = job.done;
        }
        self.keep_from_starting(&mut job, first);
        if !runs {
            // It was queued, or between two items.
            self.workers[worker].given -= 1;
            return;
        }
        self.workers[worker].tasks.insert(at, job);
        if let Cancel::Kill { grace } = how {
            self.schedule(nanos(grace), Happening::Kill { worker, turn });
        }
    }

    /// The worker dies, with the item in hand that it runs.
    pub(super) fn die(&mut self, worker: usize, cause: Cause) {
        self.deaths += 1;
        let death = self.death(worker, cause);
        let state = &mut self.workers[worker];
        state.alive = false;
        let in_hand = state.busy.take().is_some();
        let tasks = mem::take(&mut state.tasks);
        state.given -= tasks.len();
        for (index, job) in tasks.iter().enumerate() {
            self.end(job, in_hand && index == 0, &death);
        }
        self.schedule(RESTART, Happening::Restart { worker });
    }

    /// The worker ends after the task that it runs.
    pub(super) fn dismiss(&mut self, worker: usize) {
        let state = &mut self.workers[worker];
        state.leaving = true;
        let runs = usize::from(state.busy.is_some());
        let behind = state.tasks.split_off(runs.min(state.tasks.len()));
        state.given -= behind.len();
        let death = self.death(worker, Cause::Requested);
        for job in &behind {
            self.end(job, false, &death);
        }
        if runs == 0 {
            self.leave(worker);
        }
    }

    fn leave(&mut self, worker: usize) {
        self.workers[worker].alive = false;
        self.schedule(RESTART, Happening::Restart { worker });
    }

    fn end(&mut self, job: &Job, in_hand: bool, death: &Arc<Death>) {
        if let Some(record) = self.ledger.get_mut(&job.key) {
            record.ended = Some((job.done, in_hand, death.clone()));
        }
        // In any order: what was done but not reported, and the end.
        self.report(Report::Ended(job.key));
        if job.done > job.reported {
            self.report(Report::Items { key: job.key, from: job.reported, to: job.done });
        }
    }

    fn death(&self, worker: usize, cause: Cause) -> Arc<Death> {
        let Worker { life, .. } = self.workers[worker];
        Arc::new(Death {
            worker: name(worker, life),
            pid: life + 1,
            exit: ExitStatus::Signal { signal: libc::SIGKILL, core_dumped: false },
            cause,
            peak_memory: None,
        })
    }

    fn deliver(&mut self, report: Report, events: &mut Events) {
        match report {
            Report::Started(key, item) => events.push(Event::Started { key, item }),
            Report::Unknown(key) => events.push(Event::Unknown { key }),
            Report::Ended(key) => {
                let ended = self.ledger.get(&key).and_then(|record| record.ended.clone());
                if let Some((completed, in_hand, death)) = ended {
                    events.push(Event::Ended { key, completed, in_hand: in_hand.into(), death });
                }
            }
            Report::Items { key, from, to } => self.deliver_items(key, from, to, events),
        }
    }

    fn deliver_items(&mut self, key: Key, from: u32, to: u32, events: &mut Events) {
        let Some(record) = self.ledger.get(&key) else { return };
        let (mut first, mut run) = (from, events.buffer());
        for item in from..to {
            let result = record.results.get(item as usize).and_then(Option::as_ref);
            if let Some(Ok(value)) = result
                && record.layout.append(&mut run, value)
            {
                continue;
            }
            if item > first {
                let records = mem::take(&mut run);
                events.push(Event::Results { key, first, count: item - first, records });
            }
            match result {
                Some(Err(error)) => events.push(Event::Failed { key, item, error: error.clone() }),
                Some(Ok(_)) => {
                    let error = TaskError::BadResult("it is none of its plain number".to_owned());
                    events.push(Event::Failed { key, item, error });
                }
                None => {}
            }
            first = item + 1;
        }
        if to > first {
            events.push(Event::Results { key, first, count: to - first, records: run });
        } else {
            events.recycle(run);
        }
    }

    fn answer(&mut self, key: Key) {
        let Some(record) = self.ledger.get(&key) else { return self.report(Report::Unknown(key)) };
        if record.lost {
            return self.report(Report::Unknown(key));
        }
        let (items, ended) = (record.results.len() as u32, record.ended.is_some());
        if record.results.iter().any(Option::is_some) {
            self.report(Report::Items { key, from: 0, to: items });
        }
        if ended {
            self.report(Report::Ended(key));
        }
    }
}
