//! [`Queue`]: values through a ring.

use super::{
    books::{InDoubt, QueueStats},
    error::{PutError, PutManyError, QueueError},
    hands::State,
    load::{Copied, Outgoing},
    mapped::{MOST_MEMORY, Mapped, chunks_for},
    ring::{Refused, Ring, frames_len},
    trouble::Trouble,
    words::{Memory, Patience, Policy, Shape, UNIT},
};
use procession_shm::{Heap, HeapRing, Segment};
use procession_sys::{Deadline, Spin};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    fmt,
    marker::PhantomData,
    sync::{Arc, Mutex, atomic::AtomicU32},
    time::Duration,
};

/// The memory for items where the builder is not asked for another amount, in bytes.
const MEMORY: u64 = 1 << 30;
/// A put of many encodes about this many bytes at a time.
const BATCH: usize = 64 * 1024;
/// Scratch memory beyond this is not kept.
const SCRATCH: usize = 1 << 20;

/// Many producers, many consumers, in one process or many; first in, first out among all of them.
///
/// Clones stand for the same queue; it goes to other processes inside parcels.
///
/// An item is encoded before `put` returns, and is *accepted* when `put` gives `Ok`: it survives this process, and is
/// taken by exactly one `get`. No thread feeds anything, and nothing is left to be flushed when a process ends. What
/// cannot be encoded is that `put`'s error, and a refused item comes back in the error. An item that holds a file
/// descriptor is refused: it goes through a `Pipe`.
///
/// # When a process dies
///
/// At any instruction of a `put`: the item is in the queue or not, never half, and the others go on. At any instruction
/// of a `get`: the item is in the queue, or in hand of the dead. What a consumer had in hand (one item, or its batch) is
/// *in doubt*: nobody can tell whether it was acted on. So it is recorded, and the [`Policy`] decides.
///
/// [`get`](Queue::get) acknowledges as it returns: a consumer that dies while it works on the value has consumed it.
/// [`claim`](Queue::claim) acknowledges when the work is done.
///
/// # Examples
///
/// ```
/// use procession_channel::queue::Queue;
///
/// let queue = Queue::bounded(100)?;
/// std::thread::scope(|scope| {
///     scope.spawn(|| {
///         for n in 0..1000_u32 {
///             queue.put(n).unwrap();
///         }
///         queue.close().unwrap();
///     });
///     let consumers = [(); 2].map(|()| scope.spawn(|| queue.iter().map(Result::unwrap).sum::<u32>()));
///     let total: u32 = consumers.map(|consumer| consumer.join().unwrap()).iter().sum();
///     assert_eq!(total, 499_500);
/// });
/// # Ok::<(), procession_channel::queue::QueueError>(())
/// ```
pub struct Queue<T> {
    pub(super) inner: Arc<Inner>,
    items: PhantomData<fn(T) -> T>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) ring: Ring<Mapped>,
    pub(super) takes: AtomicU32,
    /// What this process took and is to call `task_done` for, in this order.
    pub(super) undone: Mutex<VecDeque<(u32, State)>>,
    pub(super) waits: crate::waits::Waits,
}

/// What a queue is like. Made by [`Queue::builder`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it builds"]
pub struct QueueBuilder {
    max_items: u64,
    max_bytes: u64,
    memory: u64,
    policy: Policy,
    heap: Option<Heap>,
}

impl QueueBuilder {
    /// At most this many items wait; a `put` beyond that waits, or is refused.
    pub const fn capacity(mut self, items: usize) -> QueueBuilder {
        self.max_items = items as u64;
        self
    }

    /// At most this many bytes wait. An item counts its encoded length, rounded up to 8, and 8 more. One that is larger
    /// than that waits until the queue is empty.
    pub const fn capacity_bytes(mut self, bytes: usize) -> QueueBuilder {
        self.max_bytes = bytes as u64;
        self
    }

    /// The most memory that items may use, in bytes: 1 GiB if not said, 64 GiB at most. It is address space in each
    /// process; memory is taken as it is used, and given back after a burst. It is also the size of the largest item.
    pub const fn memory(mut self, bytes: usize) -> QueueBuilder {
        self.memory = bytes as u64;
        self
    }

    /// What becomes of items that a consumer had in hand when it died.
    pub const fn policy(mut self, policy: Policy) -> QueueBuilder {
        self.policy = policy;
        self
    }

    /// Items may hold blocks of this heap ([`SharedVec`](procession_shm::SharedVec) and its kin), at any depth: they go to
    /// the consumer by reference, in a time that does not depend on their size.
    ///
    /// Such items are put one by one, also by [`put_many`](Queue::put_many), and take 8 bytes more. What is in the queue
    /// belongs to it, whoever dies; when nobody has the queue any more, the next [sweep](Heap::sweep) frees what was left in
    /// it. A lock is held for as long as one sweep takes when somebody died in the middle of a put, or with such items in hand,
    /// however many, that it had not decoded (under [`Policy::Redeliver`]: or had).
    ///
    /// ```
    /// use procession_channel::Queue;
    /// use procession_shm::{Heap, SharedVec};
    ///
    /// let heap = Heap::new()?;
    /// let queue: Queue<(u64, SharedVec<u8>)> = Queue::builder().heap(&heap).capacity(8).build()?;
    /// let mut frame = heap.vec::<u8>(1920 * 1080)?;
    /// frame.fill(7);
    /// queue.put((1, frame))?;
    /// let (number, frame) = queue.get()?;
    /// assert!(number == 1 && frame.iter().all(|&byte| byte == 7));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn heap(mut self, heap: &Heap) -> QueueBuilder {
        self.heap = Some(heap.clone());
        self
    }

    /// Makes the queue.
    ///
    /// # Errors
    ///
    /// It would have no room for anything; no descriptors, no memory or address space (see [`Segment::anonymous`]); on a
    /// heap also as [`HeapRing::new`].
    pub fn build<T>(self) -> Result<Queue<T>, QueueError> {
        Ok(Queue::of(self.make(false)?))
    }

    pub(super) fn make(self, joinable: bool) -> Result<Mapped, QueueError> {
        let QueueBuilder { max_items, max_bytes, memory, policy, heap } = self;
        if max_items == 0 || max_bytes == 0 || memory == 0 {
            return Err(QueueError::Empty);
        }
        let (chunk_shift, chunks) = chunks_for(memory.min(MOST_MEMORY));
        let heap = heap.as_ref().map(HeapRing::new).transpose()?;
        let shape =
            Shape { chunk_shift, chunks, max_items, max_bytes, policy, joinable, heap: heap.is_some() };
        Mapped::make(shape, heap)
    }
}

impl Queue<()> {
    /// A queue with bounds and a policy to be chosen; without any choice as [`Queue::unbounded`].
    pub const fn builder() -> QueueBuilder {
        QueueBuilder {
            max_items: u64::MAX,
            max_bytes: u64::MAX,
            memory: MEMORY,
            policy: Policy::Report,
            heap: None,
        }
    }
}

impl<T> Queue<T> {
    pub(super) fn of(mapped: Mapped) -> Queue<T> {
        let (takes, undone) = (AtomicU32::new(0), Mutex::default());
        let inner = Inner { ring: Ring::new(mapped), takes, undone, waits: Default::default() };
        Queue { inner: Arc::new(inner), items: PhantomData }
    }

    /// A queue for at most `items` items, of 1 GiB together.
    ///
    /// # Errors
    ///
    /// As [`QueueBuilder::build`].
    pub fn bounded(items: usize) -> Result<Queue<T>, QueueError> {
        Queue::builder().capacity(items).build()
    }

    /// A queue for as many items as 1 GiB has room for.
    ///
    /// # Errors
    ///
    /// As [`QueueBuilder::build`].
    pub fn unbounded() -> Result<Queue<T>, QueueError> {
        Queue::builder().build()
    }

    /// How many items wait. It may have changed by the time that the answer is there.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::try_from(self.inner.ring.len()).unwrap_or(usize::MAX)
    }

    /// Whether no item waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether as many items wait as there may be. Bounds in bytes are not looked at: it depends on the item.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.capacity().is_some_and(|capacity| self.len() >= capacity)
    }

    /// How many items there may be; `None` where only their memory is limited.
    #[must_use]
    pub fn capacity(&self) -> Option<usize> {
        usize::try_from(self.shape().max_items).ok().filter(|&items| items != usize::MAX)
    }

    /// What becomes of items that a consumer had in hand when it died.
    #[must_use]
    pub fn policy(&self) -> Policy {
        self.shape().policy
    }

    /// The heap of which items may hold blocks.
    #[must_use]
    pub fn heap(&self) -> Option<Heap> {
        self.inner.ring.memory().heap().map(HeapRing::heap)
    }

    pub(super) fn shape(&self) -> &Shape {
        self.inner.ring.memory().shape()
    }

    /// Closes the queue, for everybody: nothing more is accepted; consumers get what there is, then `Closed`. With
    /// [`Policy::Redeliver`] that comes when nothing is in hand of other processes any more; where this one has something in
    /// hand as well, [`GetError::InHand`](super::GetError::InHand) comes at once.
    ///
    /// Closing it again changes nothing.
    ///
    /// # Errors
    ///
    /// The queue cannot do its work.
    pub fn close(&self) -> Result<(), Trouble> {
        self.inner.ring.close(None)
    }

    /// As [`close`](Queue::close), and waits for the producers' lock, which a process that is stopped may hold, no longer than
    /// until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`close`](Queue::close), and [`Trouble::TimedOut`]: it is not closed then.
    pub fn close_deadline(&self, deadline: Deadline) -> Result<(), Trouble> {
        self.inner.ring.close(Some(deadline))
    }

    /// Whether it was closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.inner.ring.is_closed()
    }

    /// Whether both stand for the same queue.
    #[must_use]
    pub fn same(&self, other: &Queue<T>) -> bool {
        self.inner.ring.memory().segment().same(other.inner.ring.memory().segment())
    }

    /// What dead consumers had in hand, under [`Policy::Report`], oldest first; under [`Policy::Redeliver`] the items that
    /// cannot come again, since their blocks of a heap had been taken. It stays so until it is settled.
    ///
    /// # Errors
    ///
    /// The queue cannot do its work.
    pub fn in_doubt(&self) -> Result<Vec<InDoubt>, Trouble> {
        self.inner.ring.in_doubt(false, None)
    }

    /// As [`in_doubt`](Queue::in_doubt), and waits for the consumers' lock no longer than until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`in_doubt`](Queue::in_doubt), and [`Trouble::TimedOut`].
    pub fn in_doubt_deadline(&self, deadline: Deadline) -> Result<Vec<InDoubt>, Trouble> {
        self.inner.ring.in_doubt(false, Some(deadline))
    }

    /// As [`in_doubt`](Queue::in_doubt), and counts these items as lost from now on.
    ///
    /// # Errors
    ///
    /// The queue cannot do its work.
    pub fn settle(&self) -> Result<Vec<InDoubt>, Trouble> {
        self.inner.ring.in_doubt(true, None)
    }

    /// As [`settle`](Queue::settle), and waits for the consumers' lock no longer than until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`settle`](Queue::settle), and [`Trouble::TimedOut`]: nothing is settled then.
    pub fn settle_deadline(&self, deadline: Deadline) -> Result<Vec<InDoubt>, Trouble> {
        self.inner.ring.in_doubt(true, Some(deadline))
    }

    /// Where the items are, all at one moment.
    ///
    /// # Errors
    ///
    /// The queue cannot do its work.
    pub fn stats(&self) -> Result<QueueStats, Trouble> {
        self.inner.ring.stats(None)
    }

    /// As [`stats`](Queue::stats), and waits for the consumers' lock no longer than until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`stats`](Queue::stats), and [`Trouble::TimedOut`].
    pub fn stats_deadline(&self, deadline: Deadline) -> Result<QueueStats, Trouble> {
        self.inner.ring.stats(Some(deadline))
    }
}

/// How long an operation waits.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wait {
    No,
    Until(Option<Deadline>),
}

thread_local! {
    static BYTES: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static PUT_SPIN: RefCell<Option<Spin>> = const { RefCell::new(None) };
}

/// Calls `work` with an empty vector that may have capacity.
pub(super) fn with_bytes<R>(work: impl FnOnce(&mut Vec<u8>) -> R) -> R {
    // Taken out: encoding may put something elsewhere.
    let mut bytes = BYTES.take();
    bytes.clear();
    let result = work(&mut bytes);
    if bytes.capacity() <= SCRATCH {
        BYTES.set(bytes);
    }
    result
}

pub(super) fn with_spin<R>(
    spin: &'static std::thread::LocalKey<RefCell<Option<Spin>>>,
    work: impl FnOnce(&mut Spin) -> R,
) -> R {
    spin.with(|spin| match spin.try_borrow_mut() {
        Ok(mut spin) => work(spin.get_or_insert_with(Spin::adaptive)),
        Err(_) => work(&mut Spin::none()),
    })
}

impl<T: Serialize> Queue<T> {
    /// Puts an item; waits for room as long as that takes.
    ///
    /// # Errors
    ///
    /// See [`PutError`]: the item comes back.
    pub fn put(&self, item: T) -> Result<(), PutError<T>> {
        self.put_item(item, Wait::Until(None))
    }

    /// Puts an item if there is room for it now.
    ///
    /// # Errors
    ///
    /// See [`PutError`]: the item comes back.
    #[doc(alias = "put_nowait")]
    pub fn try_put(&self, item: T) -> Result<(), PutError<T>> {
        self.put_item(item, Wait::No)
    }

    /// Puts an item; waits for room no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// See [`PutError`]: the item comes back.
    pub fn put_timeout(&self, item: T, timeout: Duration) -> Result<(), PutError<T>> {
        self.put_deadline(item, Deadline::after(timeout))
    }

    /// Puts an item; waits for room no longer than until `deadline`.
    ///
    /// # Errors
    ///
    /// See [`PutError`]: the item comes back.
    pub fn put_deadline(&self, item: T, deadline: Deadline) -> Result<(), PutError<T>> {
        self.put_item(item, Wait::Until(Some(deadline)))
    }

    fn put_item(&self, item: T, wait: Wait) -> Result<(), PutError<T>> {
        let load = Outgoing::of(self.inner.ring.memory());
        let put = with_bytes(|frames| {
            self.encode(&item, &load, frames)?;
            self.put_frames(frames, 1, wait, &load).map_err(|(_, refused)| load.error(refused))
        });
        // The item comes after its load, whatever happens: what is back is closed with it.
        match put {
            Ok(()) => load.sent(),
            Err(error) => return Err(error.with(item)),
        }
        Ok(())
    }

    /// Appends the item's frame, if it fits into the queue.
    pub(super) fn encode(&self, item: &T, load: &Outgoing, frames: &mut Vec<u8>) -> Result<(), PutError<()>> {
        if self.is_closed() {
            return Err(PutError::Closed(()));
        }
        let start = frames.len();
        load.append(item, frames).map_err(|error| PutError::Encode((), error))?;
        let (size, most) = ((frames.len() - start) as u64, self.shape().largest_frame());
        if size <= most {
            return Ok(());
        }
        frames.truncate(start);
        let limit = usize::try_from(most - UNIT).unwrap_or(usize::MAX);
        Err(PutError::TooLarge { item: (), len: (size - UNIT) as usize, limit })
    }

    fn put_frames(
        &self,
        frames: &[u8],
        items: u64,
        wait: Wait,
        load: &Outgoing,
    ) -> Result<(), (u64, Refused)> {
        let ring = &self.inner.ring;
        match wait {
            Wait::Until(deadline) => {
                with_spin(&PUT_SPIN, |spin| ring.put(frames, items, deadline, spin, load.load()))
            }
            Wait::No => {
                let mut put = 0;
                let mut at = 0;
                while put < items {
                    let count = ring
                        .try_put(&frames[at..], items - put, Patience::Brief, load.load())
                        .map_err(|e| (put, e))?;
                    at += frames_len(&frames[at..], count);
                    put += count;
                }
                Ok(())
            }
        }
    }

    /// Puts items in this order, and as many at a time as there is room for; waits for room as long as that takes. What
    /// others put may come in between.
    ///
    /// # Errors
    ///
    /// See [`PutError`]: what was not accepted comes back.
    pub fn put_many(&self, items: Vec<T>) -> Result<(), PutManyError<T>> {
        self.put_all(items, Wait::Until(None))
    }

    /// As [`put_many`](Queue::put_many), and does not wait.
    ///
    /// # Errors
    ///
    /// See [`PutError`]: what was not accepted comes back.
    pub fn try_put_many(&self, items: Vec<T>) -> Result<(), PutManyError<T>> {
        self.put_all(items, Wait::No)
    }

    /// As [`put_many`](Queue::put_many), and waits no longer than until `deadline`.
    ///
    /// # Errors
    ///
    /// See [`PutError`]: what was not accepted comes back.
    pub fn put_many_deadline(&self, items: Vec<T>, deadline: Deadline) -> Result<(), PutManyError<T>> {
        self.put_all(items, Wait::Until(Some(deadline)))
    }

    fn put_all(&self, mut items: Vec<T>, wait: Wait) -> Result<(), PutManyError<T>> {
        let mut done = 0;
        let mapped = self.inner.ring.memory();
        // Each item with blocks is noted by itself.
        let most = if mapped.heap().is_some() { 1 } else { usize::MAX };
        let failed = with_bytes(|frames| {
            while done < items.len() {
                frames.clear();
                let load = Outgoing::of(mapped);
                let mut count = 0;
                let mut failed = None;
                while frames.len() < BATCH && failed.is_none() && count < most && done + count < items.len() {
                    match self.encode(&items[done + count], &load, frames) {
                        Ok(()) => count += 1,
                        Err(error) => failed = Some(error),
                    }
                }
                // None, if the first one cannot be encoded.
                if count > 0 {
                    if let Err((put, refused)) = self.put_frames(frames, count as u64, wait, &load) {
                        done += put as usize;
                        return Some(load.error(refused));
                    }
                    load.sent();
                }
                done += count;
                if failed.is_some() {
                    return failed;
                }
            }
            None
        });
        match failed {
            None => Ok(()),
            Some(cause) => Err(PutManyError { rest: items.split_off(done), cause }),
        }
    }
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Queue<T> {
        Queue { inner: self.inner.clone(), items: PhantomData }
    }
}

impl<T> fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("len", &self.len())
            .field("capacity", &self.capacity())
            .field("policy", &self.policy())
            .field("closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}

/// Only inside a parcel, as the segment that it lies in, and its place in a heap.
impl<T> Serialize for Queue<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mapped = self.inner.ring.memory();
        (mapped.segment(), mapped.heap().map(Copied)).serialize(serializer)
    }
}

impl<'de, T> Deserialize<'de> for Queue<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Queue<T>, D::Error> {
        let (segment, heap) = Deserialize::deserialize(deserializer)?;
        Queue::attach(segment, heap, false).map_err(serde::de::Error::custom)
    }
}

impl<T> Queue<T> {
    pub(super) fn attach(
        segment: Segment,
        heap: Option<HeapRing>,
        joinable: bool,
    ) -> Result<Queue<T>, QueueError> {
        let mapped = Mapped::attach(segment, heap)?;
        if mapped.shape().joinable != joinable {
            return Err(QueueError::Joinable);
        }
        Ok(Queue::of(mapped))
    }
}
