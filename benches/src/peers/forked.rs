//! Children by plain `fork`: the raw start, and far sides for hand-offs.
#![expect(unsafe_code, reason = "fork, waitpid, prctl")]

use std::io::{self, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::pin;
use crate::scenario::{Entry, Failure, timed};

/// Fork, `_exit`, wait: the least that a start by fork costs. By the system call itself, so that no hook runs.
///
/// # Errors
///
/// None here; the entrant fails if the kernel refuses.
pub fn fork_exit_wait() -> Entry {
    Ok(Box::new(|n| {
        timed(n, || {
            let flags = libc::SIGCHLD as libc::c_long;
            // SAFETY: a clone without a stack of its own is a fork; the child does nothing but end.
            let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0_usize, 0_usize, 0_usize, 0_usize) };
            let pid = check(pid as libc::c_int)?;
            if pid == 0 {
                // SAFETY: ends the process without running anything.
                unsafe { libc::_exit(0) }
            }
            reap(pid)
        })
    }))
}

/// The same with a result: the child sends one number over a socket of its own, and the parent reads it when the child has
/// ended.
///
/// # Errors
///
/// None here; the entrant fails if the kernel refuses.
pub fn fork_result_wait() -> Entry {
    let mut number: u64 = 0;
    Ok(Box::new(move |n| {
        timed(n, || {
            number += 1;
            let (mut near, far) = UnixStream::pair()?;
            let flags = libc::SIGCHLD as libc::c_long;
            // SAFETY: a clone without a stack of its own is a fork; the child makes two system calls.
            let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0_usize, 0_usize, 0_usize, 0_usize) };
            let pid = check(pid as libc::c_int)?;
            if pid == 0 {
                let answer = (number + 1).to_ne_bytes();
                let place = (&raw const answer).cast::<libc::c_void>();
                // SAFETY: the place is the eight bytes of `answer`.
                let sent = unsafe { libc::send(far.as_raw_fd(), place, 8, libc::MSG_NOSIGNAL) };
                // SAFETY: ends the process without running anything.
                unsafe { libc::_exit(libc::c_int::from(sent != 8)) }
            }
            drop(far);
            reap(pid)?;
            let mut answer = [0; 8];
            near.read_exact(&mut answer)?;
            if u64::from_ne_bytes(answer) == number + 1 { Ok(()) } else { Err("wrong answer".into()) }
        })
    }))
}

/// Waits for a child and asks that it ended with 0.
pub(super) fn reap(pid: libc::pid_t) -> Result<(), Failure> {
    let mut status = 0;
    // SAFETY: `status` is a place for the status.
    check(unsafe { libc::waitpid(pid, &raw mut status, 0) })?;
    if status == 0 { Ok(()) } else { Err(format!("child {pid} ended with wait status {status}").into()) }
}

pub(super) fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The far side of a hand-off; killed and reaped when dropped.
#[derive(Debug)]
pub struct FarSide(libc::pid_t);

impl FarSide {
    /// Forks a child that runs `body` on that core and ends. It keeps only the descriptors in `keep`, and dies with
    /// this process. For use in processes with one thread.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn fork(keep: &[RawFd], core: Option<usize>, body: impl FnOnce()) -> io::Result<FarSide> {
        // SAFETY: this process has one thread, so that the child may run anything.
        let pid = check(unsafe { libc::fork() })?;
        if pid == 0 {
            // SAFETY: asks for a signal, touches no memory.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            close_all_but(keep);
            let pinned = core.is_none_or(|core| pin::pin(core).is_ok());
            if pinned {
                body();
            }
            // SAFETY: ends the process without running anything.
            unsafe { libc::_exit(0) }
        }
        // What the body owns is the child's now: dropping it here too would say goodbye in its name.
        std::mem::forget(body);
        Ok(FarSide(pid))
    }
}

impl FarSide {
    /// Stops it until [`go`](FarSide::go): one that spins would take its core from the far sides of others, whose rounds
    /// come in between.
    pub fn pause(&self) {
        self.signal(libc::SIGSTOP);
    }

    /// Lets it go on.
    pub fn go(&self) {
        self.signal(libc::SIGCONT);
    }

    fn signal(&self, signal: libc::c_int) {
        // SAFETY: the child is not reaped yet, so the pid is its own.
        unsafe { libc::kill(self.0, signal) };
    }

    /// How long it has been on a processor so far.
    ///
    /// # Errors
    ///
    /// If the kernel does not tell.
    pub fn cpu_time(&self) -> Result<Duration, Failure> {
        crate::observed::processor_time(self.0.unsigned_abs())
    }
}

impl Drop for FarSide {
    fn drop(&mut self) {
        // SAFETY: the child is not reaped yet, so the pid is its own.
        unsafe { libc::kill(self.0, libc::SIGKILL) };
        // SAFETY: a null status is allowed.
        unsafe { libc::waitpid(self.0, std::ptr::null_mut(), 0) };
    }
}

fn close_all_but(keep: &[RawFd]) {
    let mut keep: Vec<u32> = keep.iter().map(|fd| fd.unsigned_abs()).collect();
    keep.sort_unstable();
    let mut first = 3;
    for fd in keep.into_iter().filter(|fd| *fd >= 3).chain([u32::MAX]) {
        if fd > first {
            // SAFETY: the child of a fork owns its copies; those that its body uses are kept.
            unsafe { libc::syscall(libc::SYS_close_range, first, fd - 1, 0) };
        }
        first = fd.saturating_add(1);
    }
}
