//! Four processes at one lock or semaphore, killed at random moments.

use crate::{
    storm_support::{Pair, storm},
    support::BOUND,
};
use procession_sync::{BoundedSemaphore, Deadline, Lock, LockError, RLock, Semaphore};
use procession_testkit::{test_name, wait::eventually};
use std::time::Duration;

/// Adds under a lock that was had, or not in time: then false.
fn add<G>(pair: &Pair, locked: Result<G, LockError<G>>, clear: impl Fn()) -> bool {
    let _guard = match locked {
        Ok(guard) => guard,
        Err(LockError::Poisoned(poisoned)) => {
            pair.repair();
            clear();
            poisoned.into_inner()
        }
        Err(LockError::TimedOut) => return false,
        Err(error) => panic!("{error}"),
    };
    assert!(pair.is_whole(), "not poisoned, but torn");
    pair.add();
    true
}

/// A lock is not fair, so on a busy machine those who add can be quicker for long. But one of them gets it.
fn patient(pair: &Pair, mut add: impl FnMut() -> bool) {
    loop {
        let before = pair.read();
        if add() {
            return;
        }
        assert_ne!(pair.read(), before, "nobody gets the lock any more");
    }
}

#[test]
fn a_lock_survives_a_storm() {
    let once = |(lock, pair): &(Lock, Pair)| add(pair, lock.lock_timeout(BOUND), || lock.clear_poison());
    storm(
        test_name!(),
        (Lock::new().unwrap(), Pair::new()),
        |world, _| _ = once(world),
        |world, rng| {
            if rng.chance(1, 8) {
                patient(&world.1, || once(world));
            }
        },
        |world, _| {
            assert!(once(world));
            assert!(!world.0.is_locked() && world.0.holder().is_none() && !world.0.is_poisoned());
        },
    );
}

#[test]
fn a_reentrant_lock_survives_a_storm() {
    let once = |(lock, pair): &(RLock, Pair)| {
        let outer = lock.lock_timeout(BOUND);
        if matches!(outer, Err(LockError::TimedOut)) {
            return false;
        }
        assert!(add(pair, lock.lock(), || lock.clear_poison()));
        true
    };
    storm(
        test_name!(),
        (RLock::new().unwrap(), Pair::new()),
        |world, _| _ = once(world),
        |world, rng| {
            if rng.chance(1, 8) {
                patient(&world.1, || once(world));
            }
        },
        |world, _| {
            assert!(once(world));
            assert!(!world.0.is_locked() && world.0.depth() == 0 && !world.0.is_poisoned());
        },
    );
}

const PERMITS: u32 = 8;

/// Holds some permits, and sometimes gives them to nobody for a while.
macro_rules! semaphore_storm {
    ($semaphore:expr) => {
        storm(
            test_name!(),
            $semaphore,
            |semaphore, rng| {
                let count = 1 + rng.below(3) as u32;
                let permit = semaphore.permits(count).unwrap();
                assert!(semaphore.value() <= PERMITS - count);
                if rng.chance(1, 8) {
                    std::thread::sleep(rng.duration(Duration::from_micros(200)));
                }
                drop(permit);
            },
            |semaphore, rng| {
                // Looks after the dead, now and then.
                assert!(semaphore.value() <= PERMITS);
                if rng.chance(1, 8) {
                    drop(semaphore.permits_deadline(2, Deadline::after(BOUND)).unwrap());
                }
            },
            |semaphore, _| {
                eventually("all permits are back", BOUND, || semaphore.value() == PERMITS);
                assert_eq!(semaphore.held(), 0);
                drop(semaphore.permits_deadline(PERMITS, Deadline::after(BOUND)).unwrap());
                // Permits that nobody owns are counted as well.
                semaphore.acquire_many(PERMITS).unwrap();
                semaphore.release_many(PERMITS).unwrap();
                assert_eq!((semaphore.value(), semaphore.held()), (PERMITS, 0));
            },
        )
    };
}

#[test]
fn a_semaphore_survives_a_storm() {
    semaphore_storm!(Semaphore::new(PERMITS).unwrap());
}

#[test]
fn a_bounded_semaphore_survives_a_storm() {
    semaphore_storm!(BoundedSemaphore::new(PERMITS).unwrap());
}
