//! Queues among what [`wait`](crate::wait()) waits for.
//!
//! The word that is watched is the count of the consumers' gate (see `waits.rs`).
//!
//! # When a process dies
//!
//! A producer killed between its commit and its ring, or a consumer with something in hand: found at the end of a slice.

use super::{
    gate::Gate,
    joinable::{JoinableQueue, SimpleQueue},
    queue::{Inner, Queue},
    words::{Memory, Words},
};
use crate::wait::Waitable;
use procession_sys::{
    sync::AtomicU32,
    waker::{Watch, Word, watch},
};
use std::{io, os::fd::BorrowedFd, sync::Arc, task::Waker};

/// A gate's count.
pub(super) struct GateWord {
    pub(super) inner: Arc<Inner>,
    pub(super) gate: fn(&Words) -> &Gate,
}

impl GateWord {
    pub(super) fn gate(&self) -> &Gate {
        (self.gate)(self.inner.ring.memory().words())
    }
}

impl Word for GateWord {
    fn word(&self) -> &AtomicU32 {
        self.gate().word()
    }

    fn passes_on(&self) -> bool {
        true
    }
}

/// The gate of those who wait for items.
pub(super) fn items(words: &Words) -> &Gate {
    &words.tail.items
}

impl Inner {
    /// Watches the gate, from a look at it that the caller repeats after this call.
    fn watch(self: &Arc<Inner>, waker: &Waker) -> Watch {
        let word = GateWord { inner: self.clone(), gate: items };
        let seen = word.gate().announce();
        watch(Arc::new(word), seen, waker)
    }
}

/// Ready when there is an item to take, or never will be one: take it by [`try_get`](Queue::try_get), since another consumer
/// may be quicker.
impl<T> Waitable for Queue<T> {
    fn prepare(&self) -> io::Result<BorrowedFd<'_>> {
        self.inner.waits.prepare(|waker| self.inner.watch(waker))
    }

    fn is_ready(&self, readable: bool) -> bool {
        let ring = &self.inner.ring;
        if ring.is_worth_a_try() {
            return true;
        }
        if readable {
            self.inner.waits.again(|waker| self.inner.watch(waker));
        }
        // What the dead had in hand may be what is waited for. What goes wrong, the take finds too.
        let _ = ring.look_after();
        let ready = ring.is_worth_a_try();
        if ready && readable {
            self.inner.waits.signal();
        }
        ready
    }

    fn needs_slices(&self) -> bool {
        true
    }

    fn finish(&self) {
        self.inner.waits.finish();
    }
}

/// As for a [`Queue`].
impl<T> Waitable for JoinableQueue<T> {
    fn prepare(&self) -> io::Result<BorrowedFd<'_>> {
        (**self).prepare()
    }

    fn is_ready(&self, readable: bool) -> bool {
        (**self).is_ready(readable)
    }

    fn needs_slices(&self) -> bool {
        true
    }

    fn finish(&self) {
        (**self).finish();
    }
}

/// As for a [`Queue`].
impl<T> Waitable for SimpleQueue<T> {
    fn prepare(&self) -> io::Result<BorrowedFd<'_>> {
        self.as_queue().prepare()
    }

    fn is_ready(&self, readable: bool) -> bool {
        self.as_queue().is_ready(readable)
    }

    fn needs_slices(&self) -> bool {
        true
    }

    fn finish(&self) {
        self.as_queue().finish();
    }
}
