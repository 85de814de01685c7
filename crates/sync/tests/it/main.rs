//! What the primitives promise.
#![cfg(not(loom))]

mod lock;
mod support;
