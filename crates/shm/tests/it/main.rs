//! What a segment promises.

mod attach;
mod contents;
mod heap;
#[cfg(crash_points)]
mod heap_crash;
mod heap_hostile;
mod heap_limits;
mod heap_moves;
mod heap_steps;
mod heap_storm;
mod heap_support;
mod limits;
mod members;
mod support;
