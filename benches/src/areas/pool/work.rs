//! Tasks that compute: how much of the processors reaches them. CPython does not enter, since it would be measured how fast
//! its interpreter computes.

use procession_pool::Pool;
use procession_process::cpu_count;

use crate::peers::{procspawn, rayon};
use crate::scenario::{Against, Bound, Entry, Field, Goal, Regime, Scenario, Unit, timed};

const ITEMS: u64 = 64;

pub(super) fn scenarios() -> Vec<Scenario> {
    let scenario = |id, what, goal, field| Scenario {
        id,
        what,
        unit: Unit::Nanoseconds,
        regime: Regime::FREE,
        goal,
        field,
    };
    let scaling = |id, what, field| Scenario {
        id,
        what,
        unit: Unit::PerSecond,
        regime: Regime::FREE,
        goal: Goal { text: "none: for the curve", bounds: &[] },
        field,
    };
    vec![
        scenario(
            "pool.cpu",
            "a map of 64 items that compute equally long, a worker for each core; `chunk1`: each a task of its own",
            Goal {
                text: "wall time within 3 % of rayon's",
                bounds: &[Bound { against: Against::Peer("rayon"), factor: 1.03 }],
            },
            |_, _| compute(even(200_000)),
        ),
        scenario(
            "pool.uneven",
            "a map of 64 items of which the longest compute hundreds of times as long as the shortest, in a random order, a \
             worker for each core; `chunk1`: each a task of its own",
            Goal {
                text: "wall time within 5 % of rayon's",
                bounds: &[Bound { against: Against::Peer("rayon"), factor: 1.05 }],
            },
            |_, _| compute(uneven(600_000)),
        ),
        scaling("pool.scaling.workers.1", "maps of 64 items that compute, on one worker", |_, _| scaled(1)),
        scaling("pool.scaling.workers.2", "maps of 64 items that compute, on 2 workers", |_, _| scaled(2)),
        scaling("pool.scaling.workers.4", "maps of 64 items that compute, on 4 workers", |_, _| scaled(4)),
        scaling("pool.scaling.workers.8", "maps of 64 items that compute, on 8 workers", |_, _| scaled(8)),
    ]
}

/// Computes for so many steps.
fn compute_for(steps: u64) -> u64 {
    let mut state = steps | 1;
    for _ in 0..steps {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
    }
    state
}

fn even(steps: u64) -> Vec<u64> {
    (0..ITEMS).map(|item| steps + item).collect()
}

/// From some hundredths of a per cent of `most` to `most`.
fn uneven(most: u64) -> Vec<u64> {
    // 29 has no divisor in common with 64, so each place comes once.
    let places = (0..ITEMS).map(|item| (item * 29 + 11) % ITEMS + 1);
    places.map(|place| most * place * place * place / (ITEMS * ITEMS * ITEMS) + 1).collect()
}

fn compute(items: Vec<u64>) -> Field {
    let workers = cpu_count();
    Field::default()
        .ours(ours(workers, items.clone(), false))
        .peer("chunk1", ours(workers, items.clone(), true))
        .peer("rayon", rayon::work(workers, items.clone(), compute_for))
        .peer("procspawn", procspawn::work(workers, items, compute_for))
}

fn scaled(workers: usize) -> Field {
    let items = even(20_000);
    Field::default()
        .ours(ours(workers, items.clone(), false))
        .peer("rayon", rayon::work(workers, items.clone(), compute_for))
        .peer("procspawn", procspawn::work(workers, items, compute_for))
}

fn ours(workers: usize, items: Vec<u64>, single: bool) -> Entry {
    let pool = Pool::new(workers)?;
    Ok(Box::new(move |n| {
        timed(n, || {
            let tasks = pool.tasks(compute_for, items.iter().copied());
            let results = if single { tasks.chunk_size(1) } else { tasks }.collect()?;
            if results.len() == items.len() { Ok(()) } else { Err("lost items".into()) }
        })
    }))
}
