//! Processes by handle ([`PidFd`]) and by a name that stays unique ([`ProcessId`]).
#![expect(unsafe_code, reason = "signals by number and PIDFD_GET_INFO are not in rustix")]

use crate::{Deadline, fd};
use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

/// A handle for one process (`pidfd_open(2)`): it never comes to mean another process, even after the pid is used
/// again. It is readable once the process has ended, whether or not it has been reaped.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

/// How a process ended, as the kernel tells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProcessExit {
    /// It called `exit` with this status (0 to 255).
    Code(i32),
    /// This signal ended it.
    Signal {
        /// The signal's number.
        signal: i32,
        /// Whether it left a core dump.
        core_dumped: bool,
    },
}

impl ProcessExit {
    /// Decodes the status word of `wait(2)`.
    #[must_use]
    pub fn from_wait_status(status: i32) -> ProcessExit {
        if libc::WIFSIGNALED(status) {
            ProcessExit::Signal { signal: libc::WTERMSIG(status), core_dumped: libc::WCOREDUMP(status) }
        } else {
            ProcessExit::Code(libc::WEXITSTATUS(status))
        }
    }
}

impl PidFd {
    /// Opens a handle for `pid`.
    ///
    /// The caller must know that `pid` still means the process it has in mind: a child that was not reaped yet.
    ///
    /// # Errors
    ///
    /// ESRCH if there is no such process, ENOSYS or EPERM where the kernel or a sandbox has no pidfds, EMFILE
    /// without descriptors.
    pub fn open(pid: u32) -> io::Result<PidFd> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
        let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).ok_or_else(invalid)?;
        Ok(PidFd(rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?))
    }

    /// Sends a signal; 0 only asks whether the process has not been reaped.
    ///
    /// # Errors
    ///
    /// ESRCH once the process has been reaped, EPERM without the right, EINVAL for an unknown signal.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        // SAFETY: the call takes a descriptor that is open, a number, a null `siginfo` and no flags.
        let result = unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, self.0.as_raw_fd(), signal, core::ptr::null::<()>(), 0)
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Whether the process has ended: a zombie has.
    ///
    /// # Errors
    ///
    /// What `poll(2)` reports.
    pub fn has_ended(&self) -> io::Result<bool> {
        use rustix::event::{PollFd, PollFlags};
        fd::look(&mut [PollFd::new(&self.0, PollFlags::IN)]).map(|ready| ready > 0)
    }

    /// Waits until the process has ended; false at the deadline. It is not reaped.
    ///
    /// # Errors
    ///
    /// What `poll(2)` reports.
    pub fn wait(&self, deadline: Option<Deadline>) -> io::Result<bool> {
        fd::readable(self.0.as_fd(), deadline)
    }

    /// Reaps the process if it is an ended child of ours. `None` while it runs.
    ///
    /// # Errors
    ///
    /// ECHILD if it is not our child, or somebody else has reaped it; then [`exit_after_reaping`] may still know.
    ///
    /// [`exit_after_reaping`]: PidFd::exit_after_reaping
    pub fn reap(&self) -> io::Result<Option<ProcessExit>> {
        Ok(self.reap_with_usage()?.map(|(exit, _)| exit))
    }

    /// As [`reap`](PidFd::reap), with the most memory that it had resident at once, in bytes (`ru_maxrss` of
    /// `getrusage(2)`).
    ///
    /// The kernel carries that number over `execve`, and counts children that the process has waited for: it may be that
    /// of the process which executed it, or of one of those.
    ///
    /// # Errors
    ///
    /// As [`reap`](PidFd::reap).
    pub fn reap_with_usage(&self) -> io::Result<Option<(ProcessExit, u64)>> {
        // SAFETY: all of its fields are integers, for which zero is a value.
        let mut info: libc::siginfo_t = unsafe { core::mem::zeroed() };
        // SAFETY: as above.
        let mut usage: libc::rusage = unsafe { core::mem::zeroed() };
        loop {
            // glibc's `waitid` does not pass the usage on.
            // SAFETY: the descriptor is open, and both records are of the types that the call writes.
            let result = unsafe {
                libc::syscall(
                    libc::SYS_waitid,
                    libc::P_PIDFD,
                    self.0.as_raw_fd(),
                    &raw mut info,
                    libc::WEXITED | libc::WNOHANG,
                    &raw mut usage,
                )
            };
            if result == 0 {
                break;
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        if info.si_signo == 0 {
            return Ok(None);
        }
        // SAFETY: the record is one of a child's end or stop, which has a status.
        let status = unsafe { info.si_status() };
        let exit = match info.si_code {
            libc::CLD_KILLED => ProcessExit::Signal { signal: status, core_dumped: false },
            libc::CLD_DUMPED => ProcessExit::Signal { signal: status, core_dumped: true },
            libc::CLD_EXITED => ProcessExit::Code(status),
            // A child that this process traces has stopped, which the kernel tells unasked.
            _ => return Ok(None),
        };
        Ok(Some((exit, u64::try_from(usage.ru_maxrss).unwrap_or(0).saturating_mul(1024))))
    }

    /// How a process ended that somebody else has reaped (`PIDFD_GET_INFO`, Linux 6.15). `None` on older kernels,
    /// and as long as it has not been reaped.
    #[must_use]
    pub fn exit_after_reaping(&self) -> Option<ProcessExit> {
        // SAFETY: all of its fields are integers, for which zero is a value.
        let mut info: libc::pidfd_info = unsafe { core::mem::zeroed() };
        info.mask = u64::from(libc::PIDFD_INFO_EXIT);
        // SAFETY: the descriptor is open, and `info` is the structure that this request writes.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), libc::PIDFD_GET_INFO, &raw mut info) };
        let told = info.mask & u64::from(libc::PIDFD_INFO_EXIT) != 0;
        (result == 0 && told).then(|| ProcessExit::from_wait_status(info.exit_code))
    }
}

impl From<OwnedFd> for PidFd {
    fn from(fd: OwnedFd) -> PidFd {
        PidFd(fd)
    }
}

impl From<PidFd> for OwnedFd {
    fn from(pidfd: PidFd) -> OwnedFd {
        pidfd.0
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A process by pid and start time, which together are not used again until the machine is booted anew.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ProcessId {
    /// The pid in this process's pid namespace.
    pub pid: u32,
    /// When it started, in clock ticks since boot (field 22 of `/proc/PID/stat`); 0 where `/proc` is not mounted.
    pub start_time: u64,
}

impl ProcessId {
    /// This process.
    #[must_use]
    pub fn current() -> ProcessId {
        let pid = std::process::id();
        ProcessId { pid, start_time: start_time(pid).unwrap_or(0) }
    }

    /// The process that has `pid` now, if there is one and `/proc` shows it.
    #[must_use]
    pub fn of(pid: u32) -> Option<ProcessId> {
        Some(ProcessId { pid, start_time: start_time(pid)? })
    }
}

fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, so count from its end: the state is field 3.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(22 - 3)?.parse().ok()
}
