//! A sleeping place in shared memory, for one sleeper or many, rung by one process or many.
//!
//! # Words
//!
//! | word | meaning | who changes it |
//! |---|---|---|
//! | `sleepers` | 1: somebody sleeps or is about to | a sleeper sets it, a ringer clears it |
//! | `bell` | how often it was rung | a ringer adds 1 |
//!
//! # Protocol
//!
//! * Sleeper: read `bell`; `sleepers = 1`; fence; look at the state again; sleep while `bell` has that value, for
//!   one slice at most; look again.
//! * Ringer: commit the state; fence; if `sleepers` was set, clear it, add 1 to `bell`, wake all.
//!
//! # Invariants
//!
//! 1. Of a sleeper and a ringer at the same time, one sees the other: both fences are `SeqCst`, so either the
//!    sleeper's second look finds the commit, or the ringer finds the flag.
//! 2. A flag that was cleared means a `bell` that has changed, or is about to, since the sleeper read it: the sleeper
//!    reads `bell` (Acquire) before it sets the flag, a ringer changes it (Release) after it cleared the flag, and
//!    wakes after that. Had the sleeper read it after setting the flag, a slow ringer of an earlier message could
//!    clear the flag and count in between, and the sleep would go unnoticed.
//! 3. Ringers that find the flag cleared by another ringer leave the wake to that one: the sleeper it wakes sets the
//!    flag and passes its fence again before it sleeps again, and by then it sees their commits.
//!
//! # When a process dies
//!
//! A killed sleeper leaves the flag set: the next ringer makes one wake call for nobody. It is a flag and not a
//! count, so nothing stays wrong. A ringer killed between its commit and its wake leaves the others asleep: they
//! wake after one slice ([`procession_sys::SLICE`]) and look at the state, which was right all the time.
#![cfg_attr(not(loom), allow(unreachable_pub, reason = "public in the model only"))]

use crate::bug::{Bug, planted};
use procession_sys::{
    Deadline, Spin, crash_point, futex,
    sync::{AtomicU32, Ordering, fence},
};

/// The words of a bell. All zero is a bell that was never rung.
#[repr(C, align(128))]
#[derive(Debug)]
pub struct BellWords {
    bell: AtomicU32,
    sleepers: AtomicU32,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<BellWords>() == 128);

/// Why a slice of sleep ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Waited {
    /// What was waited for is there.
    Ready,
    /// The slice ended, or somebody rang for something else: look after the owners, and wait on.
    Slice,
    /// The deadline has come.
    Deadline,
}

impl BellWords {
    /// A bell that was never rung.
    #[must_use]
    #[allow(clippy::missing_const_for_fn, reason = "loom's atomics cannot be made in a constant")]
    pub fn new() -> BellWords {
        BellWords { bell: AtomicU32::new(0), sleepers: AtomicU32::new(0) }
    }

    /// Wakes whoever sleeps here. Call it after the commit that they wait for.
    ///
    /// Where nobody sleeps it costs a fence and a load.
    #[inline]
    pub fn ring(&self) {
        if !planted(Bug::NoFenceBeforeRing) {
            fence(Ordering::SeqCst);
        }
        if self.sleepers.load(Ordering::Relaxed) != 0 {
            self.wake();
        }
    }

    #[cold]
    fn wake(&self) {
        if planted(Bug::FlagClearedAfterWake) {
            self.bell.fetch_add(1, Ordering::Release);
            futex::wake_all(&self.bell);
            self.sleepers.store(0, Ordering::Release);
            return;
        }
        if self.sleepers.swap(0, Ordering::AcqRel) == 0 {
            return;
        }
        crash_point!("bell.ring.cleared");
        if !planted(Bug::BellNotCounted) {
            self.bell.fetch_add(1, Ordering::Release);
        }
        crash_point!("bell.ring.counted");
        futex::wake_all(&self.bell);
        crash_point!("bell.ring.woken");
    }

    /// Waits until `ready` holds, for one slice at most: spins first, then sleeps.
    pub fn wait_slice(
        &self,
        deadline: Option<Deadline>,
        spin: &mut Spin,
        mut ready: impl FnMut() -> bool,
    ) -> Waited {
        if spin.until(deadline, &mut ready) {
            return Waited::Ready;
        }
        self.sleep(deadline, &mut ready)
    }

    fn sleep(&self, deadline: Option<Deadline>, ready: &mut dyn FnMut() -> bool) -> Waited {
        if planted(Bug::LookBeforeFlag) && ready() {
            return Waited::Ready;
        }
        let mut seen = self.bell.load(Ordering::Acquire);
        self.sleepers.store(1, Ordering::Relaxed);
        crash_point!("bell.wait.flagged");
        fence(Ordering::SeqCst);
        if planted(Bug::BellReadAfterFlag) {
            seen = self.bell.load(Ordering::Acquire);
        }
        if !planted(Bug::LookBeforeFlag) && ready() {
            return Waited::Ready;
        }
        futex::wait(&self.bell, seen, Some(Deadline::slice(deadline)));
        crash_point!("bell.wait.woken");
        if ready() {
            return Waited::Ready;
        }
        match deadline {
            // Also after a wake: others may ring all the time.
            Some(deadline) if deadline.passed() => Waited::Deadline,
            _ => Waited::Slice,
        }
    }

    /// Says that somebody sleeps who is not a thread; gives the value of the word that is slept on. The state is to be looked
    /// at after this, and the word watched if it is not as it should be.
    #[cfg(not(loom))]
    pub(crate) fn announce(&self) -> u32 {
        let seen = self.bell.load(Ordering::Acquire);
        self.sleepers.store(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        seen
    }

    /// The word that is slept on.
    #[cfg(not(loom))]
    pub(crate) fn word(&self) -> &AtomicU32 {
        &self.bell
    }

    /// Waits until `ready` holds; false if `deadline` comes first.
    pub fn wait_until(
        &self,
        deadline: Option<Deadline>,
        spin: &mut Spin,
        mut ready: impl FnMut() -> bool,
    ) -> bool {
        loop {
            match self.wait_slice(deadline, spin, &mut ready) {
                Waited::Ready => return true,
                Waited::Slice => {}
                Waited::Deadline => return false,
            }
        }
    }
}

impl Default for BellWords {
    fn default() -> BellWords {
        BellWords::new()
    }
}
