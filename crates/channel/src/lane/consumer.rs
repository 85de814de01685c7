//! The receiving half of the algorithm. The protocol stands in the module above.
#![cfg_attr(not(loom), allow(unreachable_pub, reason = "public in the model only"))]

use super::{
    error::{Corrupt, RecvError},
    frame::{BOUND, FIRST, Header, LAST, PAD, UNIT},
    pace::Pace,
    words::{CLOSED, DIED, Memory, died},
};
use crate::{
    bell::Waited,
    bug::{Bug, planted},
};
use procession_sys::{Deadline, Spin, crash_point, sync::Ordering};

/// Buffers of more bytes than this are given back after use.
const KEEP: usize = 1 << 20;

/// A buffer for the next use: this one, unless it is large.
pub(super) fn kept<T>(mut buffer: Vec<T>) -> Vec<T> {
    if buffer.capacity() * size_of::<T>() > KEEP {
        return Vec::new();
    }
    buffer.clear();
    buffer
}

/// The receiver's private view of a lane.
#[derive(Debug)]
pub struct Consumer<M> {
    pub(super) memory: M,
    /// Where the next frame starts.
    pub(super) head: u64,
    /// How far the sender was when last looked at.
    tail: u64,
    /// Whole messages taken.
    taken: u64,
    /// The pieces so far of a message that comes in pieces.
    pieces: Vec<u8>,
    in_pieces: bool,
    /// What was found wrong; nothing is read any more.
    pub(super) broken: Option<Corrupt>,
    max_message: usize,
    /// How much of the next message was taken while it grew, in bytes.
    pub(super) early: usize,
    /// A batch that has been copied out, and where its messages end.
    pub(super) batch: Vec<u8>,
    ends: Vec<usize>,
    pace: Pace,
}

impl<M: Memory> Consumer<M> {
    /// Takes up the lane where its words say.
    ///
    /// # Errors
    ///
    /// The words make no sense.
    pub fn attach(memory: M, max_message: usize) -> Result<Consumer<M>, Corrupt> {
        let words = memory.words();
        let head = words.receiver.head.load(Ordering::Acquire);
        let taken = words.receiver.taken.load(Ordering::Relaxed);
        if !head.is_multiple_of(UNIT) || head.max(taken) > BOUND {
            return Err(Corrupt { what: "position", found: head, limit: BOUND });
        }
        Ok(Consumer {
            memory,
            head,
            tail: head,
            taken,
            pieces: Vec::new(),
            in_pieces: false,
            broken: None,
            max_message,
            early: 0,
            batch: Vec::new(),
            ends: Vec::new(),
            pace: Pace::default(),
        })
    }

    /// The memory below.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// The largest message in bytes.
    pub fn max_message(&self) -> usize {
        self.max_message
    }

    /// The ticket of the last message that was received.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Whether a message has been received in part.
    pub fn in_pieces(&self) -> bool {
        self.in_pieces || self.early > 0
    }

    /// Whether a look is worth while: something was committed, the sender is gone, or the lane is broken.
    #[inline]
    pub fn has_news(&self) -> bool {
        self.memory.words().sender.tail.load(Ordering::Acquire) != self.head
            || self.is_closed()
            || self.broken.is_some()
    }

    /// Whether the sender is gone. What it committed may still be there.
    pub fn is_closed(&self) -> bool {
        self.memory.words().receiver.sender_closed.load(Ordering::Acquire) != 0
    }

    /// Whether the sender is gone without having said so.
    pub fn peer_died(&self) -> bool {
        self.memory.words().receiver.sender_closed.load(Ordering::Acquire) == DIED
    }

    /// Finds out whether anybody has the sender; if not, that is written down.
    pub fn look_after_peer(&self) -> bool {
        let lost = !self.is_closed() && self.memory.sender_is_lost();
        if lost {
            self.abandon_peer();
        }
        lost
    }

    /// Publishes that the receiver begins to act on the message with this ticket.
    pub fn mark_started(&self, ticket: u64) {
        self.memory.words().receiver.started.store(ticket, Ordering::Release);
        crash_point!("lane.recv.started");
    }

    /// Says that nothing more is taken.
    pub fn close(&self) {
        self.memory.words().sender.receiver_closed.store(CLOSED, Ordering::Release);
        if !planted(Bug::CloseWithoutRing) {
            self.memory.sender_bell().ring();
        }
    }

    /// Says on the dead sender's behalf that no more comes, and wakes a receiver that waits for it.
    pub fn abandon_peer(&self) {
        died(&self.memory.words().receiver.sender_closed);
        self.memory.receiver_bell().ring();
    }

    /// Takes one message into `into`, in place of its contents; false if there is none now (the contents may be gone
    /// all the same: the memory may serve for a message of which some pieces are there).
    ///
    /// # Errors
    ///
    /// See [`RecvError`].
    #[inline]
    pub fn try_recv(&mut self, into: &mut Vec<u8>) -> Result<bool, RecvError> {
        loop {
            let Some(header) = self.next_frame()? else { return Ok(false) };
            if header.flags == FIRST | LAST {
                into.clear();
                self.copy_body(header, into);
                self.take(1);
                return Ok(true);
            }
            if header.flags & FIRST != 0 && into.capacity() > self.pieces.capacity() {
                // The caller's memory, which is warm if it was used for the message before. It comes back in the end.
                into.clear();
                core::mem::swap(into, &mut self.pieces);
            }
            if self.take_piece(header)? {
                let used = core::mem::replace(into, core::mem::take(&mut self.pieces));
                self.pieces = kept(used);
                self.take(1);
                return Ok(true);
            }
            self.free();
        }
    }

    /// As [`try_recv`](Consumer::try_recv), but leaves the message in the ring until [`settle`](Consumer::settle) is told
    /// how many came this way. None comes where the next one is in pieces, which need the room.
    ///
    /// # Errors
    ///
    /// See [`RecvError`].
    #[inline]
    pub fn try_recv_unsettled(&mut self, into: &mut Vec<u8>) -> Result<bool, RecvError> {
        let Some(header) = self.next_frame()? else { return Ok(false) };
        if header.flags != FIRST | LAST {
            return Ok(false);
        }
        into.clear();
        self.copy_body(header, into);
        Ok(true)
    }

    /// Records that so many messages more are in hand, and gives their space back.
    #[inline]
    pub fn settle(&mut self, messages: u64) {
        if messages > 0 {
            self.take(messages);
        }
    }

    /// Takes one message into `into`, in place of its contents, and waits for it; false if `deadline` comes first.
    ///
    /// # Errors
    ///
    /// See [`RecvError`].
    #[inline]
    pub fn recv(
        &mut self,
        into: &mut Vec<u8>,
        deadline: Option<Deadline>,
        spin: &mut Spin,
    ) -> Result<bool, RecvError> {
        loop {
            if self.try_recv(into)? {
                return Ok(true);
            }
            if !self.wait(deadline, spin) {
                return Ok(false);
            }
        }
    }

    /// Waits until there is news; false if `deadline` comes first.
    #[inline]
    pub fn wait(&mut self, deadline: Option<Deadline>, spin: &mut Spin) -> bool {
        let paused = self.pace.pause();
        let mut looks = 0;
        loop {
            let news = || {
                looks += 1;
                self.has_news()
            };
            let waited = self.memory.receiver_bell().wait_slice(deadline, spin, news);
            if waited == Waited::Ready || self.look_after_peer() {
                let (here, tail) = ((self.head, self.taken), &self.memory.words().sender.tail);
                let there = || {
                    let bytes = tail.load(Ordering::Relaxed).wrapping_sub(self.head);
                    self.pace.messages(bytes, self.head, self.taken)
                };
                let brought = paused.then(there);
                self.pace.learn(here, spin.has_spun().then_some(looks), brought);
                return true;
            }
            if waited == Waited::Deadline {
                return false;
            }
        }
    }

    /// Takes the messages that are there, up to `max_bytes` (but at least one), and gives each to `each`.
    ///
    /// They are all out of the ring, and their space is given back by one store, before the first is given.
    ///
    /// # Errors
    ///
    /// See [`RecvError`]; it comes after the messages before it were given.
    pub fn recv_batch(&mut self, max_bytes: usize, mut each: impl FnMut(&[u8])) -> Result<usize, RecvError> {
        let mut large = Vec::new();
        let count = self.recv_parts(max_bytes, |message, _| each(message), &mut large);
        if !large.is_empty() {
            self.batch = kept(large);
        }
        count
    }

    /// As [`recv_batch`](Consumer::recv_batch); `each` is also told whether it is the rest of a message that was taken in
    /// part [while it grew](Consumer::recv_growing). A message in pieces, which makes a batch of its own, is given away as
    /// `large`, in memory of its own, once `each` has seen it; `large` is empty in all other cases.
    ///
    /// # Errors
    ///
    /// See [`RecvError`]; it comes after the messages before it were given.
    pub fn recv_parts(
        &mut self,
        max_bytes: usize,
        mut each: impl FnMut(&[u8], bool),
        large: &mut Vec<u8>,
    ) -> Result<usize, RecvError> {
        large.clear();
        let mut rest = self.early > 0;
        let mut batch = core::mem::take(&mut self.batch);
        let mut ends = core::mem::take(&mut self.ends);
        batch.clear();
        ends.clear();
        let before = self.head;
        let mut in_pieces = false;
        let mut end = Ok(());
        loop {
            match self.next_frame() {
                Ok(None) => break,
                Ok(Some(header)) if header.flags == FIRST | LAST => {
                    if !ends.is_empty() && batch.len() + header.len as usize > max_bytes {
                        break;
                    }
                    self.copy_body(header, &mut batch);
                    ends.push(batch.len());
                }
                // A message in pieces makes a batch of its own.
                Ok(Some(_)) if !ends.is_empty() => break,
                Ok(Some(header)) => match self.take_piece(header) {
                    Ok(true) => {
                        let used = core::mem::replace(&mut batch, core::mem::take(&mut self.pieces));
                        self.pieces = kept(used);
                        ends.push(batch.len());
                        in_pieces = true;
                        break;
                    }
                    // The sender may need the space for the next piece.
                    Ok(false) => self.free(),
                    Err(error) => {
                        end = Err(error);
                        break;
                    }
                },
                Err(error) => {
                    end = Err(error);
                    break;
                }
            }
        }
        if !ends.is_empty() {
            self.take(ends.len() as u64);
        } else if self.head != before {
            self.free();
        }
        let mut start = 0;
        for &end in &ends {
            each(&batch[start..end], core::mem::take(&mut rest));
            start = end;
        }
        let count = ends.len();
        if in_pieces {
            *large = batch;
        } else {
            self.batch = kept(batch);
        }
        self.ends = kept(ends);
        if count == 0 { end.map(|()| 0) } else { Ok(count) }
    }

    /// The header of the next frame, checked against what is committed. Passes over padding.
    #[inline]
    fn next_frame(&mut self) -> Result<Option<Header>, RecvError> {
        loop {
            if self.head == self.tail && !self.look_at_tail()? {
                return Ok(None);
            }
            let committed = self.tail.wrapping_sub(self.head);
            let header = Header::from_word(self.memory.load(self.head));
            if !header.is_known() {
                return self.fail(Corrupt { what: "frame", found: header.flags, limit: PAD });
            }
            if header.size() > committed {
                return self.fail(Corrupt { what: "length", found: header.size(), limit: committed });
            }
            if header.len as usize > self.max_message && header.flags != PAD {
                let limit = self.max_message as u64;
                return self.fail(Corrupt { what: "length", found: header.len.into(), limit });
            }
            if header.flags & FIRST != 0 && self.in_pieces {
                // The message before was never finished: its sender gave up at a deadline.
                self.pieces = Vec::new();
                self.in_pieces = false;
            }
            if header.flags != PAD {
                if self.early > 0 && (header.flags != FIRST | LAST || self.early > header.len as usize) {
                    return self.fail(Corrupt {
                        what: "length",
                        found: header.len.into(),
                        limit: self.early as u64,
                    });
                }
                return Ok(Some(header));
            }
            self.head += header.size();
        }
    }

    /// Looks how far the sender is; tells whether it has committed anything more.
    #[inline]
    fn look_at_tail(&mut self) -> Result<bool, RecvError> {
        if let Some(corrupt) = self.broken {
            return Err(corrupt.into());
        }
        let words = self.memory.words();
        // Acquire: pairs with the commit.
        let mut tail = words.sender.tail.load(Ordering::Acquire);
        if tail == self.head && self.is_closed() {
            // What was committed before the close is still to be received.
            if !planted(Bug::NoLookAfterClose) {
                tail = words.sender.tail.load(Ordering::Acquire);
            }
            if tail == self.head {
                return Err(RecvError::Disconnected);
            }
        }
        let committed = tail.wrapping_sub(self.head);
        if committed > self.memory.capacity() || !tail.is_multiple_of(UNIT) {
            let limit = self.head.wrapping_add(self.memory.capacity());
            return self.fail(Corrupt { what: "tail", found: tail, limit });
        }
        self.tail = tail;
        Ok(committed != 0)
    }

    #[cold]
    pub(super) fn fail<T>(&mut self, corrupt: Corrupt) -> Result<T, RecvError> {
        self.broken = Some(corrupt);
        self.tail = self.head;
        Err(corrupt.into())
    }

    #[inline]
    fn copy_body(&mut self, header: Header, into: &mut Vec<u8>) {
        if planted(Bug::HeadBeforeCopy) {
            let head = self.head + header.size();
            self.memory.words().receiver.head.store(head, Ordering::Release);
        }
        // No more than the message has, see `next_frame`.
        let early = core::mem::take(&mut self.early);
        self.memory.read(self.head + UNIT + early as u64, header.len as usize - early, into);
        self.head += header.size();
        crash_point!("lane.recv.copied");
    }

    /// Adds a piece to what is there of its message; tells whether that is complete now.
    #[cold]
    fn take_piece(&mut self, header: Header) -> Result<bool, RecvError> {
        if header.flags & FIRST != 0 {
            self.in_pieces = true;
        } else if !self.in_pieces {
            return self.fail(Corrupt { what: "piece without a start", found: header.flags, limit: FIRST });
        }
        let len = self.pieces.len() as u64 + u64::from(header.len);
        if len > self.max_message as u64 {
            return self.fail(Corrupt { what: "length", found: len, limit: self.max_message as u64 });
        }
        let mut pieces = core::mem::take(&mut self.pieces);
        self.copy_body(header, &mut pieces);
        self.pieces = pieces;
        let complete = header.flags & LAST != 0;
        if complete {
            self.in_pieces = false;
        }
        Ok(complete)
    }

    /// Records that messages are in hand, then gives the space back.
    #[inline]
    fn take(&mut self, messages: u64) {
        self.taken += messages;
        self.memory.words().receiver.taken.store(self.taken, Ordering::Relaxed);
        crash_point!("lane.recv.taken");
        self.free();
    }

    #[inline]
    fn free(&mut self) {
        // Release: what was copied out is not read again, and `taken` is seen by who sees this.
        let order = if planted(Bug::RelaxedHead) { Ordering::Relaxed } else { Ordering::Release };
        self.memory.words().receiver.head.store(self.head, order);
        crash_point!("lane.recv.freed");
        self.memory.sender_bell().ring();
    }
}
