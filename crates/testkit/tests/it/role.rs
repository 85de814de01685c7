//! A role hears, says, takes descriptors, and never outlives its starter.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};

use procession_testkit::wait::ended;
use procession_testkit::{Census, isolated, role, watchdog};
use rustix::io::{FdFlags, fcntl_getfd};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);

#[test]
fn role_echoes() {
    let Some(mut role) = role::enter(role_echoes) else { return };
    let (first, second) = (role.fd(), role.fd());
    assert!(fcntl_getfd(&first).unwrap().contains(FdFlags::CLOEXEC));
    File::from(first).write_all(b"one").unwrap();
    File::from(second).write_all(b"two").unwrap();
    loop {
        let line = role.hear();
        role.say(&format!("heard {line}"));
    }
}

#[test]
fn a_role_gets_its_descriptors_in_order_and_talks() {
    let _watchdog = watchdog!();
    let (one, one_writer) = std::io::pipe().unwrap();
    let (two, two_writer) = std::io::pipe().unwrap();
    let mut role = role::start(role_echoes, &[&one_writer, &two_writer]);
    drop((one_writer, two_writer));
    assert_eq!(std::io::read_to_string(one).unwrap(), "one");
    assert_eq!(std::io::read_to_string(two).unwrap(), "two");
    role.say("a line");
    role.expect("heard a line");
}

#[test]
fn role_fails() {
    if role::enter(role_fails).is_some() {
        panic!("on purpose");
    }
}

#[test]
fn a_role_that_ends_is_told_at_once_with_its_output() {
    let _watchdog = watchdog!();
    let mut role = role::start(role_fails, &[]);
    let panic = catch_unwind(AssertUnwindSafe(|| role.hear())).unwrap_err();
    let message = panic.downcast_ref::<String>().unwrap();
    assert!(message.contains("on purpose") && message.contains("role::role_fails"), "{message}");
}

#[test]
fn a_dropped_role_leaves_nothing_behind() {
    isolated!({
        let before = Census::take();
        let file = File::open("/dev/null").unwrap();
        let fd: &dyn AsFd = &file;
        for _ in 0..3 {
            let mut role = role::start(role_waits, &[fd]);
            role.expect("ready");
        }
        drop(file);
        before.assert_settles(std::time::Duration::from_secs(20));
    });
}

#[test]
fn role_waits() {
    let Some(mut role) = role::enter(role_waits) else { return };
    role.say("ready");
    role.hear();
}

#[test]
fn role_starts_a_role_and_waits() {
    let Some(mut role) = role::enter(role_starts_a_role_and_waits) else { return };
    let inner = role::start(role_waits, &[]);
    role.say(&inner.pid().to_string());
    role.hear();
}

#[test]
fn a_role_ends_with_a_starter_that_is_killed() {
    let _watchdog = watchdog!();
    let mut outer = role::start(role_starts_a_role_and_waits, &[]);
    let inner = procession_testkit::storm::pidfd(outer.hear().parse().unwrap()).unwrap();
    outer.kill();
    assert!(ended(&inner, SOON).unwrap());
}
