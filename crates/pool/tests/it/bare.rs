//! A back without a pool: what it reports, event by event.

use procession_parcel::{Erased, Parcel, codec};
use procession_pool::{
    Cause, TaskError,
    back::{Arguments, Back, Cancel, Envelope, Event, Events, FunctionId, Key, Submit},
};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

/// What became of an item.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    Value(u64),
    Cancelled,
    /// It was in hand when its worker ended, for this reason.
    Ended(Cause),
    /// It was behind that, and is to run elsewhere.
    Behind,
    /// It was lost on its way.
    Unknown,
    Other(String),
}

/// A back, and what is known of its tasks.
#[derive(Debug)]
pub(crate) struct Bare<B> {
    pub(crate) back: B,
    events: Events,
    tasks: u64,
    items: BTreeMap<Key, u32>,
    fates: BTreeMap<(Key, u32), Fate>,
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    key: Key,
    records: Vec<u8>,
    limit: Option<Duration>,
}

impl<B: Back> Bare<B> {
    /// Every item is run by this function.
    pub(crate) fn new(mut back: B, function: fn(u64) -> u64) -> Bare<B> {
        let encoding = Arc::new(Parcel::new(Vec::new(), Vec::new()));
        back.define(FunctionId(0), &Arc::new(Erased::new(function).unwrap()), &encoding);
        Bare {
            back,
            events: Events::default(),
            tasks: 0,
            items: BTreeMap::new(),
            fates: BTreeMap::new(),
            waiting: VecDeque::new(),
        }
    }

    /// A task that can be cancelled.
    pub(crate) fn submit(&mut self, items: &[u64], limit: Option<Duration>) -> Key {
        self.tasks += 1;
        let key = Key { task: self.tasks, attempt: 1 };
        let mut records = Vec::new();
        for item in items {
            let mut content = Vec::new();
            codec::encode(item, &mut content).unwrap();
            records.extend_from_slice(&(content.len() as u32).to_le_bytes());
            records.extend_from_slice(&content);
        }
        self.items.insert(key, items.len() as u32);
        self.waiting.push_back(Waiting { key, records, limit });
        self.look();
        key
    }

    pub(crate) fn cancel(&mut self, key: Key, how: Cancel) {
        self.back.cancel(key, how);
        self.look();
    }

    /// Hands out tasks and takes in what there is.
    pub(crate) fn look(&mut self) {
        while let Some(Waiting { key, records, limit }) = self.waiting.front() {
            let envelope = Envelope {
                key: *key,
                function: FunctionId(0),
                flags: 0,
                priority: 0,
                limit: *limit,
                cancellable: true,
                layouts: Default::default(),
                items: self.items[key],
                arguments: Arguments::Inline(records),
            };
            match self.back.submit(&envelope) {
                Submit::Accepted => drop(self.waiting.pop_front()),
                Submit::Full => break,
                Submit::Refused(error) => panic!("{error}"),
            }
        }
        self.back.poll(&mut self.events);
        for event in self.events.drain() {
            match event {
                Event::Results { key, first, count, records } => {
                    let mut rest = &records[..];
                    for item in first..first + count {
                        let (length, behind) = rest.split_first_chunk::<4>().unwrap();
                        let (content, behind) = behind.split_at(u32::from_le_bytes(*length) as usize);
                        rest = behind;
                        Self::settle(
                            &mut self.fates,
                            key,
                            item,
                            Fate::Value(codec::decode(content).unwrap()),
                        );
                    }
                }
                Event::Failed { key, item, error } => {
                    let fate = match error {
                        TaskError::Cancelled => Fate::Cancelled,
                        other => Fate::Other(other.to_string()),
                    };
                    Self::settle(&mut self.fates, key, item, fate);
                }
                Event::Ended { key, completed, in_hand, death } => {
                    for item in completed..self.items[&key] {
                        if item < completed + in_hand {
                            Self::settle(&mut self.fates, key, item, Fate::Ended(death.cause));
                        } else {
                            self.fates.entry((key, item)).or_insert(Fate::Behind);
                        }
                    }
                }
                Event::Unknown { key } => {
                    for item in 0..self.items[&key] {
                        Self::settle(&mut self.fates, key, item, Fate::Unknown);
                    }
                }
                _ => {}
            }
        }
    }

    fn settle(fates: &mut BTreeMap<(Key, u32), Fate>, key: Key, item: u32, fate: Fate) {
        if let Some(old) = fates.insert((key, item), fate.clone()) {
            assert_eq!(old, fate, "{key:?}, item {item}, has two fates");
        }
    }

    /// What is known of a task's items so far.
    pub(crate) fn known(&self, key: Key) -> Vec<Option<Fate>> {
        (0..self.items[&key]).map(|item| self.fates.get(&(key, item)).cloned()).collect()
    }

    /// Waits until everything is known of a task.
    pub(crate) fn fates(&mut self, key: Key) -> Vec<Fate> {
        let waiter = self.back.waiter();
        waiter.wait_while(None, &mut || {
            self.look();
            self.known(key).contains(&None)
        });
        self.known(key).into_iter().flatten().collect()
    }
}
