//! What the parent may say while an item runs.

use crate::local::{control::Control, hand::ASKED, wire::Watched};
use procession_sys::Deadline;
use std::{cell::Cell, sync::atomic::Ordering, time::Duration};

/// What the parent may say while an item runs.
pub(super) struct Watch {
    pub(super) control: Control,
    /// The ordinal of the task that is running, if that may be cancelled.
    pub(super) ordinal: Cell<Option<u32>>,
    /// Whether this process is too large to go on.
    pub(super) heavy: Cell<bool>,
}

impl Watch {
    /// Whether the item that is running was asked to end.
    pub(super) fn asked(&self) -> bool {
        let asked = |ordinal| self.control.revoked(ordinal).load(Ordering::Relaxed) >= ASKED;
        self.control.stop.load(Ordering::Relaxed) != 0 || self.ordinal.get().is_some_and(asked)
    }

    /// Whether no further message is begun.
    pub(super) fn is_stopped(&self) -> bool {
        self.heavy.get() || self.control.stop.load(Ordering::Relaxed) != 0
    }

    /// Runs an item that is watched, `None` if it was revoked. It does not return if the item was condemned: then this
    /// process is about to be killed, and nothing may be committed any more.
    pub(super) fn run<R>(
        &self,
        watched: &Watched,
        index: u32,
        limit: u64,
        call: impl FnOnce() -> R,
    ) -> Option<R> {
        let number = watched.number.wrapping_add(u64::from(index));
        let began = if limit == 0 { 0 } else { Deadline::now().as_nanos() };
        let revoked = watched.ordinal.map(|ordinal| self.control.revoked(ordinal));
        let outcome = self.control.hand.begin(number, began, revoked).then(|| {
            self.ordinal.set(watched.ordinal);
            let outcome = call();
            self.ordinal.set(None);
            outcome
        });
        if !self.control.hand.finish(number) {
            loop {
                std::thread::sleep(Duration::from_secs(1));
            }
        }
        outcome
    }
}
