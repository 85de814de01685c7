//! Records of what consumers have in hand.
//!
//! # States of a record
//!
//! | state | meaning | by | next |
//! |---|---|---|---|
//! | free | nothing | | held, by who holds the consumers' lock |
//! | held | taken by a member, and not acknowledged | the lock's holder, **before** the commit of the take | free, by that member; the others when it died, by the lock's holder |
//! | again | waits to be taken again (`Redeliver`) | the lock's holder | held, by the next take: that store is its commit |
//! | doubt | its holder died (`Report`) | the lock's holder | free, when it is settled |
//!
//! A record whose ticket is not below the head's was written by a take that did not come to its commit: it says nothing,
//! and whoever gets the lock from the dead clears it.
//!
//! # Invariants
//!
//! 1. Of an item that was taken and not acknowledged there is exactly one record, from before the commit of its take.
//! 2. A record changes under the consumers' lock, except that its owner frees it.
//! 3. A member's records are settled before its number goes to another process.
//! 4. What is given up is counted by two stores that can be repeated: `lost_after` and the record's index first, then
//!    `lost`, then the record.
#![allow(unreachable_pub, reason = "public in the model, and there as far as it is needed")]

use super::{
    gate::ALL,
    ring::Ring,
    trouble::Trouble,
    words::{Memory, NoLock, Patience, Policy, RECORDS, Record, Side},
};
use procession_sys::{Deadline, crash_point, sync::Ordering};

/// How many records are looked at before one that was never used is taken.
const NEAR: usize = 32;

/// What a record stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum Kind {
    /// Somebody has it in hand.
    Held = 1,
    /// It waits to be taken again.
    Again = 2,
    /// Who had it in hand died.
    Doubt = 3,
}

/// A record's state: the kind in 3 bits, [`LEFT`], attempts in 12 bits, the member in 16, and the number of the record's
/// use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct State(u64);

/// The item was given out, and is left to `task_done`.
const LEFT: u64 = 8;
/// The member of a record that nobody holds, and that could not be settled yet.
const NOBODY: u16 = u16::MAX;

impl State {
    pub(super) fn of(record: &Record) -> State {
        State(record.state.load(Ordering::Acquire))
    }

    pub(super) fn to_word(self) -> u64 {
        self.0
    }

    fn new(kind: Kind, attempts: u32, member: u16, used: u32) -> State {
        let attempts = u64::from(attempts.min(0xfff));
        State(kind as u64 | attempts << 4 | u64::from(member) << 16 | u64::from(used) << 32)
    }

    /// `None` where it is free, or makes no sense.
    pub(super) fn kind(self) -> Option<Kind> {
        match self.0 & 7 {
            1 => Some(Kind::Held),
            2 => Some(Kind::Again),
            3 => Some(Kind::Doubt),
            _ => None,
        }
    }

    pub(super) fn attempts(self) -> u32 {
        (self.0 >> 4 & 0xfff) as u32
    }

    pub(super) fn member(self) -> u16 {
        (self.0 >> 16) as u16
    }

    fn used(self) -> u32 {
        (self.0 >> 32) as u32
    }

    fn with(self, kind: Kind) -> State {
        State::new(kind, self.attempts(), self.member(), self.used())
    }

    pub(super) fn taken_again(self, member: u16) -> State {
        State::new(Kind::Held, self.attempts() + 1, member, self.used())
    }

    #[cfg(not(loom))]
    fn left(self) -> State {
        State(self.0 | LEFT)
    }

    fn nobodys(self) -> State {
        State::new(Kind::Held, self.attempts(), NOBODY, self.used())
    }

    fn freed(self) -> State {
        State(u64::from(self.used()) << 32)
    }

    /// What a record says whose blocks may have been taken in this use of it.
    fn opened(self) -> u64 {
        1 << 32 | u64::from(self.used())
    }
}

/// The records of one take: one, or one per item where each may be delivered again by itself.
#[derive(Debug)]
pub struct Hand {
    first: Option<(u32, State)>,
    more: Vec<(u32, State)>,
}

impl Hand {
    pub(super) fn none() -> Hand {
        Hand { first: None, more: Vec::new() }
    }

    pub(super) fn push(&mut self, record: (u32, State)) {
        if self.first.is_none() {
            self.first = Some(record);
        } else {
            self.more.push(record);
        }
    }

    /// The records, one by one.
    pub fn records(&self) -> impl Iterator<Item = (u32, State)> + '_ {
        self.first.iter().chain(&self.more).copied()
    }
}

impl<M: Memory> Ring<M> {
    pub(super) fn records_used(&self) -> u32 {
        self.words().consumers.records.load(Ordering::Acquire).min(RECORDS as u32)
    }

    /// Writes a record of what is about to be taken. The caller holds the consumers' lock.
    #[inline]
    pub(super) fn hold(
        &self,
        member: u16,
        hint: &mut u32,
        (first, count): (u64, u64),
        pos: u64,
        token: u64,
    ) -> Result<(u32, State), Trouble> {
        let used = self.records_used();
        let is_free = |index: u32| State::of(self.memory.record(index)).kind().is_none();
        let index = if *hint < used && is_free(*hint) { *hint } else { self.free_record(*hint, used)? };
        *hint = index;
        let record = self.memory.record(index);
        let state = State::new(Kind::Held, 0, member, State::of(record).used().wrapping_add(1));
        record.first.store(first, Ordering::Relaxed);
        record.count.store(count, Ordering::Relaxed);
        record.pos.store(pos, Ordering::Relaxed);
        record.token.store(token, Ordering::Relaxed);
        record.state.store(state.0, Ordering::Release);
        Ok((index, state))
    }

    /// Takes back the records of a take that does not come to its commit.
    #[cold]
    pub(super) fn unhold(&self, hand: &Hand) {
        for (index, state) in hand.records() {
            self.memory.record(index).state.store(state.freed().0, Ordering::Release);
        }
    }

    #[cold]
    fn free_record(&self, hint: u32, used: u32) -> Result<u32, Trouble> {
        let records = &self.words().consumers.records;
        let kind = |index: u32| State::of(self.memory.record(index)).kind();
        let is_free = |&index: &u32| kind(index).is_none();
        let start = if hint < used { hint } else { 0 };
        // Not a long search as long as there are unused ones.
        let near = (start..used).take(NEAR).chain((0..start).take(NEAR)).find(is_free);
        if let Some(index) = near {
            return Ok(index);
        }
        if (used as usize) < RECORDS {
            self.memory.reserve_record(used)?;
            records.store(used + 1, Ordering::Release);
            return Ok(used);
        }
        if let Some(index) = (0..used).find(is_free) {
            return Ok(index);
        }
        // What nobody has asked for until now is only counted from now on, the oldest first.
        let ticket = |index: &u32| self.memory.record(*index).first.load(Ordering::Relaxed);
        let oldest = (0..used).filter(|&index| kind(index) == Some(Kind::Doubt)).min_by_key(ticket);
        let index = oldest.ok_or(Trouble::TooManyInHand)?;
        self.lose(index);
        Ok(index)
    }

    /// The owner of these records is done with the items.
    #[inline]
    pub fn acknowledge(&self, hand: &Hand) {
        for (index, state) in hand.records() {
            // Not a plain store: a copy of a claim in a forked child must not free what has become another's.
            let record = self.memory.record(index);
            let _ =
                record.state.compare_exchange(state.0, state.freed().0, Ordering::AcqRel, Ordering::Relaxed);
        }
        crash_point!("queue.acknowledged");
        self.rings_after_acknowledging();
    }

    /// The owner of this record is about to take the blocks of its item: it cannot be delivered again.
    #[cfg(not(loom))]
    pub(super) fn open(&self, (index, state): (u32, State)) {
        if self.shape().keeps() {
            self.memory.record(index).opened.store(state.opened(), Ordering::Release);
            crash_point!("queue.get.opened");
        }
    }

    /// The message of this record's item has nothing in it any more. Where items are delivered again the token stays: it says
    /// that this one cannot be.
    #[cfg(not(loom))]
    pub(super) fn empty(&self, (index, _): (u32, State)) {
        if !self.shape().keeps() {
            self.memory.record(index).token.store(0, Ordering::Relaxed);
            crash_point!("queue.get.emptied");
        }
    }

    /// Leaves records to `task_done`: gives those that are.
    #[cfg(not(loom))]
    pub(super) fn leave(&self, hand: &Hand) -> Vec<(u32, State)> {
        let change = |&(index, state): &(u32, State)| {
            let record = self.memory.record(index);
            record
                .state
                .compare_exchange(state.0, state.left().0, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
        };
        hand.records().filter(change).map(|(index, state)| (index, state.left())).collect()
    }

    /// As [`acknowledge`](Ring::acknowledge) for a record that others may acknowledge at the same time; whether it was
    /// this call.
    pub fn acknowledge_one(&self, (index, state): (u32, State)) -> bool {
        let record = self.memory.record(index);
        let freed =
            record.state.compare_exchange(state.0, state.freed().0, Ordering::AcqRel, Ordering::Relaxed);
        if freed.is_ok() {
            self.rings_after_acknowledging();
        }
        freed.is_ok()
    }

    fn rings_after_acknowledging(&self) {
        let (words, shape) = (self.words(), self.shape());
        if shape.keeps() {
            words.done.acknowledged.fetch_add(1, Ordering::Release);
            words.head.room.ring(ALL);
            if self.is_closed() {
                // It may have been the last one that others waited for.
                words.tail.items.ring(ALL);
            }
        }
        if shape.joinable {
            words.done.gate.ring(ALL);
        }
    }

    /// The owner of these records does not finish with the items: they are treated as if it had died.
    pub fn give_up(&self, hand: &Hand, pid: u32) {
        let Ok(held) = self.lock(Side::Consumers, Patience::Brief) else {
            // Whoever looks after the dead next settles it. This runs in drops, also while a panic unwinds: it must not
            // wait for a holder that is stopped.
            for (index, state) in hand.records() {
                let record = self.memory.record(index);
                let nobodys = state.nobodys().0;
                let _ = record.state.compare_exchange(state.0, nobodys, Ordering::AcqRel, Ordering::Relaxed);
            }
            return;
        };
        let still = |&(index, state): &(u32, State)| State::of(self.memory.record(index)) == state;
        self.settle_records(hand.records().filter(still).collect(), |_| pid);
        drop(held);
        self.rings_after_settling();
    }

    /// A record of this member that is left to `task_done`: the one with the lowest ticket.
    pub fn oldest_of(&self, member: u16) -> Option<(u32, State)> {
        let mine = (0..self.records_used()).filter_map(|index| {
            let record = self.memory.record(index);
            let state = State::of(record);
            let left = state.kind() == Some(Kind::Held) && state.0 & LEFT != 0 && state.member() == member;
            left.then(|| (record.first.load(Ordering::Relaxed), index, state))
        });
        mine.min_by_key(|&(first, ..)| first).map(|(_, index, state)| (index, state))
    }

    /// Whether this member has something in hand, and whether another one has, that may come back.
    pub(super) fn held_here_and_elsewhere(&self, member: u16) -> (bool, bool) {
        let held = (0..self.records_used()).map(|index| State::of(self.memory.record(index)));
        let held = held.filter(|state| state.kind() == Some(Kind::Held));
        held.fold((false, false), |(here, elsewhere), state| {
            let mine = state.member() == member;
            (here || mine, elsewhere || !mine)
        })
    }

    /// Looks for members that died with something in hand, and does what the policy says; whether there were any.
    ///
    /// # Errors
    ///
    /// The consumers' lock cannot be had.
    pub fn look_after(&self) -> Result<bool, Trouble> {
        self.look_after_until(None)
    }

    /// As [`look_after`](Ring::look_after), and waits for no lock longer than until `deadline`, or for a slice.
    pub(super) fn look_after_until(&self, deadline: Option<Deadline>) -> Result<bool, Trouble> {
        let patience = deadline.map_or(Patience::Brief, |_| Patience::Until(Some(Deadline::slice(deadline))));
        if self.shape().heap
            && self.memory.is_orphaned(Side::Producers)
            && let Ok(held) = self.lock(Side::Producers, patience)
        {
            // Its blocks do not wait until somebody puts something.
            drop(held);
        }
        let orphaned = self.memory.is_orphaned(Side::Consumers);
        let mut dead = self.verdicts();
        let mut records = (0..self.records_used()).map(|index| State::of(self.memory.record(index)));
        let any = records.any(|state| state.kind() == Some(Kind::Held) && dead(state.member()));
        if !any && !orphaned {
            return Ok(false);
        }
        match self.lock(Side::Consumers, patience) {
            Ok(held) => {
                // Asked anew: until the lock was had, a dead member's number may have gone to a living process. Under it, it
                // cannot, since that takes the lock too (invariant 3).
                let settled = self.settle(&mut self.verdicts());
                drop(held);
                if settled {
                    self.rings_after_settling();
                }
                Ok(settled)
            }
            Err(NoLock::Held) => Ok(false),
            Err(NoLock::Trouble(trouble)) => Err(trouble),
        }
    }

    /// Who is dead; each is asked for once.
    fn verdicts(&self) -> impl FnMut(u16) -> bool + '_ {
        let mut asked: Vec<(u16, bool)> = Vec::new();
        move |member| match asked.iter().find(|(asked, _)| *asked == member) {
            Some(&(_, dead)) => dead,
            None => {
                let dead = member == NOBODY || self.memory.is_dead(member);
                asked.push((member, dead));
                dead
            }
        }
    }

    /// Settles the records of a member that is known to be dead; false if that cannot be done now.
    pub fn settle_member(&self, member: u16) -> bool {
        match self.lock(Side::Consumers, Patience::Brief) {
            Ok(held) => {
                let settled = self.settle(&mut |other| other == member);
                drop(held);
                if settled {
                    self.rings_after_settling();
                }
                true
            }
            Err(_) => false,
        }
    }

    /// Does with the records of the dead what the policy says. The caller holds the consumers' lock.
    fn settle(&self, dead: &mut dyn FnMut(u16) -> bool) -> bool {
        let records = (0..self.records_used()).map(|index| (index, State::of(self.memory.record(index))));
        let held = records.filter(|(_, state)| state.kind() == Some(Kind::Held));
        let left: Vec<(u32, State)> = held.filter(|(_, state)| dead(state.member())).collect();
        if left.is_empty() {
            return false;
        }
        crash_point!("queue.settle.found");
        self.settle_records(left, |member| self.memory.pid_of(member));
        true
    }

    /// Settles these records, which no living process changes. The caller holds the consumers' lock.
    fn settle_records(&self, records: Vec<(u32, State)>, pid: impl Fn(u16) -> u32) {
        let shape = self.shape();
        let mut tokens = Vec::new();
        let mut again_or_not = |(index, state): (u32, State)| {
            let record = self.memory.record(index);
            let token = if shape.heap { record.token.load(Ordering::Relaxed) } else { 0 };
            // With blocks that were taken out it cannot come again as it was: then it is in doubt under this policy too.
            let again =
                shape.keeps() && (token == 0 || record.opened.load(Ordering::Acquire) != state.opened());
            if token != 0 && !again {
                // Its bytes are nowhere, or are not decoded any more.
                tokens.push(token);
            }
            (index, state, again)
        };
        let records: Vec<(u32, State, bool)> = records.into_iter().map(&mut again_or_not).collect();
        if !tokens.is_empty() {
            // All at once: it is the heap's size that this takes time for, and others wait for the lock. Who settles anew
            // because this process died comes to the same answers, since those who had the records are dead.
            self.memory.revoke(&tokens);
            crash_point!("queue.settle.revoked");
        }
        for (index, state, again) in records {
            self.settle_record(index, state, again, &pid);
        }
    }

    fn settle_record(&self, index: u32, state: State, again: bool, pid: &impl Fn(u16) -> u32) {
        let (record, shape) = (self.memory.record(index), self.shape());
        match shape.policy {
            Policy::Redeliver if again => {
                self.words().tail.again.store(1, Ordering::Release);
                crash_point!("queue.settle.flagged");
                record.state.store(state.with(Kind::Again).0, Ordering::Release);
            }
            Policy::Report | Policy::Redeliver => {
                record.pid.store(pid(state.member()).into(), Ordering::Relaxed);
                record.state.store(state.with(Kind::Doubt).0, Ordering::Release);
            }
            Policy::Drop => self.lose(index),
        }
        crash_point!("queue.settle.settled");
    }

    pub(super) fn rings_after_settling(&self) {
        let words = self.words();
        // Also where nothing came back: those who wait for the end of a closed queue look again.
        words.tail.items.ring(ALL);
        words.done.gate.ring(ALL);
        words.head.room.ring(ALL);
    }

    /// Gives a record's items up (invariant 4).
    pub(super) fn lose(&self, index: u32) {
        let consumers = &self.words().consumers;
        let count = self.memory.record(index).count.load(Ordering::Relaxed);
        let after = consumers.lost.load(Ordering::Relaxed).wrapping_add(count);
        consumers.lost_after.store(after, Ordering::Relaxed);
        consumers.losing.store(index + 1, Ordering::Release);
        crash_point!("queue.lose.noted");
        self.lose_noted();
    }

    fn lose_noted(&self) {
        let consumers = &self.words().consumers;
        let index = consumers.losing.load(Ordering::Acquire);
        if index == 0 || index as usize > RECORDS {
            return;
        }
        consumers.lost.store(consumers.lost_after.load(Ordering::Relaxed), Ordering::Release);
        crash_point!("queue.lose.counted");
        let record = self.memory.record(index - 1);
        record.state.store(State::of(record).freed().0, Ordering::Release);
        crash_point!("queue.lose.freed");
        consumers.losing.store(0, Ordering::Release);
    }

    /// A consumer died under the lock.
    pub(super) fn repair_consumers(&self) -> Result<(), Trouble> {
        let words = self.words();
        let ticket = words.head.ticket.load(Ordering::Relaxed);
        let (_, pos) = Self::entry(&words.consumers.entries, ticket)?;
        // It may have died between its commit and these.
        words.head.taken.store(pos, Ordering::Release);
        if !self.shape().keeps() {
            words.head.freed.store(pos, Ordering::Release);
        }
        self.lose_noted();
        for index in 0..self.records_used() {
            let record = self.memory.record(index);
            let state = State::of(record);
            // It had not come to its commit: the items are in the ring still.
            if state.kind() == Some(Kind::Held) && record.first.load(Ordering::Relaxed) >= ticket {
                record.state.store(state.freed().0, Ordering::Release);
            }
        }
        crash_point!("queue.repair.records");
        words.head.slots.ring(ALL);
        words.head.room.ring(ALL);
        Ok(())
    }

    /// Frees what lies before everything that is in hand or waits to be taken again. Under the consumers' lock.
    pub(super) fn reclaim(&self) -> Result<(), Trouble> {
        let words = self.words();
        let (_, pos) = Self::entry(&words.consumers.entries, words.head.ticket.load(Ordering::Relaxed))?;
        let kept = (0..self.records_used()).filter_map(|index| {
            let record = self.memory.record(index);
            let kept = matches!(State::of(record).kind(), Some(Kind::Held | Kind::Again));
            kept.then(|| record.pos.load(Ordering::Relaxed))
        });
        let freed = kept.fold(pos, u64::min);
        // It never goes back, whatever a record says.
        if freed > words.head.freed.load(Ordering::Relaxed) {
            words.head.freed.store(freed, Ordering::Release);
        }
        Ok(())
    }
}
