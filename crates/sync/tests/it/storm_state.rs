//! Four processes at one primitive, killed at random moments, in the midst of everything. The seed is printed.

use crate::{
    storm_support::{Pair, storm},
    support::BOUND,
    support::soon,
};
use procession_sync::{Barrier, BarrierError, Condition, Event, LockError, RwLock, WaitError};
use procession_testkit::{storm::Rng, test_name};
use std::time::Duration;

/// Does something with the lock of the condition; false if it cannot be had in time.
fn with_lock(condition: &Condition, pair: &Pair, then: impl FnOnce()) -> bool {
    let _guard = match condition.lock_timeout(BOUND) {
        Ok(guard) => guard,
        Err(LockError::Poisoned(poisoned)) => {
            pair.repair();
            condition.clear_poison();
            poisoned.into_inner()
        }
        Err(LockError::TimedOut) => return false,
        Err(error) => panic!("{error}"),
    };
    assert!(pair.is_whole());
    pair.add();
    then();
    assert!(pair.is_whole());
    true
}

#[test]
fn a_condition_survives_a_storm() {
    let work = |(condition, pair): &(Condition, Pair), rng: &mut Rng| {
        if rng.chance(1, 3) {
            with_lock(condition, pair, || _ = condition.notify_n(2).unwrap());
            return;
        }
        let mut guard = match condition.lock() {
            Ok(guard) => guard,
            Err(LockError::Poisoned(poisoned)) => {
                pair.repair();
                condition.clear_poison();
                poisoned.into_inner()
            }
            Err(error) => panic!("{error}"),
        };
        assert!(pair.is_whole());
        match condition.wait_timeout(&mut guard, Duration::from_micros(300)) {
            Ok(_) => {
                assert!(pair.is_whole());
                pair.add();
            }
            Err(WaitError::Poisoned(_)) => {
                pair.repair();
                condition.clear_poison();
            }
            Err(error) => panic!("{error}"),
        }
    };
    let look = |(condition, pair): &(Condition, Pair), rng: &mut Rng| {
        if !rng.chance(1, 8) {
            return;
        }
        let before = pair.read();
        while !with_lock(condition, pair, || ()) {
            assert_ne!(pair.read(), before, "nobody gets the lock any more");
        }
    };
    let alone = |(condition, pair): &mut (Condition, Pair), _: &mut Rng| {
        assert!(with_lock(condition, pair, || ()));
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| {
                let mut guard = condition.lock().unwrap();
                condition.wait_timeout(&mut guard, BOUND).unwrap()
            });
            // The dead ones that wait may get it first: then it is passed on.
            let me = std::process::id();
            soon("it waits", || format!("{condition:?}").contains(&me.to_string()));
            let guard = condition.lock().unwrap();
            assert!(condition.notify_one().unwrap() == 1);
            drop(guard);
            assert!(waits.join().unwrap());
        });
        assert_eq!(condition.waiting(), 0);
    };
    storm(test_name!(), (Condition::new().unwrap(), Pair::new()), work, look, alone);
}

#[test]
fn an_event_survives_a_storm() {
    let work = |event: &Event, rng: &mut Rng| {
        let _ = event.wait_timeout(rng.duration(Duration::from_micros(300)));
        event.set();
        event.clear();
    };
    let look = |event: &Event, _: &mut Rng| _ = event.wait_timeout(Duration::from_micros(50));
    let alone = |event: &mut Event, _: &mut Rng| {
        event.clear();
        assert!(!event.is_set());
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| event.wait_timeout(BOUND));
            event.set();
            assert!(waits.join().unwrap());
        });
    };
    storm(test_name!(), Event::new().unwrap(), work, look, alone);
}

#[test]
fn a_barrier_survives_a_storm() {
    let work = |barrier: &Barrier, _: &mut Rng| match barrier.wait_timeout(Duration::from_millis(20)) {
        Ok(place) => assert!(place < 2),
        Err(BarrierError::Broken(_)) => barrier.reset().unwrap(),
        Err(error) => panic!("{error}"),
    };
    let look = |barrier: &Barrier, _: &mut Rng| assert!(barrier.waiting() <= 4);
    let alone = |barrier: &mut Barrier, _: &mut Rng| {
        barrier.reset().unwrap();
        std::thread::scope(|scope| {
            let other = scope.spawn(|| barrier.wait_timeout(BOUND).unwrap());
            assert_eq!(barrier.wait_timeout(BOUND).unwrap() + other.join().unwrap(), 1);
        });
        assert_eq!(barrier.waiting(), 0);
    };
    storm(test_name!(), Barrier::new(2).unwrap(), work, look, alone);
}

#[test]
fn a_read_write_lock_survives_a_storm() {
    let work = |(lock, pair): &(RwLock, Pair), rng: &mut Rng| {
        let wait = Duration::from_millis(20);
        if rng.chance(1, 4) {
            match lock.write_timeout(wait) {
                Ok(_guard) => {
                    assert!(pair.is_whole());
                    pair.add();
                }
                Err(LockError::Poisoned(_guard)) => {
                    pair.repair();
                    lock.clear_poison();
                }
                Err(LockError::TimedOut) => {}
                Err(error) => panic!("{error}"),
            }
        } else {
            match lock.read_timeout(wait) {
                Ok(_guard) => assert!(pair.is_whole()),
                Err(LockError::Poisoned(_) | LockError::TimedOut) => {}
                Err(error) => panic!("{error}"),
            }
        }
    };
    let look = |(lock, pair): &(RwLock, Pair), _: &mut Rng| {
        if let Ok(_guard) = lock.try_read() {
            assert!(pair.is_whole());
        }
    };
    let alone = |(lock, pair): &mut (RwLock, Pair), _: &mut Rng| {
        match lock.write_timeout(BOUND) {
            Ok(_guard) => assert!(pair.is_whole()),
            Err(LockError::Poisoned(_guard)) => {
                pair.repair();
                lock.clear_poison();
            }
            Err(error) => panic!("{error}"),
        }
        assert_eq!((lock.readers(), lock.writer(), lock.waiting()), (0, None, 0));
        drop(lock.read_timeout(BOUND).unwrap());
    };
    storm(test_name!(), (RwLock::new().unwrap(), Pair::new()), work, look, alone);
}
