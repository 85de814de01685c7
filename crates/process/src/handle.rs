//! The handle of a child: [`Process`].

use crate::{
    Builder, Error, Result,
    children::{self, Inner},
    exit::{self, ExitStatus, Frame, JoinError, Leftover, Report},
};
use procession_parcel::{EncodeArgs, EncodeAs};
use procession_sys::Deadline;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    fmt, io,
    marker::PhantomData,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// What a dropped process gets between SIGTERM and SIGKILL.
const DROP_GRACE: Duration = Duration::from_secs(1);

/// What a start method gives back.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) inner: Arc<Inner>,
    pub(crate) ends: [Option<OwnedFd>; 3],
}

/// A child process that runs a function and gives its value, a `T`.
///
/// It can be shared between threads: joining, polling and killing at once give each the right answer. Signals go
/// through a pidfd, so they cannot reach another process that got the same pid later.
///
/// # When it is dropped
///
/// A process that still runs is stopped: SIGTERM, a grace of one second
/// ([`Builder::drop_grace`]), SIGKILL. [`detach`](Process::detach) lets it live.
///
/// # When this process dies
///
/// The kernel kills the child in the same moment, and so all descendants, unless it was started with
/// [`Builder::outlive_parent`].
#[must_use = "a process that is dropped is stopped: join it, or detach it"]
pub struct Process<T> {
    inner: Arc<Inner>,
    ends: Mutex<[Option<OwnedFd>; 3]>,
    grace: Duration,
    detached: bool,
    value: PhantomData<fn() -> T>,
}

impl Process<()> {
    /// Describes a process in detail before it starts.
    pub fn builder() -> Builder {
        Builder::new()
    }
}

impl<T> Process<T> {
    pub(crate) fn new(started: Started, grace: Option<Duration>) -> Process<T> {
        Process {
            inner: started.inner,
            ends: Mutex::new(started.ends),
            grace: grace.unwrap_or(DROP_GRACE),
            detached: false,
            value: PhantomData,
        }
    }

    /// Its pid. It stays the child's until the child is joined, and may mean another process afterwards.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.inner.pid
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Whether it is ended, not joined, when this process ends.
    #[must_use]
    pub fn daemon(&self) -> bool {
        self.inner.daemon
    }

    /// A descriptor that becomes readable when the process has ended, for `poll(2)` and its kin.
    #[must_use]
    pub fn sentinel(&self) -> BorrowedFd<'_> {
        self.inner.pidfd.as_fd()
    }

    /// Whether it is running. Reaps it if it has ended.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.inner.is_ours() && matches!(self.inner.look(), Ok(None))
    }

    /// How it ended; `None` while it runs.
    #[must_use]
    pub fn exit_status(&self) -> Option<ExitStatus> {
        if !self.inner.is_ours() {
            return None;
        }
        self.inner.look().ok().flatten()
    }

    /// Waits for its end, without taking its value.
    ///
    /// # Errors
    ///
    /// If this is not the process that started it, or waiting fails.
    pub fn wait(&self) -> Result<ExitStatus> {
        children::check_owner(&self.inner)?;
        let end = self.inner.wait(None).map_err(|error| self.cannot("wait for", error))?;
        // Without a deadline a wait has an end.
        Ok(end.map_or(ExitStatus::Unknown, |(status, _)| status))
    }

    /// Waits for its end, at most for `timeout`. `None` if it still runs then.
    ///
    /// # Errors
    ///
    /// If this is not the process that started it, or waiting fails.
    pub fn wait_timeout(&self, timeout: Duration) -> Result<Option<ExitStatus>> {
        children::check_owner(&self.inner)?;
        let end = self
            .inner
            .wait(Some(Deadline::after(timeout)))
            .map_err(|error| self.cannot("wait for", error))?;
        Ok(end.map(|(status, _)| status))
    }

    /// Sends SIGTERM. Nothing happens if it has ended. The processes that it started through this library die with it.
    ///
    /// # Errors
    ///
    /// If this is not the process that started it, or the right to signal it is missing (it changed its user).
    pub fn terminate(&self) -> Result<()> {
        self.signal(libc::SIGTERM)
    }

    /// Sends SIGKILL. Nothing happens if it has ended.
    ///
    /// # Errors
    ///
    /// As [`terminate`](Process::terminate).
    pub fn kill(&self) -> Result<()> {
        self.signal(libc::SIGKILL)
    }

    /// Sends SIGINT. Nothing happens if it has ended.
    ///
    /// # Errors
    ///
    /// As [`terminate`](Process::terminate).
    pub fn interrupt(&self) -> Result<()> {
        self.signal(libc::SIGINT)
    }

    /// Sends a signal by number. Nothing happens if it has ended.
    ///
    /// # Errors
    ///
    /// As [`terminate`](Process::terminate).
    pub fn signal(&self, signal: i32) -> Result<()> {
        children::check_owner(&self.inner)?;
        self.inner.signal(signal).map(drop).map_err(|error| self.cannot("signal", error))
    }

    /// Sends a signal to the whole process group that it leads ([`Builder::process_group`]), or to it alone if it leads
    /// none. After SIGTERM, SIGKILL, SIGINT, SIGQUIT or SIGHUP, what is left of the group when it is reaped is killed.
    /// Nothing happens if it has ended.
    ///
    /// # Errors
    ///
    /// As [`terminate`](Process::terminate).
    pub fn signal_group(&self, signal: i32) -> Result<()> {
        children::check_owner(&self.inner)?;
        self.inner.signal_all(signal).map(drop).map_err(|error| self.cannot("signal", error))
    }

    /// The most memory that it had resident at once, in bytes, once its end was seen here (`ru_maxrss` of
    /// `getrusage(2)`). `None` before, and if somebody else took its exit status.
    ///
    /// The kernel carries the number over `execve`: under [`StartMethod::Spawn`](crate::StartMethod::Spawn) it is at
    /// least what this process had. It counts children that the process has waited for as well.
    #[must_use]
    pub fn peak_memory(&self) -> Option<u64> {
        self.inner.peak_memory()
    }

    /// Ends it in two stages: SIGTERM, up to `grace`, then SIGKILL; and waits for the end. If it has a process group
    /// of its own ([`Builder::process_group`]), the whole group gets the signals.
    ///
    /// # Errors
    ///
    /// As [`terminate`](Process::terminate); and if it hangs in the kernel and does not die within ten seconds.
    pub fn stop(&self, grace: Duration) -> Result<ExitStatus> {
        children::check_owner(&self.inner)?;
        match self.inner.stop(grace) {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err(self.cannot("stop", io::ErrorKind::TimedOut.into())),
            Err(error) => Err(self.cannot("stop", error)),
        }
    }

    /// Lets it run on without this handle. When this process ends, it is joined or, if it is daemonic, ended. The
    /// watcher's thread reaps it when it ends before; so a process that detached one is not forked any more.
    pub fn detach(mut self) {
        self.detached = true;
        self.inner.refuse_result();
        let inner = self.inner.clone();
        let reap = Box::new(move || drop(inner.settle()));
        // Without a thread or a descriptor for it, the child is reaped with the next look at the children.
        let _ = crate::watch::watch(self.inner.pidfd.as_fd(), reap);
    }

    /// Gives up the handle of a process that has ended (Python's `close()`).
    ///
    /// # Errors
    ///
    /// The handle back, if the process still runs.
    pub fn close(self) -> Result<(), StillRunning<T>> {
        if self.is_alive() { Err(StillRunning(self)) } else { Ok(()) }
    }

    /// The write end of its stdin, once, if that was [`Stdio::Piped`](crate::Stdio::Piped).
    pub fn take_stdin(&self) -> Option<std::fs::File> {
        self.take_end(0)
    }

    /// The read end of its stdout, once, if that was [`Stdio::Piped`](crate::Stdio::Piped).
    pub fn take_stdout(&self) -> Option<std::fs::File> {
        self.take_end(1)
    }

    /// The read end of its stderr, once, if that was [`Stdio::Piped`](crate::Stdio::Piped).
    pub fn take_stderr(&self) -> Option<std::fs::File> {
        self.take_end(2)
    }

    fn take_end(&self, index: usize) -> Option<std::fs::File> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)[index].take().map(Into::into)
    }

    fn cannot(&self, verb: &str, error: io::Error) -> Error {
        Error::system(format!("{verb} process `{}` (pid {})", self.inner.name, self.inner.pid), error)
    }
}

impl<R: Serialize + DeserializeOwned + 'static> Process<R> {
    /// Starts a process that runs `f(arg)`, and returns at once.
    ///
    /// `f` is a function, or a closure that captures nothing. It owns its argument: it takes a `String`, not a `&str`
    /// (see [`spawn_ref`](Process::spawn_ref) for an argument that is borrowed here). The argument is encoded here and now; handles (files,
    /// sockets, shared memory) may be anywhere in it. Several arguments go as a tuple: see [`spawn!`](crate::spawn!).
    ///
    /// ```no_run
    /// use procession_process::Process;
    ///
    /// let child = Process::spawn(|n: u64| n * n, 12)?;
    /// assert_eq!(child.join()?, 144);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If the argument cannot be encoded, or no descriptor, memory or process is left; nothing is left behind. What
    /// fails in the child comes out of [`join`](Process::join).
    pub fn spawn<A>(f: fn(A) -> R, arg: A) -> Result<Process<R>>
    where
        A: Serialize + DeserializeOwned + 'static,
    {
        Builder::new().spawn(f, arg)
    }

    /// Starts a process that runs `f` on a borrowed argument. See [`Builder::spawn_ref`].
    ///
    /// # Errors
    ///
    /// As [`spawn`](Process::spawn).
    pub fn spawn_ref<A, B>(f: fn(A) -> R, arg: B) -> Result<Process<R>>
    where
        A: DeserializeOwned + 'static,
        B: EncodeAs<A>,
    {
        Builder::new().spawn_ref(f, arg)
    }

    /// Starts a process that runs `f` on a tuple of borrowed arguments. See [`Builder::spawn_refs`].
    ///
    /// # Errors
    ///
    /// As [`spawn`](Process::spawn).
    pub fn spawn_refs<A, B>(f: fn(A) -> R, args: B) -> Result<Process<R>>
    where
        A: DeserializeOwned + 'static,
        B: EncodeArgs<A>,
    {
        Builder::new().spawn_refs(f, args)
    }

    /// Starts a process that runs a function whose error need not be serialisable. See
    /// [`Builder::spawn_fallible`].
    ///
    /// # Errors
    ///
    /// As [`spawn`](Process::spawn).
    pub fn spawn_fallible<A, E>(f: fn(A) -> Result<R, E>, arg: A) -> Result<Process<R>>
    where
        A: Serialize + DeserializeOwned + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
    {
        Builder::new().spawn_fallible(f, arg)
    }
}

impl<T: DeserializeOwned + 'static> Process<T> {
    /// Waits for the end of the process and gives the value of its function.
    ///
    /// `Ok` means that the whole value arrived *and* the process ended with status 0. Each call decodes the value
    /// anew, with duplicates of the handles in it, so several threads may join.
    ///
    /// # Errors
    ///
    /// [`JoinError`] says how it ended instead: a panic, a signal, an exit status, an error.
    pub fn join(&self) -> Result<T, JoinError> {
        self.result(None).and_then(|end| end.ok_or_else(|| self.wait_error(io::ErrorKind::TimedOut.into())))
    }

    /// As [`join`](Process::join), waiting at most for `timeout`. `None` if it still runs then.
    ///
    /// # Errors
    ///
    /// As [`join`](Process::join).
    pub fn join_timeout(&self, timeout: Duration) -> Result<Option<T>, JoinError> {
        self.result(Some(Deadline::after(timeout)))
    }

    /// As [`join`](Process::join), without waiting. `None` if it still runs.
    ///
    /// # Errors
    ///
    /// As [`join`](Process::join).
    pub fn try_join(&self) -> Result<Option<T>, JoinError> {
        self.result(Some(Deadline::from_nanos(0)))
    }

    fn wait_error(&self, error: io::Error) -> JoinError {
        JoinError::Wait { process: self.inner.name.clone(), error: Arc::new(error) }
    }

    fn result(&self, deadline: Option<Deadline>) -> Result<Option<T>, JoinError> {
        if !self.inner.is_ours() {
            return Err(JoinError::NotOurs { process: self.inner.name.clone() });
        }
        let end = self.inner.wait(deadline).map_err(|error| self.wait_error(error))?;
        let result = end.map(|(status, frame)| (status, self.judge(status, frame)));
        if let Some((status, Err(_))) = &result {
            crate::interrupt::hold_failed_join(status.signal() == Some(libc::SIGINT));
        }
        result.map(|(_, result)| result).transpose()
    }

    /// What the frame and the status say together.
    fn judge(&self, status: ExitStatus, frame: Option<Arc<Frame>>) -> Result<T, JoinError> {
        let process = self.inner.name.clone();
        let pid = self.inner.pid;
        let codec = |reason: String| JoinError::Codec { process: process.clone(), reason };
        let leftover = match frame.as_deref() {
            Some(Frame::Report(report)) => return Err(self.report(report)),
            Some(Frame::Broken(reason)) => return Err(codec(reason.clone())),
            Some(Frame::Value(parcel)) if status.success() => {
                return exit::unpack(parcel)
                    .map_err(|error| codec(format!("failed to decode its result: {error}")));
            }
            Some(Frame::Value(_)) => Leftover(frame),
            None => Leftover(None),
        };
        Err(match status {
            ExitStatus::Code(code) => JoinError::Exited { process, pid, code, leftover },
            ExitStatus::Signal { signal, core_dumped } => {
                JoinError::Signaled { process, pid, signal, core_dumped, leftover }
            }
            ExitStatus::Unknown => JoinError::StatusLost { process, pid, leftover },
        })
    }

    fn report(&self, report: &Report) -> JoinError {
        let process = self.inner.name.clone();
        match report {
            Report::Panicked(panic) => JoinError::Panicked { process, panic: Box::new(panic.clone()) },
            Report::Failed(error) => JoinError::Failed { process, error: Box::new(error.clone()) },
            Report::BadArguments(reason) => {
                JoinError::Codec { process, reason: format!("failed to decode its arguments: {reason}") }
            }
            Report::BadResult(reason) => {
                JoinError::Codec { process, reason: format!("failed to encode its result: {reason}") }
            }
            Report::NotStarted(reason) => JoinError::NotStarted { process, reason: reason.clone() },
        }
    }
}

impl<T> Drop for Process<T> {
    fn drop(&mut self) {
        if !self.detached && self.inner.is_ours() && matches!(self.inner.settle(), Ok(None)) {
            // Nobody is left to tell; what could not be stopped is tried again when this process ends.
            let _ = self.inner.stop(self.grace);
        }
    }
}

impl<T> AsFd for Process<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.sentinel()
    }
}

impl<T> fmt::Debug for Process<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match (self.inner.is_ours(), self.exit_status()) {
            (false, _) => "unknown".to_owned(),
            (true, None) => "started".to_owned(),
            (true, Some(status)) => format!("stopped, {status}"),
        };
        let daemon = if self.inner.daemon { ", daemon" } else { "" };
        write!(
            f,
            "Process(`{}`, pid {}, parent {}, {state}{daemon})",
            self.name(),
            self.pid(),
            self.inner.owner
        )
    }
}

/// A process could not be closed, because it still runs.
pub struct StillRunning<T>(Process<T>);

impl<T> StillRunning<T> {
    /// The process.
    pub fn into_process(self) -> Process<T> {
        self.0
    }
}

impl<T> fmt::Display for StillRunning<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process `{}` is still running; join or stop it first", self.0.name())
    }
}

impl<T> fmt::Debug for StillRunning<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<T> std::error::Error for StillRunning<T> {}

/// A child of this process, as [`active_children`] lists it: what can be seen and signalled, not joined for its
/// value.
#[derive(Clone)]
pub struct Child(Arc<Inner>);

impl Child {
    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.0.pid
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Whether it is daemonic.
    #[must_use]
    pub fn daemon(&self) -> bool {
        self.0.daemon
    }

    /// Sends a signal by number. Nothing happens if it has ended.
    ///
    /// # Errors
    ///
    /// If the right to signal it is missing.
    pub fn signal(&self, signal: i32) -> Result<()> {
        children::check_owner(&self.0)?;
        let operation = || format!("signal process `{}` (pid {})", self.0.name, self.0.pid);
        self.0.signal(signal).map(drop).map_err(|error| Error::system(operation(), error))
    }

    /// Waits for its end, at most for `timeout`. `None` if it still runs then.
    ///
    /// # Errors
    ///
    /// If waiting fails.
    pub fn wait_timeout(&self, timeout: Duration) -> Result<Option<ExitStatus>> {
        children::check_owner(&self.0)?;
        let operation = || format!("wait for process `{}` (pid {})", self.0.name, self.0.pid);
        let end = self.0.wait(Some(Deadline::after(timeout)));
        end.map(|end| end.map(|(status, _)| status)).map_err(|error| Error::system(operation(), error))
    }
}

impl fmt::Debug for Child {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Child(`{}`, pid {})", self.0.name, self.0.pid)
    }
}

/// The children of this process that are running, in the order of their start. Those that have ended are reaped, as in Python.
///
/// Helpers such as the fork server are not among them.
#[must_use]
pub fn active_children() -> Vec<Child> {
    children::active().into_iter().map(Child).collect()
}
