//! A task may own a pool: each region sums its districts with two workers of its own.
//!
//! Python's pool refuses this, since its workers are daemons. Here the workers of the inner pools are children of the outer
//! one's workers, and all of them end with the root, whatever ends it.
//!
//! ```sh
//! cargo run --release --example nested_pools
//! ```
// ci: => all regions: 1124250

use procession::prelude::*;
use std::error::Error;

const DISTRICTS: u64 = 5;
const PEOPLE: u64 = 100;

/// What a district has to count.
fn district(number: u64) -> u64 {
    (number * PEOPLE..(number + 1) * PEOPLE).sum()
}

/// A region's sum, by a pool in the worker.
fn region(number: u64) -> Result<u64, Box<dyn Error + Send + Sync>> {
    let pool = Pool::new(2)?;
    let first = number * DISTRICTS;
    let sums = pool.map(district, first..first + DISTRICTS)?;
    println!("region {number}: pool of {:?} inside of process {}", pool.worker_pids(), std::process::id());
    pool.join();
    Ok(sums.into_iter().sum())
}

fn main() -> Result<(), Box<dyn Error>> {
    let pool = Pool::new(2)?;
    let regions = pool.try_map(region, 0..3)?;
    let sum: u64 = regions.iter().sum();
    assert_eq!(sum, (0..3 * DISTRICTS * PEOPLE).sum());
    println!("all regions: {sum}");
    Ok(())
}
