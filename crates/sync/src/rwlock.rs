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
//! * Unlock: the mutex; free the entry; grant.
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

use crate::{
    Error, LockError, Poison, PoisonError,
    arena::{Handle, Shared, Tag, join},
    robust::{NotLocked, Robust},
    spin,
    table::{self, Entry, Table, Wakes},
    who::me,
};
use core::{
    marker::PhantomData,
    sync::atomic::{AtomicU64, Ordering},
};
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

/// What lies in shared memory.
#[repr(C)]
pub(crate) struct RwLockWords {
    tag: Tag,
    mutex: Robust,
    poison: AtomicU64,
    table: Table,
}

#[expect(unsafe_code, reason = "declares what may lie in a slot")]
// SAFETY: `repr(C)` with a tag in front; atomics and a mutex, for which zeroes are a lock that nobody has.
unsafe impl Shared for RwLockWords {
    const KIND: u16 = 23;
    const NAME: &'static str = "an RwLock";

    fn init(&self) -> Result<(), std::io::Error> {
        self.mutex.init()
    }

    fn recover(&self, segment: &Segment, dead: Member) -> bool {
        let soon = Deadline::after(Duration::from_secs(1));
        match table::hold(&self.mutex, &self.table, Some(soon), |wakes| self.grant(wakes)) {
            Ok(mut held) => {
                self.bury(segment, &mut held.wakes, |member| member == dead);
                true
            }
            Err(_) => false,
        }
    }
}

impl RwLockWords {
    fn hold(&self) -> Result<table::Held<'_>, NotLocked> {
        table::hold(&self.mutex, &self.table, None, |wakes| self.grant(wakes))
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
    /// * [`LockError::TooManyUsers`], [`LockError::TooManyHeld`], [`LockError::Member`], [`LockError::Damaged`].
    #[inline]
    pub fn read(&self) -> Result<ReadGuard<'_>, LockError<ReadGuard<'_>>> {
        self.reading(Patience::Until(None))
    }

    /// Locks it for reading if nobody writes or waits to.
    ///
    /// # Errors
    ///
    /// As [`read`](RwLock::read), and [`LockError::TimedOut`].
    #[inline]
    pub fn try_read(&self) -> Result<ReadGuard<'_>, LockError<ReadGuard<'_>>> {
        self.reading(Patience::None)
    }

    /// As [`read`](RwLock::read), but waits no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// As [`read`](RwLock::read), and [`LockError::TimedOut`].
    pub fn read_timeout(&self, timeout: Duration) -> Result<ReadGuard<'_>, LockError<ReadGuard<'_>>> {
        self.read_deadline(Deadline::after(timeout))
    }

    /// As [`read`](RwLock::read), but waits no longer than until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`read`](RwLock::read), and [`LockError::TimedOut`].
    pub fn read_deadline(&self, deadline: Deadline) -> Result<ReadGuard<'_>, LockError<ReadGuard<'_>>> {
        self.reading(Patience::Until(Some(deadline)))
    }

    /// Locks it for writing: waits as long as somebody who lives has it, or came before.
    ///
    /// # Errors
    ///
    /// As [`read`](RwLock::read); [`LockError::AlreadyHeld`] if the calling thread reads or writes.
    #[inline]
    pub fn write(&self) -> Result<WriteGuard<'_>, LockError<WriteGuard<'_>>> {
        self.writing(Patience::Until(None))
    }

    /// Locks it for writing if nobody has it.
    ///
    /// # Errors
    ///
    /// As [`write`](RwLock::write), and [`LockError::TimedOut`].
    #[inline]
    pub fn try_write(&self) -> Result<WriteGuard<'_>, LockError<WriteGuard<'_>>> {
        self.writing(Patience::None)
    }

    /// As [`write`](RwLock::write), but waits no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// As [`write`](RwLock::write), and [`LockError::TimedOut`].
    pub fn write_timeout(&self, timeout: Duration) -> Result<WriteGuard<'_>, LockError<WriteGuard<'_>>> {
        self.write_deadline(Deadline::after(timeout))
    }

    /// As [`write`](RwLock::write), but waits no longer than until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`write`](RwLock::write), and [`LockError::TimedOut`].
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
    fn reading(&self, patience: Patience) -> Read<'_> {
        let guard = ReadGuard { part: self.take(Access::Read, patience).map_err(with_no_guard)? };
        match self.poison() {
            None => Ok(guard),
            Some(cause) => Err(LockError::Poisoned(PoisonError::new(guard, cause))),
        }
    }

    #[inline]
    fn writing(&self, patience: Patience) -> Write<'_> {
        let part = self.take(Access::Write, patience).map_err(with_no_guard)?;
        let guard = WriteGuard { part, panicking: std::thread::panicking() };
        match self.poison() {
            None => Ok(guard),
            Some(cause) => Err(LockError::Poisoned(PoisonError::new(guard, cause))),
        }
    }

    fn take(&self, access: Access, patience: Patience) -> Result<Part<'_>, LockError> {
        let (words, segment) = (self.handle.words(), self.handle.place().segment());
        let member = join(segment).map_err(|error| LockError::Member(Box::new(error)))?;
        let part = |index| Part { lock: self, index, thread: me(), stays: PhantomData };
        let mut looked = false;
        let index = loop {
            let mut held = words.hold().map_err(not_locked)?;
            let mine = |states: &[u32]| {
                words.table.taken().any(|(_, entry)| {
                    states.contains(&entry.state())
                        && entry.note() == me()
                        && words.table.member(entry) == Some(member)
                })
            };
            if mine(&[WRITES]) || access == Access::Write && mine(&[READS]) {
                return Err(LockError::AlreadyHeld);
            }
            let nobody_waits = words.table.count(&[READ_WAITS, WRITE_WAITS]) == 0;
            let at_once = words.is_free_for(access) && (nobody_waits || mine(&[READS]));
            let state = if at_once { access.has() } else { access.waits() };
            let waits_in_vain = !at_once && matches!(patience, Patience::None);
            if !waits_in_vain {
                match words.table.enter(member, me(), state) {
                    Some(index) if at_once => {
                        drop(held);
                        crash_point!("rwlock.taken");
                        return Ok(part(index));
                    }
                    Some(index) => break index,
                    None if looked => return Err(LockError::TooManyUsers),
                    None => {}
                }
            } else if looked {
                return Err(LockError::TimedOut);
            }
            words.bury(segment, &mut held.wakes, |member| segment.is_dead(member));
            looked = true;
        };
        let Patience::Until(deadline) = patience else { return Err(LockError::TimedOut) };
        let entry = words.table.entry(index);
        self.sleep(entry, access, deadline)?;
        entry.have(access.has());
        crash_point!("rwlock.taken.after");
        Ok(part(index))
    }

    /// Waits until it is granted.
    fn sleep(&self, entry: &Entry, access: Access, deadline: Option<Deadline>) -> Result<(), LockError> {
        let (words, segment) = (self.handle.words(), self.handle.place().segment());
        loop {
            spin::with(|spin| entry.wait_slice(access.waits(), deadline, spin));
            if entry.state() != access.waits() {
                return Ok(());
            }
            let late = deadline.is_some_and(Deadline::passed);
            if !late && !words.table.due() {
                continue;
            }
            let mut held = match words.hold() {
                Ok(held) => held,
                Err(error) => {
                    entry.free();
                    return Err(not_locked(error));
                }
            };
            words.bury(segment, &mut held.wakes, |member| segment.is_dead(member));
            if late && entry.change(access.waits(), table::FREE).is_some() {
                crash_point!("rwlock.gave_up");
                // Those behind it may have waited for this one only.
                words.grant(&mut held.wakes);
                return Err(LockError::TimedOut);
            }
        }
    }

    fn let_go(&self, index: usize) {
        let words = self.handle.words();
        let held = words.hold();
        words.table.entry(index).free();
        crash_point!("rwlock.freed");
        // Without the mutex whoever waits grants after a slice.
        if let Ok(mut held) = held {
            words.grant(&mut held.wakes);
        }
    }
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
        // The mutex is waited for without a deadline.
        NotLocked::TimedOut => LockError::TimedOut,
    }
}

impl fmt::Debug for RwLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (table, segment) = (&self.handle.words().table, self.handle.place().segment());
        f.debug_struct("RwLock")
            .field("readers", &table.pids(segment, &[READS]))
            .field("writer", &self.writer())
            .field("waiting", &table.pids(segment, &[READ_WAITS, WRITE_WAITS]))
            .field("poison", &self.poison())
            .finish()
    }
}

/// One holder's part in the lock.
struct Part<'a> {
    lock: &'a RwLock,
    index: usize,
    thread: u64,
    /// Second locks are told from first ones by the thread.
    stays: PhantomData<*const ()>,
}

impl Drop for Part<'_> {
    #[inline]
    fn drop(&mut self) {
        // A forked child has a copy of its parent's guard, and nothing to let go of.
        if self.thread == me() {
            self.lock.let_go(self.index);
        }
    }
}

/// A [`RwLock`] that is locked for reading: dropping it lets it go. It stays with its thread.
#[must_use = "the lock is let go when the guard is dropped"]
pub struct ReadGuard<'a> {
    part: Part<'a>,
}

impl ReadGuard<'_> {
    /// The lock that is held.
    #[must_use]
    pub fn lock(&self) -> &RwLock {
        self.part.lock
    }
}

impl fmt::Debug for ReadGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ReadGuard").field(self.lock()).finish()
    }
}

/// A [`RwLock`] that is locked for writing: dropping it lets it go. It stays with its thread.
///
/// Dropped by a panic, it poisons the lock.
#[must_use = "the lock is let go when the guard is dropped"]
pub struct WriteGuard<'a> {
    part: Part<'a>,
    panicking: bool,
}

impl WriteGuard<'_> {
    /// The lock that is held.
    #[must_use]
    pub fn lock(&self) -> &RwLock {
        self.part.lock
    }
}

impl Drop for WriteGuard<'_> {
    fn drop(&mut self) {
        if !self.panicking && std::thread::panicking() && self.part.thread == me() {
            let poison = Poison::Panicked { pid: std::process::id() };
            self.lock().handle.words().poison.store(poison.to_word(), Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for WriteGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WriteGuard").field(self.lock()).finish()
    }
}
