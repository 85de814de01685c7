//! Receivers among what [`wait`](crate::wait()) waits for. The word that is watched is the receiver's bell (see `waits.rs`).
//!
//! # When a process dies
//!
//! A sender killed between its commit and its ring, or at any other moment: found at the end of a slice.

use super::{
    mapped::{End, Mapped},
    typed::Receiver,
    words::Memory,
};
use crate::wait::Waitable;
use procession_sys::{
    sync::AtomicU32,
    waker::{Watch, Word, watch},
};
use std::{io, os::fd::BorrowedFd, sync::Arc, task::Waker};

/// The bell on which an end sleeps.
pub(super) struct BellOf(pub(super) Mapped, pub(super) End);

impl Word for BellOf {
    fn word(&self) -> &AtomicU32 {
        match self.1 {
            End::Sender => self.0.sender_bell().word(),
            End::Receiver => self.0.receiver_bell().word(),
        }
    }
}

impl<T> Receiver<T> {
    /// Watches the bell, from a look at it that the caller repeats after this call.
    fn watch(&self, waker: &Waker) -> Watch {
        let memory = self.raw.consumer.memory();
        let seen = memory.receiver_bell().announce();
        watch(Arc::new(BellOf(memory.clone(), End::Receiver)), seen, waker)
    }
}

/// Ready when there is something to receive, a part of a large value perhaps, or an end to be told of: take it by
/// [`try_recv`](Receiver::try_recv). It finds out by itself when the sender's process dies.
impl<T> Waitable for Receiver<T> {
    fn prepare(&self) -> io::Result<BorrowedFd<'_>> {
        self.waits.prepare(|waker| self.watch(waker))
    }

    fn is_ready(&self, readable: bool) -> bool {
        if self.has_something() {
            return true;
        }
        if readable {
            self.waits.again(|waker| self.watch(waker));
        }
        // It tells on the word that the sender is gone, if it is.
        let ready = self.raw.look_after_peer() || self.has_something();
        if ready && readable {
            self.waits.signal();
        }
        ready
    }

    fn needs_slices(&self) -> bool {
        true
    }

    fn finish(&self) {
        self.waits.finish();
    }
}
