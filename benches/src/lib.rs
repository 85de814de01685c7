//! Side-by-side benchmarks: ours, the rivals and the limit of the system in the same minutes.
//!
//! Read in this order: [`scenario`] says what a measurement is, [`areas`] lists them, [`peers`] holds the rivals,
//! [`runner`] interleaves and measures, [`report`] writes what was found. The program is `side_by_side`, run by
//! `cargo xtask bench`. Each scenario runs in a process of its own, so that none sees another's threads, heap,
//! affinity or helpers.
#![deny(unsafe_code)]

#[cfg(not(target_os = "linux"))]
compile_error!("procession supports Linux only");

pub mod areas;
pub mod check;
pub mod machine;
pub mod memory;
pub mod observed;
pub mod peers;
pub mod pin;
pub mod report;
pub mod runner;
pub mod scenario;
