//! The fork start method: this process is copied.
//!
//! # Protocol
//!
//! Fork copies the calling thread only. Locks that other threads hold at that moment stay locked in the copy for
//! ever, the allocator's among them in other C libraries than glibc. So it is refused in a process that has threads;
//! the test is made before anything else. The `unsafe` form, which takes a closure with captures, leaves that to its
//! caller.
//!
//! The child runs what every child runs (`child`), but leaves by `_exit`: the exit handlers are its parent's.
//! The function and the arguments are passed in memory; the result travels as under the other methods.
#![expect(unsafe_code, reason = "fork")]

use crate::{
    Builder, Error, Process, Result,
    builder::Plan,
    child::{self, Origin},
    handle::Started,
    job::Work,
    spawn,
};
use procession_parcel::{Parcel, function::Erased};
use procession_sys::PidFd;
use rustix::io::Errno;
use serde::{Serialize, de::DeserializeOwned};
use std::{io, os::fd::OwnedFd};

/// How many threads this process has, those that the kernel adds to it (`io_uring`) included.
fn count_threads() -> rustix::io::Result<u64> {
    // A directory of one directory per thread has a link for each, and two of its own.
    rustix::fs::stat("/proc/self/task").map(|stat| stat.st_nlink.saturating_sub(2))
}

/// Whether this process has no other thread, for all that can be found out.
pub(crate) fn is_single_threaded() -> bool {
    count_threads() == Ok(1)
}

/// Refuses if this process has more than one thread.
pub(crate) fn check_single_threaded() -> Result<()> {
    let threads = count_threads().map_err(|error| {
        Error::system("count the threads of this process in /proc/self/task before a fork", error)
    })?;
    if threads > 1 { Err(Error::threads(threads)) } else { Ok(()) }
}

pub(crate) fn start(plan: Plan, work: Erased, input: Parcel) -> Result<Started> {
    let (job, kept) = spawn::job(plan, [0; 16], Work::Call(work))?;
    let (ours, theirs) = spawn::job_socket()?;
    // What is buffered would be written twice.
    let _ = io::Write::flush(&mut io::stdout());
    match fork(&ours)? {
        Forked::Child => {
            drop(ours);
            // The parent's end of the child's own lifeline and pipes, or the child would keep itself alive.
            drop(kept);
            wait_until_watched(&theirs);
            child::run(job, Some(input), theirs, Origin::Forked)
        }
        Forked::Parent(pid, pidfd) => {
            // The child has it: what may be packed once does not come back.
            input.mark_delivered();
            drop((job, theirs, input));
            Ok(kept.started(pid, pidfd, ours))
        }
    }
}

enum Forked {
    Child,
    Parent(u32, PidFd),
}

/// Waits in the child until its parent watches it. Else it could end, and be reaped by somebody else, before.
fn wait_until_watched(socket: &OwnedFd) {
    if !matches!(rustix::io::retry_on_intr(|| rustix::io::read(socket, &mut [0])), Ok(1)) {
        child::quit(0);
    }
}

fn fork(socket: &OwnedFd) -> Result<Forked> {
    // A place for the pidfd, so that a child that could not be watched does not come into being.
    let place = rustix::io::fcntl_dupfd_cloexec(socket, 3)
        .map_err(|error| Error::system("keep a descriptor for a child's pidfd", error))?;
    // SAFETY: either this process has one thread, or the caller of the `unsafe` form has promised that the closure
    // does only what is safe then.
    match unsafe { libc::fork() } {
        -1 => Err(Error::system("fork", io::Error::last_os_error())),
        0 => {
            // The parent's main thread has a handler for this, Rust's own or ours, and the copy has it too.
            crate::overflow::is_installed();
            Ok(Forked::Child)
        }
        pid => {
            drop(place);
            let pid = pid as u32;
            let pidfd = spawn::open_pidfd("a forked child", pid);
            if pidfd.as_ref().is_err_and(|error| error.os_error() != Some(libc::ESRCH)) {
                end(pid);
            }
            let pidfd = pidfd?;
            let told = rustix::io::retry_on_intr(|| {
                rustix::net::send(socket, &[1], rustix::net::SendFlags::NOSIGNAL)
            });
            match told {
                // One that was killed meanwhile does not hear it.
                Ok(_) | Err(Errno::PIPE | Errno::CONNRESET) => {}
                // It would wait for the word for ever, and so would who joins it.
                Err(error) => {
                    end(pid);
                    return Err(Error::system("tell a forked child to begin", error));
                }
            }
            Ok(Forked::Parent(pid, pidfd))
        }
    }
}

/// Ends a child that cannot be used.
fn end(pid: u32) {
    // SAFETY: a child of ours that is not reaped.
    unsafe { libc::kill(pid as i32, libc::SIGKILL) };
    // SAFETY: as above; no status is wanted.
    unsafe { libc::waitpid(pid as i32, std::ptr::null_mut(), 0) };
}

impl Builder {
    /// Forks this process, whatever threads it has, and runs a closure in the copy. The closure may capture
    /// anything, since nothing is encoded but its result.
    ///
    /// Settings of this builder that name a start method are ignored.
    ///
    /// # Errors
    ///
    /// As [`Process::spawn`].
    ///
    /// # Safety
    ///
    /// If this process has other threads, the closure may only do what is safe in a signal handler until it executes
    /// another program or ends (`fork(2)`, `signal-safety(7)`): a lock that another thread held is locked for ever in
    /// the copy. Whatever the closure captures must mean the same in a copy of the process: no thread, no lock that a
    /// parent expects to see released.
    pub unsafe fn fork_unchecked<R, F>(mut self, f: F) -> Result<Process<R>>
    where
        F: FnOnce() -> R,
        R: Serialize + DeserializeOwned + 'static,
    {
        crate::children::prepare();
        self = self.start_method(crate::StartMethod::Fork);
        let grace = self.grace();
        let plan = self.plan(false)?;
        let work = Erased::new(unreachable).map_err(|error| Error::parcel("refer to a function", error))?;
        let (job, kept) = spawn::job(plan, [0; 16], Work::Call(work))?;
        let (ours, theirs) = spawn::job_socket()?;
        let _ = io::Write::flush(&mut io::stdout());
        match fork(&ours)? {
            Forked::Child => {
                drop(ours);
                drop(kept);
                wait_until_watched(&theirs);
                child::run_closure(job, f, theirs)
            }
            Forked::Parent(pid, pidfd) => {
                // The closure runs in the copy; here it is only dropped.
                drop((job, theirs, f));
                Ok(Process::new(kept.started(pid, pidfd, ours), grace))
            }
        }
    }
}

/// Stands in the job of a process that runs a closure.
fn unreachable((): ()) {}
