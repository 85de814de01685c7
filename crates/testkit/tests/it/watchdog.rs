//! A hang becomes an abort that says where it hung.

use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;
use std::time::Duration;

use procession_testkit::wait::ended;
use procession_testkit::{role, storm, watchdog};

const SOON: Duration = Duration::from_secs(30);

#[test]
#[expect(clippy::zombie_processes, reason = "the watchdog ends it")]
fn role_hangs() {
    let Some(mut role) = role::enter(role_hangs) else { return };
    let guard = watchdog("a hang", Duration::from_millis(50));
    guard.on_expiry(|| "the shared word is 0x3".to_owned());
    let child = Command::new("sleep").arg("1000").spawn().unwrap();
    role.say(&child.id().to_string());
    role.hear();
}

#[test]
fn expiry_reports_threads_children_and_extra_state_then_kills_the_children_and_aborts() {
    let _watchdog = watchdog!();
    let mut hanging = role::start(role_hangs, &[]);
    let child = storm::pidfd(hanging.hear().parse().unwrap()).unwrap();
    assert_eq!(hanging.wait().signal(), Some(6), "{}", hanging.output());
    let output = hanging.output();
    for part in ["`a hang`", "watchdog::role_h", "syscall", "`sleep`", "the shared word is 0x3"] {
        assert!(output.contains(part), "no {part} in\n{output}");
    }
    assert!(ended(&child, SOON).unwrap());
}

#[test]
fn role_is_disarmed() {
    let Some(mut role) = role::enter(role_is_disarmed) else { return };
    drop(watchdog("no hang", Duration::from_millis(50)));
    role.say("dropped");
    // Outlives the limit, by which an armed watchdog would abort.
    storm::delay(Duration::from_millis(200));
    role.say("alive");
}

#[test]
fn a_dropped_watchdog_aborts_nothing() {
    let _watchdog = watchdog!();
    let mut role = role::start(role_is_disarmed, &[]);
    role.expect("dropped");
    role.expect("alive");
    assert!(role.wait().success(), "{}", role.output());
}
