//! Messages that grow: many small records that share one frame, each of which is safe as soon as it is appended.
//!
//! A frame for each of many tiny messages costs more than what is in them. A message that grows has one frame for all
//! of its records, and loses none of them if its sender dies before it is finished.
//!
//! # Protocol
//!
//! * `append`: if no message grows, room for one is found and its first place is `tail`. The record's bytes are written
//!   behind those that are there; then `grown`, a position, is stored with Release: up to there the message is whole.
//! * `finish`: the frame's header is written, and the frame committed like any other. So is what grows before anything
//!   else is sent, and when the sender is closed.
//! * The receiver gets a finished message like any other. Of one that still grows it can take what is there, when it
//!   has found nothing committed (`head = tail`): it loads `grown` with Acquire, then `tail` once more. Only if that has
//!   not moved does `grown` belong to the message at `head`: it was stored after the commit of all messages before.
//!   What it has taken so is left out of the message when that is received.
//!
//! # Invariants
//!
//! 1. Between `tail` and `grown` lies, if `grown` is greater, one header's room and then whole records, which do not
//!    change any more. The header is not looked at before the commit.
//! 2. A message that grows begins at `tail` as it stands in shared memory, not behind padding that is not committed.
//! 3. What has been taken of a message that grows is never more than the message will have.
//!
//! # When a process dies
//!
//! The sender, before the store of `grown`: the record is not there. After it: it is. Between the header and the commit:
//! the same, since the header is not looked at. After the commit: the message is like any other. Who takes up the sender's
//! place finishes the message first. The receiver: what it took
//! of a message that grows it has in hand, though `taken` does not count it before the rest; whoever takes its place gets
//! the message from the start. (Where that matters, don't take what grows.)
#![cfg_attr(not(loom), allow(unreachable_pub, reason = "public in the model only"))]

use super::{
    consumer::Consumer,
    error::{Corrupt, RecvError, TrySendError},
    frame::{FIRST, Header, LAST, UNIT, frame_size},
    producer::Producer,
    words::Memory,
};
use crate::bug::{Bug, planted};
use procession_sys::{crash_point, sync::Ordering};

/// How much room a message that grows is given, in bytes, where the ring has as much: at most an eighth of that.
const ROOM: u64 = 16 * 1024;

/// A message that grows.
#[derive(Debug)]
pub(super) struct Growing {
    /// Behind its last record, and behind its last place.
    at: u64,
    end: u64,
}

impl<M: Memory> Producer<M> {
    /// Appends a record to the message that grows. A new one begins with `start`.
    ///
    /// # Errors
    ///
    /// See [`TrySendError`]: too large is what does not fit into a message that grows.
    #[inline]
    pub fn append(&mut self, start: &[u8], record: &[u8]) -> Result<(), TrySendError> {
        let len = record.len() as u64;
        let mut at = match &self.growing {
            Some(growing) if growing.end - growing.at >= len => growing.at,
            _ => self.begin_growing(start, len)?,
        };
        self.memory.write(at, record);
        at += len;
        crash_point!("lane.append.written");
        if let Some(growing) = &mut self.growing {
            growing.at = at;
        }
        // Release: who sees this sees the record, and every commit before.
        let order = if planted(Bug::RelaxedGrown) { Ordering::Relaxed } else { Ordering::Release };
        self.memory.words().sender.grown.store(at, order);
        crash_point!("lane.append.grown");
        Ok(())
    }

    /// Finds room for a message that is to grow, at least by `len` bytes; where the first record goes.
    #[cold]
    fn begin_growing(&mut self, start: &[u8], len: u64) -> Result<u64, TrySendError> {
        self.finish();
        if self.is_closed() {
            return Err(TrySendError::Disconnected);
        }
        let room = ROOM.min(self.memory.capacity() / 8);
        let least = start.len() as u64 + len;
        if least > room || least as usize > self.max_message() {
            let limit = (room as usize).min(self.max_message()).saturating_sub(start.len());
            return Err(TrySendError::TooLarge { len: len as usize, limit });
        }
        let most = room.min(self.max_message() as u64);
        let most = if self.make_room(frame_size(most))? {
            most
        } else if self.make_room(frame_size(least))? {
            least
        } else {
            return Err(TrySendError::Full);
        };
        // Padding is committed at once (invariant 2).
        self.memory.words().sender.tail.store(self.tail, Ordering::Release);
        crash_point!("lane.append.padded");
        let at = self.tail + UNIT;
        self.memory.write(at, start);
        let at = at + start.len() as u64;
        self.growing = Some(Growing { at, end: self.tail + UNIT + most });
        Ok(at)
    }

    /// Commits the message that grows, if one does, without ringing.
    #[inline]
    pub fn finish(&mut self) {
        if let Some(growing) = self.growing.take() {
            // It is at most the room of one.
            let len = (growing.at - self.tail - UNIT) as u32;
            self.memory.store(self.tail, Header { len, flags: FIRST | LAST }.to_word());
            crash_point!("lane.append.finished");
            self.commit(frame_size(u64::from(len)), true);
        }
    }

    /// Whether a message grows.
    pub fn grows(&self) -> bool {
        self.growing.is_some()
    }
}

impl<M: Memory> Consumer<M> {
    /// Takes what is there of a message that still grows, if everything that was committed has been received. The rest
    /// comes by the next receive. Returns how many bytes `each` was given.
    ///
    /// # Errors
    ///
    /// See [`RecvError`]; the sender's end is none.
    pub fn recv_growing(&mut self, each: impl FnOnce(&[u8])) -> Result<usize, RecvError> {
        if let Some(corrupt) = self.broken {
            return Err(corrupt.into());
        }
        let words = self.memory.words();
        // Acquire: what is before it was written, and what was committed before is seen by the next load.
        let grown = words.sender.grown.load(Ordering::Acquire);
        if words.sender.tail.load(Ordering::Acquire) != self.head && !planted(Bug::GrownWithoutTail) {
            return Ok(0);
        }
        let from = self.head + UNIT + self.early as u64;
        // At or before `tail` it is of a message that was committed.
        if grown <= from {
            return Ok(0);
        }
        let len = grown - from;
        if grown - self.head > self.memory.capacity() || grown - self.head - UNIT > self.max_message() as u64
        {
            return self.fail(Corrupt { what: "growth", found: grown, limit: self.head });
        }
        let mut part = core::mem::take(&mut self.batch);
        part.clear();
        self.memory.read(from, len as usize, &mut part);
        self.early += len as usize;
        each(&part);
        self.batch = super::consumer::kept(part);
        Ok(len as usize)
    }
}
