//! What shows that a condition's lock is held.

use super::{Condition, Of};
use crate::{LockError, LockGuard, RLockGuard};

mod sealed {
    pub trait Sealed {}
}

/// Shows that a condition's lock is held: a guard of its lock, or [`Held`].
pub trait Guard: sealed::Sealed {
    /// Whether it can be of this condition's lock.
    #[doc(hidden)]
    fn is_of(&self, condition: &Condition) -> bool;
}

/// Stands for the guard where the lock was taken by [`Condition::acquire`], or the `acquire` of the lock itself. That
/// the calling thread holds it is checked.
#[derive(Clone, Copy, Debug)]
pub struct Held;

impl sealed::Sealed for Held {}

impl Guard for Held {
    fn is_of(&self, _: &Condition) -> bool {
        true
    }
}

impl sealed::Sealed for LockGuard<'_> {}

impl Guard for LockGuard<'_> {
    fn is_of(&self, condition: &Condition) -> bool {
        match &condition.of {
            Of::Lock(lock) => lock.same(self.lock()),
            Of::RLock(_) => false,
        }
    }
}

impl sealed::Sealed for RLockGuard<'_> {}

impl Guard for RLockGuard<'_> {
    fn is_of(&self, condition: &Condition) -> bool {
        match &condition.of {
            Of::Lock(_) => false,
            Of::RLock(lock) => lock.same(self.lock()),
        }
    }
}

/// A condition's lock, locked: dropping it lets the lock go. It stays with its thread.
#[must_use = "the lock is let go when the guard is dropped"]
#[derive(Debug)]
pub struct ConditionGuard<'a>(Inner<'a>);

#[derive(Debug)]
enum Inner<'a> {
    Lock(LockGuard<'a>),
    RLock(RLockGuard<'a>),
}

impl sealed::Sealed for ConditionGuard<'_> {}

impl Guard for ConditionGuard<'_> {
    fn is_of(&self, condition: &Condition) -> bool {
        match &self.0 {
            Inner::Lock(guard) => guard.is_of(condition),
            Inner::RLock(guard) => guard.is_of(condition),
        }
    }
}

pub(super) fn of_lock<'a>(
    locked: Result<LockGuard<'a>, LockError<LockGuard<'a>>>,
) -> Result<ConditionGuard<'a>, LockError<ConditionGuard<'a>>> {
    let guard = |guard| ConditionGuard(Inner::Lock(guard));
    locked.map(guard).map_err(|error| error.map(guard))
}

pub(super) fn of_rlock<'a>(
    locked: Result<RLockGuard<'a>, LockError<RLockGuard<'a>>>,
) -> Result<ConditionGuard<'a>, LockError<ConditionGuard<'a>>> {
    let guard = |guard| ConditionGuard(Inner::RLock(guard));
    locked.map(guard).map_err(|error| error.map(guard))
}
