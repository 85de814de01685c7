//! [`Bell`]: bell words in a segment.
#![expect(unsafe_code, reason = "the words are reached through a pointer into a mapping")]

use crate::{
    Error,
    bell::{BellWords, Waited},
    error::Cause,
};
use procession_shm::{Kind, Segment, signature};
use procession_sys::{Deadline, Spin};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::ptr::NonNull;

/// A sleeping place that processes share: one or many sleep, one or many ring.
///
/// Many lanes may have the same bell, so that a process with many peers sleeps in one place. Whoever is woken looks
/// at everything that it waits for: a bell tells only that something happened.
///
/// Clones stand for the same place.
///
/// # When a process dies
///
/// Sleeps are cut into slices, after each of which the state is looked at: a ringer that was killed between its
/// change and its ring delays a sleeper by one slice at most. See [`wait_slice`](Bell::wait_slice) for the use of
/// looking after dead peers meanwhile.
///
/// # Examples
///
/// ```
/// use procession_channel::Bell;
/// use procession_sys::Spin;
/// use std::sync::atomic::{AtomicBool, Ordering};
///
/// let bell = Bell::new()?;
/// let done = AtomicBool::new(false);
/// std::thread::scope(|scope| {
///     scope.spawn(|| {
///         done.store(true, Ordering::Release);
///         bell.ring();
///     });
///     bell.wait_while(None, &mut Spin::adaptive(), || !done.load(Ordering::Acquire));
/// });
/// # Ok::<(), procession_channel::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Bell {
    segment: Segment,
    offset: usize,
    words: NonNull<BellWords>,
}

// SAFETY: the words are atomics in shared memory that `segment` keeps mapped in all threads.
unsafe impl Send for Bell {}
// SAFETY: as for `Send`.
unsafe impl Sync for Bell {}

const KIND: Kind =
    Kind::new("bell", u32::from_le_bytes(*b"bell"), signature(&[Bell::SIZE, align_of::<BellWords>()]));

impl Bell {
    /// The bytes that a bell takes in a segment; its offset is a multiple of this too.
    pub const SIZE: usize = size_of::<BellWords>();

    /// A bell in a segment of its own.
    ///
    /// # Errors
    ///
    /// No descriptors, no memory: see [`Segment::anonymous`].
    pub fn new() -> Result<Bell, Error> {
        Bell::at(&Segment::anonymous(KIND, Bell::SIZE)?, 0)
    }

    /// The bell at `offset` of a segment, whose bytes there are zero or a bell already.
    ///
    /// # Errors
    ///
    /// The place is not within the segment, or the offset is no multiple of [`SIZE`](Bell::SIZE).
    ///
    /// # Safety
    ///
    /// As long as the bell is in use, in any process, nothing but this bell lies there: no lane, and nothing that
    /// somebody accesses by [`Segment::as_ptr`].
    pub unsafe fn in_segment(segment: &Segment, offset: usize) -> Result<Bell, Error> {
        Bell::at(segment, offset)
    }

    /// A bell at a place where nothing else lies; one that came in a parcel lies where its sender says that it does,
    /// and if that is not so, rings where it should not, as if the sender did.
    fn at(segment: &Segment, offset: usize) -> Result<Bell, Error> {
        let within = offset.checked_add(Bell::SIZE).is_some_and(|end| end <= segment.len());
        if !within || !offset.is_multiple_of(Bell::SIZE) {
            let len = segment.len();
            return Err(Error::new("attach", Cause::Place { offset, size: Bell::SIZE, len }));
        }
        // SAFETY: the offset lies within the payload, as just checked.
        let words = unsafe { segment.as_ptr().add(offset) }.cast();
        Ok(Bell { segment: segment.clone(), offset, words })
    }

    pub(crate) fn words(&self) -> &BellWords {
        // SAFETY: the words lie within the segment, aligned; they are atomics; the segment is mapped as long as
        // `self` lives.
        unsafe { self.words.as_ref() }
    }

    /// The segment that the bell lies in, and where.
    #[must_use]
    pub fn place(&self) -> (&Segment, usize) {
        (&self.segment, self.offset)
    }

    /// Wakes whoever sleeps here. Call it after the change that they wait for.
    ///
    /// Where nobody sleeps it costs a fence and a load.
    #[inline]
    pub fn ring(&self) {
        self.words().ring();
    }

    /// Waits while `condition` holds: spins first, then sleeps. False if `deadline` comes first.
    ///
    /// `condition` must come to an end by changes after which somebody rings, or is found out about after a slice.
    pub fn wait_while(
        &self,
        deadline: Option<Deadline>,
        spin: &mut Spin,
        mut condition: impl FnMut() -> bool,
    ) -> bool {
        self.words().wait_until(deadline, spin, || !condition())
    }

    /// As [`wait_while`](Bell::wait_while), but returns after one slice of sleep at the latest, or when somebody
    /// rang for something else: the time to see whether those who should ring are still alive.
    pub fn wait_slice(
        &self,
        deadline: Option<Deadline>,
        spin: &mut Spin,
        mut condition: impl FnMut() -> bool,
    ) -> Waited {
        self.words().wait_slice(deadline, spin, || !condition())
    }
}

/// Only inside a parcel, as the segment that it lies in.
impl Serialize for Bell {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (&self.segment, self.offset as u64).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Bell {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Bell, D::Error> {
        let (segment, offset) = <(Segment, u64)>::deserialize(deserializer)?;
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        Bell::at(&segment, offset).map_err(serde::de::Error::custom)
    }
}
