//! The word of an event: set or not, who sleeps, and how often it was set.
//!
//! # Word
//!
//! | bits | meaning | who changes them |
//! |---|---|---|
//! | 0 | it is set | who sets, who clears |
//! | 1 | somebody sleeps, or is about to | a sleeper sets it, who sets the event clears it |
//! | 2 to 31 | how often it went from clear to set | who sets |
//!
//! # Protocol
//!
//! * Set: one compare-and-swap that sets bit 0, counts, and clears bit 1; then, if bit 1 was set, wake all.
//! * Clear: take bit 0 away; the rest stays.
//! * Wait: read the word. While it is neither set nor counted on since: set bit 1 by a compare-and-swap of the word just
//!   read, and sleep while the word is just that, for one slice at most.
//!
//! # Invariants
//!
//! 1. The word that is slept on holds everything: a set between a sleeper's look and its sleep changes the word, so
//!    there is no sleep. The flag goes away only together with a new count, so no sleeper can sleep on with its flag lost.
//! 2. A waiter returns if the event was set since it began, even if it was cleared at once after: the count tells. (A
//!    waiter that was stopped while the event was set and cleared an exact multiple of 2^30 times waits on.)
//! 3. What was written before a set can be read after the wait that it ends.
//!
//! # When a process dies
//!
//! A killed sleeper leaves its flag: one wake call for nobody. A killed setter has set the event or not; if it had no
//! time to wake the sleepers, they look for themselves within a slice.
#![cfg_attr(not(loom), allow(unreachable_pub, reason = "public in the model only"))]

use procession_sys::{
    Deadline, Spin, crash_point, futex,
    sync::{AtomicU32, Ordering},
};

const SET: u32 = 1;
const SLEEPERS: u32 = 2;
const COUNT: u32 = 4;

/// All zero: never set.
#[repr(transparent)]
#[derive(Debug)]
pub struct EventWord {
    word: AtomicU32,
}

impl EventWord {
    /// An event that is not set.
    #[must_use]
    #[allow(clippy::missing_const_for_fn, reason = "loom's atomics cannot be made in a constant")]
    pub fn new() -> EventWord {
        EventWord { word: AtomicU32::new(0) }
    }

    /// Whether it is set.
    #[inline]
    pub fn is_set(&self) -> bool {
        self.word.load(Ordering::Acquire) & SET != 0
    }

    /// Sets it, and wakes whoever waits; tells whether it was clear.
    #[inline]
    pub fn set(&self) -> bool {
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            // One that is set is stored again all the same: what this setter wrote is to be seen too.
            let new = match word & SET {
                0 if planted(Bug::SetIsNotCounted) => (word & !SLEEPERS) | SET,
                0 => (word & !SLEEPERS).wrapping_add(COUNT) | SET,
                _ => word,
            };
            let order = if planted(Bug::SetDoesNotPublish) { Ordering::Relaxed } else { Ordering::AcqRel };
            match self.word.compare_exchange_weak(word, new, order, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => word = now,
            }
        }
        crash_point!("event.set.committed");
        if word & SLEEPERS != 0 && !planted(Bug::SetDoesNotWake) {
            if planted(Bug::SetWakesOne) {
                futex::wake_one(&self.word);
            } else {
                futex::wake_all(&self.word);
            }
            crash_point!("event.set.woken");
        }
        word & SET == 0
    }

    /// Clears it; tells whether it was set.
    #[inline]
    pub fn clear(&self) -> bool {
        let rest = if planted(Bug::ClearDropsTheFlag) { !(SET | SLEEPERS) } else { !SET };
        self.word.fetch_and(rest, Ordering::AcqRel) & SET != 0
    }

    /// Waits until it is set, or was set since the call; false if `deadline` comes first.
    #[inline]
    pub fn wait(&self, deadline: Option<Deadline>, spin: &mut Spin) -> bool {
        let first = self.word.load(Ordering::Acquire);
        first & SET != 0 || self.wait_since(first, deadline, spin)
    }

    /// What a wait compares with, that begins now.
    #[cfg(all(feature = "async", not(loom)))]
    pub(crate) fn first(&self) -> u32 {
        self.word.load(Ordering::Acquire)
    }

    /// Whether it is set, or was set since `first`.
    #[cfg(all(feature = "async", not(loom)))]
    pub(crate) fn was_set(&self, first: u32) -> bool {
        let word = self.word.load(Ordering::Acquire);
        word & SET != 0 || (word ^ first) & !(SET | SLEEPERS) != 0
    }

    /// Says that somebody sleeps; gives what the word is then.
    #[cfg(all(feature = "async", not(loom)))]
    pub(crate) fn flag(&self) -> u32 {
        self.word.fetch_or(SLEEPERS, Ordering::AcqRel) | SLEEPERS
    }

    /// The word that is slept on.
    #[cfg(all(feature = "async", not(loom)))]
    pub(crate) fn word(&self) -> &AtomicU32 {
        &self.word
    }

    /// Waits as if the call had begun when the event was new.
    #[cfg(loom)]
    pub fn wait_from_the_start(&self) {
        self.wait_since(0, None, &mut Spin::none());
    }

    #[cold]
    fn wait_since(&self, first: u32, deadline: Option<Deadline>, spin: &mut Spin) -> bool {
        let was_set = |word: u32| word & SET != 0 || (word ^ first) & !(SET | SLEEPERS) != 0;
        if spin.until(deadline, || was_set(self.word.load(Ordering::Acquire))) {
            return true;
        }
        loop {
            let word = self.word.load(Ordering::Acquire);
            if was_set(word) {
                return true;
            }
            if deadline.is_some_and(Deadline::passed) {
                return false;
            }
            let flagged = word | SLEEPERS;
            if planted(Bug::FlagIsForced) {
                // As if what the word was in between did not matter.
                let word = self.word.fetch_or(SLEEPERS, Ordering::Relaxed) | SLEEPERS;
                futex::wait(&self.word, word, Some(Deadline::slice(deadline)));
                continue;
            }
            if word != flagged {
                let flag = self.word.compare_exchange(word, flagged, Ordering::Relaxed, Ordering::Relaxed);
                if flag.is_err() {
                    continue;
                }
            }
            crash_point!("event.wait.flagged");
            futex::wait(&self.word, flagged, Some(Deadline::slice(deadline)));
            crash_point!("event.wait.woken");
        }
    }
}

impl Default for EventWord {
    fn default() -> EventWord {
        EventWord::new()
    }
}

/// A mistake in the algorithm, to be planted in a model. In any other build there are none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Bug {
    /// A set that finds sleepers does not wake them.
    SetDoesNotWake = 1,
    /// A set wakes one sleeper.
    SetWakesOne,
    /// A set does not count, so a clear right after it undoes it.
    SetIsNotCounted,
    /// A set does not publish what was written before it.
    SetDoesNotPublish,
    /// A clear takes the sleepers' flag away too.
    ClearDropsTheFlag,
    /// A sleeper sets its flag on whatever the word is by then, and sleeps on that.
    FlagIsForced,
}

procession_sys::plantable!(Bug);
