//! Processes that are stopped in the middle of an operation: whoever has a deadline keeps it. Built with
//! `--cfg crash_points`.

use crate::{
    crash_state::{World, armed, died, start, world},
    support::{BOUND, soon},
};
use procession_sync::{Barrier, Broken, LockError, OnceError};
use procession_testkit::{role::RoleProcess, watchdog};
use rustix::process::{Pid, Signal, kill_process};
use std::{os::unix::process::ExitStatusExt, thread, time::Duration};

const SHORT: Duration = Duration::from_millis(50);

fn signal(process: &RoleProcess, signal: Signal) {
    kill_process(Pid::from_raw(process.pid() as i32).unwrap(), signal).unwrap();
}

fn is_stopped(process: &RoleProcess) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.pid())).unwrap();
    stat.rsplit(") ").next().unwrap().starts_with('T')
}

/// A process that stops at `point`.
fn stopped(point: &str, does: &str, world: &World) -> RoleProcess {
    let process = start(&format!("stop {point}"), does, world);
    soon("it is stopped", || is_stopped(&process));
    process
}

/// Nothing that was called has waited for it to go on.
#[track_caller]
fn still_stopped(process: &RoleProcess) {
    assert!(is_stopped(process));
}

#[test]
fn a_wait_for_a_condition_ends_at_its_deadline() {
    let _watchdog = watchdog!();
    if !armed() {
        return;
    }
    let world = world();
    let condition = &world.condition;
    // One that is notified and does not live to notice; and one that passes that on, and is stopped at it.
    let mut victim = start("none", "condition wait", &world);
    soon("it waits", || condition.waiting() == 1 && condition.holder().is_none());
    signal(&victim, Signal::STOP);
    soon("it is stopped", || is_stopped(&victim));
    let sweeps = start("stop condition.bury.passed", "condition sweep", &world);
    soon("it waits too", || condition.waiting() == 2 && condition.holder().is_none());
    let guard = condition.lock().unwrap();
    assert_eq!(condition.notify_one().unwrap(), 1);
    drop(guard);
    victim.kill();
    soon("it is stopped", || is_stopped(&sweeps));
    let mut guard = condition.lock().unwrap();
    assert!(!condition.wait_timeout(&mut guard, SHORT).unwrap());
    assert!(!condition.wait_timeout_while(&mut guard, SHORT, || true).unwrap());
    still_stopped(&sweeps);
    drop(guard);
    // It was notified itself, and has passed that on to itself.
    signal(&sweeps, Signal::CONT);
    soon("nobody waits", || condition.waiting() == 0);
}

#[test]
fn a_read_write_lock_is_given_up_at_its_deadline_and_let_go_at_once() {
    let _watchdog = watchdog!();
    if !armed() {
        return;
    }
    let world = world();
    let lock = &world.rwlock;
    let holds = lock.read().unwrap();
    thread::scope(|scope| {
        // One that waits before the other one is stopped.
        let waits =
            scope.spawn(|| lock.write_timeout(20 * SHORT).map(drop).map_err(LockError::without_guard));
        soon("it waits", || lock.waiting() == 1);
        let mut process = stopped("table.enter.filled", "write", &world);
        assert!(matches!(lock.try_read(), Err(LockError::TimedOut)));
        let timeouts = scope.spawn(|| {
            assert!(matches!(lock.try_write(), Err(LockError::TimedOut)));
            assert!(matches!(lock.write_timeout(SHORT), Err(LockError::TimedOut)));
            assert!(matches!(lock.read_timeout(SHORT), Err(LockError::TimedOut)));
        });
        timeouts.join().unwrap();
        assert!(matches!(waits.join().unwrap(), Err(LockError::TimedOut)));
        drop(holds);
        assert_eq!(lock.readers(), 0);
        still_stopped(&process);
        process.kill();
    });
    drop(lock.write_timeout(BOUND).unwrap());
}

#[test]
fn a_lock_that_was_let_go_beside_a_stopped_process_is_granted_when_it_goes_on() {
    let _watchdog = watchdog!();
    if !armed() {
        return;
    }
    let world = world();
    let lock = &world.rwlock;
    let holds = lock.write().unwrap();
    thread::scope(|scope| {
        let waits = scope.spawn(|| lock.write_timeout(BOUND).map(drop).map_err(LockError::without_guard));
        soon("it waits", || lock.waiting() == 1);
        let process = stopped("table.enter.filled", "read", &world);
        drop(holds);
        still_stopped(&process);
        signal(&process, Signal::CONT);
        waits.join().unwrap().unwrap();
    });
}

fn broken(result: Result<usize, procession_sync::BarrierError>) -> Option<Broken> {
    result.unwrap_err().broken()
}

#[test]
fn a_party_that_cannot_get_in_by_its_deadline_breaks_the_barrier() {
    let _watchdog = watchdog!();
    if !armed() {
        return;
    }
    let world = world();
    let barrier = &world.three;
    let mut process = stopped("table.enter.filled", "three", &world);
    let mine = Broken::TimedOut { pid: std::process::id() };
    assert_eq!(broken(barrier.wait_timeout(SHORT)), Some(mine));
    assert_eq!(barrier.broken(), Some(mine));
    still_stopped(&process);
    signal(&process, Signal::CONT);
    let told = process.hear();
    assert!(told.contains("waited no longer"), "{told}");
    barrier.reset().unwrap();
    assert_eq!(barrier.broken(), None);
    passes(barrier, 3);
}

fn passes(barrier: &Barrier, parties: usize) {
    thread::scope(|scope| {
        let all: Vec<_> =
            (0..parties).map(|_| scope.spawn(|| barrier.wait_timeout(BOUND).unwrap())).collect();
        let mut places: Vec<_> = all.into_iter().map(|party| party.join().unwrap()).collect();
        places.sort_unstable();
        assert_eq!(places, (0..parties).collect::<Vec<_>>());
    });
}

#[test]
fn a_party_that_waits_leaves_at_its_deadline_and_breaks_the_barrier() {
    let _watchdog = watchdog!();
    if !armed() {
        return;
    }
    let world = world();
    let barrier = &world.three;
    let mine = Broken::TimedOut { pid: std::process::id() };
    thread::scope(|scope| {
        let waits = scope.spawn(|| broken(barrier.wait_timeout(10 * SHORT)));
        soon("one waits", || barrier.waiting() == 1);
        let mut process = stopped("barrier.inside", "three", &world);
        assert_eq!(waits.join().unwrap(), Some(mine));
        assert_eq!((barrier.waiting(), barrier.broken()), (0, Some(mine)));
        still_stopped(&process);
        signal(&process, Signal::CONT);
        let told = process.hear();
        assert!(told.contains("waited no longer"), "{told}");
    });
    barrier.reset().unwrap();
    passes(barrier, 3);
}

#[test]
fn all_parties_pass_where_the_one_that_releases_them_is_stopped() {
    let _watchdog = watchdog!();
    if !armed() {
        return;
    }
    for point in ["barrier.decided", "barrier.released", "barrier.released:2", "barrier.carried_out"] {
        let world = world();
        let barrier = &world.three;
        thread::scope(|scope| {
            let waits = [(); 2].map(|()| scope.spawn(|| barrier.wait_timeout(20 * SHORT).map(drop)));
            soon("two wait", || barrier.waiting() == 2);
            let mut process = stopped(point, "three", &world);
            for party in waits {
                party.join().unwrap().unwrap();
            }
            assert_eq!(barrier.broken(), None, "at {point}");
            still_stopped(&process);
            signal(&process, Signal::CONT);
            assert_eq!(process.hear(), "Ok(2)", "at {point}");
        });
        passes(barrier, 3);
    }
}

#[test]
fn an_action_decides_where_another_process_is_stopped() {
    let _watchdog = watchdog!();
    if !armed() {
        return;
    }
    let world = world();
    let barrier = &world.three;
    thread::scope(|scope| {
        let waits = [(); 2].map(|()| scope.spawn(|| barrier.wait_timeout(10 * SHORT).map(drop)));
        soon("two wait", || barrier.waiting() == 2);
        let mut process = None;
        let place =
            barrier.wait_with(|| process = Some(stopped("table.enter.filled", "three", &world))).unwrap();
        assert_eq!(place, 2);
        for party in waits {
            party.join().unwrap().unwrap();
        }
        let process = process.unwrap();
        still_stopped(&process);
        // It queued; now it is the first of the next round.
        signal(&process, Signal::CONT);
        soon("it waits", || barrier.waiting() == 1);
        passes_with(barrier, process);
    });
}

fn passes_with(barrier: &Barrier, mut process: RoleProcess) {
    thread::scope(|scope| {
        let other = scope.spawn(|| barrier.wait_timeout(BOUND).unwrap());
        assert_eq!(barrier.wait_timeout(BOUND).unwrap() + other.join().unwrap(), 3);
    });
    assert_eq!(process.hear(), "Ok(0)");
}

#[test]
fn what_was_given_up_beside_a_stopped_process_holds_wherever_its_author_dies() {
    let _watchdog = watchdog!(Duration::from_secs(120));
    if !armed() {
        return;
    }
    // Outside, since it could not get in.
    let world = world();
    let barrier = &world.three;
    let process = stopped("table.enter.filled", "three", &world);
    let mut author = start("barrier.gave_up_outside", "three, give up", &world);
    died(&mut author, "barrier.gave_up_outside");
    let told = Some(Broken::TimedOut { pid: author.pid() });
    assert_eq!(barrier.broken(), told);
    signal(&process, Signal::CONT);
    drop(process);
    // Whoever breaks it in the author's name may die too.
    let mut second = start("barrier.broken_for_another", "three", &world);
    if second.wait().signal() == Some(9) {
        assert!(barrier.broken().is_some());
    }
    assert!(broken(barrier.wait_timeout(BOUND)).is_some());
    barrier.reset().unwrap();
    passes(barrier, 3);
    // Inside.
    let world = self::world();
    let barrier = &world.three;
    let mut author = start("barrier.gave_up", "three, give up late", &world);
    soon("it waits", || barrier.waiting() == 1);
    let process = stopped("barrier.inside", "three", &world);
    died(&mut author, "barrier.gave_up");
    assert_eq!(barrier.broken(), Some(Broken::TimedOut { pid: author.pid() }));
    still_stopped(&process);
    drop(process);
    assert!(broken(barrier.wait_timeout(BOUND)).is_some());
    barrier.reset().unwrap();
    passes(barrier, 3);
}

#[test]
fn what_is_done_once_is_given_up_at_its_deadline() {
    let _watchdog = watchdog!();
    if !armed() {
        return;
    }
    let world = world();
    let process = stopped("once.begin.named", "once", &world);
    assert!(matches!(world.once.call_once_timeout(SHORT, || ()), Err(OnceError::TimedOut)));
    assert!(!world.once.wait_timeout(SHORT));
    still_stopped(&process);
    signal(&process, Signal::CONT);
    assert!(world.once.wait_timeout(BOUND));
    let process = stopped("once.begin.named", "value", &world);
    assert!(matches!(world.value.get_or_init_timeout(SHORT, || [1; 4]), Err(OnceError::TimedOut)));
    still_stopped(&process);
    signal(&process, Signal::CONT);
    assert_eq!(world.value.wait_timeout(BOUND), Some([7; 4]));
}
