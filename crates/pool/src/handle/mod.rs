//! Handles for calls that go on while nobody waits.
//!
//! # States of an outcome
//!
//! | state | meaning | who changes it |
//! |---|---|---|
//! | pending | nothing was taken from the front yet | whoever looks and finds the call done: done |
//! | done | the value, or why there is none | a callback's runner, or a look: lent; `get`: taken |
//! | lent | somebody looks at it without the lock: the callbacks, one after the other, or a user's function | its borrower, when it gives it back: done |
//! | taken | it was handed out | nobody |
//!
//! Users' code (callbacks, looks) runs under no lock. Locks are taken in the order outcome, pool.
//!
//! # Callbacks
//!
//! They are run by the keeper, in the order in which they were given, each once. A value is handed out only when the
//! callbacks that were given before have run. The list of listeners of the pool holds the call then, so that it
//! outlives its handle.

mod calls;
mod many;

pub(crate) use calls::{all, apply, encode, submit};
pub use many::{AsCompleted, InTime, Unfinished, WaitFor, Waited, as_completed, wait};

use crate::{
    TaskError,
    back::Cancel,
    driver::{Listener, Notice, Shared},
    front::{Segment, Want},
    loads::Loads,
    sync::{Condvar, Mutex, MutexGuard, ThreadId, current},
    tasks::Job,
};
use procession_sys::Deadline;
use std::{
    collections::VecDeque,
    fmt,
    future::Future,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{Arc, PoisonError},
    task::{Context, Poll},
    thread,
    time::Duration,
};

/// How long to wait for callbacks before a look whether there is a thread to run them.
const SLICE: Duration = Duration::from_millis(20);

/// A call that was handed to a pool, and goes on although nobody waits; made by [`Pool::submit`](crate::Pool::submit), or for
/// many items by [`Pool::map_async`](crate::Pool::map_async) and [`Tasks::spawn`](crate::Tasks::spawn).
///
/// Dropping it cancels what was not started of the call; what runs is run to its end, and its result is thrown away.
/// [`detach`](Task::detach) lets go of it without that.
///
/// It is a future as well, for any executor: nobody needs to wait in another way, since the pool's keeper, a thread, moves
/// things on and wakes it.
///
/// ```no_run
/// use procession_pool::Pool;
/// use std::time::Duration;
///
/// let pool = Pool::new(2)?;
/// let task = pool.submit(|n: u64| n * n, 7)?;
/// task.on_done(|result| println!("it came to {result:?}"));
/// match task.get_timeout(Duration::from_secs(1)) {
///     Ok(square) => assert_eq!(square?, 49),
///     Err(late) => assert!(late.cancel() || late.running() || late.ready()),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a call that is dropped is cancelled"]
pub struct Task<T> {
    /// None once its value was handed out.
    inner: Option<Arc<Inner<T>>>,
}

/// What makes the call's value of its segments, which are in the order of its items.
type Decode<T> = fn(Vec<Segment>, Option<&Loads>) -> Result<T, TaskError>;
type Callback<T> = Box<dyn FnOnce(&Result<T, TaskError>) + Send>;

pub(crate) struct Inner<T> {
    job: Job,
    decode: Decode<T>,
    outcome: Mutex<Outcome<T>>,
    /// Rung when a lent outcome has come back.
    returned: Condvar,
}

struct Outcome<T> {
    stage: Stage<T>,
    callbacks: VecDeque<Callback<T>>,
    /// Whether the pool has been asked to tell when the call is done.
    listening: bool,
    /// Whom to wake when the callbacks have run.
    waker: Option<std::task::Waker>,
}

enum Stage<T> {
    Pending,
    Done(Result<T, TaskError>),
    Lent(ThreadId),
    Taken,
}

impl<T> Inner<T> {
    pub(crate) fn new(job: Job, decode: Decode<T>) -> Arc<Inner<T>> {
        let outcome =
            Outcome { stage: Stage::Pending, callbacks: VecDeque::new(), listening: false, waker: None };
        Arc::new(Inner { job, decode, outcome: Mutex::new(outcome), returned: Condvar::new() })
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.job.shared
    }

    /// Nobody unwinds under this lock: a panic of a value's decoder is caught. Not to be called in a forked copy.
    fn outcome(&self) -> MutexGuard<'_, Outcome<T>> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the call is done, after a wait until `deadline`.
    fn wait(&self, deadline: Option<Deadline>) -> bool {
        let Some(id) = self.job.id else { return true };
        self.shared().wait_until(deadline, |state| state.front.is_done(id))
    }

    /// Fetches the outcome if the call is done.
    fn settle(&self, outcome: &mut Outcome<T>) {
        if !matches!(outcome.stage, Stage::Pending) {
            return;
        }
        let Some(id) = self.job.id.filter(|_| self.shared().is_ours()) else {
            outcome.stage = Stage::Done(Err(TaskError::ForkedCopy));
            return;
        };
        let mut state = self.shared().lock();
        if !state.front.is_done(id) {
            return;
        }
        let mut segments = Vec::new();
        while let Some(segment) = state.front.take(id) {
            segments.push(segment);
        }
        drop(state);
        // The segments are gone, so this must come to something.
        let loads = self.shared().loads.as_deref();
        let decoded = catch_unwind(AssertUnwindSafe(|| (self.decode)(segments, loads)));
        let panicked = || TaskError::BadResult("a panic while it was decoded".to_owned());
        outcome.stage = Stage::Done(decoded.unwrap_or_else(|_| Err(panicked())));
    }

    /// Lends the outcome to `look`, if there is one, without the lock.
    fn lend<'a, U>(
        &'a self,
        mut outcome: MutexGuard<'a, Outcome<T>>,
        look: impl FnOnce(&Result<T, TaskError>) -> U,
    ) -> (MutexGuard<'a, Outcome<T>>, Option<thread::Result<U>>) {
        let stage = mem::replace(&mut outcome.stage, Stage::Lent(current().id()));
        let Stage::Done(result) = stage else {
            outcome.stage = stage;
            return (outcome, None);
        };
        drop(outcome);
        let looked = catch_unwind(AssertUnwindSafe(|| look(&result)));
        let mut outcome = self.outcome();
        outcome.stage = Stage::Done(result);
        self.returned.notify_all();
        (outcome, Some(looked))
    }

    /// The outcome, once no other thread has it.
    ///
    /// # Panics
    ///
    /// If this thread has it: a callback, or a look, that waits for itself.
    fn unlent(&self) -> MutexGuard<'_, Outcome<T>> {
        loop {
            if let Some(outcome) = self.unlent_until(None) {
                return outcome;
            }
        }
    }

    /// As [`unlent`](Inner::unlent); `None` if another thread, whose user's code may take its time, has it beyond `deadline`.
    fn unlent_until(&self, deadline: Option<Deadline>) -> Option<MutexGuard<'_, Outcome<T>>> {
        let mut outcome = self.outcome();
        while let Stage::Lent(thread) = outcome.stage {
            assert!(thread != current().id(), "a callback waits for the call that it was called for");
            outcome = match deadline {
                None => self.returned.wait(outcome).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) if deadline.passed() => return None,
                Some(deadline) => {
                    let rest = deadline.remaining().max(Duration::from_micros(1));
                    self.returned.wait_timeout(outcome, rest).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        Some(outcome)
    }

    /// Runs the callbacks, if the call is done.
    fn call_back(&self) {
        let mut outcome = self.unlent();
        self.settle(&mut outcome);
        while matches!(outcome.stage, Stage::Done(_)) {
            let Some(callback) = outcome.callbacks.pop_front() else { break };
            // The panic hook has told of a panic; it concerns nobody else.
            outcome = self.lend(outcome, callback).0;
        }
        outcome.listening = false;
        let waker = outcome.waker.take();
        drop(outcome);
        self.returned.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Takes the result of a call that is done, once its callbacks have run; `None` if they have not by `deadline`.
    fn take(&self, deadline: Option<Deadline>) -> Option<Result<T, TaskError>> {
        if !self.shared().is_ours() {
            // The lock may be held by a thread that this copy does not have.
            return Some(Err(TaskError::ForkedCopy));
        }
        loop {
            let mut outcome = self.unlent_until(deadline)?;
            self.settle(&mut outcome);
            if outcome.callbacks.is_empty() {
                return Some(match mem::replace(&mut outcome.stage, Stage::Taken) {
                    Stage::Done(result) => result,
                    _ => Err(TaskError::Terminated),
                });
            }
            if self.shared().in_keeper() {
                // They are behind what this thread is running, and nobody else runs them.
                drop(outcome);
                self.call_back();
                continue;
            }
            if deadline.is_some_and(Deadline::passed) {
                return None;
            }
            let rest = deadline.map_or(SLICE, |it| it.remaining().clamp(Duration::from_micros(1), SLICE));
            let waited = self.returned.wait_timeout(outcome, rest).unwrap_or_else(PoisonError::into_inner);
            let (outcome, waited) = waited;
            drop(outcome);
            if waited.timed_out() {
                self.shared().rouse_keeper();
            }
        }
    }
}

impl<T: Send + 'static> Notice for Inner<T> {
    fn notice(self: Arc<Self>) {
        self.call_back();
    }
}

impl<T> Task<T> {
    pub(crate) fn new(inner: Arc<Inner<T>>) -> Task<T> {
        Task { inner: Some(inner) }
    }

    /// There is one until the handle is consumed.
    fn inner(&self) -> &Arc<Inner<T>> {
        match &self.inner {
            Some(inner) => inner,
            None => panic!("a call is not asked after its value was handed out"),
        }
    }

    /// Waits for the value. If it has callbacks, it waits until those have returned, too, without a bound.
    ///
    /// # Errors
    ///
    /// What became of the call instead. A panic of the value's `Deserialize` is [`TaskError::BadResult`].
    pub fn get(mut self) -> Result<T, TaskError> {
        self.inner().wait(None);
        self.take()
    }

    /// As [`get`](Task::get), waiting at most for `timeout`, for the call and its callbacks together. (In a callback of
    /// the same pool, callbacks of this call that have not begun are run right here, and take what time they take.)
    ///
    /// # Errors
    ///
    /// The handle itself, if there is no result yet, or a callback has not returned. [`ready`](Task::ready) tells which.
    pub fn get_timeout(mut self, timeout: Duration) -> Result<Result<T, TaskError>, Task<T>> {
        let deadline = Some(Deadline::after(timeout));
        if !self.inner().wait(deadline) {
            return Err(self);
        }
        match self.inner().take(deadline) {
            Some(result) => {
                self.let_go();
                Ok(result)
            }
            None => Err(self),
        }
    }

    fn take(&mut self) -> Result<T, TaskError> {
        let result = loop {
            if let Some(result) = self.inner().take(None) {
                break result;
            }
        };
        self.let_go();
        result
    }

    /// Waits until the call is done, without taking its result.
    pub fn wait(&self) {
        self.inner().wait(None);
    }

    /// As [`wait`](Task::wait), at most for `timeout`; tells whether it is done.
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        self.inner().wait(Some(Deadline::after(timeout)))
    }

    /// Whether the call is done: it has a value or an error.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.inner().wait(Some(Deadline::from_nanos(0)))
    }

    /// Whether it is being run, and not done. Where the back does not tell of starts, what was given to a worker counts
    /// as running.
    #[must_use]
    pub fn running(&self) -> bool {
        let inner = self.inner();
        let Some(id) = inner.job.id else { return false };
        if self.ready() || !inner.shared().is_ours() {
            return false;
        }
        inner.shared().lock().front.is_running(id, inner.shared().tells_starts)
    }

    /// Sees to it that it is not started any more, if it was not yet; true if it will not run. What runs is not
    /// harmed, and its result counts. If a worker has it and has not said yet whether it began, this is false, and
    /// [`cancelled`](Task::cancelled) tells later.
    ///
    /// Of a call with many items, those that were not started are cancelled; it is true if the call is done and comes to
    /// [`TaskError::Cancelled`].
    pub fn cancel(&self) -> bool {
        self.cancel_as(Cancel::Queued);
        self.cancelled()
    }

    /// As [`cancel`](Task::cancel); besides, if it runs, [`cancelled`](crate::cancelled) says true in it from now on. Its
    /// result, if it has one, counts.
    pub fn ask_to_end(&self) -> bool {
        self.cancel_as(Cancel::Ask);
        self.cancelled()
    }

    /// As [`ask_to_end`](Task::ask_to_end); besides, if it still runs after `grace`, its worker is killed and replaced, and it
    /// is [`TaskError::Cancelled`]. It does not wait for that.
    pub fn cancel_running(&self, grace: Duration) -> bool {
        self.cancel_as(Cancel::Kill { grace });
        self.cancelled()
    }

    /// As [`cancel_running`](Task::cancel_running), without grace.
    pub fn kill(&self) -> bool {
        self.cancel_running(Duration::ZERO)
    }

    fn cancel_as(&self, how: Cancel) {
        let inner = self.inner();
        if let Some(id) = inner.job.id.filter(|_| !self.ready()) {
            inner.shared().cancel(id, how);
        }
    }

    /// Whether it is done and comes to [`TaskError::Cancelled`].
    #[must_use]
    pub fn cancelled(&self) -> bool {
        self.peek(|result| matches!(result, Err(TaskError::Cancelled))).unwrap_or(false)
    }

    /// The error that it comes to, if it is done and comes to one. It stays there for [`get`](Task::get).
    #[must_use]
    pub fn error(&self) -> Option<TaskError> {
        self.peek(|result| result.as_ref().err().cloned()).flatten()
    }

    /// Looks at the result without taking it; `None` if there is none yet. While a callback or another look has it, this
    /// waits.
    pub fn peek<U>(&self, look: impl FnOnce(&Result<T, TaskError>) -> U) -> Option<U> {
        self.peek_until(None, look)
    }

    /// Whether it comes to an error, as far as can be told by `deadline`.
    fn failed(&self, deadline: Option<Deadline>) -> bool {
        self.peek_until(deadline, Result::is_err).unwrap_or(false)
    }

    fn peek_until<U>(
        &self,
        deadline: Option<Deadline>,
        look: impl FnOnce(&Result<T, TaskError>) -> U,
    ) -> Option<U> {
        let inner = self.inner();
        if !inner.shared().is_ours() || !inner.wait(Some(Deadline::from_nanos(0))) {
            return None;
        }
        let mut outcome = inner.unlent_until(deadline)?;
        inner.settle(&mut outcome);
        let (outcome, looked) = inner.lend(outcome, look);
        drop(outcome);
        looked.map(|looked| looked.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }

    /// Gives up the handle's hold on the call.
    fn let_go(&mut self) {
        let Some(inner) = self.inner.take() else { return };
        if inner.shared().leak_in_copy() {
            // Callbacks are code and data of the original's.
            mem::forget(inner);
            return;
        }
        if inner.outcome().listening
            && let Some(id) = inner.job.id
        {
            // The callbacks are to be told, and hold the call until then.
            inner.shared().cancel(id, Cancel::Queued);
        }
    }
}

impl<T: Send + 'static> Task<T> {
    /// Has `callback` called with the result, once: when the call is done, or soon if it is already. It runs in a thread
    /// of the pool, after those that were given before; the value is not handed out before it has returned. A panic in it
    /// harms nothing, and is told by the panic hook only.
    ///
    /// It should be short: it delays other calls' callbacks and futures. It may use the pool, but not wait for the call
    /// that it was given to. If the handle is dropped, it is called with what the call comes to all the same, which
    /// is [`TaskError::Cancelled`] if that was not started.
    pub fn on_done(&self, callback: impl FnOnce(&Result<T, TaskError>) + Send + 'static) -> &Task<T> {
        let inner = self.inner();
        if inner.shared().leak_in_copy() {
            mem::forget(callback);
            return self;
        }
        inner.outcome().callbacks.push_back(Box::new(callback));
        inner.listen();
        self
    }

    /// Lets go of the call without cancelling it: it is run, and its callbacks are called.
    pub fn detach(mut self) {
        if let Some(inner) = self.inner.take() {
            if inner.shared().leak_in_copy() {
                mem::forget(inner);
                return;
            }
            inner.listen();
        }
    }
}

impl<T: Send + 'static> Inner<T> {
    /// Has the pool tell, and hold the call until then.
    fn listen(self: &Arc<Self>) {
        if mem::replace(&mut self.outcome().listening, true) {
            return;
        }
        let listener = || Listener::Notice(self.clone());
        let told = self.job.id.is_some_and(|id| self.shared().listen(id, Want::End, listener(), true));
        if !told {
            self.shared().tell(listener());
        }
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, TaskError>;

    /// # Panics
    ///
    /// If it has given its value already.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<T, TaskError>> {
        let inner = self.inner();
        if inner.shared().is_ours()
            && let Some(id) = inner.job.id
        {
            let waker = context.waker();
            if inner.shared().listen(id, Want::End, Listener::Wake(waker.clone()), true) {
                return Poll::Pending;
            }
            let mut outcome = inner.outcome();
            if !outcome.callbacks.is_empty() || matches!(outcome.stage, Stage::Lent(_)) {
                outcome.waker = Some(waker.clone());
                drop(outcome);
                inner.shared().rouse_keeper();
                return Poll::Pending;
            }
        }
        Poll::Ready(self.take())
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.let_go();
    }
}

impl<T> fmt::Debug for Task<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(inner) = &self.inner else { return f.write_str("Task(taken)") };
        let state = match inner.outcome.try_lock().map(|outcome| mem::discriminant(&outcome.stage)) {
            Ok(stage) if stage == mem::discriminant(&Stage::Pending) => "pending",
            _ => "done",
        };
        f.debug_struct("Task").field("job", &inner.job.id).field("state", &state).finish()
    }
}
