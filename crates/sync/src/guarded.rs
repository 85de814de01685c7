//! What a condition asks its lock.

use crate::{Holder, Lock, Poison, RLock, mutex::Guarded};

/// The lock of a condition, whichever kind it is.
pub(crate) trait OfCondition: Guarded {
    fn holder(&self) -> Option<Holder>;
    fn poison(&self) -> Option<Poison>;
}

impl OfCondition for Lock {
    fn holder(&self) -> Option<Holder> {
        Lock::holder(self)
    }

    fn poison(&self) -> Option<Poison> {
        Lock::poison(self)
    }
}

impl OfCondition for RLock {
    fn holder(&self) -> Option<Holder> {
        RLock::holder(self)
    }

    fn poison(&self) -> Option<Poison> {
        RLock::poison(self)
    }
}
