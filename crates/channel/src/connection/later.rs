//! Connections for futures, under any executor.
//!
//! Each poll tries, and has the descriptor watched ([`procession_sys::poller`]) where there is nothing. What was read of
//! a message, or is out of one, is the connection's, so a future can be dropped at any time:
//!
//! * one that receives has taken a whole message, with which it is ready, or none;
//! * one that sends has sent the whole message, or nothing; or part of it, on a stream, whose rest the connection keeps.

use super::{
    Connection, bytes_of,
    error::ConnectionError,
    link::{Link, SEND, Transport},
    pack,
    stream::{Outgoing, Stream},
    unpack,
};
use procession_parcel::{Parcel, wire::packet::Packet};
use procession_sys::poller::{Interest, watch};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    future::poll_fn,
    os::fd::{AsFd, OwnedFd},
    task::{Poll, Waker},
};

/// Ends when `attempt` gives something; tries again whenever `fd` is ready.
async fn until<T>(fd: &impl AsFd, interest: Interest, mut attempt: impl FnMut(&Waker) -> Attempt<T>) -> T {
    let mut watching = None;
    poll_fn(|context| {
        watching = None;
        match attempt(context.waker()) {
            Attempt::Done(output) => return Poll::Ready(output),
            Attempt::NotReady => watching = Some(watch(fd.as_fd(), interest, context.waker())),
            Attempt::WillBeWoken => {}
        }
        let _ = &watching;
        Poll::Pending
    })
    .await
}

enum Attempt<T> {
    Done(T),
    /// The descriptor will say when to try again.
    NotReady,
    /// Somebody has the waker.
    WillBeWoken,
}

impl Link {
    async fn recv_async(&self) -> Result<Parcel, ConnectionError> {
        until(self, Interest::Read, |_| match self.try_recv(self.max_bytes).transpose() {
            Some(result) => Attempt::Done(result),
            None => Attempt::NotReady,
        })
        .await
    }

    /// `accepted` is called when the message is out, or its beginning is and the rest is the connection's.
    async fn send_async(
        &self,
        parts: &[&[u8]],
        fds: &[OwnedFd],
        accepted: impl Fn(),
    ) -> Result<(), ConnectionError> {
        self.check_writes()?;
        match &self.transport {
            Transport::Packets(socket, ..) => {
                let failed = |error| ConnectionError::parcel(SEND, error);
                let mut packet = Packet::new(parts, fds).map_err(failed)?;
                until(socket, Interest::Write, |_| match packet.try_send(socket.as_fd()) {
                    Ok(true) => {
                        accepted();
                        Attempt::Done(Ok(()))
                    }
                    Ok(false) => Attempt::NotReady,
                    Err(error) => Attempt::Done(Err(failed(error))),
                })
                .await
            }
            Transport::Stream(stream) => stream.send_async(Outgoing::new(parts, fds), accepted).await,
        }
    }
}

impl Stream {
    /// As the blocking form; but where there is no room for all of it, the rest is the connection's at once.
    async fn send_async(&self, message: Outgoing<'_>, accepted: impl Fn()) -> Result<(), ConnectionError> {
        let mut message = Some(message);
        until(&self.fd(), Interest::Write, |waker| {
            let Some(mut output) = self.poll_output(waker) else { return Attempt::WillBeWoken };
            match self.flush_some(&mut output) {
                Ok(true) => {}
                Ok(false) => return Attempt::NotReady,
                Err(error) => return Attempt::Done(Err(error)),
            }
            let Some(mut sending) = message.take() else { return Attempt::Done(Ok(())) };
            match self.send_some(&mut sending) {
                Ok(true) => {
                    accepted();
                    Attempt::Done(Ok(()))
                }
                Ok(false) => {
                    if sending.has_begun() {
                        accepted();
                        sending.keep_rest(&mut output);
                    } else {
                        message = Some(sending);
                    }
                    Attempt::NotReady
                }
                Err(error) => {
                    let partly = sending.has_begun() && !error.is_broken_pipe();
                    if partly {
                        accepted();
                        sending.keep_rest(&mut output);
                    }
                    Attempt::Done(Err(error.in_part(partly)))
                }
            }
        })
        .await
    }
}

impl<S: Serialize, R> Connection<S, R> {
    /// As [`send`](Connection::send), as a future (feature `async`), which can be dropped at any time: the message is sent
    /// or not, and on a stream, if part of it is out, the connection keeps the rest and sends it before the next.
    ///
    /// # Errors
    ///
    /// As [`send`](Connection::send).
    pub async fn send_async(&self, value: &S) -> Result<(), ConnectionError> {
        let parcel = pack(value)?;
        self.link.send_async(&[parcel.bytes()], parcel.fds(), || parcel.mark_delivered()).await
    }
}

impl<S, R: DeserializeOwned + 'static> Connection<S, R> {
    /// As [`recv`](Connection::recv), as a future (feature `async`), which can be dropped at any time: no message is lost.
    ///
    /// ```
    /// use procession_channel::Pipe;
    ///
    /// # fn block_on<F: Future>(future: F) -> F::Output {
    /// #     let mut future = std::pin::pin!(future);
    /// #     let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    /// #     loop {
    /// #         if let std::task::Poll::Ready(output) = future.as_mut().poll(&mut context) { return output }
    /// #     }
    /// # }
    /// let (receiver, sender) = Pipe::<u32>::one_way()?;
    /// let sum = async {
    ///     let mut sum = 0;
    ///     while let Ok(number) = receiver.recv_async().await {
    ///         sum += number;
    ///     }
    ///     sum
    /// };
    /// sender.send(&1)?;
    /// sender.send(&2)?;
    /// drop(sender);
    /// assert_eq!(block_on(sum), 3);
    /// # Ok::<(), procession_channel::ConnectionError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`recv`](Connection::recv).
    pub async fn recv_async(&self) -> Result<R, ConnectionError> {
        unpack(self.link.recv_async().await?)
    }
}

impl<S, R> Connection<S, R> {
    /// As [`send_bytes`](Connection::send_bytes), as a future (feature `async`). It can be dropped as that of
    /// [`send_async`](Connection::send_async).
    ///
    /// # Errors
    ///
    /// As [`send_bytes`](Connection::send_bytes).
    pub async fn send_bytes_async(&self, bytes: &[u8]) -> Result<(), ConnectionError> {
        self.link.send_async(&[bytes], &[], || {}).await
    }

    /// As [`recv_bytes`](Connection::recv_bytes), as a future (feature `async`), which can be dropped at any time.
    ///
    /// # Errors
    ///
    /// As [`recv_bytes`](Connection::recv_bytes).
    pub async fn recv_bytes_async(&self) -> Result<Vec<u8>, ConnectionError> {
        bytes_of(self.link.recv_async().await?)
    }

    /// Waits until there is something to receive: a message, its beginning on a stream, or the end. A future (feature
    /// `async`), which can be dropped at any time.
    ///
    /// # Errors
    ///
    /// What `poll(2)` reports.
    pub async fn poll_async(&self) -> Result<(), ConnectionError> {
        until(self, Interest::Read, |_| match self.poll(std::time::Duration::ZERO) {
            Ok(true) => Attempt::Done(Ok(())),
            Ok(false) => Attempt::NotReady,
            Err(error) => Attempt::Done(Err(error)),
        })
        .await
    }
}
