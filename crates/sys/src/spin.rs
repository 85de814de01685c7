//! A bounded spin that learns whether spinning pays.
//!
//! Across two cores a spin hands over in 0.15 µs where a sleep costs 5 to 40; on one core it only delays the other
//! side. So it is bounded, stops while it fails, and is off where the affinity mask holds one processor.
//!
//! # States
//!
//! | state | a wait spins for | next |
//! |---|---|---|
//! | trusting | [`BUDGET`] | after [`FAILURES`] waits in a row that a spin did not end: resting |
//! | resting | nothing | after a number of waits that doubles with each rest: probing |
//! | probing | [`PROBE`] | a wait that the spin ends: trusting; [`FAILURES`] that it does not: resting, for twice as long |
//!
//! A probe is longer than the usual spin because two sides that both sleep would never find back otherwise: each
//! waits for the other's wake, 30 to 50 µs, which no usual spin outlasts. One side's probe does, and the other side
//! then finds it awake.

use crate::{Deadline, sync::spin_loop};

/// The usual spin, in nanoseconds.
const BUDGET: u64 = 20_000;
/// A spin that is to outlast the wake of the other side, in nanoseconds.
const PROBE: u64 = 100_000;
/// After this many failures in a row spinning is no use.
const FAILURES: u32 = 4;
/// The first rest, in waits.
const REST: u32 = 16;
/// The longest rest, in waits: probes then cost about 2 % of the waits of two processes on one core.
const LONGEST_REST: u32 = 4096;
/// How often the condition is looked at between two reads of the clock.
const LOOKS: u32 = 32;

/// How long one waiter spins before it sleeps.
#[derive(Clone, Debug)]
pub struct Spin {
    enabled: bool,
    failures: u32,
    /// How many more waits do not spin.
    resting: u32,
    /// The next rest, in waits; [`REST`] while trusting.
    rest: u32,
}

impl Spin {
    /// A spin with the usual bounds; none if this thread may run on one processor only.
    #[must_use]
    pub fn adaptive() -> Spin {
        let many = rustix::thread::sched_getaffinity(None).map_or(true, |set| set.count() > 1);
        Spin { enabled: many && cfg!(not(loom)), ..Spin::none() }
    }

    /// No spin: every wait sleeps at once.
    #[must_use]
    pub const fn none() -> Spin {
        Spin { enabled: false, failures: 0, resting: 0, rest: REST }
    }

    /// Looks at `ready` until it holds or the spin is over; tells whether it held.
    ///
    /// It is looked at once even where spinning is off.
    #[inline]
    pub fn until(&mut self, mut ready: impl FnMut() -> bool) -> bool {
        if ready() {
            return true;
        }
        if !self.enabled {
            return false;
        }
        self.spin(&mut ready)
    }

    fn spin(&mut self, ready: &mut dyn FnMut() -> bool) -> bool {
        if self.resting > 0 {
            self.resting -= 1;
            return false;
        }
        let end = Deadline::now().as_nanos() + if self.rest > REST { PROBE } else { BUDGET };
        loop {
            for _ in 0..LOOKS {
                spin_loop();
                if ready() {
                    (self.failures, self.rest) = (0, REST);
                    return true;
                }
            }
            if Deadline::now().as_nanos() >= end {
                self.fail();
                return false;
            }
        }
    }

    fn fail(&mut self) {
        self.failures += 1;
        if self.failures >= FAILURES {
            self.failures = 0;
            self.resting = self.rest;
            self.rest = (self.rest * 2).min(LONGEST_REST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enabled() -> Spin {
        Spin { enabled: true, ..Spin::none() }
    }

    /// Whether a wait spins: it then looks more than once.
    fn spins(spin: &mut Spin) -> bool {
        let mut looks = 0;
        spin.until(|| {
            looks += 1;
            false
        });
        looks > 1
    }

    #[test]
    fn a_spin_that_fails_rests_and_probes_ever_more_seldom() {
        let mut spin = enabled();
        let mut rests = Vec::new();
        let mut resting = 0;
        for _ in 0..200 {
            if spins(&mut spin) {
                if resting > 0 {
                    rests.push(resting);
                }
                resting = 0;
            } else {
                resting += 1;
            }
        }
        assert_eq!(rests, [16, 32, 64], "waits without a spin between two probes");
    }

    #[test]
    fn one_success_ends_the_rest_for_good() {
        let mut spin = enabled();
        while spins(&mut spin) {}
        let mut waits = 0;
        while !spins(&mut spin) {
            waits += 1;
        }
        assert!(waits < REST);
        let mut looks = 0;
        assert!(spin.until(|| {
            looks += 1;
            looks > 3
        }));
        for _ in 0..FAILURES {
            assert!(spins(&mut spin));
        }
        assert!(!spins(&mut spin), "it fails as often as at the start before it rests");
        assert_eq!(spin.rest, 2 * REST);
    }

    #[test]
    fn without_a_spin_the_condition_is_looked_at_once() {
        assert!(!spins(&mut Spin::none()));
    }
}
