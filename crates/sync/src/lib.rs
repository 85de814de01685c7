//! Synchronisation between processes.
//!
//! | type | what it is |
//! |---|---|
//! | [`Lock`] | mutual exclusion, bound to its holder; a dead holder's lock goes to the next |
//! | [`RLock`] | the same, and its holder may lock it again |
//!
//! Each is a handle: `Clone`, `Send`, `Sync`, and serialisable inside a parcel. Clones, in whatever process, stand for
//! the same primitive, which lives in a piece of shared memory together with others.
//!
//! # Words used here
//!
//! * *holder*: the thread that has locked a lock;
//! * *poisoned*: its last holder died or panicked while it held the lock, so what it guards may be half changed;
//! * *slice*: the longest sleep, after which everybody looks at the state again;
//! * *member*: a process that takes part in a segment, by number ([`procession_shm::Member`]).
//!
//! # When a process dies
//!
//! Each type's page has a section of this name.
#![deny(unsafe_code)]

#[cfg(not(target_os = "linux"))]
compile_error!("procession supports Linux only");

#[cfg(not(loom))]
mod arena;
#[cfg(not(loom))]
mod error;
#[cfg(not(loom))]
mod lock;
#[cfg(not(loom))]
mod mutex;
#[cfg(all(feature = "raw-sync", not(loom)))]
pub mod raw;
#[cfg(not(loom))]
mod rlock;
#[cfg(not(loom))]
mod robust;
#[cfg(all(feature = "lock-trace", not(loom)))]
mod trace;
#[cfg(not(loom))]
mod who;

pub use procession_sys::Deadline;
#[cfg(not(loom))]
pub use {
    error::{Error, LockError, NotHeld, Poison, PoisonError},
    lock::{Lock, LockGuard},
    rlock::{RLock, RLockGuard},
    who::Holder,
};

#[cfg(all(feature = "lock-trace", not(loom)))]
pub use trace::{Deadlock, DeadlockStep};

/// The README's examples, run as tests.
#[cfg(all(doctest, not(loom)))]
#[doc = include_str!("../README.md")]
struct Readme;
