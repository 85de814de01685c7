//! What the primitives promise.
#![cfg(not(loom))]

mod array;
mod data_hostile;
mod data_memory;
mod data_processes;
mod lock;
mod part;
mod raw;
mod support;
mod value;
