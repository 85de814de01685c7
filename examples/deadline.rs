//! A task that never ends is killed at its deadline: the others are done, and its worker is replaced.
//!
//! Python: `result.get(timeout)` gives up the wait, and the worker goes on for ever.
//!
//! ```sh
//! cargo run --release --example deadline
//! ```
// ci: => 1 input took too long, 9 were done, 1 worker was replaced

use procession::{TaskError, prelude::*};
use std::{error::Error, hint, time::Duration};

/// How many steps Collatz's rule takes from `n` to 1. From 0 it never gets there.
fn steps(mut n: u64) -> u64 {
    let mut steps = 0;
    while n != 1 {
        n = hint::black_box(if n.is_multiple_of(2) { n / 2 } else { 3 * n + 1 });
        steps += 1;
    }
    steps
}

fn main() -> Result<(), Box<dyn Error>> {
    let pool = Pool::new(2)?;
    let (mut done, mut late) = (0, 0);
    let inputs = [27, 97, 0, 871, 6171, 77031, 1, 2, 3, 4];
    for (n, result) in inputs.iter().zip(pool.tasks(steps, inputs).deadline(Duration::from_millis(300))) {
        match result {
            Ok(_) => done += 1,
            // Its worker was killed. What was queued behind it has run elsewhere.
            Err(TaskError::TimedOut(died)) => {
                println!("{n}: {died}");
                late += 1;
            }
            Err(error) => return Err(error.into()),
        }
    }

    // The pool has all its workers again.
    assert_eq!(pool.map(steps, [8, 16])?, [3, 4]);
    let replaced: u64 = pool.worker_infos().iter().map(|worker| worker.restarts).sum();
    println!("{late} input took too long, {done} were done, {replaced} worker was replaced");
    pool.join();
    Ok(())
}
