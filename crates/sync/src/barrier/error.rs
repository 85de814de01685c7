//! Why a barrier was not passed.

use crate::{Error, robust::NotLocked, table};
use std::fmt;

/// Why a barrier is broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Broken {
    /// A party did not wait any longer.
    TimedOut {
        /// Its process.
        pid: u32,
    },
    /// Somebody called `abort`.
    Aborted {
        /// Its process.
        pid: u32,
    },
    /// Somebody called `reset` while this party waited. The barrier itself is whole.
    Reset,
    /// A process died in it: while it waited, while it ran the action, or on its way in or out.
    Died {
        /// Its pid, as it saw it itself; 0 if it is not known.
        pid: u32,
    },
    /// The action panicked.
    Panicked {
        /// The process that ran it.
        pid: u32,
    },
}

impl Broken {
    pub(super) fn to_word(self) -> u64 {
        let (kind, pid) = match self {
            Broken::TimedOut { pid } => (1, pid),
            Broken::Aborted { pid } => (2, pid),
            Broken::Reset => (3, 0),
            Broken::Died { pid } => (4, pid),
            Broken::Panicked { pid } => (5, pid),
        };
        kind << 32 | u64::from(pid)
    }

    pub(super) fn from_word(word: u64) -> Option<Broken> {
        let pid = word as u32;
        match word >> 32 {
            0 => None,
            1 => Some(Broken::TimedOut { pid }),
            2 => Some(Broken::Aborted { pid }),
            3 => Some(Broken::Reset),
            5 => Some(Broken::Panicked { pid }),
            _ => Some(Broken::Died { pid }),
        }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Broken::TimedOut { pid } => write!(f, "a party in process {pid} waited no longer"),
            Broken::Aborted { pid } => write!(f, "process {pid} aborted it"),
            Broken::Reset => f.write_str("it was reset during the wait"),
            Broken::Died { pid } => write!(f, "process {pid} died in it"),
            Broken::Panicked { pid } => write!(f, "its action panicked in process {pid}"),
        }
    }
}

/// Why a barrier was not passed.
#[derive(Debug)]
#[non_exhaustive]
pub enum BarrierError {
    /// It is broken.
    Broken(Broken),
    /// As many threads wait as can, 512.
    TooMany,
    /// The calling thread holds as many locks as the kernel would let go of at its death, 1,024.
    TooManyHeld,
    /// This process cannot become a member of the segment: see [`Segment::join`](procession_shm::Segment::join).
    Member(Box<Error>),
    /// The shared memory was written over: the system's error number.
    Damaged(i32),
}

impl BarrierError {
    /// Why the barrier is broken, if it is that.
    #[must_use]
    pub fn broken(&self) -> Option<Broken> {
        match self {
            BarrierError::Broken(broken) => Some(*broken),
            _ => None,
        }
    }
}

impl From<NotLocked> for BarrierError {
    fn from(error: NotLocked) -> BarrierError {
        match error {
            NotLocked::TooMany => BarrierError::TooManyHeld,
            NotLocked::Damaged(code) => BarrierError::Damaged(code),
            // The mutex is waited for without a deadline.
            NotLocked::TimedOut => BarrierError::Damaged(libc::ETIMEDOUT),
        }
    }
}

impl fmt::Display for BarrierError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BarrierError::Broken(broken) => {
                write!(f, "the barrier is broken: {broken}")?;
                if *broken == Broken::Reset { Ok(()) } else { f.write_str("; reset() mends it") }
            }
            BarrierError::TooMany => write!(f, "{} threads wait at the barrier, as many as can", table::MOST),
            BarrierError::TooManyHeld => {
                f.write_str("this thread holds 1024 locks, more than the kernel would let go of at its death")
            }
            BarrierError::Member(error) => write!(f, "{error}"),
            BarrierError::Damaged(code) => {
                let error = std::io::Error::from_raw_os_error(*code);
                write!(f, "the barrier's memory was written over: {error}")
            }
        }
    }
}

impl std::error::Error for BarrierError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            BarrierError::Member(error) => Some(error),
            _ => None,
        }
    }
}
