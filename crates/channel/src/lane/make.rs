//! How typed ends are made.

use super::{
    ends::{Config, pair},
    typed::{Receiver, Sender},
};
use crate::Error;
use procession_shm::{Heap, HeapRing};

/// Makes a channel for values of type `T` with one sender and one receiver, which can be in different processes.
///
/// Its ring has 256 KiB; [`ChannelBuilder`] makes others.
///
/// ```
/// let (mut sender, mut receiver) = procession_channel::channel::<(u32, String)>()?;
/// sender.send((1, "one".to_owned()))?;
/// drop(sender);
/// assert_eq!(receiver.recv()?, (1, "one".to_owned()));
/// assert!(receiver.recv().is_err_and(|error| error.is_disconnected()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// No descriptors, no memory, or no `/proc`, through which the ends make it known that they live.
pub fn channel<T>() -> Result<(Sender<T>, Receiver<T>), Error> {
    ChannelBuilder::new().build()
}

/// Makes a channel whose values may hold blocks of this heap ([`SharedVec`](procession_shm::SharedVec) and its kin), at any
/// depth: they go to the receiver by reference, in a time that does not depend on their size.
///
/// ```
/// use procession_shm::{Heap, SharedVec};
///
/// let heap = Heap::new()?;
/// let (mut sender, mut receiver) = procession_channel::channel_on::<(u64, SharedVec<u8>)>(&heap)?;
/// let mut frame = heap.vec::<u8>(1920 * 1080)?;
/// frame.fill(7);
/// sender.send((1, frame))?;
/// let (number, frame) = receiver.recv()?;
/// assert!(number == 1 && frame.iter().all(|&byte| byte == 7));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// As [`channel`], and as [`HeapRing::new`].
pub fn channel_on<T>(heap: &Heap) -> Result<(Sender<T>, Receiver<T>), Error> {
    ChannelBuilder::new().heap(heap).build()
}

/// What a [channel](channel()) is to be like.
#[derive(Clone, Debug, Default)]
#[must_use = "a builder does nothing until `build`"]
pub struct ChannelBuilder {
    config: Config,
    heap: Option<Heap>,
}

impl ChannelBuilder {
    /// A channel as [`channel`](channel()) makes it.
    pub fn new() -> ChannelBuilder {
        ChannelBuilder::default()
    }

    /// The most bytes that lie in the channel; rounded up to a power of two from 4096 to 64 MiB. Memory is taken only
    /// as far as it is used. A value takes its encoding and up to 16 bytes.
    pub fn capacity(mut self, bytes: usize) -> ChannelBuilder {
        self.config.capacity = bytes;
        self
    }

    /// The largest encoding of a value in bytes, 1 GiB unless said otherwise. A value that is larger than half the
    /// capacity goes in pieces, so the sender is done only when the receiver has taken most of it.
    pub fn max_message(mut self, bytes: usize) -> ChannelBuilder {
        self.config.max_message = bytes;
        self
    }

    /// Values may hold blocks of this heap. See [`channel_on`].
    pub fn heap(mut self, heap: &Heap) -> ChannelBuilder {
        self.heap = Some(heap.clone());
        self
    }

    /// Makes the channel.
    ///
    /// # Errors
    ///
    /// As [`channel`](channel()), and [`HeapRing::new`] for one on a heap.
    pub fn build<T>(&self) -> Result<(Sender<T>, Receiver<T>), Error> {
        let (sender, receiver) = pair(&Config { watch_peers: true, ..self.config.clone() })?;
        let ring = self.heap.as_ref().map(HeapRing::new).transpose()?;
        let other = ring.as_ref().map(HeapRing::another).transpose()?;
        Ok((Sender::over(sender, ring), Receiver::over(receiver, other)))
    }
}
