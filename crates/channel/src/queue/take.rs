//! The taking half of the algorithm.
#![allow(unreachable_pub, reason = "public in the model, and there as far as it is needed")]

use super::{
    gate::ALL,
    hands::{Hand, Kind, State},
    ring::{Ring, few},
    trouble::Trouble,
    words::{Memory, NoLock, Patience, Side, UNIT, frame_size},
};
use crate::{
    bell::Waited,
    bug::{Bug, planted},
};
use procession_sys::{
    Deadline, Spin, crash_point,
    sync::{Ordering, fence},
};

/// A batch ends with the item that reaches this many bytes.
const BATCH_BYTES: u64 = 1 << 20;
/// `errno(3)`; the same on every architecture.
const ENOMEM: i32 = 12;
/// Where bodies stay until they are acknowledged: that much may be freed before it is looked for.
const RECLAIM: u64 = 64 * 1024;

/// What was taken. Its frames lie in the vector that was given.
#[derive(Debug)]
pub struct Taken {
    /// The first item's ticket, from 0. The others follow it.
    pub first: u64,
    /// How many items.
    pub count: u64,
    /// How often it was in hand before, of somebody who died or gave it back.
    pub attempts: u32,
    /// What records it.
    pub hand: Hand,
}

/// Why nothing was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotTaken {
    /// There is nothing now.
    Empty,
    /// There will never be anything.
    Closed,
    /// As closed, but for what others have in hand; and so has this process.
    InHand,
    /// The queue cannot do its work.
    Trouble(Trouble),
}

impl From<Trouble> for NotTaken {
    fn from(trouble: Trouble) -> NotTaken {
        NotTaken::Trouble(trouble)
    }
}

impl<M: Memory> Ring<M> {
    /// Takes up to `most` items, at least one: their frames are appended to `into`. `hint` is where the caller's last
    /// record was.
    ///
    /// # Errors
    ///
    /// See [`NotTaken`].
    pub fn try_take(
        &self,
        most: u64,
        hint: &mut u32,
        patience: Patience,
        into: &mut Vec<u8>,
    ) -> Result<Taken, NotTaken> {
        let (words, shape) = (self.words(), self.shape());
        if !self.has_news() && !self.is_closed() {
            return Err(NotTaken::Empty);
        }
        // Before the lock: to become a member may mean to lock.
        let member = self.memory.member()?;
        let held = match self.lock(Side::Consumers, patience) {
            Ok(held) => held,
            Err(NoLock::Held) => return Err(NotTaken::Empty),
            Err(NoLock::Trouble(trouble)) => return Err(trouble.into()),
        };
        if words.tail.again.load(Ordering::Relaxed) != 0
            && let Some(taken) = self.take_again(member, into)?
        {
            return Ok(taken);
        }
        let ticket = words.head.ticket.load(Ordering::Relaxed);
        let (good, pos) = Self::entry(&words.consumers.entries, ticket)?;
        // Before the tail: what is not there after a close never will be.
        let closed = !planted(Bug::NoLookAfterQueueClose) && self.is_closed();
        // Acquire: the frames before this tail are there.
        let tail = words.tail.ticket.load(Ordering::Acquire);
        if tail == ticket {
            let closed = if planted(Bug::NoLookAfterQueueClose) { self.is_closed() } else { closed };
            return Err(match closed && shape.keeps() {
                false if closed => NotTaken::Closed,
                false => NotTaken::Empty,
                true => match self.held_here_and_elsewhere(member) {
                    (_, false) => NotTaken::Closed,
                    // Two that wait for each other's would do so for ever.
                    (true, true) => NotTaken::InHand,
                    (false, true) => NotTaken::Empty,
                },
            });
        }
        let most = if shape.keeps() || shape.heap { most.min(256) } else { most };
        let count = most.clamp(1, tail.wrapping_sub(ticket));
        let limit = words.tail.limit.load(Ordering::Relaxed);
        let mut hand = Hand::none();
        let copied = self.copy_out(member, hint, (ticket, pos, limit), count, &mut hand, into);
        let (taken, end) = match copied {
            Ok(copied) => copied,
            Err(trouble) => {
                self.unhold(&hand);
                return Err(trouble.into());
            }
        };
        crash_point!("queue.get.recorded");
        Self::stage(&words.consumers.entries, good, ticket + taken, end);
        // Release: who sees this ticket sees the record.
        words.head.ticket.store(ticket + taken, Ordering::Release);
        crash_point!("queue.get.committed");
        let order = if planted(Bug::RelaxedFree) { Ordering::Relaxed } else { Ordering::Release };
        words.head.taken.store(end, order);
        if !shape.keeps() {
            words.head.freed.store(end, order);
        } else if end - words.head.freed.load(Ordering::Relaxed).min(end) >= RECLAIM.min(shape.chunk()) {
            // It is about memory only; what makes no sense is found by the next take.
            let _ = self.reclaim();
        }
        crash_point!("queue.get.freed");
        drop(held);
        crash_point!("queue.get.unlocked");
        fence(Ordering::SeqCst);
        words.head.slots.ring_fenced(few(taken));
        words.head.room.ring_fenced(ALL);
        if pos >> shape.chunk_shift != end >> shape.chunk_shift {
            self.tidy();
        }
        Ok(Taken { first: ticket, count: taken, attempts: 0, hand })
    }

    /// Copies up to `count` frames from a ticket and its position on, which end before a limit, and records them: how many,
    /// and where they end.
    #[inline]
    fn copy_out(
        &self,
        member: u16,
        hint: &mut u32,
        (ticket, pos, limit): (u64, u64, u64),
        count: u64,
        hand: &mut Hand,
        into: &mut Vec<u8>,
    ) -> Result<(u64, u64), Trouble> {
        // Whether each item has a record of its own, since each may come to another end.
        let (heap, single) = (self.shape().heap, self.shape().keeps() || self.shape().heap);
        let (mut end, mut taken) = (pos, 0);
        while taken < count && (taken == 0 || end - pos < BATCH_BYTES) {
            let size = self.frame_at(end, limit)?;
            if single {
                let token = if heap { self.token_at(end, size)? } else { 0 };
                match self.hold(member, hint, (ticket + taken, 1), end, token) {
                    Ok(record) => hand.push(record),
                    Err(_) if taken > 0 => break,
                    Err(trouble) => return Err(trouble),
                }
            }
            (end, taken) = (end + size, taken + 1);
        }
        if planted(Bug::FreedBeforeCopy) {
            self.words().head.freed.store(end, Ordering::Release);
        }
        self.read(pos, (end - pos) as usize, into)?;
        crash_point!("queue.get.copied");
        if !single {
            hand.push(self.hold(member, hint, (ticket, taken), pos, 0)?);
        }
        Ok((taken, end))
    }

    /// As [`try_take`](Ring::try_take), and waits until there is something, or until `deadline`.
    ///
    /// # Errors
    ///
    /// See [`NotTaken`]; `Empty` means that the deadline has come.
    pub fn take(
        &self,
        most: u64,
        hint: &mut u32,
        deadline: Option<Deadline>,
        spin: &mut Spin,
        into: &mut Vec<u8>,
    ) -> Result<Taken, NotTaken> {
        loop {
            match self.try_take(most, hint, Patience::Until(deadline), into) {
                // There may be something, behind a lock whose holder is stopped.
                Err(NotTaken::Empty) if deadline.is_some_and(Deadline::passed) => {
                    return Err(NotTaken::Empty);
                }
                Err(NotTaken::Empty) => {}
                other => return other,
            }
            if !self.wait_for_items(deadline, spin) {
                return Err(NotTaken::Empty);
            }
        }
    }

    /// Waits until there may be an item, or none will come; false if the deadline has come.
    pub(super) fn wait_for_items(&self, deadline: Option<Deadline>, spin: &mut Spin) -> bool {
        let waited = self.words().tail.items.wait_slice(deadline, spin, || self.is_worth_a_try());
        if waited == Waited::Slice {
            // What the dead had in hand may be what is waited for. What goes wrong is found by the next attempt.
            let _ = self.look_after();
        }
        waited != Waited::Deadline
    }

    /// Whether there is something to take.
    pub(super) fn has_news(&self) -> bool {
        let words = self.words();
        words.head.ticket.load(Ordering::Acquire) != words.tail.ticket.load(Ordering::Acquire)
            || words.tail.again.load(Ordering::Acquire) != 0
    }

    /// Whether an attempt to take would not find the queue empty.
    pub(super) fn is_worth_a_try(&self) -> bool {
        self.has_news() || self.is_closed() && !(self.shape().keeps() && self.is_held_by_others_only())
    }

    fn is_held_by_others_only(&self) -> bool {
        self.memory.member().is_ok_and(|member| self.held_here_and_elsewhere(member) == (false, true))
    }

    /// The size of the frame at a position, which ends before `limit`.
    #[inline]
    pub(super) fn frame_at(&self, pos: u64, limit: u64) -> Result<u64, Trouble> {
        let header = self.memory.load(self.chunk_at(pos)?, pos & (self.shape().chunk() - 1));
        let size = frame_size(header & ((1 << 48) - 1));
        let room = limit.wrapping_sub(pos);
        if header >> 48 != 0
            || size > room
            || room > u64::from(self.shape().chunks) << self.shape().chunk_shift
        {
            return Err(Trouble::Corrupt { what: "length", found: header, limit: room });
        }
        Ok(size)
    }

    /// The token with which the item of the frame at a position begins.
    fn token_at(&self, pos: u64, size: u64) -> Result<u64, Trouble> {
        if size < 2 * UNIT {
            return Err(Trouble::Corrupt { what: "length", found: size, limit: 2 * UNIT });
        }
        let at = pos + UNIT;
        Ok(self.memory.load(self.chunk_at(at)?, at & (self.shape().chunk() - 1)))
    }

    #[inline]
    fn read(&self, pos: u64, len: usize, into: &mut Vec<u8>) -> Result<(), Trouble> {
        // A length that makes no sense must not end this process.
        into.try_reserve(len).map_err(|_| Trouble::NoMemory(ENOMEM))?;
        self.each_chunk(pos, len, |chunk, at, len| self.memory.read(chunk, at, len, into))
    }

    /// Takes an item that was in hand before. The caller holds the consumers' lock.
    #[cold]
    fn take_again(&self, member: u16, into: &mut Vec<u8>) -> Result<Option<Taken>, Trouble> {
        let words = self.words();
        // The lowest ticket first.
        let mut next: Option<(u64, u32, State)> = None;
        for index in 0..self.records_used() {
            let record = self.memory.record(index);
            let state = State::of(record);
            let first = record.first.load(Ordering::Relaxed);
            if state.kind() == Some(Kind::Again) && next.is_none_or(|(lowest, ..)| first < lowest) {
                next = Some((first, index, state));
            }
        }
        let Some((first, index, state)) = next else {
            words.tail.again.store(0, Ordering::Relaxed);
            return Ok(None);
        };
        let record = self.memory.record(index);
        let pos = record.pos.load(Ordering::Relaxed);
        let size = self.frame_at(pos & !(UNIT - 1), words.head.taken.load(Ordering::Relaxed))?;
        self.read(pos & !(UNIT - 1), size as usize, into)?;
        crash_point!("queue.again.copied");
        let state = state.taken_again(member);
        // The commit: from here on it is in this hand.
        record.state.store(state.to_word(), Ordering::Release);
        crash_point!("queue.again.taken");
        let mut hand = Hand::none();
        hand.push((index, state));
        Ok(Some(Taken { first, count: 1, attempts: state.attempts(), hand }))
    }
}
