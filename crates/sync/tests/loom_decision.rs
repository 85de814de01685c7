//! Every interleaving of a barrier's round that is released while a party leaves it, within a bound on preemptions, and
//! mistakes that must be found.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --release -p procession-sync --test loom_decision --target-dir target/loom`
#![cfg(loom)]

use loom::{sync::Arc, thread};
use procession_sync::{
    decision_model::{ARGUMENT, BREAK, Bug, Decision, RELEASE, plant},
    event_model::Entry,
};

const WAITING: u32 = 1;
const RELEASED: u32 = 2;
const BROKEN: u32 = 3;

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

struct Round {
    decision: Decision,
    /// One that leaves, and one that stays.
    parties: [Entry; 2],
}

fn round() -> Arc<Round> {
    let round = Round { decision: Decision::new(), parties: [Entry::new(), Entry::new()] };
    for entry in &round.parties {
        entry.fill(1, 0, 0, WAITING);
    }
    Arc::new(round)
}

/// By who holds the mutex: what `barrier.rs` does, without what does not bear on this.
fn carry_out(round: &Round) -> bool {
    let (made, reason) = round.decision.made();
    for entry in &round.parties {
        let to = if made == RELEASE { RELEASED } else { BROKEN };
        if to == BROKEN {
            entry.set_note(reason);
        }
        let _ = entry.change(WAITING, to);
    }
    let next = round.decision.next();
    round.decision.carried_out(next);
    made == RELEASE
}

/// Whether it left as one that was released.
fn leaves(round: &Round) -> bool {
    match round.decision.leave(&round.parties[0], WAITING, 0, BREAK | 7) {
        Some((made, argument)) => {
            assert!(made == RELEASE || argument == 7);
            made == RELEASE
        }
        None => round.parties[0].state() == RELEASED,
    }
}

/// The last party releases while another one leaves: all get the same answer.
fn one_answer() {
    let round = round();
    let last = {
        let round = round.clone();
        thread::spawn(move || {
            let committed = round.decision.commit(0, RELEASE);
            (committed, carry_out(&round))
        })
    };
    let left_released = leaves(&round);
    let (committed, released) = last.join().unwrap();
    assert_eq!(committed, released);
    assert_eq!(left_released, released);
    let stayed = round.parties[1].state();
    assert_eq!(stayed, if released { RELEASED } else { BROKEN });
    assert!(released || round.parties[1].note() == 7);
}

/// A party that leaves late decides nothing of the next round.
fn its_own_round() {
    let round = round();
    let leaver = {
        let round = round.clone();
        thread::spawn(move || leaves(&round))
    };
    round.decision.commit(0, RELEASE);
    carry_out(&round);
    leaver.join().unwrap();
    assert_eq!(round.decision.made(), (0, 1 & ARGUMENT), "the next round is under way");
}

#[test]
fn all_parties_of_a_round_get_one_answer() {
    holds(one_answer);
}

#[test]
fn who_leaves_decides_its_own_round_only() {
    holds(its_own_round);
}

#[test]
fn finds_a_decision_on_any_round() {
    finds(Bug::AnyRound, its_own_round);
}

#[test]
fn finds_a_decision_over_another_one() {
    finds(Bug::NotCompared, one_answer);
}

#[test]
fn finds_one_who_takes_its_own_decision_for_granted() {
    finds(Bug::OwnAnswer, one_answer);
}
