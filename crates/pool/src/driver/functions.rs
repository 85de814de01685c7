//! The functions that a back knows, and for how long.

use super::State;
use crate::{
    back::FunctionId,
    work::{Callable, Encoding},
};
use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

/// How many functions that no job uses and nobody holds stay defined, in case they are used again, and how many bytes
/// they may have together, encoded.
const UNUSED_FUNCTIONS: usize = 64;
const UNUSED_BYTES: usize = 4 << 20;

/// The functions that the back knows.
#[derive(Debug, Default)]
pub(super) struct Functions {
    by_encoding: HashMap<Encoding, FunctionId>,
    entries: HashMap<FunctionId, Entry>,
    /// Those that no job uses, the longest unused first, and their bytes.
    unused: Vec<FunctionId>,
    unused_bytes: usize,
    next: u32,
}

#[derive(Debug)]
struct Entry {
    encoding: Encoding,
    users: usize,
    /// Some user's hold on it: who keeps a [`Work`](crate::Work) means to use it again.
    holder: Weak<Callable>,
}

impl Functions {
    /// Takes out those that are unused and too many, or too large together; the ones used last stay.
    fn surplus(&mut self) -> Vec<FunctionId> {
        if self.unused.len() <= UNUSED_FUNCTIONS && self.unused_bytes <= UNUSED_BYTES {
            return Vec::new();
        }
        let (mut count, mut bytes) = (0, 0);
        let mut surplus = Vec::new();
        for id in self.unused.iter().rev() {
            let Some(entry) = self.entries.get(id) else { continue };
            if entry.holder.strong_count() > 0 {
                continue;
            }
            count += 1;
            bytes += entry.encoding.bytes.len();
            if count > UNUSED_FUNCTIONS || bytes > UNUSED_BYTES {
                surplus.push(*id);
            }
        }
        for id in &surplus {
            if let Some(entry) = self.entries.remove(id) {
                self.by_encoding.remove(&entry.encoding);
                self.unused_bytes -= entry.encoding.bytes.len();
            }
        }
        self.unused.retain(|id| !surplus.contains(id));
        surplus
    }
}

impl State {
    /// Makes `function` known to the back, if it is not yet, for a job that is about to begin.
    pub(super) fn define(&mut self, function: &Arc<Callable>) -> FunctionId {
        let functions = &mut self.functions;
        let known = functions.by_encoding.get(&function.encoding).copied();
        if let Some((id, entry)) = known.and_then(|id| Some((id, functions.entries.get_mut(&id)?))) {
            entry.users += 1;
            entry.holder = Arc::downgrade(function);
            if entry.users == 1 {
                functions.unused_bytes -= entry.encoding.bytes.len();
                functions.unused.retain(|unused| *unused != id);
            }
            return id;
        }
        self.undefine_surplus();
        let functions = &mut self.functions;
        let id = loop {
            let id = FunctionId(functions.next);
            functions.next = functions.next.wrapping_add(1);
            if !functions.entries.contains_key(&id) {
                break id;
            }
        };
        let encoding = function.encoding.clone();
        functions.by_encoding.insert(encoding.clone(), id);
        functions.entries.insert(id, Entry { encoding, users: 1, holder: Arc::downgrade(function) });
        self.back.define(id, &function.erased, &function.encoding.bytes);
        id
    }

    pub(super) fn release(&mut self, id: FunctionId) {
        let functions = &mut self.functions;
        let Some(entry) = functions.entries.get_mut(&id) else { return };
        entry.users -= 1;
        if entry.users == 0 {
            functions.unused_bytes += entry.encoding.bytes.len();
            functions.unused.push(id);
            self.undefine_surplus();
        }
    }

    fn undefine_surplus(&mut self) {
        for id in self.functions.surplus() {
            self.back.undefine(id);
        }
    }
}
