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

use crate::{
    Cause, Death, TaskError,
    back::{Arguments, Envelope, Event, FunctionId, Key},
    bug::{Bug, planted},
    records,
    slab::Slab,
};
use procession_sys::Deadline;
use std::{
    cmp::Reverse,
    collections::{BTreeMap, VecDeque},
    ops::Range,
    sync::Arc,
    time::Duration,
};

/// A job's key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct JobId(u64);

/// What a job is opened with.
#[derive(Clone, Debug)]
pub(crate) struct JobOptions {
    pub(crate) function: FunctionId,
    /// Further tries of an item that was in hand when its worker died, or that panicked.
    pub(crate) retries: u32,
    pub(crate) priority: i32,
    /// How long an item may run, from its start.
    pub(crate) limit: Option<Duration>,
    /// Whether its tasks may be cancelled once they are with the back.
    pub(crate) cancellable: bool,
    /// Whether segments are handed out in the order of their items.
    pub(crate) ordered: bool,
    /// Whether somebody is busy adding all of its items, so that a join waits for the last of them.
    pub(crate) eager: bool,
}

/// A run of settled items.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) first: u64,
    pub(crate) count: u64,
    pub(crate) body: Body,
}

/// What a segment's items came to.
#[derive(Debug)]
pub(crate) enum Body {
    /// One record per item.
    Values(Vec<u8>),
    /// Each of them failed with this.
    Failed(TaskError),
}

#[derive(Debug)]
struct Job {
    options: JobOptions,
    /// Items added so far.
    added: u64,
    /// Tasks of this job that wait in a ready queue.
    queued: usize,
    input_open: bool,
    /// Segments to hand out.
    out: VecDeque<Segment>,
    /// Ordered jobs: the next item to hand out, and the segments that came before their turn.
    next: u64,
    parked: BTreeMap<u64, Segment>,
}

impl Job {
    fn settle(&mut self, segment: Segment) {
        if !self.options.ordered {
            self.out.push_back(segment);
            return;
        }
        if segment.first != self.next {
            self.parked.insert(segment.first, segment);
            return;
        }
        self.next += segment.count;
        self.out.push_back(segment);
        while let Some(segment) = self.parked.remove(&self.next) {
            self.next += segment.count;
            self.out.push_back(segment);
        }
    }
}

#[derive(Debug)]
struct Task {
    job: JobId,
    /// The first item's number in its job.
    first: u64,
    items: u32,
    arguments: Vec<u8>,
    attempt: u32,
    settled: Settled,
    /// Whether it has been given to the back.
    sent: bool,
    /// Its worker is dead; what is missing has a result that is on its way.
    ended: bool,
    /// When the back last gave a sign of it, or was asked.
    heard: Deadline,
}

/// Which items of a task are settled: disjoint ranges in order, almost always one that starts at 0.
#[derive(Debug, Default)]
struct Settled {
    /// Items below this are settled.
    prefix: u32,
    /// Ranges above the prefix.
    rest: Vec<Range<u32>>,
}

impl Settled {
    fn is_free(&self, range: &Range<u32>) -> bool {
        range.start >= self.prefix && self.rest.iter().all(|r| r.end <= range.start || range.end <= r.start)
    }

    fn add(&mut self, range: Range<u32>) {
        if range.start != self.prefix {
            let at = self.rest.partition_point(|r| r.start < range.start);
            self.rest.insert(at, range);
            return;
        }
        self.prefix = range.end;
        while self.rest.first().is_some_and(|next| next.start == self.prefix) {
            self.prefix = self.rest.remove(0).end;
        }
    }

    /// Whether all items below `end` are settled.
    fn covers(&self, end: u32) -> bool {
        self.prefix >= end
    }

    /// The unsettled ranges within `range`.
    fn gaps(&self, range: Range<u32>) -> Vec<Range<u32>> {
        let mut gaps = Vec::new();
        let mut at = range.start.max(self.prefix);
        for settled in &self.rest {
            if settled.start >= range.end {
                break;
            }
            if settled.start > at {
                gaps.push(at..settled.start);
            }
            at = at.max(settled.end);
        }
        if at < range.end {
            gaps.push(at..range.end);
        }
        gaps
    }
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
    /// Whether the back wants to be told of retired tasks.
    lossy: bool,
    /// Set once nothing can be run any more.
    broken: Option<TaskError>,
    /// Counts segments ever settled, so that a driver sees whether anyone else has something to take.
    settlements: u64,
}

impl Front {
    pub(crate) fn new(lossy: bool) -> Front {
        Front {
            jobs: Slab::new(),
            tasks: Slab::new(),
            ready: BTreeMap::new(),
            retired: Vec::new(),
            freed: Vec::new(),
            lossy,
            broken: None,
            settlements: 0,
        }
    }

    // --- what a user's call does ---

    pub(crate) fn open(&mut self, options: JobOptions) -> JobId {
        JobId(self.jobs.insert(Job {
            options,
            added: 0,
            queued: 0,
            input_open: true,
            out: VecDeque::new(),
            next: 0,
            parked: BTreeMap::new(),
        }))
    }

    /// Adds the job's next `items` items as one task; `arguments` has a record for each.
    pub(crate) fn add(&mut self, job: JobId, items: u32, arguments: Vec<u8>) {
        let Some(state) = self.jobs.get_mut(job.0) else { return };
        let first = state.added;
        state.added += u64::from(items);
        if let Some(error) = &self.broken {
            let body = Body::Failed(error.clone());
            return self.settle(job, Segment { first, count: u64::from(items), body });
        }
        self.enqueue(job, first, items, arguments, 1, false);
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
        if let Some(job) = self.jobs.get_mut(job.0) {
            job.input_open = false;
        }
    }

    /// The next settled segment to hand out.
    pub(crate) fn take(&mut self, job: JobId) -> Option<Segment> {
        self.jobs.get_mut(job.0)?.out.pop_front()
    }

    pub(crate) fn has_output(&self, job: JobId) -> bool {
        self.jobs.get(job.0).is_some_and(|job| !job.out.is_empty())
    }

    /// The function that the job calls.
    pub(crate) fn function(&self, job: JobId) -> Option<FunctionId> {
        self.jobs.get(job.0).map(|job| job.options.function)
    }

    /// Tasks of this job that wait to be dispatched.
    pub(crate) fn queued(&self, job: JobId) -> usize {
        self.jobs.get(job.0).map_or(0, |job| job.queued)
    }

    /// Ends a job: what is queued of it is never run, what runs is ignored. Gives back the function it used.
    pub(crate) fn drop_job(&mut self, job: JobId) -> Option<FunctionId> {
        self.jobs.remove(job.0).map(|job| job.options.function)
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
            let Some(task) = self.tasks.remove(key) else { continue };
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
        for key in self.jobs.keys().collect::<Vec<_>>() {
            if let Some(job) = self.jobs.get_mut(key) {
                job.queued = 0;
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
                    self.tasks.remove(key);
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
            items: task.items,
            arguments: Arguments::Inline(&task.arguments),
        })
    }

    fn pop_ready(&mut self) -> Option<u64> {
        let key = self.ready.first_entry()?.get_mut().pop_front()?;
        let job = self.tasks.get(key)?.job;
        if let Some(job) = self.jobs.get_mut(job.0) {
            job.queued -= 1;
        }
        Some(key)
    }

    /// The task that [`next`](Self::next) named is with the back.
    pub(crate) fn dispatched(&mut self, now: Deadline) {
        if let Some(task) = self.pop_ready().and_then(|key| self.tasks.get_mut(key)) {
            task.sent = true;
            task.heard = now;
        }
    }

    /// The back can never run the task that [`next`](Self::next) named.
    pub(crate) fn refused(&mut self, error: TaskError) {
        let Some(task) = self.pop_ready().and_then(|key| self.tasks.remove(key)) else { return };
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

    /// Takes in one event. A records buffer that is not used comes back.
    pub(crate) fn handle(&mut self, event: Event, now: Deadline) -> Option<Vec<u8>> {
        match event {
            Event::Started { key, .. } => {
                if let Some(task) = self.task(key) {
                    task.heard = now;
                }
            }
            Event::Results { key, first, count, records } => {
                return self.results(key, first, count, records, now);
            }
            Event::Failed { key, item, error } => self.failed(key, item, error, now),
            Event::Ended { key, completed, in_hand, death } => {
                self.ended(key, completed, in_hand, &death, now)
            }
            Event::Unknown { key } => {
                if let Some(task) = self.task(key)
                    && !task.ended
                {
                    let items = task.items;
                    self.requeue(key.task, 0..items);
                    self.retire(key);
                }
            }
            Event::Broken { error } => self.break_all(&error),
        }
        None
    }

    // --- events ---

    /// The dispatched task with this very key.
    fn task(&mut self, key: Key) -> Option<&mut Task> {
        self.tasks.get_mut(key.task).filter(|task| task.attempt == key.attempt && task.sent)
    }

    fn results(
        &mut self,
        key: Key,
        first: u32,
        count: u32,
        records: Vec<u8>,
        now: Deadline,
    ) -> Option<Vec<u8>> {
        let Some(task) = self.task(key) else { return Some(records) };
        task.heard = now;
        let Some(end) = first.checked_add(count).filter(|end| *end <= task.items) else {
            return Some(records);
        };
        if count == 0 {
            return Some(records);
        }
        let (job, start) = (task.job, task.first);
        if task.settled.is_free(&(first..end)) {
            task.settled.add(first..end);
            self.settle(
                job,
                Segment {
                    first: start + u64::from(first),
                    count: u64::from(count),
                    body: Body::Values(records),
                },
            );
            self.retire_if_complete(key);
            return None;
        }
        // Some of it was reported before: take what is new, one by one.
        let mut rest = &records[..];
        for item in first..end {
            let Some((record, behind)) = records::split(rest) else { break };
            rest = behind;
            let Some(task) = self.task(key) else { break };
            if task.settled.is_free(&(item..item + 1)) {
                task.settled.add(item..item + 1);
                let mut body = Vec::with_capacity(records::PREFIX + record.len());
                records::append(&mut body, record);
                let first = start + u64::from(item);
                self.settle(job, Segment { first, count: 1, body: Body::Values(body) });
            }
        }
        self.retire_if_complete(key);
        Some(records)
    }

    fn failed(&mut self, key: Key, item: u32, error: TaskError, now: Deadline) {
        let Some(task) = self.task(key) else { return };
        task.heard = now;
        if item >= task.items || !task.settled.is_free(&(item..item + 1)) {
            return;
        }
        if error.is_retryable() {
            self.fail_or_retry(key.task, item..item + 1, |_| error.clone());
        } else {
            let (job, first) = (task.job, task.first + u64::from(item));
            task.settled.add(item..item + 1);
            self.settle(job, Segment { first, count: 1, body: Body::Failed(error) });
        }
        self.retire_if_complete(key);
    }

    fn ended(&mut self, key: Key, completed: u32, in_hand: u32, death: &Arc<Death>, now: Deadline) {
        let Some(task) = self.task(key) else { return };
        task.heard = now;
        if task.ended {
            return;
        }
        task.ended = true;
        let (items, attempt, first) = (task.items, task.attempt, task.first);
        let completed = completed.min(items);
        let in_hand = if planted(Bug::HandRunsAgain) { 0 } else { in_hand };
        let hand = completed..completed.saturating_add(in_hand).min(items);
        // Each goes to the head of the queue, those in hand last, and so first.
        self.requeue(key.task, hand.end..items);
        if planted(Bug::EndForgetsResults) {
            self.requeue(key.task, 0..completed);
        }
        let gaps = self.task(key).map_or(Vec::new(), |task| task.settled.gaps(hand));
        for gap in gaps.into_iter().rev() {
            let error = |item| TaskError::of_death(death.clone(), first + u64::from(item), attempt);
            if matches!(death.cause, Cause::Cancelled | Cause::TimeLimit(_)) {
                self.fail(key.task, gap, error);
            } else {
                self.fail_or_retry(key.task, gap, error);
            }
        }
        self.retire_if_complete(key);
    }

    /// Settles unsettled items of a dispatched task, each by its `error`, or queues them for their next try.
    fn fail_or_retry(&mut self, key: u64, range: Range<u32>, error: impl Fn(u32) -> TaskError) {
        let Some(task) = self.tasks.get_mut(key) else { return };
        let (job, start) = (task.job, task.first);
        let retries = self.jobs.get(job.0).map_or(0, |job| job.options.retries);
        if task.attempt > retries {
            return self.fail(key, range, error);
        }
        task.settled.add(range.clone());
        let arguments = cut(&task.arguments, range.clone());
        let (count, attempt) = (range.end - range.start, task.attempt.saturating_add(1));
        self.enqueue(job, start + u64::from(range.start), count, arguments, attempt, true);
    }

    /// Settles unsettled items of a dispatched task, each by its `error`.
    fn fail(&mut self, key: u64, range: Range<u32>, error: impl Fn(u32) -> TaskError) {
        let Some(task) = self.tasks.get_mut(key) else { return };
        let (job, start) = (task.job, task.first);
        task.settled.add(range.clone());
        for item in range {
            let body = Body::Failed(error(item));
            self.settle(job, Segment { first: start + u64::from(item), count: 1, body });
        }
    }

    /// Puts the unsettled items of `range` back into the queue, under new keys, without spending an attempt.
    fn requeue(&mut self, key: u64, range: Range<u32>) {
        let Some(task) = self.tasks.get_mut(key) else { return };
        let (job, first) = (task.job, task.first);
        let attempt = task.attempt + u32::from(planted(Bug::BehindSpends));
        let mut parts = Vec::new();
        for gap in task.settled.gaps(range) {
            parts.push((gap.clone(), cut(&task.arguments, gap.clone())));
            task.settled.add(gap);
        }
        // From the back, since each goes to the head of the queue.
        for (gap, arguments) in parts.into_iter().rev() {
            self.enqueue(job, first + u64::from(gap.start), gap.end - gap.start, arguments, attempt, true);
        }
    }

    fn enqueue(&mut self, job: JobId, first: u64, items: u32, arguments: Vec<u8>, attempt: u32, ahead: bool) {
        let Some(state) = self.jobs.get_mut(job.0) else { return };
        state.queued += 1;
        let priority = state.options.priority;
        let key = self.tasks.insert(Task {
            job,
            first,
            items,
            arguments,
            attempt,
            settled: Settled::default(),
            sent: false,
            ended: false,
            heard: Deadline::from_nanos(0),
        });
        let queue = self.ready.entry(Reverse(priority)).or_default();
        if ahead { queue.push_front(key) } else { queue.push_back(key) }
    }

    fn settle(&mut self, job: JobId, segment: Segment) {
        self.settlements += 1;
        if let Some(job) = self.jobs.get_mut(job.0) {
            job.settle(segment);
        }
    }

    fn retire_if_complete(&mut self, key: Key) {
        if self.tasks.get(key.task).is_some_and(|task| task.settled.covers(task.items)) {
            self.retire(key);
        }
    }

    fn retire(&mut self, key: Key) {
        if let Some(task) = self.tasks.remove(key.task) {
            self.freed.push(task.arguments);
        }
        if self.lossy {
            self.retired.push(key);
        }
    }
}

/// The records of `range`.
fn cut(arguments: &[u8], range: Range<u32>) -> Vec<u8> {
    let rest = &arguments[records::offset_of(arguments, range.start)..];
    rest[..records::offset_of(rest, range.end - range.start)].to_vec()
}
