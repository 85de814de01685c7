//! Everything that can be said about a pool before its workers start.

use super::{Local, slot::Recipe};
use crate::{Error, Pool, Result, pool::Defaults};
use procession_parcel::{Erased, Parcel};
use procession_process::{StartMethod, cpu_count};
use serde::{Serialize, de::DeserializeOwned};
use std::time::Duration;

/// Describes a pool of local worker processes. Made by [`Pool::builder`].
///
/// ```no_run
/// use procession_pool::Pool;
///
/// let pool = Pool::builder().workers(4).name("Resizer").retry(2).build()?;
/// # Ok::<(), procession_pool::Error>(())
/// ```
#[derive(Debug, Default)]
#[must_use = "a builder does nothing until it builds"]
pub struct Builder {
    workers: Option<usize>,
    name: Option<String>,
    start_method: Option<StartMethod>,
    defaults: Defaults,
    initializer: Option<Result<(Erased, Parcel)>>,
}

impl Builder {
    /// How many workers there are. The default is the number of processors that this process may use.
    ///
    /// # Panics
    ///
    /// If it is 0.
    pub fn workers(mut self, workers: usize) -> Builder {
        assert!(workers > 0, "a pool has at least one worker");
        self.workers = Some(workers);
        self
    }

    /// The name of its workers, before the hyphen and the number. The default is `PoolWorker`.
    pub fn name(mut self, name: impl Into<String>) -> Builder {
        self.name = Some(name.into());
        self
    }

    /// How workers start. The default is the process's default start method. A pool that forks needs a process with
    /// one thread when it is made, which no process is any more that has a pool; the replacements of its workers come from
    /// the fork server, since the pool watches its workers by a thread.
    pub fn start_method(mut self, method: StartMethod) -> Builder {
        self.start_method = Some(method);
        self
    }

    /// How often an item is tried again after its worker died with it in hand, or after it panicked, unless the call
    /// says otherwise. The default is 0.
    pub fn retry(mut self, times: u32) -> Builder {
        self.defaults.retries = times;
        self
    }

    /// How long each item may run, unless the call says otherwise: see [`Tasks::deadline`](crate::Tasks::deadline). The default
    /// is no limit.
    pub fn task_deadline(mut self, limit: Duration) -> Builder {
        self.defaults.limit = Some(limit);
        self
    }

    /// Calls `f(arg)` in each worker before its first task. The argument may hold handles.
    ///
    /// If it panics or its worker ends meanwhile, another worker is tried 50 ms later. At the third time the pool is
    /// broken, also if it has healthy workers: everything unfinished, and all that comes, gets
    /// [`TaskError::Broken`](crate::TaskError::Broken) with the cause. The count starts anew when it succeeds in a worker
    /// that replaces another. A worker that is killed by [`Pool::kill_worker`] does not count.
    pub fn initializer<A>(mut self, f: fn(A), arg: A) -> Builder
    where
        A: Serialize + DeserializeOwned + 'static,
    {
        let failed = |error| Error::new("pack a pool's initialiser", error);
        let packed = Erased::new(f).and_then(|function| Ok((function, Parcel::pack(&arg)?)));
        self.initializer = Some(packed.map_err(failed));
        self
    }

    /// Starts the workers. It does not wait until they are ready.
    ///
    /// # Errors
    ///
    /// If the initialiser or its argument cannot be sent, or a worker cannot be started; those that were are ended.
    pub fn build(self) -> Result<Pool> {
        let recipe = Recipe {
            name: self.name.unwrap_or_else(|| "PoolWorker".to_owned()),
            start_method: self.start_method,
            initializer: self.initializer.transpose()?,
        };
        let workers = self.workers.unwrap_or_else(cpu_count);
        Ok(Pool::new_with(Box::new(Local::start(recipe, workers)?), self.defaults))
    }
}
