//! The lazy builder under all of map's kin.

mod input;
mod job;
mod later;
mod results;
mod timed_out;
mod zipped;

pub use input::{Fallible, Input};
pub(crate) use job::Job;
pub use later::Collecting;
pub use results::Results;
pub use timed_out::TimedOut;
pub use zipped::{Inputs, Zipped};

use crate::{
    Task, TaskError, Work,
    back::FunctionId,
    driver::Shared,
    front::JobOptions,
    handle::{self, Inner},
    pool::Defaults,
    records::Layouts,
};
use results::Window;
use serde::{Serialize, de::DeserializeOwned};
use std::{collections::VecDeque, fmt, sync::Arc, time::Duration};

/// How many items are sent to a worker together.
///
/// A large chunk costs less per item, a small one spreads uneven work better. One item that fails does not harm its
/// chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ChunkSize {
    /// [`Share`](ChunkSize::Share) where all results are collected and the length of the input is known, otherwise
    /// [`Adaptive`](ChunkSize::Adaptive).
    #[default]
    Auto,
    /// So many; not 0.
    Items(usize),
    /// CPython's rule: a quarter of each worker's share, rounded up. It needs the length of the input; where that is not
    /// known it is [`Adaptive`](ChunkSize::Adaptive).
    Share,
    /// By the time that items take: 1 at first, growing to a millisecond's worth.
    Adaptive,
}

impl From<usize> for ChunkSize {
    fn from(items: usize) -> ChunkSize {
        ChunkSize::Items(items)
    }
}

impl ChunkSize {
    /// CPython's rule.
    fn share(items: usize, workers: usize) -> usize {
        items.div_ceil(workers.saturating_mul(4)).max(1)
    }

    fn chunk(self, bounds: (usize, Option<usize>), workers: usize, collected: bool) -> Chunk {
        let known = Some(bounds.0).filter(|lower| bounds.1 == Some(*lower));
        match (self, known) {
            (ChunkSize::Items(items), _) => Chunk::fixed(items),
            (ChunkSize::Share, Some(items)) => Chunk::fixed(ChunkSize::share(items, workers)),
            (ChunkSize::Auto, Some(items)) if collected => Chunk::fixed(ChunkSize::share(items, workers)),
            _ => Chunk::Adaptive(1),
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Chunk {
    Fixed(usize),
    Adaptive(usize),
}

impl Chunk {
    /// A task counts its items in 32 bits.
    fn fixed(items: usize) -> Chunk {
        Chunk::Fixed(items.min(u32::MAX as usize))
    }
}

/// How each item of a call is to be run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct How {
    pub(crate) retries: u32,
    pub(crate) budget: Option<u64>,
    pub(crate) quarantine: Option<u32>,
    pub(crate) limit: Option<Duration>,
    pub(crate) priority: i32,
    pub(crate) cancellable: bool,
}

impl How {
    pub(crate) fn new(defaults: Defaults) -> How {
        How {
            retries: defaults.retries,
            budget: None,
            quarantine: defaults.quarantine,
            limit: defaults.limit,
            priority: 0,
            cancellable: false,
        }
    }

    /// The options of a job whose segments come in order, to which somebody is busy adding.
    pub(crate) fn job(self, function: FunctionId) -> JobOptions {
        JobOptions {
            function,
            layouts: Layouts::default(),
            retries: self.retries,
            budget: self.budget,
            quarantine: self.quarantine,
            priority: self.priority,
            limit: self.limit,
            cancellable: self.cancellable,
            ordered: true,
            eager: true,
            ahead: 0,
            spontaneous: false,
        }
    }
}

/// Calls that a pool is to make: a function, an input, and how. Made by [`Pool::tasks`](crate::Pool::tasks).
///
/// Nothing runs, and nothing is taken from the input, until results are asked for: by
/// [`collect`](Tasks::collect) and its kin, by iterating (in the order of the input), by
/// [`unordered`](Tasks::unordered), by [`spawn`](Tasks::spawn), or by `await`, which collects.
#[must_use = "tasks run when their results are asked for"]
pub struct Tasks<A, R, I> {
    shared: Arc<Shared>,
    work: Work<A, R>,
    input: I,
    chunk_size: ChunkSize,
    window: Option<usize>,
    how: How,
    total: Option<Duration>,
    #[cfg(feature = "progress")]
    progress: Option<String>,
}

impl<A, R, I> Tasks<A, R, I>
where
    I: Input<A>,
    A: Serialize + 'static,
    R: DeserializeOwned + 'static,
{
    pub(crate) fn new(shared: Arc<Shared>, work: Work<A, R>, input: I, how: How) -> Tasks<A, R, I> {
        Tasks {
            shared,
            work,
            input,
            chunk_size: ChunkSize::Auto,
            window: None,
            how,
            total: None,
            #[cfg(feature = "progress")]
            progress: None,
        }
    }

    /// How many items are sent to a worker together: a number, or a rule.
    ///
    /// # Panics
    ///
    /// If it is 0.
    pub fn chunk_size(mut self, size: impl Into<ChunkSize>) -> Self {
        self.chunk_size = size.into();
        assert!(self.chunk_size != ChunkSize::Items(0), "a chunk has at least one item");
        self
    }

    /// How many items may be taken from the input whose results were not yet handed out. It bounds the memory of an
    /// iteration. The default is 512 per worker, or four chunks per worker if that is more; none for
    /// [`collect`](Tasks::collect).
    ///
    /// # Panics
    ///
    /// If it is 0.
    pub fn window(mut self, items: usize) -> Self {
        assert!(items > 0, "a window has room for at least one item");
        self.window = Some(items);
        self
    }

    /// How long each item may run, from its start. The worker of one that overruns is killed and replaced, and the item is
    /// [`TaskError::TimedOut`]; it is not tried again. What was queued behind it runs elsewhere. The default is the
    /// pool's: none unless its builder says otherwise.
    ///
    /// It is kept also while nobody waits for results.
    pub fn deadline(mut self, limit: Duration) -> Self {
        self.how.limit = Some(limit);
        self
    }

    /// How long the whole call may take, from the moment when results are first asked for. Once that is over and the next
    /// result is not there, it is [`TaskError::OutOfTime`], once; the rest is cancelled, and nothing comes after it.
    pub fn timeout(mut self, total: Duration) -> Self {
        self.total = Some(total);
        self
    }

    /// How often an item is tried again after its worker died with it in hand, or after it panicked. With retries an
    /// item may run more than once; its result arrives once.
    pub fn retry(mut self, times: u32) -> Self {
        self.how.retries = times;
        self
    }

    /// How many further tries all items of the call may have together. When they are spent, what fails has failed. The
    /// default is no bound but [`retry`](Tasks::retry)'s. [`spawn_each`](Tasks::spawn_each) makes a call of each item.
    pub fn retry_budget(mut self, times: u64) -> Self {
        self.how.budget = Some(times);
        self
    }

    /// An item that has ended so many workers in a row is [`TaskError::Quarantined`], though it may have retries left: it
    /// would go on eating workers. 0 is never. The default is 3.
    ///
    /// Workers that the pool was asked to kill do not count.
    pub fn quarantine(mut self, deaths: u32) -> Self {
        self.how.quarantine = Some(deaths).filter(|deaths| *deaths > 0);
        self
    }

    /// Tasks of higher priority go first to a worker that has room. The default is 0. Of a call with a priority above that,
    /// two to four tasks per worker are taken from the input ahead of the workers, so that they are there when one has room.
    pub fn priority(mut self, priority: i32) -> Self {
        self.how.priority = priority;
        self
    }

    /// Whether what was given to a worker and is not started yet is taken back when the call ends early. It costs a
    /// little for each item. The default is no for what is iterated or collected, and yes for [`spawn`](Tasks::spawn) and
    /// [`try_collect`](Tasks::try_collect).
    pub fn cancellable(mut self, cancellable: bool) -> Self {
        self.how.cancellable = cancellable;
        self
    }

    /// Shows on stderr how far the call is, under this name: by a bar on a terminal, with rate and estimated end where the
    /// length of the input is known; otherwise by a line every five seconds, and one at the end. It counts items whose results
    /// have come, in the order of the input where that is the order of the results. For all but
    /// [`spawn`](Tasks::spawn) and [`spawn_each`](Tasks::spawn_each).
    ///
    /// ```no_run
    /// let pool = procession_pool::Pool::new(2)?;
    /// let squares = pool.tasks(|n: u64| n * n, 0..1000).progress("squares").collect()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(feature = "progress")]
    pub fn progress(mut self, name: impl Into<String>) -> Self {
        self.progress = Some(name.into());
        self
    }

    /// Runs everything and collects the values in the order of the input.
    ///
    /// # Errors
    ///
    /// The error of the first item, in that order, that has one. All items have been run by then.
    pub fn collect(self) -> Result<Vec<R>, TaskError> {
        let mut values = Vec::with_capacity(self.input.bounds().0.min(1 << 20));
        let mut first_error = None;
        self.start(true, true).drain(|result| match result {
            Ok(value) => values.push(value),
            Err(error) => {
                first_error.get_or_insert(error);
            }
        });
        first_error.map_or(Ok(values), Err)
    }

    /// As [`collect`](Tasks::collect), but it stops at the first item that fails, in the order of time: what has not
    /// been started by then is cancelled, and the results of what runs are thrown away.
    ///
    /// # Errors
    ///
    /// The error of that item.
    pub fn try_collect(mut self) -> Result<Vec<R>, TaskError> {
        self.how.cancellable = true;
        let mut values = Vec::with_capacity(self.input.bounds().0.min(1 << 20));
        let mut results = self.start(false, true);
        while let Some((index, result)) = results.next_indexed() {
            let (value, index) = (result?, index as usize);
            if index >= values.len() {
                values.resize_with(index + 1, || None);
            }
            values[index] = Some(value);
        }
        // Each item has a result, so nothing is missing.
        Ok(values.into_iter().flatten().collect())
    }

    /// Runs everything and collects a result for each item, in the order of the input.
    ///
    /// If a [`timeout`](Tasks::timeout) ends it, that error is the last one, and those behind are missing.
    #[must_use]
    pub fn collect_results(self) -> Vec<Result<R, TaskError>> {
        let mut results = Vec::with_capacity(self.input.bounds().0.min(1 << 20));
        self.start(true, true).drain(|result| results.push(result));
        results
    }

    /// Runs everything and throws the values away.
    ///
    /// # Errors
    ///
    /// The error of an item that failed, the first in the order of time. All items have been run by then.
    pub fn run(self) -> Result<(), TaskError> {
        let mut first_error = None;
        self.start(false, true).drain(|result| {
            if let Err(error) = result {
                first_error.get_or_insert(error);
            }
        });
        first_error.map_or(Ok(()), Err)
    }

    /// An iterator over the results in the order in which they come.
    pub fn unordered(self) -> Results<A, R, I> {
        self.start(false, false)
    }

    /// An iterator over the results in the order of the input.
    pub fn ordered(self) -> Results<A, R, I> {
        self.start(true, false)
    }

    /// Begins now, without waiting: the whole input is taken and encoded, and one handle stands for all of it. It goes on
    /// although nobody waits. See [`Task`] for what can be done with it; it comes to what
    /// [`collect`](Tasks::collect) would. The window and a [`timeout`](Tasks::timeout) do not matter here.
    ///
    /// # Errors
    ///
    /// If the function cannot be sent or the pool has ended. An item that cannot be encoded is that item's error.
    pub fn spawn(mut self) -> Result<Task<Vec<R>>, TaskError> {
        self.how.cancellable = true;
        let mut input = Vec::new();
        while let Some(item) = self.input.next_item() {
            input.push(item.and_then(|item| handle::encode(&self.shared, &item)));
        }
        let workers = self.shared.workers();
        let size = match self.chunk_size.chunk((input.len(), Some(input.len())), workers, true) {
            Chunk::Fixed(size) => size,
            Chunk::Adaptive(_) => ChunkSize::share(input.len(), workers),
        };
        let mut chunks: VecDeque<Result<(u32, Vec<u8>), TaskError>> = VecDeque::new();
        for item in input {
            match (item, chunks.back_mut()) {
                (Ok(record), Some(Ok((items, records))))
                    if (*items as usize) < size && records.len() < results::CHUNK_BYTES =>
                {
                    records.extend_from_slice(&record);
                    *items += 1;
                }
                (item, _) => chunks.push_back(item.map(|record| (1, record))),
            }
        }
        let open = |how: How, function| JobOptions { spontaneous: true, ..how.job(function) };
        let id = self.shared.open(self.work.callable()?, |function| open(self.how, function))?;
        let job = Job { shared: self.shared.clone(), id: Some(id) };
        self.shared.begin(id, chunks);
        Ok(Task::new(Inner::new(job, handle::all)))
    }

    /// As [`spawn`](Tasks::spawn), with a handle for each item.
    ///
    /// # Errors
    ///
    /// If the function cannot be sent, an item cannot be encoded, or the pool has ended; what was begun by then is
    /// cancelled.
    pub fn spawn_each(mut self) -> Result<Vec<Task<R>>, TaskError> {
        self.how.cancellable = true;
        let mut tasks = Vec::new();
        while let Some(item) = self.input.next_item() {
            tasks.push(handle::submit(&self.shared, &self.work, &item?, self.how)?);
        }
        Ok(tasks)
    }

    /// Collects without a thread that waits: in order, with all of the input, but nobody is busy adding.
    fn start_awaited(self) -> Results<A, R, I> {
        self.start_as(true, false, true)
    }

    fn start(self, ordered: bool, eager: bool) -> Results<A, R, I> {
        self.start_as(ordered, eager, eager)
    }

    fn start_as(self, ordered: bool, eager: bool, collected: bool) -> Results<A, R, I> {
        #[cfg(feature = "progress")]
        let progress = self.progress.clone().map(|name| {
            let (lower, upper) = self.input.bounds();
            crate::seeing::Progress::new(
                name,
                upper.filter(|upper| *upper == lower).map(|upper| upper as u64),
            )
        });
        let Tasks { shared, work, input, chunk_size, window, mut how, total, .. } = self;
        how.cancellable |= total.is_some();
        // Two for each worker: while one is handed out to it, the next is there.
        let ahead = if how.priority > 0 { shared.workers().saturating_mul(2) } else { 0 };
        let layouts = if shared.takes_plain { work.layouts() } else { Layouts::default() };
        let opened = work.callable().and_then(|function| {
            shared.open(function, |function| JobOptions {
                layouts,
                ordered,
                eager,
                ahead,
                ..how.job(function)
            })
        });
        let chunk = chunk_size.chunk(input.bounds(), shared.workers(), collected);
        let window = match window {
            None if collected => Window::None,
            None => Window::PerWorker,
            Some(items) => Window::Items(items as u64),
        };
        let job = Job { shared, id: opened.as_ref().ok().copied() };
        let mut results = Results::new(work, job, layouts, input, (chunk, window, ahead));
        #[cfg(feature = "progress")]
        results.show(progress);
        if let Err(error) = opened {
            results.refuse(error);
        }
        if let Some(total) = total {
            results.set_total(total);
        }
        results
    }
}

impl<A, R, I> IntoIterator for Tasks<A, R, I>
where
    I: Input<A>,
    A: Serialize + 'static,
    R: DeserializeOwned + 'static,
{
    type Item = Result<R, TaskError>;
    type IntoIter = Results<A, R, I>;

    fn into_iter(self) -> Results<A, R, I> {
        self.ordered()
    }
}

impl<A, R, I> fmt::Debug for Tasks<A, R, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tasks")
            .field("work", &self.work)
            .field("chunk_size", &self.chunk_size)
            .field("window", &self.window)
            .field("how", &self.how)
            .finish_non_exhaustive()
    }
}
