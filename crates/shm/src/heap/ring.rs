//! Blocks that travel through a ring: [`HeapRing`].
//!
//! A ring carries bytes, and no descriptors. What proves that a block in it is not lost is the ring itself: a claim that
//! travels with its ends (see `rings`). So a block goes through a ring for two swaps of its word, whatever its size.
//!
//! # Send and receive
//!
//! 1. Encode: each block of this heap in the value is noted in the message's *trip*, and its handle closed; the bytes tell
//!    the block and the message's token. Nothing in shared memory has changed.
//! 2. Depart: swap the word of each noted block from `Owned` by this process to `Message(ring, token)`; of a read-only one
//!    add the holder `Message(ring, token)` to its record.
//! 3. The ring commits its bytes: **the commit**. From here on the message has the blocks.
//! 4. Where the ring refuses: swap the words back, clear the slots. The handles are open again.
//! 5. Receive: the bytes have been copied out of the ring. Swap each block's word from `Message(ring, token)` to `Owned` by
//!    this process (**the commit**); add this process as a holder, and in the end clear the message's slots.
//!
//! # Invariants
//!
//! 1. A word names a message only from a depart on until it is received, taken back, or swept.
//! 2. A handle is open only while its block's word says `Owned` by this process: its trip tells of each block whether it came
//!    back, and is told after it did. One did that never departed, or whose word was swapped back; not one whose word said
//!    something else, since somebody has it then, or had it and freed it. What the word says later proves nothing: the
//!    block may have been freed, allocated by this process anew, and be another handle's.
//! 3. A sweep takes a message's blocks only if no end of the ring is left. Who sends or receives has one.
//! 4. A token names one message, ever. So bytes that were received twice bring nothing the second time, and a block that was
//!    freed and sent again is not mistaken for itself.
//!
//! # When a process dies
//!
//! * The sender before 2: the blocks are owned by a dead process. Between 2 and 3: they are in a message that was never
//!   committed. After 3: the message is in the ring, and they in it.
//! * The receiver before 5: they are in a message that has left the ring. After it: owned by a dead process.
//! * A peer that takes the blocks of a message before its commit, or revokes it, against the rules: their handles stay closed here.
//! * A forked copy of the sender's process has the trip, but not the blocks: it changes no word.
//! * Both ends, or the last end in a parcel that is lost: no claim is left, and the next sweep frees all messages.
//! * What is in a message that was never committed, or that was taken and never decoded, stays until the last end of the
//!   ring is gone. With one sender and one receiver that is one message each, and the survivor lets go of its claim as
//!   soon as it learns that it is alone. A ring with many senders notes the token of a message before it departs
//!   ([`HeapRing::token`]), under the senders' lock; who recovers a sender that did not commit calls
//!   [`HeapRing::revoke`] before the next one departs. One with many receivers keeps the token beside the message, and notes
//!   it with who takes that; who recovers a receiver calls `revoke` where nobody will decode the message any more.

use super::{
    Heap,
    arena::{Arena, Block, forks},
    hold::Hold,
    holders,
    rings::{self, RINGS, Rings},
    sweep,
    transit::depart,
    word::{Life, Token},
};
use crate::{Error, error::Cause};
use core::{
    fmt,
    sync::atomic::{AtomicU32, Ordering},
};
use procession_parcel::{
    carrier::{Carrier, Offered},
    handle::{self, Unique},
};
use procession_sys::crash_point;
use rustix::io::Errno;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _, ser::Error as _};
use std::{
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// A ring's place in a heap: what a lane or queue has whose messages take blocks of that heap along.
///
/// For those who build rings: `channel_on(&heap)` of `procession-channel` uses it. Each end has one.
///
/// The sender of a message calls, in this order: [`codec::encode_with`] and [`carrier_out`](HeapRing::carrier_out);
/// [`depart`](HeapRing::depart); the ring's own commit; [`sent`](HeapRing::sent). Where any of these fails:
/// [`back`](HeapRing::back), after which the value is as it was. One message at a time.
///
/// The receiver has copied the bytes out, and calls [`codec::decode_with`] and [`carrier_in`](HeapRing::carrier_in), then
/// [`received`](HeapRing::received), whether that failed or not.
///
/// Inside a parcel it moves, as the end that it belongs to: the one here is [released](HeapRing::release). A ring whose ends
/// are copied sends a [copy](HeapRing::serialize_copy), and has a place of its own for each message that is on its way at the
/// same time ([`beside`](HeapRing::beside)).
///
/// # When a process dies
///
/// The ring lives as long as any end of it does, in a process or in a parcel. After that, what lies in its messages is freed
/// by the next [sweep](Heap::sweep) of the heap.
///
/// [`codec::encode_with`]: procession_parcel::codec::encode_with
/// [`codec::decode_with`]: procession_parcel::codec::decode_with
pub struct HeapRing {
    core: Arc<Core>,
    claim: Arc<Unique>,
    outbox: Arc<Outbox>,
    carrier_out: Carrier,
    inbox: Arc<Inbox>,
    carrier_in: Carrier,
}

pub(crate) struct Core {
    pub(crate) arena: Arc<Arena>,
    ring: u32,
    token: Token,
}

impl Core {
    /// The word of a message.
    pub(crate) fn message(&self, token: Token) -> u64 {
        token.message(self.ring)
    }
}

/// The message that is being packed.
pub(crate) struct Outbox {
    core: Arc<Core>,
    trip: Mutex<Option<Arc<Trip>>>,
}

/// The message that is being unpacked.
pub(crate) struct Inbox {
    pub(crate) core: Arc<Core>,
    /// The slots of the message in records of read-only blocks that this process holds by now.
    slots: Mutex<Vec<(u32, u32, u64)>>,
}

/// The blocks of one message, on their way out.
pub(crate) struct Trip {
    core: Arc<Core>,
    pub(crate) token: Token,
    /// The number of forks when it began.
    forks: u32,
    state: AtomicU32,
    load: Mutex<Load>,
}

/// A block with one owner.
struct Passenger {
    block: Block,
    owner: Life,
    /// Whether the bytes name it.
    written: bool,
    at: At,
}

/// Where a block is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    /// Where it came from.
    Here,
    /// In the message.
    Away,
    /// Somebody else's.
    Lost,
}

#[derive(Default)]
struct Load {
    blocks: Vec<Passenger>,
    /// Read-only ones, and the column of the message's slot once there is one.
    holds: Vec<(Arc<Hold>, Option<u32>)>,
}

/// A part of a message: a block with one owner, or a slot in the record of a read-only one.
pub(super) enum Departed {
    Block(Block),
    Slot(u32, u32),
}

/// Nothing has been committed.
const PACKING: u32 = 0;
/// The message has the blocks.
const SENT: u32 = 1;
/// The handles have them again.
const BACK: u32 = 2;
/// The handles have those again that are here.
const BACK_IN_PART: u32 = 3;

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Outbox {
    /// The message's trip, which begins with its first block.
    pub(crate) fn trip(&self, arena: &Arc<Arena>) -> Result<Arc<Trip>, &'static str> {
        if !Arc::ptr_eq(arena, &self.core.arena) {
            return Err("it lies in another heap than the one that this ring was made on");
        }
        let mut trip = locked(&self.trip);
        let trip = trip.get_or_insert_with(|| {
            let (core, token) = (self.core.clone(), rings::next(&*self.core.arena));
            let (state, load) = (AtomicU32::new(PACKING), Mutex::default());
            Arc::new(Trip { core, token, forks: forks(), state, load })
        });
        Ok(trip.clone())
    }
}

/// What nobody said of whether it was sent was not.
impl Drop for Outbox {
    fn drop(&mut self) {
        if let Some(trip) = self.trip.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            trip.back();
        }
    }
}

impl Trip {
    /// Notes a block; false if it is in this message already.
    pub(crate) fn take_along(&self, block: Block, owner: Life, writes: bool) -> bool {
        let mut load = locked(&self.load);
        match load.blocks.iter_mut().find(|known| known.block == block) {
            // The first pass counts; what it saw twice the second one will see twice.
            Some(known) => !(writes && core::mem::replace(&mut known.written, true)),
            None => {
                load.blocks.push(Passenger { block, owner, written: writes, at: At::Here });
                true
            }
        }
    }

    /// Notes a read-only block.
    pub(crate) fn hold(&self, hold: &Arc<Hold>) {
        let mut load = locked(&self.load);
        if !load.holds.iter().any(|(known, _)| Arc::ptr_eq(known, hold)) {
            load.holds.push((hold.clone(), None));
        }
    }

    /// Whether the message was not sent, and this block is where it came from.
    pub(crate) fn is_back(&self, block: Block) -> bool {
        match self.state.load(Ordering::Acquire) {
            BACK => true,
            BACK_IN_PART => {
                let load = locked(&self.load);
                load.blocks.iter().any(|known| known.block == block && known.at == At::Here)
            }
            _ => false,
        }
    }

    fn is_ours(&self) -> bool {
        self.forks == forks()
    }

    fn depart(&self) -> Result<(), Error> {
        let fail = |what: &str| {
            Error::new("send a block of", self.core.arena.name(), Cause::Invalid { what: what.to_owned() })
        };
        if !self.is_ours() {
            return Err(fail("it belongs to the process that this one was forked from"));
        }
        let mut load = locked(&self.load);
        if load.blocks.iter().any(|block| !block.written) {
            return Err(fail("the value was encoded differently when it was encoded again"));
        }
        let message = self.core.message(self.token);
        for (hold, column) in &mut load.holds {
            *column = Some(hold.add(message)?);
            crash_point!("heap.ring.held");
        }
        for Passenger { block, owner, at, .. } in &mut load.blocks {
            let word = self.core.arena.owner(*block);
            let ours = word.compare_exchange(owner.owned(), message, Ordering::AcqRel, Ordering::Relaxed);
            if ours.is_err() {
                *at = At::Lost;
                return Err(fail("a block in it is not this process's any more"));
            }
            *at = At::Away;
            crash_point!("heap.ring.departed");
        }
        Ok(())
    }

    fn sent(&self) {
        if !self.is_ours() {
            return;
        }
        self.state.store(SENT, Ordering::Release);
        // These would keep this process's holds.
        locked(&self.load).holds.clear();
    }

    fn back(&self) {
        // The one that has the blocks may still send the message; and who had the lock below may not exist here.
        if !self.is_ours() {
            return;
        }
        let mut load = locked(&self.load);
        let message = self.core.message(self.token);
        for Passenger { block, owner, at, .. } in load.blocks.iter_mut().filter(|it| it.at == At::Away) {
            let word = self.core.arena.owner(*block);
            let back = word.compare_exchange(message, owner.owned(), Ordering::AcqRel, Ordering::Relaxed);
            // Else a peer took it before the commit, or freed it.
            *at = if back.is_ok() { At::Here } else { At::Lost };
            crash_point!("heap.ring.back");
        }
        let whole = load.blocks.iter().all(|block| block.at == At::Here);
        let holds = core::mem::take(&mut load.holds);
        drop(load);
        for (hold, column) in &holds {
            if let Some(column) = column {
                // This process holds it besides, so that no end is due.
                holders::clear(&*self.core.arena, hold.record(), *column, message);
            }
        }
        self.state.store(if whole { BACK } else { BACK_IN_PART }, Ordering::Release);
    }
}

impl Inbox {
    /// A slot of the message that is to be cleared when the whole of it has been decoded.
    pub(crate) fn clear_later(&self, record: u32, column: u32, message: u64) {
        let mut slots = locked(&self.slots);
        if !slots.contains(&(record, column, message)) {
            slots.push((record, column, message));
        }
    }
}

impl HeapRing {
    /// Makes a place for a new ring.
    ///
    /// # Errors
    ///
    /// * no descriptors, or no `/proc`, through which a description of one's own is opened;
    /// * this process cannot become a member of the heap;
    /// * the heap has 1024 rings.
    pub fn new(heap: &Heap) -> Result<HeapRing, Error> {
        let arena = heap.arena.clone();
        arena.me()?;
        let token = rings::next(&*arena);
        let claim = depart(&arena, token)?;
        crash_point!("heap.ring.locked");
        let ring = rings::enter(&*arena, token).ok_or_else(|| {
            let what = format!("it has {RINGS} rings, which is all that it can have");
            Error::new("make a ring on", arena.name(), Cause::Invalid { what })
        })?;
        Ok(HeapRing::over(Arc::new(Core { arena, ring, token }), Arc::new(Unique::new(claim))))
    }

    fn over(core: Arc<Core>, claim: Arc<Unique>) -> HeapRing {
        let outbox = Arc::new(Outbox { core: core.clone(), trip: Mutex::default() });
        let inbox = Arc::new(Inbox { core: core.clone(), slots: Mutex::default() });
        HeapRing { core, claim, carrier_out: outbox.clone(), outbox, carrier_in: inbox.clone(), inbox }
    }

    /// The same ring's place for another end.
    ///
    /// # Errors
    ///
    /// No descriptors, or the place was [released](HeapRing::release) or moved into a parcel.
    pub fn another(&self) -> Result<HeapRing, Error> {
        let fail = |cause| Error::new("share a ring on", self.core.arena.name(), cause);
        let what = || Cause::Invalid { what: "this end of it is gone".to_owned() };
        let copy = self.claim.duplicate().map_err(|error| {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::INVAL);
            Error::os("share a ring on", self.core.arena.name(), "fcntl(F_DUPFD_CLOEXEC)", errno)
        })?;
        let claim = copy.ok_or_else(|| fail(what()))?;
        Ok(HeapRing::over(self.core.clone(), Arc::new(Unique::new(claim))))
    }

    /// This end again, for a message that is sent or received while others are: without a descriptor of its own.
    #[must_use]
    pub fn beside(&self) -> HeapRing {
        HeapRing::over(self.core.clone(), self.claim.clone())
    }

    /// Makes this process a member of the heap, if it is none: then [`revoke`](HeapRing::revoke) does not fail.
    ///
    /// # Errors
    ///
    /// This process cannot become a member of the heap.
    #[inline]
    pub fn join(&self) -> Result<(), Error> {
        self.core.arena.me().map(drop)
    }

    /// Serialises a copy of this end, which stays here. It is deserialised as a `HeapRing`.
    ///
    /// # Errors
    ///
    /// The serialiser's, if it packs no parcel; no descriptors; the end is gone.
    pub fn serialize_copy<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let copy = self.another().map_err(S::Error::custom)?;
        let claim = copy.claim.take().ok_or_else(|| S::Error::custom("this end of a ring is gone"))?;
        let (ring, token) = (self.core.ring, self.core.token.number());
        OutCopy { claim, ring, token }.serialize(serializer)
    }

    /// The heap.
    #[must_use]
    pub fn heap(&self) -> Heap {
        Heap { arena: self.core.arena.clone() }
    }

    /// Lets go of the ring: nothing is sent or received through this end any more. What is in it is lost when all ends have
    /// let go.
    pub fn release(&self) {
        drop(self.claim.take());
    }

    /// What the encoding of a message is given.
    #[must_use]
    pub fn carrier_out(&self) -> &Carrier {
        &self.carrier_out
    }

    /// What the decoding of a message is given.
    #[must_use]
    pub fn carrier_in(&self) -> &Carrier {
        &self.carrier_in
    }

    /// The token of the message that is being packed; `None` if there is no block in it.
    #[must_use]
    pub fn token(&self) -> Option<u64> {
        locked(&self.outbox.trip).as_ref().map(|trip| trip.token.number())
    }

    /// Puts the blocks of the value that was encoded into the message, which is to be committed next.
    ///
    /// # Errors
    ///
    /// The ring was let go of, or a read-only block has no place for another holder. What departed before that comes
    /// [`back`](HeapRing::back).
    #[inline]
    pub fn depart(&self) -> Result<(), Error> {
        let trip = locked(&self.outbox.trip);
        match &*trip {
            None => Ok(()),
            Some(trip) if self.claim.is_here() => trip.depart(),
            Some(_) => {
                let what = "this end of it is gone".to_owned();
                Err(Error::new("send through a ring on", self.core.arena.name(), Cause::Invalid { what }))
            }
        }
    }

    /// The message was committed.
    #[inline]
    pub fn sent(&self) {
        if let Some(trip) = locked(&self.outbox.trip).take() {
            trip.sent();
        }
    }

    /// The message was not committed, and will not be: its blocks are this process's again.
    #[inline]
    pub fn back(&self) {
        if let Some(trip) = locked(&self.outbox.trip).take() {
            trip.back();
        }
    }

    /// The message was decoded, or not, and will not be again.
    #[inline]
    pub fn received(&self) {
        let mut slots = locked(&self.inbox.slots);
        for (record, column, message) in slots.drain(..) {
            // This process holds the block, or held it.
            let arena = &self.core.arena;
            holders::clear(&**arena, record, column, message);
            if let Ok(me) = arena.me()
                && holders::end(&**arena, record, me.owned())
            {
                arena.finish(me, record);
            }
        }
    }

    pub(super) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Whether this end was not let go of.
    pub(super) fn is_here(&self) -> bool {
        self.claim.is_here()
    }

    /// What the message that departs has.
    pub(super) fn each_departed(&self, mut each: impl FnMut(Departed)) {
        let trip = locked(&self.outbox.trip);
        let Some(trip) = &*trip else { return };
        let load = locked(&trip.load);
        load.blocks.iter().for_each(|it| each(Departed::Block(it.block)));
        let slots = load.holds.iter().filter_map(|(hold, column)| Some((hold.record(), (*column)?)));
        slots.for_each(|(record, column)| each(Departed::Slot(record, column)));
    }

    pub(super) fn forget_received(&self) {
        locked(&self.inbox.slots).clear();
    }

    /// Frees what is in the messages with these tokens, of which it is known that they were never committed, or that nobody
    /// will ever decode them; gives how many things that were. It can be repeated. It looks at every block of the heap, once,
    /// however many messages there are.
    ///
    /// # Errors
    ///
    /// This process cannot become a member of the heap.
    pub fn revoke(&self, tokens: &[u64]) -> Result<usize, Error> {
        let me = self.core.arena.me()?;
        let messages = tokens.iter().map(|&token| self.core.message(Token::new(token)));
        Ok(sweep::messages(&self.core.arena, me, messages.collect()))
    }
}

/// The trip of the message that is being packed, if one is; whether the bytes are being written.
pub(crate) fn outgoing(
    offered: Option<Offered>,
    arena: &Arc<Arena>,
) -> Option<Result<(Arc<Trip>, bool), &'static str>> {
    let Offered { carrier, writes } = offered?;
    let outbox = carrier.downcast::<Outbox>().ok()?;
    Some(outbox.trip(arena).map(|trip| (trip, writes)))
}

/// The message that is being unpacked, if one is.
pub(crate) fn incoming(offered: Option<Offered>) -> Option<Arc<Inbox>> {
    offered?.carrier.downcast::<Inbox>().ok()
}

#[derive(Serialize)]
struct Out<'a> {
    claim: &'a Unique,
    ring: u32,
    token: u64,
}

/// The same for an end that stays.
#[derive(Serialize)]
struct OutCopy {
    #[serde(serialize_with = "copied")]
    claim: OwnedFd,
    ring: u32,
    token: u64,
}

fn copied<S: Serializer>(fd: &OwnedFd, serializer: S) -> Result<S::Ok, S::Error> {
    handle::serialize(fd.as_fd(), serializer)
}

#[derive(Deserialize)]
struct In {
    #[serde(deserialize_with = "handle::deserialize")]
    claim: OwnedFd,
    ring: u32,
    token: u64,
}

/// Only inside a parcel: it moves.
impl Serialize for HeapRing {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if locked(&self.outbox.trip).is_some() {
            return Err(S::Error::custom(
                "failed to pack an end of a ring: a message is being sent through it",
            ));
        }
        Out { claim: &self.claim, ring: self.core.ring, token: self.core.token.number() }
            .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for HeapRing {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<HeapRing, D::Error> {
        let In { claim, ring, token } = In::deserialize(deserializer)?;
        let arena = Arena::behind(claim.as_fd()).map_err(D::Error::custom)?;
        let token = Token::new(token);
        if ring >= RINGS || arena.entry(ring).load(Ordering::Acquire) != token.transit() {
            return Err(D::Error::custom(format_args!("{} has no such ring", arena.name())));
        }
        Ok(HeapRing::over(Arc::new(Core { arena, ring, token }), Arc::new(Unique::new(claim))))
    }
}

impl fmt::Debug for HeapRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeapRing")
            .field("ring", &self.core.ring)
            .field("is_here", &self.claim.is_here())
            .finish_non_exhaustive()
    }
}
