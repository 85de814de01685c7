//! What a worker tells of its items, as events.

use super::Given;
use crate::{
    TaskError,
    back::{Event, Events, Key},
    loads,
};
use std::collections::VecDeque;

/// What a worker tells of the items that it has.
pub(super) struct Told<'a> {
    pub(super) given: &'a mut VecDeque<Given>,
    pub(super) load: &'a mut u64,
    pub(super) watched: &'a mut usize,
    /// The token of the last value that came with blocks of a heap, in a pool on one.
    pub(super) last_load: Option<&'a mut u64>,
    /// How many items it has told of.
    pub(super) items: u64,
    pub(super) run: Run,
}

impl Told<'_> {
    /// The next values; false if that is nonsense.
    pub(super) fn values(&mut self, mut records: &[u8], events: &mut Events) -> bool {
        while !records.is_empty() {
            let Some(task) = self.given.front_mut() else { return false };
            let most = task.items - task.done;
            let (count, len) = task.layout.whole(records, most);
            if count == 0 {
                return false;
            }
            if self.run.count == 0 {
                self.run.begin(task, events);
            }
            let (now, later) = records.split_at(len);
            self.run.records.extend_from_slice(now);
            self.settled(count, events);
            records = later;
        }
        true
    }

    pub(super) fn value(&mut self, value: &[u8], events: &mut Events) -> bool {
        self.note_load(value);
        let Some(task) = self.given.front_mut() else { return false };
        if self.run.count == 0 {
            self.run.begin(task, events);
        }
        if !task.layout.append(&mut self.run.records, value) {
            return false;
        }
        self.settled(1, events);
        true
    }

    pub(super) fn note_load(&mut self, value: &[u8]) {
        if let Some(last) = &mut self.last_load {
            **last = loads::token(value).unwrap_or(**last);
        }
    }

    /// A large value of the next item: which that is.
    pub(super) fn large(&mut self, events: &mut Events) -> Option<(Key, u32)> {
        self.run.flush(events);
        let task = self.given.front().filter(|task| !task.layout.is_plain())?;
        let item = (task.key, task.done);
        self.items += 1;
        self.done(1);
        Some(item)
    }

    /// So many values of the first task were added to the run.
    fn settled(&mut self, count: u32, events: &mut Events) {
        self.items += u64::from(count);
        self.run.count += count;
        if self.done(count) {
            self.run.flush(events);
        }
    }

    pub(super) fn failure(&mut self, error: TaskError, events: &mut Events) -> bool {
        self.run.flush(events);
        let Some(task) = self.given.front() else { return false };
        events.push(Event::Failed { key: task.key, item: task.done, error });
        self.items += 1;
        self.done(1);
        true
    }

    /// So many items more of the first task are done; whether that are all.
    fn done(&mut self, count: u32) -> bool {
        let Some(task) = self.given.front_mut() else { return false };
        task.done += count;
        if task.done < task.items {
            return false;
        }
        *self.load -= task.time;
        *self.watched -= usize::from(task.watched.is_some());
        self.given.pop_front();
        true
    }
}

/// Values that follow each other in one task.
pub(super) struct Run {
    pub(super) key: Key,
    pub(super) first: u32,
    pub(super) count: u32,
    pub(super) records: Vec<u8>,
}

impl Run {
    /// The next values are those of `task` from where it stands.
    pub(super) fn begin(&mut self, task: &Given, events: &mut Events) {
        (self.key, self.first) = (task.key, task.done);
        self.records = events.buffer();
    }

    pub(super) fn flush(&mut self, events: &mut Events) {
        if self.count > 0 {
            let Run { key, first, count, .. } = *self;
            events.push(Event::Results { key, first, count, records: std::mem::take(&mut self.records) });
            self.count = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::Layout;
    use procession_parcel::codec::plain::Plain;

    #[test]
    fn what_does_not_fit_the_layout_of_the_values_is_nonsense() {
        let key = Key { task: 1, attempt: 1 };
        let layout = Plain::of::<u16>().map(Layout::plain).unwrap();
        let task = |layout| Given {
            key,
            items: 3,
            done: 0,
            time: 0,
            whole: None,
            pieces: Vec::new(),
            watched: None,
            layout,
        };
        let mut given = VecDeque::from([task(layout), task(Layout::RECORDS)]);
        let (mut load, mut watched, mut events) = (0, 0, Events::default());
        let run = Run { key, first: 0, count: 0, records: Vec::new() };
        let mut told = Told {
            given: &mut given,
            load: &mut load,
            watched: &mut watched,
            last_load: None,
            items: 0,
            run,
        };
        assert!(!told.value(&[1], &mut events) && !told.value(&[1, 2, 3], &mut events));
        assert!(told.large(&mut events).is_none(), "none of them is large");
        assert!(!told.values(&[9], &mut events), "half of one");
        assert_eq!(told.items, 0);
        // The rest of a task, and the first value of one with another layout.
        assert!(told.value(&[1, 2], &mut events) && told.values(&[3, 4, 5, 6, 1, 0, 0, 0, 7], &mut events));
        assert_eq!((told.items, told.given[0].done), (4, 1));
        assert!(!told.values(&[3, 4, 5, 6], &mut events), "no record");
        told.run.flush(&mut events);
        let came = events.drain().map(|event| match event {
            Event::Results { count, records, .. } => (count, records),
            other => panic!("{other:?}"),
        });
        assert_eq!(came.collect::<Vec<_>>(), [(3, vec![1, 2, 3, 4, 5, 6]), (1, vec![1, 0, 0, 0, 7])]);
    }
}
