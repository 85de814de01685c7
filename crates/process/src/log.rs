//! Logging by `tracing` across the tree (feature `tracing`).
//!
//! Children take over the level and the filter of the process that starts them. What becomes of their records:
//!
//! * [`log_to_stderr`]: each process writes its own, one line at a time, with its name;
//! * [`forward_to_parent`]: they reach this process's subscriber, whatever that is, with level, target, file and line
//!   as they were, and the fields `process` and `pid`;
//! * neither: a child logs nothing until it installs a subscriber, in an
//!   [`on_child_start!`](crate::on_child_start!) hook for example, to which [`filter`] tells what the parent wants.
//!
//! A child that installs a subscriber of its own in such a hook keeps it.
//!
//! ```no_run
//! use procession_process::{Process, log};
//! use tracing::{Level, info};
//!
//! log::log_to_stderr(Level::INFO);
//! let child = Process::spawn(|n: u32| info!(n, "counting"), 3)?;
//! child.join()?; // [INFO/Process-1] counting n=3 (my_program, src/main.rs:5)
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # When a process dies
//!
//! A record is one packet in a socket: the parent has it whole, also if the child is killed right afterwards, or has
//! none of it. A parent that is slow, stopped or dead never blocks a child: a record that finds the socket full is
//! dropped and counted, and the count is reported with the next one that passes.

mod forward;
mod output;

use crate::{Error, Result};
use forward::Collector;
use output::Output;
use procession_parcel::Fd;
use serde::{Deserialize, Serialize};
use std::{
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{EnvFilter, Registry, layer::SubscriberExt, reload};

/// What a child takes over.
#[derive(Serialize, Deserialize, Default, Debug)]
pub(crate) struct Inherited {
    filter: String,
    stderr: bool,
    /// Where the child's records go, and those of its children.
    forward: Option<Fd>,
}

/// The logging of this process.
struct Settings {
    /// What was asked for here, or taken over from the parent.
    filter: Option<String>,
    stderr: bool,
    /// The end of a collector's socket that children get: this process's own collector, or an ancestor's.
    forward: Option<Arc<OwnedFd>>,
    /// This process's collector, kept for good once it was made: children that run still use it.
    collector: Option<Arc<Collector>>,
    /// The filter of our subscriber, where that is the global one.
    ours: Option<reload::Handle<EnvFilter, Registry>>,
}

static SETTINGS: Mutex<Settings> =
    Mutex::new(Settings { filter: None, stderr: false, forward: None, collector: None, ours: None });

fn settings() -> MutexGuard<'static, Settings> {
    // Nothing of the user's runs under this lock; each change is whole.
    SETTINGS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Settings {
    /// The directives that children take over.
    fn wanted(&self) -> String {
        if let Some(filter) = &self.filter {
            return filter.clone();
        }
        let environment = std::env::var(EnvFilter::DEFAULT_ENV).unwrap_or_default();
        if !environment.is_empty() && EnvFilter::try_new(&environment).is_ok() {
            return environment;
        }
        // All that a subscriber tells of its filter. It is "off" where there is none.
        LevelFilter::current().to_string()
    }

    /// Sets the filter, also of our subscriber if there is one.
    fn set_filter(&mut self, directives: &str) {
        self.filter = Some(directives.to_owned());
        if let Some(ours) = &self.ours {
            // Fails only if the subscriber is gone, and a global one never is.
            let _ = ours.reload(EnvFilter::builder().parse_lossy(directives));
        }
    }

    /// Makes our subscriber the global one, unless there is one already, which then stays.
    fn install(&mut self) {
        if self.ours.is_some() {
            return;
        }
        let filter = EnvFilter::builder().parse_lossy(self.wanted());
        let (filter, handle) = reload::Layer::new(filter);
        let subscriber = Registry::default().with(filter).with(Output);
        if tracing::subscriber::set_global_default(subscriber).is_ok() {
            self.ours = Some(handle);
        }
    }
}

/// Sets what children take over from now on, in the directives of
/// [`EnvFilter`]: `"info"`, `"warn,my_crate::net=trace"`.
///
/// A program that makes its own subscriber calls this with that subscriber's filter, which cannot be read out of it.
/// Without this call children get what `RUST_LOG` says, and where that is not set or not valid, the highest level
/// that the parent's subscriber lets pass. Of a subscriber that [`log_to_stderr`] made the filter changes with it.
///
/// # Errors
///
/// If the directives cannot be read.
pub fn set_filter(directives: &str) -> Result<()> {
    EnvFilter::try_new(directives)
        .map_err(|error| Error::invalid(format!("failed to read log filter `{directives}`: {error}")))?;
    settings().set_filter(directives);
    Ok(())
}

/// What children of this process take over, in directives; in a child, what it has taken over itself.
#[must_use]
pub fn filter() -> String {
    settings().wanted()
}

/// Writes records of this level and above to stderr, in this process and in all that it starts from now on: a line
/// each, `[LEVEL/process-name] message (target, file:line)`, with the fields after the message.
///
/// Where this process has a global subscriber already, that one keeps its records, and only the children write. A
/// later call changes the level.
pub fn log_to_stderr(level: impl Into<LevelFilter>) {
    let mut settings = settings();
    settings.set_filter(&level.into().to_string());
    settings.stderr = true;
    output::to_stderr(true);
    settings.install();
}

/// Sends the records of all processes that this one starts from now on, and of their descendants, to this process's
/// subscriber; or ends that for those that are started later.
///
/// There they look like records made here, at the time of their arrival, with these fields besides `message`:
/// `process` and `pid` of the process that made them, and `fields` with its own fields as text, if it had any. Spans
/// stay where they are. This process's filter applies as well as the child's (see [`set_filter`]).
///
/// It starts a thread, so the fork start method is refused from then on. A child made by fork before keeps a copy of
/// this process's subscriber.
///
/// # Errors
///
/// If no descriptor or thread is left.
pub fn forward_to_parent(forward: bool) -> Result<()> {
    let mut settings = settings();
    if !forward {
        settings.forward = None;
        return Ok(());
    }
    let collector = match &settings.collector {
        // A forked child has its parent's, without the thread.
        Some(collector) if collector.is_ours() => collector.clone(),
        _ => {
            let collector =
                Arc::new(Collector::start().map_err(|error| Error::system("collect log records", error))?);
            settings.collector = Some(collector.clone());
            procession_sys::hooks::at_exit(i32::MIN, || {
                flush(LAST_FLUSH);
            });
            collector
        }
    };
    settings.forward = Some(collector.end());
    Ok(())
}

/// How long the end of a process waits for its subscriber to take what children have sent.
const LAST_FLUSH: Duration = Duration::from_secs(1);

/// Waits until this process's subscriber has seen every record that children had sent before this call. False if
/// that takes longer than `timeout`. True at once where nothing is forwarded to this process.
///
/// A child's records are all sent when its `join` returns. The end of a process flushes for at most a second.
pub fn flush(timeout: Duration) -> bool {
    let collector = settings().collector.clone();
    match collector {
        Some(collector) if collector.is_ours() => collector.flush(timeout),
        _ => true,
    }
}

/// What the process `name` takes over from this one.
pub(crate) fn inherited(name: &str) -> Result<Inherited> {
    let settings = settings();
    let forward = match &settings.forward {
        Some(end) => Some(
            rustix::io::fcntl_dupfd_cloexec(end.as_fd(), 3)
                .map_err(|error| Error::system(format!("give process `{name}` a log socket"), error))?,
        ),
        None => None,
    };
    Ok(Inherited { filter: settings.wanted(), stderr: settings.stderr, forward: forward.map(Fd::from) })
}

/// Makes this process, a child, log as its parent wants, from [`install`] on.
pub(crate) fn take_over(inherited: Inherited, name: &str) {
    let forward = inherited.forward.map(|fd| Arc::new(OwnedFd::from(fd)));
    if forward.is_some() {
        procession_sys::hooks::at_exit(i32::MIN, output::report_dropped);
    }
    output::set(name, inherited.stderr, forward.clone());
    let mut settings = settings();
    settings.set_filter(&inherited.filter);
    settings.stderr = inherited.stderr;
    settings.forward = forward;
    settings.collector = None;
}

/// Installs the subscriber of a child that logs to stderr or to its parent. It comes after the hooks of
/// `on_child_start!`, which may install another.
pub(crate) fn install() {
    // A child that was forked with other threads about may find the lock taken for ever.
    let Ok(mut settings) = SETTINGS.try_lock() else { return };
    if settings.stderr || settings.forward.is_some() {
        settings.install();
    }
}
