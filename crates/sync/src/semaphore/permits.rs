//! The algorithm of the semaphore, without processes and mappings: see the page above for its protocol.
#![cfg_attr(not(loom), allow(unreachable_pub, reason = "public in the model only"))]

use super::bug::{Bug, planted};
use procession_sys::{
    Deadline, Spin, crash_point, futex,
    sync::{AtomicU32, AtomicU64, Ordering},
};

/// Bits of an operation's number in the tag. In the model so few that they wrap.
const NUMBER_BITS: u32 = if cfg!(loom) { 2 } else { 21 };
const NUMBER: u64 = (1 << NUMBER_BITS) - 1;
const SLOT_SHIFT: u32 = 21;
/// Slot and number.
const TAG: u64 = (1 << 31) - 1;
/// Somebody sleeps, or is about to.
const SLEEPERS: u64 = 1 << 31;
const VALUE_SHIFT: u32 = 32;

const fn value_of(word: u64) -> u32 {
    (word >> VALUE_SHIFT) as u32
}

const fn with_value(word: u64, value: u32) -> u64 {
    word & (SLEEPERS | TAG) | (value as u64) << VALUE_SHIFT
}

/// The tag of operation `number` of slot `slot`.
const fn tag(slot: usize, number: u64) -> u64 {
    ((slot as u64) << SLOT_SHIFT | number & NUMBER) & TAG
}

/// The words that all processes share. All zero is a semaphore without permits whose bound is 0.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Permits {
    word: AtomicU64,
    bell: AtomicU32,
    /// Some sleeper wants, or once wanted, more than one permit.
    many: AtomicU32,
    bound: AtomicU32,
    /// One more than the largest number of a member that ever used its slot.
    top: AtomicU32,
}

/// What one member writes down of itself.
#[repr(C, align(32))]
#[derive(Debug, Default)]
pub struct Slot {
    /// The number of the operation that is under way, or was the last one.
    number: AtomicU64,
    /// Operations up to this number are complete.
    done: AtomicU64,
    /// How many permits the member holds after an operation, by the last bit of its number.
    held: [AtomicU32; 2],
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Permits>() == 24 && size_of::<Slot>() == 32);

/// How an attempt ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Attempt {
    /// It is done; somebody sleeps, perhaps, if the flag was set.
    Done {
        /// Whether the flag was set.
        sleepers: bool,
    },
    /// There are too few permits.
    Short,
    /// The process died at a step: in the model only.
    #[cfg(loom)]
    Died,
}

/// Why a slice of sleep ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Waited {
    /// There were enough permits.
    Ready,
    /// The slice ended, or a wake was not enough: look after the owners, and wait on.
    Slice,
}

/// A release that would lift the value above this bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AboveBound(pub u32);

impl Permits {
    /// Makes zeroed words a semaphore; nobody else can see it yet.
    pub fn set(&self, permits: u32, bound: u32) {
        self.bound.store(bound, Ordering::Relaxed);
        self.word.store(with_value(0, permits), Ordering::Release);
    }

    /// How many permits are free.
    #[inline]
    pub fn value(&self) -> u32 {
        value_of(self.word.load(Ordering::Relaxed))
    }

    /// The most that can be free.
    #[inline]
    pub fn bound(&self) -> u32 {
        self.bound.load(Ordering::Relaxed)
    }

    /// How many slots are, or were, in use.
    #[inline]
    pub fn top(&self) -> usize {
        self.top.load(Ordering::Acquire) as usize
    }

    /// Announces that the slot will be used: before its first operation.
    #[inline]
    pub fn uses(&self, slot: usize) {
        if self.top.load(Ordering::Relaxed) as usize <= slot {
            self.top.fetch_max(slot as u32 + 1, Ordering::SeqCst);
        }
    }

    /// Takes permits that nobody will own; false if there are too few.
    ///
    /// The tag stays, and with it what it tells of another's operation: nothing is to be recorded, and nothing to be
    /// recovered.
    #[inline]
    pub fn acquire(&self, count: u32) -> bool {
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            let Some(left) = value_of(word).checked_sub(count) else { return false };
            let new = with_value(word, left);
            match self.word.compare_exchange_weak(word, new, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => word = now,
            }
        }
    }

    /// Gives permits that nobody owns, and wakes who waits for them.
    #[inline]
    pub fn release(&self, count: u32) -> Result<(), AboveBound> {
        let bound = self.bound();
        let mut word = self.word.load(Ordering::Relaxed);
        loop {
            let sum = value_of(word).checked_add(count).filter(|&sum| sum <= bound);
            let new = with_value(word, sum.ok_or(AboveBound(bound))?);
            match self.word.compare_exchange_weak(word, new, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => word = now,
            }
        }
        crash_point!("semaphore.released");
        self.ring_if(word & SLEEPERS != 0, count);
        Ok(())
    }

    /// Wakes who waits, if the flag was set in the word that a commit of `count` permits replaced.
    #[inline]
    pub fn ring_if(&self, sleepers: bool, count: u32) {
        if sleepers && count > 0 {
            self.ring(count);
        }
    }

    #[cold]
    fn ring(&self, count: u32) {
        let all = self.many.load(Ordering::Relaxed) != 0 && !planted(Bug::AsManyAsGiven);
        let count = if all { u32::MAX } else { count };
        if futex::wake(&self.bell, count) == count {
            return;
        }
        crash_point!("semaphore.ring.woken");
        // Nobody else sleeps now. But somebody may have seen the flag, and too few permits, and be on the way.
        self.word.fetch_and(!SLEEPERS, Ordering::AcqRel);
        crash_point!("semaphore.ring.cleared");
        if planted(Bug::ClearedSilently) {
            return;
        }
        if !planted(Bug::BellNotCounted) {
            self.bell.fetch_add(1, Ordering::Release);
        }
        crash_point!("semaphore.ring.counted");
        futex::wake_all(&self.bell);
    }

    /// Waits until there are `count` permits, for one slice at most: spins first, then sleeps.
    pub fn wait_slice(&self, count: u32, deadline: Option<Deadline>, spin: &mut Spin) -> Waited {
        if spin.until(deadline, || self.value() >= count) {
            return Waited::Ready;
        }
        let Some(seen) = self.flag(count) else { return Waited::Ready };
        futex::wait(&self.bell, seen, Some(Deadline::slice(deadline)));
        crash_point!("semaphore.wait.woken");
        if self.value() >= count { Waited::Ready } else { Waited::Slice }
    }

    /// The word that is slept on.
    #[cfg(all(feature = "async", not(loom)))]
    pub(crate) fn bell(&self) -> &AtomicU32 {
        &self.bell
    }

    /// Says that somebody sleeps who wants `count`: what the bell was before, or `None` if that many are free.
    pub(crate) fn flag(&self, count: u32) -> Option<u32> {
        if count > 1 {
            self.many.store(1, Ordering::Relaxed);
        }
        let mut seen = self.bell.load(Ordering::Acquire);
        let mut word = self.word.load(Ordering::Acquire);
        loop {
            if value_of(word) >= count {
                return None;
            }
            // One who wants many publishes that with the flag, so it writes the word in any case.
            if word & SLEEPERS != 0 && count == 1 {
                break;
            }
            if planted(Bug::LookBeforeFlag) {
                self.word.fetch_or(SLEEPERS, Ordering::AcqRel);
                break;
            }
            let flagged = word | SLEEPERS;
            match self.word.compare_exchange(word, flagged, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => break,
                Err(now) => word = now,
            }
        }
        crash_point!("semaphore.wait.flagged");
        if planted(Bug::BellReadAfterFlag) {
            seen = self.bell.load(Ordering::Acquire);
        }
        Some(seen)
    }
}

impl Slot {
    /// What is held after an operation.
    #[inline]
    fn record(&self, number: u64) -> &AtomicU32 {
        &self.held[(number & 1) as usize]
    }

    /// By the owner: this operation, the last one, is complete.
    #[inline]
    fn close(&self, number: u64) {
        if cfg!(loom) {
            // A store of the largest number is a maximum. The model lets a helper's maximum, of a number before it, read
            // what was there before this store and still come after it.
            self.done.fetch_max(number, Ordering::Release);
        } else {
            self.done.store(number, Ordering::Release);
        }
    }

    /// Whether the books of its owner are open, or say that it holds something: nothing to recover otherwise, if it
    /// is dead.
    pub fn is_open(&self) -> bool {
        let number = self.number.load(Ordering::Acquire);
        self.done.load(Ordering::Acquire) != number || self.record(number).load(Ordering::Relaxed) != 0
    }
}

/// Where the model lets a process die.
#[cfg(loom)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// Nowhere.
    Lives,
    /// At this step.
    DiesAt(&'static str),
}

/// A step at which a test may let the process die: by a signal, or, in the model, by a return.
macro_rules! step {
    ($books:expr, $name:literal) => {
        crash_point!($name);
        #[cfg(loom)]
        if $books.fate == Fate::DiesAt($name) {
            return Attempt::Died;
        }
    };
}

/// The words and the slots: what an owner works with.
#[derive(Clone, Copy, Debug)]
pub struct Books<'a> {
    /// The words.
    pub permits: &'a Permits,
    /// The slots, by member.
    pub slots: &'a [Slot],
    /// Where the model lets this process die.
    #[cfg(loom)]
    pub fate: Fate,
}

impl Books<'_> {
    /// Takes permits for a member, if there are enough. The caller has the slot for itself.
    #[inline]
    pub fn take(&self, member: usize, count: u32) -> Attempt {
        self.operate(member, |value| value.checked_sub(count), |held| held.saturating_add(count))
    }

    /// Gives back permits of a member. The caller has the slot for itself. Whoever finds the flag set rings.
    ///
    /// The value never exceeds the bound: where others gave permits that they did not hold, it stays there.
    #[inline]
    pub fn give(&self, member: usize, count: u32) -> Attempt {
        let bound = self.permits.bound();
        // A value above the bound is damage, and not made worse.
        let sum = |value: u32| Some(value.saturating_add(count).min(bound).max(value));
        self.operate(member, sum, |held| held.saturating_sub(count))
    }

    /// Writes down that a member does not own these permits any more; they stay taken.
    pub fn disown(&self, member: usize, count: u32) -> Attempt {
        self.operate(member, Some, |held| held.saturating_sub(count))
    }

    /// One operation of a slot: changes the value and what its member holds, at one instant.
    #[inline]
    fn operate(
        &self,
        member: usize,
        value: impl Fn(u32) -> Option<u32>,
        held: impl FnOnce(u32) -> u32,
    ) -> Attempt {
        let shared = self.permits;
        let Some(slot) = self.slots.get(member) else { return Attempt::Short };
        let mut word = shared.word.load(Ordering::Acquire);
        let Some(mut next) = value(value_of(word)) else { return Attempt::Short };
        let last = slot.number.load(Ordering::Relaxed);
        // An operation that was given up is begun anew, under its number.
        let given_up = slot.done.load(Ordering::Relaxed) != last && !planted(Bug::NumberNotReused);
        let number = if given_up { last } else { last.wrapping_add(1) };
        let before = slot.record(number.wrapping_sub(1));
        let after = if planted(Bug::OneBook) { before } else { slot.record(number) };
        after.store(held(before.load(Ordering::Relaxed)), Ordering::Relaxed);
        step!(self, "semaphore.booked");
        slot.number.store(number, Ordering::Release);
        step!(self, "semaphore.begun");
        loop {
            if !planted(Bug::HelpAfterCommit) {
                self.help(word, member);
            }
            step!(self, "semaphore.helped");
            let new = with_value(word & SLEEPERS | tag(member, number), next);
            let order = if planted(Bug::RelaxedCommit) { Ordering::Relaxed } else { Ordering::AcqRel };
            match shared.word.compare_exchange(word, new, order, Ordering::Acquire) {
                Ok(_) => break,
                Err(now) => word = now,
            }
            match value(value_of(word)) {
                Some(value) => next = value,
                None => return Attempt::Short,
            }
        }
        step!(self, "semaphore.committed");
        if planted(Bug::HelpAfterCommit) {
            self.help(word, member);
        }
        slot.close(number);
        step!(self, "semaphore.done");
        Attempt::Done { sleepers: word & SLEEPERS != 0 }
    }

    /// Before `word` is replaced: records that the operation whose tag it has is complete.
    #[inline]
    fn help(&self, word: u64, me: usize) {
        if planted(Bug::NoHelp) {
            return;
        }
        let other = ((word & TAG) >> SLOT_SHIFT) as usize;
        // What this slot did before is known to be complete, as its number has moved on.
        if other == me {
            return;
        }
        let Some(slot) = self.slots.get(other) else { return };
        let number = slot.number.load(Ordering::Acquire);
        // One that has moved on knows it too.
        if number & NUMBER != word & NUMBER || slot.done.load(Ordering::Relaxed) >= number {
            return;
        }
        self.record(word, slot, number);
    }

    #[cold]
    fn record(&self, word: u64, slot: &Slot, number: u64) {
        if planted(Bug::NoSecondLook) || self.permits.word.load(Ordering::Acquire) & TAG == word & TAG {
            slot.done.fetch_max(number, Ordering::Release);
        }
    }

    /// How many permits a member holds. Exact for one that does nothing meanwhile.
    pub fn held(&self, member: usize) -> u32 {
        let Some(slot) = self.slots.get(member) else { return 0 };
        let early = if planted(Bug::RecordBeforeTag) { slot.done.load(Ordering::Acquire) } else { 0 };
        // The word first: who has replaced a tag since has recorded it before.
        let word = self.permits.word.load(Ordering::Acquire);
        let number = slot.number.load(Ordering::Acquire);
        let done = if planted(Bug::RecordBeforeTag) { early } else { slot.done.load(Ordering::Acquire) };
        let complete = word & TAG == tag(member, number) || done >= number;
        let last = if complete { number } else { number.wrapping_sub(1) };
        slot.record(last).load(Ordering::Relaxed)
    }

    /// Finishes the books of a member that is dead, and gives back what it held. The caller is the only one to do so,
    /// as far as it lives. May be repeated.
    pub fn recover(&self, member: usize) -> Attempt {
        let nothing = Attempt::Done { sleepers: false };
        let Some(slot) = self.slots.get(member) else { return nothing };
        let held = self.held(member);
        let word = self.permits.word.load(Ordering::Acquire);
        let number = slot.number.load(Ordering::Acquire);
        step!(self, "semaphore.recover.read");
        if planted(Bug::GiveThenForget) {
            let _ = self.permits.release(held);
            step!(self, "semaphore.begun");
            slot.record(number).store(0, Ordering::Relaxed);
            slot.done.store(number, Ordering::Release);
            return nothing;
        }
        if word & TAG == tag(member, number) {
            slot.done.fetch_max(number, Ordering::Release);
        }
        step!(self, "semaphore.recover.closed");
        if held > 0 {
            // The dead member's next operation, or the one that it did not finish, done in its place.
            return self.give(member, held);
        }
        if slot.done.load(Ordering::Relaxed) != number {
            // One that it did not finish, while it held nothing: it counts as done, and as having changed nothing.
            slot.record(number).store(0, Ordering::Relaxed);
            step!(self, "semaphore.recover.emptied");
            slot.close(number);
        }
        nothing
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Whatever another process has written, every operation ends, and none panics.
    #[test]
    fn no_words_are_too_wild() {
        let slots: [Slot; 4] = Default::default();
        let permits = Permits::default();
        let mut state = 1_u64;
        // xorshift64, and often one of the ends.
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            match state % 5 {
                0 => 0,
                1 => u64::MAX,
                _ => state.rotate_left(9),
            }
        };
        let (mut done, mut short) = (0, 0);
        for round in 0..100_000_u32 {
            permits.word.store(random(), Ordering::Relaxed);
            permits.bound.store(random() as u32, Ordering::Relaxed);
            permits.many.store(random() as u32, Ordering::Relaxed);
            for slot in &slots {
                slot.number.store(random(), Ordering::Relaxed);
                slot.done.store(random(), Ordering::Relaxed);
                slot.held[0].store(random() as u32, Ordering::Relaxed);
                slot.held[1].store(random() as u32, Ordering::Relaxed);
            }
            let books = Books { permits: &permits, slots: &slots };
            let (member, count) = ((random() % 5) as usize, random() as u32);
            let attempt = match round % 5 {
                0 => books.take(member, count),
                1 => books.give(member, count),
                2 => books.disown(member, count),
                3 => books.recover(member),
                _ => {
                    let before = permits.value();
                    if permits.release(count).is_ok() {
                        assert_eq!(permits.value() - before, count);
                    }
                    if permits.acquire(count) { Attempt::Done { sleepers: false } } else { Attempt::Short }
                }
            };
            match attempt {
                Attempt::Done { .. } => done += 1,
                Attempt::Short => short += 1,
            }
            books.held(member);
        }
        assert!(done > 10_000 && short > 1_000, "{done} {short}");
    }

    #[test]
    fn a_slot_that_was_recovered_goes_on_with_the_next_number() {
        let slots: [Slot; 2] = Default::default();
        let permits = Permits::default();
        permits.set(3, 3);
        let books = Books { permits: &permits, slots: &slots };
        assert_eq!(books.take(1, 2), Attempt::Done { sleepers: false });
        assert!(slots[1].is_open() && books.held(1) == 2);
        assert_eq!(books.recover(1), Attempt::Done { sleepers: false });
        assert_eq!(books.recover(1), Attempt::Done { sleepers: false });
        assert!(!slots[1].is_open() && permits.value() == 3);
        assert_eq!(slots[1].number.load(Ordering::Relaxed), 2);
        assert_eq!(books.take(1, 3), Attempt::Done { sleepers: false });
        assert_eq!((slots[1].number.load(Ordering::Relaxed), books.held(1), permits.value()), (3, 3, 0));
    }
}
