//! A lane's memory in a segment.
//!
//! # Invariants
//!
//! 1. Words, bells and ring lie within segments that `self` keeps mapped; this was checked when it was made.
//! 2. The words are accessed as atomics only; the ring by copies from and to raw pointers, never through a slice.
//! 3. The ends keep apart in the ring by the protocol, and lanes in a segment by the promise of who made them
//!    (`pair_in`). A peer that breaks it, or sends an end that was never packed, can make us copy bytes while it
//!    writes them: what was copied is then any bytes, in memory of our own, and is checked there.
#![expect(unsafe_code, reason = "the one place where a lane's memory is reached through pointers")]

use super::words::{Memory, Words};
use crate::{Bell, Error, bell::BellWords, error::Cause};
use core::sync::atomic::{AtomicU64, Ordering, compiler_fence};
use procession_shm::Segment;
use std::{ptr::NonNull, sync::Arc};

/// Where a lane lies, and the bells of its ends if they are not its own.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) segment: Segment,
    pub(crate) offset: usize,
    pub(crate) capacity: usize,
    pub(crate) sender_bell: Option<Bell>,
    pub(crate) receiver_bell: Option<Bell>,
    /// Whether the ends have claims in the segment, by which their loss is found out.
    pub(crate) watched: bool,
}

/// An end of a lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    Sender,
    Receiver,
}

impl Place {
    /// The number that an end has claimed in the segment.
    pub(crate) fn claim(&self, end: End) -> u32 {
        // Lanes in one segment lie apart by more than this.
        (self.offset / size_of::<Words>()) as u32 * 2 + u32::from(end == End::Receiver)
    }

    fn is_lost(&self, end: End) -> bool {
        self.watched && !self.segment.is_claimed(self.claim(end))
    }
}

/// A place that was checked.
#[derive(Clone, Debug)]
pub(crate) struct Mapped {
    place: Arc<Place>,
    words: NonNull<Words>,
    ring: NonNull<u8>,
    sender_bell: NonNull<BellWords>,
    receiver_bell: NonNull<BellWords>,
    mask: u64,
}

// SAFETY: the pointers stand for shared memory that `place` keeps mapped in all threads (invariants 1 and 2); the
// ring is only reached through the methods of `Producer` and `Consumer`, which need `&mut`.
unsafe impl Send for Mapped {}
// SAFETY: as for `Send`.
unsafe impl Sync for Mapped {}

/// The smallest and the largest ring, in bytes.
pub(crate) const CAPACITIES: core::ops::RangeInclusive<usize> = 4096..=64 << 20;

/// The bytes that a lane with this ring takes in a segment.
pub(crate) const fn footprint(capacity: usize) -> usize {
    size_of::<Words>() + capacity
}

impl Mapped {
    /// Checks that the lane lies within its segment, in a way that its words can be used.
    pub(crate) fn new(place: Place) -> Result<Mapped, Error> {
        let Place { segment, offset, capacity, .. } = &place;
        let (offset, capacity) = (*offset, *capacity);
        if !CAPACITIES.contains(&capacity) || !capacity.is_power_of_two() {
            return Err(Error::new("attach", Cause::Capacity { capacity }));
        }
        let within = offset.checked_add(footprint(capacity)).is_some_and(|end| end <= segment.len());
        if !within || !offset.is_multiple_of(align_of::<Words>()) {
            let len = segment.len();
            return Err(Error::new("attach", Cause::Place { offset, size: footprint(capacity), len }));
        }
        // SAFETY: the offset lies within the segment's payload, as just checked.
        let words: NonNull<Words> = unsafe { segment.as_ptr().add(offset) }.cast();
        // SAFETY: the ring follows the words, within the payload, as just checked.
        let ring: NonNull<u8> = unsafe { words.add(1) }.cast();
        // SAFETY: `words` is valid for reads of atomics, aligned, and lives as long as the segment.
        let own = unsafe { words.as_ref() };
        let sender_bell = NonNull::from(place.sender_bell.as_ref().map_or(&own.sender_bell, Bell::words));
        let receiver_bell =
            NonNull::from(place.receiver_bell.as_ref().map_or(&own.receiver_bell, Bell::words));
        let mask = capacity as u64 - 1;
        Ok(Mapped { place: Arc::new(place), words, ring, sender_bell, receiver_bell, mask })
    }

    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// The offset of a position in the ring, and how many bytes follow it there.
    #[inline]
    fn offset(&self, at: u64) -> (usize, usize) {
        let offset = (at & self.mask) as usize;
        (offset, self.mask as usize + 1 - offset)
    }

    #[inline]
    fn word(&self, at: u64) -> &AtomicU64 {
        let (offset, left) = self.offset(at);
        debug_assert!(offset.is_multiple_of(8) && left >= 8);
        // SAFETY: the remainder by the capacity is an offset within the ring.
        let word = unsafe { self.ring.add(offset & !7) };
        // SAFETY: it is aligned to 8 and the capacity is a multiple of 8, so the word lies within the ring, which
        // lives as long as `self`.
        unsafe { AtomicU64::from_ptr(word.as_ptr().cast()) }
    }
}

impl Memory for Mapped {
    #[inline]
    fn words(&self) -> &Words {
        // SAFETY: invariant 1; all fields are atomics.
        unsafe { self.words.as_ref() }
    }

    #[inline]
    fn receiver_bell(&self) -> &BellWords {
        // SAFETY: it lies in the words or in a bell that `place` keeps; all fields are atomics.
        unsafe { self.receiver_bell.as_ref() }
    }

    #[inline]
    fn sender_bell(&self) -> &BellWords {
        // SAFETY: as for `receiver_bell`.
        unsafe { self.sender_bell.as_ref() }
    }

    #[inline]
    fn capacity(&self) -> u64 {
        self.mask + 1
    }

    #[inline]
    fn load(&self, at: u64) -> u64 {
        // One load, so that what is checked is what is used.
        self.word(at).load(Ordering::Relaxed)
    }

    #[inline]
    fn store(&self, at: u64, word: u64) {
        self.word(at).store(word, Ordering::Relaxed);
    }

    #[inline]
    fn read(&self, at: u64, len: usize, into: &mut Vec<u8>) {
        assert!(len as u64 <= self.mask + 1, "a piece is no larger than the ring");
        into.reserve(len);
        let (offset, left) = self.offset(at);
        let first = len.min(left);
        // SAFETY: `first` bytes from `offset` lie within the ring.
        let from = unsafe { self.ring.add(offset) };
        let to = into.spare_capacity_mut().as_mut_ptr().cast::<u8>();
        // SAFETY: both sides are valid for `first` bytes, the target being spare capacity of a vector of our own.
        unsafe { from.as_ptr().copy_to_nonoverlapping(to, first) };
        if first < len {
            // SAFETY: `first` is less than the spare capacity.
            let to = unsafe { to.add(first) };
            // SAFETY: the rest is shorter than the ring, and fits in the spare capacity.
            unsafe { self.ring.as_ptr().copy_to_nonoverlapping(to, len - first) };
        }
        // Keeps the compiler from reading the ring again where the copy is meant (invariant 3).
        compiler_fence(Ordering::SeqCst);
        // SAFETY: the capacity was reserved, and these bytes were written just now.
        unsafe { into.set_len(into.len() + len) };
    }

    #[inline]
    fn write(&self, at: u64, bytes: &[u8]) {
        assert!(bytes.len() as u64 <= self.mask + 1, "a piece is no larger than the ring");
        let (offset, left) = self.offset(at);
        let (first, second) = bytes.split_at(bytes.len().min(left));
        // SAFETY: an offset within the ring.
        let to = unsafe { self.ring.add(offset) };
        // SAFETY: `first` ends within the ring, and no slice of ours lies there (invariant 2).
        unsafe { to.as_ptr().copy_from_nonoverlapping(first.as_ptr(), first.len()) };
        if !second.is_empty() {
            // SAFETY: the rest is no longer than the ring.
            unsafe { self.ring.as_ptr().copy_from_nonoverlapping(second.as_ptr(), second.len()) };
        }
    }

    fn discard(&self, from: u64, until: u64) {
        let ring = self.place.offset + size_of::<Words>();
        let capacity = self.place.capacity;
        let (from, until) = ((from as usize).min(capacity), (until as usize).min(capacity));
        // It only saves memory: a failure changes nothing that anyone relies on.
        let _ = self.place.segment.discard(ring + from..ring + until);
    }

    fn sender_is_lost(&self) -> bool {
        self.place.is_lost(End::Sender)
    }

    fn receiver_is_lost(&self) -> bool {
        self.place.is_lost(End::Receiver)
    }
}
