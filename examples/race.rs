//! Four processes count to a million each, in one place: without a lock increments are lost, with one none is.
//!
//! Python: `v.value += 1` on a `Value`, without and with `v.get_lock()`. `increments` is the same in small.
//!
//! ```sh
//! cargo run --release --example race
//! ```
// ci: => with the lock, none was lost

use procession::prelude::*;
use std::error::Error;

const PROCESSES: u64 = 4;
const TIMES: u64 = 1_000_000;

/// What the processes share: how many of them are there, and what they count in.
type Shared = (RawValue<u64>, RawValue<u64>, Value<u64>);

/// So that all of them count at the same time: the first one would be done before the last one has started.
fn wait_for_the_others(there: &RawValue<u64>) {
    there.fetch_add(1);
    while there.load() < PROCESSES {
        std::thread::yield_now();
    }
}

/// Reads, adds, writes: between two of these steps another process may do the same.
fn without_lock((there, counter, _): Shared) {
    wait_for_the_others(&there);
    for _ in 0..TIMES {
        counter.store(counter.load() + 1);
    }
}

/// The same, and nobody comes between.
fn with_lock((there, _, counter): Shared) {
    wait_for_the_others(&there);
    for _ in 0..TIMES {
        counter.update(|value| *value += 1).unwrap();
    }
}

/// For a number alone the processor can do it in one step.
fn atomically((there, counter, _): Shared) {
    wait_for_the_others(&there);
    for _ in 0..TIMES {
        counter.fetch_add(1);
    }
}

/// What several processes have counted together.
fn count(how: fn(Shared)) -> Result<u64, Box<dyn Error>> {
    let shared: Shared = (RawValue::new(0)?, RawValue::new(0)?, Value::new(0)?);
    let processes = (0..PROCESSES).map(|_| Process::spawn(how, shared.clone()));
    for process in processes.collect::<Result<Vec<_>, _>>()? {
        process.join()?;
    }
    // Only one of the two was used.
    Ok(shared.1.load() + shared.2.get()?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let all = PROCESSES * TIMES;
    let (raced, locked, atomic) = (count(without_lock)?, count(with_lock)?, count(atomically)?);
    println!("without a lock: {raced:>7} of {all}, {} were lost", all - raced);
    println!("with a lock:    {locked:>7} of {all}");
    println!("in one step:    {atomic:>7} of {all}");
    if (locked, atomic) != (all, all) {
        return Err("an increment was lost with the lock".into());
    }
    println!("with the lock, none was lost");
    Ok(())
}
