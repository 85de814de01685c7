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
//!
//! Looking at a word takes its cache line away from whoever works on it. That is no harm where the other side stores once,
//! to say that it is done; where it locks and unlocks all the time it is slowed down to a fraction. So
//! [`until_seldom`](Spin::until_seldom) leaves it alone between two looks, for longer than many short turns at a lock take.

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
/// Who looks seldom leaves the word alone for so long before it looks again, in nanoseconds; then for twice as long.
const GAP: u64 = 500;
/// The longest it is left alone, in nanoseconds.
const LONGEST_GAP: u64 = 1_000;

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
        ready() || self.enabled && self.spin(&mut ready, often)
    }

    /// As [`until`](Spin::until), but looks once in half a microsecond, later in one: for what another side changes again
    /// and again, as the word of a lock, which it does the faster the longer the word's cache line stays with it.
    #[inline]
    pub fn until_seldom(&mut self, mut ready: impl FnMut() -> bool) -> bool {
        let mut gap = GAP;
        ready() || self.enabled && self.spin(&mut ready, |now, ready| seldom(&mut gap, now, ready))
    }

    /// `look` looks, once or several times, and gives the time when it has not seen it.
    fn spin(
        &mut self,
        ready: &mut dyn FnMut() -> bool,
        mut look: impl FnMut(u64, &mut dyn FnMut() -> bool) -> Result<(), u64>,
    ) -> bool {
        if self.resting > 0 {
            self.resting -= 1;
            return false;
        }
        let mut now = Deadline::now().as_nanos();
        let end = now + if self.rest > REST { PROBE } else { BUDGET };
        loop {
            match look(now, ready) {
                Ok(()) => {
                    (self.failures, self.rest) = (0, REST);
                    return true;
                }
                Err(time) => now = time,
            }
            if now >= end {
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

fn often(_now: u64, ready: &mut dyn FnMut() -> bool) -> Result<(), u64> {
    for _ in 0..LOOKS {
        spin_loop();
        if ready() {
            return Ok(());
        }
    }
    Err(Deadline::now().as_nanos())
}

fn seldom(gap: &mut u64, mut now: u64, ready: &mut dyn FnMut() -> bool) -> Result<(), u64> {
    // By the clock, since a pause takes 5 ns on one processor and 50 on another.
    let next = now + *gap;
    while now < next {
        spin_loop();
        now = Deadline::now().as_nanos();
    }
    *gap = (*gap * 2).min(LONGEST_GAP);
    if ready() { Ok(()) } else { Err(now) }
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
    fn who_looks_seldom_leaves_the_word_alone_in_between() {
        let mut spin = enabled();
        let mut looks = Vec::new();
        assert!(!spin.until_seldom(|| {
            looks.push(Deadline::now().as_nanos());
            false
        }));
        // At once, and then as often as there are gaps in the budget, at the most.
        assert!((2..=2 + BUDGET / GAP).contains(&(looks.len() as u64)), "{} looks", looks.len());
        assert!(looks[1] - looks[0] >= GAP, "{looks:?}");
        let mut looks = 0;
        assert!(spin.until_seldom(|| {
            looks += 1;
            looks > 2
        }));
        assert_eq!((looks, spin.failures), (3, 0));
    }

    #[test]
    fn without_a_spin_the_condition_is_looked_at_once() {
        assert!(!spins(&mut Spin::none()));
    }
}
