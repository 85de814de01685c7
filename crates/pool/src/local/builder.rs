//! Everything that can be said about a pool before its workers start.

use super::{Local, Policy, output::OutputLine, slot::Recipe};
use crate::{
    Error, Pool, Result,
    pool::Defaults,
    seeing::{self, Timeline},
    state,
};
use procession_parcel::{Erased, Parcel};
use procession_process::{Resource, StartMethod, cpu_count};
use procession_shm::{Heap, HeapRing};
use serde::{Serialize, de::DeserializeOwned};
use std::{ffi::OsString, fmt, path::PathBuf, sync::Arc, time::Duration};

/// Describes a pool of local worker processes. Made by [`Pool::builder`].
///
/// ```no_run
/// use procession_pool::Pool;
///
/// let pool = Pool::builder().workers(4).name("Resizer").retry(2).build()?;
/// # Ok::<(), procession_pool::Error>(())
/// ```
#[derive(Default)]
#[must_use = "a builder does nothing until it builds"]
pub struct Builder {
    workers: Option<usize>,
    defaults: Defaults,
    recipe: Recipe,
    policy: Policy,
    timeline: Option<PathBuf>,
    hidden: bool,
    heap: Option<Heap>,
    /// What could not be packed.
    failure: Option<Error>,
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("workers", &self.workers)
            .field("recipe", &self.recipe)
            .finish_non_exhaustive()
    }
}

/// The variables by which the usual libraries learn how many threads to start.
const THREAD_COUNTS: [&str; 6] = [
    "OMP_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
];

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
        self.recipe.name = name.into();
        self
    }

    /// How workers start. The default is the process's default start method. A pool that forks needs a process with
    /// one thread when it is made, which no process is any more that has a pool; the replacements of its workers come from
    /// the fork server, since the pool watches its workers by a thread.
    pub fn start_method(mut self, method: StartMethod) -> Builder {
        self.recipe.start_method = Some(method);
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

    // --- what workers do besides tasks ---

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
        let packed = Erased::new(f).and_then(|function| Ok((function, Parcel::pack(&arg)?)));
        self.recipe.initializer = self.packed("pack a pool's initialiser", packed);
        self
    }

    /// Calls `init(arg)` in each worker before its first task, after the [initialiser](Builder::initializer), and keeps
    /// what it returns there: a connection, a model, a cache. Tasks get it by
    /// [`Work::with_state`](crate::Work::with_state). It is dropped when the worker ends in order. If `init` fails, that
    /// is as if the initialiser failed.
    ///
    /// ```no_run
    /// use procession_pool::{Pool, Work};
    /// use std::collections::HashMap;
    ///
    /// type Cache = HashMap<u64, u64>;
    /// let pool = Pool::builder().worker_state(|()| Cache::new(), ()).build()?;
    /// let square = Work::with_state(|cache: &mut Cache, n: u64| *cache.entry(n).or_insert_with(|| n * n));
    /// assert_eq!(pool.tasks_of(square, [3, 3, 4]).collect()?, [9, 9, 16]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn worker_state<A, S>(mut self, init: fn(A) -> S, arg: A) -> Builder
    where
        A: Serialize + DeserializeOwned + 'static,
        S: 'static,
    {
        self.recipe.state = self.packed("pack the state of a pool's workers", state::maker(init, &arg));
        self
    }

    /// Calls `f(arg)` in each worker that ends in order, after its last task: when its pool is closed and joined, or when
    /// the worker is recycled, retired, restarted or one too many. Not when it is killed or dies, and not when the pool is
    /// terminated or dropped. Who joins the pool waits for it.
    pub fn on_worker_exit<A>(mut self, f: fn(A), arg: A) -> Builder
    where
        A: Serialize + DeserializeOwned + 'static,
    {
        let packed = Erased::new(f).and_then(|function| Ok((function, Parcel::pack(&arg)?)));
        self.recipe.exit = self.packed("pack the exit function of a pool's workers", packed);
        self
    }

    /// Lets arguments and results hold blocks of this heap ([`SharedVec`], [`SharedBox`], [`SharedSlice`] and
    /// [`SharedStr`](procession_shm::SharedStr)), at any depth: they go to workers and come back by reference, in a time that
    /// does not depend on their size. Functions allocate on it by [`worker_heap`](crate::worker_heap).
    ///
    /// What has one owner is moved: a function gets it as its own, may change it in place, and may return it. A block of
    /// another heap is an error of its item, as any block is in a pool without a heap.
    ///
    /// It costs each item some 100 ns, also if it holds no blocks. A heap serves up to 1024 pools, queues and channels at a
    /// time.
    ///
    /// ```no_run
    /// use procession_pool::{Pool, worker_heap};
    /// use procession_shm::{Heap, SharedVec};
    ///
    /// let heap = Heap::new()?;
    /// let pool = Pool::builder().workers(2).heap(&heap).build()?;
    /// let frame = heap.vec::<u8>(1920 * 1080)?;
    /// let brighter = |mut frame: SharedVec<u8>| {
    ///     frame.iter_mut().for_each(|pixel| *pixel = pixel.saturating_add(16));
    ///     frame.moved()
    /// };
    /// let frame = pool.apply(brighter, frame)?;
    /// assert_eq!(frame[0], 16);
    /// let made = pool.apply(|n: usize| worker_heap()?.vec::<f64>(n).ok(), 1000)?;
    /// assert_eq!(made.map(|numbers| numbers.len()), Some(1000));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # When a worker dies
    ///
    /// What it had taken is gone with it, and freed. So an item that moves blocks into its function is tried again only if
    /// the worker died before it took any: otherwise it is [`TaskError::Died`](crate::TaskError::Died), or
    /// [`TaskError::Panicked`](crate::TaskError::Panicked), whatever the retries. One that holds read-only blocks is tried again
    /// as any other. Nothing of the heap is lost, whoever dies when.
    ///
    /// [`SharedVec`]: procession_shm::SharedVec
    /// [`SharedBox`]: procession_shm::SharedBox
    /// [`SharedSlice`]: procession_shm::SharedSlice
    pub fn heap(mut self, heap: &Heap) -> Builder {
        self.heap = Some(heap.clone());
        self
    }

    // --- how long workers live ---

    /// Replaces a worker after it was given this many tasks; never does one get more. A task is what is sent at once: a
    /// chunk of a map, a single submit (that is what CPython's `maxtasksperchild` counts). The worker finishes them, and
    /// another one takes its place.
    ///
    /// # Panics
    ///
    /// If it is 0.
    #[doc(alias = "maxtasksperchild")]
    pub fn recycle_after_tasks(mut self, tasks: u64) -> Builder {
        assert!(tasks > 0, "a worker has at least one task");
        self.policy.recycle_tasks = Some(tasks);
        self
    }

    /// Replaces a worker after it was given at least this many items. The task that reaches the number is still run whole,
    /// so with chunks a worker may run more items than this, by one chunk less one.
    ///
    /// # Panics
    ///
    /// If it is 0.
    pub fn recycle_after_items(mut self, items: u64) -> Builder {
        assert!(items > 0, "a worker has at least one item");
        self.policy.recycle_items = Some(items);
        self
    }

    /// Replaces a worker whose resident memory is larger than this, in bytes, once it has finished the task that it is
    /// running. It looks when it runs out of tasks, and about every 20 ms between tasks; never before its first one. What
    /// was queued for it runs elsewhere.
    pub fn recycle_above_memory(mut self, bytes: u64) -> Builder {
        self.recipe.recycle_memory = Some(bytes);
        self
    }

    /// Replaces a worker that is older than this, once it has finished what it was given.
    pub fn recycle_after(mut self, age: Duration) -> Builder {
        self.policy.recycle_age = Some(age);
        self
    }

    /// Ends a worker that has had nothing to do for this long, or up to twice as long. It comes back, as a new process,
    /// when there is more to do than the others take.
    pub fn retire_idle_after(mut self, idle: Duration) -> Builder {
        self.policy.idle = Some(idle.max(Duration::from_millis(1)));
        self
    }

    /// Breaks the pool when more than `deaths` workers have died within `window`, of whatever it was: everything
    /// unfinished, and all that comes, gets [`TaskError::Broken`](crate::TaskError::Broken) with the last cause. Workers that
    /// the pool ended (a limit of time, a cancellation, a request, recycling) do not count. By default there is no such
    /// limit: tasks may kill as many workers as they like, each at the cost of its own attempts.
    pub fn restart_limit(mut self, deaths: u32, window: Duration) -> Builder {
        self.policy.restart_limit = Some((deaths, window));
        self
    }

    // --- what workers may use ---

    /// Limits a resource of each worker, for good. A worker that meets it gets the error or the signal that `setrlimit(2)`
    /// tells of. No limit of [`Resource::AddressSpace`] should be set: what a worker shares with its pool is mapped in it.
    pub fn limit(mut self, resource: Resource, value: u64) -> Builder {
        self.recipe.limits.push((resource, value));
        self
    }

    /// Limits the private memory of each worker, in bytes (`RLIMIT_DATA`: heap, private mappings and stacks of threads;
    /// not what is shared). Beyond it allocations fail, which in most code ends the worker by SIGABRT. Its item's error
    /// then says so, by [`Cause::MemoryLimit`](crate::Cause::MemoryLimit).
    ///
    /// That cause is told when a worker aborts right after a system call for memory has failed in the thread that aborts.
    /// C code that goes on with a null pointer instead dies of SIGSEGV, and that is all that is told; as is SIGABRT where
    /// Rust prints a backtrace for the failed allocation (`RUST_BACKTRACE=1`), whose own failures hide the first one.
    pub fn memory_limit(mut self, bytes: u64) -> Builder {
        self.recipe.memory_limit = Some(bytes);
        self
    }

    /// The processors on which workers run: the worker with index `i` on those of set `i`, and from the beginning again if
    /// there are fewer sets than workers. A replacement runs where its predecessor did.
    pub fn pin<S>(mut self, sets: impl IntoIterator<Item = S>) -> Builder
    where
        S: IntoIterator<Item = usize>,
    {
        self.recipe.pins = sets.into_iter().map(|set| set.into_iter().collect()).collect();
        self
    }

    /// Has each worker enter a sandbox after its initialiser, before its first task. See [`Sandbox`](crate::Sandbox).
    #[cfg(feature = "sandbox")]
    pub fn sandbox(mut self, sandbox: crate::Sandbox) -> Builder {
        self.recipe.sandbox = Some(sandbox);
        self
    }

    /// Tells libraries that start threads of their own to start this many in each worker: sets `OMP_NUM_THREADS`,
    /// `RAYON_NUM_THREADS`, `MKL_NUM_THREADS`, `OPENBLAS_NUM_THREADS`, `NUMEXPR_NUM_THREADS` and `VECLIB_MAXIMUM_THREADS`
    /// there. By default workers have the environment of this process, in which such libraries start one thread per
    /// processor, and so, in a pool with a worker per processor, far too many.
    pub fn threads_per_worker(mut self, threads: usize) -> Builder {
        for name in THREAD_COUNTS {
            self.recipe.environment.push((name.into(), threads.to_string().into()));
        }
        self
    }

    /// Sets an environment variable in the workers. All others are this process's at the time of a worker's start.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Builder {
        self.recipe.environment.push((name.into(), value.into()));
        self
    }

    /// Gives each line that a worker writes to its stdout or stderr to `listener`, which is called on a thread of the pool,
    /// one line at a time. Lines of one stream come in their order. If it takes long, workers that write wait.
    ///
    /// ```no_run
    /// use procession_pool::Pool;
    ///
    /// let pool = Pool::builder().capture_output(|line| eprintln!("[{}] {}", line.worker, line.text)).build()?;
    /// # Ok::<(), procession_pool::Error>(())
    /// ```
    pub fn capture_output(mut self, listener: impl Fn(OutputLine) + Send + Sync + 'static) -> Builder {
        self.policy.listener = Some(Arc::new(listener));
        self
    }

    /// Writes a timeline of the pool into the file at `path`, which is created or overwritten: a track per worker, with its
    /// start, each task that it ran with its function, the time that it waited for work, and its end. The file is in the trace
    /// event format of Chrome and opens in [Perfetto](https://ui.perfetto.dev). It is written as things happen, and ended
    /// when the pool is joined, terminated or dropped; if this process is killed first, what was written can be read.
    ///
    /// It has up to 1,000,000 events, some 150 bytes each; later ones are left out, and counted at its end. A task costs its
    /// worker two readings of the clock and a message more than without. An error of the file system after the start ends the
    /// timeline, not the pool.
    ///
    /// ```no_run
    /// use procession_pool::Pool;
    ///
    /// let pool = Pool::builder().timeline("pool.json").build()?;
    /// pool.map(|n: u64| n * n, 0..1000)?;
    /// pool.join();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn timeline(mut self, path: impl Into<PathBuf>) -> Builder {
        self.timeline = Some(path.into());
        self
    }

    /// Whether other processes of the same user can see what the pool does, by [`look`](crate::seeing::look). The default is
    /// yes; it costs a descriptor, in the thread that [watches](procession_process::watch) for the process, and nothing else
    /// while nobody looks.
    pub fn visible(mut self, visible: bool) -> Builder {
        self.hidden = !visible;
        self
    }

    /// Starts the workers. It does not wait until they are ready.
    ///
    /// # Errors
    ///
    /// If the initialiser or its argument cannot be sent, or a worker cannot be started; those that were are ended. If
    /// this kernel has no means for the sandbox that was asked for, or a pool on a heap was to have one: a reference into
    /// shared memory is for those only that keep to the rules. If the heap has no place for another pool, or the timeline's file
    /// cannot be created.
    pub fn build(self) -> Result<Pool> {
        let (defaults, hidden) = (self.defaults, self.hidden);
        let pool = Pool::new_with(Box::new(self.local()?), defaults);
        if !hidden {
            seeing::serve(&pool.shared);
        }
        Ok(pool)
    }

    /// The back alone.
    pub(super) fn local(mut self) -> Result<Local> {
        if let Some(error) = self.failure {
            return Err(error);
        }
        #[cfg(feature = "sandbox")]
        if let Some(sandbox) = &self.recipe.sandbox {
            const MAKE: &str = "make a sandbox for a pool's workers";
            sandbox.check().map_err(|why| Error::new(MAKE, why))?;
            if self.heap.is_some() {
                return Err(Error::new(
                    MAKE,
                    "they would share a heap, which is for those that can be trusted",
                ));
            }
        }
        if let Some(path) = &self.timeline {
            let failed = |error| Error::new(format!("create the timeline `{}`", path.display()), error);
            self.recipe.timeline = Some(Arc::new(Timeline::create(path).map_err(failed)?));
        }
        let ring = self.heap.as_ref().map(HeapRing::new).transpose();
        self.recipe.ring = ring.map_err(|error| Error::new("make a pool on a heap", error))?;
        let workers = self.workers.unwrap_or_else(cpu_count);
        Local::start(self.recipe, self.policy, workers)
    }

    /// What was packed. A failure is told when the pool is built.
    fn packed(
        &mut self,
        operation: &str,
        packed: std::result::Result<(Erased, Parcel), procession_parcel::Error>,
    ) -> Option<(Erased, Parcel)> {
        match packed {
            Ok(packed) => Some(packed),
            Err(error) => {
                self.failure = Some(Error::new(operation, error));
                None
            }
        }
    }
}
