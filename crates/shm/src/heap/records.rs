//! From a block that one process owns to one that many hold, and its end.
//!
//! # Protocol
//!
//! * Share a block that this process owns: take a record (swap its word from `Free` to `Owned`); write into it which
//!   block it is about, and this process into its first slot; swap its word to `Shared`; swap the block's word to
//!   `Held(record)`: **the commit**. From here on nothing gives out a `&mut` to the block, in any process.
//! * Finish a record that this process owns after an [`end`](super::holders::end): if its block's word is
//!   `Held(record)`, swap that to `Owned` and free the block; swap the record's word to `Free`.
//!
//! # Invariants
//!
//! 1. A block's word is `Held(record)` only while the record is `Shared`, or owned by a process that finishes it.
//! 2. Of a record in the hands of who sets it up or finishes it, no slot but the first can be taken.
//!
//! # When a process dies
//!
//! Before the commit the block is still owned by the dead process, and freed as such; the record either is owned by
//! it, or shared and held by it alone. A sweep takes it over and finishes it: the block is not `Held` by it, so nothing
//! else happens. While finishing: the record is owned by the dead process, and a sweep takes it over; the block is
//! `Held(record)` still, or owned by the dead process, or free already.

use super::{
    arena::{Arena, Block},
    holders::{COLUMNS, Records},
    shape::ALIGN,
    sweep,
    word::{FREE, Life, held},
};
use crate::{Error, error::Cause};
use core::sync::atomic::Ordering;
use procession_sys::crash_point;

impl Arena {
    /// Allocates a block; tells whether it is known to be all zero.
    #[inline]
    pub(crate) fn allocate(&self, bytes: usize, align: usize) -> Result<(Block, bool), Error> {
        match self.allocate_once(bytes, align) {
            Err(error) if error.is_full() => self.allocate_after_all(bytes, align, error),
            allocated => allocated,
        }
    }

    #[inline]
    fn allocate_once(&self, bytes: usize, align: usize) -> Result<(Block, bool), Error> {
        match super::shape::class(bytes, align) {
            Some(class) => Ok((self.cached(|cache, me| cache.allocate(self, me, class))??, false)),
            None => self.allocate_large(bytes, align),
        }
    }

    /// Tries once more without the empty slabs that this process keeps for later.
    #[cold]
    fn allocate_after_all(&self, bytes: usize, align: usize, full: Error) -> Result<(Block, bool), Error> {
        let shed = self.cached(|cache, me| cache.shed(self, me))?;
        if shed { self.allocate_once(bytes, align) } else { Err(full) }
    }

    #[cold]
    fn allocate_large(&self, bytes: usize, align: usize) -> Result<(Block, bool), Error> {
        if align > ALIGN {
            let what = format!("an alignment of {align} bytes is more than {ALIGN}");
            return Err(Error::new("allocate in", self.name(), Cause::Invalid { what }));
        }
        let me = self.me()?;
        let run = self.take_spans(me, bytes.div_ceil(super::shape::SPAN).max(1))?;
        crash_point!("heap.allocate.large");
        let start = self.shape().data + run.first as usize * super::shape::SPAN;
        if let Err(error) = self.reserve(start, bytes) {
            self.give_spans(me, run.first);
            return Err(error);
        }
        Ok((Block::large(run.first), run.clean))
    }

    /// Frees a block that `me`, this process, owns.
    pub(crate) fn free(&self, me: Life, block: Block) {
        match block.index() {
            // The membership is there, so this cannot fail; if it did, a sweep would find the block.
            Some(index) => {
                let _ = self.cached(|cache, _| cache.free(self, me, block.span() as u32, index));
            }
            None => self.give_spans(me, block.span() as u32),
        }
    }

    /// As [`free`](Arena::free), without the cache, for use while it may be locked.
    pub(crate) fn free_apart(&self, me: Life, block: Block) {
        match block.index() {
            Some(index) => {
                let span = block.span() as u32;
                let word = self.word(span, index);
                let _ = word.compare_exchange(me.owned(), FREE, Ordering::AcqRel, Ordering::Relaxed);
                self.span(span).remote.store(1, Ordering::Release);
            }
            None => self.give_spans(me, block.span() as u32),
        }
    }

    /// Turns a block that this process owns into one that is held: by this process, in column 0 of the record whose
    /// number comes back. If it fails the block is still owned.
    pub(crate) fn share(&self, me: Life, block: Block, bytes: usize, text: bool) -> Result<u32, Error> {
        let number = self.take_record(me)?;
        crash_point!("heap.share.taken");
        let record = self.record_of(number);
        record.block.store(block.number(), Ordering::Relaxed);
        record.bytes.store(bytes as u64, Ordering::Relaxed);
        record.text.store(text.into(), Ordering::Relaxed);
        self.slot(number, 0).store(me.owned(), Ordering::Relaxed);
        crash_point!("heap.share.set");
        let shared = self.token().shared(1);
        // Both are this process's, and it lives: the swaps cannot fail.
        let ours = record.word.compare_exchange(me.owned(), shared, Ordering::AcqRel, Ordering::Relaxed);
        debug_assert!(ours.is_ok(), "a record of this process");
        crash_point!("heap.share.shared");
        let owner = self.owner(block);
        let ours = owner.compare_exchange(me.owned(), held(number), Ordering::AcqRel, Ordering::Relaxed);
        debug_assert!(ours.is_ok(), "a block of this process");
        crash_point!("heap.share.held");
        Ok(number)
    }

    fn take_record(&self, me: Life) -> Result<u32, Error> {
        let all = self.shape().records;
        let control = self.control();
        let bounded = |word: u64| u32::try_from(word).unwrap_or(all).min(all);
        let take = |number: u32| {
            let word = self.record(number);
            word.load(Ordering::Relaxed) == FREE
                && word.compare_exchange(FREE, me.owned(), Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        let low = bounded(control.record_low.load(Ordering::Relaxed));
        let top = bounded(control.record_top.load(Ordering::Acquire));
        let mut found = (low..top).find(|&number| take(number));
        while found.is_none() {
            let seen = control.record_top.load(Ordering::Acquire);
            let top = bounded(seen);
            if top == all {
                sweep::everything(self, me);
                found = (0..all).find(|&number| take(number));
                break;
            }
            // The top is raised before a record is taken, so that every sweep looks at it.
            let raised = control.record_top.compare_exchange(
                seen,
                u64::from(top) + 1,
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
            found = raised.is_ok().then_some(top).filter(|&number| take(number));
        }
        let number = found.ok_or_else(|| {
            let what = format!("all of its {all} places for shared blocks are taken");
            Error::new("share a block of", self.name(), Cause::Invalid { what })
        })?;
        control.record_low.store(u64::from(number) + 1, Ordering::Relaxed);
        Ok(number)
    }

    /// Ends what a record without holders, which this process owns, is about.
    pub(crate) fn finish(&self, me: Life, number: u32) {
        let record = self.record_of(number);
        // Of one who died while setting the record up.
        self.slot(number, 0).store(FREE, Ordering::Relaxed);
        let block = Block::from_number(record.block.load(Ordering::Acquire));
        if self.extent(block).is_some() {
            let owner = self.owner(block);
            let ours =
                owner.compare_exchange(held(number), me.owned(), Ordering::AcqRel, Ordering::Relaxed).is_ok();
            crash_point!("heap.finish.block");
            if ours {
                self.free_apart(me, block);
            }
        }
        crash_point!("heap.finish.freed");
        let _ = record.word.compare_exchange(me.owned(), FREE, Ordering::AcqRel, Ordering::Relaxed);
        self.control().record_low.fetch_min(number.into(), Ordering::Relaxed);
    }

    /// A slot that a parcel names; `None` if it lies outside.
    pub(crate) fn slot_of(&self, record: u64, column: u64) -> Option<(u32, u32)> {
        let record = u32::try_from(record).ok().filter(|&record| record < self.shape().records)?;
        let column = u32::try_from(column).ok().filter(|&column| column < COLUMNS)?;
        Some((record, column))
    }
}
