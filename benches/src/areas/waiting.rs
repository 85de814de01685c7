//! Events and conditions: two processes that wait for each other in turn.

use procession_sync::{Condition, Event, LockError};

use crate::peers::forked::FarSide;
use crate::peers::ping_pong;
use crate::pin;
use crate::scenario::{Against, Bound, Entry, Failure, Field, Goal, Regime, Scenario, Surroundings, Unit};

pub(super) fn scenarios() -> Vec<Scenario> {
    let scenario = |id, what, field| Scenario {
        id,
        what,
        unit: Unit::Nanoseconds,
        regime: Regime::ONE_CORE,
        goal: Goal {
            text: "at most 1.2 times a raw futex round trip",
            bounds: &[Bound { against: Against::Limit, factor: 1.2 }],
        },
        field,
    };
    vec![
        scenario(
            "event.pingpong",
            "set an event, wait for the answer's, clear it; both sides on one core",
            event,
        ),
        scenario(
            "condition.pingpong",
            "take a turn under the lock, notify, wait for the next turn; both sides on one core",
            condition,
        ),
    ]
}

fn event(_: &Surroundings, regime: Regime) -> Field {
    Field::default().ours(events(regime)).limit("futex", ping_pong::futex(regime))
}

fn condition(_: &Surroundings, regime: Regime) -> Field {
    Field::default().ours(turns(regime)).limit("futex", ping_pong::futex(regime))
}

fn events(regime: Regime) -> Entry {
    let core = pin::near_side(regime)?;
    let (ping, pong) = (Event::new()?, Event::new()?);
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
    let core = pin::near_side(regime)?;
    let (condition, near) = (Condition::new()?, Event::new()?);
    near.set();
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
