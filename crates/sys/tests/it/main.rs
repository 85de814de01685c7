//! The door's promises, across threads and processes.

mod auto_traits;
mod counter;
mod futex;
mod hooks;
mod pidfd;
mod poller;
mod waker;
