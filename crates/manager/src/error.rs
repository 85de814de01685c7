//! What can go wrong.

use procession_parcel::Panic;
use std::{fmt, io};

/// What kind of failure it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The server is gone, or the connection to it: nothing of it will come back.
    ServerGone,
    /// The server let nobody in, or refused the request.
    Refused,
    /// The time is over.
    Timeout,
    /// The object is not there any more, or never was.
    ObjectGone,
    /// The object is of another type than the proxy, or the name stands for another one.
    WrongType,
    /// There is no such key, index or value.
    NotFound,
    /// The queue is full.
    Full,
    /// The queue is empty.
    Empty,
    /// It changed since: an iterator goes no further, a comparison failed.
    Changed,
    /// The barrier is broken.
    Broken,
    /// Somebody else holds it, or nobody does.
    NotOwner,
    /// This thread holds the lock already, and would wait for itself.
    Deadlock,
    /// A process died with something in hand that is missing now.
    Lost,
    /// The function panicked; see [`Error::panic`].
    Panicked,
    /// A value could not be encoded, or not be decoded.
    Encoding,
    /// A limit was reached: the size of a frame, the number of requests under way.
    Limit,
    /// The call is wrong, whatever the state.
    Invalid,
    /// The system refused something.
    System,
}

impl ErrorKind {
    const ALL: [ErrorKind; 18] = [
        ErrorKind::ServerGone,
        ErrorKind::Refused,
        ErrorKind::Timeout,
        ErrorKind::ObjectGone,
        ErrorKind::WrongType,
        ErrorKind::NotFound,
        ErrorKind::Full,
        ErrorKind::Empty,
        ErrorKind::Changed,
        ErrorKind::Broken,
        ErrorKind::NotOwner,
        ErrorKind::Deadlock,
        ErrorKind::Lost,
        ErrorKind::Panicked,
        ErrorKind::Encoding,
        ErrorKind::Limit,
        ErrorKind::Invalid,
        ErrorKind::System,
    ];

    /// The status of a reply: its place in the table, counted from 1.
    pub(crate) fn status(self) -> u16 {
        Self::ALL.iter().position(|kind| *kind == self).map_or(u16::MAX, |at| at as u16 + 1)
    }

    pub(crate) fn of_status(status: u16) -> Option<ErrorKind> {
        Self::ALL.get(usize::from(status).checked_sub(1)?).copied()
    }
}

/// Why a call to a manager failed: what was tried, on what, and why.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    doing: &'static str,
    cause: String,
    may_have_run: bool,
    panic: Option<Panic>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The result of a call to a manager.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn new(kind: ErrorKind, doing: &'static str, cause: impl Into<String>) -> Error {
        let inner =
            Inner { kind, doing, cause: cause.into(), may_have_run: false, panic: None, source: None };
        Error(Box::new(inner))
    }

    pub(crate) fn with_source(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Error {
        self.0.source = Some(source.into());
        self
    }

    pub(crate) fn system(doing: &'static str, error: impl Into<io::Error>) -> Error {
        let error = error.into();
        Error::new(ErrorKind::System, doing, error.to_string()).with_source(error)
    }

    pub(crate) fn encoding(doing: &'static str, error: procession_parcel::Error) -> Error {
        Error::new(ErrorKind::Encoding, doing, error.to_string()).with_source(error)
    }

    pub(crate) fn gone(doing: &'static str, cause: impl Into<String>) -> Error {
        Error::new(ErrorKind::ServerGone, doing, cause)
    }

    pub(crate) fn panicked(doing: &'static str, panic: Panic) -> Error {
        let mut error = Error::new(ErrorKind::Panicked, doing, panic.to_string());
        error.0.panic = Some(panic);
        error
    }

    /// The same, with something to add.
    pub(crate) fn and(mut self, more: &str) -> Error {
        self.0.cause = format!("{}; {more}", self.0.cause);
        self
    }

    /// What kind of failure it was.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the server is gone, or the connection to it.
    #[must_use]
    pub fn is_server_gone(&self) -> bool {
        self.0.kind == ErrorKind::ServerGone
    }

    /// Whether the time was over.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        self.0.kind == ErrorKind::Timeout
    }

    /// The connection ended under a call that was begun, or not.
    pub(crate) fn in_flight(mut self, begun: bool) -> Error {
        self.0.may_have_run = begun;
        self.0.cause.push_str(if begun {
            "; the call may have been done"
        } else {
            "; the call was not done"
        });
        self
    }

    /// Whether the server may have done the call all the same: its connection ended before the reply came. A call is never
    /// done twice.
    #[must_use]
    pub fn may_have_run(&self) -> bool {
        self.0.may_have_run
    }

    /// The panic of a function that was sent to the data.
    #[must_use]
    pub fn panic(&self) -> Option<&Panic> {
        self.0.panic.as_ref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "failed to {}: {}", self.0.doing, self.0.cause)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error({:?}: {self})", self.0.kind)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|source| &**source as _)
    }
}

/// Why a lock was not taken, or not as it should be.
pub enum LockError<G> {
    /// It is held now, but a process died while it held it: what it guards may be half changed. Every later holder is told
    /// too, until the poison is cleared.
    Died {
        /// The lock is held all the same.
        guard: G,
        /// Who died.
        pid: u32,
    },
    /// It is not held.
    Failed(Error),
}

impl<G> LockError<G> {
    /// The guard, if the lock is held.
    ///
    /// # Errors
    /// If it is not.
    pub fn into_guard(self) -> Result<G> {
        match self {
            LockError::Died { guard, .. } => Ok(guard),
            LockError::Failed(error) => Err(error),
        }
    }

    /// Who died with the lock.
    #[must_use]
    pub fn died(&self) -> Option<u32> {
        match self {
            LockError::Died { pid, .. } => Some(*pid),
            LockError::Failed(_) => None,
        }
    }

    /// What kind of failure it was, where the lock is not held.
    #[must_use]
    pub fn kind(&self) -> Option<ErrorKind> {
        match self {
            LockError::Died { .. } => None,
            LockError::Failed(error) => Some(error.kind()),
        }
    }
}

impl<G> From<Error> for LockError<G> {
    fn from(error: Error) -> LockError<G> {
        LockError::Failed(error)
    }
}

impl<G> fmt::Display for LockError<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LockError::Died { pid, .. } => write!(f, "process {pid} died while it held the lock"),
            LockError::Failed(error) => error.fmt(f),
        }
    }
}

impl<G> fmt::Debug for LockError<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LockError({self})")
    }
}

impl<G> std::error::Error for LockError<G> {}
