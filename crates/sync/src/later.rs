//! Waits as futures, for any executor.
//!
//! # Protocol
//!
//! Each poll: end the watch of the last one; try; say in shared memory that somebody sleeps, and note the word that is
//! slept on; try again; have the word watched ([`procession_sys::waker`]). Whatever would let a try succeed from the second
//! one on changes the word, or wakes it.
//!
//! # Invariants
//!
//! 1. Between two polls nothing is held, entered or promised: a future can be dropped at any time. A flag that says that
//!    somebody sleeps may stay, for one wake call too many.
//! 2. No other sleeper waits for a future to be polled. A wake for one that reaches a future which is dropped before it
//!    was polled again goes on to the next; that of a mutex, whose sleepers have no slices, goes on at once if the mutex
//!    is free, and is asked for anew if it is held.
//! 3. A future that got what it wanted after a wake sees to it that other sleepers are woken in their turn.
//!
//! # When a process dies
//!
//! The watch ends with each slice, so a future looks again as a sleeping thread does.

use crate::arena::{Handle, Shared};
use procession_sys::{
    sync::AtomicU32,
    waker::{Watch, Word, watch},
};
use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

/// Something to be had sooner or later.
pub(crate) trait Try {
    type Output;

    /// Takes it if it is there. `waited`: after a wake, perhaps.
    fn attempt(&self, waited: bool) -> Option<Self::Output>;

    /// Says that somebody sleeps: the value of the word that is slept on, or `None` if it is worth trying again.
    fn flag(&self) -> Option<u32>;

    /// The word that is slept on.
    fn word(&self) -> Arc<dyn Word>;
}

/// A wait.
pub(crate) struct Later<T> {
    what: T,
    watch: Option<Watch>,
    waited: bool,
}

impl<T: Try> Later<T> {
    pub(crate) fn new(what: T) -> Later<T> {
        Later { what, watch: None, waited: false }
    }
}

impl<T: Try + Unpin> Future for Later<T> {
    type Output = T::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T::Output> {
        if let Some(watch) = self.watch.take() {
            watch.end();
            self.waited = true;
        }
        loop {
            if let Some(output) = self.what.attempt(self.waited) {
                return Poll::Ready(output);
            }
            let Some(seen) = self.what.flag() else { continue };
            self.waited = true;
            if let Some(output) = self.what.attempt(true) {
                return Poll::Ready(output);
            }
            self.watch = Some(watch(self.what.word(), seen, context.waker()));
            return Poll::Pending;
        }
    }
}

impl<T> fmt::Debug for Later<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Later").field("waited", &self.waited).finish_non_exhaustive()
    }
}

/// A word of a primitive, which stays as long as this handle for it.
pub(crate) struct WordOf<W> {
    pub(crate) handle: Handle<W>,
    pub(crate) find: fn(&W) -> &AtomicU32,
    /// Whether a wake is for one sleeper, who passes it on where it is of no use.
    pub(crate) one: bool,
    /// What is done at once when it was woken.
    pub(crate) fired: fn(&W),
}

impl<W: Shared> Word for WordOf<W> {
    fn word(&self) -> &AtomicU32 {
        (self.find)(self.handle.words())
    }

    fn passes_on(&self) -> bool {
        self.one
    }

    fn fired(&self) {
        (self.fired)(self.handle.words());
    }
}
