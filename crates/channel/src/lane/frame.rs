//! The header in front of each piece of a message.

/// The body is the start of a message. It ends a message that was never finished.
pub(crate) const FIRST: u64 = 1;
/// The body is the end of a message.
pub(crate) const LAST: u64 = 2;
/// No body, only bytes to be passed over.
pub(crate) const PAD: u64 = 4;
/// What an honest position or ticket stays below: at 100 GB/s a lane gets there in more than a year.
pub(crate) const BOUND: u64 = 1 << 62;
/// The header's size, and the unit of positions.
pub(crate) const UNIT: u64 = 8;

/// A header, as a number: the body's length in the low 32 bits, the flags above.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    pub(crate) len: u32,
    pub(crate) flags: u64,
}

impl Header {
    pub(crate) fn to_word(self) -> u64 {
        u64::from(self.len) | self.flags << 32
    }

    /// Takes a header apart. It says nothing about whether it makes sense.
    pub(crate) fn from_word(word: u64) -> Header {
        Header { len: word as u32, flags: word >> 32 }
    }

    /// Whether an honest sender could have written these flags.
    pub(crate) fn is_known(self) -> bool {
        self.flags <= FIRST | LAST || self.flags == PAD
    }

    /// The bytes that header and body take in the ring.
    pub(crate) fn size(self) -> u64 {
        frame_size(u64::from(self.len))
    }
}

/// The bytes that a body of this length takes in the ring with its header.
pub(crate) fn frame_size(len: u64) -> u64 {
    UNIT + len.next_multiple_of(UNIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_its_word() {
        for flags in [0, FIRST, LAST, FIRST | LAST, PAD] {
            for len in [0, 1, 8, u32::MAX] {
                let header = Header { len, flags };
                assert!(header.is_known());
                assert_eq!(Header::from_word(header.to_word()), header);
            }
        }
        assert!(!Header::from_word(u64::MAX).is_known());
        assert!(!Header { len: 0, flags: PAD | FIRST }.is_known());
    }

    #[test]
    fn frames_are_whole_units() {
        assert_eq!([0, 1, 8, 9].map(frame_size), [8, 16, 16, 24]);
        assert_eq!(Header { len: u32::MAX, flags: LAST }.size(), 8 + (1 << 32));
    }
}
