//! Synchronisation between processes.
//!
//! | type | what it is |
//! |---|---|
//! | [`Lock`] | mutual exclusion, bound to its holder; a dead holder's lock goes to the next |
//! | [`Value`], [`Array`] | data under a lock; an array's parts can have owners instead ([`ArrayPart`]) |
//! | [`RawValue`], [`RawArray`] | atomics, without a lock |
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
mod array;
#[cfg(not(loom))]
mod data;
#[cfg(not(loom))]
mod error;
#[cfg(not(loom))]
mod lock;
#[cfg(not(loom))]
mod part;
#[cfg(not(loom))]
mod raw;
#[cfg(not(loom))]
mod record;
#[cfg(not(loom))]
mod robust;
#[cfg(not(loom))]
mod value;
#[cfg(not(loom))]
mod who;

/// What may be in a [`Value`] or [`Array`], with its derives: `#[derive(bytemuck::Pod, bytemuck::Zeroable)]` and
/// `#[bytemuck(crate = "procession_sync::bytemuck")]`.
#[cfg(not(loom))]
pub use bytemuck;
pub use procession_sys::Deadline;
#[cfg(not(loom))]
pub use {
    array::{Array, ArrayBuilder, ArrayGuard},
    error::{Error, LockError, NotHeld, Poison, PoisonError},
    lock::{Lock, LockGuard},
    part::{ArrayPart, PartError},
    raw::{Atom, Atomic, AtomicBits, AtomicNumber, RawArray, RawValue},
    value::{CopyError, Value, ValueGuard},
    who::Holder,
};

/// The README's examples, run as tests.
#[cfg(all(doctest, not(loom)))]
#[doc = include_str!("../README.md")]
struct Readme;
