//! Processes that run plain Rust functions and give back their values.
//!
//! ```no_run
//! use procession_process::{Process, spawn};
//!
//! fn greet(name: String, times: usize) -> String {
//!     format!("hello, {name}! ").repeat(times)
//! }
//!
//! let square = Process::spawn(|n: u64| n * n, 12)?;
//! let greeting = spawn!(greet("world".to_owned(), 2))?;
//! assert_eq!(square.join()?, 144);
//! assert_eq!(greeting.join()?, "hello, world! hello, world! ");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! No guard and no `init` are needed: a child is this program executed anew (or a clone of a helper that was), and is
//! caught before `main`. So it works in programs, examples, tests and benches alike.
//!
//! # What happens when a process dies
//!
//! * **A child**: [`Process::join`] says how. `Ok` means a whole value *and* exit status 0. Its children die with it.
//! * **This process**, by whatever means: the kernel kills all descendants in the same moment, unless one was started
//!   with [`Builder::outlive_parent`]. That holds for processes of this library: not for one that has executed another
//!   program, and not for those that it started by `std::process::Command`.
//! * **The fork server**: the next start makes a new one. Children that it made live on; a start that was under way
//!   is neither lost nor done twice.
//! * **A process that owns names** (shared memory that others find by name): a helper that outlives it takes them away.
//!   It is started with the first such name, and ends with its work.
//!
//! Every wait here ends when what it waits for dies. Signals go through pidfds and never reach a reused pid.
//!
//! # Start methods
//!
//! | [`StartMethod`] | what it costs | what the child shares |
//! |---|---|---|
//! | `ForkServer` (default) | a fork of a small process | what [`fork_server_preload!`] made |
//! | `Spawn` | an exec | nothing |
//! | `Fork` | a fork of this process; refused when it has threads | a copy of everything |
//!
//! # At the end of a process
//!
//! Returning from `main`, or `exit`, runs in this order: exit hooks of priority 0 and above
//! ([`at_exit`]), the highest first; daemonic children are ended; other children are joined, at most for the
//! [exit bound](set_exit_bound); the remaining hooks. Children of this library end in the same way.
//!
//! # Surroundings
//!
//! | where | what happens |
//! |---|---|
//! | SIGCHLD is ignored, or the program waits for any child itself | Linux 6.15 and later: nothing changes. Before: [`JoinError::StatusLost`], with the value if it was complete |
//! | as PID 1 of a container | all works; orphans of other programs are not reaped |
//! | no `/proc` | spawn and fork server: an error that says so. Fork: the same, since threads cannot be counted |
//! | no pidfds (Linux before 5.4, seccomp) | every start gives an error that says so |
//! | no memfd (seccomp) | the fork server gives an error; large arguments and results travel through the socket |
//! | `panic = "abort"` | message and location arrive all the same |
#![deny(unsafe_code)]

#[cfg(not(target_os = "linux"))]
compile_error!("procession supports Linux only");

mod boot;
mod builder;
mod child;
mod children;
mod context;
mod current;
mod error;
mod exit;
mod fork;
mod forkserver;
mod guardian;
mod handle;
mod interrupt;
mod job;
mod lifeline;
#[cfg(feature = "tracing")]
pub mod log;
mod macros;
mod overflow;
mod run;
mod scope;
mod spawn;
#[doc(hidden)]
pub mod start_hooks;
mod stdio;
mod threads;
mod title;
pub mod watch;

pub use boot::init;
pub use builder::{Builder, Resource};
pub use children::set_exit_bound;
pub use context::{Context, StartMethod};
pub use current::{CurrentProcess, Parent, cpu_count, current_process, parent_process};
pub use error::{Error, Result};
pub use exit::{ExitStatus, JoinError, Leftover, signal_name};
pub use forkserver::{fork_server_pid, start_fork_server};
pub use handle::{Child, Process, StillRunning, active_children};
pub use interrupt::{Interrupts, end_interrupted, handle_interrupts, interrupted, on_interrupt};
pub use procession_parcel::{Erased, Fd, Panic, Parcel, RemoteError};
pub use procession_sys::hooks::{HookId, at_exit, cancel as cancel_exit_hook};
pub use run::Run;
pub use scope::{Scope, scope};
pub use stdio::Stdio;
pub use threads::join_at_exit;

#[doc(hidden)]
pub use linkme;
