//! The item that a worker has in hand, and who decides how it ends: the worker by finishing it, or its pool by killing
//! the worker. Only for items of tasks with a limit of time, or that may be cancelled: others go without.
//!
//! # Words
//!
//! | word | value | written by |
//! |---|---|---|
//! | `hand` | number of the item · 4 + state | worker; from `RUNNING` to `CONDEMNED` by the parent |
//! | `began` | when the item in hand began, in nanoseconds of the monotonic clock | worker, before `hand` |
//! | `revoked` | one word per task: 0, [`REVOKED`] or [`ASKED`] | parent |
//!
//! The parent numbers the items that are watched, 1, 2, 3… in the order in which it gives them to this worker, and sends
//! the first number with each task. So a value of `hand` means one item, and never another one.
//!
//! A task that may be cancelled has a word of `revoked`: the one at its ordinal among such tasks, modulo their number
//! [`WORDS`]. A worker never has more tasks than that, and finishes them in order; so the word is free when a task gets it.
//!
//! # Protocol
//!
//! * Worker, for each item: `began`; `hand = RUNNING`; full fence; if `revoked`, it does not run the item. Else it runs
//!   it, and then goes from `RUNNING` to `DONE` by compare-and-swap. In both cases it commits what came of the item only
//!   after that. If the swap fails the item is condemned: the worker commits nothing any more, and waits for its end.
//! * Parent, to end an item: it goes from `RUNNING` to `CONDEMNED` by compare-and-swap; if that worked it kills the worker.
//! * Parent, to cancel: `revoked`; full fence; then it may look at `hand`.
//!
//! # Invariants
//!
//! 1. Of the two swaps one works. So an item whose worker was killed for its sake has no result, and an item that has a
//!    result costs no worker: however long the parent takes from its look to the kill, it hits no other item.
//! 2. Both fences are `SeqCst`. So if the parent, after it has revoked a task, finds no item of it in hand, those that are
//!    not finished will not be run: either it sees the item in hand, or the worker sees the revocation.
//! 3. `began` is stored before the Release store of `RUNNING`, and read after an Acquire load of it: who reads the time for
//!    an item gets that item's, or a later one. None is taken for older than it is.
//!
//! # When a process dies
//!
//! The worker, anywhere: `hand` says what was in hand, the lane says what has a result. `CONDEMNED` stands: the item has no
//! result, and its end is the one that the parent wanted, also if the worker died of something else at the same time.
//! Killed between its own swap and the commit: the item was in hand, has no result, and nobody has condemned it. That is
//! a death like any other. The parent, between its swap and the kill: its death is the worker's.

use procession_sys::{
    plantable,
    sync::{AtomicU32, AtomicU64, Ordering, fence},
};

/// How many words there are for revocations, and so how many tasks a worker may have.
pub(crate) const WORDS: u32 = 256;

/// Not to be started any more.
pub(crate) const REVOKED: u32 = 1;
/// Besides, asked to end if it runs.
pub(crate) const ASKED: u32 = 2;

const RUNNING: u64 = 1;
const DONE: u64 = 2;
const CONDEMNED: u64 = 3;

/// A mistake that the model must find.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum Bug {
    /// The worker finishes an item by a store, without looking whether it is condemned.
    FinishByStore = 1,
    /// The worker looks for a revocation without a fence after it has taken the item in hand.
    NoFenceBeforeLook,
    /// The parent looks at the hand without a fence after it has revoked.
    NoFenceAfterRevoking,
    /// The item is in hand before the time says when it began.
    TimeAfterHand,
}
plantable!(Bug);

/// The two words of the item in hand. All zero is an empty hand.
#[repr(C, align(128))]
#[derive(Debug, Default)]
pub(crate) struct Hand {
    hand: AtomicU64,
    began: AtomicU64,
}

/// An item that is being run, or that is about to find out that it is revoked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct InHand {
    /// Its number.
    pub(crate) number: u64,
    /// When it began, or later. 0 where its task has no limit.
    pub(crate) began: u64,
}

impl Hand {
    // --- the worker ---

    /// Takes an item in hand; tells whether it may be run. To be followed by [`finish`](Hand::finish) in any case.
    pub(crate) fn begin(&self, number: u64, began: u64, revoked: Option<&AtomicU32>) -> bool {
        if planted(Bug::TimeAfterHand) {
            self.hand.store(number << 2 | RUNNING, Ordering::Release);
        }
        self.began.store(began, Ordering::Relaxed);
        self.hand.store(number << 2 | RUNNING, Ordering::Release);
        let Some(revoked) = revoked else { return true };
        if !planted(Bug::NoFenceBeforeLook) {
            fence(Ordering::SeqCst);
        }
        revoked.load(Ordering::Relaxed) == 0
    }

    /// Lets go of an item; false if it is condemned, and its worker with it.
    #[must_use]
    pub(crate) fn finish(&self, number: u64) -> bool {
        if planted(Bug::FinishByStore) {
            self.hand.store(number << 2 | DONE, Ordering::Release);
            return true;
        }
        let (running, done) = (number << 2 | RUNNING, number << 2 | DONE);
        self.hand.compare_exchange(running, done, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    // --- the parent ---

    /// The item that is in hand, if one is.
    pub(crate) fn look(&self) -> Option<InHand> {
        let word = self.hand.load(Ordering::Acquire);
        let began = self.began.load(Ordering::Relaxed);
        (word & 3 == RUNNING).then_some(InHand { number: word >> 2, began })
    }

    /// Whether the last item that was in hand is this one, and finished.
    #[cfg(loom)]
    pub(crate) fn is_done(&self, number: u64) -> bool {
        self.hand.load(Ordering::Acquire) == number << 2 | DONE
    }

    /// Condemns an item that is in hand; false if it is not any more.
    #[must_use]
    pub(crate) fn condemn(&self, number: u64) -> bool {
        let (running, condemned) = (number << 2 | RUNNING, number << 2 | CONDEMNED);
        self.hand.compare_exchange(running, condemned, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}

/// Revokes a task: `level` is [`REVOKED`] or [`ASKED`], which stays once it was said.
pub(crate) fn revoke(word: &AtomicU32, level: u32) {
    word.fetch_max(level, Ordering::Relaxed);
    if !planted(Bug::NoFenceAfterRevoking) {
        fence(Ordering::SeqCst);
    }
}
