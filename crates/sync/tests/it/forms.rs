//! What blocks has a form with a timeout and one with a deadline: those that no other test is about.

use crate::support::{BOUND, soon};
use procession_sync::{
    Barrier, BoundedSemaphore, Broken, Condition, Deadline, LockError, Once, OnceError, RLock, Semaphore,
};
use procession_testkit::watchdog;
use std::{cell::Cell, panic::AssertUnwindSafe, time::Duration};

const SHORT: Duration = Duration::from_millis(20);

#[test]
fn several_permits_are_waited_for_no_longer_than_asked() {
    let _watchdog = watchdog!();
    let (one, other) = (Semaphore::new(3).unwrap(), BoundedSemaphore::new(3).unwrap());
    drop((one.permits_timeout(3, BOUND).unwrap(), other.permits_timeout(3, BOUND).unwrap()));
    let _held = (one.permits(2).unwrap(), other.permits(2).unwrap());
    let deadline = Deadline::after(SHORT);
    assert!(one.permits_timeout(2, SHORT).unwrap_err().is_timeout());
    assert!(one.acquire_many_timeout(2, SHORT).unwrap_err().is_timeout());
    assert!(other.permits_timeout(2, SHORT).unwrap_err().is_timeout());
    assert!(other.acquire_many_timeout(2, SHORT).unwrap_err().is_timeout());
    // Each of them has waited, and none has taken the one that is free.
    assert!(deadline.passed());
    one.acquire_many_timeout(1, BOUND).unwrap();
    assert_eq!((one.value(), other.value()), (0, 1));
}

#[test]
fn a_conditions_lock_is_waited_for_no_longer_than_asked() {
    let _watchdog = watchdog!();
    let timed_out = |result| matches!(result, Err(LockError::TimedOut));
    for condition in [Condition::new().unwrap(), Condition::with_rlock(RLock::new().unwrap()).unwrap()] {
        condition.try_acquire().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                assert!(timed_out(condition.try_acquire()));
                let deadline = Deadline::after(SHORT);
                assert!(timed_out(condition.acquire_deadline(deadline)) && deadline.passed());
                assert!(timed_out(condition.acquire_timeout(SHORT)));
            });
        });
        condition.release().unwrap();
        condition.acquire_timeout(BOUND).unwrap();
        condition.release().unwrap();
        assert_eq!(condition.holder(), None);
    }
}

#[test]
fn a_party_with_an_action_waits_no_longer_than_asked() {
    let _watchdog = watchdog!();
    let barrier = Barrier::new(2).unwrap();
    let deadline = Deadline::after(SHORT);
    let broken = Some(Broken::TimedOut { pid: std::process::id() });
    assert_eq!(barrier.wait_deadline_with(deadline, || unreachable!()).unwrap_err().broken(), broken);
    assert!(deadline.passed());
    barrier.reset().unwrap();
    assert_eq!(barrier.wait_timeout_with(SHORT, || unreachable!()).unwrap_err().broken(), broken);
    barrier.reset().unwrap();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| barrier.wait_timeout_with(BOUND, || unreachable!()).unwrap());
        soon("it waits", || barrier.waiting() == 1);
        let ran = Cell::new(false);
        assert_eq!(barrier.wait_timeout_with(BOUND, || ran.set(true)).unwrap(), 1);
        assert!(ran.get() && first.join().unwrap() == 0);
    });
}

#[test]
fn what_is_forced_waits_for_a_runner_no_longer_than_asked() {
    let _watchdog = watchdog!();
    let once = Once::new().unwrap();
    let panics = std::panic::catch_unwind(AssertUnwindSafe(|| once.call_once(|| panic!("half of it"))));
    assert!(panics.is_err());
    let other = once.clone();
    let late = move || {
        let deadline = Deadline::after(SHORT);
        let timed_out = |result| matches!(result, Err(OnceError::TimedOut));
        assert!(timed_out(other.call_once_force_deadline(deadline, || unreachable!())) && deadline.passed());
        assert!(timed_out(other.call_once_force_timeout(SHORT, || unreachable!())));
    };
    assert!(once.call_once_force_timeout(BOUND, || std::thread::spawn(late).join().unwrap()).unwrap());
    assert!(!once.call_once_force_timeout(BOUND, || unreachable!()).unwrap());
}
