//! Locks: free ones, and one that two processes want.

use procession_sync::{Lock, RLock};

use crate::peers::mutexes;
use crate::scenario::{
    Against, Bound, Entry, Failure, Field, Goal, Regime, Scenario, Surroundings, Unit, timed,
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

fn contended(_surroundings: &Surroundings, regime: Regime) -> Field {
    let ours = || -> Entry {
        let lock = Lock::new()?;
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
}
