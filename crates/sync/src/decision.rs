//! How a round of a barrier is decided: one word, without the mutex that whoever carries the decision out must hold.
//!
//! `doing` is the number of the round that is under way, and is swapped for a decision on that very round, by whoever comes
//! first: this commits. Who holds the mutex changes the entries of the round's parties accordingly, and then stores the next
//! round's number. A party that cannot have the mutex finds its answer in the word, as long as its entry is as it was: for the
//! entry is changed before the word moves on.
#![cfg_attr(not(loom), allow(unreachable_pub, reason = "public in the model only"))]
#![cfg_attr(loom, allow(unreachable_pub, dead_code, reason = "the model leaves out what it does not need"))]

use crate::table::{Entry, FREE};
use procession_sys::{
    crash_point,
    sync::{AtomicU64, Ordering},
};

/// What was decided: in the upper byte of `doing`; its argument is in the rest. 0: nothing yet, for the round in the rest.
pub const RELEASE: u64 = 1 << 56;
/// The barrier is broken, for the reason in the rest.
pub const BREAK: u64 = 2 << 56;
/// The barrier is mended.
pub const RESET: u64 = 3 << 56;
/// What is not the decision.
pub const ARGUMENT: u64 = RELEASE - 1;
/// A round's number, in `doing` and in notes.
pub const ROUND: u64 = (1 << 40) - 1;

/// The round that is under way, and what was decided on it.
#[repr(C)]
#[derive(Debug)]
pub struct Decision {
    /// The number of the round that is under way, or was decided.
    round: AtomicU64,
    doing: AtomicU64,
}

impl Decision {
    /// The first round.
    #[must_use]
    #[allow(clippy::missing_const_for_fn, reason = "loom's atomics cannot be made in a constant")]
    #[cfg(loom)]
    #[allow(clippy::new_without_default, reason = "in the model only")]
    pub fn new() -> Decision {
        Decision { round: AtomicU64::new(0), doing: AtomicU64::new(0) }
    }

    /// The round that is under way, as its entries have it. The mutex is held.
    pub fn round(&self) -> u64 {
        self.round.load(Ordering::Relaxed) & ROUND
    }

    /// What was decided, and is to be carried out: the decision and its argument. The decision is 0 if there is none.
    pub fn made(&self) -> (u64, u64) {
        let doing = self.doing.load(Ordering::Acquire);
        (doing & !ARGUMENT, doing & ARGUMENT)
    }

    /// Decides a round; false if that is done already, or it is over.
    pub fn commit(&self, round: u64, outcome: u64) -> bool {
        if planted(Bug::AnyRound) {
            let now = self.doing.load(Ordering::Acquire);
            return now & !ARGUMENT == 0
                && self.doing.compare_exchange(now, outcome, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        }
        if planted(Bug::NotCompared) {
            self.doing.store(outcome, Ordering::Release);
            return true;
        }
        self.doing.compare_exchange(round, outcome, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// A word that no round has was not written by us: puts it right. The mutex is held.
    pub fn heal(&self) {
        if self.made().0 == 0 {
            self.doing.store(self.round(), Ordering::Relaxed);
        }
    }

    /// The number of the next round, which is not under way yet. The mutex is held.
    pub fn next(&self) -> u64 {
        let next = (self.round() + 1) & ROUND;
        self.round.store(next, Ordering::Relaxed);
        next
    }

    /// The decision was carried out: the next round is under way. The mutex is held.
    pub fn carried_out(&self, next: u64) {
        self.doing.store(next, Ordering::Release);
    }

    /// By a party of a round that waits no longer, without the mutex: decides `outcome` unless somebody has decided; gives
    /// what was, if the entry was left with that, and `None` if the answer is in the entry.
    pub fn leave(&self, entry: &Entry, state: u32, round: u64, outcome: u64) -> Option<(u64, u64)> {
        self.commit(round, outcome);
        crash_point!("barrier.gave_up");
        let made =
            if planted(Bug::OwnAnswer) { (outcome & !ARGUMENT, outcome & ARGUMENT) } else { self.made() };
        entry.change(state, FREE).map(|_| made)
    }
}

/// A mistake in the algorithm, to be planted in a model. In any other build there are none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Bug {
    /// A decision is made on whatever round is under way.
    AnyRound = 1,
    /// A decision is stored over another one.
    NotCompared,
    /// Who leaves takes its own decision for granted.
    OwnAnswer,
}

procession_sys::plantable!(Bug);
