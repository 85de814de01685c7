//! The iterator over results.

use super::{Chunk, Input, Job, TimedOut};
use crate::{
    TaskError, Work,
    driver::Listener,
    front::{Body, JobId, Segment, Want},
    loads::{self, Loads},
    records::{self, Layouts, PushError},
};
use procession_parcel::codec::plain::{self, Plain};
use procession_sys::Deadline;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    collections::VecDeque,
    fmt,
    iter::FusedIterator,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

#[derive(Clone, Copy, Debug)]
pub(super) enum Window {
    None,
    PerWorker,
    Items(u64),
}

const TOO_FEW: &str = "the worker sent fewer results than it said";
/// How long an adaptive chunk should keep a worker busy.
const CHUNK_TIME: Duration = Duration::from_millis(1);
const LARGEST_ADAPTIVE: usize = 1 << 17;
/// The most tasks that are prepared between two looks at the pool. Those that take longer than `SHORT`, or nobody
/// knows how long, are prepared one by one: what workers have no room for was taken from the input too soon.
const SHORT: Duration = Duration::from_micros(100);
const LARGEST_BATCH: usize = 64;
/// A chunk is cut short when its encoding reaches this size.
pub(super) const CHUNK_BYTES: usize = 1 << 20;

/// An iterator over results; made by [`Tasks`](crate::Tasks) and by [`Pool::imap`](crate::Pool::imap) and its kin.
///
/// It takes from its input as workers have room, within its window, so the input may be infinite. Dropping it
/// cancels what was not yet given to a worker. What was given is run, and its results are thrown away: the rest of a
/// chunk that is being run, and the few that wait behind it. So large chunks are cancelled late, unless the call is
/// [cancellable](crate::Tasks::cancellable). When the pool ends first, it gives [`TaskError::Terminated`] for what was taken
/// from the input, at least once, and then ends.
///
/// With the feature `async` it is a stream as well.
#[must_use = "iterators are lazy"]
pub struct Results<A, R, I> {
    /// Before the job, whose end looks whether somebody still holds the function.
    work: Work<A, R>,
    job: Job,
    layouts: Layouts,
    /// How blocks of a heap go along.
    loads: Option<Arc<Loads>>,
    input: Option<I>,
    /// Why the job could not be opened.
    refused: Option<TaskError>,
    chunk: Chunk,
    window: Window,
    /// How many tasks to prepare before the next look at the pool, and whether some waited for a worker at the last.
    batch: usize,
    /// How many tasks are kept ready for workers, see [`JobOptions`](crate::front::JobOptions).
    ahead: usize,
    waiting: bool,
    /// Items taken from the input and not handed out.
    outstanding: u64,
    segments: VecDeque<Segment>,
    current: Current,
    /// Which item of the call the next one of the current segment is.
    index: u64,
    /// How long the whole call may take, and until when that is.
    total: Option<(Duration, Deadline)>,
    spare: Vec<Vec<u8>>,
    #[cfg(feature = "progress")]
    progress: Option<crate::seeing::Progress>,
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

/// What is there to hand out.
enum Refill {
    /// A segment.
    Some,
    /// Nothing, and nothing will come.
    End,
    /// Nothing until this holds of the job.
    Wait(Want),
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

/// Nothing of it is ever pinned.
impl<A, R, I> Unpin for Results<A, R, I> {}

impl<A, R, I> Results<A, R, I>
where
    I: Input<A>,
    A: Serialize + 'static,
    R: DeserializeOwned + 'static,
{
    pub(super) fn new(
        work: Work<A, R>,
        job: Job,
        layouts: Layouts,
        input: I,
        (chunk, window, ahead): (Chunk, Window, usize),
    ) -> Results<A, R, I> {
        Results {
            work,
            layouts,
            loads: job.shared.loads.clone(),
            job,
            input: Some(input),
            refused: None,
            chunk,
            window,
            batch: ahead.max(1),
            ahead,
            waiting: false,
            outstanding: 0,
            segments: VecDeque::new(),
            current: Current::Nothing,
            index: 0,
            total: None,
            spare: Vec::new(),
            #[cfg(feature = "progress")]
            progress: None,
            prepared: Vec::new(),
            partial: Partial::default(),
        }
    }

    /// Says why there is no job.
    pub(super) fn refuse(&mut self, error: TaskError) {
        self.refused = Some(error);
    }

    /// Shows how far it is.
    #[cfg(feature = "progress")]
    pub(super) fn show(&mut self, progress: Option<crate::seeing::Progress>) {
        self.progress = progress;
    }

    /// The whole of it may take so long from now on.
    pub(super) fn set_total(&mut self, time: Duration) {
        self.total = Some((time, Deadline::after(time)));
    }

    /// The next result, or the context's waker is woken when there may be one. One waker at a time; the end of all is told
    /// as by the iterator. Time passes in the thread that polls only while it polls: a total
    /// [timeout](crate::Tasks::timeout) is looked at then, and not in between.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<R, TaskError>>> {
        loop {
            if let Some(result) = self.next_of_current() {
                return Poll::Ready(Some(result));
            }
            let want = match self.refill() {
                Refill::Some => continue,
                Refill::End => return Poll::Ready(self.refused.take().map(Err)),
                Refill::Wait(want) => want,
            };
            let Some(job) = self.job.id else { continue };
            match self.total {
                Some((time, until)) if until.passed() => self.give_up(TaskError::OutOfTime(time)),
                _ if self.job.shared.listen(job, want, Listener::Wake(context.waker().clone()), true) => {
                    return Poll::Pending;
                }
                _ => {}
            }
        }
    }

    /// The next result, if it comes within `timeout`. An item whose time ran out here is not lost: ask again.
    ///
    /// # Errors
    ///
    /// [`TimedOut`], if there is none yet.
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<Result<R, TaskError>>, TimedOut> {
        self.advance(Some(Deadline::after(timeout)))
    }

    fn advance(&mut self, deadline: Option<Deadline>) -> Result<Option<Result<R, TaskError>>, TimedOut> {
        let total = self.total.map(|(_, until)| until);
        let first = match (deadline, total) {
            (Some(deadline), Some(total)) => Some(deadline.min(total)),
            (one, other) => one.or(other),
        };
        loop {
            if let Some(result) = self.next_of_current() {
                return Ok(Some(result));
            }
            let want = match self.refill() {
                Refill::Some => continue,
                Refill::End => return Ok(self.refused.take().map(Err)),
                Refill::Wait(want) => want,
            };
            let Some(job) = self.job.id else { continue };
            let more = want == Want::Room;
            let found = self.job.shared.wait_until(first, |state| {
                let front = &state.front;
                front.has_output(job) || (more && front.has_room(job)) || front.broken().is_some()
            });
            if found {
                continue;
            }
            match self.total {
                Some((time, until)) if until.passed() => self.give_up(TaskError::OutOfTime(time)),
                _ => return Err(TimedOut),
            }
        }
    }

    /// Ends the call with `error`; what is left of it is cancelled.
    fn give_up(&mut self, error: TaskError) {
        self.refused = Some(error);
        self.abandon();
        self.input = None;
        if let Some(id) = self.job.id.take() {
            self.job.shared.drop_job(id);
        }
    }

    /// The next result, and which item it is of.
    pub(super) fn next_indexed(&mut self) -> Option<(u64, Result<R, TaskError>)> {
        let result = self.next()?;
        Some((self.index.saturating_sub(1), result))
    }

    /// Gives every result to `each`.
    pub(super) fn drain(mut self, mut each: impl FnMut(Result<R, TaskError>)) {
        while let Ok(Some(result)) = self.advance(None) {
            each(result);
            self.drain_current(&mut each);
        }
    }

    /// Gives the rest of the current segment to `each`. The books are right at the end of it, so this is for who has no use
    /// for them after a panic.
    fn drain_current(&mut self, each: &mut impl FnMut(Result<R, TaskError>)) {
        let (Current::Values { records, at, left }, None) = (&mut self.current, &self.loads) else {
            while let Some(result) = self.next_of_current() {
                each(result);
            }
            return;
        };
        let count = std::mem::take(left);
        let mut rest = &records[*at..];
        let mut missing = count;
        if self.layouts.values.is_plain() {
            for value in plain::values(rest).take(count as usize) {
                missing -= 1;
                each(value.ok_or_else(not_plain::<R>));
            }
            rest = &[];
        }
        for _ in 0..missing {
            let Some((record, behind)) = records::split(rest) else {
                each(Err(TaskError::BadResult(TOO_FEW.to_owned())));
                continue;
            };
            rest = behind;
            each(loads::decode(None, record));
        }
        self.outstanding -= count;
        self.index += count;
    }

    #[inline]
    fn next_of_current(&mut self) -> Option<Result<R, TaskError>> {
        Some(match &mut self.current {
            Current::Values { records, at, left } if *left > 0 => {
                *left -= 1;
                // Before user code: its panic leaves the books right.
                self.outstanding -= 1;
                self.index += 1;
                if let Some(size) = self.layouts.values.size() {
                    let value = records.get(*at..*at + size);
                    *at = records.len().min(*at + size);
                    return Some(match value {
                        Some(value) => plain::get(value).ok_or_else(not_plain::<R>),
                        None => Err(TaskError::BadResult(TOO_FEW.to_owned())),
                    });
                }
                if *left == 0 && *at == 0 && records.len() > records::LARGE {
                    let records = std::mem::take(records);
                    return Some(loads::decode_only(self.loads.as_deref(), records));
                }
                match records::split(&records[*at..]) {
                    Some((record, rest)) => {
                        *at = records.len() - rest.len();
                        loads::decode(self.loads.as_deref(), record)
                    }
                    None => Err(TaskError::BadResult(TOO_FEW.to_owned())),
                }
            }
            Current::Failed { error, left } if *left > 0 => {
                *left -= 1;
                self.outstanding -= 1;
                self.index += 1;
                Err(error.clone())
            }
            _ => return None,
        })
    }

    /// Makes the next segment current, if there is one.
    fn refill(&mut self) -> Refill {
        loop {
            if let Some(segment) = self.segments.pop_front() {
                let left = segment.count;
                self.index = segment.first;
                #[cfg(feature = "progress")]
                if let Some(progress) = &mut self.progress {
                    progress.advance(left, matches!(segment.body, Body::Failed(_)));
                }
                let next = match segment.body {
                    Body::Values(records) => Current::Values { records, at: 0, left },
                    Body::Failed(error) => Current::Failed { error, left },
                };
                if let Current::Values { mut records, .. } = std::mem::replace(&mut self.current, next) {
                    records.clear();
                    self.spare.push(records);
                }
                return Refill::Some;
            }
            let Some(job) = self.job.id else { return Refill::End };
            if !self.job.shared.is_ours() {
                self.job.shared.leak_in_copy();
                self.job.id = None;
                self.refused = Some(TaskError::ForkedCopy);
                return Refill::End;
            }
            if self.fill(job) {
                continue;
            }
            if self.outstanding == 0 && self.input.is_none() {
                return Refill::End;
            }
            let more = self.input.is_some() && self.room() > 0;
            return Refill::Wait(if more { Want::Room } else { Want::Output });
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
            if !state.front.has_room(job) {
                self.batch = self.ahead.max(1);
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
            self.batch = if short { (self.batch * 2).min(LARGEST_BATCH) } else { 1 }.max(self.ahead);
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
        let loads = self.loads.as_deref();
        // Known to the compiler, but for whether this pool can do with it.
        let plain = Plain::of::<A>().is_some() && self.layouts.items.is_plain();
        while *items < size && arguments.len() < CHUNK_BYTES && failure.is_none() {
            let item = match self.input.as_mut().and_then(Input::next_item) {
                Some(Ok(item)) => item,
                Some(Err(error)) => {
                    failure = Some(error);
                    break;
                }
                None => {
                    self.input = None;
                    break;
                }
            };
            if plain && plain::put(&item, arguments) {
                (*items, *whole) = (*items + 1, arguments.len());
                continue;
            }
            let why = match records::push(arguments, |bytes| loads::encode(loads, &item, bytes)) {
                Ok(()) => {
                    (*items, *whole) = (*items + 1, arguments.len());
                    continue;
                }
                Err(PushError::Write(why)) => why,
                Err(PushError::TooLarge(bytes)) => format!("it has {bytes} bytes, encoded"),
            };
            // It ends the chunk; what is before it goes as a task of its own.
            failure = Some(TaskError::BadArguments(why));
        }
        let Partial { items, arguments, .. } = std::mem::take(&mut self.partial);
        if items > 0 {
            self.prepared.push(Prepared::Task(items, arguments));
        } else {
            self.spare.push(arguments);
        }
        self.outstanding += u64::from(items) + u64::from(failure.is_some());
        let found = items > 0 || failure.is_some();
        self.prepared.extend(failure.map(Prepared::Failed));
        found
    }
}

#[cold]
fn not_plain<R>() -> TaskError {
    TaskError::BadResult(format!("the worker sent what is no `{}`", std::any::type_name::<R>()))
}

impl<A, R, I> Results<A, R, I> {
    /// Throws away what was fetched and not handed out, and what was prepared and not added.
    fn abandon(&mut self) {
        let current = std::mem::replace(&mut self.current, Current::Nothing);
        let segments = std::mem::take(&mut self.segments);
        let prepared = std::mem::take(&mut self.prepared);
        let partial = std::mem::take(&mut self.partial);
        let Some(loads) = &self.loads else { return };
        if let Current::Values { records, at, .. } = &current {
            loads.let_go(&records[*at..]);
        }
        for segment in &segments {
            if let Body::Values(records) = &segment.body {
                loads.let_go(records);
            }
        }
        for next in &prepared {
            if let Prepared::Task(_, arguments) = next {
                loads.let_go(arguments);
            }
        }
        loads.let_go(&partial.arguments[..partial.whole]);
    }
}

impl<A, R, I> Drop for Results<A, R, I> {
    fn drop(&mut self) {
        if self.loads.is_some() && !self.job.shared.leak_in_copy() {
            self.abandon();
        }
    }
}

impl<A, R, I> Iterator for Results<A, R, I>
where
    I: Input<A>,
    A: Serialize + 'static,
    R: DeserializeOwned + 'static,
{
    type Item = Result<R, TaskError>;

    #[inline]
    fn next(&mut self) -> Option<Result<R, TaskError>> {
        // Without a deadline of this call nothing times out.
        self.advance(None).unwrap_or(None)
    }
}

impl<A, R, I> FusedIterator for Results<A, R, I>
where
    I: Input<A>,
    A: Serialize + 'static,
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

#[cfg(feature = "async")]
impl<A, R, I> futures_core::Stream for Results<A, R, I>
where
    I: Input<A>,
    A: Serialize + 'static,
    R: DeserializeOwned + 'static,
{
    type Item = Result<R, TaskError>;

    fn poll_next(
        self: std::pin::Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<R, TaskError>>> {
        Results::poll_next(self.get_mut(), context)
    }
}
