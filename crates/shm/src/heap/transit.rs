//! Proof that a parcel with something of the heap in it still exists.
//!
//! What is inside a parcel is owned by a token. The descriptor that travels with it is a file description of the arena
//! that was opened for this way alone, and holds a lock (`F_OFD_SETLK`) on the byte `LOCKS` + token, beyond every size
//! and beyond the bytes by which members prove their lives. All copies of the descriptor share the lock: those in the
//! sender, in a socket's queue, in the receiver. When the last of them is closed, by whomever, or goes with a killed
//! process or a closed socket, the kernel lets the lock go.
//!
//! # Invariants
//!
//! 1. The lock is held before a word names the token, and until the word names it no more, unless all holders died.
//! 2. A token is used once: a lock that is gone never comes back.
//!
//! A forked child has copies of its parent's descriptors until it ends or executes a program. As long as it keeps one
//! whose parcel was lost, the block stays in transit: freed late, never early.
#![expect(unsafe_code, reason = "locks of file descriptions")]

use super::{
    arena::{Arena, reopen},
    word::Token,
};
use crate::Error;
use rustix::io::Errno;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Where the bytes lie on which parcels hold locks. Tokens have 48 bits, members lie at `1 << 62`.
const LOCKS: i64 = 1 << 61;

fn record(token: Token) -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: LOCKS + token.number() as i64,
        l_len: 1,
        l_pid: 0,
    }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL)
}

/// A description of the arena that holds the lock of `token`.
pub(crate) fn depart(arena: &Arena, token: Token) -> Result<OwnedFd, Error> {
    const SEND: &str = "send a block of";
    let description = reopen(SEND, arena.as_fd())?;
    let record = record(token);
    // SAFETY: the descriptor is open, and the record is a whole one.
    let result = unsafe { libc::fcntl(description.as_raw_fd(), libc::F_OFD_SETLK, &raw const record) };
    if result == 0 {
        return Ok(description);
    }
    Err(Error::os(SEND, arena.name(), "fcntl(F_OFD_SETLK)", last_errno()))
}

/// Whether a description other than that of `fd` holds the lock of `token`. Where the kernel gives no answer it counts
/// as held.
pub(crate) fn is_under_way(fd: BorrowedFd<'_>, token: Token) -> bool {
    let mut record = record(token);
    // SAFETY: the descriptor is open, and the record is a whole one, which the call writes.
    let result = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_GETLK, &raw mut record) };
    result != 0 || record.l_type != libc::F_UNLCK as libc::c_short
}
