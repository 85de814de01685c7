//! Connections: messages between two ends, with the descriptors that they hold.
//!
//! ```
//! use procession_channel::connection::Pipe;
//!
//! let (ours, theirs) = Pipe::<u32, String>::duplex()?;
//! ours.send(&7)?;
//! assert_eq!(theirs.recv()?, 7);
//! theirs.send(&"seven".to_owned())?;
//! assert_eq!(ours.recv()?, "seven");
//! drop(theirs);
//! assert!(ours.recv().unwrap_err().is_eof());
//! # Ok::<(), procession_channel::connection::ConnectionError>(())
//! ```
//!
//! # Two transports
//! * A [`Pipe`]'s ends are a pair of packet sockets, and each message is one packet; a body of more than 64 KiB lies in a
//!   sealed memfd whose descriptor goes with it. A message is sent and received by one system call, so it is whole or
//!   absent whoever is killed, and several processes or threads may use one end, each for whole messages. Where threads of one
//!   process receive on an end, or on copies of it, each message goes to one of them. Between processes that receive on the
//!   same end one can lose a message if they differ in how long a message they take, or have no room for descriptors: it
//!   finds another message than the one that it had looked at ([`ConnectionError::is_lost`]). (In CPython both threads and
//!   processes that receive on one end tear each other's messages.)
//! * A stream ([`Connection::from_stream`]) has CPython's framing: 4 bytes of length, big-endian, then the message. CPython
//!   can be the other end, with [`send_bytes`](Connection::send_bytes) and [`recv_bytes`](Connection::recv_bytes) on
//!   both sides. Threads may share an end; processes must not, and a message can be cut by a death.
//!
//! # What travels
//! Values of the ends' types, encoded as everything is in `procession` before the call returns. Handles (locks, segments,
//! other ends, files as [`Fd`](procession_parcel::Fd)) travel inside messages: their descriptors go along, through a
//! pipe of ours in any number, over a Unix stream socket up to 253 with a message, and not over TCP. What comes in is not
//! trusted: it is checked, and a reference to a function by its offset is refused (one by name is not).
//!
//! An end in a message or an argument is duplicated, as in Python: the sender still has it. Drop it there, or the other
//! end does not see this one's process die. Under start method fork a child has whatever its parent had open.
//!
//! # Deadlines
//! Whatever blocks has a form with a timeout and one with a deadline. On a pipe a message that missed its deadline was not
//! sent. On a stream part of it may be out; the connection keeps a copy of the rest ([`ConnectionError::is_partly_sent`]) and
//! sends it before the next message. A receiver that misses its deadline loses nothing: what it has read of a message is
//! kept for the next one. Signals interrupt nothing.
//!
//! # When a process dies
//! The kernel closes its ends. When the last copy of an end is closed, the other one receives what was sent, and then the
//! end: [`is_eof`](ConnectionError::is_eof). What is sent to it is an error:
//! [`is_broken_pipe`](ConnectionError::is_broken_pipe). A message that its dead receiver had taken is gone with it; one
//! that lay in the pipe is received by others that hold the same end, or gone with the last of them.

mod error;
#[cfg(feature = "async")]
mod later;
mod link;
mod stream;
mod turn;

pub use error::ConnectionError;

pub(crate) use error::Kind;
pub(crate) use link::Link;
use link::{Direction, RECV};
use procession_parcel::Parcel;
use procession_sys::Deadline;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};
use std::{
    fmt,
    io::IoSlice,
    marker::PhantomData,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

/// Makes pipes: connections between two ends on one machine. See the [module](self).
///
/// ```
/// use procession_channel::connection::Pipe;
///
/// let (receiver, sender) = Pipe::<String>::one_way()?;
/// sender.send(&"down the pipe".to_owned())?;
/// assert_eq!(receiver.recv()?, "down the pipe");
/// # Ok::<(), procession_channel::connection::ConnectionError>(())
/// ```
#[derive(Debug)]
pub struct Pipe<A, B = A> {
    nothing: PhantomData<(A, B)>,
}

/// What an end that only receives sends, and one that only sends receives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Nothing {}

/// The receiving end of a one-way pipe.
pub type PipeReceiver<T> = Connection<Nothing, T>;

/// The sending end of a one-way pipe.
pub type PipeSender<T> = Connection<T, Nothing>;

impl<A, B> Pipe<A, B> {
    /// A pipe whose first end sends `A` and receives `B`, and whose second end does the reverse.
    ///
    /// # Errors
    ///
    /// No descriptors left.
    #[expect(clippy::type_complexity, reason = "the two ends of a pipe")]
    pub fn duplex() -> Result<(Connection<A, B>, Connection<B, A>), ConnectionError> {
        let (a, b) = Link::pair(Direction::Both, Direction::Both)?;
        Ok((Connection::from_link(a), Connection::from_link(b)))
    }
}

impl<T> Pipe<T> {
    /// A pipe with an end that receives and one that sends, in this order, as Python's `Pipe(duplex=False)`.
    ///
    /// # Errors
    ///
    /// No descriptors left.
    pub fn one_way() -> Result<(PipeReceiver<T>, PipeSender<T>), ConnectionError> {
        let (receiver, sender) = Link::pair(Direction::In, Direction::Out)?;
        Ok((Connection::from_link(receiver), Connection::from_link(sender)))
    }
}

/// An end that sends values of type `S` and receives values of type `R`. See the [module](self).
///
/// All methods take `&self`: one thread may send while another receives.
pub struct Connection<S, R> {
    link: Link,
    types: PhantomData<fn(S) -> R>,
}

impl<S, R> Connection<S, R> {
    pub(crate) fn from_link(link: Link) -> Connection<S, R> {
        Connection { link, types: PhantomData }
    }

    /// Messages in CPython's framing over a connected stream socket (Unix or TCP), or over one end of a kernel's pipe.
    ///
    /// What is sent and received on the socket otherwise, here or in another process, tears the messages.
    ///
    /// # Errors
    ///
    /// It is no stream.
    pub fn from_stream(stream: impl Into<OwnedFd>) -> Result<Connection<S, R>, ConnectionError> {
        Link::from_stream(stream.into()).map(Connection::from_link)
    }

    /// An end of a pipe that only sends, over a packet socket that was another library's.
    #[cfg(feature = "ipc-channel")]
    pub(crate) fn sending_packets(socket: OwnedFd) -> Connection<S, R> {
        Connection::from_link(Link::from_packets(socket, Direction::Out))
    }

    /// An end of a pipe that only receives, over a packet socket that was another library's.
    #[cfg(feature = "ipc-channel")]
    pub(crate) fn receiving_packets(socket: OwnedFd) -> Connection<S, R> {
        Connection::from_link(Link::from_packets(socket, Direction::In))
    }

    /// A challenge as the first message is an error: the listener asks for a key, and we came without one.
    #[cfg(feature = "net")]
    pub(crate) fn expecting_no_challenge(mut self) -> Connection<S, R> {
        *self.link.no_challenge.get_mut() = true;
        self
    }

    /// The same end with other types: those that the other end sends and expects.
    #[must_use]
    pub fn with_types<S2, R2>(self) -> Connection<S2, R2> {
        Connection::from_link(self.link)
    }

    /// The longest message that is received, in bytes: 4 GiB unless it is set. A longer one is an error
    /// ([`ConnectionError::is_too_large`]) and stays where it is. An end that travels takes a lower limit along, and no
    /// higher one.
    pub fn set_max_message(&mut self, bytes: u64) {
        self.link.max_bytes = bytes;
    }

    #[cfg(feature = "pickle")]
    pub(crate) fn max_message(&self) -> u64 {
        self.link.max_bytes
    }

    /// Whether this end can receive.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        self.link.reads()
    }

    /// Whether this end can send.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.link.writes()
    }

    /// Waits until there is something to receive, for `timeout` at most: a message, or the end. Then `true`.
    ///
    /// On a stream it may be the beginning of a message.
    ///
    /// # Errors
    ///
    /// What `poll(2)` reports; this end only sends.
    pub fn poll(&self, timeout: Duration) -> Result<bool, ConnectionError> {
        self.link.wait_for_input(Some(Deadline::after(timeout)))
    }

    /// As [`poll`](Connection::poll), until `deadline`, or without end.
    ///
    /// # Errors
    ///
    /// As [`poll`](Connection::poll).
    pub fn poll_deadline(&self, deadline: Option<Deadline>) -> Result<bool, ConnectionError> {
        self.link.wait_for_input(deadline)
    }

    /// Closes this end, as dropping it does.
    pub fn close(self) {}

    /// On a stream, sends what a send that missed its deadline left; see [`ConnectionError::is_partly_sent`].
    ///
    /// # Errors
    ///
    /// The deadline passed, or the other end is gone.
    pub fn flush(&self, deadline: Option<Deadline>) -> Result<(), ConnectionError> {
        self.link.flush(deadline)
    }

    // Bytes.

    /// Sends bytes as a message, which may be empty.
    ///
    /// # Errors
    ///
    /// The other end is gone ([`ConnectionError::is_broken_pipe`]); this end only receives.
    pub fn send_bytes(&self, bytes: &[u8]) -> Result<(), ConnectionError> {
        self.link.send(&[bytes], &[], None)
    }

    /// As [`send_bytes`](Connection::send_bytes), for `timeout` at most.
    ///
    /// # Errors
    ///
    /// As [`send_bytes`](Connection::send_bytes), and the time passed ([`ConnectionError::is_timeout`]).
    pub fn send_bytes_timeout(&self, bytes: &[u8], timeout: Duration) -> Result<(), ConnectionError> {
        self.send_bytes_deadline(bytes, Deadline::after(timeout))
    }

    /// As [`send_bytes`](Connection::send_bytes), until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`send_bytes`](Connection::send_bytes), and the time passed ([`ConnectionError::is_timeout`]).
    pub fn send_bytes_deadline(&self, bytes: &[u8], deadline: Deadline) -> Result<(), ConnectionError> {
        self.link.send(&[bytes], &[], Some(deadline))
    }

    /// Sends the bytes of all `parts`, one after the other, as one message.
    ///
    /// # Errors
    ///
    /// As [`send_bytes`](Connection::send_bytes).
    pub fn send_vectored(&self, parts: &[IoSlice<'_>]) -> Result<(), ConnectionError> {
        self.send_vectored_deadline(parts, None)
    }

    /// As [`send_vectored`](Connection::send_vectored), until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`send_bytes_deadline`](Connection::send_bytes_deadline).
    pub fn send_vectored_deadline(
        &self,
        parts: &[IoSlice<'_>],
        deadline: Option<Deadline>,
    ) -> Result<(), ConnectionError> {
        let parts: Vec<&[u8]> = parts.iter().map(|part| &**part).collect();
        self.link.send(&parts, &[], deadline)
    }

    /// Receives a message as bytes; waits for it as long as that takes.
    ///
    /// # Errors
    ///
    /// * The end came ([`is_eof`](ConnectionError::is_eof)), or did in the middle of the message
    ///   ([`is_cut_off`](ConnectionError::is_cut_off));
    /// * the message is too long ([`is_too_large`](ConnectionError::is_too_large)): it stays where it is;
    /// * it brings descriptors: it is in the error ([`into_message`](ConnectionError::into_message)).
    pub fn recv_bytes(&self) -> Result<Vec<u8>, ConnectionError> {
        self.recv_bytes_max(self.link.max_bytes)
    }

    /// As [`recv_bytes`](Connection::recv_bytes), for a message of at most `max` bytes.
    ///
    /// # Errors
    ///
    /// As [`recv_bytes`](Connection::recv_bytes).
    pub fn recv_bytes_max(&self, max: u64) -> Result<Vec<u8>, ConnectionError> {
        loop {
            if let Some(bytes) = self.recv_bytes_within(max, None)? {
                return Ok(bytes);
            }
        }
    }

    /// As [`recv_bytes`](Connection::recv_bytes), for `timeout` at most: then `None`.
    ///
    /// # Errors
    ///
    /// As [`recv_bytes`](Connection::recv_bytes).
    pub fn recv_bytes_timeout(&self, timeout: Duration) -> Result<Option<Vec<u8>>, ConnectionError> {
        self.recv_bytes_deadline(Deadline::after(timeout))
    }

    /// As [`recv_bytes`](Connection::recv_bytes), until `deadline`: then `None`.
    ///
    /// # Errors
    ///
    /// As [`recv_bytes`](Connection::recv_bytes).
    pub fn recv_bytes_deadline(&self, deadline: Deadline) -> Result<Option<Vec<u8>>, ConnectionError> {
        self.recv_bytes_within(self.link.max_bytes, Some(deadline))
    }

    /// As [`recv_bytes`](Connection::recv_bytes), for a message of at most `max` bytes, until `deadline`: then `None`.
    ///
    /// # Errors
    ///
    /// As [`recv_bytes`](Connection::recv_bytes).
    pub fn recv_bytes_within(
        &self,
        max: u64,
        deadline: Option<Deadline>,
    ) -> Result<Option<Vec<u8>>, ConnectionError> {
        self.link.recv(max, deadline)?.map(bytes_of).transpose()
    }

    /// Receives a message as bytes if one is there.
    ///
    /// # Errors
    ///
    /// As [`recv_bytes`](Connection::recv_bytes).
    pub fn try_recv_bytes(&self) -> Result<Option<Vec<u8>>, ConnectionError> {
        self.link.try_recv(self.link.max_bytes)?.map(bytes_of).transpose()
    }

    /// Receives a message into the beginning of `buffer`, and tells its length.
    ///
    /// # Errors
    ///
    /// As [`recv_bytes`](Connection::recv_bytes). A message for which the buffer is too small is in the error
    /// ([`into_message`](ConnectionError::into_message)).
    pub fn recv_bytes_into(&self, buffer: &mut [u8]) -> Result<usize, ConnectionError> {
        let bytes = self.recv_bytes()?;
        place(bytes, buffer)
    }

    /// As [`recv_bytes_into`](Connection::recv_bytes_into), until `deadline`: then `None`.
    ///
    /// # Errors
    ///
    /// As [`recv_bytes_into`](Connection::recv_bytes_into).
    pub fn recv_bytes_into_deadline(
        &self,
        buffer: &mut [u8],
        deadline: Deadline,
    ) -> Result<Option<usize>, ConnectionError> {
        self.recv_bytes_deadline(deadline)?.map(|bytes| place(bytes, buffer)).transpose()
    }

    // Parcels.

    /// Sends a packed value.
    ///
    /// # Errors
    ///
    /// As [`send`](Connection::send).
    pub fn send_parcel(&self, parcel: &Parcel, deadline: Option<Deadline>) -> Result<(), ConnectionError> {
        self.link.send_parcel(parcel, deadline)
    }

    /// Receives a value still packed, until `deadline`: then `None`.
    ///
    /// # Errors
    ///
    /// As [`recv`](Connection::recv), without decoding.
    pub fn recv_parcel(&self, deadline: Option<Deadline>) -> Result<Option<Parcel>, ConnectionError> {
        self.link.recv(self.link.max_bytes, deadline)
    }
}

fn bytes_of(message: Parcel) -> Result<Vec<u8>, ConnectionError> {
    if message.fds().is_empty() {
        return Ok(message.into_parts().0);
    }
    Err(ConnectionError::new("receive a message as bytes", Kind::Unwanted { message }))
}

fn place(bytes: Vec<u8>, buffer: &mut [u8]) -> Result<usize, ConnectionError> {
    match buffer.get_mut(..bytes.len()) {
        Some(beginning) => {
            beginning.copy_from_slice(&bytes);
            Ok(bytes.len())
        }
        None => {
            let (message, room) = (Parcel::new(bytes, Vec::new()), buffer.len());
            Err(ConnectionError::new("receive a message into a buffer", Kind::TooSmall { message, room }))
        }
    }
}

impl<S: Serialize, R> Connection<S, R> {
    /// Sends a value; waits for room as long as that takes.
    ///
    /// # Errors
    ///
    /// The value cannot be encoded; the other end is gone ([`ConnectionError::is_broken_pipe`]); the value holds
    /// descriptors, and this is no way for them; or this process has none left.
    pub fn send(&self, value: &S) -> Result<(), ConnectionError> {
        self.link.send_parcel(&pack(value)?, None)
    }

    /// As [`send`](Connection::send), for `timeout` at most.
    ///
    /// # Errors
    ///
    /// As [`send`](Connection::send), and the time passed ([`ConnectionError::is_timeout`]).
    pub fn send_timeout(&self, value: &S, timeout: Duration) -> Result<(), ConnectionError> {
        self.send_deadline(value, Deadline::after(timeout))
    }

    /// As [`send`](Connection::send), until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`send`](Connection::send), and the time passed ([`ConnectionError::is_timeout`]).
    pub fn send_deadline(&self, value: &S, deadline: Deadline) -> Result<(), ConnectionError> {
        self.link.send_parcel(&pack(value)?, Some(deadline))
    }

    /// Sends a value if there is room now.
    ///
    /// # Errors
    ///
    /// As [`send_deadline`](Connection::send_deadline) with a deadline that has passed.
    pub fn try_send(&self, value: &S) -> Result<(), ConnectionError> {
        self.send_deadline(value, Deadline::from_nanos(0))
    }
}

fn pack<S: Serialize>(value: &S) -> Result<Parcel, ConnectionError> {
    Parcel::pack(value).map_err(|error| ConnectionError::parcel(link::SEND, error))
}

fn unpack<R: DeserializeOwned + 'static>(parcel: Parcel) -> Result<R, ConnectionError> {
    parcel.unpack().map_err(|error| ConnectionError::parcel(RECV, error))
}

impl<S, R: DeserializeOwned + 'static> Connection<S, R> {
    /// Receives a value; waits for it as long as that takes.
    ///
    /// # Errors
    ///
    /// * The end came ([`is_eof`](ConnectionError::is_eof)), or did in the middle of the message
    ///   ([`is_cut_off`](ConnectionError::is_cut_off));
    /// * the message is too long ([`is_too_large`](ConnectionError::is_too_large)), or this process has no room for its
    ///   descriptors ([`is_out_of_descriptors`](ConnectionError::is_out_of_descriptors)): it stays where it is;
    /// * it is no `R` ([`is_malformed`](ConnectionError::is_malformed)): it is gone, the next one can be received.
    pub fn recv(&self) -> Result<R, ConnectionError> {
        loop {
            if let Some(parcel) = self.link.recv(self.link.max_bytes, None)? {
                return unpack(parcel);
            }
        }
    }

    /// As [`recv`](Connection::recv), for `timeout` at most: then `None`.
    ///
    /// # Errors
    ///
    /// As [`recv`](Connection::recv).
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Option<R>, ConnectionError> {
        self.recv_deadline(Deadline::after(timeout))
    }

    /// As [`recv`](Connection::recv), until `deadline`: then `None`.
    ///
    /// # Errors
    ///
    /// As [`recv`](Connection::recv).
    pub fn recv_deadline(&self, deadline: Deadline) -> Result<Option<R>, ConnectionError> {
        self.link.recv(self.link.max_bytes, Some(deadline))?.map(unpack).transpose()
    }

    /// Receives a value if there is one.
    ///
    /// # Errors
    ///
    /// As [`recv`](Connection::recv).
    pub fn try_recv(&self) -> Result<Option<R>, ConnectionError> {
        self.link.try_recv(self.link.max_bytes)?.map(unpack).transpose()
    }

    /// The values that come, up to the end, or up to an error behind which nothing else comes. What is no `R` is an error
    /// too, and the iteration goes on behind it.
    pub fn iter(&self) -> impl Iterator<Item = Result<R, ConnectionError>> {
        let mut over = false;
        std::iter::from_fn(move || {
            if over {
                return None;
            }
            let result = self.recv();
            if let Err(error) = &result {
                over = !(error.is_lost() || error.is_malformed() && !self.link.is_lost());
                if error.is_eof() {
                    return None;
                }
            }
            Some(result)
        })
    }
}

impl<S, R> AsFd for Connection<S, R> {
    /// For `poll(2)` and its kin. What is received or sent on it otherwise is not seen by the connection.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.link.as_fd()
    }
}

/// The descriptor, which is the connection's. What a stream had read or not sent of a message is lost.
impl<S, R> From<Connection<S, R>> for OwnedFd {
    fn from(connection: Connection<S, R>) -> OwnedFd {
        connection.link.into_fd()
    }
}

impl<S, R> fmt::Debug for Connection<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.link.fmt(f)
    }
}

/// Only inside a parcel, as a duplicate. A stream only between messages.
impl<S, R> Serialize for Connection<S, R> {
    fn serialize<T: Serializer>(&self, serializer: T) -> Result<T::Ok, T::Error> {
        self.link.serialize(serializer)
    }
}

impl<'de, S, R> Deserialize<'de> for Connection<S, R> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Connection<S, R>, D::Error> {
        Link::deserialize(deserializer).map(Connection::from_link)
    }
}
