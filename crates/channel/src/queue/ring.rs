//! The algorithm: locks and what a new holder repairs, chunks, and the putting half. The protocol stands in the module
//! above.
#![allow(unreachable_pub, reason = "public in the model, and there as far as it is needed")]

use super::{
    gate::ALL,
    trouble::Trouble,
    words::{BOUND, Entry, Found, Memory, NoLock, Patience, Shape, Side, UNIT, Words, frame_size},
};
use crate::bug::{Bug, planted};
use procession_sys::{Deadline, Spin, crash_point, sync::Ordering};

/// So many free chunks keep their memory at least, and as many as there are in use.
const WARM: u32 = 2;

/// A queue of bytes, as the algorithm sees it.
#[derive(Debug)]
pub struct Ring<M> {
    pub(super) memory: M,
}

/// A side that is locked. Nothing but the protocol runs meanwhile.
pub(super) struct Held<'a, M: Memory> {
    memory: &'a M,
    side: Side,
}

impl<M: Memory> Drop for Held<'_, M> {
    fn drop(&mut self) {
        self.memory.unlock(self.side);
    }
}

/// Why nothing was put.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// There is no room now.
    Full(Lack),
    /// The queue is closed.
    Closed,
    /// What the item takes along could not set out.
    Load,
    /// The queue cannot do its work.
    Trouble(Trouble),
}

/// What an item takes along beside its bytes: blocks of a heap. See `load.rs`.
pub trait Load {
    /// The token of the message; 0 if there is nothing in it.
    fn token(&self) -> u64;
    /// Puts the blocks into the message; false if they are back, since that cannot be done.
    fn depart(&self) -> bool;
    /// Takes them back.
    fn back(&self);
}

/// What there was when there was no room, to see when that has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lack {
    /// Whether it is for the number of items; else for their bytes.
    items: bool,
    ticket: u64,
    taken: u64,
    freed: u64,
    acknowledged: u64,
}

impl Lack {
    /// Whether there are too many items; else they are too large.
    #[cfg(all(feature = "async", not(loom)))]
    pub(super) fn is_of_items(self) -> bool {
        self.items
    }
}

impl From<Trouble> for Refused {
    fn from(trouble: Trouble) -> Refused {
        Refused::Trouble(trouble)
    }
}

/// `count` as it is given to a system call.
pub(super) fn few(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(ALL)
}

impl<M: Memory> Ring<M> {
    /// The queue in this memory.
    pub const fn new(memory: M) -> Ring<M> {
        Ring { memory }
    }

    /// The memory below.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    pub(super) fn words(&self) -> &Words {
        self.memory.words()
    }

    pub(super) fn shape(&self) -> &Shape {
        self.memory.shape()
    }

    /// Locks a side, and repairs what a dead holder left.
    pub(super) fn lock(&self, side: Side, patience: Patience) -> Result<Held<'_, M>, NoLock> {
        let found = self.memory.lock(side, patience)?;
        self.held(side, found)
    }

    pub(super) fn try_lock(&self, side: Side) -> Result<Held<'_, M>, NoLock> {
        let found = self.memory.try_lock(side)?;
        self.held(side, found)
    }

    #[inline]
    fn held(&self, side: Side, found: Found) -> Result<Held<'_, M>, NoLock> {
        let held = Held { memory: &self.memory, side };
        if found == Found::Died {
            self.repair(side).map_err(NoLock::Trouble)?;
        }
        Ok(held)
    }

    #[cold]
    fn repair(&self, side: Side) -> Result<(), Trouble> {
        let repaired = match side {
            Side::Producers => self.repair_producers(),
            Side::Consumers => self.repair_consumers(),
        };
        crash_point!("queue.repair.done");
        // Also where it makes no sense, which everybody finds out for himself.
        self.memory.repaired(side);
        crash_point!("queue.repair.declared");
        repaired
    }

    /// The good one of two entries: which, and its position.
    #[inline]
    pub(super) fn entry(entries: &[Entry; 2], ticket: u64) -> Result<(usize, u64), Trouble> {
        let good = entries.iter().position(|entry| entry.ticket.load(Ordering::Relaxed) == ticket);
        let Some(good) = good else {
            let found = entries[0].ticket.load(Ordering::Relaxed);
            return Err(Trouble::Corrupt { what: "ticket", found, limit: ticket });
        };
        let pos = entries[good].pos.load(Ordering::Relaxed);
        if pos > BOUND || ticket > BOUND || !pos.is_multiple_of(UNIT) {
            return Err(Trouble::Corrupt { what: "position", found: pos, limit: BOUND });
        }
        Ok((good, pos))
    }

    /// Writes the entry that is not good, which a commit makes the good one.
    #[inline]
    pub(super) fn stage(entries: &[Entry; 2], good: usize, ticket: u64, pos: u64) {
        let next = &entries[1 - good];
        next.pos.store(pos, Ordering::Relaxed);
        next.ticket.store(ticket, Ordering::Relaxed);
    }

    /// The chunk that lies behind a position.
    #[inline]
    pub(super) fn chunk_at(&self, pos: u64) -> Result<u32, Trouble> {
        let shape = self.shape();
        let index = (pos >> shape.chunk_shift) & (shape.map_len() - 1);
        let chunk = self.memory.map(index).load(Ordering::Relaxed);
        if chunk < shape.chunks { Ok(chunk) } else { Err(impossible_chunk(chunk, shape)) }
    }

    /// Calls `part` for each chunk of a range: with the chunk, the place in it, and the length there.
    #[inline]
    pub(super) fn each_chunk(
        &self,
        mut pos: u64,
        len: usize,
        mut part: impl FnMut(u32, u64, usize),
    ) -> Result<(), Trouble> {
        let size = self.shape().chunk();
        let mut left = len;
        while left > 0 {
            let at = pos & (size - 1);
            let here = usize::try_from(size - at).unwrap_or(usize::MAX).min(left);
            part(self.chunk_at(pos)?, at, here);
            pos += here as u64;
            left -= here;
        }
        Ok(())
    }

    /// Commits as many as there is room for of `items` frames, at least one; tells how many. A load goes with one frame.
    ///
    /// # Errors
    ///
    /// See [`Refused`].
    pub fn try_put(
        &self,
        frames: &[u8],
        items: u64,
        patience: Patience,
        load: Option<&dyn Load>,
    ) -> Result<u64, Refused> {
        let words = self.words();
        let held = match self.lock(Side::Producers, patience) {
            Ok(held) => held,
            Err(NoLock::Held) => return Err(Refused::Full(self.lack(true))),
            Err(NoLock::Trouble(trouble)) => return Err(trouble.into()),
        };
        if words.tail.closed.load(Ordering::Relaxed) != 0 {
            return Err(Refused::Closed);
        }
        let ticket = words.tail.ticket.load(Ordering::Relaxed);
        let (good, pos) = Self::entry(&words.producers.entries, ticket)?;
        let (count, size) = self.fitting(frames, items, ticket, pos)?;
        if let Some(load) = load {
            self.depart(load, ticket)?;
        }
        let mut at = 0;
        let copied = self.each_chunk(pos, size as usize, |chunk, place, len| {
            self.memory.write(chunk, place, &frames[at..at + len]);
            at += len;
        });
        if let Err(trouble) = copied {
            // Under the lock: the next producer may have to revoke what is noted.
            load.inspect(|load| load.back());
            return Err(trouble.into());
        }
        crash_point!("queue.put.copied");
        Self::stage(&words.producers.entries, good, ticket + count, pos + size);
        words.tail.limit.store(pos + size, Ordering::Relaxed);
        crash_point!("queue.put.staged");
        // Release: who sees this ticket sees the frames before it.
        let order = if planted(Bug::RelaxedTail) { Ordering::Relaxed } else { Ordering::Release };
        words.tail.ticket.store(ticket + count, order);
        crash_point!("queue.put.committed");
        drop(held);
        crash_point!("queue.put.unlocked");
        words.tail.items.ring(few(count));
        Ok(count)
    }

    /// Notes the message for a ticket, and lets its blocks set out. The caller holds the producers' lock.
    fn depart(&self, load: &dyn Load, ticket: u64) -> Result<(), Refused> {
        let (producers, token) = (&self.words().producers, load.token());
        if token == 0 {
            return Ok(());
        }
        // In this order: a note of this ticket that is left from before names a message without blocks.
        producers.noted.store(token, Ordering::Relaxed);
        producers.noted_for.store(ticket + 1, Ordering::Release);
        crash_point!("queue.put.noted");
        if !load.depart() {
            return Err(Refused::Load);
        }
        crash_point!("queue.put.departed");
        Ok(())
    }

    /// Puts all of `items` frames, and waits for room until `deadline`. Tells how many were accepted before an error.
    ///
    /// # Errors
    ///
    /// See [`Refused`].
    pub fn put(
        &self,
        frames: &[u8],
        items: u64,
        deadline: Option<Deadline>,
        spin: &mut Spin,
        load: Option<&dyn Load>,
    ) -> Result<(), (u64, Refused)> {
        let (mut at, mut put) = (0, 0);
        loop {
            match self.try_put(&frames[at..], items - put, Patience::Until(deadline), load) {
                Ok(count) if put + count == items => return Ok(()),
                Ok(count) => {
                    at += frames_len(&frames[at..], count);
                    put += count;
                }
                Err(Refused::Full(lack)) => {
                    // Who holds the lock may be stopped, and others quicker each time: no wait need ever end by itself.
                    let late = deadline.is_some_and(Deadline::passed);
                    if late || !self.wait_for_room(lack, deadline, spin) {
                        return Err((put, Refused::Full(lack)));
                    }
                }
                Err(other) => return Err((put, other)),
            }
        }
    }

    /// Waits until there may be room; false if the deadline has come.
    pub(super) fn wait_for_room(&self, lack: Lack, deadline: Option<Deadline>, spin: &mut Spin) -> bool {
        use crate::bell::Waited;
        let head = &self.words().head;
        let gate = if lack.items { &head.slots } else { &head.room };
        let waited = gate.wait_slice(deadline, spin, || self.room_changed(lack));
        if waited == Waited::Slice {
            // A consumer may have died before it gave room back. What goes wrong is found by the next attempt.
            let _ = self.look_after();
        }
        waited != Waited::Deadline
    }

    pub(super) fn room_changed(&self, lack: Lack) -> bool {
        self.lack(lack.items) != lack || self.is_closed()
    }

    /// What a producer that finds no room remembers.
    fn lack(&self, items: bool) -> Lack {
        let words = self.words();
        Lack {
            items,
            ticket: words.head.ticket.load(Ordering::Acquire),
            taken: words.head.taken.load(Ordering::Acquire),
            freed: words.head.freed.load(Ordering::Acquire),
            acknowledged: words.done.acknowledged.load(Ordering::Acquire),
        }
    }

    /// How many of the frames there is room for, and their size. The caller holds the producers' lock.
    #[inline]
    fn fitting(&self, frames: &[u8], items: u64, ticket: u64, pos: u64) -> Result<(u64, u64), Refused> {
        let producers = &self.words().producers;
        let (mut seen_ticket, mut seen_taken) =
            (producers.seen_ticket.load(Ordering::Relaxed), producers.seen_taken.load(Ordering::Relaxed));
        let mut fits =
            self.count(frames, items, ticket.wrapping_sub(seen_ticket), pos.wrapping_sub(seen_taken));
        let mut lack = None;
        if fits.0 < items {
            let now = self.lack(false);
            (seen_ticket, seen_taken) = (now.ticket, now.taken);
            if seen_ticket > ticket || seen_taken > pos {
                let (found, limit) = (seen_ticket.max(seen_taken), ticket.max(pos));
                return Err(Trouble::Corrupt { what: "head", found, limit }.into());
            }
            producers.seen_ticket.store(seen_ticket, Ordering::Relaxed);
            producers.seen_taken.store(seen_taken, Ordering::Relaxed);
            fits = self.count(frames, items, ticket - seen_ticket, pos - seen_taken);
            let items = ticket - seen_ticket >= self.shape().max_items;
            lack = Some(Lack { items, ..now });
        }
        let lack = |ring: &Self| lack.unwrap_or_else(|| ring.lack(false));
        if fits.0 == 0 {
            return Err(Refused::Full(lack(self)));
        }
        if pos + fits.1 > producers.mapped.load(Ordering::Relaxed) {
            let before = self.lack(false);
            let mapped = self.map_until(pos, pos + fits.1)?;
            if mapped < pos + fits.1 {
                fits = fitting_in(frames, fits.0, mapped - pos);
                if fits.0 == 0 {
                    return Err(Refused::Full(before));
                }
            }
        }
        Ok(fits)
    }

    /// How many frames the bounds let in where so many items and bytes wait, and their size.
    #[inline]
    fn count(&self, frames: &[u8], items: u64, waiting: u64, bytes: u64) -> (u64, u64) {
        let shape = self.shape();
        let most = items.min(shape.max_items.saturating_sub(waiting));
        if shape.max_bytes == u64::MAX && most == items {
            return (items, frames.len() as u64);
        }
        if most == 0 {
            return (0, 0);
        }
        let (count, size) = fitting_in(frames, most, shape.max_bytes.saturating_sub(bytes));
        if count == 0 && bytes == 0 {
            // One that is larger than the bound has the queue for itself.
            return (1, frames_len(frames, 1) as u64);
        }
        (count, size)
    }

    /// Gives chunks to positions from the tail's `pos` up to `end`, as far as there are any; tells how far. Under the producers' lock.
    fn map_until(&self, pos: u64, end: u64) -> Result<u64, Trouble> {
        let (producers, shape) = (&self.words().producers, self.shape());
        let mut mapped = producers.mapped.load(Ordering::Relaxed);
        if mapped > BOUND || mapped < pos || !mapped.is_multiple_of(shape.chunk()) {
            return Err(Trouble::Corrupt { what: "map", found: mapped, limit: pos });
        }
        while mapped < end {
            let Some(chunk) = self.free_chunk()? else { break };
            let index = (mapped >> shape.chunk_shift) & (shape.map_len() - 1);
            self.memory.map(index).store(chunk, Ordering::Relaxed);
            crash_point!("queue.chunk.mapped");
            mapped += shape.chunk();
            producers.mapped.store(mapped, Ordering::Relaxed);
        }
        Ok(mapped)
    }

    /// A chunk with memory that nobody uses.
    fn free_chunk(&self) -> Result<Option<u32>, Trouble> {
        let (chunks, shape) = (&self.words().chunks, self.shape());
        self.recycle()?;
        let none = || chunks.warm.load(Ordering::Relaxed) == 0 && chunks.cold.load(Ordering::Relaxed) == 0;
        if shape.keeps() && none() && chunks.fresh.load(Ordering::Relaxed) >= shape.chunks {
            // What was acknowledged meanwhile may be all that is needed.
            if let Ok(held) = self.try_lock(Side::Consumers) {
                self.reclaim()?;
                drop(held);
                self.recycle()?;
            }
        }
        for warm in [true, false] {
            let len = if warm { &chunks.warm } else { &chunks.cold };
            let count = len.load(Ordering::Relaxed);
            if count == 0 || count > shape.chunks {
                continue;
            }
            let chunk = self.memory.free(warm, count - 1).load(Ordering::Relaxed);
            if chunk >= shape.chunks {
                return Err(impossible_chunk(chunk, shape));
            }
            if !warm {
                self.memory.reserve(chunk)?;
            }
            len.store(count - 1, Ordering::Relaxed);
            crash_point!("queue.chunk.taken");
            return Ok(Some(chunk));
        }
        let fresh = chunks.fresh.load(Ordering::Relaxed);
        if fresh >= shape.chunks {
            return Ok(None);
        }
        self.memory.reserve(fresh)?;
        chunks.fresh.store(fresh + 1, Ordering::Relaxed);
        Ok(Some(fresh))
    }

    /// Collects the chunks behind what is freed, and gives the memory of some back. Under the producers' lock.
    fn recycle(&self) -> Result<(), Trouble> {
        let (words, shape) = (self.words(), self.shape());
        let (producers, chunks) = (&words.producers, &words.chunks);
        let mapped = producers.mapped.load(Ordering::Relaxed);
        let mut recycled = producers.recycled.load(Ordering::Relaxed);
        if recycled > mapped || !recycled.is_multiple_of(shape.chunk()) {
            return Err(Trouble::Corrupt { what: "map", found: recycled, limit: mapped });
        }
        // Acquire: consumers have copied out what they free.
        let order = if planted(Bug::RelaxedFreed) { Ordering::Relaxed } else { Ordering::Acquire };
        let freed = words.head.freed.load(order).min(mapped) & !(shape.chunk() - 1);
        let mut warm = chunks.warm.load(Ordering::Relaxed);
        while recycled < freed && warm < shape.chunks {
            let chunk = self.chunk_at(recycled)?;
            self.memory.free(true, warm).store(chunk, Ordering::Relaxed);
            warm += 1;
            chunks.warm.store(warm, Ordering::Relaxed);
            crash_point!("queue.chunk.freed");
            recycled += shape.chunk();
            producers.recycled.store(recycled, Ordering::Relaxed);
        }
        let used = few(mapped.saturating_sub(recycled) >> shape.chunk_shift);
        while warm > used.max(WARM) && warm <= shape.chunks {
            warm -= 1;
            let chunk = self.memory.free(true, warm).load(Ordering::Relaxed);
            let cold = chunks.cold.load(Ordering::Relaxed);
            if chunk >= shape.chunks || cold >= shape.chunks {
                return Err(impossible_chunk(chunk, shape));
            }
            chunks.warm.store(warm, Ordering::Relaxed);
            self.memory.discard(chunk);
            crash_point!("queue.chunk.discarded");
            self.memory.free(false, cold).store(chunk, Ordering::Relaxed);
            chunks.cold.store(cold + 1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// A consumer that has freed a chunk: what producers do when they need one, should none come.
    #[cold]
    pub(super) fn tidy(&self) {
        if let Ok(held) = self.try_lock(Side::Producers) {
            // It saves memory only.
            let _ = self.recycle();
            drop(held);
        }
    }

    /// A producer died under the lock: what it wrote behind the tail does not count, and the lists of free chunks are
    /// made anew from what is in use.
    fn repair_producers(&self) -> Result<(), Trouble> {
        let (words, shape) = (self.words(), self.shape());
        let (producers, chunks) = (&words.producers, &words.chunks);
        let ticket = words.tail.ticket.load(Ordering::Relaxed);
        if shape.heap && producers.noted_for.load(Ordering::Acquire) == ticket.wrapping_add(1) {
            // It had not come to its commit: nobody will ever decode that message.
            self.memory.revoke(&[producers.noted.load(Ordering::Relaxed)]);
            crash_point!("queue.repair.revoked");
        }
        let (_, pos) = Self::entry(&producers.entries, ticket)?;
        words.tail.limit.store(pos, Ordering::Relaxed);
        let (recycled, mapped) =
            (producers.recycled.load(Ordering::Relaxed), producers.mapped.load(Ordering::Relaxed));
        let used = mapped.wrapping_sub(recycled);
        if used > u64::from(shape.chunks) << shape.chunk_shift || !used.is_multiple_of(shape.chunk()) {
            return Err(Trouble::Corrupt { what: "map", found: mapped, limit: recycled });
        }
        let fresh = chunks.fresh.load(Ordering::Relaxed).min(shape.chunks);
        let mut in_use = vec![false; fresh as usize];
        for chunk in 0..used >> shape.chunk_shift {
            let chunk = self.chunk_at(recycled + (chunk << shape.chunk_shift))?;
            if let Some(in_use) = in_use.get_mut(chunk as usize) {
                *in_use = true;
            }
        }
        chunks.warm.store(0, Ordering::Relaxed);
        chunks.cold.store(0, Ordering::Relaxed);
        let mut cold = 0;
        for chunk in (0..fresh).filter(|&chunk| !in_use[chunk as usize]) {
            self.memory.discard(chunk);
            self.memory.free(false, cold).store(chunk, Ordering::Relaxed);
            cold += 1;
        }
        crash_point!("queue.repair.chunks");
        chunks.cold.store(cold, Ordering::Relaxed);
        Ok(())
    }

    /// Closes the queue: nothing more is accepted.
    ///
    /// # Errors
    ///
    /// The producers' lock cannot be had.
    pub fn close(&self, deadline: Option<Deadline>) -> Result<(), Trouble> {
        let held = self.lock(Side::Producers, Patience::Until(deadline)).map_err(Trouble::of_no_lock)?;
        crash_point!("queue.close.locked");
        // Release: whoever sees this sees every commit before.
        self.words().tail.closed.store(1, Ordering::Release);
        crash_point!("queue.close.closed");
        drop(held);
        self.announce_closed();
        Ok(())
    }

    /// Wakes everybody, since the queue is closed.
    pub(super) fn announce_closed(&self) {
        if planted(Bug::QueueCloseWithoutRing) {
            return;
        }
        let words = self.words();
        for gate in [&words.tail.items, &words.head.slots, &words.head.room, &words.done.gate] {
            gate.ring(ALL);
        }
    }

    /// Whether nothing more is accepted.
    pub fn is_closed(&self) -> bool {
        self.words().tail.closed.load(Ordering::Acquire) != 0
    }
}

#[cold]
fn impossible_chunk(chunk: u32, shape: &Shape) -> Trouble {
    Trouble::Corrupt { what: "chunk", found: chunk.into(), limit: shape.chunks.into() }
}

/// The encoded length of the item whose frame starts here; the frames are this process's own.
fn body_len(frames: &[u8]) -> u64 {
    frames.first_chunk().map_or(0, |header| u64::from_le_bytes(*header))
}

/// The size of the first `count` frames.
pub(super) fn frames_len(frames: &[u8], count: u64) -> usize {
    fitting_in(frames, count, u64::MAX).1 as usize
}

/// How many frames, `most` at the most, fit into so many bytes, and their size.
fn fitting_in(frames: &[u8], most: u64, room: u64) -> (u64, u64) {
    let (mut count, mut size) = (0, 0);
    while count < most {
        let next = size + frame_size(body_len(&frames[size as usize..]));
        if next > room {
            break;
        }
        (count, size) = (count + 1, next);
    }
    (count, size)
}
