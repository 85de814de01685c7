//! What the primitives promise.
#![cfg(not(loom))]

#[cfg(crash_points)]
mod crash_semaphore;
mod lock;
mod semaphore;
mod semaphore_methods;
// With crash points compiled in, each step of a protocol looks into the environment: thousands of instructions more.
#[cfg(not(crash_points))]
mod steps_semaphore;
mod storm_semaphore;
mod support;
