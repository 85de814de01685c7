//! [`JoinableQueue`] and [`SimpleQueue`].

use super::{
    error::{GetError, JoinError, PutError, QueueError, TooManyDone},
    queue::{Queue, QueueBuilder},
    trouble::Trouble,
    words::Memory,
};
use crate::bell::Waited;
use core::ops::Deref;
use procession_shm::Heap;
use procession_sys::{Deadline, Spin};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};
use std::{fmt, time::Duration};

impl QueueBuilder {
    /// Makes a [`JoinableQueue`].
    ///
    /// # Errors
    ///
    /// As [`build`](QueueBuilder::build).
    pub fn build_joinable<T>(self) -> Result<JoinableQueue<T>, QueueError> {
        Ok(JoinableQueue { queue: Queue::of(self.make(true)?) })
    }
}

/// A [`Queue`] that tells when all of its items are done.
///
/// An item that was taken by [`get`](Queue::get) is in hand of its process until that calls
/// [`task_done`](JoinableQueue::task_done), once per item. A [`claim`](Queue::claim) is done by itself. Batches are of one
/// item here.
///
/// # When a process dies
///
/// What it had in hand is not done. With `Policy::Report` a [`join`](JoinableQueue::join) says so instead of waiting for
/// ever; with `Redeliver` another consumer gets it; with `Drop` it counts as lost, and as done. A process that ends
/// without `task_done` for what it took is as good as dead.
///
/// # Examples
///
/// ```
/// use procession_channel::queue::JoinableQueue;
///
/// let queue = JoinableQueue::bounded(10)?;
/// queue.put("task".to_owned())?;
/// let worker = queue.clone();
/// let worker = std::thread::spawn(move || {
///     let task = worker.get().unwrap();
///     worker.task_done().unwrap();
///     task
/// });
/// queue.join()?;
/// assert_eq!(worker.join().unwrap(), "task");
/// assert!(queue.task_done().is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct JoinableQueue<T> {
    queue: Queue<T>,
}

impl<T> JoinableQueue<T> {
    /// A queue for at most `items` items, of 1 GiB together.
    ///
    /// # Errors
    ///
    /// As [`QueueBuilder::build`].
    pub fn bounded(items: usize) -> Result<JoinableQueue<T>, QueueError> {
        Queue::builder().capacity(items).build_joinable()
    }

    /// A queue for as many items as 1 GiB has room for.
    ///
    /// # Errors
    ///
    /// As [`QueueBuilder::build`].
    pub fn unbounded() -> Result<JoinableQueue<T>, QueueError> {
        Queue::builder().build_joinable()
    }

    /// Says that an item that this process took is done: the one that it took first.
    ///
    /// # Errors
    ///
    /// It has taken none that is not done.
    pub fn task_done(&self) -> Result<(), TooManyDone> {
        if self.queue.inner.task_done() { Ok(()) } else { Err(TooManyDone) }
    }

    /// Waits until every item that was accepted is done.
    ///
    /// # Errors
    ///
    /// Consumers died with items in hand, and the policy is to report that.
    pub fn join(&self) -> Result<(), JoinError> {
        self.join_until(None)
    }

    /// As [`join`](JoinableQueue::join), and waits no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// As [`join`](JoinableQueue::join), and [`JoinError::TimedOut`].
    pub fn join_timeout(&self, timeout: Duration) -> Result<(), JoinError> {
        self.join_until(Some(Deadline::after(timeout)))
    }

    /// As [`join`](JoinableQueue::join), and waits no longer than until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`join`](JoinableQueue::join), and [`JoinError::TimedOut`].
    pub fn join_deadline(&self, deadline: Deadline) -> Result<(), JoinError> {
        self.join_until(Some(deadline))
    }

    fn join_until(&self, deadline: Option<Deadline>) -> Result<(), JoinError> {
        let ring = &self.queue.inner.ring;
        let gate = &ring.memory().words().done.gate;
        // What is waited for takes long: a spin would be for nothing.
        let mut spin = Spin::none();
        ring.look_after().map_err(JoinError::Unusable)?;
        loop {
            match ring.finished() {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(count) => return Err(JoinError::InDoubt(count)),
            }
            match gate.wait_slice(deadline, &mut spin, || ring.finished() != Ok(false)) {
                Waited::Ready => {}
                Waited::Slice => {
                    ring.look_after().map_err(JoinError::Unusable)?;
                }
                Waited::Deadline => return Err(JoinError::TimedOut),
            }
        }
    }
}

impl<T> Deref for JoinableQueue<T> {
    type Target = Queue<T>;

    fn deref(&self) -> &Queue<T> {
        &self.queue
    }
}

impl<T> Clone for JoinableQueue<T> {
    fn clone(&self) -> JoinableQueue<T> {
        JoinableQueue { queue: self.queue.clone() }
    }
}

impl<T> fmt::Debug for JoinableQueue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("JoinableQueue").field(&self.queue).finish()
    }
}

/// Only inside a parcel, as the segment that it lies in.
impl<T> Serialize for JoinableQueue<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.queue.serialize(serializer)
    }
}

impl<'de, T> Deserialize<'de> for JoinableQueue<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<JoinableQueue<T>, D::Error> {
        let (segment, heap) = Deserialize::deserialize(deserializer)?;
        let queue = Queue::attach(segment, heap, true).map_err(serde::de::Error::custom)?;
        Ok(JoinableQueue { queue })
    }
}

/// The least that is a queue: no bound but memory, `put` and `get`.
///
/// What holds for a [`Queue`] holds for it: it is one, with less to choose.
pub struct SimpleQueue<T> {
    queue: Queue<T>,
}

impl<T> SimpleQueue<T> {
    /// A queue for as many items as 1 GiB has room for.
    ///
    /// # Errors
    ///
    /// As [`QueueBuilder::build`].
    pub fn new() -> Result<SimpleQueue<T>, QueueError> {
        Ok(SimpleQueue { queue: Queue::unbounded()? })
    }

    /// The same on a heap: see [`QueueBuilder::heap`].
    ///
    /// # Errors
    ///
    /// As [`QueueBuilder::build`].
    pub fn on(heap: &Heap) -> Result<SimpleQueue<T>, QueueError> {
        Ok(SimpleQueue { queue: Queue::builder().heap(heap).build()? })
    }

    pub(super) fn as_queue(&self) -> &Queue<T> {
        &self.queue
    }

    /// Whether no item waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// See [`Queue::close`].
    ///
    /// # Errors
    ///
    /// The queue cannot do its work.
    pub fn close(&self) -> Result<(), Trouble> {
        self.queue.close()
    }
}

impl<T: Serialize> SimpleQueue<T> {
    /// Puts an item. It waits only where there is no memory left for it.
    ///
    /// # Errors
    ///
    /// See [`PutError`]: the item comes back.
    pub fn put(&self, item: T) -> Result<(), PutError<T>> {
        self.queue.put(item)
    }
}

impl<T: DeserializeOwned + 'static> SimpleQueue<T> {
    /// Takes the next item; waits for it as long as that takes.
    ///
    /// # Errors
    ///
    /// See [`GetError`].
    pub fn get(&self) -> Result<T, GetError> {
        self.queue.get()
    }
}

impl<T> From<SimpleQueue<T>> for Queue<T> {
    fn from(simple: SimpleQueue<T>) -> Queue<T> {
        simple.queue
    }
}

impl<T> Clone for SimpleQueue<T> {
    fn clone(&self) -> SimpleQueue<T> {
        SimpleQueue { queue: self.queue.clone() }
    }
}

impl<T> fmt::Debug for SimpleQueue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SimpleQueue").field(&self.queue).finish()
    }
}

/// Only inside a parcel, as the segment that it lies in.
impl<T> Serialize for SimpleQueue<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.queue.serialize(serializer)
    }
}

impl<'de, T> Deserialize<'de> for SimpleQueue<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SimpleQueue<T>, D::Error> {
        Ok(SimpleQueue { queue: Queue::deserialize(deserializer)? })
    }
}
