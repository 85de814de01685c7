//! Permits that are free: what taking one and giving it back costs.

use procession_sync::{Lock, LockError, Semaphore};

use crate::peers::sem_t;
use crate::scenario::{Against, Bound, Entry, Field, Goal, Regime, Scenario, Surroundings, Unit, timed};

pub(super) fn scenarios() -> Vec<Scenario> {
    let scenario = |id, what, goal, field| Scenario {
        id,
        what,
        unit: Unit::Nanoseconds,
        regime: Regime::FREE,
        goal,
        field,
    };
    vec![
        scenario(
            "semaphore.uncontended",
            "take a free permit and give it back; owned, so it would return at a death",
            Goal {
                text: "at most 1.5 times our lock + unlock",
                bounds: &[Bound { against: Against::Peer("our_lock"), factor: 1.5 }],
            },
            owned,
        ),
        scenario(
            "semaphore.uncontended.unowned",
            "acquire a free permit and release it, owned by nobody, as in Python",
            Goal {
                text: "at most 1.2 times glibc's sem_t",
                bounds: &[Bound { against: Against::Peer("sem_t"), factor: 1.2 }],
            },
            unowned,
        ),
    ]
}

fn peers(field: Field, surroundings: &Surroundings, regime: Regime) -> Field {
    field.peer("sem_t", sem_t::uncontended()).peer("our_lock", lock()).cpython(
        surroundings,
        regime,
        "semaphore.uncontended",
    )
}

fn lock() -> Entry {
    let lock = Lock::new()?;
    Ok(Box::new(move |n| {
        timed(n, || {
            drop(lock.lock().map_err(LockError::without_guard)?);
            Ok(())
        })
    }))
}

fn owned(surroundings: &Surroundings, regime: Regime) -> Field {
    let ours = || -> Entry {
        let semaphore = Semaphore::new(1)?;
        Ok(Box::new(move |n| {
            timed(n, || {
                drop(semaphore.permit()?);
                Ok(())
            })
        }))
    };
    peers(Field::default().ours(ours()), surroundings, regime)
}

fn unowned(surroundings: &Surroundings, regime: Regime) -> Field {
    let ours = || -> Entry {
        let semaphore = Semaphore::new(1)?;
        Ok(Box::new(move |n| {
            timed(n, || {
                semaphore.acquire()?;
                Ok(semaphore.release()?)
            })
        }))
    };
    peers(Field::default().ours(ours()), surroundings, regime)
}
