//! [`Barrier`]: a number of parties wait for each other.
//!
//! # Words
//!
//! A [`Table`] of those who are there, under a robust mutex of its own, and:
//!
//! | word | meaning | who changes it |
//! |---|---|---|
//! | `doing` | the number of the round that is under way; or the decision on it | whoever decides, by compare-and-swap from the round's number; back: who has carried it out, holding the mutex |
//! | `round` | the number of the round that is under way, or was decided | whoever carries out a decision |
//! | `broken` | why it is broken; 0: it is not | whoever carries out a break or a reset |
//! | `gave_up` | why it is to be broken next; 0: it is not | who could not get in; who holds the mutex |
//! | `inside` | who holds the mutex: its member number, plus 1 | whoever holds it |
//!
//! An entry is *waiting* or *acting* (note: its round and place), *queued* behind an action (note: the round), or *released*,
//! *broken* (note: why), *again* (it was queued: from the start). A round ends with its decision, whatever that is.
//!
//! # Protocol
//!
//! * The number of parties that are there is the number of entries that wait; there is no counter.
//! * Who comes last: without an action it decides to release. With one it enters as *acting*, runs the action without the
//!   mutex, and decides then. Who comes while an action runs queues.
//! * Decide (release, break, reset; `decision.rs`): `doing` from the round's number to the decision: this commits, and needs no mutex. Then
//!   carry it out, holding the mutex: entry by entry, `round` + 1, and that into `doing`. Done twice it gives the same but
//!   for the number, of which nothing is asked but that it is a new one. Whoever takes the mutex carries out first what
//!   was decided.
//! * A party at its deadline looks for the dead, and decides to break. If the mutex is not to be had it decides all the
//!   same, and leaves: with its own decision, or with that which it finds in `doing`, which is its round's.
//! * A party that cannot even get in by its deadline says so in `gave_up`. Whoever takes the mutex next breaks the barrier.
//! * A future that is dropped leaves as if it had not come. If its round is decided it is as if it was dropped after that.
//!
//! # Invariants
//!
//! 1. All parties of a round get the same answer: one change of `doing` decides it, from the number of that very round, and
//!    it is carried out before anybody else gets in.
//! 2. A waiter gets the answer of its own round, however many there were since: it stands in its entry.
//! 3. The action runs without the mutex.
//!
//! # When a process dies
//!
//! Under the mutex: the next one to lock it carries out what was begun, and then breaks the barrier, since a party that
//! dies within it will not come. As a waiter, as the one that runs the action, or as one that was released and is on its
//! way out: whoever waits finds its entry after a slice, who comes last at once, and breaks the barrier.
//!
//! A child that the action forks has the party's memory, and is none: what it returns from ends nothing.

mod error;
#[cfg(feature = "async")]
mod later;
mod pass;

pub use error::{BarrierError, Broken};

use crate::{
    Error, Holder,
    arena::{Handle, Shared, Tag},
    decision::{ARGUMENT, BREAK, Decision, RELEASE, RESET, ROUND},
    error::Cause,
    robust::{Locked, NotLocked, Robust},
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

/// Above a round's number, in a note, is a place.
const PLACE_SHIFT: u32 = 40;

/// What lies in shared memory.
#[repr(C)]
pub(crate) struct BarrierWords {
    tag: Tag,
    mutex: Robust,
    parties: AtomicU32,
    inside: AtomicU32,
    /// `round` and `doing`.
    decision: Decision,
    broken: AtomicU64,
    gave_up: AtomicU64,
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

    fn recover(&self, segment: &Segment, dead: Member, until: Deadline) -> bool {
        match self.hold(segment, None, Some(until)) {
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
        // What was decided meanwhile, without the mutex.
        self.words.carry_out(&mut self.held.wakes);
        // The mutex goes after this.
        self.words.inside.store(0, Ordering::Relaxed);
        crash_point!("barrier.leaves");
    }
}

impl BarrierWords {
    /// Takes the mutex, in the name of `member` if it is a party's, and carries out what was decided without it.
    fn hold(
        &self,
        segment: &Segment,
        member: Option<Member>,
        deadline: Option<Deadline>,
    ) -> Result<Inside<'_>, NotLocked> {
        Ok(self.with(self.mutex.lock_inside(deadline)?, segment, member))
    }

    /// As [`hold`](BarrierWords::hold), by who has the mutex already.
    fn with(&self, locked: Locked, segment: &Segment, member: Option<Member>) -> Inside<'_> {
        let mut held = table::with(&self.mutex, &self.table, locked, |wakes| self.repair(segment, wakes));
        self.inside.store(member.map_or(0, |member| member.index() as u32 + 1), Ordering::Relaxed);
        crash_point!("barrier.inside");
        self.carry_out(&mut held.wakes);
        let gave_up = self.gave_up.load(Ordering::Relaxed) & ARGUMENT;
        if gave_up != 0 {
            self.insist(&mut held.wakes, BREAK | gave_up);
            crash_point!("barrier.broken_for_another");
            self.gave_up.store(0, Ordering::Relaxed);
        }
        Inside { words: self, held }
    }

    /// Somebody died under the mutex: finishes what it had begun, and breaks the barrier in its name.
    fn repair(&self, segment: &Segment, wakes: &mut Wakes) {
        self.carry_out(wakes);
        let number = self.inside.load(Ordering::Relaxed) as usize;
        let member = number.checked_sub(1).and_then(Member::from_index);
        let pid = member.and_then(|member| segment.pid_of(member)).unwrap_or(0);
        self.insist(wakes, BREAK | Broken::Died { pid }.to_word());
    }

    /// Decides a round; false if that is done already, or it is over.
    fn commit(&self, round: u64, outcome: u64) -> bool {
        let committed = self.decision.commit(round, outcome);
        crash_point!("barrier.decided");
        committed
    }

    /// Decides the round that is under way, and carries that out; false if somebody decided something else, which is
    /// carried out then. The mutex is held.
    fn decide(&self, wakes: &mut Wakes, outcome: u64) -> bool {
        let committed = self.commit(self.decision.round(), outcome);
        if !committed {
            self.decision.heal();
        }
        self.carry_out(wakes);
        committed
    }

    /// As [`decide`](BarrierWords::decide), for a decision that goes for the next round as well. Without the mutex a round is
    /// decided by a party that is in it only, and nobody gets in now: so the second try is the last.
    fn insist(&self, wakes: &mut Wakes, outcome: u64) {
        let _ = self.decide(wakes, outcome) || self.decide(wakes, outcome);
    }

    /// Carries out what is in `doing`. The mutex is held.
    fn carry_out(&self, wakes: &mut Wakes) {
        let (made, argument) = self.decision.made();
        match made {
            0 => return,
            RELEASE => {
                for place in self.table.taken().filter(|(_, entry)| entry.note() & ROUND == argument & ROUND)
                {
                    let _ = wakes.change(place, WAITING, RELEASED) || wakes.change(place, ACTING, RELEASED);
                    crash_point!("barrier.released");
                }
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
        let next = self.decision.next();
        crash_point!("barrier.carried_out");
        self.decision.carried_out(next);
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
            self.insist(wakes, BREAK | Broken::Died { pid }.to_word());
        }
        crash_point!("barrier.buried");
        dead.iter().for_each(|(entry, _)| entry.free());
    }

    fn broken(&self) -> Option<Broken> {
        let (made, reason) = self.decision.made();
        let decided = if made == BREAK { reason } else { 0 };
        let gave_up = self.gave_up.load(Ordering::Relaxed) & ARGUMENT;
        [self.broken.load(Ordering::Relaxed), decided, gave_up].into_iter().find_map(Broken::from_word)
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
/// A wait with a deadline ends at it also where another process was stopped (SIGSTOP) on its way in or out.
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
    /// go on, and otherwise not. A child that it forks is no party, and gets [`Broken::Reset`] when it returns.
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

    /// As [`wait_with`](Barrier::wait_with), but waits no longer than `timeout`, whatever the barrier's own. After that, the
    /// barrier is broken for all.
    ///
    /// # Errors
    ///
    /// As [`wait`](Barrier::wait).
    ///
    /// # Panics
    ///
    /// As [`wait`](Barrier::wait).
    pub fn wait_timeout_with(&self, timeout: Duration, action: impl FnOnce()) -> Result<usize, BarrierError> {
        self.wait_deadline_with(Deadline::after(timeout), action)
    }

    /// As [`wait_timeout_with`](Barrier::wait_timeout_with), until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`wait`](Barrier::wait).
    ///
    /// # Panics
    ///
    /// As [`wait`](Barrier::wait).
    pub fn wait_deadline_with(
        &self,
        deadline: Deadline,
        action: impl FnOnce(),
    ) -> Result<usize, BarrierError> {
        self.pass(Some(deadline), Some(action))
    }

    /// Breaks the barrier: who waits, and who comes, gets an error.
    ///
    /// # Errors
    ///
    /// [`BarrierError::TooManyHeld`], [`BarrierError::Damaged`].
    pub fn abort(&self) -> Result<(), BarrierError> {
        self.settle(BREAK | Broken::Aborted { pid: Holder::current().pid }.to_word())
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
        words.insist(&mut inside.held.wakes, outcome);
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
