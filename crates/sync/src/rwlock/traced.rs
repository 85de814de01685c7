//! Feature `lock-trace`: since when and from where a read-write lock is held, and who is in whose way.
//!
//! Beside each entry of the table lies a [`Note`]. Whoever has it writes its own without the mutex: first what is told, then
//! the entry's ticket. No ticket is used twice, so what an earlier owner of the entry left is never taken for its own.
//!
//! Who waits without a deadline, and nobody else that waits, writes it too: those who look for deadlocks find it by that. In
//! its way are, if it writes, all that have the lock; if it reads, the writer, and the other readers if such a one comes
//! before it that waits to write. Not those that wait: they wait for the same ones. A future that waits tells nothing, since
//! no thread waits with it.

use super::{Access, READ_WAITS, READS, RwLock, RwLockWords, WRITE_WAITS, WRITES};
use crate::{
    Holder, LockError, spin,
    table::{self, Entry, MOST},
    trace::{self, Trace},
};
use core::{
    panic::Location,
    sync::atomic::{AtomicU64, Ordering},
};
use procession_shm::Segment;
use procession_sys::{Deadline, crash_point};
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

    /// Those that have it and are in the way of a thread that waits for it. Nobody who died: whoever waits takes it back.
    pub(crate) fn in_the_way(&self, segment: &Segment, waiter: u64) -> Vec<(Holder, &Trace)> {
        let waiting =
            self.table.taken().filter(|(_, entry)| matches!(entry.state(), READ_WAITS | WRITE_WAITS));
        let waiting: Vec<_> = waiting.filter_map(|place| Some((place.1, self.trace(place)?))).collect();
        let Some(&(entry, _)) = waiting.iter().find(|(_, trace)| trace.thread() == waiter) else {
            return Vec::new();
        };
        let lives = |entry| !self.table.member(entry).is_some_and(|member| segment.is_dead(member));
        let behind_a_writer = waiting.iter().any(|&(other, _)| {
            other.state() == WRITE_WAITS && other.ticket() < entry.ticket() && lives(other)
        });
        let readers_too = behind_a_writer || entry.state() == WRITE_WAITS;
        let has = self.table.taken().filter(|(_, entry)| match entry.state() {
            WRITES => true,
            READS => readers_too,
            _ => false,
        });
        has.filter(|(_, entry)| lives(entry))
            .filter_map(|place| Some((Holder::from_word(place.1.note())?, self.trace(place)?)))
            .collect()
    }

    /// What the writer tells, or else the reader that came first.
    fn held(&self) -> Option<&Trace> {
        let taken = self.table.taken().filter(|(_, entry)| matches!(entry.state(), READS | WRITES));
        let told = taken.filter_map(|place| Some((place.1.ticket(), self.trace(place)?)));
        told.min_by_key(|(ticket, _)| *ticket).map(|(_, trace)| trace)
    }
}

impl RwLock {
    /// Waits without end until it is granted, unless it is in a circle of waits.
    pub(super) fn sleep_traced(
        &self,
        index: usize,
        access: Access,
        location: &Location<'_>,
    ) -> Result<(), LockError> {
        let words = self.handle.words();
        let entry = words.table.entry(index);
        words.note(index, location);
        let slice = |until: Deadline| {
            loop {
                spin::with(|spin| entry.wait_slice(access.waits(), Some(until), spin));
                if entry.state() != access.waits() {
                    return Some(());
                }
                if words.table.due() {
                    self.sweep();
                }
                if until.passed() {
                    return None;
                }
            }
        };
        let granted = trace::wait(self.handle.place(), location, slice);
        // It may have been granted just now all the same.
        if granted.is_none() && entry.change(access.waits(), table::FREE).is_some() {
            crash_point!("rwlock.gave_up");
            self.grant();
            return Err(LockError::Deadlock(trace::found()));
        }
        Ok(())
    }

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
