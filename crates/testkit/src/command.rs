//! Running a program with a deadline, and reading what it says without being held up by its descendants.

use std::io::{self, PipeReader, Read as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use crate::{proc, watchdog};

/// How a program ended.
#[derive(Debug)]
pub struct Finished {
    /// Its exit status.
    pub status: ExitStatus,
    /// What it wrote to its standard output and standard error, in order.
    pub output: String,
    /// What every thread and descendant of it was doing when the deadline passed and all were killed; `None` if
    /// it ended by itself.
    pub overdue: Option<String>,
}

/// Runs `command` in a process group of its own until it ends or `limit` (see
/// [`scaled`](crate::watchdog::scaled)) has passed; then it and what is left of its group are killed.
///
/// Output is read until the program itself ends, so a descendant that keeps the pipe open holds up nobody.
///
/// # Errors
///
/// If the program cannot be started, or the pipe or the pidfd cannot be made.
pub fn run(mut command: Command, limit: Duration) -> io::Result<Finished> {
    let deadline = Instant::now() + watchdog::scaled(limit);
    let (mut reader, writer) = io::pipe()?;
    let child = {
        command.stdout(writer.try_clone()?).stderr(writer).process_group(0);
        let child = command.spawn()?;
        // The command holds the pipe's write ends.
        drop(command);
        child
    };
    let mut child = Guard(child);
    let pid = Pid::from_child(&child.0);
    let ended = pidfd_open(pid, PidfdFlags::empty())?;
    rustix::io::ioctl_fionbio(&reader, true)?;

    let mut output = Vec::new();
    let mut overdue = None;
    let mut open = true;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            overdue = Some(proc::report(pid.as_raw_nonzero().get()));
            break;
        }
        let timeout = Timespec::try_from(left).ok();
        let mut watched = vec![PollFd::new(&ended, PollFlags::IN)];
        if open {
            watched.push(PollFd::new(&reader, PollFlags::IN));
        }
        match poll(&mut watched, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let over = !watched[0].revents().is_empty();
        open = open && read_available(&mut reader, &mut output)?;
        if over {
            break;
        }
    }
    child.end(overdue.is_some());
    let status = child.0.wait()?;
    Ok(Finished { status, output: String::from_utf8_lossy(&output).into_owned(), overdue })
}

/// Reads what is there. False at the end.
fn read_available(reader: &mut PipeReader, output: &mut Vec<u8>) -> io::Result<bool> {
    let mut chunk = [0; 8192];
    loop {
        match reader.read(&mut chunk) {
            Ok(0) => return Ok(false),
            Ok(count) => output.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// A child that is killed and waited for, however its starter leaves.
struct Guard(Child);

impl Guard {
    /// Kills the child's group, which its pid names for as long as it is not waited for; with `descendants`,
    /// also those that have left the group.
    fn end(&mut self, descendants: bool) {
        let pid = Pid::from_child(&self.0);
        // Listed first, since an orphan is nobody's descendant; killed last, so that no parent goes on without it.
        let left = if descendants { proc::descendants(pid.as_raw_nonzero().get()) } else { Vec::new() };
        let _ = kill_process_group(pid, Signal::KILL);
        watchdog::kill_all(&left);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            self.end(true);
            let _ = self.0.wait();
        }
    }
}
