//! A connection without its types.

use super::{
    error::{ConnectionError, Kind},
    stream::{Arrived, Stream},
};
use procession_parcel::{
    Parcel,
    handle::{self, Borrowed},
    wire::{Limits, Received, packet},
};
use procession_sys::{Deadline, fd};
use rustix::{
    fs::{Mode, OFlags, fcntl_getfl, open, readlink},
    net::{AddressFamily, SocketType, sockopt},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _, ser::Error as _};
use std::{
    fmt,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

pub(super) const SEND: &str = "send a message";
pub(super) const RECV: &str = "receive a message";

/// Which ways messages go.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Direction {
    Both,
    In,
    Out,
}

pub(super) enum Transport {
    /// One packet each, over a socket pair. The threads of this process take turns with all handles of that socket.
    Packets(OwnedFd, Direction, packet::Turn),
    /// In CPython's framing.
    Stream(Stream),
}

impl Transport {
    fn packets(fd: OwnedFd, direction: Direction) -> Transport {
        let turn = packet::Turn::of(&fd);
        Transport::Packets(fd, direction, turn)
    }
}

pub(crate) struct Link {
    pub(super) transport: Transport,
    pub(super) max_bytes: u64,
    /// Whether a challenge as the first message is the listener's, who asks for a key that we do not have.
    #[cfg(feature = "net")]
    pub(super) no_challenge: std::sync::atomic::AtomicBool,
}

impl Link {
    fn new(transport: Transport) -> Link {
        Link {
            transport,
            max_bytes: Limits::default().max_bytes,
            #[cfg(feature = "net")]
            no_challenge: Default::default(),
        }
    }

    /// Two ends of a local pipe.
    pub(super) fn pair(ours: Direction, theirs: Direction) -> Result<(Link, Link), ConnectionError> {
        let (a, b) = packet::pair().map_err(|error| ConnectionError::parcel("make a pipe", error))?;
        let shut = |fd: &OwnedFd, direction| {
            let how = match direction {
                Direction::Both => return Ok(()),
                Direction::In => rustix::net::Shutdown::Write,
                Direction::Out => rustix::net::Shutdown::Read,
            };
            rustix::net::shutdown(fd, how).map_err(|errno| ConnectionError::io("make a pipe", errno))
        };
        shut(&a, ours)?;
        shut(&b, theirs)?;
        Ok((Link::new(Transport::packets(a, ours)), Link::new(Transport::packets(b, theirs))))
    }

    #[cfg(feature = "ipc-channel")]
    pub(super) fn from_packets(fd: OwnedFd, direction: Direction) -> Link {
        Link::new(Transport::packets(fd, direction))
    }

    /// Messages in CPython's framing over a connected stream socket or a pipe.
    pub(crate) fn from_stream(fd: OwnedFd) -> Result<Link, ConnectionError> {
        Ok(Link::new(Transport::Stream(Stream::new(fd)?)))
    }

    pub(super) fn writes(&self) -> bool {
        match &self.transport {
            Transport::Packets(_, direction, _) => *direction != Direction::In,
            Transport::Stream(stream) => stream.writes,
        }
    }

    pub(super) fn reads(&self) -> bool {
        match &self.transport {
            Transport::Packets(_, direction, _) => *direction != Direction::Out,
            Transport::Stream(stream) => stream.reads,
        }
    }

    pub(super) fn check_writes(&self) -> Result<(), ConnectionError> {
        match self.writes() {
            true => Ok(()),
            false => Err(ConnectionError::new(SEND, Kind::Direction("read"))),
        }
    }

    fn check_reads(&self) -> Result<(), ConnectionError> {
        match self.reads() {
            true => Ok(()),
            false => Err(ConnectionError::new(RECV, Kind::Direction("write"))),
        }
    }

    /// Sends a message whose bytes are all of `parts`, one after the other.
    pub(crate) fn send(
        &self,
        parts: &[&[u8]],
        fds: &[OwnedFd],
        deadline: Option<Deadline>,
    ) -> Result<(), ConnectionError> {
        self.check_writes()?;
        match &self.transport {
            Transport::Packets(socket, ..) => {
                let sent = packet::Packet::new(parts, fds)
                    .and_then(|mut packet| packet.send(socket.as_fd(), deadline));
                sent.map_err(|error| ConnectionError::parcel(SEND, error))
            }
            Transport::Stream(stream) => stream.send(parts, fds, deadline),
        }
    }

    pub(super) fn send_parcel(
        &self,
        parcel: &Parcel,
        deadline: Option<Deadline>,
    ) -> Result<(), ConnectionError> {
        let sent = self.send(&[parcel.bytes()], parcel.fds(), deadline);
        if sent.as_ref().err().is_none_or(ConnectionError::is_partly_sent) {
            parcel.mark_delivered();
        }
        sent
    }

    pub(super) fn flush(&self, deadline: Option<Deadline>) -> Result<(), ConnectionError> {
        match &self.transport {
            Transport::Packets(..) => Ok(()),
            Transport::Stream(stream) => stream.flush(deadline),
        }
    }

    /// A message that is there, of at most `max` bytes; nothing if there is none, or not all of it.
    pub(super) fn try_recv(&self, max: u64) -> Result<Option<Parcel>, ConnectionError> {
        self.check_reads()?;
        match &self.transport {
            Transport::Packets(socket, _, turn) => {
                packet_of(packet::try_recv_in_turn(socket, Some(*turn), &limits(max)))
            }
            Transport::Stream(stream) => match stream.advance(max)? {
                Arrived::Message(parcel) => self.check_first(parcel).map(Some),
                Arrived::Nothing => Ok(None),
                Arrived::End => Err(ConnectionError::new(RECV, Kind::End)),
            },
        }
    }

    #[cfg(feature = "net")]
    fn check_first(&self, message: Parcel) -> Result<Parcel, ConnectionError> {
        let check = self.no_challenge.swap(false, std::sync::atomic::Ordering::Relaxed);
        match check && crate::net::is_challenge(message.bytes()) {
            false => Ok(message),
            true => {
                Err(ConnectionError::new(RECV, Kind::Malformed("the listener asks for a key".to_owned())))
            }
        }
    }

    #[cfg(not(feature = "net"))]
    fn check_first(&self, message: Parcel) -> Result<Parcel, ConnectionError> {
        Ok(message)
    }

    /// The next message, of at most `max` bytes; nothing if it is not there by `deadline`.
    pub(crate) fn recv(
        &self,
        max: u64,
        deadline: Option<Deadline>,
    ) -> Result<Option<Parcel>, ConnectionError> {
        self.check_reads()?;
        if let Transport::Packets(socket, _, turn) = &self.transport {
            return packet_of(packet::recv_in_turn(socket, Some(*turn), &limits(max), deadline));
        }
        loop {
            if let Some(parcel) = self.try_recv(max)? {
                return Ok(Some(parcel));
            }
            // What comes and comes without an end does not hold anybody beyond the deadline.
            if deadline.is_some_and(Deadline::passed) {
                return Ok(None);
            }
            if !self.wait_for_input(deadline)? {
                return Ok(None);
            }
        }
    }

    /// Waits until something can be read: a message, its beginning, or the end.
    pub(super) fn wait_for_input(&self, deadline: Option<Deadline>) -> Result<bool, ConnectionError> {
        self.check_reads()?;
        fd::readable(self.as_fd(), deadline).map_err(|error| ConnectionError::io("wait for a message", error))
    }

    /// Whether nothing that comes has a meaning any more.
    pub(super) fn is_lost(&self) -> bool {
        match &self.transport {
            Transport::Packets(..) => false,
            Transport::Stream(stream) => stream.is_lost(),
        }
    }

    pub(super) fn into_fd(self) -> OwnedFd {
        match self.transport {
            Transport::Packets(fd, ..) => fd,
            Transport::Stream(stream) => stream.into_fd(),
        }
    }
}

fn limits(max_bytes: u64) -> Limits {
    Limits { max_bytes, ..Limits::default() }
}

fn packet_of(
    received: Result<Received, procession_parcel::Error>,
) -> Result<Option<Parcel>, ConnectionError> {
    match received {
        Ok(Received::Parcel(parcel)) => Ok(Some(parcel)),
        Ok(Received::Empty) => Ok(None),
        Ok(Received::Closed) => Err(ConnectionError::new(RECV, Kind::End)),
        Err(error) => Err(ConnectionError::parcel(RECV, error)),
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.transport {
            Transport::Packets(fd, ..) => fd.as_fd(),
            Transport::Stream(stream) => stream.fd(),
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transport = match &self.transport {
            Transport::Packets(..) => "packets",
            Transport::Stream(_) => "stream",
        };
        f.debug_struct("Connection")
            .field("transport", &transport)
            .field("fd", &self.as_fd())
            .field("reads", &self.reads())
            .field("writes", &self.writes())
            .finish()
    }
}

/// A stream that a peer sent: a socket, or a kernel's pipe. Whatever else it is, a file system of the peer's perhaps, can keep
/// us waiting for ever.
fn of_the_kernels(fd: OwnedFd) -> Result<OwnedFd, ConnectionError> {
    const DOING: &str = "unpack a connection";
    if sockopt::socket_type(&fd).is_ok() {
        return Ok(fd);
    }
    let failed = |errno| ConnectionError::io(DOING, errno);
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    if !readlink(&path, Vec::new()).map_err(failed)?.as_bytes().starts_with(b"pipe:[") {
        let text = "it is neither a socket nor a pipe".to_owned();
        return Err(ConnectionError::new(DOING, Kind::Malformed(text)));
    }
    // A peer that reads too would have us block behind `poll`: so a description of our own, which does not.
    let mode = fcntl_getfl(&fd).map_err(failed)? & OFlags::RWMODE;
    open(&path, mode | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()).map_err(failed)
}

/// Only inside a parcel. A stream only between messages.
impl Serialize for Link {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (direction, fd) = match &self.transport {
            Transport::Packets(fd, direction, _) => (Some(*direction), fd.as_fd()),
            Transport::Stream(stream) => (None, stream.to_move().map_err(S::Error::custom)?),
        };
        (direction, self.max_bytes, Borrowed(fd)).serialize(serializer)
    }
}

struct Fd(OwnedFd);

impl<'de> Deserialize<'de> for Fd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Fd, D::Error> {
        handle::deserialize(deserializer).map(Fd)
    }
}

impl<'de> Deserialize<'de> for Link {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Link, D::Error> {
        let (direction, max_bytes, Fd(fd)) = <(Option<Direction>, u64, Fd)>::deserialize(deserializer)?;
        let transport = match direction {
            Some(direction) => {
                let sort = (sockopt::socket_type(&fd), sockopt::socket_domain(&fd));
                if sort != (Ok(SocketType::SEQPACKET), Ok(AddressFamily::UNIX)) {
                    return Err(D::Error::custom("the descriptor of a pipe's end is no packet socket"));
                }
                Transport::packets(fd, direction)
            }
            None => {
                let fd = of_the_kernels(fd).map_err(D::Error::custom)?;
                Transport::Stream(Stream::new(fd).map_err(D::Error::custom)?)
            }
        };
        let mut link = Link::new(transport);
        // The sender may lower what is received here, and not raise it.
        link.max_bytes = max_bytes.min(link.max_bytes);
        Ok(link)
    }
}
