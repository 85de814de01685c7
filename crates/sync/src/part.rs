//! [`ArrayPart`]: a range of an array that one process has for itself.
//!
//! # Who has it
//!
//! The kernel keeps the ledger: locks of file descriptions on ranges of the array's segment ([`record`](crate::record)),
//! each over the numbers of the part's own bytes, shifted beyond every file's end. So ranges cannot overlap, whatever
//! lengths they were cut to, and no word says who has what, which a death could leave wrong.
//!
//! | locks | state |
//! |---|---|
//! | none | free |
//! | `Owned`, exclusive, by a description that one part has in one process | owned |
//! | `OnItsWay`, exclusive, by a description that travels in a parcel | sent, or packed at least |
//!
//! The word `out` counts the parts that are not free, so that locking an array costs a load where there are none.
//!
//! # Protocol
//!
//! All but packing happens under the array's lock. Nobody keeps that for long while there are parts: a guard of the whole
//! is given out only where there are none.
//!
//! * Take: lock the range `Owned` through a description of one's own; then nobody's `OnItsWay` may be on it, else let go
//!   again. `out` + 1.
//! * Pack: lock it `OnItsWay` through that description, let go of `Owned`. The description travels, and holds nothing
//!   else. (Not under the array's lock: it is the owner's to give.)
//! * Claim, by a receiver, or by the packer whose parcel came back: lock it `Owned` through a *new* description, then
//!   let go of `OnItsWay` through the one that came, which must have had exactly this range. A parcel can be copied, and
//!   all of its copies share that description: what the first one to claim lets go of, no other one has any more.
//! * Drop: `out` - 1, let go of `Owned`.
//! * Settle, before the whole is locked: if no lock of either kind is on any part of the array, all owners are gone, and
//!   `out` tells how many of them without a drop: they died, and the array is poisoned.
//!
//! # Invariants
//!
//! 1. A reference into a range is given out by its [`ArrayPart`] only, in the process that has `Owned`, and borrows the
//!    part exclusively. So nobody can pack it meanwhile; this is why a part has no `Deref`.
//! 2. From take to drop, `Owned` or `OnItsWay` is held at each moment.
//! 3. The description that travels never becomes a mapping's: the segment travels besides.
//!
//! # When a process dies
//!
//! The kernel lets go of what it had. In the middle of taking: no lock, or a lock that goes, and `out` not yet counted,
//! or counted for nobody, which is a death. Between pack and claim: the parcel's descriptor dies with the socket that it
//! lies in. In the middle of a claim: both locks are the dying process's, and go.
//! Under the array's lock: that is poisoned as always.
//!
//! # Forks
//!
//! A forked child inherits the descriptions, and would keep its parent's parts: a hook closes them in the child. They are
//! opened under the lock that is held over forks, so that it knows of all. A part
//! that it finds in its memory is its parent's, and says so.
#![expect(unsafe_code, reason = "references to the elements of a range that this process owns")]

use crate::{
    Array, Error, Holder, LockError, LockGuard, Poison,
    error::Cause,
    record::{self, Says},
};
use bytemuck::Pod;
use core::{
    fmt,
    ops::{Deref, DerefMut, Range},
    ptr::NonNull,
    slice,
    sync::atomic::{AtomicU32, Ordering},
};
use procession_parcel::handle::Unique;
use procession_sys::{
    OverFork, crash_point,
    hooks::{ForkHooks, around_fork},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _, ser::Error as _};
use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{Mutex, MutexGuard, Once, PoisonError},
};

/// The descriptions of the parts that this process owns, by number.
static OWNED: OverFork<BTreeMap<u64, OwnedFd>> = OverFork::new(BTreeMap::new());
/// How many forks lie between this process and the first one that used this module.
static FORKS: AtomicU32 = AtomicU32::new(0);

/// A lock `Owned`, as long as it is in [`OWNED`].
#[derive(Debug)]
struct Owned {
    number: u64,
    forks: u32,
}

impl Owned {
    /// The table, locked: no fork happens meanwhile.
    fn table() -> MutexGuard<'static, BTreeMap<u64, OwnedFd>> {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            around_fork(ForkHooks {
                before: Some(|| OWNED.hold()),
                in_parent: Some(|| OWNED.release()),
                in_child: Some(|| {
                    OWNED.reset(BTreeMap::clear);
                    FORKS.fetch_add(1, Ordering::Relaxed);
                }),
            });
        });
        OWNED.lock()
    }

    fn keep(table: &mut BTreeMap<u64, OwnedFd>, fd: OwnedFd) -> Owned {
        let number = table.last_key_value().map_or(0, |(number, _)| number + 1);
        table.insert(number, fd);
        Owned { number, forks: FORKS.load(Ordering::Relaxed) }
    }

    #[inline]
    fn is_here(&self) -> bool {
        self.forks == FORKS.load(Ordering::Relaxed)
    }

    /// Takes the description out, if it is this process's.
    fn take(&self) -> Option<OwnedFd> {
        let mut owned = OWNED.lock();
        if self.is_here() { owned.remove(&self.number) } else { None }
    }
}

/// Whether the parts of an array are all back.
pub(crate) enum Whole {
    Yes,
    /// Somebody has one.
    No,
    /// Nobody has one, and one was never given back.
    Died,
}

/// Finds that out. The caller holds the array's lock.
pub(crate) fn settle<T>(array: &Array<T>) -> Whole {
    let bytes = bytes(array, &(0..array.len()));
    let fd = array.body.segment().fd();
    // In this order: without the array's lock a part can only be packed meanwhile, and who does that still owns it at the
    // first look. Where the kernel gives no answer, there are parts.
    for says in [Says::Owned, Says::OnItsWay] {
        if !matches!(record::find(fd, says, &bytes), Ok(None)) {
            return Whole::No;
        }
    }
    match array.body.words().out.swap(0, Ordering::AcqRel) {
        0 => Whole::Yes,
        _ => Whole::Died,
    }
}

/// Where elements lie in the segment's payload.
fn bytes<T>(array: &Array<T>, range: &Range<usize>) -> Range<usize> {
    let start = array.body.offset();
    start + range.start * size_of::<T>()..start + range.end * size_of::<T>()
}

/// Takes ranges, all or none. The caller holds the array's lock.
pub(crate) fn take<T>(
    array: &Array<T>,
    ranges: impl Iterator<Item = Range<usize>>,
) -> Result<Vec<ArrayPart<T>>, PartError> {
    let mut table = Owned::table();
    let mut taken = Vec::new();
    for range in ranges {
        taken.push((own(array, &range, None)?, range));
    }
    crash_point!("part.taken");
    array.body.words().out.fetch_add(taken.len() as u64, Ordering::AcqRel);
    crash_point!("part.counted");
    let part = |(fd, range)| ArrayPart {
        array: array.clone(),
        range,
        state: Mutex::new(State::Here(Owned::keep(&mut table, fd))),
    };
    Ok(taken.into_iter().map(part).collect())
}

/// Locks a range `Owned`, through a description of its own, if nobody has it; one that is on its way, if `came` is what
/// keeps it so. The caller holds the array's lock.
fn own<T>(array: &Array<T>, range: &Range<usize>, came: Option<&OwnedFd>) -> Result<OwnedFd, PartError> {
    let bytes = bytes(array, range);
    let (segment, os) = (array.body.segment(), PartError::os);
    let fd = record::description(segment).map_err(os)?;
    if !record::lock(fd.as_fd(), Says::Owned, &bytes).map_err(os)? {
        return Err(PartError::Taken);
    }
    // Whether it is on its way is looked at after that: its owner may have packed it just now.
    let on_its_way = || record::find(segment.fd(), Says::OnItsWay, &bytes).map_err(os);
    match came {
        None if on_its_way()?.is_none() => Ok(fd),
        Some(came) if on_its_way()?.as_ref() == Some(&bytes) => {
            record::unlock(came.as_fd(), Says::OnItsWay, &bytes);
            crash_point!("part.claimed");
            // Another one's lock is still there.
            if on_its_way()?.is_none() { Ok(fd) } else { Err(PartError::Taken) }
        }
        _ => Err(PartError::Taken),
    }
}

#[derive(Debug)]
enum State {
    Here(Owned),
    /// Packed. If the parcel was not delivered, the descriptor is here again.
    Packed(Unique),
    Gone,
}

/// A range of an [`Array`] that this process has for itself, without a lock.
///
/// It is one of a kind: no clones; packing it into a parcel moves it to whoever unpacks that. If the parcel is dropped
/// undelivered, it is here again. Of a parcel's copies the first one to be unpacked brings the part.
///
/// [`get_mut`](ArrayPart::get_mut) leads to the elements. There is no `Deref`, since a part can be packed through a
/// shared reference, and its elements are somebody else's then.
///
/// It holds a descriptor. Thousands of parts of one array are slow to make: the kernel looks through all of them for
/// each.
///
/// # When a process dies
///
/// Its parts are free, and [`Array::part`] takes them. When the array is locked next, it is poisoned, since the elements
/// may be half written; so it is if a part was lost on its way to a process that died, or in a parcel that outlived the
/// part and was then dropped undelivered. A part that is dropped by a panic poisons the array too.
///
/// # Examples
///
/// See [`Array::chunks_mut`].
#[must_use = "dropping a part gives it back"]
pub struct ArrayPart<T> {
    array: Array<T>,
    range: Range<usize>,
    state: Mutex<State>,
}

impl<T> ArrayPart<T> {
    /// The array that it is a part of.
    #[must_use]
    pub fn array(&self) -> &Array<T> {
        &self.array
    }

    /// Which elements it has, by their numbers in the array.
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// How many elements it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Never: there are no empty parts.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// The array's lock, poisoned or not: what it guards here are the locks of parts.
    fn lock(array: &Array<T>) -> Result<LockGuard<'_>, LockError> {
        match array.lock.lock() {
            Ok(guard) => Ok(guard),
            Err(LockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
            Err(error) => Err(error.without_guard()),
        }
    }

    /// Claims a part that came with a descriptor, by the array's lock.
    fn claim(array: &Array<T>, range: &Range<usize>, came: &OwnedFd) -> Result<Owned, PartError> {
        let guard = Self::lock(array)?;
        let mut table = Owned::table();
        let fd = own(array, range, Some(came))?;
        // The last owner's writes are before this, as its own change of the same word is.
        array.body.words().out.fetch_add(0, Ordering::AcqRel);
        let owned = Owned::keep(&mut table, fd);
        drop(table);
        drop(guard);
        Ok(owned)
    }

    /// Puts it into a state in which it can be packed.
    fn pack<'a>(&self, state: &'a mut State) -> Result<&'a Unique, PartError> {
        if let State::Here(owned) = state {
            let fd = owned.take().ok_or(PartError::Taken)?;
            let bytes = bytes(&self.array, &self.range);
            match record::lock(fd.as_fd(), Says::OnItsWay, &bytes) {
                Ok(true) => {}
                failed => {
                    *owned = Owned::keep(&mut Owned::table(), fd);
                    return Err(failed.map_or_else(PartError::os, |_| PartError::Taken));
                }
            }
            crash_point!("part.packed");
            // For the next owner: see `claim`.
            self.array.body.words().out.fetch_add(0, Ordering::AcqRel);
            record::unlock(fd.as_fd(), Says::Owned, &bytes);
            crash_point!("part.let_go");
            *state = State::Packed(Unique::new(fd));
        }
        match state {
            State::Packed(unique) if unique.is_here() => Ok(unique),
            _ => Err(PartError::Taken),
        }
    }

    /// Whether it is here, for good: one that was packed and came back is claimed.
    #[cold]
    fn comes_back(&mut self) -> Result<(), PartError> {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let State::Packed(unique) = &*state else { return Err(PartError::Taken) };
        let came = unique.take().ok_or(PartError::Taken)?;
        match Self::claim(&self.array, &self.range, &came) {
            Ok(owned) => *state = State::Here(owned),
            Err(PartError::Taken) => {
                *state = State::Gone;
                return Err(PartError::Taken);
            }
            Err(error) => {
                // It can be claimed once more.
                *state = State::Packed(Unique::new(came));
                return Err(error);
            }
        }
        Ok(())
    }

    /// The elements.
    ///
    /// # Errors
    ///
    /// [`PartError::Taken`]: it was packed and has not come back, or this is a forked child, and it is its parent's.
    #[inline]
    pub fn get_mut(&mut self) -> Result<&mut [T], PartError> {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if !matches!(state, State::Here(owned) if owned.is_here()) {
            self.comes_back()?;
        }
        let body = &self.array.body;
        // SAFETY: the range lies within the array: checked when the part was made.
        let start = unsafe { body.start().add(self.range.start) };
        // SAFETY: the range is this process's (invariant 1), this is the only part that has it, and it is borrowed
        // exclusively; any bytes are elements; they stay mapped as long as the array that `self` holds.
        Ok(unsafe { slice::from_raw_parts_mut(start.as_ptr(), self.range.len()) })
    }
}

impl<T: Pod> ArrayPart<T> {
    /// Keeps the part in this process for good, so that its elements can be reached like any slice's.
    ///
    /// # Errors
    ///
    /// As [`get_mut`](ArrayPart::get_mut), with the part.
    pub fn stay(mut self) -> Result<ArrayChunk<T>, Box<(PartError, ArrayPart<T>)>> {
        if let Err(error) = self.get_mut() {
            return Err(Box::new((error, self)));
        }
        Ok(ArrayChunk { part: self, forks: FORKS.load(Ordering::Relaxed) })
    }
}

/// Elements of an [`Array`] that this process has for itself: a part that cannot be sent any more, and so a `&mut [T]`
/// into the shared memory. Made by [`ArrayPart::stay`].
///
/// When it is dropped, its elements are free; when its process dies, as with any [`ArrayPart`].
///
/// # Panics
///
/// Its elements cannot be reached in a forked copy of its process: they are the original's.
#[must_use = "dropping a chunk gives it back"]
pub struct ArrayChunk<T> {
    /// Here, in the process that made this: nothing packs it.
    part: ArrayPart<T>,
    /// How many forks lie before that process.
    forks: u32,
}

impl<T> ArrayChunk<T> {
    /// The array that it is a part of.
    #[must_use]
    pub fn array(&self) -> &Array<T> {
        self.part.array()
    }

    /// Which elements these are, by their numbers in the array.
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        self.part.range()
    }

    /// The number of the first of them in the array.
    #[must_use]
    pub fn start(&self) -> usize {
        self.part.range.start
    }

    /// Where its elements lie. Panics in a forked copy.
    #[inline]
    fn at(&self) -> NonNull<T> {
        assert!(
            self.forks == FORKS.load(Ordering::Relaxed),
            "elements {:?} of an Array belong to the process of which this one is a forked copy",
            self.part.range
        );
        // SAFETY: the range lies within the array: checked when the part was made.
        unsafe { self.part.array.body.start().add(self.part.range.start) }
    }
}

impl<T> Deref for ArrayChunk<T> {
    type Target = [T];
    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: the range is this process's (invariant 1) until `self` is dropped, which it outlives; nothing writes to
        // it but through `self`, which is borrowed; any bytes are elements.
        unsafe { slice::from_raw_parts(self.at().as_ptr(), self.part.range.len()) }
    }
}

impl<T> DerefMut for ArrayChunk<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and `self` is borrowed exclusively.
        unsafe { slice::from_raw_parts_mut(self.at().as_ptr(), self.part.range.len()) }
    }
}

impl<T> fmt::Debug for ArrayChunk<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArrayChunk").field("range", &self.part.range).finish_non_exhaustive()
    }
}

impl<T> Drop for ArrayPart<T> {
    fn drop(&mut self) {
        if matches!(self.state.get_mut().unwrap_or_else(PoisonError::into_inner), State::Packed(_))
            && self.comes_back().is_err()
        {
            return;
        }
        let State::Here(owned) = self.state.get_mut().unwrap_or_else(PoisonError::into_inner) else { return };
        if !owned.is_here() {
            return;
        }
        // A thread with more locks than it can have, or a damaged lock: a part that is never given back then.
        let guard = Self::lock(&self.array);
        if guard.is_ok() {
            if std::thread::panicking() {
                self.array.lock.poison_by(Poison::Panicked { pid: Holder::current().pid });
            }
            self.array.body.words().out.fetch_sub(1, Ordering::AcqRel);
        }
        crash_point!("part.given_back");
        if let Some(fd) = owned.take() {
            // Not by its end: a process that a raw `clone(2)` made may have a copy.
            record::unlock(fd.as_fd(), Says::Owned, &bytes(&self.array, &self.range));
        }
    }
}

/// Only inside a parcel, and once: packing moves it.
impl<T> Serialize for ArrayPart<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let unique = self.pack(&mut state).map_err(|error| {
            S::Error::custom(format_args!("failed to pack elements {:?} of an Array: {error}", self.range))
        })?;
        let Range { start, end } = self.range;
        (&self.array, start as u64, end as u64, unique).serialize(serializer)
    }
}

impl<'de, T: Pod> Deserialize<'de> for ArrayPart<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ArrayPart<T>, D::Error> {
        let (array, start, end, came) = <(Array<T>, u64, u64, Unique)>::deserialize(deserializer)?;
        let range = usize::try_from(start).unwrap_or(usize::MAX)..usize::try_from(end).unwrap_or(usize::MAX);
        if range.start >= range.end || range.end > array.len() {
            return Err(D::Error::custom(format_args!(
                "{range:?} are no elements of an Array of {}",
                array.len()
            )));
        }
        let owned =
            came.take().ok_or(PartError::Taken).and_then(|came| ArrayPart::claim(&array, &range, &came));
        let owned = owned.map_err(|error| {
            D::Error::custom(format_args!("failed to unpack elements {range:?} of an Array: {error}"))
        })?;
        Ok(ArrayPart { array, range, state: Mutex::new(State::Here(owned)) })
    }
}

impl<T> fmt::Debug for ArrayPart<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArrayPart")
            .field("range", &self.range)
            .field("array", &self.array)
            .finish_non_exhaustive()
    }
}

/// Why there is no part, or no way to its elements.
#[derive(Debug)]
#[non_exhaustive]
pub enum PartError {
    /// Somebody else has it, or a piece of it; or it was sent to somebody.
    Taken,
    /// The array could not be locked to see to it: [`LockError::PartsOut`] where there are parts already.
    Lock(LockError),
    /// There is no descriptor for it, or no `/proc`.
    System(Error),
}

impl PartError {
    fn os(error: io::Error) -> PartError {
        PartError::System(Error::new("take a part of", "an Array", Cause::Init(error)))
    }
}

impl fmt::Display for PartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PartError::Taken => f.write_str("somebody else has it, or it was sent away"),
            PartError::Lock(error) => error.fmt(f),
            PartError::System(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for PartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            PartError::Taken => None,
            PartError::Lock(error) => Some(error),
            PartError::System(error) => Some(error),
        }
    }
}

impl From<LockError> for PartError {
    fn from(error: LockError) -> PartError {
        PartError::Lock(error)
    }
}
