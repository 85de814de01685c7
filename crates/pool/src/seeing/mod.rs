//! What a pool does, made visible: [`Pool::stats`](crate::Pool::stats), now and for the whole of it.
//!
//! Nothing here costs the work anything while nobody looks: no lock, no system call and no reading of the clock is made
//! for it. Workers leave in memory that they share with the pool what they know of themselves anyway, and who looks reads it
//! there. A timeline, where one is kept, costs two readings of the clock and a message per task.
//!
//! With the feature `tracing`, what happens to pools is told to the global subscriber under the target `procession_pool`, by a
//! thread of its own, in order: `worker started`, `worker replaced`, `worker ended` (WARN if the pool did not want it), in a span
//! `worker` with `name`, `pid` and `index`; `task lost`, `task retried`, `task timed out`, `task quarantined` with `error`, and
//! `item` and `attempt`; `pool closed`, `pool terminated`, `pool broken`.

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

/// What a function is called where users see it: its registered name, or else its type. With the feature `stacks` it is called by
/// its symbol instead of its type, where the program has that.
#[derive(Clone, Debug)]
pub(crate) struct Name {
    name: String,
    address: Option<usize>,
}

impl Name {
    pub(crate) fn of(function: &Erased) -> Name {
        let name = function.name().to_owned();
        // Types of functions begin so, other names do not.
        let is_type = name.starts_with("fn(") || name.starts_with("for<");
        Name { address: function.address().filter(|_| is_type), name }
    }

    /// Of something that is not known.
    pub(crate) fn unknown(name: &str) -> Name {
        Name { name: name.to_owned(), address: None }
    }

    /// Looks it up. The first time it reads the program's debug information, which may take long: see [`prepare_names`].
    pub(crate) fn text(&self) -> String {
        self.address.and_then(symbol).unwrap_or_else(|| self.name.clone())
    }
}

/// Does what makes the first [`Name::text`] slow. To be called under no lock.
pub(crate) fn prepare_names() {
    symbol(prepare_names as *const () as usize);
}

#[cfg(feature = "stacks")]
fn symbol(address: usize) -> Option<String> {
    let mut found = None;
    // What is asked for is a call before the address.
    backtrace::resolve((address + 1) as *mut std::ffi::c_void, |symbol| {
        // The last one is the function itself, those before were put into it by the compiler.
        found = symbol.name().map(|name| format!("{name:#}"));
    });
    found
}

#[cfg(not(feature = "stacks"))]
fn symbol(_: usize) -> Option<String> {
    None
}
