//! A pool of worker processes in which nothing is lost when a worker dies.
//!
//! ```no_run
//! use procession_pool::Pool;
//!
//! let pool = Pool::new(2)?;
//! assert_eq!(pool.map(|n: u64| n * n, 0..4)?, [0, 1, 4, 9]);
//! for length in pool.imap_unordered(|word: String| word.len(), ["a", "bc"].map(String::from)) {
//!     println!("{}", length?);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Start with [`Pool`]; what it runs for many items goes through the lazy builder [`Tasks`], and what goes on while
//! nobody waits has a handle, [`Task`]. A failure is per item: [`TaskError`].
//!
//! # Words used here
//!
//! * *item*: one argument, and the one call that is made with it;
//! * *task* or *chunk*: consecutive items of one call that are sent together;
//! * *attempt*: a try of an item; *in hand*: started, and without a result when its worker died;
//! * *front*: orders, windows, attempts and results; *back*: who runs tasks; *driver*: the thread that connects them,
//!   which is whoever waits; *keeper*: a thread that drives where nobody waits.
//!
//! # Layers
//!
//! ```text
//! Pool, Tasks, Results      types: encode arguments, decode results; in the caller's thread, under no lock (`tasks/`)
//! Task, as_completed, wait  handles: callbacks, futures, cancelling (`handle/`)
//! driver                    hands tasks to the back, events to the front; one waiting thread at a time, or the keeper
//! front                     pure state machine: keys, order, windows, attempts, limits, cancels
//! ------------------------- the trait Back: envelopes down, events up
//! local | threads | simulated   worker processes | threads of this process | seeded faults in simulated time
//! ```
//!
//! The front assumes neither order nor exactly-once nor loss-free events: results are keyed by task and attempt, and
//! each item is settled once. So a back may be a simulator that loses things, or a cluster that does.
//!
//! # The local workers' protocol
//!
//! For each worker there are two [lanes](procession_channel::lane), one for each direction, and no lock that crosses
//! processes. The parent keeps some tasks ahead in a worker's lane, about 50 µs of work. The worker publishes which
//! message it is running, runs its items in order, and commits each result by one store before it begins the next.
//! So when its pidfd says that it is dead, its lanes say the rest:
//!
//! | the item | what the lanes say | what becomes of it |
//! |---|---|---|
//! | has a result | committed to the results lane | delivered |
//! | was in hand | the first without a result, in a message that was begun | retried, or [`TaskError::Died`] |
//! | is behind that | in a message that was not begun, or later in the same one | runs elsewhere, no attempt spent |
//!
//! An item and a value are each a record, their encoding behind its length. Plain numbers (integers, floats, `bool`) are their
//! bytes instead, one after the other, which are cut and copied without a look at each; which of the two it is, on either
//! side, the compiler knows from the types of the call, and each task's header says. Each value is committed by itself all
//! the same.
//!
//! A worker whose lanes are damaged, by a stray write of code that it ran, is killed, and all items of the messages that
//! it had begun count as in hand: none of them is run twice unless it may be retried.
//!
//! What a function has captured goes to a worker with its first task; if that holds descriptors, through a socket beside
//! the lanes.
//!
//! # When a process dies
//!
//! A worker: as above, and a replacement is started; no call hangs. Workers that die over and over before they do
//! anything break the pool, with the cause ([`TaskError::Broken`]); see [`Pool`] for the rules. The parent: the kernel
//! kills its workers.
// The model has the one module that it checks by itself.
#![cfg(not(loom))]
#![deny(unsafe_code)]

#[cfg(not(target_os = "linux"))]
compile_error!("procession supports Linux only");

pub mod back;
mod bug;
mod calls;
mod driver;
mod error;
mod front;
mod handle;
mod loads;
mod local;
mod pool;
mod records;
pub mod seeing;
pub mod simulated;
mod slab;
mod slices;
mod state;
mod sync;
mod tasks;
pub mod threads;
mod token;
mod work;
mod workers;

#[cfg(shuttle)]
#[doc(hidden)]
pub use bug::{Bug, plant};
pub use error::{Cause, Death, Died, Error, Result, TaskError};
pub use handle::{AsCompleted, InTime, Task, Unfinished, WaitFor, Waited, as_completed, wait};
pub use loads::worker_heap;
#[cfg(feature = "sandbox")]
pub use local::Sandbox;
pub use local::{Builder, OutputLine, OutputStream};
pub use pool::Pool;
pub use procession_parcel::task;
pub use seeing::{Insights, Stats, Verdict, WorkerStats};
pub use slices::{Chunks, LentChunk, LentChunks, Ranges, SharedChunk, Slices};
pub use tasks::{ChunkSize, Collecting, Fallible, Input, Inputs, Results, Tasks, TimedOut, Zipped};
pub use token::cancelled;
pub use work::Work;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
