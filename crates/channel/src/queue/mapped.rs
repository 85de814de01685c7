//! A queue's memory in a segment.
//!
//! # Layout
//!
//! The words in the first page; the records; the map of chunks; two stacks of free chunks; and from the next page on the
//! chunks themselves. All but the first page and the tables is taken as it is used, and before it is used.
//!
//! # Invariants
//!
//! 1. Everything lies within the segment, which `self` keeps mapped: its size was compared with the shape when it was
//!    made or attached, and the shape is not read again.
//! 2. Words, records and tables are accessed as atomics only; the chunks by copies from and to raw pointers, never
//!    through a slice.
//! 3. Producers and consumers keep apart in the chunks by the protocol. A process that breaks it can make us copy bytes
//!    while it writes them: what was copied is then any bytes, in memory of our own, and is checked there.
//! 4. A mutex is held within one call of `Ring` only, whose caller keeps the segment mapped.
//! 5. No page is touched that was not reserved: no access ends in SIGBUS for lack of memory.
#![expect(unsafe_code, reason = "the one place where a queue's memory is reached through pointers")]

use super::{
    error::QueueError,
    trouble::Trouble,
    words::{Found, Memory, NoLock, Patience, Policy, RECORDS, Record, Shape, Side, Words},
};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, compiler_fence};
use procession_shm::{HeapRing, Kind, Member, Segment, signature};
use procession_sync::robust::{Locked, NotLocked, Robust};
use procession_sys::{Deadline, SLICE, Spin};
use std::{cell::RefCell, ptr::NonNull};

/// The layout signature.
const LAYOUT: u32 = signature(&[
    2, // the protocol's version
    size_of::<Words>(),
    size_of::<Record>(),
    RECORDS,
    core::mem::offset_of!(Words, tail),
    core::mem::offset_of!(Words, head),
]);
const KIND: Kind = Kind::new("queue", u32::from_le_bytes(*b"queu"), LAYOUT);

const PAGE: usize = 4096;
const RECORDS_AT: usize = PAGE;
const MAP_AT: usize = RECORDS_AT + RECORDS * size_of::<Record>();
const _: () = assert!(size_of::<Words>() <= RECORDS_AT);

/// The smallest and the largest chunk, as powers of two.
const CHUNK_SHIFTS: core::ops::RangeInclusive<u32> = 16..=24;
/// How many chunks there are at the most, where that does not make them too large.
const CHUNKS: u64 = 4096;
/// The most memory for items, in bytes.
pub(super) const MOST_MEMORY: u64 = 64 << 30;

/// Memory that was checked.
#[derive(Debug)]
pub(super) struct Mapped {
    segment: Segment,
    shape: Shape,
    words: NonNull<Words>,
    free_at: usize,
    data_at: usize,
    /// Through which the items' blocks go, if they may have any.
    heap: Option<HeapRing>,
}

const _: () = {
    const fn crosses_threads<T: Send + Sync>() {}
    // What the two lines below do not speak of.
    crosses_threads::<(Segment, HeapRing)>();
};

// SAFETY: the pointers stand for shared memory that `segment` keeps mapped in all threads (invariants 1 and 2).
unsafe impl Send for Mapped {}
// SAFETY: as for `Send`.
unsafe impl Sync for Mapped {}

/// The shape's part that follows from the memory: the size of a chunk as a power of two, and how many there are.
pub(super) fn chunks_for(memory: u64) -> (u32, u32) {
    let memory = memory.clamp(1, MOST_MEMORY);
    let shift = memory.div_ceil(CHUNKS).next_power_of_two().trailing_zeros();
    let shift = shift.clamp(*CHUNK_SHIFTS.start(), *CHUNK_SHIFTS.end());
    // One more, since the first item in a chunk need not start at its beginning. At most 4,097 of 16 MiB.
    (shift, memory.div_ceil(1 << shift) as u32 + 1)
}

/// Where the stacks and the chunks lie, and where the last chunk ends.
fn places(shape: &Shape) -> (usize, usize, usize) {
    let free_at = MAP_AT + shape.map_len() as usize * size_of::<u32>();
    let data_at = (free_at + 2 * shape.chunks as usize * size_of::<u32>()).next_multiple_of(PAGE);
    (free_at, data_at, data_at + ((shape.chunks as usize) << shape.chunk_shift))
}

thread_local! {
    static SPIN: RefCell<Option<Spin>> = const { RefCell::new(None) };
}

impl Mapped {
    /// Makes a queue in a segment of its own.
    pub(super) fn make(shape: Shape, heap: Option<HeapRing>) -> Result<Mapped, QueueError> {
        let (_, data_at, len) = places(&shape);
        let segment = Segment::anonymous(KIND, len)?;
        segment.reserve(0..RECORDS_AT)?;
        segment.reserve(MAP_AT..data_at)?;
        let mapped = Mapped::of(segment, shape, heap);
        let words = mapped.words();
        for mutex in [&words.producers.mutex, &words.consumers.mutex] {
            mutex.init().map_err(QueueError::Mutex)?;
        }
        let stored = &words.shape;
        stored.chunk_shift.store(shape.chunk_shift, Ordering::Relaxed);
        stored.chunks.store(shape.chunks, Ordering::Relaxed);
        stored.max_items.store(shape.max_items, Ordering::Relaxed);
        stored.max_bytes.store(shape.max_bytes, Ordering::Relaxed);
        stored.policy.store(policy_to_word(shape.policy), Ordering::Relaxed);
        stored.heap.store(shape.heap.into(), Ordering::Relaxed);
        // Nobody else has the segment yet.
        stored.joinable.store(shape.joinable.into(), Ordering::Release);
        Ok(mapped)
    }

    /// Attaches the queue in a segment that came from elsewhere.
    pub(super) fn attach(segment: Segment, heap: Option<HeapRing>) -> Result<Mapped, QueueError> {
        segment.check(KIND)?;
        if segment.len() < MAP_AT {
            return Err(QueueError::Shape);
        }
        // SAFETY: a payload is aligned to a page, and at least as long as the words, as just checked.
        let words = unsafe { segment.as_ptr().cast::<Words>().as_ref() };
        let stored = &words.shape;
        let shape = Shape {
            chunk_shift: stored.chunk_shift.load(Ordering::Relaxed),
            chunks: stored.chunks.load(Ordering::Relaxed),
            max_items: stored.max_items.load(Ordering::Relaxed),
            max_bytes: stored.max_bytes.load(Ordering::Relaxed),
            policy: policy_of_word(stored.policy.load(Ordering::Relaxed)).ok_or(QueueError::Shape)?,
            joinable: stored.joinable.load(Ordering::Relaxed) != 0,
            heap: stored.heap.load(Ordering::Relaxed) != 0,
        };
        let possible =
            CHUNK_SHIFTS.contains(&shape.chunk_shift) && (2..=CHUNKS as u32 + 1).contains(&shape.chunks);
        if !possible
            || shape.heap != heap.is_some()
            || shape.max_items == 0
            || places(&shape).2 > segment.len()
        {
            return Err(QueueError::Shape);
        }
        Ok(Mapped::of(segment, shape, heap))
    }

    /// The shape fits the segment.
    fn of(segment: Segment, shape: Shape, heap: Option<HeapRing>) -> Mapped {
        let (free_at, data_at, _) = places(&shape);
        let words = segment.as_ptr().cast();
        Mapped { segment, shape, words, free_at, data_at, heap }
    }

    pub(super) fn heap(&self) -> Option<&HeapRing> {
        self.heap.as_ref()
    }

    /// Who holds a lock of a queue on a heap may have to free blocks.
    #[inline]
    fn join_heap(&self) -> Result<(), NoLock> {
        self.heap.as_ref().map_or(Ok(()), |heap| {
            let no_member = |error: procession_shm::Error| {
                Trouble::NoMember(error.os_error().and_then(|os| os.raw_os_error()))
            };
            heap.join().map_err(|error| NoLock::Trouble(no_member(error)))
        })
    }

    pub(super) fn segment(&self) -> &Segment {
        &self.segment
    }

    fn mutex(&self, side: Side) -> &Robust {
        match side {
            Side::Producers => &self.words().producers.mutex,
            Side::Consumers => &self.words().consumers.mutex,
        }
    }

    /// A 32-bit word of the tables.
    fn table(&self, offset: usize) -> &AtomicU32 {
        debug_assert!((MAP_AT..self.data_at).contains(&offset) && offset.is_multiple_of(4));
        // SAFETY: the callers' indexes lie within the tables, and these within the segment (invariant 1).
        let word = unsafe { self.segment.as_ptr().add(offset) };
        // SAFETY: it is aligned to 4 bytes, lives as long as `self`, and everybody accesses it as an atomic.
        unsafe { AtomicU32::from_ptr(word.as_ptr().cast()) }
    }

    fn offset(&self, chunk: u32, at: u64) -> usize {
        self.data_at + ((chunk as usize) << self.shape.chunk_shift) + at as usize
    }

    /// A place in a chunk, with `len` bytes behind it.
    #[inline]
    fn place(&self, chunk: u32, at: u64, len: usize) -> NonNull<u8> {
        assert!(
            chunk < self.shape.chunks && at + len as u64 <= self.shape.chunk(),
            "a place within a chunk: {chunk}, {at}, {len}"
        );
        // SAFETY: the chunk lies within the segment (invariant 1), and the place within the chunk, as just asserted.
        unsafe { self.segment.as_ptr().add(self.offset(chunk, at)) }
    }
}

fn policy_to_word(policy: Policy) -> u32 {
    match policy {
        Policy::Report => 0,
        Policy::Drop => 1,
        Policy::Redeliver => 2,
    }
}

fn policy_of_word(word: u32) -> Option<Policy> {
    [Policy::Report, Policy::Drop, Policy::Redeliver]
        .into_iter()
        .find(|&policy| policy_to_word(policy) == word)
}

#[inline]
fn found(locked: Result<Locked, NotLocked>) -> Result<Found, NoLock> {
    match locked {
        Ok(Locked::Clean) => Ok(Found::Clean),
        Ok(Locked::OwnerDied) => Ok(Found::Died),
        Err(NotLocked::TimedOut) => Err(NoLock::Held),
        Err(NotLocked::TooMany) => Err(NoLock::Trouble(Trouble::TooManyLocks)),
        Err(NotLocked::Damaged(code)) => Err(NoLock::Trouble(Trouble::Damaged(code))),
    }
}

fn no_memory(error: &procession_shm::Error) -> Trouble {
    Trouble::NoMemory(error.os_error().and_then(|os| os.raw_os_error()).unwrap_or(0))
}

impl Memory for Mapped {
    #[inline]
    fn shape(&self) -> &Shape {
        &self.shape
    }

    #[inline]
    fn words(&self) -> &Words {
        // SAFETY: invariant 1; the fields are atomics and mutexes.
        unsafe { self.words.as_ref() }
    }

    #[inline]
    fn record(&self, index: u32) -> &Record {
        assert!((index as usize) < RECORDS, "a record's index");
        // SAFETY: the records lie within the segment (invariant 1), and the index within them.
        let record = unsafe { self.segment.as_ptr().add(RECORDS_AT + index as usize * size_of::<Record>()) };
        // SAFETY: it is aligned to 64 bytes, lives as long as `self`, and consists of atomics.
        unsafe { record.cast::<Record>().as_ref() }
    }

    #[inline]
    fn map(&self, index: u64) -> &AtomicU32 {
        assert!(index < self.shape.map_len(), "an index into the map");
        self.table(MAP_AT + index as usize * size_of::<u32>())
    }

    fn free(&self, warm: bool, index: u32) -> &AtomicU32 {
        assert!(index < self.shape.chunks, "a place on a stack");
        let stack = if warm { 0 } else { self.shape.chunks as usize };
        self.table(self.free_at + (stack + index as usize) * size_of::<u32>())
    }

    #[inline]
    fn lock(&self, side: Side, patience: Patience) -> Result<Found, NoLock> {
        self.join_heap()?;
        let mutex = self.mutex(side);
        let mut locked = mutex.try_lock();
        if locked != Err(NotLocked::TimedOut) && locked != Err(NotLocked::TooMany) {
            return found(locked);
        }
        let latest = match patience {
            Patience::Brief => None,
            Patience::Until(deadline) => deadline,
        };
        let spun = SPIN.with(|spin| {
            spin.try_borrow_mut().is_ok_and(|mut spin| {
                spin.get_or_insert_with(Spin::adaptive).until(latest, || {
                    if mutex.looks_free() {
                        locked = mutex.try_lock();
                    }
                    locked != Err(NotLocked::TimedOut)
                })
            })
        });
        if spun && locked != Err(NotLocked::TooMany) {
            return found(locked);
        }
        let deadline = match patience {
            Patience::Brief => Some(Deadline::after(SLICE)),
            Patience::Until(deadline) => deadline,
        };
        found(mutex.lock_inside(deadline))
    }

    fn try_lock(&self, side: Side) -> Result<Found, NoLock> {
        self.join_heap()?;
        found(self.mutex(side).try_lock())
    }

    fn repaired(&self, side: Side) {
        self.mutex(side).made_consistent();
    }

    #[inline]
    fn unlock(&self, side: Side) {
        self.mutex(side).unlock();
    }

    fn is_orphaned(&self, side: Side) -> bool {
        self.mutex(side).is_orphaned()
    }

    #[inline]
    fn member(&self) -> Result<u16, Trouble> {
        if let Some(member) = self.segment.member() {
            // There are a thousand of them.
            return Ok(member.index() as u16);
        }
        self.join()
    }

    fn is_dead(&self, member: u16) -> bool {
        Member::from_index(member.into()).is_some_and(|member| self.segment.is_dead(member))
    }

    fn pid_of(&self, member: u16) -> u32 {
        Member::from_index(member.into()).and_then(|member| self.segment.pid_of(member)).unwrap_or(0)
    }

    #[inline]
    fn load(&self, chunk: u32, at: u64) -> u64 {
        let place = self.place(chunk, at & !7, 8);
        // One load, so that what is checked is what is used.
        // SAFETY: 8 bytes within a chunk, aligned; headers are only read by consumers while nobody writes there, and
        // whoever breaks that finds an atomic here.
        unsafe { AtomicU64::from_ptr(place.as_ptr().cast()) }.load(Ordering::Relaxed)
    }

    #[inline]
    fn read(&self, chunk: u32, at: u64, len: usize, into: &mut Vec<u8>) {
        into.reserve(len);
        let from = self.place(chunk, at, len);
        let to = into.spare_capacity_mut().as_mut_ptr().cast::<u8>();
        // SAFETY: both sides are valid for `len` bytes, the target being spare capacity of a vector of our own.
        unsafe { from.as_ptr().copy_to_nonoverlapping(to, len) };
        // Keeps the compiler from reading the chunk again where the copy is meant (invariant 3).
        compiler_fence(Ordering::SeqCst);
        // SAFETY: the capacity was reserved, and these bytes were written just now.
        unsafe { into.set_len(into.len() + len) };
    }

    #[inline]
    fn write(&self, chunk: u32, at: u64, bytes: &[u8]) {
        let to = self.place(chunk, at, bytes.len());
        // SAFETY: the place is valid for that many bytes, and no slice of ours lies there (invariant 2).
        unsafe { to.as_ptr().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    }

    fn reserve(&self, chunk: u32) -> Result<(), Trouble> {
        let start = self.offset(chunk, 0);
        let end = start + self.shape.chunk() as usize;
        self.segment.reserve(start..end).map_err(|error| no_memory(&error))
    }

    fn reserve_record(&self, index: u32) -> Result<(), Trouble> {
        let start = RECORDS_AT + index as usize * size_of::<Record>();
        if !start.is_multiple_of(PAGE) {
            // The first one of its page took the page.
            return Ok(());
        }
        self.segment.reserve(start..start + PAGE).map_err(|error| no_memory(&error))
    }

    fn discard(&self, chunk: u32) {
        let start = self.offset(chunk, 0);
        // It only saves memory: a failure changes nothing that anyone relies on.
        let _ = self.segment.discard(start..start + self.shape.chunk() as usize);
    }

    #[cold]
    fn revoke(&self, tokens: &[u64]) {
        if let Some(heap) = &self.heap {
            // It fails only where this process is no member, which it became before it locked.
            let _ = heap.revoke(tokens);
        }
    }
}

impl Mapped {
    #[cold]
    fn join(&self) -> Result<u16, Trouble> {
        let mut failed = false;
        let mut recover = |dead: Member| {
            // A lock that cannot be had cannot be had for the next of a thousand either.
            if failed {
                return false;
            }
            // Another handle of the same memory: the one here is borrowed.
            let heap = self.heap.as_ref().map(HeapRing::beside);
            let mapped = Mapped::of(self.segment.clone(), self.shape, heap);
            failed = !super::ring::Ring::new(mapped).settle_member(dead.index() as u16);
            !failed
        };
        match self.segment.join(&mut recover) {
            Ok(member) => Ok(member.index() as u16),
            Err(error) => Err(Trouble::NoMember(error.os_error().and_then(|os| os.raw_os_error()))),
        }
    }
}
