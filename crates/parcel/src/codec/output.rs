//! Where an encoded value goes: a count first, memory of exactly that size then.
//!
//! Two passes beat a growing buffer: with the room known, the loop over a slice's elements becomes one copy.
//!
//! # Invariants
//! 1. `Writer::cursor <= Writer::end`, both within (or one past) one allocation that the writer borrows mutably.
//! 2. Every byte between the start and `cursor` has been written.
#![expect(
    unsafe_code,
    reason = "writes into a vector's spare capacity, which has no initialised bytes to borrow"
)]

use super::fault::Fault;
use std::marker::PhantomData;
use std::ptr;

pub(crate) trait Output {
    /// Whether this is the pass that moves descriptors, rather than the one that counts.
    const WRITES: bool;

    fn push(&mut self, byte: u8) -> Result<(), Fault>;
    fn extend(&mut self, bytes: &[u8]) -> Result<(), Fault>;

    /// Seven bits to a byte, the lowest first; the highest bit says that more follow.
    fn varint(&mut self, n: u64) -> Result<(), Fault>;
}

/// How many bytes [`Output::varint`] takes.
#[inline(always)]
fn varint_len(n: u64) -> usize {
    // One for each seven bits begun, and for 0 as for 1.
    (70 - (n | 1).leading_zeros() as usize) / 7
}

/// The first pass: counts bytes.
#[derive(Debug, Default)]
pub(crate) struct Sizer {
    pub(crate) size: usize,
}

impl Output for Sizer {
    const WRITES: bool = false;

    #[inline(always)]
    fn push(&mut self, _: u8) -> Result<(), Fault> {
        self.size += 1;
        Ok(())
    }

    #[inline(always)]
    fn extend(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.size += bytes.len();
        Ok(())
    }

    #[inline(always)]
    fn varint(&mut self, n: u64) -> Result<(), Fault> {
        self.size += varint_len(n);
        Ok(())
    }
}

/// The second pass: writes into spare capacity of a vector.
#[derive(Debug)]
pub(crate) struct Writer<'a> {
    cursor: *mut u8,
    end: *mut u8,
    memory: PhantomData<&'a mut [u8]>,
}

impl Output for Writer<'_> {
    const WRITES: bool = true;

    #[inline(always)]
    fn push(&mut self, byte: u8) -> Result<(), Fault> {
        if self.cursor == self.end {
            return Err(Fault::new(GREW));
        }
        // SAFETY: cursor < end, hence inside the borrowed allocation (invariant 1).
        unsafe { self.cursor.write(byte) };
        // SAFETY: as above: one further is at most `end`.
        self.cursor = unsafe { self.cursor.add(1) };
        Ok(())
    }

    #[inline(always)]
    fn extend(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        if bytes.len() > self.end as usize - self.cursor as usize {
            return Err(Fault::new(GREW));
        }
        // SAFETY: the check above leaves room for `bytes.len()` bytes from `cursor`, and a shared slice
        // cannot overlap memory that we borrow mutably.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.cursor, bytes.len()) };
        // SAFETY: as above: at most `end`.
        self.cursor = unsafe { self.cursor.add(bytes.len()) };
        Ok(())
    }

    #[inline(always)]
    fn varint(&mut self, mut n: u64) -> Result<(), Fault> {
        while n >= 0x80 {
            self.push(n as u8 | 0x80)?;
            n >>= 7;
        }
        self.push(n as u8)
    }
}

const LARGE: usize = 64 << 10;
const BEHIND: usize = 64;
const GREW: &str = "its Serialize implementation wrote more on the second pass than on the first";

/// Appends what `write` puts into a [`Writer`] over `size` bytes of room; on an error `into` is unchanged.
#[inline]
pub(crate) fn append<R>(
    into: &mut Vec<u8>,
    size: usize,
    write: impl FnOnce(Writer<'_>) -> Result<(Writer<'_>, R), Fault>,
) -> Result<R, Fault> {
    // A little that comes behind a large value is not to have it copied.
    into.reserve(if size > LARGE { size + BEHIND } else { size });
    let start = into.spare_capacity_mut().as_mut_ptr().cast::<u8>();
    // SAFETY: `reserve` made room for `size` bytes or more behind the vector's length.
    let end = unsafe { start.add(size) };
    let (writer, result) = write(Writer { cursor: start, end, memory: PhantomData })?;
    let written = writer.cursor as usize - start as usize;
    // SAFETY: `written <= size` bytes behind the length are within the capacity and initialised (invariant 2);
    // the writer cannot have been swapped for another: its type is private and only one exists here.
    unsafe { into.set_len(into.len() + written) };
    Ok(result)
}
