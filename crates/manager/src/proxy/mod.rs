//! The typed proxies.

mod array;
mod custom;
mod dict;
mod list;
mod locks;
mod namespace;
#[cfg(feature = "pool")]
mod pool;
mod queue;
mod set;
mod value;
mod waits;

pub use array::Array;
pub use custom::Custom;
pub use dict::{Dict, DictIter};
pub use list::{List, ListIter};
pub use locks::{Condition, Guard, Lock, RGuard, RLock, Waited};
pub use namespace::Namespace;
#[cfg(feature = "pool")]
pub use pool::{PoolProxy, PoolTask};
pub use queue::{JoinableQueue, Queue};
pub use set::Set;
pub use value::Value;
pub use waits::{Barrier, BarrierState, BoundedSemaphore, Event, Permit, Semaphore};

use crate::{client::Request, lease::Lease, proto::FOREVER};
use std::time::Duration;

/// About how many bytes of a large object come at once.
pub(crate) const PAGE: u64 = 256 << 10;

pub(crate) fn nanos(timeout: Option<Duration>) -> u64 {
    // The longest time that is no `FOREVER` is some centuries.
    timeout.map_or(FOREVER, |timeout| u64::try_from(timeout.as_nanos()).unwrap_or(FOREVER).min(FOREVER - 1))
}

/// A range of indices as the wire has it: beyond every index is the end.
pub(crate) fn bounds(range: impl std::ops::RangeBounds<usize>) -> (u64, u64) {
    use std::ops::Bound;
    let start = match range.start_bound() {
        Bound::Included(&start) => start as u64,
        Bound::Excluded(&start) => (start as u64).saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(&end) => (end as u64).saturating_add(1),
        Bound::Excluded(&end) => end as u64,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl Lease {
    /// Calls without arguments, whose reply is a number.
    pub(crate) fn ask_number(&self, doing: &'static str, op: crate::proto::Op) -> crate::Result<u64> {
        self.ask(doing, self.request(op), |answer| answer.u64())
    }

    /// Calls without a result.
    pub(crate) fn ask_nothing(&self, doing: &'static str, request: Request<'_>) -> crate::Result<()> {
        self.ask(doing, request, |_| Ok(()))
    }
}
