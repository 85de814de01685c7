//! What tells a pool that the time for something has come, though nobody may be waiting.

use super::slot::Alarm;
use procession_process::watch::{self, WatchId};
use procession_sys::Deadline;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

/// One alarm in the future at a time, the earliest that is wanted.
///
/// It costs system calls only when an earlier time is wanted than before, or after the alarm: in a stream of tasks with
/// limits, that is once per limit.
#[derive(Debug, Default)]
pub(super) struct Timer {
    armed: Option<(Deadline, Option<WatchId>)>,
}

impl Timer {
    /// Rings `alarm` at `at`, or earlier.
    pub(super) fn arm(&mut self, at: Deadline, alarm: &Arc<Alarm>) {
        // One that has rung, or is about to, is of no use for what comes later.
        if self.armed.is_some_and(|(armed, _)| armed <= at && !armed.passed()) {
            return;
        }
        self.disarm();
        // Without a timer, it is seen by whoever waits next.
        let timer = timer(at.remaining()).and_then(|timer| watch::watch(timer.as_fd(), alarm.callback()));
        self.armed = Some((at, timer.ok()));
    }

    /// Rings `alarm` after `span`, or earlier.
    pub(super) fn arm_within(&mut self, span: Duration, alarm: &Arc<Alarm>) {
        self.arm(Deadline::after(span), alarm);
    }

    pub(super) fn disarm(&mut self) {
        if let Some((_, Some(timer))) = self.armed.take() {
            watch::unwatch(timer);
        }
    }
}

/// A descriptor that is readable once `delay` has passed.
fn timer(delay: Duration) -> io::Result<OwnedFd> {
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
    // Zero would be never.
    let delay = delay.max(Duration::from_nanos(1));
    // Too long for the clock is longer than anybody waits.
    let it_value = Timespec::try_from(delay).unwrap_or(Timespec { tv_sec: i64::from(u32::MAX), tv_nsec: 0 });
    let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &once)?;
    Ok(timer)
}
