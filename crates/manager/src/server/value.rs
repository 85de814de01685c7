//! Encoded values, and who refers to which object.
//!
//! # Invariant
//! An object's count is the number of references to it that exist: leases of clients, proxies inside of values, names,
//! and work under way. A [`Refs`] is counted when it is made and as long as it lives, wherever it is dropped.

use super::Trouble;
use crate::{
    error::ErrorKind,
    proto::{LARGE, Malformed, Reader},
};
use bytes::Bytes;
use rustc_hash::FxHashMap;
use std::{cell::RefCell, fmt, ops::Deref, rc::Rc};

#[derive(Default)]
struct Table {
    counts: FxHashMap<u64, u64>,
    /// Objects that nobody refers to any more.
    dead: Vec<u64>,
}

/// How many references each object has.
#[derive(Clone, Default)]
pub(crate) struct Counts(Rc<RefCell<Table>>);

impl Counts {
    /// A new object, without a reference.
    pub(crate) fn add(&self, object: u64) {
        self.0.borrow_mut().counts.insert(object, 0);
    }

    /// One reference more; false if the object does not exist.
    pub(crate) fn up(&self, object: u64) -> bool {
        match self.0.borrow_mut().counts.get_mut(&object) {
            Some(count) => {
                *count += 1;
                true
            }
            None => false,
        }
    }

    pub(crate) fn down(&self, object: u64, by: u64) {
        let mut table = self.0.borrow_mut();
        let Some(count) = table.counts.get_mut(&object) else { return };
        *count = count.saturating_sub(by);
        if *count == 0 {
            table.counts.remove(&object);
            table.dead.push(object);
        }
    }

    /// An object whose last reference has gone.
    pub(crate) fn next_dead(&self) -> Option<u64> {
        self.0.borrow_mut().dead.pop()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.borrow().counts.len()
    }

    /// Counted references to all of `ids`.
    pub(crate) fn refs(&self, ids: Vec<u64>) -> Result<Refs, Trouble> {
        for (at, &object) in ids.iter().enumerate() {
            if !self.up(object) {
                ids[..at].iter().for_each(|&object| self.down(object, 1));
                return Err(Trouble::fault(ErrorKind::ObjectGone, "a proxy in it is of no object here"));
            }
        }
        Ok(Refs { ids: ids.into(), counts: self.clone() })
    }
}

/// References to objects, counted as long as this lives.
pub(crate) struct Refs {
    ids: Box<[u64]>,
    counts: Counts,
}

impl Drop for Refs {
    fn drop(&mut self) {
        self.ids.iter().for_each(|&object| self.counts.down(object, 1));
    }
}

/// Bytes that are kept.
#[derive(Clone)]
pub(crate) enum Blob {
    Small(Box<[u8]>),
    /// Boxed, since most are small.
    Large(Box<Bytes>),
}

impl Blob {
    /// The same, where they can be shared.
    pub(crate) fn large(&self) -> Option<&Bytes> {
        match self {
            Blob::Small(_) => None,
            Blob::Large(bytes) => Some(bytes),
        }
    }
}

impl Deref for Blob {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Blob::Small(bytes) => bytes,
            Blob::Large(bytes) => bytes,
        }
    }
}

impl From<Vec<u8>> for Blob {
    fn from(bytes: Vec<u8>) -> Blob {
        if bytes.len() < LARGE { Blob::Small(bytes.into()) } else { Blob::Large(Box::new(bytes.into())) }
    }
}

/// A value that came, and may be kept.
pub(crate) struct Incoming<'a> {
    pub(super) bytes: &'a [u8],
    /// The memory that they may be kept with.
    memory: Option<&'a Bytes>,
    pub(super) refs: Option<Box<Refs>>,
}

impl<'a> Incoming<'a> {
    pub(crate) fn read(counts: &Counts, input: &mut Reader<'a>) -> Result<Incoming<'a>, Trouble> {
        let (bytes, refs) = input.value()?;
        let refs = counted(counts, refs)?;
        Ok(Incoming { bytes, memory: input.memory_of(bytes), refs })
    }

    /// Its bytes to be kept, where they are to be shared.
    pub(super) fn large(&self) -> Option<Bytes> {
        let keep = || match self.memory {
            Some(memory) => memory.slice_ref(self.bytes),
            None => Bytes::copy_from_slice(self.bytes),
        };
        (self.bytes.len() >= LARGE).then(keep)
    }

    fn keep(self) -> Value {
        let bytes = match self.large() {
            None => Blob::Small(self.bytes.into()),
            Some(large) => Blob::Large(Box::new(large)),
        };
        Value { bytes, refs: self.refs }
    }
}

/// A value as a client encoded it.
pub(crate) struct Value {
    pub(crate) bytes: Blob,
    pub(crate) refs: Option<Box<Refs>>,
}

impl Value {
    /// One that refers to nothing.
    pub(crate) fn plain(bytes: Vec<u8>) -> Value {
        Value { bytes: bytes.into(), refs: None }
    }

    /// As what came in a request.
    pub(crate) fn incoming(&mut self) -> Incoming<'_> {
        Incoming { bytes: &self.bytes, memory: self.bytes.large(), refs: self.refs.take() }
    }

    pub(crate) fn read(counts: &Counts, input: &mut Reader<'_>) -> Result<Value, Trouble> {
        Incoming::read(counts, input).map(Incoming::keep)
    }

    /// `count` values, as they follow each other.
    pub(crate) fn read_many(counts: &Counts, input: &mut Reader<'_>) -> Result<Vec<Value>, Trouble> {
        let count = input.count(16)?;
        (0..count).map(|_| Value::read(counts, input)).collect()
    }

    /// About how many bytes it takes in a reply.
    pub(crate) fn weight(&self) -> u64 {
        (self.bytes.len() + 16 + 8 * self.ids().len()) as u64
    }

    pub(crate) fn ids(&self) -> &[u64] {
        ids(self.refs.as_deref())
    }

    pub(crate) fn try_clone(&self, counts: &Counts) -> Result<Value, Trouble> {
        Ok(Value { bytes: self.bytes.clone(), refs: counted(counts, self.ids().to_vec())? })
    }
}

pub(crate) fn ids(refs: Option<&Refs>) -> &[u64] {
    refs.map_or(&[], |refs| &refs.ids)
}

pub(crate) fn counted(counts: &Counts, ids: Vec<u64>) -> Result<Option<Box<Refs>>, Trouble> {
    if ids.is_empty() {
        return Ok(None);
    }
    Ok(Some(Box::new(counts.refs(ids)?)))
}

/// Bytes without proxies, as keys are.
pub(crate) fn key<'a>(input: &mut Reader<'a>) -> Result<&'a [u8], Malformed> {
    input.bytes()
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Value").field("bytes", &self.bytes.len()).finish_non_exhaustive()
    }
}
