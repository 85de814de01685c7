//! The orderly end after Ctrl-C, for programs that ask for it.
//!
//! # Order
//!
//! 1. The signal's handler notes the signal and writes to an event descriptor; it does nothing else.
//! 2. A thread prints one line and runs what [`on_interrupt`] registered.
//! 3. If the program has asked for [`Interrupts::patience`], it may now end by itself: the thread waits for that.
//! 4. Children get SIGTERM, a grace, SIGKILL. Exit hooks run. The fork server goes.
//! 5. The signal gets its default back and is raised again, so that whoever started this process sees the truth.
//!
//! Whoever comes first, the thread or a program that returns from `main`, the steps from 4 on are done once, by the
//! thread: an exit that meets them waits for step 5. A second signal, wherever the first has got to, ends this process
//! at once; the kernel then ends its descendants.
//!
//! A terminal sends SIGINT to children as well, and they die of it, silently. A `join` that fails because of that
//! does not return, so that the program does not report the failure: it is about to end. (The kernel queues the signal
//! to all of a process group before any of them can be seen to end, so the join finds it noted, or pending.) With
//! patience it does return; the program looks at [`interrupted`].
#![expect(unsafe_code, reason = "signal handlers")]

use crate::{Error, Result, children, forkserver};
use procession_sys::hooks;
use rustix::event::{EventfdFlags, eventfd};
use std::{
    cell::Cell,
    io::{self, Write},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    panic::{AssertUnwindSafe, catch_unwind},
    ptr,
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI32, AtomicU32, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

/// The event descriptor that the handler writes to. Never closed.
static BELL: AtomicI32 = AtomicI32::new(-1);
/// The process that installed the handler: a forked child has a copy of it that must not ring its parent.
static OWNER: AtomicU32 = AtomicU32::new(0);
/// The first signal, 0 before.
static SIGNAL: AtomicI32 = AtomicI32::new(0);

/// What runs at the first signal.
type Callback = Box<dyn FnOnce() + Send>;

struct State {
    settings: Option<Interrupts>,
    callbacks: Vec<Callback>,
    /// Whether the callbacks have been taken: a later one runs where it is registered.
    called: bool,
    /// Whether the program is ready to end.
    ready: bool,
}

static STATE: Mutex<State> =
    Mutex::new(State { settings: None, callbacks: Vec::new(), called: false, ready: false });
static CHANGED: Condvar = Condvar::new();

thread_local! {
    /// Whether this thread carries out the end.
    static ENDS: Cell<bool> = const { Cell::new(false) };
}

fn state() -> MutexGuard<'static, State> {
    // Nothing of the user's runs under this lock.
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How this process ends in order when it is interrupted. [`handle_interrupts`] takes the default of everything.
///
/// ```no_run
/// use procession_process::{Interrupts, interrupted};
/// use std::time::Duration;
///
/// // A program that stops by itself and prints what it has.
/// Interrupts::new().patience(Duration::from_secs(5)).quiet().install()?;
/// let mut done = 0;
/// while !interrupted() && done < 1_000_000 {
///     done += 1;
/// }
/// println!("{done} done");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use = "nothing is handled before `install`"]
pub struct Interrupts {
    terminate: bool,
    quiet: bool,
    patience: Duration,
    grace: Duration,
}

impl Default for Interrupts {
    fn default() -> Interrupts {
        Interrupts { terminate: false, quiet: false, patience: Duration::ZERO, grace: Duration::from_secs(2) }
    }
}

impl Interrupts {
    /// SIGINT alone, one line on stderr, no patience, a grace of two seconds.
    pub fn new() -> Interrupts {
        Interrupts::default()
    }

    /// Handles SIGTERM in the same way.
    pub fn terminate(mut self) -> Interrupts {
        self.terminate = true;
        self
    }

    /// Prints nothing.
    pub fn quiet(mut self) -> Interrupts {
        self.quiet = true;
        self
    }

    /// How long the program may take to end by itself, after what [`on_interrupt`] registered has run: by returning
    /// from `main`, by `exit`, or by [`end_interrupted`].
    pub fn patience(mut self, patience: Duration) -> Interrupts {
        self.patience = patience;
        self
    }

    /// What children get between SIGTERM and SIGKILL.
    pub fn grace(mut self, grace: Duration) -> Interrupts {
        self.grace = grace;
        self
    }

    /// Installs the handler in this process. Once it is installed, another call changes the settings.
    ///
    /// A signal that is ignored, as under `nohup`, stays ignored. Children have the default again. It starts a
    /// thread, so the fork start method is refused from then on.
    ///
    /// # Errors
    ///
    /// If the signal has a handler of somebody else's, which is not replaced, or no descriptor or thread is left.
    pub fn install(self) -> Result<()> {
        let mut state = state();
        let signals: &[i32] = if self.terminate { &[libc::SIGINT, libc::SIGTERM] } else { &[libc::SIGINT] };
        for &signal in signals {
            let action = current_action(signal)?;
            if action != libc::SIG_DFL && action != libc::SIG_IGN && action != handler as *const () as usize {
                return Err(Error::unsupported(format!(
                    "failed to handle {}: it has a handler already",
                    crate::signal_name(signal)
                )));
            }
        }
        let me = std::process::id();
        if OWNER.load(Ordering::Acquire) != me {
            *state = State { settings: None, callbacks: Vec::new(), called: false, ready: false };
            SIGNAL.store(0, Ordering::Release);
            start()?;
            OWNER.store(me, Ordering::Release);
        }
        state.settings = Some(self);
        for &signal in signals {
            if current_action(signal)? == libc::SIG_DFL {
                set_action(signal, handler as *const () as usize).map_err(|error| {
                    Error::system(format!("handle {}", crate::signal_name(signal)), error)
                })?;
            }
        }
        Ok(())
    }
}

/// Ends this process in order at Ctrl-C: children are stopped (SIGTERM, two seconds, SIGKILL), exit hooks run, one
/// line is printed, and the process ends by SIGINT. A second Ctrl-C ends it at once.
///
/// Without it the default stands: SIGINT ends this process at once, and the kernel its descendants.
///
/// # Errors
///
/// As [`Interrupts::install`].
pub fn handle_interrupts() -> Result<()> {
    Interrupts::new().install()
}

/// Whether this process has been interrupted, and will end. Always false without [`handle_interrupts`].
#[must_use]
pub fn interrupted() -> bool {
    signal().is_some()
}

fn signal() -> Option<i32> {
    let signal = SIGNAL.load(Ordering::Acquire);
    (signal != 0 && OWNER.load(Ordering::Acquire) == std::process::id()).then_some(signal)
}

/// Runs `callback` when this process is interrupted, on a thread of its own, before any child is stopped; in the order
/// of registration. At once if that moment has passed.
///
/// A callback that panics does not stop the others; one that never returns leaves the end to the second Ctrl-C.
pub fn on_interrupt(callback: impl FnOnce() + Send + 'static) {
    let mut state = state();
    if state.called && interrupted() {
        drop(state);
        callback();
    } else {
        state.callbacks.push(Box::new(callback));
    }
}

/// Ends this process as the handler would, from step 4 on: stops children, runs exit hooks, and ends by the signal
/// that came; by SIGINT if none has come.
pub fn end_interrupted() -> ! {
    let came = signal();
    if came.is_some() && !ENDS.get() {
        yield_to_the_end();
    }
    let settings = state().settings.unwrap_or_default();
    finish(came.unwrap_or(libc::SIGINT), settings.grace)
}

/// Called when a `join` fails: does not return if the process is being ended without patience.
pub(crate) fn hold_failed_join(by_interrupt: bool) {
    /// How long a thread that has the signal in hand may take to note it, and one that does not run may take to
    /// have it.
    const IN_HAND: Duration = Duration::from_millis(100);
    const PENDING: Duration = Duration::from_secs(5);
    if OWNER.load(Ordering::Acquire) != std::process::id() || ENDS.get() {
        return;
    }
    let start = Instant::now();
    let mut seen_pending = start;
    while by_interrupt && !interrupted() && seen_pending.elapsed() < IN_HAND {
        if start.elapsed() < PENDING && is_pending(libc::SIGINT) {
            seen_pending = Instant::now();
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let patient = state().settings.is_some_and(|settings| !settings.patience.is_zero());
    // Callbacks and exit hooks may join as well: those of the ending thread are let through above.
    if interrupted() && !patient {
        park();
    }
}

/// Lets the ending thread do what is left, and waits for the end with it.
fn yield_to_the_end() -> ! {
    state().ready = true;
    CHANGED.notify_all();
    park()
}

fn park() -> ! {
    loop {
        std::thread::park_timeout(Duration::from_secs(3600));
    }
}

/// Holds an exit that meets the end.
fn hold_exit() {
    if interrupted() && !ENDS.get() {
        yield_to_the_end();
    }
}

/// Starts the thread, and makes the exit of this process meet it.
fn start() -> Result<()> {
    let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(|error| Error::system("create an event descriptor", error))?;
    let number = bell.as_raw_fd();
    std::thread::Builder::new()
        .name("procession-interrupt".to_owned())
        .spawn(move || wait(&bell))
        .map_err(|error| Error::system("start a thread", error))?;
    BELL.store(number, Ordering::Release);
    // Both ends of an exit: before its first step, and when an interrupt came in the middle of it.
    hooks::at_exit(i32::MAX, hold_exit);
    hooks::at_exit(i32::MIN, hold_exit);
    Ok(())
}

/// The thread.
fn wait(bell: &OwnedFd) {
    ENDS.set(true);
    loop {
        // Only memory can be short here.
        let _ = procession_sys::fd::readable(bell.as_fd(), None);
        if let Some(signal) = signal() {
            end(signal);
        }
    }
}

fn end(signal: i32) -> ! {
    let (settings, callbacks) = {
        let mut state = state();
        state.called = true;
        (state.settings.unwrap_or_default(), std::mem::take(&mut state.callbacks))
    };
    if !settings.quiet {
        // stderr may be closed. Its lock may be held by a thread that is stuck, so the descriptor itself is used.
        let _ = rustix::io::write(io::stderr(), b"interrupted; ending (once more to end at once)\n");
    }
    for callback in callbacks {
        // What panicked has told so by the panic hook.
        let _ = catch_unwind(AssertUnwindSafe(callback));
    }
    let until = Instant::now() + settings.patience;
    let mut state = state();
    while !state.ready {
        let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else {
            break;
        };
        state = CHANGED.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
    }
    drop(state);
    finish(signal, settings.grace)
}

/// Steps 4 and 5.
fn finish(signal: i32, grace: Duration) -> ! {
    ENDS.set(true);
    children::stop_together(&children::all(), grace);
    hooks::run_exit_hooks();
    // Those that other threads have started meanwhile.
    children::stop_together(&children::all(), grace);
    forkserver::shut_down();
    flush();
    let _ = set_action(signal, libc::SIG_DFL);
    die(signal)
}

/// Writes out what stdout holds, unless somebody holds stdout.
fn flush() {
    let (done, wait) = mpsc::channel();
    let flusher = std::thread::Builder::new().spawn(move || {
        let _ = io::stdout().flush();
        let _ = done.send(());
    });
    if flusher.is_ok() {
        let _ = wait.recv_timeout(Duration::from_millis(200));
    }
}

/// Ends this process by a signal that has its default. Only async-signal-safe calls.
fn die(signal: i32) -> ! {
    // SAFETY: zero is a value of the set.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is valid.
    unsafe { libc::sigemptyset(&raw mut set) };
    // SAFETY: as above.
    unsafe { libc::sigaddset(&raw mut set, signal) };
    // SAFETY: as above; the old mask is not wanted.
    unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, ptr::null_mut()) };
    // SAFETY: ends this process; `raise` returns once the signal is delivered.
    unsafe { libc::raise(signal) };
    // The first process of a container does not die of a default; what a shell would report then.
    // SAFETY: never returns.
    unsafe { libc::_exit(128 + signal) }
}

/// The handler. Only async-signal-safe calls: `getpid`, `write`, `sigaction`, `raise`.
extern "C" fn handler(signal: i32) {
    let first = OWNER.load(Ordering::Acquire) == std::process::id()
        && SIGNAL.compare_exchange(0, signal, Ordering::AcqRel, Ordering::Acquire).is_ok();
    if !first {
        // The second one, or a copy of this process by fork.
        let _ = set_action(signal, libc::SIG_DFL);
        die(signal);
    }
    // SAFETY: errno is this thread's own.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: the location is valid.
    let kept = unsafe { *errno };
    let one = 1_u64.to_ne_bytes();
    // SAFETY: eight bytes from an array of eight; the descriptor is never closed.
    unsafe { libc::write(BELL.load(Ordering::Acquire), one.as_ptr().cast(), one.len()) };
    // SAFETY: as above.
    unsafe { *errno = kept };
}

/// Whether a signal waits for a thread of this process to take it.
fn is_pending(signal: i32) -> bool {
    // SAFETY: zero is a value of the set.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is written.
    unsafe { libc::sigpending(&raw mut set) };
    // SAFETY: the set is valid.
    unsafe { libc::sigismember(&raw const set, signal) == 1 }
}

fn current_action(signal: i32) -> Result<usize> {
    // SAFETY: zero is a value of the record.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: asks only; the record is written.
    if unsafe { libc::sigaction(signal, ptr::null(), &raw mut action) } == 0 {
        return Ok(action.sa_sigaction);
    }
    Err(Error::system(
        format!("ask how {} is handled", crate::signal_name(signal)),
        io::Error::last_os_error(),
    ))
}

fn set_action(signal: i32, what: usize) -> io::Result<()> {
    // SAFETY: zero is a value of the record.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = what;
    action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
    // SAFETY: the handler does only what is allowed in one; SIG_DFL is none.
    if unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
