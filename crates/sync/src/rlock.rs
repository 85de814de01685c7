//! [`RLock`]: mutual exclusion that its holder may enter again. What it is made of is told in `mutex.rs`.

use crate::{
    Error, Holder, LockError, NotHeld, Poison,
    mutex::{Depth, Guarded, Mutual, NotTaken, RLockWords, with_guard},
};
use core::marker::PhantomData;
use procession_sys::Deadline;
use serde::{Deserialize, Serialize};
use std::{fmt, time::Duration};

/// Mutual exclusion that its holder may enter again.
///
/// It belongs to the thread that locked it, which may lock it again, any number of times, and lets it go as many
/// times. Nobody else can let it go.
///
/// Clones stand for the same lock; they go to other processes inside parcels. Locking and unlocking a free lock makes
/// no system call.
///
/// # When a process dies
///
/// As with a [`Lock`](crate::Lock): the kernel lets go of all levels at once and wakes a waiter, and the
/// next holder gets the lock with [`LockError::Poisoned`], which says which process died; so does everyone after it, on
/// each level, until [`clear_poison`](RLock::clear_poison).
///
/// # Examples
///
/// ```
/// use procession_sync::{LockError, RLock};
///
/// let lock = RLock::new()?;
/// let outer = lock.lock().map_err(LockError::without_guard)?;
/// let inner = lock.lock().map_err(LockError::without_guard)?;
/// assert_eq!(lock.depth(), 2);
/// drop(outer);
/// assert!(lock.is_locked());
/// drop(inner);
/// assert!(!lock.is_locked());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Serialize, Deserialize)]
pub struct RLock {
    mutex: Mutual<RLockWords>,
}

impl RLock {
    /// A lock that nobody holds.
    ///
    /// # Errors
    ///
    /// No memory for it: see [`Segment::anonymous`](procession_shm::Segment::anonymous).
    pub fn new() -> Result<RLock, Error> {
        Ok(RLock { mutex: Mutual::new()? })
    }

    /// Locks it, once more if the calling thread holds it: waits as long as somebody else holds it who lives.
    ///
    /// # Errors
    ///
    /// * [`LockError::Poisoned`], with the guard: a holder died or panicked;
    /// * [`LockError::TooManyHeld`];
    /// * with the feature `lock-trace`, `LockError::Deadlock`: its holder waits for what this thread holds.
    #[inline]
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn lock(&self) -> Result<RLockGuard<'_>, LockError<RLockGuard<'_>>> {
        self.guarded(self.take(None))
    }

    /// Locks it if nobody else holds it.
    ///
    /// # Errors
    ///
    /// As [`lock`](RLock::lock), and [`LockError::TimedOut`] if somebody holds it.
    #[inline]
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn try_lock(&self) -> Result<RLockGuard<'_>, LockError<RLockGuard<'_>>> {
        self.guarded(self.try_take())
    }

    /// As [`lock`](RLock::lock), but waits no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// As [`lock`](RLock::lock), and [`LockError::TimedOut`].
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn lock_timeout(&self, timeout: Duration) -> Result<RLockGuard<'_>, LockError<RLockGuard<'_>>> {
        self.lock_deadline(Deadline::after(timeout))
    }

    /// As [`lock`](RLock::lock), but waits no longer than until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`lock`](RLock::lock), and [`LockError::TimedOut`].
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn lock_deadline(&self, deadline: Deadline) -> Result<RLockGuard<'_>, LockError<RLockGuard<'_>>> {
        self.guarded(self.take(Some(deadline)))
    }

    /// As [`lock`](RLock::lock), as a future for any executor (feature `async`). It can be dropped at any time.
    ///
    /// The lock belongs to the thread that polls the future, and so does the guard: tasks that move between threads cannot
    /// keep it over an `await`. Its holder is the *thread*: where one of its tasks has locked it, another one locks it once
    /// more, at once. So it keeps threads and processes apart, but not the tasks of one thread; a [`Lock`](crate::Lock)
    /// does that.
    ///
    /// # Errors
    ///
    /// As [`lock`](RLock::lock).
    #[cfg(feature = "async")]
    pub async fn lock_async(&self) -> Result<RLockGuard<'_>, LockError<RLockGuard<'_>>> {
        if self.mutex.is_mine() {
            return self.guarded(Ok(self.mutex.deepen()));
        }
        self.guarded(self.mutex.later().await)
    }

    /// Locks it without a guard: [`release`](RLock::release) lets it go.
    ///
    /// # Errors
    ///
    /// As [`lock`](RLock::lock). With [`LockError::Poisoned`] it is locked all the same.
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn acquire(&self) -> Result<(), LockError> {
        with_guard(self.take(None), || ())
    }

    /// As [`acquire`](RLock::acquire), but does not wait.
    ///
    /// # Errors
    ///
    /// As [`try_lock`](RLock::try_lock). With [`LockError::Poisoned`] it is locked all the same.
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn try_acquire(&self) -> Result<(), LockError> {
        with_guard(self.try_take(), || ())
    }

    /// As [`acquire`](RLock::acquire), but waits no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// As [`lock_timeout`](RLock::lock_timeout). With [`LockError::Poisoned`] it is locked all the same.
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn acquire_timeout(&self, timeout: Duration) -> Result<(), LockError> {
        self.acquire_deadline(Deadline::after(timeout))
    }

    /// As [`acquire`](RLock::acquire), but waits no longer than until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`lock_deadline`](RLock::lock_deadline). With [`LockError::Poisoned`] it is locked all the same.
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn acquire_deadline(&self, deadline: Deadline) -> Result<(), LockError> {
        with_guard(self.take(Some(deadline)), || ())
    }

    /// Undoes one locking; the last one lets it go.
    ///
    /// # Errors
    ///
    /// The calling thread does not hold it.
    pub fn release(&self) -> Result<(), NotHeld> {
        if self.let_go() { Ok(()) } else { Err(NotHeld) }
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

    /// How many times the calling thread holds it: 0 if it does not.
    #[must_use]
    #[inline]
    pub fn depth(&self) -> u64 {
        self.mutex.depth()
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
    pub fn same(&self, other: &RLock) -> bool {
        self.mutex.same(&other.mutex)
    }

    #[inline]
    fn guarded(
        &self,
        taken: Result<Option<Poison>, NotTaken>,
    ) -> Result<RLockGuard<'_>, LockError<RLockGuard<'_>>> {
        with_guard(taken, || RLockGuard {
            lock: self,
            panicking: std::thread::panicking(),
            thread: PhantomData,
        })
    }
}

/// For what stands on a lock.
#[allow(dead_code, reason = "not all of it is used by every type")]
impl RLock {
    #[inline]
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub(crate) fn take(&self, deadline: Option<Deadline>) -> Result<Option<Poison>, NotTaken> {
        if self.mutex.is_mine() { Ok(self.mutex.deepen()) } else { self.mutex.take(deadline) }
    }

    #[inline]
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub(crate) fn try_take(&self) -> Result<Option<Poison>, NotTaken> {
        if self.mutex.is_mine() { Ok(self.mutex.deepen()) } else { self.mutex.try_take() }
    }

    /// A future that locks it, and never once more.
    #[cfg(feature = "async")]
    pub(crate) async fn later(&self) -> Result<Option<Poison>, NotTaken> {
        self.mutex.later().await
    }

    /// Undoes one locking; false if the calling thread does not hold it.
    #[inline]
    pub(crate) fn let_go(&self) -> bool {
        match self.mutex.depth() {
            0 | 1 => self.mutex.let_go(),
            depth => {
                self.mutex.set_depth(depth - 1);
                true
            }
        }
    }

    /// The holder's thread panicked.
    pub(crate) fn panicked(&self) {
        self.mutex.panicked();
    }
}

impl Guarded for RLock {
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

impl fmt::Debug for RLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("RLock");
        debug
            .field("locked", &self.is_locked())
            .field("holder", &self.holder())
            .field("depth", &self.mutex.noted_depth())
            .field("poison", &self.poison());
        #[cfg(feature = "lock-trace")]
        debug.field("held_since", &self.held_since()).field("held_at", &self.held_at());
        debug.finish()
    }
}

/// A locked [`RLock`]: dropping it undoes one locking.
///
/// It stays with its thread. Dropped by a panic, it poisons the lock.
#[must_use = "the lock is let go when the guard is dropped"]
pub struct RLockGuard<'a> {
    lock: &'a RLock,
    panicking: bool,
    /// A robust mutex is let go by the thread that took it.
    thread: PhantomData<*const ()>,
}

impl RLockGuard<'_> {
    /// The lock that is held.
    #[must_use]
    pub fn lock(&self) -> &RLock {
        self.lock
    }
}

impl Drop for RLockGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        if !self.panicking && std::thread::panicking() {
            self.lock.mutex.panicked();
        }
        self.lock.let_go();
    }
}

impl fmt::Debug for RLockGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RLockGuard").field(self.lock).finish()
    }
}
