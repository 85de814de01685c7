//! Copies in and out of memory that other processes write, without a data race of ours.
//!
//! Every access is to a whole, aligned 64-bit word, as a relaxed atomic; a part of a word is written by compare and
//! swap. So two threads that copy to and from the same place, or use [`Words::word`] there, never race in the language's
//! sense, and never meet accesses of mixed sizes. Nothing is ordered: a reader may see a copy in part.
//!
//! A mapping's last page reaches beyond an odd length, so its last word is whole. What lies beyond the length reads as
//! zero and is never changed.
#![expect(unsafe_code, reason = "refers to words of a mapping as atomics")]

use core::sync::atomic::{AtomicU64, Ordering};
use std::ptr::NonNull;

const WORD: usize = size_of::<u64>();

/// A mapping as words. Offsets are in bytes; the caller has checked them.
#[derive(Clone, Copy)]
pub(super) struct Words<'a> {
    start: NonNull<u8>,
    len: usize,
    _mapping: core::marker::PhantomData<&'a ()>,
}

impl<'a> Words<'a> {
    /// # Safety
    ///
    /// `start` begins a mapping of at least `len` bytes, at a page's alignment, that lives as long as `'a`.
    pub(super) unsafe fn new(start: NonNull<u8>, len: usize) -> Words<'a> {
        Words { start, len, _mapping: core::marker::PhantomData }
    }

    /// The word with this number.
    pub(super) fn word(self, index: usize) -> &'a AtomicU64 {
        assert!(index < self.len.div_ceil(WORD), "a word within the mapping");
        // SAFETY: the word starts within the mapping, as just asserted.
        let word = unsafe { self.start.cast::<u64>().add(index) };
        // SAFETY: it is aligned and lies within the mapping's last page at the latest; all accesses of this process are
        // atomics of this size.
        unsafe { AtomicU64::from_ptr(word.as_ptr()) }
    }

    fn load(self, index: usize) -> [u8; WORD] {
        self.word(index).load(Ordering::Relaxed).to_ne_bytes()
    }

    pub(super) fn read(self, offset: usize, bytes: &mut [u8]) {
        let (mut index, skip) = (offset / WORD, offset % WORD);
        let head = bytes.len().min((WORD - skip) % WORD);
        let (first, rest) = bytes.split_at_mut(head);
        if head > 0 {
            first.copy_from_slice(&self.load(index)[skip..skip + head]);
            index += 1;
        }
        let mut whole = rest.chunks_exact_mut(WORD);
        for chunk in &mut whole {
            chunk.copy_from_slice(&self.load(index));
            index += 1;
        }
        let last = whole.into_remainder();
        if !last.is_empty() {
            last.copy_from_slice(&self.load(index)[..last.len()]);
        }
    }

    pub(super) fn write(self, offset: usize, bytes: &[u8]) {
        let (mut index, skip) = (offset / WORD, offset % WORD);
        let (first, rest) = bytes.split_at(bytes.len().min((WORD - skip) % WORD));
        if !first.is_empty() {
            self.patch(index, skip, first);
            index += 1;
        }
        let mut whole = rest.chunks_exact(WORD);
        for chunk in &mut whole {
            let mut word = [0; WORD];
            word.copy_from_slice(chunk);
            self.word(index).store(u64::from_ne_bytes(word), Ordering::Relaxed);
            index += 1;
        }
        if !whole.remainder().is_empty() {
            self.patch(index, 0, whole.remainder());
        }
    }

    /// Changes a part of a word; what others write beside it meanwhile stays.
    fn patch(self, index: usize, skip: usize, bytes: &[u8]) {
        let change = |old: u64| {
            let mut word = old.to_ne_bytes();
            word[skip..skip + bytes.len()].copy_from_slice(bytes);
            Some(u64::from_ne_bytes(word))
        };
        // The closure always gives a value.
        let _ = self.word(index).fetch_update(Ordering::Relaxed, Ordering::Relaxed, change);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_part_is_written_and_read_and_nothing_beside_it() {
        let mut memory = [0_u64; 6];
        let start = NonNull::from(&mut memory).cast();
        // SAFETY: 48 aligned bytes that outlive the view and are used through it only.
        let words = unsafe { Words::new(start, 45) };
        let all: Vec<u8> = (100..145).collect();
        for from in 0..45 {
            for until in from..45 {
                words.write(0, &all);
                let bytes: Vec<u8> = (0..(until - from) as u8).collect();
                words.write(from, &bytes);
                let mut expected = all.clone();
                expected[from..until].copy_from_slice(&bytes);
                let (mut whole, mut part) = (vec![0; 45], vec![0; until - from]);
                words.read(0, &mut whole);
                words.read(from, &mut part);
                assert_eq!((whole, part), (expected, bytes), "{from}..{until}");
            }
        }
    }
}
