//! A receiver that keeps up with its sender lets it get ahead.
//!
//! Where each message is taken as soon as it is there, each commit and each frame moves a cache line between two cores, and the
//! receiver's looks at the tail take that line from the sender at every message: some 120 ns a message, whatever the two do
//! beside it. Where the sender is some messages ahead the lines move once for many of them. Nothing brings two sides from the one
//! state to the other but chance. So a receiver that finds messages come one right behind the other, [`STREAK`] times running,
//! leaves the lane alone for a moment ([`PAUSE`]) before it looks again, and takes together what has come meanwhile.
//!
//! A message that answers one of the receiver's own takes longer than [`QUICK`] looks, and one that was slept for, or that came when
//! others were given way to, counts as slow; so round trips are not delayed. Where a pause has brought fewer than [`ENOUGH`]
//! messages of the size that came before, the sender is slow by itself, and there is none for the next [`REST`] waits.

use procession_sys::{Deadline, sync::spin_loop};

/// A wait that ends within so many looks, 25 to 50 ns each, was for a message that came right behind another.
const QUICK: u32 = 4;
/// After so many of those in a row there is a pause.
const STREAK: u32 = 8;
/// Its length in nanoseconds.
const PAUSE: u64 = 250;
/// How many messages a pause is to bring.
const ENOUGH: u64 = 4;
/// How many waits there are no pauses after one that brought less.
const REST: u32 = 1024;

#[derive(Debug, Default)]
pub(super) struct Pace {
    /// How many quick waits there were in a row.
    quick: u32,
    /// How many more waits there is no pause, whatever they are like.
    rest: u32,
    /// Where the receiver was at its last wait: in the ring, and in messages.
    head: u64,
    taken: u64,
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

    /// How many messages are in so many bytes, if they are as large as those since the last wait.
    pub(super) fn messages(&self, bytes: u64, head: u64, taken: u64) -> u64 {
        let (size, count) = (head.wrapping_sub(self.head), taken.wrapping_sub(self.taken));
        bytes.saturating_mul(count) / size.max(1)
    }

    /// After a wait at such a place that so many looks ended, or something slower; if there was a pause before it, that has
    /// brought so many messages.
    #[inline]
    pub(super) fn learn(&mut self, (head, taken): (u64, u64), looks: Option<u32>, paused_for: Option<u64>) {
        (self.head, self.taken) = (head, taken);
        if paused_for.is_some_and(|messages| messages < ENOUGH) {
            (self.quick, self.rest) = (0, REST);
        } else if self.rest > 0 {
            self.rest -= 1;
        } else if looks.is_none_or(|looks| looks > QUICK) {
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
            pace.learn((0, 0), Some(QUICK), None);
        }
        let before = Deadline::now().as_nanos();
        assert!(pace.pause());
        assert!(Deadline::now().as_nanos() - before >= PAUSE);
        pace.learn((0, 0), Some(0), Some(ENOUGH));
        assert!(pace.pause(), "it was worth while");
    }

    #[test]
    fn an_answer_is_not_waited_for_longer_and_ends_a_streak() {
        let mut pace = Pace::default();
        for round in 0..10 * STREAK {
            let slow = if round % 2 == 0 { Some(QUICK + 1) } else { None };
            assert!(!pace.pause(), "round {round}");
            pace.learn((0, 0), if round % STREAK == 0 { slow } else { Some(0) }, None);
        }
    }

    #[test]
    fn a_sender_that_is_slow_by_itself_is_not_paused_for_again_soon() {
        let mut pace = Pace { quick: STREAK, ..Pace::default() };
        assert!(pace.pause());
        pace.learn((0, 0), Some(0), Some(ENOUGH - 1));
        for _ in 0..REST + STREAK {
            assert!(!pace.pause());
            pace.learn((0, 0), Some(0), None);
        }
        assert!(pace.pause());
    }

    #[test]
    fn what_a_pause_brought_is_counted_in_messages_of_the_size_that_came_before() {
        let mut pace = Pace::default();
        pace.learn((1_000, 10), Some(0), None);
        assert_eq!(pace.messages(400, 1_200, 12), 4);
        assert_eq!(pace.messages(99, 1_200, 12), 0);
        assert_eq!(pace.messages(100, 1_000, 10), 0, "nothing came before");
    }
}
