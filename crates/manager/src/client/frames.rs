//! Frames as a client reads them.

use crate::{
    proto::{HEADER, Header, LARGE},
    wire::{Wire, errno, make_room},
};
use procession_sys::{Deadline, Spin};
use rustix::io::Errno;
use std::{ops::Deref, sync::Arc};

/// Frames out of a wire.
pub(crate) struct FrameReader {
    pub(super) wire: Arc<Wire>,
    input: Vec<u8>,
    start: usize,
    spin: Spin,
}

/// The payload of a frame.
#[derive(Default)]
pub(crate) struct Payload {
    bytes: Vec<u8>,
    /// Where it begins.
    start: usize,
}

impl Payload {
    /// The memory that it ends, and where it begins there.
    pub(crate) fn into_parts(self) -> (Vec<u8>, usize) {
        (self.bytes, self.start)
    }
}

impl Deref for Payload {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

impl FrameReader {
    pub(crate) fn new(wire: Arc<Wire>) -> FrameReader {
        FrameReader { wire, input: Vec::new(), start: 0, spin: Spin::adaptive() }
    }

    /// The next frame; `None` at the deadline. One that has begun is kept for the next call.
    pub(crate) fn next(&mut self, deadline: Option<Deadline>) -> std::io::Result<Option<(Header, Payload)>> {
        const STEP: usize = 64 << 10;
        const LARGE_STEP: usize = 16 << 20;
        loop {
            let have = &self.input[self.start..];
            let mut missing = HEADER;
            if let Some((header, rest)) = have.split_first_chunk::<HEADER>() {
                let invalid = |cause: String| std::io::Error::new(std::io::ErrorKind::InvalidData, cause);
                let header = Header::decode(header).map_err(|malformed| invalid(malformed.0))?;
                let len =
                    usize::try_from(header.len).map_err(|_| invalid("a frame beyond memory".to_owned()))?;
                if let Some(payload) = rest.get(..len) {
                    if len > LARGE && rest.len() == len {
                        let start = std::mem::take(&mut self.start) + HEADER;
                        let payload = Payload { bytes: std::mem::take(&mut self.input), start };
                        return Ok(Some((header, payload)));
                    }
                    let payload = Payload { bytes: payload.to_vec(), start: 0 };
                    self.start += HEADER + len;
                    if self.start == self.input.len() {
                        self.start = 0;
                        self.input.clear();
                        self.input.shrink_to(16 * STEP);
                    }
                    return Ok(Some((header, payload)));
                }
                missing = len - rest.len();
            }
            self.input.drain(..self.start);
            self.start = 0;
            let laned = self.wire.lanes().is_some();
            // In larger steps where the server is one of this machine.
            let step = if laned { LARGE_STEP } else { STEP };
            make_room(&mut self.input, missing, step);
            // Within TLS there may be something that the socket does not know of any more; of lanes it knows nothing.
            let knows = !self.wire.is_tls() && !laned;
            if deadline.is_some() && knows && !self.wire.readable(&mut self.spin, deadline)? {
                return Ok(None);
            }
            match self.wire.recv(&mut self.input, true) {
                Ok(0) => return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "it hung up")),
                Ok(_) => {}
                Err(error) => match errno(&error) {
                    Some(Errno::INTR) => {}
                    Some(Errno::AGAIN) => {
                        if !self.wire.readable(&mut self.spin, deadline)? {
                            return Ok(None);
                        }
                    }
                    _ => return Err(error),
                },
            }
        }
    }
}
