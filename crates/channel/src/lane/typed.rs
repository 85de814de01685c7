//! Typed ends over the byte-level ones: the channel that users see.

use super::{
    ends::{Hangup, RawReceiver, RawSender},
    error::{SendError, TrySendError},
    failure::{ReceiveError, Unsent},
};
use procession_parcel::codec;
use procession_shm::HeapRing;
use procession_sys::Deadline;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};
use std::{fmt, marker::PhantomData, time::Duration};

/// The end of a [channel](crate::channel()) that values go into.
///
/// A value is encoded before the call returns, and accepted once the call returns Ok: it survives the death of this process
/// then. What is not accepted comes back in the error ([`Unsent`]).
///
/// # Across processes
///
/// The end goes to another process inside a parcel, as an argument for instance. Packing moves it: the one here says `Moved`
/// from then on. Dropping it tells the receiver that no more comes ([`ReceiveError::Closed`]). See [`RawSender`] for
/// what a parcel does that is not delivered.
///
/// # When a process dies
///
/// The receiver gets everything that this end committed, then [`ReceiveError::Died`]; it looks for that once per slice
/// ([`procession_sys::SLICE`], a quarter of a second) while it waits. When the receiver's process dies, a
/// send that waits for room ends with [`Unsent::Died`] as soon; while there is room nobody looks, unless by
/// [`is_closed`](Sender::is_closed). A forked copy of a process keeps its ends alive until it ends or executes a program.
#[must_use = "a sender that is dropped ends its channel"]
pub struct Sender<T> {
    pub(super) raw: RawSender,
    pub(super) ring: Option<HeapRing>,
    pub(super) scratch: Vec<u8>,
    values: PhantomData<fn(&T)>,
}

/// The end of a [channel](crate::channel()) that values come out of.
///
/// It travels, and tells of deaths, as a [`Sender`] does. In a `for` loop it gives what is sent until the sender is closed.
///
/// ```
/// let (mut sender, receiver) = procession_channel::channel::<u32>()?;
/// sender.send_many([1, 2, 3])?;
/// sender.close();
/// let all: Result<Vec<u32>, _> = receiver.into_iter().collect();
/// assert_eq!(all?, [1, 2, 3]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a receiver that is dropped ends its channel"]
pub struct Receiver<T> {
    pub(super) raw: RawReceiver,
    pub(super) ring: Option<HeapRing>,
    pub(super) scratch: Vec<u8>,
    /// Why the last value of a batch could not be decoded, for the next call.
    bad: Option<procession_parcel::Error>,
    #[cfg(feature = "async")]
    pub(super) polled: super::later::Polled,
    pub(super) waits: crate::waits::Waits,
    values: PhantomData<fn() -> T>,
}

/// A message with blocks that has not been committed: they come back when this is dropped.
pub(super) struct Departing<'a>(Option<&'a HeapRing>);

impl Departing<'_> {
    /// It waits for room, outside of this call.
    #[cfg(feature = "async")]
    pub(super) fn waits(mut self) {
        self.0 = None;
    }

    fn sent(mut self) {
        if let Some(ring) = self.0.take() {
            ring.sent();
        }
    }
}

impl Drop for Departing<'_> {
    fn drop(&mut self) {
        if let Some(ring) = self.0 {
            ring.back();
        }
    }
}

/// Encodes a value, and puts the blocks in it on their way.
#[inline]
pub(super) fn encode<'a, T: Serialize>(
    value: &T,
    ring: Option<&'a HeapRing>,
    scratch: &mut Vec<u8>,
) -> Result<Departing<'a>, Failed> {
    scratch.clear();
    let departing = Departing(ring);
    match ring {
        None => codec::encode(value, scratch).map_err(Failed::Encode)?,
        Some(ring) => {
            codec::encode_with(value, ring.carrier_out(), scratch).map_err(Failed::Encode)?;
            ring.depart().map_err(Failed::Heap)?;
        }
    }
    Ok(departing)
}

/// Why a message was not sent.
pub(super) enum Failed {
    Encode(procession_parcel::Error),
    Heap(procession_shm::Error),
    Send(SendError),
}

impl<T: Serialize> Sender<T> {
    /// Sends a value; waits for room as long as that takes.
    ///
    /// # Errors
    ///
    /// See [`Unsent`].
    #[inline]
    pub fn send(&mut self, value: T) -> Result<(), Unsent<T>> {
        self.send_by(value, |raw, bytes| raw.send(&[bytes], None))
    }

    /// Sends a value if there is room for it now.
    ///
    /// # Errors
    ///
    /// See [`Unsent`]: `Full`, and `TooLarge` for what is larger than the ring, which [`send`](Sender::send) takes.
    #[inline]
    pub fn try_send(&mut self, value: T) -> Result<(), Unsent<T>> {
        self.send_by(value, |raw, bytes| raw.try_send(&[bytes]).map_err(SendError::from))
    }

    /// Sends a value; waits for room so long at most.
    ///
    /// # Errors
    ///
    /// See [`Unsent`].
    #[inline]
    pub fn send_timeout(&mut self, value: T, timeout: Duration) -> Result<(), Unsent<T>> {
        self.send_deadline(value, Deadline::after(timeout))
    }

    /// Sends a value; waits for room until `deadline`.
    ///
    /// # Errors
    ///
    /// See [`Unsent`].
    #[inline]
    pub fn send_deadline(&mut self, value: T, deadline: Deadline) -> Result<(), Unsent<T>> {
        self.send_by(value, |raw, bytes| raw.send(&[bytes], Some(deadline)))
    }

    /// Sends values one after the other, and waits for room as long as that takes; gives how many. A receiver that
    /// sleeps is woken when the channel is full, or in the end.
    ///
    /// # Errors
    ///
    /// See [`Unsent`], for the first one that was not accepted; those before it were ([`sent`](Sender::sent) counts them),
    /// and those after it stay in the iterator.
    pub fn send_many(&mut self, values: impl IntoIterator<Item = T>) -> Result<usize, Unsent<T>> {
        let mut count = 0;
        for value in values {
            let sent = self.send_by(value, |raw, bytes| match raw.send_quiet(&[bytes]) {
                // A wait for room needs a receiver that is awake; what is larger than the ring goes in pieces.
                Err(TrySendError::Full | TrySendError::TooLarge { .. }) => {
                    raw.ring();
                    raw.send(&[bytes], None)
                }
                sent => sent.map_err(SendError::from),
            });
            if let Err(unsent) = sent {
                self.raw.ring();
                return Err(unsent);
            }
            count += 1;
        }
        self.raw.ring();
        Ok(count)
    }

    #[inline]
    fn send_by(
        &mut self,
        value: T,
        send: impl FnOnce(&mut RawSender, &[u8]) -> Result<(), SendError>,
    ) -> Result<(), Unsent<T>> {
        let sent = encode(&value, self.ring.as_ref(), &mut self.scratch).and_then(|departing| {
            send(&mut self.raw, &self.scratch).map_err(Failed::Send)?;
            departing.sent();
            Ok(())
        });
        sent.map_err(|failed| self.unsent(value, failed))
    }

    #[cold]
    pub(super) fn unsent(&self, value: T, failed: Failed) -> Unsent<T> {
        match failed {
            Failed::Encode(error) => Unsent::Encode(value, error),
            Failed::Heap(error) => Unsent::Heap(value, error),
            Failed::Send(error) => {
                if error == SendError::Disconnected
                    && let Some(ring) = &self.ring
                {
                    // What the receiver did not take is nobody's then.
                    ring.release();
                }
                Unsent::of(value, error, self.raw.peer_died())
            }
        }
    }
}

impl<T> Sender<T> {
    pub(super) fn over(raw: RawSender, ring: Option<HeapRing>) -> Sender<T> {
        Sender { raw, ring, scratch: Vec::new(), values: PhantomData }
    }

    /// A typed end over this one: its receiver must expect such values.
    pub fn from_raw(raw: RawSender) -> Sender<T> {
        Sender::over(raw, None)
    }

    /// The byte-level end.
    #[must_use]
    pub fn as_raw(&self) -> &RawSender {
        &self.raw
    }

    /// Tells the receiver that no more comes. So does a drop.
    pub fn close(self) {}

    /// Whether the receiver is gone: closed, dropped or dead. One system call while it is not.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.raw.look_after_peer() || self.raw.is_closed()
    }

    /// How many values were accepted.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.raw.sent()
    }

    /// How many of these are still in the channel for certain: neither received nor in the receiver's hand.
    #[must_use]
    pub fn pending(&self) -> u64 {
        self.raw.sent() - self.raw.taken()
    }

    /// See [`RawSender::hangup`].
    #[must_use]
    pub fn hangup(&self) -> Hangup {
        self.raw.hangup()
    }
}

impl<T: DeserializeOwned + 'static> Receiver<T> {
    /// Receives a value; waits for it as long as that takes.
    ///
    /// # Errors
    ///
    /// See [`ReceiveError`].
    #[inline]
    pub fn recv(&mut self) -> Result<T, ReceiveError> {
        self.tell_bad()?;
        loop {
            match self.raw.recv(&mut self.scratch, None) {
                Ok(true) => return self.decode(),
                Ok(false) => {}
                Err(error) => return Err(self.failure(error)),
            }
        }
    }

    /// Receives a value if one is there.
    ///
    /// It does not find out that the sender's process died: [`is_closed`](Receiver::is_closed) does, and so does each
    /// form that waits.
    ///
    /// # Errors
    ///
    /// See [`ReceiveError`].
    #[inline]
    pub fn try_recv(&mut self) -> Result<Option<T>, ReceiveError> {
        self.tell_bad()?;
        match self.raw.try_recv(&mut self.scratch) {
            Ok(true) => self.decode().map(Some),
            Ok(false) => Ok(None),
            Err(error) => Err(self.failure(error)),
        }
    }

    /// Receives a value; `None` if none comes in that time.
    ///
    /// # Errors
    ///
    /// See [`ReceiveError`].
    #[inline]
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Option<T>, ReceiveError> {
        self.recv_deadline(Deadline::after(timeout))
    }

    /// Receives a value; `None` if none comes until `deadline`.
    ///
    /// # Errors
    ///
    /// See [`ReceiveError`].
    #[inline]
    pub fn recv_deadline(&mut self, deadline: Deadline) -> Result<Option<T>, ReceiveError> {
        self.tell_bad()?;
        match self.raw.recv(&mut self.scratch, Some(deadline)) {
            Ok(true) => self.decode().map(Some),
            Ok(false) => Ok(None),
            Err(error) => Err(self.failure(error)),
        }
    }

    /// Waits for a value, then receives those that are there, up to `max`, and appends them; gives how many. Their space in
    /// the channel is given back at once.
    ///
    /// # Errors
    ///
    /// See [`ReceiveError`]: if the first one cannot be had. What cannot be decoded further on ends the batch, and is the
    /// next call's error.
    pub fn recv_many(&mut self, into: &mut Vec<T>, max: usize) -> Result<usize, ReceiveError> {
        /// Gives back the space, whatever user code does.
        struct Batch<'a>(&'a mut RawReceiver, u64);
        impl Drop for Batch<'_> {
            fn drop(&mut self) {
                self.0.settle(self.1);
            }
        }
        if max == 0 {
            return Ok(0);
        }
        into.push(self.recv()?);
        let mut count = 1;
        let mut batch = Batch(&mut self.raw, 0);
        while count < max {
            match batch.0.try_recv_unsettled(&mut self.scratch) {
                Ok(true) => batch.1 += 1,
                // The next call finds out what is the matter.
                Ok(false) | Err(_) => break,
            }
            match decode(&self.scratch, self.ring.as_ref()) {
                Ok(value) => into.push(value),
                Err(error) => {
                    self.bad = Some(error);
                    break;
                }
            }
            count += 1;
        }
        Ok(count)
    }

    /// What comes until the sender is closed: `None` then. Any other end, and what cannot be decoded, is an error.
    pub fn iter(&mut self) -> Iter<'_, T> {
        Iter { receiver: self, ended: false }
    }

    /// What is there now.
    pub fn try_iter(&mut self) -> TryIter<'_, T> {
        TryIter { receiver: self, ended: false }
    }

    #[inline]
    pub(super) fn decode(&mut self) -> Result<T, ReceiveError> {
        decode(&self.scratch, self.ring.as_ref()).map_err(ReceiveError::Decode)
    }
}

#[inline]
fn decode<T: DeserializeOwned + 'static>(
    bytes: &[u8],
    ring: Option<&HeapRing>,
) -> Result<T, procession_parcel::Error> {
    let Some(ring) = ring else { return codec::decode(bytes) };
    /// Whatever the decoding did, it does not do it again.
    struct Received<'a>(&'a HeapRing);
    impl Drop for Received<'_> {
        fn drop(&mut self) {
            self.0.received();
        }
    }
    let _received = Received(ring);
    codec::decode_with(bytes, ring.carrier_in())
}

impl<T> Receiver<T> {
    pub(super) fn over(raw: RawReceiver, ring: Option<HeapRing>) -> Receiver<T> {
        Receiver {
            raw,
            ring,
            scratch: Vec::new(),
            bad: None,
            #[cfg(feature = "async")]
            polled: Default::default(),
            waits: Default::default(),
            values: PhantomData,
        }
    }

    /// A typed end over this one: its sender must send such values.
    pub fn from_raw(raw: RawReceiver) -> Receiver<T> {
        Receiver::over(raw, None)
    }

    /// The byte-level end.
    #[must_use]
    pub fn as_raw(&self) -> &RawReceiver {
        &self.raw
    }

    /// Says that nothing more is taken: what is in the channel is lost, and every send fails. So does a drop.
    pub fn close(self) {}

    /// Whether the sender is gone: closed, dropped or dead. What it sent may still be there. One system call while it is
    /// not gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.raw.look_after_peer() || self.raw.is_closed()
    }

    /// Whether there is nothing to receive now, nor any end to be told of.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.raw.has_news()
    }

    /// Whether a call would not find the channel empty.
    pub(super) fn has_something(&self) -> bool {
        self.bad.is_some() || self.raw.has_news() || self.raw.is_gone()
    }

    /// How many values were received.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.raw.taken()
    }

    /// See [`RawReceiver::hangup`].
    #[must_use]
    pub fn hangup(&self) -> Hangup {
        self.raw.hangup()
    }

    #[inline]
    pub(super) fn tell_bad(&mut self) -> Result<(), ReceiveError> {
        if self.bad.is_some() {
            self.bad.take().map_or(Ok(()), |error| Err(ReceiveError::Decode(error)))
        } else {
            Ok(())
        }
    }

    #[cold]
    pub(super) fn failure(&self, error: super::RecvError) -> ReceiveError {
        let error = ReceiveError::of(error, self.raw.peer_died());
        if error.is_disconnected()
            && let Some(ring) = &self.ring
        {
            // What was sent and never committed is nobody's then.
            ring.release();
        }
        error
    }
}

/// What comes out of a receiver. See [`Receiver::iter`].
#[derive(Debug)]
pub struct Iter<'a, T> {
    receiver: &'a mut Receiver<T>,
    ended: bool,
}

/// What is there now. See [`Receiver::try_iter`].
#[derive(Debug)]
pub struct TryIter<'a, T> {
    receiver: &'a mut Receiver<T>,
    ended: bool,
}

/// What comes out of a receiver. See [`Receiver::iter`].
#[derive(Debug)]
pub struct IntoIter<T> {
    receiver: Receiver<T>,
    ended: bool,
}

/// What an iterator gives for what came; `ended` is set with the last one.
pub(super) fn item<T>(
    came: Result<Option<T>, ReceiveError>,
    ended: &mut bool,
) -> Option<Result<T, ReceiveError>> {
    *ended = !matches!(came, Ok(Some(_)) | Err(ReceiveError::Decode(_)));
    match came {
        Err(ReceiveError::Closed) => None,
        came => came.transpose(),
    }
}

impl<T: DeserializeOwned + 'static> Iterator for Iter<'_, T> {
    type Item = Result<T, ReceiveError>;
    fn next(&mut self) -> Option<Result<T, ReceiveError>> {
        if self.ended { None } else { item(self.receiver.recv().map(Some), &mut self.ended) }
    }
}

impl<T: DeserializeOwned + 'static> Iterator for TryIter<'_, T> {
    type Item = Result<T, ReceiveError>;
    fn next(&mut self) -> Option<Result<T, ReceiveError>> {
        if self.ended { None } else { item(self.receiver.try_recv(), &mut self.ended) }
    }
}

impl<T: DeserializeOwned + 'static> Iterator for IntoIter<T> {
    type Item = Result<T, ReceiveError>;
    fn next(&mut self) -> Option<Result<T, ReceiveError>> {
        if self.ended { None } else { item(self.receiver.recv().map(Some), &mut self.ended) }
    }
}

impl<T: DeserializeOwned + 'static> IntoIterator for Receiver<T> {
    type Item = Result<T, ReceiveError>;
    type IntoIter = IntoIter<T>;
    fn into_iter(self) -> IntoIter<T> {
        IntoIter { receiver: self, ended: false }
    }
}

impl<'a, T: DeserializeOwned + 'static> IntoIterator for &'a mut Receiver<T> {
    type Item = Result<T, ReceiveError>;
    type IntoIter = Iter<'a, T>;
    fn into_iter(self) -> Iter<'a, T> {
        self.iter()
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("lane", &self.raw).field("ring", &self.ring).finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("lane", &self.raw).field("ring", &self.ring).finish_non_exhaustive()
    }
}

/// Only inside a parcel, and once: packing moves the end.
impl<T> Serialize for Sender<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (&self.raw, &self.ring).serialize(serializer)
    }
}

impl<'de, T> Deserialize<'de> for Sender<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Sender<T>, D::Error> {
        Deserialize::deserialize(deserializer).map(|(raw, ring)| Sender::over(raw, ring))
    }
}

/// Only inside a parcel, and once: packing moves the end. Not while it holds the first pieces of a value.
impl<T> Serialize for Receiver<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (&self.raw, &self.ring).serialize(serializer)
    }
}

impl<'de, T> Deserialize<'de> for Receiver<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Receiver<T>, D::Error> {
        Deserialize::deserialize(deserializer).map(|(raw, ring)| Receiver::over(raw, ring))
    }
}
