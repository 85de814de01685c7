//! An arena in this process: its words, and who this process is in it.
//!
//! # Invariants
//!
//! 1. One [`Arena`] per arena and process: threads share its cache and its membership.
//! 2. The shape is read once, when the arena is attached, and checked against the segment's length. Every number that
//!    comes from shared memory or a parcel is compared with it before it becomes an address.
//! 3. The cache is touched only under the shard's lock, which is held over forks.
//! 4. A forked child is another process: it finds the number of forks changed, forgets its parent's cache, and joins
//!    anew when it first needs to.
#![expect(unsafe_code, reason = "words in the mapping, and a cache behind a lock that is a static")]

use super::{
    cache::Cache,
    holders::Records,
    lend,
    rings::Rings,
    shape::{Control, KIND, PER_SPAN, Record, SIZES, SPAN, Shape, Span, blocks},
    sweep,
    transit::is_under_way,
    word::{Life, Token, Word},
};
use crate::{Error, Segment, error::Cause};
use core::{
    cell::UnsafeCell,
    fmt,
    ptr::NonNull,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};
use procession_sys::{
    OverFork,
    hooks::{ForkHooks, around_fork},
};
use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::{Arc, Once, Weak},
};

/// Where a block lies: a large one by its first span, a small one by its span and its place in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Block(u64);

impl Block {
    pub(crate) fn large(span: u32) -> Block {
        Block(u64::from(span) << 16)
    }

    pub(crate) fn small(span: u32, index: usize) -> Block {
        Block(u64::from(span) << 16 | (index as u64 + 1))
    }

    pub(crate) fn number(self) -> u64 {
        self.0
    }

    /// One that came from somewhere, and may mean nothing.
    pub(crate) fn from_number(number: u64) -> Block {
        Block(number)
    }

    /// May lie outside the arena if the number came from somewhere.
    pub(crate) fn span(self) -> u64 {
        self.0 >> 16
    }

    pub(crate) fn index(self) -> Option<usize> {
        ((self.0 & 0xffff) as usize).checked_sub(1)
    }
}

/// An arena in this process.
pub(crate) struct Arena {
    segment: Segment,
    shape: Shape,
    overcommit: bool,
    /// The word of what this process owns, 0 before it has joined.
    me: AtomicU64,
    /// The number of forks when `me` was made.
    forks: AtomicU32,
    /// Spans that were used for the first time since the last sweep, by this process.
    pub(super) grown: AtomicU32,
    /// How many sweeps this process began.
    pub(super) sweeps: AtomicU64,
    shard: &'static OverFork<()>,
    cache: UnsafeCell<Cache>,
}

// SAFETY: the cache is only touched under the shard's lock; everything else is atomic or never changes.
unsafe impl Send for Arena {}
// SAFETY: as for `Send`.
unsafe impl Sync for Arena {}

/// An object by device and inode.
type Object = (u64, u64);

struct Known {
    object: Object,
    arena: Weak<Arena>,
}

static ARENAS: OverFork<Vec<Known>> = OverFork::new(Vec::new());
static SHARDS: [OverFork<()>; 8] = [const { OverFork::new(()) }; 8];
/// How often this process is a forked child of one with arenas.
static FORKS: AtomicU32 = AtomicU32::new(0);

/// What changes when this process turns out to be a forked copy of another.
#[inline]
pub(crate) fn forks() -> u32 {
    FORKS.load(Ordering::Relaxed)
}

fn watch_forks() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        around_fork(ForkHooks {
            before: Some(|| {
                ARENAS.hold();
                SHARDS.iter().for_each(OverFork::hold);
                lend::HELD.hold();
            }),
            in_parent: Some(|| {
                lend::HELD.release();
                SHARDS.iter().for_each(OverFork::release);
                ARENAS.release();
            }),
            in_child: Some(|| {
                FORKS.fetch_add(1, Ordering::Relaxed);
                lend::HELD.reset(|held| held.clear());
                SHARDS.iter().for_each(|shard| shard.reset(|()| ()));
                ARENAS.reset(|_| ());
            }),
        });
    });
}

fn object_of(fd: BorrowedFd<'_>) -> Result<Object, Error> {
    let stat = rustix::fs::fstat(fd).map_err(|errno| Error::os("attach", name(fd), "fstat", errno))?;
    Ok((stat.st_dev, stat.st_ino))
}

fn name(fd: BorrowedFd<'_>) -> String {
    format!("`heap` (fd {})", fd.as_raw_fd())
}

/// A new description of the object behind `fd`, which only its holders' copies share.
pub(crate) fn reopen(operation: &'static str, fd: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
    crate::claim::reopen(operation, fd, || name(fd))
}

impl Arena {
    /// A new arena.
    pub(crate) fn new(shape: Shape, overcommit: bool) -> Result<Arc<Arena>, Error> {
        let segment = Segment::anonymous(KIND, shape.len)?;
        let control: NonNull<Control> = segment.as_ptr().cast();
        // SAFETY: the payload starts with the control words, whose fields are atomics; nobody else has the segment.
        let control = unsafe { control.as_ref() };
        control.spans.store(shape.spans.into(), Ordering::Relaxed);
        control.overcommit.store(overcommit.into(), Ordering::Relaxed);
        control.records.store(shape.records.into(), Ordering::Release);
        Arena::over(segment)
    }

    /// The arena behind `fd`: the one that this process has, else attached anew by a description of its own, since
    /// that of `fd` may hold a lock.
    pub(crate) fn behind(fd: BorrowedFd<'_>) -> Result<Arc<Arena>, Error> {
        if let Some(arena) = Arena::known(object_of(fd)?) {
            return Ok(arena);
        }
        Arena::over(Segment::attach(reopen("attach", fd)?, KIND)?)
    }

    fn known(object: Object) -> Option<Arc<Arena>> {
        let arenas = ARENAS.lock();
        arenas.iter().filter(|known| known.object == object).find_map(|known| known.arena.upgrade())
    }

    fn over(segment: Segment) -> Result<Arc<Arena>, Error> {
        let object = object_of(segment.fd())?;
        let fail = |what| Error::new("attach", name(segment.fd()), Cause::Foreign { what });
        let len = segment.len();
        if len < size_of::<Control>() {
            return Err(fail("it is too small for a heap"));
        }
        let control: NonNull<Control> = segment.as_ptr().cast();
        // SAFETY: the payload is long enough, as just checked, and aligned; all fields are atomics.
        let control = unsafe { control.as_ref() };
        let number = |word: &AtomicU64| usize::try_from(word.load(Ordering::Acquire)).unwrap_or(usize::MAX);
        let shape = Shape::new(number(&control.spans), number(&control.records))
            .filter(|shape| shape.len <= len && shape.spans > 0 && shape.records > 0)
            .ok_or_else(|| fail("its size does not fit what it says it holds"))?;
        let overcommit = control.overcommit.load(Ordering::Relaxed) != 0;
        watch_forks();
        let arena = Arc::new(Arena {
            segment,
            shape,
            overcommit,
            me: AtomicU64::new(0),
            forks: AtomicU32::new(0),
            grown: AtomicU32::new(0),
            sweeps: AtomicU64::new(0),
            shard: &SHARDS[(object.1 % SHARDS.len() as u64) as usize],
            cache: UnsafeCell::new(Cache::new()),
        });
        let mut arenas = ARENAS.lock();
        let known =
            arenas.iter().filter(|known| known.object == object).find_map(|known| known.arena.upgrade());
        match known {
            // Another thread was faster. Ours is dropped after the lock is let go.
            Some(known) => {
                drop(arenas);
                Ok(known)
            }
            None => {
                arenas.push(Known { object, arena: Arc::downgrade(&arena) });
                Ok(arena)
            }
        }
    }

    pub(crate) fn segment(&self) -> &Segment {
        &self.segment
    }

    pub(crate) fn shape(&self) -> &Shape {
        &self.shape
    }

    /// How it is called in errors.
    pub(crate) fn name(&self) -> String {
        name(self.segment.fd())
    }

    /// Takes memory for a part of the payload, unless the heap was made to take it when it is touched.
    pub(crate) fn reserve(&self, from: usize, len: usize) -> Result<(), Error> {
        if self.overcommit { Ok(()) } else { self.segment.reserve(from..from + len) }
    }

    /// Who this process is here.
    #[inline]
    pub(crate) fn me(&self) -> Result<Life, Error> {
        if self.forks.load(Ordering::Acquire) == forks()
            && let Word::Owned(life) = Word::read(self.me.load(Ordering::Acquire))
        {
            return Ok(life);
        }
        self.enter()
    }

    #[cold]
    fn enter(&self) -> Result<Life, Error> {
        let lock = self.shard.lock();
        if self.forks.load(Ordering::Acquire) == forks()
            && let Word::Owned(life) = Word::read(self.me.load(Ordering::Acquire))
        {
            return Ok(life);
        }
        // A number whose last owner is not recovered yet is as good as another: what that one left is in the name of
        // its life, which is over with the next line but one.
        let member = self.segment.join(&mut |_| true)?;
        self.control().member_top.fetch_max(member.index() as u64 + 1, Ordering::AcqRel);
        let lives = &self.control().lives[member.index()];
        let life = Life { member: member.index() as u16, life: lives.fetch_add(1, Ordering::AcqRel) + 1 };
        // SAFETY: the shard's lock is held.
        unsafe { *self.cache.get() = Cache::new() };
        self.me.store(life.owned(), Ordering::Release);
        self.forks.store(forks(), Ordering::Release);
        drop(lock);
        sweep::after_deaths(self, life);
        Ok(life)
    }

    /// Runs `body` with this process's cache. It must not do so again, nor drop a handle.
    #[inline]
    pub(crate) fn cached<R>(&self, body: impl FnOnce(&mut Cache, Life) -> R) -> Result<R, Error> {
        let me = self.me()?;
        let _lock = self.shard.lock();
        // SAFETY: the shard's lock is held, and no body comes here again.
        let cache = unsafe { &mut *self.cache.get() };
        Ok(body(cache, me))
    }

    /// The words at an offset of the payload, at which some of type `W` lie.
    fn at<W>(&self, offset: usize) -> &W {
        debug_assert!(offset + size_of::<W>() <= self.shape.data);
        // SAFETY: the callers' offsets lie within the tables of the shape, and these within the payload.
        let place = unsafe { self.segment.as_ptr().add(offset) };
        // SAFETY: the tables are aligned to pages and their elements to 8 bytes; `W` is one of the types in `shape`,
        // all of whose fields are atomics (or never touched), or an atomic; the mapping lives as long as `self`.
        unsafe { place.cast().as_ref() }
    }

    pub(crate) fn control(&self) -> &Control {
        self.at(0)
    }

    pub(crate) fn span(&self, span: u32) -> &Span {
        assert!(span < self.shape.spans, "a span of the arena");
        self.at(self.shape.span_table + span as usize * size_of::<Span>())
    }

    /// The word of a small block.
    pub(crate) fn word(&self, span: u32, index: usize) -> &AtomicU64 {
        assert!(span < self.shape.spans && index < PER_SPAN, "a block of the arena");
        self.at(self.shape.words + (span as usize * PER_SPAN + index) * 8)
    }

    /// Where the words of the small blocks of a span lie in the payload.
    pub(crate) fn words_of(&self, span: u32) -> usize {
        self.shape.words + span as usize * PER_SPAN * 8
    }

    pub(crate) fn record_of(&self, record: u32) -> &Record {
        assert!(record < self.shape.records, "a record of the arena");
        self.at(self.shape.record_table + record as usize * size_of::<Record>())
    }

    /// The word that says who owns a block that exists ([`extent`](Arena::extent)).
    pub(crate) fn owner(&self, block: Block) -> &AtomicU64 {
        let span = block.span() as u32;
        match block.index() {
            Some(index) => self.word(span, index),
            None => &self.span(span).word,
        }
    }

    /// The offset of a block in the payload and how many bytes it has; `None` for what is no block at present.
    ///
    /// For a block that somebody owns it stays as it is.
    pub(crate) fn extent(&self, block: Block) -> Option<(usize, usize)> {
        let number = u32::try_from(block.span()).ok().filter(|&span| span < self.shape.spans)?;
        let span = self.span(number);
        let start = self.shape.data + number as usize * SPAN;
        match (block.index(), Word::read(span.word.load(Ordering::Acquire))) {
            (Some(index), Word::Slab { class, .. }) if class < SIZES.len() && index < blocks(class) => {
                let size = usize::from(SIZES[class]);
                Some((start + index * size, size))
            }
            (None, Word::Owned(_) | Word::Transit(_) | Word::Message { .. } | Word::Held(_)) => {
                let len = span.len.load(Ordering::Acquire);
                (1..=self.shape.spans - number).contains(&len).then(|| (start, len as usize * SPAN))
            }
            _ => None,
        }
    }

    /// The address of an offset within the data.
    pub(crate) fn address(&self, offset: usize) -> NonNull<u8> {
        assert!(offset < self.shape.len, "an offset within the payload");
        // SAFETY: the offset lies within the payload, as just asserted.
        unsafe { self.segment.as_ptr().add(offset) }
    }
}

impl Records for Arena {
    fn record(&self, record: u32) -> &AtomicU64 {
        &self.record_of(record).word
    }

    fn slot(&self, record: u32, column: u32) -> &AtomicU64 {
        assert!(record < self.shape.records && column < super::holders::COLUMNS, "a slot of the arena");
        self.at(self.shape.slots + (column as usize * self.shape.records as usize + record as usize) * 8)
    }

    fn token(&self) -> Token {
        Token::new(self.control().tokens.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

impl Rings for Arena {
    fn entry(&self, ring: u32) -> &AtomicU64 {
        &self.control().rings[ring as usize]
    }

    fn top(&self) -> &AtomicU64 {
        &self.control().ring_top
    }

    fn tokens(&self) -> &AtomicU64 {
        &self.control().tokens
    }

    fn lives(&self, token: Token) -> bool {
        is_under_way(self.as_fd(), token)
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        ARENAS.lock().retain(|known| known.arena.as_ptr() != core::ptr::from_mut(self).cast_const());
        if *self.forks.get_mut() == forks()
            && let Word::Owned(life) = Word::read(*self.me.get_mut())
        {
            let cache = core::mem::replace(self.cache.get_mut(), Cache::new());
            cache.leave(self, life);
        }
    }
}

impl AsFd for Arena {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.segment.fd()
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arena")
            .field("fd", &self.segment.fd().as_raw_fd())
            .field("spans", &self.shape.spans)
            .finish_non_exhaustive()
    }
}
