//! For tests of programs with many processes: what a test needs in order to kill, starve and count processes, and to
//! fail with a report rather than hang. Programs that use `procession` get the most usual of it as `procession::testing`.
//!
//! Read in this order:
//!
//! - [`watchdog`](mod@watchdog): turns a hang into an abort that says where every thread stood;
//! - [`isolated`](mod@isolated): a test's body alone in a fresh process, or on the only thread of a fork;
//! - [`census`]: what a process holds (descriptors, shared mappings, threads, children, names), and the
//!   difference between two moments;
//! - [`role`]: the test binary once more, as the other side of a test;
//! - [`wait`]: for the end of a process, or for a state that can be observed;
//! - [`storm`]: seeded randomness and kills at random instants;
//! - [`step`]: death at every instruction; [`syscalls`]: what an operation asks of the kernel;
//! - [`faults`]: what it does when the kernel refuses, call by call;
//! - [`limits`]: hostile surroundings;
//! - [`python`] and [`command`]: other programs, with a deadline;
//! - [`auto_traits`]: what threads may do with a type.
//!
//! Nothing here knows the crates it tests.

#![deny(unsafe_code)]

#[cfg(not(target_os = "linux"))]
compile_error!("procession supports Linux only");

pub mod auto_traits;
pub mod census;
pub mod command;
pub mod faults;
mod fork;
pub mod isolated;
pub mod limits;
#[doc(hidden)]
pub mod name;
mod proc;
mod ptrace;
pub mod python;
pub mod role;
mod seccomp;
pub mod step;
pub mod storm;
pub mod syscalls;
pub mod wait;
pub mod watchdog;

pub use census::Census;
pub use isolated::{forked, isolated, isolated_within};
pub use watchdog::{Watchdog, test_timeout, test_watchdog, watchdog};
