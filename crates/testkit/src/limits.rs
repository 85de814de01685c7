//! Hostile surroundings: few descriptors, no room, no `/proc`, signals ignored, system calls refused.
//!
//! [`Surroundings::apply`] changes the process it is called in for good, so it stands at the beginning of an
//! isolated test ([`isolated!`](crate::isolated!)). Where this machine does not allow it, it says why.
//!
//! ```no_run
//! use procession_testkit::limits::Surroundings;
//!
//! procession_testkit::isolated!({
//!     if !Surroundings::new().nofile(40).sigchld_ignored().apply_or_skip() {
//!         return;
//!     }
//!     // the test
//! });
//! ```

#![expect(unsafe_code, reason = "changing signals, users and namespaces has no safe form")]

use std::ffi::CStr;
use std::fmt;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::thread;
use std::time::Duration;

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::UnshareFlags;

use crate::isolated::forked;
use crate::{proc, seccomp};

/// Where the user ids begin that a limit on processes runs under: no account has them.
const UNUSED_UID: u32 = 54_321;

/// What surrounds a test. Nothing is changed before [`apply`](Self::apply) or [`run`](Self::run).
#[derive(Debug, Clone, Default)]
#[must_use = "surroundings are not changed before `apply` or `run`"]
pub struct Surroundings {
    limits: Vec<(Resource, u64)>,
    tasks: Option<u64>,
    unprivileged: bool,
    small_shm: Option<u64>,
    no_proc: bool,
    pid_one: bool,
    sigchld_ignored: bool,
    reaper: bool,
    rules: Vec<seccomp::Rule>,
}

impl Surroundings {
    /// Changes nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// At most `count` descriptors (`RLIMIT_NOFILE`, soft and hard).
    pub fn nofile(self, count: u64) -> Self {
        self.limit(Resource::Nofile, count)
    }

    /// No file longer than `bytes` (`RLIMIT_FSIZE`): beyond, a write or `ftruncate` raises SIGXFSZ.
    pub fn fsize(self, bytes: u64) -> Self {
        self.limit(Resource::Fsize, bytes)
    }

    /// At most `bytes` of address space (`RLIMIT_AS`).
    pub fn address_space(self, bytes: u64) -> Self {
        self.limit(Resource::As, bytes)
    }

    /// Any other resource limit, soft and hard.
    pub fn limit(mut self, resource: Resource, most: u64) -> Self {
        self.limits.push((resource, most));
        self
    }

    /// Room for `count` more processes and threads than there are (`RLIMIT_NPROC`). The limit does not hold for root
    /// and counts per user, so root becomes an unused one, as with [`unprivileged`](Self::unprivileged); for others it
    /// is impossible.
    pub fn tasks(mut self, count: u64) -> Self {
        self.tasks = Some(count);
        self
    }

    /// Becomes a user that owns nothing, if this is root.
    pub fn unprivileged(mut self) -> Self {
        self.unprivileged = true;
        self
    }

    /// `/dev/shm` with room for `bytes` only, and empty. Holds for this thread and whatever it starts. A memfd does
    /// not live there and is not limited.
    pub fn small_shm(mut self, bytes: u64) -> Self {
        self.small_shm = Some(bytes);
        self
    }

    /// `/proc` empty. Holds for this thread and whatever it starts.
    pub fn no_proc(mut self) -> Self {
        self.no_proc = true;
        self
    }

    /// As PID 1 of a namespace, with a `/proc` that shows it. Needs [`run`](Self::run).
    pub fn pid_one(mut self) -> Self {
        self.pid_one = true;
        self
    }

    /// SIGCHLD ignored, which children inherit: they leave no zombie, and no status for `wait`.
    pub fn sigchld_ignored(mut self) -> Self {
        self.sigchld_ignored = true;
        self
    }

    /// A thread that takes the status of every child, as hosts with a `waitpid(-1)` loop do.
    pub fn reaper(mut self) -> Self {
        self.reaper = true;
        self
    }

    /// System call `number` (`libc::SYS_*`) fails with `errno`, in all threads and whatever they start.
    pub fn fail(mut self, number: libc::c_long, errno: i32) -> Self {
        self.rules.push(seccomp::Rule { number, errno, flags: None });
        self
    }

    /// As [`fail`](Self::fail), but only if the low half of the argument at `index` has a bit of `mask`: a kernel
    /// that does not know a flag yet.
    pub fn fail_with_flags(mut self, number: libc::c_long, index: u32, mask: u32, errno: i32) -> Self {
        self.rules.push(seccomp::Rule { number, errno, flags: Some((index, mask)) });
        self
    }

    /// Applies all of it to this process.
    ///
    /// # Errors
    ///
    /// The reason where this machine or this user cannot do it. Part of it may be applied then, so the test ends.
    pub fn apply(&self) -> Result<(), Impossible> {
        if self.pid_one && std::process::id() != 1 {
            return Err(Impossible("a process becomes PID 1 only by `run`".to_owned()));
        }
        let running = proc::threads(std::process::id().cast_signed()).len() as u64;
        self.mounts()?;
        if self.sigchld_ignored {
            // SAFETY: ignoring a signal installs no handler.
            let before = unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
            attempt("ignore SIGCHLD", if before == libc::SIG_ERR { Err(last()) } else { Ok(()) })?;
        }
        if self.reaper {
            attempt(
                "start a thread",
                thread::Builder::new().name("reaper".to_owned()).spawn(reap).map(drop),
            )?;
        }
        for &(resource, most) in &self.limits {
            set_limit(resource, most)?;
        }
        if let Some(count) = self.tasks {
            if !rustix::process::getuid().is_root() {
                // The kernel counts all that this user runs, and other tests come and go.
                return Err(Impossible(
                    "without root there is no user that runs only this process".to_owned(),
                ));
            }
            let extra = u64::from(self.reaper);
            set_limit(Resource::Nproc, running + extra + count)?;
        }
        if self.unprivileged || self.tasks.is_some() {
            become_nobody()?;
        }
        if self.no_proc {
            attempt("cover /proc", mount("none", "/proc", "tmpfs", MountFlags::RDONLY, NO_DATA))?;
        }
        if !self.rules.is_empty() {
            attempt("install a system call filter", seccomp::install(&self.rules))?;
        }
        Ok(())
    }

    /// Applies all of it; where that is impossible, prints why the test is skipped and returns false.
    #[must_use = "the test goes on only where this is true"]
    pub fn apply_or_skip(&self) -> bool {
        self.apply().map_err(|reason| println!("skipped: {reason}")).is_ok()
    }

    /// Runs `body` in these surroundings on the only thread of a forked child, as PID 1 if asked for, and waits for it.
    /// See [`forked`].
    ///
    /// # Errors
    ///
    /// As [`apply`](Self::apply); then `body` has not run.
    ///
    /// # Panics
    ///
    /// If `body` panics, or its process ends otherwise.
    #[track_caller]
    pub fn run(&self, body: impl FnOnce()) -> Result<(), Impossible> {
        let (mut reader, mut writer) = attempt("make a pipe", io::pipe())?;
        let mut refuse = |reason: Impossible| {
            let _ = writer.write_all(reason.0.as_bytes());
        };
        forked(|| {
            if !self.pid_one {
                return match self.apply() {
                    Ok(()) => body(),
                    Err(reason) => refuse(reason),
                };
            }
            if let Err(reason) = own_namespaces(UnshareFlags::NEWPID | UnshareFlags::NEWNS) {
                return refuse(reason);
            }
            forked(|| match self.apply() {
                Ok(()) => body(),
                Err(reason) => refuse(reason),
            });
        });
        drop(writer);
        let mut reason = String::new();
        // Whatever `body` left running may hold the other end, so this does not wait for it.
        attempt("read a pipe", rustix::io::ioctl_fionbio(&reader, true))?;
        let _ = reader.read_to_string(&mut reason);
        if reason.is_empty() { Ok(()) } else { Err(Impossible(reason)) }
    }

    /// Runs `body`; where that is impossible, prints why the test is skipped and returns false. See
    /// [`run`](Self::run).
    ///
    /// # Panics
    ///
    /// As [`run`](Self::run).
    #[track_caller]
    pub fn run_or_skip(&self, body: impl FnOnce()) -> bool {
        self.run(body).map_err(|reason| println!("skipped: {reason}")).is_ok()
    }

    fn mounts(&self) -> Result<(), Impossible> {
        if self.small_shm.is_none() && !self.no_proc && !self.pid_one {
            return Ok(());
        }
        if !self.pid_one {
            own_namespaces(UnshareFlags::NEWNS)?;
        }
        // Else the mounts below would show outside.
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        attempt("make the mounts private", mount_change("/", private))?;
        if self.pid_one {
            attempt("mount /proc", mount("proc", "/proc", "proc", MountFlags::empty(), NO_DATA))?;
        }
        if let Some(bytes) = self.small_shm {
            let data = std::ffi::CString::new(format!("size={bytes},mode=1777")).unwrap_or_default();
            let mounted = mount("tmpfs", "/dev/shm", "tmpfs", MountFlags::empty(), data.as_c_str());
            attempt("mount a small /dev/shm", mounted)?;
        }
        Ok(())
    }
}

const NO_DATA: Option<&CStr> = None;

/// Why this machine cannot give the surroundings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Impossible(String);

impl fmt::Display for Impossible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Impossible {}

fn attempt<T, E: fmt::Display>(what: &str, result: Result<T, E>) -> Result<T, Impossible> {
    result.map_err(|error| Impossible(format!("failed to {what}: {error}")))
}

fn last() -> io::Error {
    io::Error::last_os_error()
}

fn set_limit(resource: Resource, most: u64) -> Result<(), Impossible> {
    let limit = Rlimit { current: Some(most), maximum: Some(most) };
    attempt(&format!("limit {resource:?} to {most}"), setrlimit(resource, limit))
}

/// Takes all statuses there are. Without a child there is nothing to sleep on, so it looks again.
fn reap() {
    loop {
        // SAFETY: a null status is allowed.
        let pid = unsafe { libc::waitpid(-1, std::ptr::null_mut(), 0) };
        if pid < 0 {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Gives this thread, and whatever it starts, namespaces of its own; without privileges in a user namespace where it
/// has them, which only a process with a single thread may enter.
fn own_namespaces(flags: UnshareFlags) -> Result<(), Impossible> {
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    if user.is_root() {
        return attempt("leave the namespaces", unshare(flags));
    }
    if proc::threads(std::process::id().cast_signed()).len() > 1 {
        return Err(Impossible("without root this needs a process with one thread: use `run`".to_owned()));
    }
    attempt("make a user namespace", unshare(flags | UnshareFlags::NEWUSER))?;
    attempt("deny setgroups", fs::write("/proc/self/setgroups", "deny"))?;
    attempt("map the user", fs::write("/proc/self/uid_map", format!("0 {} 1", user.as_raw())))?;
    attempt("map the group", fs::write("/proc/self/gid_map", format!("0 {} 1", group.as_raw())))
}

fn unshare(flags: UnshareFlags) -> rustix::io::Result<()> {
    // SAFETY: of these flags only NEWNS touches a thread's view of files, and no code holds a descriptor table across.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

/// Becomes a user without privileges, if this is root: in all threads, by way of glibc. The id has this process's pid
/// in it, so that tests side by side do not count against each other's limit.
fn become_nobody() -> Result<(), Impossible> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let user = UNUSED_UID + std::process::id();
    // SAFETY: takes plain numbers.
    let result = unsafe { libc::setresuid(user, user, user) };
    attempt("change the user", if result == 0 { Ok(()) } else { Err(last()) })?;
    // The change of user has closed this process's own directory in `/proc` to it.
    attempt("stay visible to oneself", set_dumpable_behavior(DumpableBehavior::Dumpable))
}
