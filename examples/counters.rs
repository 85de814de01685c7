//! Several processes throw dice, and share what they find: a value and an array under locks, and a structure of one's own.
//! One of them is killed in the middle.
//!
//! Python: `Value('i', 0)`, `Array('i', 6)` and a `ctypes.Structure`. There a process that is killed under the lock
//! stops all others.
//!
//! ```sh
//! cargo run --release --example counters
//! ```
// ci: => nothing was lost

use procession::{bytemuck, prelude::*, sync::LockError};
use std::error::Error;

/// What may lie in shared memory: plain data without padding, which the derive checks.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[bytemuck(crate = "procession::bytemuck")]
#[repr(C)]
struct Extremes {
    lowest: u32,
    highest: u32,
}

type Shared = (Value<u64>, Array<u64>, Value<Extremes>);

const THROWS: u64 = 200_000;

/// Throws two dice that many times, from a seed.
fn throw((throws, seed, (total, sums, extremes)): (u64, u64, Shared)) {
    let mut random = seed;
    let mut die = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as u32 % 6 + 1
    };
    for _ in 0..throws {
        let sum = die() + die();
        // Each under its own lock: a process that is killed between the two has counted in the first only.
        sums.update(sum as usize, |count| *count += 1).unwrap();
        total.update(|count| *count += 1).unwrap();
        // Both fields under one lock: nobody sees one without the other.
        extremes
            .update(|seen| {
                seen.lowest = seen.lowest.min(sum);
                seen.highest = seen.highest.max(sum);
            })
            .unwrap();
    }
}

/// Takes the lock of the total, and does not come to let it go.
fn dies(total: Value<u64>) {
    let _guard = total.lock().unwrap();
    std::process::abort();
}

fn main() -> Result<(), Box<dyn Error>> {
    let shared: Shared =
        (Value::new(0)?, Array::new(13)?, Value::new(Extremes { lowest: u32::MAX, highest: 0 })?);
    let throwers = (1..=3).map(|seed| Process::spawn(throw, (THROWS, seed, shared.clone())));
    for thrower in throwers.collect::<Result<Vec<_>, _>>()? {
        thrower.join()?;
    }
    let (total, sums, extremes) = shared;
    let (counts, seen) = (sums.to_vec()?, extremes.get()?);
    for (sum, count) in counts.iter().enumerate().skip(2) {
        println!("{sum:>2} {count:>7} {}", "#".repeat((count * 240 / (3 * THROWS)) as usize));
    }
    println!("{} throws, from {} to {}", total.get()?, seen.lowest, seen.highest);

    // A lock whose holder dies is no lock for ever: the next one gets it, and is told.
    println!(
        "now a process dies that holds the lock: {}",
        Process::spawn(dies, total.clone())?.join().unwrap_err()
    );
    match total.lock() {
        Err(LockError::Poisoned(poisoned)) => {
            println!("the next one is told: {poisoned}");
            total.clear_poison();
            assert_eq!(**poisoned.get_ref(), counts.iter().sum());
        }
        _ => return Err("nobody was told".into()),
    }
    println!("nothing was lost: {} throws", total.get()?);
    Ok(())
}
