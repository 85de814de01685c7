//! What a worker lets be seen of itself in memory that it shares with its pool: how long it has worked, since when it is at
//! it, and the longest of what it ran. It costs nobody a message, and can be read at any time, also in the middle of a long
//! item.
//!
//! # Words
//!
//! | word | means |
//! |---|---|
//! | `round` | odd while the others are being changed |
//! | `at_work` | not 0: it works, since `since` without having told |
//! | `ready` | when it became ready, in nanoseconds of the monotonic clock; 0 before |
//! | `busy` | how long it has worked until `since`, in nanoseconds |
//! | `since` | when it last read the clock |
//! | `task`, `function` | when it began the task in hand, and of which function, where a timeline is kept |
//! | `slow` | the longest stretches of work: function, items, nanoseconds |
//!
//! # Protocol
//!
//! A sequence lock with one writer, the worker. It writes when it has read the clock anyway, which it does about every 5 µs
//! of work or after each longer item, and before and after it sleeps.
//!
//! # When a process dies
//!
//! A worker killed between its two stores of `round` leaves it odd. Who reads gives up waiting after some tries, and takes
//! the words as they are: each is whole, and together they are wrong by one stretch of work at most. A worker that
//! writes nonsense spoils nothing but the statistics; sums saturate.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// How many of the longest stretches are kept.
const SLOWEST: usize = 8;
/// How often a reader tries to find the words at rest.
const TRIES: u32 = 100;

/// All zero is a fresh one.
#[repr(C, align(128))]
#[derive(Debug, Default)]
pub(super) struct Pulse {
    round: AtomicU32,
    at_work: AtomicU32,
    ready: AtomicU64,
    busy: AtomicU64,
    since: AtomicU64,
    task: AtomicU64,
    function: AtomicU32,
    slow: [[AtomicU64; 3]; SLOWEST],
}

/// The words at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Beat {
    /// When it became ready, if it has.
    pub(super) ready: Option<u64>,
    /// How long it has worked, the stretch that it is in included.
    pub(super) busy: u64,
    /// Items that took long: function, how many were measured together, and how long they took.
    pub(super) slow: Vec<(u32, u32, u64)>,
}

impl Pulse {
    // --- the worker ---

    fn change(&self, change: impl FnOnce(&Pulse)) {
        let round = self.round.load(Ordering::Relaxed);
        self.round.store(round | 1, Ordering::Relaxed);
        fence(Ordering::Release);
        change(self);
        self.round.store((round | 1).wrapping_add(1), Ordering::Release);
    }

    /// It is ready.
    pub(super) fn ready(&self, now: u64) {
        self.ready.store(now.max(1), Ordering::Relaxed);
    }

    /// It has nothing to do.
    pub(super) fn rest(&self) {
        self.at_work.store(0, Ordering::Relaxed);
    }

    /// It has something to do, or does not count the time until `now` as work.
    pub(super) fn work(&self, now: u64) {
        self.change(|pulse| {
            pulse.since.store(now, Ordering::Relaxed);
            pulse.at_work.store(1, Ordering::Relaxed);
        });
    }

    /// It has worked for `busy` altogether until `now`, the last stretch on `items` items of `function`.
    pub(super) fn tell(&self, busy: u64, now: u64, last: (Option<u32>, u32, u64)) {
        self.change(|pulse| {
            pulse.busy.store(busy, Ordering::Relaxed);
            pulse.since.store(now, Ordering::Relaxed);
            if let (Some(function), items @ 1.., nanos) = last {
                pulse.note(function, items, nanos);
            }
        });
    }

    /// Keeps a stretch, if it was longer per item than one of those that are kept.
    fn note(&self, function: u32, items: u32, nanos: u64) {
        let each = |entry: &[AtomicU64; 3]| {
            entry[2].load(Ordering::Relaxed) / entry[1].load(Ordering::Relaxed).max(1)
        };
        let Some(least) = self.slow.iter().min_by_key(|entry| each(entry)) else { return };
        if nanos / u64::from(items) > each(least) {
            least[0].store(u64::from(function), Ordering::Relaxed);
            least[1].store(u64::from(items), Ordering::Relaxed);
            least[2].store(nanos, Ordering::Relaxed);
        }
    }

    /// It begins a task, or with 0 has ended one. Only where a timeline is kept.
    pub(super) fn task(&self, function: u32, began: u64) {
        self.function.store(function, Ordering::Relaxed);
        self.task.store(began, Ordering::Release);
    }

    // --- the parent ---

    /// The function of the task in hand, and when that was begun. Of a worker that is dead.
    pub(super) fn began(&self) -> Option<(u32, u64)> {
        let began = Some(self.task.load(Ordering::Acquire)).filter(|began| *began > 0)?;
        Some((self.function.load(Ordering::Relaxed), began))
    }

    /// What can be seen at the moment `now`; of a worker that is dead, what was seen last.
    pub(super) fn read(&self, now: Option<u64>) -> Beat {
        let mut busy = 0;
        let mut slow = Vec::new();
        for _ in 0..TRIES {
            let round = self.round.load(Ordering::Acquire);
            busy = self.busy.load(Ordering::Relaxed);
            let since = self.since.load(Ordering::Relaxed);
            if let (Some(now), true) = (now, self.at_work.load(Ordering::Relaxed) != 0) {
                busy = busy.saturating_add(now.saturating_sub(since));
            }
            slow.clear();
            let entries = self.slow.iter().map(|entry| entry.each_ref().map(|it| it.load(Ordering::Relaxed)));
            slow.extend(entries.filter(|entry| entry[1] > 0).map(|[f, i, n]| (f as u32, i as u32, n)));
            fence(Ordering::Acquire);
            if round & 1 == 0 && self.round.load(Ordering::Relaxed) == round {
                break;
            }
            std::hint::spin_loop();
        }
        let ready = Some(self.ready.load(Ordering::Relaxed)).filter(|ready| *ready > 0);
        Beat { ready, busy, slow }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_counted_while_it_goes_on_and_rest_is_not() {
        let pulse = Pulse::default();
        assert_eq!(pulse.read(Some(99)), Beat::default());
        pulse.ready(10);
        pulse.work(100);
        assert_eq!((pulse.read(Some(130)).busy, pulse.read(None).busy), (30, 0));
        pulse.tell(50, 150, (Some(3), 2, 50));
        assert_eq!(pulse.read(Some(151)).busy, 51);
        pulse.rest();
        assert_eq!(pulse.read(Some(1000)), Beat { ready: Some(10), busy: 50, slow: vec![(3, 2, 50)] });
        pulse.work(2000);
        assert_eq!(pulse.read(Some(2001)).busy, 51);
    }

    #[test]
    fn of_all_stretches_those_with_the_slowest_items_are_kept() {
        let pulse = Pulse::default();
        for nanos in (1..=100).chain([7, 3]) {
            pulse.tell(0, 0, (Some(0), 1, nanos));
        }
        pulse.tell(0, 0, (Some(1), 1000, 5000));
        let mut slow: Vec<u64> = pulse.read(None).slow.iter().map(|it| it.2).collect();
        slow.sort_unstable();
        assert_eq!(slow, (93..=100).collect::<Vec<_>>());
    }

    #[test]
    fn a_worker_that_died_in_the_middle_of_a_change_can_be_read() {
        let pulse = Pulse::default();
        pulse.tell(50, 150, (None, 0, 0));
        pulse.round.fetch_or(1, Ordering::Relaxed);
        assert_eq!(pulse.read(None).busy, 50);
        // And so can the next change be made.
        pulse.tell(60, 160, (None, 0, 0));
        assert_eq!(pulse.read(None).busy, 60);
    }
}
