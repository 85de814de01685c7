//! `Lock` and `RLock`: one process at a time; and what happens when that one dies.
//!
//! Python: `with lock:`. There a process that dies with the lock takes it along, and everybody waits for ever.
//!
//! ```sh
//! cargo run --example locks
//! ```
// ci: => lines are whole, levels are counted, the dead are named

use procession::prelude::*;
use std::{error::Error, fs, io::Write, path::PathBuf, thread};

/// Writes a line in pieces: under the lock it stays in one piece.
fn write(lock: Lock, path: PathBuf, name: char) -> Result<(), String> {
    let mut file = fs::File::options().append(true).open(path).map_err(|error| error.to_string())?;
    for _ in 0..50 {
        // `with lock:` is a guard that lives to the end of the block.
        let _guard = lock.lock().map_err(|error| error.to_string())?;
        for _ in 0..5 {
            write!(file, "{name}").map_err(|error| error.to_string())?;
            thread::yield_now();
        }
        writeln!(file).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Takes a reentrant lock once for each level, as a recursive function does.
fn descend(lock: &RLock, levels: u64) -> Result<u64, Box<dyn Error>> {
    let _guard = lock.lock().map_err(|error| error.without_guard())?;
    if levels > 1 { descend(lock, levels - 1) } else { Ok(lock.depth()) }
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::temp_dir().join(format!("procession-locks-{}", std::process::id()));
    fs::write(&path, "")?;
    let lock = Lock::new()?;
    let writers = ['a', 'b', 'c'].map(|name| spawn!(write(lock.clone(), path.clone(), name)));
    for writer in writers {
        writer?.join()??;
    }
    let text = fs::read_to_string(&path)?;
    fs::remove_file(&path)?;
    assert_eq!(text.lines().count(), 150);
    assert!(text.lines().all(|line| ["aaaaa", "bbbbb", "ccccc"].contains(&line)));

    let nested = RLock::new()?;
    assert_eq!((descend(&nested, 3)?, nested.depth()), (3, 0));
    // A plain lock that its own thread takes again would wait for itself: it is an error instead.
    let held = lock.lock().map_err(|error| error.without_guard())?;
    println!("taken twice: {}", lock.lock().err().ok_or("it was given twice")?.without_guard());
    drop(held);

    let thief = Process::spawn(
        |lock: Lock| -> () {
            let _guard = lock.lock().expect("it is free");
            std::process::abort()
        },
        lock.clone(),
    )?;
    let pid = thief.pid();
    assert_eq!(thief.wait()?.signal(), Some(6));
    // The next one gets it, and is told. What the lock guards may be half changed.
    match lock.lock() {
        Err(LockError::Poisoned(poisoned)) => {
            println!("left by the dead: {poisoned}");
            assert!(poisoned.to_string().contains(&pid.to_string()));
            lock.clear_poison();
        }
        other => return Err(format!("{other:?}").into()),
    }
    println!("lines are whole, levels are counted, the dead are named");
    Ok(())
}
