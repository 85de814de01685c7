//! Messages between two processes. For now ours is the lane: one producer, one consumer, a ring in shared memory.

use std::time::Instant;

use procession_channel::lane::{Config, RawReceiver, RawSender, pair};

use crate::peers::forked::FarSide;
use crate::peers::{crossbeam, ping_pong, unix_socket};
use crate::pin;
use crate::scenario::{
    Against, Bound, Cores, Entry, Failure, Field, Goal, Regime, Scenario, Surroundings, Unit,
};

const SIZE: usize = 16;

pub(super) fn scenarios() -> Vec<Scenario> {
    let round_trip = |id, what, regime, goal| Scenario {
        id,
        what,
        unit: Unit::Nanoseconds,
        regime,
        goal,
        field: round_trip,
    };
    let throughput = |id, what, regime, goal| Scenario {
        id,
        what,
        unit: Unit::PerSecond,
        regime,
        goal,
        field: throughput,
    };
    vec![
        round_trip(
            "channel.roundtrip.16B",
            "16 bytes there and back, a core for each side, both awake; crossbeam: between threads",
            Regime::AWAKE,
            Goal {
                text: "at most 4.5 times the spinning cache-line round trip; 50 times faster than CPython",
                bounds: &[
                    Bound { against: Against::Limit, factor: 4.5 },
                    Bound { against: Against::CPython, factor: 1.0 / 50.0 },
                ],
            },
        ),
        round_trip(
            "channel.roundtrip.16B.asleep",
            "as before, but the far side sleeps when the message comes",
            Regime::ASLEEP,
            Goal { text: "none: the wake of an idle core drowns the rest", bounds: &[] },
        ),
        round_trip(
            "channel.roundtrip.16B.one_core",
            "16 bytes there and back, both sides on one core, so that each message finds its receiver asleep",
            Regime::ONE_CORE,
            Goal {
                text: "at most 1.2 times a raw futex round trip",
                bounds: &[Bound { against: Against::Limit, factor: 1.2 }],
            },
        ),
        throughput(
            "channel.throughput.16B",
            "16-byte messages one way, a core for each side; crossbeam: between threads",
            Regime::AWAKE,
            Goal {
                text: "at least 20 million/s, and half of crossbeam's between threads",
                bounds: &[
                    Bound { against: Against::Figure(20e6), factor: 1.0 },
                    Bound { against: Against::Peer("crossbeam"), factor: 0.5 },
                ],
            },
        ),
        throughput(
            "channel.throughput.16B.one_core",
            "16-byte messages one way, both sides on one core; crossbeam: between threads",
            Regime::ONE_CORE,
            Goal {
                text: "at least half of crossbeam's between threads",
                bounds: &[Bound { against: Against::Peer("crossbeam"), factor: 0.5 }],
            },
        ),
    ]
}

fn round_trip(surroundings: &Surroundings, regime: Regime) -> Field {
    let field = Field::default().ours(lane_round_trip(regime));
    let field = match regime {
        Regime { cores: Cores::Two, asleep: false } => {
            field.limit("cache_line", ping_pong::cache_line(regime))
        }
        _ => field.limit("futex", ping_pong::futex(regime)),
    };
    field
        .peer("unix_socket", unix_socket::round_trip(regime, SIZE))
        .cpython(surroundings, regime, "pipe.roundtrip")
        .peer("crossbeam", crossbeam::round_trip(regime))
}

fn throughput(surroundings: &Surroundings, regime: Regime) -> Field {
    Field::default()
        .ours(lane_throughput(regime))
        .peer("unix_socket", unix_socket::throughput(regime, SIZE))
        .cpython(surroundings, regime, "pipe.throughput")
        .peer("crossbeam", crossbeam::throughput(regime))
}

/// One process's ends of two lanes, one for each direction.
struct Ends {
    outgoing: RawSender,
    incoming: RawReceiver,
}

/// The near ends, the far ends and the core for the far side.
fn lanes(regime: Regime) -> Result<(Ends, Ends, Option<usize>), Failure> {
    let config = Config::default();
    // An end that is made on a thread with one core takes it that spinning is useless. Right where both sides are on
    // that core; where each has its own, the ends are made before the pinning.
    let early = if regime.cores == Cores::One { pin::near_side(regime)? } else { None };
    let (there, inbox) = pair(&config)?;
    let (outbox, back) = pair(&config)?;
    let core = if regime.cores == Cores::One { early } else { pin::near_side(regime)? };
    Ok((Ends { outgoing: there, incoming: back }, Ends { outgoing: outbox, incoming: inbox }, core))
}

fn lane_round_trip(regime: Regime) -> Entry {
    let (mut near, mut far, core) = lanes(regime)?;
    let far = FarSide::fork(&[], core, move || {
        let mut message = Vec::new();
        while far.incoming.recv(&mut message, None).is_ok() && far.outgoing.send(&[&message], None).is_ok() {}
    })?;
    let mut answer = Vec::new();
    Ok(Box::new(move |n| {
        let _far = &far;
        regime.timed(n, || {
            near.outgoing.send(&[&[7; SIZE]], None)?;
            near.incoming.recv(&mut answer, None)?;
            if answer.len() == SIZE { Ok(()) } else { Err("a message of another length came back".into()) }
        })
    }))
}

fn lane_throughput(regime: Regime) -> Entry {
    let (mut near, mut far, core) = lanes(regime)?;
    let far = FarSide::fork(&[], core, move || while sink(&mut far).is_ok() {})?;
    let mut answer = Vec::new();
    Ok(Box::new(move |n: u64| {
        let _far = &far;
        let start = Instant::now();
        near.outgoing.send(&[&n.to_ne_bytes()], None)?;
        for _ in 0..n {
            near.outgoing.send(&[&[7; SIZE]], None)?;
        }
        near.incoming.recv(&mut answer, None)?;
        Ok(start.elapsed())
    }))
}

/// Takes as many messages as the first one says, and confirms the last.
fn sink(ends: &mut Ends) -> Result<(), Failure> {
    let mut message = Vec::new();
    ends.incoming.recv(&mut message, None)?;
    let count = u64::from_ne_bytes(message[..].try_into()?);
    for _ in 0..count {
        ends.incoming.recv(&mut message, None)?;
    }
    ends.outgoing.send(&[&[1]], None)?;
    Ok(())
}
