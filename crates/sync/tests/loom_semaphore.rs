//! The semaphore's permits: every interleaving within a bound on preemptions, deaths at each step, and mistakes that must
//! be found.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --release -p procession-sync --test loom_semaphore --target-dir target/loom`
#![cfg(loom)]

use loom::{cell::Cell, sync::Arc, thread};
use procession_sync::semaphore_model::{Attempt, Bug, Fate, Semaphore, plant};
use procession_sys::{
    Spin,
    sync::{AtomicU32, Ordering},
};

fn holds(model: impl Fn() + Sync + Send + 'static) {
    holds_within(3, model);
}

fn holds_within(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

/// The model must find this mistake.
fn finds(bug: Bug, model: fn()) {
    procession_sys::planted::finds(&bug, || {
        plant(Some(bug));
        model();
    });
}

const BEFORE: [&str; 3] = ["semaphore.booked", "semaphore.begun", "semaphore.helped"];
const AFTER: [&str; 2] = ["semaphore.committed", "semaphore.done"];
const RECOVERY: [&str; 6] = [
    "semaphore.recover.read",
    "semaphore.recover.closed",
    "semaphore.begun",
    "semaphore.helped",
    "semaphore.committed",
    "semaphore.done",
];

fn done(attempt: Attempt) -> bool {
    matches!(attempt, Attempt::Done { .. })
}

/// What is free and what is held, together.
fn books(semaphore: &Semaphore) -> u32 {
    (0..semaphore.slots.len()).map(|process| semaphore.held(process)).sum::<u32>() + semaphore.permits.value()
}

/// Recovers a dead process: the first recoverer may die as well.
fn recovered(semaphore: &Semaphore, process: usize, fate: Fate) {
    if fate != Fate::Lives {
        semaphore.recover(process, fate);
    }
    assert!(done(semaphore.recover(process, Fate::Lives)));
    assert_eq!(semaphore.held(process), 0);
}

/// Process 0 takes and gives, and dies in the first, second or third operation at `point`; process 1 takes and gives
/// meanwhile. Then 0 is recovered, by one who may die too.
fn dies(operation: u32, point: &'static str, recoverer: Fate) {
    let semaphore = Semaphore::new(2, 9, 3);
    let victim = {
        let semaphore = semaphore.clone();
        thread::spawn(move || {
            for number in 0..operation {
                let attempt = match number % 2 {
                    0 => semaphore.take(0, 1, Fate::Lives),
                    _ => semaphore.give(0, 1, Fate::Lives),
                };
                assert!(done(attempt));
            }
            let fate = Fate::DiesAt(point);
            let last = match operation % 2 {
                0 => semaphore.take(0, 1, fate),
                _ => semaphore.give(0, 1, fate),
            };
            assert_eq!(last, Attempt::Died);
        })
    };
    assert!(done(semaphore.take(1, 1, Fate::Lives)));
    let third = {
        let (semaphore, victim) = (semaphore.clone(), victim);
        thread::spawn(move || {
            victim.join().unwrap();
            recovered(&semaphore, 0, recoverer);
        })
    };
    assert!(done(semaphore.give(1, 1, Fate::Lives)));
    third.join().unwrap();
    assert_eq!((books(&semaphore), semaphore.permits.value()), (2, 2), "{operation} {point} {recoverer:?}");
}

#[test]
fn a_death_at_any_step_leaves_what_recovery_puts_right() {
    for operation in 0..3 {
        for point in BEFORE.into_iter().chain(AFTER) {
            holds_within(2, move || dies(operation, point, Fate::Lives));
        }
    }
}

#[test]
fn a_recovery_that_dies_is_recovered() {
    for operation in 0..2 {
        for point in ["semaphore.begun", "semaphore.committed"] {
            for step in RECOVERY {
                holds_within(2, move || dies(operation, point, Fate::DiesAt(step)));
            }
        }
    }
}

/// Two processes, one permit: never both inside, and what one did inside the other sees.
fn exclusive() {
    let semaphore = Semaphore::new(1, 1, 2);
    let inside = Arc::new(Cell::new(0));
    let work = |process: usize, semaphore: Arc<Semaphore>, inside: Arc<Cell<u32>>| {
        let mut spin = Spin::none();
        while !done(semaphore.take(process, 1, Fate::Lives)) {
            semaphore.permits.wait_slice(1, None, &mut spin);
        }
        inside.set(inside.get() + 1);
        match semaphore.give(process, 1, Fate::Lives) {
            Attempt::Done { sleepers } => semaphore.permits.ring_if(sleepers, 1),
            other => panic!("{other:?}"),
        }
    };
    let other = {
        let (semaphore, inside) = (semaphore.clone(), inside.clone());
        thread::spawn(move || work(1, semaphore, inside))
    };
    work(0, semaphore.clone(), inside.clone());
    other.join().unwrap();
    assert_eq!(inside.get(), 2);
    assert_eq!((books(&semaphore), semaphore.permits.value()), (1, 1));
}

#[test]
fn one_permit_excludes_and_no_wake_is_lost() {
    holds(exclusive);
}

/// Process 0 goes through all numbers that the tag can tell apart, and dies before its last commit; a slow helper has seen
/// the first.
fn numbers_wrap() {
    let semaphore = Semaphore::new(9, 9, 2);
    let victim = {
        let semaphore = semaphore.clone();
        thread::spawn(move || {
            for _ in 0..4 {
                assert!(done(semaphore.take(0, 1, Fate::Lives)));
            }
            assert_eq!(semaphore.take(0, 1, Fate::DiesAt("semaphore.begun")), Attempt::Died);
        })
    };
    assert!(done(semaphore.take(1, 1, Fate::Lives)));
    victim.join().unwrap();
    recovered(&semaphore, 0, Fate::Lives);
    assert_eq!(semaphore.permits.value(), 8);
}

#[test]
fn a_slow_helper_records_nothing_that_was_not_done() {
    holds(numbers_wrap);
}

/// An attempt that begins and then finds too few permits, again and again, and a death after it.
fn given_up() {
    let semaphore = Semaphore::new(2, 9, 2);
    assert!(done(semaphore.take(0, 1, Fate::Lives)));
    let other = {
        let semaphore = semaphore.clone();
        thread::spawn(move || semaphore.permits.acquire(1))
    };
    let taken = done(semaphore.take(0, 1, Fate::Lives));
    assert_ne!(taken, other.join().unwrap(), "one of the two has it");
    if !taken {
        semaphore.permits.release(1).unwrap();
    }
    assert_eq!(semaphore.take(0, 0, Fate::DiesAt("semaphore.begun")), Attempt::Died);
    recovered(&semaphore, 0, Fate::Lives);
    assert_eq!(semaphore.permits.value(), 2);
}

#[test]
fn an_operation_that_was_given_up_changes_nothing() {
    holds(given_up);
}

fn wait(semaphore: &Semaphore, count: u32) {
    while !semaphore.permits.acquire(count) {
        semaphore.permits.wait_slice(count, None, &mut Spin::none());
    }
}

/// One sleeper twice, and one who releases twice.
fn ping() {
    let semaphore = Semaphore::new(0, 9, 0);
    let sleeper = {
        let semaphore = semaphore.clone();
        thread::spawn(move || (0..2).for_each(|_| wait(&semaphore, 1)))
    };
    semaphore.permits.release(1).unwrap();
    semaphore.permits.release(1).unwrap();
    sleeper.join().unwrap();
    assert_eq!(semaphore.permits.value(), 0);
}

#[test]
fn each_release_finds_its_sleeper() {
    holds(ping);
}

/// One who wants two permits, and one who wants one: the single release must find the right one.
fn many() {
    let semaphore = Semaphore::new(0, 9, 0);
    let [two, one] = [2, 1].map(|count| {
        let semaphore = semaphore.clone();
        thread::spawn(move || wait(&semaphore, count))
    });
    semaphore.permits.release(1).unwrap();
    one.join().unwrap();
    semaphore.permits.release(2).unwrap();
    two.join().unwrap();
}

#[test]
fn one_who_wants_many_keeps_nobody_asleep() {
    holds_within(2, many);
}

/// Two release for one permit: exactly one succeeds.
#[test]
fn the_bound_is_exact() {
    holds(|| {
        let semaphore = Semaphore::new(1, 2, 0);
        let released = Arc::new(AtomicU32::new(0));
        let release = |semaphore: &Semaphore, released: &AtomicU32| {
            released.fetch_add(u32::from(semaphore.permits.release(1).is_ok()), Ordering::Relaxed);
        };
        let other = {
            let (semaphore, released) = (semaphore.clone(), released.clone());
            thread::spawn(move || release(&semaphore, &released))
        };
        release(&semaphore, &released);
        other.join().unwrap();
        assert_eq!((released.load(Ordering::Relaxed), semaphore.permits.value()), (1, 2));
    });
}

#[test]
fn a_tag_that_is_not_recorded_is_found() {
    finds(Bug::NoHelp, || holds(|| dies(0, "semaphore.committed", Fate::Lives)));
}

#[test]
fn a_helper_that_does_not_look_twice_is_found() {
    finds(Bug::NoSecondLook, || holds(numbers_wrap));
}

#[test]
fn a_record_after_the_commit_is_found() {
    finds(Bug::HelpAfterCommit, || holds(|| dies(0, "semaphore.committed", Fate::Lives)));
}

#[test]
fn a_count_overwritten_in_place_is_found() {
    finds(Bug::OneBook, || holds(|| dies(1, "semaphore.begun", Fate::Lives)));
}

#[test]
fn a_number_that_is_not_used_again_is_found() {
    finds(Bug::NumberNotReused, || holds(given_up));
}

#[test]
fn a_record_read_before_the_tag_is_found() {
    finds(Bug::RecordBeforeTag, || holds(|| dies(0, "semaphore.committed", Fate::Lives)));
}

#[test]
fn giving_back_before_writing_it_down_is_found() {
    finds(Bug::GiveThenForget, || {
        holds(|| dies(1, "semaphore.booked", Fate::DiesAt("semaphore.begun")));
    });
}

#[test]
fn a_commit_that_publishes_nothing_is_found() {
    finds(Bug::RelaxedCommit, || holds(exclusive));
}

#[test]
fn a_bell_read_after_the_flag_is_found() {
    finds(Bug::BellReadAfterFlag, || holds(ping));
}

#[test]
fn a_look_before_the_flag_only_is_found() {
    finds(Bug::LookBeforeFlag, || holds(ping));
}

#[test]
fn a_ring_that_does_not_count_is_found() {
    finds(Bug::BellNotCounted, || holds(ping));
}

#[test]
fn a_flag_cleared_silently_is_found() {
    finds(Bug::ClearedSilently, || holds(ping));
}

#[test]
fn a_wake_for_the_wrong_sleeper_is_found() {
    finds(Bug::AsManyAsGiven, || holds_within(2, many));
}
