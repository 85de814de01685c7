//! A receiver that keeps up with its sender lets it get ahead.
//!
//! Where each message is taken as soon as it is there, each commit and each frame moves a cache line between two cores, and the
//! receiver's looks at the tail take that line from the sender at every message: some 120 ns a message, whatever the two do
//! beside it. Where the sender is some messages ahead the lines move once for many of them. Nothing brings two sides from the one
//! state to the other but chance. So a receiver that finds messages come one right behind the other, [`STREAK`] times running,
//! leaves the lane alone for a moment ([`PAUSE`]) before it looks again, and takes together what has come meanwhile.
//!
//! A message that answers one of the receiver's own takes longer than [`QUICK`] looks, so round trips are not delayed. Where a
//! pause has brought only a message or two the sender is slow by itself, and there is none for the next [`REST`] waits.

use procession_sys::{Deadline, sync::spin_loop};

/// A wait that ends within so many looks, 25 to 50 ns each, was for a message that came right behind another.
const QUICK: u32 = 4;
/// After so many of those in a row there is a pause.
const STREAK: u32 = 8;
/// Its length in nanoseconds.
const PAUSE: u64 = 250;
/// What a pause is to bring: four small messages, in bytes of the ring.
const ENOUGH: u64 = 96;
/// How many waits there are no pauses after one that brought less.
const REST: u32 = 1024;

#[derive(Debug, Default)]
pub(super) struct Pace {
    /// How many quick waits there were in a row.
    quick: u32,
    /// How many more waits there is no pause, whatever they are like.
    rest: u32,
}

impl Pace {
    /// Before a look for more: pauses, and then tells that, if that is worth while.
    #[inline]
    pub(super) fn pause(&self) -> bool {
        let pauses = self.quick >= STREAK;
        if pauses {
            let end = Deadline::now().as_nanos() + PAUSE;
            while Deadline::now().as_nanos() < end {
                spin_loop();
            }
        }
        pauses
    }

    /// After a wait of so many looks; if there was a pause before it, it has brought so many bytes.
    #[inline]
    pub(super) fn learn(&mut self, looks: u32, paused_for: Option<u64>) {
        if paused_for.is_some_and(|bytes| bytes < ENOUGH) {
            (self.quick, self.rest) = (0, REST);
        } else if self.rest > 0 {
            self.rest -= 1;
        } else if looks > QUICK {
            self.quick = 0;
        } else if self.quick < STREAK {
            self.quick += 1;
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn messages_that_come_one_right_behind_the_other_are_waited_for_together() {
        let mut pace = Pace::default();
        for _ in 0..STREAK {
            assert!(!pace.pause());
            pace.learn(QUICK, None);
        }
        let before = Deadline::now().as_nanos();
        assert!(pace.pause());
        assert!(Deadline::now().as_nanos() - before >= PAUSE);
        pace.learn(0, Some(ENOUGH));
        assert!(pace.pause(), "it was worth while");
    }

    #[test]
    fn an_answer_is_not_waited_for_longer_and_ends_a_streak() {
        let mut pace = Pace::default();
        for round in 0..10 * STREAK {
            assert!(!pace.pause(), "round {round}");
            pace.learn(if round % STREAK == 0 { QUICK + 1 } else { 0 }, None);
        }
    }

    #[test]
    fn a_sender_that_is_slow_by_itself_is_not_paused_for_again_soon() {
        let mut pace = Pace { quick: STREAK, rest: 0 };
        assert!(pace.pause());
        pace.learn(0, Some(ENOUGH - 1));
        for _ in 0..REST + STREAK {
            assert!(!pace.pause());
            pace.learn(0, None);
        }
        assert!(pace.pause());
    }
}
