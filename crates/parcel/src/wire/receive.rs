//! One frame in.

use super::frame::{HEADER, Header};
use super::{FDS_PER_MESSAGE, Limits, Received, SPILL, spill};
use crate::error::{Error, Kind};
use crate::parcel::Parcel;
use procession_sys::{Deadline, ancillary, fd::readable};
use rustix::io::Errno;
use rustix::net::{RecvFlags, ReturnFlags};
use rustix::process::{Resource, getrlimit};
use std::io::IoSliceMut;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

/// By how much a buffer grows ahead of what has arrived.
const STEP: usize = 1 << 20;

/// How long to wait for the next piece.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wait {
    Until(Option<Deadline>),
    Patiently(Duration),
}

pub(super) struct Receiver<'a> {
    socket: BorrowedFd<'a>,
    packets: bool,
    limits: &'a Limits,
    wait: Wait,
    /// What has arrived; dropped, and so closed, with any error.
    fds: Vec<OwnedFd>,
    /// How many may arrive: first as many as one message brings, then as many as the header says.
    max_fds: usize,
    /// Bytes of this frame so far, and as many as are known to belong to it.
    got: u64,
    expected: u64,
}

impl<'a> Receiver<'a> {
    pub(super) fn new(socket: BorrowedFd<'a>, packets: bool, limits: &'a Limits, wait: Wait) -> Self {
        let expected = HEADER as u64;
        Receiver {
            socket,
            packets,
            limits,
            wait,
            fds: Vec::new(),
            max_fds: FDS_PER_MESSAGE,
            got: 0,
            expected,
        }
    }

    /// Receives one frame; unless `block`, only if its beginning is there.
    pub(super) fn frame(mut self, block: bool) -> Result<Received, Error> {
        // A stream's header on the stack: memory that is asked for zeroed comes from another part of glibc's heap than what
        // was freed last, and a forked child pays for each page that it touches.
        let mut head = [0; HEADER];
        let mut packet = if self.packets { vec![0; HEADER + SPILL] } else { Vec::new() };
        let first = if self.packets { packet.as_mut_slice() } else { head.as_mut_slice() };
        let mut filled = loop {
            match self.message(first)? {
                Some(0) => return Ok(Received::Closed),
                Some(filled) => break filled,
                None if block => self.wait()?,
                None => return Ok(Received::Empty),
            }
        };
        if !self.packets {
            self.fill(first, filled)?;
            filled = HEADER;
        }
        let Some(header) = first[..filled].first_chunk::<HEADER>() else {
            return Err(Error::malformed(format!("a packet of {filled} bytes holds no header")));
        };
        let header = Header::decode(header, self.limits)?;
        self.max_fds = header.fds as usize;
        self.check_fds()?;
        self.expected = (HEADER + header.fillers()) as u64 + header.inline();

        for _ in 0..header.fillers() {
            self.filler()?;
        }
        let body = if self.packets {
            packet.truncate(filled);
            packet.drain(..HEADER);
            self.body(packet, header.inline())?
        } else {
            self.body(Vec::new(), header.inline())?
        };
        self.finish(header, body)
    }

    fn finish(mut self, header: Header, body: Vec<u8>) -> Result<Received, Error> {
        if self.fds.len() != header.fds as usize {
            return Err(Error::malformed(format!(
                "it announces {} descriptors, {} came",
                header.fds,
                self.fds.len()
            )));
        }
        let bytes = match header.spilled {
            false => body,
            true => match self.fds.pop() {
                Some(memfd) => spill::read_in(memfd, header.body)?,
                None => return Err(Error::malformed("its body is in a memfd that it does not bring")),
            },
        };
        Ok(Received::Parcel(Parcel::new(bytes, self.fds)))
    }

    /// One byte that brings further descriptors.
    fn filler(&mut self) -> Result<(), Error> {
        let mut byte = [0];
        self.fill(&mut byte, 0)?;
        match byte {
            [0] => Ok(()),
            [other] => Err(Error::malformed(format!("{other:#x} where descriptors should come with a zero"))),
        }
    }

    /// The rest of the body behind `bytes`. The buffer grows as it fills.
    fn body(&mut self, mut bytes: Vec<u8>, len: u64) -> Result<Vec<u8>, Error> {
        if bytes.len() as u64 > len {
            return Err(Error::malformed(format!("a packet holds {} bytes of a body of {len}", bytes.len())));
        }
        while (bytes.len() as u64) < len {
            let filled = bytes.len();
            let left = usize::try_from(len - filled as u64).unwrap_or(usize::MAX);
            // A packet is received whole or cut, so there must be room for a whole one.
            let step = left.min(if self.packets { SPILL } else { STEP.max(filled) });
            bytes.try_reserve(step).map_err(|_| Kind::TooLarge {
                what: "bytes",
                got: len,
                limit: filled as u64,
            })?;
            bytes.resize(filled + step, 0);
            if self.packets {
                let came = self.some(&mut bytes[filled..])?;
                bytes.truncate(filled + came);
            } else {
                self.fill(&mut bytes, filled)?;
            }
        }
        Ok(bytes)
    }

    /// Fills `buffer` behind its first `filled` bytes.
    fn fill(&mut self, buffer: &mut [u8], mut filled: usize) -> Result<(), Error> {
        while filled < buffer.len() {
            filled += self.some(&mut buffer[filled..])?;
        }
        Ok(())
    }

    /// Waits for the next bytes of the frame.
    fn some(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        loop {
            match self.message(buffer)? {
                Some(0) => return Err(Kind::CutOff { got: self.got, expected: self.expected }.into()),
                Some(came) => return Ok(came),
                None => self.wait()?,
            }
        }
    }

    /// What the socket holds now: nothing yet (`None`), its end (0), or some bytes, whose descriptors are kept.
    fn message(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, Error> {
        let (came, flags) = loop {
            let mut slices = [IoSliceMut::new(buffer)];
            match ancillary::receive(self.socket, &mut slices, RecvFlags::DONTWAIT, &mut self.fds) {
                Ok(message) => break message,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(None),
                // It closed without reading all that we sent.
                Err(Errno::CONNRESET) => return Ok(Some(0)),
                Err(errno) => return Err(Error::io("receive a parcel", "", errno)),
            }
        };
        self.got += came as u64;
        if flags.contains(ReturnFlags::CTRUNC) {
            return Err(Kind::OutOfDescriptors { limit: getrlimit(Resource::Nofile).current }.into());
        }
        if flags.contains(ReturnFlags::TRUNC) {
            return Err(Error::malformed("a packet is longer than the rest of its frame"));
        }
        self.check_fds()?;
        Ok(Some(came))
    }

    fn check_fds(&self) -> Result<(), Error> {
        if self.fds.len() > self.max_fds {
            return Err(Error::malformed(format!(
                "{} descriptors came where at most {} belong",
                self.fds.len(),
                self.max_fds
            )));
        }
        Ok(())
    }

    fn wait(&self) -> Result<(), Error> {
        let deadline = match self.wait {
            Wait::Until(deadline) => deadline,
            Wait::Patiently(patience) => Some(Deadline::after(patience)),
        };
        match readable(self.socket, deadline) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Kind::Timeout { doing: "receive a parcel", torn: self.got > 0 }.into()),
            Err(error) => Err(Error::io("wait for a parcel", "", error)),
        }
    }
}
