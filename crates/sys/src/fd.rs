//! Waiting for descriptors.

use crate::Deadline;
use rustix::event::{PollFd, PollFlags, poll};
use std::{io, os::fd::BorrowedFd};

/// Waits until one of `fds` is ready for what it asks (or has hung up, or failed), or until `deadline`.
///
/// Returns how many are ready, 0 at the deadline. Interruptions by signals are waited through.
///
/// # Errors
///
/// What `poll(2)` reports, ENOMEM for example.
pub fn wait(fds: &mut [PollFd<'_>], deadline: Option<Deadline>) -> io::Result<usize> {
    loop {
        match poll(fds, Deadline::timespec(deadline).as_ref()) {
            Ok(ready) => return Ok(ready),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Looks which of `fds` are ready, without waiting. Returns how many are.
///
/// # Errors
///
/// What `poll(2)` reports.
pub fn look(fds: &mut [PollFd<'_>]) -> io::Result<usize> {
    let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
    loop {
        match poll(fds, Some(&now)) {
            Ok(ready) => return Ok(ready),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Waits until `fd` can be read, has hung up or failed; false at the deadline.
///
/// # Errors
///
/// What `poll(2)` reports.
pub fn readable(fd: BorrowedFd<'_>, deadline: Option<Deadline>) -> io::Result<bool> {
    wait(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], deadline).map(|ready| ready > 0)
}

/// Waits until `fd` can be written, has hung up or failed; false at the deadline.
///
/// # Errors
///
/// What `poll(2)` reports.
pub fn writable(fd: BorrowedFd<'_>, deadline: Option<Deadline>) -> io::Result<bool> {
    wait(&mut [PollFd::from_borrowed_fd(fd, PollFlags::OUT)], deadline).map(|ready| ready > 0)
}
