//! Why a listener or a client failed.

use std::{fmt, io};

/// Why one side of a connection was refused, or refused the other.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Refusal {
    /// The other side's code was wrong: it has another key, or none.
    WrongKey,
    /// The other side found our code wrong.
    Rejected,
    /// The other side uses MD5 (CPython up to 3.11), which was not allowed here.
    Md5,
    /// The other side belongs to another user, and no key was asked for.
    User {
        /// The user's number; `None` where the kernel could not tell.
        uid: Option<u32>,
    },
    /// The other side went before the end of the handshake.
    HungUp,
    /// The other side asks for a key, and we have none.
    NoKey,
    /// The handshake was not over by its deadline.
    TimedOut,
    /// Too many handshakes were under way, and this was the oldest.
    Crowded,
    /// What came was no handshake.
    Protocol(String),
}

impl Refusal {
    pub(super) fn protocol(what: impl Into<String>) -> Refusal {
        Refusal::Protocol(what.into())
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::WrongKey => f.write_str("its key is another one than ours, or it has none"),
            Refusal::Rejected => f.write_str("it refused our key"),
            Refusal::Md5 => {
                f.write_str("it uses MD5, as CPython up to 3.11 does; `allow_md5(true)` accepts that")
            }
            Refusal::User { uid: Some(uid) } => write!(
                f,
                "it belongs to user {uid}, and without a key only our own is let in (user {})",
                rustix::process::geteuid().as_raw()
            ),
            Refusal::User { uid: None } => f.write_str("the kernel did not say whose it is"),
            Refusal::HungUp => f.write_str("it closed the connection in the middle of the handshake"),
            Refusal::NoKey => f.write_str("it asks for a key, and we have none"),
            Refusal::TimedOut => {
                f.write_str("the handshake was not over by its deadline: the other side may have no key")
            }
            Refusal::Crowded => f.write_str("too many handshakes were under way, and this was the oldest"),
            Refusal::Protocol(what) => write!(f, "it sent {what}"),
        }
    }
}

impl std::error::Error for Refusal {}

/// Why a listener or a client failed: what was tried, on what, and the cause.
pub struct Error(Box<Inner>);

struct Inner {
    doing: &'static str,
    on: String,
    cause: Cause,
}

#[derive(Debug)]
enum Cause {
    Io(io::Error),
    Refused(Refusal),
    TimedOut,
    Closed,
    Invalid(String),
}

impl Error {
    fn new(doing: &'static str, on: impl Into<String>, cause: Cause) -> Error {
        Error(Box::new(Inner { doing, on: on.into(), cause }))
    }

    pub(super) fn io(doing: &'static str, on: impl Into<String>, error: impl Into<io::Error>) -> Error {
        Error::new(doing, on, Cause::Io(error.into()))
    }

    pub(super) fn refused(doing: &'static str, on: impl Into<String>, refusal: Refusal) -> Error {
        Error::new(doing, on, Cause::Refused(refusal))
    }

    pub(super) fn timed_out(doing: &'static str, on: impl Into<String>) -> Error {
        Error::new(doing, on, Cause::TimedOut)
    }

    pub(super) fn closed(doing: &'static str, on: impl Into<String>) -> Error {
        Error::new(doing, on, Cause::Closed)
    }

    pub(super) fn invalid(doing: &'static str, on: impl Into<String>, what: impl Into<String>) -> Error {
        Error::new(doing, on, Cause::Invalid(what.into()))
    }

    /// Why the other side was refused, or refused us, if it was that. A listener that returns it goes on: it is about one
    /// client.
    #[must_use]
    pub fn refusal(&self) -> Option<&Refusal> {
        match &self.0.cause {
            Cause::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// Whether one client or the listener was refused; see [`refusal`](Error::refusal).
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.refusal().is_some()
    }

    /// Whether the deadline passed, of the call or of the handshake.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self.0.cause, Cause::TimedOut | Cause::Refused(Refusal::TimedOut))
    }

    /// Whether the listener was closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self.0.cause, Cause::Closed)
    }

    /// The operating system's error number, if there is one.
    #[must_use]
    pub fn os_error(&self) -> Option<i32> {
        match &self.0.cause {
            Cause::Io(error) => error.raw_os_error(),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { doing, on, cause } = &*self.0;
        write!(f, "failed to {doing}")?;
        if !on.is_empty() {
            write!(f, " {on}")?;
        }
        match cause {
            Cause::Io(error) => write!(f, ": {error}"),
            Cause::Refused(refusal) => write!(f, ": {refusal}"),
            Cause::TimedOut => f.write_str(": the deadline passed"),
            Cause::Closed => f.write_str(": it is closed"),
            Cause::Invalid(what) => write!(f, ": {what}"),
        }
    }
}

/// The same line as [`Display`](fmt::Display), so that `unwrap` helps too.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0.cause {
            Cause::Io(error) => Some(error),
            Cause::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        let kind = match &error.0.cause {
            Cause::Io(cause) => cause.kind(),
            Cause::Refused(Refusal::TimedOut) | Cause::TimedOut => io::ErrorKind::TimedOut,
            Cause::Refused(_) => io::ErrorKind::PermissionDenied,
            Cause::Closed => io::ErrorKind::NotConnected,
            Cause::Invalid(_) => io::ErrorKind::InvalidInput,
        };
        io::Error::new(kind, error)
    }
}
