//! The way of a lane's ends into a parcel and out of it.

use super::{
    ends::{LAYOUT, RawReceiver, RawSender},
    mapped::{Mapped, Place},
    words::{Memory, Words},
};
use crate::{Bell, Error, error::Cause};
use procession_parcel::handle::Unique;
use procession_shm::Segment;
use procession_sys::sync::{AtomicU32, Ordering};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _, ser::Error as _};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// An end's right to leave this process, once.
///
/// # Invariants
///
/// 1. The words of a lane count the claims of each end. A parcel says how many there were when it was packed, and is
///    good for the next one: of all its copies, and the end that was packed, one makes it by a compare-and-swap.
/// 2. An end that was packed and came back, as its parcel was dropped undelivered, makes that claim before it is used
///    again. If a copy of the parcel was faster, the end is gone.
/// 3. The end belongs to the process that it was made in or came to. A forked copy of that has the value, but not the
///    end: it must claim and close nothing.
#[derive(Debug)]
pub(super) struct Ticket {
    owner: u32,
    /// A descriptor of the segment, made when the end is first packed.
    unique: OnceLock<Unique>,
    /// The claims in the last parcel, as long as it is not made certain who has the end. Locked while packing.
    packed: Mutex<Option<u32>>,
    /// By which the other end finds out when this one is lost. It goes with the end.
    claim: Option<Unique>,
}

impl Ticket {
    /// For an end that this process has.
    pub(super) fn new(claim: Option<Unique>) -> Ticket {
        Ticket { owner: std::process::id(), unique: OnceLock::new(), packed: Mutex::new(None), claim }
    }

    /// Whether the end is in a parcel, or arrived elsewhere. `claims` counts its claims.
    #[inline]
    pub(super) fn is_gone(&self, claims: &AtomicU32) -> bool {
        // Most ends were never packed where they are used.
        self.unique.get().is_some_and(|unique| !self.has(unique, &mut self.packed(), claims))
    }

    /// Whether the end goes with its drop: it is this process's, and here.
    pub(super) fn ends_here(&self, claims: &AtomicU32) -> bool {
        self.owner == std::process::id() && !self.is_gone(claims)
    }

    fn packed(&self) -> MutexGuard<'_, Option<u32>> {
        self.packed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the end is here, for good (invariant 2).
    #[cold]
    fn has(&self, unique: &Unique, packed: &mut Option<u32>, claims: &AtomicU32) -> bool {
        if !unique.is_here() {
            return false;
        }
        let Some(before) = packed.take() else { return true };
        let claimed =
            claims.compare_exchange(before, before.wrapping_add(1), Ordering::AcqRel, Ordering::Relaxed);
        if claimed.is_err() {
            drop((unique.take(), self.claim.as_ref().map(Unique::take)));
        }
        claimed.is_ok()
    }

    fn of(&self, segment: &Segment) -> std::io::Result<&Unique> {
        if let Some(unique) = self.unique.get() {
            return Ok(unique);
        }
        let fd = segment.fd().try_clone_to_owned()?;
        Ok(self.unique.get_or_init(|| Unique::new(fd)))
    }
}

#[derive(Serialize)]
struct Out<'a> {
    segment: &'a Unique,
    layout: u32,
    offset: u64,
    capacity: u64,
    max_message: u64,
    /// Of fixed length, since packing twice in a row (to count, to write) may find different numbers.
    claims: [u8; 4],
    sender_bell: &'a Option<Bell>,
    receiver_bell: &'a Option<Bell>,
    claim: &'a Option<Unique>,
}

#[derive(Deserialize)]
struct In {
    segment: Segment,
    layout: u32,
    offset: u64,
    capacity: u64,
    max_message: u64,
    /// Of fixed length, since packing twice in a row (to count, to write) may find different numbers.
    claims: [u8; 4],
    sender_bell: Option<Bell>,
    receiver_bell: Option<Bell>,
    claim: Option<Unique>,
}

fn pack<S: Serializer>(
    ticket: &Ticket,
    place: &Place,
    max_message: usize,
    claims: &AtomicU32,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let segment = ticket.of(&place.segment).map_err(|error| {
        S::Error::custom(format_args!("failed to pack an end of a lane: no descriptor for it: {error}"))
    })?;
    let mut packed = ticket.packed();
    if !ticket.has(segment, &mut packed, claims) {
        return Err(S::Error::custom(
            "failed to pack an end of a lane: it can be sent only once, and has been packed already",
        ));
    }
    let count = claims.load(Ordering::Relaxed);
    *packed = Some(count);
    let Place { offset, capacity, sender_bell, receiver_bell, .. } = place;
    Out {
        segment,
        layout: LAYOUT,
        offset: *offset as u64,
        capacity: *capacity as u64,
        max_message: max_message as u64,
        claims: count.to_le_bytes(),
        sender_bell,
        receiver_bell,
        claim: &ticket.claim,
    }
    .serialize(serializer)
}

/// The memory, the largest message, and the claim of an end that arrived.
type Came = (Mapped, usize, Option<Unique>);

impl In {
    /// Takes the end that `claims` counts, unless another copy of the parcel brought it.
    fn claim(self, end: &'static str, claims: impl FnOnce(&Words) -> &AtomicU32) -> Result<Came, Error> {
        let before = u32::from_le_bytes(self.claims);
        let came = self.mapped()?;
        // Acquire and Release: the end goes on where the one that was packed left it.
        claims(came.0.words())
            .compare_exchange(before, before.wrapping_add(1), Ordering::AcqRel, Ordering::Relaxed)
            .map_err(|_| Error::new("attach", Cause::Taken { end }))?;
        Ok(came)
    }

    fn mapped(self) -> Result<Came, Error> {
        if self.layout != LAYOUT {
            return Err(Error::new("attach", Cause::Layout { found: self.layout, expected: LAYOUT }));
        }
        // What does not fit is refused with its place.
        let size = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
        let max_message = size(self.max_message);
        let (offset, capacity) = (size(self.offset), size(self.capacity));
        let (sender_bell, receiver_bell) = (self.sender_bell, self.receiver_bell);
        let (segment, watched) = (self.segment, self.claim.is_some());
        let mapped = Mapped::new(Place { segment, offset, capacity, sender_bell, receiver_bell, watched })?;
        Ok((mapped, max_message, self.claim))
    }
}

/// Only inside a parcel, and once: packing moves the end. Not while a message grows.
impl Serialize for RawSender {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.producer.grows() {
            return Err(S::Error::custom(
                "failed to pack the sending end of a lane: it has a message that is not finished",
            ));
        }
        let mapped = self.producer.memory();
        let claims = &mapped.words().sender.claims;
        pack(&self.ticket, mapped.place(), self.producer.max_message(), claims, serializer)
    }
}

impl<'de> Deserialize<'de> for RawSender {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RawSender, D::Error> {
        let (mapped, max_message, claim) = In::deserialize(deserializer)?
            .claim("sender", |words| &words.sender.claims)
            .map_err(D::Error::custom)?;
        RawSender::attach(mapped, max_message, claim).map_err(D::Error::custom)
    }
}

/// Only inside a parcel, and once: packing moves the end. Not while it holds the first pieces of a message.
impl Serialize for RawReceiver {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.consumer.in_pieces() {
            return Err(S::Error::custom(
                "failed to pack the receiving end of a lane: it has received a message in part",
            ));
        }
        let mapped = self.consumer.memory();
        let claims = &mapped.words().receiver.claims;
        pack(&self.ticket, mapped.place(), self.consumer.max_message(), claims, serializer)
    }
}

impl<'de> Deserialize<'de> for RawReceiver {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RawReceiver, D::Error> {
        let (mapped, max_message, claim) = In::deserialize(deserializer)?
            .claim("receiver", |words| &words.receiver.claims)
            .map_err(D::Error::custom)?;
        RawReceiver::attach(mapped, max_message, claim).map_err(D::Error::custom)
    }
}
