//! How fast a pool hands out work: tasks of nothing, counted.
//!
//! `cargo run --release -p procession-pool --example throughput -- [WORKERS] [threads]`

use procession_pool::Pool;
use std::{error::Error, time::Instant};

fn nothing(n: u64) -> u64 {
    n
}

fn measure<E>(what: &str, items: u64, run: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
    let start = Instant::now();
    run()?;
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{what:<32} {:>12.0} items/s {:>10.3} µs each",
        items as f64 / seconds,
        seconds * 1e6 / items as f64
    );
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let workers = std::env::args().nth(1).map_or(Ok(2), |n| n.parse())?;
    let over_threads = std::env::args().nth(2).is_some_and(|kind| kind == "threads");
    let pool = if over_threads { Pool::threads(workers)? } else { Pool::new(workers)? };
    pool.map(nothing, 0..1000)?;
    for _ in 0..3 {
        measure("apply", 20_000, || (0..20_000).try_for_each(|n| pool.apply(nothing, n).map(drop)))?;
        measure("map, chunks of 1", 1_000_000, || {
            pool.tasks(nothing, 0..1_000_000).chunk_size(1).collect().map(drop)
        })?;
        measure("imap_unordered, chunks of 1", 1_000_000, || {
            pool.tasks(nothing, 0..1_000_000)
                .chunk_size(1)
                .unordered()
                .try_for_each(|result| result.map(drop))
        })?;
        measure("imap, adaptive chunks", 5_000_000, || {
            pool.imap(nothing, 0..5_000_000).try_for_each(|result| result.map(drop))
        })?;
        measure("map, default chunks", 10_000_000, || pool.map(nothing, 0..10_000_000).map(drop))?;
    }
    pool.join();
    Ok(())
}
