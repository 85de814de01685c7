//! Objects that a server process keeps for any number of others: Python's `Manager`.
//!
//! ```no_run
//! use procession_manager::{Dict, Manager};
//! use procession_process::spawn;
//!
//! fn count(words: Dict<String, u64>, text: String) -> bool {
//!     // One round trip for each word; nobody comes in between.
//!     let add = |word: &str| words.update(&word.to_owned(), |n, by: u64| *n = Some(n.unwrap_or(0) + by), &1);
//!     text.split_whitespace().all(|word| add(word).is_ok())
//! }
//!
//! let manager = Manager::start()?;
//! let words = manager.dict::<String, u64>()?;
//! let child = spawn!(count(words.clone(), "one two one".to_owned()))?;
//! assert!(child.join()?);
//! assert_eq!(words.get("one")?, Some(2));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Parts
//! * The *server* is a process of ours, daemonic, which ends with its owner; or a thread of this process
//!   ([`Builder::bind`]). One loop serves all connections; no connection costs a thread. It keeps what it is given encoded, so
//!   it knows no types.
//! * A *client* is a process with one connection to the server, which its threads share. One that comes by a Unix socket, as the
//!   same user, speaks with it by two lanes in shared memory: a call takes no system call while both are awake. The socket
//!   stays, for bells and for the end ([`Builder::shared_memory`]).
//! * An *object* is a dictionary, a list, a lock and so on, or a value of any type ([`Session::host`]).
//! * A *proxy* ([`Hosted`]) stands for an object in a client. A *lease* is a proxy's claim on the object.
//!
//! # States of an object
//! It is made with one lease, its maker's. It exists as long as there is a lease, or something else that refers to it:
//!
//! | who refers to it | until |
//! |---|---|
//! | a client's proxies | the last of them is dropped, or the client dies |
//! | a parcel on its way, an argument of a process | the last copy of the parcel's descriptor is closed |
//! | a value of another object, in which a proxy is | that value is replaced or removed |
//! | a [`Ticket`] | it is redeemed or cancelled, or its issuer dies |
//! | a published name | it is unpublished |
//! | a function that works on it | it has returned |
//!
//! Objects that refer to each other in a circle stay until the server ends.
//!
//! # Calls that block
//! A call that must wait (a lock, an empty queue, a condition, a barrier) is parked in the server, and costs nobody else
//! anything. The server keeps its time. It ends by the state's change, by its time, or with its client. A client whose server
//! does not keep the time (it is stopped) gives up a second later, and what comes too late is given back. What was put by a
//! call whose time was over may still arrive.
//!
//! # Functions
//! Methods of [hosted](macro@hosted) types go by name. `update` and `call` send a function to the data, by reference: it
//! captures nothing, and is part of this very program. They run on threads of the server's, those of one object one after the other; other objects, and the loop, go on. A panic is the
//! call's error. Functions are taken from processes of the manager's own tree only, never over a public address: there
//! `compare_and_swap` does the same. Proxies cannot be used inside of them.
//!
//! # Futures
//! With the feature `async` calls that may wait have forms that are futures, for any executor (`get_async`, `lock_async`,
//! `wait_async`, …). One that is dropped gives its place in the row back, and whatever had reached it. While futures wait, one
//! thread of this process reads for all of them. The first use of a proxy or session connects, and blocks for that.
//!
//! # Pools
//! With the feature `pool` the server keeps pools of worker processes for its clients (`Session::pool`). Their calls run beside
//! the loop, as those of any pool do; a dead client's are taken back. Clients of a public address use pools that were published;
//! they neither make nor end them, nor take their names away, unless the manager allows that (`Builder::public_pool_end`).
//!
//! # Invariants
//! 1. An object exists exactly as long as something of the table above refers to it. Each reference is counted where it is
//!    made, and ends with what holds it; none is ended by a message alone that a dead process could not send.
//! 2. A reply that hands out a proxy grants its lease in the same step.
//! 3. Whatever a client holds (leases, locks, permits, a place in a row, an item on its way to it) is known by its connection,
//!    and is given back when that ends.
//! 4. An item of a queue is in the queue, or in hand of one client; a lock has one owner; both change in the loop alone.
//! 5. What comes from a client is hostile until it is checked; a mistake costs that client its connection, and nobody else
//!    anything. For a client that is not of this tree no code runs but methods of hosted types and, in a pool that was
//!    published, functions that were registered.
//!
//! # When a process dies
//! * **A client**, at any instruction: a request that came whole is done, another is not. Its leases end; its locks are
//!   poisoned ([`LockError::Died`]) and go to the next one; its permits return; a barrier at which it waited breaks; items that
//!   had not reached it go back; tasks that it had not called done are reported by [`JoinableQueue::join`].
//! * **The server**: every call is an error at once ([`ErrorKind::ServerGone`]), those that wait included. What it kept is
//!   gone.
//! * **The owner**: the kernel kills the server.
//! * **A forked child** has its parent's proxies, and makes a connection and leases of its own when it uses one. Until then
//!   its parent's leases keep the object. Guards and permits stay the parent's: the child's copies do nothing.
//!
//! # Over a network
//! A public address ([`Builder::address`]) is for processes of other trees and other machines. They find what is published
//! ([`Session::publish`], [`Session::find`]); the names of types are checked; functions are refused. What a failing network does
//! depends on what the client has asked for ([`Session::connector`]):
//!
//! | what happens | by default | with [`Connector::reconnect`] | with [`Connector::keepalive`] |
//! |---|---|---|---|
//! | the connection breaks, calls wait | an error, which says whether the call may have been done | they go on waiting; each call is done once | |
//! | leases, locks, permits, places in waits | given back, locks poisoned | kept for the grace, then given back | |
//! | no attempt succeeds in time | | an error, as by default | |
//! | the network swallows everything | noticed after half a minute; after two, where something is on its way | as by default, then as a broken connection | noticed after about the bound |
//! | the other side is stopped (SIGSTOP) | not noticed | not noticed | noticed after about the bound |
//! | the client says farewell (its last proxy and session are dropped) | given back at once | given back at once | |
//! | the client is killed | given back at once | after the grace | after the bound, if its machine went with it |
//!
//! How a client comes back: both sides number the frames of a session. Who sent one keeps it until the other side has it. After
//! a new handshake the client shows the session's token, each says what it has, and what is missing is sent again. So no call
//! is done twice, and no reply is lost, whatever place the connection is cut at. Locks are kept through that on purpose: who
//! holds one is still there, and what it guards is not half changed by a network. It lasts as long as the server grants
//! ([`Builder::max_grace`]). A proxy that lies in a parcel in transit has a connection of its own, which does not come back: its
//! lease ends if that breaks before the proxy is used.
//!
//! With the feature `tls` a public address speaks TLS 1.3 (`rustls`, with `ring`): both sides show certificates, and prove the
//! key inside. Who is refused is told why, and the server keeps the reasons ([`Session::refusals`]). Parcels that hold proxies or
//! sessions hold the client's private key then; they are for processes of this program.
//!
//! At most [`Builder::max_connections`] are served at the public address; one more is told so. Who does not prove the key, or does
//! not say hello, within ten seconds is closed; of those who have not proved the key a thousand are kept at most. As many as may
//! be connected may be away; for one more there is no grace.
//!
//! # What it does not do
//! * A forked child that does not use the parent's sessions or proxies keeps a copy of its parent's socket. If it outlives
//!   its parent, the server does not see that the parent is dead until the child ends, and the parent's locks stay taken.
//!   What is executed anew has no such copy.
//! * A bare `fork` while another thread is in the middle of the first use of a session or proxy leaves the child with that
//!   one's lock taken: only what the forking process has used before is of use in the child.
//! * Functions run on at most 64 threads: if as many block at once, others wait for them.
//! * The time limit of a call in [`Connector::reconnect`]'s sessions runs on while the connection is broken; a wait for a
//!   condition whose time is over then loses its lock, as with a server that is stopped.
//! * What a client that comes back has sent is kept twice, by it and in the server, until the other side has it.
//! * TLS sessions are not resumed: each connection is a whole handshake, whose arithmetic is done in the server's loop.
//!
//! # Who is let in
//! Each manager draws a key. Proxies and sessions carry it in parcels, so processes that get one can use it, and nobody else
//! can. The private address is an abstract Unix socket, so the processes must share a network namespace. A public address
//! ([`Builder::address`]) has a key of its own; nothing on it is encrypted without the feature `tls`.
//!
//! Objects and tickets have random numbers of 64 bits. So who is let in reaches what it has made, what was published, and what
//! lies in values that it reaches; what somebody else keeps to himself it cannot guess.
// The model has the one module that it checks by itself.
#![cfg(not(loom))]
#![deny(unsafe_code)]

#[cfg(not(target_os = "linux"))]
compile_error!("procession supports Linux only");

mod access;
mod client;
mod connector;
mod error;
mod hosted;
mod hosting;
mod lanes;
#[cfg(feature = "async")]
mod later;
mod lease;
mod manager;
mod proto;
mod proxy;
mod server;
mod session;
mod ship;
mod signals;
mod site;
mod ticket;
#[cfg(feature = "tls")]
mod tls;
mod wire;

pub use access::Reconnect;
pub use connector::Connector;
pub use error::{Error, ErrorKind, LockError, Result};
pub use hosted::Hosted;
pub use hosting::Host;
pub use manager::{Builder, LocalServer, Manager, Stopper};
pub use procession_channel::net::{Address, AuthKey, ToAddress};
pub use proxy::{
    Array, Barrier, BarrierState, BoundedSemaphore, Condition, Custom, Dict, DictIter, Event, Guard,
    JoinableQueue, List, ListIter, Lock, Namespace, Permit, Queue, RGuard, RLock, Semaphore, Set, Value,
    Waited,
};
#[cfg(feature = "pool")]
pub use proxy::{PoolProxy, PoolTask};
pub use session::{Session, Stats};
pub use ticket::Ticket;
#[cfg(feature = "tls")]
pub use tls::Tls;

/// Methods by name: makes a typed proxy of a type whose objects live in a manager's server.
///
/// On `impl Counter { … }` it writes `CounterProxy`, a [`Hosted`] proxy that has each of the block's public methods with a
/// receiver, and returns what the method returns in a [`Result`]. The constructor, `pub fn new(…)`, may give `Self` or a
/// `Result<Self, E>`; [`Session::create`] calls it in the server. Private methods, and those with `#[hosted(skip)]`, stay
/// the type's own.
///
/// The type is known by its name, `Counter`, or by `#[hosted(name = "…")]`; its methods by name and by the names of their types.
/// So client and server may be different builds, as long as both have the type. `#[hosted(crate = "…")]` says where this crate
/// is, if not at `::procession_manager`.
///
/// Arguments and results are owned, and serde's. Generic types and methods are refused, as are references. Methods of one
/// object run one after the other, on a thread of the server's; what they do with a proxy is refused as in any function of
/// [`Custom::call`].
pub use procession_macros::hosted;

/// For what `#[hosted]` writes.
#[doc(hidden)]
pub mod __private {
    pub use crate::hosting::{HostProxy, Instance, MethodEntry, TYPES, TypeEntry, call, deserialize, make};
    pub use linkme;
    pub use serde;
}

/// For the fuzzer and its test.
#[doc(hidden)]
pub use server::fuzz;

/// The README's example runs as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
#[derive(Debug)]
pub struct ReadmeDoctests;
