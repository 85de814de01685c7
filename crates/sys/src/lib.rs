//! The one door of `procession` to the operating system.
//!
//! Everything that blocks, spins, signals a process or runs at its end goes through this crate, so that the
//! rules for it stand in one place:
//!
//! * [`futex`]: waits on a 32-bit word in memory that processes share, with absolute monotonic deadlines;
//! * [`Deadline`] and [`Spin`]: how long to wait, and how long to wait without sleeping;
//! * [`waker`]: futures that wait for such words, under any executor;
//! * [`poller`]: the same for descriptors;
//! * [`ancillary`]: descriptors that come with messages;
//! * [`PidFd`] and [`ProcessId`]: a process by a handle that cannot be reused, and by a name that can be printed;
//! * [`pid()`]: this process's, without a system call;
//! * [`hooks`]: what runs at the end of a process and around `fork`;
//! * [`guardian`]: a helper that outlives this process and tidies up after it;
//! * [`crash_point!`]: a named step of a protocol at which a test may kill the process;
//! * [`sync`]: the atomics; the real ones, or loom's when built with `--cfg loom`.
//!
//! # When a process dies
//!
//! No wait here relies on another process reaching its wake call: callers sleep in slices of at most [`SLICE`] and
//! look again, since a process may be killed between its commit and its wake, and a woken one before it acts.
#![deny(unsafe_code)]

#[cfg(not(target_os = "linux"))]
compile_error!("procession supports Linux only");

pub mod ancillary;
mod clock;
pub mod crash;
pub mod fd;
pub mod futex;
pub mod guardian;
pub mod hooks;
mod over_fork;
mod pid;
mod pidfd;
pub mod planted;
#[cfg(not(loom))]
pub mod poller;
mod spin;
pub mod sync;
#[cfg(not(loom))]
pub mod waker;

pub use clock::{Deadline, SLICE, shorten_slices, slice_length};
pub use over_fork::OverFork;
pub use pid::pid;
pub use pidfd::{PidFd, ProcessExit, ProcessId};
pub use spin::Spin;
