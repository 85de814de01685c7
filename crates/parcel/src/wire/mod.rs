//! Parcels over Unix sockets, streams and `SOCK_SEQPACKET`.
//!
//! # A frame
//! A header of 32 bytes, little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 0..8 | magic, `prcparcl` |
//! | 8..10 | version, 1 |
//! | 10..12 | flags: bit 0 says that the body is in a memfd |
//! | 12..16 | number of descriptors, that memfd included |
//! | 16..24 | length of the body |
//! | 24..32 | reserved, zero |
//!
//! The kernel passes at most 253 descriptors at once. The first 253 come with the header; each further 253 with a
//! single zero byte (a packet of one byte) of their own; then follows the body. On a stream the body may come in
//! pieces of any size. On a packet socket the header's packet also holds the body's beginning, and the rest
//! follows in packets of at most [`SPILL`] bytes.
//!
//! A body longer than [`SPILL`] goes into a sealed memfd, whose descriptor is the last one: so a send of any size
//! needs no reader, and the end of a process never waits for one. Where there are no memfds, or a file size limit
//! forbids one, the body follows inline, and the send takes as long as the reader does.
//!
//! # What is checked
//! Everything: a received frame is hostile until it was decoded. Lengths are compared with the [`Limits`], a
//! buffer grows with what has arrived and not with what was announced, a memfd must be sealed against writing and
//! resizing before it is read, descriptors are close-on-exec from the start and closed on every error.
//!
//! # When the other end dies
//! Between two frames that is the end ([`recv`] returns nothing). Within a frame it is an error that says so
//! ([`Error::is_cut_off`]). A send to a dead end is an error ([`Error::is_disconnected`]), never a signal.

mod frame;
pub mod packet;
mod receive;
mod send;
mod spill;
mod turn;

use crate::error::Error;
use crate::parcel::Parcel;
use procession_sys::Deadline;
use receive::{Receiver, Wait};
use rustix::net::{SocketType, sockopt};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// Bodies longer than this travel in a memfd.
pub const SPILL: usize = 32 * 1024;

/// How many descriptors the kernel passes with one message.
const FDS_PER_MESSAGE: usize = 253;

/// How long [`try_recv`] waits for the next piece of a frame that has begun.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a receiver accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest body, in bytes. A hostile peer can make the receiver use this much memory, at no cost of its own.
    pub max_bytes: u64,
    /// The largest number of descriptors.
    pub max_fds: usize,
}

impl Default for Limits {
    /// 4 GiB and 65,536 descriptors, for peers of the same user.
    fn default() -> Limits {
        Limits { max_bytes: 4 << 30, max_fds: 1 << 16 }
    }
}

/// What [`try_recv`] found.
#[derive(Debug)]
pub enum Received {
    /// A parcel.
    Parcel(Parcel),
    /// No frame has begun to arrive.
    Empty,
    /// The other end is closed, and everything it sent was received.
    Closed,
}

/// Sends a parcel.
///
/// With a body in a memfd, or one that fits into the socket's buffer, this needs no reader.
///
/// # Errors
/// * the deadline passed; if part of the frame was out by then, the socket has lost its place
///   ([`Error::is_torn`]);
/// * the other end is closed ([`Error::is_disconnected`]);
/// * this process, or the socket's user, has no descriptors left ([`Error::is_out_of_descriptors`]).
pub fn send(socket: impl AsFd, parcel: &Parcel, deadline: Option<Deadline>) -> Result<(), Error> {
    let socket = socket.as_fd();
    let packets = is_packet_socket(socket)?;
    send::send(socket, packets, parcel, deadline)?;
    parcel.mark_delivered();
    Ok(())
}

/// Receives a parcel, which is not trusted; nothing if the other end is closed between two frames.
///
/// # Errors
/// * the deadline passed; within a frame the socket has lost its place ([`Error::is_torn`]);
/// * the other end closed within a frame ([`Error::is_cut_off`]);
/// * what arrived is no frame ([`Error::is_malformed`]) or a larger one than `limits` allow
///   ([`Error::is_too_large`]);
/// * this process has no room for the descriptors ([`Error::is_out_of_descriptors`]).
///
/// After any error but a timeout that is not torn, close the socket.
pub fn recv(socket: impl AsFd, limits: &Limits, deadline: Option<Deadline>) -> Result<Option<Parcel>, Error> {
    let socket = socket.as_fd();
    let packets = is_packet_socket(socket)?;
    match Receiver::new(socket, packets, limits, Wait::Until(deadline)).frame(true)? {
        Received::Parcel(parcel) => Ok(Some(parcel)),
        Received::Empty | Received::Closed => Ok(None),
    }
}

/// Receives a parcel if one has begun to arrive.
///
/// It does not block if the whole frame is there. If only its beginning is, it waits for the rest, up to ten
/// seconds for each piece.
///
/// # Errors
/// As [`recv`].
pub fn try_recv(socket: impl AsFd, limits: &Limits) -> Result<Received, Error> {
    let socket = socket.as_fd();
    let packets = is_packet_socket(socket)?;
    Receiver::new(socket, packets, limits, Wait::Patiently(PATIENCE)).frame(false)
}

fn is_packet_socket(socket: BorrowedFd<'_>) -> Result<bool, Error> {
    match sockopt::socket_type(socket) {
        Ok(SocketType::STREAM) => Ok(false),
        Ok(SocketType::SEQPACKET) => Ok(true),
        Ok(other) => Err(Error::io(
            "use a socket for parcels",
            format!("type {other:?}"),
            std::io::Error::from(std::io::ErrorKind::Unsupported),
        )),
        Err(errno) => Err(Error::io("use a descriptor for parcels", "it should be a Unix socket", errno)),
    }
}
