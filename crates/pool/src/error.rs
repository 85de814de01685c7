//! What a task can come to besides a value, and what the pool itself can fail with.

use procession_parcel::{Panic, RemoteError};
use procession_process::ExitStatus;
use std::{fmt, sync::Arc, time::Duration};

/// Why one item of a pool's work gave no value. The other items are not concerned.
#[derive(Clone)]
#[non_exhaustive]
pub enum TaskError {
    /// The function panicked.
    Panicked(Panic),
    /// The function returned an error (see [`Work::fallible`](crate::Work::fallible)).
    Failed(RemoteError),
    /// The worker died with this item in hand: begun, or on its way into the worker's memory.
    Died(Box<Died>),
    /// It ran longer than it may. Its worker was killed and replaced.
    TimedOut(Box<Died>),
    /// It was cancelled, before it started or by killing its worker.
    Cancelled,
    /// It has killed so many workers in a row that it is not tried again, though it has retries left.
    Quarantined(Box<Died>),
    /// The call's total time, this long, was over before the item had a result. What was left of the call is cancelled.
    OutOfTime(Duration),
    /// The input gave this error in the place of an item.
    Input(Arc<dyn std::error::Error + Send + Sync>),
    /// The argument could not be encoded here, or not be decoded in the worker.
    BadArguments(String),
    /// The result could not be encoded in the worker, or not be decoded here.
    BadResult(String),
    /// The function cannot be sent.
    BadFunction(String),
    /// The pool was closed, terminated or dropped before the item had a result.
    Terminated,
    /// The pool cannot keep any worker alive, or its initialiser fails.
    Broken(Arc<str>),
    /// This process is a forked copy of the one that owns the pool. The pool is the original's alone.
    ForkedCopy,
}

/// A worker's death with an item in hand.
#[derive(Clone, Debug)]
pub struct Died {
    /// The worker, and how it ended.
    pub death: Arc<Death>,
    /// Which item of the call it was, from 0.
    pub item: u64,
    /// Which try of the item it was, from 1.
    pub attempt: u32,
}

/// How a worker died.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Death {
    /// The worker's name.
    pub worker: String,
    /// Its pid; 0 if it is a thread, which was left behind.
    pub pid: u32,
    /// Its exit status, or the signal that ended it.
    pub exit: ExitStatus,
    /// Why it ended, as far as the pool knows.
    pub cause: Cause,
    /// The most memory that it had resident at once, in bytes, where that is known: not where somebody else took its exit
    /// status, nor if a process that was executed anew stayed below what its parent had. Children that it has waited for
    /// count as well.
    pub peak_memory: Option<u64>,
}

/// Why a worker ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Cause {
    /// What it ran ended it, or something outside of this pool did.
    Itself,
    /// The pool ended it because what it told, or the memory that it shares with the pool, was nonsense: code that it
    /// ran has written where it should not.
    Damaged,
    /// The pool killed it because an item ran longer than this.
    TimeLimit(Duration),
    /// The pool killed it because an item was cancelled.
    Cancelled,
    /// Somebody asked the pool to kill it.
    Requested,
    /// The kernel's OOM killer ended it: a SIGKILL of which the pool knows nothing came, and the kernel's count of such
    /// kills went up, in this process's control group or, where that cannot be read, in the system. It errs only if
    /// somebody else killed the worker while the kernel killed another process there.
    OutOfMemory,
    /// It came up against its [limit of memory](crate::Builder::memory_limit), in bytes: it aborted right after an
    /// allocation had failed in the thread that aborted.
    MemoryLimit(u64),
}

impl TaskError {
    pub(crate) fn died(death: Arc<Death>, item: u64, attempt: u32) -> TaskError {
        TaskError::Died(Box::new(Died { death, item, attempt }))
    }

    /// What the death of a worker is to the item that it had in hand.
    pub(crate) fn of_death(death: Arc<Death>, item: u64, attempt: u32) -> TaskError {
        match death.cause {
            Cause::Cancelled => TaskError::Cancelled,
            Cause::TimeLimit(_) => TaskError::TimedOut(Box::new(Died { death, item, attempt })),
            _ => TaskError::died(death, item, attempt),
        }
    }

    /// Whether another try may help: the worker died, or the function panicked.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, TaskError::Panicked(_) | TaskError::Died(_))
    }

    /// The panic, if it was one.
    #[must_use]
    pub fn panic(&self) -> Option<&Panic> {
        if let TaskError::Panicked(panic) = self { Some(panic) } else { None }
    }

    /// The error that the function returned, if it did.
    #[must_use]
    pub fn remote(&self) -> Option<&RemoteError> {
        if let TaskError::Failed(error) = self { Some(error) } else { None }
    }

    /// The worker's death, if it died.
    #[must_use]
    pub fn death(&self) -> Option<&Died> {
        match self {
            TaskError::Died(died) | TaskError::TimedOut(died) | TaskError::Quarantined(died) => Some(died),
            _ => None,
        }
    }

    /// Whether it was cancelled.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        matches!(self, TaskError::Cancelled)
    }

    /// Whether it ran longer than it may.
    #[must_use]
    pub fn is_timed_out(&self) -> bool {
        matches!(self, TaskError::TimedOut(_))
    }

    /// Whether the pool ended first.
    #[must_use]
    pub fn is_terminated(&self) -> bool {
        matches!(self, TaskError::Terminated)
    }

    /// Goes on with the worker's panic in this thread, if it was one.
    ///
    /// # Errors
    ///
    /// The error itself, if it was not a panic.
    pub fn resume_unwind(self) -> Result<std::convert::Infallible, TaskError> {
        match self {
            TaskError::Panicked(panic) => panic.resume(),
            other => Err(other),
        }
    }
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.pid == 0 {
            return write!(f, "thread `{}` was left behind", self.worker);
        }
        write!(f, "worker `{}` (pid {}) ", self.worker, self.pid)?;
        match self.exit {
            ExitStatus::Code(code) => write!(f, "exited with status {code}"),
            exit => write!(f, "was ended by {exit}"),
        }
    }
}

impl fmt::Display for Died {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} while running item {} (attempt {})", self.death, self.item, self.attempt)?;
        match self.death.cause {
            Cause::Itself => f.write_str(guess(self.death.exit))?,
            Cause::Damaged => f.write_str("; the memory that it shares with the pool was damaged")?,
            Cause::TimeLimit(limit) => write!(f, "; the task ran longer than {limit:?}")?,
            Cause::Cancelled => f.write_str("; the task was cancelled")?,
            Cause::Requested => f.write_str("; the pool was asked to kill it")?,
            Cause::OutOfMemory => f.write_str("; the system was out of memory, and the kernel chose it")?,
            Cause::MemoryLimit(limit) => {
                write!(f, "; it came up against its limit of {limit} bytes of memory")?
            }
        }
        match self.death.peak_memory {
            Some(peak) => write!(f, "; it had {} MiB of memory at most", peak.div_ceil(1 << 20)),
            None => Ok(()),
        }
    }
}

/// What may have been the cause of an end that nobody has explained.
fn guess(exit: ExitStatus) -> &'static str {
    match exit {
        ExitStatus::Code(_) => "; the task called `exit`",
        ExitStatus::Signal { signal: libc::SIGKILL, .. } => {
            "; somebody killed it, or the system is out of memory"
        }
        ExitStatus::Signal { signal: libc::SIGSEGV | libc::SIGBUS, .. } => {
            "; it touched memory that is not its own, or overflowed its stack"
        }
        ExitStatus::Signal { signal: libc::SIGABRT, .. } => {
            "; the task aborted, perhaps by a second panic or for want of memory"
        }
        _ => "",
    }
}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TaskError::Panicked(panic) => write!(f, "task {panic}"),
            TaskError::Failed(error) => write!(f, "task failed: {error}"),
            TaskError::Died(died) => died.fmt(f),
            TaskError::TimedOut(died) => write!(f, "task timed out: {died}"),
            TaskError::Cancelled => f.write_str("the task was cancelled"),
            TaskError::Quarantined(died) => {
                write!(
                    f,
                    "the task ended a worker {} times in a row and is not tried again: {died}",
                    died.attempt
                )
            }
            TaskError::OutOfTime(total) => write!(f, "the call had no result within {total:?}"),
            TaskError::Input(error) => write!(f, "the input failed: {error}"),
            TaskError::BadArguments(why) => write!(f, "failed to pass a task's argument: {why}"),
            TaskError::BadResult(why) => write!(f, "failed to pass a task's result: {why}"),
            TaskError::BadFunction(why) => write!(f, "failed to send a task's function: {why}"),
            TaskError::Terminated => f.write_str("the pool ended before the task had a result"),
            TaskError::Broken(why) => write!(f, "the pool cannot keep a worker alive: {why}"),
            TaskError::ForkedCopy => {
                f.write_str("failed to use a pool: this process is a forked copy of the one that owns it")
            }
        }
    }
}

impl fmt::Debug for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for TaskError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            TaskError::Failed(error) => Some(error),
            TaskError::Input(error) => Some(&**error),
            _ => None,
        }
    }
}

/// A pool could not be made.
pub struct Error {
    operation: String,
    cause: Box<dyn std::error::Error + Send + Sync>,
}

/// The result of this crate's calls that make or end a pool.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn new(
        operation: impl Into<String>,
        cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Error {
        Error { operation: operation.into(), cause: cause.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "failed to {}: {}", self.operation, self.cause)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.cause)
    }
}
