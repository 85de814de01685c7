//! A party's way through the barrier.

use super::{
    ACTING, AGAIN, Barrier, BarrierError, BarrierWords, Broken, Inside, PLACE_SHIFT, QUEUED, RELEASED,
    WAITING,
};
use crate::{
    Holder,
    arena::join,
    decision::{BREAK, RELEASE, RESET},
    robust::NotLocked,
    spin,
    table::{self, Entry},
    who::generation,
};
use core::sync::atomic::Ordering;
use procession_shm::Member;
use procession_sys::{Deadline, crash_point};

/// A party that is in.
#[derive(Clone, Copy)]
pub(super) struct Party {
    member: Member,
    pub(super) index: usize,
    /// The state in which it is in.
    pub(super) state: u32,
    round: u64,
    pub(super) place: usize,
}

/// What became of one that came.
pub(super) enum Arrived {
    /// It was the last, and has let all go.
    Passes(usize),
    /// It waits, queues, or is to run the action.
    Is(Party),
}

/// How a wait ended.
pub(super) enum Answer {
    /// As the entry says, which is still there.
    InEntry,
    /// The round was released; the entry is gone.
    Released,
}

impl BarrierWords {
    /// The first place that nobody has who waits. (One that leaves makes room before others.)
    fn free_place(&self) -> usize {
        let mut taken = [0_u64; table::MOST / 64];
        for (_, entry) in self.table.taken().filter(|(_, entry)| entry.state() == WAITING) {
            let place = (entry.note() >> PLACE_SHIFT) as usize % table::MOST;
            taken[place / 64] |= 1 << (place % 64);
        }
        let word = taken.iter().position(|word| *word != u64::MAX).unwrap_or(0);
        word * 64 + taken[word].trailing_ones() as usize
    }
}

impl Barrier {
    pub(super) fn pass(
        &self,
        deadline: Option<Deadline>,
        action: Option<impl FnOnce()>,
    ) -> Result<usize, BarrierError> {
        let (words, segment) = self.parts();
        let member = join(segment, deadline).map_err(|error| BarrierError::Member(Box::new(error)))?;
        loop {
            let inside = match words.hold(segment, Some(member), deadline) {
                Err(NotLocked::TimedOut) => return Err(self.give_up_outside()),
                other => other?,
            };
            let party = match self.arrive(inside, member, action.is_some())? {
                Arrived::Passes(place) => return Ok(place),
                Arrived::Is(party) => party,
            };
            crash_point!("barrier.entered");
            if party.state == ACTING
                && let Some(action) = action
            {
                return self.act(party, action);
            }
            let answer = self.sleep(party, deadline)?;
            if let Some(passed) = self.leave(party, answer) {
                return passed.map(|()| party.place);
            }
        }
    }

    /// Comes in, if the barrier is whole.
    pub(super) fn arrive(
        &self,
        mut inside: Inside<'_>,
        member: Member,
        acts: bool,
    ) -> Result<Arrived, BarrierError> {
        let (words, segment) = self.parts();
        let enter = |place: usize, state| {
            let round = words.decision.round();
            let note = (place as u64) << PLACE_SHIFT | round;
            let index = words.table.enter(member, note, state).ok_or(BarrierError::TooMany)?;
            Ok(Arrived::Is(Party { member, index, state, round, place }))
        };
        if let Some(broken) = words.broken() {
            return Err(BarrierError::Broken(broken));
        }
        if words.table.count(&[ACTING]) > 0 {
            return enter(0, QUEUED);
        }
        let place = words.free_place();
        if words.table.count(&[WAITING]) + 1 < words.parties() {
            return enter(place, WAITING);
        }
        // One that waits may be dead: it will not pass, so nobody does.
        words.bury(segment, &mut inside.held.wakes, |member| segment.is_dead(member));
        if words.broken().is_none() {
            if acts {
                return enter(place, ACTING);
            }
            let round = words.decision.round();
            if words.decide(&mut inside.held.wakes, RELEASE | round) {
                return Ok(Arrived::Passes(place));
            }
        }
        // At its deadline one of those that waited was quicker.
        Err(BarrierError::Broken(words.broken().unwrap_or(Broken::Reset)))
    }

    /// Waits until the entry is in another state; breaks the barrier at the deadline, and for the dead. After an error
    /// the entry is gone.
    fn sleep(&self, party: Party, deadline: Option<Deadline>) -> Result<Answer, BarrierError> {
        let (words, _) = self.parts();
        let entry = words.table.entry(party.index);
        loop {
            spin::with(|spin| entry.wait_slice(party.state, deadline, spin));
            let late = deadline.is_some_and(Deadline::passed);
            let changed = entry.state() != party.state;
            if !changed && !late && !words.table.due() {
                continue;
            }
            if let Some(answer) = self.look(party, late)? {
                return Ok(answer);
            }
        }
    }

    /// After a wake, at the deadline, or when it is time to look for the dead: the answer, if it is there.
    pub(super) fn look(&self, party: Party, late: bool) -> Result<Option<Answer>, BarrierError> {
        let (words, segment) = self.parts();
        let entry = words.table.entry(party.index);
        let answered = || (entry.state() != party.state).then_some(Answer::InEntry);
        if let Some(answer) = answered() {
            return Ok(Some(answer));
        }
        // Who holds it looks for the dead, or does so next time.
        let patience = if late { table::moment() } else { table::now() };
        match words.hold(segment, Some(party.member), patience) {
            Ok(mut inside) => {
                let wakes = &mut inside.held.wakes;
                words.bury(segment, wakes, |member| segment.is_dead(member));
                if late && answered().is_none() {
                    words.decide(wakes, BREAK | timed_out().to_word());
                }
                drop(inside);
                Ok(answered())
            }
            Err(NotLocked::TimedOut) if late => self.give_up_inside(party).map(Some),
            Err(NotLocked::TimedOut) => Ok(None),
            Err(error) => {
                // Nobody will find this entry in order any more: its owner is about to go.
                entry.free();
                Err(error.into())
            }
        }
    }

    /// The deadline has come, and the mutex is not to be had.
    fn give_up_inside(&self, party: Party) -> Result<Answer, BarrierError> {
        let (words, _) = self.parts();
        let entry = words.table.entry(party.index);
        let mine = BREAK | timed_out().to_word();
        let Some((made, argument)) = words.decision.leave(entry, party.state, party.round, mine) else {
            return Ok(Answer::InEntry);
        };
        // As long as the entry was as it was, what was decided was its round's.
        match made {
            RELEASE if party.state == WAITING => Ok(Answer::Released),
            RELEASE => Err(self.give_up_outside()),
            BREAK => Err(BarrierError::Broken(Broken::from_word(argument).unwrap_or(timed_out()))),
            RESET => Err(BarrierError::Broken(Broken::Reset)),
            _ => Err(BarrierError::Broken(timed_out())),
        }
    }

    /// The deadline has come before this party was in.
    pub(super) fn give_up_outside(&self) -> BarrierError {
        let (words, segment) = self.parts();
        if let Some(broken) = words.broken() {
            return BarrierError::Broken(broken);
        }
        let mine = timed_out().to_word();
        let _ = words.gave_up.compare_exchange(0, mine, Ordering::Relaxed, Ordering::Relaxed);
        crash_point!("barrier.gave_up_outside");
        // Who takes the mutex breaks the barrier.
        drop(words.hold(segment, None, table::now()));
        BarrierError::Broken(timed_out())
    }

    /// Takes the answer out of an entry, and gives it back: `None` if it is to come in once more.
    pub(super) fn leave(&self, party: Party, answer: Answer) -> Option<Result<(), BarrierError>> {
        if let Answer::Released = answer {
            return Some(Ok(()));
        }
        let entry = self.parts().0.table.entry(party.index);
        let (state, reason) = (entry.state(), entry.note());
        crash_point!("barrier.leaves.answered");
        entry.free();
        match state {
            AGAIN => None,
            RELEASED => Some(Ok(())),
            // Where the memory was written over the reason may be none.
            _ => Some(Err(BarrierError::Broken(Broken::from_word(reason).unwrap_or(Broken::Reset)))),
        }
    }

    /// Runs the action, as the one that came last.
    pub(super) fn act(&self, party: Party, action: impl FnOnce()) -> Result<usize, BarrierError> {
        let entry = self.parts().0.table.entry(party.index);
        let mut acting = Acting { barrier: self, party, entry, done: false, generation: generation() };
        action();
        if acting.generation != generation() {
            return Err(BarrierError::Broken(Broken::Reset));
        }
        acting.done = true;
        drop(acting);
        let passed = self.leave(party, Answer::InEntry);
        passed.unwrap_or(Err(BarrierError::Broken(Broken::Reset))).map(|()| party.place)
    }
}

fn timed_out() -> Broken {
    Broken::TimedOut { pid: Holder::current().pid }
}

/// An action is running; its end, whatever it is, decides the round.
struct Acting<'a> {
    barrier: &'a Barrier,
    party: Party,
    entry: &'a Entry,
    done: bool,
    generation: u32,
}

impl Drop for Acting<'_> {
    fn drop(&mut self) {
        // A child that the action forked is no party.
        if self.generation != generation() {
            return;
        }
        let (words, segment) = self.barrier.parts();
        let outcome = match self.done {
            true => RELEASE | self.party.round,
            false => BREAK | Broken::Panicked { pid: Holder::current().pid }.to_word(),
        };
        // Somebody may have broken it meanwhile.
        words.commit(self.party.round, outcome);
        if words.hold(segment, Some(self.party.member), table::moment()).is_err() {
            // Whoever has the mutex tells the others. This one has it from the decision itself.
            let (made, argument) = words.decision.made();
            if made == BREAK && self.entry.state() == ACTING {
                self.entry.set_note(argument);
            }
            let released = made == RELEASE && argument == self.party.round;
            let state = if released { RELEASED } else { super::BROKEN };
            let _ = self.entry.change(ACTING, state);
        }
        if !self.done {
            self.entry.free();
        }
    }
}
