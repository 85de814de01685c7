//! Puts and gets as futures, for any executor.
//!
//! # Protocol
//!
//! Each poll: end the watch of the last one; try; say at the gate that somebody sleeps, and note its count; try again;
//! have the count watched ([`procession_sys::waker`]). Whatever would let a try succeed from the second one on changes the
//! count, or wakes it.
//!
//! # Invariants
//!
//! Between two polls nothing is held: a future can be dropped at any time, and then nothing was put or taken. A wake for
//! one that is dropped before it was polled again goes on to the next sleeper.
//!
//! # When a process dies
//!
//! The watch ends with each slice, so a future looks again, and after the dead, as a sleeping thread does.

use super::{
    error::{GetError, PutError},
    gate::Gate,
    load::Outgoing,
    queue::{Inner, Queue},
    ring::{Lack, Refused},
    take::NotTaken,
    waiting::{GateWord, items},
    words::{Patience, Words},
};
use procession_sys::waker::{Watch, watch};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    fmt,
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
};

/// A wait of which nothing is left when it is dropped.
#[derive(Default)]
struct Sleep {
    watch: Option<Watch>,
}

impl Sleep {
    /// Whether it was woken from a sleep just now.
    fn ends(&mut self) -> bool {
        let watch = self.watch.take();
        let slept = watch.is_some();
        if let Some(watch) = watch {
            watch.end();
        }
        slept
    }

    /// Sleeps at a gate, unless `attempt` succeeds after that was said there.
    fn at<R>(
        &mut self,
        inner: &Arc<Inner>,
        gate: fn(&Words) -> &Gate,
        context: &Context<'_>,
        attempt: impl FnOnce() -> Option<R>,
    ) -> Poll<R> {
        let word = GateWord { inner: inner.clone(), gate };
        let seen = word.gate().announce();
        if let Some(result) = attempt() {
            return Poll::Ready(result);
        }
        self.watch = Some(watch(Arc::new(word), seen, context.waker()));
        Poll::Pending
    }
}

fn slots(words: &Words) -> &Gate {
    &words.head.slots
}

fn room(words: &Words) -> &Gate {
    &words.head.room
}

impl<T: Serialize> Queue<T> {
    /// As [`put`](Queue::put), as a future for any executor (feature `async`). It can be dropped at any time: then nothing
    /// was put. The item is encoded at the first poll.
    ///
    /// # Errors
    ///
    /// See [`PutError`]: the item comes back.
    pub async fn put_async(&self, item: T) -> Result<(), PutError<T>> {
        let mut frames = Vec::new();
        // Its blocks come back when this future is dropped, before the item goes.
        let load = Outgoing::of(self.inner.ring.memory());
        let mut put = self.encode(&item, &load, &mut frames);
        if put.is_ok() {
            let mut sleep = Sleep::default();
            let sent = poll_fn(|context| self.poll_put(&frames, &load, &mut sleep, context)).await;
            put = sent.map_err(|refused| load.error(refused));
        }
        match put {
            Ok(()) => load.sent(),
            Err(error) => return Err(error.with(item)),
        }
        Ok(())
    }

    fn poll_put(
        &self,
        frames: &[u8],
        load: &Outgoing,
        sleep: &mut Sleep,
        context: &Context<'_>,
    ) -> Poll<Result<(), Refused>> {
        let ring = &self.inner.ring;
        if sleep.ends() {
            // What goes wrong, the attempt finds too.
            let _ = ring.look_after();
        }
        let attempt = || match ring.try_put(frames, 1, Patience::Brief, load.load()) {
            Err(Refused::Full(lack)) => Err(lack),
            Err(refused) => Ok(Err(refused)),
            Ok(_) => Ok(Ok(())),
        };
        let lack: Lack = match attempt() {
            Ok(done) => return Poll::Ready(done),
            Err(lack) => lack,
        };
        let gate = if lack.is_of_items() { slots } else { room };
        sleep.at(&self.inner, gate, context, || attempt().ok())
    }
}

impl<T: DeserializeOwned + 'static> Queue<T> {
    /// As [`get`](Queue::get), as a future for any executor (feature `async`). It can be dropped at any time: then nothing
    /// was taken.
    ///
    /// # Errors
    ///
    /// See [`GetError`].
    pub async fn get_async(&self) -> Result<T, GetError> {
        let mut stream = self.stream();
        poll_fn(|context| stream.poll_get(context)).await
    }

    /// The items as a stream that needs no thread (feature `async`). See [`Items::poll_next`].
    #[must_use]
    pub fn stream(&self) -> Items<'_, T> {
        Items { queue: self, sleep: Sleep::default() }
    }
}

/// Items to be polled for. Made by [`Queue::stream`].
///
/// It has the method of the usual `Stream` traits, so that one line makes it one:
/// `futures::stream::poll_fn(move |context| items.poll_next(context))`.
pub struct Items<'a, T> {
    queue: &'a Queue<T>,
    sleep: Sleep,
}

impl<T: DeserializeOwned + 'static> Items<'_, T> {
    /// The next item; `None` once the queue is closed and drained.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<T, GetError>>> {
        self.poll_get(context).map(|item| match item {
            Err(error) if error.is_closed() => None,
            item => Some(item),
        })
    }

    /// The next item.
    ///
    /// # Errors
    ///
    /// See [`GetError`]; it is never `Empty`.
    pub fn poll_get(&mut self, context: &mut Context<'_>) -> Poll<Result<T, GetError>> {
        let Items { queue, sleep } = self;
        let ring = &queue.inner.ring;
        if sleep.ends() {
            // What goes wrong, the attempt finds too.
            let _ = ring.look_after();
        } else {
            queue.look_now_and_then();
        }
        let attempt = || {
            let (mut hint, mut frames) = (0, Vec::new());
            match ring.try_take(1, &mut hint, Patience::Brief, &mut frames) {
                Err(NotTaken::Empty) => None,
                Err(error) => Some(Err(error.into())),
                Ok(taken) => Some(queue.finish(taken, &frames)),
            }
        };
        if let Some(item) = attempt() {
            return Poll::Ready(item);
        }
        sleep.at(&queue.inner, items, context, attempt)
    }
}

impl<T> fmt::Debug for Items<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Items").field("queue", self.queue).finish_non_exhaustive()
    }
}
