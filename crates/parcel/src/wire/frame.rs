//! The header of a frame.

use super::{FDS_PER_MESSAGE, Limits};
use crate::error::{Error, Kind};

pub(super) const HEADER: usize = 32;

const MAGIC: [u8; 8] = *b"prcparcl";
const VERSION: u16 = 1;
/// The body is in a memfd, the last descriptor.
const SPILLED: u16 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) spilled: bool,
    pub(super) fds: u32,
    pub(super) body: u64,
}

impl Header {
    pub(super) fn encode(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes[10..12].copy_from_slice(&(if self.spilled { SPILLED } else { 0 }).to_le_bytes());
        bytes[12..16].copy_from_slice(&self.fds.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.body.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8; HEADER], limits: &Limits) -> Result<Header, Error> {
        if bytes[..8] != MAGIC {
            return Err(Error::malformed(format!("it starts with {:02x?}, no parcel does", &bytes[..8])));
        }
        let version = u16::from_le_bytes([bytes[8], bytes[9]]);
        if version != VERSION {
            return Err(Error::malformed(format!("it has version {version}, this program knows {VERSION}")));
        }
        let flags = u16::from_le_bytes([bytes[10], bytes[11]]);
        let (body, reserved) = (word(bytes, 16), word(bytes, 24));
        if flags & !SPILLED != 0 || reserved != 0 {
            return Err(Error::malformed(format!("unknown flags {flags:#x} or reserved {reserved:#x}")));
        }
        let fds = u32::from_le_bytes([bytes[12], bytes[13], bytes[14], bytes[15]]);
        let spilled = flags & SPILLED != 0;
        if spilled && fds == 0 {
            return Err(Error::malformed("its body is in a memfd that it does not bring"));
        }
        let (own, limit) = (u64::from(fds) - u64::from(spilled), limits.max_fds as u64);
        if own > limit {
            return Err(Kind::TooLarge { what: "descriptors", got: own, limit }.into());
        }
        if body > limits.max_bytes {
            return Err(Kind::TooLarge { what: "bytes", got: body, limit: limits.max_bytes }.into());
        }
        Ok(Header { spilled, fds, body })
    }

    /// How many bytes follow in the socket.
    pub(super) fn inline(self) -> u64 {
        if self.spilled { 0 } else { self.body }
    }

    /// How many messages of one byte bring the descriptors that the first message could not.
    pub(super) fn fillers(self) -> usize {
        (self.fds as usize).div_ceil(FDS_PER_MESSAGE).saturating_sub(1)
    }
}

fn word(bytes: &[u8; HEADER], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}
