//! Why something was not done once.

use crate::{Error, robust::NotLocked};
use std::fmt;

/// Why something was not done once.
#[derive(Debug)]
#[non_exhaustive]
pub enum OnceError {
    /// A function panicked, so nobody knows how much of it is done.
    Poisoned {
        /// The process in which it was.
        pid: u32,
    },
    /// It was asked for by the very function that does it; or the calling process was forked by that function, which goes
    /// on in its parent.
    Recursive,
    /// Somebody else still ran it at the deadline.
    TimedOut,
    /// The calling thread holds as many locks as the kernel would let go of at its death, 1,024.
    TooManyHeld,
    /// This process cannot become a member of the segment: see [`Segment::join`](procession_shm::Segment::join).
    Member(Box<Error>),
    /// The shared memory was written over: the system's error number.
    Damaged(i32),
}

impl From<NotLocked> for OnceError {
    fn from(error: NotLocked) -> OnceError {
        match error {
            NotLocked::TooMany => OnceError::TooManyHeld,
            NotLocked::Damaged(code) => OnceError::Damaged(code),
            NotLocked::TimedOut => OnceError::TimedOut,
        }
    }
}

impl fmt::Display for OnceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OnceError::Poisoned { pid } => write!(f, "poisoned: the function panicked in process {pid}"),
            OnceError::Recursive => f.write_str("the function that is run once asks for itself"),
            OnceError::TimedOut => f.write_str("another one still ran the function at the deadline"),
            OnceError::TooManyHeld => {
                f.write_str("this thread holds 1024 locks, more than the kernel would let go of at its death")
            }
            OnceError::Member(error) => write!(f, "{error}"),
            OnceError::Damaged(code) => {
                write!(f, "the memory was written over: {}", std::io::Error::from_raw_os_error(*code))
            }
        }
    }
}

impl std::error::Error for OnceError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            OnceError::Member(error) => Some(error),
            _ => None,
        }
    }
}
