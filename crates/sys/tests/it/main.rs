//! The door's promises, across threads and processes.

mod counter;
mod futex;
mod hooks;
mod pidfd;
mod poller;
mod waker;
