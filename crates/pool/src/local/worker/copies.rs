//! Copies of a worker: a function may fork, and its child come back from it as if it were the worker.
//!
//! Such a copy has both ends of the worker's lanes, which are the worker's alone: what it sent would be taken for that
//! one's results, and what it took would be run twice. So it ends where it would go on as a worker, without a word to
//! anybody: whoever forked it sees exit code 1. A process made by a bare `clone` system call is not seen.
#![expect(unsafe_code, reason = "ends a process without its exit handlers")]

use procession_sys::hooks::{ForkHooks, around_fork};
use std::sync::{
    Once,
    atomic::{AtomicBool, Ordering},
};

/// Whether this process was forked by a worker, and is none itself.
static COPY: AtomicBool = AtomicBool::new(false);

/// This process is a worker, itself perhaps forked by one.
pub(super) fn begin() {
    static PREPARED: Once = Once::new();
    PREPARED.call_once(|| {
        let copy = || COPY.store(true, Ordering::Relaxed);
        around_fork(ForkHooks { in_child: Some(copy), ..ForkHooks::default() });
    });
    COPY.store(false, Ordering::Relaxed);
}

/// Ends this process if it is a copy.
#[inline]
pub(super) fn end_if_copy() {
    if COPY.load(Ordering::Relaxed) {
        // SAFETY: it does not return, and runs nothing of this process.
        unsafe { libc::_exit(1) };
    }
}
