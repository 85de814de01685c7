//! The lazy builder under all of map's kin, and the iterator over results.

use crate::{
    TaskError, Work,
    driver::Shared,
    front::{Body, JobId, JobOptions, Segment},
    records::{self, PushError},
};
use procession_parcel::codec;
use procession_sys::Deadline;
use serde::{Serialize, de::DeserializeOwned};
use std::{collections::VecDeque, fmt, iter::FusedIterator, sync::Arc, time::Duration};

/// Calls that a pool is to make: a function, an input, and how. Made by [`Pool::tasks`](crate::Pool::tasks).
///
/// Nothing runs, and nothing is taken from the input, until results are asked for: by
/// [`collect`](Tasks::collect), by iterating (in the order of the input), or by [`unordered`](Tasks::unordered).
#[must_use = "tasks run when their results are asked for"]
pub struct Tasks<A, R, I> {
    shared: Arc<Shared>,
    work: Work<A, R>,
    input: I,
    chunk_size: Option<usize>,
    window: Option<usize>,
    retries: u32,
    priority: i32,
}

impl<A, R, I> Tasks<A, R, I>
where
    I: Iterator<Item = A>,
    A: Serialize,
    R: DeserializeOwned + 'static,
{
    pub(crate) fn new(shared: Arc<Shared>, work: Work<A, R>, input: I, retries: u32) -> Tasks<A, R, I> {
        Tasks { shared, work, input, chunk_size: None, window: None, retries, priority: 0 }
    }

    /// How many items are sent to a worker together. A large chunk costs less per item, a small one spreads uneven
    /// work better. One item that fails does not harm its chunk.
    ///
    /// The default is CPython's for [`collect`](Tasks::collect) where the length of the input is known (a quarter of
    /// each worker's share, rounded up); otherwise it is adapted to the time that items take, starting at 1 and
    /// growing to a millisecond's worth.
    ///
    /// # Panics
    ///
    /// If it is 0.
    pub fn chunk_size(mut self, items: usize) -> Self {
        assert!(items > 0, "a chunk has at least one item");
        self.chunk_size = Some(items);
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

    /// How often an item is tried again after its worker died with it in hand, or after it panicked. With retries an
    /// item may run more than once; its result arrives once.
    pub fn retry(mut self, times: u32) -> Self {
        self.retries = times;
        self
    }

    /// Tasks of higher priority go first to a worker that has room. The default is 0.
    pub fn priority(mut self, priority: i32) -> Self {
        self.priority = priority;
        self
    }

    /// Runs everything and collects the values in the order of the input.
    ///
    /// # Errors
    ///
    /// The error of the first item, in that order, that has one. All items have been run by then.
    pub fn collect(self) -> Result<Vec<R>, TaskError> {
        let mut values = Vec::with_capacity(self.input.size_hint().0.min(1 << 20));
        let mut first_error = None;
        self.start(true, true).drain(|result| match result {
            Ok(value) => values.push(value),
            Err(error) => {
                first_error.get_or_insert(error);
            }
        });
        first_error.map_or(Ok(values), Err)
    }

    /// Runs everything and collects a result for each item, in the order of the input.
    #[must_use]
    pub fn collect_results(self) -> Vec<Result<R, TaskError>> {
        let mut results = Vec::with_capacity(self.input.size_hint().0.min(1 << 20));
        self.start(true, true).drain(|result| results.push(result));
        results
    }

    /// An iterator over the results in the order in which they come.
    pub fn unordered(self) -> Results<A, R, I> {
        self.start(false, false)
    }

    /// An iterator over the results in the order of the input.
    pub fn ordered(self) -> Results<A, R, I> {
        self.start(true, false)
    }

    fn start(self, ordered: bool, eager: bool) -> Results<A, R, I> {
        let workers = self.shared.workers();
        let (retries, priority) = (self.retries, self.priority);
        let opened = self.work.callable().and_then(|function| {
            self.shared.open(function, |function| JobOptions {
                function,
                retries,
                priority,
                limit: None,
                cancellable: false,
                ordered,
                eager,
            })
        });
        let (job, refused) = match opened {
            Ok(job) => (Some(job), None),
            Err(error) => (None, Some(error)),
        };
        let known = match self.input.size_hint() {
            (lower, Some(upper)) if lower == upper && eager => Some(lower),
            _ => None,
        };
        let chunk = match (self.chunk_size, known) {
            (Some(size), _) => Chunk::fixed(size),
            (None, Some(items)) => Chunk::fixed(items.div_ceil(workers.saturating_mul(4)).max(1)),
            (None, None) => Chunk::Adaptive(1),
        };
        let window = match self.window {
            None if eager => Window::None,
            None => Window::PerWorker,
            Some(items) => Window::Items(items as u64),
        };
        Results {
            work: self.work,
            job: Job { shared: self.shared, id: job },
            input: Some(self.input),
            refused,
            chunk,
            window,
            batch: 1,
            waiting: false,
            outstanding: 0,
            segments: VecDeque::new(),
            current: Current::Nothing,
            spare: Vec::new(),
            prepared: Vec::new(),
            partial: Partial::default(),
        }
    }
}

impl<A, R, I> IntoIterator for Tasks<A, R, I>
where
    I: Iterator<Item = A>,
    A: Serialize,
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
            .field("retries", &self.retries)
            .finish_non_exhaustive()
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

#[derive(Clone, Copy, Debug)]
enum Window {
    None,
    PerWorker,
    Items(u64),
}

/// How long an adaptive chunk should keep a worker busy.
const CHUNK_TIME: Duration = Duration::from_millis(1);
const LARGEST_ADAPTIVE: usize = 1 << 17;
/// The most tasks that are prepared between two looks at the pool. Those that take longer than `SHORT`, or nobody
/// knows how long, are prepared one by one: what workers have no room for was taken from the input too soon.
const SHORT: Duration = Duration::from_micros(100);
const LARGEST_BATCH: usize = 64;
/// A chunk is cut short when its encoding reaches this size.
const CHUNK_BYTES: usize = 1 << 20;

/// A job that ends with its owner.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) shared: Arc<Shared>,
    pub(crate) id: Option<JobId>,
}

impl Drop for Job {
    fn drop(&mut self) {
        if let Some(id) = self.id.take()
            && !self.shared.leak_in_copy()
        {
            self.shared.drop_job(id);
        }
    }
}

/// An iterator over results; made by [`Tasks`] and by [`Pool::imap`](crate::Pool::imap) and its kin.
///
/// It takes from its input as workers have room, within its window, so the input may be infinite. Dropping it
/// cancels what was not yet given to a worker. What was given is run, and its results are thrown away: the rest of a
/// chunk that is being run, and the few that wait behind it. So large chunks are cancelled late. When the pool ends first, it gives [`TaskError::Terminated`] for what was taken
/// from the input, at least once, and then ends.
#[must_use = "iterators are lazy"]
pub struct Results<A, R, I> {
    /// Before the job, whose end looks whether somebody still holds the function.
    work: Work<A, R>,
    job: Job,
    input: Option<I>,
    /// Why the job could not be opened.
    refused: Option<TaskError>,
    chunk: Chunk,
    window: Window,
    /// How many tasks to prepare before the next look at the pool, and whether some waited for a worker at the last.
    batch: usize,
    waiting: bool,
    /// Items taken from the input and not handed out.
    outstanding: u64,
    segments: VecDeque<Segment>,
    current: Current,
    spare: Vec<Vec<u8>>,
    /// What was prepared and not yet added, and the chunk that is being filled: a panic of the input loses neither.
    prepared: Vec<Prepared>,
    partial: Partial,
}

/// The items so far of the next task.
#[derive(Default)]
struct Partial {
    items: u32,
    arguments: Vec<u8>,
    /// The end of the last whole record.
    whole: usize,
}

/// The segment that is being handed out.
#[derive(Debug)]
enum Current {
    Nothing,
    Values { records: Vec<u8>, at: usize, left: u64 },
    Failed { error: TaskError, left: u64 },
}

/// Something to add to the job.
enum Prepared {
    Task(u32, Vec<u8>),
    Failed(TaskError),
}

impl<A, R, I> Results<A, R, I>
where
    I: Iterator<Item = A>,
    A: Serialize,
    R: DeserializeOwned + 'static,
{
    /// The next result, if it comes within `timeout`. An item whose time ran out here is not lost: ask again.
    ///
    /// # Errors
    ///
    /// [`TimedOut`], if there is none yet.
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<Result<R, TaskError>>, TimedOut> {
        self.advance(Some(Deadline::after(timeout)))
    }

    fn advance(&mut self, deadline: Option<Deadline>) -> Result<Option<Result<R, TaskError>>, TimedOut> {
        loop {
            if let Some(result) = self.next_of_current() {
                return Ok(Some(result));
            }
            if self.refill(deadline)? {
                return Ok(self.refused.take().map(Err));
            }
        }
    }

    /// Gives every result to `each`.
    fn drain(mut self, mut each: impl FnMut(Result<R, TaskError>)) {
        while let Ok(Some(result)) = self.advance(None) {
            each(result);
            while let Some(result) = self.next_of_current() {
                each(result);
            }
        }
    }

    #[inline]
    fn next_of_current(&mut self) -> Option<Result<R, TaskError>> {
        Some(match &mut self.current {
            Current::Values { records, at, left } if *left > 0 => {
                *left -= 1;
                // Before user code: its panic leaves the books right.
                self.outstanding -= 1;
                match records::split(&records[*at..]) {
                    Some((record, rest)) => {
                        *at = records.len() - rest.len();
                        codec::decode(record).map_err(|error| TaskError::BadResult(error.to_string()))
                    }
                    None => {
                        Err(TaskError::BadResult("the worker sent fewer results than it said".to_owned()))
                    }
                }
            }
            Current::Failed { error, left } if *left > 0 => {
                *left -= 1;
                self.outstanding -= 1;
                Err(error.clone())
            }
            _ => return None,
        })
    }

    /// Makes the next segment current, waiting for it if need be; true at the end of all.
    fn refill(&mut self, deadline: Option<Deadline>) -> Result<bool, TimedOut> {
        loop {
            if let Some(segment) = self.segments.pop_front() {
                let left = segment.count;
                let next = match segment.body {
                    Body::Values(records) => Current::Values { records, at: 0, left },
                    Body::Failed(error) => Current::Failed { error, left },
                };
                if let Current::Values { mut records, .. } = std::mem::replace(&mut self.current, next) {
                    records.clear();
                    self.spare.push(records);
                }
                return Ok(false);
            }
            let Some(job) = self.job.id else { return Ok(true) };
            if !self.job.shared.is_ours() {
                self.job.shared.leak_in_copy();
                self.job.id = None;
                self.refused = Some(TaskError::ForkedCopy);
                return Ok(true);
            }
            if self.fill(job) {
                continue;
            }
            if self.outstanding == 0 && self.input.is_none() {
                return Ok(true);
            }
            let more = self.input.is_some() && self.room() > 0;
            let found = self.job.shared.wait_until(deadline, |state| {
                let front = &state.front;
                front.has_output(job) || (more && front.queued(job) == 0) || front.broken().is_some()
            });
            if !found {
                return Err(TimedOut);
            }
        }
    }

    /// Adds tasks as long as workers take them, and fetches settled segments; whether there are any.
    fn fill(&mut self, job: JobId) -> bool {
        loop {
            if !self.waiting {
                while self.prepared.len() < self.batch && self.prepare() {}
            }
            let looked_first = std::mem::take(&mut self.waiting);
            let full_batch = self.prepared.len() >= self.batch;
            let shared = self.job.shared.clone();
            let mut state = shared.lock();
            for next in self.prepared.drain(..) {
                match next {
                    Prepared::Task(items, arguments) => state.front.add(job, items, arguments),
                    Prepared::Failed(error) => state.front.add_failed(job, error),
                }
            }
            if self.input.is_none() {
                state.front.close_input(job);
            }
            shared.pump(&mut state);
            while let Some(segment) = state.front.take(job) {
                self.segments.push_back(segment);
            }
            if state.front.broken().is_some() {
                // What is still in the input is never run. The end is told at least once.
                let input = self.input.take();
                if input.is_some() && self.outstanding == 0 && self.refused.is_none() {
                    self.refused = state.front.broken().cloned();
                }
                state.front.close_input(job);
                // The input is user code: it may be an iterator of this very pool, whose end takes the lock.
                drop(state);
                drop(input);
                return !self.segments.is_empty();
            }
            let function = state.front.function(job);
            let item_time = function.and_then(|function| state.back.item_time(function));
            if let (Chunk::Adaptive(size), Some(time)) = (&mut self.chunk, item_time) {
                let fitting = CHUNK_TIME.as_nanos() / time.as_nanos().max(1);
                *size = (fitting as usize).clamp(1, (*size * 2).min(LARGEST_ADAPTIVE));
            }
            for buffer in self.spare.drain(..) {
                state.events.recycle(buffer);
            }
            if state.front.queued(job) > 0 {
                self.batch = 1;
                self.waiting = true;
                break;
            }
            if looked_first {
                continue;
            }
            if !full_batch {
                break;
            }
            let (Chunk::Fixed(size) | Chunk::Adaptive(size)) = self.chunk;
            // A chunk's size fits, see `Chunk::fixed`.
            let short = item_time.is_some_and(|time| time.saturating_mul(size as u32) < SHORT);
            self.batch = if short { (self.batch * 2).min(LARGEST_BATCH) } else { 1 };
            for _ in 0..self.batch {
                self.spare.push(state.events.buffer());
            }
        }
        !self.segments.is_empty()
    }

    /// How many more items may be taken from the input.
    fn room(&self) -> u64 {
        let window = match self.window {
            Window::None => return u64::MAX,
            Window::Items(items) => items,
            Window::PerWorker => {
                let (Chunk::Fixed(chunk) | Chunk::Adaptive(chunk)) = self.chunk;
                (self.job.shared.workers() as u64).saturating_mul((chunk as u64).saturating_mul(4).max(512))
            }
        };
        window.saturating_sub(self.outstanding)
    }

    /// Takes a chunk from the input; false if there is no room, or no more input.
    fn prepare(&mut self) -> bool {
        let (Chunk::Fixed(size) | Chunk::Adaptive(size)) = self.chunk;
        let size = self.room().min(size as u64) as u32;
        if size == 0 || (self.input.is_none() && self.partial.items == 0) {
            return false;
        }
        let Partial { items, arguments, whole } = &mut self.partial;
        if arguments.capacity() == 0 {
            *arguments = self.spare.pop().unwrap_or_default();
        }
        // A panic may have left half a record.
        arguments.truncate(*whole);
        let mut failure = None;
        while *items < size && arguments.len() < CHUNK_BYTES && failure.is_none() {
            let Some(item) = self.input.as_mut().and_then(Iterator::next) else {
                self.input = None;
                break;
            };
            match records::push(arguments, |bytes| codec::encode(&item, bytes)) {
                Ok(()) => (*items, *whole) = (*items + 1, arguments.len()),
                // It ends the chunk; what is before it goes as a task of its own.
                Err(PushError::Write(error)) => failure = Some(error.to_string()),
                Err(PushError::TooLarge(bytes)) => failure = Some(format!("it has {bytes} bytes, encoded")),
            }
        }
        let Partial { items, arguments, .. } = std::mem::take(&mut self.partial);
        if items > 0 {
            self.prepared.push(Prepared::Task(items, arguments));
        } else {
            self.spare.push(arguments);
        }
        self.outstanding += u64::from(items) + u64::from(failure.is_some());
        let found = items > 0 || failure.is_some();
        self.prepared.extend(failure.map(|why| Prepared::Failed(TaskError::BadArguments(why))));
        found
    }
}

impl<A, R, I> Iterator for Results<A, R, I>
where
    I: Iterator<Item = A>,
    A: Serialize,
    R: DeserializeOwned + 'static,
{
    type Item = Result<R, TaskError>;

    #[inline]
    fn next(&mut self) -> Option<Result<R, TaskError>> {
        // Without a deadline nothing times out.
        self.advance(None).unwrap_or(None)
    }
}

impl<A, R, I> FusedIterator for Results<A, R, I>
where
    I: Iterator<Item = A>,
    A: Serialize,
    R: DeserializeOwned + 'static,
{
}

impl<A, R, I> fmt::Debug for Results<A, R, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Results")
            .field("work", &self.work)
            .field("outstanding", &self.outstanding)
            .finish_non_exhaustive()
    }
}

/// No result came in time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimedOut;

impl fmt::Display for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no result came before the timeout")
    }
}

impl std::error::Error for TimedOut {}
