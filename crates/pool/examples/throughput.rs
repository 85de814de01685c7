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
    // A build without optimisation measures nothing: then it only shows that all of it works.
    let few = if cfg!(debug_assertions) { 50 } else { 1 };
    for _ in 0..3 {
        let items = 20_000 / few;
        measure("apply", items, || (0..items).try_for_each(|n| pool.apply(nothing, n).map(drop)))?;
        let items = 1_000_000 / few;
        measure("map, chunks of 1", items, || {
            pool.tasks(nothing, 0..items).chunk_size(1).collect().map(drop)
        })?;
        measure("imap_unordered, chunks of 1", items, || {
            pool.tasks(nothing, 0..items).chunk_size(1).unordered().try_for_each(|result| result.map(drop))
        })?;
        let items = 5_000_000 / few;
        measure("imap, adaptive chunks", items, || {
            pool.imap(nothing, 0..items).try_for_each(|result| result.map(drop))
        })?;
        let items = 10_000_000 / few;
        measure("map, default chunks", items, || pool.map(nothing, 0..items).map(drop))?;
    }
    pool.join();
    Ok(())
}
