//! Where things lie in the arena.
//!
//! The payload holds, in this order: the control words; an entry for each span; the words of small blocks, as many as
//! a span can have for each span; the records; the records' slots, column by column; the data, span by span. All of it
//! is sparse: what was never touched takes no memory. Words have a place of their own, apart from the data, so that a
//! word can always be read and swapped as one, whatever became of its block meanwhile.

use super::{holders::COLUMNS, rings::RINGS};
use crate::{Kind, Member, signature};
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, AtomicU64};

/// The unit in which the arena is given out: small blocks share one, large blocks take several.
pub(crate) const SPAN: usize = 64 * 1024;
/// The sizes of small blocks, all multiples of 16.
pub(crate) const SIZES: [u16; 17] =
    [32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192];
/// The most small blocks in a span.
pub(crate) const PER_SPAN: usize = SPAN / SIZES[0] as usize;
/// Values can ask for this alignment at most.
pub(crate) const ALIGN: usize = 4096;
const MEMBERS: usize = Member::COUNT;
const PAGE: usize = 4096;

/// How many blocks a span of this class holds.
pub(crate) const fn blocks(class: usize) -> usize {
    SPAN / SIZES[class] as usize
}

/// The class for so many bytes; `None` for large blocks.
#[inline]
pub(crate) fn class(bytes: usize, align: usize) -> Option<usize> {
    /// For each multiple of 16 bytes.
    const TABLE: [u8; 513] = {
        let mut table = [0; 513];
        let (mut units, mut class) = (0, 0);
        while units < table.len() {
            if SIZES[class] as usize / 16 < units {
                class += 1;
            }
            table[units] = class as u8;
            units += 1;
        }
        table
    };
    if align > ALIGN {
        return None;
    }
    let first = usize::from(*TABLE.get(bytes.div_ceil(16))?);
    if align <= 16 {
        return Some(first);
    }
    (first..SIZES.len()).find(|&class| usize::from(SIZES[class]).is_multiple_of(align))
}

/// The first words of the payload.
#[repr(C)]
pub(crate) struct Control {
    /// Written by the creator, once.
    pub(crate) spans: AtomicU64,
    /// Written by the creator, once.
    pub(crate) records: AtomicU64,
    /// 1: no memory is taken before it is touched. Written by the creator, once.
    pub(crate) overcommit: AtomicU64,
    /// How many tokens were given out.
    pub(crate) tokens: AtomicU64,
    /// No span from here on was ever used. Only grows.
    pub(crate) span_top: AtomicU64,
    /// No record from here on was ever used. Only grows.
    pub(crate) record_top: AtomicU64,
    /// No member from here on ever joined. Only grows.
    pub(crate) member_top: AtomicU64,
    /// A hint: where to begin to look for a free span.
    pub(crate) span_low: AtomicU64,
    /// A hint: where to begin to look for a free record.
    pub(crate) record_low: AtomicU64,
    /// A hint: how many free spans have memory.
    pub(crate) kept: AtomicU64,
    /// Hints: how many slabs of each class nobody owns.
    pub(crate) abandoned: [AtomicU64; SIZES.len()],
    /// How often each member's number was given out.
    pub(crate) lives: [AtomicU64; MEMBERS],
    /// Of which of these lives nothing is left.
    pub(crate) swept: [AtomicU64; MEMBERS],
    /// No entry of `rings` from here on was ever used. Only grows.
    pub(crate) ring_top: AtomicU64,
    /// Which rings there are.
    pub(crate) rings: [AtomicU64; RINGS as usize],
}

/// What is known of a span.
#[repr(C)]
pub(crate) struct Span {
    /// `Free`, a large block's owner, `Tail`, or `Slab`.
    pub(crate) word: AtomicU64,
    /// Of a large block's first span: how many it has. Set before any of the others is taken.
    pub(crate) len: AtomicU32,
    /// Whether it may hold bytes that are not zero. Changed by the owner only.
    pub(crate) dirty: AtomicU32,
    /// A hint for a slab's owner: others freed blocks in it.
    pub(crate) remote: AtomicU32,
    /// A note of a slab's owner: where in its list the slab stands.
    pub(crate) note: AtomicU32,
    reserved: u64,
}

/// What a record is about. Written by whoever sets it up, before it becomes `Shared`.
#[repr(C)]
pub(crate) struct Record {
    pub(crate) word: AtomicU64,
    /// The block, as a [`Block`](super::arena::Block)'s number.
    pub(crate) block: AtomicU64,
    /// How many bytes of it are in use.
    pub(crate) bytes: AtomicU64,
    /// 1 if these are a string in UTF-8.
    pub(crate) text: AtomicU64,
}

pub(crate) const KIND: Kind = Kind::new(
    "heap",
    u32::from_le_bytes(*b"heap"),
    signature(&[
        2, // the protocol's version
        SPAN,
        SIZES.len(),
        COLUMNS as usize,
        size_of::<Control>(),
        offset_of!(Control, abandoned),
        size_of::<Span>(),
        size_of::<Record>(),
    ]),
);

/// The offsets for an arena of so many spans.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) spans: u32,
    pub(crate) records: u32,
    pub(crate) span_table: usize,
    pub(crate) words: usize,
    pub(crate) record_table: usize,
    pub(crate) slots: usize,
    pub(crate) data: usize,
    /// All of the payload.
    pub(crate) len: usize,
}

impl Shape {
    /// The shape with this many spans and records; `None` if it is larger than the address space.
    pub(crate) fn new(spans: usize, records: usize) -> Option<Shape> {
        let round = |at: usize| at.checked_next_multiple_of(PAGE);
        let after = |at: usize, count: usize, size: usize| round(at.checked_add(count.checked_mul(size)?)?);
        let span_table = round(size_of::<Control>())?;
        let words = after(span_table, spans, size_of::<Span>())?;
        let record_table = after(words, spans, PER_SPAN * 8)?;
        let slots = after(record_table, records, size_of::<Record>())?;
        let data = after(slots, records, COLUMNS as usize * 8)?;
        let len = after(data, spans, SPAN)?;
        let (spans, records) = (u32::try_from(spans).ok()?, u32::try_from(records).ok()?);
        Some(Shape { spans, records, span_table, words, record_table, slots, data, len })
    }

    /// With records in proportion.
    pub(crate) fn of_spans(spans: usize) -> Option<Shape> {
        Shape::new(spans, (spans / 4).max(1024))
    }

    /// The largest one that is no longer than `len`.
    pub(crate) fn within(len: usize) -> Option<Shape> {
        let per_span =
            SPAN + PER_SPAN * 8 + size_of::<Span>() + (size_of::<Record>() + COLUMNS as usize * 8) / 4;
        let mut spans = len / per_span;
        loop {
            match Shape::of_spans(spans) {
                Some(shape) if shape.len <= len && spans > 0 => return Some(shape),
                _ if spans == 0 => return None,
                _ => spans -= (spans / 64).max(1),
            }
        }
    }
}
