//! Deaths at each step of an owner's and a remover's protocol: built with `--cfg crash_points`.

use crate::support::{folder, path};
use procession_shm::SharedMemory;
use procession_sys::crash;
use procession_testkit::{isolated, limits::Surroundings, role};
use std::os::unix::process::ExitStatusExt;

/// From now on this process dies at `point`.
fn arm(point: &str) {
    // SAFETY: this is the only thread of the role that reads or writes the environment; the other one is the
    // harness's, which waits for this one.
    unsafe { std::env::set_var(crash::VARIABLE, point) };
}

#[test]
fn role_dies() {
    let Some(mut role) = role::enter(role_dies) else { return };
    let point = role.hear();
    drop(SharedMemory::create(1).unwrap());
    if point.starts_with("remover") {
        role.say("ready");
        role.hear();
    }
    arm(&point);
    if point.starts_with("remover") {
        SharedMemory::remove_stale().unwrap();
    } else {
        SharedMemory::create_named("stepped", 100).unwrap().unlink().unwrap();
    }
    panic!("it lives on after {point}");
}

fn died(process: &mut role::RoleProcess, point: &str) {
    let status = process.wait();
    assert_eq!(status.signal(), Some(9), "at {point}: {status:?}\n{}", process.output());
}

#[test]
fn an_owner_that_dies_at_any_step_leaves_what_is_found() {
    isolated!({
        if !Surroundings::new().small_shm(1 << 20).apply_or_skip() {
            return;
        }
        let points = [
            ("owner.claimed", false),
            ("owner.made", false),
            ("owner.linked", true),
            ("owner.unlinked", false),
        ];
        for (point, named) in points {
            let mut process = role::start(role_dies, &[]);
            process.say(point);
            died(&mut process, point);
            assert_eq!(path("stepped").exists(), named, "at {point}");
            assert_eq!(SharedMemory::remove_stale().unwrap().len(), usize::from(named), "at {point}");
            assert_eq!(folder(), [""; 0], "at {point}");
        }
    });
}

#[test]
fn a_remover_that_dies_leaves_the_rest_to_the_next() {
    isolated!({
        if !Surroundings::new().small_shm(1 << 20).apply_or_skip() {
            return;
        }
        let mut remover = role::start(role_dies, &[]);
        remover.say("remover.unlinked");
        remover.expect("ready");
        let mut owner = role::start(role_dies, &[]);
        owner.say("owner.linked");
        died(&mut owner, "owner.linked");
        remover.say("go");
        died(&mut remover, "remover.unlinked");
        assert_eq!(folder(), ["procession-owner-stepped"]);
        assert_eq!(SharedMemory::remove_stale().unwrap(), [""; 0]);
        assert_eq!(folder(), [""; 0]);
    });
}
