//! A semaphore: five processes, of which two at once may do the costly part.
//!
//! Python: `with Semaphore(2):`. A permit belongs to its process here: it comes back when that dies.
//!
//! ```sh
//! cargo run --example semaphore
//! ```
// ci: => five have worked, never more than two at once

use procession::prelude::*;
use std::{error::Error, thread, time::Duration};

/// How many are inside, and the most that ever were.
type Seen = (RawValue<u32>, RawValue<u32>);

fn work(gate: Semaphore, (inside, most): Seen) -> Result<(), String> {
    // `with gate:`. It comes back at the end of the function, and at the end of the process.
    let _permit = gate.permit().map_err(|error| error.to_string())?;
    most.fetch_max(inside.fetch_add(1) + 1);
    thread::sleep(Duration::from_millis(20)); // the costly part
    inside.fetch_sub(1);
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let gate = Semaphore::new(2)?;
    let seen: Seen = (RawValue::new(0)?, RawValue::new(0)?);
    let workers: Vec<_> =
        (0..5).map(|_| spawn!(work(gate.clone(), seen.clone()))).collect::<Result<_, _>>()?;
    for worker in workers {
        worker.join()??;
    }
    assert_eq!((seen.0.load(), gate.value()), (0, 2));
    assert!((1..=2).contains(&seen.1.load()));

    // One dies with a permit. In Python there would be one less from now on.
    let child = Process::spawn(
        |gate: Semaphore| -> () {
            let _permit = gate.permit().expect("two are free");
            std::process::abort()
        },
        gate.clone(),
    )?;
    assert_eq!(child.wait()?.signal(), Some(6));
    // Within a second at the latest: whoever wants permits looks after the dead.
    let both = [gate.permit_timeout(Duration::from_secs(30))?, gate.permit_timeout(Duration::from_secs(30))?];
    assert!(gate.try_permit().is_err());
    drop(both);
    println!("five have worked, never more than two at once");
    Ok(())
}
