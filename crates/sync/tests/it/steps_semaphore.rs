//! Death at every instruction of a take and a give back, and of the recovery itself.
//!
//! After each death the free permits and those of the living are all that there were.

use crate::steps_support::{BOUND, Partner, isolated};
use procession_sync::{Deadline, Semaphore};
use procession_testkit::{
    step::{Options, count, each_instruction, each_instruction_after, kill_after, stride},
    wait::eventually,
};

const PERMITS: u32 = 5;

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
    let report =
        each_instruction_after(&Options::one_of(41), semaphore, own_two, take_and_give, |_, semaphore| {
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
    let mut semaphore = semaphore();
    kill_after(instructions, &mut semaphore, own_two, take_and_give);
    semaphore
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
                &Options::one_of(797),
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

#[test]
fn an_owner_that_waits_for_a_partner_dies_at_every_instruction() {
    isolated("steps_semaphore::an_owner_that_waits_for_a_partner_dies_at_every_instruction", || {
        let report = each_instruction_after(
            &Options::one_of(97),
            || {
                let semaphore = semaphore();
                let taken = semaphore.clone();
                let partner = Partner::start(move |gate| {
                    let all = taken.permits(PERMITS).unwrap();
                    gate.ready();
                    gate.child_sleeps();
                    drop(all);
                });
                (semaphore, partner)
            },
            |(_, partner)| partner.here(),
            |(semaphore, _), ()| take_and_give(semaphore, ()),
            |_, (semaphore, partner)| {
                partner.end();
                balances(semaphore);
            },
        );
        println!("take, waiting for a partner, and give back: {report}");
    });
}

#[test]
fn a_partner_that_sleeps_gets_the_permits_wherever_their_owner_dies() {
    isolated("steps_semaphore::a_partner_that_sleeps_gets_the_permits_wherever_their_owner_dies", || {
        let report = each_instruction_after(
            &Options::one_of(97),
            || {
                let semaphore = semaphore();
                let waits = semaphore.clone();
                let partner = Partner::start(move |gate| {
                    gate.ready();
                    gate.child_is_here();
                    drop(waits.permits_deadline(PERMITS, Deadline::after(BOUND)).unwrap());
                });
                (semaphore, partner)
            },
            |(semaphore, partner)| {
                let one = semaphore.permit().unwrap().into_owned();
                partner.here_until_it_waits();
                one
            },
            |_, one| drop(one),
            |_, (semaphore, partner)| {
                partner.end();
                balances(semaphore);
            },
        );
        println!("give back, with a partner that sleeps: {report}");
    });
}
