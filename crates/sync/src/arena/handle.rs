//! [`Handle`]: the way to a primitive's words, and into parcels.
#![expect(unsafe_code, reason = "slots are reached through pointers into a mapping")]

use super::{ARENA, Place, Shared, Tag, UNIT, WHOLE, in_use, room, starts_slot, state};
use crate::{Error, error::Cause};
use core::{
    marker::PhantomData,
    ptr::NonNull,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};
use procession_shm::Segment;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{
    panic::{RefUnwindSafe, UnwindSafe},
    sync::Arc,
};

/// A handle for a primitive: the way to its words, and into parcels.
pub(crate) struct Handle<T> {
    place: Arc<Place>,
    words: NonNull<T>,
    shared: PhantomData<fn() -> T>,
}

impl<T> Clone for Handle<T> {
    fn clone(&self) -> Self {
        Handle { place: self.place.clone(), words: self.words, shared: PhantomData }
    }
}

// SAFETY: the words are in shared memory, made for use by many threads (`Shared` demands `Sync`), and mapped in all.
unsafe impl<T: Shared> Send for Handle<T> {}
// SAFETY: as for `Send`.
unsafe impl<T: Shared> Sync for Handle<T> {}

// What lies there bears a death at any instruction, so it bears a panic.
impl<T> UnwindSafe for Handle<T> {}
impl<T> RefUnwindSafe for Handle<T> {}

impl<T: Shared> Handle<T> {
    /// A new primitive, and what `set` does to it before anybody else can see it.
    ///
    /// `extra` bytes of room follow the words.
    pub(crate) fn new(extra: usize, set: impl FnOnce(&T)) -> Result<Handle<T>, Error> {
        const { assert!(align_of::<T>() <= UNIT && size_of::<T>() >= size_of::<Tag>() && T::KIND != 0) };
        let fail = |cause| Error::new("make", T::NAME, cause);
        let units = u16::try_from((size_of::<T>() + extra).div_ceil(UNIT))
            .ok()
            .filter(|&units| usize::from(units) != WHOLE)
            .ok_or_else(|| fail(Cause::TooLarge { len: size_of::<T>() + extra }))?;
        let mut state = state();
        let (index, offset) = state.room(units).map_err(|error| fail(Cause::Segment(error)))?;
        let forks = state.forks;
        let arena = &mut state.arenas[index];
        let segment = arena.segment.clone();
        // SAFETY: the offset lies within the payload: `room` found it there.
        let words: NonNull<T> = unsafe { segment.as_ptr().add(offset) }.cast();
        // SAFETY: zeroes are a valid value, and the place is aligned to a unit.
        let shared = unsafe { words.as_ref() };
        if let Err(error) = shared.init() {
            // SAFETY: behind the tag, within the slot.
            let rest = unsafe { words.cast::<u8>().add(size_of::<Tag>()) };
            // SAFETY: the slot without its tag, which nobody else knows.
            unsafe { rest.write_bytes(0, usize::from(units) * UNIT - size_of::<Tag>()) };
            arena.free.entry(units).or_default().push(offset);
            return Err(fail(Cause::Init(error)));
        }
        set(shared);
        arena.live += 1;
        // SAFETY: a slot starts with a tag.
        let tag = unsafe { words.cast::<Tag>().as_ref() };
        tag.0.store(u32::from(T::KIND) << 16 | u32::from(units), Ordering::Release);
        let place = Arc::new(Place {
            segment,
            offset,
            made: Some(units),
            known: AtomicBool::new(false),
            forks,
            local: [const { AtomicU64::new(0) }; 2],
        });
        state.places.insert(words.addr().get(), Arc::downgrade(&place));
        let unneeded = state.unneeded();
        drop(state);
        drop(unneeded);
        Ok(Handle { place, words, shared: PhantomData })
    }

    /// A new primitive in a segment of its own, with `extra` bytes behind the words, which take memory when they are
    /// touched. Its handles keep the segment and nothing else does, so no ledger of slots is needed.
    pub(crate) fn alone(extra: usize) -> Result<Handle<T>, Error> {
        const { assert!(align_of::<T>() <= UNIT && size_of::<T>() >= size_of::<Tag>() && T::KIND != 0) };
        let fail = |cause| Error::new("make", T::NAME, cause);
        // The segment refuses what is too large.
        let segment = Segment::anonymous(ARENA, size_of::<T>().saturating_add(extra))
            .map_err(|error| fail(Cause::Segment(error)))?;
        segment.keep_while(in_use);
        let words: NonNull<T> = segment.as_ptr().cast();
        // SAFETY: the payload is large enough, zeroed, which is a valid value, and aligned to a page.
        let shared = unsafe { words.as_ref() };
        shared.init().map_err(|error| fail(Cause::Init(error)))?;
        // SAFETY: a slot starts with a tag.
        let tag = unsafe { words.cast::<Tag>().as_ref() };
        tag.0.store(u32::from(T::KIND) << 16 | WHOLE as u32, Ordering::Release);
        let place = Arc::new(Place {
            segment,
            offset: 0,
            made: None,
            known: AtomicBool::new(true),
            forks: 0,
            local: [const { AtomicU64::new(0) }; 2],
        });
        place.mark_known();
        state().places.insert(words.addr().get(), Arc::downgrade(&place));
        Ok(Handle { place, words, shared: PhantomData })
    }

    /// The primitive at `offset` of a segment that came from another process.
    fn attach(segment: Segment, offset: u64) -> Result<Handle<T>, Error> {
        let fail = |cause| Error::new("attach", T::NAME, cause);
        segment.check(ARENA).map_err(|error| fail(Cause::Segment(error)))?;
        segment.keep_while(in_use);
        let wrong = || fail(Cause::NotThere { offset });
        let offset = usize::try_from(offset).map_err(|_| wrong())?;
        let end = offset.checked_add(size_of::<T>().next_multiple_of(UNIT)).ok_or_else(wrong)?;
        if !offset.is_multiple_of(UNIT) || end > segment.len() {
            return Err(wrong());
        }
        // SAFETY: the offset lies within the payload, as just checked.
        let words: NonNull<T> = unsafe { segment.as_ptr().add(offset) }.cast();
        // SAFETY: at any unit lies a tag, or something that may be read as one.
        let tag = unsafe { words.cast::<Tag>().as_ref() }.0.load(Ordering::Acquire);
        let room = room(tag, segment.len() - offset);
        if tag >> 16 != u32::from(T::KIND) || room.is_none_or(|room| room < size_of::<T>()) {
            return Err(wrong());
        }
        let mut state = state();
        let known = Place::find(&state, &segment, offset);
        if known.is_none() && !starts_slot(&segment, offset) {
            return Err(wrong());
        }
        let place = known.unwrap_or_else(|| {
            let local = state.recall(words.addr().get());
            let place = Arc::new(Place {
                segment,
                offset,
                made: None,
                known: AtomicBool::new(true),
                forks: 0,
                local: local.map(AtomicU64::new),
            });
            state.places.insert(words.addr().get(), Arc::downgrade(&place));
            place
        });
        let unneeded = state.unneeded();
        drop(state);
        drop(unneeded);
        Ok(Handle { place, words, shared: PhantomData })
    }
}

impl<T> Handle<T> {
    /// The primitive's words.
    #[inline]
    pub(crate) fn words(&self) -> &T {
        // SAFETY: a whole `T` lies there, checked when the handle was made, in memory that stays mapped as long as
        // the place lives; any bytes leave accesses defined (`Shared`).
        unsafe { self.words.as_ref() }
    }

    /// The slot's room behind the words, as far as it lies in the segment; zeroes at the start.
    pub(crate) fn rest(&self) -> &[AtomicU64] {
        let start = size_of::<T>().next_multiple_of(size_of::<u64>());
        let count = self.room().saturating_sub(start) / size_of::<u64>();
        if count == 0 {
            return &[];
        }
        // SAFETY: there is room behind the words, as just computed.
        let rest = unsafe { self.words.cast::<u8>().add(start) };
        // SAFETY: within the slot and the segment, aligned since slots are aligned to a unit, accessed as atomics by
        // everybody, and mapped as long as the place lives.
        unsafe { core::slice::from_raw_parts(rest.cast::<AtomicU64>().as_ptr(), count) }
    }

    /// Where the slot starts: good for [`room`](Handle::room) bytes, as long as a handle lives.
    #[inline]
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.words.cast()
    }

    /// How many bytes the slot has, its words and what follows them: never more than the segment has.
    pub(crate) fn room(&self) -> usize {
        // SAFETY: a slot starts with a tag.
        let tag = unsafe { self.words.cast::<Tag>().as_ref() }.0.load(Ordering::Acquire);
        room(tag, self.place.segment.len() - self.place.offset).unwrap_or(0)
    }

    /// A handle for a part of the primitive, which keeps all of it. It is not to be serialised: it would arrive as the
    /// whole.
    pub(crate) fn project<P>(&self, part: impl FnOnce(&T) -> &P) -> Handle<P> {
        Handle { place: self.place.clone(), words: part(self.words()).into(), shared: PhantomData }
    }

    /// What all handles of this primitive in this process share.
    #[inline]
    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// Whether both stand for the same primitive.
    pub(crate) fn same(&self, other: &Handle<T>) -> bool {
        self.words == other.words
    }
}

impl Place {
    /// The segment that the slot lies in.
    pub(crate) fn segment(&self) -> &Segment {
        &self.segment
    }

    /// Where in the segment's payload the slot starts.
    pub(crate) fn offset(&self) -> usize {
        self.offset
    }
}

impl<T> Serialize for Handle<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Before the bytes leave: the receiver may be quicker than what follows here.
        self.place.mark_known();
        (&self.place.segment, self.place.offset as u64).serialize(serializer)
    }
}

impl<'de, T: Shared> Deserialize<'de> for Handle<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Handle<T>, D::Error> {
        let (segment, offset) = <(Segment, u64)>::deserialize(deserializer)?;
        Handle::attach(segment, offset).map_err(serde::de::Error::custom)
    }
}
