//! What a pool does, made visible: [`Pool::stats`](crate::Pool::stats), now and for the whole of it.
//!
//! Nothing here costs the work anything while nobody looks: no lock, no system call and no reading of the clock is made
//! for it. Workers leave in memory that they share with the pool what they know of themselves anyway, and who looks reads it
//! there.

mod insights;
mod live;
pub(crate) mod log;
#[cfg(feature = "progress")]
mod progress;
#[cfg(feature = "stacks")]
pub mod stack;
mod stats;
mod timeline;

pub use insights::{Insights, Verdict, WorkerInsight};
pub use live::look;
pub(crate) use live::{View, serve};
#[cfg(feature = "progress")]
pub(crate) use progress::Progress;
pub use stats::{Stats, Totals, WorkerStats};
pub(crate) use timeline::{Span, Timeline};

use procession_parcel::Erased;

/// What a function is called where users see it.
pub(crate) fn name_of(function: &Erased) -> String {
    function.name().to_owned()
}
