//! What lanes, bells and queues promise.
#![cfg(not(loom))]

mod bell;
#[cfg(crash_points)]
mod crash;
mod heap;
mod hostile;
mod lane;
#[cfg(feature = "async")]
mod later;
mod memory;
mod moves;
mod processes;
mod queue;
#[cfg(crash_points)]
mod queue_crash;
mod queue_edges;
mod queue_hostile;
#[cfg(feature = "async")]
mod queue_later;
mod queue_memory;
mod queue_methods;
#[cfg(not(crash_points))]
mod queue_steps;
mod queue_storm;
#[allow(dead_code, reason = "not every build has all of the tests that look at it")]
mod queue_world;
// With crash points compiled in, each step of a protocol looks into the environment: thousands of instructions more.
#[cfg(not(crash_points))]
mod steps;
mod support;
mod typed;
mod ways;
