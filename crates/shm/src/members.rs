//! The processes that take part in a segment, by number.
//!
//! A structure in shared memory that must know who holds what writes small numbers, not pids: a pid can be used again,
//! and means nothing in another pid namespace. A *member* is a process's place in the table that lies in each segment's
//! first pages; a process becomes one when it first needs to ([`Segment::join`]).
//!
//! # Words
//!
//! | word | meaning |
//! |---|---|
//! | `table[n]` | 0: free. Else the pid of member `n`, as that process sees it, for messages only |
//! | lock on byte `LOCKS + n` of the object | held: member `n` lives |
//!
//! The lock is an open file description lock (`fcntl(2)`, `F_OFD_SETLK`): it belongs to a description that only this
//! process has, so the kernel lets it go when the process ends, however that happens, and not before. It lies beyond
//! every size that an object can have, so it is in nobody's way. Nothing else proves life: no pid, no `/proc` of another
//! process, no clock.
//!
//! # Protocol
//!
//! * Join: for a free `n`: take the lock on its byte (if somebody else has it, try the next); look at `table[n]` again;
//!   store the pid. When no word is free: take the lock on the byte of a dead member (which nobody holds), let the
//!   caller recover what that member held anywhere in the segment, then store the pid over the old one.
//! * Dead: the word is not 0, and nobody holds the lock.
//! * Leave: close the description. The word stays, so a member that has left is like a dead one: what it held, it does
//!   not hold any more.
//!
//! # Invariants
//!
//! 1. A number has one living owner at most: its lock.
//! 2. A number goes to a new owner only after everything that the last one left in the segment was recovered, under the
//!    number's lock.
//!
//! # When a process dies
//!
//! Between lock and store: the word is as it was. After the store: a dead member. In the middle of a recovery: the lock
//! is free and the word unchanged, so the next one recovers again; recoveries are made so that they can be repeated.
//!
//! # Forks
//!
//! A forked child has the description too, and would keep its parent's membership alive: a hook closes it in the child
//! and lets the child join anew. A child that was made behind the back of the hooks (a raw `clone`) does keep it until it
//! ends or executes a program.
#![expect(unsafe_code, reason = "locks of file descriptions, words in the mapping, descriptors by number")]

use crate::{
    Error, Segment,
    error::Cause,
    layout::{MEMBERS, TABLE},
};
use core::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};
use procession_sys::OverFork;
use rustix::io::Errno;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

/// Where the bytes lie on which members hold locks: far beyond any size.
const LOCKS: i64 = 1 << 62;

/// A process's number in a segment, from 0 to [`Member::COUNT`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Member(u16);

impl Member {
    /// How many processes can be members of one segment at a time.
    pub const COUNT: usize = MEMBERS;

    /// The number.
    #[must_use]
    pub fn index(self) -> usize {
        self.0.into()
    }

    /// The member with this number; `None` for a number that no member has.
    #[must_use]
    pub fn from_index(index: usize) -> Option<Member> {
        u16::try_from(index).ok().filter(|&index| usize::from(index) < MEMBERS).map(Member)
    }
}

/// What a mapping knows of this process's membership.
#[derive(Debug)]
pub(crate) struct Membership {
    /// The number and 1; 0 if this process is no member.
    number: AtomicU32,
    /// The description that holds the lock; -1 if there is none.
    description: AtomicI32,
}

/// Held while this process becomes a member of something, and over forks.
static JOINING: OverFork<()> = OverFork::new(());

impl Membership {
    pub(crate) const fn none() -> Membership {
        Membership { number: AtomicU32::new(0), description: AtomicI32::new(-1) }
    }

    #[inline]
    fn get(&self) -> Option<Member> {
        let number = self.number.load(Ordering::Acquire);
        // A number that was stored is one of a member.
        (number != 0).then(|| Member((number - 1) as u16))
    }

    fn set(&self, member: Member, description: OwnedFd) {
        self.description.store(description.into_raw_fd(), Ordering::Relaxed);
        self.number.store(u32::from(member.0) + 1, Ordering::Release);
    }

    /// Ends it, in this process: at the end of the mapping, and in a forked child, whose parent's it is.
    pub(crate) fn end(&self) {
        self.number.store(0, Ordering::Relaxed);
        if let Some(description) = self.leave() {
            close(description);
        }
    }

    /// Gives up the description without closing it: the membership lasts as long as that.
    pub(crate) fn leave(&self) -> Option<RawFd> {
        let description = self.description.swap(-1, Ordering::Relaxed);
        (description >= 0).then_some(description)
    }
}

/// Closes a description that [`Membership::leave`] gave.
pub(crate) fn close(description: RawFd) {
    // SAFETY: the number came from `into_raw_fd`, and the swap made the caller its only owner.
    drop(unsafe { OwnedFd::from_raw_fd(description) });
}

pub(crate) fn before_fork() {
    JOINING.hold();
}

pub(crate) fn after_fork_in_parent() {
    JOINING.release();
}

pub(crate) fn after_fork_in_child() {
    JOINING.reset(|()| ());
}

/// A lock record for one byte.
fn record(kind: i32, member: Member) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: LOCKS + i64::from(member.0),
        l_len: 1,
        l_pid: 0,
    }
}

/// Takes the lock of a number through `description`; false if somebody has it.
fn lock(description: BorrowedFd<'_>, member: Member) -> Result<bool, Errno> {
    let record = record(libc::F_WRLCK, member);
    // SAFETY: the descriptor is open, and the record is a whole one.
    let result = unsafe { libc::fcntl(description.as_raw_fd(), libc::F_OFD_SETLK, &raw const record) };
    match result {
        0 => Ok(true),
        _ => match last_errno() {
            Errno::AGAIN | Errno::ACCESS => Ok(false),
            errno => Err(errno),
        },
    }
}

fn unlock(description: BorrowedFd<'_>, member: Member) {
    let record = record(libc::F_UNLCK, member);
    // SAFETY: as in `lock`. Failing it would need a bad descriptor; the lock then goes with the description.
    unsafe { libc::fcntl(description.as_raw_fd(), libc::F_OFD_SETLK, &raw const record) };
}

/// Whether somebody else than the description of `fd` holds the lock of a number.
fn locked(fd: BorrowedFd<'_>, member: Member) -> Result<bool, Errno> {
    let mut record = record(libc::F_WRLCK, member);
    // SAFETY: the descriptor is open, and the record is a whole one, which the call writes.
    let result = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_GETLK, &raw mut record) };
    if result == 0 { Ok(record.l_type != libc::F_UNLCK as libc::c_short) } else { Err(last_errno()) }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL)
}

impl Segment {
    /// This process's number in this segment: claimed with the first call, and kept until the segment's last clone in
    /// this process is gone.
    ///
    /// `recover` is called when no number is free: with a dead member, of whom everything that the segment records of
    /// it is to be recovered; if it gives true, the number is this process's. It may be called again for a
    /// member whose recovery was cut short by a death. It must not join any segment.
    ///
    /// Costs a load, except for the first call, which costs some ten microseconds and a descriptor.
    ///
    /// # Errors
    ///
    /// * no descriptor is left;
    /// * `/proc` is not mounted, through which a description of one's own is opened;
    /// * [`Member::COUNT`] processes live that are members, or none of the dead could be recovered.
    #[inline]
    pub fn join(&self, recover: &mut dyn FnMut(Member) -> bool) -> Result<Member, Error> {
        match self.membership().get() {
            Some(member) => Ok(member),
            None => self.join_anew(recover),
        }
    }

    /// This process's number, if it has joined.
    #[inline]
    #[must_use]
    pub fn member(&self) -> Option<Member> {
        self.membership().get()
    }

    #[cold]
    fn join_anew(&self, recover: &mut dyn FnMut(Member) -> bool) -> Result<Member, Error> {
        let object = || format!("(fd {})", self.fd().as_raw_fd());
        let os = |call, errno| Error::os("become a member of", object(), call, errno);
        let joining = JOINING.lock();
        if let Some(member) = self.membership().get() {
            return Ok(member);
        }
        // A duplicate would share the description with everybody who got the segment from us, or gave it to us.
        let path = format!("/proc/self/fd/{}", self.fd().as_raw_fd());
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
        let description =
            rustix::fs::open(&path, flags, rustix::fs::Mode::empty()).map_err(|errno| match errno {
                Errno::NOENT | Errno::NOTDIR => Error::new(
                    "become a member of",
                    object(),
                    Cause::Unsupported { call: "open of /proc/self/fd (is /proc mounted?)", errno },
                ),
                errno => os("open of /proc/self/fd", errno),
            })?;
        let fd = std::os::fd::AsFd::as_fd(&description);
        let free = |member: Member| self.word(member).load(Ordering::Acquire) == 0;
        let numbers = || (0..MEMBERS as u16).map(Member);
        let pid = u64::from(std::process::id());
        for member in numbers().filter(|&member| free(member)) {
            if !lock(fd, member).map_err(|errno| os("fcntl(F_OFD_SETLK)", errno))? {
                continue;
            }
            // Its owner may have come and died since it was looked at.
            if free(member) {
                self.word(member).store(pid, Ordering::Release);
                self.membership().set(member, description);
                drop(joining);
                return Ok(member);
            }
            unlock(fd, member);
        }
        for member in numbers() {
            if !lock(fd, member).map_err(|errno| os("fcntl(F_OFD_SETLK)", errno))? {
                continue;
            }
            if recover(member) {
                self.word(member).store(pid, Ordering::Release);
                self.membership().set(member, description);
                drop(joining);
                return Ok(member);
            }
            unlock(fd, member);
        }
        let what = format!("all of its {MEMBERS} places for processes are taken");
        Err(Error::new("become a member of", object(), Cause::Invalid { what }))
    }

    /// Whether a member has died, or has let go of the segment. False for this process, and for a number that is free.
    ///
    /// One system call. Where the kernel gives no answer the member counts as alive.
    #[must_use]
    pub fn is_dead(&self, member: Member) -> bool {
        self.member() != Some(member)
            && self.word(member).load(Ordering::Acquire) != 0
            && locked(self.fd(), member) == Ok(false)
    }

    /// The pid of a member, dead or alive, as that process sees it; `None` for a number that is free.
    ///
    /// For messages: another process may have the same pid by now, and another pid namespace its own.
    #[must_use]
    pub fn pid_of(&self, member: Member) -> Option<u32> {
        let word = self.word(member).load(Ordering::Acquire);
        u32::try_from(word).ok().filter(|&pid| pid != 0)
    }

    fn word(&self, member: Member) -> &AtomicU64 {
        // SAFETY: the table lies within the first pages of the mapping, and a member's number within the table.
        let word = unsafe { self.object_start().add(TABLE + member.index() * size_of::<u64>()) };
        // SAFETY: it is aligned, lives as long as `self`, and every process accesses it as an atomic.
        unsafe { AtomicU64::from_ptr(word.as_ptr().cast()) }
    }
}
