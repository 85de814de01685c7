//! The semaphore in its slot of a segment: which part of the books is whose, and who looks after the dead.

use super::{
    error::AcquireError,
    permits::{AboveBound, Attempt, Books, Permits, Slot, Waited},
};
use crate::{
    Error,
    alone::alone,
    arena::{self, Handle, Shared, Tag},
    robust::{Locked, NotLocked, Robust},
    table::between_sweeps,
};
use core::sync::atomic::{AtomicU64, Ordering};
use procession_shm::{Member, Segment};
use procession_sys::{Deadline, Spin, crash_point};
use serde::{Deserialize, Serialize};
use std::{cell::Cell, time::Duration};

/// How often one thread of a process looks whether another one has let go of their slot, before it sleeps.
const LOOKS: u32 = 200;

/// What lies in shared memory. Of the slots only the pages that are in use take memory.
#[repr(C, align(128))]
pub(crate) struct SemaphoreWords {
    tag: Tag,
    permits: Permits,
    /// When somebody looked last whether the owners of permits live: nanoseconds of the monotonic clock.
    swept: AtomicU64,
    /// Padding: what follows is seldom used.
    reserved: [u64; 3],
    /// Held by who recovers the slots of the dead.
    recovery: Robust,
    reserved_too: [u64; 3],
    slots: [Slot; Member::COUNT],
}

const _: () = assert!(core::mem::offset_of!(SemaphoreWords, slots) == 128);

#[expect(unsafe_code, reason = "declares what may lie in a slot")]
// SAFETY: `repr(C)` with a tag in front; atomics, padding that nobody reads, and a mutex, for which zeroes are an unlocked
// one of the plain kind.
unsafe impl Shared for SemaphoreWords {
    const KIND: u16 = 16;
    const NAME: &'static str = "a Semaphore";

    fn init(&self) -> Result<(), std::io::Error> {
        self.recovery.init()
    }

    fn touched(&self) -> usize {
        core::mem::offset_of!(SemaphoreWords, slots)
            + self.permits.top().min(Member::COUNT) * size_of::<Slot>()
    }

    fn recover(&self, _: &Segment, dead: Member, until: Deadline) -> bool {
        if dead.index() >= self.permits.top() {
            return true;
        }
        // Somebody may have found the death too, and be at work on a slot that looks closed already: the mutex tells when
        // that is over.
        match self.recovery.lock_inside(Some(until)) {
            Ok(locked) => {
                let open = self.slots[dead.index()].is_open();
                self.recover_locked(locked, open.then_some(dead).into_iter());
                true
            }
            Err(_) => false,
        }
    }
}

impl SemaphoreWords {
    fn books(&self) -> Books<'_> {
        Books { permits: &self.permits, slots: &self.slots }
    }

    /// With the recovery's mutex held, which is let go of here.
    fn recover_locked(&self, locked: Locked, dead: impl Iterator<Item = Member>) {
        if locked == Locked::OwnerDied {
            // What a recovery leaves unfinished the next one finds in the slots.
            self.recovery.made_consistent();
        }
        for member in dead {
            let held = self.books().held(member.index());
            let given = self.books().recover(member.index());
            crash_point!("semaphore.recovered");
            self.ring(given, held);
        }
        self.recovery.unlock();
    }

    fn ring(&self, given: Attempt, count: u32) {
        match given {
            Attempt::Done { sleepers } => self.permits.ring_if(sleepers, count),
            Attempt::Short => {}
        }
    }

    /// The members whose books are open and who are dead.
    fn dead<'a>(&'a self, segment: &'a Segment) -> impl Iterator<Item = Member> + 'a {
        let open = (0..).zip(&self.slots).take(self.permits.top()).filter(|(_, slot)| slot.is_open());
        open.filter_map(|(index, _)| Member::from_index(index)).filter(|&member| segment.is_dead(member))
    }

    /// Gives back what dead members held, if nobody has looked for a while.
    fn sweep_if_due(&self, segment: &Segment) -> Result<(), AcquireError> {
        let now = Deadline::now().as_nanos();
        let last = self.swept.load(Ordering::Relaxed);
        // A time to come is one of another time namespace, or damage.
        if now.checked_sub(last).is_some_and(|since| since < between_sweeps().as_nanos() as u64)
            || self.swept.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_err()
        {
            return Ok(());
        }
        match self.sweep(segment) {
            Err(NotLocked::TooMany) => {
                // A thread of our own has room for one more mutex. If there can be none, the next one who waits does it.
                std::thread::scope(|scope| {
                    let _ = std::thread::Builder::new().spawn_scoped(scope, || self.sweep(segment));
                });
                Ok(())
            }
            Err(NotLocked::Damaged(code)) => Err(AcquireError::Damaged(code)),
            // Who holds it is at this very work; if it dies, the mutex is free.
            Ok(()) | Err(NotLocked::TimedOut) => Ok(()),
        }
    }

    #[cold]
    fn sweep(&self, segment: &Segment) -> Result<(), NotLocked> {
        if self.dead(segment).next().is_none() {
            return Ok(());
        }
        let locked = self.recovery.try_lock()?;
        // Who is dead now, with the mutex held, stays so: a process that takes over a number recovers it first.
        self.recover_locked(locked, self.dead(segment));
        Ok(())
    }
}

/// This member's slot, and that no other thread of the process is at it.
struct OwnSlot<'a> {
    member: usize,
    busy: &'a AtomicU64,
}

impl Drop for OwnSlot<'_> {
    #[inline]
    fn drop(&mut self) {
        self.busy.store(0, Ordering::Release);
    }
}

thread_local! {
    /// What this thread has learned about spinning for permits.
    static SPIN: Cell<Option<Spin>> = const { Cell::new(None) };
}

/// What both kinds of semaphore are.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Inner {
    handle: Handle<SemaphoreWords>,
}

impl Inner {
    pub(super) fn new(permits: u32, bound: u32) -> Result<Inner, Error> {
        Ok(Inner { handle: Handle::new(0, |words: &SemaphoreWords| words.permits.set(permits, bound))? })
    }

    pub(super) fn same(&self, other: &Inner) -> bool {
        self.handle.same(&other.handle)
    }

    pub(super) fn bound(&self) -> u32 {
        self.handle.words().permits.bound()
    }

    pub(super) fn value(&self) -> u32 {
        let words = self.handle.words();
        if words.permits.top() > 0 {
            // Damage shows where somebody waits.
            let _ = words.sweep_if_due(self.segment());
        }
        words.permits.value()
    }

    /// How many permits living processes hold.
    pub(super) fn held(&self) -> u64 {
        self.holders().map(|(_, held)| u64::from(held)).sum()
    }

    /// The living processes that hold permits, by pid, as they see themselves; 0 if that is not known.
    pub(super) fn owners(&self) -> Vec<u32> {
        self.holders().map(|(member, _)| self.segment().pid_of(member).unwrap_or(0)).collect()
    }

    fn holders(&self) -> impl Iterator<Item = (Member, u32)> + '_ {
        let (words, segment) = (self.handle.words(), self.segment());
        let members = (0..words.permits.top().min(Member::COUNT)).filter_map(Member::from_index);
        let books = words.books();
        let held = members.map(move |member| (member, books.held(member.index())));
        held.filter(|&(member, held)| held > 0 && !segment.is_dead(member))
    }

    fn segment(&self) -> &Segment {
        self.handle.place().segment()
    }

    /// This member's slot; waits while another thread is at it, which is for some instructions.
    #[inline]
    fn own_slot(&self, member: Member) -> OwnSlot<'_> {
        let busy = &self.handle.place().local[0];
        // A process with one thread has nobody to take turns with.
        let free = alone() && busy.load(Ordering::Relaxed) == 0;
        if free {
            busy.store(1, Ordering::Relaxed);
        } else if busy.swap(1, Ordering::Acquire) != 0 {
            wait_for_slot(busy);
        }
        self.handle.words().permits.uses(member.index());
        OwnSlot { member: member.index(), busy }
    }

    /// Permits that this process owns.
    #[inline]
    pub(super) fn take(&self, count: u32, deadline: Option<Deadline>) -> Result<(), AcquireError> {
        let member = arena::join(self.segment(), deadline).map_err(AcquireError::NotAMember)?;
        let words = self.handle.words();
        self.until(count, deadline, || {
            let slot = self.own_slot(member);
            words.books().take(slot.member, count) != Attempt::Short
        })
    }

    /// Permits that nobody owns.
    #[inline]
    pub(super) fn acquire(&self, count: u32, deadline: Option<Deadline>) -> Result<(), AcquireError> {
        let permits = &self.handle.words().permits;
        self.until(count, deadline, || permits.acquire(count))
    }

    #[inline]
    fn until(
        &self,
        count: u32,
        deadline: Option<Deadline>,
        mut attempt: impl FnMut() -> bool,
    ) -> Result<(), AcquireError> {
        if attempt() { Ok(()) } else { self.wait_until(count, deadline, &mut attempt) }
    }

    #[cold]
    fn wait_until(
        &self,
        count: u32,
        deadline: Option<Deadline>,
        attempt: &mut dyn FnMut() -> bool,
    ) -> Result<(), AcquireError> {
        let words = self.handle.words();
        let bound = words.permits.bound();
        if count > bound {
            return Err(AcquireError::MoreThanBound { bound });
        }
        let mut spin = SPIN
            .try_with(Cell::take)
            .map_or_else(|_| Spin::none(), |spin| spin.unwrap_or_else(Spin::adaptive));
        let result = loop {
            if let Err(error) = words.sweep_if_due(self.segment()) {
                break Err(error);
            }
            if attempt() {
                break Ok(());
            }
            if deadline.is_some_and(Deadline::passed) {
                break Err(AcquireError::TimedOut);
            }
            // Ready or not: the next attempt tells.
            let (Waited::Ready | Waited::Slice) = words.permits.wait_slice(count, deadline, &mut spin);
        };
        let _ = SPIN.try_with(|kept| kept.set(Some(spin)));
        result
    }

    /// One attempt at permits, owned or not; an error if there is no use in waiting.
    #[cfg(feature = "async")]
    pub(super) fn attempt(&self, count: u32, owned: bool, waited: bool) -> Option<Result<(), AcquireError>> {
        let words = self.handle.words();
        let bound = words.permits.bound();
        if count > bound {
            return Some(Err(AcquireError::MoreThanBound { bound }));
        }
        if waited && let Err(error) = words.sweep_if_due(self.segment()) {
            return Some(Err(error));
        }
        let now = Some(Deadline::from_nanos(0));
        let result = if owned { self.take(count, now) } else { self.acquire(count, now) };
        (!matches!(result, Err(AcquireError::TimedOut))).then_some(result)
    }

    #[cfg(feature = "async")]
    pub(super) fn flag(&self, count: u32) -> Option<u32> {
        self.handle.words().permits.flag(count)
    }

    #[cfg(feature = "async")]
    pub(super) fn word(&self) -> std::sync::Arc<dyn procession_sys::waker::Word> {
        std::sync::Arc::new(crate::later::WordOf {
            handle: self.handle.clone(),
            find: |words: &SemaphoreWords| words.permits.bell(),
            one: true,
            fired: |_| (),
        })
    }

    /// Gives back permits that this process owns.
    #[inline]
    pub(super) fn give(&self, count: u32) {
        // Who has taken some is a member. In a forked child the caller has seen that they are its parent's.
        let Some(member) = self.segment().member() else { return };
        let words = self.handle.words();
        let slot = self.own_slot(member);
        let given = words.books().give(slot.member, count);
        drop(slot);
        words.ring(given, count);
    }

    /// Makes permits that this process owns permits that nobody owns.
    pub(super) fn disown(&self, count: u32) {
        let Some(member) = self.segment().member() else { return };
        let slot = self.own_slot(member);
        self.handle.words().books().disown(slot.member, count);
    }

    /// Gives permits that nobody owns.
    #[inline]
    pub(super) fn release(&self, count: u32) -> Result<(), AboveBound> {
        self.handle.words().permits.release(count)
    }
}

/// Waits for a thread of this process. It may have been preempted, by this very thread if that has a higher priority: so
/// this one sleeps in the end.
#[cold]
fn wait_for_slot(busy: &AtomicU64) {
    let mut looks = 0;
    while busy.swap(1, Ordering::Acquire) != 0 {
        while busy.load(Ordering::Relaxed) != 0 {
            looks += 1;
            match looks {
                0..LOOKS => core::hint::spin_loop(),
                _ if looks % 16 == 0 => std::thread::sleep(Duration::from_micros(50)),
                _ => std::thread::yield_now(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A slot may look closed while somebody is at its recovery still: the number is not to go to another process before
    /// that is over.
    #[test]
    fn a_number_is_not_used_again_while_somebody_recovers_its_slot() {
        let handle = Handle::new(0, |words: &SemaphoreWords| words.permits.set(1, 1)).unwrap();
        let words = handle.words();
        let dead = Member::from_index(3).unwrap();
        words.permits.uses(dead.index());
        assert!(!words.slots[dead.index()].is_open());
        let soon = Deadline::after(Duration::from_millis(50));
        assert!(words.recover(handle.place().segment(), dead, soon), "nobody is at it");
        std::thread::scope(|scope| {
            let (tell, told) = std::sync::mpsc::channel();
            let (end, ended) = std::sync::mpsc::channel::<()>();
            let recovers = scope.spawn(move || {
                assert!(matches!(words.recovery.lock_inside(None), Ok(Locked::Clean)));
                tell.send(()).unwrap();
                ended.recv().unwrap();
                words.recovery.unlock()
            });
            told.recv().unwrap();
            assert!(!words.recover(handle.place().segment(), dead, soon));
            end.send(()).unwrap();
            assert!(recovers.join().unwrap());
        });
        // Of a slot that was never used nothing is asked.
        assert!(words.recover(handle.place().segment(), Member::from_index(900).unwrap(), soon));
    }
}
