//! Every interleaving of something that is done once with those who wait for it, within a bound on preemptions, and
//! mistakes that must be found.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --release -p procession-sync --test loom_once --target-dir target/loom`
#![cfg(loom)]

use loom::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};
use procession_sync::once_model::{Bug, DONE, NOT_DONE, OnceWord, RUNNING, plant};

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

struct Shared {
    word: OnceWord,
    written: AtomicU64,
}

fn shared() -> Arc<Shared> {
    Arc::new(Shared { word: OnceWord::new(), written: AtomicU64::new(0) })
}

/// Sleeps until it is done, and sees what was written before. A wake that is missing is a deadlock.
fn wait(shared: &Shared) {
    while !shared.word.is_done() {
        shared.word.sleep(None, |state| state == DONE);
    }
    assert_eq!(shared.written.load(Ordering::Relaxed), 7);
}

fn run(shared: &Shared) {
    shared.word.begin();
    shared.written.store(7, Ordering::Relaxed);
    shared.word.end(DONE);
}

/// One runs it, and two sleep, from whichever state on.
fn done() {
    let shared = shared();
    let sleepers: Vec<_> = (0..2)
        .map(|_| {
            let shared = shared.clone();
            thread::spawn(move || wait(&shared))
        })
        .collect();
    run(&shared);
    sleepers.into_iter().for_each(|sleeper| sleeper.join().unwrap());
}

/// One gives up, and another one, who sleeps while it is run, runs it.
fn given_up() {
    let shared = shared();
    shared.word.begin();
    let next = {
        let shared = shared.clone();
        thread::spawn(move || {
            while shared.word.state() == RUNNING {
                shared.word.sleep(None, |state| state != RUNNING);
            }
            run(&shared);
        })
    };
    let waits = {
        let shared = shared.clone();
        thread::spawn(move || wait(&shared))
    };
    shared.word.end(NOT_DONE);
    next.join().unwrap();
    waits.join().unwrap();
    assert!(shared.word.is_done());
}

#[test]
fn who_sleeps_is_woken_and_sees_what_was_written() {
    holds(done);
}

#[test]
fn what_was_given_up_is_done_by_one_who_slept() {
    holds(given_up);
}

#[test]
fn finds_a_begin_that_drops_the_flag() {
    finds(Bug::BeginDropsFlag, done);
}

#[test]
fn finds_a_flag_that_is_read_too_early() {
    finds(Bug::FlagReadBefore, done);
}

#[test]
fn finds_an_end_that_publishes_nothing() {
    finds(Bug::EndPublishesNothing, done);
}

#[test]
fn finds_a_flag_that_is_forced() {
    finds(Bug::FlagForced, done);
}
