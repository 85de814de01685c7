//! Absolute deadlines on the monotonic clock.

use core::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The longest time for which anyone sleeps before looking at the state and its owners again.
///
/// A waker may be killed between its commit and its wake, so a sleeper must find out by itself. At this length a
/// blocked process wakes four times a second, which costs under 0.1 % of a core.
pub const SLICE: Duration = Duration::from_millis(250);

/// [`SLICE`] in nanoseconds, unless a test has shortened it.
static LENGTH: AtomicU64 = AtomicU64::new(SLICE.as_nanos() as u64);

/// How long this process sleeps at the longest: [`SLICE`].
#[must_use]
pub fn slice_length() -> Duration {
    Duration::from_nanos(LENGTH.load(Ordering::Relaxed))
}

/// For tests: what sleeps in this process, and in those that it forks, looks after this time, so that a thousand deaths are
/// found out about in seconds. Nothing may depend on how long it is.
#[doc(hidden)]
pub fn shorten_slices(length: Duration) {
    LENGTH.store(length.min(SLICE).as_nanos() as u64, Ordering::Relaxed);
}

/// A point in time on `CLOCK_MONOTONIC`, in nanoseconds.
///
/// The same point means the same in every process of one machine and boot, so a deadline may be passed on.
/// It survives interruptions: a wait that is resumed keeps its deadline.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Deadline {
    nanos: u64,
}

impl Deadline {
    /// The current time.
    #[must_use]
    pub fn now() -> Deadline {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        // Both parts of the monotonic clock are never negative.
        Deadline {
            nanos: (now.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(now.tv_nsec as u64),
        }
    }

    /// The time `timeout` from now. A timeout too long for the clock gives a deadline that never comes.
    #[must_use]
    pub fn after(timeout: Duration) -> Deadline {
        let nanos = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        Deadline { nanos: Deadline::now().nanos.saturating_add(nanos) }
    }

    /// The time `span` after this one.
    #[must_use]
    pub fn plus(self, span: Duration) -> Deadline {
        let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        Deadline { nanos: self.nanos.saturating_add(nanos) }
    }

    /// The same point in time as `instant`.
    #[must_use]
    pub fn at(instant: Instant) -> Deadline {
        Deadline::after(instant.saturating_duration_since(Instant::now()))
    }

    /// Whether the time has come.
    #[must_use]
    pub fn passed(self) -> bool {
        Deadline::now() >= self
    }

    /// The time left, zero if it has come.
    #[must_use]
    pub fn remaining(self) -> Duration {
        Duration::from_nanos(self.nanos.saturating_sub(Deadline::now().nanos))
    }

    /// Nanoseconds since the clock's origin (the boot of the machine).
    #[must_use]
    pub fn as_nanos(self) -> u64 {
        self.nanos
    }

    /// The deadline at this many nanoseconds since the clock's origin.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Deadline {
        Deadline { nanos }
    }

    /// The end of one slice of sleep: [`SLICE`] from now, or `deadline` if that is earlier.
    #[must_use]
    pub fn slice(deadline: Option<Deadline>) -> Deadline {
        let slice = Deadline::after(slice_length());
        deadline.map_or(slice, |deadline| deadline.min(slice))
    }

    /// What `poll(2)` and `ppoll(2)` take: the time left, or nothing for a wait without end.
    #[must_use]
    pub fn timespec(deadline: Option<Deadline>) -> Option<rustix::time::Timespec> {
        deadline.map(|deadline| {
            let left = deadline.remaining();
            rustix::time::Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(left.subsec_nanos()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_beyond_the_clock_never_comes() {
        assert!(!Deadline::after(Duration::MAX).passed());
        assert_eq!(Deadline::after(Duration::MAX).as_nanos(), u64::MAX);
    }

    #[test]
    fn a_slice_ends_at_the_earlier_of_the_two() {
        let soon = Deadline::after(Duration::from_millis(1));
        assert_eq!(Deadline::slice(Some(soon)), soon);
        assert!(Deadline::slice(None).remaining() <= SLICE);
        assert!(Deadline::slice(Some(Deadline::after(Duration::from_secs(9)))).remaining() <= SLICE);
    }
}
