//! For structures in shared memory of one's own: a mutex that the kernel lets go of when its holder ends, a robust,
//! process-shared pthread mutex.
//!
//! Users take a [`Lock`](crate::Lock). This is what locks are made of, for a crate that lays out a segment itself and must
//! repair what it guards when a holder dies.
//!
//! The kernel walks a thread's list of held robust mutexes when the thread ends, however it ends, marks each and wakes
//! a waiter (`get_robust_list(2)`, `pthread_mutexattr_setrobust(3)`). That makes this the only lock here whose waiters
//! need no slices: a death reaches a waiter that sleeps already, and a wake that was lost with its sender is made up for.
//!
//! # Invariants
//!
//! 1. A mutex is initialised once, before any other process can see it, and lies in zeroed memory.
//! 2. Its memory is not unmapped and not used for anything else while a thread of this process holds it or is about
//!    to let it go. Unmapped, it would cut the kernel's walk short; reused, the kernel could write into what is there
//!    then (glibc bug 14485). The callers keep the memory mapped for the length of each call here, and one of two:
//!    nothing of theirs returns to a user while it is held, or the segment asks them before it unmaps
//!    ([`Segment::keep_while`](procession_shm::Segment::keep_while), as the locks of this crate do).
//! 3. No thread holds more than [`MOST_HELD`]: the kernel walks 2,048 entries, and would not free the rest.
//! 4. Who gets [`Locked::OwnerDied`] repairs what the mutex guards, then calls [`Robust::made_consistent`]. If it dies
//!    between the two, the next one gets the same answer.
#![expect(unsafe_code, reason = "pthread mutexes")]

use crate::who::{held, hold};
use core::{
    cell::UnsafeCell,
    sync::atomic::{AtomicU32, Ordering},
};
use procession_sys::Deadline;

/// How many robust mutexes one thread may hold at a time.
pub const MOST_HELD: u32 = 1024;
/// How many more of the library's own.
const INSIDE: u32 = 64;

unsafe extern "C" {
    // glibc 2.30; not in the libc crate.
    fn pthread_mutex_clocklock(
        mutex: *mut libc::pthread_mutex_t,
        clock: libc::clockid_t,
        until: *const libc::timespec,
    ) -> libc::c_int;
}

/// A mutex in shared memory, of 40 bytes. It is not made but found: zeroed memory that [`init`](Robust::init) was called on.
///
/// It is locked once at a time by a thread; locking it again there waits without end.
#[repr(C)]
pub struct Robust {
    mutex: UnsafeCell<libc::pthread_mutex_t>,
}

// SAFETY: it is made to be used by many threads at a time, and is not tied to the one that made it.
unsafe impl Send for Robust {}
// SAFETY: all access is through the pthread functions.
unsafe impl Sync for Robust {}

/// What the new holder finds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Locked {
    /// The last holder let it go.
    Clean,
    /// The last holder ended while it held it.
    OwnerDied,
}

/// Why there is no new holder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotLocked {
    /// Somebody holds it, and the deadline has come.
    TimedOut,
    /// This thread holds [`MOST_HELD`] already.
    TooMany,
    /// The memory holds no mutex, or somebody wrote over it.
    Damaged(i32),
}

impl Robust {
    /// Makes a mutex of zeroed memory that nobody else can see yet (invariant 1).
    ///
    /// # Errors
    ///
    /// The system has no robust mutexes, or none between processes.
    pub fn init(&self) -> Result<(), std::io::Error> {
        let check = |code: i32| if code == 0 { Ok(()) } else { Err(std::io::Error::from_raw_os_error(code)) };
        let mut attributes = core::mem::MaybeUninit::<libc::pthread_mutexattr_t>::uninit();
        let attributes = attributes.as_mut_ptr();
        // SAFETY: memory for attributes, which this call initialises.
        check(unsafe { libc::pthread_mutexattr_init(attributes) })?;
        // SAFETY: initialised attributes.
        let shared = unsafe { libc::pthread_mutexattr_setpshared(attributes, libc::PTHREAD_PROCESS_SHARED) };
        // SAFETY: as above.
        let robust = unsafe { libc::pthread_mutexattr_setrobust(attributes, libc::PTHREAD_MUTEX_ROBUST) };
        // SAFETY: memory of a mutex that nobody uses yet, and initialised attributes.
        let made = unsafe { libc::pthread_mutex_init(self.mutex.get(), attributes) };
        // SAFETY: initialised attributes, which are not used after this.
        unsafe { libc::pthread_mutexattr_destroy(attributes) };
        check(shared)?;
        check(robust)?;
        check(made)
    }

    /// Locks it: waits as long as somebody lives who holds it, until the deadline at the longest.
    #[inline]
    pub(crate) fn lock(&self, deadline: Option<Deadline>) -> Result<Locked, NotLocked> {
        Self::room(MOST_HELD)?;
        self.lock_anyhow(deadline)
    }

    #[inline]
    fn lock_anyhow(&self, deadline: Option<Deadline>) -> Result<Locked, NotLocked> {
        let code = match deadline {
            // SAFETY: an initialised mutex in memory that stays mapped during the call.
            None => unsafe { libc::pthread_mutex_lock(self.mutex.get()) },
            Some(deadline) => {
                let until = timespec(deadline);
                // SAFETY: as above, and a whole point in time.
                unsafe { pthread_mutex_clocklock(self.mutex.get(), libc::CLOCK_MONOTONIC, &raw const until) }
            }
        };
        Self::locked(code)
    }

    /// Locks it if nobody holds it.
    ///
    /// # Errors
    ///
    /// [`NotLocked::TimedOut`] if somebody holds it; [`NotLocked::TooMany`], [`NotLocked::Damaged`].
    #[inline]
    pub fn try_lock(&self) -> Result<Locked, NotLocked> {
        Self::room(MOST_HELD)?;
        self.try_anyhow()
    }

    #[inline]
    fn try_anyhow(&self) -> Result<Locked, NotLocked> {
        // SAFETY: as in `lock`.
        Self::locked(unsafe { libc::pthread_mutex_trylock(self.mutex.get()) })
    }

    /// Locks it: waits as long as somebody holds it who lives, until the deadline at the longest; at a deadline of 0 it does
    /// not wait. For a mutex inside a primitive, which is held for a moment, while no foreign code runs: there is room for it
    /// where a user's locks have used up theirs.
    ///
    /// # Errors
    ///
    /// See [`NotLocked`].
    pub fn lock_inside(&self, deadline: Option<Deadline>) -> Result<Locked, NotLocked> {
        Self::room(MOST_HELD + INSIDE)?;
        match deadline {
            Some(now) if now.as_nanos() == 0 => self.try_anyhow(),
            _ => self.lock_anyhow(deadline),
        }
    }

    #[inline]
    fn room(most: u32) -> Result<(), NotLocked> {
        if held() < most { Ok(()) } else { Err(NotLocked::TooMany) }
    }

    #[inline]
    fn locked(code: i32) -> Result<Locked, NotLocked> {
        let locked = match code {
            0 => Locked::Clean,
            libc::EOWNERDEAD => Locked::OwnerDied,
            libc::EBUSY | libc::ETIMEDOUT => return Err(NotLocked::TimedOut),
            code => return Err(NotLocked::Damaged(code)),
        };
        hold(true);
        Ok(locked)
    }

    /// Whether a thread that lives holds it. May have changed by the time that the answer is there.
    #[must_use]
    #[inline]
    pub fn is_locked(&self) -> bool {
        let word = self.word().load(Ordering::Relaxed);
        word & libc::FUTEX_TID_MASK != 0 && word & libc::FUTEX_OWNER_DIED == 0
    }

    /// Whether nobody has it, so that it is worth trying.
    #[must_use]
    #[inline]
    pub fn looks_free(&self) -> bool {
        self.word().load(Ordering::Relaxed) & libc::FUTEX_TID_MASK == 0
    }

    /// Whether its holder died, and nobody has taken it since.
    #[must_use]
    pub fn is_orphaned(&self) -> bool {
        self.word().load(Ordering::Relaxed) & libc::FUTEX_OWNER_DIED != 0
    }

    /// The word that the kernel and the C library share: the holder's number and two flags. `get_robust_list(2)` fixes
    /// its meaning, and glibc's ABI its place.
    fn word(&self) -> &AtomicU32 {
        // SAFETY: a mutex begins with this word, aligned; everybody accesses it as an atomic.
        unsafe { AtomicU32::from_ptr(self.mutex.get().cast()) }
    }

    /// Has its holder wake a sleeper when it lets go: what the word is then, or `None` if it is worth trying now.
    #[cfg(feature = "async")]
    pub(crate) fn flag(&self) -> Option<u32> {
        let mut word = self.word().load(Ordering::Relaxed);
        loop {
            if word & libc::FUTEX_TID_MASK == 0 || word & libc::FUTEX_OWNER_DIED != 0 {
                return None;
            }
            let flagged = word | libc::FUTEX_WAITERS;
            match self.word().compare_exchange(word, flagged, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(flagged),
                Err(now) => word = now,
            }
        }
    }

    /// After a wake: others may sleep still, of whom the word does not tell any more. The caller holds it.
    #[cfg(feature = "async")]
    pub(crate) fn others_may_sleep(&self) {
        self.word().fetch_or(libc::FUTEX_WAITERS, Ordering::Relaxed);
    }

    /// For a sleeper who was woken and may not look soon: wakes another one if it is free, else asks its holder to do so.
    #[cfg(feature = "async")]
    pub(crate) fn relay(&self) {
        if self.flag().is_none() {
            procession_sys::futex::wake_one(self.word());
        }
    }

    /// The word that is slept on.
    #[cfg(feature = "async")]
    pub(crate) fn futex(&self) -> &AtomicU32 {
        self.word()
    }

    /// Declares that what the mutex guards is whole again. The caller holds it and was told of a death.
    pub fn made_consistent(&self) {
        // SAFETY: as in `lock`. Called by anybody else it changes nothing and says so.
        unsafe { libc::pthread_mutex_consistent(self.mutex.get()) };
    }

    /// Lets it go; false if the calling thread does not hold it.
    #[inline]
    #[allow(clippy::must_use_candidate, reason = "a holder knows the answer")]
    pub fn unlock(&self) -> bool {
        // SAFETY: as in `lock`. A robust mutex checks who unlocks it.
        let mine = unsafe { libc::pthread_mutex_unlock(self.mutex.get()) } == 0;
        if mine {
            hold(false);
        }
        mine
    }
}

fn timespec(deadline: Deadline) -> libc::timespec {
    let nanos = deadline.as_nanos();
    libc::timespec { tv_sec: (nanos / 1_000_000_000) as i64, tv_nsec: (nanos % 1_000_000_000) as i64 }
}

impl core::fmt::Debug for Robust {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Robust").field("is_locked", &self.is_locked()).finish()
    }
}

const _: () = assert!(size_of::<Robust>() == 40 && align_of::<Robust>() == 8);
