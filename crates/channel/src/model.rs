//! The algorithm for the model checker: its parts, memory that sees every access, and mistakes to plant.
#![expect(unsafe_code, reason = "the model's cells hand out pointers")]

use crate::queue::{
    Trouble,
    words::{Found, Memory as QueueMemory, NoLock, RECORDS, Record, Shape, Side, Words as QueueWords},
};
pub use crate::{
    bell::BellWords,
    bug::{Bug, plant},
    lane::{
        consumer::Consumer,
        producer::Producer,
        words::{Memory, Words},
    },
    queue::{
        Policy,
        gate::{ALL, Gate},
        ring::{Refused, Ring},
        take::{NotTaken, Taken},
        words::Patience,
    },
};
use loom::{
    cell::UnsafeCell,
    sync::{Arc, Condvar, Mutex},
};
use procession_sys::sync::AtomicU32;

/// A lane's memory in the model. Each word of the ring is a cell of its own, so that an access to it by one end that
/// is not ordered after one by the other end fails the model.
#[derive(Debug)]
pub struct Cells {
    words: Words,
    ring: Vec<UnsafeCell<u64>>,
}

impl Cells {
    /// A fresh lane.
    ///
    /// # Panics
    ///
    /// If the capacity is not a power of two, or less than 16.
    #[must_use]
    pub fn new(capacity: usize) -> Arc<Cells> {
        assert!(capacity.is_power_of_two() && capacity >= 16, "a ring of two units at least");
        let ring = (0..capacity / 8).map(|_| UnsafeCell::new(0)).collect();
        Arc::new(Cells { words: Words::default(), ring })
    }

    fn cell(&self, at: u64) -> &UnsafeCell<u64> {
        &self.ring[(at / 8) as usize % self.ring.len()]
    }
}

impl Memory for Arc<Cells> {
    fn words(&self) -> &Words {
        &self.words
    }

    fn receiver_bell(&self) -> &BellWords {
        &self.words.receiver_bell
    }

    fn sender_bell(&self) -> &BellWords {
        &self.words.sender_bell
    }

    fn capacity(&self) -> u64 {
        self.ring.len() as u64 * 8
    }

    fn load(&self, at: u64) -> u64 {
        self.cell(at).with(|cell| {
            // SAFETY: the model fails if this is not ordered after the last write.
            unsafe { cell.read() }
        })
    }

    fn store(&self, at: u64, word: u64) {
        self.cell(at).with_mut(|cell| {
            // SAFETY: the model fails if this is not ordered after all accesses before.
            unsafe { cell.write(word) }
        });
    }

    fn read(&self, at: u64, len: usize, into: &mut Vec<u8>) {
        for at in at..at + len as u64 {
            into.push(self.load(at).to_le_bytes()[(at % 8) as usize]);
        }
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        for (at, byte) in (at..).zip(bytes) {
            let mut word = self.load(at).to_le_bytes();
            word[(at % 8) as usize] = *byte;
            self.store(at, u64::from_le_bytes(word));
        }
    }

    fn discard(&self, _: u64, _: u64) {}
}

/// A queue's memory in the model. Each word of a chunk is a cell of its own, so that an access to it that is not ordered
/// after the one before it fails the model. Nobody dies.
#[derive(Debug)]
pub struct QueueCells {
    shape: Shape,
    words: QueueWords,
    locks: [(Mutex<bool>, Condvar); 2],
    records: Vec<Record>,
    map: Vec<AtomicU32>,
    free: [Vec<AtomicU32>; 2],
    chunks: Vec<Vec<UnsafeCell<u64>>>,
}

impl QueueCells {
    /// A fresh queue with chunks of 16 bytes.
    #[must_use]
    pub fn new(chunks: u32, max_items: u64, policy: Policy) -> Arc<QueueCells> {
        let shape = Shape {
            chunk_shift: 4,
            chunks,
            max_items,
            max_bytes: u64::MAX,
            policy,
            joinable: false,
            heap: false,
        };
        let words = |count: u64| (0..count).map(|_| AtomicU32::new(0)).collect();
        Arc::new(QueueCells {
            shape,
            words: QueueWords::default(),
            locks: [(); 2].map(|()| (Mutex::new(false), Condvar::new())),
            records: (0..RECORDS).map(|_| Record::default()).collect(),
            map: words(shape.map_len()),
            free: [words(chunks.into()), words(chunks.into())],
            chunks: (0..chunks).map(|_| (0..2).map(|_| UnsafeCell::new(0)).collect()).collect(),
        })
    }

    fn cell(&self, chunk: u32, at: u64) -> &UnsafeCell<u64> {
        &self.chunks[chunk as usize][at as usize / 8]
    }

    fn side(&self, side: Side) -> &(Mutex<bool>, Condvar) {
        &self.locks[usize::from(side == Side::Consumers)]
    }

    fn take(&self, side: Side, wait: bool) -> Result<Found, NoLock> {
        let (mutex, free) = self.side(side);
        let mut locked = mutex.lock().map_err(|_| NoLock::Held)?;
        while *locked {
            if !wait {
                return Err(NoLock::Held);
            }
            locked = free.wait(locked).map_err(|_| NoLock::Held)?;
        }
        *locked = true;
        Ok(Found::Clean)
    }
}

/// The frame of an item of one byte.
#[must_use]
pub fn frame(item: u8) -> [u8; 16] {
    let mut frame = [0; 16];
    (frame[0], frame[8]) = (1, item);
    frame
}

impl QueueMemory for Arc<QueueCells> {
    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn words(&self) -> &QueueWords {
        &self.words
    }

    fn record(&self, index: u32) -> &Record {
        &self.records[index as usize]
    }

    fn map(&self, index: u64) -> &AtomicU32 {
        &self.map[index as usize]
    }

    fn free(&self, warm: bool, index: u32) -> &AtomicU32 {
        &self.free[usize::from(warm)][index as usize]
    }

    fn lock(&self, side: Side, _: Patience) -> Result<Found, NoLock> {
        self.take(side, true)
    }

    fn try_lock(&self, side: Side) -> Result<Found, NoLock> {
        self.take(side, false)
    }

    fn repaired(&self, _: Side) {}

    fn unlock(&self, side: Side) {
        let (mutex, free) = self.side(side);
        if let Ok(mut locked) = mutex.lock() {
            *locked = false;
        }
        free.notify_one();
    }

    fn is_orphaned(&self, _: Side) -> bool {
        false
    }

    fn member(&self) -> Result<u16, Trouble> {
        Ok(0)
    }

    fn is_dead(&self, _: u16) -> bool {
        false
    }

    fn pid_of(&self, _: u16) -> u32 {
        0
    }

    fn load(&self, chunk: u32, at: u64) -> u64 {
        self.cell(chunk, at).with(|cell| {
            // SAFETY: the model fails if this is not ordered after the last write.
            unsafe { cell.read() }
        })
    }

    fn read(&self, chunk: u32, at: u64, len: usize, into: &mut Vec<u8>) {
        for at in at..at + len as u64 {
            into.push(QueueMemory::load(self, chunk, at).to_le_bytes()[(at % 8) as usize]);
        }
    }

    fn write(&self, chunk: u32, at: u64, bytes: &[u8]) {
        // Frames are whole words.
        for (at, word) in (at..).step_by(8).zip(bytes.chunks_exact(8)) {
            let word = u64::from_le_bytes(word.try_into().unwrap_or_default());
            self.cell(chunk, at).with_mut(|cell| {
                // SAFETY: the model fails if this is not ordered after all accesses before.
                unsafe { cell.write(word) }
            });
        }
    }

    fn reserve(&self, _: u32) -> Result<(), Trouble> {
        Ok(())
    }

    fn reserve_record(&self, _: u32) -> Result<(), Trouble> {
        Ok(())
    }

    fn discard(&self, _: u32) {}

    fn revoke(&self, _: &[u64]) {}
}
