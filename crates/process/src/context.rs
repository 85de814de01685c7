//! The three start methods, and how one is chosen.

use crate::{Builder, Process, Result};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    fmt,
    str::FromStr,
    sync::atomic::{AtomicU8, Ordering},
};

/// How a process comes into being.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum StartMethod {
    /// A helper process, started once and single-threaded, forks on request. A start costs little and does not
    /// depend on how large or how threaded this process is. The default.
    ForkServer,
    /// The program is executed anew. The child shares nothing with the parent but what it is given.
    Spawn,
    /// This process is copied by `fork(2)`. Refused when it has more than one thread: the copy would hold the locks
    /// of threads that it does not have.
    Fork,
}

const NONE: u8 = 0;
static DEFAULT: AtomicU8 = AtomicU8::new(NONE);

impl StartMethod {
    /// All start methods, the default of this platform first.
    pub const ALL: [StartMethod; 3] = [StartMethod::ForkServer, StartMethod::Spawn, StartMethod::Fork];

    /// The method used where none is chosen: the fork server, unless [`set_default`](StartMethod::set_default) chose
    /// another, here or in a parent.
    #[must_use]
    pub fn default_method() -> StartMethod {
        match DEFAULT.load(Ordering::Relaxed) {
            2 => StartMethod::Spawn,
            3 => StartMethod::Fork,
            _ => StartMethod::ForkServer,
        }
    }

    /// Chooses the method used where none is chosen, in this process and in the children that it starts from now on.
    pub fn set_default(method: StartMethod) {
        let code = match method {
            StartMethod::ForkServer => 1,
            StartMethod::Spawn => 2,
            StartMethod::Fork => 3,
        };
        DEFAULT.store(code, Ordering::Relaxed);
    }

    /// Python's name of the method.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            StartMethod::ForkServer => "forkserver",
            StartMethod::Spawn => "spawn",
            StartMethod::Fork => "fork",
        }
    }
}

impl fmt::Display for StartMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for StartMethod {
    type Err = crate::Error;

    fn from_str(name: &str) -> Result<StartMethod> {
        StartMethod::ALL.into_iter().find(|method| method.name() == name).ok_or_else(|| {
            crate::Error::invalid(format!(
                "cannot find start method `{name}`: there are forkserver, spawn and fork"
            ))
        })
    }
}

/// The package's calls under one start method (Python's `get_context`).
///
/// ```no_run
/// use procession_process::{Context, StartMethod};
///
/// let spawn = Context::new(StartMethod::Spawn);
/// let child = spawn.spawn(|n: u32| n + 1, 1)?;
/// assert_eq!(child.join()?, 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Context {
    method: StartMethod,
}

impl Context {
    /// A context whose processes start by `method`.
    #[must_use]
    pub fn new(method: StartMethod) -> Context {
        Context { method }
    }

    /// Its start method.
    #[must_use]
    pub fn start_method(&self) -> StartMethod {
        self.method
    }

    /// Starts a process that runs `f(arg)`. See [`Process::spawn`].
    ///
    /// # Errors
    ///
    /// As [`Process::spawn`].
    pub fn spawn<A, R>(&self, f: fn(A) -> R, arg: A) -> Result<Process<R>>
    where
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
    {
        self.builder().spawn(f, arg)
    }

    /// A builder whose process starts by this method.
    pub fn builder(&self) -> Builder {
        Builder::new().start_method(self.method)
    }
}
