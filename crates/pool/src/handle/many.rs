//! Waiting for several calls at once.

use super::Task;
use crate::{
    TimedOut,
    driver::{Listener, Mailbox, Shared},
    front::Want,
};
use procession_sys::Deadline;
use std::{fmt, iter::FusedIterator, sync::Arc, time::Duration};

/// How long a wait for calls of several pools lasts before a look at them.
const SLICE: Duration = Duration::from_millis(250);

/// The tasks, in the order in which they are done: those first that are done already. They may be of different pools. Each
/// is done when it comes, so its `get` does not wait.
///
/// ```no_run
/// # let pool = procession_pool::Pool::new(2)?;
/// let tasks = pool.tasks(|n: u64| n + 1, 0..100).spawn_each()?;
/// for task in procession_pool::as_completed(tasks) {
///     println!("{}", task.get()?);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn as_completed<T>(tasks: impl IntoIterator<Item = Task<T>>) -> AsCompleted<T> {
    let tasks: Vec<Option<Task<T>>> = tasks.into_iter().map(Some).collect();
    let mailbox = Arc::new(Mailbox::default());
    let mut pools = tasks.iter().flatten().map(|task| task.inner().shared());
    let first = pools.next().cloned();
    let pool = first.filter(|first| pools.all(|other| Arc::ptr_eq(first, other)));
    for (number, task) in tasks.iter().flatten().enumerate() {
        let inner = task.inner();
        let mail = Listener::Mail(mailbox.clone(), number);
        // Where all are of one pool, it is driven here.
        let attend = pool.is_none();
        let listens = |id| inner.shared().is_ours() && inner.shared().listen(id, Want::End, mail, attend);
        if !inner.job.id.is_some_and(listens) {
            mailbox.put(number);
        }
    }
    AsCompleted { left: tasks.len(), tasks, mailbox, pool }
}

fn unlisten<T>(task: &Task<T>, mailbox: &Arc<Mailbox>) {
    let inner = task.inner();
    if let Some(id) = inner.job.id {
        inner.shared().unlisten(id, mailbox);
    }
}

/// An iterator over tasks that are done; made by [`as_completed`]. Dropping it drops, and so cancels, the others.
#[must_use = "iterators are lazy"]
pub struct AsCompleted<T> {
    tasks: Vec<Option<Task<T>>>,
    left: usize,
    mailbox: Arc<Mailbox>,
    /// The pool, if there is one and no other.
    pool: Option<Arc<Shared>>,
}

impl<T> AsCompleted<T> {
    /// The next task that is done, if one is within `timeout`; `None` at the end.
    ///
    /// # Errors
    ///
    /// [`TimedOut`], if none is. Ask again.
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<Task<T>>, TimedOut> {
        Ok(self.next_number(Some(Deadline::after(timeout)))?.and_then(|number| self.tasks[number].take()))
    }

    /// Has the iteration end with an error once `total` is over, counted from now.
    pub fn timeout(self, total: Duration) -> InTime<T> {
        InTime { until: Deadline::after(total), all: self.left, tasks: Some(self) }
    }

    /// The tasks that were not handed out, in the order in which they came in.
    #[must_use]
    pub fn into_rest(self) -> Vec<Task<T>> {
        let rest: Vec<Task<T>> = self.tasks.into_iter().flatten().collect();
        rest.iter().for_each(|task| unlisten(task, &self.mailbox));
        rest
    }

    fn next_number(&mut self, deadline: Option<Deadline>) -> Result<Option<usize>, TimedOut> {
        loop {
            if let Some(number) = self.mailbox.take() {
                self.left -= 1;
                return Ok(Some(number));
            }
            if self.left == 0 {
                return Ok(None);
            }
            match &self.pool {
                Some(pool) => {
                    if !pool.wait_until(deadline, |_| !self.mailbox.is_empty()) {
                        return Err(TimedOut);
                    }
                    if !pool.is_ours() {
                        // In a forked copy nothing comes any more; the tasks tell so themselves.
                        (0..self.tasks.len())
                            .filter(|number| self.tasks[*number].is_some())
                            .for_each(|number| self.mailbox.put(number));
                    }
                }
                None => {
                    if deadline.is_some_and(Deadline::passed) {
                        return Err(TimedOut);
                    }
                    let slice = Deadline::after(SLICE);
                    self.mailbox.wait(deadline.map_or(slice, |it| it.min(slice)).remaining());
                }
            }
        }
    }
}

impl<T> Iterator for AsCompleted<T> {
    type Item = Task<T>;

    fn next(&mut self) -> Option<Task<T>> {
        // Without a deadline nothing times out.
        let number = self.next_number(None).unwrap_or(None)?;
        self.tasks[number].take()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl<T> FusedIterator for AsCompleted<T> {}

impl<T> fmt::Debug for AsCompleted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsCompleted").field("left", &self.left).finish_non_exhaustive()
    }
}

/// As [`AsCompleted`], until a point in time; made by [`AsCompleted::timeout`].
#[derive(Debug)]
#[must_use = "iterators are lazy"]
pub struct InTime<T> {
    tasks: Option<AsCompleted<T>>,
    all: usize,
    until: Deadline,
}

/// Tasks that were not done in time.
pub struct Unfinished<T> {
    /// Those that were not handed out, in the order in which they came in.
    pub tasks: Vec<Task<T>>,
    /// How many there were in all.
    pub of: usize,
}

impl<T> Iterator for InTime<T> {
    type Item = Result<Task<T>, Unfinished<T>>;

    fn next(&mut self) -> Option<Result<Task<T>, Unfinished<T>>> {
        let tasks = self.tasks.as_mut()?;
        match tasks.next_number(Some(self.until)) {
            Ok(number) => tasks.tasks[number?].take().map(Ok),
            Err(TimedOut) => {
                let tasks = self.tasks.take()?.into_rest();
                Some(Err(Unfinished { tasks, of: self.all }))
            }
        }
    }
}

impl<T> FusedIterator for InTime<T> {}

impl<T> fmt::Display for Unfinished<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (of {}) tasks are unfinished", self.tasks.len(), self.of)
    }
}

impl<T> fmt::Debug for Unfinished<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<T> std::error::Error for Unfinished<T> {}

/// What [`wait`] waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WaitFor {
    /// One task that is done.
    FirstCompleted,
    /// One that has failed or was cancelled, or all.
    FirstError,
    /// All.
    All,
}

/// What [`wait`] gives: the tasks that are done and those that are not, each in the order in which they came in.
#[derive(Debug)]
#[must_use = "a call that is dropped is cancelled"]
pub struct Waited<T> {
    /// Those that are done.
    pub done: Vec<Task<T>>,
    /// Those that are not.
    pub not_done: Vec<Task<T>>,
}

/// Waits until `when` holds of the tasks, or `timeout` is over. They may be of different pools.
pub fn wait<T>(
    tasks: impl IntoIterator<Item = Task<T>>,
    when: WaitFor,
    timeout: Option<Duration>,
) -> Waited<T> {
    let deadline = timeout.map(Deadline::after);
    let mut tasks = as_completed(tasks);
    let mut is_done = vec![false; tasks.left];
    let mut enough = false;
    loop {
        // What is done already counts, also when it is enough.
        let now = Some(Deadline::from_nanos(0));
        let Ok(Some(number)) = tasks.next_number(if enough { now } else { deadline }) else { break };
        is_done[number] = true;
        enough |= match when {
            WaitFor::FirstCompleted => true,
            WaitFor::FirstError => tasks.tasks[number].as_ref().is_some_and(|task| task.failed(deadline)),
            WaitFor::All => false,
        };
    }
    let mut waited = Waited { done: Vec::new(), not_done: Vec::new() };
    tasks.tasks.iter().flatten().for_each(|task| unlisten(task, &tasks.mailbox));
    for (task, is_done) in tasks.tasks.into_iter().zip(is_done) {
        let place = if is_done { &mut waited.done } else { &mut waited.not_done };
        place.extend(task);
    }
    waited
}
