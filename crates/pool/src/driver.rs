//! The driver: what connects jobs, the front and a back, and who does the work of it.
//!
//! Whoever waits for results drives: it hands tasks to the back and takes in events, for every job. Of several threads
//! that wait, one sleeps on the back's waiter, the others on a condition variable; when the driving one has what it
//! wanted, it wakes them and another takes over. The pool starts no thread for this. Where nobody waits, the back
//! calls the attendant when a worker has died; the local back does so on the thread that watches pidfds for all of the
//! process ([`procession_process::watch`]).
//!
//! User code (encoding, decoding, input iterators and their `drop`) never runs under the lock.
//!
//! # In a forked copy
//!
//! A copy of this process that some `fork` makes has a copy of the pool's state, perhaps in the middle of a change and
//! with the lock held by a thread that the copy does not have, and its workers are not its children. So there every
//! call is an error before it takes the lock, and nothing of the state is ever dropped: whoever lets go of it in a copy
//! leaks a reference.

use crate::{
    TaskError,
    back::{Attendant, Back, Capabilities, Events, FunctionId, Submit, Waiter},
    front::{Front, JobId, JobOptions},
    work::{Callable, Encoding},
};
use procession_sys::{
    Deadline,
    hooks::{ForkHooks, around_fork},
};
use std::{
    collections::HashMap,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, Once, PoisonError, Weak,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

/// How long a driver sleeps before it polls the back unasked.
const SLICE: Duration = Duration::from_millis(20);
/// How often the attendant tries for the lock.
const ATTEMPTS: u32 = 100;
/// How many functions that no job uses and nobody holds stay defined, in case they are used again, and how many bytes
/// they may have together, encoded.
const UNUSED_FUNCTIONS: usize = 64;
const UNUSED_BYTES: usize = 4 << 20;

/// How many forks lie between this process and the one that loaded the program's first pool.
static FORKS: AtomicU32 = AtomicU32::new(0);

/// A pool's state, shared with the iterators and handles that came from it.
#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    /// Where those wait that do not drive.
    others: Condvar,
    waiter: Arc<dyn Waiter>,
    workers: AtomicUsize,
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
    /// Whether some thread sleeps on the waiter, and how many on the condition variable.
    driving: bool,
    waiting: usize,
    /// When to look for silent tasks again.
    next_look: Deadline,
}

/// The functions that the back knows.
#[derive(Debug, Default)]
struct Functions {
    by_encoding: HashMap<Encoding, FunctionId>,
    entries: HashMap<FunctionId, Entry>,
    /// Those that no job uses, the longest unused first, and their bytes.
    unused: Vec<FunctionId>,
    unused_bytes: usize,
    next: u32,
}

#[derive(Debug)]
struct Entry {
    encoding: Encoding,
    users: usize,
    /// Some user's hold on it: who keeps a [`Work`](crate::Work) means to use it again.
    holder: Weak<Callable>,
}

impl Functions {
    /// Takes out those that are unused and too many, or too large together; the ones used last stay.
    fn surplus(&mut self) -> Vec<FunctionId> {
        if self.unused.len() <= UNUSED_FUNCTIONS && self.unused_bytes <= UNUSED_BYTES {
            return Vec::new();
        }
        let (mut count, mut bytes) = (0, 0);
        let mut surplus = Vec::new();
        for id in self.unused.iter().rev() {
            let Some(entry) = self.entries.get(id) else { continue };
            if entry.holder.strong_count() > 0 {
                continue;
            }
            count += 1;
            bytes += entry.encoding.bytes.len();
            if count > UNUSED_FUNCTIONS || bytes > UNUSED_BYTES {
                surplus.push(*id);
            }
        }
        for id in &surplus {
            if let Some(entry) = self.entries.remove(id) {
                self.by_encoding.remove(&entry.encoding);
                self.unused_bytes -= entry.encoding.bytes.len();
            }
        }
        self.unused.retain(|id| !surplus.contains(id));
        surplus
    }
}

impl State {
    /// Makes `function` known to the back, if it is not yet, for a job that is about to begin.
    fn define(&mut self, function: &Arc<Callable>) -> FunctionId {
        let functions = &mut self.functions;
        let known = functions.by_encoding.get(&function.encoding).copied();
        if let Some((id, entry)) = known.and_then(|id| Some((id, functions.entries.get_mut(&id)?))) {
            entry.users += 1;
            entry.holder = Arc::downgrade(function);
            if entry.users == 1 {
                functions.unused_bytes -= entry.encoding.bytes.len();
                functions.unused.retain(|unused| *unused != id);
            }
            return id;
        }
        self.undefine_surplus();
        let functions = &mut self.functions;
        let id = loop {
            let id = FunctionId(functions.next);
            functions.next = functions.next.wrapping_add(1);
            if !functions.entries.contains_key(&id) {
                break id;
            }
        };
        let encoding = function.encoding.clone();
        functions.by_encoding.insert(encoding.clone(), id);
        functions.entries.insert(id, Entry { encoding, users: 1, holder: Arc::downgrade(function) });
        self.back.define(id, &function.erased, &function.encoding.bytes);
        id
    }

    fn release(&mut self, id: FunctionId) {
        let functions = &mut self.functions;
        let Some(entry) = functions.entries.get_mut(&id) else { return };
        entry.users -= 1;
        if entry.users == 0 {
            functions.unused_bytes += entry.encoding.bytes.len();
            functions.unused.push(id);
            self.undefine_surplus();
        }
    }

    fn undefine_surplus(&mut self) {
        for id in self.functions.surplus() {
            self.back.undefine(id);
        }
    }

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
        let shared = Arc::new(Shared {
            waiter: back.waiter(),
            workers: AtomicUsize::new(back.workers().max(1)),
            owner: (std::process::id(), FORKS.load(Ordering::Relaxed)),
            others: Condvar::new(),
            state: Mutex::new(State {
                front: Front::new(capabilities.patience.is_some()),
                back,
                events: Events::default(),
                capabilities,
                functions: Functions::default(),
                closed: false,
                driving: false,
                waiting: 0,
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
    fn attend(&self) {
        for _ in 0..ATTEMPTS {
            if let Ok(mut state) = self.state.try_lock() {
                return self.pump(&mut state);
            }
            std::thread::yield_now();
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
        let copy = !self.is_ours() || self.owner.0 != std::process::id();
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
        let id = state.define(function);
        Ok(state.front.open(options(id)))
    }

    pub(crate) fn drop_job(&self, job: JobId) {
        let mut state = self.lock();
        if let Some(function) = state.front.drop_job(job) {
            state.release(function);
        }
    }

    /// Moves everything on, and tells other threads if something was settled.
    pub(crate) fn pump(&self, state: &mut State) {
        let before = state.front.settlements();
        state.pump();
        if state.waiting > 0 && state.front.settlements() != before {
            self.others.notify_all();
        }
    }

    /// Waits until `done`, driving if nobody else does; false if `deadline` comes first. In a forked copy it is done.
    pub(crate) fn wait_until(
        &self,
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
                if state.waiting > 0 {
                    self.others.notify_all();
                }
                return is_done;
            }
            let slice = Deadline::after(SLICE);
            let slice = deadline.map_or(slice, |deadline| deadline.min(slice));
            if state.driving {
                state.waiting += 1;
                let waited = self.others.wait_timeout(state, slice.remaining().max(Duration::from_micros(1)));
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
                state.waiting -= 1;
                continue;
            }
            state.driving = true;
            drop(state);
            self.waiter.wait_while(Some(slice), &mut || {
                let mut state = self.lock();
                self.pump(&mut state);
                !done(&mut state)
            });
            state = self.lock();
            state.driving = false;
        }
    }

    /// How many workers the back means to keep.
    pub(crate) fn workers(&self) -> usize {
        self.workers.load(Ordering::Relaxed)
    }

    /// Has the back keep this many workers, if it can.
    pub(crate) fn resize(&self, workers: usize) {
        let mut state = self.lock();
        state.back.resize(workers);
        self.workers.store(state.back.workers().max(1), Ordering::Relaxed);
        self.pump(&mut state);
    }

    /// Refuses new jobs.
    pub(crate) fn close(&self) {
        if self.is_ours() {
            self.lock().closed = true;
        }
    }

    /// Ends every job with [`TaskError::Terminated`], and the workers.
    pub(crate) fn terminate(&self) {
        if !self.is_ours() {
            return;
        }
        let mut state = self.lock();
        state.closed = true;
        state.front.break_all(&TaskError::Terminated);
        state.back.terminate();
        self.others.notify_all();
    }

    /// Waits for what is under way, then for the workers to end by themselves; false if `deadline` comes first.
    pub(crate) fn join(&self, deadline: Option<Deadline>) -> bool {
        self.close();
        if !self.wait_until(deadline, |state| state.front.is_idle()) {
            return false;
        }
        if self.is_ours() {
            let mut state = self.lock();
            state.front.break_all(&TaskError::Terminated);
            state.back.close();
        }
        self.wait_until(deadline, |state| state.back.has_ended())
    }
}
