//! [`Permit`]: what a process owns of a semaphore.

use super::words::Inner;
use crate::who::generation;
use std::{borrow::Cow, fmt};

/// Permits that this process owns: dropping it gives them back.
///
/// Any thread of the process may drop it. In a forked child, its copy of the parent's guard is nothing: dropping it
/// gives back nothing.
///
/// # When a process dies
///
/// Its permits return to the semaphore within a second, also for those that sleep already.
#[must_use = "the permit is given back when this is dropped"]
pub struct Permit<'a> {
    semaphore: Cow<'a, Inner>,
    count: u32,
    generation: u32,
}

impl<'a> Permit<'a> {
    #[inline]
    pub(super) fn new(semaphore: &'a Inner, count: u32) -> Permit<'a> {
        Permit { semaphore: Cow::Borrowed(semaphore), count, generation: generation() }
    }

    /// How many permits these are.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The same, with a handle of its own: to be kept, or sent to another thread.
    pub fn into_owned(mut self) -> Permit<'static> {
        let semaphore = Cow::Owned(self.semaphore.clone().into_owned());
        let count = core::mem::take(&mut self.count);
        Permit { semaphore, count, generation: self.generation }
    }

    /// Lets the permits stay taken, owned by nobody: they do not return at this process's death, and whoever calls
    /// `release` gives them back.
    pub fn forget(mut self) {
        let count = core::mem::take(&mut self.count);
        if count > 0 && self.generation == generation() {
            self.semaphore.disown(count);
        }
    }
}

impl Drop for Permit<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.count > 0 && self.generation == generation() {
            self.semaphore.give(self.count);
        }
    }
}

impl fmt::Debug for Permit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("count", &self.count).finish_non_exhaustive()
    }
}
