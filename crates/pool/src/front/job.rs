//! One call of a user, as the front keeps it.

use crate::{TaskError, back::FunctionId, records::Layouts};
use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

/// A job's key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct JobId(pub(super) u64);

/// What a job is opened with.
#[derive(Clone, Debug)]
pub(crate) struct JobOptions {
    pub(crate) function: FunctionId,
    pub(crate) layouts: Layouts,
    /// Further tries of an item that was in hand when its worker died, or that panicked.
    pub(crate) retries: u32,
    /// How many further tries all items of the job may have together.
    pub(crate) budget: Option<u64>,
    /// An item that has ended so many workers in a row is not tried again.
    pub(crate) quarantine: Option<u32>,
    pub(crate) priority: i32,
    /// How long an item may run, from its start.
    pub(crate) limit: Option<Duration>,
    /// Whether its tasks may be cancelled once they are with the back.
    pub(crate) cancellable: bool,
    /// Whether segments are handed out in the order of their items.
    pub(crate) ordered: bool,
    /// Whether somebody is busy adding all of its items, so that a join waits for the last of them.
    pub(crate) eager: bool,
    /// How many of its tasks may wait to be dispatched while whoever adds them goes on adding: what is not there when a
    /// worker has room is overtaken by tasks of lower priority.
    pub(crate) ahead: usize,
    /// Whether its tasks are to begin although nobody waits for them.
    pub(crate) spontaneous: bool,
}

/// A run of settled items.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) first: u64,
    pub(crate) count: u64,
    pub(crate) body: Body,
}

/// The segments of a job that nobody took.
pub(crate) type Rest = Vec<Segment>;

/// What a segment's items came to.
#[derive(Debug)]
pub(crate) enum Body {
    /// One after the other, in the layout of the job's values.
    Values(Vec<u8>),
    /// Each of them failed with this.
    Failed(TaskError),
}

/// What somebody wants to be told of a job, once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Want {
    /// Its input is closed and all of its items are settled.
    End,
    /// There is something to hand out.
    Output,
    /// There is something to hand out, or few enough of it wait to be dispatched that more may be added.
    Room,
}

/// Whether a task needs a driver though nobody may be waiting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Need {
    /// It can wait for a waiter.
    None,
    /// Its time may run out, or it may have to be tried again: somebody should look within some milliseconds.
    Soon,
    /// Somebody is to be told of it, or it is to begin.
    Now,
}

#[derive(Debug)]
pub(super) struct Job {
    pub(super) options: JobOptions,
    /// Items added so far, and settled so far.
    pub(super) added: u64,
    pub(super) settled: u64,
    /// Tasks of this job that wait in a ready queue.
    pub(super) queued: usize,
    pub(super) input_open: bool,
    /// Segments to hand out.
    pub(super) out: VecDeque<Segment>,
    /// Ordered jobs: the next item to hand out, and the segments that came before their turn.
    next: u64,
    parked: BTreeMap<u64, Segment>,
    /// The task that was made of it last: the only one if it has one item.
    pub(super) last_task: u64,
    /// Further tries so far.
    pub(super) retried: u64,
    /// Nothing of it is to be started any more.
    pub(super) cancelled: bool,
    /// Somebody is to be told of it without waiting for it.
    pub(super) attended: bool,
    watch: Option<Want>,
}

impl Job {
    pub(super) fn new(options: JobOptions) -> Job {
        Job {
            options,
            added: 0,
            settled: 0,
            queued: 0,
            input_open: true,
            out: VecDeque::new(),
            next: 0,
            parked: BTreeMap::new(),
            last_task: 0,
            retried: 0,
            cancelled: false,
            attended: false,
            watch: None,
        }
    }

    pub(super) fn into_rest(self) -> Rest {
        self.out.into_iter().chain(self.parked.into_values()).collect()
    }

    pub(super) fn settle(&mut self, segment: Segment) {
        self.settled += segment.count;
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

    /// The values that were not handed out.
    pub(super) fn values(&self) -> impl Iterator<Item = &[u8]> {
        self.out.iter().chain(self.parked.values()).filter_map(|segment| match &segment.body {
            Body::Values(records) => Some(&records[..]),
            Body::Failed(_) => None,
        })
    }

    pub(super) fn is_done(&self) -> bool {
        !self.input_open && self.settled == self.added
    }

    /// Whether more may be added.
    pub(super) fn has_room(&self) -> bool {
        self.queued <= self.options.ahead
    }

    fn holds(&self, want: Want) -> bool {
        match want {
            Want::End => self.is_done(),
            Want::Output => !self.out.is_empty(),
            Want::Room => !self.out.is_empty() || self.has_room(),
        }
    }

    /// Keeps in mind what somebody wants to be told; true if it holds already.
    pub(super) fn watch(&mut self, want: Want) -> bool {
        let holds = self.holds(want);
        self.watch = (!holds).then_some(want);
        holds
    }

    /// Whether somebody is to be told now. Once.
    #[inline]
    pub(super) fn signals(&mut self, at_any_rate: bool) -> bool {
        let signals = self.watch.is_some_and(|want| at_any_rate || self.holds(want));
        if signals {
            self.watch = None;
        }
        signals
    }

    /// Whether tasks of this job need a driver until they are done, though nobody waits.
    pub(super) fn need(&self, quiet: bool) -> Need {
        if self.attended {
            Need::Now
        } else if !quiet
            && (self.options.spontaneous || self.options.limit.is_some() || self.options.retries > 0)
        {
            // What was given to a worker may not all be with it yet, and its results may not all find room.
            Need::Soon
        } else {
            Need::None
        }
    }
}
