//! Blocks of a shared heap in the items of a queue that was made on it.
//!
//! A queue on a heap is one of the heap's rings ([`HeapRing`]): an item's blocks are in the message with a token of its own,
//! and each item begins with that token, or with 0. The ring lives as long as any handle of the queue does.
//!
//! # Who owns a block
//!
//! | the item is | its blocks are |
//! |---|---|
//! | encoded, and waits for room | the producer's, under closed handles |
//! | being put, from the note on | the producer's, then in the message |
//! | committed | in the message |
//! | taken (recorded, with its token) | in the message |
//! | being decoded | one by one the consumer's |
//! | acknowledged | the consumer's |
//! | waiting to be delivered again | in the message |
//! | in doubt, or lost | nobody's: freed, or with the dead consumer |
//!
//! # Protocol
//!
//! * Put: encode; lock the producers' side; see that there is room; **note** the token for the ticket that comes next; swap the
//!   blocks' words from this process to the message; copy the frame; commit. Where that fails, the blocks come back before
//!   the unlock.
//! * Get: take, with the token in the record; where items are delivered again, mark the record as **opened**; decode, which swaps
//!   each block's word to this process; where items are not delivered again, clear the record's token, since nothing is in the
//!   message any more; acknowledge. What could not be decoded is *revoked*: what is left of the message is freed.
//! * Settle (the consumer is dead, or gave up): an item that can come again, with its record not opened, comes again, blocks and
//!   all. All others that have a token are revoked first, together, since that takes a look at the whole heap under the
//!   consumers' lock; then they are in doubt or lost as the policy says. So an item with blocks that was opened is
//!   in doubt under [`Policy::Redeliver`](super::Policy::Redeliver) too: some of its blocks may be the dead consumer's, changed or
//!   freed, and it is no longer what was put.
//!
//! # Invariants
//!
//! 1. A message is revoked only if nobody will decode it any more: it was never committed, or its record is settled other than
//!    by delivery, or its consumer is done with it. A token names one message, ever, so revoking again does nothing.
//! 2. A block names a message only while the note or the item in the ring or a record names it too, or its consumer decodes.
//! 3. Between note and commit there is one message at a time, by the producers' lock. So items with blocks are put one by one.
//! 4. Who holds a lock is a member of the heap, so that a repair can revoke.
//!
//! # When a process dies
//!
//! * A producer before the note: the blocks belong to a dead process, which a sweep of the heap frees. Between note and commit:
//!   some do, some are in the message; the next one to have the lock finds the note's ticket not committed, and revokes. Who
//!   waits in the queue looks for that too. After the commit: the item has them.
//! * A consumer before its commit: nothing has happened. After it and before it opens: the item comes again, or is revoked.
//!   After that: what it took belongs to a dead process, the rest is revoked.
//! * Who repairs or settles, between a revoke and what follows: the next one revokes again.
//! * All who had the queue, and the parcels that it was in: the next sweep of the heap frees what its items held.

use super::{
    claim::InHand,
    error::{GetError, PutError},
    mapped::Mapped,
    ring::{Load, Refused, Ring},
    words::{Memory, UNIT, frame_size},
};
use procession_parcel::codec;
use procession_shm::HeapRing;
use serde::{Serialize, Serializer, de::DeserializeOwned};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What an item that is being put takes along. Its blocks come back when this is dropped before [`sent`](Outgoing::sent).
#[derive(Debug)]
pub(super) struct Outgoing {
    /// `None` on a queue without a heap, and when it is sent.
    ring: Option<HeapRing>,
    failed: Mutex<Option<procession_shm::Error>>,
}

impl Outgoing {
    /// For an item of this queue.
    pub(super) fn of(mapped: &Mapped) -> Outgoing {
        Outgoing { ring: mapped.heap().map(HeapRing::beside), failed: Mutex::new(None) }
    }

    fn failed(&self) -> MutexGuard<'_, Option<procession_shm::Error>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends the item's frame.
    pub(super) fn append<T: Serialize>(
        &self,
        item: &T,
        frames: &mut Vec<u8>,
    ) -> Result<(), procession_parcel::Error> {
        let start = frames.len();
        frames.extend_from_slice(&[0; UNIT as usize]);
        let encoded = match &self.ring {
            None => codec::encode(item, frames),
            Some(ring) => {
                frames.extend_from_slice(&[0; UNIT as usize]);
                codec::encode_with(item, ring.carrier_out(), frames)
            }
        };
        if let Err(error) = encoded {
            frames.truncate(start);
            return Err(error);
        }
        let len = (frames.len() - start) as u64 - UNIT;
        let mut header = |at: usize, word: u64| {
            frames[at..at + UNIT as usize].copy_from_slice(&word.to_le_bytes());
        };
        header(start, len);
        if self.ring.is_some() {
            header(start + UNIT as usize, self.token());
        }
        frames.resize(start + frame_size(len) as usize, 0);
        Ok(())
    }

    /// The load, if there is one.
    pub(super) fn load(&self) -> Option<&dyn Load> {
        self.ring.is_some().then_some(self)
    }

    /// The item was committed.
    pub(super) fn sent(mut self) {
        if let Some(ring) = self.ring.take() {
            ring.sent();
        }
    }

    /// Why the item was not put.
    pub(super) fn error(&self, refused: Refused) -> PutError<()> {
        match refused {
            Refused::Full(_) => PutError::Full(()),
            Refused::Closed => PutError::Closed(()),
            Refused::Trouble(trouble) => PutError::Unusable((), trouble),
            // It is there when this is the reason.
            Refused::Load => {
                self.failed().take().map_or(PutError::Full(()), |error| PutError::Heap((), error))
            }
        }
    }
}

impl Load for Outgoing {
    fn token(&self) -> u64 {
        self.ring.as_ref().and_then(HeapRing::token).unwrap_or(0)
    }

    fn depart(&self) -> bool {
        let departed = self.ring.as_ref().map_or(Ok(()), HeapRing::depart);
        departed
            .map_err(|error| {
                self.back();
                *self.failed() = Some(error);
            })
            .is_ok()
    }

    fn back(&self) {
        if let Some(ring) = &self.ring {
            ring.back();
        }
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.back();
    }
}

/// Decodes an item, whose record is `index` of those in hand.
pub(super) fn decode<T: DeserializeOwned + 'static>(
    ring: &Ring<Mapped>,
    hand: &InHand,
    index: usize,
    body: &[u8],
) -> Result<T, GetError> {
    let heap = match ring.memory().heap() {
        None => return codec::decode(body).map_err(GetError::Decode),
        Some(heap) => heap,
    };
    // It was checked as it was recorded.
    let (token, body) =
        body.split_first_chunk().map_or((0, body), |(t, rest)| (u64::from_le_bytes(*t), rest));
    if token == 0 {
        return codec::decode(body).map_err(GetError::Decode);
    }
    /// Whatever the decoding did, it does not do it again.
    struct Received(HeapRing);
    impl Drop for Received {
        fn drop(&mut self) {
            self.0.received();
        }
    }
    hand.open(index);
    let received = Received(heap.beside());
    let item = codec::decode_with(body, received.0.carrier_in());
    drop(received);
    match item {
        Ok(item) => {
            hand.emptied(index);
            Ok(item)
        }
        Err(error) => {
            ring.memory().revoke(&[token]);
            hand.emptied(index);
            Err(GetError::Decode(error))
        }
    }
}

/// A queue's place in the heap, for a parcel: a copy.
pub(super) struct Copied<'a>(pub(super) &'a HeapRing);

impl Serialize for Copied<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize_copy(serializer)
    }
}
