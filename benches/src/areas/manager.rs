//! Objects that a server process keeps: calls, many clients, large values, and clients that mean harm.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use procession_channel::Queue;
use procession_channel::net::{Address, Client};
use procession_manager::{Dict, Manager};
use procession_sync::RawValue;
use rustix::process::{Resource, getrlimit, setrlimit};

use super::channel::{SIZE, link};
use crate::memory::keep_what_is_freed;
use crate::observed::private_memory;
use crate::peers::forked::FarSide;
use crate::peers::unix_socket;
use crate::pin;
use crate::scenario::{
    Against, Bound, Cores, Entry, Failure, Field, Goal, Observation, Regime, Scenario, Surroundings, Unit,
    once, percentile_99, timed,
};

/// What a call and its answer take together at most.
const MESSAGE: usize = 64;
const LARGE: usize = 8 << 20;
const CLIENTS: u64 = 8;
const ENTRIES: u64 = 1_000_000;
/// A key of up to three bytes, a length of one, and the value.
const ENCODED: f64 = 104.0;
const KEY: &str = "a key that both know";

/// `Goal`s of a call.
const CALL: Goal = Goal {
    text: "at most 1.3 times a raw socket's round trip; for local clients at most 2 times our queue's; 10 times as fast as \
           CPython",
    bounds: &[
        Bound { against: Against::Limit, factor: 1.3 },
        Bound { against: Against::Peer("queue"), factor: 2.0 },
        Bound { against: Against::CPython, factor: 0.1 },
    ],
};

pub(super) fn scenarios() -> Vec<Scenario> {
    let mut all = calls();
    all.extend(loads());
    all
}

fn calls() -> Vec<Scenario> {
    let scenario =
        |id, what, regime, goal, field| Scenario { id, what, unit: Unit::Nanoseconds, regime, goal, field };
    let drowned = Goal { text: "none: the wake of an idle core drowns the rest", bounds: &[] };
    vec![
        scenario(
            "manager.dict.set",
            "set an entry of a dictionary, u64 to u64; a core for each side; limit: 64 bytes there and back over a raw socket; \
             queue: 16 bytes through our queues",
            Regime::AWAKE,
            CALL,
            |surroundings, regime| dict(surroundings, regime, set, "manager.dict.set"),
        ),
        scenario(
            "manager.dict.set.asleep",
            "as before, but the server sleeps when the call comes",
            Regime::ASLEEP,
            drowned,
            |surroundings, regime| dict(surroundings, regime, set, "manager.dict.set"),
        ),
        scenario(
            "manager.dict.set.one_core",
            "as before, with both sides on one core",
            Regime::ONE_CORE,
            CALL,
            |surroundings, regime| dict(surroundings, regime, set, "manager.dict.set"),
        ),
        scenario(
            "manager.dict.get",
            "get an entry of a dictionary, u64 to u64; peers as before",
            Regime::AWAKE,
            CALL,
            |surroundings, regime| dict(surroundings, regime, get, "manager.dict.get"),
        ),
        scenario(
            "manager.dict.get.one_core",
            "as before, with both sides on one core",
            Regime::ONE_CORE,
            CALL,
            |surroundings, regime| dict(surroundings, regime, get, "manager.dict.get"),
        ),
    ]
}

fn loads() -> Vec<Scenario> {
    let scenario =
        |id, what, unit, goal, field| Scenario { id, what, unit, regime: Regime::FREE, goal, field };
    vec![
        scenario(
            "manager.clients.8",
            "gets and sets of 8 client processes together, on all cores",
            Unit::PerSecond,
            Goal {
                text: "at least 10 times CPython's",
                bounds: &[Bound { against: Against::CPython, factor: 10.0 }],
            },
            |surroundings, regime| {
                Field::default().ours(clients()).cpython(surroundings, regime, "manager.clients.8")
            },
        ),
        scenario(
            "manager.bulk.8MiB",
            "set an entry of 8 MiB of bytes, and get it; memory warm on both sides; memcpy: copy it twice; unix_socket: there \
             and back over a raw socket",
            Unit::Nanoseconds,
            Goal {
                text: "near memcpy, which is taken as 3 times the two copies",
                bounds: &[Bound { against: Against::Peer("memcpy"), factor: 3.0 }],
            },
            bulk,
        ),
        scenario(
            "manager.get.p99",
            "the 99th percentile of a thousand gets beside 10,000 clients with half a frame (in a quick run: 1,000), and one \
             after the other that says nonsense; `alone`: of a manager without them",
            Unit::Nanoseconds,
            Goal { text: "every good call succeeds", bounds: &[] },
            |surroundings, _| {
                let crowd = if surroundings.quick { 1_000 } else { 10_000 };
                Field::default().ours(beside(crowd)).peer("alone", beside(0))
            },
        ),
        scenario(
            "manager.memory",
            "private memory of the server for each of a million entries of 100 bytes",
            Unit::Bytes,
            Goal {
                text: "less than 2 times the encoded size, which is 104 bytes",
                bounds: &[Bound { against: Against::Figure(2.0 * ENCODED), factor: 1.0 }],
            },
            |surroundings, regime| {
                Field::default().ours(Ok(once(memory))).newest_cpython(
                    surroundings,
                    regime,
                    &[("dict", "manager.memory")],
                )
            },
        ),
    ]
}

type Numbers = Dict<u64, u64>;

fn set(dict: &Numbers) -> Result<(), Failure> {
    Ok(dict.set(&1, &2)?)
}

fn get(dict: &Numbers) -> Result<(), Failure> {
    if dict.get(&1)? == Some(2) { Ok(()) } else { Err("a wrong value".into()) }
}

fn dict(
    surroundings: &Surroundings,
    regime: Regime,
    call: fn(&Numbers) -> Result<(), Failure>,
    cpython: &'static str,
) -> Field {
    let ours = || -> Entry {
        // The server takes over where the thread that starts it may run.
        let far = pin::near_side(regime)?;
        if far.is_some() && regime.cores == Cores::Two {
            // Both sides see that there is another core before they are pinned.
            pin::widen()?;
        }
        let manager = Manager::start()?;
        let dict = manager.dict()?;
        set(&dict)?;
        pin::near_side(regime)?;
        if let Some(far) = far {
            pin::pin_process(manager.pid(), far)?;
        }
        Ok(Box::new(move |n| {
            let _kept = &manager;
            regime.timed(n, || call(&dict))
        }))
    };
    // These fork, and go first.
    let socket = unix_socket::round_trip(regime, MESSAGE);
    let queue = link::round_trip(link::of::<link::QueueLink<[u8; SIZE]>>, regime, SIZE);
    Field::default().ours(ours()).limit("unix_socket", socket).peer("queue", queue).cpython(
        surroundings,
        regime,
        cpython,
    )
}

fn clients() -> Entry {
    let manager = Manager::start()?;
    let dict = manager.dict()?;
    set(&dict)?;
    let (orders, done) = (Queue::<u64>::unbounded()?, Queue::<()>::unbounded()?);
    let keep: Vec<i32> = (3..256).collect();
    let mut far = Vec::new();
    for _ in 0..CLIENTS {
        let (dict, orders, done) = (dict.clone(), orders.clone(), done.clone());
        far.push(FarSide::fork(&keep, None, move || {
            // It ends with the measurement, which kills it, or by the first call that fails, which is then missed.
            let _: Result<(), Failure> = (|| {
                loop {
                    for number in 0..orders.get()? {
                        if number % 2 == 0 { set(&dict) } else { get(&dict) }?;
                    }
                    done.put(()).map_err(|error| error.to_string())?;
                }
            })();
        })?);
    }
    Ok(Box::new(move |n| {
        let _kept = (&manager, &far);
        let start = Instant::now();
        for part in 0..CLIENTS {
            orders.put(n * (part + 1) / CLIENTS - n * part / CLIENTS).map_err(|error| error.to_string())?;
        }
        for _ in 0..CLIENTS {
            done.get_timeout(Duration::from_secs(60))?;
        }
        Ok(start.elapsed())
    }))
}

fn bulk(surroundings: &Surroundings, regime: Regime) -> Field {
    keep_what_is_freed();
    let socket = unix_socket::round_trip(regime, LARGE);
    let ours = || -> Entry {
        let manager = Manager::builder().initializer(|()| keep_what_is_freed(), &()).start()?;
        let dict = manager.dict::<u64, Vec<u8>>()?;
        let data = vec![7_u8; LARGE];
        Ok(Box::new(move |n| {
            let _kept = &manager;
            timed(n, || {
                dict.set(&1, &data)?;
                let back = dict.get(&1)?.ok_or("it is not there")?;
                if back.len() == LARGE { Ok(()) } else { Err("another length".into()) }
            })
        }))
    };
    Field::default().ours(ours()).peer("memcpy", super::copies(LARGE)).peer("unix_socket", socket).cpython(
        surroundings,
        regime,
        "manager.bulk.8MiB",
    )
}

/// Gets of a manager that has so many bad clients, and while it is measured one more after the other.
fn beside(crowd: u64) -> Entry {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit)?;
    // For the crowd, and for the server.
    let crowd = limit.maximum.map_or(crowd, |most| crowd.min(most.saturating_sub(200)));
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("procession-bench-{}-{number}", std::process::id()));
    let manager = Manager::builder().address(path).authkey(KEY).start()?;
    let address = manager.public_address().cloned().ok_or("no address")?;
    let dict = manager.dict()?;
    set(&dict)?;
    let (ready, attack) = (RawValue::<u64>::new(0)?, RawValue::<u64>::new(0)?);
    let theirs = (ready.clone(), attack.clone());
    let far = FarSide::fork(&(3..256).collect::<Vec<i32>>(), None, move || {
        let _: Result<(), Failure> = harm(&address, crowd, &theirs.0, &theirs.1);
    })?;
    let start = Instant::now();
    while ready.load() == 0 {
        if start.elapsed() > Duration::from_secs(60) {
            return Err("the bad clients do not get through".into());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(Box::new(Observation(move || {
        let _kept = (&manager, &far);
        attack.store(u64::from(crowd > 0));
        let seen = percentile_99(1000, || get(&dict));
        attack.store(0);
        seen
    })))
}

/// Connects so often, says a part of a frame each time, and stays; then talks nonsense as long as `attack` says so.
fn harm(address: &Address, crowd: u64, ready: &RawValue<u64>, attack: &RawValue<u64>) -> Result<(), Failure> {
    let connect = || -> Result<UnixStream, Failure> {
        let connection = Client::new()
            .authkey(KEY)
            .connect::<(), ()>(address.clone())
            .map_err(|error| error.to_string())?;
        Ok(UnixStream::from(OwnedFd::from(connection)))
    };
    let mut silent = Vec::new();
    for number in 0..crowd {
        let mut socket = connect()?;
        socket.write_all(&b"pM\x01\0\x01\0\0\0"[..(number % 8) as usize])?;
        silent.push(socket);
    }
    ready.store(1);
    loop {
        if attack.load() == 0 {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        }
        // What it is refused is not its own.
        let _: Result<(), Failure> = connect().and_then(|mut socket| Ok(socket.write_all(&[0xff; 4096])?));
    }
}

fn memory() -> Result<f64, Failure> {
    let manager = Manager::start()?;
    let dict = manager.dict::<u64, Vec<u8>>()?;
    let before = private_memory(manager.pid())?;
    const BATCH: u64 = 50_000;
    for first in (0..ENTRIES).step_by(BATCH as usize) {
        let entries: Vec<(u64, Vec<u8>)> = (first..first + BATCH)
            .map(|key| (key, key.to_le_bytes().into_iter().cycle().take(100).collect()))
            .collect();
        dict.extend(entries.iter().map(|(key, value)| (key, value)))?;
    }
    Ok((private_memory(manager.pid())?.saturating_sub(before)) as f64 / ENTRIES as f64)
}
