//! What can go wrong: making and attaching ([`Error`]), and locking ([`LockError`]).

use std::{fmt, io};

/// Why a primitive could not be made or attached.
pub struct Error {
    operation: &'static str,
    what: &'static str,
    cause: Cause,
}

pub(crate) enum Cause {
    Segment(procession_shm::Error),
    TooLarge { len: usize },
    NotThere { offset: u64 },
    Init(io::Error),
    Invalid { what: String },
    Differs { what: String },
}

impl Error {
    pub(crate) fn new(operation: &'static str, what: &'static str, cause: Cause) -> Error {
        Error { operation, what, cause }
    }

    /// Why the shared memory below could not be had, if it was that.
    #[must_use]
    pub fn segment_error(&self) -> Option<&procession_shm::Error> {
        match &self.cause {
            Cause::Segment(error) => Some(error),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "failed to {} {}: ", self.operation, self.what)?;
        match &self.cause {
            Cause::Segment(error) => write!(f, "{error}"),
            Cause::TooLarge { len } => write!(f, "{len} bytes are more than a slot can have"),
            Cause::NotThere { offset } => {
                write!(f, "there is none at offset {offset} of the segment that came")
            }
            Cause::Init(error) => write!(f, "{error}"),
            Cause::Invalid { what } => f.write_str(what),
            Cause::Differs { what } => f.write_str(what),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.cause {
            Cause::Segment(error) => Some(error),
            Cause::Init(error) => Some(error),
            _ => None,
        }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        let kind = match &error.cause {
            Cause::Segment(segment) => segment.os_error().map_or(io::ErrorKind::InvalidData, |os| os.kind()),
            Cause::TooLarge { .. } | Cause::Invalid { .. } => io::ErrorKind::InvalidInput,
            Cause::NotThere { .. } | Cause::Differs { .. } => io::ErrorKind::InvalidData,
            Cause::Init(error) => error.kind(),
        };
        io::Error::new(kind, error)
    }
}

/// Why what a lock guards may be half changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Poison {
    /// A process ended while it held the lock.
    Died {
        /// Its pid, as it saw it itself; 0 if that is not known.
        pid: u32,
    },
    /// A process ended while it held the lock for reading, of a [`RwLock`](crate::RwLock): what that guards is whole, but
    /// what else the reader was at may be not.
    ReaderDied {
        /// Its pid, as it saw it itself.
        pid: u32,
    },
    /// A thread panicked while it held the lock.
    Panicked {
        /// Its process, as that saw itself.
        pid: u32,
    },
}

impl Poison {
    pub(crate) fn to_word(self) -> u64 {
        match self {
            Poison::Died { pid } => 1 << 32 | u64::from(pid),
            Poison::Panicked { pid } => 2 << 32 | u64::from(pid),
            Poison::ReaderDied { pid } => 3 << 32 | u64::from(pid),
        }
    }

    pub(crate) fn from_word(word: u64) -> Option<Poison> {
        let pid = word as u32;
        match word >> 32 {
            0 => None,
            2 => Some(Poison::Panicked { pid }),
            3 => Some(Poison::ReaderDied { pid }),
            _ => Some(Poison::Died { pid }),
        }
    }
}

impl fmt::Display for Poison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Poison::Died { pid: 0 } => f.write_str("a process died while it held the lock, or had a part"),
            Poison::Died { pid } => write!(f, "process {pid} died while it held the lock"),
            Poison::ReaderDied { pid } => {
                write!(f, "process {pid} died while it held the lock for reading")
            }
            Poison::Panicked { pid } => write!(f, "process {pid} panicked while it held the lock"),
        }
    }
}

/// The lock is held now, and what it guards may be half changed: see [`cause`](PoisonError::cause).
///
/// It stays poisoned, and so an error for each next holder, until somebody calls `clear_poison`.
pub struct PoisonError<G> {
    guard: G,
    cause: Poison,
}

impl<G> PoisonError<G> {
    pub(crate) fn new(guard: G, cause: Poison) -> PoisonError<G> {
        PoisonError { guard, cause }
    }

    /// Who died or panicked.
    pub fn cause(&self) -> Poison {
        self.cause
    }

    /// The guard: the lock stays held.
    pub fn into_inner(self) -> G {
        self.guard
    }

    /// The guard, by reference.
    pub fn get_ref(&self) -> &G {
        &self.guard
    }

    /// The guard, by mutable reference.
    pub fn get_mut(&mut self) -> &mut G {
        &mut self.guard
    }

    pub(crate) fn map<H>(self, change: impl FnOnce(G) -> H) -> PoisonError<H> {
        PoisonError { guard: change(self.guard), cause: self.cause }
    }
}

impl<G> fmt::Display for PoisonError<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "poisoned: {}", self.cause)
    }
}

impl<G> fmt::Debug for PoisonError<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoisonError").field("cause", &self.cause).finish_non_exhaustive()
    }
}

impl<G> std::error::Error for PoisonError<G> {}

/// Why a lock was not simply locked.
#[non_exhaustive]
pub enum LockError<G = ()> {
    /// It is locked now, but its last holder died or panicked. Dropping this lets it go.
    Poisoned(PoisonError<G>),
    /// Somebody else holds it, and there was no more time to wait: at once for `try_lock`.
    TimedOut,
    /// The calling thread holds it itself, so a wait would never end.
    AlreadyHeld,
    /// The calling thread holds as many locks as the kernel would let go of at its death, 1,024.
    TooManyHeld,
    /// Parts of the array have owners: [`Array::chunks_mut`](crate::Array::chunks_mut). It is not locked.
    PartsOut,
    /// The shared memory was written over: the system's error number.
    Damaged(i32),
    /// As many threads hold a [`RwLock`](crate::RwLock), or wait for it, as can, 512.
    TooManyUsers,
    /// This process cannot become a member of the segment: see [`Segment::join`](procession_shm::Segment::join).
    Member(Box<Error>),
    /// Those who hold it wait, in a circle, for what this thread holds.
    #[cfg(feature = "lock-trace")]
    Deadlock(crate::Deadlock),
}

impl<G> LockError<G> {
    /// Whether somebody else holds it.
    pub fn is_timeout(&self) -> bool {
        matches!(self, LockError::TimedOut)
    }

    /// Who died or panicked, if it is poisoned.
    pub fn poison(&self) -> Option<Poison> {
        match self {
            LockError::Poisoned(poisoned) => Some(poisoned.cause()),
            _ => None,
        }
    }

    pub(crate) fn map<H>(self, change: impl FnOnce(G) -> H) -> LockError<H> {
        match self {
            LockError::Poisoned(poisoned) => LockError::Poisoned(poisoned.map(change)),
            LockError::TimedOut => LockError::TimedOut,
            LockError::AlreadyHeld => LockError::AlreadyHeld,
            LockError::TooManyHeld => LockError::TooManyHeld,
            LockError::PartsOut => LockError::PartsOut,
            LockError::Damaged(code) => LockError::Damaged(code),
            LockError::TooManyUsers => LockError::TooManyUsers,
            LockError::Member(error) => LockError::Member(error),
            #[cfg(feature = "lock-trace")]
            LockError::Deadlock(deadlock) => LockError::Deadlock(deadlock),
        }
    }

    /// The same without the guard, which is dropped: for `?` in functions that return errors.
    pub fn without_guard(self) -> LockError {
        self.map(drop)
    }
}

impl<G> fmt::Display for LockError<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LockError::Poisoned(poisoned) => fmt::Display::fmt(poisoned, f),
            LockError::TimedOut => f.write_str("somebody else holds the lock"),
            LockError::AlreadyHeld => {
                f.write_str("this thread holds the lock already; an RLock can be locked again by its holder")
            }
            LockError::TooManyHeld => {
                f.write_str("this thread holds 1024 locks, more than the kernel would let go of at its death")
            }
            LockError::PartsOut => f.write_str(
                "parts of the array have owners, who drop them or end before all of it can be locked",
            ),
            LockError::Damaged(code) => {
                write!(f, "the lock's memory was written over: {}", io::Error::from_raw_os_error(*code))
            }
            LockError::TooManyUsers => {
                f.write_str("512 threads hold this lock or wait for it, as many as can")
            }
            LockError::Member(error) => write!(f, "{error}"),
            #[cfg(feature = "lock-trace")]
            LockError::Deadlock(deadlock) => fmt::Display::fmt(deadlock, f),
        }
    }
}

impl<G> fmt::Debug for LockError<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<G> std::error::Error for LockError<G> {}

/// The calling thread does not hold the lock that it wants to let go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotHeld;

impl fmt::Display for NotHeld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("only the holder can release a lock; what one locks and another releases is a Semaphore")
    }
}

impl std::error::Error for NotHeld {}
