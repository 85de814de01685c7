//! What lies in a queue's shared memory, and how the algorithm reaches it.
#![allow(unreachable_pub, reason = "public in the model, and there as far as it is needed")]

use super::{gate::Gate, trouble::Trouble};
#[cfg(not(loom))]
use procession_sync::robust::Robust;
use procession_sys::Deadline;
use procession_sys::sync::{AtomicU32, AtomicU64};

/// How many takes can be without an acknowledgement at a time.
#[cfg(not(loom))]
pub const RECORDS: usize = 16_384;
/// How many takes can be without an acknowledgement at a time.
#[cfg(loom)]
pub const RECORDS: usize = 4;

/// The header in front of each item in the ring, and the unit of positions.
pub const UNIT: u64 = 8;
/// What an honest position or ticket stays below.
pub const BOUND: u64 = 1 << 62;

/// The bytes that an item of `len` encoded bytes takes in the ring.
pub const fn frame_size(len: u64) -> u64 {
    UNIT + len.next_multiple_of(UNIT)
}

/// What a queue is like: fixed when it is made, and read once by each process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// The size of a chunk is 2 to the power of this, in bytes.
    pub chunk_shift: u32,
    /// How many chunks there may be.
    pub chunks: u32,
    /// The most items that wait; `u64::MAX` where there is no such bound.
    pub max_items: u64,
    /// The most bytes that wait, frames counted; `u64::MAX` where there is no such bound.
    pub max_bytes: u64,
    /// What becomes of items that a dead consumer had in hand.
    pub policy: Policy,
    /// Whether items are acknowledged by `task_done`.
    pub joinable: bool,
    /// Whether items may hold blocks of a heap: then each begins with the token of its message (`load.rs`).
    pub heap: bool,
}

impl Shape {
    /// The size of a chunk in bytes.
    pub const fn chunk(&self) -> u64 {
        1 << self.chunk_shift
    }

    /// The largest frame: wherever in a chunk it starts, it fits.
    pub const fn largest_frame(&self) -> u64 {
        (self.chunks as u64 - 1) << self.chunk_shift
    }

    /// How many entries the map of chunks has, a power of two.
    pub const fn map_len(&self) -> u64 {
        (self.chunks as u64 + 1).next_power_of_two()
    }

    /// Whether a body stays in the ring until it is acknowledged.
    pub const fn keeps(&self) -> bool {
        matches!(self.policy, Policy::Redeliver)
    }
}

/// What becomes of items that a consumer had in hand when it died: taken, and not acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Policy {
    /// They are reported as in doubt until somebody settles them ([`Queue::in_doubt`](super::Queue::in_doubt)).
    #[default]
    Report,
    /// They are counted as lost: each item is taken at most once.
    Drop,
    /// They go to another consumer, marked, ahead of their turn: each item is taken at least once. An item that holds blocks of
    /// a heap comes again only if it had not been given out yet; else it is reported as in doubt: its blocks belonged to the
    /// consumer, who could write to them.
    Redeliver,
}

/// Ticket and position behind the last item, of which the entry is good whose ticket is the committed one.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Entry {
    pub(crate) ticket: AtomicU64,
    pub(crate) pos: AtomicU64,
}

/// A queue's words. All zero, but for the shape and the mutexes, is an empty queue.
#[repr(C)]
#[derive(Debug)]
#[cfg_attr(loom, derive(Default))]
pub struct Words {
    pub(crate) shape: ShapeWords,
    pub(crate) producers: Producers,
    pub(crate) chunks: Chunks,
    pub(crate) tail: Tail,
    pub(crate) consumers: Consumers,
    pub(crate) head: Head,
    pub(crate) done: Done,
}

/// [`Shape`], as it is stored.
#[repr(C, align(128))]
#[derive(Debug, Default)]
pub struct ShapeWords {
    pub(crate) chunk_shift: AtomicU32,
    pub(crate) chunks: AtomicU32,
    pub(crate) max_items: AtomicU64,
    pub(crate) max_bytes: AtomicU64,
    pub(crate) policy: AtomicU32,
    pub(crate) joinable: AtomicU32,
    pub(crate) heap: AtomicU32,
}

/// Written by producers, under their lock.
#[repr(C, align(128))]
#[derive(Debug)]
#[cfg_attr(loom, derive(Default))]
pub struct Producers {
    #[cfg(not(loom))]
    pub(crate) mutex: Robust,
    pub(crate) entries: [Entry; 2],
    /// What a producer saw of `head.ticket` and `head.taken` when it looked last.
    pub(crate) seen_ticket: AtomicU64,
    pub(crate) seen_taken: AtomicU64,
    /// Positions before this one have a chunk.
    pub(crate) mapped: AtomicU64,
    /// Positions before this one have none any more. A multiple of the chunk, as is `mapped`.
    pub(crate) recycled: AtomicU64,
    /// The token of the last message whose blocks set out, and its ticket and 1.
    pub(crate) noted: AtomicU64,
    pub(crate) noted_for: AtomicU64,
}

/// The free chunks, under the producers' lock.
#[repr(C, align(128))]
#[derive(Debug, Default)]
pub struct Chunks {
    /// How many chunks were ever used: the others have no memory.
    pub(crate) fresh: AtomicU32,
    /// How many free ones have memory.
    pub(crate) warm: AtomicU32,
    /// How many free ones have none.
    pub(crate) cold: AtomicU32,
}

/// Read by consumers.
#[repr(C, align(128))]
#[derive(Debug, Default)]
pub struct Tail {
    /// How many items were accepted. The store of this word is the commit of a put.
    pub(crate) ticket: AtomicU64,
    /// No frame ends behind this position. Written before `ticket`.
    pub(crate) limit: AtomicU64,
    /// 1 once the queue is closed; written under the producers' lock.
    pub(crate) closed: AtomicU32,
    /// 1 while items may wait to be delivered again; written under the consumers' lock.
    pub(crate) again: AtomicU32,
    /// Where consumers sleep for items.
    pub(crate) items: Gate,
}

/// Written by consumers, under their lock.
#[repr(C, align(128))]
#[derive(Debug)]
#[cfg_attr(loom, derive(Default))]
pub struct Consumers {
    #[cfg(not(loom))]
    pub(crate) mutex: Robust,
    pub(crate) entries: [Entry; 2],
    /// Items that were given up: dropped, or settled.
    pub(crate) lost: AtomicU64,
    /// What `lost` becomes when the record that `losing` names (its index and 1) is given up.
    pub(crate) lost_after: AtomicU64,
    pub(crate) losing: AtomicU32,
    /// Records from this one on were never used.
    pub(crate) records: AtomicU32,
}

/// Read by producers.
#[repr(C, align(128))]
#[derive(Debug, Default)]
pub struct Head {
    /// How many items were taken. The store of this word is the commit of a get.
    pub(crate) ticket: AtomicU64,
    /// The position behind the last item that was taken. May lag behind `ticket` after a death, until the next lock.
    pub(crate) taken: AtomicU64,
    /// Nobody needs what is before this position.
    pub(crate) freed: AtomicU64,
    /// Where producers sleep while there are too many items.
    pub(crate) slots: Gate,
    /// Where producers sleep while there are too many bytes.
    pub(crate) room: Gate,
}

/// Where those sleep who wait for all items to be done.
#[repr(C, align(128))]
#[derive(Debug, Default)]
pub struct Done {
    pub(crate) gate: Gate,
    /// How often something was acknowledged, where that may free memory.
    pub(crate) acknowledged: AtomicU64,
}

/// What a consumer has in hand, or had when it died. See `hands.rs`.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Record {
    /// Kind, attempts, member and number of use. The store of this word changes the record.
    pub(crate) state: AtomicU64,
    /// The ticket of the first item, from 0.
    pub(crate) first: AtomicU64,
    /// How many items.
    pub(crate) count: AtomicU64,
    /// The position of the first one.
    pub(crate) pos: AtomicU64,
    /// The pid of who had it, for people; written when it is found dead.
    pub(crate) pid: AtomicU64,
    /// The token of the message of its blocks; 0 if it has none, or none of them is in the message any more.
    pub(crate) token: AtomicU64,
    /// The number of the record's use, and `1 << 32`, once its blocks may have been taken.
    pub(crate) opened: AtomicU64,
}

#[cfg(not(loom))]
const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<Words>() == 7 * 128 && align_of::<Words>() == 128);
    assert!(offset_of!(Words, producers) == 128 && offset_of!(Words, chunks) == 256);
    assert!(offset_of!(Words, tail) == 384 && offset_of!(Words, consumers) == 512);
    assert!(offset_of!(Words, head) == 640 && offset_of!(Words, done) == 768);
    assert!(size_of::<Record>() == 64);
};

/// Which of the two mutexes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// Serialises puts.
    Producers,
    /// Serialises gets, and guards the records.
    Consumers,
}

/// How long to wait for a mutex, whose holders keep it for as long as a copy takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Patience {
    /// Not longer than a slice: somebody who was stopped may hold it.
    Brief,
    /// Until a deadline, if there is one.
    Until(Option<Deadline>),
}

/// What a new holder of a mutex finds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// The last holder let it go.
    Clean,
    /// The last holder died while it held it.
    Died,
}

/// Why there is no new holder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoLock {
    /// Somebody holds it.
    Held,
    /// It cannot be locked: too many are held by this thread, or the memory is damaged.
    Trouble(Trouble),
}

/// The memory of one queue.
///
/// Positions count bytes since the queue was made. The map gives each chunk of positions a chunk of memory: `pos >> shift`
/// by its remainder. The algorithm alone keeps producers and consumers apart in it.
pub trait Memory {
    /// What the queue is like.
    fn shape(&self) -> &Shape;
    /// The words.
    fn words(&self) -> &Words;
    /// A record; `index` is less than [`RECORDS`].
    fn record(&self, index: u32) -> &Record;
    /// An entry of the map; `index` is less than [`Shape::map_len`].
    fn map(&self, index: u64) -> &AtomicU32;
    /// A place on the stack of free chunks with memory, or of those without; `index` is less than [`Shape::chunks`].
    fn free(&self, warm: bool, index: u32) -> &AtomicU32;
    /// Locks a side.
    fn lock(&self, side: Side, patience: Patience) -> Result<Found, NoLock>;
    /// Locks a side if nobody holds it.
    fn try_lock(&self, side: Side) -> Result<Found, NoLock>;
    /// Declares that what a side guards is whole again.
    fn repaired(&self, side: Side);
    /// Lets a side go.
    fn unlock(&self, side: Side);
    /// Whether a side's holder died, and nobody has taken it since.
    fn is_orphaned(&self, side: Side) -> bool;
    /// This process's number, from 0 to 65,534.
    fn member(&self) -> Result<u16, Trouble>;
    /// Whether the process with that number died.
    fn is_dead(&self, member: u16) -> bool;
    /// Its pid, for people.
    fn pid_of(&self, member: u16) -> u32;
    /// Reads the 8 bytes at a place in a chunk, once; `at` is a multiple of 8 within the chunk.
    fn load(&self, chunk: u32, at: u64) -> u64;
    /// Appends `len` bytes of a chunk to `into`; they lie within it.
    fn read(&self, chunk: u32, at: u64, len: usize, into: &mut Vec<u8>);
    /// Writes bytes, which lie within the chunk.
    fn write(&self, chunk: u32, at: u64, bytes: &[u8]);
    /// Takes the memory of a chunk, so that no access to it can fail.
    fn reserve(&self, chunk: u32) -> Result<(), Trouble>;
    /// Takes the memory of a record, likewise.
    fn reserve_record(&self, index: u32) -> Result<(), Trouble>;
    /// Gives the memory of a chunk back. It may do nothing.
    fn discard(&self, chunk: u32);
    /// Frees the blocks in the messages with these tokens, which nobody will decode any more. It can be repeated, and costs a look
    /// at every block of the heap, however many messages there are.
    fn revoke(&self, tokens: &[u64]);
}
