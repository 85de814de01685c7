//! Who waits for a primitive, or holds it: entries in shared memory, each with a word of its own to sleep on.
//!
//! [`Condition`](crate::Condition), [`Barrier`](crate::Barrier) and [`RwLock`](crate::RwLock) stand on this: a short
//! table under a robust mutex, whose entries say which process is behind them, so that a death can be found and put right.
//!
//! # Words of an entry
//!
//! | word | meaning | who changes it |
//! |---|---|---|
//! | `state` | 0: free. Else what its owner waits for or has, in the owner's terms; bit 31: the owner sleeps | from free: its owner, holding the mutex; then whoever holds the mutex; back to free: its owner |
//! | `member` | the owner's process, plus 1 | its owner, before the state |
//! | `ticket` | the order of arrival | its owner, before the state |
//! | `note` | up to the primitive | its owner before the state, then whoever holds the mutex |
//!
//! # Protocol
//!
//! * Enter, holding the mutex: fill a free entry, then store its state. That store commits.
//! * Sleep: set bit 31 by a compare-and-swap from the state that is waited out, and sleep on just that word for a slice.
//! * Change another's entry, holding the mutex: one compare-and-swap of the state. If bit 31 was set its owner is woken,
//!   after the mutex was let go.
//!
//! # Invariants
//!
//! 1. Whatever holds of a primitive can be read from its entries and from words that change by one store. There are no
//!    counts that could be out of step.
//! 2. The word that is slept on is the state: a change between a look and the sleep prevents the sleep.
//! 3. Nobody but its living owner frees an entry, with the mutex or without it; a dead owner's entry is freed by who holds
//!    the mutex and has proof of the death, and one that its owner gave up by whoever holds the mutex. A member's number is not used again before [`Shared::recover`](crate::arena::Shared::recover) has freed
//!    its entries, under the mutex.
//!
//! # When a process dies
//!
//! Under the mutex: the next one to lock it is told so, and each store above leaves the entries whole. Before a wake: the
//! sleeper looks for itself within a slice. As an entry's owner: whoever waits looks through the entries after a slice,
//! together ten times a second at most, and does what the primitive wants done for a dead one.
//!
//! # When a process is stopped
//!
//! Under the mutex, by SIGSTOP or a debugger, it keeps it. So what has a deadline waits for the mutex no longer than that;
//! what cannot wait but needs it (a `try_`, an end) for a [`MOMENT`]; and who looks for the dead not at all. What must be
//! told at a deadline is told by the owner's own entry, or by a word that whoever holds the mutex next looks at.
#![cfg_attr(not(loom), allow(unreachable_pub, reason = "public in the model only"))]

use procession_sys::{
    Deadline, Spin, crash_point, futex,
    sync::{AtomicU32, AtomicU64, Ordering},
};

/// The state of an entry that nobody has.
pub(crate) const FREE: u32 = 0;
const ASLEEP: u32 = 1 << 31;

/// One who waits or holds.
#[repr(C)]
#[derive(Debug)]
pub struct Entry {
    state: AtomicU32,
    member: AtomicU32,
    ticket: AtomicU64,
    note: AtomicU64,
}

impl Entry {
    /// What its owner waits for or has.
    pub fn state(&self) -> u32 {
        self.state.load(Ordering::Acquire) & !ASLEEP
    }

    /// Changes it from one state to another: `None` if it is not in the first, else whether its owner is to be woken.
    #[must_use]
    pub fn change(&self, from: u32, to: u32) -> Option<bool> {
        let mut word = from;
        loop {
            match self.state.compare_exchange(word, to, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(word & ASLEEP != 0),
                Err(now) if now & !ASLEEP == from => word = now,
                Err(_) => return None,
            }
        }
    }

    /// Wakes its owner.
    pub fn wake(&self) {
        futex::wake_all(&self.state);
    }

    /// Its owner has what it was granted.
    pub fn have(&self, state: u32) {
        self.state.store(state, Ordering::Release);
    }

    /// Gives it back.
    pub fn free(&self) {
        self.state.store(FREE, Ordering::Release);
    }

    /// Its owner waits until it is in another state, for a slice at most.
    pub fn wait_slice(&self, state: u32, deadline: Option<Deadline>, spin: &mut Spin) {
        if spin.until(deadline, || self.state() != state) {
            return;
        }
        let Some(asleep) = self.flag(state) else { return };
        crash_point!("table.wait.flagged");
        futex::wait(&self.state, asleep, Some(Deadline::slice(deadline)));
        crash_point!("table.wait.woken");
    }

    /// Says that its owner sleeps as long as it is in this state: the word that is slept on, or `None` if it is in another.
    pub(crate) fn flag(&self, state: u32) -> Option<u32> {
        let asleep = state | ASLEEP;
        match self.state.compare_exchange(state, asleep, Ordering::Relaxed, Ordering::Relaxed) {
            Err(now) if now != asleep => None,
            _ => Some(asleep),
        }
    }

    /// The word that is slept on.
    #[cfg(all(feature = "async", not(loom)))]
    pub(crate) fn word(&self) -> &AtomicU32 {
        &self.state
    }

    /// What the primitive noted.
    pub fn note(&self) -> u64 {
        self.note.load(Ordering::Relaxed)
    }

    /// Notes something, before the change of state that publishes it.
    pub fn set_note(&self, note: u64) {
        self.note.store(note, Ordering::Relaxed);
    }

    /// Its place in the order of arrival.
    pub fn ticket(&self) -> u64 {
        self.ticket.load(Ordering::Relaxed)
    }

    /// Makes a free entry an owner's. The mutex is held.
    pub fn fill(&self, owner: u32, ticket: u64, note: u64, state: u32) {
        self.member.store(owner, Ordering::Relaxed);
        self.ticket.store(ticket, Ordering::Relaxed);
        self.note.store(note, Ordering::Relaxed);
        crash_point!("table.enter.filled");
        self.state.store(state, Ordering::Release);
        crash_point!("table.enter.entered");
    }

    /// An entry that nobody has.
    #[must_use]
    #[allow(clippy::missing_const_for_fn, reason = "loom's atomics cannot be made in a constant")]
    pub fn new() -> Entry {
        Entry {
            state: AtomicU32::new(FREE),
            member: AtomicU32::new(0),
            ticket: AtomicU64::new(0),
            note: AtomicU64::new(0),
        }
    }
}

impl Default for Entry {
    fn default() -> Entry {
        Entry::new()
    }
}

#[cfg(not(loom))]
pub(crate) use whole::{Held, MOST, Table, Wakes, between_sweeps, hold, moment, now, with};

/// What the model leaves out: the table as a whole, members, and the mutex.
#[cfg(not(loom))]
mod whole {
    use super::{Entry, FREE};
    use crate::robust::{Locked, NotLocked, Robust};
    use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
    use procession_shm::{Member, Segment};
    use procession_sys::{Deadline, crash_point, slice_length};
    use std::time::Duration;

    /// How many can wait for a primitive, or hold it, at a time.
    pub(crate) const MOST: usize = 512;
    /// How long what cannot wait waits for a mutex inside a primitive, which is held for some microseconds by who runs.
    const MOMENT: Duration = Duration::from_millis(50);
    /// The shortest time between two looks for the dead in one table or semaphore: 100 ms.
    pub(crate) fn between_sweeps() -> Duration {
        slice_length() * 2 / 5
    }

    /// Everybody who waits for a primitive, or holds it.
    #[repr(C)]
    pub(crate) struct Table {
        /// The next ticket.
        tickets: AtomicU64,
        /// When somebody last looked for the dead, on the monotonic clock.
        swept: AtomicU64,
        /// Entries from this one on are free.
        used: AtomicU32,
        unused: u32,
        entries: [Entry; MOST],
    }

    impl Table {
        fn used(&self) -> usize {
            (self.used.load(Ordering::Relaxed) as usize).min(MOST)
        }

        /// Every entry that is not free, with its place.
        pub(crate) fn taken(&self) -> impl Iterator<Item = (usize, &Entry)> {
            self.entries[..self.used()].iter().enumerate().filter(|(_, entry)| entry.state() != FREE)
        }

        /// How many are in one of these states.
        pub(crate) fn count(&self, states: &[u32]) -> usize {
            self.taken().filter(|(_, entry)| states.contains(&entry.state())).count()
        }

        /// The entry at a place that [`enter`](Table::enter) gave.
        pub(crate) fn entry(&self, index: usize) -> &Entry {
            &self.entries[index % MOST]
        }

        /// The ticket that the next one to enter will get.
        pub(crate) fn next_ticket(&self) -> u64 {
            self.tickets.load(Ordering::Relaxed)
        }

        /// Of those that `wanted` holds for, the one that came first.
        pub(crate) fn oldest(&self, wanted: impl Fn(&Entry) -> bool) -> Option<(usize, &Entry)> {
            self.taken().filter(|(_, entry)| wanted(entry)).min_by_key(|(_, entry)| entry.ticket())
        }

        /// Takes a free entry; `None` if there is none. The mutex is held.
        pub(crate) fn enter(&self, member: Member, note: u64, state: u32) -> Option<usize> {
            let mut used = self.used();
            while used > 0 && self.entries[used - 1].state() == FREE {
                used -= 1;
            }
            let index = self.entries[..used].iter().position(|entry| entry.state() == FREE).unwrap_or(used);
            let entry = self.entries.get(index)?;
            self.used.store(used.max(index + 1) as u32, Ordering::Relaxed);
            let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
            entry.fill(member.index() as u32 + 1, ticket, note, state);
            Some(index)
        }

        /// The process behind an entry; `None` if the memory was written over.
        pub(crate) fn member(&self, entry: &Entry) -> Option<Member> {
            let number = entry.member.load(Ordering::Relaxed) as usize;
            number.checked_sub(1).and_then(Member::from_index)
        }

        /// The pids of those in one of these states, in the order of their arrival, for people.
        pub(crate) fn pids(&self, segment: &Segment, states: &[u32]) -> Vec<u32> {
            let mut found: Vec<(u64, u32)> = self
                .taken()
                .filter(|(_, entry)| states.contains(&entry.state()))
                .map(|(_, entry)| {
                    let pid = self.member(entry).and_then(|member| segment.pid_of(member));
                    (entry.ticket(), pid.unwrap_or(0))
                })
                .collect();
            found.sort_unstable();
            found.into_iter().map(|(_, pid)| pid).collect()
        }

        /// Whether it is time for a look for the dead. True for one caller only.
        pub(crate) fn due(&self) -> bool {
            let last = self.swept.load(Ordering::Relaxed);
            let now = Deadline::now().as_nanos();
            // One that lies ahead was not written by us.
            let due = last > now || now - last >= between_sweeps().as_nanos() as u64;
            due && self.swept.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        }

        /// Calls `found` with each entry whose process is dead. The mutex is held.
        pub(crate) fn each_dead<'a>(
            &'a self,
            mut is_dead: impl FnMut(Member) -> bool,
            mut found: impl FnMut(&'a Entry, Member),
        ) {
            let mut last = None;
            for (_, entry) in self.taken() {
                let Some(member) = self.member(entry) else { continue };
                // One process may have many threads here.
                let dead = match last {
                    Some((known, dead)) if known == member => dead,
                    _ => is_dead(member),
                };
                last = Some((member, dead));
                if dead {
                    found(entry, member);
                }
            }
        }
    }

    /// Entries whose owners are to be woken.
    #[derive(Default)]
    pub(crate) struct Wakes([u64; MOST / 64]);

    impl Wakes {
        pub(crate) fn add(&mut self, index: usize) {
            self.0[index / 64 % (MOST / 64)] |= 1 << (index % 64);
        }

        pub(crate) fn is_empty(&self) -> bool {
            self.0.iter().all(|bits| *bits == 0)
        }

        pub(crate) fn ring(&self, table: &Table) {
            for (word, bits) in self.0.iter().enumerate() {
                let mut bits = *bits;
                while bits != 0 {
                    // By now it may be another's, who then looks once more than needed.
                    table.entry(word * 64 + bits.trailing_zeros() as usize).wake();
                    bits &= bits - 1;
                }
            }
        }
    }

    /// The mutex is held; letting go of it wakes whoever is to be woken.
    pub(crate) struct Held<'a> {
        mutex: &'a Robust,
        table: &'a Table,
        pub(crate) wakes: Wakes,
    }

    /// Takes a table's mutex. `repair` finishes what one who died under it had begun.
    pub(crate) fn hold<'a>(
        mutex: &'a Robust,
        table: &'a Table,
        deadline: Option<Deadline>,
        repair: impl FnOnce(&mut Wakes),
    ) -> Result<Held<'a>, NotLocked> {
        Ok(with(mutex, table, mutex.lock_inside(deadline)?, repair))
    }

    /// As [`hold`], by who has the mutex already.
    pub(crate) fn with<'a>(
        mutex: &'a Robust,
        table: &'a Table,
        locked: Locked,
        repair: impl FnOnce(&mut Wakes),
    ) -> Held<'a> {
        let mut held = Held { mutex, table, wakes: Wakes::default() };
        if locked == Locked::OwnerDied {
            crash_point!("table.died.found");
            repair(&mut held.wakes);
            crash_point!("table.died.repaired");
            mutex.made_consistent();
        }
        held
    }

    /// For who cannot wait: see [`MOMENT`].
    pub(crate) fn moment() -> Option<Deadline> {
        Some(Deadline::after(MOMENT))
    }

    /// For who takes the mutex only if nobody has it.
    pub(crate) fn now() -> Option<Deadline> {
        Some(Deadline::from_nanos(0))
    }

    impl Held<'_> {
        /// Lets go of the mutex; waking is left to the caller.
        pub(crate) fn keep_wakes(mut self) -> Wakes {
            core::mem::take(&mut self.wakes)
        }
    }

    impl Wakes {
        pub(crate) fn change(&mut self, (index, entry): (usize, &Entry), from: u32, to: u32) -> bool {
            match entry.change(from, to) {
                Some(wake) => {
                    if wake {
                        self.add(index);
                    }
                    true
                }
                None => false,
            }
        }
    }

    impl Drop for Held<'_> {
        fn drop(&mut self) {
            self.mutex.unlock();
            crash_point!("table.unlocked");
            self.wakes.ring(self.table);
        }
    }

    const _: () = assert!(size_of::<Entry>() == 24 && size_of::<Table>() == 24 + MOST * 24);
}
