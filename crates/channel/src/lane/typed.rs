//! Typed ends over the byte-level ones.

use super::{
    ends::{Config, Hangup, RawReceiver, RawSender, pair},
    error::{RecvError, SendError, TrySendError},
};
use crate::Error;
use procession_parcel::codec;
use procession_sys::Deadline;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};
use std::{fmt, marker::PhantomData};

/// Makes a lane for values of type `T`, with a ring of `capacity` bytes (see [`Config::capacity`]).
///
/// ```
/// use procession_channel::lane;
///
/// let (mut sender, mut receiver) = lane::channel::<(u32, String)>(64 * 1024)?;
/// sender.send(&(1, "one".to_owned()))?;
/// drop(sender);
/// assert_eq!(receiver.recv()?, (1, "one".to_owned()));
/// assert!(receiver.recv().is_err_and(|error| error.is_disconnected()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// No descriptors, no memory.
pub fn channel<T>(capacity: usize) -> Result<(Sender<T>, Receiver<T>), Error> {
    let (sender, receiver) = pair(&Config { capacity, ..Config::default() })?;
    Ok((Sender::from_raw(sender), Receiver::from_raw(receiver)))
}

/// The end of a lane that values go into. See [`RawSender`] for what holds across processes.
///
/// A value is encoded before the call returns: what cannot be encoded, such as one that holds a descriptor, is that
/// call's error.
pub struct Sender<T: ?Sized> {
    raw: RawSender,
    scratch: Vec<u8>,
    values: PhantomData<fn(&T)>,
}

/// The end of a lane that values come out of. See [`RawReceiver`] for what holds across processes.
pub struct Receiver<T> {
    raw: RawReceiver,
    scratch: Vec<u8>,
    values: PhantomData<fn() -> T>,
}

/// Why a value was not sent, or none received.
#[derive(Debug)]
pub enum ChannelError {
    /// The value could not be encoded.
    Encode(procession_parcel::Error),
    /// What arrived could not be decoded. It is out of the lane; the next value can be received.
    Decode(procession_parcel::Error),
    /// It was not sent.
    Send(SendError),
    /// Nothing can be received any more.
    Recv(RecvError),
}

impl ChannelError {
    /// Whether the other end is gone.
    #[must_use]
    pub fn is_disconnected(&self) -> bool {
        matches!(
            self,
            ChannelError::Send(SendError::Disconnected) | ChannelError::Recv(RecvError::Disconnected)
        )
    }

    /// Whether there was no room, now or until the deadline.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, ChannelError::Send(SendError::Timeout))
    }
}

impl fmt::Display for ChannelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChannelError::Encode(error) => write!(f, "failed to encode a message: {error}"),
            ChannelError::Decode(error) => write!(f, "failed to decode a message: {error}"),
            ChannelError::Send(error) => error.fmt(f),
            ChannelError::Recv(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ChannelError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ChannelError::Encode(error) | ChannelError::Decode(error) => Some(error),
            ChannelError::Send(error) => Some(error),
            ChannelError::Recv(error) => Some(error),
        }
    }
}

impl<T: Serialize + ?Sized> Sender<T> {
    fn encode(&mut self, value: &T) -> Result<(), ChannelError> {
        self.scratch.clear();
        codec::encode(value, &mut self.scratch).map_err(ChannelError::Encode)
    }

    /// Sends a value; waits for room as long as that takes.
    ///
    /// # Errors
    ///
    /// The value cannot be encoded or is too large, or the receiver is gone.
    pub fn send(&mut self, value: &T) -> Result<(), ChannelError> {
        self.encode(value)?;
        self.raw.send(&[&self.scratch], None).map_err(ChannelError::Send)
    }

    /// Sends a value; waits for room until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`send`](Sender::send), and there was no room in time.
    pub fn send_deadline(&mut self, value: &T, deadline: Deadline) -> Result<(), ChannelError> {
        self.encode(value)?;
        self.raw.send(&[&self.scratch], Some(deadline)).map_err(ChannelError::Send)
    }

    /// Sends a value if there is room for it now.
    ///
    /// # Errors
    ///
    /// As [`send`](Sender::send), and there is no room.
    pub fn try_send(&mut self, value: &T) -> Result<(), ChannelError> {
        self.encode(value)?;
        let sent = self.raw.try_send(&[&self.scratch]);
        sent.map_err(|error: TrySendError| ChannelError::Send(error.into()))
    }
}

impl<T: ?Sized> Sender<T> {
    /// A typed end over this one: its receiver must expect such values.
    #[must_use]
    pub fn from_raw(raw: RawSender) -> Sender<T> {
        Sender { raw, scratch: Vec::new(), values: PhantomData }
    }

    /// The byte-level end.
    #[must_use]
    pub fn as_raw(&self) -> &RawSender {
        &self.raw
    }

    /// See [`RawSender::hangup`].
    #[must_use]
    pub fn hangup(&self) -> Hangup {
        self.raw.hangup()
    }
}

impl<T: DeserializeOwned + 'static> Receiver<T> {
    fn decode(&self) -> Result<T, ChannelError> {
        codec::decode(&self.scratch).map_err(ChannelError::Decode)
    }

    /// Receives a value; waits for it as long as that takes.
    ///
    /// # Errors
    ///
    /// The sender is gone and everything it sent has been received, or what arrived cannot be decoded.
    pub fn recv(&mut self) -> Result<T, ChannelError> {
        while !self.raw.recv(&mut self.scratch, None).map_err(ChannelError::Recv)? {}
        self.decode()
    }

    /// Receives a value; `None` if none comes until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`recv`](Receiver::recv).
    pub fn recv_deadline(&mut self, deadline: Deadline) -> Result<Option<T>, ChannelError> {
        let received = self.raw.recv(&mut self.scratch, Some(deadline)).map_err(ChannelError::Recv)?;
        if received { self.decode().map(Some) } else { Ok(None) }
    }

    /// Receives a value if one is there.
    ///
    /// # Errors
    ///
    /// As [`recv`](Receiver::recv).
    pub fn try_recv(&mut self) -> Result<Option<T>, ChannelError> {
        let received = self.raw.try_recv(&mut self.scratch).map_err(ChannelError::Recv)?;
        if received { self.decode().map(Some) } else { Ok(None) }
    }
}

impl<T> Receiver<T> {
    /// A typed end over this one: its sender must send such values.
    #[must_use]
    pub fn from_raw(raw: RawReceiver) -> Receiver<T> {
        Receiver { raw, scratch: Vec::new(), values: PhantomData }
    }

    /// The byte-level end.
    #[must_use]
    pub fn as_raw(&self) -> &RawReceiver {
        &self.raw
    }

    /// See [`RawReceiver::hangup`].
    #[must_use]
    pub fn hangup(&self) -> Hangup {
        self.raw.hangup()
    }
}

impl<T: ?Sized> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.raw.fmt(f)
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.raw.fmt(f)
    }
}

impl<T: ?Sized> Serialize for Sender<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.raw.serialize(serializer)
    }
}

impl<'de, T: ?Sized> Deserialize<'de> for Sender<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Sender<T>, D::Error> {
        RawSender::deserialize(deserializer).map(Sender::from_raw)
    }
}

impl<T> Serialize for Receiver<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.raw.serialize(serializer)
    }
}

impl<'de, T> Deserialize<'de> for Receiver<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Receiver<T>, D::Error> {
        RawReceiver::deserialize(deserializer).map(Receiver::from_raw)
    }
}
