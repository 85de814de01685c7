//! The error of everything that starts or signals a process.

use std::{fmt, io};

/// A process could not be started, signalled or set up.
///
/// The message says what was tried, on what, why it failed and, where a limit is the cause, which.
pub struct Error {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    System { operation: String, error: io::Error },
    Parcel { operation: String, error: procession_parcel::Error },
    Threads(u64),
    NotInitialised,
    NotOurs(String),
    Invalid(String),
    Unsupported(String),
}

/// The result of this crate's calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn system(operation: impl Into<String>, error: impl Into<io::Error>) -> Error {
        Error { kind: Kind::System { operation: operation.into(), error: error.into() } }
    }

    pub(crate) fn parcel(operation: impl Into<String>, error: procession_parcel::Error) -> Error {
        Error { kind: Kind::Parcel { operation: operation.into(), error } }
    }

    pub(crate) fn threads(count: u64) -> Error {
        Error { kind: Kind::Threads(count) }
    }

    pub(crate) fn not_initialised() -> Error {
        Error { kind: Kind::NotInitialised }
    }

    pub(crate) fn not_ours(name: &str) -> Error {
        Error { kind: Kind::NotOurs(name.to_owned()) }
    }

    pub(crate) fn invalid(what: impl Into<String>) -> Error {
        Error { kind: Kind::Invalid(what.into()) }
    }

    pub(crate) fn unsupported(what: impl Into<String>) -> Error {
        Error { kind: Kind::Unsupported(what.into()) }
    }

    /// The system's error number, if a system call failed.
    #[must_use]
    pub fn os_error(&self) -> Option<i32> {
        match &self.kind {
            Kind::System { error, .. } => error.raw_os_error(),
            Kind::Parcel { error, .. } => error.os_error(),
            _ => None,
        }
    }

    /// Whether a limit on descriptors, processes or memory was the cause: the call may succeed later.
    #[must_use]
    pub fn is_limit(&self) -> bool {
        matches!(
            self.os_error(),
            Some(
                libc::EMFILE | libc::ENFILE | libc::EAGAIN | libc::ENOMEM | libc::ENOSPC | libc::ETOOMANYREFS
            )
        )
    }

    /// Whether fork was refused because this process has more than one thread.
    #[must_use]
    pub fn is_threads(&self) -> bool {
        matches!(self.kind, Kind::Threads(_))
    }

    /// Whether this process is a child that was never initialised (see [`init`](crate::init)).
    #[must_use]
    pub fn is_not_initialised(&self) -> bool {
        matches!(self.kind, Kind::NotInitialised)
    }
}

/// The limit behind an error number, for the message.
fn limit(error: Option<i32>) -> &'static str {
    match error {
        Some(libc::EMFILE) => "; this process may not open more descriptors (RLIMIT_NOFILE, `ulimit -n`)",
        Some(libc::ENFILE) => "; the system may not open more files (fs.file-max)",
        Some(libc::EAGAIN) => {
            "; this user may not start more processes (RLIMIT_NPROC, pids.max of the cgroup)"
        }
        Some(libc::ENOMEM) => "; memory is short, or its overcommit limit is reached",
        Some(libc::ETOOMANYREFS) => "; this user has too many descriptors in flight (RLIMIT_NOFILE)",
        _ => "",
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::System { operation, error } => write!(f, "failed to {operation}: {error}{}", limit(error.raw_os_error())),
            Kind::Parcel { operation, error } => {
                write!(f, "failed to {operation}: {error}{}", limit(error.os_error()))
            }
            Kind::Threads(count) => write!(
                f,
                "failed to fork: this process has {count} threads, and a fork copies only the calling one; use the \
                 spawn or fork server start method"
            ),
            Kind::NotInitialised => f.write_str(
                "failed to start a process: this process is itself a child that was not initialised; build with \
                 the feature `auto-init`, or call `procession::init()` first in `main`",
            ),
            Kind::NotOurs(name) => {
                write!(f, "process `{name}` is not a child of this process: its handle was copied by a fork")
            }
            Kind::Invalid(what) | Kind::Unsupported(what) => f.write_str(what),
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
        match &self.kind {
            Kind::System { error, .. } => Some(error),
            Kind::Parcel { error, .. } => Some(error),
            _ => None,
        }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        let kind = match &error.kind {
            Kind::System { error, .. } => error.kind(),
            Kind::Unsupported(_) => io::ErrorKind::Unsupported,
            Kind::Invalid(_) => io::ErrorKind::InvalidInput,
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}
