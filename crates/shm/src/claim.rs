//! Locks that live as long as a descriptor, whoever has it: the only proof of life that needs no clock, no pid and no
//! bookkeeping.
//!
//! A *claim* is a lock (`fcntl(2)`, `F_OFD_SETLK`) on a byte far beyond every size, held by a file description that was
//! opened for it alone. All copies of the descriptor share it: those in a process, in a parcel in a socket's queue, in the
//! process that receives it. When the last of them is closed, by whomever, or goes with a killed process or a closed
//! socket, the kernel lets the lock go.
//!
//! # Forks
//!
//! A forked child has copies of its parent's descriptors until it ends or executes a program. So long a claim of its
//! parent lives on: a death is then found late, never early.
#![expect(unsafe_code, reason = "locks of file descriptions")]

use crate::{Error, Segment, error::Cause};
use rustix::{fs::OFlags, io::Errno};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Where the claims of [`Segment::claim`] lie: members lie at `1 << 62`, the heap's tokens in 48 bits from `1 << 61` on.
const CLAIMS: i64 = (1 << 61) + (1 << 52);

fn record(kind: libc::c_int, byte: i64, len: i64) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte,
        l_len: len,
        l_pid: 0,
    }
}

/// Takes the lock on a byte for the description of `fd`.
pub(crate) fn lock(fd: BorrowedFd<'_>, byte: i64) -> Result<(), Errno> {
    let record = record(libc::F_WRLCK, byte, 1);
    // SAFETY: the descriptor is open, and the record is a whole one.
    let result = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_SETLK, &raw const record) };
    if result == 0 {
        return Ok(());
    }
    Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL))
}

/// Lets go of the lock on a byte, also if another process has a copy of the descriptor.
pub(crate) fn unlock(fd: BorrowedFd<'_>, byte: i64) {
    let record = record(libc::F_UNLCK, byte, 1);
    // SAFETY: as in `lock`. It can fail only for want of memory to split a range, which one byte is not.
    unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_SETLK, &raw const record) };
}

/// Whether a description other than that of `fd` holds the lock on a byte. Where the kernel gives no answer it counts as
/// held.
pub(crate) fn is_locked(fd: BorrowedFd<'_>, byte: i64) -> bool {
    is_any_locked(fd, byte, 1)
}

/// As [`is_locked`], on any of `len` bytes.
pub(crate) fn is_any_locked(fd: BorrowedFd<'_>, byte: i64, len: i64) -> bool {
    let mut record = record(libc::F_WRLCK, byte, len);
    // SAFETY: the descriptor is open, and the record is a whole one, which the call writes.
    let result = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_GETLK, &raw mut record) };
    result != 0 || record.l_type != libc::F_UNLCK as libc::c_short
}

/// A new description of the object behind `fd`, which only its holders' copies share.
pub(crate) fn reopen(
    operation: &'static str,
    fd: BorrowedFd<'_>,
    name: impl Fn() -> String,
) -> Result<OwnedFd, Error> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    rustix::fs::open(&path, flags, rustix::fs::Mode::empty()).map_err(|errno| match errno {
        Errno::NOENT | Errno::NOTDIR => {
            let call = "open of /proc/self/fd (is /proc mounted?)";
            Error::new(operation, name(), Cause::Unsupported { call, errno })
        }
        errno => Error::os(operation, name(), "open of /proc/self/fd", errno),
    })
}

impl Segment {
    /// Claims a number in this segment: it is [claimed](Segment::is_claimed) until the last copy of the descriptor that is
    /// returned is closed, in any process, or by a process's end.
    ///
    /// The descriptor goes to other processes inside parcels, and the claim with it. It must not be used to attach the
    /// segment, since the description that holds a claim does not see it.
    ///
    /// Costs a descriptor and some microseconds.
    ///
    /// # Errors
    ///
    /// * no descriptor is left;
    /// * `/proc` is not mounted, through which a description of one's own is opened;
    /// * somebody has claimed the number.
    pub fn claim(&self, number: u32) -> Result<OwnedFd, Error> {
        const CLAIM: &str = "claim a number in";
        let name = || format!("(fd {})", self.fd().as_raw_fd());
        let description = reopen(CLAIM, self.fd(), name)?;
        lock(description.as_fd(), CLAIMS + i64::from(number))
            .map_err(|errno| Error::os(CLAIM, name(), "fcntl(F_OFD_SETLK)", errno))?;
        Ok(description)
    }

    /// Whether a claim on this number lives: one system call.
    ///
    /// Where the kernel gives no answer it counts as living.
    #[must_use]
    pub fn is_claimed(&self, number: u32) -> bool {
        is_locked(self.fd(), CLAIMS + i64::from(number))
    }
}
