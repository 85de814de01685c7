//! What the primitives promise.
#![cfg(not(loom))]

mod barrier;
mod condition;
mod crash_state;
mod event;
mod hostile_state;
mod lock;
mod once;
mod rwlock;
mod steps_state;
mod storm_state;
mod support;
mod ways;
