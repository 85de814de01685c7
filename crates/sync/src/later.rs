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
//! 1. Between two polls nothing is held or promised: a future can be dropped at any time. A flag that says that somebody
//!    sleeps may stay, for one wake call too many. What was entered, a place in a table, is left by a drop
//!    ([`Entered`]); what had been granted to it goes to the next.
//! 2. No other sleeper waits for a future to be polled. A wake for one that reaches a future which is dropped before it
//!    was polled again goes on to the next; that of a mutex, whose sleepers have no slices, goes on at once if the mutex
//!    is free, and is asked for anew if it is held.
//! 3. A future that got what it wanted after a wake sees to it that other sleepers are woken in their turn.
//!
//! # When a process dies
//!
//! The watch ends with each slice, so a future looks again as a sleeping thread does.

use crate::{
    arena::{Handle, Shared},
    robust::{Locked, NotLocked, Robust},
    table::{self, Entry, Table},
    who::generation,
};
use procession_sys::{
    Deadline,
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

/// The mutex inside a primitive. It is to be let go in the same poll in which it was taken.
pub(crate) struct Inside<'a, W> {
    handle: &'a Handle<W>,
    mutex: fn(&W) -> &Robust,
    deadline: Option<Deadline>,
}

impl<W: Shared> Inside<'_, W> {
    /// A future that takes it.
    pub(crate) fn of(handle: &Handle<W>, mutex: fn(&W) -> &Robust) -> Later<Inside<'_, W>> {
        Inside::until(handle, mutex, None)
    }

    /// A future that takes it, unless the deadline comes first: that is looked at after each slice.
    pub(crate) fn until(
        handle: &Handle<W>,
        mutex: fn(&W) -> &Robust,
        deadline: Option<Deadline>,
    ) -> Later<Inside<'_, W>> {
        Later::new(Inside { handle, mutex, deadline })
    }
}

impl<W: Shared> Try for Inside<'_, W> {
    type Output = Result<Locked, NotLocked>;

    fn attempt(&self, waited: bool) -> Option<Self::Output> {
        let mutex = (self.mutex)(self.handle.words());
        match mutex.lock_inside(table::now()) {
            Err(NotLocked::TimedOut) if !(waited && self.deadline.is_some_and(Deadline::passed)) => None,
            Ok(locked) => {
                if waited {
                    mutex.others_may_sleep();
                }
                Some(Ok(locked))
            }
            error => Some(error),
        }
    }

    fn flag(&self) -> Option<u32> {
        (self.mutex)(self.handle.words()).flag()
    }

    fn word(&self) -> Arc<dyn Word> {
        Arc::new(InsideWord { handle: self.handle.clone(), mutex: self.mutex })
    }
}

struct InsideWord<W> {
    handle: Handle<W>,
    mutex: fn(&W) -> &Robust,
}

impl<W: Shared> Word for InsideWord<W> {
    fn word(&self) -> &AtomicU32 {
        (self.mutex)(self.handle.words()).futex()
    }

    fn fired(&self) {
        (self.mutex)(self.handle.words()).relay();
    }
}

/// A place in a table, which a future leaves, wherever it is dropped.
pub(crate) struct Entered<'a, P: Leaves> {
    pub(crate) primitive: &'a P,
    pub(crate) index: usize,
    /// A forked child has a copy of its parent's future, and nothing to leave.
    generation: u32,
    left: bool,
}

/// What a primitive does for a future that is dropped.
pub(crate) trait Leaves {
    type Words: Shared;

    fn handle(&self) -> &Handle<Self::Words>;

    fn table(words: &Self::Words) -> &Table;

    /// Frees the entry, and passes on what was meant for it.
    fn give_up(&self, index: usize);
}

impl<'a, P: Leaves> Entered<'a, P> {
    pub(crate) fn new(primitive: &'a P, index: usize) -> Entered<'a, P> {
        Entered { primitive, index, generation: generation(), left: false }
    }

    pub(crate) fn entry(&self) -> &'a Entry {
        P::table(self.primitive.handle().words()).entry(self.index)
    }

    /// It was left, or is another's to leave.
    pub(crate) fn left(mut self) {
        self.left = true;
    }

    /// A future that ends when the entry is in another state than this, or `over` holds after a slice.
    pub(crate) fn changes<F: Fn() -> bool>(&self, state: u32, over: F) -> Later<Changes<'a, P, F>> {
        Later::new(Changes { primitive: self.primitive, index: self.index, state, over })
    }
}

impl<P: Leaves> Drop for Entered<'_, P> {
    fn drop(&mut self) {
        if !self.left && self.generation == generation() {
            self.primitive.give_up(self.index);
        }
    }
}

pub(crate) struct Changes<'a, P, F> {
    primitive: &'a P,
    index: usize,
    state: u32,
    over: F,
}

impl<P: Leaves, F: Fn() -> bool> Changes<'_, P, F> {
    fn entry(&self) -> &Entry {
        P::table(self.primitive.handle().words()).entry(self.index)
    }
}

impl<P: Leaves, F: Fn() -> bool> Try for Changes<'_, P, F> {
    type Output = ();

    fn attempt(&self, waited: bool) -> Option<()> {
        (self.entry().state() != self.state || waited && (self.over)()).then_some(())
    }

    fn flag(&self) -> Option<u32> {
        self.entry().flag(self.state)
    }

    fn word(&self) -> Arc<dyn Word> {
        Arc::new(EntryWord { handle: self.primitive.handle().clone(), table: P::table, index: self.index })
    }
}

struct EntryWord<W> {
    handle: Handle<W>,
    table: fn(&W) -> &Table,
    index: usize,
}

impl<W: Shared> Word for EntryWord<W> {
    fn word(&self) -> &AtomicU32 {
        (self.table)(self.handle.words()).entry(self.index).word()
    }
}
