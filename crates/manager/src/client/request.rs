//! Requests as they are written: a large byte string stays with its caller, and goes out from there.

use crate::{
    error::{Error, Result},
    proto::{self, HEADER, Kind, LARGE, Op},
};
use procession_parcel::codec;
use serde::Serialize;

/// A request that is being written.
pub(crate) struct Request<'a> {
    /// All but what is lent.
    pub(crate) out: Vec<u8>,
    lent: Vec<Lent<'a>>,
    pub(super) op: Op,
    pub(super) object: u64,
}

/// What goes out behind as much of a request as `at` says, and begins at `begin` of the whole.
struct Lent<'a> {
    at: usize,
    begin: usize,
    bytes: &'a [u8],
}

impl Lent<'_> {
    /// How much is lent up to the end of this.
    fn together(&self) -> usize {
        self.begin - self.at + self.bytes.len()
    }
}

impl<'a> Request<'a> {
    pub(crate) fn new(op: Op, object: u64) -> Request<'a> {
        let mut out = Vec::with_capacity(128);
        proto::begin(&mut out);
        Request { out, lent: Vec::new(), op, object }
    }

    pub(crate) fn u64(mut self, number: u64) -> Request<'a> {
        proto::put_u64(&mut self.out, number);
        self
    }

    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Request<'a> {
        proto::put_bytes(&mut self.out, bytes);
        self
    }

    /// Adds the encoding of a value, if that is a large byte string's, and tells whether it is.
    pub(crate) fn lend<T: Serialize + ?Sized>(&mut self, doing: &'static str, value: &'a T) -> Result<bool> {
        let Some(bytes) = codec::byte_string(value).filter(|bytes| bytes.len() >= LARGE) else {
            return Ok(false);
        };
        let at = self.out.len();
        self.out.extend_from_slice(&[0; 8]);
        codec::encode(&bytes.len(), &mut self.out).map_err(|error| Error::encoding(doing, error))?;
        let len = (self.out.len() - at - 8 + bytes.len()) as u64;
        self.out[at..at + 8].copy_from_slice(&len.to_le_bytes());
        let before = self.lent.last().map_or(0, Lent::together);
        let at = self.out.len();
        self.lent.push(Lent { at, begin: at + before, bytes });
        Ok(true)
    }

    /// Ends the frame; its parts.
    pub(super) fn frame(&mut self, kind: Kind, number: u64) -> Parts<'_> {
        let len = (Parts { out: &self.out, lent: &self.lent }.len() - HEADER) as u64;
        proto::fill(&mut self.out, kind, self.op as u16, len, number, self.object);
        Parts { out: &self.out, lent: &self.lent }
    }
}

/// A frame, in the parts that it lies in.
#[derive(Clone, Copy)]
pub(super) struct Parts<'a> {
    out: &'a [u8],
    lent: &'a [Lent<'a>],
}

impl<'a> Parts<'a> {
    /// One that lies in one place.
    pub(super) fn whole(frame: &'a [u8]) -> Parts<'a> {
        Parts { out: frame, lent: &[] }
    }

    pub(super) fn len(self) -> usize {
        self.out.len() + self.lent.last().map_or(0, Lent::together)
    }

    /// What is from `at` on to the end of its part; nothing at the end.
    pub(super) fn rest(self, at: usize) -> &'a [u8] {
        let next = self.lent.partition_point(|lent| lent.begin <= at);
        let until = self.lent.get(next).map_or(self.out.len(), |lent| lent.at);
        let Some(lent) = next.checked_sub(1).map(|last| &self.lent[last]) else {
            return &self.out[at..until];
        };
        match lent.bytes.get(at - lent.begin..) {
            Some(bytes) if !bytes.is_empty() => bytes,
            _ => &self.out[at - lent.together()..until],
        }
    }

    /// Appends what is from `at` on.
    pub(super) fn copy(self, mut at: usize, into: &mut Vec<u8>) {
        into.reserve(self.len() - at);
        while at < self.len() {
            let part = self.rest(at);
            into.extend_from_slice(part);
            at += part.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_in_parts_is_what_it_would_be_in_one() {
        let large: Vec<Vec<u8>> = (0..3).map(|of| vec![of + 1; LARGE + usize::from(of) * 1000]).collect();
        let mut model = Request::new(Op::Put, 7).u64(3).bytes(b"key");
        let mut request = Request::new(Op::Put, 7).u64(3).bytes(b"key");
        for (which, value) in large.iter().enumerate() {
            assert!(request.lend("test", value).unwrap());
            let mut encoded = Vec::new();
            codec::encode(value, &mut encoded).unwrap();
            model = model.bytes(&encoded);
            // Two are side by side.
            if which != 1 {
                (request, model) = (request.u64(0), model.u64(0));
            }
        }
        assert!(!request.lend("test", "short").unwrap());
        let (mut expected, parts) = (Vec::new(), request.frame(Kind::Request, 9));
        model.frame(Kind::Request, 9).copy(0, &mut expected);
        assert!(Parts::whole(&expected).rest(5) == &expected[5..]);
        for step in [1 << 20, LARGE, 1009, 64] {
            let (mut at, mut came) = (0, Vec::new());
            while !parts.rest(at).is_empty() {
                let part = parts.rest(at);
                let part = &part[..part.len().min(step)];
                came.extend_from_slice(part);
                at += part.len();
            }
            assert!(came == expected, "in steps of {step}");
        }
        for at in [0, 31, 100, LARGE, LARGE + 200, parts.len()] {
            let mut rest = Vec::new();
            parts.copy(at, &mut rest);
            assert!(rest == expected[at..], "from {at} on");
        }
    }
}
