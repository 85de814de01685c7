//! Queues among what [`wait`](crate::wait()) waits for.
//!
//! # Protocol
//!
//! A queue has no descriptor that says anything; a wait gives it one, an event fd. From the wait's beginning on the count of
//! the consumers' gate is watched ([`procession_sys::waker`]), and its change signals the event fd. Whoever finds the event
//! fd readable and the queue empty makes it silent, watches anew, and looks once more.
//!
//! # Invariants
//!
//! 1. While anybody waits, what comes after the last look changes the count that is watched, or has been seen.
//! 2. The waits of a process share the event fd: who silences it watches anew before it looks, so the next change signals for
//!    all; and what it sees then it signals itself.
//! 3. The watch holds no wake back from other consumers: ended, it passes on what it was given.
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
use rustix::event::{EventfdFlags, eventfd};
use std::{
    fmt, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    task::{Wake, Waker},
};

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

/// An event fd as a waker.
struct Signal(OwnedFd);

impl Signal {
    fn silence(&self) {
        // It does not block: there is nothing to read where another wait was quicker.
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // It fails only where it is signalled many times over already.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }
}

/// The waits of this process for a queue.
#[derive(Default)]
pub(super) struct Waits {
    signal: OnceLock<Arc<Signal>>,
    under_way: Mutex<UnderWay>,
}

#[derive(Default)]
struct UnderWay {
    count: usize,
    watch: Option<Watch>,
}

impl Waits {
    fn under_way(&self) -> MutexGuard<'_, UnderWay> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waits").field("count", &self.under_way().count).finish_non_exhaustive()
    }
}

impl Inner {
    /// Watches the gate, from a look at it that the caller repeats after this call.
    fn watch(self: &Arc<Inner>, under_way: &mut UnderWay, signal: &Arc<Signal>) {
        if let Some(ended) = under_way.watch.take() {
            ended.end();
        }
        let word = GateWord { inner: self.clone(), gate: items };
        let seen = word.gate().announce();
        under_way.watch = Some(watch(Arc::new(word), seen, &Waker::from(signal.clone())));
    }
}

/// Ready when there is an item to take, or never will be one: take it by [`try_get`](Queue::try_get), since another consumer
/// may be quicker.
impl<T> Waitable for Queue<T> {
    fn prepare(&self) -> io::Result<BorrowedFd<'_>> {
        let waits = &self.inner.waits;
        let mut under_way = waits.under_way();
        if waits.signal.get().is_none() {
            let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            // Under the lock: nobody else sets it.
            let _ = waits.signal.set(Arc::new(Signal(fd)));
        }
        let signal = waits.signal.get().ok_or_else(|| io::Error::other("the event fd is gone"))?;
        under_way.count += 1;
        if under_way.count == 1 {
            signal.silence();
            self.inner.watch(&mut under_way, signal);
        }
        Ok(signal.0.as_fd())
    }

    fn is_ready(&self, readable: bool) -> bool {
        let ring = &self.inner.ring;
        if ring.is_worth_a_try() {
            return true;
        }
        if let (true, Some(signal)) = (readable, self.inner.waits.signal.get()) {
            let mut under_way = self.inner.waits.under_way();
            signal.silence();
            self.inner.watch(&mut under_way, signal);
        }
        // What the dead had in hand may be what is waited for. What goes wrong, the take finds too.
        let _ = ring.look_after();
        let ready = ring.is_worth_a_try();
        if let (true, true, Some(signal)) = (ready, readable, self.inner.waits.signal.get()) {
            // It came after the silence and perhaps before the watch: the other waits of this process are to see it too.
            signal.wake_by_ref();
        }
        ready
    }

    fn needs_slices(&self) -> bool {
        true
    }

    fn finish(&self) {
        let mut under_way = self.inner.waits.under_way();
        under_way.count = under_way.count.saturating_sub(1);
        if under_way.count == 0 {
            let ended = under_way.watch.take();
            drop(under_way);
            // A wake that it was given goes on to the next.
            drop(ended);
        }
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
