//! The driver: what connects jobs, the front and a back, and who does the work of it.
//!
//! Whoever waits for results drives: it hands tasks to the back and takes in events, for every job. Of several threads
//! that wait, one sleeps on the back's waiter, the others on a condition variable; when the driving one has what it
//! wanted, it wakes them and another takes over. Where nobody waits, the back calls the attendant when a worker has
//! died; the local back does so on the thread that watches pidfds for all of the process
//! ([`procession_process::watch`]). What cannot wait for a waiter is driven by the [keeper](keeper), a thread that is
//! started when it is first needed.
//!
//! # Listeners
//!
//! Who wants to be told of a job without waiting for it leaves a [`Listener`], and the front is asked to watch the job. Once
//! what it wants holds, whoever drives puts the listener where it belongs: into a mailbox at once, which is our own
//! code, or to what is `due`, which the keeper runs without the lock, since it is a user's.
//!
//! User code (encoding, decoding, input iterators and their `drop`) never runs under the lock.
//!
//! # In a forked copy
//!
//! A copy of this process that some `fork` makes has a copy of the pool's state, perhaps in the middle of a change and
//! with the lock held by a thread that the copy does not have, and its workers are not its children. So there every
//! call is an error before it takes the lock, and nothing of the state is ever dropped: whoever lets go of it in a copy
//! leaks a reference.

mod functions;
mod keeper;
mod listeners;

pub(crate) use listeners::{Listener, Mailbox, Notice};

use crate::{
    TaskError,
    back::{Attendant, Back, Cancel, Capabilities, Events, FunctionId, Key, Submit, Waiter},
    bug::{Bug, planted},
    front::{Front, JobId, JobOptions},
    loads::Loads,
    seeing::{View, log},
    sync::{Condvar, Mutex, MutexGuard, yield_now},
    work::Callable,
};
use functions::Functions;
use keeper::Keeper;
use listeners::Listeners;
use procession_sys::{
    Deadline,
    hooks::{ForkHooks, around_fork},
};
use std::{
    sync::{
        Arc, Once, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

/// How long a driver sleeps before it polls the back unasked.
const SLICE: Duration = Duration::from_millis(20);
/// How often the attendant tries for the lock.
const ATTEMPTS: u32 = 100;
/// How many forks lie between this process and the one that loaded the program's first pool.
static FORKS: AtomicU32 = AtomicU32::new(0);

/// A pool's state, shared with the iterators and handles that came from it.
#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    /// Where those wait that do not drive.
    others: Condvar,
    /// Where the keeper is while it is not needed.
    parked: Condvar,
    waiter: Arc<dyn Waiter>,
    /// Whether the attendant came while somebody held the lock, and went.
    missed: AtomicBool,
    /// Whether the back tells of each item that it has been started.
    pub(crate) tells_starts: bool,
    /// Whether it can do with plain numbers.
    pub(crate) takes_plain: bool,
    workers: AtomicUsize,
    /// Where it can be seen.
    pub(crate) view: View,
    /// When it was made.
    pub(crate) born: Deadline,
    /// How blocks of a heap go along, if the back was made on one.
    pub(crate) loads: Option<Arc<Loads>>,
    /// Whose it is: the process with this pid, and as many forks.
    owner: (u32, u32),
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) front: Front,
    pub(crate) back: Box<dyn Back>,
    pub(crate) events: Events,
    capabilities: Capabilities,
    functions: Functions,
    /// Whether new jobs are refused.
    closed: bool,
    /// Who sleeps on the waiter, and how many sleep on the condition variable.
    driver: Driver,
    waiting: usize,
    keeper: Keeper,
    listeners: Listeners,
    /// When to look for silent tasks again.
    next_look: Deadline,
}

/// Who sleeps on the back's waiter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Driver {
    Nobody,
    /// A thread that waits for results.
    Waiter,
    /// The keeper, from which any thread that waits takes over.
    Keeper,
}

impl State {
    /// Hands out tasks and takes in events until neither changes anything.
    fn pump(&mut self) {
        loop {
            self.dispatch();
            self.back.poll(&mut self.events);
            if self.events.is_empty() {
                break;
            }
            let now = self.now();
            let mut list = self.events.take();
            for event in list.drain(..) {
                if let Some(unused) = self.front.handle(event, now) {
                    self.events.recycle(unused);
                }
            }
            self.events.give_back(list);
            for buffer in self.front.take_freed() {
                self.events.recycle(buffer);
            }
        }
        if let Some(patience) = self.capabilities.patience {
            self.look_for_silence(patience);
        }
    }

    /// The time, where it matters: only a front that may lose things asks how long ago something was.
    fn now(&self) -> Deadline {
        if self.capabilities.patience.is_some() { self.back.now() } else { Deadline::from_nanos(0) }
    }

    fn dispatch(&mut self) {
        let now = self.now();
        while let Some(task) = self.front.next() {
            match self.back.submit(&task) {
                Submit::Accepted => self.front.dispatched(now),
                Submit::Refused(error) => self.front.refused(error),
                Submit::Full => break,
            }
        }
    }

    fn look_for_silence(&mut self, patience: Duration) {
        for key in self.front.take_retired() {
            self.back.forget(key);
        }
        let now = self.back.now();
        if now < self.next_look {
            return;
        }
        let patience = u64::try_from(patience.as_nanos()).unwrap_or(u64::MAX);
        self.next_look = Deadline::from_nanos(now.as_nanos().saturating_add(patience / 2));
        let before = Deadline::from_nanos(now.as_nanos().saturating_sub(patience));
        for key in self.front.silent(before, now) {
            self.back.query(key);
        }
    }
}

impl Shared {
    pub(crate) fn new(back: Box<dyn Back>) -> Arc<Shared> {
        static PREPARED: Once = Once::new();
        PREPARED.call_once(|| {
            let count = || {
                FORKS.fetch_add(1, Ordering::Relaxed);
            };
            around_fork(ForkHooks { in_child: Some(count), ..ForkHooks::default() });
        });
        let capabilities = back.capabilities();
        let waiter = back.waiter();
        let quiet = !waiter.sleeps();
        let loads = back.ring().map(|ring| Arc::new(Loads::new(ring)));
        let shared = Arc::new(Shared {
            waiter,
            missed: AtomicBool::new(false),
            tells_starts: capabilities.started,
            // What brings blocks along is a record, whatever it is.
            takes_plain: capabilities.plain && loads.is_none(),
            workers: AtomicUsize::new(back.workers().max(1)),
            view: View::default(),
            born: Deadline::now(),
            loads: loads.clone(),
            owner: (procession_sys::pid(), FORKS.load(Ordering::Relaxed)),
            others: Condvar::new(),
            parked: Condvar::new(),
            state: Mutex::new(State {
                front: Front::new(capabilities.patience.is_some(), quiet).with_loads(loads),
                back,
                events: Events::default(),
                capabilities,
                functions: Functions::default(),
                closed: false,
                driver: Driver::Nobody,
                waiting: 0,
                keeper: Keeper::default(),
                listeners: Listeners::default(),
                next_look: Deadline::from_nanos(0),
            }),
        });
        let weak = Arc::downgrade(&shared);
        shared.lock().back.set_attendant(Attendant::new(move || {
            if let Some(shared) = weak.upgrade() {
                shared.attend();
            }
        }));
        // A worker may have died before there was anybody to tell.
        shared.attend();
        shared
    }

    /// Moves everything on, if nobody else does. It does not wait: whoever holds the lock is at it, and a driver that
    /// sleeps is woken otherwise.
    fn attend(self: &Arc<Shared>) {
        for _ in 0..ATTEMPTS {
            if let Ok(mut state) = self.state.try_lock() {
                self.pump(&mut state);
                return self.leave(&mut state);
            }
            yield_now();
        }
        // Whoever has it looks once more.
        self.missed.store(true, Ordering::Release);
        if let Ok(mut state) = self.state.try_lock() {
            self.pump(&mut state);
            self.leave(&mut state);
        }
    }

    /// Whether this process is the one that made the pool, as far as can be told without a system call.
    #[inline]
    pub(crate) fn is_ours(&self) -> bool {
        self.owner.1 == FORKS.load(Ordering::Relaxed)
    }

    /// In a forked copy: sees to it that nothing of this is ever dropped, and says so. A copy that was made without
    /// `fork`, by a bare system call, is found here as well.
    pub(crate) fn leak_in_copy(self: &Arc<Shared>) -> bool {
        let copy = !self.is_ours() || self.owner.0 != procession_sys::pid();
        if copy {
            std::mem::forget(self.clone());
        }
        copy
    }

    /// The state. No user code runs under this lock, so a poisoned one is whole. Not to be called in a forked copy.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn open(
        &self,
        function: &Arc<Callable>,
        options: impl FnOnce(FunctionId) -> JobOptions,
    ) -> Result<JobId, TaskError> {
        if !self.is_ours() {
            return Err(TaskError::ForkedCopy);
        }
        let mut state = self.lock();
        if let Some(error) = state.front.broken() {
            return Err(error.clone());
        }
        if state.closed {
            return Err(TaskError::Terminated);
        }
        let (id, forgotten) = state.define(function);
        let job = state.front.open(options(id));
        drop(state);
        drop(forgotten);
        Ok(job)
    }

    /// Adds tasks, or items that failed before they could be sent, which are all of a job's, and has them begin.
    pub(crate) fn begin(
        self: &Arc<Shared>,
        job: JobId,
        tasks: impl IntoIterator<Item = Result<(u32, Vec<u8>), TaskError>>,
    ) {
        let mut state = self.lock();
        for task in tasks {
            match task {
                Ok((items, arguments)) => state.front.add(job, items, arguments),
                Err(error) => state.front.add_failed(job, error),
            }
        }
        state.front.close_input(job);
        self.pump(&mut state);
        self.leave(&mut state);
    }

    /// Ends a job. What nobody has been told of it is not told.
    pub(crate) fn drop_job(&self, job: JobId) {
        let mut state = self.lock();
        let listeners = state.listeners.remove(job);
        let ended = state.front.drop_job(job).map(|(function, keys, rest)| {
            for key in keys {
                state.back.cancel(key, Cancel::Queued);
            }
            (state.release(function), rest)
        });
        drop(state);
        // Code of the user's may run here: of listeners, captured data and errors of the input.
        drop((listeners, ended));
    }

    /// Cancels what can be cancelled of a job, and takes in what has become of it so far.
    pub(crate) fn cancel(self: &Arc<Shared>, job: JobId, how: Cancel) {
        if !self.is_ours() {
            return;
        }
        let mut state = self.lock();
        let keys: Vec<Key> = state.front.cancel(job);
        for key in &keys {
            state.back.cancel(*key, how);
        }
        if matches!(how, Cancel::Kill { .. }) && !keys.is_empty() {
            // Its time is to run out also if nobody waits.
            state.front.attend(job);
        }
        self.pump(&mut state);
        if state.waiting > 0 {
            self.others.notify_all();
        }
        self.leave(&mut state);
    }

    /// Moves everything on, and tells other threads if something was settled.
    pub(crate) fn pump(self: &Arc<Shared>, state: &mut State) {
        let before = state.front.settlements();
        state.pump();
        while self.missed.swap(false, Ordering::Acquire) {
            state.pump();
        }
        if state.front.has_signalled() {
            self.deliver(state);
        }
        if state.waiting > 0 && state.front.settlements() != before && !planted(Bug::NoWordOfSettlement) {
            self.others.notify_all();
        }
    }

    /// Waits until `done`, driving if nobody else does; false if `deadline` comes first. In a forked copy it is done.
    pub(crate) fn wait_until(
        self: &Arc<Shared>,
        deadline: Option<Deadline>,
        mut done: impl FnMut(&mut State) -> bool,
    ) -> bool {
        if !self.is_ours() {
            return true;
        }
        let mut state = self.lock();
        loop {
            self.pump(&mut state);
            let is_done = done(&mut state);
            if is_done || deadline.is_some_and(Deadline::passed) {
                // Whoever waits may have to drive now.
                if state.waiting > 0 && !planted(Bug::NoHandOver) {
                    self.others.notify_all();
                }
                self.leave(&mut state);
                return is_done;
            }
            let slice = Deadline::after(SLICE);
            let slice = deadline.map_or(slice, |deadline| deadline.min(slice));
            if state.driver == Driver::Waiter {
                state.waiting += 1;
                let waited = self.others.wait_timeout(state, slice.remaining().max(Duration::from_micros(1)));
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
                state.waiting -= 1;
                continue;
            }
            // If the keeper is at it, it finds itself replaced when it wakes.
            state.driver = Driver::Waiter;
            drop(state);
            self.waiter.wait_while(Some(slice), &mut || {
                let mut state = self.lock();
                self.pump(&mut state);
                !done(&mut state)
            });
            state = self.lock();
            state.driver = Driver::Nobody;
        }
    }

    /// Whether the back may be polled though nobody waits.
    pub(crate) fn polls_itself(&self) -> bool {
        self.waiter.sleeps()
    }

    /// How many workers the back means to keep.
    pub(crate) fn workers(&self) -> usize {
        self.workers.load(Ordering::Relaxed)
    }

    /// Has the back keep this many workers, if it can.
    pub(crate) fn resize(self: &Arc<Shared>, workers: usize) {
        let mut state = self.lock();
        state.back.resize(workers);
        self.workers.store(state.back.workers().max(1), Ordering::Relaxed);
        self.pump(&mut state);
        self.leave(&mut state);
    }

    /// Refuses new jobs.
    pub(crate) fn close(&self) {
        if self.is_ours() && !std::mem::replace(&mut self.lock().closed, true) {
            log::closed();
        }
    }

    /// Ends every job with [`TaskError::Terminated`], and the workers.
    pub(crate) fn terminate(self: &Arc<Shared>) {
        if !self.is_ours() {
            return;
        }
        self.view.close();
        let mut state = self.lock();
        state.closed = true;
        if state.front.broken().is_none() {
            log::terminated();
        }
        state.front.break_all(&TaskError::Terminated);
        state.back.terminate();
        self.deliver(&mut state);
        self.dismiss(&mut state);
        self.others.notify_all();
        drop(state);
        log::flush();
    }

    /// Waits for what is under way, then for the workers to end by themselves; false if `deadline` comes first.
    pub(crate) fn join(self: &Arc<Shared>, deadline: Option<Deadline>) -> bool {
        self.close();
        let in_keeper = self.in_keeper();
        let idle = |state: &mut State| state.front.is_idle() && (in_keeper || !state.owes());
        if !self.wait_until(deadline, idle) {
            return false;
        }
        if self.is_ours() {
            let mut state = self.lock();
            state.front.break_all(&TaskError::Terminated);
            self.deliver(&mut state);
            state.back.close();
        }
        self.wait_until(deadline, |state| state.back.has_ended())
    }
}
