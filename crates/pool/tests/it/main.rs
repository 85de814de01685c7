//! The pool's behaviour, as a user sees it.

mod basics;
mod conformance;
mod copies;
mod damage;
mod deaths;
mod failures;
mod functions;
mod handles;
mod lazy;
mod policies;
mod scripted;
mod simulated;
mod storm;
mod support;
mod threads;
