//! Why permits were not taken, or not given.

use crate::Error;
use std::{fmt, io};

/// Why permits were not taken.
#[non_exhaustive]
pub enum AcquireError {
    /// There were too few, and there was no more time to wait: at once for the forms that do not wait.
    TimedOut,
    /// More are wanted than there can ever be, so a wait would never end.
    MoreThanBound {
        /// The most that can be free.
        bound: u32,
    },
    /// This process could not be entered among those that own permits; see
    /// [`Segment::join`](procession_shm::Segment::join). Forms without a guard need no owner.
    NotAMember(Error),
    /// The shared memory was written over: the system's error number.
    Damaged(i32),
}

impl AcquireError {
    /// Whether there were too few permits.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self, AcquireError::TimedOut)
    }
}

impl fmt::Display for AcquireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AcquireError::TimedOut => f.write_str("no permit came free in time"),
            AcquireError::MoreThanBound { bound } => {
                write!(f, "the semaphore never has more than {bound} permits, fewer than are wanted")
            }
            AcquireError::NotAMember(error) => write!(f, "failed to take a permit: {error}"),
            AcquireError::Damaged(code) => {
                let error = io::Error::from_raw_os_error(*code);
                write!(f, "the semaphore's memory was written over: {error}")
            }
        }
    }
}

impl fmt::Debug for AcquireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for AcquireError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            AcquireError::NotAMember(error) => Some(error),
            _ => None,
        }
    }
}

/// A release of more permits than may be free; none was released.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooManyReleased {
    pub(super) bound: u32,
}

impl TooManyReleased {
    /// The most that can be free.
    #[must_use]
    pub fn bound(&self) -> u32 {
        self.bound
    }
}

impl fmt::Display for TooManyReleased {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "released more often than acquired: a semaphore of {} permits at most", self.bound)
    }
}

impl std::error::Error for TooManyReleased {}
