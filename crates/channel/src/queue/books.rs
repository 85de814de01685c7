//! Where the items of a queue are: what is counted, and what is settled by hand.
#![allow(unreachable_pub, reason = "public in the model, and there as far as it is needed")]

use super::{
    hands::{Kind, State},
    ring::{Ring, few},
    trouble::Trouble,
    words::{Memory, Patience, Side},
};
use procession_sys::{Deadline, sync::Ordering};

/// Items of which nobody can tell whether they were acted on: their consumer died with them in hand.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub struct InDoubt {
    /// The ticket of the first item: how many were accepted before it.
    pub ticket: u64,
    /// How many items, with tickets that follow each other.
    pub count: u64,
    /// The pid of the process that had them, as that process saw it.
    pub pid: u32,
}

/// Where the items of a queue are. `accepted` is the sum of the others and of what was consumed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub struct QueueStats {
    /// Items that were put.
    pub accepted: u64,
    /// Items that wait to be taken, for the first time or again.
    pub waiting: u64,
    /// Items that were taken and are not acknowledged.
    pub in_hand: u64,
    /// Items whose consumer died with them in hand, under [`Policy::Report`](super::Policy::Report); and under
    /// [`Policy::Redeliver`](super::Policy::Redeliver) those of them that cannot come again, since their blocks of a heap had
    /// been taken.
    pub in_doubt: u64,
    /// Items that were given up: by [`Policy::Drop`](super::Policy::Drop), or by settling what was in doubt.
    pub lost: u64,
}

impl<M: Memory> Ring<M> {
    /// What is in doubt; `settle`: and give it up.
    ///
    /// # Errors
    ///
    /// The consumers' lock cannot be had.
    pub fn in_doubt(&self, settle: bool, deadline: Option<Deadline>) -> Result<Vec<InDoubt>, Trouble> {
        self.look_after_until(deadline)?;
        let held = self.lock(Side::Consumers, Patience::Until(deadline)).map_err(Trouble::of_no_lock)?;
        let mut doubts = Vec::new();
        for index in 0..self.records_used() {
            let record = self.memory.record(index);
            if State::of(record).kind() == Some(Kind::Doubt) {
                let (ticket, count) =
                    (record.first.load(Ordering::Relaxed), record.count.load(Ordering::Relaxed));
                let pid = few(record.pid.load(Ordering::Relaxed));
                doubts.push(InDoubt { ticket, count, pid });
                if settle {
                    self.lose(index);
                }
            }
        }
        drop(held);
        if settle && !doubts.is_empty() {
            self.rings_after_settling();
        }
        doubts.sort_unstable_by_key(|doubt| doubt.ticket);
        Ok(doubts)
    }

    /// How many items the records of a kind stand for.
    pub(super) fn count_of(&self, kind: Kind) -> u64 {
        let records = (0..self.records_used()).map(|index| self.memory.record(index));
        let counted = records
            .filter(|record| State::of(record).kind() == Some(kind))
            .map(|record| record.count.load(Ordering::Relaxed));
        counted.fold(0, u64::saturating_add)
    }

    /// How many items wait.
    pub fn len(&self) -> u64 {
        let words = self.words();
        let head = words.head.ticket.load(Ordering::Acquire);
        let waiting = words.tail.ticket.load(Ordering::Acquire).saturating_sub(head);
        let again =
            if words.tail.again.load(Ordering::Acquire) == 0 { 0 } else { self.count_of(Kind::Again) };
        waiting.saturating_add(again)
    }

    /// Whether everything that was accepted has been taken and is settled or acknowledged; else what is in doubt.
    #[cfg_attr(loom, allow(dead_code, reason = "the model joins nothing"))]
    pub(super) fn finished(&self) -> Result<bool, u64> {
        match self.count_of(Kind::Doubt) {
            0 => {
                let words = self.words();
                // In this order: what leaves the ring has its record before that.
                let head = words.head.ticket.load(Ordering::Acquire);
                let empty = words.tail.ticket.load(Ordering::Acquire) == head;
                Ok(empty
                    && (0..self.records_used())
                        .all(|index| State::of(self.memory.record(index)).kind().is_none()))
            }
            doubts => Err(doubts),
        }
    }

    /// Where the items are.
    ///
    /// # Errors
    ///
    /// The consumers' lock cannot be had.
    pub fn stats(&self, deadline: Option<Deadline>) -> Result<QueueStats, Trouble> {
        self.look_after_until(deadline)?;
        let held = self.lock(Side::Consumers, Patience::Until(deadline)).map_err(Trouble::of_no_lock)?;
        let words = self.words();
        // Once: producers go on meanwhile, and takes do not.
        let accepted = words.tail.ticket.load(Ordering::Acquire);
        let waiting = accepted.saturating_sub(words.head.ticket.load(Ordering::Acquire));
        let stats = QueueStats {
            accepted,
            waiting: waiting.saturating_add(self.count_of(Kind::Again)),
            in_hand: self.count_of(Kind::Held),
            in_doubt: self.count_of(Kind::Doubt),
            lost: words.consumers.lost.load(Ordering::Acquire),
        };
        drop(held);
        Ok(stats)
    }
}
