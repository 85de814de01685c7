//! The behaviour of processes, as a user sees it.

mod auto_traits;
mod boot;
mod builds;
mod descriptors;
mod ends;
mod exit;
mod faults;
mod forks;
mod forkserver;
mod functions;
mod handles;
mod hostile;
mod join;
mod lifecycle;
mod named;
mod nesting;
mod settings;
mod shared;
mod signals;
mod start_methods;
mod stop;
mod storm;
mod streams;
mod support;
mod survival;
