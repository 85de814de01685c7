//! [`Condition`]: wait, under a lock, until somebody says that something has changed.
//!
//! # Words
//!
//! A [`Table`] of those who wait, under a robust mutex of its own. An entry is *waiting*, *notified* or *given up*; its note
//! is the ticket that was next when it was notified.
//!
//! # Protocol
//!
//! * Wait, holding the condition's lock: enter the table; let the lock go, however often it was locked; sleep on the
//!   entry until it is notified, or the deadline comes, or the lock is poisoned; take the lock back, as often as it was
//!   locked; leave the entry: waiting → free by a compare-and-swap, which fails if a notification came meanwhile.
//! * Notify, holding the condition's lock: the mutex; of the waiting entries those that came first: the note, then
//!   waiting → notified by a compare-and-swap; let the mutex go. They are woken when the lock is let go (`put_off.rs`):
//!   sooner they would only find that it is held.
//! * A wait that is given up, as only a future can be: waiting → free; or notified → given up, and whoever holds the mutex
//!   next, which the one who gives up tries to be, treats it as a dead one's.
//! * After a slice without a notification a waiter looks for the dead, and whether the lock is poisoned.
//!
//! # Invariants
//!
//! 1. A notification is one compare-and-swap from *waiting*: it reaches exactly one waiter that had entered before, and
//!    had not left. With nobody waiting it is nothing.
//! 2. An entry stays until its owner holds the lock again: until then its death passes the notification on.
//! 3. Who notifies holds the lock, so one that dies between its change and its notification dies as the lock's holder.
//!    That is why it must.
//!
//! # When a process dies
//!
//! A waiter: its entry, if notified, is found by another waiter after a slice; the oldest of those that had entered when
//! the notification came gets it, and then the dead one's entry is freed. A death between these two passes it on once
//! more: in that case one waiter is woken for nothing, but none is forgotten. A notifier: some of those it meant
//! to notify are notified, and the lock is poisoned, which all waiters find within a slice. One that dies before it wakes
//! those whom it notified: they look after a slice.
//!
//! # When a process is stopped
//!
//! With the mutex: a wait with a deadline that cannot enter has waited in vain, without letting go of the lock; one that has
//! entered needs the mutex no more.

mod error;
mod guard;
#[cfg(feature = "async")]
mod later;
mod wait;

#[cfg(feature = "async")]
pub use error::AsyncWaitError;
pub use error::WaitError;
pub use guard::{ConditionGuard, Guard, Held};

use crate::{
    Error, Holder, Lock, LockError, NotHeld, Poison, RLock,
    arena::{Handle, Shared, Tag},
    guarded::OfCondition,
    mutex::{Depth, Guarded as _, NotTaken},
    put_off,
    robust::{NotLocked, Robust},
    table::{self, Entry, Table, Wakes},
};
use procession_shm::{Member, Segment};
use procession_sys::{Deadline, crash_point};
use serde::{Deserialize, Serialize};
use std::{fmt, time::Duration};

const WAITING: u32 = 1;
const NOTIFIED: u32 = 2;
/// Notified, but its owner has gone without having noticed.
const GIVEN_UP: u32 = 3;

/// What lies in shared memory.
#[repr(C)]
pub(crate) struct ConditionWords {
    tag: Tag,
    mutex: Robust,
    table: Table,
}

#[expect(unsafe_code, reason = "declares what may lie in a slot")]
// SAFETY: `repr(C)` with a tag in front; atomics and a mutex, for which zeroes are nobody waiting.
unsafe impl Shared for ConditionWords {
    const KIND: u16 = 21;
    const NAME: &'static str = "a Condition";

    fn init(&self) -> Result<(), std::io::Error> {
        self.mutex.init()
    }

    fn recover(&self, _: &Segment, dead: Member, until: Deadline) -> bool {
        let Ok(mut held) = self.hold(Some(until)) else { return false };
        self.bury(&mut held.wakes, |member| member == dead);
        true
    }
}

impl ConditionWords {
    fn hold(&self, deadline: Option<Deadline>) -> Result<table::Held<'_>, NotLocked> {
        // Each store leaves the table whole, so there is nothing to repair.
        table::hold(&self.mutex, &self.table, deadline, |_| ())
    }

    /// Wakes those.
    pub(crate) fn ring(&self, wakes: &Wakes) {
        wakes.ring(&self.table);
    }

    /// Notifies at most `most` waiters; tells how many, and who is to be woken.
    fn notify(&self, most: usize) -> Result<(usize, Wakes), NotLocked> {
        let mut held = self.hold(None)?;
        let until = self.table.next_ticket();
        let mut notified = 0;
        if self.table.count(&[WAITING]) <= most {
            for place in self.table.taken() {
                notified += usize::from(self.notify_one(&mut held.wakes, place, until));
            }
            return Ok((notified, held.keep_wakes()));
        }
        while notified < most {
            let Some(place) = self.table.oldest(|entry| entry.state() == WAITING) else { break };
            notified += usize::from(self.notify_one(&mut held.wakes, place, until));
        }
        Ok((notified, held.keep_wakes()))
    }

    /// The mutex is held. False if it waits no more.
    fn notify_one(&self, wakes: &mut Wakes, place: (usize, &Entry), until: u64) -> bool {
        if place.1.state() != WAITING {
            return false;
        }
        place.1.set_note(until);
        crash_point!("condition.notify.noted");
        let notified = wakes.change(place, WAITING, NOTIFIED);
        crash_point!("condition.notify.notified");
        notified
    }

    /// Frees the entries of the dead and those that were given up, and passes on what they were notified of. The mutex is
    /// held.
    fn bury(&self, wakes: &mut Wakes, is_dead: impl FnMut(Member) -> bool) {
        let mut notified = Vec::new();
        self.table.each_dead(is_dead, |entry, _| match entry.state() {
            NOTIFIED => notified.push(entry),
            GIVEN_UP => {}
            _ => entry.free(),
        });
        notified.extend(self.table.taken().map(|(_, entry)| entry).filter(|entry| entry.state() == GIVEN_UP));
        for entry in notified {
            let until = entry.note();
            while let Some(heir) = self.table.oldest(|heir| heir.state() == WAITING && heir.ticket() < until)
            {
                if self.notify_one(wakes, heir, until) {
                    break;
                }
            }
            crash_point!("condition.bury.passed");
            entry.free();
        }
    }
}

/// The lock of a condition.
#[derive(Clone, Serialize, Deserialize)]
enum Of {
    Lock(Lock),
    RLock(RLock),
}

impl Of {
    fn lock(&self) -> &dyn OfCondition {
        match self {
            Of::Lock(lock) => lock,
            Of::RLock(lock) => lock,
        }
    }

    /// By way of the types, since a call by way of the trait object would not know where it comes from.
    #[cfg_attr(feature = "lock-trace", track_caller)]
    fn take_back(&self, depth: Depth, deadline: Option<Deadline>) -> Result<Option<Poison>, NotTaken> {
        match self {
            Of::Lock(lock) => lock.take_back(depth, deadline),
            Of::RLock(lock) => lock.take_back(depth, deadline),
        }
    }
}

/// A place to wait, under a lock, until somebody says that what the lock guards has changed.
///
/// It belongs to a [`Lock`], its own or one that is given to it, or to an [`RLock`]. Whoever holds that lock waits: the lock is let go for
/// the time of the wait and held again after it, whatever the outcome. Whoever holds it notifies: exactly as many waiters
/// as asked for, those that came first; a notification for which nobody waits is not remembered.
///
/// A wait may end without a notification when processes die, so wait in a loop, or by
/// [`wait_while`](Condition::wait_while), which is one.
///
/// Clones stand for the same condition; they go to other processes inside parcels. At most 512 threads can wait at
/// a time.
///
/// # When a process dies
///
/// A waiter that is killed takes no notification with it: it goes to another one that waited then, within half a second.
/// If the lock's holder dies, every wait ends within half a second with [`WaitError::Poisoned`], whether there was a
/// notification or not; the lock is held then. This is why only the holder can notify.
///
/// A wait with a deadline ends at it also where another process was stopped (SIGSTOP) in the middle of a wait or a notification
/// of its own; but the lock is taken back, without a deadline. A wait without one, and a notification, may wait until that
/// process goes on.
///
/// # Examples
///
/// ```
/// use procession_sync::{Condition, Event, LockError};
///
/// let condition = Condition::new()?;
/// let ready = Event::new()?;
/// let thread = std::thread::spawn({
///     let (condition, ready) = (condition.clone(), ready.clone());
///     move || {
///         let guard = condition.lock().map_err(LockError::without_guard).unwrap();
///         ready.set();
///         condition.notify_one().unwrap();
///         drop(guard);
///     }
/// });
/// let mut guard = condition.lock().map_err(LockError::without_guard)?;
/// condition.wait_while(&mut guard, || !ready.is_set())?;
/// drop(guard);
/// thread.join().unwrap();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Serialize, Deserialize)]
pub struct Condition {
    handle: Handle<ConditionWords>,
    of: Of,
}

impl Condition {
    /// A condition with a [`Lock`] of its own.
    ///
    /// # Errors
    ///
    /// No memory for it: see [`Segment::anonymous`](procession_shm::Segment::anonymous).
    pub fn new() -> Result<Condition, Error> {
        Condition::with_lock(Lock::new()?)
    }

    /// A condition that belongs to this lock. Several can share one.
    ///
    /// # Errors
    ///
    /// As [`new`](Condition::new).
    pub fn with_lock(lock: Lock) -> Result<Condition, Error> {
        Condition::of(Of::Lock(lock))
    }

    /// A condition that belongs to this lock, whose holder may have locked it more than once: a wait lets it go fully, and
    /// takes it back as often.
    ///
    /// # Errors
    ///
    /// As [`new`](Condition::new).
    pub fn with_rlock(lock: RLock) -> Result<Condition, Error> {
        Condition::of(Of::RLock(lock))
    }

    fn of(of: Of) -> Result<Condition, Error> {
        Ok(Condition { handle: Handle::new(0, |_| ())?, of })
    }

    /// Locks its lock.
    ///
    /// # Errors
    ///
    /// As [`Lock::lock`].
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn lock(&self) -> Result<ConditionGuard<'_>, LockError<ConditionGuard<'_>>> {
        match &self.of {
            Of::Lock(lock) => guard::of_lock(lock.lock()),
            Of::RLock(lock) => guard::of_rlock(lock.lock()),
        }
    }

    /// Locks its lock if nobody holds it.
    ///
    /// # Errors
    ///
    /// As [`Lock::try_lock`].
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn try_lock(&self) -> Result<ConditionGuard<'_>, LockError<ConditionGuard<'_>>> {
        match &self.of {
            Of::Lock(lock) => guard::of_lock(lock.try_lock()),
            Of::RLock(lock) => guard::of_rlock(lock.try_lock()),
        }
    }

    /// As [`lock`](Condition::lock), but waits no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// As [`Lock::lock_timeout`].
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn lock_timeout(
        &self,
        timeout: Duration,
    ) -> Result<ConditionGuard<'_>, LockError<ConditionGuard<'_>>> {
        self.lock_deadline(Deadline::after(timeout))
    }

    /// As [`lock`](Condition::lock), but waits no longer than until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`Lock::lock_deadline`].
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn lock_deadline(
        &self,
        deadline: Deadline,
    ) -> Result<ConditionGuard<'_>, LockError<ConditionGuard<'_>>> {
        match &self.of {
            Of::Lock(lock) => guard::of_lock(lock.lock_deadline(deadline)),
            Of::RLock(lock) => guard::of_rlock(lock.lock_deadline(deadline)),
        }
    }

    /// Locks its lock without a guard; [`release`](Condition::release) lets it go, and [`Held`] stands for a guard.
    ///
    /// # Errors
    ///
    /// As [`Lock::acquire`]. With [`LockError::Poisoned`] it is locked all the same.
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn acquire(&self) -> Result<(), LockError> {
        match &self.of {
            Of::Lock(lock) => lock.acquire(),
            Of::RLock(lock) => lock.acquire(),
        }
    }

    /// As [`acquire`](Condition::acquire), but does not wait.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Condition::acquire), and [`LockError::TimedOut`].
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn try_acquire(&self) -> Result<(), LockError> {
        match &self.of {
            Of::Lock(lock) => lock.try_acquire(),
            Of::RLock(lock) => lock.try_acquire(),
        }
    }

    /// As [`acquire`](Condition::acquire), but waits no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Condition::acquire), and [`LockError::TimedOut`].
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn acquire_timeout(&self, timeout: Duration) -> Result<(), LockError> {
        self.acquire_deadline(Deadline::after(timeout))
    }

    /// As [`acquire`](Condition::acquire), but waits no longer than until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Condition::acquire), and [`LockError::TimedOut`].
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn acquire_deadline(&self, deadline: Deadline) -> Result<(), LockError> {
        match &self.of {
            Of::Lock(lock) => lock.acquire_deadline(deadline),
            Of::RLock(lock) => lock.acquire_deadline(deadline),
        }
    }

    /// Undoes one [`acquire`](Condition::acquire).
    ///
    /// # Errors
    ///
    /// The calling thread does not hold it.
    pub fn release(&self) -> Result<(), NotHeld> {
        match &self.of {
            Of::Lock(lock) => lock.release(),
            Of::RLock(lock) => lock.release(),
        }
    }

    /// Waits for a notification.
    ///
    /// The guard is of the condition's lock; it stays good, though the lock is let go during the wait. Where the lock was
    /// taken by [`acquire`](Condition::acquire), give `&mut Held`.
    ///
    /// # Errors
    ///
    /// * [`WaitError::Poisoned`]: a holder of the lock died or panicked, and nobody has cleared that;
    /// * [`WaitError::NotHeld`], [`WaitError::OtherLock`], [`WaitError::TooManyWaiters`], [`WaitError::Member`]: nothing
    ///   was waited for.
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn wait(&self, guard: &mut impl Guard) -> Result<(), WaitError> {
        self.wait_until(guard, None).map(|_| ())
    }

    /// Waits for a notification, no longer than `timeout`: false if there was none. Taking the lock back is not bounded.
    ///
    /// # Errors
    ///
    /// As [`wait`](Condition::wait).
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn wait_timeout(&self, guard: &mut impl Guard, timeout: Duration) -> Result<bool, WaitError> {
        self.wait_until(guard, Some(Deadline::after(timeout)))
    }

    /// Waits for a notification, no longer than until `deadline`: false if there was none.
    ///
    /// # Errors
    ///
    /// As [`wait`](Condition::wait).
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn wait_deadline(&self, guard: &mut impl Guard, deadline: Deadline) -> Result<bool, WaitError> {
        self.wait_until(guard, Some(deadline))
    }

    /// Waits as long as `condition` holds. It is asked under the lock: first, and after each notification.
    ///
    /// # Errors
    ///
    /// As [`wait`](Condition::wait).
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn wait_while(
        &self,
        guard: &mut impl Guard,
        mut condition: impl FnMut() -> bool,
    ) -> Result<(), WaitError> {
        self.check(guard)?;
        while condition() {
            self.wait(guard)?;
        }
        Ok(())
    }

    /// As [`wait_while`](Condition::wait_while), but no longer than `timeout`: false if `condition` holds still.
    ///
    /// # Errors
    ///
    /// As [`wait`](Condition::wait).
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn wait_timeout_while(
        &self,
        guard: &mut impl Guard,
        timeout: Duration,
        condition: impl FnMut() -> bool,
    ) -> Result<bool, WaitError> {
        self.wait_deadline_while(guard, Deadline::after(timeout), condition)
    }

    /// As [`wait_while`](Condition::wait_while), but no longer than until `deadline`: false if `condition` holds still.
    ///
    /// # Errors
    ///
    /// As [`wait`](Condition::wait).
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub fn wait_deadline_while(
        &self,
        guard: &mut impl Guard,
        deadline: Deadline,
        mut condition: impl FnMut() -> bool,
    ) -> Result<bool, WaitError> {
        self.check(guard)?;
        while condition() {
            if !self.wait_deadline(guard, deadline)? {
                return Ok(!condition());
            }
        }
        Ok(true)
    }

    /// Notifies one waiter, the one that came first; tells how many it were: 0 if nobody waits.
    ///
    /// # Errors
    ///
    /// The calling thread does not hold the lock; or, as an exception, [`WaitError::TooManyHeld`], [`WaitError::Damaged`].
    pub fn notify_one(&self) -> Result<usize, WaitError> {
        self.notify_n(1)
    }

    /// Notifies `n` waiters, those that came first; tells how many it were.
    ///
    /// # Errors
    ///
    /// As [`notify_one`](Condition::notify_one).
    pub fn notify_n(&self, n: usize) -> Result<usize, WaitError> {
        if !self.of.lock().is_mine() {
            return Err(WaitError::NotHeld);
        }
        let (notified, wakes) = self.handle.words().notify(n).map_err(NotTaken::NotLocked)?;
        if !wakes.is_empty() {
            put_off::put_off(self.of.lock().address(), self.handle.clone(), wakes);
        }
        Ok(notified)
    }

    /// Notifies all waiters; tells how many it were.
    ///
    /// # Errors
    ///
    /// As [`notify_one`](Condition::notify_one).
    pub fn notify_all(&self) -> Result<usize, WaitError> {
        self.notify_n(usize::MAX)
    }

    /// How many threads wait and are not notified yet. Those of killed processes count until others find out.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.handle.words().table.count(&[WAITING])
    }

    /// Who holds its lock: for people, since it may have changed by now.
    #[must_use]
    pub fn holder(&self) -> Option<Holder> {
        self.of.lock().holder()
    }

    /// For how long its lock is held.
    #[cfg(feature = "lock-trace")]
    #[must_use]
    pub fn held_since(&self) -> Option<Duration> {
        self.of.lock().held_since()
    }

    /// Where its lock was locked: the end of the source file's name, and the line.
    #[cfg(feature = "lock-trace")]
    #[must_use]
    pub fn held_at(&self) -> Option<String> {
        self.of.lock().held_at()
    }

    /// Why what its lock guards may be half changed.
    #[must_use]
    pub fn poison(&self) -> Option<Poison> {
        self.of.lock().poison()
    }

    /// Declares that what the lock guards is whole again. Best called by who holds it.
    pub fn clear_poison(&self) {
        match &self.of {
            Of::Lock(lock) => lock.clear_poison(),
            Of::RLock(lock) => lock.clear_poison(),
        }
    }

    /// Whether both stand for the same condition.
    #[must_use]
    pub fn same(&self, other: &Condition) -> bool {
        self.handle.same(&other.handle)
    }

    fn check(&self, guard: &impl Guard) -> Result<(), WaitError> {
        match guard.is_of(self) {
            false => Err(WaitError::OtherLock),
            true if !self.of.lock().is_mine() => Err(WaitError::NotHeld),
            true => Ok(()),
        }
    }
}

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (words, segment) = (self.handle.words(), self.handle.place().segment());
        f.debug_struct("Condition")
            .field("waiting", &words.table.pids(segment, &[WAITING]))
            .field("holder", &self.holder())
            .field("poison", &self.poison())
            .finish()
    }
}
