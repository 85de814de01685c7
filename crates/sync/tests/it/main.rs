//! What the primitives promise.
#![cfg(not(loom))]

mod array;
mod data_hostile;
mod data_memory;
mod data_processes;
#[cfg(not(crash_points))]
mod data_steps;
mod lock;
mod part;
#[cfg(crash_points)]
mod part_crash;
mod raw;
mod support;
mod value;
