//! Why a wait was not what it should be.

use crate::{Error, Poison, mutex::NotTaken, robust::NotLocked, table};
use std::fmt;

/// Why a wait or a notification was not what it should be.
#[derive(Debug)]
#[non_exhaustive]
pub enum WaitError {
    /// The lock is held again, but a holder of it died or panicked, and nobody has cleared that.
    Poisoned(Poison),
    /// The calling thread does not hold the lock.
    NotHeld,
    /// The guard is of another lock.
    OtherLock,
    /// As many threads wait as can, 512.
    TooManyWaiters,
    /// The [`RLock`](crate::RLock) is locked more than once: a future that is dropped could not give that back. Of
    /// [`wait_async`](crate::Condition) only.
    HeldAgain,
    /// The calling thread holds as many locks as the kernel would let go of at its death, 1,024.
    TooManyHeld,
    /// This process cannot become a member of the segment: see [`Segment::join`](procession_shm::Segment::join).
    Member(Box<Error>),
    /// The shared memory was written over: the system's error number.
    Damaged(i32),
    /// Those who hold the lock wait, in a circle, for what this thread holds. The lock is not held again.
    #[cfg(feature = "lock-trace")]
    Deadlock(crate::Deadlock),
}

impl From<NotTaken> for WaitError {
    fn from(error: NotTaken) -> WaitError {
        match error {
            NotTaken::NotLocked(NotLocked::TooMany) => WaitError::TooManyHeld,
            NotTaken::NotLocked(NotLocked::Damaged(code)) => WaitError::Damaged(code),
            // Neither is possible: it was let go by this thread, and the waits for it have no deadline.
            NotTaken::AlreadyHeld => WaitError::Damaged(libc::EDEADLK),
            #[cfg(feature = "lock-trace")]
            NotTaken::Deadlock => WaitError::Deadlock(crate::trace::found()),
            NotTaken::NotLocked(NotLocked::TimedOut) => WaitError::Damaged(libc::ETIMEDOUT),
        }
    }
}

impl fmt::Display for WaitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WaitError::Poisoned(poison) => write!(f, "the condition's lock is poisoned: {poison}"),
            WaitError::NotHeld => f.write_str("who waits or notifies must hold the condition's lock"),
            WaitError::OtherLock => f.write_str("the guard is of another lock than the condition's"),
            WaitError::TooManyWaiters => {
                write!(f, "{} threads wait for this condition, as many as can", table::MOST)
            }
            WaitError::HeldAgain => {
                f.write_str("the condition's lock is locked more than once by who waits, who may be dropped")
            }
            WaitError::TooManyHeld => {
                f.write_str("this thread holds 1024 locks, more than the kernel would let go of at its death")
            }
            #[cfg(feature = "lock-trace")]
            WaitError::Deadlock(deadlock) => fmt::Display::fmt(deadlock, f),
            WaitError::Member(error) => write!(f, "{error}"),
            WaitError::Damaged(code) => {
                let error = std::io::Error::from_raw_os_error(*code);
                write!(f, "the condition's memory was written over: {error}")
            }
        }
    }
}

impl std::error::Error for WaitError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            WaitError::Member(error) => Some(error),
            _ => None,
        }
    }
}

/// Why a wait as a future was not what it should be; with the guard, where the lock is held.
#[cfg(feature = "async")]
pub struct AsyncWaitError<G> {
    error: WaitError,
    guard: Option<G>,
}

#[cfg(feature = "async")]
impl<G> AsyncWaitError<G> {
    pub(super) fn new(error: WaitError, guard: Option<G>) -> AsyncWaitError<G> {
        AsyncWaitError { error, guard }
    }

    /// Why.
    #[must_use]
    pub fn error(&self) -> &WaitError {
        &self.error
    }

    /// Why, and the guard; there is none if the lock could not be taken back.
    #[must_use]
    pub fn into_parts(self) -> (WaitError, Option<G>) {
        (self.error, self.guard)
    }

    /// Why; the guard is dropped, and the lock let go.
    #[must_use]
    pub fn without_guard(self) -> WaitError {
        self.error
    }
}

#[cfg(feature = "async")]
impl<G> fmt::Display for AsyncWaitError<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

#[cfg(feature = "async")]
impl<G> fmt::Debug for AsyncWaitError<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncWaitError")
            .field("error", &self.error)
            .field("guard", &self.guard.is_some())
            .finish()
    }
}

#[cfg(feature = "async")]
impl<G> std::error::Error for AsyncWaitError<G> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}
