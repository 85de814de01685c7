//! Running items, and committing what they come to.

use super::{End, Worker, copies};
use crate::{local::cargo::Cargo, records::Layout};
use procession_parcel::{
    Erased, Outcome,
    function::{Plainly, Records},
};

/// Commits what the items of one message come to.
pub(super) struct Telling<'a> {
    pub(super) worker: &'a mut Worker,
    /// Of the values.
    pub(super) layout: Layout,
    /// How many items are over.
    pub(super) told: u32,
    pub(super) end: Result<(), End>,
}

impl Telling<'_> {
    #[inline]
    fn tell(&mut self, commit: impl FnOnce(&mut Worker) -> Result<(), End>) -> bool {
        copies::end_if_copy();
        self.told += 1;
        self.end = commit(self.worker).and_then(|()| self.worker.count());
        self.end.is_ok()
    }
}

impl Records for Telling<'_> {
    #[inline]
    fn value(&mut self, record: &[u8]) -> bool {
        let layout = self.layout;
        self.tell(|worker| worker.commit_record(layout, record))
    }

    #[cold]
    fn failed(&mut self, outcome: Outcome<()>) -> bool {
        self.tell(|worker| worker.commit_failure(&outcome))
    }
}

/// Calls a function on one item, perhaps in a pool on a heap, or with a large argument, which may become the value's memory.
pub(super) fn call_specially(
    function: &Erased,
    cargo: Option<&mut Cargo>,
    large: Option<Vec<u8>>,
    argument: &[u8],
    plainly: Plainly,
    output: &mut Vec<u8>,
) -> Outcome<()> {
    match (cargo, large) {
        (None, None) => function.call_plainly(argument, plainly, output),
        (None, Some(argument)) => function.call_vec(argument, plainly, output),
        (Some(cargo), large) => cargo.call(function, large.as_deref().unwrap_or(argument), output),
    }
}
