//! Deaths at each step of what is done with parts: built with `--cfg crash_points`.

use crate::support::{given, take};
use procession_parcel::Parcel;
use procession_sync::{Array, ArrayPart, LockError, Poison};
use procession_sys::crash;
use procession_testkit::{role, watchdog};
use std::os::unix::process::ExitStatusExt;

#[test]
fn role_dies_with_parts() {
    let Some(mut role) = role::enter(role_dies_with_parts) else { return };
    let (point, array): (String, Array<u64>) = take(role.fd());
    let arm = || {
        // SAFETY: this is the only thread of the role that reads or writes the environment; the other one is the
        // harness's, which waits for this one.
        unsafe { std::env::set_var(crash::VARIABLE, &point) };
    };
    if ["part.taken", "part.counted"].contains(&point.as_str()) {
        arm();
        drop(array.chunks_mut(2));
    }
    if point == "part.claimed" {
        arm();
    }
    let part: ArrayPart<u64> = take(role.fd());
    arm();
    match point.as_str() {
        "part.given_back" => drop(part),
        _ => drop(Parcel::pack(&part)),
    }
    panic!("it lives after {point}");
}

#[test]
fn a_death_at_any_step_leaves_free_parts_and_an_array_that_can_be_locked() {
    let _watchdog = watchdog!();
    let points = [
        // Whether it died with the array's lock, and whether a part was lost.
        ("part.taken", true, false),
        ("part.counted", true, true),
        ("part.claimed", true, true),
        ("part.packed", false, true),
        ("part.let_go", false, true),
        ("part.given_back", true, false),
    ];
    for (point, locked, lost) in points {
        let array = Array::<u64>::new(6).unwrap();
        let sent = given(&(point, &array));
        let mut process = if point.starts_with("part.taken") || point.starts_with("part.counted") {
            role::start(role_dies_with_parts, &[&sent])
        } else {
            role::start(role_dies_with_parts, &[&sent, &given(&array.part(1..5).unwrap())])
        };
        let status = process.wait();
        assert_eq!(status.signal(), Some(9), "at {point}: {status:?}\n{}", process.output());
        let Err(LockError::Poisoned(poisoned)) = array.lock() else { panic!("at {point}: not poisoned") };
        let Poison::Died { pid } = poisoned.cause() else { panic!("at {point}: {poisoned}") };
        assert_eq!(pid, if locked { process.pid() } else { 0 }, "at {point}");
        assert!(locked || lost);
        array.clear_poison();
        drop(poisoned);
        // What was lost is counted once.
        drop(array.lock().unwrap());
        for mut part in array.chunks_mut(4).unwrap() {
            part.get_mut().unwrap().fill(1);
        }
        assert_eq!(array.to_vec().unwrap(), [1; 6], "at {point}");
    }
}
