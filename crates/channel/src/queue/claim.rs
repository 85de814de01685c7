//! What a consumer has in hand, in this process.

use super::{
    hands::{Hand, State},
    queue::Inner,
};
use core::ops::{Deref, DerefMut};
use std::{
    fmt,
    sync::{Arc, PoisonError},
};

/// Records of this process. Dropped, by a panic, it gives the items up as if this process had died.
#[derive(Debug)]
pub(super) struct InHand {
    inner: Arc<Inner>,
    hand: Option<Hand>,
}

impl InHand {
    pub(super) fn new(inner: Arc<Inner>, hand: Hand) -> InHand {
        InHand { inner, hand: Some(hand) }
    }

    /// The records, unless they are another process's: a forked child has a copy of its parent's values.
    fn take(&mut self) -> Option<Hand> {
        let member = self.inner.ring.memory().segment().member()?;
        let mine = |state: State| usize::from(state.member()) == member.index();
        self.hand.take().filter(|hand| hand.records().all(|(_, state)| mine(state)))
    }

    /// The blocks of an item are about to be taken. It belongs to this process, which has just taken it.
    pub(super) fn open(&self, index: usize) {
        if let Some(record) = self.hand.as_ref().and_then(|hand| hand.records().nth(index)) {
            self.inner.ring.open(record);
        }
    }

    /// Nothing of an item is in its message any more, so that nobody needs to look for it there.
    pub(super) fn emptied(&self, index: usize) {
        let member = self.inner.ring.memory().segment().member();
        let mine = |state: State| member.is_some_and(|member| usize::from(state.member()) == member.index());
        if let Some(record) = self.hand.as_ref().and_then(|hand| hand.records().nth(index))
            && mine(record.1)
        {
            self.inner.ring.empty(record);
        }
    }

    pub(super) fn acknowledge(mut self) {
        if let Some(hand) = self.take() {
            self.inner.ring.acknowledge(&hand);
        }
    }

    /// Acknowledges one of so many items and gives the others up. Where one record stands for all of them, they are given
    /// up together, unless it is the only one.
    pub(super) fn acknowledge_of(mut self, index: usize, count: usize) {
        let Some(hand) = self.take() else { return };
        if hand.records().count() == count
            && let Some(record) = hand.records().nth(index)
        {
            self.inner.ring.acknowledge_one(record);
        }
        // What was acknowledged is not given up: it has another state.
        self.inner.ring.give_up(&hand, std::process::id());
    }

    /// Leaves it to `task_done`.
    pub(super) fn leave_undone(mut self) {
        if let Some(hand) = self.take() {
            let left = self.inner.ring.leave(&hand);
            let mut undone = self.inner.undone.lock().unwrap_or_else(PoisonError::into_inner);
            undone.extend(left);
        }
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        if let Some(hand) = self.take() {
            self.inner.ring.give_up(&hand, std::process::id());
        }
    }
}

/// An item in hand: to be acknowledged when the work on it is done.
///
/// Dropping it acknowledges it. Dropped by a panic, or given back ([`give_back`](Claim::give_back)), the item is treated
/// as if this process had died.
///
/// # When a process dies
///
/// The item is in doubt, and the queue's [`Policy`](super::Policy) decides. With `Redeliver` it comes to another
/// consumer, and [`attempts`](Claim::attempts) tells that it does so again. An item that holds blocks of a heap does not: they
/// are the claim's, to be read and written, so what is left of them is not what was put. It is in doubt then, as with
/// `Report`.
#[must_use = "the item is acknowledged when the claim is dropped"]
pub struct Claim<T> {
    /// Until it is taken out.
    item: Option<T>,
    ticket: u64,
    attempts: u32,
    panicking: bool,
    hand: Option<InHand>,
}

impl<T> Claim<T> {
    pub(super) fn new(item: T, ticket: u64, attempts: u32, hand: InHand) -> Claim<T> {
        let panicking = std::thread::panicking();
        Claim { item: Some(item), ticket, attempts, panicking, hand: Some(hand) }
    }

    /// Acknowledges the item, and gives it out.
    ///
    /// # Panics
    ///
    /// Never: the item is there until this call.
    pub fn done(mut self) -> T {
        let item = self.item.take();
        drop(self);
        item.expect("an item leaves its claim once")
    }

    /// Does not finish: the item is treated as if this process had died with it. With `Policy::Redeliver` another
    /// consumer gets it, or this one again; not if it holds blocks of a heap.
    pub fn give_back(mut self) {
        drop(self.hand.take());
    }

    /// How many items were accepted before this one.
    #[must_use]
    pub fn ticket(&self) -> u64 {
        self.ticket
    }

    /// How often it was in hand before: of consumers that died, or gave it back. Counts to 4,095.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Whether it was in hand before.
    #[must_use]
    pub fn redelivered(&self) -> bool {
        self.attempts > 0
    }
}

impl<T> Deref for Claim<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.item.as_ref().expect("an item leaves its claim with the claim's end")
    }
}

impl<T> DerefMut for Claim<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.item.as_mut().expect("an item leaves its claim with the claim's end")
    }
}

impl<T> Drop for Claim<T> {
    fn drop(&mut self) {
        let Some(hand) = self.hand.take() else { return };
        if std::thread::panicking() && !self.panicking {
            // Its own drop gives up.
            drop(hand);
        } else {
            hand.acknowledge();
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Claim<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim")
            .field("item", &self.item)
            .field("ticket", &self.ticket)
            .field("attempts", &self.attempts)
            .finish_non_exhaustive()
    }
}

impl Inner {
    /// Acknowledges the oldest item that this process took; false if there is none.
    pub(super) fn task_done(&self) -> bool {
        let Some(member) = self.ring.memory().segment().member() else { return false };
        let mine = |state: State| usize::from(state.member()) == member.index();
        loop {
            let next = self.undone.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(record) = next else { break };
            // A forked child has its parent's list.
            if mine(record.1) && self.ring.acknowledge_one(record) {
                return true;
            }
        }
        // Taken by way of another handle of this process.
        while let Some(record) = self.ring.oldest_of(member.index() as u16) {
            if self.ring.acknowledge_one(record) {
                return true;
            }
        }
        false
    }
}
