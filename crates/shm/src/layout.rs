//! What lies in the first bytes of a segment, and the signature of what follows.

use core::mem::offset_of;

/// The first bytes of every segment.
///
/// The creator writes it once; `ready` is stored last, with Release. It is compared on every attach and never
/// relied on afterwards: another process can write to it.
#[repr(C, align(64))]
pub(crate) struct Header {
    /// [`MAGIC`].
    pub(crate) magic: u64,
    /// [`VERSION`].
    pub(crate) version: u32,
    /// [`Kind::id`].
    pub(crate) kind: u32,
    /// [`Kind::layout`].
    pub(crate) layout: u32,
    /// 1 once the rest of the header is in place. An atomic word.
    pub(crate) ready: u32,
    /// The size of the whole object: the header's page and the payload.
    pub(crate) size: u64,
    /// Zero.
    pub(crate) reserved: [u8; 32],
}

const _: () = assert!(size_of::<Header>() == 64 && align_of::<Header>() == 64);
const _: () = assert!(offset_of!(Header, magic) == 0 && offset_of!(Header, version) == 8);
const _: () = assert!(offset_of!(Header, kind) == 12 && offset_of!(Header, layout) == 16);
const _: () = assert!(offset_of!(Header, ready) == 20 && offset_of!(Header, size) == 24);

/// "procseg" and the number of this header's form.
pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"procseg\x01");
/// Changes whenever the header changes its meaning.
pub(crate) const VERSION: u32 = 2;
/// Payloads are a multiple of this.
pub(crate) const PAGE: usize = 4096;
/// Where the payload starts. Header and members have pages of their own, so that payloads are aligned to pages.
pub(crate) const PAYLOAD: usize = 8192;
/// How many processes can be members of a segment at a time.
pub(crate) const MEMBERS: usize = 1000;
/// Where the table of members starts, one 64-bit word each.
pub(crate) const TABLE: usize = 128;
const _: () = assert!(TABLE >= size_of::<Header>() && TABLE + MEMBERS * size_of::<u64>() <= PAYLOAD);

/// What a segment holds: the creator writes it into the header, and whoever attaches compares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kind {
    /// For messages, and part of the name under `/proc/PID/maps`.
    pub name: &'static str,
    /// Tells one use from another.
    pub id: u32,
    /// Tells one build's layout of that use from another's. See [`signature`].
    pub layout: u32,
}

impl Kind {
    /// A kind with this name, number and layout signature.
    #[must_use]
    pub const fn new(name: &'static str, id: u32, layout: u32) -> Kind {
        Kind { name, id, layout }
    }
}

/// Mixes sizes, alignments and offsets of shared structures into a layout signature.
///
/// Give it everything that two builds must agree on, so that a forgotten version number still refuses to attach.
///
/// ```
/// use procession_shm::{Kind, signature};
/// use std::mem::offset_of;
///
/// #[repr(C)]
/// struct Shared { count: u64, flag: u32, reserved: u32 }
/// const KIND: Kind = Kind::new("counter", 7, signature(&[size_of::<Shared>(), offset_of!(Shared, flag)]));
/// assert_ne!(KIND.layout, signature(&[size_of::<Shared>(), 4]));
/// ```
#[must_use]
pub const fn signature(facts: &[usize]) -> u32 {
    // FNV-1a over the facts as 64-bit numbers, folded to 32 bits.
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut fact = 0;
    while fact < facts.len() {
        let mut rest = facts[fact] as u64;
        let mut byte = 0;
        while byte < 8 {
            hash = (hash ^ (rest & 0xff)).wrapping_mul(0x0000_0100_0000_01b3);
            rest >>= 8;
            byte += 1;
        }
        fact += 1;
    }
    (hash ^ (hash >> 32)) as u32
}
