//! Frames as a client reads them.

use crate::proto::{HEADER, Header};
use procession_sys::{Deadline, fd};
use rustix::{buffer::spare_capacity, io::Errno, net::RecvFlags};
use std::os::fd::{AsFd, OwnedFd};

/// Frames out of a stream of bytes.
#[derive(Default)]
pub(crate) struct FrameReader {
    input: Vec<u8>,
    start: usize,
}

/// Payloads longer than this are not copied, where they come alone.
const LARGE: usize = 64 << 10;

impl FrameReader {
    /// The next frame; `None` at the deadline. One that has begun is kept for the next call.
    pub(crate) fn next(
        &mut self,
        socket: &OwnedFd,
        deadline: Option<Deadline>,
    ) -> std::io::Result<Option<(Header, Vec<u8>)>> {
        const STEP: usize = 64 << 10;
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
                        let mut payload = std::mem::take(&mut self.input);
                        payload.drain(..self.start + HEADER);
                        self.start = 0;
                        return Ok(Some((header, payload)));
                    }
                    let payload = payload.to_vec();
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
            let step = missing.min(STEP.max(self.input.len())).max(4096);
            self.input.reserve(step);
            if deadline.is_some() && !fd::readable(socket.as_fd(), deadline)? {
                return Ok(None);
            }
            match rustix::net::recv(socket, spare_capacity(&mut self.input), RecvFlags::empty()) {
                Ok((_, 0)) => {
                    return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "it hung up"));
                }
                Ok(_) => {}
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => drop(fd::readable(socket.as_fd(), deadline)?),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
