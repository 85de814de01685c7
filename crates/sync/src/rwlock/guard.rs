//! What shows that a read-write lock is held.

use super::RwLock;
use crate::{Holder, Poison, who::generation};
use core::{marker::PhantomData, sync::atomic::Ordering};
use std::fmt;

/// One holder's part in the lock.
pub(super) struct Part<'a> {
    lock: &'a RwLock,
    index: usize,
    generation: u32,
    /// Second locks are told from first ones by the thread.
    stays: PhantomData<*const ()>,
}

impl<'a> Part<'a> {
    pub(super) fn new(lock: &'a RwLock, index: usize) -> Part<'a> {
        Part { lock, index, generation: generation(), stays: PhantomData }
    }
}

impl Drop for Part<'_> {
    #[inline]
    fn drop(&mut self) {
        // A forked child has a copy of its parent's guard, and nothing to let go of.
        if self.generation == generation() {
            self.lock.let_go(self.index);
        }
    }
}

/// A [`RwLock`] that is locked for reading: dropping it lets it go. It stays with its thread.
#[must_use = "the lock is let go when the guard is dropped"]
pub struct ReadGuard<'a> {
    pub(super) part: Part<'a>,
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
    pub(super) part: Part<'a>,
    pub(super) panicking: bool,
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
        if !self.panicking && std::thread::panicking() && self.part.generation == generation() {
            let poison = Poison::Panicked { pid: Holder::current().pid };
            self.lock().handle.words().poison.store(poison.to_word(), Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for WriteGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WriteGuard").field(self.lock()).finish()
    }
}
