//! A row of bytes in shared memory: one end writes, the other reads, and neither trusts the other.
//!
//! # Invariants
//! 1. The words and the ring lie within the segment, which `Place` keeps mapped; where is fixed, and comes from nobody.
//! 2. The words are accessed as atomics only; the ring by copies from and to raw pointers, never through a slice. A peer may
//!    write there at any time: what was copied is then any bytes, in memory of our own, and is checked there.
//! 3. Each end has its own position in memory of its own. Of the other's it uses what it has read once and compared: the bytes
//!    between them are at most the ring's.
//! 4. Where a position lies in the ring counts from `origin`, which the writer moves to its position whenever it finds the row
//!    empty, before the commit that follows. So it does not change while bytes lie there, who has seen the commit sees it, and
//!    small frames always lie at the ring's start: the rest of its memory is taken for large ones only.
//! 5. One thread at a time writes by a `Writer`, one at a time reads by a `Reader`: who sends, and who reads, of those who share
//!    a connection. A second one would mix up bytes, and reach no other memory.
#![expect(unsafe_code, reason = "the one place where the lanes' memory is reached through pointers")]

use procession_shm::{Kind, Segment, signature};
use std::{
    ptr::NonNull,
    sync::atomic::{AtomicU32, AtomicU64, Ordering, compiler_fence, fence},
};

/// The bytes that may lie in a row. Larger frames go through it in parts.
pub(crate) const CAPACITY: usize = 512 << 10;

/// Lines of 128 bytes, since processors fetch lines in pairs.
#[repr(C, align(128))]
struct WriterWords {
    /// Bytes written since the row was made: the store of this word commits them.
    tail: AtomicU64,
    /// The writer waits for room, and wants to hear of some. The reader clears it when it rings.
    waits: AtomicU32,
    /// The position of the ring's first byte.
    origin: AtomicU64,
}

#[repr(C, align(128))]
struct ReaderWords {
    /// Bytes that were copied out since the row was made.
    head: AtomicU64,
    /// The reader sleeps, or is about to. The writer clears it when it rings.
    sleeps: AtomicU32,
}

#[repr(C)]
struct Words {
    writer: WriterWords,
    reader: ReaderWords,
}

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

/// A position that cannot be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Corrupt;

struct Place {
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
    fn new(segment: &Segment, second: bool) -> Option<Place> {
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

    fn words(&self) -> &Words {
        // SAFETY: invariant 1; aligned, as the payload is to a page and a row to 128 bytes; all fields are atomics.
        unsafe { self.words.as_ref() }
    }

    /// The place of a position in the ring, and how many bytes follow it there.
    fn at(&self, position: u64) -> (NonNull<u8>, usize) {
        // Whatever it is, the place is within the ring.
        let origin = self.words().writer.origin.load(Ordering::Relaxed);
        let offset = (position.wrapping_sub(origin) & (CAPACITY as u64 - 1)) as usize;
        // SAFETY: the remainder by the capacity is an offset within the ring.
        (unsafe { self.ring.add(offset) }, CAPACITY - offset)
    }

    /// Copies bytes, at most the capacity, to a position.
    fn put(&self, position: u64, bytes: &[u8]) {
        let (to, left) = self.at(position);
        let (first, second) = bytes.split_at(bytes.len().min(left));
        // SAFETY: `first` ends within the ring, and no slice of ours lies there (invariant 2).
        unsafe { to.as_ptr().copy_from_nonoverlapping(first.as_ptr(), first.len()) };
        let second = &second[..second.len().min(CAPACITY - first.len())];
        // SAFETY: what is left is no longer than the ring, from whose start it goes.
        unsafe { self.ring.as_ptr().copy_from_nonoverlapping(second.as_ptr(), second.len()) };
    }

    /// Appends `len` bytes, at most the capacity, from a position.
    fn take(&self, position: u64, len: usize, into: &mut Vec<u8>) {
        let len = len.min(CAPACITY);
        into.reserve(len);
        let (from, left) = self.at(position);
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

/// The end that writes.
pub(super) struct Writer {
    place: Place,
    tail: AtomicU64,
}

impl Writer {
    pub(super) fn new(segment: &Segment, second: bool) -> Option<Writer> {
        Some(Writer { place: Place::new(segment, second)?, tail: AtomicU64::new(0) })
    }

    /// For how many bytes there is room.
    pub(super) fn room(&self) -> Result<usize, Corrupt> {
        // Acquire: the reader has copied out what it gives back.
        let head = self.place.words().reader.head.load(Ordering::Acquire);
        let used = self.tail.load(Ordering::Relaxed).wrapping_sub(head);
        if used > CAPACITY as u64 { Err(Corrupt) } else { Ok(CAPACITY - used as usize) }
    }

    /// Commits as many of the bytes as there is room for.
    pub(super) fn write(&self, bytes: &[u8]) -> Result<usize, Corrupt> {
        let room = self.room()?;
        let len = room.min(bytes.len());
        let tail = self.tail.load(Ordering::Relaxed);
        if room == CAPACITY {
            // Nobody reads there: this is seen with the commit, or after it.
            self.place.words().writer.origin.store(tail, Ordering::Relaxed);
        }
        self.place.put(tail, &bytes[..len]);
        let tail = tail.wrapping_add(len as u64);
        self.tail.store(tail, Ordering::Relaxed);
        // Release: who sees this tail sees the bytes before it.
        self.place.words().writer.tail.store(tail, Ordering::Release);
        Ok(len)
    }

    /// How many bytes were committed.
    pub(super) fn written(&self) -> u64 {
        self.tail.load(Ordering::Relaxed)
    }

    /// Whether the reader may have copied out what lies before `end`, as it says.
    pub(super) fn may_be_read(&self, end: u64) -> bool {
        let head = self.place.words().reader.head.load(Ordering::Acquire);
        let nonsense = self.written().wrapping_sub(head) > CAPACITY as u64;
        nonsense || end <= head
    }

    /// Whether the reader is to be rung for: after a commit. It is told once.
    pub(super) fn reader_sleeps(&self) -> bool {
        rung_for(&self.place.words().reader.sleeps)
    }

    /// Says that room is waited for. It is to be looked for after this.
    pub(super) fn wait(&self) {
        announce(&self.place.words().writer.waits);
    }
}

/// The end that reads.
pub(super) struct Reader {
    place: Place,
    head: AtomicU64,
    /// Behind what the writer had written when it was known to be gone.
    end: AtomicU64,
}

/// No writer gets there: at 100 GB/s it would take years.
const NO_END: u64 = u64::MAX;

impl Reader {
    pub(super) fn new(segment: &Segment, second: bool) -> Option<Reader> {
        let place = Place::new(segment, second)?;
        Some(Reader { place, head: AtomicU64::new(0), end: AtomicU64::new(NO_END) })
    }

    /// How many bytes are there.
    pub(super) fn there(&self) -> Result<usize, Corrupt> {
        let mut tail = self.end.load(Ordering::Acquire);
        if tail == NO_END {
            // Acquire: pairs with the commit.
            tail = self.place.words().writer.tail.load(Ordering::Acquire);
        }
        let there = tail.wrapping_sub(self.head.load(Ordering::Relaxed));
        if there > CAPACITY as u64 { Err(Corrupt) } else { Ok(there as usize) }
    }

    /// Appends what is there, as far as `into` has room, and gives its place back.
    pub(super) fn read(&self, into: &mut Vec<u8>) -> Result<usize, Corrupt> {
        let len = self.there()?.min(into.capacity() - into.len());
        if len > 0 {
            let head = self.head.load(Ordering::Relaxed);
            self.place.take(head, len, into);
            let head = head.wrapping_add(len as u64);
            self.head.store(head, Ordering::Relaxed);
            // Release: what was copied out is not read again.
            self.place.words().reader.head.store(head, Ordering::Release);
        }
        Ok(len)
    }

    /// The writer is gone: what it has written until now is read, and nothing after it.
    pub(super) fn finish(&self) {
        // Whatever stands there, it is an end.
        let tail = self.place.words().writer.tail.load(Ordering::Acquire).min(NO_END - 1);
        let _ = self.end.compare_exchange(NO_END, tail, Ordering::Release, Ordering::Relaxed);
    }

    /// Nothing is read any more, be it committed.
    pub(super) fn stop(&self) {
        self.end.store(self.head.load(Ordering::Relaxed), Ordering::Release);
    }

    pub(super) fn is_finished(&self) -> bool {
        self.end.load(Ordering::Acquire) != NO_END
    }

    /// Whether the writer is to be rung for: after a read. It is told once.
    pub(super) fn writer_waits(&self) -> bool {
        rung_for(&self.place.words().writer.waits)
    }

    /// Says that the reader is about to sleep. The row is to be looked at after this.
    pub(super) fn doze(&self) {
        announce(&self.place.words().reader.sleeps);
    }

    /// No bell is needed meanwhile.
    pub(super) fn wake(&self) {
        self.place.words().reader.sleeps.store(0, Ordering::Relaxed);
    }
}

/// The state is to be looked at after this: the fence makes either that look see a commit, or who commits see the flag.
fn announce(flag: &AtomicU32) {
    flag.store(1, Ordering::Relaxed);
    fence(Ordering::SeqCst);
}

/// As said there, for who has committed.
fn rung_for(flag: &AtomicU32) -> bool {
    fence(Ordering::SeqCst);
    flag.load(Ordering::Relaxed) != 0 && flag.swap(0, Ordering::AcqRel) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Writer, Reader) {
        let segment = Segment::anonymous(KIND, SIZE).unwrap();
        (Writer::new(&segment, false).unwrap(), Reader::new(&segment, false).unwrap())
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
            reader.read(&mut into).unwrap();
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
        assert_eq!(reader.read(&mut into), Ok(CAPACITY));
        assert_eq!(reader.read(&mut into), Ok(0));
        assert_eq!(writer.write(&[1; 9]), Ok(9));
    }

    #[test]
    fn positions_that_cannot_be_are_found() {
        let (writer, reader) = pair();
        writer.write(&[1; 10]).unwrap();
        for bad in [CAPACITY as u64 + 1, u64::MAX, 1 << 63] {
            writer.place.words().writer.tail.store(bad, Ordering::Relaxed);
            assert_eq!(
                (reader.there(), reader.read(&mut Vec::with_capacity(9))),
                (Err(Corrupt), Err(Corrupt))
            );
        }
        // A tail that goes back.
        writer.place.words().writer.tail.store(10, Ordering::Relaxed);
        reader.read(&mut Vec::with_capacity(100)).unwrap();
        writer.place.words().writer.tail.store(9, Ordering::Relaxed);
        assert_eq!(reader.there(), Err(Corrupt));
        for bad in [11, 1 << 63] {
            reader.place.words().reader.head.store(bad, Ordering::Relaxed);
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
        assert_eq!((reader.read(&mut into), reader.read(&mut into)), (Ok(10), Ok(0)));
    }

    #[test]
    fn no_position_hides_that_a_writer_is_gone() {
        let (writer, reader) = pair();
        writer.place.words().writer.tail.store(NO_END, Ordering::Relaxed);
        reader.finish();
        assert!(reader.is_finished());
        assert_eq!(reader.there(), Err(Corrupt));
    }

    #[test]
    fn who_sleeps_is_told_of_once() {
        let (writer, reader) = pair();
        assert!(!writer.reader_sleeps() && !reader.writer_waits());
        reader.doze();
        writer.wait();
        assert!(writer.reader_sleeps() && !writer.reader_sleeps());
        assert!(reader.writer_waits() && !reader.writer_waits());
        reader.doze();
        reader.wake();
        assert!(!writer.reader_sleeps());
    }
}
