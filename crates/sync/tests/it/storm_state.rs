//! Kills at random moments, in the midst of everything. `PROCESSION_STORM` says how many rounds; the seed is printed.

use crate::{
    support::{BOUND, given, take},
    ways::soon,
};
use procession_sync::{Barrier, BarrierError, Condition, Event, LockError, RwLock};
use procession_testkit::{
    role,
    storm::{Rng, kill_within},
    watchdog,
};
use std::time::Duration;

fn rounds() -> u64 {
    std::env::var("PROCESSION_STORM").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(8)
}

type World = (Condition, Event, Barrier, RwLock);

#[test]
fn role_busy() {
    let Some(mut role) = role::enter(role_busy) else { return };
    let (what, (condition, event, barrier, rwlock)): (String, World) = take(role.fd());
    role.say("busy");
    for turn in 0_u64.. {
        match what.as_str() {
            "condition" => {
                let mut guard = match condition.lock() {
                    Ok(guard) => guard,
                    Err(LockError::Poisoned(poisoned)) => {
                        condition.clear_poison();
                        poisoned.into_inner()
                    }
                    Err(error) => panic!("{error}"),
                };
                if turn % 3 == 0 {
                    let _ = condition.notify_n(2);
                } else {
                    let _ = condition.wait_timeout(&mut guard, Duration::from_micros(300));
                }
            }
            "event" => {
                event.wait_timeout(Duration::from_micros(200));
                event.set();
                event.clear();
            }
            "barrier" => {
                if let Err(BarrierError::Broken(_)) = barrier.wait_timeout(Duration::from_millis(20)) {
                    barrier.reset().unwrap();
                }
            }
            "rwlock" => {
                let wait = Duration::from_millis(5);
                if turn % 4 == 0 { drop(rwlock.write_timeout(wait)) } else { drop(rwlock.read_timeout(wait)) }
            }
            what => panic!("{what}?"),
        }
    }
}

fn storm(what: &str, works: fn(&World)) {
    let mut rng = Rng::from_env();
    let world: World =
        (Condition::new().unwrap(), Event::new().unwrap(), Barrier::new(2).unwrap(), RwLock::new().unwrap());
    for _ in 0..rounds() {
        let mut busy: Vec<_> = (0..3).map(|_| role::start(role_busy, &[&given(&(what, &world))])).collect();
        busy.iter_mut().for_each(|process| process.expect("busy"));
        for process in &mut busy {
            kill_within(&mut rng, process.pidfd(), Duration::from_millis(8)).unwrap();
            process.kill();
        }
        works(&world);
    }
}

#[test]
fn a_condition_survives_a_storm() {
    let _watchdog = watchdog!(Duration::from_secs(240));
    storm("condition", |(condition, ..)| {
        if condition.lock_timeout(BOUND).is_err() {
            condition.clear_poison();
        }
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
    });
}

#[test]
fn an_event_survives_a_storm() {
    let _watchdog = watchdog!(Duration::from_secs(240));
    storm("event", |(_, event, ..)| {
        event.clear();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| event.wait_timeout(BOUND));
            event.set();
            assert!(waits.join().unwrap());
        });
    });
}

#[test]
fn a_barrier_survives_a_storm() {
    let _watchdog = watchdog!(Duration::from_secs(240));
    storm("barrier", |(_, _, barrier, _)| {
        barrier.reset().unwrap();
        std::thread::scope(|scope| {
            let other = scope.spawn(|| barrier.wait_timeout(BOUND).unwrap());
            assert_eq!(barrier.wait_timeout(BOUND).unwrap() + other.join().unwrap(), 1);
        });
    });
}

#[test]
fn a_read_write_lock_survives_a_storm() {
    let _watchdog = watchdog!(Duration::from_secs(240));
    storm("rwlock", |(.., lock)| {
        match lock.write_timeout(BOUND) {
            Ok(_) => {}
            Err(LockError::Poisoned(_)) => lock.clear_poison(),
            Err(error) => panic!("{error}"),
        }
        assert_eq!((lock.readers(), lock.writer(), lock.waiting()), (0, None, 0));
        drop(lock.read_timeout(BOUND).unwrap());
    });
}
