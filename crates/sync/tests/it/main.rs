//! What the primitives promise.
#![cfg(not(loom))]

mod array;
mod lock;
mod part;
mod raw;
mod support;
mod value;
