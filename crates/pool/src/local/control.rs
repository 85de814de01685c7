//! The words that a worker and its pool share besides the lanes.
//!
//! They lie behind the lanes in the worker's segment. Each has one writer, but for [`Hand`]; see there.
//!
//! | word | written by | means |
//! |---|---|---|
//! | `stop` | parent | not 0: begin no more tasks, and end; what runs is asked to end ([`cancelled`](crate::cancelled)) |
//! | `inherited` | worker, once | the peak of memory that it had from the process which executed it, in bytes |
//! | `no_memory` | worker | not 0: it aborted right after an allocation had failed |
//! | `load` | worker | the token of the last result that takes blocks of a heap along, from before they do: see [`loads`](crate::loads) |
//! | `hand`, `revoked` | see [`hand`](super::hand) | |
//! | `pulse` | worker | see [`pulse`](super::pulse) |
//!
//! # When a process dies
//!
//! Nothing here is taken in steps, so nothing is left half done: each word says what it says at any instant. What a
//! worker writes is believed only as far as it concerns that worker.
#![expect(unsafe_code, reason = "refers to words in shared memory")]

use super::{
    hand::{Hand, WORDS},
    pulse::Pulse,
};
use procession_shm::Segment;
use serde::{Deserialize, Serialize};
use std::{
    ops::Deref,
    sync::atomic::{AtomicU32, AtomicU64},
};

/// All zero is a fresh one.
#[repr(C, align(128))]
#[derive(Debug)]
pub(super) struct Words {
    pub(super) hand: Hand,
    pub(super) stop: AtomicU32,
    _line: [u32; 31],
    pub(super) inherited: AtomicU64,
    pub(super) no_memory: AtomicU32,
    pub(super) load: AtomicU64,
    revoked: [AtomicU32; WORDS as usize],
    pub(super) pulse: Pulse,
}

impl Words {
    /// The word of the task with this ordinal among those that may be cancelled.
    pub(super) fn revoked(&self, ordinal: u32) -> &AtomicU32 {
        &self.revoked[(ordinal % WORDS) as usize]
    }
}

/// The words of one worker, mapped.
#[derive(Clone, Serialize, Deserialize, Debug)]
#[serde(try_from = "Place", into = "Place")]
pub(super) struct Control {
    place: Place,
}

#[derive(Clone, Serialize, Deserialize, Debug)]
struct Place {
    segment: Segment,
    offset: usize,
}

/// How many bytes the words take.
pub(super) const SIZE: usize = size_of::<Words>();

impl Control {
    /// The words at `offset` of a segment that was just made.
    ///
    /// # Safety
    ///
    /// Nothing else lies in the [`SIZE`] bytes from there on, as long as the segment lives.
    pub(super) unsafe fn at(segment: &Segment, offset: usize) -> Option<Control> {
        Control::try_from(Place { segment: segment.clone(), offset }).ok()
    }

    /// Where the words lie, for a signal handler. They are there as long as this or a clone lives.
    pub(super) fn as_ptr(&self) -> *const Words {
        let start = self.place.segment.as_ptr().as_ptr();
        // SAFETY: the place was checked to lie within the segment when this was made.
        unsafe { start.add(self.place.offset) }.cast_const().cast()
    }
}

impl TryFrom<Place> for Control {
    type Error = &'static str;

    fn try_from(place: Place) -> Result<Control, &'static str> {
        let end = place.offset.checked_add(SIZE);
        let fits = end.is_some_and(|end| end <= place.segment.len());
        if fits && place.offset.is_multiple_of(align_of::<Words>()) {
            Ok(Control { place })
        } else {
            Err("the words of a worker do not lie in its segment")
        }
    }
}

impl From<Control> for Place {
    fn from(control: Control) -> Place {
        control.place
    }
}

impl Deref for Control {
    type Target = Words;

    fn deref(&self) -> &Words {
        // SAFETY: the words lie within the segment, aligned, and are mapped as long as `self` holds it. They are all
        // atomic, all zero is a value of theirs, and by the promise of `at` nothing else is written there.
        unsafe { &*self.as_ptr() }
    }
}
