//! Deaths at each step of the semaphore's protocol: built with `--cfg crash_points`.

use crate::support::{BOUND, given, take};
use procession_sync::Semaphore;
use procession_sys::crash;
use procession_testkit::{role, wait::eventually, watchdog};
use std::{os::unix::process::ExitStatusExt, time::Duration};

/// From now on this process dies at `point`.
fn arm(point: &str) {
    // SAFETY: this is the only thread of the role that reads or writes the environment; the other one is the
    // harness's, which waits for this one.
    unsafe { std::env::set_var(crash::VARIABLE, point) };
}

/// Starts a role that dies at a point of what it does with the semaphore.
fn start<F: Fn()>(role: F, point: &str, semaphore: &Semaphore) -> role::RoleProcess {
    role::start(role, &[&given(&(point, semaphore))])
}

fn died(process: &mut role::RoleProcess, point: &str) {
    let status = process.wait();
    assert_eq!(status.signal(), Some(9), "at {point}: {status:?}\n{}", process.output());
}

#[test]
fn role_owner() {
    let Some(mut role) = role::enter(role_owner) else { return };
    let (point, semaphore): (String, Semaphore) = take(role.fd());
    let permit = semaphore.permits(2).unwrap();
    drop(semaphore.permit().unwrap());
    arm(&point);
    drop(permit);
    std::mem::forget(semaphore.permit().unwrap());
}

#[test]
fn an_owner_that_dies_at_any_step_gives_back_what_it_held() {
    let _watchdog = watchdog!(Duration::from_secs(120));
    let steps =
        ["semaphore.booked", "semaphore.begun", "semaphore.helped", "semaphore.committed", "semaphore.done"];
    for (step, times) in steps.into_iter().flat_map(|step| [(step, 1), (step, 2)]) {
        for between in [false, true] {
            let point = format!("{step}:{times}");
            let semaphore = Semaphore::new(5).unwrap();
            let here = semaphore.permit().unwrap();
            let mut process = start(role_owner, &point, &semaphore);
            died(&mut process, &point);
            if between {
                // Another process's operation between the death and its recovery.
                semaphore.acquire().unwrap();
                drop(semaphore.permit().unwrap());
                semaphore.release().unwrap();
            }
            eventually("the permits are back", BOUND, || semaphore.value() == 4);
            assert_eq!(semaphore.held(), 1, "at {point}");
            drop(here);
            assert_eq!(semaphore.value(), 5, "at {point}");
        }
    }
}

#[test]
fn role_recoverer() {
    let Some(mut role) = role::enter(role_recoverer) else { return };
    let (point, semaphore): (String, Semaphore) = take(role.fd());
    arm(&point);
    // It looks after the dead, also where all permits are free.
    let _ = semaphore.value();
    assert!(semaphore.acquire_many(3).is_ok());
}

#[test]
fn a_recoverer_that_dies_at_any_step_leaves_the_rest_to_the_next() {
    let _watchdog = watchdog!(Duration::from_secs(120));
    let points = [
        ("semaphore.recover.read", "semaphore.done:2"),
        ("semaphore.recover.closed", "semaphore.done:2"),
        ("semaphore.recover.emptied", "semaphore.begun:2"),
        ("semaphore.booked", "semaphore.committed:2"),
        ("semaphore.begun", "semaphore.done:2"),
        ("semaphore.helped", "semaphore.committed:2"),
        ("semaphore.committed", "semaphore.done:2"),
        ("semaphore.done", "semaphore.done:2"),
        ("semaphore.recovered", "semaphore.done:2"),
    ];
    for (point, before) in points {
        let semaphore = Semaphore::new(3).unwrap();
        let mut owner = start(role_owner, before, &semaphore);
        died(&mut owner, before);
        let mut recoverer = start(role_recoverer, point, &semaphore);
        died(&mut recoverer, point);
        eventually("the permits are back", BOUND, || semaphore.value() == 3);
        assert_eq!(semaphore.held(), 0, "at {point}");
    }
}

#[test]
fn role_ringer() {
    let Some(mut role) = role::enter(role_ringer) else { return };
    let (point, semaphore): (String, Semaphore) = take(role.fd());
    arm(&point);
    semaphore.release().unwrap();
}

#[test]
fn a_releaser_that_dies_before_its_wake_delays_a_sleeper_by_a_slice_at_most() {
    let _watchdog = watchdog!();
    for point in
        ["semaphore.released", "semaphore.ring.woken", "semaphore.ring.cleared", "semaphore.ring.counted"]
    {
        let semaphore = Semaphore::new(0).unwrap();
        // A sleep that ended leaves the flag set, as a sleep that goes on does.
        assert!(semaphore.acquire_timeout(Duration::from_millis(1)).is_err());
        let mut process = start(role_ringer, point, &semaphore);
        if point == "semaphore.released" {
            semaphore.acquire_timeout(BOUND).unwrap();
            died(&mut process, point);
        } else {
            // These are reached where nobody sleeps.
            died(&mut process, point);
            semaphore.acquire_timeout(BOUND).unwrap();
        }
    }
}

#[test]
fn role_sleeper() {
    let Some(mut role) = role::enter(role_sleeper) else { return };
    let (point, semaphore): (String, Semaphore) = take(role.fd());
    arm(&point);
    role.say("armed");
    semaphore.acquire().unwrap();
}

#[test]
fn a_sleeper_that_dies_takes_no_permit_with_it() {
    let _watchdog = watchdog!();
    for point in ["semaphore.wait.flagged", "semaphore.wait.woken"] {
        let semaphore = Semaphore::new(0).unwrap();
        let mut process = start(role_sleeper, point, &semaphore);
        process.expect("armed");
        std::thread::scope(|scope| {
            let wakes = scope.spawn(|| semaphore.acquire_timeout(BOUND));
            died(&mut process, point);
            semaphore.release().unwrap();
            wakes.join().unwrap().unwrap();
        });
        assert_eq!(semaphore.value(), 0, "at {point}");
    }
}
