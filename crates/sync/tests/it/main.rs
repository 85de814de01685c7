//! What the primitives promise.
#![cfg(not(loom))]

mod barrier;
mod condition;
mod event;
mod lock;
mod once;
mod rwlock;
mod support;
mod ways;
