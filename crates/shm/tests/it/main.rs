//! What segments promise.

mod attach;
mod contents;
#[cfg(crash_points)]
mod crash;
mod limits;
mod list;
mod members;
mod named;
mod named_limits;
mod owner;
mod python;
mod support;
