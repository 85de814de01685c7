//! What the primitives promise.
#![cfg(not(loom))]

mod barrier;
mod condition;
#[cfg(crash_points)]
mod crash;
#[cfg(crash_points)]
mod crash_semaphore;
mod crash_state;
mod event;
mod lock;
mod memory;
mod methods;
mod once;
#[cfg(feature = "raw-sync")]
mod rawsync;
mod rlock;
mod rwlock;
mod semaphore;
mod semaphore_methods;
// With crash points compiled in, each step of a protocol looks into the environment: thousands of instructions more.
#[cfg(not(crash_points))]
mod steps;
#[cfg(not(crash_points))]
mod steps_semaphore;
mod steps_state;
mod storm;
mod storm_semaphore;
mod storm_state;
mod support;
#[cfg(feature = "lock-trace")]
mod trace;
mod ways;
