//! Death at every instruction of a take and a give back, and of the recovery itself.
//!
//! After each death the free permits and those of the living are all that there were.

use procession_sync::Semaphore;
use procession_testkit::{
    isolated_within,
    step::{Options, count, each_instruction, each_instruction_after, stride},
    wait::eventually,
};
use std::time::Duration;

const BOUND: Duration = Duration::from_secs(10);
const PERMITS: u32 = 5;

/// All instructions, or one of `thin`; where the code is not optimised it takes several times as many.
fn options(thin: u64) -> Options {
    Options { stride: stride(if cfg!(debug_assertions) { thin * 5 } else { thin }), ..Options::default() }
}

fn isolated(name: &str, body: impl FnOnce()) {
    isolated_within(name, Duration::from_secs(240), body);
}

fn semaphore() -> Semaphore {
    Semaphore::new(PERMITS).unwrap()
}

/// Before it dies: it owns two permits for good.
fn own_two(semaphore: &mut Semaphore) {
    std::mem::forget(semaphore.permits(2).unwrap());
}

fn take_and_give(semaphore: &mut Semaphore, (): ()) {
    let one = semaphore.permit();
    drop(one);
}

/// What another process does between the death and its recovery.
fn operate(semaphore: &Semaphore) {
    let one = semaphore.permit().unwrap();
    semaphore.acquire().unwrap();
    drop(one);
    semaphore.release().unwrap();
}

fn balances(semaphore: &Semaphore) {
    eventually("the permits are back", BOUND, || semaphore.value() == PERMITS);
    assert_eq!(semaphore.held(), 0);
    operate(semaphore);
    assert_eq!((semaphore.value(), semaphore.held()), (PERMITS, 0));
}

fn owner_dies(third: bool) {
    let report = each_instruction_after(&options(9), semaphore, own_two, take_and_give, |_, semaphore| {
        if third {
            operate(semaphore);
        }
        balances(semaphore);
    });
    println!("take and give back, with a third process before the recovery: {third}: {report}");
}

#[test]
fn an_owner_dies_at_every_instruction() {
    isolated("steps_semaphore::an_owner_dies_at_every_instruction", || owner_dies(false));
}

#[test]
fn an_owner_dies_at_every_instruction_and_others_go_on_before_its_recovery() {
    isolated(
        "steps_semaphore::an_owner_dies_at_every_instruction_and_others_go_on_before_its_recovery",
        || owner_dies(true),
    );
}

/// A semaphore whose owner was killed after that many instructions.
fn dead_at(instructions: u64) -> Semaphore {
    let mut left = None;
    let once = Options { first: instructions, stride: 1 << 40, limit: 1 << 50 };
    each_instruction_after(&once, semaphore, own_two, take_and_give, |_, semaphore| {
        left.get_or_insert_with(|| semaphore.clone());
    });
    left.unwrap()
}

/// Kills a recoverer at every instruction, for owners that died at various ones.
#[test]
fn a_recoverer_dies_at_every_instruction() {
    isolated("steps_semaphore::a_recoverer_dies_at_every_instruction", || {
        let instructions = count(semaphore, own_two, take_and_give);
        // The last one is a death after both, while it holds two.
        let deaths = if stride(2) == 1 { 8 } else { 2 };
        for death in 1..=deaths {
            let at = instructions * death / deaths;
            let report = each_instruction(
                &options(160),
                || dead_at(at),
                |semaphore| {
                    let _ = semaphore.value();
                },
                |_, semaphore| balances(semaphore),
            );
            println!("recovery of an owner that died after {at} of {instructions} instructions: {report}");
        }
    });
}
