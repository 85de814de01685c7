//! What can go wrong on a connection.

use procession_parcel::Parcel;
use std::{fmt, io};

/// Why a message was not sent, or none received.
///
/// The text names the operation, the facts and the cause. Callers that act on the cause ask the predicates.
pub struct ConnectionError {
    doing: &'static str,
    kind: Box<Kind>,
}

#[derive(Debug)]
pub(crate) enum Kind {
    Parcel(procession_parcel::Error),
    Io(io::Error),
    /// In the middle of a message, whose rest the connection keeps.
    Partly(io::Error),
    End,
    CutOff {
        got: u64,
        expected: u64,
    },
    Timeout {
        partly: bool,
    },
    TooLarge {
        len: u64,
        limit: u64,
    },
    TooSmall {
        message: Parcel,
        room: usize,
    },
    Unwanted {
        message: Parcel,
    },
    NoWayFor {
        descriptors: usize,
    },
    OutOfDescriptors,
    Direction(&'static str),
    MidMessage,
    Malformed(String),
}

impl ConnectionError {
    pub(crate) fn new(doing: &'static str, kind: Kind) -> ConnectionError {
        ConnectionError { doing, kind: Box::new(kind) }
    }

    pub(crate) fn io(doing: &'static str, cause: impl Into<io::Error>) -> ConnectionError {
        ConnectionError::new(doing, Kind::Io(cause.into()))
    }

    pub(crate) fn parcel(doing: &'static str, cause: procession_parcel::Error) -> ConnectionError {
        if cause.is_timeout() {
            return ConnectionError::new(doing, Kind::Timeout { partly: false });
        }
        ConnectionError::new(doing, Kind::Parcel(cause))
    }

    /// The same error, where part of the message may be out. With the other end gone there is no rest to be sent.
    pub(super) fn in_part(self, partly: bool) -> ConnectionError {
        if !partly || self.is_broken_pipe() {
            return self;
        }
        let kind = match *self.kind {
            Kind::Io(error) => Kind::Partly(error),
            kind => kind,
        };
        ConnectionError::new(self.doing, kind)
    }

    /// Whether the end came between two messages: every copy of the other end is closed, or its process ended, and all
    /// that it sent has been received. Python's `EOFError`.
    #[must_use]
    pub fn is_eof(&self) -> bool {
        matches!(*self.kind, Kind::End)
    }

    /// Whether the end came in the middle of a message: the other end's process died while it sent, on a stream. A local
    /// pipe cannot show this.
    #[must_use]
    pub fn is_cut_off(&self) -> bool {
        matches!(*self.kind, Kind::CutOff { .. })
    }

    /// Whether nobody is there to receive what was sent. Python's `BrokenPipeError`.
    #[must_use]
    pub fn is_broken_pipe(&self) -> bool {
        match &*self.kind {
            Kind::Parcel(error) => error.is_disconnected(),
            Kind::Io(error) => matches!(
                error.kind(),
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected
            ),
            _ => false,
        }
    }

    /// Whether the other end is gone, whichever way that was noticed.
    #[must_use]
    pub fn is_disconnected(&self) -> bool {
        self.is_eof() || self.is_cut_off() || self.is_broken_pipe()
    }

    /// Whether the deadline passed. A message that was to be sent is not sent, unless it
    /// [is partly](ConnectionError::is_partly_sent).
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(*self.kind, Kind::Timeout { .. })
    }

    /// Whether part of the message was out at the deadline, or when memory was short, on a stream. The connection keeps the rest, which goes out
    /// before anything else: by the next send, or by [`flush`](super::Connection::flush). Do not send the message again.
    #[must_use]
    pub fn is_partly_sent(&self) -> bool {
        matches!(*self.kind, Kind::Timeout { partly: true } | Kind::Partly(_))
    }

    /// Whether the message is longer than is allowed here. It has not been taken: it can be received with a higher limit.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        match &*self.kind {
            Kind::TooLarge { .. } => true,
            Kind::Parcel(error) => error.is_too_large(),
            _ => false,
        }
    }

    /// Whether the buffer was too small for the message, which is in the error: see
    /// [`into_message`](ConnectionError::into_message). Python's `BufferTooShort`.
    #[must_use]
    pub fn is_buffer_too_small(&self) -> bool {
        matches!(*self.kind, Kind::TooSmall { .. })
    }

    /// Whether this process, or its user, has no descriptors left. A message that was to be received is still there.
    #[must_use]
    pub fn is_out_of_descriptors(&self) -> bool {
        match &*self.kind {
            Kind::OutOfDescriptors => true,
            Kind::Parcel(error) => error.is_out_of_descriptors(),
            Kind::Io(error) => matches!(
                rustix::io::Errno::from_io_error(error),
                Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE)
            ),
            _ => false,
        }
    }

    /// Whether a message was taken from a local pipe and could not be delivered, since a receiver in another process took the
    /// one that had been looked at, or another thread opened descriptors where there was room for those of the message. It is gone; the next can be received.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        matches!(&*self.kind, Kind::Parcel(error) if error.is_lost())
    }

    /// Whether what arrived is no message, or not a value of the expected type. It is gone; on a local pipe the next can be
    /// received, on a stream too unless the framing itself was wrong.
    #[must_use]
    pub fn is_malformed(&self) -> bool {
        match &*self.kind {
            Kind::Malformed(_) => true,
            Kind::Parcel(error) => error.is_malformed(),
            _ => false,
        }
    }

    /// The message that was received and could not be delivered: the buffer was too small, or it brings descriptors where
    /// only bytes were asked for.
    #[must_use]
    pub fn into_message(self) -> Option<Parcel> {
        match *self.kind {
            Kind::TooSmall { message, .. } | Kind::Unwanted { message } => Some(message),
            _ => None,
        }
    }
}

impl fmt::Display for ConnectionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "failed to {}: ", self.doing)?;
        match &*self.kind {
            Kind::Parcel(error) => error.fmt(f),
            Kind::Io(error) => error.fmt(f),
            Kind::Partly(error) => {
                write!(f, "{error}, in the middle of the message, whose rest goes out before the next")
            }
            Kind::End => f.write_str("the other end is closed, and everything it sent was received"),
            Kind::CutOff { got, expected } => {
                write!(f, "the other end closed in the middle of a message ({got} of {expected} bytes)")
            }
            Kind::Timeout { partly: false } => f.write_str("the deadline passed"),
            Kind::Timeout { partly: true } => f.write_str(
                "the deadline passed in the middle of the message, whose rest goes out before the next",
            ),
            Kind::TooLarge { len, limit } => write!(f, "it has {len} bytes, the limit is {limit}"),
            Kind::TooSmall { message, room } => {
                write!(f, "it has {} bytes, the buffer {room}", message.bytes().len())
            }
            Kind::Unwanted { message } => {
                write!(f, "it brings {} descriptors, receive it with `recv`", message.fds().len())
            }
            Kind::NoWayFor { descriptors } => write!(
                f,
                "it holds {descriptors} descriptors: none pass over TCP or a kernel's pipe, 253 with a message over a \
                 Unix stream socket, any number through a `Pipe`"
            ),
            Kind::OutOfDescriptors => {
                f.write_str("no room for its descriptors (RLIMIT_NOFILE); it is still there")
            }
            Kind::Direction(other) => write!(f, "this end is {other}-only"),
            Kind::MidMessage => {
                f.write_str("a message is on its way through this end, only part of it passed")
            }
            Kind::Malformed(what) => f.write_str(what),
        }
    }
}

/// The same line as [`Display`](fmt::Display), so that `unwrap` helps too.
impl fmt::Debug for ConnectionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for ConnectionError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &*self.kind {
            Kind::Parcel(error) => Some(error),
            Kind::Io(error) | Kind::Partly(error) => Some(error),
            _ => None,
        }
    }
}

impl From<ConnectionError> for io::Error {
    fn from(error: ConnectionError) -> io::Error {
        let kind = match &*error.kind {
            _ if error.is_broken_pipe() => io::ErrorKind::BrokenPipe,
            Kind::Io(cause) | Kind::Partly(cause) => cause.kind(),
            Kind::End | Kind::CutOff { .. } => io::ErrorKind::UnexpectedEof,
            Kind::Timeout { .. } => io::ErrorKind::TimedOut,
            Kind::NoWayFor { .. } | Kind::Direction(_) => io::ErrorKind::Unsupported,
            Kind::MidMessage => io::ErrorKind::ResourceBusy,
            Kind::OutOfDescriptors => io::ErrorKind::QuotaExceeded,
            Kind::Parcel(_)
            | Kind::TooLarge { .. }
            | Kind::TooSmall { .. }
            | Kind::Unwanted { .. }
            | Kind::Malformed(_) => io::ErrorKind::InvalidData,
        };
        io::Error::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn short_memory_in_the_middle_of_a_message_is_told_as_such() {
        let error = |errno, partly| ConnectionError::io("send", errno).in_part(partly);
        assert!(error(Errno::NOBUFS, true).is_partly_sent() && error(Errno::NOMEM, true).is_partly_sent());
        assert!(!error(Errno::NOBUFS, false).is_partly_sent());
        let gone = error(Errno::PIPE, true);
        assert!(gone.is_broken_pipe() && !gone.is_partly_sent());
    }
}
