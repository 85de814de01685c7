//! What is kept of workers that are gone, and of functions that were defined.

use super::{Local, slot::Slot};
use crate::{
    back::{FunctionId, Gone, History, Slow},
    seeing::Name,
};
use procession_parcel::Erased;
use procession_sys::Deadline;
use std::{cmp::Reverse, collections::BTreeMap, time::Duration};

/// How many names of functions are kept, the last ones.
const NAMES: usize = 1024;
/// How many of the slowest items are told.
const SLOWEST: usize = 16;

/// What is known of what is gone.
#[derive(Debug, Default)]
pub(super) struct Past {
    gone: Gone,
    /// Function, items, nanoseconds.
    slow: Vec<(u32, u32, u64)>,
    pub(super) names: Names,
}

/// The names of functions, also of those that are not defined any more.
#[derive(Debug, Default)]
pub(super) struct Names(BTreeMap<u32, Name>);

impl Names {
    pub(super) fn add(&mut self, id: FunctionId, function: &Erased) {
        self.0.insert(id.0, Name::of(function));
        if self.0.len() > NAMES {
            self.0.pop_first();
        }
    }

    pub(super) fn get(&self, id: u32) -> Name {
        self.0.get(&id).cloned().unwrap_or_else(|| Name::unknown("a function of long ago"))
    }
}

impl Past {
    /// A worker has ended, and everything that it told was taken in.
    pub(super) fn add(&mut self, slot: &Slot) {
        let now = Deadline::now().as_nanos();
        let age = Duration::from_nanos(now.saturating_sub(slot.tally.born.as_nanos()));
        let beat = slot.beat(Some(now));
        self.gone.workers += 1;
        self.gone.tasks += slot.tally.tasks_given - slot.tasks() as u64;
        self.gone.items += slot.tally.items;
        self.gone.age += age;
        self.gone.busy += Duration::from_nanos(beat.busy).min(age);
        self.gone.bytes_in += slot.tally.bytes_in;
        self.gone.bytes_out += slot.tally.bytes_out;
        self.slow.extend(beat.slow);
        keep_slowest(&mut self.slow);
    }
}

fn keep_slowest(slow: &mut Vec<(u32, u32, u64)>) {
    slow.sort_by_key(|(_, items, nanos)| Reverse(nanos / u64::from((*items).max(1))));
    slow.truncate(SLOWEST);
}

impl Local {
    pub(super) fn past_and_present(&self) -> History {
        let mut slow = self.past.slow.clone();
        for slot in self.slots.iter().flatten() {
            slow.extend(slot.beat(None).slow);
        }
        keep_slowest(&mut slow);
        let told = |(function, items, nanos)| {
            Slow::of(self.past.names.get(function), items, Duration::from_nanos(nanos))
        };
        History { gone: self.past.gone, slowest: slow.into_iter().map(told).collect(), ..History::default() }
    }
}
