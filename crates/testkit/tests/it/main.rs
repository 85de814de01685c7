//! The testkit's own promises.

mod census;
mod faults;
mod isolated;
mod limits;
mod others;
mod role;
mod step;
mod storm;
mod syscalls;
mod wait;
mod watchdog;
