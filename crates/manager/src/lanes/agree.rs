//! How two sides come to their lanes: the memory's way over the socket.

use super::Lanes;
use crate::{
    proto::{self, HEADER, Header, Kind, Op},
    wire::{self, Wire, errno},
};
use procession_shm::Segment;
use procession_sys::{Deadline, ancillary};
use rustix::{
    io::Errno,
    net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg},
};
use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd},
};

/// Sends a whole reply that brings the memory; false if the socket does not take it now.
pub(crate) fn offer(socket: BorrowedFd<'_>, reply: &[u8], segment: &Segment) -> io::Result<bool> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [segment.fd()];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    match sendmsg(socket, &[IoSlice::new(reply)], &mut control, flags) {
        // A stream socket takes a message of this length whole, or not.
        Ok(sent) => Ok(sent == reply.len()),
        Err(Errno::AGAIN) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Asks for lanes on a wire that nobody else uses, and on which nothing is awaited; whether there are some then. An error is
/// the wire's.
pub(crate) fn agree(wire: &Wire, request: u64, deadline: Deadline) -> io::Result<bool> {
    let frame = |kind| {
        let mut out = Vec::with_capacity(HEADER);
        proto::begin(&mut out);
        proto::end(&mut out, 0, kind, Op::Lanes as u16, request, 0);
        out
    };
    send(wire, &frame(Kind::Request), deadline)?;
    let (mut reply, mut fds) = (Vec::new(), Vec::new());
    let invalid = |cause: String| io::Error::new(io::ErrorKind::InvalidData, cause);
    let header = loop {
        let mut missing = HEADER - reply.len().min(HEADER);
        if let Some((header, behind)) = reply.split_first_chunk::<HEADER>() {
            let header = Header::decode(header).map_err(|malformed| invalid(malformed.0))?;
            missing = usize::try_from(header.len).unwrap_or(usize::MAX).saturating_sub(behind.len());
            if missing == 0 {
                break header;
            }
        }
        if !wire::wait(wire, false, deadline)? {
            return Err(io::ErrorKind::TimedOut.into());
        }
        // No byte of what comes behind it.
        let mut bytes = [0; 4096];
        let bytes = &mut bytes[..missing.min(4096)];
        match ancillary::receive(wire.as_fd(), &mut [IoSliceMut::new(bytes)], RecvFlags::DONTWAIT, &mut fds) {
            Ok((0, _)) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok((came, _)) => reply.extend_from_slice(&bytes[..came]),
            Err(Errno::AGAIN | Errno::INTR) => {}
            // A filter that lets nobody take descriptors: the reply is read without its own.
            Err(Errno::PERM | Errno::ACCESS | Errno::NOSYS) => {
                match rustix::net::recv(wire.as_fd(), &mut *bytes, RecvFlags::DONTWAIT) {
                    Ok((0, _)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok((came, _)) => reply.extend_from_slice(&bytes[..came]),
                    Err(Errno::AGAIN | Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Err(error) => return Err(error.into()),
        }
    };
    if header.method != 0 || header.request != request {
        return Ok(false);
    }
    // None came if this process has no descriptors left.
    let Some(lanes) = fds.pop().and_then(Lanes::attach) else { return Ok(false) };
    send(wire, &frame(Kind::OneWay), deadline)?;
    wire.use_lanes(lanes);
    Ok(true)
}

fn send(wire: &Wire, mut rest: &[u8], deadline: Deadline) -> io::Result<()> {
    while !rest.is_empty() {
        match wire.send(rest) {
            Ok(sent) => rest = &rest[sent..],
            Err(error) => match errno(&error) {
                Some(Errno::INTR) => {}
                Some(Errno::AGAIN) if wire::wait(wire, true, deadline)? => {}
                Some(Errno::AGAIN) => return Err(io::ErrorKind::TimedOut.into()),
                _ => return Err(error),
            },
        }
    }
    Ok(())
}
