//! Messages between two processes. Ours is the channel with one sender and one receiver, and the lane below it.
//!
//! Another way for messages to cross enters every scenario of bytes by one implementation of [`Link`] and a line in
//! [`links`].

mod blocked;
mod handover;
mod link;
mod many;
mod silent;

use link::{Far, LaneLink, PipeLink, QueueLink, TypedLink};

use crate::peers::{crossbeam, iceoryx, ipc_channel, ping_pong, unix_socket};
use crate::scenario::{
    Against, Bound, Cores, Entry, Field, Goal, Regime, Scenario, Surroundings, Unit, timed,
};

const SIZE: usize = 16;
const LARGE: usize = 64 * 1024;

/// One's own, entered beside the channel in every scenario of bytes: add a line for each.
fn links(field: Field, enter: &dyn Fn(&Far) -> Entry) -> Field {
    field
        .peer("lane", enter(&link::of::<LaneLink>))
        .peer("queue", enter(&link::of::<QueueLink<[u8; SIZE]>>))
        .peer("pipe", enter(&link::of::<PipeLink>))
}

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
    let mut all = vec![
        round_trip(
            "channel.roundtrip.16B",
            "16 bytes there and back, a core for each side, both awake; crossbeam: between threads",
            Regime::AWAKE,
            Goal {
                text: "at most 4.5 times the spinning cache-line round trip; 50 times faster than CPython's Pipe",
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
        Scenario {
            id: "channel.throughput.64KiB",
            what: "messages of 64 KiB one way, a core for each side; ours and `lane` in bytes, `channel` as Vec<u8>; \
                   memcpy: copies of 64 KiB, through 64 MiB of warm memory, by one thread",
            unit: Unit::PerSecond,
            regime: Regime::AWAKE,
            goal: Goal {
                text: "at least 0.4 of memcpy",
                bounds: &[Bound { against: Against::Peer("memcpy"), factor: 0.4 }],
            },
            field: large,
        },
    ];
    all.push(handover::scenario());
    all.push(blocked::scenario());
    all.push(many::scenario());
    all.push(silent::scenario());
    all
}

fn round_trip(surroundings: &Surroundings, regime: Regime) -> Field {
    let enter = |far: &Far| link::round_trip(far, regime, SIZE);
    let field = links(Field::default().ours(enter(&link::of::<TypedLink<[u8; SIZE]>>)), &enter);
    let field = match regime {
        Regime { cores: Cores::Two, asleep: false } => field
            .limit("cache_line", ping_pong::cache_line(regime))
            // It polls, and never sleeps.
            .peer("iceoryx2", iceoryx::round_trip(regime)),
        _ => field.limit("futex", ping_pong::futex(regime)),
    };
    field
        .peer("unix_socket", unix_socket::round_trip(regime, SIZE))
        .peer("ipc-channel", ipc_channel::round_trip(regime, SIZE))
        .peer("crossbeam", crossbeam::round_trip(regime))
        .newest_cpython(
            surroundings,
            regime,
            &[("Queue", "queue.roundtrip"), ("SimpleQueue", "simplequeue.roundtrip")],
        )
        // The last one is whom the goal means.
        .cpython(surroundings, regime, "pipe.roundtrip")
}

fn throughput(surroundings: &Surroundings, regime: Regime) -> Field {
    let enter = |far: &Far| link::throughput(far, regime, SIZE);
    links(Field::default().ours(enter(&link::of::<TypedLink<[u8; SIZE]>>)), &enter)
        .peer("unix_socket", unix_socket::throughput(regime, SIZE))
        .peer("ipc-channel", ipc_channel::throughput(regime, SIZE))
        .peer("crossbeam", crossbeam::throughput(regime))
        .newest_cpython(
            surroundings,
            regime,
            &[("Queue", "queue.throughput"), ("SimpleQueue", "simplequeue.throughput")],
        )
        .cpython(surroundings, regime, "pipe.throughput")
}

fn large(surroundings: &Surroundings, regime: Regime) -> Field {
    crate::memory::keep_what_is_freed();
    let enter = |far: &Far| link::throughput(far, regime, LARGE);
    Field::default()
        .ours(enter(&link::of::<LaneLink>))
        .peer("channel", enter(&link::of::<TypedLink<Vec<u8>>>))
        .peer("queue", enter(&link::of::<QueueLink<Vec<u8>>>))
        .peer("pipe", enter(&link::of::<PipeLink>))
        .peer("memcpy", copies())
        .peer("unix_socket", unix_socket::throughput(regime, LARGE))
        .peer("ipc-channel", ipc_channel::throughput(regime, LARGE))
        .newest_cpython(
            surroundings,
            regime,
            &[
                ("Queue", "queue.throughput.64KiB"),
                ("SimpleQueue", "simplequeue.throughput.64KiB"),
                ("Pipe", "pipe.throughput.64KiB"),
            ],
        )
}

/// Copies as fast as memory allows.
fn copies() -> Entry {
    let from = vec![7_u8; 64 << 20];
    let mut to = vec![1_u8; 64 << 20];
    let mut at = 0;
    Ok(Box::new(move |n| {
        timed(n, || {
            to[at..at + LARGE].copy_from_slice(std::hint::black_box(&from[at..at + LARGE]));
            std::hint::black_box(&to[at]);
            at = (at + LARGE) % from.len();
            Ok(())
        })
    }))
}
