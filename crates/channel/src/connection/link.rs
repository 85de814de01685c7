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
use rustix::net::{AddressFamily, SocketType, sockopt};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _, ser::Error as _};
use std::{
    fmt,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
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
    /// One packet each, over a socket pair.
    Packets(OwnedFd, Direction),
    /// In CPython's framing.
    Stream(Stream),
}

pub(crate) struct Link {
    pub(super) transport: Transport,
    pub(super) max_bytes: u64,
}

impl Link {
    fn new(transport: Transport) -> Link {
        Link { transport, max_bytes: Limits::default().max_bytes }
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
        Ok((Link::new(Transport::Packets(a, ours)), Link::new(Transport::Packets(b, theirs))))
    }

    /// Messages in CPython's framing over a connected stream socket or a pipe.
    pub(crate) fn from_stream(fd: OwnedFd) -> Result<Link, ConnectionError> {
        Ok(Link::new(Transport::Stream(Stream::new(fd)?)))
    }

    pub(super) fn writes(&self) -> bool {
        match &self.transport {
            Transport::Packets(_, direction) => *direction != Direction::In,
            Transport::Stream(stream) => stream.writes,
        }
    }

    pub(super) fn reads(&self) -> bool {
        match &self.transport {
            Transport::Packets(_, direction) => *direction != Direction::Out,
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
            Transport::Packets(socket, _) => {
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
            Transport::Packets(socket, _) => packet_of(packet::try_recv(socket, &limits(max))),
            Transport::Stream(stream) => match stream.advance(max)? {
                Arrived::Message(parcel) => Ok(Some(parcel)),
                Arrived::Nothing => Ok(None),
                Arrived::End => Err(ConnectionError::new(RECV, Kind::End)),
            },
        }
    }

    /// The next message, of at most `max` bytes; nothing if it is not there by `deadline`.
    pub(crate) fn recv(
        &self,
        max: u64,
        deadline: Option<Deadline>,
    ) -> Result<Option<Parcel>, ConnectionError> {
        self.check_reads()?;
        if let Transport::Packets(socket, _) = &self.transport {
            return packet_of(packet::recv(socket, &limits(max), deadline));
        }
        loop {
            if let Some(parcel) = self.try_recv(max)? {
                return Ok(Some(parcel));
            }
            if !self.wait_for_input(deadline)? {
                return Ok(None);
            }
        }
    }

    /// Waits until something can be read: a message, its beginning, or the end.
    pub(super) fn wait_for_input(&self, deadline: Option<Deadline>) -> Result<bool, ConnectionError> {
        fd::readable(self.as_fd(), deadline).map_err(|error| ConnectionError::io("wait for a message", error))
    }

    pub(super) fn into_fd(self) -> OwnedFd {
        match self.transport {
            Transport::Packets(fd, _) => fd,
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
            Transport::Packets(fd, _) => fd.as_fd(),
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

/// Only inside a parcel. A stream only between messages.
impl Serialize for Link {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (direction, fd) = match &self.transport {
            Transport::Packets(fd, direction) => (Some(*direction), fd.as_fd()),
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
                Transport::Packets(fd, direction)
            }
            None => Transport::Stream(Stream::new(fd).map_err(D::Error::custom)?),
        };
        Ok(Link { transport, max_bytes })
    }
}
