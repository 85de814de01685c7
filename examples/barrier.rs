//! A barrier: work in rounds, where nobody begins the next one before all have ended this one.
//!
//! Python: `Barrier(3, action)`, `b.wait()`. When a party dies the others do not wait for ever: the barrier breaks, and says
//! who it was.
//!
//! ```sh
//! cargo run --example barrier
//! ```
// ci: => rounds were kept, and a death has broken it

use procession::{prelude::*, sync::Broken};
use std::{error::Error, thread};

const PARTIES: usize = 3;
const ROUNDS: u32 = 4;

/// The sum of two neighbours becomes the new value of each: right only if all are in the same round.
fn relax(barrier: Barrier, cells: RawArray<u32>, own: usize) -> Result<(), String> {
    for _ in 0..ROUNDS {
        let next = cells[own].load() + cells[(own + 1) % PARTIES].load();
        barrier.wait().map_err(|error| error.to_string())?; // all have read
        cells[own].store(next);
        barrier.wait().map_err(|error| error.to_string())?; // all have written
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let barrier = Barrier::new(PARTIES)?;
    let cells = RawArray::from_slice(&[1, 0, 0])?;
    let parties = (0..PARTIES).map(|own| spawn!(relax(barrier.clone(), cells.clone(), own)));
    for party in parties.collect::<Result<Vec<_>, _>>()? {
        party.join()??;
    }
    let mut alone = [1_u32, 0, 0];
    for _ in 0..ROUNDS {
        alone = [0, 1, 2].map(|own: usize| alone[own] + alone[(own + 1) % PARTIES]);
    }
    assert_eq!(cells.to_vec(), alone);

    // One of three waits, and is killed there.
    let three = Barrier::new(3)?;
    let child = Process::spawn(|three: Barrier| drop(three.wait()), three.clone())?;
    while three.waiting() == 0 {
        thread::yield_now();
    }
    child.kill()?;
    let broken = three.wait().err().and_then(|error| error.broken()).ok_or("it was passed by one alone")?;
    println!("{broken}");
    assert_eq!(broken, Broken::Died { pid: child.pid() });
    child.wait()?;
    three.reset()?; // it is whole again
    assert!(three.broken().is_none());
    println!("rounds were kept, and a death has broken it");
    Ok(())
}
