//! What has become of something that is done once: one word, on which those sleep who wait for it.
//!
//! See [`once`](crate::Once) for the protocol. Who sleeps has set the flag in the very value on which it sleeps; a begin keeps
//! the flag, and an end takes it away with the same step that says so, and wakes. So where nobody sleeps nothing is asked
//! of the kernel, and whoever sleeps is woken.
#![cfg_attr(not(loom), allow(unreachable_pub, reason = "public in the model only"))]
#![cfg_attr(loom, allow(unreachable_pub, dead_code, reason = "the model leaves out what it does not need"))]

use procession_sys::{
    Deadline, crash_point, futex,
    sync::{AtomicU32, Ordering},
};

/// Nobody has begun, or whoever did gave up.
pub const NOT_DONE: u32 = 0;
/// Somebody is at it.
pub const RUNNING: u32 = 1;
/// It is done: for good.
pub const DONE: u32 = 2;
/// Whoever was at it panicked.
pub const POISONED: u32 = 3;
/// Somebody sleeps, or is about to.
const SLEEPERS: u32 = 1 << 31;

/// The state, and whether somebody sleeps until it changes.
#[repr(transparent)]
#[derive(Debug)]
pub struct OnceWord(AtomicU32);

impl OnceWord {
    /// One that is not done.
    #[must_use]
    #[allow(clippy::missing_const_for_fn, reason = "loom's atomics cannot be made in a constant")]
    #[cfg(loom)]
    #[allow(clippy::new_without_default, reason = "in the model only")]
    pub fn new() -> OnceWord {
        OnceWord(AtomicU32::new(NOT_DONE))
    }

    /// What it is, without the flag.
    #[inline]
    pub fn state(&self) -> u32 {
        self.0.load(Ordering::Acquire) & !SLEEPERS
    }

    /// Whether it is done. That never has the flag.
    #[inline]
    pub fn is_done(&self) -> bool {
        self.0.load(Ordering::Acquire) == DONE
    }

    /// By who holds the mutex, and has seen that nobody who lives is at it: somebody is now.
    pub fn begin(&self) {
        if planted(Bug::BeginDropsFlag) {
            return self.0.store(RUNNING, Ordering::Release);
        }
        let mut word = self.0.load(Ordering::Relaxed);
        while let Err(now) =
            self.0.compare_exchange(word, RUNNING | word & SLEEPERS, Ordering::AcqRel, Ordering::Relaxed)
        {
            word = now;
        }
    }

    /// By the runner, or in place of a dead one: it is over.
    pub fn end(&self, state: u32) {
        let before = if planted(Bug::FlagReadBefore) {
            let before = self.0.load(Ordering::Relaxed);
            self.0.store(state, Ordering::Release);
            before
        } else {
            let order = if planted(Bug::EndPublishesNothing) { Ordering::Relaxed } else { Ordering::AcqRel };
            self.0.swap(state, order)
        };
        crash_point!("once.end.done");
        if before & SLEEPERS != 0 {
            futex::wake_all(&self.0);
        }
    }

    /// Says that somebody sleeps: the word that is slept on, or `None` if `over` holds for the state.
    pub fn flag(&self, over: impl Fn(u32) -> bool) -> Option<u32> {
        let mut word = self.0.load(Ordering::Acquire);
        loop {
            if over(word & !SLEEPERS) {
                return None;
            }
            let flagged = word | SLEEPERS;
            if planted(Bug::FlagForced) {
                return Some(self.0.fetch_or(SLEEPERS, Ordering::AcqRel) | SLEEPERS);
            }
            match self.0.compare_exchange(word, flagged, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(flagged),
                Err(now) => word = now,
            }
        }
    }

    /// Sleeps for a slice at most, unless `over` holds for the state.
    pub fn sleep(&self, deadline: Option<Deadline>, over: impl Fn(u32) -> bool) {
        if let Some(seen) = self.flag(over) {
            crash_point!("once.wait.flagged");
            futex::wait(&self.0, seen, Some(Deadline::slice(deadline)));
        }
    }

    /// The word that is slept on.
    #[cfg(all(feature = "async", not(loom)))]
    pub(crate) fn word(&self) -> &AtomicU32 {
        &self.0
    }
}

/// A mistake in the algorithm, to be planted in a model. In any other build there are none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Bug {
    /// Who begins forgets those who sleep already.
    BeginDropsFlag = 1,
    /// The end looks whether somebody sleeps before it says that it is over.
    FlagReadBefore,
    /// What was written before the end may not be seen after it.
    EndPublishesNothing,
    /// The flag is set whatever the state has become.
    FlagForced,
}

procession_sys::plantable!(Bug);
