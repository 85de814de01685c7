//! The ends of a row of bytes: one writes, the other reads, each sleeps where it has nothing to do, and neither trusts the other.
//! Where the bytes lie is left to [`Memory`], so that the model (`tests/loom.rs`) has these very ends.
//!
//! # Invariants
//! 1. Each end has its own position in memory of its own. Of the other's it uses what it has read once and compared: the bytes
//!    between them are at most the ring's.
//! 2. Where a position lies in the ring counts from `origin`, which the writer moves to its position whenever it finds the row
//!    empty, before the commit that follows. So it does not change while bytes lie there, who has seen the commit sees it, and
//!    small frames always lie at the ring's start: the rest of its memory is taken for large ones only.
//! 3. One thread at a time writes by a `Writer`, one at a time reads by a `Reader`: who sends, and who reads, of those who share
//!    a connection. A second one would mix up bytes, and reach no other memory.
//! 4. Who sleeps sets its flag, then looks; who commits or gives room back does that, then looks at the flag. Between the two
//!    steps both have a full fence.

use super::bug::{Bug, planted};
use procession_sys::sync::{AtomicU32, AtomicU64, Ordering, fence};
// What is no other process's needs no model.
use std::sync::atomic::AtomicU64 as OwnU64;

/// A position that cannot be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Corrupt;

/// Lines of 128 bytes, since processors fetch lines in pairs.
#[derive(Default)]
#[repr(C, align(128))]
pub(crate) struct WriterWords {
    /// Bytes written since the row was made: the store of this word commits them.
    pub(crate) tail: AtomicU64,
    /// The writer waits for room, and wants to hear of some. The reader clears it when it rings.
    pub(crate) waits: AtomicU32,
    /// The position of the ring's first byte.
    pub(crate) origin: AtomicU64,
}

#[derive(Default)]
#[repr(C, align(128))]
pub(crate) struct ReaderWords {
    /// Bytes that were copied out since the row was made.
    pub(crate) head: AtomicU64,
    /// The reader sleeps, or is about to. The writer clears it when it rings.
    pub(crate) sleeps: AtomicU32,
}

#[derive(Default)]
#[repr(C)]
pub(crate) struct Words {
    pub(crate) writer: WriterWords,
    pub(crate) reader: ReaderWords,
}

/// Where a row lies.
pub(crate) trait Memory {
    /// How many bytes the ring has, a power of two.
    const CAPACITY: usize;

    fn words(&self) -> &Words;

    /// Copies bytes, at most the capacity, to a place in the ring, and on from its start.
    fn put(&self, at: usize, bytes: &[u8]);

    /// Appends `len` bytes, at most the capacity, from a place in the ring.
    fn take(&self, at: usize, len: usize, into: &mut Vec<u8>);
}

/// The place of a position in the ring: whatever the origin is, within it.
fn place<M: Memory>(memory: &M, position: u64) -> usize {
    let origin = memory.words().writer.origin.load(Ordering::Relaxed);
    (position.wrapping_sub(origin) & (M::CAPACITY as u64 - 1)) as usize
}

/// The ordering, or none in a model with this mistake.
fn ordering(ordering: Ordering, without: Bug) -> Ordering {
    if planted(without) { Ordering::Relaxed } else { ordering }
}

/// The end that writes.
pub(crate) struct Writer<M> {
    pub(crate) memory: M,
    tail: OwnU64,
}

impl<M: Memory> Writer<M> {
    pub(crate) fn new(memory: M) -> Writer<M> {
        Writer { memory, tail: OwnU64::new(0) }
    }

    /// For how many bytes there is room.
    pub(crate) fn room(&self) -> Result<usize, Corrupt> {
        // Acquire: the reader has copied out what it gives back.
        let head = self.memory.words().reader.head.load(ordering(Ordering::Acquire, Bug::RelaxedRoom));
        let used = self.tail.load(Ordering::Relaxed).wrapping_sub(head);
        if used > M::CAPACITY as u64 { Err(Corrupt) } else { Ok(M::CAPACITY - used as usize) }
    }

    /// Commits as many of the bytes as there is room for.
    pub(crate) fn write(&self, bytes: &[u8]) -> Result<usize, Corrupt> {
        let room = self.room()?;
        let len = room.min(bytes.len());
        let words = &self.memory.words().writer;
        let before = self.tail.load(Ordering::Relaxed);
        let after = before.wrapping_add(len as u64);
        let empty = room == M::CAPACITY;
        if empty && !planted(Bug::OriginAfterCommit) {
            // Nobody reads there: this is seen with the commit, or after it.
            words.origin.store(before, Ordering::Relaxed);
        }
        // Release: who sees this tail sees the bytes before it.
        let commit = || words.tail.store(after, ordering(Ordering::Release, Bug::RelaxedCommit));
        if planted(Bug::CommitBeforeCopy) {
            commit();
        }
        self.memory.put(place(&self.memory, before), &bytes[..len]);
        self.tail.store(after, Ordering::Relaxed);
        commit();
        if empty && planted(Bug::OriginAfterCommit) {
            words.origin.store(before, Ordering::Relaxed);
        }
        Ok(len)
    }

    /// The same; where there is no room it is waited for ([`wait`](Writer::wait)), and if the reader sleeps it is rung for.
    pub(crate) fn send(&self, bytes: &[u8], ring: impl FnOnce()) -> Result<usize, Corrupt> {
        let mut taken = self.write(bytes)?;
        if taken == 0 {
            self.wait();
            if !planted(Bug::NoSecondTry) {
                taken = self.write(bytes)?;
            }
        }
        if taken > 0 {
            ring_for(&self.memory.words().reader.sleeps, ring);
        }
        Ok(taken)
    }

    /// How many bytes were committed.
    pub(crate) fn written(&self) -> u64 {
        self.tail.load(Ordering::Relaxed)
    }

    /// Whether the reader may have copied out what lies before `end`, as it says.
    pub(crate) fn may_be_read(&self, end: u64) -> bool {
        let head = self.memory.words().reader.head.load(Ordering::Acquire);
        let nonsense = self.written().wrapping_sub(head) > M::CAPACITY as u64;
        nonsense || end <= head
    }

    /// Says that room is waited for. It is to be looked for after this.
    pub(crate) fn wait(&self) {
        announce(&self.memory.words().writer.waits);
    }
}

/// The end that reads.
pub(crate) struct Reader<M> {
    pub(crate) memory: M,
    head: OwnU64,
    /// Behind what the writer had written when it was known to be gone.
    end: OwnU64,
}

/// No writer gets there: at 100 GB/s it would take years.
pub(crate) const NO_END: u64 = u64::MAX;

impl<M: Memory> Reader<M> {
    pub(crate) fn new(memory: M) -> Reader<M> {
        Reader { memory, head: OwnU64::new(0), end: OwnU64::new(NO_END) }
    }

    /// How many bytes are there.
    pub(crate) fn there(&self) -> Result<usize, Corrupt> {
        let mut tail = self.end.load(Ordering::Acquire);
        if tail == NO_END {
            // Acquire: pairs with the commit.
            tail = self.memory.words().writer.tail.load(ordering(Ordering::Acquire, Bug::RelaxedLook));
        }
        let there = tail.wrapping_sub(self.head.load(Ordering::Relaxed));
        if there > M::CAPACITY as u64 { Err(Corrupt) } else { Ok(there as usize) }
    }

    /// Appends what is there, as far as `into` has room and at most `most` bytes, and gives its place back.
    pub(crate) fn read(&self, into: &mut Vec<u8>, most: usize) -> Result<usize, Corrupt> {
        let len = self.there()?.min(into.capacity() - into.len()).min(most);
        if len > 0 {
            let before = self.head.load(Ordering::Relaxed);
            let after = before.wrapping_add(len as u64);
            // Release: what was copied out is not read again.
            let give_back = || {
                let head = &self.memory.words().reader.head;
                head.store(after, ordering(Ordering::Release, Bug::RelaxedHead));
            };
            if planted(Bug::HeadBeforeCopy) {
                give_back();
            }
            self.memory.take(place(&self.memory, before), len, into);
            self.head.store(after, Ordering::Relaxed);
            give_back();
        }
        Ok(len)
    }

    /// The same; if something was read, and the writer waits for room, it is rung for.
    pub(crate) fn recv(
        &self,
        into: &mut Vec<u8>,
        most: usize,
        ring: impl FnOnce(),
    ) -> Result<usize, Corrupt> {
        let came = self.read(into, most)?;
        if came > 0 {
            ring_for(&self.memory.words().writer.waits, ring);
        }
        Ok(came)
    }

    /// The writer is gone: what it has written until now is read, and nothing after it.
    pub(crate) fn finish(&self) {
        // Whatever stands there, it is an end.
        let tail = self.memory.words().writer.tail.load(Ordering::Acquire).min(NO_END - 1);
        let tail = if planted(Bug::EndBeforeLook) { self.head.load(Ordering::Relaxed) } else { tail };
        let _ = self.end.compare_exchange(NO_END, tail, Ordering::Release, Ordering::Relaxed);
    }

    /// Nothing is read any more, be it committed.
    pub(crate) fn stop(&self) {
        self.end.store(self.head.load(Ordering::Relaxed), Ordering::Release);
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.end.load(Ordering::Acquire) != NO_END
    }

    /// About to sleep: whether `look`, which looks at the row, finds nothing to do.
    pub(crate) fn doze(&self, look: impl Fn() -> bool) -> bool {
        if planted(Bug::LookBeforeFlag) {
            let found = look();
            announce(&self.memory.words().reader.sleeps);
            return !found;
        }
        announce(&self.memory.words().reader.sleeps);
        !look()
    }

    /// No bell is needed meanwhile.
    pub(crate) fn wake(&self) {
        self.memory.words().reader.sleeps.store(0, Ordering::Relaxed);
    }
}

/// The state is to be looked at after this: the fence makes either that look see a commit, or who commits see the flag.
fn announce(flag: &AtomicU32) {
    // An exchange, though a store would do: the model does not know that nothing comes between what the exchange of who rings has
    // read and what it writes, and would let that one undo this. What follows is a sleep, most times: it costs nothing.
    flag.swap(1, Ordering::AcqRel);
    if !planted(Bug::NoFenceBeforeSleep) {
        fence(Ordering::SeqCst);
    }
}

/// As said there, for who has committed. Who sleeps is rung for once.
pub(crate) fn ring_for(flag: &AtomicU32, ring: impl FnOnce()) {
    if !planted(Bug::NoFenceBeforeBell) {
        fence(Ordering::SeqCst);
    }
    if flag.load(Ordering::Relaxed) == 0 {
        return;
    }
    if planted(Bug::FlagClearedAfterBell) {
        ring();
        flag.store(0, Ordering::Relaxed);
    } else if flag.swap(0, Ordering::AcqRel) != 0 {
        ring();
    }
}
