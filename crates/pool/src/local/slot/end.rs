//! A worker's end: what it did, what becomes of its tasks, and what it says about the workers to come.

use super::{Given, Slot};
use crate::{
    Cause, Death, TaskError,
    back::{Event, Events, FunctionId},
    loads,
    local::{memory, pulse::Beat},
};
use procession_process::ExitStatus;
use procession_shm::HeapRing;
use procession_sys::crash_point;
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

/// What a worker's death says about those to come.
#[derive(Debug)]
pub(in crate::local) enum Verdict {
    /// Nothing: it did its work, or was killed by request.
    Good,
    /// It ended before it had ever done anything, while it had nothing to do.
    Idle,
    /// It ended before it was ready, or before it began anything of what it was given.
    Start,
    /// Its initialiser failed, or ended it.
    Initializer(String),
}

/// What went wrong since something last went well.
#[derive(Debug, Default)]
pub(in crate::local) struct Failures {
    /// Workers of which none did anything. Any result ends the count.
    pub(in crate::local) starts: u32,
    /// Initialisers. One of a replacement that succeeds ends the count. Those of the first workers do not count for
    /// that: they say nothing about what has changed since.
    pub(in crate::local) inits: u32,
}

impl Failures {
    /// Takes note of what a worker has told.
    pub(in crate::local) fn learn(&mut self, slot: &mut Slot) {
        if std::mem::take(&mut slot.new_result) {
            self.starts = 0;
        }
        if std::mem::take(&mut slot.newly_ready) && slot.replacement {
            self.inits = 0;
        }
    }
}

impl Slot {
    /// Whether its end is told by a watch.
    pub(in crate::local) fn is_watched(&self) -> bool {
        self.watch.is_some()
    }

    /// It cannot be trusted with anything any more. Its death is found like any other.
    pub(super) fn end_damaged(&mut self) {
        if !self.damaged {
            self.damaged = true;
            let _ = self.process.kill();
        }
    }

    /// What its death says. To be asked before [`end`](Slot::end).
    pub(in crate::local) fn verdict(&self, exit: ExitStatus) -> Verdict {
        if self.was_meant_to_end() {
            Verdict::Good
        } else if let Some(error) = &self.init_failure {
            Verdict::Initializer(error.to_string())
        } else if self.begun && !self.ready {
            Verdict::Initializer(format!("worker `{}` ended while it ran: {exit}", self.process.name()))
        } else if !self.ready {
            Verdict::Start
        } else if self.resulted {
            Verdict::Good
        } else {
            match self.given.front().map(|task| self.in_hand(task)) {
                None => Verdict::Idle,
                Some(0) => Verdict::Start,
                Some(_) => Verdict::Good,
            }
        }
    }

    /// The function that it was taking in when it died, if that is large. To be asked before [`end`](Slot::end).
    pub(in crate::local) fn died_of_function(&self) -> Option<FunctionId> {
        let (id, key, ticket) = self.large?;
        let next = self.given.front().filter(|next| next.key == key)?;
        let begun = next.first_ticket().is_some_and(|first| first <= self.started());
        (ticket <= self.started() && !begun && !self.damaged && !self.killed).then_some(id)
    }

    fn death(&self, exit: ExitStatus) -> Death {
        let signal = exit.signal();
        let cause = match self.condemned {
            _ if self.damaged => Cause::Damaged,
            Some(cause) => cause,
            None if self.killed => Cause::Requested,
            None if signal == Some(libc::SIGKILL) && memory::claim() => Cause::OutOfMemory,
            None => match self.memory_limit {
                Some(limit)
                    if signal == Some(libc::SIGABRT)
                        && self.control.no_memory.load(Ordering::Relaxed) != 0 =>
                {
                    Cause::MemoryLimit(limit)
                }
                _ => Cause::Itself,
            },
        };
        // What it had from the process that executed it says nothing about it.
        let inherited = self.control.inherited.load(Ordering::Relaxed);
        let peak_memory = self.process.peak_memory().filter(|peak| *peak > inherited);
        Death { worker: self.process.name().to_owned(), pid: self.process.pid(), exit, cause, peak_memory }
    }

    /// The ticket of the last message that may have been begun.
    fn started(&self) -> u64 {
        match &self.tasks {
            None => u64::MAX,
            // In doubt, rather an item too many is said to have been in hand than one is run twice.
            Some(tasks) if self.damaged => tasks.started().max(tasks.taken()),
            Some(tasks) => tasks.started(),
        }
    }

    /// How many items of `task` may have been begun and have no result: one at most, but all that were in the worker's
    /// reach if it cannot be trusted to have told what it did.
    fn in_hand(&self, task: &Given) -> u32 {
        let started = self.started();
        let reached = match task.whole {
            Some(ticket) if ticket <= started => task.items,
            Some(_) => 0,
            None => {
                let begun = task.pieces.partition_point(|(_, ticket)| *ticket <= started);
                task.pieces[..begun].last().map_or(0, |(end, _)| *end)
            }
        };
        let rest = reached.saturating_sub(task.done);
        if self.damaged { rest } else { rest.min(1) }
    }

    /// How many of its tasks it has begun, and not finished as far as it has told: the first, or none.
    pub(in crate::local) fn tasks_in_hand(&self) -> usize {
        let begun = |task: &Given| task.first_ticket().is_some_and(|ticket| ticket <= self.started());
        usize::from(self.given.front().is_some_and(begun))
    }

    /// What it lets be seen of itself.
    pub(in crate::local) fn beat(&self, now: Option<u64>) -> Beat {
        self.control.pulse.read(now)
    }

    /// How long it took from its start until it was ready, once it is.
    pub(in crate::local) fn start_up(&self, beat: &Beat) -> Option<Duration> {
        let ready = beat.ready.filter(|_| self.ready)?;
        Some(Duration::from_nanos(ready.saturating_sub(self.tally.born.as_nanos())))
    }

    /// After its death, where nobody wants anything that it told any more.
    pub(in crate::local) fn discard(&mut self) {
        let Some(ring) = self.ring.as_ref().map(HeapRing::beside) else { return };
        let mut events = Events::default();
        while self.collect(&mut events, |_| {}).is_some_and(|count| count > 0) {}
        for event in events.drain() {
            if let Event::Results { records, .. } = event {
                loads::let_go(&ring, &records);
            }
        }
        self.let_go_of_loads();
    }

    /// Frees what it had of the pool's heap: what departed with a result that it did not commit, and what was its own.
    fn let_go_of_loads(&self) {
        let Some(ring) = &self.ring else { return };
        let noted = self.control.load.load(Ordering::Acquire);
        if noted != 0 && noted != self.last_load {
            // The pool is a member of the heap.
            let _ = ring.revoke(&[noted]);
            crash_point!("pool.load.revoked");
        }
        let _ = ring.heap().sweep();
    }

    /// Reports what becomes of its tasks, after its death and after everything it told was taken in.
    pub(in crate::local) fn end(&mut self, exit: ExitStatus, events: &mut Events) -> Arc<Death> {
        let death = Arc::new(self.death(exit));
        self.show_end(&death.to_string());
        for task in std::mem::take(&mut self.given) {
            let in_hand = self.in_hand(&task);
            if task.watched.as_ref().is_some_and(|watched| watched.cancelled) {
                // Those behind were never started, and never will be.
                for item in task.done + in_hand..task.items {
                    events.push(Event::Failed { key: task.key, item, error: TaskError::Cancelled });
                }
            }
            events.push(Event::Ended { key: task.key, completed: task.done, in_hand, death: death.clone() });
        }
        self.outbox.clear();
        self.let_go_of_loads();
        death
    }
}
