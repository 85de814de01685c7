//! Who holds a read-only block: a record with a word and a row of slots.
//!
//! | word | meaning |
//! |---|---|
//! | record | `Free`; `Owned`: being set up, or being ended, by that process; `Shared(columns, version)` |
//! | slot | `Free`; `Owned`: a process holds the block; `Transit`: a parcel holds it |
//!
//! # Protocol
//!
//! * Add a holder, which only a holder can: if none of the first `columns` slots is free, swap the record's word for
//!   one with a column more and a new version. Swap a free slot from `Free` to the new holder: **the commit**. Then
//!   swap the record's word for one with a new version. Only then may the one who adds clear its own slot.
//! * Clear: swap the slot to `Free`; then end.
//! * End: read the record's word; look at all its slots; if they are free, swap the word that was read for `Owned`.
//!
//! # Invariants
//!
//! 1. An end succeeds only when there is no holder. A holder that came during the look holds on to another slot until
//!    it has made a new version: either the look sees that slot, or the swap fails.
//! 2. Of two that clear the last two slots at once, one at least sees both free: there is a fence between clear and
//!    look.
//! 3. A record that is `Free` has no holders, in any column.
//!
//! # When a process dies
//!
//! After the commit of an add: the slot says `Owned` by a dead process or `Transit` without a lock, and a sweep
//! clears it. Between a clear and its end: a record without holders, which a sweep ends. In the middle of an end: a record
//! that is owned by a dead process, and a sweep takes it over.

use super::{
    bug::{Bug, planted},
    sync::{AtomicU64, Ordering, fence},
    word::{FREE, Token, Word},
};
use procession_sys::crash_point;

/// How many holders a block can have: processes, and parcels under way.
pub(crate) const COLUMNS: u32 = 1024;

/// The memory that records lie in.
pub(crate) trait Records {
    fn record(&self, record: u32) -> &AtomicU64;
    fn slot(&self, record: u32, column: u32) -> &AtomicU64;
    /// One that was never used.
    fn token(&self) -> Token;
}

/// Why a holder could not be added.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refused {
    /// The record is not in use, or not by what the caller means.
    Over,
    /// There are as many as there can be.
    Full,
}

/// Adds the holder `value`; gives its column. `holds` tells whether the caller's own slot still is what it should be:
/// if it lies about holding one, that is found out.
pub(crate) fn add(
    records: &impl Records,
    record: u32,
    value: u64,
    holds: impl Fn() -> bool,
) -> Result<u32, Refused> {
    let word = records.record(record);
    let slots = |columns| (0..columns).map(|column| (column, records.slot(record, column)));
    loop {
        let seen = word.load(Ordering::Acquire);
        let Word::Shared { columns } = Word::read(seen) else { return Err(Refused::Over) };
        if columns > COLUMNS || !holds() {
            return Err(Refused::Over);
        }
        let mine = slots(columns).find(|(_, slot)| {
            slot.compare_exchange(FREE, value, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        });
        let Some((column, slot)) = mine else {
            if columns == COLUMNS {
                return Err(Refused::Full);
            }
            let wider = records.token().shared(columns + 1);
            // If another one changed it meanwhile, there may be a free slot by now.
            let _ = word.compare_exchange(seen, wider, Ordering::AcqRel, Ordering::Relaxed);
            continue;
        };
        crash_point!("heap.hold.slot");
        let renewed = planted(Bug::NoNewVersion) || renew(records, word);
        if renewed && holds() {
            crash_point!("heap.hold.renewed");
            return Ok(column);
        }
        let _ = slot.compare_exchange(value, FREE, Ordering::AcqRel, Ordering::Relaxed);
        return Err(Refused::Over);
    }
}

/// Gives the record a new version, so that no end that began before now succeeds.
fn renew(records: &impl Records, word: &AtomicU64) -> bool {
    let mut seen = word.load(Ordering::Relaxed);
    loop {
        let Word::Shared { columns } = Word::read(seen) else { return false };
        let renewed = records.token().shared(columns);
        match word.compare_exchange(seen, renewed, Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => return true,
            Err(now) => seen = now,
        }
    }
}

/// Takes the holder `value` out of its column. An [`end`] is due afterwards.
pub(crate) fn clear(records: &impl Records, record: u32, column: u32, value: u64) -> bool {
    let slot = records.slot(record, column);
    let cleared = slot.compare_exchange(value, FREE, Ordering::AcqRel, Ordering::Relaxed).is_ok();
    crash_point!("heap.hold.cleared");
    cleared
}

/// Ends the use of a record without holders: true if it is the caller's then, `owned` being its word.
pub(crate) fn end(records: &impl Records, record: u32, owned: u64) -> bool {
    if !planted(Bug::NoFenceBeforeLook) {
        fence(Ordering::SeqCst);
    }
    let word = records.record(record);
    let mut seen = word.load(Ordering::Acquire);
    let Word::Shared { columns } = Word::read(seen) else { return false };
    let free = |column| records.slot(record, column).load(Ordering::Acquire) == FREE;
    if !(0..columns.min(COLUMNS)).all(free) {
        return false;
    }
    if planted(Bug::VersionReadLate) {
        seen = word.load(Ordering::Acquire);
    }
    word.compare_exchange(seen, owned, Ordering::AcqRel, Ordering::Relaxed).is_ok()
}
