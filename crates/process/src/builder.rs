//! Everything that can be said about a process before it starts.

use crate::{
    Error, Process, Result, StartMethod, children, current, fork, forkserver,
    job::{Identity, Session, Settings},
    lifeline::{self, Keeper},
    spawn,
    stdio::{self, Stdio},
};
use procession_parcel::{EncodeArgs, EncodeAs, Fd, Parcel, function::Erased};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    os::fd::OwnedFd,
    path::PathBuf,
    time::Duration,
};

/// A limit that a child can be given (`setrlimit(2)`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Resource {
    /// Address space, in bytes. It counts reservations as well as memory: prefer [`Resource::Data`].
    AddressSpace,
    /// Size of a core dump, in bytes.
    Core,
    /// Processor time, in seconds; SIGXCPU at the soft limit, SIGKILL at the hard one.
    Cpu,
    /// Private writable memory, in bytes.
    Data,
    /// Size of a file that is written, in bytes; SIGXFSZ beyond it.
    FileSize,
    /// Open descriptors: one more than the highest number.
    OpenFiles,
    /// Processes and threads of the user. Root is not bound by it.
    Processes,
    /// Stack of the main thread, in bytes.
    Stack,
}

impl Resource {
    fn number(self) -> u32 {
        match self {
            Resource::AddressSpace => libc::RLIMIT_AS,
            Resource::Core => libc::RLIMIT_CORE,
            Resource::Cpu => libc::RLIMIT_CPU,
            Resource::Data => libc::RLIMIT_DATA,
            Resource::FileSize => libc::RLIMIT_FSIZE,
            Resource::OpenFiles => libc::RLIMIT_NOFILE,
            Resource::Processes => libc::RLIMIT_NPROC,
            Resource::Stack => libc::RLIMIT_STACK,
        }
    }
}

/// Describes a process before it starts. Made by [`Process::builder`].
///
/// ```no_run
/// use procession_process::{Process, StartMethod};
/// use std::time::Duration;
///
/// let child = Process::builder()
///     .name("resizer")
///     .start_method(StartMethod::Spawn)
///     .env("OMP_NUM_THREADS", "1")
///     .nice(10)
///     .spawn(|pixels: Vec<u8>| pixels.len(), vec![0; 640])?;
/// assert_eq!(child.join()?, 640);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Default)]
#[must_use = "a builder does nothing until it spawns"]
pub struct Builder {
    pub(crate) name: Option<String>,
    pub(crate) class: Option<String>,
    pub(crate) method: Option<StartMethod>,
    pub(crate) daemon: Option<bool>,
    stdio: [Option<Stdio>; 3],
    env_clear: bool,
    env: BTreeMap<OsString, Option<OsString>>,
    directory: Option<PathBuf>,
    umask: Option<u32>,
    session: Session,
    limits: Vec<(u32, u64, u64)>,
    nice: Option<i32>,
    affinity: Option<Vec<usize>>,
    stack_size: Option<usize>,
    uid: Option<u32>,
    gid: Option<u32>,
    groups: Option<Vec<u32>>,
    outlive_parent: bool,
    executable: Option<OsString>,
    drop_grace: Option<Duration>,
}

impl Builder {
    /// A process with the default of everything.
    pub fn new() -> Builder {
        Builder::default()
    }

    /// Its name, for messages, logs and `ps`; need not be unique. The default is `Process-1`, in a child
    /// `Process-1:2`, counted per process.
    pub fn name(mut self, name: impl Into<String>) -> Builder {
        self.name = Some(name.into());
        self
    }

    /// The word before the number in the default name.
    pub fn class(mut self, class: impl Into<String>) -> Builder {
        self.class = Some(class.into());
        self
    }

    /// How it starts. The default is [`StartMethod::default_method`].
    pub fn start_method(mut self, method: StartMethod) -> Builder {
        self.method = Some(method);
        self
    }

    /// Whether it is ended (SIGTERM, then SIGKILL) rather than joined when this process ends. The default is what
    /// this process is. Unlike Python's, a daemonic process may have children.
    pub fn daemon(mut self, daemon: bool) -> Builder {
        self.daemon = Some(daemon);
        self
    }

    /// Where its stdin leads. The default is the null device.
    pub fn stdin(mut self, stdio: impl Into<Stdio>) -> Builder {
        self.stdio[0] = Some(stdio.into());
        self
    }

    /// Where its stdout leads. The default is where this process's leads.
    pub fn stdout(mut self, stdio: impl Into<Stdio>) -> Builder {
        self.stdio[1] = Some(stdio.into());
        self
    }

    /// Where its stderr leads. The default is where this process's leads.
    pub fn stderr(mut self, stdio: impl Into<Stdio>) -> Builder {
        self.stdio[2] = Some(stdio.into());
        self
    }

    /// Sets an environment variable. All others are this process's at the time of the start.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Builder {
        self.env.insert(name.as_ref().to_owned(), Some(value.as_ref().to_owned()));
        self
    }

    /// Removes an environment variable.
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Builder {
        self.env.insert(name.as_ref().to_owned(), None);
        self
    }

    /// Starts from an empty environment.
    pub fn env_clear(mut self) -> Builder {
        self.env_clear = true;
        self.env.clear();
        self
    }

    /// Its working directory. The default is this process's at the time of the start.
    pub fn current_dir(mut self, directory: impl Into<PathBuf>) -> Builder {
        self.directory = Some(directory.into());
        self
    }

    /// The permissions that files it creates do not get, 0o022 for example.
    pub fn umask(mut self, mask: u32) -> Builder {
        self.umask = Some(mask);
        self
    }

    /// Puts it into a process group of its own, which [`Process::stop`] then reaches whole.
    pub fn process_group(mut self) -> Builder {
        if self.session == Session::Inherited {
            self.session = Session::Group;
        }
        self
    }

    /// Puts it into a session of its own, without a terminal, and so into a group of its own.
    pub fn new_session(mut self) -> Builder {
        self.session = Session::Own;
        self
    }

    /// Limits a resource, for good (soft and hard limit).
    pub fn limit(mut self, resource: Resource, value: u64) -> Builder {
        self.limits.push((resource.number(), value, value));
        self
    }

    /// Added to its niceness: 0 to 19 to be kinder to others.
    pub fn nice(mut self, increment: i32) -> Builder {
        self.nice = Some(increment);
        self
    }

    /// The processors on which it may run, by number.
    pub fn affinity(mut self, processors: impl IntoIterator<Item = usize>) -> Builder {
        self.affinity = Some(processors.into_iter().collect());
        self
    }

    /// The stack of the thread that runs the function, in bytes. The default is the main thread with its limit.
    pub fn stack_size(mut self, bytes: usize) -> Builder {
        self.stack_size = Some(bytes);
        self
    }

    /// The user that it becomes, which needs the right to.
    pub fn uid(mut self, uid: u32) -> Builder {
        self.uid = Some(uid);
        self
    }

    /// The group that it becomes, which needs the right to. Its supplementary groups become just this one, unless
    /// [`groups`](Builder::groups) says otherwise.
    pub fn gid(mut self, gid: u32) -> Builder {
        self.gid = Some(gid);
        self
    }

    /// Its supplementary groups.
    pub fn groups(mut self, groups: impl IntoIterator<Item = u32>) -> Builder {
        self.groups = Some(groups.into_iter().collect());
        self
    }

    /// Lets it live on when this process dies, in whatever way. Without it a child is killed in that moment.
    pub fn outlive_parent(mut self) -> Builder {
        self.outlive_parent = true;
        self
    }

    /// The file to execute instead of `/proc/self/exe`, under the spawn method: another link to this same program.
    /// A different build is refused by the child.
    pub fn executable(mut self, executable: impl AsRef<OsStr>) -> Builder {
        self.executable = Some(executable.as_ref().to_owned());
        self
    }

    /// What it gets between SIGTERM and SIGKILL when its [`Process`] is dropped while it runs. The default is one
    /// second.
    pub fn drop_grace(mut self, grace: Duration) -> Builder {
        self.drop_grace = Some(grace);
        self
    }

    /// Starts a process that runs `f(arg)`.
    ///
    /// # Errors
    ///
    /// As [`Process::spawn`].
    pub fn spawn<A, R>(self, f: fn(A) -> R, arg: A) -> Result<Process<R>>
    where
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
    {
        let work = Erased::new(f).map_err(|error| Error::parcel("refer to a function", error))?;
        self.start(work, pack(&arg)?)
    }

    /// Starts a process that runs `f` on an argument that is borrowed here: `&str` for `String`, `&[T]` for `Vec<T>`,
    /// `&T` for `T`. Nothing is cloned.
    ///
    /// # Errors
    ///
    /// As [`Process::spawn`].
    pub fn spawn_ref<A, R, B>(self, f: fn(A) -> R, arg: B) -> Result<Process<R>>
    where
        A: DeserializeOwned + 'static,
        B: EncodeAs<A>,
        R: Serialize + DeserializeOwned + 'static,
    {
        let work = Erased::new(f).map_err(|error| Error::parcel("refer to a function", error))?;
        self.start(work, pack(&arg)?)
    }

    /// As [`spawn_ref`](Builder::spawn_ref), for a tuple of arguments, each borrowed or owned.
    ///
    /// # Errors
    ///
    /// As [`Process::spawn`].
    pub fn spawn_refs<A, R, B>(self, f: fn(A) -> R, args: B) -> Result<Process<R>>
    where
        A: DeserializeOwned + 'static,
        B: EncodeArgs<A>,
        R: Serialize + DeserializeOwned + 'static,
    {
        let work = Erased::new(f).map_err(|error| Error::parcel("refer to a function", error))?;
        self.start(work, pack(&args)?)
    }

    /// Starts a process that runs `f(arg)`, whose errors need not be serialisable: they arrive as
    /// [`JoinError::Failed`](crate::JoinError::Failed) with type, message and sources.
    ///
    /// # Errors
    ///
    /// As [`Process::spawn`].
    pub fn spawn_fallible<A, T, E>(self, f: fn(A) -> std::result::Result<T, E>, arg: A) -> Result<Process<T>>
    where
        A: Serialize + DeserializeOwned + 'static,
        T: Serialize + DeserializeOwned + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
    {
        let work = Erased::fallible(f).map_err(|error| Error::parcel("refer to a function", error))?;
        self.start(work, pack(&arg)?)
    }

    /// Starts a process that runs a function whose types are erased, on arguments that are packed. The result must
    /// be what `R` decodes; if it is not, `join` says so.
    ///
    /// # Errors
    ///
    /// As [`Process::spawn`].
    pub fn spawn_erased<R>(self, work: Erased, input: Parcel) -> Result<Process<R>>
    where
        R: DeserializeOwned + 'static,
    {
        self.start(work, input)
    }

    pub(crate) fn grace(&self) -> Option<Duration> {
        self.drop_grace
    }

    fn start<R>(mut self, work: Erased, input: Parcel) -> Result<Process<R>> {
        children::prepare();
        let plan = self.plan(true)?;
        let child = match plan.identity.method {
            StartMethod::Spawn => spawn::start(plan, work, input)?,
            StartMethod::ForkServer => forkserver::start(plan, work, input)?,
            StartMethod::Fork => fork::start(plan, work, input)?,
        };
        Ok(Process::new(child, self.drop_grace))
    }

    /// Refuses what no environment can hold.
    fn check_environment(&self) -> Result<()> {
        use std::os::unix::ffi::OsStrExt;
        for (name, value) in &self.env {
            let name_is_wrong =
                name.is_empty() || name.as_bytes().iter().any(|byte| matches!(byte, b'=' | 0));
            if name_is_wrong || value.as_ref().is_some_and(|value| value.as_bytes().contains(&0)) {
                return Err(Error::invalid(format!(
                    "failed to start a process: environment variable `{}` is empty, or holds `=` or NUL",
                    name.display()
                )));
            }
        }
        Ok(())
    }

    /// Resolves everything that can fail in this process.
    pub(crate) fn plan(&mut self, checked: bool) -> Result<Plan> {
        let method = self.method.unwrap_or_else(StartMethod::default_method);
        crate::boot::check_initialised(method != StartMethod::Fork)?;
        self.check_environment()?;
        stdio::fill_standard_streams();
        if method == StartMethod::Fork && checked {
            fork::check_single_threaded()?;
        }
        let me = current::current_process();
        let (path, numbered) = current::next_child(self.class.as_deref().unwrap_or("Process"));
        let identity = Identity {
            name: self.name.take().unwrap_or(numbered),
            path,
            daemon: self.daemon.unwrap_or(me.daemon()),
            parent_pid: std::process::id(),
            parent_name: me.name().to_owned(),
            method,
            default_method: StartMethod::default_method(),
        };
        let [stdin, stdout, stderr] = std::mem::take(&mut self.stdio);
        let wanted = [stdin.unwrap_or(Stdio::Null), stdout.unwrap_or_default(), stderr.unwrap_or_default()];
        let streams = stdio::resolve(wanted, method == StartMethod::ForkServer)?;
        let (lifeline, keeper) = if self.outlive_parent {
            (None, None)
        } else {
            let (end, keeper) =
                lifeline::pair().map_err(|error| Error::system("create a child's lifeline", error))?;
            (Some(end), Some(keeper))
        };
        let settings = Settings {
            stdio: streams.slots,
            environment: self.environment(),
            directory: self.open_directory(method)?,
            umask: self.umask,
            session: self.session,
            limits: std::mem::take(&mut self.limits),
            nice: self.nice,
            affinity: self.affinity.take(),
            stack_size: self.stack_size,
            groups: self.groups.take().or_else(|| self.gid.map(|gid| vec![gid])),
            gid: self.gid,
            uid: self.uid,
            ignore_interrupt: false,
        };
        Ok(Plan {
            identity,
            settings,
            lifeline,
            keeper,
            ends: streams.ends,
            leads_group: self.session != Session::Inherited,
            executable: self.executable.take(),
        })
    }

    /// The child's environment, if it is not this process's.
    fn environment(&self) -> Option<Vec<(OsString, OsString)>> {
        if self.env.is_empty() && !self.env_clear {
            return None;
        }
        let mut all: BTreeMap<OsString, OsString> =
            if self.env_clear { BTreeMap::new() } else { std::env::vars_os().collect() };
        for (name, value) in &self.env {
            match value {
                Some(value) => all.insert(name.clone(), value.clone()),
                None => all.remove(name),
            };
        }
        Some(all.into_iter().collect())
    }

    fn open_directory(&self, method: StartMethod) -> Result<Option<Fd>> {
        use rustix::fs::{CWD, Mode, OFlags, openat};
        let path = match &self.directory {
            Some(path) => path.as_path(),
            // The server's own may be an older one.
            None if method == StartMethod::ForkServer => std::path::Path::new("."),
            None => return Ok(None),
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = openat(CWD, path, flags, Mode::empty()).map_err(|error| {
            Error::system(format!("open the working directory `{}`", path.display()), error)
        })?;
        Ok(Some(fd.into()))
    }
}

fn pack<A: Serialize>(arg: &A) -> Result<Parcel> {
    // Before the first descriptor is duplicated.
    stdio::fill_standard_streams();
    Parcel::pack(arg).map_err(|error| Error::parcel("encode the arguments of a process", error))
}

/// A process that is about to start, with everything resolved that can fail in the parent.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) identity: Identity,
    pub(crate) settings: Settings,
    pub(crate) lifeline: Option<OwnedFd>,
    pub(crate) keeper: Option<Keeper>,
    /// The parent's ends of piped streams.
    pub(crate) ends: [Option<OwnedFd>; 3],
    pub(crate) leads_group: bool,
    pub(crate) executable: Option<OsString>,
}
