//! What a condition asks its lock.

use crate::{Holder, Lock, Poison, RLock, mutex::Guarded};
#[cfg(feature = "lock-trace")]
use std::time::Duration;

/// The lock of a condition, whichever kind it is.
pub(crate) trait OfCondition: Guarded {
    fn holder(&self) -> Option<Holder>;
    fn poison(&self) -> Option<Poison>;
    #[cfg(feature = "lock-trace")]
    fn held_since(&self) -> Option<Duration>;
    #[cfg(feature = "lock-trace")]
    fn held_at(&self) -> Option<String>;
}

impl OfCondition for Lock {
    fn holder(&self) -> Option<Holder> {
        Lock::holder(self)
    }

    fn poison(&self) -> Option<Poison> {
        Lock::poison(self)
    }

    #[cfg(feature = "lock-trace")]
    fn held_since(&self) -> Option<Duration> {
        Lock::held_since(self)
    }

    #[cfg(feature = "lock-trace")]
    fn held_at(&self) -> Option<String> {
        Lock::held_at(self)
    }
}

impl OfCondition for RLock {
    fn holder(&self) -> Option<Holder> {
        RLock::holder(self)
    }

    fn poison(&self) -> Option<Poison> {
        RLock::poison(self)
    }

    #[cfg(feature = "lock-trace")]
    fn held_since(&self) -> Option<Duration> {
        RLock::held_since(self)
    }

    #[cfg(feature = "lock-trace")]
    fn held_at(&self) -> Option<String> {
        RLock::held_at(self)
    }
}
