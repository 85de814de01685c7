//! What lies in front of a lane's ring in shared memory, and how the algorithm reaches the bytes behind it.
#![cfg_attr(not(loom), allow(unreachable_pub, reason = "public in the model only"))]

use crate::bell::BellWords;
use procession_sys::sync::{AtomicU32, AtomicU64, Ordering};

/// The words that both ends share. All zero is a fresh lane.
///
/// What one end writes often lies in a line of its own; 128 bytes, since processors fetch lines in pairs.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Words {
    pub(crate) sender: SenderWords,
    pub(crate) receiver: ReceiverWords,
    /// Where the sender sleeps for room, unless it was given another bell.
    pub(crate) sender_bell: BellWords,
    /// Where the receiver sleeps for messages, unless it was given another bell.
    pub(crate) receiver_bell: BellWords,
}

/// Written by the sender, but for `receiver_closed`.
#[repr(C, align(128))]
#[derive(Debug, Default)]
pub(crate) struct SenderWords {
    /// Bytes committed since the lane was made. The store of this word is the commit.
    pub(crate) tail: AtomicU64,
    /// Whole messages committed; written after `tail`, so it may lag behind by one after a death.
    pub(crate) sent: AtomicU64,
    /// How often the sender has come out of a parcel: each parcel brings it once, however often it was copied.
    pub(crate) claims: AtomicU32,
    /// [`CLOSED`] or [`DIED`] once the receiver is gone. Written once, by the receiver or by who knows of its death.
    pub(crate) receiver_closed: AtomicU32,
    /// Behind the last record of the message that grows; at or before `tail` it says nothing.
    pub(crate) grown: AtomicU64,
}

/// Written by the receiver, but for `sender_closed`.
#[repr(C, align(128))]
#[derive(Debug, Default)]
pub(crate) struct ReceiverWords {
    /// Bytes given back since the lane was made.
    pub(crate) head: AtomicU64,
    /// The ticket of the last message that the receiver has in hand or is about to; written before `head`.
    pub(crate) taken: AtomicU64,
    /// The ticket of the last message that the receiver began to act on.
    pub(crate) started: AtomicU64,
    /// How often the receiver has come out of a parcel.
    pub(crate) claims: AtomicU32,
    /// [`CLOSED`] or [`DIED`] once the sender is gone. Written once, by the sender or by who knows of its death.
    pub(crate) sender_closed: AtomicU32,
}

/// An end went: it was closed, or dropped.
pub(crate) const CLOSED: u32 = 1;
/// An end is gone without a word.
pub(crate) const DIED: u32 = 2;

/// Says on its behalf that an end is gone, unless it did so itself. `word` is where it would have said so.
pub(crate) fn died(word: &AtomicU32) {
    // Release: as for a close, for what was committed by whoever says this.
    let _ = word.compare_exchange(0, DIED, Ordering::Release, Ordering::Relaxed);
}

#[cfg(not(loom))]
const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<Words>() == 512 && align_of::<Words>() == 128);
    assert!(offset_of!(Words, sender) == 0 && offset_of!(Words, receiver) == 128);
    assert!(offset_of!(Words, sender_bell) == 256 && offset_of!(Words, receiver_bell) == 384);
};

/// The memory of one lane: its words, its bells, and its ring of bytes.
///
/// Positions count bytes since the lane was made; a position's place in the ring is its remainder by the capacity.
/// The algorithm alone keeps the ends apart: the sender writes positions from `tail` to `head` + capacity, the
/// receiver reads those from `head` to `tail`.
pub trait Memory {
    /// The words that both ends share.
    fn words(&self) -> &Words;
    /// Where the sender sleeps.
    fn sender_bell(&self) -> &BellWords;
    /// Where the receiver sleeps.
    fn receiver_bell(&self) -> &BellWords;
    /// The ring's size in bytes, a power of two and at least 16.
    fn capacity(&self) -> u64;
    /// Reads the 8 bytes at a position that is a multiple of 8, once.
    fn load(&self, at: u64) -> u64;
    /// Writes the 8 bytes at a position that is a multiple of 8.
    fn store(&self, at: u64, word: u64);
    /// Appends `len` bytes (at most the capacity) from a position on to `into`.
    fn read(&self, at: u64, len: usize, into: &mut Vec<u8>);
    /// Writes bytes (at most the capacity) from a position on.
    fn write(&self, at: u64, bytes: &[u8]);
    /// Gives the memory of a part of the ring back. It may do nothing.
    fn discard(&self, from: u64, until: u64);
    /// Whether nobody has the sender any more, neither a process nor a parcel; false where that cannot be told. It may
    /// cost a system call.
    fn sender_is_lost(&self) -> bool {
        false
    }
    /// Whether nobody has the receiver any more.
    fn receiver_is_lost(&self) -> bool {
        false
    }
}
