//! An event: several processes wait for one signal, and go on together.
//!
//! Python: `Event()`, `e.wait()`, `e.wait(timeout)`, `e.set()`.
//!
//! ```sh
//! cargo run --example event
//! ```
// ci: => 3 waited until it was set, 1 did not wait that long

use procession::prelude::*;
use std::{error::Error, time::Duration};

fn wait(there: RawValue<u32>, start: Event) -> bool {
    there.fetch_add(1);
    start.wait();
    start.is_set()
}

/// `e.wait(0.01)`: whether it was set in time.
fn give_up(start: Event) -> bool {
    start.wait_timeout(Duration::from_millis(10))
}

fn main() -> Result<(), Box<dyn Error>> {
    let (start, there) = (Event::new()?, RawValue::new(0)?);
    let waiters: Vec<_> =
        (0..3).map(|_| spawn!(wait(there.clone(), start.clone()))).collect::<Result<_, _>>()?;
    assert!(!Process::spawn(give_up, start.clone())?.join()?);
    while there.load() < 3 {
        std::thread::yield_now();
    }
    assert!(waiters.iter().all(Process::is_alive), "nobody goes on before it is set");
    start.set();
    let mut woken = 0;
    for waiter in waiters {
        woken += u32::from(waiter.join()?);
    }
    assert_eq!(woken, 3);
    // It stays set, until `clear`: who comes later does not wait.
    start.wait();
    println!("{woken} waited until it was set, 1 did not wait that long");
    Ok(())
}
