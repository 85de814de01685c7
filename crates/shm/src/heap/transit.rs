//! Proof that a parcel with something of the heap in it still exists.
//!
//! What is inside a parcel is owned by a token. The descriptor that travels with it is a file description of the arena
//! that was opened for this way alone, and holds a lock (see `claim`) on the byte `LOCKS` + token, beyond every size
//! and beyond the bytes by which members prove their lives.
//!
//! # Invariants
//!
//! 1. The lock is held before a word names the token, and until the word names it no more, unless all holders died.
//! 2. A token is used once: a lock that is gone never comes back.
//!
//! A forked child has copies of its parent's descriptors until it ends or executes a program. As long as it keeps one
//! whose parcel was lost, the block stays in transit: freed late, never early.

use super::{
    arena::{Arena, reopen},
    word::Token,
};
use crate::{
    Error,
    claim::{is_any_locked, is_locked, lock, unlock},
};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Where the bytes lie on which parcels hold locks. Tokens have 48 bits, members lie at `1 << 62`.
const LOCKS: i64 = 1 << 61;

fn byte(token: Token) -> i64 {
    LOCKS + token.number() as i64
}

/// A description of the arena that holds the lock of `token`.
pub(crate) fn depart(arena: &Arena, token: Token) -> Result<OwnedFd, Error> {
    const SEND: &str = "send a block of";
    let description = reopen(SEND, arena.as_fd())?;
    lock(description.as_fd(), byte(token))
        .map_err(|errno| Error::os(SEND, arena.name(), "fcntl(F_OFD_SETLK)", errno))?;
    Ok(description)
}

/// Whether a description other than that of `fd` holds the lock of `token`. Where the kernel gives no answer it counts
/// as held.
pub(crate) fn is_under_way(fd: BorrowedFd<'_>, token: Token) -> bool {
    is_locked(fd, byte(token))
}

/// A description of the arena that holds the lock of `token`; `None` if another one has it.
pub(crate) fn hold(operation: &'static str, arena: &Arena, token: Token) -> Result<Option<OwnedFd>, Error> {
    let description = reopen(operation, arena.as_fd())?;
    match lock(description.as_fd(), byte(token)) {
        Ok(()) => Ok(Some(description)),
        Err(Errno::AGAIN | Errno::ACCESS) => Ok(None),
        Err(errno) => Err(Error::os(operation, arena.name(), "fcntl(F_OFD_SETLK)", errno)),
    }
}

/// Lets go of the lock of `token` that the description has.
pub(crate) fn let_go(description: OwnedFd, token: Token) {
    // Not by its end: a process that a raw `clone(2)` made may have a copy.
    unlock(description.as_fd(), byte(token));
}

/// As [`is_under_way`], for any of `count` tokens.
pub(crate) fn is_any_held(fd: BorrowedFd<'_>, first: Token, count: u64) -> bool {
    is_any_locked(fd, byte(first), i64::try_from(count).unwrap_or(i64::MAX >> 2))
}
