//! Waiting for what can be observed, never for the clock: each wait has a generous limit, scaled as all are.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::watchdog::scaled;

/// Waits until the process behind `pidfd` has ended, and tells whether it did within `limit`. Zombies have ended;
/// nothing is reaped.
///
/// # Errors
///
/// If the descriptor cannot be polled.
pub fn ended(pidfd: impl AsFd, limit: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + scaled(limit);
    let mut watched = [PollFd::new(&pidfd, PollFlags::IN)];
    loop {
        let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now())).ok();
        match poll(&mut watched, left.as_ref()) {
            Ok(count) => return Ok(count > 0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Waits until a thread of this process sleeps in the kernel, on a futex. Where the kernel does not tell it does not wait.
///
/// # Panics
///
/// If that takes longer than `limit`.
#[track_caller]
pub fn asleep(tid: u32, limit: Duration) {
    let call = format!("/proc/self/task/{tid}/syscall");
    let number = format!("{} ", libc::SYS_futex);
    eventually("it sleeps on a futex", limit, || match fs::read_to_string(&call) {
        Ok(text) => text.starts_with(&number),
        // Not every kernel tells.
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    });
}

/// Looks at a state every millisecond until `seen` says that it is there.
///
/// # Panics
///
/// If that takes longer than `limit`; `what` names it in the message.
#[track_caller]
pub fn eventually(what: &str, limit: Duration, mut seen: impl FnMut() -> bool) {
    let deadline = Instant::now() + scaled(limit);
    while !seen() {
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}
