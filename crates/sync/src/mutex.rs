//! What [`Lock`](crate::Lock) and [`RLock`](crate::RLock) have in common: a robust mutex, who holds it, and poison.
//!
//! # Words
//!
//! In shared memory:
//!
//! | word | meaning | who changes it |
//! |---|---|---|
//! | `mutex` | the lock | whoever takes it; the kernel, at its holder's death |
//! | `holder` | who has it, for others to read; 0 while no foreign code runs under it | the holder |
//! | `poison` | why what it guards may be half changed | the holder; who clears it |
//!
//! In this process, for all of its handles ([`Place::local`](crate::arena::Place)):
//!
//! | word | meaning |
//! |---|---|
//! | `local[OWNER]` | the token (`who.rs`) of the thread of this process that holds it, 0 if none does |
//! | `local[DEPTH]` | how many times it has locked it, for an `RLock` |
//!
//! Whether the calling thread is the holder rests on `local[OWNER]` alone: in another pid namespace another thread may have
//! the same numbers, and a thread that comes after may get the number of one that has ended. A token is never used twice.
//! A thread that ended while it held the lock leaves its token, which is then nobody's.
//!
//! # When a process dies
//!
//! The kernel marks the mutex and wakes a waiter. Who gets it looks at `holder`:
//!
//! * 0: the dead one had the mutex but no user code ran under it: it had not stored its name yet, or had taken it back.
//!   What the lock guards is whole: no poison.
//! * else: `poison` is stored first, then the mutex is made consistent, then the new holder's name is stored. A death
//!   between these steps gives the next one the same answer, and the same name.
//!
//! `holder` is stored before user code runs and cleared after it. The fences keep the compiler to that order; the processor
//! keeps it for one that dies, since all of its earlier stores are done at its last instruction.

#[cfg(feature = "lock-trace")]
use crate::trace::{self, Trace};
use crate::{
    Error, Holder, LockError, Poison, PoisonError,
    arena::{Handle, Shared, Tag},
    put_off,
    robust::{Locked, NotLocked, Robust},
    who::{is_token, names, puts_off},
};
#[cfg(feature = "lock-trace")]
use core::panic::Location;
use core::sync::atomic::{AtomicU64, Ordering, compiler_fence};
use procession_sys::{Deadline, Spin, crash_point};
use std::cell::RefCell;

const OWNER: usize = 0;
const DEPTH: usize = 1;

/// What lies in shared memory.
#[repr(C)]
pub(crate) struct LockWords {
    tag: Tag,
    mutex: Robust,
    holder: AtomicU64,
    poison: AtomicU64,
    #[cfg(feature = "lock-trace")]
    trace: Trace,
}

#[expect(unsafe_code, reason = "declares what may lie in a slot")]
// SAFETY: `repr(C)` with a tag in front; atomics and a mutex, for which zeroes are an unlocked one of the plain kind.
unsafe impl Shared for LockWords {
    const KIND: u16 = 1;
    const NAME: &'static str = "a Lock";

    fn init(&self) -> Result<(), std::io::Error> {
        self.mutex.init()
    }

    fn in_use(&self) -> bool {
        self.mutex.is_locked()
            && Holder::from_word(self.holder.load(Ordering::Relaxed)).is_some_and(Holder::is_here)
    }
}

/// The words of an [`RLock`](crate::RLock).
#[repr(C)]
pub(crate) struct RLockWords {
    lock: LockWords,
    /// The holder's depth, for others to read.
    depth: AtomicU64,
}

#[expect(unsafe_code, reason = "declares what may lie in a slot")]
// SAFETY: as for `LockWords`, which come first.
unsafe impl Shared for RLockWords {
    const KIND: u16 = 0x11;
    const NAME: &'static str = "an RLock";

    fn init(&self) -> Result<(), std::io::Error> {
        self.lock.init()
    }

    fn in_use(&self) -> bool {
        self.lock.in_use()
    }
}

#[cfg(feature = "lock-trace")]
impl RLockWords {
    pub(crate) fn as_lock(&self) -> &LockWords {
        &self.lock
    }
}

/// Slots that begin as a lock does.
pub(crate) trait Words: Shared {
    /// Whether its holder may lock it again, so that there is a depth to keep.
    const NESTS: bool;

    fn lock(&self) -> &LockWords;

    /// Leaves the holder's depth for others to read.
    #[inline]
    fn note_depth(&self, _depth: u64) {}
}

impl Words for LockWords {
    const NESTS: bool = false;

    #[inline]
    fn lock(&self) -> &LockWords {
        self
    }
}

impl Words for RLockWords {
    const NESTS: bool = true;

    #[inline]
    fn lock(&self) -> &LockWords {
        &self.lock
    }

    #[inline]
    fn note_depth(&self, depth: u64) {
        self.depth.store(depth, Ordering::Relaxed);
    }
}

impl LockWords {
    /// After the mutex was taken: leaves this thread's name, and finds out about the last holder's end.
    #[inline]
    #[cfg_attr(feature = "lock-trace", track_caller)]
    fn taken(&self, locked: Locked, me: u64) -> Option<Poison> {
        if locked == Locked::OwnerDied {
            self.died();
        }
        #[cfg(feature = "lock-trace")]
        self.trace.taken(Location::caller());
        self.holder.store(me, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        Poison::from_word(self.poison.load(Ordering::Relaxed))
    }

    /// The holder that lives and has left its name, and what else it left.
    #[cfg(feature = "lock-trace")]
    pub(crate) fn traced_holder(&self) -> Option<(Holder, &Trace)> {
        let holder = Holder::from_word(self.holder.load(Ordering::Acquire))?;
        self.mutex.is_locked().then_some((holder, &self.trace))
    }

    #[cold]
    fn died(&self) {
        let dead = Holder::from_word(self.holder.load(Ordering::Relaxed));
        crash_point!("lock.died.found");
        if let Some(Holder { pid, .. }) = dead {
            self.poison.store(Poison::Died { pid }.to_word(), Ordering::Relaxed);
        }
        crash_point!("lock.died.poisoned");
        self.mutex.made_consistent();
        crash_point!("lock.died.consistent");
    }
}

thread_local! {
    static SPIN: RefCell<Option<Spin>> = const { RefCell::new(None) };
}

/// Looks at `ready` for as long as spinning has paid for this thread; whether it held. Seldom, since the holder keeps
/// what it works on only while nobody looks.
fn spin(deadline: Option<Deadline>, ready: impl FnMut() -> bool) -> bool {
    SPIN.with(|spin| {
        spin.try_borrow_mut()
            .is_ok_and(|mut spin| spin.get_or_insert_with(Spin::adaptive).until_seldom(deadline, ready))
    })
}

/// A handle for a lock of either type.
pub(crate) struct Mutual<W> {
    handle: Handle<W>,
}

impl<W> Clone for Mutual<W> {
    fn clone(&self) -> Self {
        Mutual { handle: self.handle.clone() }
    }
}

impl<W> serde::Serialize for Mutual<W> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.handle.serialize(serializer)
    }
}

impl<'de, W: Words> serde::Deserialize<'de> for Mutual<W> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Mutual { handle: Handle::deserialize(deserializer)? })
    }
}

/// How many times a lock was locked by the thread that let go of it for a while.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Depth(u64);

/// What a condition does to the lock that it belongs to.
pub(crate) trait Guarded {
    /// Whether the calling thread holds it.
    fn is_mine(&self) -> bool;

    /// Whether its holder died, and nobody has taken it since.
    fn is_orphaned(&self) -> bool;

    /// Tells it from other locks.
    fn address(&self) -> usize;

    /// Lets it go, however often it was locked. The calling thread holds it.
    fn let_go_fully(&self) -> Depth;

    /// Locks it as often as it was. With a poison it is held all the same.
    fn take_back(&self, depth: Depth, deadline: Option<Deadline>) -> Result<Option<Poison>, NotTaken>;
}

impl<W: Words> Guarded for Mutual<W> {
    #[inline]
    fn is_mine(&self) -> bool {
        Mutual::is_mine(self)
    }

    fn is_orphaned(&self) -> bool {
        self.words().mutex.is_orphaned()
    }

    fn address(&self) -> usize {
        Mutual::address(self)
    }

    fn let_go_fully(&self) -> Depth {
        let depth = Depth(self.depth());
        self.let_go();
        depth
    }

    #[cfg_attr(feature = "lock-trace", track_caller)]
    fn take_back(&self, depth: Depth, deadline: Option<Deadline>) -> Result<Option<Poison>, NotTaken> {
        let poison = self.take(deadline)?;
        if W::NESTS {
            self.set_depth(depth.0);
        }
        Ok(poison)
    }
}

impl<W: Words> Mutual<W> {
    pub(crate) fn new() -> Result<Self, Error> {
        Ok(Mutual { handle: Handle::new(0, |_| ())? })
    }

    /// The lock at the start of something larger.
    pub(crate) fn of(handle: Handle<W>) -> Self {
        Mutual { handle }
    }

    #[inline]
    fn words(&self) -> &LockWords {
        self.handle.words().lock()
    }

    pub(crate) fn same(&self, other: &Self) -> bool {
        self.handle.same(&other.handle)
    }

    /// Whether the calling thread holds it.
    #[inline]
    pub(crate) fn is_mine(&self) -> bool {
        is_token(self.handle.place().local[OWNER].load(Ordering::Relaxed))
    }

    /// How many times the calling thread holds it.
    #[inline]
    pub(crate) fn depth(&self) -> u64 {
        if self.is_mine() { self.handle.place().local[DEPTH].load(Ordering::Relaxed) } else { 0 }
    }

    /// The depth of whoever holds it, for people.
    pub(crate) fn set_depth(&self, depth: u64) {
        self.handle.place().local[DEPTH].store(depth, Ordering::Relaxed);
        self.handle.words().note_depth(depth);
    }

    pub(crate) fn handle(&self) -> &Handle<W> {
        &self.handle
    }

    /// Tells it from other locks.
    pub(crate) fn address(&self) -> usize {
        core::ptr::from_ref(self.words()).addr()
    }

    /// Locks it once; an error if the calling thread holds it.
    #[inline]
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub(crate) fn take(&self, deadline: Option<Deadline>) -> Result<Option<Poison>, NotTaken> {
        match self.words().mutex.try_lock() {
            Err(NotLocked::TimedOut) => self.wait(deadline),
            other => self.taken(other),
        }
    }

    /// It is held: waits for it.
    #[cold]
    #[cfg_attr(feature = "lock-trace", track_caller)]
    fn wait(&self, deadline: Option<Deadline>) -> Result<Option<Poison>, NotTaken> {
        if self.is_mine() {
            return Err(NotTaken::AlreadyHeld);
        }
        let mutex = &self.words().mutex;
        let mut locked = Err(NotLocked::TimedOut);
        let spun = spin(deadline, || {
            if mutex.looks_free() {
                locked = mutex.try_lock();
            }
            !matches!(locked, Err(NotLocked::TimedOut))
        });
        if spun {
            return self.taken(locked);
        }
        #[cfg(feature = "lock-trace")]
        if deadline.is_none() {
            return self.taken(self.traced(Location::caller())?);
        }
        self.taken(mutex.lock(deadline))
    }

    /// Waits without end, unless it is in a circle of waits.
    #[cfg(feature = "lock-trace")]
    fn traced(&self, location: &Location<'_>) -> Result<Result<Locked, NotLocked>, NotTaken> {
        let mutex = &self.words().mutex;
        let tried = |locked| if let Err(NotLocked::TimedOut) = locked { None } else { Some(locked) };
        tried(mutex.try_lock())
            .or_else(|| trace::wait(self.handle.place(), location, |slice| tried(mutex.lock(Some(slice)))))
            .ok_or(NotTaken::Deadlock)
    }

    /// Since when and from where it is held.
    #[cfg(feature = "lock-trace")]
    pub(crate) fn held(&self) -> Option<(std::time::Duration, String)> {
        self.words().traced_holder().map(|(_, trace)| (trace.since(), trace.site()))
    }

    #[inline]
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub(crate) fn try_take(&self) -> Result<Option<Poison>, NotTaken> {
        self.taken(self.words().mutex.try_lock())
    }

    #[inline]
    #[cfg_attr(feature = "lock-trace", track_caller)]
    fn taken(&self, locked: Result<Locked, NotLocked>) -> Result<Option<Poison>, NotTaken> {
        let locked = locked.map_err(NotTaken::NotLocked)?;
        crash_point!("lock.taken");
        let (me, token) = names();
        let poison = self.words().taken(locked, me);
        let local = &self.handle.place().local;
        local[OWNER].store(token, Ordering::Relaxed);
        if W::NESTS {
            self.set_depth(1);
        }
        Ok(poison)
    }

    /// One attempt; an error if there is no use in waiting. Where this thread holds it, another of its tasks does, who
    /// lets it go in time.
    #[cfg(feature = "async")]
    pub(crate) fn attempt(&self, waited: bool) -> Option<Result<Option<Poison>, NotTaken>> {
        let mutex = &self.words().mutex;
        let result = self.try_take();
        match result {
            Err(NotTaken::NotLocked(NotLocked::TimedOut)) => return None,
            Ok(_) if waited => mutex.others_may_sleep(),
            _ => {}
        }
        Some(result)
    }

    /// A future that locks it.
    #[cfg(feature = "async")]
    pub(crate) fn later(&self) -> crate::later::Later<LockLater<'_, W>> {
        crate::later::Later::new(LockLater(self))
    }

    /// Locks it once more; the calling thread holds it.
    #[inline]
    pub(crate) fn deepen(&self) -> Option<Poison> {
        self.set_depth(self.depth() + 1);
        self.poison()
    }

    /// Lets it go, however often it was locked; false if the calling thread does not hold it, which changes nothing. (A
    /// forked child may drop its copy of a guard.)
    #[inline]
    pub(crate) fn let_go(&self) -> bool {
        if !self.is_mine() {
            return false;
        }
        let words = self.words();
        self.handle.place().local[OWNER].store(0, Ordering::Relaxed);
        if W::NESTS {
            self.set_depth(0);
        }
        // What was done under the lock comes before.
        words.holder.store(0, Ordering::Release);
        crash_point!("lock.nameless");
        let mine = words.mutex.unlock();
        if puts_off() {
            put_off::let_go(self.address());
        }
        mine
    }

    /// The holder's thread panicked.
    #[cold]
    pub(crate) fn panicked(&self) {
        if self.is_mine() {
            self.poison_by(Poison::Panicked { pid: Holder::current().pid });
        }
    }

    /// Poisons it; the calling thread holds it.
    pub(crate) fn poison_by(&self, cause: Poison) {
        self.words().poison.store(cause.to_word(), Ordering::Relaxed);
    }

    pub(crate) fn is_locked(&self) -> bool {
        self.words().mutex.is_locked()
    }

    #[inline]
    pub(crate) fn holder(&self) -> Option<Holder> {
        let words = self.words();
        let holder = Holder::from_word(words.holder.load(Ordering::Relaxed));
        holder.filter(|_| words.mutex.is_locked())
    }

    #[inline]
    pub(crate) fn poison(&self) -> Option<Poison> {
        Poison::from_word(self.words().poison.load(Ordering::Relaxed))
    }

    pub(crate) fn clear_poison(&self) {
        self.words().poison.store(0, Ordering::Relaxed);
    }
}

/// A lock to be had sooner or later.
#[cfg(feature = "async")]
pub(crate) struct LockLater<'a, W>(&'a Mutual<W>);

#[cfg(feature = "async")]
impl<W: Words> crate::later::Try for LockLater<'_, W> {
    type Output = Result<Option<Poison>, NotTaken>;

    fn attempt(&self, waited: bool) -> Option<Self::Output> {
        self.0.attempt(waited)
    }

    fn flag(&self) -> Option<u32> {
        self.0.words().mutex.flag()
    }

    fn word(&self) -> std::sync::Arc<dyn procession_sys::waker::Word> {
        std::sync::Arc::new(crate::later::WordOf {
            handle: self.0.handle.clone(),
            find: |words: &W| words.lock().mutex.futex(),
            one: false,
            fired: |words: &W| words.lock().mutex.relay(),
        })
    }
}

impl Mutual<RLockWords> {
    /// The holder's depth, whoever it is; for people.
    pub(crate) fn noted_depth(&self) -> u64 {
        self.handle().words().depth.load(Ordering::Relaxed)
    }
}

/// Why a lock was not taken.
#[derive(Clone, Copy, Debug)]
pub(crate) enum NotTaken {
    AlreadyHeld,
    NotLocked(NotLocked),
    /// What was found waits in [`trace::found`].
    #[cfg(feature = "lock-trace")]
    Deadlock,
}

impl<G> From<NotTaken> for LockError<G> {
    fn from(error: NotTaken) -> LockError<G> {
        match error {
            NotTaken::AlreadyHeld => LockError::AlreadyHeld,
            #[cfg(feature = "lock-trace")]
            NotTaken::Deadlock => LockError::Deadlock(trace::found()),
            NotTaken::NotLocked(NotLocked::TimedOut) => LockError::TimedOut,
            NotTaken::NotLocked(NotLocked::TooMany) => LockError::TooManyHeld,
            NotTaken::NotLocked(NotLocked::Damaged(code)) => LockError::Damaged(code),
        }
    }
}

/// What the public forms give: the guard, and the poison around it.
#[inline]
pub(crate) fn with_guard<G>(
    taken: Result<Option<Poison>, NotTaken>,
    guard: impl FnOnce() -> G,
) -> Result<G, LockError<G>> {
    match taken {
        Ok(None) => Ok(guard()),
        Ok(Some(cause)) => Err(LockError::Poisoned(PoisonError::new(guard(), cause))),
        Err(error) => Err(error.into()),
    }
}
