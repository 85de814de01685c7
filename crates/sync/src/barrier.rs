//! [`Barrier`]: a number of parties wait for each other.
//!
//! # Words
//!
//! A [`Table`] of those who are there, under a robust mutex of its own, and:
//!
//! | word | meaning | who changes it, holding the mutex |
//! |---|---|---|
//! | `round` | how many passes there were | whoever carries out a release |
//! | `broken` | why it is broken; 0: it is not | whoever carries out a break or a reset |
//! | `doing` | what is being carried out; 0: nothing | whoever holds the mutex |
//! | `inside` | who holds the mutex: its member number, plus 1 | whoever holds it |
//!
//! An entry is *waiting* or *acting* (note: its round), *queued* behind an action, or *released*, *broken* (note: why),
//! *again* (it was queued: from the start).
//!
//! # Protocol
//!
//! * The number of parties that are there is the number of entries that wait in this round; there is no counter.
//! * Who comes last: without an action it releases. With one it enters as *acting*, runs the action without the mutex,
//!   and releases then, if nobody broke the barrier meanwhile. Who comes while an action runs queues.
//! * Release, break, reset: store in `doing` what is to be done: this commits. Then do it, entry by entry, and clear
//!   `doing`. Done twice it gives the same.
//!
//! # Invariants
//!
//! 1. All parties of a round get the same answer: one store decides it, and it is carried out before anybody else gets in.
//! 2. A waiter gets the answer of its own round, however many there were since: it stands in its entry.
//! 3. The action runs without the mutex.
//!
//! # When a process dies
//!
//! Under the mutex: the next one to lock it carries out what was begun, and then breaks the barrier, since a party that
//! dies within it will not come. As a waiter, as the one that runs the action, or as one that was released and is on its
//! way out: whoever waits finds its entry after a slice, who comes last at once, and breaks the barrier.

mod error;

pub use error::{BarrierError, Broken};

use crate::{
    Error,
    arena::{Handle, Shared, Tag, join},
    error::Cause,
    robust::{NotLocked, Robust},
    spin,
    table::{self, Entry, Table, Wakes},
};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use procession_parcel::Function;
use procession_shm::{Member, Segment};
use procession_sys::{Deadline, crash_point};
use serde::{Deserialize, Serialize};
use std::{fmt, time::Duration};

const WAITING: u32 = 1;
const ACTING: u32 = 2;
const QUEUED: u32 = 3;
const RELEASED: u32 = 4;
const BROKEN: u32 = 5;
const AGAIN: u32 = 6;

/// What is carried out: in the upper byte of `doing`; its argument is in the rest.
const RELEASE: u64 = 1 << 56;
const BREAK: u64 = 2 << 56;
const RESET: u64 = 3 << 56;
const ARGUMENT: u64 = RELEASE - 1;

/// What lies in shared memory.
#[repr(C)]
pub(crate) struct BarrierWords {
    tag: Tag,
    mutex: Robust,
    parties: AtomicU32,
    inside: AtomicU32,
    round: AtomicU64,
    broken: AtomicU64,
    doing: AtomicU64,
    /// The default timeout in nanoseconds; 0: none.
    timeout: AtomicU64,
    table: Table,
}

#[expect(unsafe_code, reason = "declares what may lie in a slot")]
// SAFETY: `repr(C)` with a tag in front; atomics and a mutex, for which zeroes are a barrier at which nobody waits.
unsafe impl Shared for BarrierWords {
    const KIND: u16 = 22;
    const NAME: &'static str = "a Barrier";

    fn init(&self) -> Result<(), std::io::Error> {
        self.mutex.init()
    }

    fn recover(&self, segment: &Segment, dead: Member) -> bool {
        let soon = Deadline::after(Duration::from_secs(1));
        match self.hold(segment, None, Some(soon)) {
            Ok(mut inside) => {
                self.bury(segment, &mut inside.held.wakes, |member| member == dead);
                true
            }
            Err(_) => false,
        }
    }
}

/// The mutex is held, in the name of a member.
struct Inside<'a> {
    words: &'a BarrierWords,
    held: table::Held<'a>,
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        // The mutex goes after this.
        self.words.inside.store(0, Ordering::Relaxed);
        crash_point!("barrier.leaves");
    }
}

impl BarrierWords {
    /// Takes the mutex, in the name of `member` if it is a party's.
    fn hold(
        &self,
        segment: &Segment,
        member: Option<Member>,
        deadline: Option<Deadline>,
    ) -> Result<Inside<'_>, NotLocked> {
        let held = table::hold(&self.mutex, &self.table, deadline, |wakes| self.repair(segment, wakes))?;
        self.inside.store(member.map_or(0, |member| member.index() as u32 + 1), Ordering::Relaxed);
        crash_point!("barrier.inside");
        Ok(Inside { words: self, held })
    }

    /// Somebody died under the mutex: finishes what it had begun, and breaks the barrier in its name.
    fn repair(&self, segment: &Segment, wakes: &mut Wakes) {
        self.carry_out(wakes);
        let number = self.inside.load(Ordering::Relaxed) as usize;
        let member = number.checked_sub(1).and_then(Member::from_index);
        let pid = member.and_then(|member| segment.pid_of(member)).unwrap_or(0);
        self.decide(wakes, BREAK | Broken::Died { pid }.to_word());
    }

    /// Commits to an outcome, and carries it out. The mutex is held.
    fn decide(&self, wakes: &mut Wakes, outcome: u64) {
        self.doing.store(outcome, Ordering::Relaxed);
        crash_point!("barrier.decided");
        self.carry_out(wakes);
    }

    /// Carries out what is in `doing`. The mutex is held.
    fn carry_out(&self, wakes: &mut Wakes) {
        let doing = self.doing.load(Ordering::Relaxed);
        let argument = doing & ARGUMENT;
        match doing & !ARGUMENT {
            RELEASE => {
                for place in self.table.taken().filter(|(_, entry)| entry.note() == argument) {
                    let _ = wakes.change(place, WAITING, RELEASED) || wakes.change(place, ACTING, RELEASED);
                    crash_point!("barrier.released");
                }
                self.round.store((argument + 1) & ARGUMENT, Ordering::Relaxed);
            }
            BREAK => {
                // The first reason stays.
                if self.broken.load(Ordering::Relaxed) == 0 {
                    self.broken.store(argument, Ordering::Relaxed);
                }
                self.turn_away(wakes, argument);
            }
            RESET => {
                self.turn_away(wakes, Broken::Reset.to_word());
                self.broken.store(0, Ordering::Relaxed);
            }
            _ => {}
        }
        for place in self.table.taken() {
            wakes.change(place, QUEUED, AGAIN);
        }
        crash_point!("barrier.carried_out");
        self.doing.store(0, Ordering::Relaxed);
    }

    /// Tells everybody who waits or acts that the barrier is broken.
    fn turn_away(&self, wakes: &mut Wakes, reason: u64) {
        for (index, entry) in self.table.taken() {
            let state = entry.state();
            if state == WAITING || state == ACTING {
                entry.set_note(reason);
                crash_point!("barrier.noted");
                wakes.change((index, entry), state, BROKEN);
            }
        }
    }

    /// Finds the dead, breaks the barrier for them, and frees their entries. The mutex is held.
    fn bury(&self, segment: &Segment, wakes: &mut Wakes, is_dead: impl FnMut(Member) -> bool) {
        let mut dead: Vec<(&Entry, Member)> = Vec::new();
        self.table.each_dead(is_dead, |entry, member| dead.push((entry, member)));
        // Who was turned away has broken nothing.
        let party = dead.iter().find(|(entry, _)| entry.state() != BROKEN);
        if let Some((_, member)) = party {
            let pid = segment.pid_of(*member).unwrap_or(0);
            self.decide(wakes, BREAK | Broken::Died { pid }.to_word());
        }
        crash_point!("barrier.buried");
        dead.iter().for_each(|(entry, _)| entry.free());
    }

    fn broken(&self) -> Option<Broken> {
        Broken::from_word(self.broken.load(Ordering::Relaxed))
    }

    fn parties(&self) -> usize {
        (self.parties.load(Ordering::Relaxed) as usize).clamp(1, table::MOST)
    }
}

/// A place at which a number of parties, threads of any processes, wait until all of them are there.
///
/// It can be passed again and again. Clones stand for the same barrier; they go to other processes inside parcels.
///
/// A barrier *breaks* when a party gives up (its timeout), when somebody calls [`abort`](Barrier::abort), when the action
/// panics, or when a party dies in it. Then everybody who waits gets [`BarrierError::Broken`] with the reason, and so
/// does everybody who comes, until [`reset`](Barrier::reset).
///
/// # When a process dies
///
/// If a party dies while it waits, or while it runs the action, the barrier breaks within half a second, with an error
/// that names its pid. A party that dies elsewhere is one that does not come: nobody can tell. Use a timeout.
///
/// # Examples
///
/// ```
/// use procession_sync::Barrier;
///
/// let barrier = Barrier::new(3)?;
/// let threads: Vec<_> = (0..3)
///     .map(|_| {
///         let barrier = barrier.clone();
///         std::thread::spawn(move || barrier.wait())
///     })
///     .collect();
/// let mut order = Vec::new();
/// for thread in threads {
///     order.push(thread.join().unwrap()?);
/// }
/// order.sort();
/// assert_eq!(order, [0, 1, 2]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Serialize, Deserialize)]
pub struct Barrier {
    handle: Handle<BarrierWords>,
    action: Option<Function<(), ()>>,
}

/// Settings of a [`Barrier`].
#[derive(Clone, Debug)]
#[must_use]
pub struct BarrierBuilder {
    parties: usize,
    action: Option<Function<(), ()>>,
    timeout: Option<Duration>,
}

impl BarrierBuilder {
    /// Has `action` run with each pass, by the party that comes last, before the others go on. It is a function or a
    /// closure that captures nothing, since it goes to other processes; [`Barrier::wait_with`] takes any closure.
    pub fn action(mut self, action: fn(())) -> BarrierBuilder {
        self.action = Some(Function::new(action));
        self
    }

    /// How long [`wait`](Barrier::wait) waits at the longest. Without it, for ever.
    pub fn timeout(mut self, timeout: Duration) -> BarrierBuilder {
        self.timeout = Some(timeout);
        self
    }

    /// Makes the barrier.
    ///
    /// # Errors
    ///
    /// No parties, or more than 512; no memory for it.
    pub fn build(self) -> Result<Barrier, Error> {
        if self.parties == 0 || self.parties > table::MOST {
            let what = format!("{} parties: there can be 1 to {}", self.parties, table::MOST);
            return Err(Error::new("make", BarrierWords::NAME, Cause::Invalid { what }));
        }
        let handle = Handle::new(0, |words: &BarrierWords| {
            words.parties.store(self.parties as u32, Ordering::Relaxed);
            let nanos = self
                .timeout
                .map_or(0, |timeout| u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX).max(1));
            words.timeout.store(nanos, Ordering::Relaxed);
        })?;
        Ok(Barrier { handle, action: self.action })
    }
}

impl Barrier {
    /// A barrier for that many parties, without an action or a timeout.
    ///
    /// # Errors
    ///
    /// As [`BarrierBuilder::build`].
    pub fn new(parties: usize) -> Result<Barrier, Error> {
        Barrier::builder(parties).build()
    }

    /// A barrier with an action, or a timeout.
    pub fn builder(parties: usize) -> BarrierBuilder {
        BarrierBuilder { parties, action: None, timeout: None }
    }

    /// Waits until all parties are there, and gives this one's place in the order of arrival: from 0 to one less than the
    /// number of parties, each once. Whoever needs a leader takes 0.
    ///
    /// It waits no longer than the barrier's timeout, if that has one.
    ///
    /// # Errors
    ///
    /// * [`BarrierError::Broken`]: it is broken, or breaks meanwhile, with the reason;
    /// * [`BarrierError::TooMany`], [`BarrierError::TooManyHeld`], [`BarrierError::Member`], [`BarrierError::Damaged`].
    ///
    /// # Panics
    ///
    /// As the action does, if this party runs it: the barrier is broken then.
    pub fn wait(&self) -> Result<usize, BarrierError> {
        let timeout = self.timeout().map(Deadline::after);
        self.pass(timeout, self.action.as_ref().map(|action| || action.call(())))
    }

    /// As [`wait`](Barrier::wait), but waits no longer than `timeout`, whatever the barrier's own. After that, the
    /// barrier is broken for all.
    ///
    /// # Errors
    ///
    /// As [`wait`](Barrier::wait).
    ///
    /// # Panics
    ///
    /// As [`wait`](Barrier::wait).
    pub fn wait_timeout(&self, timeout: Duration) -> Result<usize, BarrierError> {
        self.wait_deadline(Deadline::after(timeout))
    }

    /// As [`wait_timeout`](Barrier::wait_timeout), until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`wait`](Barrier::wait).
    ///
    /// # Panics
    ///
    /// As [`wait`](Barrier::wait).
    pub fn wait_deadline(&self, deadline: Deadline) -> Result<usize, BarrierError> {
        self.pass(Some(deadline), self.action.as_ref().map(|action| || action.call(())))
    }

    /// As [`wait`](Barrier::wait), with an action of this party's own: it runs if this party comes last, before the others
    /// go on, and otherwise not.
    ///
    /// # Errors
    ///
    /// As [`wait`](Barrier::wait).
    ///
    /// # Panics
    ///
    /// As [`wait`](Barrier::wait).
    pub fn wait_with(&self, action: impl FnOnce()) -> Result<usize, BarrierError> {
        self.pass(self.timeout().map(Deadline::after), Some(action))
    }

    /// Breaks the barrier: who waits, and who comes, gets an error.
    ///
    /// # Errors
    ///
    /// [`BarrierError::TooManyHeld`], [`BarrierError::Damaged`].
    pub fn abort(&self) -> Result<(), BarrierError> {
        self.settle(BREAK | Broken::Aborted { pid: std::process::id() }.to_word())
    }

    /// Mends the barrier: as if nobody had come yet. Who waits gets an error, [`Broken::Reset`].
    ///
    /// # Errors
    ///
    /// [`BarrierError::TooManyHeld`], [`BarrierError::Damaged`].
    pub fn reset(&self) -> Result<(), BarrierError> {
        self.settle(RESET)
    }

    fn settle(&self, outcome: u64) -> Result<(), BarrierError> {
        let (words, segment) = self.parts();
        let mut inside = words.hold(segment, segment.member(), None)?;
        words.bury(segment, &mut inside.held.wakes, |member| segment.is_dead(member));
        words.decide(&mut inside.held.wakes, outcome);
        Ok(())
    }

    /// Why it is broken, if it is.
    #[must_use]
    pub fn broken(&self) -> Option<Broken> {
        self.handle.words().broken()
    }

    /// Whether it is broken.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.broken().is_some()
    }

    /// How many parties wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.handle.words().table.count(&[WAITING])
    }

    /// How many parties it takes.
    #[must_use]
    pub fn parties(&self) -> usize {
        self.handle.words().parties()
    }

    /// How long [`wait`](Barrier::wait) waits at the longest.
    #[must_use]
    pub fn timeout(&self) -> Option<Duration> {
        let nanos = self.handle.words().timeout.load(Ordering::Relaxed);
        (nanos != 0).then(|| Duration::from_nanos(nanos))
    }

    /// Whether both stand for the same barrier.
    #[must_use]
    pub fn same(&self, other: &Barrier) -> bool {
        self.handle.same(&other.handle)
    }

    fn parts(&self) -> (&BarrierWords, &Segment) {
        (self.handle.words(), self.handle.place().segment())
    }

    fn pass(&self, deadline: Option<Deadline>, action: Option<impl FnOnce()>) -> Result<usize, BarrierError> {
        let (words, segment) = self.parts();
        let member = join(segment).map_err(|error| BarrierError::Member(Box::new(error)))?;
        let enter = |note, state| match words.table.enter(member, note, state) {
            Some(index) => Ok(words.table.entry(index)),
            None => Err(BarrierError::TooMany),
        };
        loop {
            let mut inside = words.hold(segment, Some(member), None)?;
            if let Some(broken) = words.broken() {
                return Err(BarrierError::Broken(broken));
            }
            if words.table.count(&[ACTING]) > 0 {
                let entry = enter(0, QUEUED)?;
                drop(inside);
                self.sleep(entry, QUEUED, member, deadline)?;
                entry.free();
                continue;
            }
            let round = words.round.load(Ordering::Relaxed);
            let here = words.table.count(&[WAITING]);
            if here + 1 < words.parties() {
                let entry = enter(round, WAITING)?;
                drop(inside);
                crash_point!("barrier.entered");
                self.sleep(entry, WAITING, member, deadline)?;
                return Self::leave(entry).map(|()| here);
            }
            // One that waits may be dead: it will not pass, so nobody does.
            words.bury(segment, &mut inside.held.wakes, |member| segment.is_dead(member));
            if let Some(broken) = words.broken() {
                return Err(BarrierError::Broken(broken));
            }
            let Some(action) = action else {
                words.decide(&mut inside.held.wakes, RELEASE | round);
                return Ok(here);
            };
            let entry = enter(round, ACTING)?;
            drop(inside);
            let mut acting = Acting { barrier: self, member, entry, round, done: false };
            action();
            acting.done = true;
            drop(acting);
            return Self::leave(entry).map(|()| here);
        }
    }

    /// Waits until the entry is in another state; breaks the barrier at the deadline, and for the dead.
    fn sleep(
        &self,
        entry: &Entry,
        state: u32,
        member: Member,
        deadline: Option<Deadline>,
    ) -> Result<(), BarrierError> {
        let (words, segment) = self.parts();
        loop {
            spin::with(|spin| entry.wait_slice(state, deadline, spin));
            if entry.state() != state {
                return Ok(());
            }
            let late = deadline.is_some_and(Deadline::passed);
            if !late && !words.table.due() {
                continue;
            }
            let mut inside = match words.hold(segment, Some(member), None) {
                Ok(inside) => inside,
                Err(error) => {
                    // Nobody will find this entry in order any more: its owner is about to go.
                    entry.free();
                    return Err(error.into());
                }
            };
            let wakes = &mut inside.held.wakes;
            words.bury(segment, wakes, |member| segment.is_dead(member));
            if late && entry.state() == state {
                words.decide(wakes, BREAK | Broken::TimedOut { pid: std::process::id() }.to_word());
            }
        }
    }

    /// Takes the answer out of an entry, and gives it back.
    fn leave(entry: &Entry) -> Result<(), BarrierError> {
        let reason = entry.note();
        let released = entry.state() == RELEASED;
        crash_point!("barrier.leaves.answered");
        entry.free();
        if released {
            return Ok(());
        }
        // Where the memory was written over the reason may be none.
        Err(BarrierError::Broken(Broken::from_word(reason).unwrap_or(Broken::Reset)))
    }
}

/// An action is running; its end, whatever it is, decides the round.
struct Acting<'a> {
    barrier: &'a Barrier,
    member: Member,
    entry: &'a Entry,
    round: u64,
    done: bool,
}

impl Drop for Acting<'_> {
    fn drop(&mut self) {
        let (words, segment) = self.barrier.parts();
        let Ok(mut inside) = words.hold(segment, Some(self.member), None) else { return };
        // Somebody may have broken it meanwhile.
        if self.entry.state() == ACTING {
            let outcome = match self.done {
                true => RELEASE | self.round,
                false => BREAK | Broken::Panicked { pid: std::process::id() }.to_word(),
            };
            words.decide(&mut inside.held.wakes, outcome);
        }
        drop(inside);
        if !self.done {
            self.entry.free();
        }
    }
}

impl fmt::Debug for Barrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (words, segment) = self.parts();
        f.debug_struct("Barrier")
            .field("parties", &self.parties())
            .field("waiting", &words.table.pids(segment, &[WAITING]))
            .field("acting", &words.table.pids(segment, &[ACTING]))
            .field("broken", &self.broken())
            .finish()
    }
}
