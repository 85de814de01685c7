//! The pool's behaviour, as a user sees it.

mod basics;
mod copies;
mod damage;
mod deaths;
mod failures;
mod functions;
mod lazy;
mod lifetimes;
#[cfg(feature = "sandbox")]
mod sandbox;
mod scripted;
mod simulated;
mod storm;
mod support;
mod threads;
