//! What the front makes of what a back reports.

use super::{Body, Front, Queued, Segment, Task};
use crate::{
    Cause, Death, TaskError,
    back::{Event, Key},
    bug::{Bug, planted},
    loads,
    records::{self, Layout},
    seeing::log,
};
use procession_sys::Deadline;
use std::{ops::Range, sync::Arc};

impl Front {
    /// Takes in one event. A records buffer that is not used comes back.
    pub(crate) fn handle(&mut self, event: Event, now: Deadline) -> Option<Vec<u8>> {
        match event {
            Event::Started { key, .. } => {
                if let Some(task) = self.task(key) {
                    task.heard = now;
                    task.started = true;
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
            Event::Broken { error } => {
                log::broken(&error);
                self.break_all(&error);
            }
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
        let Some(task) = self.task(key) else {
            self.unload(&records);
            return Some(records);
        };
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
        let Some(layout) = self.jobs.get(job.0).map(|job| job.options.layouts.values) else {
            // Nobody wants it, nor knows any more how it is laid out.
            if let Some(task) = self.task(key) {
                task.settled.gaps(first..end).into_iter().for_each(|gap| task.settled.add(gap));
            }
            self.retire_if_complete(key);
            return Some(records);
        };
        let mut rest = &records[..];
        for item in first..end {
            let Some((record, behind)) = layout.split(rest) else { break };
            rest = behind;
            let Some(task) = self.task(key) else { break };
            if task.settled.is_free(&(item..item + 1)) {
                task.settled.add(item..item + 1);
                let mut body = Vec::with_capacity(records::PREFIX + record.len());
                // It was one of this layout.
                let _ = layout.append(&mut body, record);
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
            self.fail_or_retry(key.task, item..item + 1, 0, &|_| error.clone());
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
        let (gaps, deaths) = self.task(key).map_or((Vec::new(), 0), |task| {
            (task.settled.gaps(hand), task.deaths.saturating_add(u32::from(death.cause != Cause::Requested)))
        });
        for gap in gaps.into_iter().rev() {
            let error = |item| TaskError::of_death(death.clone(), first + u64::from(item), attempt);
            if matches!(death.cause, Cause::Cancelled | Cause::TimeLimit(_)) {
                self.fail(key.task, gap, error);
            } else {
                self.fail_or_retry(key.task, gap, deaths, &error);
            }
        }
        self.retire_if_complete(key);
    }

    /// Settles unsettled items of a dispatched task, each by its `error`, or queues them for their next try. `deaths`:
    /// how many workers in a row they have ended.
    fn fail_or_retry(&mut self, key: u64, range: Range<u32>, deaths: u32, error: &dyn Fn(u32) -> TaskError) {
        let Some(task) = self.tasks.get_mut(key) else { return };
        if let Some(loads) = &self.loads {
            if range.len() > 1 {
                // Each by itself.
                return range.rev().for_each(|item| self.fail_or_retry(key, item..item + 1, deaths, &error));
            }
            // What was taken out of an argument is gone.
            let record = &task.arguments[records::offset_of(&task.arguments, range.start)..];
            if !loads.is_whole(record) {
                return self.fail(key, range, error);
            }
        }
        let (job, start) = (task.job, task.first);
        let Some(state) = self.jobs.get_mut(job.0) else { return self.fail(key, range, error) };
        if task.attempt > state.options.retries || state.cancelled {
            return self.fail(key, range, error);
        }
        if deaths > 0 && state.options.quarantine.is_some_and(|most| deaths >= most) {
            return self.fail(key, range, |item| match error(item) {
                TaskError::Died(died) => TaskError::Quarantined(died),
                other => other,
            });
        }
        let left = state.options.budget.map_or(u64::MAX, |budget| budget.saturating_sub(state.retried));
        let count = left.min(u64::from(range.end - range.start)) as u32;
        state.retried += u64::from(count);
        let (again, beyond) = (range.start..range.start + count, range.start + count..range.end);
        if !again.is_empty() {
            task.settled.add(again.clone());
            let layout = state.options.layouts.items;
            let arguments = cut(&mut task.arguments, again.clone(), layout, self.loads.is_some());
            let attempt = task.attempt.saturating_add(1);
            log::retried(count, attempt, || error(again.start));
            let first = start + u64::from(again.start);
            self.enqueue(job, Queued { first, items: count, arguments, attempt, deaths }, true);
        }
        if !beyond.is_empty() {
            self.fail(key, beyond, error);
        }
    }

    /// Settles unsettled items of a dispatched task, each by its `error`.
    fn fail(&mut self, key: u64, range: Range<u32>, error: impl Fn(u32) -> TaskError) {
        let Some(task) = self.tasks.get_mut(key) else { return };
        let (job, start) = (task.job, task.first);
        task.settled.add(range.clone());
        for item in range {
            let error = error(item);
            log::failed(&error);
            let body = Body::Failed(error);
            self.settle(job, Segment { first: start + u64::from(item), count: 1, body });
        }
    }

    /// Puts the unsettled items of `range` back into the queue, under new keys, without spending an attempt.
    fn requeue(&mut self, key: u64, range: Range<u32>) {
        let Some(task) = self.tasks.get_mut(key) else { return };
        let (job, first, deaths) = (task.job, task.first, task.deaths);
        let attempt = task.attempt + u32::from(planted(Bug::BehindSpends));
        if self.jobs.get(job.0).is_some_and(|job| job.cancelled) {
            for gap in task.settled.gaps(range) {
                self.fail(key, gap, |_| TaskError::Cancelled);
            }
            return;
        }
        let (layout, loaded) = (self.layouts(job).items, self.loads.is_some());
        let Some(task) = self.tasks.get_mut(key) else { return };
        let mut parts = Vec::new();
        for gap in task.settled.gaps(range) {
            parts.push((gap.clone(), cut(&mut task.arguments, gap.clone(), layout, loaded)));
            task.settled.add(gap);
        }
        // From the back, since each goes to the head of the queue.
        for (gap, arguments) in parts.into_iter().rev() {
            let (first, items) = (first + u64::from(gap.start), gap.end - gap.start);
            self.enqueue(job, Queued { first, items, arguments, attempt, deaths }, true);
        }
    }
}

/// The items of `range`, and their loads with them.
fn cut(arguments: &mut [u8], range: Range<u32>, layout: Layout, loaded: bool) -> Vec<u8> {
    let start = layout.offset_of(arguments, range.start);
    let rest = &mut arguments[start..];
    let end = layout.offset_of(rest, range.end - range.start);
    let copy = rest[..end].to_vec();
    if loaded {
        loads::disown(&mut rest[..end]);
    }
    copy
}
