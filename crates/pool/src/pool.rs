//! [`Pool`]: Python's names, as thin methods on the lazy builder.

use crate::{
    Builder, Input, Result, Results, Task, TaskError, Tasks, Work, back::Back, driver::Shared, handle,
    tasks::How,
};
use procession_sys::Deadline;
use serde::{Serialize, de::DeserializeOwned};
use std::{fmt, sync::Arc, time::Duration};

/// How many workers in a row an item may end before it is not tried again.
const QUARANTINE: u32 = 3;

/// What holds for calls of a pool that do not say otherwise.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Defaults {
    /// Further tries of an item.
    pub(crate) retries: u32,
    /// How long an item may run.
    pub(crate) limit: Option<Duration>,
    /// How many workers in a row an item may end.
    pub(crate) quarantine: Option<u32>,
}

impl Default for Defaults {
    fn default() -> Defaults {
        Defaults { retries: 0, limit: None, quarantine: Some(QUARANTINE) }
    }
}

/// A pool of workers that run functions on items.
///
/// It can be used from many threads at once. Whoever waits for results moves everything on, for all callers, so plain calls
/// need no thread of the pool. While nobody waits, the deaths of workers are seen to, on the thread by which
/// this crate's processes are watched ([`procession_process::watch`]), and what cannot wait is by a thread of the pool,
/// its keeper: callbacks, futures, submitted calls that no worker had room for, time limits and retries. It is started when
/// it is first needed.
///
/// ```no_run
/// use procession_pool::Pool;
///
/// let pool = Pool::new(2)?;
/// let squares = pool.map(|n: u64| n * n, 0..10)?;
/// assert_eq!(squares[9], 81);
/// pool.join();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # When it is dropped
///
/// As [`terminate`](Pool::terminate): it ends its workers, also in the middle of work, within a bounded time.
/// [`join`](Pool::join) lets them finish first.
///
/// # When its workers fail
///
/// A worker that dies is replaced at once, and what it had in hand is retried or fails. Where the workers themselves
/// fail, replacements start no faster than 50 ms after the last failure, and:
///
/// * An initialiser that panics, or whose worker ends while it runs, three times without a replacement's initialiser
///   succeeding in between, breaks the pool: also if other workers are healthy, which otherwise would hide for ever
///   that the pool has fewer workers than it should have.
/// * Workers that end before they are ready to work, or with work given to them but none begun and none ever done,
///   32 times without a result from any worker in between, break the pool, unless another worker is ready. If one is,
///   the pool goes on with it, and tries a start each second.
/// * A function whose captured data ends three workers in a row on its way into them, for want of memory for example,
///   is refused from then on: [`TaskError::BadFunction`].
///
/// A broken pool gives [`TaskError::Broken`], with the cause, for everything that is not finished, and all that comes.
/// Once this process is [interrupted](procession_process::interrupted), workers that die are not replaced.
///
/// # In a forked copy of its process
///
/// Where some code calls `fork`, the copy cannot use the pool: every call fails with [`TaskError::ForkedCopy`] or, if it
/// cannot fail, does nothing, and so does dropping it.
#[must_use = "a pool that is dropped ends its workers"]
pub struct Pool {
    pub(crate) shared: Arc<Shared>,
    pub(crate) defaults: Defaults,
}

impl Pool {
    /// A pool of `workers` processes on this machine.
    ///
    /// # Errors
    ///
    /// See [`Builder::build`].
    ///
    /// # Panics
    ///
    /// If `workers` is 0.
    pub fn new(workers: usize) -> Result<Pool> {
        Builder::default().workers(workers).build()
    }

    /// Describes a pool in detail before it starts.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// A pool whose tasks are run by `back`: see [`back`](crate::back) and [`simulated`](crate::simulated).
    pub fn with_back(back: impl Back + 'static) -> Pool {
        Pool::new_with(Box::new(back), Defaults::default())
    }

    pub(crate) fn new_with(back: Box<dyn Back>, defaults: Defaults) -> Pool {
        Pool { shared: Shared::new(back), defaults }
    }

    /// How many workers it keeps.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.shared.workers()
    }

    /// The pids of the workers that it has now.
    #[must_use]
    pub fn worker_pids(&self) -> Vec<u32> {
        if self.shared.is_ours() { self.shared.lock().back.pids() } else { Vec::new() }
    }

    /// Kills a worker, by its index below [`workers`](Pool::workers); tells whether there was one to kill. The item
    /// that it had in hand is retried or fails, as by any other death, and it is replaced.
    pub fn kill_worker(&self, index: usize) -> bool {
        self.shared.is_ours() && self.shared.lock().back.kill_worker(index)
    }

    /// The calls `f(item)` for each item of `input`, to be run as their results are asked for.
    pub fn tasks<A, R, I>(&self, f: fn(A) -> R, input: I) -> Tasks<A, R, I::IntoIter>
    where
        I: IntoIterator<Item = A>,
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
    {
        self.tasks_of(Work::function(f), input)
    }

    /// As [`tasks`](Pool::tasks), for any kind of [`Work`].
    pub fn tasks_of<A, R, I>(&self, work: Work<A, R>, input: I) -> Tasks<A, R, I::IntoIter>
    where
        I: IntoIterator<Item = A>,
        A: Serialize + 'static,
        R: DeserializeOwned + 'static,
    {
        self.tasks_of_input(work, input.into_iter())
    }

    pub(crate) fn tasks_of_input<A, R, I>(&self, work: Work<A, R>, input: I) -> Tasks<A, R, I>
    where
        I: Input<A>,
        A: Serialize + 'static,
        R: DeserializeOwned + 'static,
    {
        Tasks::new(self.shared.clone(), work, input, How::new(self.defaults))
    }

    /// Calls `f` for each item and gives the values in the order of the items. Waits for all of them, also if one
    /// fails.
    ///
    /// # Errors
    ///
    /// The error of the first item that has one.
    pub fn map<A, R, I>(&self, f: fn(A) -> R, items: I) -> Result<Vec<R>, TaskError>
    where
        I: IntoIterator<Item = A>,
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
    {
        self.tasks(f, items).collect()
    }

    /// As [`map`](Pool::map), with a function that may fail. An `Err` is that item's [`TaskError::Failed`].
    ///
    /// # Errors
    ///
    /// The error of the first item that has one.
    pub fn try_map<A, R, E, I>(&self, f: fn(A) -> Result<R, E>, items: I) -> Result<Vec<R>, TaskError>
    where
        I: IntoIterator<Item = A>,
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
    {
        self.tasks_of(Work::fallible(f), items).collect()
    }

    /// As [`map`](Pool::map), with a [`task!`](procession_parcel::task!) and its captured data, which goes to each worker once.
    ///
    /// # Errors
    ///
    /// The error of the first item that has one.
    pub fn map_with<C, A, R, I>(
        &self,
        task: &procession_parcel::Task<C, A, R>,
        items: I,
    ) -> Result<Vec<R>, TaskError>
    where
        C: Serialize + DeserializeOwned + Send + Sync + 'static,
        I: IntoIterator<Item = A>,
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
    {
        self.tasks_of(Work::task(task), items).collect()
    }

    /// Calls `f` for each item, lazily; an iterator over the results in the order of the items. The input may be
    /// infinite.
    pub fn imap<A, R, I>(&self, f: fn(A) -> R, items: I) -> Results<A, R, I::IntoIter>
    where
        I: IntoIterator<Item = A>,
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
    {
        self.tasks(f, items).ordered()
    }

    /// As [`imap`](Pool::imap), in the order in which results come.
    pub fn imap_unordered<A, R, I>(&self, f: fn(A) -> R, items: I) -> Results<A, R, I::IntoIter>
    where
        I: IntoIterator<Item = A>,
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
    {
        self.tasks(f, items).unordered()
    }

    /// Calls `f(arg)` in a worker and waits for the value.
    ///
    /// # Errors
    ///
    /// What became of it instead.
    pub fn apply<A, R>(&self, f: fn(A) -> R, arg: A) -> Result<R, TaskError>
    where
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
    {
        handle::apply(&self.shared, &Work::function(f), &arg, How::new(self.defaults))
    }

    /// Calls `f(arg)` in a worker, without waiting. It begins as soon as a worker has room, whether somebody waits or not. For
    /// a limit, retries or a priority of its own see [`Tasks::spawn_each`].
    ///
    /// # Errors
    ///
    /// If the argument cannot be encoded, or the pool has ended.
    pub fn submit<A, R>(&self, f: fn(A) -> R, arg: A) -> Result<Task<R>, TaskError>
    where
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
    {
        self.submit_work(&Work::function(f), &arg)
    }

    /// As [`submit`](Pool::submit), for any kind of [`Work`].
    ///
    /// # Errors
    ///
    /// As [`submit`](Pool::submit).
    pub fn submit_work<A, R>(&self, work: &Work<A, R>, arg: &A) -> Result<Task<R>, TaskError>
    where
        A: Serialize + 'static,
        R: DeserializeOwned + 'static,
    {
        handle::submit(&self.shared, work, arg, How::new(self.defaults))
    }

    /// Takes no more calls. Those that were made go on.
    pub fn close(&self) {
        self.shared.close();
    }

    /// Takes no more calls, waits until what was taken in is done, and lets the workers end by themselves.
    ///
    /// Iterators whose input is not exhausted by then end with [`TaskError::Terminated`]. Callbacks have returned by then.
    pub fn join(self) {
        self.shared.join(None);
    }

    /// As [`join`](Pool::join), waiting at most for `timeout`.
    ///
    /// # Errors
    ///
    /// The pool itself, if it has not ended by then. It takes no more calls, but goes on with those it has: it can be
    /// joined again, [terminated](Pool::terminate) or dropped.
    pub fn join_timeout(self, timeout: Duration) -> Result<(), Pool> {
        if self.shared.join(Some(Deadline::after(timeout))) { Ok(()) } else { Err(self) }
    }

    /// Ends the workers at once, in the middle of work. What has no result yet gets [`TaskError::Terminated`]. It
    /// returns when the workers are gone: SIGTERM, a short grace, SIGKILL.
    pub fn terminate(&self) {
        self.shared.terminate();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if !self.shared.leak_in_copy() {
            self.shared.terminate();
            self.shared.part_from_keeper();
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("workers", &self.shared.workers())
            .field("defaults", &self.defaults)
            .finish_non_exhaustive()
    }
}
