//! What lanes, bells and queues promise.
#![cfg(not(loom))]

mod auto_traits;
mod bell;
mod connection;
mod connection_hostile;
#[cfg(feature = "async")]
mod connection_later;
mod connection_limits;
mod connection_processes;
mod corpus;
#[cfg(crash_points)]
mod crash;
mod faults;
mod growing;
mod heap;
mod hostile;
mod lane;
#[cfg(feature = "async")]
mod later;
mod memory;
mod moves;
#[cfg(feature = "net")]
mod net_handshake;
#[cfg(feature = "net")]
mod net_hostile;
#[cfg(feature = "ipc-channel")]
mod net_ipc;
#[cfg(feature = "net")]
mod net_listener;
#[cfg(feature = "net")]
mod net_paths;
#[cfg(feature = "pickle")]
mod net_pickle;
#[cfg(feature = "net")]
mod net_python;
mod processes;
mod queue;
#[cfg(crash_points)]
mod queue_crash;
mod queue_edges;
mod queue_heap;
#[cfg(crash_points)]
mod queue_heap_crash;
#[cfg(not(crash_points))]
mod queue_heap_steps;
mod queue_heap_storm;
mod queue_hostile;
#[cfg(feature = "async")]
mod queue_later;
mod queue_memory;
mod queue_methods;
#[cfg(not(crash_points))]
mod queue_recovery_steps;
#[cfg(not(crash_points))]
mod queue_steps;
mod queue_storm;
mod queue_wait;
#[allow(dead_code, reason = "not every build has all of the tests that look at it")]
mod queue_world;
// With crash points compiled in, each step of a protocol looks into the environment: thousands of instructions more.
#[cfg(not(crash_points))]
mod steps;
mod storm_connection;
mod support;
mod typed;
mod wait;
// One file for both: a crate for it would have to stand above `process`, and below its own users.
#[path = "../../../sync/tests/it/ways.rs"]
mod ways;
