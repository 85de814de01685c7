//! Which system calls an operation makes: to prove that an uncontended path makes none.
//!
//! ```no_run
//! use procession_testkit::syscalls;
//!
//! let counter = std::sync::Mutex::new(0);
//! let calls = syscalls::trace(|| (), |()| *counter.lock().unwrap() += 1);
//! assert_eq!(calls, []);
//! ```

use crate::ptrace::{Resume, Stop, Tracee};

/// One system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Syscall {
    /// Its number: one of `libc::SYS_*`.
    pub number: i64,
    /// Its arguments as registers hold them.
    pub arguments: [u64; 6],
}

/// Runs `prepare` and then `operation` in a forked child and lists the system calls of the latter, in order. What
/// `prepare` returns is not dropped before the end.
///
/// Warm up in `prepare` what the operation would do only the first time. Call it in an isolated test
/// ([`isolated!`](crate::isolated!)), since it forks.
///
/// # Panics
///
/// If a child cannot be forked or traced, or ends before the operation does.
#[track_caller]
pub fn trace<P>(prepare: impl FnOnce() -> P, operation: impl FnOnce(&mut P)) -> Vec<Syscall> {
    let started = Tracee::start(prepare, |prepared| {
        // Dropping it would be traced too.
        operation(&mut *std::mem::ManuallyDrop::new(prepared));
    });
    let mut tracee = started.unwrap_or_else(|error| panic!("failed to trace a forked child: {error}"));
    let mut calls = Vec::new();
    let mut signal = 0;
    loop {
        let stop = tracee.resume(Resume::Syscall, signal);
        signal = 0;
        match stop.unwrap_or_else(|error| panic!("failed to resume a traced child: {error}")) {
            Stop::Trap => {
                let entered = tracee.entered();
                let entered = entered.unwrap_or_else(|error| panic!("failed to read a system call: {error}"));
                calls.extend(
                    entered
                        .map(|call| Syscall { number: call.number.cast_signed(), arguments: call.arguments }),
                );
            }
            Stop::Marker => {
                // The last one is the marker's own.
                calls.pop();
                return calls;
            }
            Stop::Signal(number) => signal = number,
            Stop::Ended(status) => panic!("the operation ended its process: {status:?}"),
        }
    }
}

/// How many system calls `operation` makes; see [`trace`].
///
/// # Panics
///
/// As [`trace`].
#[track_caller]
pub fn count(operation: impl FnOnce()) -> usize {
    trace(|| (), |()| operation()).len()
}
