//! Why a value was not sent, or none received.

use super::error::{Corrupt, RecvError, SendError};
use std::fmt;

/// Why a value was not sent, and the value: no receiver gets it.
#[non_exhaustive]
pub enum Unsent<T> {
    /// There was no room, now or in time.
    Full(T),
    /// The receiver is gone: it was closed or dropped.
    Closed(T),
    /// Nobody has the receiver any more: its process died, or the parcel that it was in is lost.
    Died(T),
    /// It is larger than the channel takes.
    TooLarge {
        /// The value.
        value: T,
        /// The length of its encoding in bytes.
        len: usize,
        /// The largest length that is accepted.
        limit: usize,
    },
    /// It could not be encoded, such as one that holds a descriptor, or it holds a block of a heap that the channel was not
    /// made on.
    Encode(T, procession_parcel::Error),
    /// A block of the channel's heap in it could not be put on its way.
    Heap(T, procession_shm::Error),
    /// This end was sent to another process, which uses it now.
    Moved(T),
    /// The receiver wrote nonsense; this end is of no use any more.
    Corrupt(T, Corrupt),
}

/// Why there is no value, and will be none, but for one that could not be decoded.
#[derive(Debug)]
#[non_exhaustive]
pub enum ReceiveError {
    /// The sender was closed or dropped, and everything that it sent has been received.
    Closed,
    /// Nobody has the sender any more: its process died, or the parcel that it was in is lost. Everything that it
    /// committed has been received.
    Died,
    /// What arrived could not be decoded. It is out of the channel; the next value can be received.
    Decode(procession_parcel::Error),
    /// This end was sent to another process, which uses it now.
    Moved,
    /// The sender wrote nonsense; this end is of no use any more.
    Corrupt(Corrupt),
}

impl<T> Unsent<T> {
    pub(super) fn of(value: T, error: SendError, peer_died: bool) -> Unsent<T> {
        match error {
            SendError::Timeout => Unsent::Full(value),
            SendError::TooLarge { len, limit } => Unsent::TooLarge { value, len, limit },
            SendError::Disconnected if peer_died => Unsent::Died(value),
            SendError::Disconnected => Unsent::Closed(value),
            SendError::Moved => Unsent::Moved(value),
            SendError::Corrupt(corrupt) => Unsent::Corrupt(value, corrupt),
        }
    }

    /// The value.
    pub fn into_value(self) -> T {
        match self {
            Unsent::Full(value)
            | Unsent::Closed(value)
            | Unsent::Died(value)
            | Unsent::TooLarge { value, .. }
            | Unsent::Encode(value, _)
            | Unsent::Heap(value, _)
            | Unsent::Moved(value)
            | Unsent::Corrupt(value, _) => value,
        }
    }

    /// The same reason with another value.
    pub fn map<U>(self, into: impl FnOnce(T) -> U) -> Unsent<U> {
        match self {
            Unsent::Full(value) => Unsent::Full(into(value)),
            Unsent::Closed(value) => Unsent::Closed(into(value)),
            Unsent::Died(value) => Unsent::Died(into(value)),
            Unsent::TooLarge { value, len, limit } => Unsent::TooLarge { value: into(value), len, limit },
            Unsent::Encode(value, error) => Unsent::Encode(into(value), error),
            Unsent::Heap(value, error) => Unsent::Heap(into(value), error),
            Unsent::Moved(value) => Unsent::Moved(into(value)),
            Unsent::Corrupt(value, corrupt) => Unsent::Corrupt(into(value), corrupt),
        }
    }

    /// Whether there was no room, now or in time.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, Unsent::Full(_))
    }

    /// Whether the receiver is gone, whatever became of it.
    #[must_use]
    pub fn is_disconnected(&self) -> bool {
        matches!(self, Unsent::Closed(_) | Unsent::Died(_))
    }
}

impl ReceiveError {
    pub(super) fn of(error: RecvError, peer_died: bool) -> ReceiveError {
        match error {
            RecvError::Disconnected if peer_died => ReceiveError::Died,
            RecvError::Disconnected => ReceiveError::Closed,
            RecvError::Moved => ReceiveError::Moved,
            RecvError::Corrupt(corrupt) => ReceiveError::Corrupt(corrupt),
        }
    }

    /// Whether the sender is gone, whatever became of it.
    #[must_use]
    pub fn is_disconnected(&self) -> bool {
        matches!(self, ReceiveError::Closed | ReceiveError::Died)
    }
}

const MOVED: &str = "this end of the channel was sent to another process";

impl<T> fmt::Display for Unsent<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("failed to send a value: ")?;
        match self {
            Unsent::Full(_) => f.write_str("the channel has no room"),
            Unsent::Closed(_) => f.write_str("the receiver was closed"),
            Unsent::Died(_) => {
                f.write_str("the receiver is lost: its process died, or the parcel that it was in")
            }
            Unsent::TooLarge { len, limit, .. } => {
                write!(f, "it takes {len} bytes, and the channel at most {limit} at once")
            }
            Unsent::Encode(_, error) => error.fmt(f),
            Unsent::Heap(_, error) => error.fmt(f),
            Unsent::Moved(_) => f.write_str(MOVED),
            Unsent::Corrupt(_, corrupt) => corrupt.fmt(f),
        }
    }
}

/// Without the value, of which nothing is asked.
impl<T> fmt::Debug for Unsent<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Unsent({self})")
    }
}

impl<T> std::error::Error for Unsent<T> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Unsent::Encode(_, error) => Some(error),
            Unsent::Heap(_, error) => Some(error),
            Unsent::Corrupt(_, corrupt) => Some(corrupt),
            _ => None,
        }
    }
}

impl fmt::Display for ReceiveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("failed to receive a value: ")?;
        match self {
            ReceiveError::Closed => f.write_str("the sender was closed, and all that it sent has been received"),
            ReceiveError::Died => f.write_str(
                "the sender is lost: its process died, or the parcel that it was in; all that it sent has been \
                 received",
            ),
            ReceiveError::Decode(error) => error.fmt(f),
            ReceiveError::Moved => f.write_str(MOVED),
            ReceiveError::Corrupt(corrupt) => corrupt.fmt(f),
        }
    }
}

impl std::error::Error for ReceiveError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ReceiveError::Decode(error) => Some(error),
            ReceiveError::Corrupt(corrupt) => Some(corrupt),
            _ => None,
        }
    }
}
