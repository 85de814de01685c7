//! One frame out.

use super::frame::Header;
use super::{FDS_PER_MESSAGE, SPILL, spill};
use crate::error::{Error, Kind};
use crate::parcel::Parcel;
use procession_sys::{Deadline, fd::writable};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg, sockopt};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};

/// Packets up to this size need no look at the socket's buffer, whose least size is 4,608 bytes.
const SMALL_PACKET: usize = 4096;

pub(super) fn send(
    socket: BorrowedFd<'_>,
    packets: bool,
    parcel: &Parcel,
    deadline: Option<Deadline>,
) -> Result<(), Error> {
    let spilled = if parcel.bytes.len() > SPILL { spill::write_out(&[&parcel.bytes])? } else { None };
    let fds: Vec<_> = parcel.fds.iter().chain(&spilled).map(AsFd::as_fd).collect();
    let count = u32::try_from(fds.len()).map_err(|_| {
        let limit = u64::from(u32::MAX);
        Kind::TooLarge { what: "descriptors", got: fds.len() as u64, limit }
    })?;
    let header = Header { spilled: spilled.is_some(), fds: count, body: parcel.bytes.len() as u64 };
    let body = if spilled.is_some() { &[] } else { parcel.bytes.as_slice() };
    let (first, further) = fds.split_at(fds.len().min(FDS_PER_MESSAGE));

    let mut sender = Sender { socket, deadline, torn: false };
    if packets {
        sender.packets(&header.encode(), body, first, further)
    } else {
        sender.stream(&header.encode(), body, first, further)
    }
}

struct Sender<'a> {
    socket: BorrowedFd<'a>,
    deadline: Option<Deadline>,
    /// Whether part of the frame is out.
    torn: bool,
}

impl Sender<'_> {
    fn stream(
        &mut self,
        header: &[u8],
        body: &[u8],
        first: &[BorrowedFd<'_>],
        further: &[BorrowedFd<'_>],
    ) -> Result<(), Error> {
        if further.is_empty() {
            return self.all(header, body, first);
        }
        self.all(header, &[], first)?;
        for batch in further.chunks(FDS_PER_MESSAGE) {
            self.all(&[0], &[], batch)?;
        }
        self.all(body, &[], &[])
    }

    /// Both parts to the last byte; the descriptors go with the first.
    fn all(&mut self, mut a: &[u8], mut b: &[u8], mut fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
        while !(a.is_empty() && b.is_empty()) {
            let sent = self.message(a, b, fds)?;
            fds = &[];
            let of_a = sent.min(a.len());
            a = &a[of_a..];
            b = &b[(sent - of_a).min(b.len())..];
        }
        Ok(())
    }

    fn packets(
        &mut self,
        header: &[u8],
        body: &[u8],
        first: &[BorrowedFd<'_>],
        further: &[BorrowedFd<'_>],
    ) -> Result<(), Error> {
        let mut chunk = SPILL;
        if header.len() + body.len() > SMALL_PACKET {
            let buffer = sockopt::socket_send_buffer_size(self.socket)
                .map_err(|errno| Error::io("inspect the socket", "", errno))?;
            // The kernel refuses packets longer than its buffer less 32 bytes.
            chunk = buffer.saturating_sub(32 + header.len()).clamp(SMALL_PACKET - header.len(), SPILL);
        }
        let (beginning, rest) = body.split_at(body.len().min(chunk));
        self.message(header, beginning, first)?;
        for batch in further.chunks(FDS_PER_MESSAGE) {
            self.message(&[0], &[], batch)?;
        }
        for packet in rest.chunks(chunk) {
            self.message(packet, &[], &[])?;
        }
        Ok(())
    }

    /// One message, of which a stream may take only the beginning (but then all descriptors).
    fn message(&mut self, a: &[u8], b: &[u8], fds: &[BorrowedFd<'_>]) -> Result<usize, Error> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_PER_MESSAGE))];
        let parts = [IoSlice::new(a), IoSlice::new(b)];
        loop {
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
                return Err(Error::malformed("more descriptors than one message takes"));
            }
            match sendmsg(self.socket, &parts, &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(sent) => {
                    self.torn = true;
                    return Ok(sent);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait()?,
                Err(errno) => {
                    let facts =
                        format!("{} bytes and {} descriptors in this message", a.len() + b.len(), fds.len());
                    return Err(Error::io("send a parcel", facts, errno));
                }
            }
        }
    }

    fn wait(&self) -> Result<(), Error> {
        match writable(self.socket, self.deadline) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Kind::Timeout { doing: "send a parcel", torn: self.torn }.into()),
            Err(error) => Err(Error::io("wait for room to send a parcel", "", error)),
        }
    }
}
