//! The descriptor whose far end closing ends a child.
//!
//! # Protocol
//!
//! Each child has a pipe of its own on which nothing is ever sent. The parent holds the write end; the child holds
//! the read end and arms it: `O_ASYNC`, `F_SETOWN` to itself, `F_SETSIG` to SIGKILL. When the last write end closes,
//! because the parent dropped it or died in whatever way, the kernel kills the child; no thread watches.
//!
//! 1. The child arms before it runs anything of the user's, and polls once afterwards for a hang-up that came before.
//! 2. A pipe belongs to one child: the signal's owner is a property of the open file description, so a second child
//!    that armed the same pipe would take it over.
//! 3. After every change of credentials it is armed again, or the signal is refused.
//! 4. The write end is close-on-exec and closed in forked siblings (`children`), or they would keep a child alive.
//!
//! A foreign `fork` without `exec` in the parent is covered by 4 as long as it runs `pthread_atfork` handlers; a raw
//! `clone` is not, and keeps the children until it ends.
#![expect(unsafe_code, reason = "F_SETSIG is not in rustix")]

use procession_sys::{OverFork, hooks};
use rustix::{
    event::{PollFd, PollFlags},
    fs::OFlags,
    pipe::{PipeFlags, pipe_with},
};
use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::atomic::{AtomicU64, Ordering},
};

/// The end that the parent keeps; dropping it kills the child. The descriptor lies in [`HELD`] from its first moment.
#[derive(Debug)]
pub(crate) struct Keeper(u64);

/// All write ends of this process. The lock is held over every fork (`children`).
static HELD: OverFork<BTreeMap<u64, OwnedFd>> = OverFork::new(BTreeMap::new());

/// Registers that a forked child closes all write ends, or it would keep its siblings alive.
pub(crate) fn prepare() {
    hooks::around_fork(hooks::ForkHooks {
        before: Some(|| HELD.hold()),
        in_parent: Some(|| HELD.release()),
        in_child: Some(|| HELD.reset(BTreeMap::clear)),
    });
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // In a forked child it is closed already.
        HELD.lock().remove(&self.0);
    }
}

/// `F_SETSIG` of `fcntl(2)`, the same on every architecture, which libc leaves out.
const F_SETSIG: i32 = 10;

/// Makes a lifeline: the child's end, and the parent's.
pub(crate) fn pair() -> io::Result<(OwnedFd, Keeper)> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    // Under the lock, so that no fork comes between.
    let mut held = HELD.lock();
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    held.insert(id, write);
    Ok((read, Keeper(id)))
}

/// Arms the child's end for this process. Returns false if the parent is gone already.
pub(crate) fn arm(end: BorrowedFd<'_>) -> io::Result<bool> {
    let fd = end.as_raw_fd();
    let call = |command: i32, argument: i32| {
        // SAFETY: the descriptor is open, and both commands take a number.
        let result = unsafe { libc::fcntl(fd, command, argument) };
        if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
    };
    call(F_SETSIG, libc::SIGKILL)?;
    call(libc::F_SETOWN, rustix::process::getpid().as_raw_nonzero().get())?;
    let flags = rustix::fs::fcntl_getfl(end)?;
    rustix::fs::fcntl_setfl(end, flags | OFlags::from_bits_retain(libc::O_ASYNC as u32) | OFlags::NONBLOCK)?;
    let mut poll = [PollFd::from_borrowed_fd(end.as_fd(), PollFlags::IN)];
    procession_sys::fd::look(&mut poll)?;
    Ok(!poll[0].revents().contains(PollFlags::HUP))
}
