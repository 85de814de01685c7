//! The pool's behaviour, as a user sees it.

mod bare;
mod basics;
mod copies;
mod damage;
mod death_table;
mod deaths;
mod failures;
mod functions;
mod lazy;
mod scripted;
mod simulated;
mod storm;
mod support;
mod thread_pool;
mod threads;
mod worlds;
