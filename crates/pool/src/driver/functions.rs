//! The functions that a back knows, and for how long.

use super::State;
use crate::{
    back::FunctionId,
    work::{Callable, Encoding, LetGo},
};
use procession_parcel::Erased;
use rustc_hash::FxHashMap;
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
    /// By what a user has sent, who may not be ours: its hash must not be one that can be aimed at.
    by_encoding: HashMap<Encoding, FunctionId>,
    entries: FxHashMap<FunctionId, Entry>,
    /// Those that no job uses and nobody holds, the longest unused first, and their bytes. They are few: what a user holds,
    /// which may be many, is not looked at before it is let go of.
    unused: Vec<FunctionId>,
    let_go: Arc<LetGo>,
    unused_bytes: usize,
    /// How many of them hold descriptors.
    unused_with_fds: usize,
    next: u32,
}

/// Functions that the back knows no more.
pub(super) type Forgotten = Vec<Arc<Erased>>;

#[derive(Debug)]
struct Entry {
    encoding: Encoding,
    /// Kept so that what it has captured is never dropped by the back, under the pool's lock.
    erased: Arc<Erased>,
    users: usize,
    /// Whether it is among the unused ones.
    unused: bool,
    /// Some user's hold on it: who keeps a [`Work`](crate::Work) means to use it again.
    holder: Weak<Callable>,
}

impl Entry {
    fn is_free(&self) -> bool {
        self.users == 0 && self.holder.strong_count() == 0
    }

    fn has_fds(&self) -> bool {
        !self.encoding.parcel.fds().is_empty()
    }
}

impl Functions {
    /// Counts an entry among the unused ones, or not any more.
    fn count_unused(&mut self, id: FunctionId, unused: bool) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if std::mem::replace(&mut entry.unused, unused) == unused {
            return;
        }
        let (bytes, fds) = (entry.encoding.len(), usize::from(entry.has_fds()));
        if unused {
            self.unused.push(id);
            self.unused_bytes += bytes;
            self.unused_with_fds += fds;
        } else {
            self.unused.retain(|unused| *unused != id);
            self.unused_bytes -= bytes;
            self.unused_with_fds -= fds;
        }
    }

    /// Takes out those that are unused and too many, or too large together; the ones used last stay. One with
    /// descriptors is not found again once nobody holds it, and goes.
    fn surplus(&mut self) -> Vec<(FunctionId, Arc<Erased>)> {
        let let_go = self.let_go.take().unwrap_or_else(|| self.entries.keys().copied().collect());
        for id in let_go {
            if self.entries.get(&id).is_some_and(Entry::is_free) {
                self.count_unused(id, true);
            }
        }
        let few = self.unused.len() <= UNUSED_FUNCTIONS && self.unused_bytes <= UNUSED_BYTES;
        if few && self.unused_with_fds == 0 {
            return Vec::new();
        }
        let (mut count, mut bytes) = (0, 0);
        let mut surplus = Vec::new();
        for id in self.unused.iter().rev() {
            let Some(entry) = self.entries.get(id) else { continue };
            count += 1;
            bytes += entry.encoding.len();
            if count > UNUSED_FUNCTIONS || bytes > UNUSED_BYTES || entry.has_fds() {
                surplus.push(*id);
            }
        }
        let mut removed = Vec::new();
        for id in surplus {
            self.count_unused(id, false);
            if let Some(entry) = self.entries.remove(&id) {
                self.by_encoding.remove(&entry.encoding);
                removed.push((id, entry.erased));
            }
        }
        removed
    }
}

impl State {
    /// Makes `function` known to the back, if it is not yet, for a job that is about to begin. What is not known any more is
    /// given back, to be dropped without the lock: its end may be code of the user's.
    pub(super) fn define(&mut self, function: &Arc<Callable>) -> (FunctionId, Forgotten) {
        let functions = &mut self.functions;
        let known = functions.by_encoding.get(&function.encoding).copied();
        if let Some((id, entry)) = known.and_then(|id| Some((id, functions.entries.get_mut(&id)?))) {
            entry.users += 1;
            entry.holder = Arc::downgrade(function);
            function.tell(&functions.let_go, id);
            functions.count_unused(id, false);
            return (id, Forgotten::new());
        }
        let forgotten = self.undefine_surplus();
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
        let (erased, holder) = (function.erased.clone(), Arc::downgrade(function));
        functions.entries.insert(id, Entry { encoding, erased, users: 1, unused: false, holder });
        function.tell(&functions.let_go, id);
        self.back.define(id, &function.erased, &function.encoding.parcel);
        (id, forgotten)
    }

    /// As for `define`, a job that called the function has ended.
    pub(super) fn release(&mut self, id: FunctionId) -> Forgotten {
        let functions = &mut self.functions;
        let Some(entry) = functions.entries.get_mut(&id) else { return Forgotten::new() };
        entry.users -= 1;
        if entry.users > 0 {
            return Forgotten::new();
        }
        if entry.is_free() {
            functions.count_unused(id, true);
        }
        self.undefine_surplus()
    }

    fn undefine_surplus(&mut self) -> Forgotten {
        let surplus = self.functions.surplus();
        surplus.iter().for_each(|(id, _)| self.back.undefine(*id));
        surplus.into_iter().map(|(_, erased)| erased).collect()
    }
}
