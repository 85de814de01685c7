//! Feature `lock-trace`: since when and from where a read-write lock is held.
//!
//! Beside each entry of the table lies a [`Note`]. Whoever has it writes its own without the mutex: first what is told, then
//! the entry's ticket. No ticket is used twice, so what an earlier owner of the entry left is never taken for its own.

use super::{READS, RwLock, RwLockWords, WRITES};
use crate::{
    table::{Entry, MOST},
    trace::Trace,
};
use core::{
    panic::Location,
    sync::atomic::{AtomicU64, Ordering},
};
use std::time::Duration;

pub(super) type Notes = [Note; MOST];

/// What the owner of an entry tells.
#[repr(C)]
pub(super) struct Note {
    /// Whose this is: the entry's ticket, plus 1.
    ticket: AtomicU64,
    trace: Trace,
}

impl RwLockWords {
    /// The calling thread, which owns that entry, tells where it asked for the lock.
    pub(super) fn note(&self, index: usize, location: &Location<'_>) {
        let note = &self.notes[index % MOST];
        note.trace.taken(location);
        note.ticket.store(self.table.entry(index).ticket().wrapping_add(1), Ordering::Release);
    }

    /// What the owner of an entry told; `None` if it has not done so yet.
    fn trace(&self, (index, entry): (usize, &Entry)) -> Option<&Trace> {
        let note = &self.notes[index % MOST];
        (note.ticket.load(Ordering::Acquire) == entry.ticket().wrapping_add(1)).then_some(&note.trace)
    }

    /// What the writer tells, or else the reader that came first.
    fn held(&self) -> Option<&Trace> {
        let taken = self.table.taken().filter(|(_, entry)| matches!(entry.state(), READS | WRITES));
        let told = taken.filter_map(|place| Some((place.1.ticket(), self.trace(place)?)));
        told.min_by_key(|(ticket, _)| *ticket).map(|(_, trace)| trace)
    }
}

impl RwLock {
    /// For how long it is held: by the writer, or by the reader that came first of those that still read.
    #[must_use]
    pub fn held_since(&self) -> Option<Duration> {
        self.handle.words().held().map(Trace::since)
    }

    /// Where it was locked, by the writer, or by the reader that came first of those that still read: the end of the source
    /// file's name, and the line. Who locked it by a future tells a line of the library.
    #[must_use]
    pub fn held_at(&self) -> Option<String> {
        self.handle.words().held().map(Trace::site)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::who::me;

    #[test]
    fn what_an_earlier_owner_of_an_entry_told_is_not_told_of_the_next_one() {
        let lock = RwLock::new().unwrap();
        drop(lock.read().unwrap());
        let (words, member) = (lock.handle.words(), lock.join(None).unwrap());
        let index = words.table.enter(member, me(), READS).unwrap();
        assert_eq!((index, lock.readers(), lock.held_at(), lock.held_since()), (0, 1, None, None));
        words.note(index, Location::caller());
        assert!(lock.held_at().unwrap().contains("traced.rs:"));
    }
}
