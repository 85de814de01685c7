//! What can go wrong with a queue, per operation.

use super::trouble::Trouble;
use std::fmt;

/// Why an item was not put. It was not accepted then, no consumer gets it, and it is here.
pub enum PutError<T> {
    /// There was no room, or not in time.
    Full(T),
    /// The queue is closed.
    Closed(T),
    /// The item cannot be encoded: its `Serialize` failed, or it holds a file descriptor, which goes through a `Pipe`, or a
    /// block of a heap that the queue was not made on.
    Encode(T, procession_parcel::Error),
    /// A block of the queue's heap in it could not be put on its way.
    Heap(T, procession_shm::Error),
    /// The item will never fit into the queue's memory.
    TooLarge {
        /// The item.
        item: T,
        /// Its encoded length in bytes.
        len: usize,
        /// The longest that the queue takes, in bytes.
        limit: usize,
    },
    /// The queue cannot do its work.
    Unusable(T, Trouble),
}

impl<T> PutError<T> {
    /// The item.
    pub fn into_item(self) -> T {
        match self {
            PutError::Full(item)
            | PutError::Closed(item)
            | PutError::Encode(item, _)
            | PutError::Heap(item, _)
            | PutError::TooLarge { item, .. }
            | PutError::Unusable(item, _) => item,
        }
    }

    /// The same reason with an item.
    pub(super) fn with<U>(self, item: U) -> PutError<U> {
        match self {
            PutError::Full(_) => PutError::Full(item),
            PutError::Closed(_) => PutError::Closed(item),
            PutError::Encode(_, error) => PutError::Encode(item, error),
            PutError::Heap(_, error) => PutError::Heap(item, error),
            PutError::TooLarge { len, limit, .. } => PutError::TooLarge { item, len, limit },
            PutError::Unusable(_, trouble) => PutError::Unusable(item, trouble),
        }
    }

    /// Whether there was no room, or not in time.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, PutError::Full(_))
    }

    /// Whether the queue is closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self, PutError::Closed(_))
    }
}

impl<T> fmt::Display for PutError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("failed to put an item: ")?;
        match self {
            PutError::Full(_) => f.write_str("the queue is full"),
            PutError::Closed(_) => f.write_str("the queue is closed"),
            PutError::Encode(_, error) => error.fmt(f),
            PutError::Heap(_, error) => error.fmt(f),
            PutError::TooLarge { len, limit, .. } => {
                write!(f, "it takes {len} bytes, and the queue takes items of {limit} at most")
            }
            PutError::Unusable(_, trouble) => trouble.fmt(f),
        }
    }
}

impl<T> fmt::Debug for PutError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<T> std::error::Error for PutError<T> {}

/// Why not all items of a batch were put.
pub struct PutManyError<T> {
    /// Those that were not accepted, in order. Those before them were.
    pub rest: Vec<T>,
    /// Why the first of them was not.
    pub cause: PutError<()>,
}

impl<T> fmt::Display for PutManyError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} items were not accepted)", self.cause, self.rest.len())
    }
}

impl<T> fmt::Debug for PutManyError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<T> std::error::Error for PutManyError<T> {}

/// Why there is no item.
#[derive(Debug)]
pub enum GetError {
    /// There is none now, or none came in time.
    Empty,
    /// The queue is closed, and everything that was accepted has been taken.
    Closed,
    /// The same, but with [`Policy::Redeliver`](super::Policy::Redeliver) other processes have items in hand that may come back,
    /// and this one has some too. They are not waited for, since those processes may wait for this one: finish what is in
    /// hand here, then ask again.
    InHand,
    /// An item was taken that cannot be decoded: it is gone. The next one can be taken.
    Decode(procession_parcel::Error),
    /// The queue cannot do its work.
    Unusable(Trouble),
}

impl GetError {
    /// Whether there was no item, or not in time.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(self, GetError::Empty)
    }

    /// Whether the queue is closed and drained: `Closed` or `InHand`.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self, GetError::Closed | GetError::InHand)
    }
}

impl fmt::Display for GetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("failed to get an item: ")?;
        match self {
            GetError::Empty => f.write_str("the queue is empty"),
            GetError::Closed => f.write_str("the queue is closed, and drained"),
            GetError::InHand => f.write_str(
                "the queue is closed, and drained; other processes have items in hand that may come back, and so has \
                 this one: finish these, then ask again",
            ),
            GetError::Decode(error) => error.fmt(f),
            GetError::Unusable(trouble) => trouble.fmt(f),
        }
    }
}

impl std::error::Error for GetError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            GetError::Decode(error) => Some(error),
            GetError::Unusable(trouble) => Some(trouble),
            _ => None,
        }
    }
}

/// Why [`JoinableQueue::join`](super::JoinableQueue::join) ended before all items were done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum JoinError {
    /// They were not done in time.
    TimedOut,
    /// Consumers died with this many items in hand, and the policy is to report them, or they held blocks of a heap and
    /// cannot come again ([`Queue::settle`](super::Queue::settle)).
    InDoubt(u64),
    /// The queue cannot do its work.
    Unusable(Trouble),
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("failed to join a queue: ")?;
        match self {
            JoinError::TimedOut => f.write_str("its items were not done in time"),
            JoinError::InDoubt(count) => write!(f, "consumers died with {count} items in hand"),
            JoinError::Unusable(trouble) => trouble.fmt(f),
        }
    }
}

impl std::error::Error for JoinError {}

/// `task_done` was called more often than items were taken here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooManyDone;

impl fmt::Display for TooManyDone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("task_done() was called more often than this process took items")
    }
}

impl std::error::Error for TooManyDone {}

/// Why a queue could not be made or attached.
#[non_exhaustive]
pub enum QueueError {
    /// The shared memory below could not be had, or is of another kind.
    Segment(procession_shm::Error),
    /// The system has no robust mutexes between processes.
    Mutex(std::io::Error),
    /// The builder asks for a queue without room for anything.
    Empty,
    /// The memory does not describe a queue that it has room for, or came without the heap that it was made on.
    Shape,
    /// It is a `JoinableQueue` where another queue is expected, or the reverse.
    Joinable,
}

impl fmt::Display for QueueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("failed to make or attach a queue: ")?;
        match self {
            QueueError::Segment(error) => error.fmt(f),
            QueueError::Mutex(error) => write!(f, "no robust mutex between processes: {error}"),
            QueueError::Empty => f.write_str("a queue for no items, or of no memory, is of no use"),
            QueueError::Shape => f.write_str("its memory does not describe a queue that it has room for"),
            QueueError::Joinable => {
                f.write_str("one of the two is a JoinableQueue, and the other one is not")
            }
        }
    }
}

impl fmt::Debug for QueueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for QueueError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            QueueError::Segment(error) => Some(error),
            QueueError::Mutex(error) => Some(error),
            _ => None,
        }
    }
}

impl From<procession_shm::Error> for QueueError {
    fn from(error: procession_shm::Error) -> QueueError {
        QueueError::Segment(error)
    }
}

impl From<QueueError> for std::io::Error {
    fn from(error: QueueError) -> std::io::Error {
        let kind = match &error {
            QueueError::Segment(segment) => {
                segment.os_error().map_or(std::io::ErrorKind::InvalidData, |os| os.kind())
            }
            QueueError::Mutex(error) => error.kind(),
            QueueError::Empty => std::io::ErrorKind::InvalidInput,
            _ => std::io::ErrorKind::InvalidData,
        };
        std::io::Error::new(kind, error)
    }
}
