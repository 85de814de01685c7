//! Telling of each task, with its times, where the pool keeps a timeline.

use super::{End, Gone, Worker};
use crate::{back::FunctionId, local::wire::TaskHeader, seeing::Span};
use procession_channel::lane::TrySendError;
use procession_sys::Deadline;

impl Worker {
    /// A task of this function begins: when that is.
    pub(super) fn begin_span(&self, function: FunctionId) -> u64 {
        let now = Deadline::now().as_nanos();
        self.watch.control.pulse.task(function.0, now);
        now
    }

    /// Tells what was done of a task. If there is no room, it is left out: the timeline holds nobody up.
    pub(super) fn end_span(&mut self, header: TaskHeader, began: u64) -> Result<(), End> {
        let TaskHeader { function, key, first, items, .. } = header;
        let span = Span { function, key, first, items, began, ended: Deadline::now().as_nanos() };
        self.watch.control.pulse.task(0, 0);
        match self.results.send_quiet(&[&span.encode()]) {
            Ok(()) | Err(TrySendError::Full) => Ok(()),
            Err(_) => Err(Gone),
        }
    }
}
