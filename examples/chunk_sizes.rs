//! What the size of chunks costs and gains: many short tasks want large chunks, few uneven ones small chunks.
//!
//! Python: `pool.map(f, items, chunksize=n)`. There a chunk fails as a whole; here each item has a result of its own.
//!
//! ```sh
//! cargo run --release --example chunk_sizes
//! ```
// ci: => uneven tasks

use procession::prelude::*;
use std::{
    error::Error,
    hint::spin_loop,
    time::{Duration, Instant},
};

/// Next to nothing: what is measured is the way there and back.
fn add_one(n: u64) -> u64 {
    n + 1
}

/// Keeps a processor busy for so many microseconds.
fn busy(microseconds: u64) {
    let start = Instant::now();
    while start.elapsed() < Duration::from_micros(microseconds) {
        spin_loop();
    }
}

/// How long the items take in chunks of `size`, `None` for the pool's own choice.
fn time<R>(
    pool: &Pool,
    f: fn(u64) -> R,
    items: &[u64],
    size: Option<usize>,
) -> Result<Duration, Box<dyn Error>>
where
    R: serde::Serialize + serde::de::DeserializeOwned + 'static,
{
    let start = Instant::now();
    let tasks = pool.tasks(f, items.iter().copied());
    size.into_iter().fold(tasks, |tasks, size| tasks.chunk_size(size)).collect()?;
    Ok(start.elapsed())
}

fn main() -> Result<(), Box<dyn Error>> {
    let pool = Pool::new(2)?;
    pool.map(add_one, 0..1000)?; // so that both workers have started
    let short: Vec<u64> = (0..200_000).collect();
    // The longest come last: whoever gets the last large chunk works on alone.
    let uneven: Vec<u64> = (0..64).map(|n| if n < 56 { 200 } else { 5_000 }).collect();

    for size in [Some(1), Some(10), Some(100), Some(10_000), None] {
        let name = size.map_or("its choice".to_owned(), |size| size.to_string());
        let took = time(&pool, add_one, &short, size)?;
        let rate = short.len() as f64 / took.as_secs_f64() / 1e6;
        println!(
            "200,000 short tasks, chunks of {name:>10}: {:>7.2} ms, {rate:.1} million a second",
            took.as_secs_f64() * 1e3
        );
    }
    for size in [Some(1), Some(8), Some(32), None] {
        let name = size.map_or("its choice".to_owned(), |size| size.to_string());
        let took = time(&pool, busy, &uneven, size)?;
        println!("64 uneven tasks, chunks of {name:>10}: {:>7.2} ms", took.as_secs_f64() * 1e3);
    }
    Ok(())
}
