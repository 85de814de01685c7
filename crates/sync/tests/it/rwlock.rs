//! A lock for readers and writers.

use crate::{
    support::{BOUND, given, soon, take, through_a_parcel},
    ways::{Way, each_way},
};
use procession_sync::{Event, Holder, LockError, Poison, RwLock};
use procession_testkit::{isolated, role, syscalls, test_name, watchdog};
use std::time::Duration;

each_way! {
    readers_share_and_a_writer_is_alone,
    nobody_starves,
}

fn readers_share_and_a_writer_is_alone(way: Way) {
    let lock = RwLock::new().unwrap();
    let tries = |lock: RwLock| {
        let reads = lock.try_read().is_ok();
        (reads, lock.try_write().is_ok())
    };
    let read = lock.read().unwrap();
    assert_eq!(way.start(tries, lock.clone()).join(), (true, false));
    assert_eq!((lock.readers(), lock.writer()), (1, None));
    drop(read);
    let write = lock.write().unwrap();
    assert_eq!(way.start(tries, lock.clone()).join(), (false, false));
    assert_eq!((lock.readers(), lock.writer()), (0, Some(std::process::id())));
    drop(write);
    assert_eq!(way.start(tries, lock.clone()).join(), (true, true));
    let _write = lock.write().unwrap();
    let late = |lock: RwLock| {
        let read = matches!(lock.read_timeout(Duration::from_millis(20)), Err(LockError::TimedOut));
        read && matches!(lock.write_timeout(Duration::from_millis(20)), Err(LockError::TimedOut))
    };
    assert!(way.start(late, lock.clone()).join());
    assert_eq!(lock.waiting(), 0);
}

/// While readers come and go all the time, a writer gets its turn, and while writers do, a reader.
fn nobody_starves(way: Way) {
    let (lock, stop) = (RwLock::new().unwrap(), Event::new().unwrap());
    let busy = |(lock, stop, writes): (RwLock, Event, bool)| {
        while !stop.is_set() {
            if writes { drop(lock.write().unwrap()) } else { drop(lock.read().unwrap()) }
        }
    };
    for writes in [false, true] {
        stop.clear();
        let parties: Vec<_> = (0..3).map(|_| way.start(busy, (lock.clone(), stop.clone(), writes))).collect();
        for _ in 0..20 {
            if writes {
                drop(lock.read_timeout(BOUND).unwrap());
            } else {
                drop(lock.write_timeout(BOUND).unwrap());
            }
        }
        stop.set();
        parties.into_iter().for_each(|party| party.join());
    }
}

#[test]
fn it_tells_which_threads_of_which_processes_hold_it() {
    let _watchdog = watchdog!();
    let lock = RwLock::new().unwrap();
    assert_eq!((lock.holder(), lock.holders()), (None, vec![]));
    let mut other = role::start(role_rwlock, &[&given(&lock)]);
    other.say("read");
    other.expect("has it");
    let theirs = lock.holders();
    assert_eq!(theirs.len(), 1);
    let thread = format!("/proc/{}/task/{}", other.pid(), theirs[0].tid);
    assert!(theirs[0].pid == other.pid() && std::path::Path::new(&thread).exists());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _read = lock.read().unwrap();
            assert_eq!((lock.holder(), lock.holders()), (None, vec![theirs[0], Holder::current()]));
        });
    });
    other.say("end");
    drop(lock.write_timeout(BOUND).unwrap());
    let _write = lock.write().unwrap();
    assert_eq!((lock.holder(), lock.holders().len()), (Some(Holder::current()), 1));
}

#[test]
fn a_second_lock_by_a_holder_never_waits() {
    let _watchdog = watchdog!();
    let lock = RwLock::new().unwrap();
    let again = through_a_parcel(&lock);
    let read = lock.read().unwrap();
    assert!(matches!(again.write(), Err(LockError::AlreadyHeld)));
    std::thread::scope(|scope| {
        scope.spawn(|| drop(lock.write().unwrap()));
        soon("a writer waits", || lock.waiting() == 1);
        let other = scope.spawn(|| matches!(lock.try_read(), Err(LockError::TimedOut)));
        assert!(other.join().unwrap(), "a new reader waits behind the writer");
        // One that reads already would wait for itself.
        drop(again.read().unwrap());
        drop(read);
    });
    let _write = lock.write().unwrap();
    assert!(matches!(again.read(), Err(LockError::AlreadyHeld)));
    assert!(matches!(again.write(), Err(LockError::AlreadyHeld)));
}

#[test]
fn a_writers_panic_poisons_and_a_readers_does_not() {
    let _watchdog = watchdog!();
    let lock = RwLock::new().unwrap();
    std::thread::scope(|scope| {
        let reads = scope.spawn(|| {
            let _guard = lock.read().unwrap();
            panic!("while it reads");
        });
        assert!(reads.join().is_err());
        assert!(!lock.is_poisoned());
        let writes = scope.spawn(|| {
            let _guard = lock.write().unwrap();
            panic!("while it writes");
        });
        assert!(writes.join().is_err());
    });
    let pid = std::process::id();
    assert_eq!(lock.read().unwrap_err().poison(), Some(Poison::Panicked { pid }));
    assert_eq!(lock.write().unwrap_err().poison(), Some(Poison::Panicked { pid }));
    lock.clear_poison();
    drop(lock.write().unwrap());
}

#[test]
fn role_rwlock() {
    let Some(mut role) = role::enter(role_rwlock) else { return };
    let lock: RwLock = take(role.fd());
    let word = role.hear();
    let _read = (word == "read").then(|| lock.read().unwrap());
    let _write = (word == "write").then(|| lock.write().unwrap());
    role.say("has it");
    role.hear();
}

#[test]
fn a_dead_holders_lock_goes_to_one_that_sleeps_and_tells_who_died_as_what() {
    let _watchdog = watchdog!();
    for what in ["read", "write"] {
        let lock = RwLock::new().unwrap();
        let mut victim = role::start(role_rwlock, &[&given(&lock)]);
        victim.say(what);
        victim.expect("has it");
        let pid = victim.pid();
        let poison = if what == "read" { Poison::ReaderDied { pid } } else { Poison::Died { pid } };
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| lock.write_timeout(BOUND).unwrap_err().poison());
            soon("it waits", || lock.waiting() == 1);
            victim.kill();
            assert_eq!(waits.join().unwrap(), Some(poison));
        });
        assert_eq!(lock.read().unwrap_err().poison(), Some(poison));
        lock.clear_poison();
        drop(lock.read().unwrap());
        let text = format!("{lock:?}");
        let nobody = "RwLock { readers: [], writer: None, waiting: [], poison: None";
        assert!(text.starts_with(nobody), "{text}");
    }
}

#[test]
fn a_try_finds_a_dead_holder_at_once() {
    let _watchdog = watchdog!();
    let lock = RwLock::new().unwrap();
    let mut victim = role::start(role_rwlock, &[&given(&lock)]);
    victim.say("write");
    victim.expect("has it");
    assert!(matches!(lock.try_read(), Err(LockError::TimedOut)));
    let pid = victim.pid();
    victim.kill();
    assert_eq!(lock.try_read().unwrap_err().poison(), Some(Poison::Died { pid }));
}

#[test]
fn a_dead_waiter_is_in_nobodys_way() {
    let _watchdog = watchdog!();
    let lock = RwLock::new().unwrap();
    let read = lock.read().unwrap();
    let mut victim = role::start(role_rwlock, &[&given(&lock)]);
    victim.say("write");
    soon("a writer waits", || lock.waiting() == 1);
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| lock.read_timeout(BOUND).is_ok());
        soon("a reader waits behind it", || lock.waiting() == 2);
        victim.kill();
        assert!(waits.join().unwrap());
    });
    drop(read);
    assert!(!lock.is_poisoned());
}

#[test]
fn a_forked_childs_copy_of_a_guard_lets_nothing_go() {
    isolated!(test_name!(), {
        let lock = RwLock::new().unwrap();
        let mut guard = Some(lock.write().unwrap());
        procession_testkit::forked(|| {
            drop(guard.take());
            assert!(matches!(lock.try_read(), Err(LockError::TimedOut)));
        });
        assert_eq!(lock.writer(), Some(std::process::id()));
        drop(guard);
        procession_testkit::forked(|| drop(lock.write().unwrap()));
        assert_eq!(lock.writer(), None);
    });
}

#[test]
fn without_contention_nothing_is_asked_of_the_kernel() {
    isolated!(test_name!(), {
        let calls = syscalls::trace(
            || {
                let lock = RwLock::new().unwrap();
                drop(lock.write().unwrap());
                lock
            },
            |lock| {
                drop(lock.write().unwrap());
                let one = lock.read().unwrap();
                drop(lock.try_read().unwrap());
                drop(one);
            },
        );
        assert_eq!(calls, []);
    });
}
