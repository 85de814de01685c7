//! What an array's lock tells of its holder.

use super::Array;
use crate::{Holder, Poison};
#[cfg(feature = "lock-trace")]
use std::time::Duration;

impl<T> Array<T> {
    /// Who holds the lock. It may have changed by the time that the answer is there.
    #[must_use]
    pub fn holder(&self) -> Option<Holder> {
        self.lock.holder()
    }

    /// For how long the lock is held.
    #[cfg(feature = "lock-trace")]
    #[must_use]
    pub fn held_since(&self) -> Option<Duration> {
        self.lock.held_since()
    }

    /// Where the lock was locked: the end of the source file's name, and the line.
    #[cfg(feature = "lock-trace")]
    #[must_use]
    pub fn held_at(&self) -> Option<String> {
        self.lock.held_at()
    }

    /// Whether a holder died or panicked, and who, since the poison was cleared last. The death of a part's owner is
    /// found when the array is locked next.
    #[must_use]
    pub fn poison(&self) -> Option<Poison> {
        self.lock.poison()
    }

    /// Declares that the elements are whole again. Best called under the lock.
    pub fn clear_poison(&self) {
        self.lock.clear_poison();
    }
}
