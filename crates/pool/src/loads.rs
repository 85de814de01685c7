//! Blocks of a shared heap in arguments and results: by reference, whatever their size.
//!
//! A pool on a heap is one of the heap's rings ([`HeapRing`]), of which this process and each worker has an end. An argument
//! with blocks is a message of that ring, with a token of its own, and so is a result; the lanes carry the bytes. A message's
//! *load* is the blocks that are in it. The record of an item says them by name behind the bytes, so that whoever has the
//! record can free what nobody took, at a cost that does not depend on the size of the heap.
//!
//! | the end of a record's content | |
//! |---|---|
//! | `0` | nothing travels along |
//! | names (`u64` each), token (`u64`), number of names (`u32`), `1` | a load |
//! | the same, `2` | it travels with a later copy of the record |
//!
//! # Who has the blocks of an item
//!
//! | the item is | blocks with one owner | of read-only ones, a slot of |
//! |---|---|---|
//! | encoded, waiting, or in a lane | the argument's message | the argument's message |
//! | being decoded by a worker | one by one the worker's | both |
//! | running | the worker's, changed or freed | both |
//! | being answered: noted, then departed | the worker's, then the result's message | likewise |
//! | committed to the results lane, or handed out undecoded | the result's message | the result's message |
//! | decoded here | this process's | this process |
//!
//! # Protocol
//!
//! * Encode an argument (in the caller, under no lock): encode, depart. From here on the record has the load. Where it fails,
//!   the blocks are back in their handles.
//! * A worker decodes: it takes each block with one owner, and becomes another holder of each read-only one, whose slot of the
//!   message stays, so that the item can be tried again. It encodes the value, **notes** the result's token in its control
//!   words, departs, and commits the record to its lane.
//! * The front keeps an argument's record until its task is settled as a whole, and then lets go of it: what is in the message
//!   is freed, which are the slots of read-only blocks, and what a worker did not come to. Of a copy that it makes for another
//!   try or another worker, the older record says so ([`MOVED`]): a load has one record.
//! * An item is tried again only if all of its argument's load is there ([`Loads::is_whole`]): a worker that decoded has taken
//!   the blocks with one owner, and whatever it did with them cannot be undone. So such an item fails as if it had no retries
//!   left. One with read-only blocks is tried again like any other.
//! * A result's record is let go of when it was decoded, whether that failed or not, and when it is dropped undecoded.
//!
//! # Invariants
//!
//! 1. A load is freed by whoever swaps its word: a decoder, or who lets go. So it is freed once, whoever comes first.
//! 2. A message that has blocks is named by a record here, a record in a lane, or the note of a worker.
//! 3. A worker notes before it departs, and departs one result at a time.
//!
//! # When a process dies
//!
//! * A worker before it decodes: the load is in the argument's message; the item goes elsewhere with it. While it decodes or
//!   runs: what it took is a dead process's, which the sweep of the heap after each worker's end frees; the rest goes with the
//!   record. After the note: unless the last result that it committed has that token, the message is revoked. After the
//!   commit: the result counts.
//! * A worker whose lanes are damaged: what it committed and nobody could read is freed with the pool's end.
//! * This process: its workers die with it. Nobody has an end of the ring then, and the next sweep of whoever has the heap frees
//!   everything.
//! * The pool's end is no death, and the same: the ring is let go of, and the heap swept. What user code left behind by a panic in
//!   the middle of an encoding is freed there too.

use crate::{TaskError, records};
use procession_parcel::{Erased, Outcome, carrier::Carrier, codec, function::Carrying};
use procession_shm::{Heap, HeapRing, Lending, Plain, SharedVec};
use procession_sys::crash_point;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    cell::RefCell,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// The last byte of a record's content.
const NONE: u8 = 0;
const LOADED: u8 = 1;
const MOVED: u8 = 2;
/// How many idle ends of the ring are kept.
const SPARE: usize = 16;

/// The bytes of a record's content, and its load.
pub(crate) struct Content<'a> {
    bytes: &'a [u8],
    load: Option<Load<'a>>,
}

/// A message and the names of what is in it.
#[derive(Clone, Copy)]
pub(crate) struct Load<'a> {
    pub(crate) token: u64,
    names: &'a [u8],
}

impl Load<'_> {
    fn names(&self) -> impl Iterator<Item = u64> + '_ {
        self.names.chunks_exact(8).filter_map(|name| name.try_into().ok()).map(u64::from_le_bytes)
    }
}

/// Takes a record's content apart. `None` for what no pool on a heap writes.
pub(crate) fn split(content: &[u8]) -> Option<Content<'_>> {
    let (&flag, rest) = content.split_last()?;
    if flag == NONE {
        return Some(Content { bytes: rest, load: None });
    }
    let (rest, count) = rest.split_last_chunk()?;
    let (rest, token) = rest.split_last_chunk()?;
    let names = (u32::from_le_bytes(*count) as usize).checked_mul(8)?;
    let (bytes, names) = rest.split_at(rest.len().checked_sub(names)?);
    let load = Load { token: u64::from_le_bytes(*token), names };
    Some(Content { bytes, load: (flag == LOADED).then_some(load) })
}

/// The token of a record's content that brings something along.
pub(crate) fn token(content: &[u8]) -> Option<u64> {
    Some(split(content)?.load?.token)
}

/// Says of the records in `records` that their loads travel with copies of them.
pub(crate) fn disown(mut records: &mut [u8]) {
    while let Some((content, _)) = records::split(records) {
        let end = records::PREFIX + content.len();
        if let Some(flag) = records[..end].last_mut().filter(|flag| **flag == LOADED) {
            *flag = MOVED;
        }
        records = &mut records[end..];
    }
}

/// Has the message depart that `ring` packs, and writes behind its bytes what is in it.
fn depart(ring: &HeapRing, note: impl FnOnce(u64), bytes: &mut Vec<u8>) -> Result<(), String> {
    let Some(token) = ring.token() else {
        bytes.push(NONE);
        return Ok(());
    };
    note(token);
    crash_point!("pool.load.noted");
    ring.depart().map_err(|error| error.to_string())?;
    crash_point!("pool.load.departed");
    let mut count = 0_u32;
    ring.names(&mut |name| {
        bytes.extend_from_slice(&name.to_le_bytes());
        count += 1;
    });
    ring.sent();
    bytes.extend_from_slice(&token.to_le_bytes());
    bytes.extend_from_slice(&count.to_le_bytes());
    bytes.push(LOADED);
    Ok(())
}

/// Takes what was packed and did not depart back, also where a panic comes through.
struct Packing<'a>(Option<&'a HeapRing>);

impl Drop for Packing<'_> {
    fn drop(&mut self) {
        if let Some(ring) = self.0 {
            ring.back();
        }
    }
}

/// Frees what the records' messages still have.
pub(crate) fn let_go(ring: &HeapRing, mut records: &[u8]) {
    while let Some((content, rest)) = records::split(records) {
        if let Some(load) = split(content).and_then(|content| content.load) {
            ring.unload(load.token, load.names());
        }
        records = rest;
    }
}

/// This process's end of a pool's ring.
#[derive(Debug)]
pub(crate) struct Loads {
    ring: HeapRing,
    /// One for each message that is packed or unpacked at a time.
    spare: Mutex<Vec<HeapRing>>,
}

impl Loads {
    pub(crate) fn new(ring: HeapRing) -> Loads {
        Loads { ring, spare: Mutex::default() }
    }

    fn spare(&self) -> MutexGuard<'_, Vec<HeapRing>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `body` with an end that nobody else uses meanwhile.
    fn with_end<R>(&self, body: impl FnOnce(&HeapRing) -> R) -> R {
        let spare = self.spare().pop();
        let end = spare.unwrap_or_else(|| self.ring.beside());
        let result = body(&end);
        let mut spare = self.spare();
        if spare.len() < SPARE {
            spare.push(end);
        }
        result
    }

    /// Appends an item's content. If it fails nothing is appended, and the item is as it was.
    pub(crate) fn encode<A: Serialize>(&self, item: &A, bytes: &mut Vec<u8>) -> Result<(), String> {
        self.with_end(|end| {
            let start = bytes.len();
            let mut packing = Packing(Some(end));
            let packed = codec::encode_with(item, end.carrier_out(), bytes)
                .map_err(|error| error.to_string())
                .and_then(|()| match u32::try_from(bytes.len() - start) {
                    // What is behind it is short, unless it has as many blocks.
                    Ok(length) if length < u32::MAX / 2 => depart(end, |_| {}, bytes),
                    _ => Err(format!("it has {} bytes, encoded", bytes.len() - start)),
                });
            match packed {
                Ok(()) => {
                    packing.0 = None;
                    crash_point!("pool.load.encoded");
                }
                Err(_) => bytes.truncate(start),
            }
            packed
        })
    }

    /// Decodes a record's content, and lets go of it.
    pub(crate) fn decode<R: DeserializeOwned + 'static>(&self, content: &[u8]) -> Result<R, TaskError> {
        /// However the decoding ends.
        struct Received<'a>(&'a Loads, &'a HeapRing, Load<'a>);
        impl Drop for Received<'_> {
            fn drop(&mut self) {
                self.1.keep();
                self.0.ring.unload(self.2.token, self.2.names());
            }
        }
        let bad = |error: procession_parcel::Error| TaskError::BadResult(error.to_string());
        let Some(Content { bytes, load }) = split(content) else {
            return Err(TaskError::BadResult("the worker sent nonsense".to_owned()));
        };
        let Some(load) = load else { return codec::decode(bytes).map_err(bad) };
        self.with_end(|end| {
            let received = Received(self, end, load);
            let value = codec::decode_with(bytes, end.carrier_in()).map_err(bad);
            crash_point!("pool.load.decoded");
            drop(received);
            value
        })
    }

    /// Lends elements to the workers.
    pub(crate) fn lend<'a, T: Plain>(
        &self,
        elements: &'a mut SharedVec<T>,
        each: usize,
    ) -> Result<Lending<'a, T>, TaskError> {
        self.ring.lend(elements, each).map_err(|error| TaskError::BadArguments(error.to_string()))
    }

    /// Frees what the records' messages still have.
    pub(crate) fn let_go(&self, records: &[u8]) {
        let_go(&self.ring, records);
    }

    /// Whether the first of the records can be received as if it never was.
    pub(crate) fn is_whole(&self, records: &[u8]) -> bool {
        let load = records::split(records).and_then(|(content, _)| split(content)?.load);
        load.is_none_or(|load| self.ring.has_all(load.token, load.names()))
    }
}

impl Drop for Loads {
    fn drop(&mut self) {
        let heap = self.ring.heap();
        // The workers are gone: what lay in their lanes is nobody's any more.
        self.ring.release();
        let _ = heap.sweep();
    }
}

/// Appends an argument's content.
#[inline]
pub(crate) fn encode<A: Serialize>(
    loads: Option<&Loads>,
    item: &A,
    bytes: &mut Vec<u8>,
) -> Result<(), String> {
    match loads {
        None => codec::encode(item, bytes).map_err(|error| error.to_string()),
        Some(loads) => loads.encode(item, bytes),
    }
}

/// Decodes a result's content.
#[inline]
pub(crate) fn decode<R: DeserializeOwned + 'static>(
    loads: Option<&Loads>,
    content: &[u8],
) -> Result<R, TaskError> {
    match loads {
        None => codec::decode(content).map_err(|error| TaskError::BadResult(error.to_string())),
        Some(loads) => loads.decode(content),
    }
}

/// Decodes the content of the only record in a buffer, which may become the value's memory.
#[inline(never)]
pub(crate) fn decode_only<R: DeserializeOwned + 'static>(
    loads: Option<&Loads>,
    records: Vec<u8>,
) -> Result<R, TaskError> {
    match records::split(&records) {
        Some((_, [])) if loads.is_none() && records.len() > records::LARGE => {
            codec::decode_vec(records, records::PREFIX)
                .map_err(|error| TaskError::BadResult(error.to_string()))
        }
        Some((content, _)) => decode(loads, content),
        None => Err(TaskError::BadResult("the worker sent no value".to_owned())),
    }
}

/// Who runs items of a pool on a heap: a worker.
pub(crate) struct Cargo<N> {
    ring: HeapRing,
    /// Told of a result's token before that departs.
    note: N,
}

impl<N: Fn(u64)> Cargo<N> {
    pub(crate) fn new(ring: HeapRing, note: N) -> Cargo<N> {
        Cargo { ring, note }
    }

    /// Calls `function` with an argument's content, and appends the value's.
    pub(crate) fn call(&mut self, function: &Erased, content: &[u8], output: &mut Vec<u8>) -> Outcome<()> {
        let Some(Content { bytes, .. }) = split(content) else {
            return Outcome::BadArguments("it does not say what it brings along".to_owned());
        };
        let outcome = function.call_carried(bytes, self, output);
        // The slots in the records of read-only blocks stay: the item may be tried again.
        self.ring.keep();
        outcome
    }
}

impl<N: Fn(u64)> Carrying for Cargo<N> {
    fn incoming(&self) -> &Carrier {
        self.ring.carrier_in()
    }

    fn outgoing(&self) -> &Carrier {
        self.ring.carrier_out()
    }

    fn departs(&mut self, output: &mut Vec<u8>) -> Result<(), String> {
        depart(&self.ring, &self.note, output)
    }

    fn stays(&mut self) {
        self.ring.back();
    }
}

thread_local! {
    static RING: RefCell<Option<HeapRing>> = const { RefCell::new(None) };
}

/// The heap of the pool that this thread runs items for: where a function allocates what it returns by reference. `None` in a
/// pool without a heap, and in threads that are no worker's own. See [`Builder::heap`](crate::Builder::heap).
#[must_use]
pub fn worker_heap() -> Option<Heap> {
    RING.with_borrow(|ring| ring.as_ref().map(HeapRing::heap))
}

/// Calls `body` with the ring of the pool that this thread runs items for, if that has one.
pub(crate) fn with_worker_ring<R>(body: impl FnOnce(Option<&HeapRing>) -> R) -> R {
    let ring = RING.with_borrow(|ring| ring.as_ref().map(HeapRing::beside));
    body(ring.as_ref())
}

/// From now on [`worker_heap`] gives this one's in this thread.
pub(crate) fn set_worker_ring(ring: HeapRing) {
    RING.set(Some(ring));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_comes_apart_and_nonsense_does_not() {
        let plain = [1, 2, NONE];
        assert!(split(&plain).is_some_and(|content| content.bytes == [1, 2] && content.load.is_none()));
        let mut loaded = vec![9];
        loaded.extend_from_slice(&7_u64.to_le_bytes());
        loaded.extend_from_slice(&5_u64.to_le_bytes());
        loaded.extend_from_slice(&1_u32.to_le_bytes());
        loaded.push(LOADED);
        let content = split(&loaded).unwrap();
        let load = content.load.unwrap();
        assert_eq!((content.bytes, load.token, load.names().collect()), (&[9][..], 5, vec![7]));
        let mut records = Vec::new();
        records::append(&mut records, &loaded);
        records::append(&mut records, &plain);
        disown(&mut records);
        let (first, rest) = records::split(&records).unwrap();
        assert!(split(first).is_some_and(|content| content.bytes == [9] && content.load.is_none()));
        assert_eq!(records::split(rest).unwrap().0, plain);
        assert!(split(&[]).is_none());
        assert!(split(&[LOADED]).is_none());
        assert!(split(&[255, 255, 255, 255, LOADED]).is_none());
    }
}
