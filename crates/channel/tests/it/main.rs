//! What lanes and bells promise.
#![cfg(not(loom))]

mod bell;
mod connection;
mod connection_processes;
mod corpus;
#[cfg(crash_points)]
mod crash;
mod hostile;
mod lane;
mod memory;
mod moves;
#[cfg(feature = "net")]
mod net;
mod processes;
// With crash points compiled in, each step of a protocol looks into the environment: thousands of instructions more.
#[cfg(not(crash_points))]
mod steps;
mod support;
mod typed;
mod wait;
mod ways;
