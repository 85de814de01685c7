//! Locks: free ones, and one that two processes want.

use std::time::Duration;

use procession_sync::{Lock, RLock};

use crate::peers::mutexes;
use crate::scenario::{
    Against, Bound, Cores, Entry, Failure, Field, Goal, Regime, Scenario, Surroundings, Unit, timed,
};

pub(super) fn scenarios() -> Vec<Scenario> {
    let goal = Goal {
        text: "at most 1.15 times a robust pthread mutex, and twice std's Mutex",
        bounds: &[
            Bound { against: Against::Limit, factor: 1.15 },
            Bound { against: Against::Peer("std"), factor: 2.0 },
        ],
    };
    vec![
        Scenario {
            id: "lock.uncontended",
            what: "lock and unlock a Lock that nobody else wants",
            unit: Unit::Nanoseconds,
            regime: Regime::ONE_CORE,
            goal,
            field: |surroundings, regime| {
                let lock = Lock::new();
                uncontended(
                    surroundings,
                    regime,
                    lock.map_err(Into::into).and_then(|lock| {
                        free(regime, move || {
                            drop(lock.lock().map_err(|error| error.without_guard())?);
                            Ok(())
                        })
                    }),
                )
            },
        },
        Scenario {
            id: "lock.uncontended.reentrant",
            what: "lock and unlock an RLock that nobody else wants",
            unit: Unit::Nanoseconds,
            regime: Regime::ONE_CORE,
            goal: Goal { text: "none of its own", bounds: &[] },
            field: |surroundings, regime| {
                let lock = RLock::new();
                uncontended(
                    surroundings,
                    regime,
                    lock.map_err(Into::into).and_then(|lock| {
                        free(regime, move || {
                            drop(lock.lock().map_err(|error| error.without_guard())?);
                            Ok(())
                        })
                    }),
                )
            },
        },
        Scenario {
            id: "lock.contended",
            what: "two processes lock, add one to a number and unlock, as fast as they can; both together. std: threads",
            unit: Unit::PerSecond,
            regime: Regime::AWAKE,
            goal: Goal {
                text: "at least what a robust pthread mutex does",
                bounds: &[Bound { against: Against::Limit, factor: 1.0 }],
            },
            field: contended,
        },
        Scenario {
            id: "lock.contended.one_core",
            what: "as before, with both processes on one core",
            unit: Unit::PerSecond,
            regime: Regime::ONE_CORE,
            goal: Goal {
                text: "at least what a robust pthread mutex does",
                bounds: &[Bound { against: Against::Limit, factor: 1.0 }],
            },
            field: contended,
        },
    ]
}

fn free(regime: Regime, mut once: impl FnMut() -> Result<(), Failure> + 'static) -> Entry {
    crate::pin::near_side(regime)?;
    Ok(Box::new(move |n| timed(n, &mut once)))
}

fn uncontended(surroundings: &Surroundings, regime: Regime, ours: Entry) -> Field {
    Field::default()
        .ours(ours)
        .limit("pthread_robust", mutexes::pthread_free(regime, true))
        .peer("pthread", mutexes::pthread_free(regime, false))
        .peer("std", mutexes::std_free(regime))
        .peer("raw_sync", mutexes::raw_sync_free(regime))
        .cpython(surroundings, regime, "lock.uncontended")
}

/// Has this thread wait once while it may run on all cores: a thread looks then whether a spin is of any use to it. The far
/// side is its fork.
fn first_wait(lock: &Lock) -> Result<(), Failure> {
    crate::pin::widen()?;
    let (tell, told) = std::sync::mpsc::channel();
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let other = lock.clone();
    let holder = std::thread::spawn(move || {
        let guard = other.lock();
        let _ = tell.send(guard.is_ok());
        let _ = ended.recv();
    });
    let held = told.recv()?;
    let waited = lock.lock_timeout(Duration::from_millis(1)).is_err();
    drop(end);
    holder.join().map_err(|_| "the holder panicked")?;
    if held && waited { Ok(()) } else { Err("there was nothing to wait for".into()) }
}

fn contended(surroundings: &Surroundings, regime: Regime) -> Field {
    let ours = || -> Entry {
        let lock = Lock::new()?;
        if regime.cores == Cores::Two {
            first_wait(&lock)?;
        }
        mutexes::contended(regime, move |number| {
            let _guard = lock.lock().map_err(|error| error.without_guard())?;
            mutexes::add(number);
            Ok(())
        })
    };
    Field::default()
        .ours(ours())
        .limit("pthread_robust", mutexes::pthread_contended(regime, true))
        .peer("pthread", mutexes::pthread_contended(regime, false))
        .peer("std", mutexes::std_contended(regime))
        .peer("raw_sync", mutexes::raw_sync_contended(regime))
        .cpython(surroundings, regime, "lock.contended")
}
