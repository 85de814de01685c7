//! The sending half of the algorithm. The protocol stands in the module above.
#![cfg_attr(not(loom), allow(unreachable_pub, reason = "public in the model only"))]

use super::{
    error::{Corrupt, SendError, TrySendError},
    frame::{BOUND, FIRST, Header, LAST, PAD, UNIT, frame_size},
    growing::Growing,
    words::{CLOSED, DIED, Memory, died},
};
use crate::{
    bell::Waited,
    bug::{Bug, planted},
};
use procession_sys::{Deadline, Spin, crash_point, sync::Ordering};

/// As long as the receiver keeps up, a larger ring uses this much of its memory only, from its start.
const WORKING_SET: u64 = 256 * 1024;

/// The sender's private view of a lane.
#[derive(Debug)]
pub struct Producer<M> {
    pub(super) memory: M,
    /// Where the next frame goes; what is before is committed.
    pub(super) tail: u64,
    /// How far the receiver was when last looked at.
    head: u64,
    /// Whole messages committed.
    sent: u64,
    /// The end of the memory of the ring that was used since the last discard.
    high: u64,
    max_message: usize,
    /// The message that grows, if one does.
    pub(super) growing: Option<Growing>,
}

impl<M: Memory> Producer<M> {
    /// Takes up the lane where its words say.
    ///
    /// # Errors
    ///
    /// The words make no sense.
    pub fn attach(memory: M, max_message: usize) -> Result<Producer<M>, Corrupt> {
        let words = memory.words();
        let mut tail = words.sender.tail.load(Ordering::Acquire);
        let head = words.receiver.head.load(Ordering::Acquire);
        let mut sent = words.sender.sent.load(Ordering::Relaxed);
        // Acquire: the records are there, as for the receiver.
        let grown = words.sender.grown.load(Ordering::Acquire);
        let capacity = memory.capacity();
        if tail.wrapping_sub(head) > capacity || !(tail | head).is_multiple_of(UNIT) || tail.max(sent) > BOUND
        {
            return Err(Corrupt { what: "position", found: head, limit: tail });
        }
        if let Some(len) = grown.checked_sub(tail + UNIT) {
            // What grew under a sender that died is a message, of which the receiver may have taken some.
            if len > max_message as u64 || frame_size(len) > capacity - (tail - head) {
                return Err(Corrupt { what: "growth", found: grown, limit: tail });
            }
            memory.store(tail, Header { len: len as u32, flags: FIRST | LAST }.to_word());
            tail += frame_size(len);
            sent += 1;
            words.sender.tail.store(tail, Ordering::Release);
            words.sender.sent.store(sent, Ordering::Relaxed);
        }
        // Unknown where the lane was in use before.
        let high = if tail == 0 { 0 } else { capacity };
        Ok(Producer { memory, tail, head, sent, high, max_message, growing: None })
    }

    /// The memory below.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// The largest message in bytes.
    pub fn max_message(&self) -> usize {
        self.max_message
    }

    /// How many messages this end has committed. The last one's ticket.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// The ticket of the last message that the receiver has taken or is about to take.
    pub fn taken(&self) -> u64 {
        self.memory.words().receiver.taken.load(Ordering::Acquire).min(self.sent)
    }

    /// The ticket of the last message that the receiver began to act on.
    pub fn started(&self) -> u64 {
        self.memory.words().receiver.started.load(Ordering::Acquire).min(self.sent)
    }

    /// Whether the receiver is gone.
    pub fn is_closed(&self) -> bool {
        self.memory.words().sender.receiver_closed.load(Ordering::Acquire) != 0
    }

    /// Whether everything that was committed has been taken out of the ring.
    pub fn is_empty(&self) -> bool {
        self.memory.words().receiver.head.load(Ordering::Acquire) == self.tail
    }

    /// The largest message that goes as one frame.
    pub fn largest_frame(&self) -> usize {
        let fits = self.memory.capacity() - UNIT;
        usize::try_from(fits).unwrap_or(usize::MAX).min(self.max_message)
    }

    /// Says that no more comes. What grows is to be finished before.
    pub fn close(&self) {
        // Release: whoever sees this sees every commit before.
        self.memory.words().receiver.sender_closed.store(CLOSED, Ordering::Release);
        if !planted(Bug::CloseWithoutRing) {
            self.memory.receiver_bell().ring();
        }
    }

    /// Says on the dead receiver's behalf that it takes nothing more, and wakes a sender that waits for it.
    pub fn abandon_peer(&self) {
        died(&self.memory.words().sender.receiver_closed);
        self.memory.sender_bell().ring();
    }

    /// Whether the receiver is gone without having said so.
    pub fn peer_died(&self) -> bool {
        self.memory.words().sender.receiver_closed.load(Ordering::Acquire) == DIED
    }

    /// Finds out whether anybody has the receiver; if not, that is written down.
    pub fn look_after_peer(&self) -> bool {
        let lost = !self.is_closed() && self.memory.receiver_is_lost();
        if lost {
            self.abandon_peer();
        }
        lost
    }

    /// Wakes the receiver if it sleeps.
    #[inline]
    pub fn ring(&self) {
        self.memory.receiver_bell().ring();
    }

    /// Commits one message, the concatenation of `parts`, without ringing.
    ///
    /// # Errors
    ///
    /// See [`TrySendError`].
    #[inline]
    pub fn try_send_quiet(&mut self, parts: &[&[u8]]) -> Result<(), TrySendError> {
        self.finish();
        if self.is_closed() {
            return Err(TrySendError::Disconnected);
        }
        let len = length(parts);
        if len > self.largest_frame() {
            return Err(TrySendError::TooLarge { len, limit: self.largest_frame() });
        }
        if !self.make_room(frame_size(len as u64))? {
            return Err(TrySendError::Full);
        }
        self.write_whole(parts, len);
        Ok(())
    }

    /// Sends one message, the concatenation of `parts`, and waits for room as long as needed.
    ///
    /// A message larger than half the ring goes in pieces.
    ///
    /// # Errors
    ///
    /// See [`SendError`].
    #[inline]
    pub fn send(
        &mut self,
        parts: &[&[u8]],
        deadline: Option<Deadline>,
        spin: &mut Spin,
    ) -> Result<(), SendError> {
        self.finish();
        if self.is_closed() {
            return Err(SendError::Disconnected);
        }
        let len = length(parts);
        if len > self.max_message {
            return Err(SendError::TooLarge { len, limit: self.max_message });
        }
        let size = frame_size(len as u64);
        if self.is_in_pieces(size) {
            return self.send_pieces(parts, len, deadline, spin);
        }
        self.wait_for_room(size, deadline, spin)?;
        self.write_whole(parts, len);
        self.ring();
        Ok(())
    }

    /// Sends of one message what there is room for now, from byte `done` on, which it moves; true once all of it is
    /// committed. As [`send`](Producer::send) without its wait, for who waits elsewhere.
    ///
    /// # Errors
    ///
    /// See [`SendError`].
    #[cfg(any(feature = "async", loom))]
    pub fn send_some(&mut self, message: &[u8], done: &mut usize) -> Result<bool, SendError> {
        self.finish();
        if self.is_closed() {
            return Err(SendError::Disconnected);
        }
        let len = message.len();
        if len > self.max_message {
            return Err(SendError::TooLarge { len, limit: self.max_message });
        }
        let size = frame_size(len as u64);
        if !self.is_in_pieces(size) {
            let fits = self.make_room(size)?;
            if fits {
                self.write_whole(&[message], len);
                self.ring();
            }
            return Ok(fits);
        }
        while let Some(rest) = message.get(*done..).filter(|rest| !rest.is_empty()) {
            let take = (rest.len() as u64).min(self.piece());
            if !self.make_room(frame_size(take))? {
                return Ok(false);
            }
            let (piece, later) = rest.split_at(take as usize);
            let first = if *done == 0 { FIRST } else { 0 };
            let last = if later.is_empty() { LAST } else { 0 };
            self.memory.store(self.tail, Header { len: take as u32, flags: first | last }.to_word());
            self.memory.write(self.tail + UNIT, piece);
            crash_point!("lane.send.piece");
            self.commit(frame_size(take), last != 0);
            self.ring();
            *done += piece.len();
        }
        Ok(true)
    }

    /// Whether a message of that size, header included, goes in pieces.
    #[inline]
    fn is_in_pieces(&self, size: u64) -> bool {
        size > self.memory.capacity() / 2 && size > 2 * UNIT
    }

    /// The length of a piece.
    fn piece(&self) -> u64 {
        (self.memory.capacity() / 4).max(2 * UNIT) - UNIT
    }

    fn write_whole(&mut self, parts: &[&[u8]], len: usize) {
        // The length is at most the ring's, which is far below 4 GiB.
        self.memory.store(self.tail, Header { len: len as u32, flags: FIRST | LAST }.to_word());
        crash_point!("lane.send.header");
        let mut at = self.tail + UNIT;
        for part in parts {
            self.memory.write(at, part);
            at += part.len() as u64;
        }
        crash_point!("lane.send.copied");
        self.commit(frame_size(len as u64), true);
    }

    /// Sends a message in pieces; only the last one's commit makes it count.
    #[cold]
    fn send_pieces(
        &mut self,
        parts: &[&[u8]],
        len: usize,
        deadline: Option<Deadline>,
        spin: &mut Spin,
    ) -> Result<(), SendError> {
        let piece = self.piece();
        let mut parts = parts.iter().copied();
        let mut part: &[u8] = &[];
        let mut left = len as u64;
        let mut flags = FIRST;
        while left > 0 {
            let take = left.min(piece);
            left -= take;
            if left == 0 {
                flags |= LAST;
            }
            self.wait_for_room(frame_size(take), deadline, spin)?;
            self.memory.store(self.tail, Header { len: take as u32, flags }.to_word());
            let mut at = self.tail + UNIT;
            let end = at + take;
            while at < end {
                if part.is_empty() {
                    let Some(next) = parts.next() else { break };
                    part = next;
                    continue;
                }
                let fits = part.len().min((end - at) as usize);
                let (now, later) = part.split_at(fits);
                self.memory.write(at, now);
                at += fits as u64;
                part = later;
            }
            crash_point!("lane.send.piece");
            self.commit(frame_size(take), left == 0);
            self.ring();
            flags = 0;
        }
        Ok(())
    }

    #[inline]
    pub(super) fn commit(&mut self, size: u64, whole: bool) {
        self.tail += size;
        // Release: who sees this tail sees the frames before it.
        let order = if planted(Bug::RelaxedCommit) { Ordering::Relaxed } else { Ordering::Release };
        let words = &self.memory.words().sender;
        words.tail.store(self.tail, order);
        crash_point!("lane.send.committed");
        if whole {
            self.sent += 1;
            words.sent.store(self.sent, Ordering::Relaxed);
        }
    }

    /// Looks for `size` bytes of room, and may pass over the rest of the ring to stay within the working set.
    #[inline]
    pub(super) fn make_room(&mut self, size: u64) -> Result<bool, Corrupt> {
        let capacity = self.memory.capacity();
        if capacity > WORKING_SET {
            self.stay_within_working_set(size)?;
        }
        if capacity - self.tail.wrapping_sub(self.head) >= size {
            return Ok(true);
        }
        self.look_at_head()?;
        Ok(capacity - self.tail.wrapping_sub(self.head) >= size)
    }

    fn look_at_head(&mut self) -> Result<(), Corrupt> {
        // Acquire: the receiver has copied out what it gives back.
        let head = self.memory.words().receiver.head.load(Ordering::Acquire);
        if head.wrapping_sub(self.head) > self.tail.wrapping_sub(self.head) || !head.is_multiple_of(UNIT) {
            return Err(Corrupt { what: "head", found: head, limit: self.tail });
        }
        self.head = head;
        Ok(())
    }

    fn wait_for_room(
        &mut self,
        size: u64,
        deadline: Option<Deadline>,
        spin: &mut Spin,
    ) -> Result<(), SendError> {
        while !self.make_room(size)? {
            let (capacity, tail) = (self.memory.capacity(), self.tail);
            let words = self.memory.words();
            let waited = self.memory.sender_bell().wait_slice(deadline, spin, || {
                let used = tail.wrapping_sub(words.receiver.head.load(Ordering::Acquire));
                // More than the capacity is nonsense, which the next look reports.
                used > capacity
                    || capacity - used >= size
                    || words.sender.receiver_closed.load(Ordering::Acquire) != 0
            });
            if waited != Waited::Ready {
                self.look_after_peer();
            }
            if self.is_closed() {
                return Err(SendError::Disconnected);
            }
            if waited == Waited::Deadline {
                return Err(SendError::Timeout);
            }
        }
        Ok(())
    }

    /// While the receiver keeps up, starts over at the ring's start instead of touching ever more of it, and gives
    /// back what a burst has used.
    fn stay_within_working_set(&mut self, size: u64) -> Result<(), Corrupt> {
        let capacity = self.memory.capacity();
        let offset = self.tail & (capacity - 1);
        let end = offset + size;
        if offset < WORKING_SET || size > WORKING_SET / 2 {
            self.high = self.high.max(end.min(capacity));
            return Ok(());
        }
        self.look_at_head()?;
        let used = self.tail.wrapping_sub(self.head);
        if used > WORKING_SET / 2 {
            self.high = self.high.max(end.min(capacity));
            return Ok(());
        }
        if used == 0 && self.high >= 2 * WORKING_SET {
            // All of the ring is free, and what is free is the sender's.
            self.memory.discard(WORKING_SET, self.high);
            self.high = offset + UNIT;
        }
        // There is room at the start: offset - used is at least half a working set, so the padded ring has that
        // much before `head`, and the frame is no larger.
        let pad = capacity - offset;
        self.memory.store(self.tail, Header { len: (pad - UNIT) as u32, flags: PAD }.to_word());
        // Committed together with the frame that follows.
        self.tail += pad;
        Ok(())
    }
}

fn length(parts: &[&[u8]]) -> usize {
    parts.iter().fold(0, |len, part| len.saturating_add(part.len()))
}
