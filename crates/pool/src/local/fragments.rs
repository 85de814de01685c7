//! A large message, put together by the worker that it comes to.

use super::wire::{self, TaskHeader, Watched};
use crate::records;

/// The fragments so far. Of a task's, the head goes apart, so that the item's argument is alone in memory of its size: it may
/// become that memory.
#[derive(Debug, Default)]
pub(super) struct Fragments {
    /// The task's header, and how many bytes the argument has.
    head: Vec<u8>,
    body: Vec<u8>,
}

/// A message that is whole.
pub(super) enum Whole {
    /// A task of one item: its head, and the item's argument.
    Task(Vec<u8>, Vec<u8>),
    Other(Vec<u8>),
}

impl Fragments {
    /// Whether none has come.
    pub(super) fn is_empty(&self) -> bool {
        self.head.is_empty() && self.body.is_empty()
    }

    /// The next one.
    pub(super) fn add(&mut self, fragment: &[u8]) {
        if self.is_empty() {
            let watched = fragment.get(1).is_some_and(|flags| flags & wire::WATCHED != 0);
            let head = TaskHeader::SIZE + if watched { Watched::SIZE } else { 0 };
            let length = wire::u32_at(fragment, head);
            if let (Some(&wire::TASK), Some(length)) = (fragment.first(), length) {
                let (head, argument) = fragment.split_at(head + records::PREFIX);
                self.head.extend_from_slice(head);
                self.body.reserve_exact(length as usize);
                return self.body.extend_from_slice(argument);
            }
        }
        self.body.extend_from_slice(fragment);
    }

    /// The message, after its last fragment. `None` for what no parent sends.
    pub(super) fn take(&mut self) -> Option<Whole> {
        let Fragments { mut head, body } = std::mem::take(self);
        if head.is_empty() {
            return Some(Whole::Other(body));
        }
        let length = head.split_off(head.len().checked_sub(records::PREFIX)?);
        (wire::u32_at(&length, 0)? as usize == body.len()).then_some(Whole::Task(head, body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::back::{FunctionId, Key};

    fn task(length: u32) -> Vec<u8> {
        let header = TaskHeader {
            flags: 0,
            function: FunctionId(1),
            key: Key { task: 2, attempt: 1 },
            first: 0,
            items: 1,
            priority: 0,
            limit: 0,
            layouts: Default::default(),
        };
        [&header.encode()[..], &length.to_le_bytes(), b"abc"].concat()
    }

    #[test]
    fn a_task_comes_apart_and_anything_else_stays_whole() {
        let mut fragments = Fragments::default();
        fragments.add(&task(5));
        fragments.add(b"de");
        assert!(!fragments.is_empty());
        let Some(Whole::Task(head, argument)) = fragments.take() else { panic!() };
        assert!(TaskHeader::decode(&head).is_some_and(|(_, rest)| rest.is_empty()));
        assert_eq!((&argument[..], fragments.is_empty()), (&b"abcde"[..], true));
        fragments.add(&task(9));
        assert!(fragments.take().is_none(), "shorter than it says");
        fragments.add(&[wire::DEFINE, 1, 2]);
        fragments.add(&[3]);
        assert!(matches!(fragments.take(), Some(Whole::Other(bytes)) if bytes == [wire::DEFINE, 1, 2, 3]));
    }
}
