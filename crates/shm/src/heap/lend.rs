//! A block that its owner lends to the ends of a ring, which write to parts of it: [`Lending`], [`Loan`], [`LentPart`].
//!
//! The block does not move. As long as it is lent it is in a message of the ring that nobody receives, so that it lives as
//! long as any end of the ring does; the owner's handle is closed. A part is in use as long as somebody has its lock.
//!
//! | words and locks | state |
//! |---|---|
//! | the block's word `Message(ring, token)` | lent: whoever has the lock of a part may use that |
//! | `Message(ring, token + 1)` | closed: no part is given out any more, some may be in use |
//! | the lock of `token + 2 + n` (see `transit`) | somebody is in part `n` |
//!
//! # Protocol
//!
//! * Lend: take tokens for the loan, its closing and each part; swap the block's word from `Owned` to
//!   `Message(ring, token)`; the handle is closed.
//! * Enter a part: lock it through a description of one's own, **then** look that the block's word still says that it is lent.
//! * Leave it: touch the word (so that the next one to swap it sees what was written), let go of the lock.
//! * Take back: swap the word to `Message(ring, token + 1)`, **then** wait until no part is locked; swap it to `Owned`; the
//!   handle is open.
//!
//! # Invariants
//!
//! 1. Parts are disjoint ranges, and the kernel gives the lock of one to one description at a time: no two are in one part,
//!    whoever is told to do it again.
//! 2. Who entered before the word was swapped is waited for; who locked after it finds the word changed, and does not enter.
//!    The kernel orders its answers about locks, and the swap and the look are on either side of them.
//! 3. The word is not the owner's before nobody is in a part. So a sweep that finds the owner dead does not free the block
//!    while somebody writes to it: who does has an end of the ring.
//!
//! # When a process dies
//!
//! * Who is in a part: the kernel lets go of the lock when none of its threads runs any more. What it had written stays, be it
//!   half of what it meant to.
//! * The owner: the block stays in the message until the last end of the ring is gone, and is freed by a sweep after that.
//! * A forked copy of either has the values and does nothing with them; the copies of its parent's locks are closed by a hook.
#![expect(unsafe_code, reason = "references into a part of a block")]

use super::{
    HeapRing, Plain, SharedVec,
    arena::{Arena, Block, forks},
    ring::Core,
    transit::{hold, is_any_held, let_go},
    word::Token,
};
use crate::{Error, error::Cause};
use core::{fmt, marker::PhantomData, ops::Range, ptr::NonNull, sync::atomic::Ordering, time::Duration};
use procession_sys::{Deadline, OverFork, crash_point};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    thread::sleep,
};

const LEND: &str = "lend a block of";
const ENTER: &str = "use a part of a block of";
/// How long to wait for a part that somebody is in. Who died in it is out of it by the time that its death is known, but for
/// a child that it was just about to make, which keeps its descriptors until it executes its program.
const PATIENCE: Duration = Duration::from_secs(2);
/// The longest pause between two looks.
const PAUSE: Duration = Duration::from_millis(5);

/// The descriptions that hold the locks of the parts which this process is in, by the parts' tokens and arenas.
pub(super) static HELD: OverFork<BTreeMap<(usize, u64), OwnedFd>> = OverFork::new(BTreeMap::new());

/// Looks again and again until `done`, less often with time; false if that took longer than `patience`.
fn look_until(
    patience: Option<Duration>,
    mut done: impl FnMut() -> Result<bool, Error>,
) -> Result<bool, Error> {
    let deadline = patience.map(Deadline::after);
    let mut pause = Duration::from_micros(20);
    loop {
        if done()? {
            return Ok(true);
        }
        if deadline.is_some_and(|deadline| deadline.passed()) {
            return Ok(false);
        }
        sleep(pause);
        pause = PAUSE.min(pause * 2);
    }
}

/// The elements of a [`SharedVec`], lent to the ends of a ring until this is dropped, which waits until nobody is in a part of
/// them. Made by [`HeapRing::lend`].
///
/// Where it is leaked, the elements stay lent: the handle is empty for good, and the block is freed after the ring's end.
#[must_use = "dropping it ends the loan"]
pub struct Lending<'a, T: Plain> {
    elements: &'a mut SharedVec<T>,
    core: Arc<Core>,
    loan: Loan,
}

/// What another end of the ring must know to enter a part: plain numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Loan {
    block: u64,
    token: u64,
    /// Elements in all, and in each part.
    len: u64,
    each: u64,
}

impl Loan {
    /// How many parts there are.
    #[must_use]
    pub fn parts(&self) -> u64 {
        self.len.div_ceil(self.each.max(1))
    }

    /// Which elements part `index` has. Empty for what is none.
    #[must_use]
    pub fn range(&self, index: u64) -> Range<usize> {
        let start = index.saturating_mul(self.each).min(self.len);
        let end = start.saturating_add(self.each).min(self.len);
        start as usize..end as usize
    }

    fn lent(&self) -> Token {
        Token::new(self.token)
    }

    fn closed(&self) -> Token {
        Token::new(self.token + 1)
    }

    fn part(&self, index: u64) -> Token {
        Token::new(self.token + 2 + index)
    }
}

impl HeapRing {
    /// Lends the elements of a block to the ring's ends, in parts of `each`, the last one of what is left.
    ///
    /// # Errors
    ///
    /// They lie in another heap, were sent away, or this end of the ring is gone.
    ///
    /// # Panics
    ///
    /// `each` is 0.
    pub fn lend<'a, T: Plain>(
        &self,
        elements: &'a mut SharedVec<T>,
        each: usize,
    ) -> Result<Lending<'a, T>, Error> {
        assert!(each > 0, "parts have elements");
        let core = self.core().clone();
        let fail = |what: &str| Error::new(LEND, core.arena.name(), Cause::Invalid { what: what.to_owned() });
        if !Arc::ptr_eq(&core.arena, &elements.owned.arena) {
            return Err(fail("it lies in another heap than the one that this ring was made on"));
        }
        if !self.is_here() {
            return Err(fail("this end of the ring is gone"));
        }
        let (len, each) = (elements.len() as u64, each as u64);
        let mut loan = Loan { block: elements.owned.block.number(), token: 0, len, each };
        // Release: as for a message's.
        loan.token = core.arena.control().tokens.fetch_add(loan.parts() + 2, Ordering::AcqRel) + 1;
        if !elements.owned.lend(core.message(loan.lent())) {
            return Err(fail("it was sent to another process"));
        }
        crash_point!("heap.lend.lent");
        Ok(Lending { elements, core, loan })
    }

    /// Enters a part of what was lent to this ring.
    ///
    /// # Errors
    ///
    /// The loan is over; somebody else is in that part; there is no such part; no descriptors, or no `/proc`.
    ///
    /// # Safety
    ///
    /// `loan` was made by [`lend`](HeapRing::lend) of another end of this ring, for elements of type `T`.
    pub unsafe fn enter<T: Plain>(&self, loan: Loan, index: u64) -> Result<LentPart<T>, Error> {
        let core = self.core();
        let fail =
            |what: &str| Error::new(ENTER, core.arena.name(), Cause::Invalid { what: what.to_owned() });
        let range = loan.range(index);
        if range.is_empty() {
            return Err(fail("there is no such part"));
        }
        let number = (Arc::as_ptr(&core.arena).addr(), loan.part(index).number());
        let locked = look_until(Some(PATIENCE), || {
            // No fork happens between the lock and the note of it.
            let mut held = HELD.lock();
            if held.contains_key(&number) {
                return Ok(false);
            }
            let description = hold(ENTER, &core.arena, loan.part(index))?;
            Ok(description.map(|description| held.insert(number, description)).is_some())
        })?;
        if !locked {
            return Err(fail("somebody else is in this part of it"));
        }
        let lock = Lock { number, part: loan.part(index), forks: forks() };
        crash_point!("heap.lend.locked");
        let block = Block::from_number(loan.block);
        let over = || fail("the loan is over");
        let (offset, capacity) = core.arena.extent(block).ok_or_else(over)?;
        if core.arena.owner(block).fetch_add(0, Ordering::AcqRel) != core.message(loan.lent()) {
            return Err(over());
        }
        // From here on the block stays what it is.
        let start = core.arena.address(offset).cast::<T>();
        if range.end.checked_mul(size_of::<T>()).is_none_or(|bytes| bytes > capacity) || !start.is_aligned() {
            return Err(over());
        }
        // SAFETY: the range lies within the block, as just checked.
        let start = unsafe { start.add(range.start) };
        crash_point!("heap.lend.entered");
        Ok(LentPart { arena: core.arena.clone(), block, lock, start, range, elements: PhantomData })
    }
}

impl<T: Plain> Lending<'_, T> {
    /// What the other ends must know.
    #[must_use]
    pub fn loan(&self) -> Loan {
        self.loan
    }
}

impl<T: Plain> Drop for Lending<'_, T> {
    fn drop(&mut self) {
        let (arena, loan) = (&self.core.arena, self.loan);
        let (lent, closed) = (self.core.message(loan.lent()), self.core.message(loan.closed()));
        if self.elements.owned.is_forked() {
            return;
        }
        let word = arena.owner(self.elements.owned.block);
        if word.compare_exchange(lent, closed, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            // Damaged: it stays away.
            return;
        }
        crash_point!("heap.lend.closed");
        let _ = look_until(None, || Ok(!is_any_held(arena.as_fd(), loan.part(0), loan.parts().max(1))));
        crash_point!("heap.lend.alone");
        self.elements.owned.take_back(closed);
    }
}

impl<T: Plain> fmt::Debug for Lending<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lending").field("loan", &self.loan).finish_non_exhaustive()
    }
}

/// The lock of a part.
struct Lock {
    number: (usize, u64),
    part: Token,
    forks: u32,
}

impl Drop for Lock {
    fn drop(&mut self) {
        if self.forks != forks() {
            return;
        }
        // Under the lock over forks: no child gets a copy that nobody notes any more.
        let mut held = HELD.lock();
        if let Some(description) = held.remove(&self.number) {
            let_go(description, self.part);
        }
    }
}

/// A part of lent elements that this process is in: nobody else accesses them until it is dropped.
#[must_use = "dropping a part gives it back"]
pub struct LentPart<T: Plain> {
    arena: Arc<Arena>,
    block: Block,
    lock: Lock,
    start: NonNull<T>,
    range: Range<usize>,
    elements: PhantomData<T>,
}

impl<T: Plain> LentPart<T> {
    /// Which elements these are, by their numbers in the whole.
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// The elements.
    ///
    /// # Panics
    ///
    /// In a forked copy of the process.
    pub fn elements(&mut self) -> &mut [T] {
        assert!(self.lock.forks == forks(), "this part belongs to the process that this one was forked from");
        // SAFETY: the part lies within the block, is aligned, and any bytes are elements (`Plain`). This process alone is in
        // it (invariant 1), with this value, which is borrowed exclusively.
        unsafe { core::slice::from_raw_parts_mut(self.start.as_ptr(), self.range.len()) }
    }
}

impl<T: Plain> Drop for LentPart<T> {
    fn drop(&mut self) {
        if self.lock.forks == forks() {
            // The block is lent until the lock goes. Who swaps its word next sees what was written.
            self.arena.owner(self.block).fetch_add(0, Ordering::AcqRel);
            crash_point!("heap.lend.left");
        }
    }
}

impl<T: Plain> fmt::Debug for LentPart<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LentPart").field("range", &self.range).finish_non_exhaustive()
    }
}
