//! The ends of a lane in this process: [`RawSender`] and [`RawReceiver`].

use super::{
    consumer::Consumer,
    error::{RecvError, SendError, TrySendError},
    mapped::{CAPACITIES, End, Mapped, Place, footprint},
    parcel::Ticket,
    producer::Producer,
    words::{Memory, Words, died},
};
use crate::{Bell, Error, error::Cause};
use procession_parcel::handle::Unique;
use procession_shm::{Kind, Segment, signature};
use procession_sys::{
    Deadline, Spin,
    sync::{AtomicU32, Ordering},
};
use std::fmt;

/// What a lane is like.
#[derive(Clone, Debug)]
pub struct Config {
    /// The ring's size in bytes; rounded up to a power of two from 4096 to 64 MiB. Memory is only taken as far as
    /// it is used: while the receiver keeps up, that is 256 KiB at most.
    pub capacity: usize,
    /// The largest message in bytes. One that is larger than the ring goes in pieces.
    pub max_message: usize,
    /// Where the receiver sleeps, if it shares a bell with other lanes.
    pub receiver_bell: Option<Bell>,
    /// Where the sender sleeps when there is no room, if it shares a bell with other lanes.
    pub sender_bell: Option<Bell>,
    /// Whether each end finds out when nobody has the other one any more: its process was killed, or the parcel that it
    /// was in is lost. An end that waits then looks once per slice ([`procession_sys::SLICE`]). It costs a descriptor for
    /// each end, and needs `/proc`. Without it somebody else watches the processes, and calls `abandon_peer`.
    pub watch_peers: bool,
}

impl Default for Config {
    /// 256 KiB, messages of up to 1 GiB, bells of its own.
    fn default() -> Config {
        Config {
            capacity: 256 * 1024,
            max_message: 1 << 30,
            receiver_bell: None,
            sender_bell: None,
            watch_peers: false,
        }
    }
}

impl Config {
    /// The capacity that a lane gets.
    #[must_use]
    pub fn rounded_capacity(&self) -> usize {
        let capacity = self.capacity.clamp(*CAPACITIES.start(), *CAPACITIES.end());
        // At most 64 MiB, so there is a next power of two.
        capacity.next_power_of_two()
    }

    /// The bytes that a lane takes in a segment, a multiple of 128.
    #[must_use]
    pub fn footprint(&self) -> usize {
        footprint(self.rounded_capacity())
    }
}

/// The layout signature of a lane, for the [`Kind`] of a segment that holds some.
pub const LAYOUT: u32 = signature(&[
    2, // the protocol's version
    size_of::<Words>(),
    align_of::<Words>(),
    core::mem::offset_of!(Words, receiver),
    core::mem::offset_of!(Words, sender_bell),
    core::mem::offset_of!(Words, receiver_bell),
]);

const KIND: Kind = Kind::new("lane", u32::from_le_bytes(*b"lane"), LAYOUT);

/// Makes a lane in a segment of its own.
///
/// # Errors
///
/// No descriptors, no memory: see [`Segment::anonymous`].
pub fn pair(config: &Config) -> Result<(RawSender, RawReceiver), Error> {
    make(&Segment::anonymous(KIND, config.footprint())?, 0, config)
}

/// Makes a lane at `offset` of a segment, [`Config::footprint`] bytes long.
///
/// Whatever lane was there before is over.
///
/// # Errors
///
/// The place is not within the segment, or the offset is no multiple of 128.
///
/// # Safety
///
/// One lane per range of a segment: as long as an end of this lane is in use, in any process, nothing else uses these
/// bytes. No end of a lane that was there before is used any more, no other lane or bell lies there, and nobody
/// accesses them by [`Segment::as_ptr`].
#[expect(unsafe_code, reason = "only the caller knows what else lies in the segment")]
pub unsafe fn pair_in(
    segment: &Segment,
    offset: usize,
    config: &Config,
) -> Result<(RawSender, RawReceiver), Error> {
    make(segment, offset, config)
}

/// Nothing else uses the range of the segment.
fn make(segment: &Segment, offset: usize, config: &Config) -> Result<(RawSender, RawReceiver), Error> {
    let capacity = config.rounded_capacity();
    let (sender_bell, receiver_bell) = (config.sender_bell.clone(), config.receiver_bell.clone());
    let watched = config.watch_peers;
    let place = Place { segment: segment.clone(), offset, capacity, sender_bell, receiver_bell, watched };
    let mapped = Mapped::new(place)?;
    let claim = |end| {
        let place = mapped.place();
        watched.then(|| segment.claim(place.claim(end)).map(Unique::new)).transpose()
    };
    let (sender, receiver) = (claim(End::Sender)?, claim(End::Receiver)?);
    mapped.words().reset();
    Ok((
        RawSender::attach(mapped.clone(), config.max_message, sender)?,
        RawReceiver::attach(mapped, config.max_message, receiver)?,
    ))
}

impl Words {
    fn reset(&self) {
        let Words { sender, receiver, .. } = self;
        for position in
            [&sender.tail, &sender.sent, &sender.grown, &receiver.head, &receiver.taken, &receiver.started]
        {
            position.store(0, Ordering::Relaxed);
        }
        for word in [&sender.claims, &sender.receiver_closed, &receiver.claims, &receiver.sender_closed] {
            word.store(0, Ordering::Relaxed);
        }
    }
}

/// The end of a lane that messages go into.
///
/// Messages are byte strings with tickets 1, 2, 3… in the order of their commits. A message is accepted once a
/// `send` returns Ok: it survives the death of this process.
///
/// # Across processes
///
/// The end goes to another process inside a parcel. Packing moves it: the one here says `Moved` from then on, and a
/// second pack fails. A parcel that is dropped undelivered gives it back, unless a copy of the parcel brings it
/// elsewhere first: it never is in two places. Dropping the end tells the receiver that no more comes; dropping one
/// that was packed does not.
///
/// An end belongs to the process that made or unpacked it. A forked copy of that process has it only to look at:
/// dropping it there tells nobody anything. To send through it there, beside the owner or in its place, is a mistake:
/// the other end may find the lane corrupt.
///
/// When the receiver's process is killed nothing tells the lane, unless it was made to find out
/// ([`Config::watch_peers`]). Whoever watches that process calls [`abandon_peer`](RawSender::abandon_peer), here or on a
/// [`Hangup`].
pub struct RawSender {
    pub(super) producer: Producer<Mapped>,
    spin: Spin,
    pub(super) ticket: Ticket,
}

/// The end of a lane that messages come out of. See [`RawSender`] for what holds across processes.
///
/// Once the sender is gone, what it committed is still received, then comes `Disconnected`. A message of which it
/// committed only some pieces is dropped.
pub struct RawReceiver {
    pub(super) consumer: Consumer<Mapped>,
    spin: Spin,
    pub(super) ticket: Ticket,
}

impl RawSender {
    pub(crate) fn attach(
        mapped: Mapped,
        max_message: usize,
        claim: Option<Unique>,
    ) -> Result<RawSender, Error> {
        let producer = Producer::attach(mapped, max_message)
            .map_err(|corrupt| Error::new("attach", Cause::Corrupt(corrupt)))?;
        Ok(RawSender { producer, spin: Spin::adaptive(), ticket: Ticket::new(claim) })
    }

    /// How often the sender has changed hands.
    #[inline]
    pub(super) fn claims(&self) -> &AtomicU32 {
        &self.producer.memory().words().sender.claims
    }

    /// Sends one message, the concatenation of `parts`, if there is room for it now.
    ///
    /// # Errors
    ///
    /// See [`TrySendError`].
    #[inline]
    pub fn try_send(&mut self, parts: &[&[u8]]) -> Result<(), TrySendError> {
        self.send_quiet(parts)?;
        self.ring();
        Ok(())
    }

    /// As [`try_send`](RawSender::try_send), but lets a sleeping receiver sleep on. After some of these, one
    /// [`ring`](RawSender::ring) is due.
    ///
    /// # Errors
    ///
    /// See [`TrySendError`].
    #[inline]
    pub fn send_quiet(&mut self, parts: &[&[u8]]) -> Result<(), TrySendError> {
        if self.ticket.is_gone(self.claims()) {
            return Err(TrySendError::Moved);
        }
        self.producer.try_send_quiet(parts)
    }

    /// Appends a record to a message that grows; one that is new begins with `start`. The record survives the death of this
    /// process from then on. The receiver gets the message when it is [finished](RawSender::finish), which anything else that
    /// is sent does as well; what is there before it can [look](RawReceiver::recv_growing) for. For many small records: it
    /// costs a fraction of a message for each. That the receiver is gone shows when the next message begins. After some of these, one [`ring`](RawSender::ring) is due.
    ///
    /// # Errors
    ///
    /// See [`TrySendError`]. Too large is what is beyond 16 KiB, or an eighth of the ring.
    #[inline]
    pub fn append_quiet(&mut self, start: &[u8], record: &[u8]) -> Result<(), TrySendError> {
        if self.ticket.is_gone(self.claims()) {
            return Err(TrySendError::Moved);
        }
        self.producer.append(start, record)
    }

    /// Commits the message that [grows](RawSender::append_quiet), if one does, without ringing.
    #[inline]
    pub fn finish(&mut self) {
        self.producer.finish();
    }

    /// Wakes the receiver if it sleeps.
    #[inline]
    pub fn ring(&self) {
        self.producer.ring();
    }

    /// See [`Producer::send_some`].
    #[cfg(feature = "async")]
    pub(super) fn send_some(&mut self, message: &[u8], done: &mut usize) -> Result<bool, SendError> {
        if self.ticket.is_gone(self.claims()) {
            return Err(SendError::Moved);
        }
        self.producer.send_some(message, done)
    }

    /// Sends one message, the concatenation of `parts`, and waits for room until `deadline`.
    ///
    /// A message that is larger than half the ring goes in pieces, and counts with the last.
    ///
    /// # Errors
    ///
    /// See [`SendError`].
    #[inline]
    pub fn send(&mut self, parts: &[&[u8]], deadline: Option<Deadline>) -> Result<(), SendError> {
        if self.ticket.is_gone(self.claims()) {
            return Err(SendError::Moved);
        }
        self.producer.send(parts, deadline, &mut self.spin)
    }

    /// How many messages were accepted, which is the ticket of the last one.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.producer.sent()
    }

    /// The ticket of the last message that the receiver has in hand, or was about to take: those after it are
    /// certainly still in the lane.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.producer.taken()
    }

    /// The ticket of the last message that the receiver says it began to act on.
    #[must_use]
    pub fn started(&self) -> u64 {
        self.producer.started()
    }

    /// Whether the receiver is gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.producer.is_closed()
    }

    /// Whether the receiver is gone without having said so: somebody said that it died, or this end found out.
    #[must_use]
    pub fn peer_died(&self) -> bool {
        self.producer.peer_died()
    }

    /// Finds out whether the receiver is lost, where the lane was made to ([`Config::watch_peers`]): one system call. What
    /// waits does so by itself.
    pub fn look_after_peer(&self) -> bool {
        self.producer.look_after_peer()
    }

    /// Whether the receiver has taken everything out of the ring that was committed; a message that grows does not count.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.producer.is_empty()
    }

    /// The largest message for [`try_send`](RawSender::try_send), in bytes.
    #[must_use]
    pub fn largest_frame(&self) -> usize {
        self.producer.largest_frame()
    }

    /// Says that the receiver is dead: every send fails from now on, one that waits included.
    pub fn abandon_peer(&self) {
        self.producer.abandon_peer();
    }

    /// A handle by which another thread can say that the receiver is dead.
    #[must_use]
    pub fn hangup(&self) -> Hangup {
        Hangup { mapped: self.producer.memory().clone(), dead: End::Receiver }
    }
}

impl RawReceiver {
    pub(crate) fn attach(
        mapped: Mapped,
        max_message: usize,
        claim: Option<Unique>,
    ) -> Result<RawReceiver, Error> {
        let consumer = Consumer::attach(mapped, max_message)
            .map_err(|corrupt| Error::new("attach", Cause::Corrupt(corrupt)))?;
        Ok(RawReceiver { consumer, spin: Spin::adaptive(), ticket: Ticket::new(claim) })
    }

    /// How often the receiver has changed hands.
    #[inline]
    pub(super) fn claims(&self) -> &AtomicU32 {
        &self.consumer.memory().words().receiver.claims
    }

    /// Receives one message into `into`, in place of its contents, if there is one; tells whether there was.
    ///
    /// Its ticket is [`taken`](RawReceiver::taken) then. While there is only a part of a message, the lane may use the
    /// memory of `into` for it, and leaves it empty.
    ///
    /// # Errors
    ///
    /// See [`RecvError`].
    #[inline]
    pub fn try_recv(&mut self, into: &mut Vec<u8>) -> Result<bool, RecvError> {
        if self.ticket.is_gone(self.claims()) {
            return Err(RecvError::Moved);
        }
        self.consumer.try_recv(into)
    }

    /// Receives one message into `into`, in place of its contents; false if there is none until `deadline`.
    ///
    /// # Errors
    ///
    /// See [`RecvError`].
    #[inline]
    pub fn recv(&mut self, into: &mut Vec<u8>, deadline: Option<Deadline>) -> Result<bool, RecvError> {
        if self.ticket.is_gone(self.claims()) {
            return Err(RecvError::Moved);
        }
        self.consumer.recv(into, deadline, &mut self.spin)
    }

    /// Receives the messages that are there, up to `max_bytes` together (but at least one), and gives each to
    /// `each`, oldest first; returns how many. Does not wait.
    ///
    /// All of them are out of the lane before the first is given: if `each` panics the rest of them is lost.
    ///
    /// # Errors
    ///
    /// See [`RecvError`]. It comes only after all messages before it were given.
    #[inline]
    pub fn recv_batch(&mut self, max_bytes: usize, each: impl FnMut(&[u8])) -> Result<usize, RecvError> {
        if self.ticket.is_gone(self.claims()) {
            return Err(RecvError::Moved);
        }
        self.consumer.recv_batch(max_bytes, each)
    }

    /// As [`recv_batch`](RawReceiver::recv_batch); `each` is also told whether it is given the rest of a message that was
    /// taken in part [while it grew](RawReceiver::recv_growing). A message that is larger than half of the ring, which makes a
    /// batch of its own, is given away as `large`, in memory of its own, once `each` has seen it; `large` is empty in all other
    /// cases.
    ///
    /// # Errors
    ///
    /// As of `recv_batch`.
    #[inline]
    pub fn recv_parts(
        &mut self,
        max_bytes: usize,
        each: impl FnMut(&[u8], bool),
        large: &mut Vec<u8>,
    ) -> Result<usize, RecvError> {
        if self.ticket.is_gone(self.claims()) {
            return Err(RecvError::Moved);
        }
        self.consumer.recv_parts(max_bytes, each, large)
    }

    /// Takes what is there of a message that still [grows](RawSender::append_quiet), if everything before it has been
    /// received; returns how many bytes `each` was given, which end with a whole record. The rest comes by the next receive.
    /// Worth while when the sender has died, or is not heard of for a while.
    ///
    /// # Errors
    ///
    /// See [`RecvError`]; but that the sender is gone is none.
    pub fn recv_growing(&mut self, each: impl FnOnce(&[u8])) -> Result<usize, RecvError> {
        if self.ticket.is_gone(self.claims()) {
            return Err(RecvError::Moved);
        }
        self.consumer.recv_growing(each)
    }

    /// See [`Consumer::try_recv_unsettled`].
    #[inline]
    pub(super) fn try_recv_unsettled(&mut self, into: &mut Vec<u8>) -> Result<bool, RecvError> {
        if self.ticket.is_gone(self.claims()) {
            return Err(RecvError::Moved);
        }
        self.consumer.try_recv_unsettled(into)
    }

    #[inline]
    pub(super) fn settle(&mut self, messages: u64) {
        self.consumer.settle(messages);
    }

    /// Waits until a `try_recv` or `recv_batch` is worth while; false if `deadline` comes first.
    #[inline]
    pub fn wait(&mut self, deadline: Option<Deadline>) -> bool {
        self.consumer.wait(deadline, &mut self.spin)
    }

    /// Whether a `try_recv` is worth while: something is there, or the sender is gone. For use in the condition of a
    /// shared [`Bell`].
    #[inline]
    #[must_use]
    pub fn has_news(&self) -> bool {
        self.consumer.has_news()
    }

    /// Whether it was sent to another process.
    pub(super) fn is_gone(&self) -> bool {
        self.ticket.is_gone(self.claims())
    }

    /// How many messages were received, which is the ticket of the last one.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.consumer.taken()
    }

    /// Publishes that this process begins to act on the message with this ticket, for those who will ask after its
    /// death. See [`RawSender::started`].
    #[inline]
    pub fn mark_started(&self, ticket: u64) {
        self.consumer.mark_started(ticket);
    }

    /// Whether the sender is gone. What it committed may still be there.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.consumer.is_closed()
    }

    /// Whether the sender is gone without having said so: somebody said that it died, or this end found out.
    #[must_use]
    pub fn peer_died(&self) -> bool {
        self.consumer.peer_died()
    }

    /// Finds out whether the sender is lost, where the lane was made to ([`Config::watch_peers`]): one system call. What
    /// waits does so by itself.
    pub fn look_after_peer(&self) -> bool {
        self.consumer.look_after_peer()
    }

    /// Says that the sender is dead: what it committed is still received, then comes `Disconnected`, also for a
    /// receive that waits.
    pub fn abandon_peer(&self) {
        self.consumer.abandon_peer();
    }

    /// A handle by which another thread can say that the sender is dead.
    #[must_use]
    pub fn hangup(&self) -> Hangup {
        Hangup { mapped: self.consumer.memory().clone(), dead: End::Sender }
    }
}

impl Drop for RawSender {
    fn drop(&mut self) {
        if self.ticket.ends_here(self.claims()) {
            self.producer.finish();
            self.producer.close();
        }
    }
}

impl Drop for RawReceiver {
    fn drop(&mut self) {
        if self.ticket.ends_here(self.claims()) {
            self.consumer.close();
        }
    }
}

impl fmt::Debug for RawSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawSender")
            .field("capacity", &self.producer.memory().capacity())
            .field("sent", &self.sent())
            .field("taken", &self.taken())
            .field("started", &self.started())
            .field("closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for RawReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawReceiver")
            .field("capacity", &self.consumer.memory().capacity())
            .field("taken", &self.taken())
            .field("news", &self.has_news())
            .field("closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}

/// Says, from any thread, that the process at the other end of a lane is dead.
#[derive(Clone, Debug)]
pub struct Hangup {
    mapped: Mapped,
    dead: End,
}

impl Hangup {
    /// As `abandon_peer` on the end that this was made from.
    pub fn peer_died(&self) {
        let words = self.mapped.words();
        match self.dead {
            End::Sender => {
                died(&words.receiver.sender_closed);
                self.mapped.receiver_bell().ring();
            }
            End::Receiver => {
                died(&words.sender.receiver_closed);
                self.mapped.sender_bell().ring();
            }
        }
    }
}
