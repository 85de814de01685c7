//! What segments promise.

mod attach;
mod auto_traits;
mod claims;
mod contents;
#[cfg(crash_points)]
mod crash;
mod faults;
mod heap;
mod heap_back;
#[cfg(crash_points)]
mod heap_crash;
mod heap_hostile;
mod heap_lend;
mod heap_limits;
mod heap_load;
mod heap_moves;
// With crash points compiled in, each step of a protocol looks into the environment: thousands of instructions more.
#[cfg(not(crash_points))]
mod heap_steps;
mod heap_storm;
mod heap_support;
mod huge;
mod limits;
mod list;
mod members;
mod named;
mod named_limits;
mod owner;
mod owner_users;
mod python;
mod support;
