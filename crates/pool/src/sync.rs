//! The door to locks: `std`'s, or those of the model (`--cfg shuttle`), under which a timeout never ends a wait.

#[cfg(not(shuttle))]
pub(crate) use std::{
    sync::{Condvar, Mutex, MutexGuard},
    thread::{Builder, JoinHandle, ThreadId, current, yield_now},
};

#[cfg(shuttle)]
pub(crate) use shuttle::{
    sync::{Condvar, Mutex, MutexGuard},
    thread::{Builder, JoinHandle, ThreadId, current, yield_now},
};
