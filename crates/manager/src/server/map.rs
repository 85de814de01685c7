//! A dictionary of encoded keys and values, in the order of insertion.
//!
//! An entry is one block of memory, key and value, in a row of entries; a table of their places, by hash, finds it. A large value
//! has memory of its own, which it may share. A removed entry leaves a hole, which the next growth closes.
//!
//! # Invariants
//! 1. Each entry's place is in the table exactly once, on the path of its hash without an empty slot before it.
//! 2. `version` changes whenever a key comes or goes. Places change only then.

use super::value::{Incoming, Refs, ids};
use bytes::Bytes;
use std::{
    hash::{BuildHasher as _, RandomState},
    num::NonZeroU32,
};

const EMPTY: u32 = u32::MAX;
const HOLE: u32 = u32::MAX - 1;
/// The most entries of one dictionary, holes included.
const MOST: usize = (u32::MAX - 2) as usize;

/// A key and its value.
pub(crate) struct Entry {
    hash: u32,
    /// How many bytes the key has, and one more: so that no entry takes no memory of its own for that.
    key_end: NonZeroU32,
    data: Data,
    refs: Option<Box<Refs>>,
}

const _: () = assert!(size_of::<Option<Entry>>() == 32);

enum Data {
    /// The key, then the value.
    Together(Box<[u8]>),
    /// Where the value is large. Boxed, since most are small.
    Apart(Box<(Box<[u8]>, Bytes)>),
}

impl Entry {
    fn new(hash: u32, key: &[u8], key_end: NonZeroU32, value: Incoming<'_>) -> Entry {
        let data = match value.large() {
            None => {
                let mut data = Vec::with_capacity(key.len() + value.bytes.len());
                data.extend_from_slice(key);
                data.extend_from_slice(value.bytes);
                Data::Together(data.into())
            }
            Some(large) => Data::Apart(Box::new((key.into(), large))),
        };
        Entry { hash, key_end, data, refs: value.refs }
    }

    fn key_len(&self) -> usize {
        self.key_end.get() as usize - 1
    }

    fn key(&self) -> &[u8] {
        match &self.data {
            Data::Together(data) => &data[..self.key_len()],
            Data::Apart(apart) => &apart.0,
        }
    }

    pub(crate) fn seen(&self) -> Seen<'_> {
        let (value, large) = match &self.data {
            Data::Together(data) => (&data[self.key_len()..], None),
            Data::Apart(apart) => (&*apart.1, Some(&apart.1)),
        };
        Seen { key: self.key(), value, large, refs: ids(self.refs.as_deref()) }
    }
}

/// An entry, lent.
#[derive(Clone, Copy)]
pub(crate) struct Seen<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a [u8],
    /// The same, where it can be shared.
    pub(crate) large: Option<&'a Bytes>,
    pub(crate) refs: &'a [u64],
}

/// There are as many entries as there may be.
#[derive(Debug)]
pub(crate) struct Full;

#[derive(Default)]
pub(crate) struct Map {
    hasher: RandomState,
    entries: Vec<Option<Entry>>,
    table: Vec<u32>,
    len: usize,
    /// Slots of the table that are not empty.
    used: usize,
    version: u64,
}

impl Map {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    fn hash(&self, key: &[u8]) -> u32 {
        self.hasher.hash_one(key) as u32
    }

    /// The table's slot and the entry's place.
    fn find(&self, hash: u32, key: &[u8]) -> Option<(usize, usize)> {
        if self.table.is_empty() {
            return None;
        }
        let mask = self.table.len() - 1;
        let mut slot = hash as usize & mask;
        loop {
            match self.table[slot] {
                EMPTY => return None,
                HOLE => {}
                place => {
                    if let Some(Some(entry)) = self.entries.get(place as usize)
                        && entry.hash == hash
                        && entry.key() == key
                    {
                        return Some((slot, place as usize));
                    }
                }
            }
            slot = (slot + 1) & mask;
        }
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<Seen<'_>> {
        let (_, place) = self.find(self.hash(key), key)?;
        self.entries[place].as_ref().map(Entry::seen)
    }

    /// Puts a value; gives the entry that was there. An error if there is no room for one more.
    pub(crate) fn insert(&mut self, key: &[u8], value: Incoming<'_>) -> Result<Option<Entry>, Full> {
        let hash = self.hash(key);
        let key_end = u32::try_from(key.len() + 1).ok().and_then(NonZeroU32::new).ok_or(Full)?;
        if let Some((_, place)) = self.find(hash, key) {
            return Ok(self.entries[place].replace(Entry::new(hash, key, key_end, value)));
        }
        if self.len >= MOST {
            return Err(Full);
        }
        self.grow();
        let place = self.entries.len() as u32;
        self.entries.push(Some(Entry::new(hash, key, key_end, value)));
        self.enter(hash, place);
        self.len += 1;
        self.version += 1;
        Ok(None)
    }

    fn enter(&mut self, hash: u32, place: u32) {
        let mask = self.table.len() - 1;
        let mut slot = hash as usize & mask;
        while self.table[slot] != EMPTY {
            slot = (slot + 1) & mask;
        }
        self.table[slot] = place;
        self.used += 1;
    }

    /// Makes room for one more: a quarter of the table is empty afterwards, and at most half of the entries are holes.
    fn grow(&mut self) {
        let tight = (self.used + 1) * 4 > self.table.len() * 3;
        let sparse = self.entries.len() > 32 && self.entries.len() > 2 * self.len;
        if !tight && !sparse && self.entries.len() < MOST {
            return;
        }
        self.entries.retain(Option::is_some);
        if self.entries.capacity() > 4 * (self.len + 16) {
            self.entries.shrink_to(2 * (self.len + 16));
        }
        self.table = vec![EMPTY; ((self.len + 1) * 2).next_power_of_two().max(8)];
        self.used = 0;
        for place in 0..self.entries.len() {
            if let Some(hash) = self.entries[place].as_ref().map(|entry| entry.hash) {
                self.enter(hash, place as u32);
            }
        }
    }

    pub(crate) fn remove(&mut self, key: &[u8]) -> Option<Entry> {
        let (slot, place) = self.find(self.hash(key), key)?;
        self.take(slot, place)
    }

    fn take(&mut self, slot: usize, place: usize) -> Option<Entry> {
        self.table[slot] = HOLE;
        self.len -= 1;
        self.version += 1;
        let entry = self.entries[place].take();
        while let Some(None) = self.entries.last() {
            self.entries.pop();
        }
        entry
    }

    /// Takes the last entry out.
    pub(crate) fn pop(&mut self) -> Option<Entry> {
        let place = self.entries.len().checked_sub(1)?;
        let entry = self.entries[place].as_ref()?;
        let (slot, place) = self.find(entry.hash, entry.key())?;
        self.take(slot, place)
    }

    pub(crate) fn clear(&mut self) {
        let version = self.version + 1;
        *self = Map { version, ..Map::default() };
    }

    /// The entries from a place on, each with the place behind it.
    pub(crate) fn from(&self, place: usize) -> impl Iterator<Item = (usize, Seen<'_>)> {
        // Wherever a client means to go on.
        let place = place.min(self.entries.len());
        let rest = &self.entries[place..];
        (place + 1..).zip(rest).filter_map(|(next, entry)| entry.as_ref().map(|entry| (next, entry.seen())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::value::Value;
    use std::collections::BTreeMap;

    /// Some are large.
    fn value(number: u64) -> Vec<u8> {
        let mut value = number.to_le_bytes().to_vec();
        value.resize(if number.is_multiple_of(500) { 100_000 } else { 8 }, 7);
        value
    }

    fn insert(map: &mut Map, key: &[u8], value: Vec<u8>) -> Option<Vec<u8>> {
        let old = map.insert(key, Value::plain(value).incoming()).unwrap();
        old.map(|old| old.seen().value.to_vec())
    }

    #[test]
    fn it_does_what_a_plain_map_does_in_the_order_of_insertion() {
        let (mut map, mut model, mut order) = (Map::default(), BTreeMap::new(), Vec::<Vec<u8>>::new());
        let mut state = 7_u64;
        for round in 0..20_000_u64 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let key = ((state >> 33) % 300).to_le_bytes().to_vec();
            match (state >> 20) % 7 {
                0..=3 => {
                    let old = insert(&mut map, &key, value(round));
                    assert_eq!(old, model.insert(key.clone(), value(round)));
                    if old.is_none() {
                        order.push(key);
                    }
                }
                4 | 5 => {
                    let old = map.remove(&key).map(|old| old.seen().value.to_vec());
                    assert_eq!(old, model.remove(&key));
                    order.retain(|other| *other != key);
                }
                _ => {
                    let popped = map.pop().map(|entry| entry.seen().key.to_vec());
                    assert_eq!(popped, order.pop());
                    popped.map(|key| model.remove(&key));
                }
            }
            assert_eq!(map.len(), model.len());
        }
        let keys: Vec<_> = map.from(0).map(|(_, seen)| seen.key.to_vec()).collect();
        assert_eq!(keys, order);
        for (key, value) in &model {
            assert_eq!(map.get(key).unwrap().value, &value[..]);
        }
        assert_eq!((map.from(usize::MAX).count(), map.from(map.entries.len()).count()), (0, 0));
        map.clear();
        assert!(map.len() == 0 && map.get(&order[0]).is_none());
    }
}
