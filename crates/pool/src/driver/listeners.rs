//! Who is to be told of a job, and how.

use super::{Shared, State};
use crate::{
    front::{JobId, Want},
    sync::{Condvar, Mutex},
};
use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Arc, PoisonError},
    task::Waker,
    time::Duration,
};

/// Something to be run by the keeper.
pub(crate) trait Notice: Send + Sync {
    /// Runs in the keeper's thread, under no lock. It may run users' code; a panic of it is caught.
    fn notice(self: Arc<Self>);
}

/// Who is to be told.
#[derive(Clone)]
pub(crate) enum Listener {
    /// A number is put into a mailbox.
    Mail(Arc<Mailbox>, usize),
    /// A future is polled again. A job has at most one of these.
    Wake(Waker),
    Notice(Arc<dyn Notice>),
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Listener::Mail(..) => "Mail",
            Listener::Wake(_) => "Wake",
            Listener::Notice(_) => "Notice",
        })
    }
}

/// Numbers, in the order in which they were put in.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    /// Taken after the pool's lock, and never held for long.
    numbers: Mutex<VecDeque<usize>>,
    came: Condvar,
}

impl Mailbox {
    pub(crate) fn put(&self, number: usize) {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner).push_back(number);
        self.came.notify_all();
    }

    pub(crate) fn take(&self) -> Option<usize> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Waits for a number for a while.
    pub(crate) fn wait(&self, time: Duration) {
        let numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.came.wait_timeout_while(numbers, time, |numbers| numbers.is_empty());
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

/// Who is to be told of which job, and who is to be told now.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    of_jobs: HashMap<JobId, Vec<Listener>>,
    due: VecDeque<Listener>,
}

impl Listeners {
    pub(super) fn remove(&mut self, job: JobId) -> Vec<Listener> {
        if self.of_jobs.is_empty() { Vec::new() } else { self.of_jobs.remove(&job).unwrap_or_default() }
    }

    pub(super) fn has_due(&self) -> bool {
        !self.due.is_empty()
    }

    pub(super) fn next_due(&mut self) -> Option<Listener> {
        self.due.pop_front()
    }
}

impl Shared {
    /// Has `listener` told once `want` holds of `job`; false, and nothing else, if it holds already.
    ///
    /// With `attend` the keeper goes on with the job meanwhile; otherwise the caller is about to wait.
    pub(crate) fn listen(
        self: &Arc<Shared>,
        job: JobId,
        want: Want,
        listener: Listener,
        attend: bool,
    ) -> bool {
        let mut state = self.lock();
        self.pump(&mut state);
        if state.front.watch(job, want) {
            return false;
        }
        if attend {
            state.front.attend(job);
        }
        let listeners = state.listeners.of_jobs.entry(job).or_default();
        let mut old = None;
        match listeners
            .iter_mut()
            .find(|old| matches!((old, &listener), (Listener::Wake(_), Listener::Wake(_))))
        {
            Some(place) => old = Some(std::mem::replace(place, listener)),
            None => listeners.push(listener),
        }
        self.leave(&mut state);
        drop(state);
        // A waker is a user's.
        drop(old);
        true
    }

    /// Ends what puts into `mailbox` when `job` is done.
    pub(crate) fn unlisten(&self, job: JobId, mailbox: &Arc<Mailbox>) {
        if !self.is_ours() {
            return;
        }
        let mut state = self.lock();
        if let Some(listeners) = state.listeners.of_jobs.get_mut(&job) {
            listeners.retain(|it| !matches!(it, Listener::Mail(other, _) if Arc::ptr_eq(other, mailbox)));
        }
    }

    /// Has `listener` told now.
    pub(crate) fn tell(self: &Arc<Shared>, listener: Listener) {
        let mut state = self.lock();
        state.listeners.due.push_back(listener);
        self.rouse(&mut state);
    }

    /// Puts the listeners of jobs of which there is something to tell where they belong.
    pub(super) fn deliver(self: &Arc<Shared>, state: &mut State) {
        for job in state.front.take_signalled() {
            for listener in state.listeners.remove(job) {
                match listener {
                    Listener::Mail(mailbox, number) => mailbox.put(number),
                    other => state.listeners.due.push_back(other),
                }
            }
        }
        if state.listeners.has_due() {
            self.rouse(state);
        }
    }
}
