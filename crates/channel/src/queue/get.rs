//! The taking half of [`Queue`].

use super::{
    claim::{Claim, InHand},
    error::GetError,
    load::decode,
    mapped::Mapped,
    queue::{Queue, Wait, with_bytes, with_spin},
    ring::Ring,
    take::{NotTaken, Taken},
    trouble::Trouble,
    words::{Patience, UNIT},
};
use procession_sys::{Deadline, Spin};
use serde::de::DeserializeOwned;
use std::{
    cell::{Cell, RefCell},
    sync::atomic::Ordering,
    time::Duration,
};

/// After so many takes a consumer looks after the dead ones' items, where these come back.
const LOOK: u32 = 256;

thread_local! {
    static GET_SPIN: RefCell<Option<Spin>> = const { RefCell::new(None) };
    /// Where this thread's last record was, in whatever queue: a good guess where it can be again.
    static HINT: Cell<u32> = const { Cell::new(0) };
}

/// Decodes the item of the frame at the front, and gives what follows. Its record is `index` of those in hand.
fn next_item<'a, T: DeserializeOwned + 'static>(
    ring: &Ring<Mapped>,
    hand: &InHand,
    index: usize,
    frames: &'a [u8],
) -> (Result<T, GetError>, &'a [u8]) {
    let Some((header, rest)) = frames.split_first_chunk() else {
        return (Err(GetError::Unusable(Trouble::Corrupt { what: "frame", found: 0, limit: UNIT })), &[]);
    };
    // It was checked as it was copied out.
    let len = (u64::from_le_bytes(*header) as usize).min(rest.len());
    let value = decode(ring, hand, index, &rest[..len]);
    (value, &rest[len.next_multiple_of(UNIT as usize).min(rest.len())..])
}

impl From<NotTaken> for GetError {
    fn from(error: NotTaken) -> GetError {
        match error {
            NotTaken::Empty => GetError::Empty,
            NotTaken::Closed => GetError::Closed,
            NotTaken::InHand => GetError::InHand,
            NotTaken::Trouble(trouble) => GetError::Unusable(trouble),
        }
    }
}

impl<T: DeserializeOwned + 'static> Queue<T> {
    /// Takes the next item; waits for it as long as that takes.
    ///
    /// # Errors
    ///
    /// See [`GetError`].
    pub fn get(&self) -> Result<T, GetError> {
        self.get_item(Wait::Until(None))
    }

    /// Takes the next item if there is one.
    ///
    /// # Errors
    ///
    /// See [`GetError`].
    #[doc(alias = "get_nowait")]
    pub fn try_get(&self) -> Result<T, GetError> {
        self.get_item(Wait::No)
    }

    /// Takes the next item; waits for it no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// See [`GetError`].
    pub fn get_timeout(&self, timeout: Duration) -> Result<T, GetError> {
        self.get_deadline(Deadline::after(timeout))
    }

    /// Takes the next item; waits for it no longer than until `deadline`.
    ///
    /// # Errors
    ///
    /// See [`GetError`].
    pub fn get_deadline(&self, deadline: Deadline) -> Result<T, GetError> {
        self.get_item(Wait::Until(Some(deadline)))
    }

    fn get_item(&self, wait: Wait) -> Result<T, GetError> {
        with_bytes(|frames| {
            let taken = self.take(1, wait, frames)?;
            self.finish(taken, frames)
        })
    }

    /// What a single `get` gives for what was taken.
    pub(super) fn finish(&self, taken: Taken, frames: &[u8]) -> Result<T, GetError> {
        let hand = InHand::new(self.inner.clone(), taken.hand);
        let (item, _) = next_item(&self.inner.ring, &hand, 0, frames);
        if self.shape().joinable && item.is_ok() {
            hand.leave_undone();
        } else {
            hand.acknowledge();
        }
        item
    }

    /// Before each take: consumers that never wait must find the dead all the same.
    pub(super) fn look_now_and_then(&self) {
        if self.shape().keeps() && self.inner.takes.fetch_add(1, Ordering::Relaxed) % LOOK == LOOK - 1 {
            // What goes wrong, the take finds too.
            let _ = self.inner.ring.look_after();
        }
    }

    fn take(&self, most: usize, wait: Wait, frames: &mut Vec<u8>) -> Result<Taken, GetError> {
        let ring = &self.inner.ring;
        self.look_now_and_then();
        let (most, mut hint) = (most as u64, HINT.get());
        let taken = match wait {
            Wait::No => ring.try_take(most, &mut hint, Patience::Brief, frames),
            Wait::Until(deadline) => {
                with_spin(&GET_SPIN, |spin| ring.take(most, &mut hint, deadline, spin, frames))
            }
        };
        HINT.set(hint);
        Ok(taken?)
    }

    /// Takes the next items, `most` at the most, and at least one, for which it waits as long as that takes.
    ///
    /// A batch ends with the item with which it reaches 1 MiB.
    ///
    /// # Errors
    ///
    /// See [`GetError`]. If one of them cannot be decoded, all of them are treated as those of a dead consumer are; with
    /// `Policy::Redeliver` that one is gone, and the others come again, but those before it that hold blocks of a heap, which
    /// are in doubt.
    pub fn get_many(&self, most: usize) -> Result<Vec<T>, GetError> {
        self.get_batch(most, Wait::Until(None))
    }

    /// As [`get_many`](Queue::get_many), and does not wait.
    ///
    /// # Errors
    ///
    /// As [`get_many`](Queue::get_many).
    pub fn try_get_many(&self, most: usize) -> Result<Vec<T>, GetError> {
        self.get_batch(most, Wait::No)
    }

    /// As [`get_many`](Queue::get_many), and waits no longer than until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`get_many`](Queue::get_many).
    pub fn get_many_deadline(&self, most: usize, deadline: Deadline) -> Result<Vec<T>, GetError> {
        self.get_batch(most, Wait::Until(Some(deadline)))
    }

    fn get_batch(&self, most: usize, wait: Wait) -> Result<Vec<T>, GetError> {
        with_bytes(|frames| {
            // `task_done` is for one item.
            let most = if self.shape().joinable { 1 } else { most };
            let taken = self.take(most, wait, frames)?;
            let count = taken.count as usize;
            let hand = InHand::new(self.inner.clone(), taken.hand);
            let mut items = Vec::with_capacity(count);
            let mut rest = frames.as_slice();
            for index in 0..count {
                let (item, after) = next_item(&self.inner.ring, &hand, index, rest);
                match item {
                    Ok(item) => items.push(item),
                    Err(error) => {
                        // Taken again, it would only fail again, and keep everybody from what comes after it.
                        hand.acknowledge_of(index, count);
                        return Err(error);
                    }
                }
                rest = after;
            }
            if self.shape().joinable {
                hand.leave_undone();
            } else {
                hand.acknowledge();
            }
            Ok(items)
        })
    }

    /// Takes the next item, to be acknowledged when the work on it is done; waits for it as long as that takes.
    ///
    /// # Errors
    ///
    /// See [`GetError`].
    pub fn claim(&self) -> Result<Claim<T>, GetError> {
        self.claim_item(Wait::Until(None))
    }

    /// As [`claim`](Queue::claim), and does not wait.
    ///
    /// # Errors
    ///
    /// See [`GetError`].
    pub fn try_claim(&self) -> Result<Claim<T>, GetError> {
        self.claim_item(Wait::No)
    }

    /// As [`claim`](Queue::claim), and waits no longer than until `deadline`.
    ///
    /// # Errors
    ///
    /// See [`GetError`].
    pub fn claim_deadline(&self, deadline: Deadline) -> Result<Claim<T>, GetError> {
        self.claim_item(Wait::Until(Some(deadline)))
    }

    fn claim_item(&self, wait: Wait) -> Result<Claim<T>, GetError> {
        with_bytes(|frames| {
            let taken = self.take(1, wait, frames)?;
            let (ticket, attempts) = (taken.first, taken.attempts);
            let hand = InHand::new(self.inner.clone(), taken.hand);
            match next_item(&self.inner.ring, &hand, 0, frames).0 {
                Ok(item) => Ok(Claim::new(item, ticket, attempts, hand)),
                Err(error) => {
                    hand.acknowledge();
                    Err(error)
                }
            }
        })
    }

    /// Takes items until the queue is closed and drained.
    #[must_use]
    pub fn iter(&self) -> Iter<'_, T> {
        Iter { queue: self }
    }
}

/// Takes items until the queue is closed and drained. Made by [`Queue::iter`].
#[derive(Debug)]
pub struct Iter<'a, T> {
    queue: &'a Queue<T>,
}

impl<T: DeserializeOwned + 'static> Iterator for Iter<'_, T> {
    type Item = Result<T, GetError>;

    fn next(&mut self) -> Option<Result<T, GetError>> {
        match self.queue.get() {
            Err(error) if error.is_closed() => None,
            item => Some(item),
        }
    }
}

impl<'a, T: DeserializeOwned + 'static> IntoIterator for &'a Queue<T> {
    type Item = Result<T, GetError>;
    type IntoIter = Iter<'a, T>;

    fn into_iter(self) -> Iter<'a, T> {
        self.iter()
    }
}
