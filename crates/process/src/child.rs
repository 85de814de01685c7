//! A child's life: set up, run, report, end.
//!
//! # Order
//!
//! 1. The lifeline is armed: from here on the child dies with its parent.
//! 2. Signals: SIGPIPE ignored, as Rust's `main` has it; SIGINT as the parent has it.
//! 3. The settings, credentials last; then the lifeline is armed again for the new user.
//! 4. The hooks of [`on_child_start!`](crate::on_child_start!).
//! 5. The function, on arguments decoded here. A panic is caught, kept, and told on stderr.
//! 6. The result is sent. It is complete in the socket, or in a memfd, so the end does not wait for the parent.
//! 7. Threads that must finish are joined, exit hooks run, children are ended and joined, streams flushed.
#![expect(
    unsafe_code,
    reason = "setrlimit, signals and credentials of the whole process, exit without unwinding"
)]

use crate::{
    StartMethod, current,
    exit::{Frame, Report, VALUE},
    forkserver, guardian,
    job::{Job, Session, Settings, Work},
    lifeline,
    stdio::Slot,
};
use procession_parcel::{
    Bytes, Outcome, Panic, Parcel,
    function::Erased,
    panics,
    wire::{self, Limits, Received},
};
use procession_sys::{Deadline, PidFd, hooks};
use std::{
    ffi::CString,
    io::{self, Write},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// The status of a child that could not be set up.
const NOT_STARTED: i32 = 127;
/// The status of a child whose function panicked, as of a Rust program whose `main` did.
const PANICKED: i32 = 101;
/// How long the arguments may take after the job. They were sent before the child existed.
const RECEIVE_PATIENCE: Duration = Duration::from_secs(30);

/// The socket on which this child answers, for a panic that aborts.
static ANSWER: Mutex<Option<OwnedFd>> = Mutex::new(None);
/// The lifeline, armed for as long as the process lives. A forked child puts its own in the place of its parent's.
static LIFELINE: Mutex<Option<OwnedFd>> = Mutex::new(None);

fn replace(place: &Mutex<Option<OwnedFd>>, fd: Option<OwnedFd>) {
    *place.lock().unwrap_or_else(PoisonError::into_inner) = fd;
}

/// How a child came into being, which decides what it must set right and how it ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Executed: it ends by `exit`.
    Executed,
    /// Cloned from the fork server: it ends by `_exit` as in CPython, so C's `atexit` handlers do not run.
    Cloned,
    /// Forked from a process with one thread: it ends by `_exit`, since the handlers are its parent's.
    Forked,
    /// Forked from a process that may have threads: as forked, and the locks of the standard streams are left alone.
    Unchecked,
}

/// Runs a job, and ends. The arguments follow on the socket unless they are given.
pub(crate) fn run(mut job: Job, input: Option<Parcel>, socket: OwnedFd, origin: Origin) -> ! {
    set_up(&mut job, &socket, origin);
    match job.work {
        Work::ForkServer { page, argv0 } => {
            crate::title::lead_away(&argv0);
            forkserver::serve(socket, page.into())
        }
        Work::Guardian { owner, work, argument } => guardian::serve(socket, owner.into(), &work, &argument),
        Work::Call(work) => {
            #[cfg(feature = "tracing")]
            crate::log::take_over(job.log, &job.identity.name);
            let input = match input.or_else(|| job.input.take().map(in_job)) {
                Some(input) => input,
                None => match receive(&socket) {
                    Ok(input) => input,
                    Err(reason) => refuse(&socket, &reason, origin),
                },
            };
            call(&work, input, socket, &job.identity.name, job.settings.stack_size, origin)
        }
    }
}

/// Makes this process the child that the job describes, or ends it.
fn set_up(job: &mut Job, socket: &OwnedFd, origin: Origin) {
    let lifeline = job.lifeline.take().map(OwnedFd::from);
    if let Some(lifeline) = &lifeline {
        match lifeline::arm(lifeline.as_fd()) {
            Ok(true) => {}
            // The parent died before. Nobody is left to tell.
            Ok(false) => quit(0),
            Err(error) => refuse(socket, &format!("failed to arm its lifeline: {error}"), origin),
        }
    }
    if job.build != procession_parcel::function::image().build_id() {
        refuse(socket, "the executable is another build than its parent", origin);
    }
    reset_signals(&job.settings, origin);
    current::become_child(&job.identity, job.parent.take().map(|fd| PidFd::from(OwnedFd::from(fd))));
    StartMethod::set_default(job.identity.default_method);
    name_process(&job.identity.name);
    let changes_user = job.settings.uid.is_some() || job.settings.gid.is_some();
    if let Err(reason) = apply(&mut job.settings, origin) {
        refuse(socket, &reason, origin);
    }
    if let (true, Some(lifeline)) = (changes_user, &lifeline)
        && !matches!(lifeline::arm(lifeline.as_fd()), Ok(true))
    {
        quit(0);
    }
    replace(&LIFELINE, lifeline);
}

/// The arguments that came in the job.
fn in_job(input: Bytes) -> Parcel {
    // SAFETY: the job was checked: it comes from the parent, which runs this very program and packed the arguments.
    unsafe { Parcel::new(input.0, Vec::new()).assume_same_program() }
}

fn receive(socket: &OwnedFd) -> Result<Parcel, String> {
    // Mostly they are there, and nobody needs the time.
    let parcel = match wire::try_recv(socket.as_fd(), &Limits::default()) {
        Ok(Received::Empty) => {
            wire::recv(socket.as_fd(), &Limits::default(), Some(Deadline::after(RECEIVE_PATIENCE)))
        }
        Ok(Received::Parcel(parcel)) => Ok(Some(parcel)),
        Ok(Received::Closed) => Ok(None),
        Err(error) => Err(error),
    };
    match parcel {
        // SAFETY: the job on the same socket was checked: the parent runs this very program.
        Ok(Some(parcel)) => Ok(unsafe { parcel.assume_same_program() }),
        Ok(None) => quit(0),
        Err(error) => Err(format!("failed to receive its arguments: {error}")),
    }
}

fn call(
    work: &Erased,
    input: Parcel,
    socket: OwnedFd,
    name: &str,
    stack: Option<usize>,
    origin: Origin,
) -> ! {
    prepare_call(socket, name);
    let outcome = match stack {
        None => work.call(input),
        Some(bytes) => on_thread(work, input, name, bytes),
    };
    end(report(outcome), origin)
}

/// What every child does last before its function.
fn prepare_call(socket: OwnedFd, name: &str) {
    replace(&ANSWER, Some(socket));
    panics::set_abort_sink(|panic| {
        complain(panic);
        answer(&Report::Panicked(panic.clone()));
    });
    crate::overflow::install_for_main();
    crate::overflow::measure_main();
    crate::overflow::set_name(name);
    for hook in crate::start_hooks::CHILD {
        hook();
    }
    #[cfg(feature = "tracing")]
    crate::log::install();
}

/// Runs a closure in a forked child, and ends.
pub(crate) fn run_closure<R: serde::Serialize>(mut job: Job, f: impl FnOnce() -> R, socket: OwnedFd) -> ! {
    let name = job.identity.name.clone();
    set_up(&mut job, &socket, Origin::Unchecked);
    prepare_call(socket, &name);
    let outcome = match panics::catch(f) {
        Ok(value) => match Parcel::pack(&value) {
            Ok(parcel) => Outcome::Value(parcel),
            Err(error) => Outcome::BadResult(error.to_string()),
        },
        Err(panic) => Outcome::Panicked(panic),
    };
    end(report(outcome), Origin::Unchecked)
}

/// Runs the function on a thread with a stack of its own size.
fn on_thread(work: &Erased, input: Parcel, name: &str, bytes: usize) -> Outcome {
    let failed =
        |why: String| Outcome::BadArguments(format!("cannot start its thread of {bytes} bytes: {why}"));
    std::thread::scope(|scope| {
        let run = || {
            crate::overflow::install();
            work.call(input)
        };
        match std::thread::Builder::new().name(name.to_owned()).stack_size(bytes).spawn_scoped(scope, run) {
            Ok(thread) => thread.join().unwrap_or_else(|_| failed("it ended without a result".to_owned())),
            Err(error) => failed(error.to_string()),
        }
    })
}

/// Sends what came of the function; returns the exit status.
fn report(outcome: Outcome) -> i32 {
    let (report, code) = match outcome {
        Outcome::Value(mut parcel) => {
            parcel.push_tag(VALUE);
            match send(&parcel) {
                Ok(()) => return 0,
                Err(reason) => (Report::BadResult(reason), 1),
            }
        }
        Outcome::Panicked(panic) => {
            complain(&panic);
            (Report::Panicked(panic), PANICKED)
        }
        Outcome::Failed(error) => (Report::Failed(error), 1),
        Outcome::BadArguments(reason) => (Report::BadArguments(reason), 1),
        Outcome::BadResult(reason) => (Report::BadResult(reason), 1),
    };
    answer(&report);
    code
}

/// A panic on stderr, in one line, as `main` would have told it.
fn complain(panic: &Panic) {
    let line = format!("process `{}` {panic}\n", current::current_process().name());
    // In one write, so that lines of several processes do not mix. stderr may be closed.
    let _ = io::stderr().write_all(line.as_bytes());
}

fn answer(report: &Report) {
    // A report that cannot be sent leaves the exit status to speak for it.
    if let Ok(parcel) = Frame::report(report) {
        let _ = send(&parcel);
    }
}

fn send(parcel: &Parcel) -> Result<(), String> {
    let place = ANSWER.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(socket) = place.as_ref() else { return Err("the child has no socket".to_owned()) };
    match wire::send(socket.as_fd(), parcel, None) {
        // Nobody wants the result any more.
        Err(error) if error.os_error() == Some(libc::EPIPE) => Ok(()),
        other => other.map_err(|error| error.to_string()),
    }
}

/// Reports that the child could not be set up, and ends.
pub(crate) fn refuse(socket: &OwnedFd, reason: &str, origin: Origin) -> ! {
    if let Ok(parcel) = Frame::report(&Report::NotStarted(reason.to_owned())) {
        let _ = wire::send(socket.as_fd(), &parcel, Some(Deadline::after(RECEIVE_PATIENCE)));
    }
    if origin == Origin::Executed {
        std::process::exit(NOT_STARTED);
    }
    quit(NOT_STARTED)
}

/// Ends this process at once, without handlers.
pub(crate) fn quit(code: i32) -> ! {
    // By number: a clone of the fork server comes from there, and each page of code that it touches first costs it 2 µs.
    // SAFETY: never returns; no destructor is relied on.
    unsafe { libc::syscall(libc::SYS_exit_group, code) };
    // SAFETY: as above.
    unsafe { libc::_exit(code) }
}

/// Ends this process in order.
fn end(code: i32, origin: Origin) -> ! {
    crate::threads::join_all();
    hooks::run_exit_hooks();
    if origin != Origin::Unchecked {
        let _ = io::stdout().flush();
    }
    if origin == Origin::Executed {
        std::process::exit(code);
    }
    if origin != Origin::Unchecked {
        // SAFETY: null means all of C's streams.
        unsafe { libc::fflush(std::ptr::null_mut()) };
    }
    quit(code)
}

/// What Rust's code around `main` would have done, and what the fork server changed.
fn reset_signals(settings: &Settings, origin: Origin) {
    match origin {
        Origin::Executed => {
            // SAFETY: a disposition without a handler.
            unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
            unblock_signals();
        }
        Origin::Cloned => {
            // The server has the asker's disposition of the time when it was started.
            if settings.ignore_interrupt != forkserver::server_ignores_interrupt() {
                let disposition = if settings.ignore_interrupt { libc::SIG_IGN } else { libc::SIG_DFL };
                // SAFETY: as above.
                unsafe { libc::signal(libc::SIGINT, disposition) };
            }
            unblock_signals();
        }
        Origin::Forked | Origin::Unchecked => {}
    }
}

/// An executed process starts with the signal mask of the thread that started it, which says nothing about it. A clone
/// of the fork server starts with SIGINT blocked: one that comes before it is ready reaches it here.
fn unblock_signals() {
    // The kernel's set, of 64 signals: glibc's call lies on a page of code that a clone does not need for anything else.
    let none = [0_u8; 8];
    let old = std::ptr::null_mut::<u8>();
    // SAFETY: the set has the length that is given.
    let result =
        unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, none.as_ptr(), old, none.len()) };
    if result == 0 {
        return;
    }
    // An architecture with more signals.
    let mut none = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: fills the record.
    unsafe { libc::sigemptyset(none.as_mut_ptr()) };
    // SAFETY: the record was filled above.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut()) };
}

/// What `ps` and debuggers show.
fn name_process(name: &str) {
    let short: Vec<u8> = name.bytes().filter(|&byte| byte != 0).take(15).collect();
    if let Ok(name) = CString::new(short) {
        let _ = rustix::thread::set_name(&name);
    }
}

/// Applies the settings; the reason if one cannot be.
fn apply(settings: &mut Settings, origin: Origin) -> Result<(), String> {
    let failed = |what: &str, error: io::Error| format!("failed to {what}: {error}");
    if let Some(environment) = settings.environment.take() {
        set_environment(environment);
    }
    for (index, slot) in std::mem::take(&mut settings.stdio).into_iter().enumerate() {
        if index == 0 && origin == Origin::Cloned && matches!(slot, Slot::Null) {
            // The server's is the null device.
            continue;
        }
        set_stream(index as i32, slot).map_err(|error| failed("set up its standard streams", error))?;
    }
    if let Some(directory) = settings.directory.take() {
        rustix::process::fchdir(OwnedFd::from(directory))
            .map_err(|error| failed("change its working directory", error.into()))?;
    }
    if let Some(mask) = settings.umask {
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(mask));
    }
    match settings.session {
        Session::Inherited => {}
        Session::Group => {
            rustix::process::setpgid(None, None)
                .map_err(|error| failed("make a process group", error.into()))?;
        }
        Session::Own => {
            rustix::process::setsid().map_err(|error| failed("make a session", error.into()))?;
        }
    }
    for &(resource, soft, hard) in &settings.limits {
        let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
        // SAFETY: the limit is a plain record.
        check(unsafe { libc::setrlimit(resource, &raw const limit) })
            .map_err(|error| failed(&format!("limit resource {resource} to {soft}"), error))?;
    }
    if let Some(increment) = settings.nice {
        rustix::process::nice(increment).map_err(|error| failed("change its niceness", error.into()))?;
    }
    if let Some(processors) = &settings.affinity {
        let mut set = rustix::thread::CpuSet::new();
        for &processor in processors.iter().filter(|&&processor| processor < rustix::thread::CpuSet::MAX_CPU)
        {
            set.set(processor);
        }
        rustix::thread::sched_setaffinity(None, &set)
            .map_err(|error| failed(&format!("run on processors {processors:?}"), error.into()))?;
    }
    become_user(settings)
}

/// Credentials, of the whole process: glibc's calls, since the kernel's are per thread. Groups before the user, who
/// may not change them.
fn become_user(settings: &Settings) -> Result<(), String> {
    if let Some(groups) = &settings.groups {
        // SAFETY: the list has this many entries.
        check(unsafe { libc::setgroups(groups.len(), groups.as_ptr()) })
            .map_err(|error| format!("failed to set its groups: {error}"))?;
    }
    if let Some(gid) = settings.gid {
        // SAFETY: three numbers.
        check(unsafe { libc::setresgid(gid, gid, gid) })
            .map_err(|error| format!("failed to become group {gid}: {error}"))?;
    }
    if let Some(uid) = settings.uid {
        // SAFETY: three numbers.
        check(unsafe { libc::setresuid(uid, uid, uid) })
            .map_err(|error| format!("failed to become user {uid}: {error}"))?;
    }
    Ok(())
}

fn check(result: i32) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Puts a new environment in the place of the old one, entry by entry as it was: some have names that `setenv` refuses.
pub(crate) fn set_environment(environment: Vec<(std::ffi::OsString, std::ffi::OsString)>) {
    use std::os::unix::ffi::OsStrExt;
    unsafe extern "C" {
        static mut environ: *const *const std::ffi::c_char;
    }
    let entry = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        // No entry holds a NUL: it came from an environment, or was checked by the builder.
        let entry = CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()).ok()?;
        Some(entry.into_raw().cast_const())
    };
    let mut entries: Vec<_> = environment.into_iter().filter_map(entry).collect();
    entries.push(std::ptr::null());
    // SAFETY: the child has one thread, so nobody reads the environment meanwhile. The array and its strings are
    // leaked, and end with null.
    unsafe { environ = entries.leak().as_ptr() };
}

pub(crate) fn set_stream(number: i32, slot: Slot) -> io::Result<()> {
    let fd = match slot {
        Slot::Keep => {
            // A stream that is closed would be taken by the next file that is opened.
            // SAFETY: only asks whether the descriptor is open.
            if unsafe { libc::fcntl(number, libc::F_GETFD) } != -1 {
                return Ok(());
            }
            null()?
        }
        Slot::Null => null()?,
        Slot::Fd(fd) => fd.into(),
    };
    if fd.as_raw_fd() == number {
        // Opened right into its place.
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::empty())?;
        std::mem::forget(fd);
        return Ok(());
    }
    // SAFETY: both are numbers; whatever was open at `number` is a standard stream, which nobody owns.
    if unsafe { libc::dup2(fd.as_raw_fd(), number) } == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn null() -> io::Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    // Not by `File`: a forked child pays for each page of code that it touches.
    Ok(rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?)
}
