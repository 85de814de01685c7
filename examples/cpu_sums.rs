//! Work that keeps the processor busy: the same sums in this process alone, and by a pool.
//!
//! Python: the reason for the module, since its threads share one interpreter lock. Rust's threads do not: here a pool is
//! for what may crash, hang or eat memory; `which` compares.
//!
//! ```sh
//! cargo run --release --example cpu_sums
//! ```
// ci: => both ways the same sum

use procession::prelude::*;
use std::{error::Error, hint, ops::Range, time::Instant};

/// The sum of the digits of all squares of a range.
fn digit_sum(numbers: Range<u64>) -> u64 {
    numbers
        .map(|n| {
            let (mut rest, mut sum) = (hint::black_box(n * n), 0);
            while rest > 0 {
                sum += rest % 10;
                rest /= 10;
            }
            sum
        })
        .sum()
}

const NUMBERS: u64 = 2_000_000;
const PARTS: u64 = 32;

fn main() -> Result<(), Box<dyn Error>> {
    let pool = Pool::new(cpu_count())?;
    // The first call waits for the start of the workers: that is not compared.
    pool.map(digit_sum, (0..cpu_count() as u64).map(|n| n..n + 1))?;

    let start = Instant::now();
    let alone = digit_sum(0..NUMBERS);
    let alone_took = start.elapsed();

    // Some more parts than workers, so that all end at about the same time; what crosses is two numbers each.
    let size = NUMBERS / PARTS;
    let start = Instant::now();
    let parts =
        pool.tasks(digit_sum, (0..PARTS).map(|n| n * size..(n + 1) * size)).chunk_size(1).collect()?;
    let pool_took = start.elapsed();

    assert_eq!(parts.iter().sum::<u64>(), alone);
    println!("alone:            {alone_took:>9.1?}");
    let times = alone_took.as_secs_f64() / pool_took.as_secs_f64();
    println!("with {:>2} processes: {pool_took:>9.1?}, {times:.1} times as fast", cpu_count());
    println!("both ways the same sum: {alone}");
    pool.join();
    Ok(())
}
