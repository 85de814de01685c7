//! What the primitives promise.
#![cfg(not(loom))]

#[cfg(crash_points)]
mod crash;
mod lock;
mod memory;
mod methods;
#[cfg(feature = "raw-sync")]
mod raw;
mod rlock;
mod steps;
mod storm;
mod support;
#[cfg(feature = "lock-trace")]
mod trace;
