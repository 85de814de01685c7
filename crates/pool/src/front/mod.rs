//! The front: order, windows, attempts and results. A pure state machine: it does no I/O, knows no clock, and never
//! sees a type.
//!
//! # Terms
//!
//! A *job* is one call of a user (a map, an iterator, a submit): items, numbered from 0. A *task* is a run of
//! consecutive items of one job that is dispatched together. A *segment* is a run of items that are settled: by values
//! or by one error.
//!
//! # Invariants
//!
//! 1. Every item of a job is in exactly one of: a task, a segment, handed out. So no item is lost or settled twice.
//! 2. A key names one dispatch. What is put back into the queue gets a new one, and an event with an old key changes
//!    nothing: backs may repeat, delay and reorder what they report.
//! 3. An item spends an attempt only if it was in hand when its worker died, or failed by itself. What was queued
//!    behind it spends none.
//! 4. A task that has ended (its worker is dead) keeps the items whose results are known to exist until they arrive.
//! 5. A job that was cancelled starts nothing any more: what was queued, or comes back from a worker without having been
//!    started, is settled as cancelled.
//! 6. `needs` counts the tasks by whether they need a driver although nobody may be waiting.

mod counts;
mod events;
mod job;
mod settled;

pub(crate) use job::{Body, JobId, JobOptions, Need, Rest, Segment, Want};

use crate::{
    TaskError,
    back::{Arguments, Envelope, FunctionId, Key},
    loads::Loads,
    records::Layouts,
    slab::Slab,
};
use job::Job;
use procession_sys::Deadline;
use settled::Settled;
use std::{
    cmp::Reverse,
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

/// Cancelled tasks may stay in the ready queues up to this number, or half of all.
const STALE: usize = 64;

#[derive(Debug)]
struct Task {
    job: JobId,
    /// The first item's number in its job.
    first: u64,
    items: u32,
    arguments: Vec<u8>,
    attempt: u32,
    /// How many workers in a row its items have ended.
    deaths: u32,
    settled: Settled,
    /// Whether it has been given to the back, and one of its items has been started, as far as the back tells.
    sent: bool,
    started: bool,
    /// Whether it needs a driver though nobody may be waiting.
    need: Need,
    /// Its worker is dead; what is missing has a result that is on its way.
    ended: bool,
    /// When the back last gave a sign of it, or was asked.
    heard: Deadline,
}

/// What makes a task that waits to be dispatched.
struct Queued {
    first: u64,
    items: u32,
    arguments: Vec<u8>,
    attempt: u32,
    deaths: u32,
}

/// The state of all jobs of one pool.
#[derive(Debug)]
pub(crate) struct Front {
    jobs: Slab<Job>,
    tasks: Slab<Task>,
    /// Tasks to dispatch, the highest priority first. A key whose task is gone is skipped.
    ready: BTreeMap<Reverse<i32>, VecDeque<u64>>,
    /// Tasks whose keys the back may forget.
    retired: Vec<Key>,
    /// The arguments of retired tasks, as buffers for others.
    freed: Vec<Vec<u8>>,
    /// How many keys in the ready queues are of cancelled tasks.
    stale: usize,
    /// Whether the back wants to be told of retired tasks.
    lossy: bool,
    /// Whether the back is to be left alone unless somebody waits: see [`Waiter::sleeps`](crate::back::Waiter::sleeps).
    quiet: bool,
    /// How many tasks need a driver though nobody may be waiting, by how much.
    needs: [usize; 3],
    /// Jobs of which somebody is to be told now.
    signalled: Vec<JobId>,
    /// How blocks of a heap go along with records.
    loads: Option<Arc<Loads>>,
    /// Set once nothing can be run any more.
    broken: Option<TaskError>,
    /// Counts segments ever settled, so that a driver sees whether anyone else has something to take.
    settlements: u64,
}

impl Front {
    pub(crate) fn new(lossy: bool, quiet: bool) -> Front {
        Front {
            jobs: Slab::new(),
            tasks: Slab::new(),
            ready: BTreeMap::new(),
            retired: Vec::new(),
            freed: Vec::new(),
            stale: 0,
            lossy,
            quiet,
            needs: [0; 3],
            signalled: Vec::new(),
            loads: None,
            broken: None,
            settlements: 0,
        }
    }

    /// Records bring blocks of a heap along.
    pub(crate) fn with_loads(self, loads: Option<Arc<Loads>>) -> Front {
        Front { loads, ..self }
    }

    /// Lets go of what records bring along.
    fn unload(&self, records: &[u8]) {
        if let Some(loads) = &self.loads {
            loads.let_go(records);
        }
    }

    // --- what a user's call does ---

    pub(crate) fn open(&mut self, options: JobOptions) -> JobId {
        JobId(self.jobs.insert(Job::new(options)))
    }

    /// Adds the job's next `items` items as one task; `arguments` has each in the job's layout.
    pub(crate) fn add(&mut self, job: JobId, items: u32, arguments: Vec<u8>) {
        let Some(state) = self.jobs.get_mut(job.0) else { return };
        let first = state.added;
        state.added += u64::from(items);
        if let Some(error) = &self.broken {
            let body = Body::Failed(error.clone());
            self.unload(&arguments);
            return self.settle(job, Segment { first, count: u64::from(items), body });
        }
        if state.cancelled {
            let body = Body::Failed(TaskError::Cancelled);
            self.unload(&arguments);
            return self.settle(job, Segment { first, count: u64::from(items), body });
        }
        self.enqueue(job, Queued { first, items, arguments, attempt: 1, deaths: 0 }, false);
    }

    /// Adds the job's next item, which failed before it could be sent.
    pub(crate) fn add_failed(&mut self, job: JobId, error: TaskError) {
        let Some(state) = self.jobs.get_mut(job.0) else { return };
        let first = state.added;
        state.added += 1;
        self.settle(job, Segment { first, count: 1, body: Body::Failed(error) });
    }

    /// Says that the job gets no more items.
    pub(crate) fn close_input(&mut self, job: JobId) {
        let Some(state) = self.jobs.get_mut(job.0) else { return };
        state.input_open = false;
        if state.signals(false) {
            self.signalled.push(job);
        }
    }

    /// The next settled segment to hand out.
    pub(crate) fn take(&mut self, job: JobId) -> Option<Segment> {
        self.jobs.get_mut(job.0)?.out.pop_front()
    }

    pub(crate) fn has_output(&self, job: JobId) -> bool {
        self.jobs.get(job.0).is_some_and(|job| !job.out.is_empty())
    }

    /// How the job's items and values follow each other. Once the job is gone nobody is to read them.
    fn layouts(&self, job: JobId) -> Layouts {
        self.jobs.get(job.0).map_or_else(Layouts::default, |job| job.options.layouts)
    }

    /// The function that the job calls.
    pub(crate) fn function(&self, job: JobId) -> Option<FunctionId> {
        self.jobs.get(job.0).map(|job| job.options.function)
    }

    /// Whether whoever adds to the job should go on: few enough of its tasks wait to be dispatched.
    pub(crate) fn has_room(&self, job: JobId) -> bool {
        self.jobs.get(job.0).is_none_or(Job::has_room)
    }

    /// Whether the job's input is closed and all of its items are settled, or the job is gone.
    pub(crate) fn is_done(&self, job: JobId) -> bool {
        self.jobs.get(job.0).is_none_or(Job::is_done)
    }

    /// Whether one of the job's tasks runs, as far as is known: it was `started`, if the back tells that, or else sent.
    pub(crate) fn is_running(&self, job: JobId, tells: bool) -> bool {
        let runs = |key: &u64| {
            self.tasks
                .get(*key)
                .is_some_and(|task| !task.ended && if tells { task.started } else { task.sent })
        };
        self.tasks_of(job).iter().any(runs)
    }

    /// Sees to it that [`take_signalled`](Self::take_signalled) gives the job once `want` holds; true if it does already.
    pub(crate) fn watch(&mut self, job: JobId, want: Want) -> bool {
        let Some(state) = self.jobs.get_mut(job.0) else { return true };
        state.watch(want) || self.broken.is_some()
    }

    /// Has the job's tasks driven though nobody may be waiting.
    pub(crate) fn attend(&mut self, job: JobId) {
        let Some(state) = self.jobs.get_mut(job.0) else { return };
        if std::mem::replace(&mut state.attended, true) {
            return;
        }
        for key in self.tasks_of(job) {
            if let Some(task) = self.tasks.get_mut(key) {
                self.needs[task.need as usize] -= 1;
                task.need = Need::Now;
                self.needs[Need::Now as usize] += 1;
            }
        }
    }

    /// Whether somebody should drive though nobody may be waiting.
    pub(crate) fn need(&self) -> Need {
        match self.needs {
            [_, 0, 0] => Need::None,
            [_, _, 0] => Need::Soon,
            _ => Need::Now,
        }
    }

    /// Jobs of which somebody is to be told.
    pub(crate) fn take_signalled(&mut self) -> Vec<JobId> {
        std::mem::take(&mut self.signalled)
    }

    pub(crate) fn has_signalled(&self) -> bool {
        !self.signalled.is_empty()
    }

    /// Cancels what has not been given to the back; gives the keys of what was, if it may be cancelled there.
    pub(crate) fn cancel(&mut self, job: JobId) -> Vec<Key> {
        let Some(state) = self.jobs.get_mut(job.0) else { return Vec::new() };
        state.cancelled = true;
        let mut sent = Vec::new();
        for key in self.tasks_of(job) {
            match self.tasks.get(key) {
                Some(task) if task.sent => sent.push(Key { task: key, attempt: task.attempt }),
                _ => {
                    let Some(task) = self.remove_task(key) else { continue };
                    self.stale += 1;
                    if let Some(state) = self.jobs.get_mut(job.0) {
                        state.queued -= 1;
                    }
                    let body = Body::Failed(TaskError::Cancelled);
                    self.settle(job, Segment { first: task.first, count: u64::from(task.items), body });
                    self.freed.push(task.arguments);
                }
            }
        }
        let all = self.ready.values().map(VecDeque::len).sum::<usize>();
        if self.stale > STALE && self.stale * 2 > all {
            let tasks = &self.tasks;
            self.ready.values_mut().for_each(|queue| queue.retain(|key| tasks.get(*key).is_some()));
            self.stale = 0;
        }
        if !self.jobs.get(job.0).is_some_and(|job| job.options.cancellable) {
            sent.clear();
        }
        sent
    }

    /// Ends a job: what is queued of it is never run, what runs is ignored. Gives back the function it used, and the keys
    /// of what may be cancelled, and what nobody took, to be dropped without the lock.
    pub(crate) fn drop_job(&mut self, job: JobId) -> Option<(FunctionId, Vec<Key>, Rest)> {
        let cancellable =
            self.jobs.get(job.0).is_some_and(|job| job.options.cancellable && job.settled < job.added);
        let keys = if cancellable { self.cancel(job) } else { Vec::new() };
        let job = self.jobs.remove(job.0)?;
        if self.loads.is_some() {
            job.values().for_each(|records| self.unload(records));
        }
        Some((job.options.function, keys, job.into_rest()))
    }

    fn tasks_of(&self, job: JobId) -> Vec<u64> {
        match self.jobs.get(job.0) {
            None => Vec::new(),
            Some(state) if state.added == 1 => {
                vec![state.last_task].into_iter().filter(|key| self.tasks.get(*key).is_some()).collect()
            }
            Some(_) => {
                let is = |key: &u64| self.tasks.get(*key).is_some_and(|task| task.job == job);
                self.tasks.keys().filter(is).collect()
            }
        }
    }

    /// Whether nothing is left to run, and no eager job will add to it.
    pub(crate) fn is_idle(&self) -> bool {
        let adds = |key| self.jobs.get(key).is_some_and(|job: &Job| job.input_open && job.options.eager);
        self.tasks.len() == 0 && !self.jobs.keys().any(adds)
    }

    /// The error that ended everything, once that has happened.
    pub(crate) fn broken(&self) -> Option<&TaskError> {
        self.broken.as_ref()
    }

    /// Ends everything: each unsettled item gets `error`, and so does each item that is added later.
    pub(crate) fn break_all(&mut self, error: &TaskError) {
        if self.broken.is_some() {
            return;
        }
        self.broken = Some(error.clone());
        for key in self.tasks.keys().collect::<Vec<_>>() {
            let Some(task) = self.remove_task(key) else { continue };
            for gap in task.settled.gaps(0..task.items) {
                let segment = Segment {
                    first: task.first + u64::from(gap.start),
                    count: u64::from(gap.end - gap.start),
                    body: Body::Failed(error.clone()),
                };
                self.settle(task.job, segment);
            }
        }
        self.ready.clear();
        self.stale = 0;
        for key in self.jobs.keys().collect::<Vec<_>>() {
            if let Some(job) = self.jobs.get_mut(key) {
                job.queued = 0;
                if job.signals(true) {
                    self.signalled.push(JobId(key));
                }
            }
        }
    }

    pub(crate) fn settlements(&self) -> u64 {
        self.settlements
    }

    // --- what a driver does ---

    /// The next task to dispatch. It stays the next until [`dispatched`](Self::dispatched) or
    /// [`refused`](Self::refused).
    pub(crate) fn next(&mut self) -> Option<Envelope<'_>> {
        let key = loop {
            let mut entry = self.ready.first_entry()?;
            match entry.get().front().copied() {
                None => {
                    entry.remove();
                }
                Some(key) => {
                    // Tasks of a job that was dropped are skipped.
                    let wanted = self.tasks.get(key).is_some_and(|task| self.jobs.get(task.job.0).is_some());
                    if wanted {
                        break key;
                    }
                    entry.get_mut().pop_front();
                    if self.remove_task(key).is_none() {
                        self.stale = self.stale.saturating_sub(1);
                    }
                }
            }
        };
        let task = self.tasks.get(key)?;
        let options = &self.jobs.get(task.job.0)?.options;
        Some(Envelope {
            key: Key { task: key, attempt: task.attempt },
            function: options.function,
            flags: 0,
            priority: options.priority,
            limit: options.limit,
            cancellable: options.cancellable,
            layouts: options.layouts,
            items: task.items,
            arguments: Arguments::Inline(&task.arguments),
        })
    }

    fn pop_ready(&mut self) -> Option<u64> {
        let key = self.ready.first_entry()?.get_mut().pop_front()?;
        let job = self.tasks.get(key)?.job;
        if let Some(state) = self.jobs.get_mut(job.0) {
            state.queued -= 1;
            if state.has_room() && state.signals(false) {
                self.signalled.push(job);
            }
        }
        Some(key)
    }

    /// The task that [`next`](Self::next) named is with the back.
    pub(crate) fn dispatched(&mut self, now: Deadline) {
        if let Some(task) = self.pop_ready().and_then(|key| self.tasks.get_mut(key)) {
            task.sent = true;
            task.heard = now;
            // A task that was to begin by itself has begun.
            if task.need == Need::Now && !self.lossy {
                let need = self.jobs.get(task.job.0).map_or(Need::None, |job| job.need(self.quiet));
                self.needs[task.need as usize] -= 1;
                task.need = need;
                self.needs[need as usize] += 1;
            }
        }
    }

    /// The back can never run the task that [`next`](Self::next) named.
    pub(crate) fn refused(&mut self, error: TaskError) {
        let Some(task) = self.pop_ready().and_then(|key| self.remove_task(key)) else { return };
        let segment = Segment { first: task.first, count: u64::from(task.items), body: Body::Failed(error) };
        self.settle(task.job, segment);
    }

    /// Buffers that are not needed any more.
    pub(crate) fn take_freed(&mut self) -> std::vec::Drain<'_, Vec<u8>> {
        self.freed.drain(..)
    }

    /// Tasks that the back may forget.
    pub(crate) fn take_retired(&mut self) -> Vec<Key> {
        std::mem::take(&mut self.retired)
    }

    /// The tasks of which nothing was heard since `before`; they count as heard of now.
    pub(crate) fn silent(&mut self, before: Deadline, now: Deadline) -> Vec<Key> {
        let mut silent = Vec::new();
        for key in self.tasks.keys().collect::<Vec<_>>() {
            if let Some(task) = self.tasks.get_mut(key)
                && task.sent
                && task.heard <= before
            {
                task.heard = now;
                silent.push(Key { task: key, attempt: task.attempt });
            }
        }
        silent
    }

    // --- both ---

    fn enqueue(&mut self, job: JobId, task: Queued, ahead: bool) {
        let Some(state) = self.jobs.get_mut(job.0) else { return };
        state.queued += 1;
        let priority = state.options.priority;
        let spontaneous = state.options.spontaneous && !self.quiet;
        let need = if spontaneous { Need::Now } else { state.need(self.quiet) };
        self.needs[need as usize] += 1;
        let Queued { first, items, arguments, attempt, deaths } = task;
        let key = self.tasks.insert(Task {
            job,
            first,
            items,
            arguments,
            attempt,
            deaths,
            settled: Settled::default(),
            sent: false,
            started: false,
            need,
            ended: false,
            heard: Deadline::from_nanos(0),
        });
        state.last_task = key;
        let queue = self.ready.entry(Reverse(priority)).or_default();
        if ahead { queue.push_front(key) } else { queue.push_back(key) }
    }

    fn remove_task(&mut self, key: u64) -> Option<Task> {
        let task = self.tasks.remove(key)?;
        self.needs[task.need as usize] -= 1;
        self.unload(&task.arguments);
        Some(task)
    }

    fn settle(&mut self, job: JobId, segment: Segment) {
        self.settlements += 1;
        if let Some(state) = self.jobs.get_mut(job.0) {
            state.settle(segment);
            if state.signals(false) {
                self.signalled.push(job);
            }
        } else if let Body::Values(records) = &segment.body {
            self.unload(records);
        }
    }

    fn retire_if_complete(&mut self, key: Key) {
        if self.tasks.get(key.task).is_some_and(|task| task.settled.covers(task.items)) {
            self.retire(key);
        }
    }

    fn retire(&mut self, key: Key) {
        if let Some(task) = self.remove_task(key.task) {
            self.freed.push(task.arguments);
        }
        if self.lossy {
            self.retired.push(key);
        }
    }
}
