//! Channels between processes.
//!
//! * [`channel`](channel()): values from one sender to one receiver, which may be in different processes;
//! * [`lane`]: what it stands on, a ring in shared memory without a lock, which survives deaths at any instruction;
//! * [`queue`]: many producers and consumers, and items that a killed consumer cannot lose silently;
//! * [`connection`]: pipes and streams, whose messages carry descriptors;
//! * `net` (feature of this name): listeners and clients over TCP and Unix sockets, CPython at the other end included;
//! * `ipc` (feature `ipc-channel`): ends and memory of that crate inside messages of ours;
//! * [`wait`]: for queues, receivers, connections, listeners, the ends of processes and others, all at once;
//! * [`Bell`]: a sleeping place in shared memory, which many lanes may share.
//!
//! # Words used here
//!
//! * *lane*: a single-producer, single-consumer ring of bytes, one direction between two processes;
//! * *commit*: the one atomic store that makes a message visible; an *accepted* message is committed;
//! * *ticket*: a message's number in its lane, from 1;
//! * *bell*: a futex word and a flag on which one or many sleep until somebody *rings*;
//! * *slice*: the longest sleep, after which everybody looks at the state again.
//!
//! # When a process dies
//!
//! A killed process leaves whole messages behind, and nobody waits for it for ever: see the sections of this name in
//! [`lane`] and [`queue`].
//!
//! # Features
//!
//! * `async` (also called `tokio` and `async-io`): channels, queues, connections and waits as futures and streams, for any executor.
#![deny(unsafe_code)]

#[cfg(not(target_os = "linux"))]
compile_error!("procession supports Linux only");

mod bell;
mod bug;
#[cfg(not(loom))]
pub mod connection;
#[cfg(not(loom))]
mod error;
#[cfg(not(loom))]
mod handle;
pub mod lane;
#[cfg(loom)]
pub mod model;
#[cfg(all(feature = "net", not(loom)))]
pub mod net;
pub mod queue;
#[cfg(not(loom))]
mod wait;
#[cfg(not(loom))]
mod waits;

pub use bell::Waited;
#[cfg(all(feature = "ipc-channel", not(loom)))]
#[doc(inline)]
pub use net::ipc;
#[cfg(all(feature = "async", not(loom)))]
pub use wait::wait_async;
#[cfg(not(loom))]
pub use {
    connection::{Connection, ConnectionError, Pipe},
    error::Error,
    handle::Bell,
    lane::{ChannelBuilder, ReceiveError, Receiver, Sender, Unsent, channel, channel_on},
    queue::{JoinableQueue, Queue, SimpleQueue},
    wait::{Waitable, wait, wait_deadline},
};

/// The README's examples, run as tests.
#[cfg(all(doctest, not(loom)))]
#[doc = include_str!("../README.md")]
struct Readme;
