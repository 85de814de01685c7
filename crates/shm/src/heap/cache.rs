//! Small blocks: slabs, and what this process knows of its own.
//!
//! A *slab* is a span that is cut into blocks of one class. One process allocates from it, its owner; anybody may own
//! and free a block in it. The lists of free blocks are in the owner's own memory, and hints only: the truth is each
//! block's word.
//!
//! # Protocol
//!
//! * Make a slab: take a span; swap its word from `Owned` to `Slab(class, me)`: **the commit**.
//! * Allocate: swap the word of a block that the list names from `Free` to `Owned`: **the commit**. Only the slab's owner
//!   does so.
//! * Free: swap the block's word to `Free`: **the commit**. Who does not own the slab then sets the slab's `remote`, as a
//!   hint that the owner's list is short of something.
//! * Give a slab up: where all its words are free, swap its word to `Free`, else to an abandoned one, which carries a
//!   token of its own. Whoever needs a slab of that class swaps that for its own.
//!
//! # Invariants
//!
//! 1. The words of a span that is no slab are free, all of them: so a slab needs no set-up.
//! 2. The cache names blocks of slabs whose word says that this process owns them. Nobody changes that word while
//!    this process lives.
//!
//! # When a process dies
//!
//! Its list is gone with it. Its blocks are freed by a sweep, and its slabs are abandoned by it.

use super::{
    arena::{Arena, Block},
    hold::Hold,
    holders::Records,
    shape::{SIZES, SPAN, blocks},
    word::{FREE, Life, Word},
};
use crate::Error;
use core::sync::atomic::{Ordering, fence};
use procession_sys::crash_point;
use std::{collections::BTreeMap, sync::Weak};

/// How many slabs of a class are looked at before a new one is made.
const LOOKS: usize = 64;

/// A slab of this process.
struct Slab {
    span: u32,
    /// Blocks that are free, and perhaps some that are not.
    free: Vec<u16>,
}

/// The slabs of one class.
struct Class {
    slabs: Vec<Slab>,
    /// Where to look first.
    at: usize,
}

/// What this process has of an arena.
pub(crate) struct Cache {
    classes: [Class; SIZES.len()],
    /// Its holds on read-only blocks, by record.
    pub(super) holds: BTreeMap<u32, Weak<Hold>>,
}

impl Cache {
    pub(crate) const fn new() -> Cache {
        Cache { classes: [const { Class { slabs: Vec::new(), at: 0 } }; SIZES.len()], holds: BTreeMap::new() }
    }

    /// Allocates a block.
    #[inline]
    pub(crate) fn allocate(&mut self, arena: &Arena, me: Life, class: usize) -> Result<Block, Error> {
        loop {
            let known = &mut self.classes[class];
            if let Some(slab) = known.slabs.get_mut(known.at)
                && let Some(index) = slab.free.pop()
            {
                let index = usize::from(index);
                let word = arena.word(slab.span, index);
                if word.compare_exchange(FREE, me.owned(), Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                    crash_point!("heap.allocate.owned");
                    return Ok(Block::small(slab.span, index));
                }
            } else {
                known.find(arena, me, class)?;
            }
        }
    }

    /// Frees a block that this process owns.
    #[inline]
    pub(crate) fn free(&mut self, arena: &Arena, me: Life, span: u32, index: usize) {
        let entry = arena.span(span);
        let word = arena.word(span, index);
        let freed = word.compare_exchange(me.owned(), FREE, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        crash_point!("heap.free.word");
        let note = entry.note.load(Ordering::Relaxed) as usize;
        let Word::Slab { class, owner } = Word::read(entry.word.load(Ordering::Acquire)) else { return };
        let known = self.classes.get_mut(class).filter(|_| freed && owner == Some(me));
        let Some(known) = known.filter(|known| known.slabs.get(note).is_some_and(|slab| slab.span == span))
        else {
            entry.remote.store(1, Ordering::Release);
            return;
        };
        let slab = &mut known.slabs[note];
        slab.free.push(index as u16);
        if slab.free.len() >= blocks(class) {
            known.settle(arena, me, class, note);
        } else {
            known.at = note;
        }
    }

    /// Gives up the slabs that are free as a whole; tells whether there was one.
    pub(crate) fn shed(&mut self, arena: &Arena, me: Life) -> bool {
        let mut shed = false;
        for (class, known) in self.classes.iter_mut().enumerate() {
            known.slabs.retain(|slab| {
                let empty = all_free(arena, class, slab.span);
                if empty {
                    give_up(arena, me.slab(class), class, slab.span);
                }
                shed |= empty;
                !empty
            });
            known.at = 0;
            for (note, slab) in known.slabs.iter().enumerate() {
                arena.span(slab.span).note.store(note as u32, Ordering::Relaxed);
            }
        }
        shed
    }

    /// Gives everything up, since this process needs the arena no more.
    pub(crate) fn leave(self, arena: &Arena, me: Life) {
        for (class, known) in self.classes.into_iter().enumerate() {
            known.slabs.iter().for_each(|slab| give_up(arena, me.slab(class), class, slab.span));
        }
    }
}

impl Class {
    /// Makes `at` a slab with something in its list.
    #[cold]
    fn find(&mut self, arena: &Arena, me: Life, class: usize) -> Result<(), Error> {
        for _ in 0..self.slabs.len().min(LOOKS) {
            self.at = (self.at + 1) % self.slabs.len();
            let slab = &mut self.slabs[self.at];
            if slab.free.is_empty() && arena.span(slab.span).remote.swap(0, Ordering::AcqRel) != 0 {
                slab.look(arena, class);
            }
            if !slab.free.is_empty() {
                return Ok(());
            }
        }
        let adopted = adopt(arena, me, class);
        let span = match adopted {
            Some(span) => span,
            None => make(arena, me, class)?,
        };
        let mut slab = Slab { span, free: Vec::with_capacity(blocks(class)) };
        match adopted {
            Some(_) => slab.look(arena, class),
            None => slab.free.extend((0..blocks(class) as u16).rev()),
        }
        arena.span(span).note.store(self.slabs.len() as u32, Ordering::Relaxed);
        self.at = self.slabs.len();
        self.slabs.push(slab);
        Ok(())
    }

    /// A slab may be free as a whole: gives it back, unless it is the only one such.
    #[cold]
    fn settle(&mut self, arena: &Arena, me: Life, class: usize, note: usize) {
        let has_free = |(at, slab): &(usize, &Slab)| *at != note && !slab.free.is_empty();
        let other = self.slabs.iter().enumerate().find(has_free).map(|(at, _)| at);
        let span = self.slabs[note].span;
        let Some(other) = other.filter(|_| all_free(arena, class, span)) else {
            self.at = note;
            return;
        };
        let entry = arena.span(span);
        if entry.word.compare_exchange(me.slab(class), FREE, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            freed(arena, span);
        }
        crash_point!("heap.slab.given");
        self.slabs.swap_remove(note);
        if let Some(moved) = self.slabs.get(note) {
            arena.span(moved.span).note.store(note as u32, Ordering::Relaxed);
        }
        // The last one has moved to the place that became free.
        self.at = if other == self.slabs.len() { note } else { other };
    }
}

impl Slab {
    /// Makes the list anew from the words.
    fn look(&mut self, arena: &Arena, class: usize) {
        self.free.clear();
        let free = |index: &usize| arena.word(self.span, *index).load(Ordering::Acquire) == FREE;
        self.free.extend((0..blocks(class)).rev().filter(free).map(|index| index as u16));
    }
}

/// Makes a slab of a free span.
fn make(arena: &Arena, me: Life, class: usize) -> Result<u32, Error> {
    let span = arena.take_spans(me, 1)?.first;
    let data = arena.shape().data + span as usize * SPAN;
    let reserved = arena
        .reserve(data, SPAN)
        .and_then(|()| arena.reserve(arena.words_of(span), blocks(class) * size_of::<u64>()));
    if let Err(error) = reserved {
        arena.give_spans(me, span);
        return Err(error);
    }
    let entry = arena.span(span);
    entry.remote.store(0, Ordering::Relaxed);
    // Nobody else changes the word of a living process's span.
    let made = entry.word.compare_exchange(me.owned(), me.slab(class), Ordering::AcqRel, Ordering::Relaxed);
    debug_assert!(made.is_ok(), "a span of this process");
    crash_point!("heap.slab.made");
    Ok(span)
}

/// Takes a slab of the class that nobody owns.
fn adopt(arena: &Arena, me: Life, class: usize) -> Option<u32> {
    let hint = &arena.control().abandoned[class];
    if hint.load(Ordering::Relaxed) == 0 {
        return None;
    }
    let all = arena.shape().spans;
    let top = u32::try_from(arena.control().span_top.load(Ordering::Acquire)).unwrap_or(all).min(all);
    for span in 0..top {
        let word = &arena.span(span).word;
        let seen = word.load(Ordering::Acquire);
        if Word::read(seen) == (Word::Slab { class, owner: None })
            && word.compare_exchange(seen, me.slab(class), Ordering::AcqRel, Ordering::Relaxed).is_ok()
        {
            crash_point!("heap.slab.adopted");
            let less = |slabs: u64| Some(slabs.saturating_sub(1));
            let _ = hint.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
            return Some(span);
        }
    }
    hint.store(0, Ordering::Relaxed);
    None
}

/// Whether no block of a slab is anybody's. Of a slab that nobody allocates from this stays so.
fn all_free(arena: &Arena, class: usize, span: u32) -> bool {
    (0..blocks(class)).all(|index| arena.word(span, index).load(Ordering::Acquire) == FREE)
}

/// A span of small blocks became free.
fn freed(arena: &Arena, span: u32) {
    arena.control().kept.fetch_add(1, Ordering::Relaxed);
    arena.control().span_low.fetch_min(span.into(), Ordering::Relaxed);
}

/// Gives up a slab whose word is `seen`: its owner's, who is this process or dead, or an abandoned one's.
pub(crate) fn give_up(arena: &Arena, seen: u64, class: usize, span: u32) {
    let word = &arena.span(span).word;
    let owned = matches!(Word::read(seen), Word::Slab { owner: Some(_), .. });
    let mut seen = seen;
    if owned {
        let abandoned = arena.token().abandoned(class);
        if word.compare_exchange(seen, abandoned, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return;
        }
        crash_point!("heap.slab.abandoned");
        seen = abandoned;
    }
    fence(Ordering::SeqCst);
    if all_free(arena, class, span) {
        // Had somebody adopted it meanwhile and given it up again, the token would be another.
        if word.compare_exchange(seen, FREE, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            freed(arena, span);
        }
    } else if owned {
        arena.control().abandoned[class].fetch_add(1, Ordering::Relaxed);
    }
}
