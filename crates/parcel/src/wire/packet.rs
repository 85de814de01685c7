//! Messages of one packet each, over `SOCK_SEQPACKET` socket pairs: whole or absent, whoever dies.
//!
//! The frames of the module above may take several packets. Here a message is one, always, so a sender that is killed
//! leaves it whole or not at all, and several processes may send on one end, or receive, at the same time.
//!
//! # A packet
//! A header of 24 bytes, little-endian, then the body.
//!
//! | bytes | what |
//! |---|---|
//! | 0..4 | magic, `pmsg` |
//! | 4 | version, 1 |
//! | 5 | flags: 1: the body is in a memfd, the last descriptor; 2: the descriptors are in a carrier, the first one |
//! | 6..8 | number of descriptors that come with the packet |
//! | 8..16 | length of the body |
//! | 16..20 | number of descriptors that belong to the message |
//! | 20..24 | reserved, zero |
//!
//! A body longer than [`INLINE`], or than the socket takes, lies in a sealed memfd. More descriptors than the kernel
//! passes at once lie in a *carrier*: the receiving end of another socket pair, whose sending end is closed by the time
//! the message is sent.
//!
//! # A receiver that cannot take a message
//! It looks before it takes. A message that is too large for the receiver's [`Limits`], or has more descriptors than
//! this process has room for, is an error and stays where it is. What is no message is taken out, as is one with more
//! descriptors than this process may have at all.
//! The threads of a process take turns ([`Turn`]), so that each takes what it has looked at. Between the look and the take,
//! another process that receives on the socket can take that message, or a thread that opens descriptors use up the room: then
//! the message that was taken instead may be lost, and the error says so ([`Error::is_lost`]).

use super::turn::{self, Taking};
use super::{FDS_PER_MESSAGE, Limits, Received, spill};
use crate::error::{Error, Kind};
use crate::parcel::Parcel;
use procession_sys::fd::{look as look_at, readable, writable};
use procession_sys::{Deadline, ancillary};
use rustix::event::{PollFd, PollFlags};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::net::{
    AddressFamily, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags,
    SocketType, recv as recv_bytes, sendmsg,
};
use rustix::process::{Resource, getrlimit};
use std::cell::RefCell;
use std::fmt;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

pub use super::turn::Turn;

/// Bodies longer than this travel in a memfd.
pub const INLINE: usize = 64 * 1024;

const HEADER: usize = 24;
const MAGIC: [u8; 4] = *b"pmsg";
const VERSION: u8 = 1;
const SPILLED: u8 = 1;
/// The most descriptors of a message: what a carrier takes.
const FDS: u32 = 1 << 16;
const CARRIED: u8 = 2;

/// More parts than this are copied together, since the kernel takes 1,024.
const PARTS: usize = 16;

/// A pair of connected sockets for such messages, close-on-exec.
///
/// # Errors
/// If this process has no descriptors left.
pub fn pair() -> Result<(OwnedFd, OwnedFd), Error> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|errno| Error::io("make a socket pair", "", errno))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    flags: u8,
    /// Descriptors with the packet.
    here: u16,
    body: u64,
    /// Descriptors of the message.
    fds: u32,
}

impl Header {
    fn encode(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = VERSION;
        bytes[5] = self.flags;
        bytes[6..8].copy_from_slice(&self.here.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.body.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.fds.to_le_bytes());
        bytes
    }

    /// Reads the header of a packet of `len` bytes.
    fn decode(bytes: &[u8], len: usize) -> Result<Header, Error> {
        let Some(bytes) = bytes.first_chunk::<HEADER>() else {
            return Err(Error::malformed(format!("a packet of {len} bytes holds no header")));
        };
        if bytes[..4] != MAGIC || bytes[4] != VERSION {
            return Err(Error::malformed(format!("it starts with {:02x?}, no message does", &bytes[..5])));
        }
        let mut body = [0; 8];
        body.copy_from_slice(&bytes[8..16]);
        let header = Header {
            flags: bytes[5],
            here: u16::from_le_bytes([bytes[6], bytes[7]]),
            body: u64::from_le_bytes(body),
            fds: u32::from_le_bytes([bytes[16], bytes[17], bytes[18], bytes[19]]),
        };
        if header.flags & !(SPILLED | CARRIED) != 0 || bytes[20..24] != [0; 4] {
            return Err(Error::malformed(format!(
                "unknown flags {:#x}, or reserved bytes set",
                header.flags
            )));
        }
        if header.fds > FDS {
            return Err(Error::malformed(format!("{} descriptors, no message has so many", header.fds)));
        }
        let own = u64::from(if header.has(CARRIED) { 1 } else { header.fds });
        if u64::from(header.here) != own + u64::from(header.has(SPILLED)) {
            return Err(Error::malformed(format!(
                "{} descriptors with the packet of a message with {}",
                header.here, header.fds
            )));
        }
        let inline = if header.has(SPILLED) { 0 } else { header.body };
        if (len - HEADER) as u64 != inline {
            return Err(Error::malformed(format!("a body of {} bytes where {inline} belong", len - HEADER)));
        }
        Ok(header)
    }

    fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// How many descriptors come, all in all.
    fn places(self) -> u64 {
        u64::from(self.here) + if self.has(CARRIED) { u64::from(self.fds) } else { 0 }
    }

    /// A message for which there is never room would stay for ever, in front of all others.
    fn check_room(self) -> Result<(), Error> {
        if self.places() == 0 {
            // Most messages: they save a system call.
            return Ok(());
        }
        match getrlimit(Resource::Nofile).current {
            Some(limit) if self.places() > limit => Err(Error::malformed(format!(
                "{} descriptors, and this process may have {limit} (RLIMIT_NOFILE)",
                self.fds
            ))),
            _ => Ok(()),
        }
    }

    fn check(self, limits: &Limits) -> Result<(), Error> {
        if self.body > limits.max_bytes {
            return Err(Kind::TooLarge { what: "bytes", got: self.body, limit: limits.max_bytes }.into());
        }
        let (got, limit) = (u64::from(self.fds), limits.max_fds as u64);
        if got > limit {
            return Err(Kind::TooLarge { what: "descriptors", got, limit }.into());
        }
        Ok(())
    }
}

/// A message that is ready to be sent: from here on it takes one system call.
pub struct Packet<'a> {
    header: Header,
    parts: Vec<&'a [u8]>,
    /// The parts copied together, where they are many.
    joined: Option<Vec<u8>>,
    lent: &'a [OwnedFd],
    carrier: Option<OwnedFd>,
    memfd: Option<OwnedFd>,
}

impl<'a> Packet<'a> {
    /// Prepares a message whose body is all of `parts`, one after the other.
    ///
    /// # Errors
    /// If this process has no descriptor left for a large body, or there are more descriptors than a socket holds.
    pub fn new(parts: &[&'a [u8]], fds: &'a [OwnedFd]) -> Result<Packet<'a>, Error> {
        let body = parts.iter().map(|part| part.len() as u64).sum();
        let count = u32::try_from(fds.len()).ok().filter(|count| *count <= FDS);
        let count = count.ok_or_else(|| too_many(fds.len()))?;
        let header = Header { flags: 0, here: 0, body, fds: count };
        let mut packet =
            Packet { header, parts: parts.to_vec(), joined: None, lent: fds, carrier: None, memfd: None };
        if body > INLINE as u64 {
            packet.spill()?;
        } else if parts.len() > PARTS {
            packet.joined = Some(parts.concat());
        }
        // One place is left for a memfd.
        if fds.len() > FDS_PER_MESSAGE - 1 {
            packet.carrier = Some(carrier(fds)?);
            packet.lent = &[];
        }
        Ok(packet)
    }

    fn spill(&mut self) -> Result<(), Error> {
        let memfd = spill::write_out(&self.parts)?;
        self.memfd = Some(memfd.ok_or_else(|| {
            let facts = format!("{} bytes; it needs a memfd, or fewer bytes", self.header.body);
            Error::io("send a large message", facts, std::io::Error::from(std::io::ErrorKind::Unsupported))
        })?);
        Ok(())
    }

    /// Sends it if there is room; false if there is none now.
    ///
    /// # Errors
    /// The other end is closed ([`Error::is_disconnected`]); the user has too many descriptors on their way
    /// ([`Error::is_out_of_descriptors`]).
    pub fn try_send(&mut self, socket: BorrowedFd<'_>) -> Result<bool, Error> {
        loop {
            let mut header = self.header;
            header.flags |= if self.carrier.is_some() { CARRIED } else { 0 };
            header.flags |= if self.memfd.is_some() { SPILLED } else { 0 };
            let fds: Vec<_> =
                self.lent.iter().chain(&self.carrier).chain(&self.memfd).map(AsFd::as_fd).collect();
            header.here = fds.len() as u16;
            let header = header.encode();
            let mut slices = [IoSlice::new(&[]); PARTS + 1];
            slices[0] = IoSlice::new(&header);
            if self.memfd.is_none() {
                match &self.joined {
                    Some(joined) => slices[1] = IoSlice::new(joined),
                    None => {
                        for (slice, part) in slices[1..].iter_mut().zip(&self.parts) {
                            *slice = IoSlice::new(part);
                        }
                    }
                }
            }
            match send_once(socket, &slices, &fds) {
                Ok(()) => return Ok(true),
                Err(Errno::AGAIN) => return Ok(false),
                // The socket's buffer is smaller than a packet's largest.
                Err(Errno::MSGSIZE) if self.memfd.is_none() => self.spill()?,
                Err(errno) => {
                    let facts = format!("{} bytes and {} descriptors", self.header.body, self.header.fds);
                    return Err(Error::io("send a message", facts, errno));
                }
            }
        }
    }

    /// Sends it, waiting for room until `deadline`.
    ///
    /// # Errors
    /// As [`try_send`](Packet::try_send); the deadline passed ([`Error::is_timeout`]): the message is not sent.
    pub fn send(&mut self, socket: BorrowedFd<'_>, deadline: Option<Deadline>) -> Result<(), Error> {
        while !self.try_send(socket)? {
            match writable(socket, deadline) {
                Ok(true) => {}
                Ok(false) => return Err(Kind::Timeout { doing: "send a message", torn: false }.into()),
                Err(error) => return Err(Error::io("wait for room to send a message", "", error)),
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Packet<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packet").field("bytes", &self.header.body).field("fds", &self.header.fds).finish()
    }
}

fn too_many(fds: usize) -> Error {
    Kind::TooLarge { what: "descriptors", got: fds as u64, limit: u64::from(FDS) }.into()
}

fn send_once(socket: BorrowedFd<'_>, slices: &[IoSlice<'_>], fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_PER_MESSAGE))];
    loop {
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(Errno::INVAL);
        }
        match sendmsg(socket, slices, &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// The receiving end of a socket that holds `fds`, and whose other end is closed.
fn carrier(fds: &[OwnedFd]) -> Result<OwnedFd, Error> {
    let (ours, theirs) = pair()?;
    for batch in fds.chunks(FDS_PER_MESSAGE) {
        let batch: Vec<_> = batch.iter().map(AsFd::as_fd).collect();
        send_once(ours.as_fd(), &[IoSlice::new(&[0])], &batch).map_err(|errno| match errno {
            Errno::AGAIN => too_many(fds.len()),
            errno => Error::io("send descriptors", format!("{} of them", fds.len()), errno),
        })?;
    }
    Ok(theirs)
}

/// Takes the descriptors out of a carrier.
fn unload(carrier: &OwnedFd, count: usize) -> Result<Vec<OwnedFd>, Error> {
    let mut fds = Vec::new();
    loop {
        let (mut byte, before) = ([0], fds.len());
        match take(carrier.as_fd(), &mut [IoSliceMut::new(&mut byte)], &mut fds)? {
            Some((0, _)) => break,
            Some((_, flags)) if flags.contains(ReturnFlags::CTRUNC) => {
                return Err(lost(&out_of_descriptors()));
            }
            // Each brings some: a socket whose other end writes on and on is no carrier.
            Some((1, _)) if fds.len() > before => {}
            _ => return Err(Error::malformed("its descriptors come in no carrier")),
        }
        if fds.len() > count {
            break;
        }
    }
    if fds.len() != count {
        return Err(Error::malformed(format!("it announces {count} descriptors, {} came", fds.len())));
    }
    Ok(fds)
}

/// The error of a message that was taken nevertheless.
fn lost(error: &Error) -> Error {
    Kind::Lost { cause: error.to_string() }.into()
}

fn out_of_descriptors() -> Error {
    Kind::OutOfDescriptors { limit: getrlimit(Resource::Nofile).current }.into()
}

/// Sends a parcel as one packet.
///
/// # Errors
/// As [`Packet::new`] and [`Packet::send`].
pub fn send(socket: impl AsFd, parcel: &Parcel, deadline: Option<Deadline>) -> Result<(), Error> {
    Packet::new(&[&parcel.bytes], &parcel.fds)?.send(socket.as_fd(), deadline)?;
    parcel.mark_delivered();
    Ok(())
}

/// Receives a message, waiting for it until `deadline`: [`Received::Empty`] if none came. It is not trusted.
///
/// # Errors
/// As [`try_recv`].
pub fn recv(socket: impl AsFd, limits: &Limits, deadline: Option<Deadline>) -> Result<Received, Error> {
    recv_in_turn(socket, None, limits, deadline)
}

/// As [`recv`], where other threads of this process may receive too: in their turn, if it is given.
///
/// # Errors
/// As [`try_recv`].
pub fn recv_in_turn(
    socket: impl AsFd,
    turn: Option<Turn>,
    limits: &Limits,
    deadline: Option<Deadline>,
) -> Result<Received, Error> {
    let socket = socket.as_fd();
    loop {
        // Without a deadline the look itself waits, which saves two system calls.
        match next(socket, turn, limits, deadline.is_none())? {
            Received::Empty => {}
            received => return Ok(received),
        }
        match readable(socket, deadline) {
            Ok(true) => {}
            Ok(false) => return Ok(Received::Empty),
            Err(error) => return Err(Error::io("wait for a message", "", error)),
        }
    }
}

/// Receives a message if there is one. It is not trusted.
///
/// # Errors
/// * The message is larger than `limits` allow ([`Error::is_too_large`]), or this process has no room for its
///   descriptors ([`Error::is_out_of_descriptors`]): it stays where it is, but see the module's page.
/// * What came is no message ([`Error::is_malformed`]): it is gone, and the next can be received.
/// * It was taken and cannot be delivered ([`Error::is_lost`]), where others receive on this socket too, not in the same
///   [turn](Turn), or use up the room: it is gone.
pub fn try_recv(socket: impl AsFd, limits: &Limits) -> Result<Received, Error> {
    next(socket.as_fd(), None, limits, false)
}

/// As [`try_recv`], where other threads of this process may receive too: in their turn, if it is given.
///
/// # Errors
/// As [`try_recv`].
pub fn try_recv_in_turn(socket: impl AsFd, turn: Option<Turn>, limits: &Limits) -> Result<Received, Error> {
    next(socket.as_fd(), turn, limits, false)
}

/// Takes the next message out and throws it away, descriptors and all: one that could not be received, and stays. Whether
/// there was one.
///
/// # Errors
/// The system's.
pub fn discard(socket: impl AsFd) -> Result<bool, Error> {
    loop {
        // Without room for descriptors the kernel closes those that come.
        match recv_bytes(socket.as_fd(), [0; 1].as_mut_slice(), RecvFlags::DONTWAIT | RecvFlags::TRUNC) {
            Ok((_, len)) => return Ok(len > 0),
            Err(Errno::INTR | Errno::CONNRESET) => {}
            Err(Errno::AGAIN) => return Ok(false),
            Err(errno) => return Err(Error::io("throw a message away", "", errno)),
        }
    }
}

fn next(socket: BorrowedFd<'_>, turn: Option<Turn>, limits: &Limits, wait: bool) -> Result<Received, Error> {
    loop {
        let before = turn.map(Turn::takes);
        let Some((header, len)) = look(socket, wait)? else { return Ok(Received::Empty) };
        if len == 0 && is_closed(socket)? {
            return Ok(Received::Closed);
        }
        let decoded = Header::decode(&header[..len.min(HEADER)], len);
        let header = decoded.and_then(|header| header.check_room().map(|()| header));
        if let Ok(header) = &header {
            header.check(limits)?;
        }
        let taking = match turn.zip(before) {
            None => None,
            Some((turn, before)) => match turn.since(before) {
                // Somebody else has taken one: perhaps this one.
                None => continue,
                taking => taking,
            },
        };
        let header = match header {
            Ok(header) => header,
            // Another process may take it just now: then this takes the next one, and delivers it.
            Err(error) => {
                return match receive(socket, taking, len, limits) {
                    Err(other) if other.is_lost() => Err(other),
                    Err(_) => Err(error),
                    received => received,
                };
            }
        };
        let _room = (header.places() > 0).then(turn::room);
        reserve(socket, header.places())?;
        return receive(socket, taking, len, limits);
    }
}

/// Whether nothing comes any more: an empty packet looks like the end.
fn is_closed(socket: BorrowedFd<'_>) -> Result<bool, Error> {
    let mut polled = [PollFd::from_borrowed_fd(socket, PollFlags::RDHUP)];
    look_at(&mut polled).map_err(|error| Error::io("receive a message", "", error))?;
    Ok(polled[0].revents().intersects(PollFlags::RDHUP | PollFlags::HUP))
}

/// The beginning of the next packet and its length, or nothing if there is none; 0 at the end.
fn look(socket: BorrowedFd<'_>, wait: bool) -> Result<Option<([u8; HEADER], usize)>, Error> {
    let mut header = [0; HEADER];
    let now = if wait { RecvFlags::empty() } else { RecvFlags::DONTWAIT };
    let flags = RecvFlags::PEEK | RecvFlags::TRUNC | now;
    loop {
        match recv_bytes(socket, header.as_mut_slice(), flags) {
            Ok((_, len)) => return Ok(Some((header, len))),
            // The other end closed without reading all that we sent. It is said once, before what it sent.
            Err(Errno::INTR | Errno::CONNRESET) => {}
            Err(Errno::AGAIN) => return Ok(None),
            Err(errno) => return Err(Error::io("receive a message", "", errno)),
        }
    }
}

/// Sees to it that there is room for `count` descriptors.
fn reserve(socket: BorrowedFd<'_>, count: u64) -> Result<(), Error> {
    let mut places = Vec::new();
    // A hostile number costs nothing.
    if count > FDS_PER_MESSAGE as u64
        && getrlimit(Resource::Nofile).current.is_some_and(|limit| count >= limit)
    {
        return Err(out_of_descriptors());
    }
    for _ in 0..count {
        places.push(fcntl_dupfd_cloexec(socket, 0).map_err(|errno| match errno {
            Errno::MFILE | Errno::INVAL => out_of_descriptors(),
            errno => Error::io("receive descriptors", format!("{count} of them"), errno),
        })?);
    }
    Ok(())
}

thread_local! {
    /// Where a packet goes on that is longer than the one that was looked at: another process took that.
    static BEYOND: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn receive(
    socket: BorrowedFd<'_>,
    taking: Option<Taking>,
    expected: usize,
    limits: &Limits,
) -> Result<Received, Error> {
    let mut start = [0; HEADER];
    let mut body = vec![0; expected.saturating_sub(HEADER)];
    let mut fds = Vec::new();
    let taken = BEYOND.with_borrow_mut(|beyond| {
        beyond.resize(INLINE, 0);
        let room = body.len();
        let mut slices =
            [IoSliceMut::new(&mut start), IoSliceMut::new(&mut body), IoSliceMut::new(beyond.as_mut_slice())];
        let taken = take(socket, &mut slices, &mut fds)?;
        let came = taken.map_or(0, |(len, _)| len).saturating_sub(HEADER);
        body.extend_from_slice(&beyond[..came.saturating_sub(room)]);
        body.truncate(came);
        Ok::<_, Error>(taken)
    })?;
    drop(taking);
    let Some((len, flags)) = taken else { return Ok(Received::Empty) };
    if len == 0 && is_closed(socket)? {
        return Ok(Received::Closed);
    }
    if flags.contains(ReturnFlags::TRUNC) {
        return Err(Error::malformed("a packet is longer than any message's"));
    }
    let header = Header::decode(&start[..len.min(HEADER)], len)?;
    header.check_room()?;
    header.check(limits).map_err(|error| lost(&error))?;
    if flags.contains(ReturnFlags::CTRUNC) {
        return Err(lost(&out_of_descriptors()));
    }
    if fds.len() != usize::from(header.here) {
        return Err(Error::malformed(format!("{} descriptors came, it names {}", fds.len(), header.here)));
    }
    if header.has(SPILLED) {
        let memfd =
            fds.pop().ok_or_else(|| Error::malformed("its body is in a memfd that it does not bring"))?;
        body = spill::read_in(memfd, header.body)?;
    }
    if header.has(CARRIED) {
        let carrier = fds.pop().ok_or_else(|| Error::malformed("its descriptors come in no carrier"))?;
        fds = unload(&carrier, header.fds as usize)?;
    }
    Ok(Received::Parcel(Parcel::new(body, fds)))
}

/// Takes a packet: its length, and what the kernel says of it.
fn take(
    socket: BorrowedFd<'_>,
    slices: &mut [IoSliceMut<'_>],
    fds: &mut Vec<OwnedFd>,
) -> Result<Option<(usize, ReturnFlags)>, Error> {
    loop {
        match ancillary::receive(socket, slices, RecvFlags::DONTWAIT, fds) {
            Ok(taken) => return Ok(Some(taken)),
            Err(Errno::INTR | Errno::CONNRESET) => {}
            Err(Errno::AGAIN) => return Ok(None),
            Err(errno) => return Err(Error::io("receive a message", "", errno)),
        }
    }
}
