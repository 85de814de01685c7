//! [`RwLock`]: many readers, or one writer.
//!
//! # Words
//!
//! A [`Table`] of those who hold it or wait for it, under a robust mutex of its own, and `poison`: why what it guards may
//! be half changed. An entry *waits* to read or write, is *granted* that, or *has* it; its note is the thread.
//!
//! # Protocol
//!
//! * Lock: the mutex; if nobody waits and nobody is in the way, enter as one who has it. Otherwise enter as one who
//!   waits, let the mutex go, sleep until it is granted, and store that one has it.
//! * Unlock, or give up: free the entry; then the mutex; grant.
//! * Grant, holding the mutex: in the order of arrival, readers as long as no writer has it or comes before them; a writer
//!   if nobody has it.
//!
//! # Invariants
//!
//! 1. Who has it is what the entries say; there are no counts.
//! 2. It is granted in the order of arrival, so neither readers nor writers starve. One exception: a thread that reads
//!    already reads again at once, since it could otherwise wait for a writer that waits for it.
//! 3. To grant is one store for each, and may be done by anybody and more than once.
//!
//! # When a process dies
//!
//! Whoever waits, or tries in vain, looks for the dead: the entry of one that had it is freed, after the poison was stored;
//! of one that waited, or was granted it and had not noticed, nothing needs to be told. Then it is granted. A death
//! between unlock and grant: whoever waits grants after a slice.
//!
//! # When a process is stopped
//!
//! With the mutex: who has a deadline gives up at it; who tries, after a moment; who unlocks leaves it to those who wait to
//! grant. An entry is free once its owner says so, with the mutex or without it.

mod guard;
#[cfg(feature = "async")]
mod later;
#[cfg(feature = "lock-trace")]
mod traced;

use guard::Part;
pub use guard::{ReadGuard, WriteGuard};

use crate::{
    Error, Holder, LockError, Poison, PoisonError,
    arena::{Handle, Shared, Tag, join},
    robust::{NotLocked, Robust},
    spin,
    table::{self, Entry, Table, Wakes},
    who::me,
};
#[cfg(feature = "lock-trace")]
use core::panic::Location;
use core::sync::atomic::{AtomicU64, Ordering};
use procession_shm::{Member, Segment};
use procession_sys::{Deadline, crash_point};
use serde::{Deserialize, Serialize};
use std::{fmt, time::Duration};

const READ_WAITS: u32 = 1;
const WRITE_WAITS: u32 = 2;
const READ_GRANTED: u32 = 3;
const WRITE_GRANTED: u32 = 4;
const READS: u32 = 5;
const WRITES: u32 = 6;

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Write,
}

impl Access {
    fn waits(self) -> u32 {
        if self == Access::Read { READ_WAITS } else { WRITE_WAITS }
    }

    fn has(self) -> u32 {
        if self == Access::Read { READS } else { WRITES }
    }
}

/// How long to wait.
#[derive(Clone, Copy)]
enum Patience {
    None,
    Until(Option<Deadline>),
}

impl Patience {
    /// How long to wait for the mutex.
    fn inside(self) -> Option<Deadline> {
        match self {
            Patience::None => table::moment(),
            Patience::Until(deadline) => deadline,
        }
    }
}

/// What lies in shared memory.
#[repr(C)]
pub(crate) struct RwLockWords {
    tag: Tag,
    mutex: Robust,
    poison: AtomicU64,
    table: Table,
    #[cfg(feature = "lock-trace")]
    notes: traced::Notes,
}

#[expect(unsafe_code, reason = "declares what may lie in a slot")]
// SAFETY: `repr(C)` with a tag in front; atomics and a mutex, for which zeroes are a lock that nobody has.
unsafe impl Shared for RwLockWords {
    const KIND: u16 = 23;
    const NAME: &'static str = "an RwLock";

    fn init(&self) -> Result<(), std::io::Error> {
        self.mutex.init()
    }

    fn recover(&self, segment: &Segment, dead: Member, until: Deadline) -> bool {
        match self.hold(Some(until)) {
            Ok(mut held) => {
                self.bury(segment, &mut held.wakes, |member| member == dead);
                true
            }
            Err(_) => false,
        }
    }
}

impl RwLockWords {
    fn hold(&self, deadline: Option<Deadline>) -> Result<table::Held<'_>, NotLocked> {
        table::hold(&self.mutex, &self.table, deadline, |wakes| self.grant(wakes))
    }

    /// Whether nobody has it, or is about to, who would be in the way. The mutex is held.
    fn is_free_for(&self, access: Access) -> bool {
        let in_the_way: &[u32] = match access {
            Access::Read => &[WRITES, WRITE_GRANTED],
            Access::Write => &[WRITES, WRITE_GRANTED, READS, READ_GRANTED],
        };
        self.table.count(in_the_way) == 0
    }

    /// Gives it to those whose turn it is. The mutex is held.
    fn grant(&self, wakes: &mut Wakes) {
        while let Some(place) = self.table.oldest(|entry| matches!(entry.state(), READ_WAITS | WRITE_WAITS)) {
            let (access, granted) = match place.1.state() {
                READ_WAITS => (Access::Read, READ_GRANTED),
                _ => (Access::Write, WRITE_GRANTED),
            };
            if !self.is_free_for(access) {
                break;
            }
            wakes.change(place, access.waits(), granted);
            crash_point!("rwlock.granted");
        }
    }

    /// Takes it back from the dead. The mutex is held.
    fn bury(&self, segment: &Segment, wakes: &mut Wakes, is_dead: impl FnMut(Member) -> bool) {
        self.table.each_dead(is_dead, |entry, member| {
            let pid = segment.pid_of(member).unwrap_or(0);
            match entry.state() {
                WRITES => self.poison.store(Poison::Died { pid }.to_word(), Ordering::Relaxed),
                // What a writer left is worse than what a reader can leave.
                READS => {
                    let word = Poison::ReaderDied { pid }.to_word();
                    let _ = self.poison.compare_exchange(0, word, Ordering::Relaxed, Ordering::Relaxed);
                }
                _ => {}
            }
            crash_point!("rwlock.bury.poisoned");
            entry.free();
        });
        self.grant(wakes);
    }

    fn poison(&self) -> Option<Poison> {
        Poison::from_word(self.poison.load(Ordering::Relaxed))
    }
}

/// A lock for many readers or one writer, in any processes and threads.
///
/// It is given in the order of arrival: readers that come while a writer waits wait behind it, so nobody starves. A
/// thread that reads may read again; any other second lock by a holder is an error. Locking and unlocking without
/// contention makes no system call.
///
/// Clones stand for the same lock; they go to other processes inside parcels. At most 512 threads can hold it or wait for
/// it at a time.
///
/// # When a process dies
///
/// Its locks are given back: whoever waits finds out within half a second, whoever tries in vain at once. The next
/// holders, readers and writers, get the lock with [`LockError::Poisoned`], which says which process died and as what
/// ([`Poison::Died`] for a writer, [`Poison::ReaderDied`]), until [`clear_poison`](RwLock::clear_poison). A writer's panic
/// poisons too, a reader's does not.
///
/// A process that is stopped (SIGSTOP) in the middle of locking or unlocking holds up who has no deadline; all others get
/// [`LockError::TimedOut`], the `try_` forms within 50 ms.
///
/// # Examples
///
/// ```
/// use procession_sync::{LockError, RwLock};
///
/// let lock = RwLock::new()?;
/// let one = lock.read().map_err(LockError::without_guard)?;
/// let other = lock.clone();
/// let reads = std::thread::spawn(move || (other.try_read().is_ok(), other.try_write().is_ok()));
/// assert_eq!(reads.join().unwrap(), (true, false));
/// drop(one);
/// assert!(lock.try_write().is_ok());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Serialize, Deserialize)]
pub struct RwLock {
    handle: Handle<RwLockWords>,
}

type Read<'a> = Result<ReadGuard<'a>, LockError<ReadGuard<'a>>>;
type Write<'a> = Result<WriteGuard<'a>, LockError<WriteGuard<'a>>>;

impl RwLock {
    /// A lock that nobody has.
    ///
    /// # Errors
    ///
    /// No memory for it: see [`Segment::anonymous`](procession_shm::Segment::anonymous).
    pub fn new() -> Result<RwLock, Error> {
        Ok(RwLock { handle: Handle::new(0, |_| ())? })
    }

    /// Locks it for reading: waits as long as somebody who lives writes, or came before to write.
    ///
    /// # Errors
    ///
    /// * [`LockError::Poisoned`], with the guard: a process died while it held the lock, or a writer panicked;
    /// * [`LockError::AlreadyHeld`]: the calling thread writes;
    /// * [`LockError::TooManyUsers`], [`LockError::TooManyHeld`], [`LockError::Member`], [`LockError::Damaged`];
    /// * with the feature `lock-trace`, `LockError::Deadlock`: one that has it waits for what this thread holds.
    #[inline]
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn read(&self) -> Result<ReadGuard<'_>, LockError<ReadGuard<'_>>> {
        self.reading(Patience::Until(None))
    }

    /// Locks it for reading if nobody writes or waits to.
    ///
    /// # Errors
    ///
    /// As [`read`](RwLock::read), and [`LockError::TimedOut`].
    #[inline]
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn try_read(&self) -> Result<ReadGuard<'_>, LockError<ReadGuard<'_>>> {
        self.reading(Patience::None)
    }

    /// As [`read`](RwLock::read), but waits no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// As [`read`](RwLock::read), and [`LockError::TimedOut`].
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn read_timeout(&self, timeout: Duration) -> Result<ReadGuard<'_>, LockError<ReadGuard<'_>>> {
        self.read_deadline(Deadline::after(timeout))
    }

    /// As [`read`](RwLock::read), but waits no longer than until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`read`](RwLock::read), and [`LockError::TimedOut`].
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn read_deadline(&self, deadline: Deadline) -> Result<ReadGuard<'_>, LockError<ReadGuard<'_>>> {
        self.reading(Patience::Until(Some(deadline)))
    }

    /// Locks it for writing: waits as long as somebody who lives has it, or came before.
    ///
    /// # Errors
    ///
    /// As [`read`](RwLock::read); [`LockError::AlreadyHeld`] if the calling thread reads or writes.
    #[inline]
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn write(&self) -> Result<WriteGuard<'_>, LockError<WriteGuard<'_>>> {
        self.writing(Patience::Until(None))
    }

    /// Locks it for writing if nobody has it.
    ///
    /// # Errors
    ///
    /// As [`write`](RwLock::write), and [`LockError::TimedOut`].
    #[inline]
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn try_write(&self) -> Result<WriteGuard<'_>, LockError<WriteGuard<'_>>> {
        self.writing(Patience::None)
    }

    /// As [`write`](RwLock::write), but waits no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// As [`write`](RwLock::write), and [`LockError::TimedOut`].
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn write_timeout(&self, timeout: Duration) -> Result<WriteGuard<'_>, LockError<WriteGuard<'_>>> {
        self.write_deadline(Deadline::after(timeout))
    }

    /// As [`write`](RwLock::write), but waits no longer than until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`write`](RwLock::write), and [`LockError::TimedOut`].
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn write_deadline(&self, deadline: Deadline) -> Result<WriteGuard<'_>, LockError<WriteGuard<'_>>> {
        self.writing(Patience::Until(Some(deadline)))
    }

    /// How many threads read.
    #[must_use]
    pub fn readers(&self) -> usize {
        self.handle.words().table.count(&[READS])
    }

    /// The process that writes, by its pid; 0 if that is not known.
    #[must_use]
    pub fn writer(&self) -> Option<u32> {
        self.handle.words().table.pids(self.handle.place().segment(), &[WRITES]).first().copied()
    }

    /// Who writes: process and thread, as they see themselves. It may have changed by the time that the answer is there.
    #[must_use]
    pub fn holder(&self) -> Option<Holder> {
        self.holders_as(&[WRITES]).pop()
    }

    /// Who has it, to read or to write: processes and threads, as they see themselves, in the order of arrival. A thread that
    /// reads twice is there twice.
    #[must_use]
    pub fn holders(&self) -> Vec<Holder> {
        self.holders_as(&[READS, WRITES])
    }

    fn holders_as(&self, states: &[u32]) -> Vec<Holder> {
        let table = &self.handle.words().table;
        let entries = table.taken().filter(|(_, entry)| states.contains(&entry.state()));
        let mut found: Vec<_> = entries.map(|(_, entry)| (entry.ticket(), entry.note())).collect();
        found.sort_unstable();
        found.into_iter().filter_map(|(_, note)| Holder::from_word(note)).collect()
    }

    /// How many threads wait for it.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.handle.words().table.count(&[READ_WAITS, WRITE_WAITS])
    }

    /// Why what it guards may be half changed.
    #[must_use]
    pub fn poison(&self) -> Option<Poison> {
        self.handle.words().poison()
    }

    /// Whether what it guards may be half changed.
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        self.poison().is_some()
    }

    /// Declares that what the lock guards is whole again. Best called by who writes.
    pub fn clear_poison(&self) {
        self.handle.words().poison.store(0, Ordering::Relaxed);
    }

    /// Whether both stand for the same lock.
    #[must_use]
    pub fn same(&self, other: &RwLock) -> bool {
        self.handle.same(&other.handle)
    }

    #[inline]
    #[cfg_attr(feature = "lock-trace", track_caller)]
    fn reading(&self, patience: Patience) -> Read<'_> {
        let guard = ReadGuard { part: self.take(Access::Read, patience).map_err(with_no_guard)? };
        match self.poison() {
            None => Ok(guard),
            Some(cause) => Err(LockError::Poisoned(PoisonError::new(guard, cause))),
        }
    }

    #[inline]
    #[cfg_attr(feature = "lock-trace", track_caller)]
    fn writing(&self, patience: Patience) -> Write<'_> {
        let part = self.take(Access::Write, patience).map_err(with_no_guard)?;
        let guard = WriteGuard { part, panicking: std::thread::panicking() };
        match self.poison() {
            None => Ok(guard),
            Some(cause) => Err(LockError::Poisoned(PoisonError::new(guard, cause))),
        }
    }

    #[cfg_attr(feature = "lock-trace", track_caller)]
    fn take(&self, access: Access, patience: Patience) -> Result<Part<'_>, LockError> {
        let words = self.handle.words();
        let member = self.join(patience.inside())?;
        let held = words.hold(patience.inside()).map_err(not_locked)?;
        let waits = !matches!(patience, Patience::None);
        match self.ask(held, member, access, waits, true)? {
            Asked::Has(index) => {
                crash_point!("rwlock.taken");
                #[cfg(feature = "lock-trace")]
                words.note(index, Location::caller());
                Ok(Part::new(self, index))
            }
            Asked::Waits(index) => {
                let Patience::Until(deadline) = patience else { return Err(LockError::TimedOut) };
                let entry = words.table.entry(index);
                #[cfg(feature = "lock-trace")]
                if deadline.is_none() {
                    self.sleep_traced(index, access, Location::caller())?;
                } else {
                    self.sleep(entry, access, deadline)?;
                }
                #[cfg(not(feature = "lock-trace"))]
                self.sleep(entry, access, deadline)?;
                #[cfg(feature = "lock-trace")]
                words.note(index, Location::caller());
                entry.have(access.has());
                crash_point!("rwlock.taken.after");
                Ok(Part::new(self, index))
            }
        }
    }

    fn join(&self, deadline: Option<Deadline>) -> Result<Member, LockError> {
        join(self.handle.place().segment(), deadline).map_err(|error| LockError::Member(Box::new(error)))
    }

    /// Enters as one who has it, or as one who waits, if that is wanted. `again`: it is an error if the calling thread
    /// has it, and would wait for itself.
    fn ask(
        &self,
        mut held: table::Held<'_>,
        member: Member,
        access: Access,
        waits: bool,
        again: bool,
    ) -> Result<Asked, LockError> {
        let (words, segment) = (self.handle.words(), self.handle.place().segment());
        let mine = |states: &[u32]| {
            words.table.taken().any(|(_, entry)| {
                states.contains(&entry.state())
                    && entry.note() == me()
                    && words.table.member(entry) == Some(member)
            })
        };
        let mut looked = false;
        loop {
            if again && (mine(&[WRITES]) || access == Access::Write && mine(&[READS])) {
                return Err(LockError::AlreadyHeld);
            }
            let nobody_waits = words.table.count(&[READ_WAITS, WRITE_WAITS]) == 0;
            let at_once = words.is_free_for(access) && (nobody_waits || mine(&[READS]));
            let state = if at_once { access.has() } else { access.waits() };
            if at_once || waits {
                match words.table.enter(member, me(), state) {
                    Some(index) if at_once => return Ok(Asked::Has(index)),
                    Some(index) => return Ok(Asked::Waits(index)),
                    None if looked => return Err(LockError::TooManyUsers),
                    None => {}
                }
            } else if looked {
                return Err(LockError::TimedOut);
            }
            words.bury(segment, &mut held.wakes, |member| segment.is_dead(member));
            looked = true;
        }
    }

    /// Waits until it is granted.
    fn sleep(&self, entry: &Entry, access: Access, deadline: Option<Deadline>) -> Result<(), LockError> {
        loop {
            spin::with(|spin| entry.wait_slice(access.waits(), deadline, spin));
            if entry.state() != access.waits() {
                return Ok(());
            }
            let late = deadline.is_some_and(Deadline::passed);
            if !late && !self.handle.words().table.due() {
                continue;
            }
            // One more look: who died just now may be all that is in the way.
            self.sweep();
            if late && entry.change(access.waits(), table::FREE).is_some() {
                crash_point!("rwlock.gave_up");
                self.grant();
                return Err(LockError::TimedOut);
            }
        }
    }

    /// Looks for the dead, unless somebody holds the mutex: there is a next time.
    fn sweep(&self) {
        let (words, segment) = (self.handle.words(), self.handle.place().segment());
        if let Ok(mut held) = words.hold(table::now()) {
            words.bury(segment, &mut held.wakes, |member| segment.is_dead(member));
        }
    }

    fn let_go(&self, index: usize) {
        self.handle.words().table.entry(index).free();
        crash_point!("rwlock.freed");
        self.grant();
    }

    /// An entry was freed: those behind it may have waited for this one only. Without the mutex whoever waits grants after a
    /// slice.
    fn grant(&self) {
        let words = self.handle.words();
        if let Ok(mut held) = words.hold(table::moment()) {
            words.grant(&mut held.wakes);
        }
    }
}

/// What became of a demand: the place of its entry.
enum Asked {
    Has(usize),
    Waits(usize),
}

fn with_no_guard<G>(error: LockError) -> LockError<G> {
    match error {
        LockError::TimedOut => LockError::TimedOut,
        LockError::AlreadyHeld => LockError::AlreadyHeld,
        LockError::TooManyHeld => LockError::TooManyHeld,
        LockError::TooManyUsers => LockError::TooManyUsers,
        LockError::Member(error) => LockError::Member(error),
        LockError::Damaged(code) => LockError::Damaged(code),
        #[cfg(feature = "lock-trace")]
        LockError::Deadlock(deadlock) => LockError::Deadlock(deadlock),
        // Of arrays only.
        LockError::PartsOut => LockError::Damaged(0),
        // A poison comes with a guard, and is found after this.
        LockError::Poisoned(_) => LockError::Damaged(0),
    }
}

fn not_locked(error: NotLocked) -> LockError {
    match error {
        NotLocked::TooMany => LockError::TooManyHeld,
        NotLocked::Damaged(code) => LockError::Damaged(code),
        NotLocked::TimedOut => LockError::TimedOut,
    }
}

impl fmt::Debug for RwLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (table, segment) = (&self.handle.words().table, self.handle.place().segment());
        let mut debug = f.debug_struct("RwLock");
        debug
            .field("readers", &table.pids(segment, &[READS]))
            .field("writer", &self.writer())
            .field("waiting", &table.pids(segment, &[READ_WAITS, WRITE_WAITS]))
            .field("poison", &self.poison());
        #[cfg(feature = "lock-trace")]
        debug.field("held_since", &self.held_since()).field("held_at", &self.held_at());
        debug.finish()
    }
}
