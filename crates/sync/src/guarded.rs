//! What a condition does to the lock that it belongs to.

use crate::{Holder, Lock, Poison, lock::NotTaken};
use procession_sys::Deadline;

/// How many times a lock was locked by the thread that let go of it for a while.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Depth(u64);

/// A lock that its holder can let go of for a while.
pub(crate) trait Guarded {
    /// Whether the calling thread holds it.
    fn is_mine(&self) -> bool;

    /// Lets it go, however often it was locked. The calling thread holds it.
    fn let_go_fully(&self) -> Depth;

    /// Locks it as often as it was. With a poison it is held all the same.
    fn take_back(&self, depth: Depth, deadline: Option<Deadline>) -> Result<Option<Poison>, NotTaken>;
}

impl Guarded for Lock {
    fn is_mine(&self) -> bool {
        Lock::is_mine(self)
    }

    fn let_go_fully(&self) -> Depth {
        self.let_go();
        Depth(1)
    }

    fn take_back(&self, _: Depth, deadline: Option<Deadline>) -> Result<Option<Poison>, NotTaken> {
        self.take(deadline)
    }
}

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
