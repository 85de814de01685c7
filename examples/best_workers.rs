//! How many processes are best? For work that keeps the processor busy as many as there are processors; for work that
//! waits, more.
//!
//! Python: `Pool(processes=n)` for several `n`. Without a number it takes as many as the process may use, here as there.
//!
//! ```sh
//! cargo run --release --example best_workers
//! ```
// ci: => best for waiting

use procession::{cpu_count, prelude::*};
use std::{
    error::Error,
    thread,
    time::{Duration, Instant},
};

/// How many of the numbers below `limit` are prime: nothing but computing.
fn count_primes(limit: u32) -> usize {
    (2..limit).filter(|n| (2..).take_while(|d| d * d <= *n).all(|d| n % d != 0)).count()
}

/// What a request to a slow server is to the processor: nothing.
fn wait(milliseconds: u32) -> usize {
    thread::sleep(Duration::from_millis(milliseconds.into()));
    0
}

/// Prints how long `items` take with 1, 2, 4… workers, and returns the best number of them.
fn measure(what: &str, f: fn(u32) -> usize, items: &[u32]) -> Result<usize, Box<dyn Error>> {
    let mut best = (Duration::MAX, 0);
    let mut alone = Duration::ZERO;
    for workers in [1, 2, 4, 8] {
        let pool = Pool::new(workers)?;
        // The first task of each worker waits for its start: that is not what is measured.
        pool.tasks(|_: u32| thread::sleep(Duration::from_millis(20)), 0..workers as u32)
            .chunk_size(1)
            .collect()?;
        let start = Instant::now();
        pool.tasks(f, items.iter().copied()).chunk_size(1).collect()?;
        let took = start.elapsed();
        if workers == 1 {
            alone = took;
        }
        let speed_up = alone.as_secs_f64() / took.as_secs_f64();
        println!(
            "{what}, {workers} workers: {:>6.1} ms, {speed_up:.1} times as fast",
            took.as_secs_f64() * 1e3
        );
        // A worker more has to be worth its memory.
        if took.mul_f64(1.05) < best.0 {
            best = (took, workers);
        }
    }
    Ok(best.1)
}

fn main() -> Result<(), Box<dyn Error>> {
    println!("{} processors may be used", cpu_count());
    let computing = measure("computing", count_primes, &[60_000; 16])?;
    let waiting = measure("waiting", wait, &[10; 32])?;
    println!("best for computing: {computing}, best for waiting: {waiting}");
    Ok(())
}
