//! Deaths at each step of the protocols: built with `--cfg crash_points`. In other builds nobody dies here.

use crate::support::{BOUND, given, take};
use procession_sync::{Lock, Poison, RLock};
use procession_sys::crash;
use procession_testkit::{role, watchdog};
use std::os::unix::process::ExitStatusExt;

/// From now on this process dies at `point`.
fn arm(point: &str) {
    // SAFETY: this is the only thread of the role that reads or writes the environment; the other one is the
    // harness's, which waits for this one.
    unsafe { std::env::set_var(crash::VARIABLE, point) };
}

/// Waits for a death at the crash point, which is by SIGKILL.
fn died(process: &mut role::RoleProcess, point: &str) {
    let status = process.wait();
    assert_eq!(status.signal(), Some(9), "at {point}: {status:?}\n{}", process.output());
}

#[test]
fn role_locker() {
    let Some(mut role) = role::enter(role_locker) else { return };
    let (point, lock, again): (String, Lock, RLock) = take(role.fd());
    role.say("ready");
    role.hear();
    if let Some(point) = point.strip_prefix("held ") {
        let _ = lock.acquire();
        let _ = again.acquire();
        role.say(point);
        role.hear();
    }
    arm(&point);
    // The second of the two, where the point says so.
    let _ = lock.acquire();
    lock.release().unwrap();
    let _ = again.acquire();
    again.release().unwrap();
}

/// One that dies at `point`, with a thread here that waits for either lock meanwhile; what that one is told.
fn dies(point: &str, lock: &Lock, again: &RLock) -> [Option<Poison>; 2] {
    let mut process = role::start(role_locker, &[&given(&(point, lock, again))]);
    process.expect("ready");
    process.say("go");
    died(&mut process, point);
    let first = lock.lock_timeout(BOUND);
    let second = again.lock_timeout(BOUND);
    [first.err().map(|error| error.poison().unwrap()), second.err().map(|error| error.poison().unwrap())]
}

#[test]
fn a_death_with_the_lock_but_outside_of_what_it_guards_is_no_poison() {
    let _watchdog = watchdog!();
    for point in ["lock.taken", "lock.taken:2", "lock.nameless", "lock.nameless:2"] {
        let (lock, again) = (Lock::new().unwrap(), RLock::new().unwrap());
        assert_eq!(dies(point, &lock, &again), [None, None], "at {point}");
        assert!(!lock.is_locked() && !again.is_locked());
    }
}

#[test]
fn a_death_while_one_finds_out_about_a_death_leaves_the_first_ones_name() {
    let _watchdog = watchdog!();
    for point in ["lock.died.found", "lock.died.poisoned", "lock.died.consistent"] {
        for times in ["", ":2"] {
            let point = format!("{point}{times}");
            let (lock, again) = (Lock::new().unwrap(), RLock::new().unwrap());
            let mut holder = role::start(role_locker, &[&given(&("held both", &lock, &again))]);
            holder.expect("ready");
            holder.say("go");
            holder.expect("both");
            holder.kill();
            let first = Some(Poison::Died { pid: holder.pid() });
            assert_eq!(dies(&point, &lock, &again), [first, first], "at {point}");
        }
    }
}
