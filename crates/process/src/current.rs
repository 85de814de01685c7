//! This process, its parent, and how many processors it may use.
#![expect(unsafe_code, reason = "refers to a record that is leaked")]

use crate::{StartMethod, job::Identity};
use procession_sys::{Deadline, PidFd};
use std::{
    borrow::Cow,
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicPtr, AtomicU32, Ordering},
    },
    time::Duration,
};

struct Me {
    name: Cow<'static, str>,
    path: Vec<u32>,
    daemon: bool,
    method: Option<StartMethod>,
    parent: Option<Parent>,
}

/// Null in a process that was not started by the library. Leaked when a child learns who it is, once per process: no lock,
/// which another thread might have held over a fork.
static ME: AtomicPtr<Me> = AtomicPtr::new(std::ptr::null_mut());
static COUNTER: AtomicU32 = AtomicU32::new(0);

static MAIN: Me =
    Me { name: Cow::Borrowed("MainProcess"), path: Vec::new(), daemon: false, method: None, parent: None };

fn me() -> &'static Me {
    // SAFETY: null, or a record that was leaked and is never changed.
    unsafe { ME.load(Ordering::Acquire).as_ref() }.unwrap_or(&MAIN)
}

/// Makes this process the child that the job describes.
pub(crate) fn become_child(identity: &Identity, parent: Option<PidFd>) {
    let pidfd = OnceLock::new();
    if let Some(parent) = parent {
        let _ = pidfd.set(Some(parent));
    }
    let parent =
        Parent(Arc::new(ParentOf { pid: identity.parent_pid, name: identity.parent_name.clone(), pidfd }));
    let me = Me {
        name: Cow::Owned(identity.name.clone()),
        path: identity.path.clone(),
        daemon: identity.daemon,
        method: Some(identity.method),
        parent: Some(parent),
    };
    ME.store(Box::into_raw(Box::new(me)), Ordering::Release);
    COUNTER.store(0, Ordering::Relaxed);
}

/// The path of the next child, and its name after `class`: `Process-1`, in a child `Process-1:2`.
pub(crate) fn next_child(class: &str) -> (Vec<u32>, String) {
    let mut path = me().path.clone();
    path.push(COUNTER.fetch_add(1, Ordering::Relaxed) + 1);
    let numbers: Vec<_> = path.iter().map(u32::to_string).collect();
    let name = format!("{class}-{}", numbers.join(":"));
    (path, name)
}

/// This process in the tree. See [`current_process`].
#[derive(Clone)]
pub struct CurrentProcess(&'static Me);

impl CurrentProcess {
    /// Its name: `MainProcess`, or what its parent called it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        std::process::id()
    }

    /// Whether it is daemonic: ended, not joined, when its parent ends.
    #[must_use]
    pub fn daemon(&self) -> bool {
        self.0.daemon
    }

    /// The counters on the way from the root, empty for the root itself: `[1, 2]` is the second child of its first
    /// child.
    #[must_use]
    pub fn path(&self) -> &[u32] {
        &self.0.path
    }

    /// How it was started; `None` for a process that was not started by this library.
    #[must_use]
    pub fn start_method(&self) -> Option<StartMethod> {
        self.0.method
    }
}

impl std::fmt::Debug for CurrentProcess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CurrentProcess")
            .field("name", &self.name())
            .field("pid", &self.pid())
            .field("daemon", &self.daemon())
            .finish()
    }
}

/// This process, as it stands in the tree (Python's `current_process()`).
#[must_use]
pub fn current_process() -> CurrentProcess {
    CurrentProcess(me())
}

/// The process that started this one (Python's `parent_process()`); `None` in a process that was not started by this
/// library.
#[must_use]
pub fn parent_process() -> Option<Parent> {
    me().parent.clone()
}

/// The process that started this one.
#[derive(Clone, Debug)]
pub struct Parent(Arc<ParentOf>);

#[derive(Debug)]
struct ParentOf {
    pid: u32,
    name: String,
    /// Opened when first needed: this process has a lifeline then, so that its parent is alive if it is.
    pidfd: OnceLock<Option<PidFd>>,
}

impl ParentOf {
    fn pidfd(&self) -> Option<&PidFd> {
        self.pidfd.get_or_init(|| if self.is_ours() { PidFd::open(self.pid).ok() } else { None }).as_ref()
    }

    fn is_ours(&self) -> bool {
        i32::try_from(self.pid) == Ok(rustix::process::Pid::as_raw(rustix::process::getppid()))
    }
}

impl Parent {
    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.0.pid
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Whether it is running. A child normally dies with its parent; one that outlives it can ask.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.0.pidfd().map_or_else(|| self.0.is_ours(), |pidfd| !pidfd.has_ended().unwrap_or(false))
    }

    /// Waits for its end; false after `timeout`.
    ///
    /// # Errors
    ///
    /// What `poll(2)` reports.
    pub fn join_timeout(&self, timeout: Duration) -> io::Result<bool> {
        let deadline = Deadline::after(timeout);
        match self.0.pidfd() {
            Some(pidfd) => pidfd.wait(Some(deadline)),
            None => Ok(!self.is_alive()),
        }
    }
}

/// How many processors this process may use: the smaller of its affinity mask and the quota of its cgroup.
///
/// CPython's `cpu_count()` looks at neither. At least 1.
#[must_use]
pub fn cpu_count() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
