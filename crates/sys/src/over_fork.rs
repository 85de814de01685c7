//! A lock that a forked child finds free.
//!
//! `fork` copies a locked lock as locked, and the thread that would unlock it is not copied. So the lock is taken before
//! each fork and let go on both sides: nobody else is inside at that moment, and the child finds the data whole.
//!
//! Whoever owns one registers [`hold`](OverFork::hold), [`release`](OverFork::release) and
//! [`reset`](OverFork::reset) with [`around_fork`](crate::hooks::around_fork). Locks that are taken within each other
//! are registered in the order in which they are taken inside-out: hooks before a fork run last registered first.
#![expect(unsafe_code, reason = "keeps a guard in a static while a fork is under way")]

use std::{
    cell::UnsafeCell,
    fmt,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

/// A mutex for statics that is held over every fork of the process.
pub struct OverFork<T: 'static> {
    value: Mutex<T>,
    guard: UnsafeCell<Option<MutexGuard<'static, T>>>,
    /// The thread that holds the lock over its fork, 0 if none does. Hooks that were registered in the middle of another
    /// thread's fork run there without their first part.
    holder: AtomicUsize,
}

/// A number of the calling thread, the same in a forked copy of it, and not 0.
fn this_thread() -> usize {
    thread_local! {
        static PLACE: u8 = const { 0 };
    }
    PLACE.with(|place| core::ptr::from_ref(place).addr())
}

// SAFETY: `guard` is touched only by the thread in `holder`, which holds `value`'s lock from `hold` on.
unsafe impl<T: Send> Sync for OverFork<T> {}

impl<T> OverFork<T> {
    /// A lock around `value`.
    #[must_use]
    pub const fn new(value: T) -> OverFork<T> {
        OverFork { value: Mutex::new(value), guard: UnsafeCell::new(None), holder: AtomicUsize::new(0) }
    }

    /// Takes the lock. A panic under it does not poison it: keep foreign code out.
    pub fn lock(&'static self) -> MutexGuard<'static, T> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Before a fork: takes the lock and keeps it.
    pub fn hold(&'static self) {
        let guard = self.lock();
        // SAFETY: this thread holds the lock, so no other one is between `hold` and `release`.
        unsafe { *self.guard.get() = Some(guard) };
        self.holder.store(this_thread(), Ordering::Relaxed);
    }

    /// After a fork, in the parent: lets the lock go.
    pub fn release(&'static self) {
        drop(self.take());
    }

    /// After a fork, in the child: changes the data, and lets the lock go.
    pub fn reset(&'static self, change: impl FnOnce(&mut T)) {
        if let Some(mut guard) = self.take() {
            change(&mut guard);
        }
    }

    fn take(&'static self) -> Option<MutexGuard<'static, T>> {
        if self.holder.load(Ordering::Relaxed) != this_thread() {
            return None;
        }
        self.holder.store(0, Ordering::Relaxed);
        // SAFETY: as in `hold`; the holder is this thread.
        unsafe { (*self.guard.get()).take() }
    }
}

impl<T> fmt::Debug for OverFork<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OverFork").finish_non_exhaustive()
    }
}
