//! Locks between threads, and between processes that are started in each way.

use crate::{
    support::BOUND,
    ways::{Way, each_way},
};
use procession_process::{Process, StartMethod};
use procession_sync::{Lock, LockError, NotHeld, Poison, RLock};
use procession_testkit::watchdog;

/// Runs `body` with each start method; that of a fork in a process with one thread.
fn each_method(body: fn(StartMethod)) {
    body(StartMethod::ForkServer);
    body(StartMethod::Spawn);
    let host = Process::builder().start_method(StartMethod::Spawn).spawn(body, StartMethod::Fork).unwrap();
    host.join().unwrap();
}

each_way! {
    a_lock_is_taken_once_and_let_go_once,
    a_reentrant_lock_is_let_go_as_often_as_it_was_taken,
    a_guard_lets_go_at_the_end_of_its_scope,
}

fn a_lock_is_taken_once_and_let_go_once(way: Way) {
    way.start(
        |lock: Lock| {
            lock.acquire().unwrap();
            assert!(matches!(lock.try_acquire(), Err(LockError::TimedOut)));
            assert!(lock.is_locked());
            lock.release().unwrap();
            assert_eq!(lock.release(), Err(NotHeld));
        },
        Lock::new().unwrap(),
    )
    .join();
}

fn a_reentrant_lock_is_let_go_as_often_as_it_was_taken(way: Way) {
    way.start(
        |lock: RLock| {
            (0..3).for_each(|_| lock.acquire().unwrap());
            (0..3).for_each(|_| lock.release().unwrap());
            assert_eq!(lock.release(), Err(NotHeld));
        },
        RLock::new().unwrap(),
    )
    .join();
}

fn a_guard_lets_go_at_the_end_of_its_scope(way: Way) {
    way.start(
        |lock: Lock| {
            {
                let _guard = lock.lock().unwrap();
                assert!(lock.is_locked());
            }
            assert!(!lock.is_locked());
        },
        Lock::new().unwrap(),
    )
    .join();
}

#[test]
fn parent_and_child_exclude_each_other_under_each_start_method() {
    let _watchdog = watchdog!();
    each_method(|method| {
        let (lock, again) = (Lock::new().unwrap(), RLock::new().unwrap());
        let start = |wait: bool| {
            let child = |(lock, again, wait): (Lock, RLock, bool)| {
                if wait {
                    let both = (lock.lock_timeout(BOUND).is_ok(), again.lock_timeout(BOUND).is_ok());
                    both == (true, true)
                } else {
                    lock.release().is_err() && lock.try_lock().is_err() && again.try_lock().is_err()
                }
            };
            let arguments = (lock.clone(), again.clone(), wait);
            Process::builder().start_method(method).spawn(child, arguments).unwrap()
        };
        let (held, held_again) = (lock.lock().unwrap(), again.lock().unwrap());
        assert!(start(false).join().unwrap());
        let waiter = start(true);
        drop((held, held_again));
        assert!(waiter.join().unwrap());
        drop((lock.try_lock().unwrap(), again.try_lock().unwrap()));
    });
}

#[test]
fn a_killed_childs_locks_are_handed_on_under_each_start_method() {
    let _watchdog = watchdog!();
    each_method(|method| {
        let (lock, again) = (Lock::new().unwrap(), RLock::new().unwrap());
        let child = |(lock, again): (Lock, RLock)| -> () {
            lock.acquire().unwrap();
            again.acquire().unwrap();
            again.acquire().unwrap();
            std::process::abort();
        };
        let arguments = (lock.clone(), again.clone());
        let child = Process::builder().start_method(method).spawn(child, arguments).unwrap();
        let died = Some(Poison::Died { pid: child.pid() });
        child.join().unwrap_err();
        assert_eq!(lock.lock_timeout(BOUND).unwrap_err().poison(), died);
        assert_eq!(again.lock_timeout(BOUND).unwrap_err().poison(), died);
    });
}
