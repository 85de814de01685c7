//! The memory of a row: where its words and its ring lie in a segment.
//!
//! # Invariants
//! 1. The words and the ring lie within the segment, which `Place` keeps mapped; where is fixed, and comes from nobody.
//! 2. The words are accessed as atomics only; the ring by copies from and to raw pointers, never through a slice. A peer may
//!    write there at any time: what was copied is then any bytes, in memory of our own, and is checked there.
#![expect(unsafe_code, reason = "the one place where the lanes' memory is reached through pointers")]

use super::ends::{Memory, ReaderWords, Words, WriterWords};
use procession_shm::{Kind, Segment, signature};
use std::{
    ptr::NonNull,
    sync::atomic::{Ordering, compiler_fence},
};

/// The bytes that may lie in a row. Larger frames go through it in parts.
pub(crate) const CAPACITY: usize = 512 << 10;

/// What one takes in a segment.
pub(crate) const ROW: usize = size_of::<Words>() + CAPACITY;
/// What both rows take in a segment.
pub(super) const SIZE: usize = 2 * ROW;
/// Where a row's bytes are, and where its words: for what plays a hostile peer.
pub(crate) const RING: usize = size_of::<Words>();
pub(crate) const WORDS: [usize; 5] = [
    std::mem::offset_of!(WriterWords, tail),
    std::mem::offset_of!(WriterWords, waits),
    std::mem::offset_of!(WriterWords, origin),
    std::mem::offset_of!(Words, reader) + std::mem::offset_of!(ReaderWords, head),
    std::mem::offset_of!(Words, reader) + std::mem::offset_of!(ReaderWords, sleeps),
];
pub(super) const KIND: Kind = Kind::new(
    "manager",
    u32::from_le_bytes(*b"mlan"),
    signature(&[
        2,
        CAPACITY,
        size_of::<Words>(),
        std::mem::offset_of!(Words, reader),
        std::mem::offset_of!(WriterWords, origin),
    ]),
);
const _: () = assert!(ROW.is_multiple_of(align_of::<Words>()) && CAPACITY.is_power_of_two());

/// A row in a segment.
pub(super) struct Place {
    _segment: Segment,
    words: NonNull<Words>,
    ring: NonNull<u8>,
}

// SAFETY: the pointers stand for shared memory that the segment keeps mapped in all threads (invariants 1 and 2).
unsafe impl Send for Place {}
// SAFETY: as for `Send`.
unsafe impl Sync for Place {}

impl Place {
    /// One of the two rows of a segment that has them.
    pub(super) fn new(segment: &Segment, second: bool) -> Option<Place> {
        if segment.len() < SIZE {
            return None;
        }
        let offset = if second { ROW } else { 0 };
        // SAFETY: the segment has both rows, as just checked, and this is where the first or the second begins.
        let words: NonNull<Words> = unsafe { segment.as_ptr().add(offset) }.cast();
        // SAFETY: the ring follows the words, within the row.
        let ring: NonNull<u8> = unsafe { words.add(1) }.cast();
        Some(Place { _segment: segment.clone(), words, ring })
    }

    /// A place in the ring, and how many bytes follow it there.
    fn at(&self, offset: usize) -> (NonNull<u8>, usize) {
        let offset = offset % CAPACITY;
        // SAFETY: the remainder by the capacity is an offset within the ring.
        (unsafe { self.ring.add(offset) }, CAPACITY - offset)
    }
}

impl Memory for Place {
    const CAPACITY: usize = CAPACITY;

    fn words(&self) -> &Words {
        // SAFETY: invariant 1; aligned, as the payload is to a page and a row to 128 bytes; all fields are atomics.
        unsafe { self.words.as_ref() }
    }

    fn put(&self, at: usize, bytes: &[u8]) {
        let (to, left) = self.at(at);
        let (first, second) = bytes.split_at(bytes.len().min(left));
        // SAFETY: `first` ends within the ring, and no slice of ours lies there (invariant 2).
        unsafe { to.as_ptr().copy_from_nonoverlapping(first.as_ptr(), first.len()) };
        let second = &second[..second.len().min(CAPACITY - first.len())];
        // SAFETY: what is left is no longer than the ring, from whose start it goes.
        unsafe { self.ring.as_ptr().copy_from_nonoverlapping(second.as_ptr(), second.len()) };
    }

    fn take(&self, at: usize, len: usize, into: &mut Vec<u8>) {
        let len = len.min(CAPACITY);
        into.reserve(len);
        let (from, left) = self.at(at);
        let first = len.min(left);
        let to = into.spare_capacity_mut().as_mut_ptr().cast::<u8>();
        // SAFETY: both sides are valid for `first` bytes, the target being spare capacity of a vector of our own.
        unsafe { from.as_ptr().copy_to_nonoverlapping(to, first) };
        // SAFETY: `first` is at most the spare capacity.
        let to = unsafe { to.add(first) };
        // SAFETY: the rest is shorter than the ring, and fits in the spare capacity.
        unsafe { self.ring.as_ptr().copy_to_nonoverlapping(to, len - first) };
        // Keeps the compiler from reading the ring again where the copy is meant (invariant 2).
        compiler_fence(Ordering::SeqCst);
        // SAFETY: the capacity was reserved, and these bytes were written just now.
        unsafe { into.set_len(into.len() + len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lanes::ends::{Corrupt, NO_END, Reader, Writer};

    fn pair() -> (Writer<Place>, Reader<Place>) {
        let segment = Segment::anonymous(KIND, SIZE).unwrap();
        let place = || Place::new(&segment, false).unwrap();
        (Writer::new(place()), Reader::new(place()))
    }

    #[test]
    fn bytes_come_out_in_order_around_the_rings_end() {
        let (writer, reader) = pair();
        let mut rng = 7_u64;
        let (mut sent, mut came, mut into) = (0_u64, 0_u64, Vec::new());
        while came < 4 * CAPACITY as u64 {
            rng = rng.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let bytes: Vec<u8> = (sent..sent + (rng >> 40) % 20_000).map(|n| (n % 251) as u8).collect();
            sent += writer.write(&bytes).unwrap() as u64;
            into.clear();
            into.reserve_exact((rng >> 20) as usize % 20_000 + 1);
            reader.read(&mut into, CAPACITY).unwrap();
            assert!(into.iter().all(|byte| {
                came += 1;
                u64::from(*byte) == (came - 1) % 251
            }));
        }
    }

    #[test]
    fn a_full_row_takes_nothing_and_an_empty_one_gives_nothing() {
        let (writer, reader) = pair();
        assert_eq!(writer.write(&[1; CAPACITY + 9]), Ok(CAPACITY));
        assert_eq!(writer.write(&[1; 9]), Ok(0));
        let mut into = Vec::with_capacity(2 * CAPACITY);
        assert_eq!(reader.read(&mut into, CAPACITY), Ok(CAPACITY));
        assert_eq!(reader.read(&mut into, CAPACITY), Ok(0));
        assert_eq!(writer.write(&[1; 9]), Ok(9));
    }

    #[test]
    fn positions_that_cannot_be_are_found() {
        let (writer, reader) = pair();
        writer.write(&[1; 10]).unwrap();
        for bad in [CAPACITY as u64 + 1, u64::MAX, 1 << 63] {
            writer.memory.words().writer.tail.store(bad, Ordering::Relaxed);
            assert_eq!(
                (reader.there(), reader.read(&mut Vec::with_capacity(9), CAPACITY)),
                (Err(Corrupt), Err(Corrupt))
            );
        }
        // A tail that goes back.
        writer.memory.words().writer.tail.store(10, Ordering::Relaxed);
        reader.read(&mut Vec::with_capacity(100), CAPACITY).unwrap();
        writer.memory.words().writer.tail.store(9, Ordering::Relaxed);
        assert_eq!(reader.there(), Err(Corrupt));
        for bad in [11, 1 << 63] {
            reader.memory.words().reader.head.store(bad, Ordering::Relaxed);
            assert_eq!((writer.room(), writer.write(&[1])), (Err(Corrupt), Err(Corrupt)));
        }
    }

    #[test]
    fn nothing_is_read_that_a_writer_wrote_after_it_was_gone() {
        let (writer, reader) = pair();
        writer.write(&[1; 10]).unwrap();
        reader.finish();
        writer.write(&[2; 10]).unwrap();
        reader.finish();
        let mut into = Vec::with_capacity(100);
        assert_eq!((reader.read(&mut into, CAPACITY), reader.read(&mut into, CAPACITY)), (Ok(10), Ok(0)));
    }

    #[test]
    fn no_position_hides_that_a_writer_is_gone() {
        let (writer, reader) = pair();
        writer.memory.words().writer.tail.store(NO_END, Ordering::Relaxed);
        reader.finish();
        assert!(reader.is_finished());
        assert_eq!(reader.there(), Err(Corrupt));
    }

    #[test]
    fn who_sleeps_is_rung_for_once() {
        let (writer, reader) = pair();
        let mut into = Vec::with_capacity(CAPACITY);
        let (mut for_reader, mut for_writer) = (0, 0);
        let mut both = |bytes: &[u8]| {
            writer.send(bytes, || for_reader += 1).unwrap();
            into.clear();
            reader.recv(&mut into, CAPACITY, || for_writer += 1).unwrap();
            (for_reader, for_writer)
        };
        assert_eq!(both(&[1]), (0, 0));
        assert!(reader.doze(|| reader.there() != Ok(0)));
        writer.wait();
        assert_eq!(both(&[1]), (1, 1));
        assert_eq!(both(&[1]), (1, 1), "no more than once");
        assert!(reader.doze(|| false));
        reader.wake();
        assert_eq!(both(&[1]), (1, 1), "who is awake needs no bell");
        assert_eq!(writer.write(&[1; CAPACITY]), Ok(CAPACITY));
        assert!(!reader.doze(|| reader.there() != Ok(0)), "there is something");
        assert_eq!(writer.send(&[1], || ()), Ok(0));
        reader.wake();
        assert_eq!(both(&[]), (1, 2), "who has no room waits for some");
    }
}
