//! What a pool costs: to make, to have, to keep waiting.

use std::time::Duration;

use procession_pool::Pool;
use procession_process::Process;

use super::{WORKERS, identity};
use crate::observed::{private_memory, processor_time};
use crate::peers::{procspawn, rayon};
use crate::scenario::{
    Against, Bound, Entry, Failure, Field, Goal, Observation, Regime, Scenario, Unit, once, timed,
};

/// How long an idle pool is watched.
const WATCHED: Duration = Duration::from_millis(400);

pub(super) fn scenarios() -> Vec<Scenario> {
    let scenario =
        |id, what, unit, goal, field| Scenario { id, what, unit, regime: Regime::FREE, goal, field };
    vec![
        scenario(
            "pool.create",
            "make a pool of two workers and drop it; `process`: one process of ours, started, run and reaped; rayon: threads",
            Unit::Nanoseconds,
            Goal {
                text: "under 3 times one process start",
                bounds: &[Bound { against: Against::Peer("process"), factor: 3.0 }],
            },
            |surroundings, regime| created(false).cpython(surroundings, regime, "pool.create"),
        ),
        scenario(
            "pool.create.first_result",
            "make a pool of two workers, run one task, drop the pool; peers as before",
            Unit::Nanoseconds,
            Goal { text: "none of its own", bounds: &[] },
            |surroundings, regime| created(true).cpython(surroundings, regime, "pool.create.first_result"),
        ),
        scenario(
            "pool.idle",
            "processor time that this process and its two workers use in a second without work",
            Unit::Nanoseconds,
            Goal {
                text: "under 0.1 % of a core: 1 ms",
                bounds: &[Bound { against: Against::Figure(1e6), factor: 1.0 }],
            },
            |surroundings, regime| {
                Field::default().ours(idle()).newest_cpython(surroundings, regime, &[("Pool", "pool.idle")])
            },
        ),
        scenario(
            "memory.worker",
            "private memory of an idle worker that has run a thousand tasks, the largest of two",
            Unit::Bytes,
            Goal {
                text: "under 1.5 MiB",
                bounds: &[Bound { against: Against::Figure(1.5 * (1 << 20) as f64), factor: 1.0 }],
            },
            |surroundings, regime| {
                Field::default().ours(Ok(once(memory))).cpython(surroundings, regime, "memory.worker")
            },
        ),
    ]
}

fn created(task: bool) -> Field {
    let ours = || -> Entry {
        Ok(Box::new(move |n| {
            timed(n, || {
                let pool = Pool::new(WORKERS)?;
                if task && pool.apply(identity, 7)? != 7 {
                    return Err("wrong answer".into());
                }
                drop(pool);
                Ok(())
            })
        }))
    };
    let process = || -> Entry {
        Ok(Box::new(|n| {
            timed(n, || match Process::spawn(identity, 7)?.join()? {
                7 => Ok(()),
                _ => Err("wrong answer".into()),
            })
        }))
    };
    Field::default()
        .ours(ours())
        .peer("process", process())
        .peer("rayon", rayon::create(WORKERS, task))
        .peer("procspawn", procspawn::create(WORKERS, task))
}

fn idle() -> Entry {
    let pool = Pool::new(WORKERS)?;
    pool.map(identity, 0..1000)?;
    Ok(Box::new(Observation(move || {
        let used = || -> Result<Duration, Failure> {
            let pids = pool.worker_pids().into_iter().chain([std::process::id()]);
            pids.map(processor_time).sum()
        };
        let before = used()?;
        std::thread::sleep(WATCHED);
        Ok((used()? - before).as_nanos() as f64 / WATCHED.as_secs_f64())
    })))
}

fn memory() -> Result<f64, Failure> {
    let pool = Pool::new(WORKERS)?;
    pool.map(identity, 0..1000)?;
    let each: Result<Vec<u64>, Failure> = pool.worker_pids().into_iter().map(private_memory).collect();
    Ok(each?.into_iter().max().ok_or("there are no workers")? as f64)
}
