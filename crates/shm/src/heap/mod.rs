//! The shared heap: memory that processes allocate from together, and hand to each other by reference.
//!
//! # Parts
//!
//! * `shape`: where things lie; `word`: what a word says; `arena`: an arena in this process;
//! * `spans`: large blocks; `cache`: small blocks; `records` and `holders`: read-only blocks with many holders;
//! * `transit`: proof that a parcel exists; `rings` and `ring`: the way through rings, `load` what is in one message; `lend` a block that others work on part by part; `unique` and `hold`: blocks as values that travel; `typed`: what users see;
//! * `sweep`: what the dead left.
//!
//! Each states its protocol at its top. All follow one rule: everything that is not free says in a word of its own whose
//! it is, one swap of that word commits a change, and what belongs to a dead process or a lost parcel is taken over by
//! one swap. There is no lock between processes and no list that a death could tear. Lists of free blocks are
//! hints in each process's own memory.
//!
//! # Why references are sound
//!
//! A `&mut T` into shared memory needs that nobody else accesses it, in any process. Other processes of our tree are
//! trusted not to be malicious: they reach the memory by this module only, or by `unsafe` code that keeps its promises.
//! Under that:
//!
//! * A block that this process owns is in nobody else's hands: only the swap of its word to this process's name gave it
//!   out, and nobody swaps that word while this process lives (its death is proven by the kernel, never guessed).
//! * A pack moves a block while `self` is only borrowed; it fails as long as a `&T` may be about (`unique`).
//! * A block that is lent is its owner's again only when the kernel says that nobody is in a part of it (`lend`).
//! * A read-only block is written by nobody: the swap to `Held` ends the only handle that could, and no way leads back.
//!   It is freed when its record has no holders, of which this process is one as long as a handle lives.
//! * Every byte pattern is a `T` ([`Plain`]), so what a block held before does no harm, nor does a parcel that says one type
//!   and is unpacked as another of that size.
//! * A forked copy of a process has its values, but owns none of their blocks: each access looks at the number of forks,
//!   and panics there.
//!
//! Where a parcel comes from someone hostile, every number in it is checked before use: it can name a block that is in
//! transit under a token that it guessed, and get that, or nothing.

mod arena;
mod bug;
mod cache;
mod hold;
mod holders;
mod lend;
mod load;
mod records;
mod ring;
mod rings;
mod shape;
mod spans;
mod sweep;
mod transit;
mod typed;
mod unique;
mod word;

/// The atomics of the protocol that the model checks: its own ones are loom's.
mod sync {
    pub(crate) use core::sync::atomic::{AtomicU64, Ordering, fence};
}

pub use lend::{Lending, LentPart, Loan};
pub use ring::HeapRing;
pub use sweep::HeapStats;
pub use typed::{Plain, SharedBox, SharedSlice, SharedStr, SharedVec};

use crate::{Error, error::Cause};
use arena::Arena;
use core::{fmt, marker::PhantomData};
use rustix::process::{Resource, getrlimit};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use shape::{SPAN, Shape};
use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    sync::Arc,
};

/// How much address space a heap takes at most, unless it was given a cap.
const LARGEST: usize = 64 << 30;
/// The least that a heap without a cap is content with.
const SMALLEST: usize = 64 << 20;

/// Memory that processes allocate from together.
///
/// What lies in it goes to other processes inside parcels by reference, in a time that does not depend on its size:
/// [`SharedBox`] and [`SharedVec`] with one owner that can write, [`SharedSlice`] and [`SharedStr`] read-only with many
/// holders. Clones stand for the same heap. A process that gets one of these handles attaches the heap by itself; it
/// needs a `Heap` only to allocate, which goes to it inside a parcel too.
///
/// A heap is a memory file that is as large as it can become, and takes memory when it is used. Free memory beyond 32 MiB
/// goes back to the system, block by block; [`trim`](Heap::trim) gives back all of it.
///
/// Allocating and freeing a small block costs some 100 ns, a large one a system call and the first touch of its pages.
///
/// # When a process dies
///
/// What it owned is freed, and what it held is let go, by the next sweep: when a process first uses the heap, when the
/// heap is about to grow or is full, or when [`sweep`](Heap::sweep) is called. The same holds for parcels that never
/// arrive. A process may be killed at any instruction.
///
/// # Examples
///
/// ```
/// use procession_shm::Heap;
///
/// let heap = Heap::new()?;
/// let number = heap.alloc(7_u64)?;
/// let mut row = heap.vec::<f32>(1000)?;
/// row[999] = 1.5;
/// let name = heap.str("row 7")?;
/// assert_eq!(heap.stats().blocks, 3);
/// drop((number, row, name));
/// assert_eq!(heap.stats().blocks, 0);
/// # Ok::<(), procession_shm::Error>(())
/// ```
#[derive(Clone)]
pub struct Heap {
    arena: Arc<Arena>,
}

/// What a heap is to be like. See [`Heap::builder`].
#[derive(Clone, Debug, Default)]
#[must_use = "a builder does nothing until `build`"]
pub struct HeapBuilder {
    cap: Option<usize>,
    overcommit: bool,
}

impl HeapBuilder {
    /// The most bytes that all blocks together can have; rounded up to 64 KiB. Without it: about 50 GiB, or
    /// less where limits of this process allow no more.
    pub fn cap(mut self, bytes: usize) -> HeapBuilder {
        self.cap = Some(bytes);
        self
    }

    /// Takes memory only when it is touched, so that a block may be much larger than what is used of it. A lack of
    /// memory is no error then, but a SIGBUS or the OOM killer.
    pub fn overcommit(mut self, overcommit: bool) -> HeapBuilder {
        self.overcommit = overcommit;
        self
    }

    /// Makes the heap.
    ///
    /// # Errors
    ///
    /// * no descriptors, no memory or address space, no `memfd_create`;
    /// * the limits `RLIMIT_FSIZE` or `RLIMIT_AS` of this process are too small for the cap, or for any heap.
    pub fn build(self) -> Result<Heap, Error> {
        if let Some(cap) = self.cap {
            let shape = Shape::of_spans(cap.div_ceil(SPAN).max(1)).ok_or_else(|| {
                let what = "it would be larger than the address space".to_owned();
                Error::new("create", format!("`heap` ({cap} bytes)"), Cause::Invalid { what })
            })?;
            return Ok(Heap { arena: Arena::new(shape, self.overcommit)? });
        }
        let limit = |resource, part: u64| {
            let limit = getrlimit(resource).current.map_or(usize::MAX, |most| (most / part) as usize);
            // Headers come on top of the payload.
            limit.saturating_sub(64 * 1024)
        };
        let mut size = LARGEST.min(limit(Resource::Fsize, 1)).min(limit(Resource::As, 4));
        loop {
            let shape = Shape::within(size).or_else(|| Shape::of_spans(1));
            let Some(shape) = shape else {
                return Err(Error::new("create", "`heap`".to_owned(), Cause::NoMemory { limit: None }));
            };
            match Arena::new(shape, self.overcommit) {
                Err(error) if error.is_no_memory() && size > SMALLEST => size /= 2,
                made => return Ok(Heap { arena: made? }),
            }
        }
    }
}

impl Heap {
    /// A heap of the usual size.
    ///
    /// # Errors
    ///
    /// As [`HeapBuilder::build`].
    pub fn new() -> Result<Heap, Error> {
        Heap::builder().build()
    }

    /// A heap of another size.
    pub fn builder() -> HeapBuilder {
        HeapBuilder::default()
    }

    /// Puts a value into the heap.
    ///
    /// # Errors
    ///
    /// * the heap is full, or the system has no memory for it;
    /// * this process cannot become a member of it (no descriptors, no `/proc`, 1000 processes);
    /// * the type asks for an alignment above 4096.
    pub fn alloc<T: Plain>(&self, value: T) -> Result<SharedBox<T>, Error> {
        let owned = typed::filled(&self.arena, core::slice::from_ref(&value))?;
        Ok(SharedBox { owned, value: PhantomData })
    }

    /// Elements that are all zero.
    ///
    /// # Errors
    ///
    /// As [`alloc`](Heap::alloc).
    pub fn vec<T: Plain>(&self, len: usize) -> Result<SharedVec<T>, Error> {
        let bytes = len.saturating_mul(size_of::<T>());
        let owned = typed::zeroed(&self.arena, bytes, align_of::<T>())?;
        Ok(SharedVec { owned, len, elements: PhantomData })
    }

    /// A copy of some elements.
    ///
    /// # Errors
    ///
    /// As [`alloc`](Heap::alloc).
    pub fn vec_from<T: Plain>(&self, elements: &[T]) -> Result<SharedVec<T>, Error> {
        let owned = typed::filled(&self.arena, elements)?;
        Ok(SharedVec { owned, len: elements.len(), elements: PhantomData })
    }

    /// A copy of a string, read-only.
    ///
    /// # Errors
    ///
    /// As [`alloc`](Heap::alloc), and where the heap has no place for another shared block.
    pub fn str(&self, text: &str) -> Result<SharedStr, Error> {
        SharedStr::new(&self.arena, text)
    }

    /// Frees what dead processes and lost parcels had; gives how many things that were.
    ///
    /// It can be called at any time, by many at once, and looks at every block: some milliseconds for a million.
    ///
    /// # Errors
    ///
    /// This process cannot become a member of the heap.
    pub fn sweep(&self) -> Result<usize, Error> {
        let me = self.arena.me()?;
        Ok(sweep::everything(&self.arena, me))
    }

    /// How many sweeps this process began, of all kinds: for tests of those who cause them.
    #[doc(hidden)]
    #[must_use]
    pub fn sweeps(&self) -> u64 {
        self.arena.sweeps.load(core::sync::atomic::Ordering::Relaxed)
    }

    /// Gives the memory of all that is free back to the system.
    ///
    /// # Errors
    ///
    /// This process cannot become a member of the heap.
    pub fn trim(&self) -> Result<(), Error> {
        let me = self.arena.me()?;
        self.arena.trim(me);
        Ok(())
    }

    /// Counts what is in use and what is free.
    #[must_use]
    pub fn stats(&self) -> HeapStats {
        HeapStats::of(&self.arena)
    }

    /// Whether both stand for the same heap.
    #[must_use]
    pub fn same(&self, other: &Heap) -> bool {
        Arc::ptr_eq(&self.arena, &other.arena)
    }
}

/// By this descriptor another process can attach the heap.
impl AsFd for Heap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        Arena::as_fd(&self.arena)
    }
}

/// Only inside a parcel.
impl Serialize for Heap {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        procession_parcel::handle::serialize(self.as_fd(), serializer)
    }
}

impl<'de> Deserialize<'de> for Heap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Heap, D::Error> {
        let fd = procession_parcel::handle::deserialize(deserializer)?;
        Ok(Heap { arena: Arena::behind(fd.as_fd()).map_err(D::Error::custom)? })
    }
}

impl fmt::Debug for Heap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cap = self.arena.shape().spans as usize * SPAN;
        f.debug_struct("Heap")
            .field("fd", &self.as_fd().as_raw_fd())
            .field("cap", &cap)
            .finish_non_exhaustive()
    }
}
