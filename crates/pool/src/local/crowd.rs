//! Which worker gets a task, and which workers are looked at.
//!
//! # More workers than processors
//!
//! Where a pool has more workers than this process has processors, to give each task to a worker that has nothing to do
//! is right only for those that take long. A short one costs less than the wake and the sleep of the worker that runs
//! it, and all those workers, once awake, are in each other's way. So there a short task goes to a worker that is awake:
//!
//! 1. As long as fewer workers than processors are at work, one that has nothing to do gets the task.
//! 2. Else one of the first that went to work, as many as there are processors: the one with the least work, if with
//!    this task it would have no more than [`AHEAD`] of it altogether. So the task waits about as long as a wake takes.
//! 3. Else the next that is at work, by the same measure; and only if there is none, one that has nothing to do.
//!
//! A worker of which nothing was heard for [`SILENT`] though it has work is not among those at work: it runs an item that
//! turned out long, or waits for something, or the processor is another's. What comes then goes elsewhere. What was
//! queued behind that item stays there, as with a pool of few workers, and it is no more than there: [`AHEAD`] of work.
//!
//! Tasks of more than [`AHEAD`], and of unknown length, go to the worker with the least work, wherever that is: they may
//! be long, and may wait for something else than a processor. In a pool with no more workers than processors all do. The
//! processors are those that this process might use when it made the pool, also if workers are pinned to others: a short
//! task is kept from them for no longer than a wake takes.
//!
//! # Who is looked at
//!
//! Only workers that were given something are rung, and only for that: a ring without need would wake each that sleeps.
//! In a crowd, only those that were at work of late are looked at for news; all of them at each look around.

use super::{AHEAD, LONG, Local, Place, Slot, TASKS_AHEAD};
use procession_sys::Deadline;
use std::time::Duration;

/// A worker with work that has told nothing for so long is not counted on.
const SILENT: Duration = Duration::from_millis(1);

/// Who is at work.
#[derive(Debug)]
pub(super) struct Crowd {
    /// How many processors this process may use.
    processors: usize,
    /// The workers that have work or had some at the last look around, in the order in which they went to work.
    working: Vec<usize>,
    /// Those that were given something and not rung yet, and whether they had nothing to do before.
    unrung: Vec<(usize, bool)>,
    /// When the workers were last polled.
    pub(super) now: Deadline,
}

impl Crowd {
    pub(super) fn new(now: Deadline) -> Crowd {
        let processors = procession_process::cpu_count();
        Crowd { processors, working: Vec::new(), unrung: Vec::new(), now }
    }

    /// This worker is about to be given something.
    pub(super) fn note_work(&mut self, index: usize, slot: &Slot, place: &mut Place) {
        let fresh = slot.tasks() == 0;
        if fresh {
            place.heard = self.now;
            if !self.working.contains(&index) {
                self.working.push(index);
            }
        }
        if fresh || !self.unrung.iter().any(|(other, _)| *other == index) {
            self.unrung.push((index, fresh));
        }
    }

    /// Forgets indices from `len` on.
    pub(super) fn truncate(&mut self, len: usize) {
        self.working.retain(|index| *index < len);
        self.unrung.retain(|(index, _)| *index < len);
    }
}

impl Local {
    /// Whether there are more workers than processors.
    pub(super) fn is_crowd(&self) -> bool {
        self.slots.len() > self.crowd.processors
    }

    /// The worker that should get a task of `time` nanoseconds, or of unknown length.
    pub(super) fn choose(&self, time: Option<u64>) -> Option<usize> {
        if let Some(time) = time.filter(|time| *time < AHEAD && self.is_crowd())
            && let Some(index) = self.choose_awake(time)
        {
            return Some(index);
        }
        let open = self.slots.iter().enumerate().filter_map(|(index, slot)| Some((index, slot.as_ref()?)));
        let takes = |slot: &Slot| {
            let (running, behind) = slot.times();
            let short = running < LONG && time.is_some_and(|time| time < LONG);
            slot.takes_more()
                && (slot.tasks() == 0 || (short && behind < AHEAD && slot.tasks() < TASKS_AHEAD))
        };
        let free = open.filter(|(_, slot)| takes(slot));
        free.min_by_key(|(_, slot)| (slot.load, slot.tasks())).map(|(index, _)| index)
    }

    /// The worker that should get a short task, if it need not be the one with the least work of all.
    fn choose_awake(&self, time: u64) -> Option<usize> {
        let silent_since = self.crowd.now.as_nanos().saturating_sub(SILENT.as_nanos() as u64);
        let (mut awake, mut idle) = (0, None);
        let mut least: Option<(u64, usize)> = None;
        for &index in &self.crowd.working {
            let Some(slot) = self.slots.get(index).and_then(Option::as_ref) else { continue };
            if !slot.takes_more() {
                continue;
            }
            if slot.tasks() == 0 {
                idle = idle.or(Some(index));
                continue;
            }
            if self.places[index].heard.as_nanos() < silent_since {
                continue;
            }
            awake += 1;
            let takes = slot.load.saturating_add(time) <= AHEAD && slot.tasks() < TASKS_AHEAD;
            if takes && least.is_none_or(|(load, _)| slot.load < load) {
                least = Some((slot.load, index));
            }
            if awake >= self.crowd.processors && least.is_some() {
                break;
            }
        }
        // The first of all that idle is found by their loads.
        if awake < self.crowd.processors { idle } else { least.map(|(_, index)| index).or(idle) }
    }

    /// Rings those that were given something.
    pub(super) fn ring(&mut self) {
        for (index, fresh) in self.crowd.unrung.drain(..) {
            if let Some(slot) = self.slots.get(index).and_then(Option::as_ref) {
                slot.ring();
                if fresh {
                    // The last poll may be long ago.
                    self.places[index].heard = self.crowd.now;
                }
            }
        }
    }

    /// Keeps those at work in mind only.
    pub(super) fn forget_idle(&mut self) {
        let Local { crowd, slots, .. } = self;
        let works = |index: &usize| {
            slots.get(*index).is_some_and(|slot| slot.as_ref().is_some_and(|slot| slot.tasks() > 0))
        };
        crowd.working.retain(works);
    }

    /// How many workers are to be looked at, and which is the `nth`.
    pub(super) fn looked_at(&self, all: bool) -> usize {
        if all || !self.is_crowd() { self.slots.len() } else { self.crowd.working.len() }
    }

    /// See [`looked_at`](Self::looked_at).
    pub(super) fn nth_looked_at(&self, nth: usize, all: bool) -> usize {
        if all || !self.is_crowd() { nth } else { self.crowd.working[nth] }
    }
}
