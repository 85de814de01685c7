//! A lock that its holder may enter again.

use crate::support::{BOUND, given, take, through_a_parcel};
use procession_sync::{Holder, LockError, NotHeld, Poison, RLock};
use procession_testkit::{role, wait::asleep, watchdog};

#[test]
fn role_again() {
    let Some(mut role) = role::enter(role_again) else { return };
    let lock: RLock = take(role.fd());
    loop {
        match role.hear().as_str() {
            "lock" => match lock.acquire() {
                Ok(()) => role.say(&format!("depth {}", lock.depth())),
                Err(error) => role.say(&error.to_string()),
            },
            "try" => role.say(&lock.try_acquire().is_ok().to_string()),
            "release" => match lock.release() {
                Ok(()) => role.say(&format!("depth {}", lock.depth())),
                Err(NotHeld) => role.say("not held"),
            },
            word => panic!("{word}?"),
        }
    }
}

#[test]
fn the_holder_enters_again_and_others_wait_until_it_has_left_as_often() {
    let _watchdog = watchdog!();
    let lock = RLock::new().unwrap();
    let mut other = role::start(role_again, &[&given(&lock)]);
    other.say("lock");
    other.expect("depth 1");
    other.say("lock");
    other.expect("depth 2");
    assert_eq!(lock.holder().unwrap().pid, other.pid());
    let text = format!("{lock:?}");
    assert!(text.contains(&format!("pid: {}", other.pid())) && text.contains("depth: 2"), "{text}");
    assert_eq!(lock.depth(), 0);
    assert!(matches!(lock.try_lock(), Err(LockError::TimedOut)));
    assert_eq!(lock.release(), Err(NotHeld));
    other.say("release");
    other.expect("depth 1");
    assert!(matches!(lock.try_lock(), Err(LockError::TimedOut)));
    other.say("release");
    other.expect("depth 0");
    other.say("release");
    other.expect("not held");
    let outer = lock.lock().unwrap();
    // Another handle of this process knows that this thread is the holder.
    let again = through_a_parcel(&lock);
    let inner = again.try_lock().unwrap();
    assert_eq!((lock.depth(), again.depth()), (2, 2));
    drop(outer);
    other.say("try");
    other.expect("false");
    std::thread::scope(|scope| {
        assert!(scope.spawn(|| lock.try_acquire().is_err() && lock.release().is_err()).join().unwrap());
    });
    drop(inner);
    other.say("try");
    other.expect("true");
}

#[test]
fn a_killed_holders_levels_all_go_to_one_that_sleeps() {
    let _watchdog = watchdog!();
    let lock = RLock::new().unwrap();
    let mut other = role::start(role_again, &[&given(&lock)]);
    for depth in 1..4 {
        other.say("lock");
        other.expect(&format!("depth {depth}"));
    }
    let died = Poison::Died { pid: other.pid() };
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            tell.send(Holder::current().tid).unwrap();
            let error = lock.lock_timeout(BOUND).unwrap_err();
            assert_eq!(error.poison(), Some(died));
            assert_eq!(lock.depth(), 1);
            // Each level tells, until somebody has looked after what is guarded.
            assert_eq!(lock.try_lock().unwrap_err().poison(), Some(died));
            lock.clear_poison();
            drop(lock.try_lock().unwrap());
            drop(error);
            assert_eq!(lock.depth(), 0);
        });
        asleep(told.recv().unwrap(), BOUND);
        other.kill();
        waiter.join().unwrap();
    });
    drop(lock.try_lock().unwrap());
}

#[test]
fn a_panic_on_any_level_poisons() {
    let _watchdog = watchdog!();
    let lock = RLock::new().unwrap();
    let outer = lock.lock().unwrap();
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _inner = lock.lock().unwrap();
        panic!("on the second level");
    }));
    assert!(caught.is_err());
    assert_eq!(lock.depth(), 1);
    assert_eq!(lock.poison(), Some(Poison::Panicked { pid: std::process::id() }));
    drop(outer);
    assert!(!lock.is_locked());
}
