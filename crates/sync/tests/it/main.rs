//! What the primitives promise.
#![cfg(not(loom))]

mod array;
mod auto_traits;
mod barrier;
mod calls;
mod condition;
#[cfg(crash_points)]
mod crash;
#[cfg(feature = "async")]
mod crash_later;
#[cfg(crash_points)]
mod crash_semaphore;
mod crash_state;
mod data_hostile;
mod data_memory;
mod data_processes;
mod event;
mod faults;
mod forks;
mod forms;
mod hostile_state;
#[cfg(feature = "async")]
mod later;
#[cfg(feature = "async")]
mod later_state;
mod lock;
mod memory;
mod methods;
mod once;
mod part;
#[cfg(crash_points)]
mod part_crash;
mod preload;
mod raw;
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
mod steps_data;
#[cfg(not(crash_points))]
mod steps_once;
#[cfg(not(crash_points))]
mod steps_rwlock;
#[cfg(not(crash_points))]
mod steps_semaphore;
#[cfg(not(crash_points))]
mod steps_state;
mod steps_support;
mod stopped;
mod storm;
mod storm_data;
mod storm_held;
mod storm_semaphore;
mod storm_state;
mod storm_support;
mod support;
#[cfg(feature = "lock-trace")]
mod trace;
mod value;
mod ways;
