//! Who holds a lock since when and from where, and deadlocks.

use crate::support::{BOUND, given, soon, take};
use procession_sync::{Array, Condition, Deadlock, Lock, LockError, RLock, RwLock, Value};
use procession_testkit::{role, watchdog};
use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

#[test]
fn role_waiter() {
    let Some(mut role) = role::enter(role_waiter) else { return };
    let (first, second): (Lock, RLock) = take(role.fd());
    first.acquire().unwrap();
    role.say("first");
    role.hear();
    match second.acquire() {
        Ok(()) => role.say("second"),
        Err(error) => {
            // Whoever finds out first makes room for the other.
            first.release().unwrap();
            role.say(&error.to_string());
        }
    }
    role.hear();
}

/// What a wait ended with that was in a circle.
fn deadlock(error: LockError) -> Deadlock {
    match error {
        LockError::Deadlock(deadlock) => deadlock,
        other => panic!("{other:?}"),
    }
}

#[test]
fn two_processes_that_wait_for_each_other_are_told_so() {
    let _watchdog = watchdog!();
    // In two segments.
    let many: Vec<Lock> = (0..10_000).map(|_| Lock::new().unwrap()).collect();
    let (first, second) = (many[0].clone(), RLock::new().unwrap());
    let mut other = role::start(role_waiter, &[&given(&(&first, &second))]);
    other.expect("first");
    second.acquire().unwrap();
    other.say("go");
    let (us, them) = (std::process::id(), other.pid());
    let text = match first.acquire() {
        // The other one was quicker.
        Ok(()) => other.hear(),
        Err(error) => {
            let text = error.to_string();
            let deadlock = deadlock(error);
            let [ours, theirs] = deadlock.steps() else { panic!("{text}") };
            assert_eq!((ours.waiter.pid, ours.holder.pid), (us, them), "{text}");
            assert_eq!((theirs.waiter.pid, theirs.holder.pid), (them, us), "{text}");
            assert!(ours.lock.starts_with("the Lock") && theirs.lock.starts_with("the RLock"), "{text}");
            for site in [&ours.waits_at, &ours.held_at, &theirs.waits_at, &theirs.held_at] {
                assert!(site.contains("trace.rs:"), "{text}");
            }
            second.release().unwrap();
            // Both may find out at a time.
            let told = other.hear();
            assert!(told == "second" || told.starts_with("deadlock"), "{told}");
            text
        }
    };
    assert!(text.starts_with("deadlock: process ") && text.matches("trace.rs:").count() == 4, "{text}");
    assert!(text.contains(&format!("process {us},")) && text.contains(&format!("process {them},")), "{text}");
}

#[test]
fn three_threads_in_a_circle_are_told_so_and_one_outside_is_not() {
    let _watchdog = watchdog!();
    let locks: Vec<Lock> = (0..3).map(|_| Lock::new().unwrap()).collect();
    let all_hold = std::sync::Barrier::new(3);
    let told = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3)
            .map(|index| {
                let (locks, all_hold) = (&locks, &all_hold);
                scope.spawn(move || {
                    let own = locks[index].lock().unwrap();
                    all_hold.wait();
                    let told = match locks[(index + 1) % 3].lock() {
                        Ok(_) => false,
                        Err(LockError::Deadlock(deadlock)) => {
                            assert_eq!(deadlock.steps().len(), 3);
                            true
                        }
                        Err(other) => panic!("{other:?}"),
                    };
                    drop(own);
                    told
                })
            })
            .collect();
        let outside = scope.spawn(|| locks[0].lock().is_ok());
        assert!(outside.join().unwrap());
        threads.into_iter().map(|thread| thread.join().unwrap()).filter(|&told| told).count()
    });
    assert!(told >= 1);
}

#[test]
fn who_waits_with_a_deadline_is_in_no_deadlock() {
    let _watchdog = watchdog!();
    let (one, other) = (Lock::new().unwrap(), Lock::new().unwrap());
    let both_hold = std::sync::Barrier::new(2);
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| {
            let _other = other.lock().unwrap();
            both_hold.wait();
            // Ours lets go when its time is over.
            drop(one.lock().unwrap());
        });
        let held = one.lock().unwrap();
        both_hold.wait();
        let timeout = 4 * procession_sys::SLICE;
        assert!(matches!(other.lock_timeout(timeout), Err(LockError::TimedOut)));
        drop(held);
        waits.join().unwrap();
    });
}

#[test]
fn a_held_lock_tells_since_when_and_from_which_line() {
    let _watchdog = watchdog!();
    let lock = Lock::new().unwrap();
    assert_eq!((lock.held_since(), lock.held_at()), (None, None));
    let line = line!() + 1;
    let guard = lock.lock().unwrap();
    assert!(lock.held_at().unwrap().ends_with(&format!("tests/it/trace.rs:{line}")));
    assert!(lock.held_since().unwrap() < Duration::from_secs(60));
    assert!(format!("{lock:?}").contains("trace.rs"), "{lock:?}");
    drop(guard);
    assert_eq!(lock.held_at(), None);
}

#[test]
fn what_stands_on_a_lock_tells_since_when_and_from_which_line_too() {
    let _watchdog = watchdog!();
    let value = Value::new(1_u32).unwrap();
    let array = Array::<u32>::new(3).unwrap();
    let (one, other) = (Condition::new().unwrap(), Condition::with_rlock(RLock::new().unwrap()).unwrap());
    assert_eq!((value.held_at(), array.held_at(), one.held_at(), other.held_at()), (None, None, None, None));
    let line = line!() + 1;
    let guards = (value.lock().unwrap(), array.lock().unwrap(), one.lock().unwrap(), other.lock().unwrap());
    let here = format!("tests/it/trace.rs:{line}");
    for site in [value.held_at(), array.held_at(), one.held_at(), other.held_at()] {
        assert!(site.as_ref().unwrap().ends_with(&here), "{site:?}, not {here}");
    }
    for since in [value.held_since(), array.held_since(), one.held_since(), other.held_since()] {
        assert!(since.unwrap() < Duration::from_secs(60));
    }
    drop(guards);
    assert_eq!((value.held_since(), other.held_since()), (None, None));
    // What takes it for a moment, too.
    let line = line!() + 1;
    value.update(|_| assert!(value.held_at().unwrap().ends_with(&format!("trace.rs:{line}")))).unwrap();
    array
        .update(0, |_| assert!(array.held_at().unwrap().ends_with(&format!("trace.rs:{}", line + 2))))
        .unwrap();
    // A wait lets it go and takes it back.
    for condition in [one, other] {
        let mut guard = condition.lock().unwrap();
        let line = line!() + 1;
        assert!(!condition.wait_timeout(&mut guard, Duration::from_millis(1)).unwrap());
        assert!(condition.held_at().unwrap().ends_with(&format!("trace.rs:{line}")));
    }
}

/// Whether a read-write lock tells that it was locked at that line of this file.
#[track_caller]
fn told_at(lock: &RwLock, line: u32) {
    let site = lock.held_at();
    let here = format!("tests/it/trace.rs:{line}");
    assert!(site.as_ref().is_some_and(|site| site.ends_with(&here)), "{site:?}, not {here}");
    assert!(lock.held_since().unwrap() < Duration::from_secs(60));
}

#[test]
fn a_read_write_lock_tells_since_when_and_from_which_line_however_it_was_locked() {
    let _watchdog = watchdog!();
    let lock = RwLock::new().unwrap();
    let free = |lock: &RwLock| assert_eq!((lock.held_since(), lock.held_at()), (None, None));
    free(&lock);
    let (line, read) = (line!(), lock.read().unwrap());
    told_at(&lock, line);
    drop(read);
    free(&lock);
    let (line, read) = (line!(), lock.try_read().unwrap());
    told_at(&lock, line);
    drop(read);
    let (line, read) = (line!(), lock.read_timeout(BOUND).unwrap());
    told_at(&lock, line);
    drop(read);
    let (line, write) = (line!(), lock.write().unwrap());
    told_at(&lock, line);
    assert!(format!("{lock:?}").contains("trace.rs"), "{lock:?}");
    drop(write);
    free(&lock);
    let (line, write) = (line!(), lock.try_write().unwrap());
    told_at(&lock, line);
    drop(write);
    let (line, write) = (line!(), lock.write_timeout(BOUND).unwrap());
    told_at(&lock, line);
    drop(write);
    let until = procession_sync::Deadline::after(BOUND);
    let (line, read) = (line!(), lock.read_deadline(until).unwrap());
    told_at(&lock, line);
    drop(read);
    let (line, write) = (line!(), lock.write_deadline(until).unwrap());
    told_at(&lock, line);
    drop(write);
    free(&lock);
}

#[test]
fn of_several_readers_the_first_one_tells_and_one_that_waited_tells_its_own_line() {
    let _watchdog = watchdog!();
    let lock = RwLock::new().unwrap();
    let (first_line, first) = (line!(), lock.read().unwrap());
    let (second_line, second) = (line!(), lock.read().unwrap());
    told_at(&lock, first_line);
    drop(first);
    told_at(&lock, second_line);
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| {
            let (line, write) = (line!(), lock.write().unwrap());
            told_at(&lock, line);
            drop(write);
        });
        soon("it waits", || lock.waiting() == 1);
        told_at(&lock, second_line);
        drop(second);
        waits.join().unwrap();
    });
    assert_eq!(lock.held_at(), None);
}

#[cfg(feature = "async")]
#[test]
fn a_read_write_lock_that_a_future_locked_tells_since_when() {
    use crate::later::{begin, block_on};
    let _watchdog = watchdog!();
    let lock = RwLock::new().unwrap();
    let read = block_on(lock.read_async()).unwrap();
    assert!(lock.held_since().is_some() && lock.held_at().unwrap().contains("later.rs:"));
    let mut waits = std::pin::pin!(lock.write_async());
    let _ = begin(waits.as_mut());
    assert_eq!(lock.waiting(), 1);
    drop(read);
    let write = block_on(waits).unwrap();
    assert!(lock.held_since().is_some() && lock.held_at().unwrap().contains("later.rs:"));
    drop(write);
    assert_eq!(lock.held_since(), None);
}

#[test]
fn role_of_a_read_write_lock() {
    let Some(mut role) = role::enter(role_of_a_read_write_lock) else { return };
    let (lock, shared): (Lock, RwLock) = take(role.fd());
    let word = role.hear();
    let read = (word == "read").then(|| shared.read().unwrap());
    let write = (word == "write").then(|| shared.write().unwrap());
    role.say("has it");
    role.hear();
    let told = lock.acquire().map_or_else(|error| error.to_string(), |()| "lock".to_owned());
    drop((read, write));
    role.say(&told);
    role.hear();
}

#[test]
fn a_circle_through_a_writer_or_a_reader_in_another_process_is_told() {
    let _watchdog = watchdog!();
    for (theirs, ours) in [("write", "read"), ("write", "write"), ("read", "write")] {
        let (lock, shared) = (Lock::new().unwrap(), RwLock::new().unwrap());
        let mut other = role::start(role_of_a_read_write_lock, &[&given(&(&lock, &shared))]);
        other.say(theirs);
        other.expect("has it");
        lock.acquire().unwrap();
        other.say("go");
        let (us, them) = (std::process::id(), other.pid());
        let asked = match ours {
            "read" => shared.read().map(drop).map_err(LockError::without_guard),
            _ => shared.write().map(drop).map_err(LockError::without_guard),
        };
        let text = match asked {
            // The other one was quicker.
            Ok(()) => other.hear(),
            Err(error) => {
                let text = error.to_string();
                let deadlock = deadlock(error);
                let [ours, theirs] = deadlock.steps() else { panic!("{text}") };
                assert_eq!((ours.waiter.pid, ours.holder.pid), (us, them), "{text}");
                assert_eq!((theirs.waiter.pid, theirs.holder.pid), (them, us), "{text}");
                assert!(ours.lock.starts_with("the RwLock") && theirs.lock.starts_with("the Lock"), "{text}");
                assert_eq!(shared.waiting(), 0);
                lock.release().unwrap();
                // Both may find out at a time.
                let told = other.hear();
                assert!(told == "lock" || told.starts_with("deadlock"), "{told}");
                text
            }
        };
        assert!(text.starts_with("deadlock: process ") && text.matches("trace.rs:").count() == 4, "{text}");
        other.say("end");
        drop(shared.write_timeout(BOUND).unwrap());
    }
}

/// Whether a wait without a deadline ended as a deadlock, of so many steps.
fn told<G>(result: Result<G, LockError<G>>, steps: usize) -> bool {
    match result {
        Ok(_) => false,
        Err(LockError::Deadlock(deadlock)) => {
            assert_eq!(deadlock.steps().len(), steps, "{deadlock}");
            true
        }
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn a_circle_of_writers_of_two_read_write_locks_is_told() {
    let _watchdog = watchdog!();
    let locks = [RwLock::new().unwrap(), RwLock::new().unwrap()];
    let both_hold = std::sync::Barrier::new(2);
    let circle = |index: usize| {
        let own = locks[index].write().unwrap();
        both_hold.wait();
        let told = told(locks[1 - index].write(), 2);
        drop(own);
        told
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(|| circle(1));
        assert!(circle(0) | other.join().unwrap());
    });
}

#[test]
fn a_circle_through_the_last_of_several_readers_is_told() {
    let _watchdog = watchdog!();
    let (lock, shared) = (Lock::new().unwrap(), RwLock::new().unwrap());
    let (last_reads, held, over) =
        (std::sync::Barrier::new(2), std::sync::Barrier::new(2), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for readers in 1..=2 {
            scope.spawn(|| {
                let _read = shared.read().unwrap();
                soon("somebody is told", || over.load(Ordering::Relaxed));
            });
            soon("it reads", || shared.readers() == readers);
        }
        let last = scope.spawn(|| {
            let _read = shared.read().unwrap();
            last_reads.wait();
            held.wait();
            let told = told(lock.lock(), 2);
            over.fetch_or(told, Ordering::Relaxed);
            told
        });
        last_reads.wait();
        let guard = lock.lock().unwrap();
        held.wait();
        // It waits for the other two as well, who go when somebody was told.
        let writer = told(shared.write(), 2);
        over.fetch_or(writer, Ordering::Relaxed);
        drop(guard);
        assert!(last.join().unwrap() | writer);
    });
}

/// One reads and waits for a lock; its holder asks to read behind a writer that waits for as long as it does.
fn behind_a_writer(timeout: Option<Duration>) -> bool {
    let (lock, shared) = (Lock::new().unwrap(), RwLock::new().unwrap());
    let (reads, held) = (std::sync::Barrier::new(2), std::sync::Barrier::new(2));
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let _read = shared.read().unwrap();
            reads.wait();
            held.wait();
            told(lock.lock(), 2)
        });
        reads.wait();
        let guard = lock.lock().unwrap();
        held.wait();
        let writer = scope.spawn(|| match timeout {
            None => drop(shared.write().unwrap()),
            Some(timeout) => assert!(shared.write_timeout(timeout).unwrap_err().is_timeout()),
        });
        soon("the writer waits", || shared.waiting() == 1);
        let here = told(shared.read(), 2);
        drop(guard);
        writer.join().unwrap();
        reader.join().unwrap() | here
    })
}

#[test]
fn a_circle_through_a_reader_in_front_of_a_writer_that_waits_is_told() {
    let _watchdog = watchdog!();
    assert!(behind_a_writer(None));
}

#[test]
fn who_waits_for_a_read_write_lock_with_a_deadline_is_in_no_deadlock() {
    let _watchdog = watchdog!();
    let timeout = 4 * procession_sys::SLICE;
    assert!(!behind_a_writer(Some(timeout)));
    let (lock, shared) = (Lock::new().unwrap(), RwLock::new().unwrap());
    let both_hold = std::sync::Barrier::new(2);
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| {
            let _read = shared.read().unwrap();
            both_hold.wait();
            drop(lock.lock().unwrap());
        });
        let guard = lock.lock().unwrap();
        both_hold.wait();
        assert!(shared.write_timeout(timeout).unwrap_err().is_timeout());
        drop(guard);
        waits.join().unwrap();
    });
}
