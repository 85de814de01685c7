//! Every interleaving of the event's word and of a waiter's entry, within a bound on preemptions, and mistakes that must
//! be found.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --release -p procession-sync --test loom_event --target-dir target/loom`
#![cfg(loom)]
#![expect(unsafe_code, reason = "the model's cells hand out pointers")]

use loom::{cell::UnsafeCell, sync::Arc, thread};
use procession_sync::event_model::{Bug, Entry, EventWord, plant};
use procession_sys::Spin;

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

/// An event, and data that it publishes.
struct Shared {
    event: EventWord,
    data: UnsafeCell<u32>,
}

fn shared() -> Arc<Shared> {
    Arc::new(Shared { event: EventWord::new(), data: UnsafeCell::new(0) })
}

fn wait(event: &EventWord) {
    assert!(event.wait(None, &mut Spin::none()));
}

/// One sets after it has written; the other one waits, then reads.
fn set_and_wait() {
    let shared = shared();
    let setter = {
        let shared = shared.clone();
        thread::spawn(move || {
            // SAFETY: the model fails if this is not ordered before the read.
            shared.data.with_mut(|data| unsafe { *data = 7 });
            shared.event.set();
        })
    };
    wait(&shared.event);
    // SAFETY: the model fails if this is not ordered after the write.
    assert_eq!(shared.data.with(|data| unsafe { *data }), 7);
    setter.join().unwrap();
}

/// The wait begins before the set, as a word that the waiter stores shows; the event is cleared at once.
fn set_and_clear() {
    let shared = Arc::new((EventWord::new(), EventWord::new()));
    let setter = {
        let shared = shared.clone();
        thread::spawn(move || {
            // A second event whose wait has the first one's flag set and cleared in between.
            shared.0.set();
            shared.0.clear();
            shared.1.set();
        })
    };
    let waits = {
        let shared = shared.clone();
        thread::spawn(move || {
            // It returns for the set that came in between, or there is another one: below.
            wait(&shared.0);
        })
    };
    wait(&shared.1);
    setter.join().unwrap();
    // Whoever came too late for the first set is let go.
    shared.0.set();
    waits.join().unwrap();
}

/// A waiter that sleeps when the event is set and cleared at once: nobody sets it again.
fn sleeper_sees_a_short_set() {
    let shared = Arc::new(EventWord::new());
    let setter = {
        let shared = shared.clone();
        thread::spawn(move || {
            shared.set();
            shared.clear();
        })
    };
    // As a wait that began before the set: one that began after it would wait for ever.
    shared.wait_from_the_start();
    setter.join().unwrap();
}

/// Two sleep; one set wakes both.
fn two_sleepers() {
    let shared = shared();
    let sleepers: Vec<_> = (0..2)
        .map(|_| {
            let shared = shared.clone();
            thread::spawn(move || wait(&shared.event))
        })
        .collect();
    shared.event.set();
    for sleeper in sleepers {
        sleeper.join().unwrap();
    }
}

/// A clear of an event that is not set, while somebody falls asleep.
fn clear_then_set() {
    let shared = shared();
    let sleeper = {
        let shared = shared.clone();
        thread::spawn(move || wait(&shared.event))
    };
    shared.event.clear();
    shared.event.set();
    sleeper.join().unwrap();
}

/// A waiter's entry: notified, or left by a waiter that gives up: never both, never neither.
fn notified_or_left() {
    const WAITING: u32 = 1;
    const NOTIFIED: u32 = 2;
    let entry = Arc::new(Entry::new());
    entry.fill(1, 0, 0, WAITING);
    let notifier = {
        let entry = entry.clone();
        thread::spawn(move || entry.change(WAITING, NOTIFIED).is_some())
    };
    let left = entry.change(WAITING, 0).is_some();
    assert_ne!(notifier.join().unwrap(), left);
}

/// A waiter that sleeps on its entry is woken, and sees what was noted.
fn entry_wakes() {
    const WAITING: u32 = 1;
    const NOTIFIED: u32 = 2;
    let entry = Arc::new(Entry::new());
    entry.fill(1, 0, 0, WAITING);
    let notifier = {
        let entry = entry.clone();
        thread::spawn(move || {
            entry.set_note(9);
            if entry.change(WAITING, NOTIFIED) == Some(true) {
                entry.wake();
            }
        })
    };
    while entry.state() == WAITING {
        entry.wait_slice(WAITING, None, &mut Spin::none());
    }
    assert_eq!(entry.note(), 9);
    notifier.join().unwrap();
}

#[test]
fn what_is_written_before_a_set_is_read_after_the_wait() {
    holds(set_and_wait);
}

#[test]
fn a_set_that_is_cleared_at_once_ends_a_wait() {
    holds(sleeper_sees_a_short_set);
}

#[test]
fn sets_and_clears_lose_nobody() {
    holds(set_and_clear);
}

#[test]
fn a_set_wakes_all_its_sleepers() {
    holds(two_sleepers);
}

#[test]
fn a_clear_leaves_the_sleepers_flag() {
    holds(clear_then_set);
}

#[test]
fn an_entry_is_notified_or_left() {
    holds(notified_or_left);
}

#[test]
fn an_entrys_owner_is_woken() {
    holds(entry_wakes);
}

#[test]
fn finds_a_set_that_does_not_wake() {
    finds(Bug::SetDoesNotWake, set_and_wait);
}

#[test]
fn finds_a_set_that_wakes_one() {
    finds(Bug::SetWakesOne, two_sleepers);
}

#[test]
fn finds_a_set_that_is_not_counted() {
    finds(Bug::SetIsNotCounted, sleeper_sees_a_short_set);
}

#[test]
fn finds_a_set_that_does_not_publish() {
    finds(Bug::SetDoesNotPublish, set_and_wait);
}

#[test]
fn finds_a_clear_that_drops_the_flag() {
    finds(Bug::ClearDropsTheFlag, clear_then_set);
}

#[test]
fn finds_a_flag_that_is_forced() {
    finds(Bug::FlagIsForced, set_and_wait);
}
