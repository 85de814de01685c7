//! Tasks on two workers. The task returns its argument, a number.

use std::time::{Duration, Instant};

use procession_pool::Pool;

use super::{WORKERS, identity};
use crate::areas::channel::{SIZE, link};
use crate::observed::private_memory;
use crate::peers::{procspawn, rayon};
use crate::pin;
use crate::scenario::{
    Against, AtLeast, Bound, Entry, Failure, Field, Goal, Regime, Scenario, Surroundings, Unit, once,
};

const MANY: usize = 64;

pub(super) fn scenarios() -> Vec<Scenario> {
    let scenario =
        |id, what, unit, goal, field| Scenario { id, what, unit, regime: Regime::FREE, goal, field };
    let calls =
        |id, what, regime, goal| Scenario { id, what, unit: Unit::Nanoseconds, regime, goal, field: apply };
    vec![
        calls(
            "pool.apply",
            "one task and its result, on one of two workers; rayon, `threads` (ours): no process is crossed",
            Regime::FREE,
            Goal {
                text: "at most 1.5 times our queue's round trip, and 50 times faster than CPython",
                bounds: &[
                    Bound { against: Against::Peer("queue"), factor: 1.5 },
                    Bound { against: Against::CPython, factor: 1.0 / 50.0 },
                ],
            },
        ),
        calls(
            "pool.apply.asleep",
            "as before, but the workers sleep when the task comes",
            Regime::FREE_ASLEEP,
            Goal { text: "none: the wake of an idle core drowns the rest", bounds: &[] },
        ),
        calls(
            "pool.apply.one_core",
            "one task and its result, everybody on one core",
            Regime::ONE_CORE,
            Goal {
                text: "at most 1.5 times our queue's round trip",
                bounds: &[Bound { against: Against::Peer("queue"), factor: 1.5 }],
            },
        ),
        scenario(
            "pool.map.chunk1",
            "items of a map, each a task of its own; rayon, `threads` (ours): no process is crossed",
            Unit::PerSecond,
            Goal {
                text: "at least 1.5 million tasks/s with 2 workers",
                bounds: &[Bound { against: Against::Figure(1.5e6), factor: 1.0 }],
            },
            map_chunk1,
        ),
        scenario(
            "pool.map.default",
            "items of a map, in the chunks that the library chooses; rayon: no process is crossed",
            Unit::PerSecond,
            Goal {
                text: "at least 80 million items/s",
                bounds: &[Bound { against: Against::Figure(80e6), factor: 1.0 }],
            },
            map_default,
        ),
        scenario(
            "pool.imap_unordered",
            "items of an unordered iteration, each a task of its own",
            Unit::PerSecond,
            Goal {
                text: "at least 1 million/s",
                bounds: &[Bound { against: Against::Figure(1e6), factor: 1.0 }],
            },
            imap_unordered,
        ),
        scenario(
            "pool.many_workers",
            "items of a map, each a task of its own, with 64 workers on this machine; `2 workers`: with two",
            Unit::PerSecond,
            Goal {
                text: "within 30 % of what 2 workers do",
                bounds: &[Bound { against: Against::Peer("2 workers"), factor: 0.7 }],
            },
            many_workers,
        ),
        scenario(
            "pool.many_workers.memory",
            "what the private memory of this process and its 64 workers grows by, from the first 100,000 tasks to the last \
             of ten million, or of as many as fit into a minute (in a quick run: of a million, or of 10 s)",
            Unit::Bytes,
            Goal {
                text: "flat: under 4 MiB, 64 KiB for each process",
                bounds: &[Bound { against: Against::Figure((4 << 20) as f64), factor: 1.0 }],
            },
            many_workers_memory,
        ),
    ]
}

fn apply(surroundings: &Surroundings, regime: Regime) -> Field {
    // It forks, which wants a process with one thread: first of all.
    let queue = link::round_trip(link::of::<link::QueueLink<[u8; SIZE]>>, regime, SIZE);
    Field::default()
        .ours(calls(regime, false))
        .peer("queue", queue)
        .peer("threads", calls(regime, true))
        .peer("rayon", rayon::apply(WORKERS))
        .peer("procspawn", procspawn::apply(WORKERS))
        .newest_cpython(surroundings, regime, &[("executor", "executor.submit")])
        .cpython(surroundings, regime, "pool.apply")
}

fn calls(regime: Regime, threads: bool) -> Entry {
    // Its helpers and workers take the pinning over.
    pin::near_side(regime)?;
    let pool = if threads { Pool::threads(WORKERS)? } else { Pool::new(WORKERS)? };
    Ok(Box::new(move |n| {
        regime.timed(n, || match pool.apply(identity, 7)? {
            7 => Ok(()),
            _ => Err("wrong answer".into()),
        })
    }))
}

/// A function that runs the numbers below `n` and returns how many results came.
type Run = fn(&Pool, u64) -> Result<usize, Failure>;

fn run(pool: Pool, with: Run) -> Entry {
    Ok(Box::new(move |n: u64| counted(&pool, with, n)))
}

fn counted(pool: &Pool, run: Run, n: u64) -> Result<Duration, Failure> {
    let start = Instant::now();
    let results = run(pool, n)?;
    let time = start.elapsed();
    if results as u64 == n { Ok(time) } else { Err(format!("{results} results for {n} items").into()) }
}

fn ours(with: Run) -> Entry {
    run(Pool::new(WORKERS)?, with)
}

fn chunk1(pool: &Pool, n: u64) -> Result<usize, Failure> {
    Ok(pool.tasks(identity, 0..n).chunk_size(1).collect()?.len())
}

fn map_chunk1(surroundings: &Surroundings, regime: Regime) -> Field {
    let threads = || run(Pool::threads(WORKERS)?, chunk1);
    Field::default()
        .ours(ours(chunk1))
        .peer("threads", threads())
        .peer("rayon", rayon::map(WORKERS, true))
        .peer("procspawn", procspawn::map(WORKERS))
        .newest_cpython(surroundings, regime, &[("executor", "executor.map.chunk1")])
        .cpython(surroundings, regime, "pool.map.chunk1")
}

fn map_default(surroundings: &Surroundings, regime: Regime) -> Field {
    Field::default()
        .ours(ours(|pool, n| Ok(pool.map(identity, 0..n)?.len())))
        .peer("rayon", rayon::map(WORKERS, false))
        .cpython(surroundings, regime, "pool.map.default")
}

fn imap_unordered(surroundings: &Surroundings, regime: Regime) -> Field {
    Field::default()
        .ours(ours(|pool, n| {
            let results = pool.tasks(identity, 0..n).chunk_size(1).unordered();
            Ok(results.filter(|result| result.is_ok()).count())
        }))
        .cpython(surroundings, regime, "pool.imap_unordered")
}

fn many_workers(_: &Surroundings, _: Regime) -> Field {
    // Few of them would be handed to each worker by a wake of its own, which is not the point.
    let with = |workers| -> Entry {
        let pool = Pool::new(workers)?;
        Ok(Box::new(AtLeast(20_000, move |n| counted(&pool, chunk1, n))))
    };
    Field::default().ours(with(MANY)).peer("2 workers", with(WORKERS))
}

fn many_workers_memory(surroundings: &Surroundings, _: Regime) -> Field {
    const EACH: u64 = 100_000;
    let (times, limit) = if surroundings.quick { (10, 10) } else { (100, 60) };
    let look = move || -> Result<f64, Failure> {
        let pool = Pool::new(MANY)?;
        let run = || -> Result<(), Failure> {
            for result in pool.tasks(identity, 0..EACH).chunk_size(1).unordered() {
                result?;
            }
            Ok(())
        };
        let memory = || -> Result<u64, Failure> {
            let own = private_memory(std::process::id())?;
            pool.worker_pids().into_iter().try_fold(own, |sum, pid| Ok(sum + private_memory(pid)?))
        };
        run()?;
        let (before, start) = (memory()?, Instant::now());
        for _ in 1..times {
            if start.elapsed().as_secs() < limit {
                run()?;
            }
        }
        Ok(memory()?.saturating_sub(before) as f64)
    };
    Field::default().ours(Ok(once(look)))
}
