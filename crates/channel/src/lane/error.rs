//! What can go wrong on a lane, per operation.

use std::fmt;

/// The other end wrote something that no honest end writes. The lane cannot be used any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Corrupt {
    pub(crate) what: &'static str,
    pub(crate) found: u64,
    pub(crate) limit: u64,
}

impl fmt::Display for Corrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Corrupt { what, found, limit } = self;
        write!(f, "the other end of the lane wrote an impossible {what}: {found}, where {limit} is possible")
    }
}

impl std::error::Error for Corrupt {}

/// Why a message was not sent at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TrySendError {
    /// There is no room now.
    Full,
    /// There will never be room: [`send`](super::RawSender::send) may do it in pieces, up to the largest message.
    TooLarge {
        /// The message's length in bytes.
        len: usize,
        /// The largest length that this call accepts.
        limit: usize,
    },
    /// The receiver is gone.
    Disconnected,
    /// This end was sent to another process, which uses it now.
    Moved,
    /// The receiver wrote nonsense.
    Corrupt(Corrupt),
}

/// Why a message was not sent. It was not accepted then: no receiver gets it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SendError {
    /// There was no room until the deadline.
    Timeout,
    /// The message is larger than the lane's largest.
    TooLarge {
        /// The message's length in bytes.
        len: usize,
        /// The largest length that the lane accepts.
        limit: usize,
    },
    /// The receiver is gone.
    Disconnected,
    /// This end was sent to another process, which uses it now.
    Moved,
    /// The receiver wrote nonsense.
    Corrupt(Corrupt),
}

/// Why there is no message, and will be none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecvError {
    /// The sender is gone, and everything that it committed has been received.
    Disconnected,
    /// This end was sent to another process, which uses it now.
    Moved,
    /// The sender wrote nonsense.
    Corrupt(Corrupt),
}

const MOVED: &str = "this end of the lane was sent to another process";

impl fmt::Display for TrySendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TrySendError::Full => f.write_str("failed to send a message: the lane has no room now"),
            TrySendError::TooLarge { len, limit } => {
                write!(f, "failed to send a message at once ({len} bytes): the lane takes at most {limit}")
            }
            TrySendError::Disconnected => f.write_str("failed to send a message: the receiver is gone"),
            TrySendError::Moved => write!(f, "failed to send a message: {MOVED}"),
            TrySendError::Corrupt(corrupt) => write!(f, "failed to send a message: {corrupt}"),
        }
    }
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SendError::Timeout => f.write_str("failed to send a message: the lane had no room in time"),
            SendError::TooLarge { len, limit } => {
                write!(f, "failed to send a message ({len} bytes): the lane takes at most {limit}")
            }
            SendError::Disconnected => f.write_str("failed to send a message: the receiver is gone"),
            SendError::Moved => write!(f, "failed to send a message: {MOVED}"),
            SendError::Corrupt(corrupt) => write!(f, "failed to send a message: {corrupt}"),
        }
    }
}

impl fmt::Display for RecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecvError::Disconnected => f.write_str("failed to receive a message: the sender is gone"),
            RecvError::Moved => write!(f, "failed to receive a message: {MOVED}"),
            RecvError::Corrupt(corrupt) => write!(f, "failed to receive a message: {corrupt}"),
        }
    }
}

impl std::error::Error for TrySendError {}
impl std::error::Error for SendError {}
impl std::error::Error for RecvError {}

impl From<Corrupt> for TrySendError {
    fn from(corrupt: Corrupt) -> TrySendError {
        TrySendError::Corrupt(corrupt)
    }
}

impl From<Corrupt> for SendError {
    fn from(corrupt: Corrupt) -> SendError {
        SendError::Corrupt(corrupt)
    }
}

impl From<Corrupt> for RecvError {
    fn from(corrupt: Corrupt) -> RecvError {
        RecvError::Corrupt(corrupt)
    }
}

impl From<TrySendError> for SendError {
    fn from(error: TrySendError) -> SendError {
        match error {
            TrySendError::Full => SendError::Timeout,
            TrySendError::TooLarge { len, limit } => SendError::TooLarge { len, limit },
            TrySendError::Disconnected => SendError::Disconnected,
            TrySendError::Moved => SendError::Moved,
            TrySendError::Corrupt(corrupt) => SendError::Corrupt(corrupt),
        }
    }
}
