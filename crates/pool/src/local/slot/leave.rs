//! Workers that their pool has end in order: recycled, retired, restarted, or one too many.
//!
//! A worker that leaves gets nothing any more. It learns it by a message behind what it was given; or it is to leave that,
//! and learns it by a control word, at which it looks before each message. It says that it leaves, and ends. What it did
//! not begin is told with its end, as after any death.

use super::{Slot, outbox::Carries};
use crate::{
    back::{Events, WorkerState},
    local::{supervision::Policy, wire},
};
use procession_sys::Deadline;
use std::{sync::atomic::Ordering, time::Duration};

impl Slot {
    /// Has it end, and gives it nothing any more: once it has run what it was given, or else when it has finished the
    /// message that it is running. What is behind that is reported with its end, and runs elsewhere.
    pub(in crate::local) fn leave(&mut self, at_once: bool) {
        if at_once {
            self.control.stop.store(1, Ordering::Relaxed);
        }
        if !std::mem::replace(&mut self.leaving, true) || at_once {
            self.send_message(vec![wire::LEAVE], Carries::Other);
            self.ring();
        }
    }

    /// Whether it gets nothing any more and ends.
    pub(in crate::local) fn is_leaving(&self) -> bool {
        self.leaving
    }

    /// Judges a worker whose lane was found closed: if it has not said that it leaves, nor ended, its memory is damaged.
    pub(in crate::local) fn judge_suspect(&mut self, events: &mut Events) {
        if !std::mem::take(&mut self.suspect) {
            return;
        }
        while self.collect(events, |_| {}).is_some_and(|count| count > 0) {}
        if !self.leaving {
            self.end_damaged();
        }
    }

    /// Whether it ends, or has ended, for want of work.
    pub(in crate::local) fn is_retired(&self) -> bool {
        self.retired
    }

    /// Whether its pool wanted its end, or it its own.
    pub(in crate::local) fn was_meant_to_end(&self) -> bool {
        self.killed || self.leaving || self.condemned.is_some()
    }

    /// Whether it was given as much as one worker gets.
    pub(in crate::local) fn has_had_enough(&self, policy: &Policy) -> bool {
        policy.recycle_tasks.is_some_and(|most| self.tally.tasks_given >= most)
            || policy.recycle_items.is_some_and(|most| self.tally.items_given >= most)
    }

    /// Has it leave if it is older than `age`; tells when it will be.
    pub(in crate::local) fn look_at_age(&mut self, age: Duration, now: Deadline) -> Option<Deadline> {
        let due = self.tally.born.plus(age);
        if now < due {
            return Some(due);
        }
        self.leave(false);
        None
    }

    /// Has it leave if it has had nothing to do for `idle`; tells when to look again.
    pub(in crate::local) fn look_at_idleness(&mut self, idle: Duration, now: Deadline) -> Option<Deadline> {
        let (given, since) = self.tally.idle_since;
        if !self.given.is_empty() || self.tally.tasks_given != given {
            self.tally.idle_since = (self.tally.tasks_given, now);
            return Some(now.plus(idle));
        }
        let due = since.plus(idle);
        if now < due {
            return Some(due);
        }
        self.leave(false);
        self.retired = true;
        None
    }

    /// What it does now.
    pub(in crate::local) fn state(&self) -> WorkerState {
        match () {
            () if self.leaving || self.condemned.is_some() || self.killed || self.tasks.is_none() => {
                WorkerState::Ending
            }
            () if !self.ready => WorkerState::Starting,
            () if self.given.is_empty() => WorkerState::Idle,
            () => WorkerState::Busy,
        }
    }
}
