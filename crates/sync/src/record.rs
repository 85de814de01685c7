//! Locks on ranges of a segment that belong to a descriptor: open file description locks (`fcntl(2)`, `F_OFD_SETLK`).
//!
//! The kernel lets go of them when the last descriptor of the description is closed, so with the process at the latest;
//! a descriptor that lies in a socket keeps them. They are all beyond any size that a segment can have.
#![expect(unsafe_code, reason = "fcntl with a record")]

use core::ops::Range;
use procession_shm::Segment;
use rustix::{fs::OFlags, io::Errno};
use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
};

/// What a lock on a range says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Says {
    /// It has this owner. Exclusive.
    Owned,
    /// It is on its way, to whoever claims it first. Exclusive too.
    OnItsWay,
}

impl Says {
    fn start(self) -> i64 {
        match self {
            Says::Owned => 1 << 61,
            Says::OnItsWay => 1 << 60,
        }
    }
}

/// A description of one's own: a duplicate of the segment's descriptor would share its description with everybody.
pub(crate) fn description(segment: &Segment) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", segment.fd().as_raw_fd());
    rustix::fs::open(&path, OFlags::RDWR | OFlags::CLOEXEC, rustix::fs::Mode::empty()).map_err(|errno| {
        match errno {
            Errno::NOENT | Errno::NOTDIR => io::Error::new(
                io::ErrorKind::Unsupported,
                format!("{path} cannot be opened (is /proc mounted?)"),
            ),
            errno => errno.into(),
        }
    })
}

fn record(kind: i32, says: Says, bytes: &Range<usize>) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: says.start() + bytes.start as i64,
        l_len: bytes.len() as i64,
        l_pid: 0,
    }
}

/// Takes a lock; false if somebody else's is in the way.
pub(crate) fn lock(fd: BorrowedFd<'_>, says: Says, bytes: &Range<usize>) -> io::Result<bool> {
    let record = record(libc::F_WRLCK, says, bytes);
    // SAFETY: an open descriptor and a whole record.
    match unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_SETLK, &raw const record) } {
        0 => Ok(true),
        _ => match io::Error::last_os_error() {
            error if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
            error => Err(error),
        },
    }
}

pub(crate) fn unlock(fd: BorrowedFd<'_>, says: Says, bytes: &Range<usize>) {
    let record = record(libc::F_UNLCK, says, bytes);
    // SAFETY: as in `lock`. It fails for a bad descriptor only.
    unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_SETLK, &raw const record) };
}

/// The range of a lock within `bytes`, of another description than that of `fd`.
pub(crate) fn find(fd: BorrowedFd<'_>, says: Says, bytes: &Range<usize>) -> io::Result<Option<Range<usize>>> {
    let mut record = record(libc::F_WRLCK, says, bytes);
    // SAFETY: an open descriptor and a whole record, which the call writes.
    if unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_GETLK, &raw mut record) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if record.l_type == libc::F_UNLCK as libc::c_short {
        return Ok(None);
    }
    let start = usize::try_from(record.l_start - says.start()).unwrap_or(0);
    Ok(Some(start..start.saturating_add(usize::try_from(record.l_len).unwrap_or(0))))
}
