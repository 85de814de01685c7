//! What a worker did, in its pool's timeline, if that keeps one.

use super::Slot;
use crate::{
    back::{Events, FunctionId, Key},
    seeing::Span,
};
use procession_sys::Deadline;

impl Slot {
    /// It has become ready.
    pub(super) fn show_ready(&self) {
        if let Some(timeline) = &self.timeline {
            let born = self.tally.born.as_nanos();
            let ready = self.control.pulse.read(None).ready.unwrap_or(born);
            timeline.ready(self.process.pid(), born, ready.max(born));
        }
    }

    /// It has ended, with `remark`. To be called before what it had is given up.
    pub(in crate::local) fn show_end(&self, remark: &str) {
        let Some(timeline) = &self.timeline else { return };
        let track = self.process.pid();
        if let Some((function, began)) = self.control.pulse.began() {
            let first = self.given.front();
            let span = Span {
                function: FunctionId(function),
                key: first.map_or(Key { task: 0, attempt: 0 }, |task| task.key),
                first: first.map_or(0, |task| task.done),
                items: first.map_or(0, |task| task.items - task.done),
                began,
                ended: Deadline::now().as_nanos(),
            };
            timeline.named_task(track, &span, None, remark);
        }
        timeline.ended(track, remark);
    }

    /// Its pool is terminated and it is gone: takes in what it still told of its tasks.
    pub(in crate::local) fn show_termination(&mut self) {
        if self.timeline.is_some() {
            let mut unheard = Events::default();
            while self.collect(&mut unheard, |_| {}).is_some_and(|count| count > 0) {}
            self.show_end("terminated");
        }
    }
}
