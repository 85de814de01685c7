//! The pool's behaviour, as a user sees it.

mod auto_traits;
mod basics;
mod copies;
mod damage;
mod deaths;
mod failures;
mod functions;
mod handles;
mod lazy;
mod scripted;
mod simulated;
mod slices;
mod storm;
mod support;
mod threads;
