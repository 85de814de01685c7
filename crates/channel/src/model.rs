//! The algorithm for the model checker: its parts, memory that sees every access, and mistakes to plant.
#![expect(unsafe_code, reason = "the model's cells hand out pointers")]

pub use crate::{
    bell::BellWords,
    bug::{Bug, plant},
    lane::{
        consumer::Consumer,
        producer::Producer,
        words::{Memory, Words},
    },
};
use loom::{cell::UnsafeCell, sync::Arc};

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
