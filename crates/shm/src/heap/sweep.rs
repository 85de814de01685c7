//! What the dead left: found by their names, freed by the living.
//!
//! Everything in the heap that is not free says whose it is, in a word of its own. A sweep looks at all of these words:
//!
//! * owned by a life that is over, in transit under a lock that is gone, or in a message that is over (see `rings`): it is taken over by one swap to this
//!   process's name (small blocks and slots: to `Free`), and then freed as this process's own;
//! * a slab of a dead process: abandoned; an abandoned slab whose blocks are all free: a free span again;
//! * a record without holders: ended and finished.
//!
//! # Who is dead
//!
//! A life is the number that a process has as a member of the segment, and the count of how often that number was given
//! out (`lives`). It is over if the count went on, or if the member is dead; the count is read first, so that the answer
//! is about the life that was counted. `swept` says of which lives nothing is left: what the dead left does not
//! grow, so that one sweep that came to its end is enough. A sweep that frees nothing of the dead is not begun where
//! `swept` has caught up with `lives` (but for parcels, of whose end nobody is told: they are looked at when a sweep
//! is asked for, or the heap is about to grow).
//!
//! # Invariants
//!
//! 1. A sweep only swaps words that name a dead life, a token without a lock, or a message that is over. None ever lives again, so it does
//!    not matter how old the decision is: sweeps can run at the same time, and beside everything else.
//! 2. `swept` is raised after all words were looked at.
//!
//! # When a process dies
//!
//! A sweeper that dies leaves things in its own name, and `swept` as it was. The next sweep finds two dead processes.

use super::{
    arena::{Arena, Block},
    cache::give_up,
    holders::{self, COLUMNS, Records},
    rings::{self, Over},
    shape::{SIZES, SPAN, blocks},
    transit::is_under_way,
    word::{FREE, Life, Word},
};
use crate::Member;
use core::sync::atomic::{AtomicU64, Ordering};
use procession_sys::crash_point;
use std::os::fd::AsFd;

/// Which lives are over.
struct Dead {
    /// For each member: up to which of its lives.
    up_to: Vec<u64>,
    /// Whether something may be left of one of them.
    news: bool,
    /// Which messages of rings are over.
    messages: Over,
    /// Nothing but what has one of these words counts as left. In order.
    only: Option<Vec<u64>>,
}

impl Dead {
    fn look(arena: &Arena) -> Dead {
        let control = arena.control();
        let mut news = false;
        let top = bounded(&control.member_top, Member::COUNT as u32) as usize;
        let up_to = (0..top).map(|index| {
            let lives = control.lives[index].load(Ordering::Acquire);
            let swept = control.swept[index].load(Ordering::Acquire);
            if lives <= swept {
                return lives;
            }
            let dead = Member::from_index(index).is_some_and(|member| arena.segment().is_dead(member));
            let over = if dead { lives } else { lives - 1 };
            news |= over > swept;
            over
        });
        let up_to = up_to.collect();
        Dead { up_to, news, messages: rings::look(arena), only: None }
    }

    /// Nobody, but for the messages whose words these are.
    fn messages(mut words: Vec<u64>) -> Dead {
        words.sort_unstable();
        Dead { up_to: Vec::new(), news: true, messages: Over::default(), only: Some(words) }
    }

    fn is(&self, life: Life) -> bool {
        self.up_to.get(usize::from(life.member)).is_some_and(|&last| life.life <= last)
    }

    /// Whether what a word names is gone.
    fn left(&self, arena: &Arena, word: u64) -> bool {
        if let Some(only) = &self.only {
            return matches!(Word::read(word), Word::Message { .. }) && only.binary_search(&word).is_ok();
        }
        match Word::read(word) {
            Word::Owned(life) => self.is(life),
            Word::Transit(token) => !is_under_way(arena.as_fd(), token),
            Word::Message { ring, token } => self.messages.is(ring, token),
            _ => false,
        }
    }
}

/// Sweeps if somebody died of whom something may be left.
pub(crate) fn after_deaths(arena: &Arena, me: Life) {
    let dead = Dead::look(arena);
    if dead.news {
        run(arena, me, &dead);
    }
}

/// Sweeps; tells how many blocks, slabs, records and holders the dead and lost parcels had.
pub(crate) fn everything(arena: &Arena, me: Life) -> usize {
    arena.grown.store(0, Ordering::Relaxed);
    run(arena, me, &Dead::look(arena))
}

/// Frees what is in the messages of a ring whose words these are, of which it is known that nobody will decode them.
pub(crate) fn messages(arena: &Arena, me: Life, words: Vec<u64>) -> usize {
    run(arena, me, &Dead::messages(words))
}

fn bounded(top: &AtomicU64, all: u32) -> u32 {
    u32::try_from(top.load(Ordering::Acquire)).unwrap_or(all).min(all)
}

fn run(arena: &Arena, me: Life, dead: &Dead) -> usize {
    arena.sweeps.fetch_add(1, Ordering::Relaxed);
    let control = arena.control();
    let (mut found, mut kept) = (0, 0);
    for number in 0..bounded(&control.span_top, arena.shape().spans) {
        let span = arena.span(number);
        let seen = span.word.load(Ordering::Acquire);
        match Word::read(seen) {
            Word::Owned(_) | Word::Transit(_) | Word::Message { .. } => {
                found += large_block(arena, me, dead, number, seen)
            }
            Word::Slab { class, owner } if class < SIZES.len() => {
                let small = small_blocks(arena, dead, number, class);
                found += small;
                if owner.is_none_or(|owner| dead.is(owner)) {
                    give_up(arena, seen, class, number);
                    crash_point!("heap.sweep.slab");
                    found += usize::from(owner.is_some());
                } else if small > 0 {
                    span.remote.store(1, Ordering::Release);
                }
            }
            Word::Free => kept += u64::from(span.dirty.load(Ordering::Relaxed) != 0),
            _ => {}
        }
    }
    control.kept.store(kept, Ordering::Relaxed);
    control.span_low.store(0, Ordering::Relaxed);
    for number in 0..bounded(&control.record_top, arena.shape().records) {
        found += record(arena, me, dead, number);
    }
    crash_point!("heap.sweep.done");
    for (swept, &over) in control.swept.iter().zip(&dead.up_to) {
        swept.fetch_max(over, Ordering::AcqRel);
    }
    found
}

fn large_block(arena: &Arena, me: Life, dead: &Dead, span: u32, seen: u64) -> usize {
    let word = &arena.span(span).word;
    let ours = dead.left(arena, seen)
        && word.compare_exchange(seen, me.owned(), Ordering::AcqRel, Ordering::Relaxed).is_ok();
    if ours {
        crash_point!("heap.sweep.block");
        arena.give_spans(me, span);
    }
    usize::from(ours)
}

fn small_blocks(arena: &Arena, dead: &Dead, span: u32, class: usize) -> usize {
    let mut found = 0;
    for index in 0..blocks(class) {
        let word = arena.word(span, index);
        let seen = word.load(Ordering::Acquire);
        if dead.left(arena, seen)
            && word.compare_exchange(seen, FREE, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        {
            crash_point!("heap.sweep.small");
            found += 1;
        }
    }
    found
}

fn record(arena: &Arena, me: Life, dead: &Dead, number: u32) -> usize {
    let word = arena.record(number);
    let seen = word.load(Ordering::Acquire);
    match Word::read(seen) {
        Word::Owned(_) if dead.left(arena, seen) => {
            let ours = word.compare_exchange(seen, me.owned(), Ordering::AcqRel, Ordering::Relaxed).is_ok();
            crash_point!("heap.sweep.record");
            if ours {
                arena.finish(me, number);
            }
            usize::from(ours)
        }
        Word::Shared { columns } => {
            let mut found = 0;
            for column in 0..columns.min(COLUMNS) {
                let value = arena.slot(number, column).load(Ordering::Acquire);
                if dead.left(arena, value) && holders::clear(arena, number, column, value) {
                    found += 1;
                }
            }
            if holders::end(arena, number, me.owned()) {
                crash_point!("heap.sweep.ended");
                arena.finish(me, number);
            }
            found
        }
        _ => 0,
    }
}

/// What a heap holds: all its bytes are in use, free, or slack.
///
/// Counted word by word. While other threads or processes are at work the numbers need not be of the same moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct HeapStats {
    /// All bytes that there are for blocks.
    pub capacity: usize,
    /// Bytes of blocks in use, each rounded up to its size class or to 64 KiB.
    pub used: usize,
    /// Bytes that can be allocated; those in a cache of some process among them.
    pub free: usize,
    /// Bytes at the ends of slabs that are no whole block.
    pub slack: usize,
    /// How many blocks are in use.
    pub blocks: usize,
    /// How many of these are on their way, in a parcel or a message.
    pub in_transit: usize,
    /// How many of these are read-only.
    pub shared: usize,
}

impl HeapStats {
    fn count(&mut self, word: u64, bytes: usize) {
        match Word::read(word) {
            Word::Free => self.free += bytes,
            word => {
                self.used += bytes;
                self.blocks += 1;
                self.in_transit += usize::from(matches!(word, Word::Transit(_) | Word::Message { .. }));
                self.shared += usize::from(matches!(word, Word::Held(_)));
            }
        }
    }

    pub(crate) fn of(arena: &Arena) -> HeapStats {
        let spans = arena.shape().spans;
        let mut stats = HeapStats { capacity: spans as usize * SPAN, ..HeapStats::default() };
        let top = bounded(&arena.control().span_top, spans);
        for number in 0..top {
            let word = arena.span(number).word.load(Ordering::Acquire);
            match Word::read(word) {
                Word::Slab { class, .. } if class < SIZES.len() => {
                    let size = usize::from(SIZES[class]);
                    for index in 0..blocks(class) {
                        stats.count(arena.word(number, index).load(Ordering::Acquire), size);
                    }
                    stats.slack += SPAN - blocks(class) * size;
                }
                Word::Tail => {}
                Word::Free => stats.free += SPAN,
                _ => stats.count(word, arena.extent(Block::large(number)).map_or(SPAN, |(_, bytes)| bytes)),
            }
        }
        stats.free += (spans - top) as usize * SPAN;
        stats
    }
}
