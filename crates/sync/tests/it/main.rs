//! What the primitives promise.
#![cfg(not(loom))]

mod barrier;
mod condition;
#[cfg(crash_points)]
mod crash_semaphore;
mod crash_state;
mod event;
mod lock;
mod once;
mod rwlock;
mod semaphore;
mod semaphore_methods;
// With crash points compiled in, each step of a protocol looks into the environment: thousands of instructions more.
#[cfg(not(crash_points))]
mod steps_semaphore;
mod steps_state;
mod storm_semaphore;
mod storm_state;
mod support;
mod ways;
