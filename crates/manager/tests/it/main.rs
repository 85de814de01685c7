//! What managers, their objects and proxies promise.

mod auto_traits;
mod bounds;
mod containers;
mod corpus;
mod custom;
mod faults;
#[cfg(feature = "async")]
mod futures;
mod gone;
mod hosted;
mod hostile;
mod lanes;
mod large;
mod leases;
mod lifecycle;
#[cfg(feature = "pool")]
mod pool;
mod proxy;
mod remote;
mod stopped;
mod storm;
#[cfg(feature = "tls")]
mod tls;
mod waits;
// One file for all: a crate for it would have to stand above `process`, and below its own users.
#[path = "../../../sync/tests/it/ways.rs"]
mod ways;
