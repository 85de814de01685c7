//! [`Lock`]: mutual exclusion. What it is made of is told in `mutex.rs`.

use crate::{
    Error, Holder, LockError, NotHeld, Poison,
    arena::Handle,
    mutex::{Depth, Guarded, LockWords, Mutual, NotTaken, with_guard},
};
use core::marker::PhantomData;
use procession_sys::Deadline;
use serde::{Deserialize, Serialize};
use std::{fmt, time::Duration};

/// Mutual exclusion between processes and their threads.
///
/// It belongs to the thread that locked it: nobody else can let it go. (What one locks and another lets go is a
/// semaphore's business.) Locking it again in the same thread is an error, not a wait without end.
///
/// It is not fair: one that locks it again at once can be quicker than one that waits.
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
    mutex: Mutual<LockWords>,
}

impl Lock {
    /// A lock that nobody holds.
    ///
    /// # Errors
    ///
    /// No memory for it: see [`Segment::anonymous`](procession_shm::Segment::anonymous).
    pub fn new() -> Result<Lock, Error> {
        Ok(Lock { mutex: Mutual::new()? })
    }

    /// The lock in front of data.
    pub(crate) fn of(handle: Handle<LockWords>) -> Lock {
        Lock { mutex: Mutual::of(handle) }
    }

    /// Locks it: waits as long as somebody holds it who lives.
    ///
    /// # Errors
    ///
    /// * [`LockError::Poisoned`], with the guard: the last holder died or panicked;
    /// * [`LockError::AlreadyHeld`], [`LockError::TooManyHeld`];
    /// * with the feature `lock-trace`, `LockError::Deadlock`: its holder waits for what this thread holds.
    #[inline]
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn lock(&self) -> Result<LockGuard<'_>, LockError<LockGuard<'_>>> {
        self.guarded(self.mutex.take(None))
    }

    /// Locks it if nobody holds it.
    ///
    /// # Errors
    ///
    /// As [`lock`](Lock::lock), and [`LockError::TimedOut`] if somebody holds it.
    #[inline]
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn try_lock(&self) -> Result<LockGuard<'_>, LockError<LockGuard<'_>>> {
        self.guarded(self.mutex.try_take())
    }

    /// As [`lock`](Lock::lock), but waits no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// As [`lock`](Lock::lock), and [`LockError::TimedOut`].
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn lock_timeout(&self, timeout: Duration) -> Result<LockGuard<'_>, LockError<LockGuard<'_>>> {
        self.lock_deadline(Deadline::after(timeout))
    }

    /// As [`lock`](Lock::lock), but waits no longer than until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`lock`](Lock::lock), and [`LockError::TimedOut`].
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn lock_deadline(&self, deadline: Deadline) -> Result<LockGuard<'_>, LockError<LockGuard<'_>>> {
        self.guarded(self.mutex.take(Some(deadline)))
    }

    /// As [`lock`](Lock::lock), as a future for any executor (feature `async`). It can be dropped at any time.
    ///
    /// The lock belongs to the thread that polls the future, and so does the guard: tasks that move between threads
    /// cannot keep it over an `await`. Tasks of one thread wait for each other.
    ///
    /// # Errors
    ///
    /// As [`lock`](Lock::lock).
    #[cfg(feature = "async")]
    pub async fn lock_async(&self) -> Result<LockGuard<'_>, LockError<LockGuard<'_>>> {
        self.guarded(self.mutex.later().await)
    }

    /// Locks it without a guard: [`release`](Lock::release) lets it go.
    ///
    /// # Errors
    ///
    /// As [`lock`](Lock::lock). With [`LockError::Poisoned`] it is locked all the same.
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn acquire(&self) -> Result<(), LockError> {
        with_guard(self.mutex.take(None), || ())
    }

    /// As [`acquire`](Lock::acquire), but does not wait.
    ///
    /// # Errors
    ///
    /// As [`try_lock`](Lock::try_lock). With [`LockError::Poisoned`] it is locked all the same.
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn try_acquire(&self) -> Result<(), LockError> {
        with_guard(self.mutex.try_take(), || ())
    }

    /// As [`acquire`](Lock::acquire), but waits no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// As [`lock_timeout`](Lock::lock_timeout). With [`LockError::Poisoned`] it is locked all the same.
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn acquire_timeout(&self, timeout: Duration) -> Result<(), LockError> {
        self.acquire_deadline(Deadline::after(timeout))
    }

    /// As [`acquire`](Lock::acquire), but waits no longer than until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`lock_deadline`](Lock::lock_deadline). With [`LockError::Poisoned`] it is locked all the same.
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn acquire_deadline(&self, deadline: Deadline) -> Result<(), LockError> {
        with_guard(self.mutex.take(Some(deadline)), || ())
    }

    /// Lets it go.
    ///
    /// # Errors
    ///
    /// The calling thread does not hold it.
    pub fn release(&self) -> Result<(), NotHeld> {
        if self.mutex.let_go() { Ok(()) } else { Err(NotHeld) }
    }

    /// Whether anybody holds it who lives.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.mutex.is_locked()
    }

    /// Who holds it: process and thread. It may have changed by the time that the answer is there.
    #[must_use]
    #[inline]
    pub fn holder(&self) -> Option<Holder> {
        self.mutex.holder()
    }

    /// For how long it is held.
    #[cfg(feature = "lock-trace")]
    #[must_use]
    pub fn held_since(&self) -> Option<Duration> {
        self.mutex.held().map(|(since, _)| since)
    }

    /// Where it was locked: the end of the source file's name, and the line.
    #[cfg(feature = "lock-trace")]
    #[must_use]
    pub fn held_at(&self) -> Option<String> {
        self.mutex.held().map(|(_, site)| site)
    }

    /// Whether a holder died or panicked, and who, since the poison was cleared last.
    #[must_use]
    pub fn poison(&self) -> Option<Poison> {
        self.mutex.poison()
    }

    /// Whether a holder died or panicked since the poison was cleared last.
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        self.poison().is_some()
    }

    /// Declares that what the lock guards is whole again. Best called by who holds it.
    pub fn clear_poison(&self) {
        self.mutex.clear_poison();
    }

    /// Whether both stand for the same lock.
    #[must_use]
    pub fn same(&self, other: &Lock) -> bool {
        self.mutex.same(&other.mutex)
    }

    /// Poisons it; the calling thread holds it.
    pub(crate) fn poison_by(&self, cause: Poison) {
        self.mutex.poison_by(cause);
    }

    #[inline]
    fn guarded(
        &self,
        taken: Result<Option<Poison>, NotTaken>,
    ) -> Result<LockGuard<'_>, LockError<LockGuard<'_>>> {
        with_guard(taken, || LockGuard {
            lock: self,
            panicking: std::thread::panicking(),
            thread: PhantomData,
        })
    }
}

/// For what stands on a lock.
#[allow(dead_code, reason = "not all of it is used by every type")]
impl Lock {
    #[inline]
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub(crate) fn take(&self, deadline: Option<Deadline>) -> Result<Option<Poison>, NotTaken> {
        self.mutex.take(deadline)
    }

    #[inline]
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub(crate) fn try_take(&self) -> Result<Option<Poison>, NotTaken> {
        self.mutex.try_take()
    }

    /// A future that locks it, and never once more.
    #[cfg(feature = "async")]
    pub(crate) async fn later(&self) -> Result<Option<Poison>, NotTaken> {
        self.mutex.later().await
    }

    /// Lets it go; false if the calling thread does not hold it.
    #[inline]
    pub(crate) fn let_go(&self) -> bool {
        self.mutex.let_go()
    }

    /// The holder's thread panicked.
    pub(crate) fn panicked(&self) {
        self.mutex.panicked();
    }
}

impl Guarded for Lock {
    #[inline]
    fn is_mine(&self) -> bool {
        self.mutex.is_mine()
    }

    fn is_orphaned(&self) -> bool {
        self.mutex.is_orphaned()
    }

    fn address(&self) -> usize {
        self.mutex.address()
    }

    fn let_go_fully(&self) -> Depth {
        self.mutex.let_go_fully()
    }

    #[cfg_attr(feature = "lock-trace", track_caller)]
    fn take_back(&self, depth: Depth, deadline: Option<Deadline>) -> Result<Option<Poison>, NotTaken> {
        self.mutex.take_back(depth, deadline)
    }
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Lock");
        debug
            .field("locked", &self.is_locked())
            .field("holder", &self.holder())
            .field("poison", &self.poison());
        #[cfg(feature = "lock-trace")]
        debug.field("held_since", &self.held_since()).field("held_at", &self.held_at());
        debug.finish()
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
            self.lock.mutex.panicked();
        }
        self.lock.mutex.let_go();
    }
}

impl fmt::Debug for LockGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LockGuard").field(self.lock).finish()
    }
}
