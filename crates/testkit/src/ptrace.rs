//! The few ptrace calls that stepping and system call tracing share.
//!
//! A traced child is forked, asks to be traced, prepares, and raises SIGSTOP: the start marker. At the end of what
//! is traced it raises SIGSTOP again. All calls come from the thread that forked it, as the kernel demands.

#![expect(unsafe_code, reason = "ptrace has no safe form")]

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, waitpid};

use crate::fork;
use crate::watchdog::say;

/// A system call that a traced child entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entered {
    pub(crate) number: u64,
    pub(crate) arguments: [u64; 6],
}

/// What a traced child came to after it was resumed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Stop {
    /// A step, a breakpoint, or the entry or exit of a system call.
    Trap,
    /// The end marker.
    Marker,
    /// Another signal is about to be delivered.
    Signal(i32),
    /// The child has ended, and is waited for.
    Ended(WaitStatus),
}

/// How to resume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resume {
    Step,
    Syscall,
    Continue,
}

/// A traced child at a stop. Dropping it kills it and waits for its end.
#[derive(Debug)]
pub(crate) struct Tracee {
    pid: Pid,
    ended: bool,
}

impl Tracee {
    /// Forks a child that runs `prepare`, stops, runs `operation`, and stops again; returns at the first stop.
    pub(crate) fn start<P>(prepare: impl FnOnce() -> P, operation: impl FnOnce(P)) -> io::Result<Self> {
        let pid = fork::child(|| {
            std::panic::set_hook(Box::new(|panic| say(&format!("in a traced child: {panic}\n"))));
            let marked: Result<(), Box<dyn Any + Send>> = catch_unwind(AssertUnwindSafe(|| {
                request_tracing();
                let own = std::process::id().cast_signed();
                let prepared = prepare();
                stop_here(own);
                operation(prepared);
                stop_here(own);
            }));
            fork::leave(if marked.is_ok() { 0 } else { 101 })
        })?;
        let mut tracee = Self { pid, ended: false };
        let mut stop = tracee.wait()?;
        loop {
            match stop {
                Stop::Marker => break,
                // From its own children, if it has some.
                Stop::Signal(libc::SIGCHLD) => stop = tracee.resume(Resume::Continue, libc::SIGCHLD)?,
                other => {
                    return Err(io::Error::other(format!(
                        "a traced child came to {other:?} before its start"
                    )));
                }
            }
        }
        tracee.set_options()?;
        Ok(tracee)
    }

    /// Resumes the child, delivering `signal` unless it is 0, and waits for its next stop.
    pub(crate) fn resume(&mut self, how: Resume, signal: i32) -> io::Result<Stop> {
        self.request(how, signal)?;
        self.wait()
    }

    fn request(&self, how: Resume, signal: i32) -> io::Result<()> {
        let request = match how {
            Resume::Step => libc::PTRACE_SINGLESTEP,
            Resume::Syscall => libc::PTRACE_SYSCALL,
            Resume::Continue => libc::PTRACE_CONT,
        };
        // SAFETY: these requests take no pointers: the address is ignored, and the data is a signal's number.
        let result = unsafe {
            libc::ptrace(
                request,
                self.raw(),
                std::ptr::null_mut::<u8>(),
                signal as usize as *mut libc::c_void,
            )
        };
        check(result)
    }

    /// As [`resume`](Self::resume), for so long at most: then it is `None`, and the child runs on.
    pub(crate) fn resume_within(
        &mut self,
        how: Resume,
        signal: i32,
        limit: Duration,
    ) -> io::Result<Option<Stop>> {
        self.request(how, signal)?;
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.look(WaitOptions::NOHANG)? {
                return Ok(Some(self.stop(status)));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            // Most stops come within microseconds.
            std::thread::yield_now();
        }
    }

    /// At the entry of a system call: makes it fail with `errno`, without having been made. The child stands at its exit
    /// then.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::Unsupported`] where the registers are not known.
    pub(crate) fn fail_call(&mut self, errno: i32) -> io::Result<()> {
        let [number, result] = user::CALL.ok_or(io::ErrorKind::Unsupported)?;
        // No call has this number: the kernel makes none.
        self.poke_user(number, u64::MAX)?;
        match self.resume(Resume::Syscall, 0)? {
            Stop::Trap => self.poke_user(result, i64::from(-errno).cast_unsigned()),
            other => {
                Err(io::Error::other(format!("a child that was to leave a system call came to {other:?}")))
            }
        }
    }

    /// The system call that the child has just entered, or `None` at an exit.
    pub(crate) fn entered(&self) -> io::Result<Option<Entered>> {
        // struct ptrace_syscall_info as words: operation and architecture, instruction pointer, stack pointer, and
        // for an entry the number and its arguments.
        let mut words = [0_u64; 11];
        // SAFETY: the kernel writes at most as many bytes as the size given says, which is that of `words`.
        let result = unsafe {
            libc::ptrace(
                libc::PTRACE_GET_SYSCALL_INFO,
                self.raw(),
                size_of_val(&words) as *mut libc::c_void,
                words.as_mut_ptr(),
            )
        };
        check(result)?;
        let operation = words[0].to_ne_bytes()[0];
        if operation != libc::PTRACE_SYSCALL_INFO_ENTRY {
            return Ok(None);
        }
        let arguments = std::array::from_fn(|index| words[4 + index]);
        Ok(Some(Entered { number: words[3], arguments }))
    }

    /// The address of the instruction that comes next; 0 where this is not known how to ask for.
    pub(crate) fn instruction(&self) -> io::Result<u64> {
        user::INSTRUCTION.map_or(Ok(0), |offset| self.peek_user(offset))
    }

    /// Makes the thread stop before it executes the instruction at `address`, each time; `None` ends that. It is the
    /// processor that watches, so the code stays as it is, and no other thread stops.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::Unsupported`] where there is no such breakpoint.
    pub(crate) fn set_breakpoint(&self, address: Option<u64>) -> io::Result<()> {
        let [place, control] = user::BREAKPOINT.ok_or(io::ErrorKind::Unsupported)?;
        // Off while the address changes.
        self.poke_user(control, 0)?;
        let Some(address) = address else { return Ok(()) };
        self.poke_user(place, address)?;
        // The first breakpoint, in this thread, when executed, of length one: the other bits are 0.
        self.poke_user(control, 1)
    }

    fn peek_user(&self, offset: usize) -> io::Result<u64> {
        // SAFETY: this request takes no pointers: the address is an offset into the child's user area.
        let word =
            unsafe { libc::ptrace(libc::PTRACE_PEEKUSER, self.raw(), offset, std::ptr::null_mut::<u8>()) };
        // No instruction is at the last address, so this is an error.
        if word == -1 { Err(io::Error::last_os_error()) } else { Ok(word.cast_unsigned()) }
    }

    fn poke_user(&self, offset: usize, word: u64) -> io::Result<()> {
        // SAFETY: this request takes no pointers: an offset into the child's user area, and a word to store there.
        let result = unsafe { libc::ptrace(libc::PTRACE_POKEUSER, self.raw(), offset, word) };
        check(result)
    }

    /// The child.
    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().cast_unsigned()
    }

    /// Kills the child where it is and waits for its end.
    pub(crate) fn kill(mut self) -> io::Result<()> {
        self.end()
    }

    fn end(&mut self) -> io::Result<()> {
        if self.ended {
            return Ok(());
        }
        kill_process(self.pid, Signal::KILL)?;
        while !self.ended {
            self.wait()?;
        }
        Ok(())
    }

    fn wait(&mut self) -> io::Result<Stop> {
        loop {
            if let Some(status) = self.look(WaitOptions::empty())? {
                return Ok(self.stop(status));
            }
        }
    }

    fn look(&self, options: WaitOptions) -> io::Result<Option<WaitStatus>> {
        match waitpid(Some(self.pid), options) {
            Ok(stopped) => Ok(stopped.map(|(_, status)| status)),
            Err(rustix::io::Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn stop(&mut self, status: WaitStatus) -> Stop {
        match status.stopping_signal() {
            None => {
                self.ended = true;
                Stop::Ended(status)
            }
            Some(libc::SIGSTOP) => Stop::Marker,
            // The high bit tells the stop at a system call from a signal of that number.
            Some(signal) if signal & 0x7f == libc::SIGTRAP => Stop::Trap,
            Some(signal) => Stop::Signal(signal),
        }
    }

    fn set_options(&self) -> io::Result<()> {
        let options = libc::PTRACE_O_EXITKILL | libc::PTRACE_O_TRACESYSGOOD;
        // SAFETY: this request takes no pointers: the address is ignored, and the data is a bit set.
        let result = unsafe {
            libc::ptrace(
                libc::PTRACE_SETOPTIONS,
                self.raw(),
                std::ptr::null_mut::<u8>(),
                options as usize as *mut libc::c_void,
            )
        };
        check(result)
    }

    fn raw(&self) -> libc::pid_t {
        self.pid.as_raw_nonzero().get()
    }
}

impl Drop for Tracee {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// Offsets into what the kernel calls the user area.
#[cfg(target_arch = "x86_64")]
mod user {
    pub(super) const INSTRUCTION: Option<usize> = Some(std::mem::offset_of!(libc::user, regs.rip));
    /// DR0, the address, and DR7, the control.
    pub(super) const BREAKPOINT: Option<[usize; 2]> = {
        let registers = std::mem::offset_of!(libc::user, u_debugreg);
        Some([registers, registers + 7 * size_of::<u64>()])
    };
    /// The number of the system call, and its result.
    pub(super) const CALL: Option<[usize; 2]> =
        Some([std::mem::offset_of!(libc::user, regs.orig_rax), std::mem::offset_of!(libc::user, regs.rax)]);
}

#[cfg(not(target_arch = "x86_64"))]
mod user {
    pub(super) const INSTRUCTION: Option<usize> = None;
    pub(super) const BREAKPOINT: Option<[usize; 2]> = None;
    pub(super) const CALL: Option<[usize; 2]> = None;
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn request_tracing() {
    // SAFETY: this request takes no arguments.
    let result = unsafe { libc::ptrace(libc::PTRACE_TRACEME) };
    assert!(result == 0, "a forked child can ask to be traced: {}", io::Error::last_os_error());
}

/// The marker: one system call and nothing else that a trace would show.
#[inline(always)]
pub(crate) fn stop_here(own: libc::pid_t) {
    // SAFETY: stops this process, which its tracer expects.
    unsafe { libc::kill(own, libc::SIGSTOP) };
}
