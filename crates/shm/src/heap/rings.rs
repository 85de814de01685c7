//! Rings that blocks travel through: who is one, and which messages are over.
//!
//! A ring is a queue or a lane that was made on the heap. It needs a name of few bits, so that the word of a block can say
//! in which ring's which message it is: an entry in a table. The entry holds the token of the ring, whose lock (see
//! `transit`) is held as long as somebody has an end of the ring.
//!
//! | word | meaning |
//! |---|---|
//! | entry | `Free`, or `Transit(token)`: a ring's, as long as the token's lock is held |
//! | a block, a slot: `Message(ring, token)` | in the message with that token of the ring with that entry |
//!
//! # Protocol
//!
//! * Enter: take a token; take its lock; swap a free entry for it: **the commit**.
//! * Send: take a token for the message, after the ring has entered.
//! * Look (a sweep): read how many tokens were given out; then read the entries. Messages of a living ring with tokens
//!   before the ring's own are over, they are of an earlier ring in that entry. Of an entry that is free, or whose ring has no
//!   lock any more, all messages are over whose tokens were given out when the look began. Entries of dead rings are
//!   freed by the way.
//!
//! # Invariants
//!
//! 1. What a look calls over stays so: a token is given out once, and a ring whose lock is gone does not come back.
//! 2. A look calls no message of a living ring over. If it found the entry without that ring, the ring entered after, and
//!    so did its messages get tokens after; and the look had read the tokens before. The tokens are given out with
//!    Release and read with Acquire, so the order holds across processors.
//!
//! # When a process dies
//!
//! Between lock and entry: nothing. With an entry: the lock goes with the last end of the ring, and the next look frees
//! the entry. In the middle of a look: nothing was decided.

use super::{
    bug::{Bug, planted},
    sync::{AtomicU64, Ordering},
    word::{FREE, Token, Word},
};
use procession_sys::crash_point;

/// How many rings a heap can have at a time. A word has 12 bits for them.
pub(crate) const RINGS: u32 = if cfg!(loom) { 1 } else { 1024 };

/// The memory that the table lies in.
pub(crate) trait Rings {
    fn entry(&self, ring: u32) -> &AtomicU64;
    /// No entry from here on was ever used. Only grows.
    fn top(&self) -> &AtomicU64;
    /// How many tokens were given out.
    fn tokens(&self) -> &AtomicU64;
    /// Whether somebody has the lock of this token.
    fn lives(&self, token: Token) -> bool;
}

/// Gives a ring whose lock is held an entry; `None` if there is none.
pub(crate) fn enter(rings: &impl Rings, token: Token) -> Option<u32> {
    let free = || {
        (0..RINGS).find(|&ring| {
            let entry = rings.entry(ring);
            entry.load(Ordering::Relaxed) == FREE
                && entry.compare_exchange(FREE, token.transit(), Ordering::AcqRel, Ordering::Relaxed).is_ok()
        })
    };
    let ring = free().or_else(|| {
        look(rings);
        free()
    })?;
    crash_point!("heap.ring.entered");
    // Only the number of entries that a look must read: one that it does not read counts as living.
    rings.top().fetch_max(u64::from(ring) + 1, Ordering::AcqRel);
    Some(ring)
}

/// The token of a ring's next message.
pub(crate) fn next(rings: &impl Rings) -> Token {
    // Release: who reads that it was given out reads the ring's entry (invariant 2).
    Token::new(rings.tokens().fetch_add(1, Ordering::AcqRel) + 1)
}

/// Which messages are over: for each ring those with tokens below this.
#[derive(Default)]
pub(crate) struct Over(Vec<u64>);

impl Over {
    pub(crate) fn is(&self, ring: u16, token: Token) -> bool {
        self.0.get(usize::from(ring)).is_some_and(|&end| token.number() < end)
    }
}

/// Finds out which messages are over.
pub(crate) fn look(rings: &impl Rings) -> Over {
    let given_out = || rings.tokens().load(Ordering::Acquire) + 1;
    let first = given_out();
    let top = u32::try_from(rings.top().load(Ordering::Acquire)).unwrap_or(RINGS).min(RINGS);
    let over = (0..top).map(|ring| {
        let entry = rings.entry(ring);
        let seen = entry.load(Ordering::Acquire);
        let Word::Transit(token) = Word::read(seen) else { return first };
        if rings.lives(token) {
            return token.number();
        }
        let _ = entry.compare_exchange(seen, FREE, Ordering::AcqRel, Ordering::Relaxed);
        if planted(Bug::AllOfADeadRing) { u64::MAX } else { first }
    });
    let mut over: Vec<u64> = over.collect();
    if planted(Bug::TokensReadLate) {
        let late = given_out();
        over.iter_mut().filter(|end| **end == first).for_each(|end| *end = late);
    }
    Over(over)
}
