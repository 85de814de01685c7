//! What an operation does when one of its system calls fails: each of them, one at a time.
//!
//! [`each_call`] forks a child for each system call of the operation and each error that the kernel may give there, makes
//! just that call fail with it, and lets the child go on. The operation has to end, in success or with an error of its own;
//! the next try, where nothing fails, has to succeed; and then nothing may be left of either. A hang, a panic, an abort and
//! a leak are failures, reported with the call.
//!
//! ```no_run
//! use procession_testkit::{faults::{Options, each_call}, isolated};
//!
//! // #[test]
//! fn a_file_that_cannot_be_opened_is_an_error() {
//!     isolated!({
//!         let report = each_call(&Options::default(), || std::fs::read("/proc/self/stat").map(drop));
//!         println!("{report}");
//!         assert!(report.refused > 0);
//!     });
//! }
//! ```
//!
//! What fails, and how:
//!
//! - Whatever gives a descriptor: `EMFILE`; whatever starts a thread or a process: `EAGAIN`.
//! - Memory that is shared, or a thread's stack: `ENOMEM`. The allocator's own memory is left alone: its lack ends a Rust
//!   program by convention.
//! - What waits, reads or writes: `EINTR`, as if a signal had come; sending also `ENOBUFS`.
//! - Growing a file: `ENOSPC`. What a container or a sandbox may forbid (`prctl`, priorities, limits, signals): `EPERM`.
//!
//! Calls of the child's first thread are counted, those of threads and processes that it starts are not; nor are yields of the
//! processor, which cannot fail, and of which a wait makes some or none as others run meanwhile. Each try is made
//! twice: in a child where the operation has not run yet, so that what is made at the first use fails as well, and in one
//! where it has, which is where leaks can be told from what is kept for good reason.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::Census;
use crate::fork;
use crate::ptrace::{Entered, Resume, Stop, Tracee, stop_here};
use crate::watchdog::{say, scaled};

/// How to try.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The first call to fail, counted from 0.
    pub first: u64,
    /// The distance from one call to the next; 1 tries all.
    pub stride: u64,
    /// The most calls the operation may make, against one that never ends.
    pub limit: u64,
    /// How long a child may take after its call has failed (see [`scaled`]).
    pub patience: Duration,
    /// How long what a try has left may take to go: threads and processes that end by themselves.
    pub settling: Duration,
}

impl Default for Options {
    /// Every call, at most 10,000 of them, and 20 seconds for each child.
    fn default() -> Self {
        Self {
            first: 0,
            stride: 1,
            limit: 10_000,
            patience: Duration::from_secs(20),
            settling: Duration::from_secs(10),
        }
    }
}

/// What was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Report {
    /// How many system calls the operation makes the first time.
    pub calls: u64,
    /// How many failures were tried.
    pub tried: u64,
    /// In how many of them the operation gave an error.
    pub refused: u64,
    /// In how many of them it succeeded all the same.
    pub survived: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { calls, tried, refused, survived } = self;
        write!(f, "{calls} system calls, {tried} failures: {refused} were errors, {survived} were overcome")
    }
}

/// How a child ends that has tried.
const SURVIVED: i32 = 0;
const REFUSED: i32 = 1;
const NOT_AGAIN: i32 = 102;
const LEFT_BEHIND: i32 = 103;

/// After so many failures there is no need to see more.
const MOST_COMPLAINTS: usize = 8;

/// What an operation comes to.
pub type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Fails each system call of `operation` in turn, with the default options, and prints what it came to.
///
/// # Panics
///
/// As [`each_call`]; and if no failure was an error of the operation: then none was met.
#[track_caller]
pub fn tried(operation: fn() -> Outcome) {
    let report = each_call(&Options::default(), operation);
    println!("{report}");
    assert!(report.refused > 0, "{report}");
}

/// Fails each system call of `operation` in turn; see the [module](self).
///
/// It runs in an isolated test ([`isolated!`](crate::isolated!)), since it forks. What the operation makes it must have
/// given back when it returns.
///
/// # Panics
///
/// If an operation hangs, panics, dies, does not succeed at the next try, or leaves something behind; with the call that
/// failed and its error. If a child cannot be forked or traced, or the operation makes more calls than the limit. On other
/// processors than x86-64.
#[track_caller]
pub fn each_call<E: fmt::Debug>(options: &Options, operation: impl Fn() -> Result<(), E>) -> Report {
    assert!(options.stride > 0, "the stride must be positive");
    let mut report = Report::default();
    let mut complaints = Vec::new();
    for warm in [false, true] {
        let mut index = options.first;
        // With each call, its errors one after the other: the call is known when it has been reached.
        let mut which = 0;
        loop {
            match attempt(options, warm, &mut index, which, &operation) {
                Attempt::Past(calls) => {
                    report.calls = report.calls.max(calls);
                    break;
                }
                Attempt::NoSuchError => {
                    index += options.stride;
                    which = 0;
                    continue;
                }
                Attempt::Refused => report.refused += 1,
                Attempt::Survived => report.survived += 1,
                Attempt::Bad(complaint) => {
                    complaints.push(complaint);
                    if complaints.len() >= MOST_COMPLAINTS {
                        break;
                    }
                }
            }
            report.tried += 1;
            which += 1;
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    report
}

enum Attempt {
    /// The operation was over before: it makes that many calls.
    Past(u64),
    /// The call has no further error.
    NoSuchError,
    Refused,
    Survived,
    /// What must not be.
    Bad(String),
}

#[track_caller]
fn attempt<E: fmt::Debug>(
    options: &Options,
    warm: bool,
    index: &mut u64,
    which: usize,
    operation: &impl Fn() -> Result<(), E>,
) -> Attempt {
    let prepare = || {
        if warm {
            // Twice, since the second time is the first one that finds everything there.
            for _ in 0..2 {
                operation().unwrap_or_else(|error| panic!("it fails without a fault: {error:?}"));
            }
        }
        // Asked for now, since the question is a system call.
        (std::process::id().cast_signed(), warm.then(Census::take))
    };
    let traced = |(own, before): (i32, Option<Census>)| {
        let outcome = operation();
        stop_here(own);
        // From here on nothing fails.
        let code = if outcome.is_ok() { SURVIVED } else { REFUSED };
        if let Err(error) = operation() {
            say(&format!("after {outcome:?} the next try gives {error:?}\n"));
            fork::leave(NOT_AGAIN);
        }
        if let Some(before) = before
            && let Some(difference) = before.remainder(scaled(options.settling))
        {
            say(&format!("after {outcome:?} there is left:\n{difference}"));
            fork::leave(LEFT_BEHIND);
        }
        fork::leave(code);
    };
    let started = Tracee::start(prepare, traced);
    let mut tracee = started.unwrap_or_else(|error| panic!("failed to trace a forked child: {error}"));
    let resume = |tracee: &mut Tracee, how, signal| {
        let stop = tracee.resume_within(how, signal, scaled(options.patience));
        stop.unwrap_or_else(|error| panic!("failed to resume a child: {error}"))
    };

    // To the call.
    let (mut calls, mut signal) = (0, 0);
    let (entered, errno) = loop {
        match resume(&mut tracee, Resume::Syscall, std::mem::take(&mut signal)) {
            Some(Stop::Trap) => {
                assert!(calls < options.limit, "the operation makes more than {} calls", options.limit);
                let entered = tracee.entered();
                let entered = entered.unwrap_or_else(|error| panic!("failed to read a system call: {error}"));
                let Some(entered) = entered else { continue };
                if entered.number == libc::SYS_sched_yield.cast_unsigned() {
                    continue;
                }
                if calls < *index {
                    calls += 1;
                    continue;
                }
                if is_marker(&entered, tracee.pid()) {
                    return Attempt::Past(calls);
                }
                match errors(&entered).get(which) {
                    Some(errno) => break (entered, *errno),
                    None if which > 0 => return Attempt::NoSuchError,
                    // On to the next one that may fail.
                    None => {
                        calls += 1;
                        *index += options.stride;
                    }
                }
            }
            // The marker's own call is among those that were counted.
            Some(Stop::Marker) => return Attempt::Past(calls.saturating_sub(1)),
            Some(Stop::Signal(number)) => signal = number,
            Some(Stop::Ended(status)) => panic!("the operation ended its process: {status:?}"),
            None => panic!("the operation hangs at its call {calls}, before anything has failed"),
        }
    };

    let context = || {
        let warmth = if warm { "in use" } else { "at the first use" };
        format!(
            "call {index} ({}, {warmth}) failed with {}",
            name(&entered),
            io::Error::from_raw_os_error(errno)
        )
    };
    let failed = tracee.fail_call(errno);
    failed.unwrap_or_else(|error| panic!("failed to make a call fail: {error}"));
    loop {
        match resume(&mut tracee, Resume::Continue, std::mem::take(&mut signal)) {
            Some(Stop::Marker | Stop::Trap) => {}
            Some(Stop::Signal(number)) => signal = number,
            Some(Stop::Ended(status)) => match status.exit_status() {
                Some(SURVIVED) => return Attempt::Survived,
                Some(REFUSED) => return Attempt::Refused,
                Some(NOT_AGAIN) => return Attempt::Bad(context() + ": the next try did not succeed"),
                Some(LEFT_BEHIND) => return Attempt::Bad(context() + ": something is left behind"),
                _ => {
                    return Attempt::Bad(
                        context() + &format!(": the operation ended its process: {status:?}"),
                    );
                }
            },
            None => {
                let report = crate::proc::report(tracee.pid().cast_signed());
                return Attempt::Bad(context() + &format!(": it hangs\n{report}"));
            }
        }
    }
}

fn is_marker(entered: &Entered, pid: u32) -> bool {
    entered.number == libc::SYS_kill.cast_unsigned()
        && entered.arguments[..2] == [u64::from(pid), libc::SIGSTOP.cast_unsigned().into()]
}

/// Which errors the kernel may give here, and the operation must live with.
fn errors(entered: &Entered) -> &'static [i32] {
    let arguments = &entered.arguments;
    let flags = |index: usize| arguments[index] as i32;
    match entered.number.cast_signed() {
        libc::SYS_open
        | libc::SYS_openat
        | libc::SYS_memfd_create
        | libc::SYS_socket
        | libc::SYS_socketpair
        | libc::SYS_pipe
        | libc::SYS_pipe2
        | libc::SYS_eventfd2
        | libc::SYS_epoll_create1
        | libc::SYS_timerfd_create
        | libc::SYS_signalfd4
        | libc::SYS_inotify_init1
        | libc::SYS_dup
        | libc::SYS_pidfd_open => &[libc::EMFILE],
        libc::SYS_accept4 => &[libc::EMFILE, libc::EINTR],
        libc::SYS_fcntl => match flags(1) {
            libc::F_DUPFD | libc::F_DUPFD_CLOEXEC => &[libc::EMFILE],
            libc::F_ADD_SEALS => &[libc::EPERM],
            _ => &[],
        },
        libc::SYS_mmap if flags(3) & (libc::MAP_SHARED | libc::MAP_STACK) != 0 => &[libc::ENOMEM],
        libc::SYS_clone | libc::SYS_clone3 | libc::SYS_fork | libc::SYS_vfork => &[libc::EAGAIN],
        libc::SYS_ftruncate | libc::SYS_fallocate => &[libc::ENOSPC, libc::EINTR],
        libc::SYS_sendmsg | libc::SYS_sendto => &[libc::EINTR, libc::ENOBUFS],
        libc::SYS_read
        | libc::SYS_readv
        | libc::SYS_write
        | libc::SYS_writev
        | libc::SYS_recvmsg
        | libc::SYS_recvfrom
        | libc::SYS_connect
        | libc::SYS_poll
        | libc::SYS_ppoll
        | libc::SYS_epoll_wait
        | libc::SYS_epoll_pwait
        | libc::SYS_nanosleep
        | libc::SYS_clock_nanosleep
        | libc::SYS_wait4
        | libc::SYS_waitid => &[libc::EINTR],
        // Waking never fails so.
        libc::SYS_futex if [libc::FUTEX_WAIT, libc::FUTEX_WAIT_BITSET].contains(&(flags(1) & 0x7f)) => {
            &[libc::EINTR]
        }
        libc::SYS_epoll_ctl => &[libc::ENOSPC],
        libc::SYS_bind | libc::SYS_listen => &[libc::EADDRINUSE],
        // Asking is never forbidden, setting is.
        libc::SYS_prlimit64 if arguments[2] != 0 => &[libc::EPERM],
        libc::SYS_prctl
        | libc::SYS_setpriority
        | libc::SYS_sched_setaffinity
        | libc::SYS_membarrier
        | libc::SYS_pidfd_send_signal
        | libc::SYS_kill => &[libc::EPERM],
        _ => &[],
    }
}

/// The call for a person: its number can be looked up, the most usual ones need not be.
fn name(entered: &Entered) -> String {
    let known = [
        (libc::SYS_openat, "openat"),
        (libc::SYS_memfd_create, "memfd_create"),
        (libc::SYS_mmap, "mmap"),
        (libc::SYS_socketpair, "socketpair"),
        (libc::SYS_eventfd2, "eventfd2"),
        (libc::SYS_clone, "clone"),
        (libc::SYS_clone3, "clone3"),
        (libc::SYS_fcntl, "fcntl"),
        (libc::SYS_ftruncate, "ftruncate"),
        (libc::SYS_fallocate, "fallocate"),
        (libc::SYS_sendmsg, "sendmsg"),
        (libc::SYS_recvmsg, "recvmsg"),
        (libc::SYS_read, "read"),
        (libc::SYS_write, "write"),
        (libc::SYS_ppoll, "ppoll"),
        (libc::SYS_poll, "poll"),
        (libc::SYS_futex, "futex"),
        (libc::SYS_waitid, "waitid"),
        (libc::SYS_wait4, "wait4"),
        (libc::SYS_pidfd_open, "pidfd_open"),
        (libc::SYS_pidfd_send_signal, "pidfd_send_signal"),
        (libc::SYS_epoll_ctl, "epoll_ctl"),
        (libc::SYS_prctl, "prctl"),
        (libc::SYS_membarrier, "membarrier"),
    ];
    let number = entered.number.cast_signed();
    let known = known.into_iter().find(|(known, _)| *known == number);
    let name = known.map_or_else(|| format!("system call {number}"), |(_, name)| name.to_owned());
    let [a, b, c, ..] = entered.arguments;
    format!("{name}({a:#x}, {b:#x}, {c:#x}, …)")
}
