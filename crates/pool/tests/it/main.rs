//! The pool's behaviour, as a user sees it.

mod auto_traits;
mod bare;
mod basics;
mod callbacks;
mod captured;
mod captured_deaths;
mod conformance;
mod copies;
mod crowd;
mod damage;
mod death_table;
mod deaths;
mod executor;
mod failures;
mod faults;
mod functions;
mod handles;
mod heap;
#[cfg(crash_points)]
mod heap_crash;
mod large;
mod lazy;
mod lent;
mod lifetimes;
mod live;
mod plain;
mod policies;
#[cfg(feature = "progress")]
mod progress;
#[cfg(feature = "sandbox")]
mod sandbox;
mod scripted;
mod simulated;
mod slices;
#[cfg(feature = "stacks")]
mod stacks;
mod stats;
mod storm;
mod support;
mod thread_pool;
mod threads;
mod timeline;
mod worlds;
