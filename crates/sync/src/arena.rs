//! Where primitives live: slots in segments that a process shares out.
//!
//! # Layout
//!
//! A segment of kind [`ARENA`] is a row of slots from the payload's start on, each a multiple of [`UNIT`] bytes, beginning
//! with a tag: the kind of what lies in it (0: nothing any more) and its length in units. A tag of 0 ends the row. The
//! process that made the segment is the only one that makes slots in it; others find them by offset, or by walking the
//! row.
//!
//! A slot of length [`WHOLE`] has all of the rest of its segment. So does what is too large for a slot among others: it
//! gets a segment of its own ([`Handle::alone`]), which goes with its last handle in the last process.
//!
//! # Who frees a slot
//!
//! Nobody can count handles in other processes without a ledger, so none is kept: a slot of which no other process can know
//! (its handle was never packed, and there was no fork since) is used again once its last handle here is dropped. Any other
//! one is *retired*: it stays as it is. A segment goes when all of its slots are free or retired here, and the other
//! processes have let go of it too. So what is kept is at most a segment for each primitive that lives.
//!
//! # Invariants
//!
//! 1. A tag is stored after the slot is in place, with Release.
//! 2. There is one [`Place`] per slot and process, whatever way its handles came: [`State::places`] finds it by address.
//! 3. A slot whose lock is held by a thread of this process is neither used again nor unmapped: without a handle it goes
//!    to [`State::kept`], which has a clone of the segment. A slot whose lock is just being let go has a handle, since
//!    that is a method of one; so no mapping ends, and no slot is used again, between the store that lets go and the
//!    moment that the kernel may forget the mutex (glibc bug 14485).
//! 4. The fork hooks of segments are registered before those of the state, under whose lock segments are mapped.
//!
//! # When a process dies
//!
//! Between making a slot and storing its tag: a slot that nobody knows, in a segment that goes with the process. What a
//! dead process left *in* a slot is that primitive's business: [`Shared::recover`], called for each slot when
//! the dead one's number is to be used again.
//!
//! # Forks
//!
//! The state's lock is held over forks. A child makes no slots in its parent's segments: it starts with an empty state but
//! for the places, which its inherited handles have. In the parent every slot counts as known to others from then on.
//! The child's thread holds none of its parent's locks: what places and kept slots tell of holders becomes zero.
#![expect(unsafe_code, reason = "slots are reached through pointers into a mapping")]

mod handle;

pub(crate) use handle::Handle;

#[cfg(feature = "lock-trace")]
use crate::trace::Waits;
use crate::{
    Error,
    barrier::BarrierWords,
    condition::ConditionWords,
    data::{DataWords, RawWords},
    error::Cause,
    event::EventWords,
    mutex::{LockWords, RLockWords},
    once::{OnceValueWords, OnceWords},
    rwlock::RwLockWords,
    semaphore::words::SemaphoreWords,
    who,
};
use core::{
    ptr::NonNull,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
};
use procession_shm::{Kind, Member, Segment, signature};
use procession_sys::{
    Deadline, OverFork,
    hooks::{ForkHooks, around_fork},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, MutexGuard, Once, Weak},
    time::Duration,
};

/// Slots are a multiple of this, and aligned to it: two cache lines, which processors fetch in pairs.
pub(crate) const UNIT: usize = 128;
/// The first segment's size; each further one is twice as large.
const FIRST: usize = 1 << 20;
/// The largest segment, of which only what is touched takes memory.
const LARGEST: usize = 64 << 20;

/// How long a process that becomes a member waits, at the longest, for whoever is in the way of that.
const RECOVERY: Duration = Duration::from_secs(1);

/// A slot's length that stands for all that is left of the segment.
const WHOLE: usize = 0xffff;

const ARENA: Kind = Kind::new(
    "sync",
    u32::from_le_bytes(*b"sync"),
    signature(&[UNIT, size_of::<LockWords>(), size_of::<SemaphoreWords>(), 2]),
);

/// The first words of each slot: its kind in the upper half and its length in units in the lower; and 1 if another process
/// may know of it.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Tag(AtomicU32, AtomicU32);

/// What can lie in a slot: starts with a [`Tag`], and is made of atomics and [`Robust`](crate::robust::Robust).
///
/// # Safety
///
/// The type is `repr(C)`, its first field is a `Tag`, it is aligned to at most [`UNIT`], all zeroes are a valid value, and
/// any bytes that another process writes leave accesses to it defined.
pub(crate) unsafe trait Shared: Sized + Sync + 'static {
    /// Tells one use of a slot from another; not 0.
    const KIND: u16;
    /// For messages.
    const NAME: &'static str;

    /// Makes zeroed memory the primitive; nobody else can see it yet.
    fn init(&self) -> Result<(), std::io::Error> {
        Ok(())
    }

    /// Puts right whatever this primitive records of a dead member, whose number goes to another process then; false if
    /// that is not possible until then. May run several times for one death, in several processes one after the other.
    fn recover(&self, _segment: &Segment, _dead: Member, _until: Deadline) -> bool {
        true
    }

    /// How many bytes from its start on may be other than zero.
    fn touched(&self) -> usize {
        usize::MAX
    }

    /// Whether a thread of this process holds a robust mutex in it.
    fn in_use(&self) -> bool {
        false
    }
}

/// What is done with a slot by its kind alone.
struct Uses {
    kind: u16,
    len: usize,
    recover: fn(NonNull<u8>, &Segment, Member, Deadline) -> bool,
    touched: fn(NonNull<u8>) -> usize,
    in_use: fn(NonNull<u8>) -> bool,
}

impl Uses {
    const fn of<T: Shared>() -> Uses {
        Uses {
            kind: T::KIND,
            len: size_of::<T>(),
            recover: |slot, segment, dead, until| {
                // SAFETY: called for slots of this kind and length only.
                unsafe { slot.cast::<T>().as_ref() }.recover(segment, dead, until)
            },
            touched: |slot| {
                // SAFETY: as above.
                unsafe { slot.cast::<T>().as_ref() }.touched()
            },
            in_use: |slot| {
                // SAFETY: as above.
                unsafe { slot.cast::<T>().as_ref() }.in_use()
            },
        }
    }
}

/// Every kind of slot there is.
const USES: &[Uses] = &[
    Uses::of::<LockWords>(),
    Uses::of::<RLockWords>(),
    Uses::of::<EventWords>(),
    Uses::of::<ConditionWords>(),
    Uses::of::<BarrierWords>(),
    Uses::of::<RwLockWords>(),
    Uses::of::<OnceWords>(),
    Uses::of::<OnceValueWords>(),
    Uses::of::<SemaphoreWords>(),
    Uses::of::<DataWords>(),
    Uses::of::<RawWords>(),
    #[cfg(feature = "lock-trace")]
    Uses::of::<Waits>(),
];

// No two kinds share a number.
const _: () = {
    let mut one = 0;
    while one < USES.len() {
        let mut other = one + 1;
        while other < USES.len() {
            assert!(USES[one].kind != USES[other].kind);
            other += 1;
        }
        one += 1;
    }
};

/// The bytes that a slot has by its tag, of `left` to the segment's end; `None` if there is no slot.
fn room(tag: u32, left: usize) -> Option<usize> {
    match (tag & 0xffff) as usize {
        0 => None,
        WHOLE => Some(left),
        units => Some(units * UNIT).filter(|&room| room <= left),
    }
}

/// Calls `visit` for each slot with something in it, until that gives false; whether it never did.
///
/// The row may be damaged: it is followed as far as it makes sense.
fn each_slot(payload: NonNull<u8>, len: usize, mut visit: impl FnMut(&Uses, NonNull<u8>) -> bool) -> bool {
    let mut offset = 0;
    while offset + UNIT <= len {
        // SAFETY: the offset lies within the payload, as just checked.
        let slot = unsafe { payload.add(offset) };
        // SAFETY: slots start with a tag, aligned; every process accesses it as an atomic.
        let tag = unsafe { slot.cast::<Tag>().as_ref() }.0.load(Ordering::Acquire);
        let kind = (tag >> 16) as u16;
        let Some(room) = room(tag, len - offset) else { break };
        let uses = USES.iter().find(|uses| uses.kind == kind && uses.len <= room);
        if uses.is_some_and(|uses| !visit(uses, slot)) {
            return false;
        }
        offset += room;
    }
    true
}

/// Whether a mapping must stay: a thread of this process holds a mutex in it.
fn in_use(payload: NonNull<u8>, len: usize) -> bool {
    !each_slot(payload, len, |uses, slot| !(uses.in_use)(slot))
}

/// Whether a slot starts at `offset`, which the row tells from its beginning on: anywhere else may lie anything that looks
/// like one.
fn starts_slot(segment: &Segment, offset: usize) -> bool {
    let (mut at, len) = (0, segment.len());
    while at < offset && at + UNIT <= len {
        // SAFETY: within the payload, as just checked.
        let slot = unsafe { segment.as_ptr().add(at) };
        // SAFETY: slots start with a tag, aligned; every process accesses it as an atomic.
        let tag = unsafe { slot.cast::<Tag>().as_ref() }.0.load(Ordering::Acquire);
        let Some(room) = room(tag, len - at) else { return false };
        at += room;
    }
    at == offset
}

/// This process's number in a segment of primitives.
///
/// A slot of which its maker alone knows holds nothing of anybody else, and may be used for something else at any moment:
/// such slots are not looked into.
///
/// Where no number was ever free, a dead member's is recovered. What is in the way of that (a process that is stopped in the
/// middle of something) is waited for until the deadline, and no longer than [`RECOVERY`], for all dead members together.
#[inline]
pub(crate) fn join(segment: &Segment, deadline: Option<Deadline>) -> Result<Member, Error> {
    if let Some(member) = segment.member() {
        return Ok(member);
    }
    join_anew(segment, deadline)
}

#[cold]
fn join_anew(segment: &Segment, deadline: Option<Deadline>) -> Result<Member, Error> {
    let mut until = None;
    let mut recover = |dead| {
        let until = *until.get_or_insert_with(|| {
            let most = Deadline::after(RECOVERY);
            deadline.map_or(most, |deadline| deadline.min(most))
        });
        each_slot(segment.as_ptr(), segment.len(), |uses, slot| {
            // SAFETY: slots start with a tag, aligned; every process accesses it as an atomic.
            let known = unsafe { slot.cast::<Tag>().as_ref() }.1.load(Ordering::Acquire) != 0;
            !known || (uses.recover)(slot, segment, dead, until)
        })
    };
    segment.join(&mut recover).map_err(|error| Error::new("join", "a primitive", Cause::Segment(error)))
}

/// A slot, as this process knows it.
pub(crate) struct Place {
    segment: Segment,
    offset: usize,
    /// How many units it has, if it was made here.
    made: Option<u16>,
    /// Whether another process may know of it: it was packed.
    known: AtomicBool,
    /// How many forks there had been when it was made.
    forks: u32,
    /// What the primitive keeps for all of its handles in this process. Zero at the start, and in a forked child.
    pub(crate) local: [AtomicU64; 2],
}

/// A segment of this process's own.
struct Arena {
    segment: Segment,
    /// Where the next slot would lie.
    end: usize,
    /// How many slots have handles here.
    live: usize,
    /// Whether slots were retired, whose room only the segment's end gives back.
    retired: bool,
    /// Slots to be used again, by length in units.
    free: BTreeMap<u16, Vec<usize>>,
}

/// A slot whose lock a thread of this process holds, without a handle.
struct Kept {
    segment: Segment,
    offset: usize,
    /// What its place knew.
    local: [u64; 2],
}

struct State {
    /// Every slot that has a handle in this process, by address.
    places: BTreeMap<usize, Weak<Place>>,
    /// What is held without a handle, by address.
    kept: BTreeMap<usize, Kept>,
    arenas: Vec<Arena>,
    /// The parent's, to be let go when that may be done: not in a fork hook.
    inherited: Vec<Arena>,
    forks: u32,
}

static STATE: OverFork<State> = OverFork::new(State {
    places: BTreeMap::new(),
    kept: BTreeMap::new(),
    arenas: Vec::new(),
    inherited: Vec::new(),
    forks: 0,
});

fn state() -> MutexGuard<'static, State> {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Invariant 4.
        procession_shm::watch_forks();
        who::watch_forks();
        around_fork(ForkHooks {
            before: Some(|| STATE.hold()),
            in_parent: Some(|| {
                // Under the lock that was taken before the fork: nobody sees the count of before it any more.
                STATE.reset(|state| {
                    state.forks = state.forks.wrapping_add(1);
                    state.each_place(Place::mark_known);
                });
            }),
            in_child: Some(|| {
                STATE.reset(|state| {
                    state.forks = state.forks.wrapping_add(1);
                    // They are the parent's to fill. Dropping them would unmap, under this lock; so would a list of two
                    // generations allocate.
                    core::mem::swap(&mut state.arenas, &mut state.inherited);
                    core::mem::forget(core::mem::take(&mut state.arenas));
                    for kept in state.kept.values_mut() {
                        kept.local = [0; 2];
                    }
                    state.each_place(|place| {
                        place.mark_known();
                        place.local.iter().for_each(|word| word.store(0, Ordering::Relaxed));
                    });
                });
            }),
        });
    });
    STATE.lock()
}

/// Marks a slot that nobody knows yet: free, and of this length, so that the row goes on behind it.
fn set_room(segment: &Segment, offset: usize, units: u16) {
    // SAFETY: the offset lies within the payload: the caller found room there.
    let slot = unsafe { segment.as_ptr().add(offset) };
    // SAFETY: slots start with a tag, aligned; every process accesses it as an atomic.
    unsafe { slot.cast::<Tag>().as_ref() }.0.store(u32::from(units), Ordering::Release);
}

/// How much of a segment is taken before the first slot that is given out.
const fn first_len() -> usize {
    #[cfg(feature = "lock-trace")]
    return size_of::<Waits>().next_multiple_of(UNIT);
    #[cfg(not(feature = "lock-trace"))]
    0
}

/// Makes what comes first in a new segment; where the next slot lies.
fn first(segment: &Segment) -> usize {
    let len = first_len();
    if len > 0 {
        set_room(segment, 0, (len / UNIT) as u16);
        // SAFETY: a slot starts with a tag, aligned; every process accesses it as an atomic.
        let tag = unsafe { segment.as_ptr().cast::<Tag>().as_ref() };
        #[cfg(feature = "lock-trace")]
        tag.1.store(1, Ordering::Relaxed);
        #[cfg(feature = "lock-trace")]
        tag.0.fetch_or(u32::from(Waits::KIND) << 16, Ordering::Release);
        #[cfg(not(feature = "lock-trace"))]
        let _ = tag;
    }
    len
}

/// Every segment in which a handle of this process lies.
#[cfg(feature = "lock-trace")]
pub(crate) fn segments() -> Vec<Segment> {
    // A place whose last other handle goes meanwhile ends here, which takes the state's lock.
    let places: Vec<Arc<Place>> = state().places.values().filter_map(Weak::upgrade).collect();
    let mut segments: Vec<Segment> = Vec::new();
    for place in &places {
        // By address, so those of one segment are neighbours.
        if !segments.last().is_some_and(|last| last.same(&place.segment)) {
            segments.push(place.segment.clone());
        }
    }
    segments
}

/// The primitive at `offset`, if there is one of that kind.
#[cfg(feature = "lock-trace")]
pub(crate) fn slot_of<T: Shared>(segment: &Segment, offset: usize) -> Option<&T> {
    let end = offset.checked_add(size_of::<T>().next_multiple_of(UNIT))?;
    if !offset.is_multiple_of(UNIT) || end > segment.len() || segment.check(ARENA).is_err() {
        return None;
    }
    // SAFETY: the offset lies within the payload, as just checked.
    let slot = unsafe { segment.as_ptr().add(offset) };
    // SAFETY: at any unit lies a tag, or something that may be read as one.
    let tag = unsafe { slot.cast::<Tag>().as_ref() }.0.load(Ordering::Acquire);
    if tag >> 16 != u32::from(T::KIND) || (tag & 0xffff) as usize * UNIT < size_of::<T>() {
        return None;
    }
    // SAFETY: a whole `T` lies there, as just checked, mapped as long as the segment; any bytes leave accesses defined.
    Some(unsafe { slot.cast::<T>().as_ref() })
}

/// Whether a thread of this process holds a mutex in a slot.
fn slot_in_use(segment: &Segment, offset: usize) -> bool {
    // SAFETY: the offset lies within the payload: checked when the slot's place was made.
    let slot = unsafe { segment.as_ptr().add(offset) };
    // SAFETY: slots start with a tag, aligned; every process accesses it as an atomic.
    let tag = unsafe { slot.cast::<Tag>().as_ref() }.0.load(Ordering::Acquire);
    let Some(room) = room(tag, segment.len() - offset) else { return false };
    let uses = USES.iter().find(|uses| uses.kind == (tag >> 16) as u16 && uses.len <= room);
    uses.is_some_and(|uses| (uses.in_use)(slot))
}

impl State {
    fn each_place(&self, visit: impl Fn(&Place)) {
        for place in self.places.values() {
            // SAFETY: a place is in the table until its drop takes it out, under the lock that the caller holds, so it is
            // whole.
            visit(unsafe { &*place.as_ptr() });
        }
    }

    /// Takes a place out of the table as its last handle goes; true if it stays, as kept.
    fn forget(&mut self, place: &Place) -> bool {
        let address = place.slot().addr().get();
        // Another thread may have attached it anew since the last handle went, and has taken over what was known.
        if !self.places.get(&address).is_some_and(|known| core::ptr::eq(known.as_ptr(), place)) {
            return false;
        }
        self.places.remove(&address);
        let held = slot_in_use(&place.segment, place.offset);
        if held {
            let local = [0, 1].map(|word| place.local[word].load(Ordering::Relaxed));
            let kept = Kept { segment: place.segment.clone(), offset: place.offset, local };
            self.kept.insert(address, kept);
        }
        held
    }

    /// What was known of a slot without a handle, for its new place, which has a clone of the segment.
    fn recall(&mut self, address: usize) -> [u64; 2] {
        if let Some(place) = self.places.get(&address) {
            // SAFETY: a place is in the table until its drop takes it out, under the lock that the caller holds, so it is
            // whole, although nobody can have a handle any more.
            let place = unsafe { &*place.as_ptr() };
            return [0, 1].map(|word| place.local[word].load(Ordering::Relaxed));
        }
        self.kept.remove(&address).map_or([0; 2], |kept| kept.local)
    }

    /// Takes out what need not stay any more: for the caller to drop when it has let go of the lock, since that may
    /// unmap.
    fn unneeded(&mut self) -> (Vec<Arena>, Vec<Kept>) {
        let over = |kept: &mut Kept| !slot_in_use(&kept.segment, kept.offset);
        let ended: Vec<usize> =
            self.kept.iter_mut().filter_map(|(&address, kept)| over(kept).then_some(address)).collect();
        let kept = ended.iter().filter_map(|address| self.kept.remove(address)).collect();
        (core::mem::take(&mut self.inherited), kept)
    }

    /// Room for a slot of `units`, zeroed but for its length: the arena's index and the offset.
    fn room(&mut self, units: u16) -> Result<(usize, usize), procession_shm::Error> {
        let len = usize::from(units) * UNIT;
        // With what comes first in a segment.
        let least = (first_len() + len).next_multiple_of(4096);
        for (index, arena) in self.arenas.iter_mut().enumerate().rev() {
            if let Some(offset) = arena.free.get_mut(&units).and_then(Vec::pop) {
                return Ok((index, offset));
            }
            if arena.segment.len() - arena.end >= len {
                let offset = arena.end;
                arena.end += len;
                set_room(&arena.segment, offset, units);
                return Ok((index, offset));
            }
        }
        let last = self.arenas.last().map_or(FIRST / 2, |arena| arena.segment.len());
        let mut size = (last * 2).clamp(FIRST, LARGEST).max(least.next_multiple_of(FIRST));
        let segment = loop {
            match Segment::anonymous(ARENA, size) {
                // A process that may have less gets less.
                Err(_) if size > least => size = (size / 2).max(least),
                other => break other?,
            }
        };
        segment.keep_while(in_use);
        let start = first(&segment);
        set_room(&segment, start, units);
        self.arenas.push(Arena { segment, end: start + len, live: 0, retired: false, free: BTreeMap::new() });
        Ok((self.arenas.len() - 1, start))
    }
}

impl Place {
    /// The segment, and the place in it.
    #[cfg(feature = "lock-trace")]
    pub(crate) fn at(&self) -> (&Segment, usize) {
        (&self.segment, self.offset)
    }

    /// Another process may know of the slot from now on: it is not used for anything else any more.
    fn mark_known(&self) {
        self.known.store(true, Ordering::Relaxed);
        // SAFETY: a slot starts with a tag, aligned; every process accesses it as an atomic.
        unsafe { self.slot().cast::<Tag>().as_ref() }.1.store(1, Ordering::Release);
    }

    fn slot(&self) -> NonNull<u8> {
        // SAFETY: the offset lies within the payload: checked when the place was made.
        unsafe { self.segment.as_ptr().add(self.offset) }
    }

    fn find(state: &State, segment: &Segment, offset: usize) -> Option<Arc<Place>> {
        state.places.get(&(segment.as_ptr().addr().get() + offset)).and_then(Weak::upgrade)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = state();
        let held = state.forget(self);
        let mut unused = None;
        let forks = state.forks;
        let index = state.arenas.iter().position(|arena| arena.segment.same(&self.segment));
        if let (Some(units), Some(index)) = (self.made, index) {
            let arena = &mut state.arenas[index];
            let slot = self.slot();
            arena.live -= 1;
            if !*self.known.get_mut() && self.forks == forks && !held {
                // SAFETY: a slot starts with a tag.
                let tag = unsafe { slot.cast::<Tag>().as_ref() };
                let kind = (tag.0.load(Ordering::Relaxed) >> 16) as u16;
                let room = usize::from(units) * UNIT;
                let uses = USES.iter().find(|uses| uses.kind == kind && uses.len <= room);
                let touched = uses.map_or(room, |uses| (uses.touched)(slot)).min(room);
                tag.0.store(u32::from(units), Ordering::Release);
                // SAFETY: behind the tag, still within the slot.
                let rest = unsafe { slot.add(size_of::<Tag>()) };
                // SAFETY: within the slot, without its tag. No other process knows of it, no handle here is left, and no
                // thread holds a mutex in it.
                unsafe { rest.write_bytes(0, touched.saturating_sub(size_of::<Tag>())) };
                arena.free.entry(units).or_default().push(self.offset);
            } else {
                arena.retired = true;
            }
            // One that is empty and whole stays for the next primitive.
            let end = arena.live == 0 && (arena.retired || index + 1 < state.arenas.len());
            unused = end.then(|| state.arenas.remove(index));
        }
        // Mappings end under no lock of ours.
        let unneeded = state.unneeded();
        drop(state);
        drop((unused, unneeded));
    }
}
