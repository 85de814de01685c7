//! Synchronisation between processes.
//!
//! | type | what it is |
//! |---|---|
//! | [`Lock`] | mutual exclusion, bound to its holder; a dead holder's lock goes to the next |
//! | [`RLock`] | the same, and its holder may lock it again |
//! | [`Event`] | a flag to set, clear and wait for |
//! | [`Condition`] | waiting, under a lock, for a notification; a killed waiter's notification goes to another |
//! | [`Barrier`] | a number of parties wait for each other; one that dies there breaks it |
//! | [`RwLock`] | many readers or one writer, in the order of arrival |
//! | [`Once`], [`OnceValue`] | something that is done, or computed, once; a dead runner's turn goes to the next |
//! | [`Semaphore`], [`BoundedSemaphore`] | a number of permits; a dead owner's return |
//! | [`Value`], [`Array`] | data under a lock; an array's parts can have owners instead ([`ArrayPart`]) |
//! | [`RawValue`], [`RawArray`] | atomics, without a lock |
//!
//! Each is a handle: `Clone`, `Send`, `Sync`, and serialisable inside a parcel. Clones, in whatever process, stand for
//! the same primitive, which lives in a piece of shared memory together with others.
//!
//! # Features
//!
//! * `async` (also called `tokio` and `async-io`): `wait_async`, `permit_async`, `acquire_async`, `lock_async`, `read_async`,
//!   `write_async`, `call_once_async`, `get_or_init_async`, futures for any executor, which can be dropped at any time. A
//!   thread of the library watches their words, as long as there are any.
//! * `lock-trace`: locks tell who holds them since when and from which line; deadlocks between processes are errors
//!   (`LockError::Deadlock`). That goes for [`Lock`], [`RLock`], what stands on them (conditions, values, arrays) and
//!   [`RwLock`], which tells of its writer, or of the first of its readers, and where a circle through its writer or any
//!   of its readers is found. Who waits with a deadline or by a future is in no circle, and what is waited for elsewhere (an
//!   event, a permit, a barrier, a channel) is not followed; nor is a lock of which the process that looks has no handle in
//!   the same piece of memory, nor more than 128 waits in one piece.
//! * `raw-sync`: robust mutexes and our event behind the traits of the crate `raw_sync`.
//!
//! # Words used here
//!
//! * *holder*: the thread that has locked a lock;
//! * *poisoned*: its last holder died or panicked while it held the lock, so what it guards may be half changed;
//! * *slice*: the longest sleep, after which everybody looks at the state again;
//! * *permit*: what a semaphore counts; *owned* by a process, or by nobody;
//! * *member*: a process that takes part in a segment, by number ([`procession_shm::Member`]).
//!
//! # When a process dies
//!
//! Each type's page has a section of this name.
//!
//! # When a process is stopped
//!
//! By SIGSTOP, say, in the middle of an operation: whoever has a deadline keeps it, within some 50 ms. Others may wait for
//! that process to go on, or to die. A lock that it holds stays held.
#![deny(unsafe_code)]

#[cfg(not(target_os = "linux"))]
compile_error!("procession supports Linux only");

#[cfg(not(loom))]
mod alone;
#[cfg(not(loom))]
mod arena;
#[cfg(not(loom))]
mod array;
#[cfg(not(loom))]
mod barrier;
#[cfg(not(loom))]
mod condition;
#[cfg(not(loom))]
mod data;
mod decision;
#[cfg(not(loom))]
mod error;
#[cfg(not(loom))]
mod event;
mod event_word;
#[cfg(not(loom))]
mod guarded;
#[cfg(all(feature = "async", not(loom)))]
mod later;
#[cfg(not(loom))]
mod lock;
#[cfg(not(loom))]
mod mutex;
#[cfg(not(loom))]
mod once;
mod once_word;
#[cfg(not(loom))]
mod part;
#[cfg(not(loom))]
mod put_off;
#[cfg(not(loom))]
mod raw;
#[cfg(all(feature = "raw-sync", not(loom)))]
pub mod rawsync;
#[cfg(not(loom))]
mod record;
#[cfg(not(loom))]
mod rlock;
#[cfg(not(loom))]
pub mod robust;
#[cfg(not(loom))]
mod rwlock;
#[cfg_attr(loom, allow(unreachable_pub, reason = "public in the model only"))]
mod semaphore;
#[cfg(not(loom))]
mod spin;
mod table;
#[cfg(all(feature = "lock-trace", not(loom)))]
mod trace;
#[cfg(not(loom))]
mod value;
#[cfg(not(loom))]
mod who;

/// The algorithms of the event and of the table for the model checker, and mistakes to plant.
#[cfg(loom)]
pub mod event_model {
    pub use crate::event_word::{Bug, EventWord, plant};
    pub use crate::table::Entry;
}

/// How a barrier's round is decided, for the model checker, and mistakes to plant.
#[cfg(loom)]
pub mod decision_model {
    pub use crate::decision::{ARGUMENT, BREAK, Bug, Decision, RELEASE, plant};
}

/// The word of what is done once, for the model checker, and mistakes to plant.
#[cfg(loom)]
pub mod once_model {
    pub use crate::once_word::{Bug, DONE, NOT_DONE, OnceWord, RUNNING, plant};
}

/// What may be in a [`Value`] or [`Array`], with its derives: `#[derive(bytemuck::Pod, bytemuck::Zeroable)]` and
/// `#[bytemuck(crate = "procession_sync::bytemuck")]`.
#[cfg(not(loom))]
pub use bytemuck;
#[cfg(all(feature = "async", not(loom)))]
pub use condition::AsyncWaitError;
pub use procession_sys::Deadline;
#[cfg(loom)]
pub use semaphore::model as semaphore_model;
#[cfg(all(feature = "lock-trace", not(loom)))]
pub use trace::{Deadlock, DeadlockStep};
#[cfg(not(loom))]
pub use {
    array::{Array, ArrayBuilder, ArrayGuard},
    barrier::{Barrier, BarrierBuilder, BarrierError, Broken},
    condition::{Condition, ConditionGuard, Guard, Held, WaitError},
    error::{Error, LockError, NotHeld, Poison, PoisonError},
    event::Event,
    lock::{Lock, LockGuard},
    once::{Once, OnceError, OnceValue},
    part::{ArrayChunk, ArrayPart, PartError},
    raw::{Atom, Atomic, AtomicBits, AtomicNumber, RawArray, RawValue},
    rlock::{RLock, RLockGuard},
    rwlock::{ReadGuard, RwLock, WriteGuard},
    semaphore::{AcquireError, BoundedSemaphore, Permit, Semaphore, TooManyReleased},
    value::{CopyError, Value, ValueGuard},
    who::Holder,
};

/// The README's examples, run as tests.
#[cfg(all(doctest, not(loom)))]
#[doc = include_str!("../README.md")]
struct Readme;
