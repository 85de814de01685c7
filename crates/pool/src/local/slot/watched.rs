//! Items that are watched: those of tasks with a limit of time, and of tasks that may be cancelled. See
//! [`hand`](super::super::hand) for what is agreed with the worker.

use super::{Given, Slot};
use crate::{
    Cause,
    back::{Cancel, Envelope, Event, Events, Key},
    local::{
        hand::{ASKED, REVOKED, revoke},
        wire,
    },
};
use procession_sys::Deadline;
use std::time::Duration;

/// What is watched of a task.
#[derive(Debug)]
pub(super) struct Watched {
    /// The number of its first item.
    number: u64,
    /// Which of the tasks that may be cancelled it is, if it is one.
    ordinal: Option<u32>,
    limit: Option<Duration>,
    /// Whether it was cancelled, and from when on its worker is killed if it still runs.
    pub(super) cancelled: bool,
    /// Whether it was told that one of its items has been started.
    told: bool,
    kill_at: Option<Deadline>,
}

impl Watched {
    /// What the worker must know, for the items from `first` on.
    pub(super) fn head(&self, first: u32) -> wire::Watched {
        wire::Watched { number: self.number + u64::from(first), ordinal: self.ordinal }
    }
}

impl Slot {
    /// Numbers the items of a task that is about to be given, if they are to be watched.
    pub(super) fn watched(&mut self, task: &Envelope<'_>) -> Option<Box<Watched>> {
        if task.limit.is_none() && !task.cancellable {
            return None;
        }
        self.watched += 1;
        let number = self.next_number;
        self.next_number += u64::from(task.items);
        let ordinal = task.cancellable.then(|| {
            let ordinal = self.next_ordinal;
            self.next_ordinal = ordinal.wrapping_add(1);
            // It was of a task whose last result was taken in, so the worker looks at it no more; and what it looks at
            // next comes after this by the commit of the message.
            self.control.revoked(ordinal).store(0, std::sync::atomic::Ordering::Relaxed);
            ordinal
        });
        Some(Box::new(Watched {
            number,
            ordinal,
            limit: task.limit,
            cancelled: false,
            told: false,
            kill_at: None,
        }))
    }

    /// Cancels a task, if this worker has it and it may be cancelled.
    pub(in crate::local) fn cancel(&mut self, key: Key, how: Cancel) -> bool {
        let Some(task) = self.given.iter_mut().find(|given| given.key == key) else { return false };
        let Some((watched, ordinal)) =
            task.watched.as_mut().and_then(|watched| watched.ordinal.map(|ordinal| (watched, ordinal)))
        else {
            return false;
        };
        watched.cancelled = true;
        let level = if how == Cancel::Queued { REVOKED } else { ASKED };
        revoke(self.control.revoked(ordinal), level);
        if let Cancel::Kill { grace } = how {
            let at = Deadline::after(grace);
            watched.kill_at = Some(watched.kill_at.map_or(at, |before| before.min(at)));
        }
        true
    }

    /// Tells once of each task that the worker has begun it, if it is found to be at it.
    pub(in crate::local) fn tell_started(&mut self, events: &mut Events) {
        if self.watched == 0 {
            return;
        }
        let Some(item) = self.control.hand.look() else { return };
        for task in &mut self.given {
            let Given { key, items, watched: Some(watched), .. } = task else { continue };
            let index = item.number.checked_sub(watched.number).and_then(|index| u32::try_from(index).ok());
            if let Some(item) = index.filter(|index| index < items) {
                if !std::mem::replace(&mut watched.told, true) {
                    events.push(Event::Started { key: *key, item });
                }
                return;
            }
        }
    }

    /// The task and the index of the watched item that the worker has in hand.
    #[cfg(test)]
    pub(in crate::local) fn item_in_hand(&self) -> Option<(u64, u64)> {
        let item = self.control.hand.look()?;
        self.given.iter().find_map(|task| {
            let index = item.number.checked_sub(task.watched.as_ref()?.number)?;
            (index < u64::from(task.items)).then_some((task.key.task, index))
        })
    }

    /// Ends the worker if the item that it runs has run too long, or still runs though it was cancelled long enough ago.
    /// Tells when to look again.
    pub(in crate::local) fn look_at_hand(&mut self, now: Deadline) -> Option<Deadline> {
        if self.watched == 0 || self.condemned.is_some() {
            return None;
        }
        let hand = self.control.hand.look();
        let mut next: Option<Deadline> = None;
        let mut verdict = None;
        for task in &mut self.given {
            let Given { items, watched: Some(watched), .. } = task else { continue };
            let range = watched.number..watched.number + u64::from(*items);
            let item = hand.filter(|item| range.contains(&item.number));
            let limit = watched.limit.map(|limit| {
                // What is not begun cannot overrun earlier than if it began now.
                (
                    item.map_or(now, |item| Deadline::from_nanos(item.began)).plus(limit),
                    Cause::TimeLimit(limit),
                )
            });
            if watched.kill_at.is_some_and(|at| at <= now) && item.is_none() {
                // It is over, or will find out before it starts.
                watched.kill_at = None;
            }
            for (due, cause) in limit.into_iter().chain(watched.kill_at.map(|at| (at, Cause::Cancelled))) {
                match item {
                    Some(item) if due <= now => verdict = verdict.or(Some((item.number, cause))),
                    _ => next = Some(next.map_or(due, |next| next.min(due))),
                }
            }
        }
        let Some((number, cause)) = verdict else { return next };
        if self.control.hand.condemn(number) {
            self.condemned = Some(cause);
            // What cannot be signalled any more has ended.
            let _ = self.process.signal_group(libc::SIGKILL);
            return None;
        }
        // It was finished at this moment; the next one has just begun.
        Some(next.unwrap_or(now).max(now))
    }
}
