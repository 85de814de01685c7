//! Every interleaving of a worker that runs an item and a parent that cancels or condemns it, and mistakes that must be
//! found.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --release -p procession-pool --test loom --target-dir target/loom`
#![cfg(loom)]

#[path = "../src/local/hand.rs"]
#[expect(dead_code, reason = "the model uses a part of it")]
mod hand;

use hand::{ASKED, Bug, Hand, plant, revoke};
use loom::{sync::Arc, thread};
use procession_sys::sync::{AtomicU32, AtomicU64, Ordering};

fn holds(model: fn()) {
    // The model checker forgets nothing: no bound on preemptions is needed for so few steps.
    loom::model(model);
}

fn finds(bug: Bug, model: fn()) {
    procession_sys::planted::finds(&bug, || {
        plant(Some(bug));
        holds(model);
    });
}

#[derive(Default)]
struct Page {
    hand: Hand,
    revoked: AtomicU32,
    /// The results that are committed.
    lane: AtomicU64,
}

/// A worker runs item 1, then item 2; the parent condemns what it finds in hand.
fn condemned_or_committed() {
    let page = Arc::new(Page::default());
    let worker = thread::spawn({
        let page = page.clone();
        move || {
            for number in 1..=2 {
                assert!(page.hand.begin(number, number * 10, None));
                if !page.hand.finish(number) {
                    return;
                }
                page.lane.store(number, Ordering::Release);
            }
        }
    });
    let condemned = page.hand.look().filter(|item| page.hand.condemn(item.number));
    worker.join().unwrap();
    let committed = page.lane.load(Ordering::Acquire);
    match condemned {
        // Exactly those before it have a result.
        Some(item) => assert_eq!(committed, item.number - 1),
        None => assert_eq!(committed, 2),
    }
}

/// No item that is condemned for its age is taken for older than it is.
fn no_item_is_older_than_it_is() {
    let page = Arc::new(Page::default());
    let worker = thread::spawn({
        let page = page.clone();
        move || {
            for number in 1..=2 {
                page.hand.begin(number, number * 10, None);
                if !page.hand.finish(number) {
                    return;
                }
            }
        }
    });
    if let Some(item) = page.hand.look() {
        assert!(item.began >= item.number * 10);
    }
    worker.join().unwrap();
}

/// The parent revokes the task and then looks whether its item is in hand: if not, it is finished or never runs.
fn what_is_revoked_and_not_in_hand_is_not_run() {
    let page = Arc::new(Page::default());
    let worker = thread::spawn({
        let page = page.clone();
        move || {
            let runs = page.hand.begin(1, 0, Some(&page.revoked));
            (runs, page.hand.finish(1))
        }
    });
    revoke(&page.revoked, ASKED);
    let seen = page.hand.look();
    let before = page.hand.is_done(1);
    let condemned = seen.is_some_and(|item| page.hand.condemn(item.number));
    let (ran, finished) = worker.join().unwrap();
    assert_eq!(condemned, !finished, "one of the two has it");
    if seen.is_none() && !before {
        assert!(!ran, "nobody saw it in hand, and it ran");
    }
}

#[test]
fn an_item_is_condemned_or_committed_and_no_other_is_hit() {
    holds(condemned_or_committed);
}

#[test]
fn a_worker_that_does_not_look_is_found() {
    finds(Bug::FinishByStore, condemned_or_committed);
}

#[test]
fn no_item_is_taken_for_older_than_it_is() {
    holds(no_item_is_older_than_it_is);
}

#[test]
fn a_time_that_comes_after_the_item_is_found() {
    finds(Bug::TimeAfterHand, no_item_is_older_than_it_is);
}

#[test]
fn what_is_revoked_is_seen_in_hand_or_not_run() {
    holds(what_is_revoked_and_not_in_hand_is_not_run);
}

#[test]
fn a_worker_that_looks_too_early_is_found() {
    finds(Bug::NoFenceBeforeLook, what_is_revoked_and_not_in_hand_is_not_run);
}

#[test]
fn a_parent_that_looks_too_early_is_found() {
    finds(Bug::NoFenceAfterRevoking, what_is_revoked_and_not_in_hand_is_not_run);
}
