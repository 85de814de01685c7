//! Tasks on two workers. The task returns its argument, a number.

use std::time::Instant;

use procession_pool::Pool;

use crate::scenario::{
    Against, Bound, Entry, Failure, Field, Goal, Regime, Scenario, Surroundings, Unit, timed,
};

const WORKERS: usize = 2;

pub(super) fn scenarios() -> Vec<Scenario> {
    let scenario =
        |id, what, unit, goal, field| Scenario { id, what, unit, regime: Regime::FREE, goal, field };
    vec![
        scenario(
            "pool.apply",
            "one task and its result",
            Unit::Nanoseconds,
            Goal {
                text: "50 times faster than CPython",
                bounds: &[Bound { against: Against::CPython, factor: 1.0 / 50.0 }],
            },
            apply,
        ),
        scenario(
            "pool.map.chunk1",
            "items of a map, each a task of its own",
            Unit::PerSecond,
            Goal {
                text: "at least 1.5 million tasks/s with 2 workers",
                bounds: &[Bound { against: Against::Figure(1.5e6), factor: 1.0 }],
            },
            map_chunk1,
        ),
        scenario(
            "pool.map.default",
            "items of a map, in the chunks that the library chooses",
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
    ]
}

fn identity(number: u64) -> u64 {
    number
}

fn apply(surroundings: &Surroundings, regime: Regime) -> Field {
    let ours = || -> Entry {
        let pool = Pool::new(WORKERS)?;
        Ok(Box::new(move |n| {
            timed(n, || match pool.apply(identity, 7)? {
                7 => Ok(()),
                _ => Err("wrong answer".into()),
            })
        }))
    };
    Field::default().ours(ours()).cpython(surroundings, regime, "pool.apply")
}

/// Ours as a function that runs the numbers below `n` and returns how many results came.
fn ours(run: fn(&Pool, u64) -> Result<usize, Failure>) -> Entry {
    let pool = Pool::new(WORKERS)?;
    Ok(Box::new(move |n: u64| {
        let start = Instant::now();
        let results = run(&pool, n)?;
        let time = start.elapsed();
        if results as u64 == n { Ok(time) } else { Err(format!("{results} results for {n} items").into()) }
    }))
}

fn map_chunk1(surroundings: &Surroundings, regime: Regime) -> Field {
    Field::default()
        .ours(ours(|pool, n| Ok(pool.tasks(identity, 0..n).chunk_size(1).collect()?.len())))
        .cpython(surroundings, regime, "pool.map.chunk1")
}

fn map_default(surroundings: &Surroundings, regime: Regime) -> Field {
    Field::default().ours(ours(|pool, n| Ok(pool.map(identity, 0..n)?.len()))).cpython(
        surroundings,
        regime,
        "pool.map.default",
    )
}

fn imap_unordered(surroundings: &Surroundings, regime: Regime) -> Field {
    Field::default()
        .ours(ours(|pool, n| {
            let results = pool.tasks(identity, 0..n).chunk_size(1).unordered();
            Ok(results.filter(|result| result.is_ok()).count())
        }))
        .cpython(surroundings, regime, "pool.imap_unordered")
}
