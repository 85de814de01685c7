//! Threads, async tasks and processes at the same work: what keeps the processor busy, and what waits.
//!
//! Python: `threading`, `asyncio` and `multiprocessing`. Threads compute in parallel here: processes are for what may
//! crash or hang.
//!
//! ```sh
//! cargo run --release --example which
//! ```
//!
//! | use | for | a crash or a leak costs | it can be killed |
//! |---|---|---|---|
//! | threads (`std::thread`, rayon) | computing, on code that you trust; they share everything without a copy | the program | no |
//! | async tasks (tokio) | thousands of things that wait: sockets, timers | the program | at an `.await` only |
//! | processes (`Pool`) | computing on code or input that may crash, hang or eat memory; C libraries that are no friends of threads | one item | at any instruction |
// ci: => all three agree

use procession::prelude::*;
use std::{
    error::Error,
    thread,
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

const JOBS: usize = 16;

/// Keeps the processor busy.
fn primes(limit: u32) -> usize {
    (2..limit).filter(|n| (2..).take_while(|d| d * d <= *n).all(|d| n % d != 0)).count()
}

/// What a request to a slow server is.
fn request(milliseconds: u32) -> usize {
    thread::sleep(Duration::from_millis(milliseconds.into()));
    milliseconds as usize
}

/// The same for async tasks, which must not sleep: that would hold up all others of their thread.
async fn request_async(milliseconds: u32) -> usize {
    tokio::time::sleep(Duration::from_millis(milliseconds.into())).await;
    milliseconds as usize
}

fn timed(f: impl FnOnce() -> Result<usize, Box<dyn Error>>) -> Result<(usize, Duration), Box<dyn Error>> {
    let start = Instant::now();
    Ok((f()?, start.elapsed()))
}

/// A thread for each job.
fn by_threads(f: fn(u32) -> usize, arg: u32) -> Result<usize, Box<dyn Error>> {
    thread::scope(|scope| {
        let threads: Vec<_> = (0..JOBS).map(|_| scope.spawn(move || f(arg))).collect();
        threads.into_iter().map(|thread| thread.join().map_err(|_| "a panic".into())).sum()
    })
}

/// One thread for all tasks: computing, they come one after the other; waiting, all at once.
fn by_tasks(compute: bool, arg: u32) -> Result<usize, Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    runtime.block_on(async {
        let mut tasks = JoinSet::new();
        for _ in 0..JOBS {
            match compute {
                true => tasks.spawn(async move { primes(arg) }),
                false => tasks.spawn(request_async(arg)),
            };
        }
        Ok(tasks.join_all().await.into_iter().sum())
    })
}

/// As many workers as there are jobs to wait for, or processors to keep busy.
fn by_processes(pool: &Pool, f: fn(u32) -> usize, arg: u32) -> Result<usize, Box<dyn Error>> {
    Ok(pool.tasks(f, [arg; JOBS]).chunk_size(1).collect()?.into_iter().sum())
}

fn main() -> Result<(), Box<dyn Error>> {
    let (few, many) = (Pool::new(cpu_count())?, Pool::new(JOBS)?);
    for pool in [&few, &many] {
        by_processes(pool, request, 20)?; // the workers start; that is not compared
    }
    let computing = [
        timed(|| by_threads(primes, 40_000))?,
        timed(|| by_tasks(true, 40_000))?,
        timed(|| by_processes(&few, primes, 40_000))?,
    ];
    let waiting = [
        timed(|| by_threads(request, 20))?,
        timed(|| by_tasks(false, 20))?,
        timed(|| by_processes(&many, request, 20))?,
    ];
    println!("{JOBS} jobs, {} processors", cpu_count());
    println!("{:<12} {:>12} {:>12}", "", "computing", "waiting");
    for (index, name) in ["threads", "async tasks", "processes"].into_iter().enumerate() {
        println!("{name:<12} {:>12.1?} {:>12.1?}", computing[index].1, waiting[index].1);
    }
    for outcomes in [computing, waiting] {
        assert!(outcomes.iter().all(|outcome| outcome.0 == outcomes[0].0));
    }
    println!("all three agree");
    Ok(())
}
