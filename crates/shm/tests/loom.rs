//! Every interleaving of the holders of a read-only block, and of rings with sweeps, within a bound on preemptions, and mistakes that must be found.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --release -p procession-shm --test loom --target-dir target/loom`
#![cfg(loom)]

#[path = "../src/heap/bug.rs"]
mod bug;
#[path = "../src/heap/holders.rs"]
mod holders;
#[path = "../src/heap/rings.rs"]
mod rings;
#[path = "../src/heap/word.rs"]
#[allow(dead_code, reason = "the model has holders, and no blocks")]
mod word;

/// The atomics of the protocol, which are loom's here.
mod sync {
    pub(crate) use loom::sync::atomic::{AtomicU64, Ordering, fence};
}

use bug::{Bug, plant};
use holders::{Records, add, clear, end};
use loom::{cell::UnsafeCell, sync::Arc, thread};
use rings::{Rings, enter, look, next};
use sync::{AtomicU64, Ordering};
use word::{Life, Token, Word};

const COLUMNS: u32 = 3;

/// One record, and the block that it is about.
struct Model {
    record: AtomicU64,
    slots: Vec<AtomicU64>,
    tokens: AtomicU64,
    ends: AtomicU64,
    /// Read by holders, written by who ends the record: any two of these at once are a race.
    block: UnsafeCell<u64>,
}

impl Records for Model {
    fn record(&self, _: u32) -> &AtomicU64 {
        &self.record
    }

    fn slot(&self, _: u32, column: u32) -> &AtomicU64 {
        &self.slots[column as usize]
    }

    fn token(&self) -> Token {
        Token::new(self.tokens.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

fn owned(member: u16) -> u64 {
    Life { member, life: 1 }.owned()
}

impl Model {
    /// With these holders in its first columns, and as many columns in use as `columns` says.
    fn new(holders: &[u64], columns: u32) -> Arc<Model> {
        let slot = |column: u32| AtomicU64::new(holders.get(column as usize).copied().unwrap_or(0));
        Arc::new(Model {
            record: AtomicU64::new(Token::new(1).shared(columns)),
            slots: (0..COLUMNS).map(slot).collect(),
            tokens: AtomicU64::new(1),
            ends: AtomicU64::new(0),
            block: UnsafeCell::new(0),
        })
    }

    fn read(&self) {
        self.block.with(|block| {
            // SAFETY: the model fails if this is not ordered against every write.
            unsafe { block.read() }
        });
    }

    /// Lets go; whoever is the last frees the block.
    fn leave(&self, column: u32, value: u64) {
        assert!(clear(self, 0, column, value));
        if end(self, 0, owned(9)) {
            self.ends.fetch_add(1, Ordering::Relaxed);
            self.block.with_mut(|block| {
                // SAFETY: as for `read`.
                unsafe { block.write(1) }
            });
        }
    }
}

fn holds(model: fn()) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

/// The model must find this mistake.
fn finds(bug: Bug, model: fn()) {
    procession_sys::planted::finds(&bug, || {
        plant(Some(bug));
        holds(model);
    });
}

/// Two holders let go at once: one of them frees the block.
fn two_leave() {
    let model = Model::new(&[owned(1), owned(2)], 2);
    let other = {
        let model = model.clone();
        thread::spawn(move || {
            model.read();
            model.leave(1, owned(2));
        })
    };
    model.read();
    model.leave(0, owned(1));
    other.join().unwrap();
    assert_eq!(model.ends.load(Ordering::Relaxed), 1);
}

/// A holder passes its hold on to another slot while one lets go: the block lives until the new one lets go.
fn one_passes_on() {
    let model = Model::new(&[0, owned(1), owned(2)], 3);
    let other = {
        let model = model.clone();
        thread::spawn(move || {
            model.read();
            model.leave(1, owned(1));
        })
    };
    let transit = Token::new(77).transit();
    let holds = || model.slots[2].load(Ordering::Acquire) == owned(2);
    let column = add(&*model, 0, transit, holds).unwrap();
    model.leave(2, owned(2));
    model.read();
    model.leave(column, transit);
    other.join().unwrap();
    assert_eq!(model.ends.load(Ordering::Relaxed), 1);
}

/// Both need a slot, and there is none in the columns that are in use.
fn both_widen() {
    let model = Model::new(&[owned(1)], 1);
    let holds = |model: &Model| model.slots[0].load(Ordering::Acquire) == owned(1);
    let other = {
        let model = model.clone();
        thread::spawn(move || add(&*model, 0, owned(2), || holds(&model)).unwrap())
    };
    let column = add(&*model, 0, owned(3), || holds(&model)).unwrap();
    let others = other.join().unwrap();
    assert_ne!(column, others);
    model.leave(0, owned(1));
    model.leave(others, owned(2));
    assert_eq!(model.ends.load(Ordering::Relaxed), 0);
    model.leave(column, owned(3));
    assert_eq!(model.ends.load(Ordering::Relaxed), 1);
}

/// One entry for a ring, and one block.
struct Table {
    entry: AtomicU64,
    top: AtomicU64,
    tokens: AtomicU64,
    /// A bit for each token whose lock is held.
    living: AtomicU64,
    block: AtomicU64,
}

impl Rings for Table {
    fn entry(&self, _: u32) -> &AtomicU64 {
        &self.entry
    }

    fn top(&self) -> &AtomicU64 {
        &self.top
    }

    fn tokens(&self) -> &AtomicU64 {
        &self.tokens
    }

    fn lives(&self, token: Token) -> bool {
        // Relaxed: nothing is asked of the kernel's locks but that they are there once they were taken.
        self.living.load(Ordering::Relaxed) & (1 << token.number()) != 0
    }
}

impl Table {
    /// Where a ring with token 1 was, which sent a message with token 2 and is dead; perhaps its entry was freed.
    fn new(freed: bool) -> Arc<Table> {
        let entry = if freed { 0 } else { Token::new(1).transit() };
        Arc::new(Table {
            entry: AtomicU64::new(entry),
            top: AtomicU64::new(1),
            tokens: AtomicU64::new(2),
            living: AtomicU64::new(0),
            block: AtomicU64::new(0),
        })
    }

    /// Makes a ring, and puts the block into a message.
    fn send(&self) {
        let token = next(self);
        self.living.fetch_or(1 << token.number(), Ordering::Relaxed);
        let ring = enter(self, token).expect("the entry is of a dead ring");
        self.block.store(next(self).message(ring), Ordering::Release);
    }
}

/// A sweep beside a new ring that takes a dead one's place: what it sends is not swept, what the dead one sent is.
fn a_ring_follows(freed: bool) {
    let table = Table::new(freed);
    let other = {
        let table = table.clone();
        thread::spawn(move || table.send())
    };
    let over = look(&*table);
    assert!(over.is(0, Token::new(2)));
    if let Word::Message { ring, token } = Word::read(table.block.load(Ordering::Acquire)) {
        assert!(!over.is(ring, token), "a living ring's message was called over");
    }
    other.join().unwrap();
    let Word::Message { ring, token } = Word::read(table.block.load(Ordering::Acquire)) else {
        panic!("nothing was sent")
    };
    assert!(!over.is(ring, token), "it is called over by a look from before");
}

fn a_ring_follows_a_dead_one() {
    a_ring_follows(false);
}

fn a_ring_follows_one_whose_entry_was_freed() {
    a_ring_follows(true);
}

/// Two sweeps and a new ring: a dead ring's entry is freed once, and the new one's never.
fn two_look() {
    let table = Table::new(false);
    let sweeps = {
        let table = table.clone();
        thread::spawn(move || look(&*table))
    };
    table.send();
    let over = sweeps.join().unwrap();
    let again = look(&*table);
    let Word::Message { ring, token } = Word::read(table.block.load(Ordering::Acquire)) else {
        panic!("nothing was sent")
    };
    assert!(!over.is(ring, token) && !again.is(ring, token));
    assert!(over.is(0, Token::new(2)) && again.is(0, Token::new(2)));
}

#[test]
fn a_sweep_spares_the_messages_of_a_ring_that_follows_a_dead_one() {
    holds(a_ring_follows_a_dead_one);
}

#[test]
fn a_sweep_spares_the_messages_of_a_ring_in_a_free_entry() {
    holds(a_ring_follows_one_whose_entry_was_freed);
}

#[test]
fn two_sweeps_free_a_dead_rings_entry_and_no_other() {
    holds(two_look);
}

#[test]
fn finds_tokens_that_are_read_late() {
    finds(Bug::TokensReadLate, a_ring_follows_a_dead_one);
}

#[test]
fn finds_an_entry_of_which_all_messages_count_as_over() {
    finds(Bug::AllOfADeadRing, a_ring_follows_a_dead_one);
}

#[test]
fn of_two_that_leave_at_once_one_frees() {
    holds(two_leave);
}

#[test]
fn a_hold_that_is_passed_on_keeps_the_block() {
    holds(one_passes_on);
}

#[test]
fn two_that_need_another_column_get_two() {
    holds(both_widen);
}

#[test]
fn finds_a_missing_fence() {
    finds(Bug::NoFenceBeforeLook, two_leave);
}

#[test]
fn finds_a_hold_without_a_new_version() {
    finds(Bug::NoNewVersion, one_passes_on);
}

#[test]
fn finds_a_version_that_is_read_late() {
    finds(Bug::VersionReadLate, one_passes_on);
}
