//! The crate's one error: what was tried, on what, and why it failed.

use std::fmt;
use std::io;

/// Why a parcel could not be packed, unpacked, sent or received, or a function not be referred to.
///
/// The message names the operation, the object, the facts and the cause. Callers that act on the cause
/// ask the predicates.
pub struct Error {
    kind: Box<Kind>,
}

#[derive(Debug)]
pub(crate) enum Kind {
    Encode { type_name: &'static str, cause: String },
    Decode { type_name: &'static str, bytes: usize, cause: String },
    Io { doing: &'static str, facts: String, cause: io::Error },
    Timeout { doing: &'static str, torn: bool },
    CutOff { got: u64, expected: u64 },
    Malformed { cause: String },
    TooLarge { what: &'static str, got: u64, limit: u64 },
    OutOfDescriptors { limit: Option<u64> },
    Lost { cause: String },
    Function { name: String, cause: String },
}

impl Error {
    pub(crate) fn io(doing: &'static str, facts: impl Into<String>, cause: impl Into<io::Error>) -> Error {
        Kind::Io { doing, facts: facts.into(), cause: cause.into() }.into()
    }

    pub(crate) fn malformed(cause: impl Into<String>) -> Error {
        Kind::Malformed { cause: cause.into() }.into()
    }

    pub(crate) fn function(name: impl Into<String>, cause: impl Into<String>) -> Error {
        Kind::Function { name: name.into(), cause: cause.into() }.into()
    }

    /// Whether the deadline passed.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(*self.kind, Kind::Timeout { .. })
    }

    /// Whether part of a frame had already gone out, or come in, when the operation failed.
    ///
    /// The socket has lost its place then: close it, as nothing sent on it later would be understood.
    #[must_use]
    pub fn is_torn(&self) -> bool {
        match *self.kind {
            Kind::Timeout { torn, .. } => torn,
            Kind::CutOff { .. }
            | Kind::Malformed { .. }
            | Kind::TooLarge { .. }
            | Kind::OutOfDescriptors { .. } => true,
            Kind::Lost { .. } => false,
            Kind::Encode { .. } | Kind::Decode { .. } | Kind::Function { .. } | Kind::Io { .. } => false,
        }
    }

    /// Whether the other end is gone: it closed the socket, or ended, before or within a frame.
    #[must_use]
    pub fn is_disconnected(&self) -> bool {
        match &*self.kind {
            Kind::CutOff { .. } => true,
            Kind::Io { cause, .. } => matches!(
                cause.kind(),
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected
            ),
            _ => false,
        }
    }

    /// Whether a frame ended before its announced length, because the other end closed or died.
    #[must_use]
    pub fn is_cut_off(&self) -> bool {
        matches!(*self.kind, Kind::CutOff { .. })
    }

    /// Whether what arrived is no frame, or no value, of this protocol.
    #[must_use]
    pub fn is_malformed(&self) -> bool {
        matches!(*self.kind, Kind::Malformed { .. } | Kind::Decode { .. })
    }

    /// Whether a frame announced more than the receiver's [`Limits`](crate::wire::Limits) allow.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        matches!(*self.kind, Kind::TooLarge { .. })
    }

    /// Whether this process has no descriptor left (`RLIMIT_NOFILE`), or the system has none.
    #[must_use]
    pub fn is_out_of_descriptors(&self) -> bool {
        match &*self.kind {
            Kind::OutOfDescriptors { .. } => true,
            Kind::Io { cause, .. } => {
                matches!(cause.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ETOOMANYREFS))
            }
            _ => false,
        }
    }

    /// Whether a packet was taken and could not be delivered, since another receiver took the one that had been looked at, or
    /// another thread the descriptors' room. It is gone; the next can be received.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        matches!(*self.kind, Kind::Lost { .. })
    }

    /// The operating system's error number behind this error, if there is one.
    #[must_use]
    pub fn os_error(&self) -> Option<i32> {
        match &*self.kind {
            Kind::Io { cause, .. } => cause.raw_os_error(),
            Kind::OutOfDescriptors { .. } => Some(libc::EMFILE),
            _ => None,
        }
    }
}

impl From<Kind> for Error {
    fn from(kind: Kind) -> Error {
        Error { kind: Box::new(kind) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.kind {
            Kind::Encode { type_name, cause } => write!(f, "failed to encode value `{type_name}`: {cause}"),
            Kind::Decode { type_name, bytes, cause } => {
                write!(f, "failed to decode value `{type_name}` ({bytes} bytes): {cause}")
            }
            Kind::Io { doing, facts, cause } if facts.is_empty() => write!(f, "failed to {doing}: {cause}"),
            Kind::Io { doing, facts, cause } => write!(f, "failed to {doing} ({facts}): {cause}"),
            Kind::Timeout { doing, torn: false } => write!(f, "failed to {doing}: the deadline passed"),
            Kind::Timeout { doing, torn: true } => {
                write!(f, "failed to {doing}: the deadline passed in the middle of a frame")
            }
            Kind::CutOff { got, expected } => write!(
                f,
                "failed to receive parcel ({got} of {expected} bytes): the other end closed the socket \
                 in the middle of a frame"
            ),
            Kind::Malformed { cause } => write!(f, "failed to receive parcel: {cause}"),
            Kind::TooLarge { what, got, limit } => {
                write!(f, "failed to receive parcel: it announces {got} {what}, the limit is {limit}")
            }
            Kind::OutOfDescriptors { limit: Some(limit) } => write!(
                f,
                "failed to receive parcel: no room for its descriptors, this process may have {limit} open \
                 (RLIMIT_NOFILE)"
            ),
            Kind::OutOfDescriptors { limit: None } => {
                f.write_str("failed to receive parcel: no room for its descriptors (RLIMIT_NOFILE)")
            }
            Kind::Lost { cause } => write!(f, "{cause}; it was taken, and is lost"),
            Kind::Function { name, cause } => write!(f, "failed to refer to function `{name}`: {cause}"),
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
        match &*self.kind {
            Kind::Io { cause, .. } => Some(cause),
            _ => None,
        }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        let kind = match &*error.kind {
            Kind::Io { cause, .. } => cause.kind(),
            Kind::Timeout { .. } => io::ErrorKind::TimedOut,
            Kind::CutOff { .. } => io::ErrorKind::UnexpectedEof,
            Kind::Encode { .. } => io::ErrorKind::InvalidInput,
            Kind::Decode { .. } | Kind::Malformed { .. } | Kind::TooLarge { .. } => {
                io::ErrorKind::InvalidData
            }
            Kind::OutOfDescriptors { .. } => return io::Error::from_raw_os_error(libc::EMFILE),
            Kind::Lost { .. } => io::ErrorKind::Other,
            Kind::Function { .. } => io::ErrorKind::Unsupported,
        };
        io::Error::new(kind, error)
    }
}
