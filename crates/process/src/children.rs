//! The table of this process's children.
//!
//! # Who holds what
//!
//! A child's [`Inner`] is shared by its handles and this table. The descriptors that must not survive in a forked
//! sibling, the job socket and the lifeline's write end, live in the table only, under its lock; the table's lock is
//! held over every `fork`, and the forked child closes them and starts with an empty table.
//!
//! # States of a child
//!
//! | state | means | next |
//! |---|---|---|
//! | running | not reaped yet, perhaps a zombie | ended, by whoever first asks for the status after the end |
//! | ended | reaped; status and result frame are kept in `Inner` | – |
//!
//! 1. Only `Inner::settle` reaps, under the child's state lock, so a status is taken once and every thread sees it.
//! 2. The pidfd stays open as long as any handle lives: no signal and no wait can reach a pid used again.
//! 3. The result is drained after the reaping: the frame is whole or will never be, since its writer is gone. A
//!    large one lies in a memfd by then. Where the child could have none (a sandbox, `RLIMIT_FSIZE`) it waits for a
//!    reader of its socket: whoever waits for its end finds that after a slice, and lets a thread read.
#![expect(unsafe_code, reason = "a lock is held over fork, and process groups are signalled by number")]

use crate::{
    Error, Result,
    exit::{ExitStatus, Frame},
    forkserver,
    lifeline::Keeper,
};
use procession_parcel::wire::{self, Limits, Received};
use procession_sys::{Deadline, OverFork, PidFd, hooks};
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard, Once, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Duration,
};

/// What is known of one child.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) name: String,
    pub(crate) pid: u32,
    pub(crate) pidfd: PidFd,
    /// The process that started it; in a forked copy the handle is of no use.
    pub(crate) owner: u32,
    pub(crate) daemon: bool,
    /// Whether it leads a process group of its own, which a stop then reaches whole.
    pub(crate) leads_group: bool,
    /// Set by a stop: whatever is left of the group when the leader is reaped is killed.
    end_group: AtomicBool,
    /// Where a result is received before the child's end.
    early: Mutex<Option<mpsc::Receiver<Option<Frame>>>>,
    state: Mutex<State>,
}

/// How long a result that was being received may still take after the child's end.
const DRAIN_PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug)]
enum State {
    Running,
    Ended { status: ExitStatus, frame: Option<Arc<Frame>>, peak_memory: Option<u64> },
}

/// A child in the table.
struct Entry {
    inner: Arc<Inner>,
    socket: Option<OwnedFd>,
    keeper: Option<Keeper>,
}

static TABLE: OverFork<Vec<Entry>> = OverFork::new(Vec::new());

fn table() -> MutexGuard<'static, Vec<Entry>> {
    TABLE.lock()
}

/// Registers the hooks around fork, once: before `main` where there is a constructor, so that no fork comes in between.
pub(crate) fn prepare() {
    static PREPARED: Once = Once::new();
    PREPARED.call_once(|| {
        // Entries hold keepers, whose end takes the lock of the lifelines: that one is let go first in a child.
        crate::lifeline::prepare();
        hooks::prepare();
        crate::threads::prepare();
        crate::watch::prepare();
        crate::guardian::prepare();
        hooks::around_fork(hooks::ForkHooks {
            before: Some(|| TABLE.hold()),
            in_parent: Some(|| TABLE.release()),
            in_child: Some(|| {
                TABLE.reset(Vec::clear);
                forkserver::forget();
            }),
        });
    });
}

impl Inner {
    pub(crate) fn new(name: String, pid: u32, pidfd: PidFd, daemon: bool, leads_group: bool) -> Inner {
        Inner {
            name,
            pid,
            pidfd,
            owner: std::process::id(),
            daemon,
            leads_group,
            end_group: AtomicBool::new(false),
            early: Mutex::new(None),
            state: Mutex::new(State::Running),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this is the process that started the child.
    pub(crate) fn is_ours(&self) -> bool {
        self.owner == std::process::id()
    }

    /// Reaps the child if it has ended. `None` while it runs.
    pub(crate) fn settle(&self) -> io::Result<Option<(ExitStatus, Option<Arc<Frame>>)>> {
        let mut state = self.state();
        if let State::Ended { status, frame, .. } = &*state {
            return Ok(Some((*status, frame.clone())));
        }
        if self.end_group.load(Ordering::Acquire) {
            if !self.pidfd.has_ended()? {
                return Ok(None);
            }
            // The zombie still holds the group's number.
            self.signal_group(libc::SIGKILL);
        }
        let (status, peak_memory) = match self.pidfd.reap_with_usage() {
            // It runs, or it has ended and a tracer still holds the status.
            Ok(None) => return Ok(None),
            Ok(Some((exit, peak))) => (ExitStatus::from(Some(exit)), Some(peak)),
            // Ignored SIGCHLD, or a foreign wait for any child: the kernel may still tell.
            Err(error) if error.raw_os_error() == Some(libc::ECHILD) => {
                if !self.pidfd.has_ended()? {
                    return Ok(None);
                }
                (ExitStatus::from(self.pidfd.exit_after_reaping()), None)
            }
            Err(error) => return Err(error),
        };
        let socket = remove(self);
        let early = self.early.lock().unwrap_or_else(PoisonError::into_inner).take();
        let frame = match early {
            Some(early) => early.recv_timeout(DRAIN_PATIENCE).ok().flatten(),
            None => socket.and_then(|socket| drain(&socket)),
        };
        let frame = frame.map(Arc::new);
        *state = State::Ended { status, frame: frame.clone(), peak_memory };
        Ok(Some((status, frame)))
    }

    /// The most memory it had resident, in bytes, once it was reaped here.
    pub(crate) fn peak_memory(&self) -> Option<u64> {
        if let State::Ended { peak_memory, .. } = &*self.state() { *peak_memory } else { None }
    }

    /// Waits for the end, at most until `deadline`. `None` at the deadline.
    pub(crate) fn wait(
        &self,
        deadline: Option<Deadline>,
    ) -> io::Result<Option<(ExitStatus, Option<Arc<Frame>>)>> {
        loop {
            if let Some(end) = self.settle()? {
                return Ok(Some(end));
            }
            if self.pidfd.wait(Some(Deadline::slice(deadline)))? {
                if self.settle()?.is_none() {
                    // A tracer has the status first.
                    if deadline.is_some_and(Deadline::passed) {
                        return Ok(None);
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
            } else {
                self.drain_early();
                if deadline.is_some_and(Deadline::passed) {
                    return self.settle();
                }
            }
        }
    }

    /// Nobody will ask for the result: a child that sends one does not wait for a reader.
    pub(crate) fn refuse_result(&self) {
        let table = table();
        let entry = table.iter().find(|entry| core::ptr::eq(&raw const *entry.inner, self));
        if let Some(socket) = entry.and_then(|entry| entry.socket.as_ref()) {
            // It fails only if the child has closed its end.
            let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Read);
        }
    }

    /// Reaps the child if it has ended; otherwise makes sure that it can end.
    pub(crate) fn look(&self) -> io::Result<Option<ExitStatus>> {
        let end = self.settle()?;
        if end.is_none() {
            self.drain_early();
        }
        Ok(end.map(|(status, _)| status))
    }

    /// Lets a thread receive the result, if the child is sending it and still alive.
    fn drain_early(&self) {
        let mut early = self.early.lock().unwrap_or_else(PoisonError::into_inner);
        if early.is_some() {
            return;
        }
        let socket =
            table().iter().find(|entry| core::ptr::eq(&raw const *entry.inner, self)).and_then(|entry| {
                let socket = entry.socket.as_ref()?;
                let sends = procession_sys::fd::readable(socket.as_fd(), Some(Deadline::from_nanos(0)));
                if sends.unwrap_or(false) { socket.try_clone().ok() } else { None }
            });
        let Some(socket) = socket else { return };
        let (sender, receiver) = mpsc::channel();
        let receive = move || {
            let frame = wire::recv(socket.as_fd(), &Limits::default(), None);
            // Nobody listens any more if the handle was dropped.
            let _ = sender.send(judge(frame.map(|parcel| parcel.map_or(Received::Closed, Received::Parcel))));
        };
        if std::thread::Builder::new().name("procession-result".to_owned()).spawn(receive).is_ok() {
            *early = Some(receiver);
        }
    }

    /// Sends a signal to the process; false if it has been reaped.
    pub(crate) fn signal(&self, signal: i32) -> io::Result<bool> {
        match self.pidfd.signal(signal) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sends a signal to the child's process group, if it leads one and has not been reaped.
    fn signal_group(&self, signal: i32) -> bool {
        let Ok(pid) = i32::try_from(self.pid) else { return false };
        if self.pidfd.signal(0).is_err_and(|error| error.raw_os_error() == Some(libc::ESRCH)) {
            // Somebody else has reaped it, so its number may be another group's by now.
            return false;
        }
        // SAFETY: two numbers. The child was not reaped a moment ago, and we do not reap it (the caller holds its
        // state), so the group is the child's. ESRCH: it has not made the group yet, or nobody is left in it.
        let sent = unsafe { libc::kill(-pid, signal) } == 0;
        // SAFETY: as above. A leader may have gone into another group since.
        sent && unsafe { libc::getpgid(pid) } == pid
    }

    /// Sends a signal to the child and, if it leads a group, to all of that.
    pub(crate) fn signal_all(&self, signal: i32) -> io::Result<bool> {
        let state = self.state();
        if matches!(*state, State::Ended { .. }) {
            return Ok(false);
        }
        if self.leads_group {
            // One that asks for the end, or is it.
            if matches!(signal, libc::SIGTERM | libc::SIGKILL | libc::SIGINT | libc::SIGQUIT | libc::SIGHUP) {
                self.end_group.store(true, Ordering::Release);
            }
            if self.signal_group(signal) {
                return Ok(true);
            }
        }
        self.signal(signal)
    }

    /// Kills it by its lifeline if this process has lost the right to signal it.
    fn kill_all(&self) {
        if self.signal_all(libc::SIGKILL).is_err() {
            let keeper = table()
                .iter_mut()
                .find(|entry| core::ptr::eq(&raw const *entry.inner, self))
                .and_then(|entry| entry.keeper.take());
            drop(keeper);
        }
    }

    /// SIGTERM, a grace, SIGKILL; then waits for the end, which only a process stuck in the kernel delays.
    pub(crate) fn stop(&self, grace: Duration) -> io::Result<Option<ExitStatus>> {
        if self.settle()?.is_none() && self.signal_all(libc::SIGTERM).unwrap_or(true) {
            // A stopped process would not see the SIGTERM.
            let _ = self.signal_all(libc::SIGCONT);
            if self.wait(Some(Deadline::after(grace)))?.is_none() {
                self.kill_all();
            }
        }
        Ok(self.wait(Some(Deadline::after(KILL_PATIENCE)))?.map(|(status, _)| status))
    }
}

/// How long a killed process may take to vanish. Only one that hangs in the kernel takes longer.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// Reads the one frame that an ended child left in its socket.
fn drain(socket: &OwnedFd) -> Option<Frame> {
    judge(wire::try_recv(socket.as_fd(), &Limits::default()))
}

fn judge(received: Result<Received, procession_parcel::Error>) -> Option<Frame> {
    match received {
        // SAFETY: the socket is anonymous and was given to the child alone, which runs this very program.
        Ok(Received::Parcel(parcel)) => Some(Frame::read(unsafe { parcel.assume_same_program() })),
        Ok(Received::Empty | Received::Closed) => None,
        Err(error) if error.is_cut_off() => None,
        Err(error) => Some(Frame::Broken(format!("its result could not be received: {error}"))),
    }
}

/// Adds a child that was started.
pub(crate) fn add(inner: Arc<Inner>, socket: OwnedFd, keeper: Option<Keeper>) {
    table().push(Entry { inner, socket: Some(socket), keeper });
    at_exit();
}

fn remove(inner: &Inner) -> Option<OwnedFd> {
    let mut table = table();
    let index = table.iter().position(|entry| core::ptr::eq(&raw const *entry.inner, inner))?;
    // The keeper goes with the entry: the child is gone.
    let mut entry = table.remove(index);
    drop(table);
    entry.socket.take()
}

/// All children that have not been reaped, in the order of their start.
pub(crate) fn all() -> Vec<Arc<Inner>> {
    table().iter().map(|entry| entry.inner.clone()).collect()
}

/// Reaps what has ended, and returns what has not.
pub(crate) fn active() -> Vec<Arc<Inner>> {
    all().into_iter().filter(|inner| matches!(inner.settle(), Ok(None))).collect()
}

/// How long a process that ends waits for its non-daemonic children.
static EXIT_BOUND: Mutex<Duration> = Mutex::new(Duration::from_secs(3600));
/// What a daemonic child gets between SIGTERM and SIGKILL at the end of its parent.
const DAEMON_GRACE: Duration = Duration::from_secs(2);

/// Sets how long this process, when it ends, waits for children that are neither daemonic nor joined. Those that are
/// then still running are stopped as daemonic ones are. The default is one hour.
pub fn set_exit_bound(bound: Duration) {
    *EXIT_BOUND.lock().unwrap_or_else(PoisonError::into_inner) = bound;
}

/// Makes the end of this process end and join its children, after the user's hooks of priority 0 and above.
fn at_exit() {
    use std::sync::atomic::AtomicU32;
    static REGISTERED: AtomicU32 = AtomicU32::new(0);
    let pid = std::process::id();
    // Once per process: a forked child starts with no exit hooks, so it registers its own.
    if REGISTERED.swap(pid, Ordering::AcqRel) != pid {
        hooks::at_exit_of_children(end_all);
    }
}

/// Ends the daemonic children, joins the others, then lets the fork server go.
pub(crate) fn end_all() {
    let (daemonic, others): (Vec<_>, Vec<_>) = all().into_iter().partition(|inner| inner.daemon);
    stop_together(&daemonic, DAEMON_GRACE);
    let bound = *EXIT_BOUND.lock().unwrap_or_else(PoisonError::into_inner);
    let deadline = Deadline::after(bound);
    let late: Vec<_> =
        others.into_iter().filter(|inner| matches!(inner.wait(Some(deadline)), Ok(None))).collect();
    for inner in &late {
        eprintln!(
            "procession: process `{}` (pid {}) outlived the exit bound and is stopped",
            inner.name, inner.pid
        );
    }
    stop_together(&late, DAEMON_GRACE);
    forkserver::shut_down();
}

/// Stops several children in the time of one.
pub(crate) fn stop_together(children: &[Arc<Inner>], grace: Duration) {
    for child in children {
        // A child that cannot be signalled is waited for all the same.
        let _ = child.signal_all(libc::SIGTERM);
        let _ = child.signal_all(libc::SIGCONT);
    }
    let deadline = Deadline::after(grace);
    for child in children {
        if matches!(child.wait(Some(deadline)), Ok(None)) {
            child.kill_all();
        }
    }
    let deadline = Deadline::after(KILL_PATIENCE);
    for child in children {
        let _ = child.wait(Some(deadline));
    }
}

/// Checks that a handle is used in the process that made it.
pub(crate) fn check_owner(inner: &Inner) -> Result<()> {
    if inner.is_ours() { Ok(()) } else { Err(Error::not_ours(&inner.name)) }
}
