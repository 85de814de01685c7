//! Spans: how the arena is given out, and how large blocks are made of it.
//!
//! | word of a span | meaning |
//! |---|---|
//! | `Free` | nobody's |
//! | `Owned`, `Transit`, `Message`, `Held` | the first of the `len` spans of a large block |
//! | `Tail(head)` | another one of that block |
//! | `Slab` | small blocks: see `cache` |
//!
//! # Protocol
//!
//! * Take `n` spans: swap the first from `Free` to `Owned` by this process (**the commit**); store `len` = n; swap the
//!   others from `Free` to `Tail(head)`. If one of them is not free, give back.
//! * Give back: swap the others from `Tail(head)` to `Free`, the last first; store `len` = 0; swap the first to
//!   `Free` (**the commit**).
//!
//! # Invariants
//!
//! 1. `Tail(head)` only while the word of `head` says that it is a large block, and within its `len`.
//! 2. Spans from `span_top` on are free: the top is raised before one is taken.
//! 3. `dirty` is 0 only where every byte of the span is zero.
//!
//! # When a process dies
//!
//! In the middle of either: the first span is owned by a dead process, and `len` is as large as the number of tails, or
//! larger. A sweep takes the first span over by a swap, and gives back. What was given back already and belongs to
//! another block by now is not touched, since the swap finds another word.

use super::{
    arena::Arena,
    shape::SPAN,
    sweep,
    word::{FREE, Life, Word, tail},
};
use crate::{Error, error::Cause};
use core::sync::atomic::Ordering;
use procession_sys::crash_point;

/// Free spans keep their memory, for the next one, up to so many (32 MiB): to touch fresh memory costs ten times as
/// much as to write to it.
const KEEP: u64 = 512;
/// So many spans that are used for the first time make a sweep worth while, or a quarter of all, if that is more.
const GROWTH: u32 = 256;

/// Some spans that this process owns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) first: u32,
    /// Whether all of it is zero.
    pub(crate) clean: bool,
}

impl Arena {
    /// Takes `n` spans in a row.
    pub(crate) fn take_spans(&self, me: Life, n: usize) -> Result<Run, Error> {
        let all = self.shape().spans;
        let n = u32::try_from(n).ok().filter(|&n| n <= all).ok_or_else(|| self.full())?;
        let control = self.control();
        let bounded = |word: u64| u32::try_from(word).unwrap_or(all).min(all);
        let top = || bounded(control.span_top.load(Ordering::Acquire));
        let low = bounded(control.span_low.load(Ordering::Relaxed));
        if let Some(run) = self.search(me, low, top(), n) {
            if n == 1 {
                control.span_low.store(u64::from(run.first) + 1, Ordering::Relaxed);
            }
            return Ok(run);
        }
        // Before the heap grows much, what the dead left is used again.
        let grown = self.grown.fetch_add(n, Ordering::Relaxed).saturating_add(n);
        if grown > GROWTH.max(top() / 4) {
            sweep::everything(self, me);
            if let Some(run) = self.search(me, 0, top(), n) {
                return Ok(run);
            }
        }
        loop {
            let seen = control.span_top.load(Ordering::Acquire);
            let first = bounded(seen);
            if all - first < n {
                break;
            }
            let raised = u64::from(first + n);
            if control.span_top.compare_exchange(seen, raised, Ordering::AcqRel, Ordering::Relaxed).is_ok()
                && let Some(run) = self.take(me, first, n)
            {
                return Ok(run);
            }
        }
        sweep::everything(self, me);
        control.span_top.fetch_max(all.into(), Ordering::AcqRel);
        self.search(me, 0, all, n).ok_or_else(|| self.full())
    }

    fn full(&self) -> Error {
        let cap = u64::from(self.shape().spans) * SPAN as u64;
        Error::new("allocate in", self.name(), Cause::Full { cap })
    }

    /// Looks for `n` free spans in a row between `from` and `to`, and takes them.
    fn search(&self, me: Life, from: u32, to: u32, n: u32) -> Option<Run> {
        let mut first = from;
        while first < to && to - first >= n {
            let word = |span: &u32| self.span(*span).word.load(Ordering::Relaxed);
            let taken = (first..first + n).find(|span| word(span) != FREE);
            first = match taken {
                Some(span) => span + self.width(span, word(&span)),
                None => match self.take(me, first, n) {
                    Some(run) => return Some(run),
                    None => first + 1,
                },
            };
        }
        None
    }

    /// How many spans to pass over when looking for free ones: a guess, since others are at work.
    fn width(&self, span: u32, word: u64) -> u32 {
        match Word::read(word) {
            Word::Owned(_) | Word::Transit(_) | Word::Message { .. } | Word::Held(_) => {
                self.span(span).len.load(Ordering::Relaxed).clamp(1, self.shape().spans - span)
            }
            _ => 1,
        }
    }

    /// Takes just these spans, if they are free.
    fn take(&self, me: Life, first: u32, n: u32) -> Option<Run> {
        let head = self.span(first);
        head.word.compare_exchange(FREE, me.owned(), Ordering::AcqRel, Ordering::Relaxed).ok()?;
        crash_point!("heap.take.head");
        head.len.store(n, Ordering::Release);
        crash_point!("heap.take.len");
        for span in first + 1..first + n {
            let word = &self.span(span).word;
            if word.compare_exchange(FREE, tail(first), Ordering::AcqRel, Ordering::Relaxed).is_err() {
                self.untake(me, first, span - first);
                return None;
            }
            crash_point!("heap.take.tail");
        }
        let mut kept = 0;
        for span in first..first + n {
            kept += u64::from(self.span(span).dirty.swap(1, Ordering::Relaxed) != 0);
        }
        if kept > 0 {
            let less = |all: u64| Some(all.saturating_sub(kept));
            let _ = self.control().kept.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
        Some(Run { first, clean: kept == 0 })
    }

    /// Gives back the first `n` spans of a block that this process owns. They are all that it has.
    fn untake(&self, me: Life, first: u32, n: u32) {
        for span in (first + 1..first + n).rev() {
            let word = &self.span(span).word;
            let _ = word.compare_exchange(tail(first), FREE, Ordering::AcqRel, Ordering::Relaxed);
            crash_point!("heap.give.tail");
        }
        let head = self.span(first);
        head.len.store(0, Ordering::Release);
        crash_point!("heap.give.len");
        let _ = head.word.compare_exchange(me.owned(), FREE, Ordering::AcqRel, Ordering::Relaxed);
        crash_point!("heap.give.head");
    }

    /// Gives back a large block that this process owns.
    pub(crate) fn give_spans(&self, me: Life, first: u32) {
        // What came from a dead process may have no length yet, and no tails then; or fewer tails than its length says, if
        // it died while it took or gave them: they are taken upwards and given downwards, so those that are left come
        // first. What lies behind may be somebody else's by now.
        let most = self.span(first).len.load(Ordering::Acquire).clamp(1, self.shape().spans - first);
        let mut n = 1;
        while n < most && self.span(first + n).word.load(Ordering::Acquire) == tail(first) {
            n += 1;
        }
        let control = self.control();
        let kept = control.kept.load(Ordering::Relaxed);
        if kept.saturating_add(n.into()) > KEEP {
            self.punch(first, n);
        } else {
            control.kept.fetch_add(n.into(), Ordering::Relaxed);
        }
        self.untake(me, first, n);
        control.span_low.fetch_min(first.into(), Ordering::Relaxed);
    }

    /// Gives the memory of spans that this process owns back to the system.
    fn punch(&self, first: u32, n: u32) {
        let start = self.shape().data + first as usize * SPAN;
        if self.segment().discard(start..start + n as usize * SPAN).is_ok() {
            crash_point!("heap.give.discarded");
            (first..first + n).for_each(|span| self.span(span).dirty.store(0, Ordering::Relaxed));
        }
    }

    /// Gives the memory of all free spans back to the system.
    pub(crate) fn trim(&self, me: Life) {
        let all = self.shape().spans;
        let top = u32::try_from(self.control().span_top.load(Ordering::Acquire)).unwrap_or(all).min(all);
        for first in 0..top {
            let span = self.span(first);
            let idle = span.word.load(Ordering::Relaxed) == FREE && span.dirty.load(Ordering::Relaxed) != 0;
            if idle && self.take(me, first, 1).is_some() {
                self.punch(first, 1);
                self.untake(me, first, 1);
            }
        }
        self.control().span_low.store(0, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    #![expect(unsafe_code, reason = "bytes of the arena")]

    use super::*;
    use crate::heap::shape::Shape;

    /// What one leaves that dies while it takes or gives: a length of four spans, and fewer tails.
    #[test]
    fn giving_back_what_a_dead_one_had_discards_nothing_of_who_has_the_rest_by_now() {
        let arena = Arena::new(Shape::of_spans(8).unwrap(), true).unwrap();
        let me = arena.me().unwrap();
        let dead = arena.take_spans(me, 4).unwrap().first;
        for span in dead + 2..dead + 4 {
            arena.span(span).word.store(FREE, Ordering::Relaxed);
        }
        let mine = arena.take(me, dead + 2, 2).unwrap().first;
        // SAFETY: the first byte of a span of the arena, which is mapped and this thread's alone.
        let byte = |span: u32| unsafe { arena.address(arena.shape().data + span as usize * SPAN).as_mut() };
        *byte(dead) = 7;
        *byte(mine) = 8;
        // Enough is kept: what is given back is discarded.
        arena.control().kept.store(KEEP, Ordering::Relaxed);
        arena.give_spans(me, dead);
        assert_eq!((*byte(dead), *byte(mine)), (0, 8));
        assert_eq!(arena.span(mine).word.load(Ordering::Relaxed), me.owned());
        assert_eq!(arena.span(dead).word.load(Ordering::Relaxed), FREE);
    }
}
