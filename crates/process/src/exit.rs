//! How a process ended, and what its function gave.

use procession_parcel::{Error as ParcelError, Panic, Parcel, RemoteError, codec};
use procession_sys::ProcessExit;
use serde::de::DeserializeOwned;
use std::fmt;

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[non_exhaustive]
pub enum ExitStatus {
    /// It exited with this status: 0 to 255.
    Code(i32),
    /// A signal ended it.
    Signal {
        /// The signal's number.
        signal: i32,
        /// Whether it left a core dump.
        core_dumped: bool,
    },
    /// It has ended, but somebody else took its status: the program ignores SIGCHLD, or waits for all children
    /// itself, and the kernel is older than 6.15.
    Unknown,
}

impl ExitStatus {
    /// Whether the process exited with status 0.
    #[must_use]
    pub fn success(self) -> bool {
        self == ExitStatus::Code(0)
    }

    /// The exit status, if it exited by itself.
    #[must_use]
    pub fn code(self) -> Option<i32> {
        if let ExitStatus::Code(code) = self { Some(code) } else { None }
    }

    /// The signal that ended it, if one did.
    #[must_use]
    pub fn signal(self) -> Option<i32> {
        if let ExitStatus::Signal { signal, .. } = self { Some(signal) } else { None }
    }

    /// Python's `exitcode`: the status, or the negative number of the signal.
    #[must_use]
    pub fn exitcode(self) -> Option<i32> {
        match self {
            ExitStatus::Code(code) => Some(code),
            ExitStatus::Signal { signal, .. } => Some(-signal),
            ExitStatus::Unknown => None,
        }
    }
}

impl From<Option<ProcessExit>> for ExitStatus {
    fn from(exit: Option<ProcessExit>) -> ExitStatus {
        match exit {
            Some(ProcessExit::Code(code)) => ExitStatus::Code(code),
            Some(ProcessExit::Signal { signal, core_dumped }) => ExitStatus::Signal { signal, core_dumped },
            None => ExitStatus::Unknown,
        }
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            ExitStatus::Code(code) => write!(f, "exit status {code}"),
            ExitStatus::Signal { signal, core_dumped } => {
                let core = if core_dumped { ", core dumped" } else { "" };
                write!(f, "signal {signal} ({}{core})", signal_name(signal))
            }
            ExitStatus::Unknown => f.write_str("an exit status that somebody else took"),
        }
    }
}

/// The usual name of a signal, `SIGKILL` for 9; `SIGRTMIN+n` for real-time signals.
#[must_use]
pub fn signal_name(signal: i32) -> String {
    let name = match signal {
        libc::SIGHUP => "SIGHUP",
        libc::SIGINT => "SIGINT",
        libc::SIGQUIT => "SIGQUIT",
        libc::SIGILL => "SIGILL",
        libc::SIGTRAP => "SIGTRAP",
        libc::SIGABRT => "SIGABRT",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGKILL => "SIGKILL",
        libc::SIGUSR1 => "SIGUSR1",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGUSR2 => "SIGUSR2",
        libc::SIGPIPE => "SIGPIPE",
        libc::SIGALRM => "SIGALRM",
        libc::SIGTERM => "SIGTERM",
        libc::SIGCHLD => "SIGCHLD",
        libc::SIGCONT => "SIGCONT",
        libc::SIGSTOP => "SIGSTOP",
        libc::SIGXCPU => "SIGXCPU",
        libc::SIGXFSZ => "SIGXFSZ",
        libc::SIGIO => "SIGIO",
        libc::SIGSYS => "SIGSYS",
        other if other >= libc::SIGRTMIN() => return format!("SIGRTMIN+{}", other - libc::SIGRTMIN()),
        _ => "unnamed",
    };
    name.to_owned()
}

/// Decodes a value that stays where it is.
pub(crate) fn unpack<T: DeserializeOwned + 'static>(parcel: &Parcel) -> Result<T, ParcelError> {
    if parcel.fds().is_empty() {
        // Without a copy. Only a reference to a function needs the parcel's trust.
        if let Ok(value) = codec::decode(parcel.bytes()) {
            return Ok(value);
        }
    }
    parcel.try_clone()?.unpack()
}

/// A result that was complete, of a process that did not end well afterwards.
#[derive(Clone, Debug, Default)]
pub struct Leftover(pub(crate) Option<std::sync::Arc<Frame>>);

impl Leftover {
    /// The value that the function had returned, if it had.
    #[must_use]
    pub fn value<T: DeserializeOwned + 'static>(&self) -> Option<T> {
        match self.0.as_deref() {
            Some(Frame::Value(parcel)) => unpack(parcel).ok(),
            _ => None,
        }
    }
}

/// Why a process gave no value.
///
/// Each message names the process and says what happened to it.
#[derive(Clone)]
#[non_exhaustive]
pub enum JoinError {
    /// The function panicked.
    Panicked {
        /// The process's name.
        process: String,
        /// Message, location and, where `RUST_BACKTRACE` asks for it, the backtrace.
        panic: Box<Panic>,
    },
    /// The function returned an error that cannot travel as a value (see `spawn_fallible`).
    Failed {
        /// The process's name.
        process: String,
        /// The error's type, message and sources.
        error: Box<RemoteError>,
    },
    /// A signal ended the process.
    Signaled {
        /// The process's name.
        process: String,
        /// Its pid.
        pid: u32,
        /// The signal's number.
        signal: i32,
        /// Whether it left a core dump.
        core_dumped: bool,
        /// The result, if the function had returned before the signal came.
        leftover: Leftover,
    },
    /// The process called `exit` before its function returned, or its status was not 0 afterwards.
    Exited {
        /// The process's name.
        process: String,
        /// Its pid.
        pid: u32,
        /// The exit status.
        code: i32,
        /// The result, if the function had returned.
        leftover: Leftover,
    },
    /// The process ended, and somebody else took its exit status.
    StatusLost {
        /// The process's name.
        process: String,
        /// Its pid.
        pid: u32,
        /// The result, if the function had returned.
        leftover: Leftover,
    },
    /// The child could not be set up as asked, and did not run the function.
    NotStarted {
        /// The process's name.
        process: String,
        /// What failed, and why.
        reason: String,
    },
    /// The arguments or the result could not be encoded or decoded.
    Codec {
        /// The process's name.
        process: String,
        /// Whose fault it was, and why.
        reason: String,
    },
    /// The process is not a child of this one: the handle was copied by a fork.
    NotOurs {
        /// The process's name.
        process: String,
    },
    /// Waiting failed.
    Wait {
        /// The process's name.
        process: String,
        /// The system's error.
        error: std::sync::Arc<std::io::Error>,
    },
}

impl JoinError {
    /// The panic, if there was one.
    #[must_use]
    pub fn panic(&self) -> Option<&Panic> {
        if let JoinError::Panicked { panic, .. } = self { Some(panic) } else { None }
    }

    /// The error that the function returned, if it did.
    #[must_use]
    pub fn remote(&self) -> Option<&RemoteError> {
        if let JoinError::Failed { error, .. } = self { Some(error) } else { None }
    }

    /// The signal that ended the process, if one did.
    #[must_use]
    pub fn signal(&self) -> Option<i32> {
        if let JoinError::Signaled { signal, .. } = self { Some(*signal) } else { None }
    }

    /// The exit status, if the process called `exit`.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        if let JoinError::Exited { code, .. } = self { Some(*code) } else { None }
    }

    /// The value that the function had returned before the process ended badly, if it had.
    #[must_use]
    pub fn leftover<T: DeserializeOwned + 'static>(&self) -> Option<T> {
        match self {
            JoinError::Signaled { leftover, .. }
            | JoinError::Exited { leftover, .. }
            | JoinError::StatusLost { leftover, .. } => leftover.value(),
            _ => None,
        }
    }

    /// Goes on with the child's panic in this thread, if it was one.
    ///
    /// # Errors
    ///
    /// The error itself, if it was not a panic.
    pub fn resume_unwind(self) -> Result<std::convert::Infallible, JoinError> {
        match self {
            JoinError::Panicked { panic, .. } => panic.resume(),
            other => Err(other),
        }
    }
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JoinError::Panicked { process, panic } => write!(f, "process `{process}` {panic}"),
            JoinError::Failed { process, error } => write!(f, "process `{process}` failed: {error}"),
            JoinError::Signaled { process, pid, signal, core_dumped, leftover } => {
                let status = ExitStatus::Signal { signal: *signal, core_dumped: *core_dumped };
                let when = if leftover.0.is_some() { " after its function had returned" } else { "" };
                write!(f, "process `{process}` (pid {pid}) was ended by {status}{when}")
            }
            JoinError::Exited { process, pid, code, leftover } => {
                let when = if leftover.0.is_some() { "after" } else { "before" };
                write!(
                    f,
                    "process `{process}` (pid {pid}) exited with status {code} {when} its function had returned"
                )
            }
            JoinError::StatusLost { process, pid, leftover } => {
                let when = if leftover.0.is_some() { "after" } else { "before" };
                write!(
                    f,
                    "process `{process}` (pid {pid}) ended {when} its function had returned, and its exit status \
                     was taken by somebody else: the program ignores SIGCHLD or waits for every child"
                )
            }
            JoinError::NotStarted { process, reason } => {
                write!(f, "failed to start process `{process}`: {reason}")
            }
            JoinError::Codec { process, reason } => write!(f, "process `{process}`: {reason}"),
            JoinError::NotOurs { process } => {
                write!(
                    f,
                    "process `{process}` is not a child of this process: its handle was copied by a fork"
                )
            }
            JoinError::Wait { process, error } => {
                write!(f, "failed to wait for process `{process}`: {error}")
            }
        }
    }
}

/// The message, so that `main` may return it.
impl fmt::Debug for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The message holds the cause's, so there is no further source.
impl std::error::Error for JoinError {}

/// What the child reports besides a value. Travels in one frame, told from a value by its last byte.
#[derive(serde::Serialize, serde::Deserialize, Debug)]
pub(crate) enum Report {
    Panicked(Panic),
    Failed(RemoteError),
    BadArguments(String),
    BadResult(String),
    NotStarted(String),
}

/// The last byte of a frame that holds the function's value.
pub(crate) const VALUE: u8 = 0xa5;
/// The last byte of a frame that holds a [`Report`].
pub(crate) const REPORT: u8 = 0x5a;

/// A complete frame of the child.
#[derive(Debug)]
pub(crate) enum Frame {
    Value(Parcel),
    Report(Report),
    Broken(String),
}

impl Frame {
    /// Reads a frame by its last byte.
    pub(crate) fn read(mut parcel: Parcel) -> Frame {
        match parcel.pop_tag() {
            Some(VALUE) => Frame::Value(parcel),
            Some(REPORT) => match parcel.unpack() {
                Ok(report) => Frame::Report(report),
                Err(error) => Frame::Broken(error.to_string()),
            },
            _ => Frame::Broken("its result frame is malformed".to_owned()),
        }
    }

    /// The frame for a report.
    pub(crate) fn report(report: &Report) -> Result<Parcel, ParcelError> {
        let mut parcel = Parcel::pack(report)?;
        parcel.push_tag(REPORT);
        Ok(parcel)
    }
}
