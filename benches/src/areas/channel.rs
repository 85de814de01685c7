//! Messages between two processes: the channel with one sender and one receiver, the lane below it, the queue and the pipe.
//!
//! Each of them enters every scenario of bytes, one as ours, the others beside it: by one implementation of
//! [`Link`](link::Link) and a line in [`small`] or [`bytes`].

mod blocked;
mod handover;
pub(super) mod link;
mod many;
mod silent;

use link::{Far, LaneLink, PipeLink, QueueLink, TypedLink};

use crate::peers::{crossbeam, iceoryx, ipc_channel, ping_pong, unix_socket};
use crate::scenario::{
    Against, Bound, Cores, Entry, Field, Goal, Regime, Scenario, Surroundings, Unit, timed,
};

pub(super) const SIZE: usize = 16;
const LARGE: usize = 64 * 1024;

/// Ways of ours, by name.
type Kinds = [(&'static str, Far); 4];

/// With values of 16 bytes.
fn small() -> Kinds {
    [
        ("channel", link::of::<TypedLink<[u8; SIZE]>>),
        ("lane", link::of::<LaneLink>),
        ("queue", link::of::<QueueLink<[u8; SIZE]>>),
        ("pipe", link::of::<PipeLink>),
    ]
}

/// With bytes of any number.
fn bytes() -> Kinds {
    [
        ("channel", link::of::<TypedLink<Vec<u8>>>),
        ("lane", link::of::<LaneLink>),
        ("queue", link::of::<QueueLink<Vec<u8>>>),
        ("pipe", link::of::<PipeLink>),
    ]
}

/// All ways of ours: the named one as ours, the others as peers.
fn entered(ours: &str, kinds: Kinds, enter: impl Fn(Far) -> Entry) -> Field {
    let mut field = Field::default();
    for (name, far) in kinds {
        field = if name == ours { field.ours(enter(far)) } else { field.peer(name, enter(far)) };
    }
    field
}

const CACHE_LINES: Bound = Bound { against: Against::Limit, factor: 4.5 };
const FUTEXES: Bound = Bound { against: Against::Limit, factor: 1.2 };
const FIFTY_TIMES: Bound = Bound { against: Against::CPython, factor: 1.0 / 50.0 };
const HALF_OF_CROSSBEAM: Bound = Bound { against: Against::Peer("crossbeam"), factor: 0.5 };
const TWENTY_MILLION: Bound = Bound { against: Against::Figure(20e6), factor: 1.0 };
const OF_MEMCPY: Goal = Goal {
    text: "at least 0.4 of memcpy",
    bounds: &[Bound { against: Against::Peer("memcpy"), factor: 0.4 }],
};
const DROWNED: Goal = Goal { text: "none: the wake of an idle core drowns the rest", bounds: &[] };
const AS_CPYTHON: Goal = Goal {
    text: "none of its own; at most what CPython's Pipe takes",
    bounds: &[Bound { against: Against::CPython, factor: 1.0 }],
};

pub(super) fn scenarios() -> Vec<Scenario> {
    let mut all = round_trips();
    all.extend(sizes());
    all.extend(throughputs());
    all.push(handover::scenario());
    all.push(blocked::scenario());
    all.extend(many::scenarios());
    all.push(silent::scenario());
    all
}

fn round_trips() -> Vec<Scenario> {
    const AWAKE: &str =
        "16 bytes there and back, a core for each side, both awake; crossbeam: between threads";
    const ASLEEP: &str = "as before, but the far side sleeps when the message comes";
    const ONE_CORE: &str = "16 bytes there and back, both sides on one core, so that each message waits until the other side gives way or sleeps";
    let scenario =
        |id, what, regime, goal, field| Scenario { id, what, unit: Unit::Nanoseconds, regime, goal, field };
    let lines = |text| Goal { text, bounds: &[CACHE_LINES, FIFTY_TIMES] };
    let futexes = Goal { text: "at most 1.2 times a raw futex round trip", bounds: &[FUTEXES] };
    vec![
        scenario(
            "channel.roundtrip.16B",
            AWAKE,
            Regime::AWAKE,
            lines(
                "at most 4.5 times the spinning cache-line round trip; 50 times faster than CPython's Pipe",
            ),
            |surroundings, regime| round_trip("channel", SIZE, surroundings, regime),
        ),
        scenario("channel.roundtrip.16B.asleep", ASLEEP, Regime::ASLEEP, DROWNED, |surroundings, regime| {
            round_trip("channel", SIZE, surroundings, regime)
        }),
        scenario(
            "channel.roundtrip.16B.one_core",
            ONE_CORE,
            Regime::ONE_CORE,
            futexes,
            |surroundings, regime| round_trip("channel", SIZE, surroundings, regime),
        ),
        scenario(
            "queue.roundtrip.16B",
            AWAKE,
            Regime::AWAKE,
            lines(
                "at most 4.5 times the spinning cache-line round trip; 50 times faster than CPython's Queue",
            ),
            |surroundings, regime| round_trip("queue", SIZE, surroundings, regime),
        ),
        scenario("queue.roundtrip.16B.asleep", ASLEEP, Regime::ASLEEP, DROWNED, |surroundings, regime| {
            round_trip("queue", SIZE, surroundings, regime)
        }),
        scenario(
            "queue.roundtrip.16B.one_core",
            ONE_CORE,
            Regime::ONE_CORE,
            futexes,
            |surroundings, regime| round_trip("queue", SIZE, surroundings, regime),
        ),
        scenario("pipe.roundtrip.16B", AWAKE, Regime::AWAKE, AS_CPYTHON, |surroundings, regime| {
            round_trip("pipe", SIZE, surroundings, regime)
        }),
        scenario("pipe.roundtrip.16B.asleep", ASLEEP, Regime::ASLEEP, AS_CPYTHON, |surroundings, regime| {
            round_trip("pipe", SIZE, surroundings, regime)
        }),
        scenario(
            "pipe.roundtrip.16B.one_core",
            ONE_CORE,
            Regime::ONE_CORE,
            AS_CPYTHON,
            |surroundings, regime| round_trip("pipe", SIZE, surroundings, regime),
        ),
        scenario(
            "pipe.roundtrip.1MiB",
            "1 MiB there and back as bytes, a core for each side",
            Regime::AWAKE,
            AS_CPYTHON,
            |surroundings, regime| round_trip("pipe", 1 << 20, surroundings, regime),
        ),
    ]
}

/// The cost by message size; for small ones there are the scenarios above.
fn sizes() -> Vec<Scenario> {
    let scenario = |id, what, field| Scenario {
        id,
        what,
        unit: Unit::Nanoseconds,
        regime: Regime::AWAKE,
        goal: Goal { text: "none: for the curve", bounds: &[] },
        field,
    };
    vec![
        scenario(
            "channel.roundtrip.1KiB",
            "1 KiB as Vec<u8> there and back, a core for each side",
            |surroundings, regime| round_trip("channel", 1 << 10, surroundings, regime),
        ),
        scenario(
            "channel.roundtrip.64KiB",
            "64 KiB as Vec<u8> there and back, a core for each side",
            |surroundings, regime| round_trip("channel", LARGE, surroundings, regime),
        ),
        scenario(
            "channel.roundtrip.1MiB",
            "1 MiB as Vec<u8> there and back, a core for each side",
            |surroundings, regime| round_trip("channel", 1 << 20, surroundings, regime),
        ),
    ]
}

fn throughputs() -> Vec<Scenario> {
    const AWAKE: &str = "16-byte messages one way, a core for each side; crossbeam: between threads";
    const ONE_CORE: &str = "16-byte messages one way, both sides on one core; crossbeam: between threads";
    const BYTES: &str = "messages of 64 KiB one way, a core for each side; `lane` and `pipe` in bytes, the others as Vec<u8>; \
                         memcpy: copies of 64 KiB, through 64 MiB of warm memory, by one thread";
    let scenario =
        |id, what, regime, goal, field| Scenario { id, what, unit: Unit::PerSecond, regime, goal, field };
    let fast = Goal {
        text: "at least 20 million/s, and half of crossbeam's between threads",
        bounds: &[TWENTY_MILLION, HALF_OF_CROSSBEAM],
    };
    let half = Goal { text: "at least half of crossbeam's between threads", bounds: &[HALF_OF_CROSSBEAM] };
    vec![
        scenario("channel.throughput.16B", AWAKE, Regime::AWAKE, fast, |surroundings, regime| {
            throughput("channel", surroundings, regime)
        }),
        scenario(
            "channel.throughput.16B.one_core",
            ONE_CORE,
            Regime::ONE_CORE,
            half,
            |surroundings, regime| throughput("channel", surroundings, regime),
        ),
        scenario("channel.throughput.64KiB", BYTES, Regime::AWAKE, OF_MEMCPY, |surroundings, regime| {
            // What the copies compare with is the transport: no value is made of the bytes.
            large("lane", surroundings, regime)
        }),
        scenario("queue.throughput.16B.spsc", AWAKE, Regime::AWAKE, fast, |surroundings, regime| {
            throughput("queue", surroundings, regime)
        }),
        scenario(
            "queue.throughput.16B.spsc.one_core",
            ONE_CORE,
            Regime::ONE_CORE,
            half,
            |surroundings, regime| throughput("queue", surroundings, regime),
        ),
        scenario("queue.throughput.64KiB", BYTES, Regime::AWAKE, OF_MEMCPY, |surroundings, regime| {
            large("queue", surroundings, regime)
        }),
    ]
}

fn round_trip(ours: &str, size: usize, surroundings: &Surroundings, regime: Regime) -> Field {
    let kinds = if size == SIZE { small() } else { bytes() };
    if size > LARGE {
        crate::memory::keep_what_is_freed();
    }
    let field = entered(ours, kinds, |far| link::round_trip(far, regime, size));
    let socket = unix_socket::round_trip(regime, size);
    let field = match regime {
        // What a pipe is made of.
        _ if ours == "pipe" => field.limit("unix_socket", socket),
        _ if size != SIZE => field.peer("unix_socket", socket),
        Regime { cores: Cores::Two, asleep: false } => {
            field.limit("cache_line", ping_pong::cache_line(regime)).peer("unix_socket", socket)
        }
        _ => field.limit("futex", ping_pong::futex(regime)).peer("unix_socket", socket),
    };
    let mut field = field.peer("ipc-channel", ipc_channel::round_trip(regime, size));
    if size == SIZE {
        field = field.peer("crossbeam", crossbeam::round_trip(regime));
        // It polls, and never sleeps.
        if regime == Regime::AWAKE {
            field = field.peer("iceoryx2", iceoryx::round_trip(regime));
        }
    }
    let (pipe, queue) = match size {
        SIZE => ("pipe.roundtrip", "queue.roundtrip"),
        1024 => ("pipe.roundtrip.1KiB", "queue.roundtrip.1KiB"),
        LARGE => ("pipe.roundtrip.64KiB", "queue.roundtrip.64KiB"),
        _ => ("pipe.roundtrip.1MiB", "queue.roundtrip.1MiB"),
    };
    if size == SIZE {
        field = field.newest_cpython(surroundings, regime, &[("SimpleQueue", "simplequeue.roundtrip")]);
    }
    // The last one is whom the goal means.
    if ours == "queue" {
        field.newest_cpython(surroundings, regime, &[("Pipe", pipe)]).cpython(surroundings, regime, queue)
    } else {
        field.newest_cpython(surroundings, regime, &[("Queue", queue)]).cpython(surroundings, regime, pipe)
    }
}

fn throughput(ours: &str, surroundings: &Surroundings, regime: Regime) -> Field {
    let field = entered(ours, small(), |far| link::throughput(far, regime, SIZE))
        .peer("unix_socket", unix_socket::throughput(regime, SIZE))
        .peer("ipc-channel", ipc_channel::throughput(regime, SIZE))
        .peer("crossbeam", crossbeam::throughput(regime))
        .newest_cpython(surroundings, regime, &[("SimpleQueue", "simplequeue.throughput")]);
    if ours == "queue" {
        field.newest_cpython(surroundings, regime, &[("Pipe", "pipe.throughput")]).cpython(
            surroundings,
            regime,
            "queue.throughput",
        )
    } else {
        field.newest_cpython(surroundings, regime, &[("Queue", "queue.throughput")]).cpython(
            surroundings,
            regime,
            "pipe.throughput",
        )
    }
}

fn large(ours: &str, surroundings: &Surroundings, regime: Regime) -> Field {
    crate::memory::keep_what_is_freed();
    let field = entered(ours, bytes(), |far| link::throughput(far, regime, LARGE))
        .peer("memcpy", copies())
        .peer("unix_socket", unix_socket::throughput(regime, LARGE))
        .peer("ipc-channel", ipc_channel::throughput(regime, LARGE));
    if ours == "queue" {
        field
            .newest_cpython(surroundings, regime, &[("SimpleQueue", "simplequeue.throughput.64KiB")])
            .cpython(surroundings, regime, "queue.throughput.64KiB")
    } else {
        field.newest_cpython(
            surroundings,
            regime,
            &[
                ("Queue", "queue.throughput.64KiB"),
                ("SimpleQueue", "simplequeue.throughput.64KiB"),
                ("Pipe", "pipe.throughput.64KiB"),
            ],
        )
    }
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
