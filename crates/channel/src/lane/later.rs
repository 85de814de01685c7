//! Waits of typed ends as futures, for any executor.
//!
//! # Protocol
//!
//! Each poll: end the watch of the last one; try; say on the bell that somebody sleeps, and note its word; try again; have
//! the word watched ([`procession_sys::waker`]). Whatever would let a try succeed from the second one on rings the bell,
//! which changes the word.
//!
//! # Invariants
//!
//! 1. A receive that was given up has taken nothing. A send that was given up has committed nothing, or some pieces of a
//!    large value, which the receiver drops when the next one begins.
//! 2. The bell's ring wakes all, so a future that was given up keeps no wake from anybody. Its flag may stay, for one wake
//!    call too many.
//!
//! # When a process dies
//!
//! The watch ends with each slice, so a future looks after the other end as a sleeping thread does.

use super::{
    failure::{ReceiveError, Unsent},
    mapped::End,
    typed::{Receiver, Sender, encode, item},
    waiting::BellOf,
    words::Memory,
};
use procession_sys::waker::{Watch, watch};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

/// What a receiver keeps between polls.
#[derive(Debug, Default)]
pub(super) struct Polled {
    watch: Option<Watch>,
    /// The stream is at its end.
    ended: bool,
}

/// Ends a watch; tells whether there was one.
fn end(watch: &mut Option<Watch>) -> bool {
    watch.take().map(Watch::end).is_some()
}

impl<T: DeserializeOwned + 'static> Receiver<T> {
    /// Receives a value. See [`recv`](Receiver::recv) for the errors.
    ///
    /// A future that is dropped has taken nothing. No thread waits for each receiver: one watches a hundred.
    pub fn recv_async(&mut self) -> Receive<'_, T> {
        Receive { receiver: self }
    }

    /// Receives a value, or sees to it that the context's waker is woken when there may be one; one waker at a time.
    ///
    /// # Errors
    ///
    /// See [`ReceiveError`].
    pub fn poll_recv(&mut self, context: &mut Context<'_>) -> Poll<Result<T, ReceiveError>> {
        let waited = end(&mut self.polled.watch);
        if let Some(came) = self.try_recv().transpose() {
            return Poll::Ready(came);
        }
        if waited && self.raw.look_after_peer() {
            // What it committed comes first, then the news.
            return Poll::Ready(self.recv());
        }
        let memory = self.raw.consumer.memory();
        let seen = memory.receiver_bell().announce();
        let word = Arc::new(BellOf(memory.clone(), End::Receiver));
        if let Some(came) = self.try_recv().transpose() {
            return Poll::Ready(came);
        }
        self.polled.watch = Some(watch(word, seen, context.waker()));
        Poll::Pending
    }

    /// As a stream: what comes until the sender is closed. Any other end, and what cannot be decoded, is an error. For use
    /// without the trait `Stream`, which it implements too.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<T, ReceiveError>>> {
        if self.polled.ended {
            return Poll::Ready(None);
        }
        let came = ready!(self.poll_recv(context));
        Poll::Ready(item(came.map(Some), &mut self.polled.ended))
    }
}

impl<T: DeserializeOwned + 'static> futures_core::Stream for Receiver<T> {
    type Item = Result<T, ReceiveError>;
    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<T, ReceiveError>>> {
        Receiver::poll_next(&mut self, context)
    }
}

/// A value that is being received. See [`Receiver::recv_async`].
#[derive(Debug)]
#[must_use = "a future does nothing unless it is awaited"]
pub struct Receive<'a, T> {
    receiver: &'a mut Receiver<T>,
}

impl<T: DeserializeOwned + 'static> Future for Receive<'_, T> {
    type Output = Result<T, ReceiveError>;
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<T, ReceiveError>> {
        self.receiver.poll_recv(context)
    }
}

impl<T> Drop for Receive<'_, T> {
    fn drop(&mut self) {
        end(&mut self.receiver.polled.watch);
    }
}

impl<T: Serialize> Sender<T> {
    /// Sends a value; waits for room. See [`send`](Sender::send) for the errors.
    ///
    /// A future that is dropped before it is done has not sent the value, which is dropped with it.
    pub fn send_async(&mut self, value: T) -> Send<'_, T> {
        Send { sender: self, value: Some(value), done: None, watch: None }
    }
}

/// A value that is being sent. See [`Sender::send_async`].
#[must_use = "a future does nothing unless it is awaited"]
pub struct Send<'a, T> {
    sender: &'a mut Sender<T>,
    value: Option<T>,
    /// How much of the encoded value is in the ring; `None` before it was encoded, and after the end.
    done: Option<usize>,
    watch: Option<Watch>,
}

/// The value is only looked at by reference until it is given back.
impl<T> Unpin for Send<'_, T> {}

impl<T: Serialize> Future for Send<'_, T> {
    type Output = Result<(), Unsent<T>>;
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), Unsent<T>>> {
        let this = self.get_mut();
        let waited = end(&mut this.watch);
        let Send { sender, value, done, watch: watching } = this;
        let Some(known) = value else { return Poll::Pending };
        if done.is_none() {
            match encode(known, sender.ring.as_ref(), &mut sender.scratch) {
                Ok(departing) => departing.waits(),
                Err(failed) => {
                    return Poll::Ready(value.take().map_or(Ok(()), |it| Err(sender.unsent(it, failed))));
                }
            }
        }
        let sent = done.get_or_insert(0);
        let mut seen = None;
        let end = loop {
            match sender.raw.send_some(&sender.scratch, sent) {
                Ok(true) => break Ok(()),
                Err(error) => break Err(error),
                // What it finds out is the next try's error.
                Ok(false) if waited && seen.is_none() => _ = sender.raw.look_after_peer(),
                Ok(false) => {}
            }
            let memory = sender.raw.producer.memory();
            if let Some(seen) = seen {
                let word = Arc::new(BellOf(memory.clone(), End::Sender));
                *watching = Some(watch(word, seen, context.waker()));
                return Poll::Pending;
            }
            seen = Some(memory.sender_bell().announce());
        };
        *done = None;
        let value = value.take();
        if let Some(ring) = &sender.ring {
            if end.is_ok() { ring.sent() } else { ring.back() }
        }
        match (end, value) {
            (Err(error), Some(value)) => {
                Poll::Ready(Err(sender.unsent(value, super::typed::Failed::Send(error))))
            }
            _ => Poll::Ready(Ok(())),
        }
    }
}

impl<T> Drop for Send<'_, T> {
    fn drop(&mut self) {
        end(&mut self.watch);
        if self.done.is_some()
            && let Some(ring) = &self.sender.ring
        {
            ring.back();
        }
    }
}

impl<T> fmt::Debug for Send<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Send").field("sender", &self.sender).field("done", &self.done).finish_non_exhaustive()
    }
}
