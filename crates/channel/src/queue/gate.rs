//! A sleeping place in shared memory where a ring wakes as many sleepers as there is work for.
//!
//! A [`Bell`](crate::Bell) wakes all who sleep there: right for one sleeper who serves many lanes, wrong for a hundred
//! idle workers and one item.
//!
//! # Words
//!
//! | word | meaning | who changes it |
//! |---|---|---|
//! | `bell` | how often somebody was woken | a ringer adds 1 |
//! | `sleepers` | bit 0: somebody sleeps or is about to; above: how often that was said | sleepers and ringers |
//!
//! # Protocol
//!
//! * Sleeper: read `bell`; count `sleepers` up and set its flag, in one step; fence; look at the state again; sleep while
//!   `bell` has that value, for one slice at most; look again.
//! * Ringer for n: commit the state; fence; read `sleepers`; if the flag was set: add 1 to `bell`, wake n; if fewer than
//!   n were woken, clear the flag, provided that `sleepers` is what it was.
//!
//! # Invariants
//!
//! 1. Of a sleeper and a ringer at the same time, one sees the other: both fences are `SeqCst`.
//! 2. A flag is cleared only if nobody sleeps behind it. Whoever set it before the ringer read it had read `bell` before
//!    the ringer changed it, so it is among those that were woken, or its sleep ends at once; whoever set it after that
//!    has changed the count, and the flag is not cleared.
//! 3. One who is woken looks at the state, and takes from it what there is or goes back to sleep by way of the flag.
//!
//! # When a process dies
//!
//! A ringer killed between its commit and its wake, or a sleeper killed after it was woken and before it took anything,
//! leaves the others asleep for one slice at most ([`procession_sys::SLICE`]). A killed sleeper's flag costs one wake call
//! for nobody.
#![allow(unreachable_pub, reason = "public in the model, and there as far as it is needed")]

use crate::bell::Waited;
use crate::bug::{Bug, planted};
use procession_sys::{
    Deadline, Spin, crash_point, futex,
    sync::{AtomicU32, Ordering, fence},
};

/// Wakes everybody.
pub const ALL: u32 = u32::MAX;

/// The words of a gate. All zero is one where nobody sleeps.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Gate {
    bell: AtomicU32,
    sleepers: AtomicU32,
}

impl Gate {
    /// Wakes up to `n` who sleep here. Call it after the commit that they wait for.
    ///
    /// Where nobody sleeps it costs a fence and a load.
    #[inline]
    pub fn ring(&self, n: u32) {
        if !planted(Bug::NoFenceBeforeGate) {
            fence(Ordering::SeqCst);
        }
        self.ring_fenced(n);
    }

    /// As [`ring`](Gate::ring), after a fence that was made for another gate.
    #[inline]
    pub fn ring_fenced(&self, n: u32) {
        let sleepers = self.sleepers.load(Ordering::Relaxed);
        if sleepers & 1 != 0 {
            self.wake(sleepers, n);
        }
    }

    #[cold]
    fn wake(&self, sleepers: u32, n: u32) {
        if !planted(Bug::GateNotCounted) {
            self.bell.fetch_add(1, Ordering::Release);
        }
        crash_point!("queue.gate.counted");
        let woken = futex::wake(&self.bell, n);
        crash_point!("queue.gate.woken");
        if planted(Bug::GateClearedAlways) {
            self.sleepers.store(0, Ordering::Relaxed);
        } else if woken < n {
            let clear = sleepers & !1;
            // Failing means that somebody has said anew that it sleeps.
            let _ = self.sleepers.compare_exchange(sleepers, clear, Ordering::AcqRel, Ordering::Relaxed);
        }
    }

    /// Says that somebody is about to sleep: what to compare `bell` with. Look at the state again before sleeping.
    pub fn announce(&self) -> u32 {
        let seen = self.bell.load(Ordering::Acquire);
        let next = |sleepers: u32| Some(sleepers.wrapping_add(2) | 1);
        // It gives an error only where `next` gives nothing.
        let _ = self.sleepers.fetch_update(Ordering::AcqRel, Ordering::Relaxed, next);
        crash_point!("queue.gate.flagged");
        fence(Ordering::SeqCst);
        seen
    }

    /// The word that is slept on.
    #[cfg(not(loom))]
    pub(crate) fn word(&self) -> &AtomicU32 {
        &self.bell
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
        let seen = self.announce();
        if ready() {
            return Waited::Ready;
        }
        futex::wait(&self.bell, seen, Some(Deadline::slice(deadline)));
        crash_point!("queue.gate.slept");
        if ready() {
            return Waited::Ready;
        }
        match deadline {
            // Also after a wake: others may ring all the time.
            Some(deadline) if deadline.passed() => Waited::Deadline,
            _ => Waited::Slice,
        }
    }
}
