//! The one place that forks.

#![expect(unsafe_code, reason = "fork has no safe form")]

use std::io;

use rustix::process::Pid;

/// Forks: `body` runs in the child and never returns, the parent gets the child's pid.
pub(crate) fn child(body: impl FnOnce()) -> io::Result<Pid> {
    // SAFETY: glibc's fork keeps the allocator usable in the child, and callers run where no other thread holds
    // a lock that `body` needs (documented at each public function that leads here).
    let pid = unsafe { libc::fork() };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    if let Some(pid) = Pid::from_raw(pid) {
        return Ok(pid);
    }
    body();
    leave(0)
}

/// Ends this process at once: nothing registered for the exit runs.
pub(crate) fn leave(code: i32) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(code) }
}
