//! One [`Spin`] for each thread: what it learned in one wait serves the next, and it asks for its affinity once.

use procession_sys::Spin;
use std::cell::Cell;

thread_local! {
    static SPIN: Cell<Option<Spin>> = const { Cell::new(None) };
}

/// Lends the calling thread's spin. A use within a use gets a fresh one.
pub(crate) fn with<R>(wait: impl FnOnce(&mut Spin) -> R) -> R {
    SPIN.with(|cell| {
        let mut spin = cell.take().unwrap_or_else(Spin::adaptive);
        let result = wait(&mut spin);
        cell.set(Some(spin));
        result
    })
}
