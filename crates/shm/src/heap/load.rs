//! The blocks of one message, by name: for a ring that keeps what it carries beside the bytes.
//!
//! A pool sends a message again when a worker died before it took anything out of it, and frees what nobody took when the
//! message has served. For both it keeps a *name* of each block next to the message's token.
//!
//! # Invariants
//!
//! 1. A name alone does nothing: a word is changed only from `Message(ring, token)` of this very message. So names may be
//!    stale, repeated or wrong, and whoever frees what is left may do so beside a receiver: of each block one of them has it.
//! 2. A receiver that [keeps](HeapRing::keep) leaves the message's slots in the records of read-only blocks, so that the
//!    message can be received again; they are cleared by [`unload`](HeapRing::unload).
//!
//! # When a process dies
//!
//! In the middle of an unload: a block is the dead one's, a slot is cleared and its record not ended; a sweep frees both.

use super::{
    arena::Block,
    holders::{self, Records},
    ring::{Departed, HeapRing},
    word::Token,
};
use core::sync::atomic::Ordering;
use procession_sys::crash_point;

/// Set in the name of a slot in the record of a read-only block: 32 bits of record above 16 of column.
const SLOT: u64 = 1 << 63;

enum Name {
    Block(Block),
    Slot(u64, u64),
}

impl Name {
    fn of(name: u64) -> Name {
        match name & SLOT {
            0 => Name::Block(Block::from_number(name)),
            _ => Name::Slot((name & !SLOT) >> 16, name & 0xffff),
        }
    }
}

impl HeapRing {
    /// Gives a name of each block of the message that has [departed](HeapRing::depart), before it is
    /// [sent](HeapRing::sent).
    pub fn names(&self, each: &mut dyn FnMut(u64)) {
        self.each_departed(|departed| {
            each(match departed {
                Departed::Block(block) => block.number(),
                Departed::Slot(record, column) => SLOT | u64::from(record) << 16 | u64::from(column),
            });
        });
    }

    /// Whether everything that has these names is in the message with this token still.
    pub fn has_all(&self, token: u64, names: impl IntoIterator<Item = u64>) -> bool {
        let (arena, message) = (&self.core().arena, self.core().message(Token::new(token)));
        names.into_iter().all(|name| match Name::of(name) {
            Name::Block(block) => {
                arena.extent(block).is_some() && arena.owner(block).load(Ordering::Acquire) == message
            }
            Name::Slot(record, column) => arena.slot_of(record, column).is_some_and(|(record, column)| {
                arena.slot(record, column).load(Ordering::Acquire) == message
            }),
        })
    }

    /// Frees what has these names and is in the message with this token still.
    pub fn unload(&self, token: u64, names: impl IntoIterator<Item = u64>) {
        let (arena, message) = (&self.core().arena, self.core().message(Token::new(token)));
        // Who is no member leaves it to a sweep.
        let Ok(me) = arena.me() else { return };
        for name in names {
            match Name::of(name) {
                Name::Block(block) => {
                    let ours = arena.extent(block).is_some()
                        && arena
                            .owner(block)
                            .compare_exchange(message, me.owned(), Ordering::AcqRel, Ordering::Relaxed)
                            .is_ok();
                    if ours {
                        crash_point!("heap.ring.unloaded");
                        arena.free(me, block);
                    }
                }
                Name::Slot(record, column) => {
                    let Some((record, column)) = arena.slot_of(record, column) else { continue };
                    if holders::clear(&**arena, record, column, message)
                        && holders::end(&**arena, record, me.owned())
                    {
                        arena.finish(me, record);
                    }
                }
            }
        }
    }

    /// In place of [`received`](HeapRing::received): the message may be received again, by another process, until it is
    /// [unloaded](HeapRing::unload). Of a block with one owner that holds only if this receiver did not come to it.
    pub fn keep(&self) {
        self.forget_received();
    }
}
