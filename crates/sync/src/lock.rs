//! [`Lock`]: mutual exclusion.
//!
//! # Words
//!
//! | word | meaning | who changes it |
//! |---|---|---|
//! | `mutex` | the lock | whoever takes it; the kernel, at its holder's death |
//! | `holder` | who has it, for others to read | the holder |
//! | `poison` | why what it guards may be half changed | the holder |
//!
//! # When a process dies
//!
//! The mutex goes to the next one, who finds in `holder` who died, stores that in `poison`, and only then makes the
//! mutex consistent: a death in between gives the next one the same answer. A death after the mutex was taken and before
//! `holder` was stored, or after it was cleared and before the mutex was let go, leaves 0: a poison without a pid. Between
//! these no user code runs.

use crate::{
    Error, Holder, LockError, NotHeld, Poison, PoisonError,
    arena::{Handle, Shared, Tag},
    robust::{Locked, NotLocked, Robust},
    who::me,
};
use core::{
    marker::PhantomData,
    sync::atomic::{AtomicU64, Ordering},
};
use procession_sys::{Deadline, crash_point};
use serde::{Deserialize, Serialize};
use std::{fmt, time::Duration};

/// What lies in shared memory.
#[repr(C)]
pub(crate) struct LockWords {
    tag: Tag,
    mutex: Robust,
    holder: AtomicU64,
    poison: AtomicU64,
}

#[expect(unsafe_code, reason = "declares what may lie in a slot")]
// SAFETY: `repr(C)` with a tag in front; atomics and a mutex, for which zeroes are an unlocked one of the plain kind.
unsafe impl Shared for LockWords {
    const KIND: u16 = 1;
    const NAME: &'static str = "a Lock";

    fn init(&self) -> Result<(), std::io::Error> {
        self.mutex.init()
    }

    fn in_use(&self) -> bool {
        Holder::from_word(self.holder.load(Ordering::Relaxed)).is_some_and(Holder::is_here)
    }
}

impl LockWords {
    /// After the mutex was taken: leaves this thread's name, and finds out about the last holder's end.
    #[inline]
    fn taken(&self, locked: Locked) -> Option<Poison> {
        if locked == Locked::OwnerDied {
            self.died();
        }
        self.holder.store(me(), Ordering::Relaxed);
        Poison::from_word(self.poison.load(Ordering::Relaxed))
    }

    #[cold]
    fn died(&self) {
        let pid = Holder::from_word(self.holder.load(Ordering::Relaxed)).map_or(0, |holder| holder.pid);
        crash_point!("lock.died.found");
        self.poison.store(Poison::Died { pid }.to_word(), Ordering::Relaxed);
        crash_point!("lock.died.poisoned");
        self.mutex.made_consistent();
        crash_point!("lock.died.consistent");
    }
}

/// Mutual exclusion between processes and their threads.
///
/// It belongs to the thread that locked it: nobody else can let it go. (What one locks and another lets go is a
/// semaphore's business.) Locking it again in the same thread is an error, not a wait without end.
///
/// Clones stand for the same lock; they go to other processes inside parcels. Locking and unlocking a free lock makes
/// no system call.
///
/// # When a process dies
///
/// The kernel lets go of its locks at once and wakes a waiter. The next holder gets the lock with
/// [`LockError::Poisoned`], which says which process died; so does everyone after it, until
/// [`clear_poison`](Lock::clear_poison). A thread that ends while it holds a lock (its guard was forgotten) counts as
/// dead too. See `get_robust_list(2)`.
///
/// # Examples
///
/// ```
/// use procession_sync::{Lock, LockError};
/// use std::time::Duration;
///
/// let lock = Lock::new()?;
/// {
///     let _guard = lock.lock().map_err(LockError::without_guard)?;
///     assert_eq!(lock.holder().unwrap().pid, std::process::id());
///     let other = lock.clone();
///     let busy = std::thread::spawn(move || other.try_lock().is_err());
///     assert!(busy.join().unwrap());
/// }
/// assert!(lock.lock_timeout(Duration::from_secs(1)).is_ok());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Serialize, Deserialize)]
pub struct Lock {
    handle: Handle<LockWords>,
}

impl Lock {
    /// A lock that nobody holds.
    ///
    /// # Errors
    ///
    /// No memory for it: see [`Segment::anonymous`](procession_shm::Segment::anonymous).
    pub fn new() -> Result<Lock, Error> {
        Ok(Lock { handle: Handle::new(0, |_| ())? })
    }

    /// The lock in front of data.
    pub(crate) fn of(handle: Handle<LockWords>) -> Lock {
        Lock { handle }
    }

    /// Locks it: waits as long as somebody holds it who lives.
    ///
    /// # Errors
    ///
    /// * [`LockError::Poisoned`], with the guard: the last holder died or panicked;
    /// * [`LockError::AlreadyHeld`], [`LockError::TooManyHeld`].
    #[inline]
    pub fn lock(&self) -> Result<LockGuard<'_>, LockError<LockGuard<'_>>> {
        self.guarded(self.take(None))
    }

    /// Locks it if nobody holds it.
    ///
    /// # Errors
    ///
    /// As [`lock`](Lock::lock), and [`LockError::TimedOut`] if somebody holds it.
    #[inline]
    pub fn try_lock(&self) -> Result<LockGuard<'_>, LockError<LockGuard<'_>>> {
        self.guarded(self.try_take())
    }

    /// As [`lock`](Lock::lock), but waits no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// As [`lock`](Lock::lock), and [`LockError::TimedOut`].
    pub fn lock_timeout(&self, timeout: Duration) -> Result<LockGuard<'_>, LockError<LockGuard<'_>>> {
        self.lock_deadline(Deadline::after(timeout))
    }

    /// As [`lock`](Lock::lock), but waits no longer than until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`lock`](Lock::lock), and [`LockError::TimedOut`].
    pub fn lock_deadline(&self, deadline: Deadline) -> Result<LockGuard<'_>, LockError<LockGuard<'_>>> {
        self.guarded(self.take(Some(deadline)))
    }

    /// Locks it without a guard: [`release`](Lock::release) lets it go.
    ///
    /// # Errors
    ///
    /// As [`lock`](Lock::lock). With [`LockError::Poisoned`] it is locked all the same.
    pub fn acquire(&self) -> Result<(), LockError> {
        unguarded(self.take(None))
    }

    /// As [`acquire`](Lock::acquire), but does not wait.
    ///
    /// # Errors
    ///
    /// As [`try_lock`](Lock::try_lock). With [`LockError::Poisoned`] it is locked all the same.
    pub fn try_acquire(&self) -> Result<(), LockError> {
        unguarded(self.try_take())
    }

    /// As [`acquire`](Lock::acquire), but waits no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// As [`lock_timeout`](Lock::lock_timeout). With [`LockError::Poisoned`] it is locked all the same.
    pub fn acquire_timeout(&self, timeout: Duration) -> Result<(), LockError> {
        self.acquire_deadline(Deadline::after(timeout))
    }

    /// As [`acquire`](Lock::acquire), but waits no longer than until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`lock_deadline`](Lock::lock_deadline). With [`LockError::Poisoned`] it is locked all the same.
    pub fn acquire_deadline(&self, deadline: Deadline) -> Result<(), LockError> {
        unguarded(self.take(Some(deadline)))
    }

    /// Lets it go.
    ///
    /// # Errors
    ///
    /// The calling thread does not hold it.
    pub fn release(&self) -> Result<(), NotHeld> {
        if self.is_mine() && self.let_go() { Ok(()) } else { Err(NotHeld) }
    }

    /// Whether anybody holds it.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.holder().is_some()
    }

    /// Who holds it. It may have changed by the time that the answer is there.
    #[must_use]
    pub fn holder(&self) -> Option<Holder> {
        Holder::from_word(self.handle.words().holder.load(Ordering::Relaxed))
    }

    /// Whether a holder died or panicked, and who, since the poison was cleared last.
    #[must_use]
    pub fn poison(&self) -> Option<Poison> {
        Poison::from_word(self.handle.words().poison.load(Ordering::Relaxed))
    }

    /// Whether a holder died or panicked since the poison was cleared last.
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        self.poison().is_some()
    }

    /// Declares that what the lock guards is whole again. Best called by who holds it.
    pub fn clear_poison(&self) {
        self.handle.words().poison.store(0, Ordering::Relaxed);
    }

    /// Whether both stand for the same lock.
    #[must_use]
    pub fn same(&self, other: &Lock) -> bool {
        self.handle.same(&other.handle)
    }

    /// Whether the calling thread holds it. The word in shared memory would not do: in another pid namespace another
    /// thread may have the same numbers.
    #[inline]
    pub(crate) fn is_mine(&self) -> bool {
        self.handle.place().local[0].load(Ordering::Relaxed) == me()
    }

    #[inline]
    pub(crate) fn take(&self, deadline: Option<Deadline>) -> Result<Option<Poison>, NotTaken> {
        if self.is_mine() {
            return Err(NotTaken::AlreadyHeld);
        }
        self.taken(self.handle.words().mutex.lock(deadline))
    }

    #[inline]
    pub(crate) fn try_take(&self) -> Result<Option<Poison>, NotTaken> {
        self.taken(self.handle.words().mutex.try_lock())
    }

    #[inline]
    fn taken(&self, locked: Result<Locked, NotLocked>) -> Result<Option<Poison>, NotTaken> {
        let locked = locked.map_err(NotTaken::NotLocked)?;
        crash_point!("lock.taken");
        let poison = self.handle.words().taken(locked);
        self.handle.place().local[0].store(me(), Ordering::Relaxed);
        Ok(poison)
    }

    /// Lets it go; the calling thread holds it.
    #[inline]
    pub(crate) fn let_go(&self) -> bool {
        let words = self.handle.words();
        self.handle.place().local[0].store(0, Ordering::Relaxed);
        words.holder.store(0, Ordering::Relaxed);
        crash_point!("lock.nameless");
        words.mutex.unlock()
    }

    pub(crate) fn panicked(&self) {
        self.poison_by(Poison::Panicked { pid: Holder::current().pid });
    }

    /// Poisons it; the calling thread holds it.
    pub(crate) fn poison_by(&self, cause: Poison) {
        self.handle.words().poison.store(cause.to_word(), Ordering::Relaxed);
    }

    #[inline]
    fn guarded(
        &self,
        taken: Result<Option<Poison>, NotTaken>,
    ) -> Result<LockGuard<'_>, LockError<LockGuard<'_>>> {
        let guard = || LockGuard { lock: self, panicking: std::thread::panicking(), thread: PhantomData };
        match taken {
            Ok(None) => Ok(guard()),
            Ok(Some(cause)) => Err(LockError::Poisoned(PoisonError::new(guard(), cause))),
            Err(error) => Err(error.into()),
        }
    }
}

/// Why a lock was not taken.
#[derive(Clone, Copy, Debug)]
pub(crate) enum NotTaken {
    AlreadyHeld,
    NotLocked(NotLocked),
}

impl<G> From<NotTaken> for LockError<G> {
    fn from(error: NotTaken) -> LockError<G> {
        match error {
            NotTaken::AlreadyHeld => LockError::AlreadyHeld,
            NotTaken::NotLocked(NotLocked::TimedOut) => LockError::TimedOut,
            NotTaken::NotLocked(NotLocked::TooMany) => LockError::TooManyHeld,
            NotTaken::NotLocked(NotLocked::Damaged(code)) => LockError::Damaged(code),
        }
    }
}

fn unguarded(taken: Result<Option<Poison>, NotTaken>) -> Result<(), LockError> {
    match taken {
        Ok(None) => Ok(()),
        Ok(Some(cause)) => Err(LockError::Poisoned(PoisonError::new((), cause))),
        Err(error) => Err(error.into()),
    }
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock").field("holder", &self.holder()).field("poison", &self.poison()).finish()
    }
}

/// A locked [`Lock`]: dropping it lets the lock go.
///
/// It stays with its thread. Dropped by a panic, it poisons the lock.
#[must_use = "the lock is let go when the guard is dropped"]
pub struct LockGuard<'a> {
    lock: &'a Lock,
    panicking: bool,
    /// A robust mutex is let go by the thread that took it.
    thread: PhantomData<*const ()>,
}

impl LockGuard<'_> {
    /// The lock that is held.
    #[must_use]
    pub fn lock(&self) -> &Lock {
        self.lock
    }
}

impl Drop for LockGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        if !self.panicking && std::thread::panicking() {
            self.lock.panicked();
        }
        self.lock.let_go();
    }
}

impl fmt::Debug for LockGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LockGuard").field(self.lock).finish()
    }
}
