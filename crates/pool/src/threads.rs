//! The back over threads of this process: CPython's `ThreadPool`.
//!
//! For work that waits more than it computes, and to compare with. The calls are the same as of a pool of processes, and so
//! is what they do: arguments and results are encoded and decoded, a panic is that item's error. What threads cannot do:
//!
//! * A task that exits, aborts or touches memory that is not its own ends the whole program.
//! * A running item cannot be killed, see below.
//! * A task that waits for a call of its own pool may wait for itself, once all threads do that.
//!
//! # What is given up is left behind
//!
//! An item that runs longer than its limit is settled as [`TaskError::TimedOut`] all the same,
//! and one that is cancelled by [`Cancel::Kill`] as [`TaskError::Cancelled`]: nobody waits for
//! it any more, [`cancelled`](crate::cancelled) says true in it, and what was behind it runs elsewhere. Its thread is *left
//! behind*: another takes its place, and it ends by itself once the item does, whose result is thrown away; if that never
//! happens it stays until the program ends. [`WorkerInfo::left_behind`](crate::back::WorkerInfo::left_behind) counts them.
//!
//! [`terminate`](crate::Pool::terminate) and dropping the pool ask what runs to end, wait for 200 ms, and leave behind who
//! still runs then. [`kill_worker`](crate::Pool::kill_worker) does nothing.
#![expect(unsafe_code, reason = "vouches for arguments that were encoded in this very process")]

mod crew;
mod task;

use self::{
    crew::{Crew, CrewWaiter, Recipe},
    task::{Function, Guard, Task},
};
use crate::{
    Error, Pool, Result, TaskError,
    back::{
        Attendant, Back, Cancel, Capabilities, Envelope, Event, Events, FunctionId, History, Key, Submit,
        Waiter, WorkerInfo,
    },
    pool::Defaults,
    seeing::{self, Timeline},
};
use procession_parcel::{Erased, Parcel};
use procession_process::cpu_count;
use procession_sys::{Deadline, Spin};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

/// How long a pool that ends waits for what runs.
const GRACE: Duration = Duration::from_millis(200);

impl Pool {
    /// A pool of `workers` threads of this process; see [`threads`](crate::threads).
    ///
    /// ```
    /// use procession_pool::Pool;
    ///
    /// let pool = Pool::threads(4)?;
    /// let lengths = pool.map(|word: String| word.len(), ["a", "bc"].map(String::from))?;
    /// assert_eq!(lengths, [1, 2]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// If a thread cannot be started.
    ///
    /// # Panics
    ///
    /// If `workers` is 0.
    pub fn threads(workers: usize) -> Result<Pool> {
        Builder::default().workers(workers).build()
    }

    /// Describes a pool of threads in detail before it starts.
    pub fn threads_builder() -> Builder {
        Builder::default()
    }
}

/// Describes a pool of threads. Made by [`Pool::threads_builder`].
#[derive(Debug, Default)]
#[must_use = "a builder does nothing until it builds"]
pub struct Builder {
    workers: Option<usize>,
    name: Option<String>,
    retries: u32,
    initializer: Option<Result<(Erased, Parcel)>>,
    timeline: Option<PathBuf>,
    visible: bool,
}

impl Builder {
    /// How many threads there are. The default is the number of processors that this process may use.
    ///
    /// # Panics
    ///
    /// If it is 0.
    pub fn workers(mut self, workers: usize) -> Builder {
        assert!(workers > 0, "a pool has at least one worker");
        self.workers = Some(workers);
        self
    }

    /// The name of its threads, before the hyphen and the number. The default is `PoolThread`.
    pub fn name(mut self, name: impl Into<String>) -> Builder {
        self.name = Some(name.into());
        self
    }

    /// How often an item is tried again after it panicked, unless the call says otherwise. The default is 0.
    pub fn retry(mut self, times: u32) -> Builder {
        self.retries = times;
        self
    }

    /// Calls `f(arg)` in each thread before its first task.
    ///
    /// If it panics, another thread is tried 50 ms later. At the third time in a row the pool is broken, also if it has
    /// healthy threads: everything unfinished, and all that comes, gets [`TaskError::Broken`] with the cause.
    pub fn initializer<A>(mut self, f: fn(A), arg: A) -> Builder
    where
        A: Serialize + DeserializeOwned + 'static,
    {
        let failed = |error| Error::new("pack a pool's initialiser", error);
        let packed = Erased::new(f).and_then(|function| Ok((function, Parcel::pack(&arg)?)));
        self.initializer = Some(packed.map_err(failed));
        self
    }

    /// Writes a timeline of the pool into the file at `path`: see [`Builder::timeline`](crate::Builder::timeline).
    pub fn timeline(mut self, path: impl Into<PathBuf>) -> Builder {
        self.timeline = Some(path.into());
        self
    }

    /// Whether other processes of the same user can see what the pool does: see [`Builder::visible`](crate::Builder::visible).
    /// The default is no: it takes the thread that watches for who looks, which is the process's, and stays when the pool has
    /// ended. A process with threads cannot start others by `fork`.
    pub fn visible(mut self, visible: bool) -> Builder {
        self.visible = visible;
        self
    }

    /// Starts the threads. It does not wait until they are ready.
    ///
    /// # Errors
    ///
    /// If the initialiser or its argument cannot be packed, or a thread cannot be started; those that were are ended. If the
    /// timeline's file cannot be created.
    pub fn build(self) -> Result<Pool> {
        let (defaults, visible) = (Defaults { retries: self.retries, ..Defaults::default() }, self.visible);
        let pool = Pool::new_with(Box::new(self.back()?), defaults);
        if visible {
            seeing::serve(&pool.shared);
        }
        Ok(pool)
    }

    /// As [`build`](Builder::build), but only the back: for a back that wraps it.
    ///
    /// # Errors
    ///
    /// As [`build`](Builder::build).
    pub fn back(self) -> Result<Threads> {
        let create = |path: PathBuf| {
            let failed = |error| Error::new(format!("create the timeline `{}`", path.display()), error);
            Timeline::create(&path).map(Arc::new).map_err(failed)
        };
        let recipe = Recipe {
            name: self.name.unwrap_or_else(|| "PoolThread".to_owned()),
            initializer: self.initializer.transpose()?,
            timeline: self.timeline.map(create).transpose()?,
        };
        let workers = self.workers.unwrap_or_else(cpu_count);
        let crew =
            Crew::start(recipe, workers).map_err(|error| Error::new("start a pool's threads", error))?;
        Ok(Threads { crew, functions: HashMap::new(), guarded: HashMap::new(), events: Vec::new() })
    }
}

/// The back; see [`threads`](crate::threads).
#[derive(Debug)]
pub struct Threads {
    crew: Arc<Crew>,
    functions: HashMap<FunctionId, Arc<Function>>,
    /// Tasks that may be cancelled.
    guarded: HashMap<Key, Arc<Task>>,
    events: Vec<Event>,
}

impl Back for Threads {
    fn capabilities(&self) -> Capabilities {
        Capabilities { resizes: true, ..Capabilities::default() }
    }

    fn workers(&self) -> usize {
        self.crew.workers()
    }

    fn define(&mut self, id: FunctionId, function: &Arc<Erased>, _parcel: &Arc<Parcel>) {
        // SAFETY: the arguments were encoded by this process, and stay in its memory.
        let erased = unsafe { Erased::clone(function).assume_inputs_same_program() };
        self.functions.insert(id, Arc::new(Function::new(erased)));
    }

    fn undefine(&mut self, id: FunctionId) {
        self.functions.remove(&id);
    }

    fn submit(&mut self, task: &Envelope<'_>) -> Submit {
        let Some(function) = self.functions.get(&task.function) else {
            return Submit::Refused(TaskError::BadFunction("it was not defined".to_owned()));
        };
        let Some(records) = task.arguments.inline() else {
            return Submit::Refused(TaskError::BadArguments("this pool passes no descriptors".to_owned()));
        };
        let guarded = &mut self.guarded;
        let make = || {
            let guards = task.cancellable || task.limit.is_some();
            let made = Arc::new(Task {
                key: task.key,
                function: function.clone(),
                items: task.items,
                arguments: records.to_vec(),
                guard: guards.then(|| Guard::new(task.limit)),
            });
            if task.cancellable {
                guarded.insert(task.key, made.clone());
            }
            made
        };
        if self.crew.submit(function.item(), make, task.items) { Submit::Accepted } else { Submit::Full }
    }

    fn poll(&mut self, events: &mut Events) {
        if self.crew.is_late() {
            self.crew.look_after();
        }
        self.events.drain(..).for_each(|event| events.push(event));
        let guarded = &mut self.guarded;
        self.crew.fetch(events, |key| {
            guarded.remove(&key);
        });
    }

    fn item_time(&self, id: FunctionId) -> Option<Duration> {
        self.functions.get(&id)?.item().map(Duration::from_nanos)
    }

    fn waiter(&self) -> Arc<dyn Waiter> {
        Arc::new(CrewWaiter { crew: self.crew.clone(), spin: Mutex::new(Spin::adaptive()) })
    }

    fn set_attendant(&mut self, attendant: Attendant) {
        self.crew.set_attendant(attendant);
    }

    fn restart_worker(&mut self, index: usize) -> bool {
        self.crew.restart(index)
    }

    fn resize(&mut self, workers: usize) {
        self.crew.resize(workers);
    }

    fn worker_infos(&self) -> Vec<WorkerInfo> {
        self.crew.infos()
    }

    fn history(&self) -> History {
        let (gone, queued) = self.crew.gone();
        History { gone, queued, ..History::default() }
    }

    fn cancel(&mut self, key: Key, how: Cancel) {
        let Some(task) = self.guarded.get(&key) else { return };
        let Some(guard) = &task.guard else { return };
        let (first, runs) = guard.cancel();
        for item in first.unwrap_or(task.items)..task.items {
            self.events.push(Event::Failed { key, item, error: TaskError::Cancelled });
        }
        if runs && how != Cancel::Queued {
            guard.asked.store(true, Ordering::Relaxed);
            if let Cancel::Kill { grace } = how {
                let at = Deadline::after(grace);
                guard.kill_at(at);
                self.crew.due_at(at);
            }
        }
        self.crew.ring();
    }

    fn close(&mut self) {
        self.crew.close();
    }

    fn terminate(&mut self) {
        self.crew.terminate(GRACE);
    }

    fn has_ended(&mut self) -> bool {
        self.crew.has_ended()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.crew.terminate(GRACE);
    }
}
