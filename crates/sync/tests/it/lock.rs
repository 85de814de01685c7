//! A lock between threads and processes, and what is left of it when its holder is not.

use crate::support::{BOUND, given, take, through_a_parcel};
use procession_sync::{Holder, Lock, LockError, Poison, RLock};
use procession_testkit::{isolated, role, syscalls, wait::asleep, watchdog};
use std::time::Duration;

#[test]
fn role_locker() {
    let Some(mut role) = role::enter(role_locker) else { return };
    let lock: Lock = take(role.fd());
    loop {
        match role.hear().as_str() {
            "lock" => match lock.acquire() {
                Ok(()) => role.say("locked"),
                Err(error) => role.say(&error.to_string()),
            },
            "try" => role.say(&lock.try_acquire().is_ok().to_string()),
            "release" => role.say(&lock.release().is_ok().to_string()),
            "panic" => {
                let panicked = std::thread::scope(|scope| {
                    let thread = scope.spawn(|| {
                        let _guard = lock.lock();
                        panic!("under the lock");
                    });
                    thread.join().is_err()
                });
                role.say(&panicked.to_string());
            }
            word => panic!("{word}?"),
        }
    }
}

#[test]
fn one_holds_it_at_a_time_whatever_its_process() {
    let _watchdog = watchdog!();
    let lock = Lock::new().unwrap();
    let mut other = role::start(role_locker, &[&given(&lock)]);
    let guard = lock.lock().unwrap();
    other.say("try");
    other.expect("false");
    assert_eq!(lock.holder().unwrap().pid, std::process::id());
    drop(guard);
    assert_eq!(lock.holder(), None);
    other.say("lock");
    other.expect("locked");
    assert_eq!(lock.holder().unwrap().pid, other.pid());
    assert!(matches!(lock.try_lock(), Err(LockError::TimedOut)));
    assert!(matches!(lock.lock_timeout(Duration::from_millis(20)), Err(LockError::TimedOut)));
    assert!(lock.release().is_err());
    other.say("release");
    other.expect("true");
    other.say("release");
    other.expect("false");
    lock.acquire().unwrap();
    lock.release().unwrap();
    assert!(lock.release().is_err());
}

#[test]
fn a_killed_holders_lock_goes_to_one_that_sleeps_and_tells_who_died() {
    let _watchdog = watchdog!();
    let lock = Lock::new().unwrap();
    let mut other = role::start(role_locker, &[&given(&lock)]);
    other.say("lock");
    other.expect("locked");
    let pid = other.pid();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            tell.send(Holder::current().tid).unwrap();
            match lock.lock_timeout(BOUND) {
                Err(LockError::Poisoned(poisoned)) => {
                    let cause = poisoned.cause();
                    drop(poisoned.into_inner());
                    cause
                }
                other => panic!("{other:?}"),
            }
        });
        asleep(told.recv().unwrap(), BOUND);
        other.kill();
        assert_eq!(waiter.join().unwrap(), Poison::Died { pid });
    });
    assert_eq!(lock.lock().unwrap_err().poison(), Some(Poison::Died { pid }));
    lock.clear_poison();
    drop(lock.lock().unwrap());
}

#[test]
fn a_panic_under_the_lock_poisons_it_and_is_told_from_a_death() {
    let _watchdog = watchdog!();
    let lock = Lock::new().unwrap();
    let mut other = role::start(role_locker, &[&given(&lock)]);
    other.say("panic");
    other.expect("true");
    let error = lock.lock().unwrap_err();
    assert_eq!(error.poison(), Some(Poison::Panicked { pid: other.pid() }));
    assert_eq!(
        error.to_string(),
        format!("poisoned: process {} panicked while it held the lock", other.pid())
    );
    assert!(lock.is_locked());
    drop(error);
    assert!(!lock.is_locked());
}

#[test]
fn a_second_lock_by_the_holder_is_an_error() {
    let _watchdog = watchdog!();
    let lock = Lock::new().unwrap();
    let again = through_a_parcel(&lock);
    assert!(lock.same(&again));
    let _guard = lock.lock().unwrap();
    assert!(matches!(again.lock(), Err(LockError::AlreadyHeld)));
    assert!(matches!(again.try_lock(), Err(LockError::TimedOut)));
}

#[test]
fn a_free_lock_is_locked_and_let_go_without_a_system_call() {
    isolated!({
        let (lock, again) = (Lock::new().unwrap(), RLock::new().unwrap());
        let use_both = || {
            drop(lock.lock().unwrap());
            drop(lock.try_lock().unwrap());
            drop(lock.lock_timeout(BOUND).unwrap());
            lock.acquire().unwrap();
            assert!(lock.holder().is_some());
            lock.release().unwrap();
            let outer = again.lock().unwrap();
            drop((again.lock().unwrap(), outer));
            drop(again.lock_timeout(BOUND).unwrap());
        };
        // The first use asks who this is.
        assert_eq!(syscalls::trace(use_both, |()| use_both()), []);
    });
}

#[test]
fn a_lock_that_was_poisoned_tells_so_in_its_debug_form() {
    let _watchdog = watchdog!();
    let lock = Lock::new().unwrap();
    let text = format!("{lock:?}");
    assert!(text.contains("locked: false") && text.contains("holder: None"), "{text}");
    let guard = lock.lock().unwrap();
    let text = format!("{guard:?}");
    assert!(text.contains(&format!("pid: {}", std::process::id())), "{text}");
}
