//! Five processes add one to the same number, a hundred times each: without a lock additions are lost, with one none is.
//!
//! Python: `v.value += 1`, which is a read and a write, and `with v.get_lock(): v.value += 1`. (`race` shows the same at full
//! speed, with millions.)
//!
//! ```sh
//! cargo run --example increments
//! ```
// ci: => with the lock 500 of 500

use procession::prelude::*;
use std::{error::Error, thread};

const PROCESSES: u64 = 5;
const TIMES: u64 = 100;

fn without((number, all_there): (Value<u64>, Barrier)) -> Result<(), String> {
    all_there.wait().map_err(|error| error.to_string())?;
    for _ in 0..TIMES {
        // Each of the two takes the lock for itself, as in Python: that does not help between them.
        let seen = number.get().map_err(|error| error.to_string())?;
        thread::yield_now();
        number.set(seen + 1).map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn with((number, all_there): (Value<u64>, Barrier)) -> Result<(), String> {
    all_there.wait().map_err(|error| error.to_string())?;
    for _ in 0..TIMES {
        let mut number = number.lock().map_err(|error| error.to_string())?;
        let seen = *number;
        thread::yield_now();
        *number = seen + 1;
    }
    Ok(())
}

type Shared = (Value<u64>, Barrier);

fn count(how: fn(Shared) -> Result<(), String>) -> Result<u64, Box<dyn Error>> {
    let number = Value::new(0)?;
    let all_there = Barrier::new(PROCESSES as usize)?;
    let children = (0..PROCESSES).map(|_| Process::spawn(how, (number.clone(), all_there.clone())));
    for child in children.collect::<Result<Vec<_>, _>>()? {
        child.join()??;
    }
    Ok(number.get()?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let all = PROCESSES * TIMES;
    let (lost, kept) = (count(without)?, count(with)?);
    assert!((1..=all).contains(&lost));
    assert_eq!(kept, all);
    println!("without the lock {lost} of {all}");
    println!("with the lock {kept} of {all}");
    Ok(())
}
