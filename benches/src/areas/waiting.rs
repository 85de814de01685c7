//! Events and conditions: two processes that wait for each other in turn.

use std::time::Duration;

use procession_sync::{Condition, Event, LockError};

use crate::peers::forked::FarSide;
use crate::peers::{self, ping_pong};
use crate::pin;
use crate::scenario::{
    Against, Bound, Cores, Entry, Failure, Field, Goal, Regime, Scenario, Surroundings, Unit,
};

pub(super) fn scenarios() -> Vec<Scenario> {
    let scenario = |id, what, regime, field| Scenario {
        id,
        what,
        unit: Unit::Nanoseconds,
        regime,
        goal: if regime == Regime::ONE_CORE {
            Goal {
                text: "at most 1.2 times a raw futex round trip",
                bounds: &[Bound { against: Against::Limit, factor: 1.2 }],
            }
        } else {
            Goal { text: "none: across cores the wake drowns it", bounds: &[] }
        },
        field,
    };
    vec![
        scenario(
            "event.pingpong",
            "set an event, wait for the answer's, clear it; both sides on one core",
            Regime::ONE_CORE,
            event,
        ),
        scenario(
            "event.pingpong.awake",
            "the same with a core for each side, both awake",
            Regime::AWAKE,
            event,
        ),
        scenario(
            "event.pingpong.asleep",
            "the same with a core for each side, the far one asleep",
            Regime::ASLEEP,
            event,
        ),
        scenario(
            "condition.pingpong",
            "take a turn under the lock, notify, wait for the next turn; both sides on one core",
            Regime::ONE_CORE,
            condition,
        ),
        scenario(
            "condition.pingpong.awake",
            "the same with a core for each side, both awake",
            Regime::AWAKE,
            condition,
        ),
        scenario(
            "condition.pingpong.asleep",
            "the same with a core for each side, the far one asleep",
            Regime::ASLEEP,
            condition,
        ),
    ]
}

/// What a round trip costs at least.
fn limit(field: Field, regime: Regime) -> Field {
    if regime == Regime::AWAKE {
        field.limit("cache_line", ping_pong::cache_line(regime))
    } else {
        field.limit("futex", ping_pong::futex(regime))
    }
}

fn event(surroundings: &Surroundings, regime: Regime) -> Field {
    limit(Field::default().ours(events(regime)), regime)
        .peer("raw_sync", peers::events::raw_sync(regime))
        .cpython(surroundings, regime, "event.pingpong")
}

fn condition(surroundings: &Surroundings, regime: Regime) -> Field {
    limit(Field::default().ours(turns(regime)), regime).cpython(surroundings, regime, "condition.pingpong")
}

/// Pins this thread, once it has waited: a thread looks then whether a spin is of any use to it, and its fork takes that over.
fn waited_and_pinned(
    regime: Regime,
    wait: impl FnOnce() -> Result<(), Failure>,
) -> Result<Option<usize>, Failure> {
    if regime.cores == Cores::One {
        let core = pin::near_side(regime)?;
        wait()?;
        return Ok(core);
    }
    pin::widen()?;
    wait()?;
    pin::near_side(regime)
}

const SHORT: Duration = Duration::from_millis(1);

fn events(regime: Regime) -> Entry {
    let (ping, pong) = (Event::new()?, Event::new()?);
    let core = waited_and_pinned(regime, || match pong.wait_timeout(SHORT) {
        false => Ok(()),
        true => Err("nobody has set it".into()),
    })?;
    let theirs = (ping.clone(), pong.clone());
    let far = FarSide::fork(&[], core, move || {
        let (ping, pong) = theirs;
        loop {
            ping.wait();
            ping.clear();
            pong.set();
        }
    })?;
    Ok(Box::new(move |n| {
        let _far = &far;
        regime.timed(n, || {
            ping.set();
            pong.wait();
            pong.clear();
            Ok(())
        })
    }))
}

/// Gives the turn to the other side, and waits until it comes back.
fn turn(condition: &Condition, near: &Event, mine: bool) -> Result<(), Failure> {
    let mut guard = condition.lock().map_err(LockError::without_guard)?;
    if mine {
        near.clear();
    } else {
        near.set();
    }
    condition.notify_one()?;
    condition.wait_while(&mut guard, || near.is_set() != mine)?;
    Ok(())
}

fn turns(regime: Regime) -> Entry {
    let (condition, near) = (Condition::new()?, Event::new()?);
    near.set();
    let core = waited_and_pinned(regime, || {
        let mut guard = condition.lock().map_err(LockError::without_guard)?;
        condition.wait_timeout(&mut guard, SHORT)?;
        Ok(())
    })?;
    let (theirs, their_near) = (condition.clone(), near.clone());
    // What a process needs to become a member of the condition's segment is among these.
    let keep: Vec<i32> = (3..256).collect();
    let far = FarSide::fork(&keep, core, move || {
        let first = theirs.lock().map_err(LockError::without_guard).map(|mut guard| {
            let _ = theirs.wait_while(&mut guard, || their_near.is_set());
        });
        while first.is_ok() && turn(&theirs, &their_near, false).is_ok() {}
    })?;
    Ok(Box::new(move |n| {
        let _far = &far;
        regime.timed(n, || turn(&condition, &near, true))
    }))
}
