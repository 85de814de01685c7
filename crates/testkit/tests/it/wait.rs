//! Waits end with what they wait for, or at their limit.

use std::panic::catch_unwind;
use std::process::Command;
use std::time::Duration;

use procession_testkit::wait::{ended, eventually};
use procession_testkit::{storm, watchdog};

#[test]
fn an_end_is_seen_and_a_living_process_is_told_from_it() {
    let _watchdog = watchdog!();
    let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
    let pidfd = storm::pidfd(child.id()).unwrap();
    assert!(!ended(&pidfd, Duration::from_millis(20)).unwrap());
    child.kill().unwrap();
    assert!(ended(&pidfd, Duration::from_secs(30)).unwrap());
    child.wait().unwrap();
    assert!(ended(&pidfd, Duration::ZERO).unwrap());
}

#[test]
fn a_state_is_looked_at_until_it_is_there_or_time_is_up() {
    let _watchdog = watchdog!();
    let mut looks = 0;
    eventually("three looks", Duration::from_secs(30), || {
        looks += 1;
        looks == 3
    });
    assert_eq!(looks, 3);
    assert!(catch_unwind(|| eventually("never", Duration::from_millis(20), || false)).is_err());
}
