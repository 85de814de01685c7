//! Code written for `raw_sync`, over robust memory: a holder that is killed does not leave the mutex stuck for ever.
//!
//! cargo run -p procession-sync --features raw-sync --example raw_sync
//
// ci: => raw_sync's own mutex is stuck, ours went to the next one

use procession_sync::rawsync;
use raw_sync::Timeout;
use raw_sync::locks::{LockImpl, LockInit};
use shared_memory::{Shmem, ShmemConf};
use std::error::Error;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Where the number lies that the mutex guards.
const DATA: usize = 128;

/// As in `raw_sync`'s own examples; `M` is its mutex, or the robust one with the same traits.
fn mutex<M: LockInit>(memory: &Shmem) -> Result<Box<dyn LockImpl>, Box<dyn Error>> {
    // SAFETY: within the mapping.
    let data = unsafe { memory.as_ptr().add(DATA) };
    let made = if memory.is_owner() {
        // SAFETY: the mapping is larger than the mutex, outlives it here, and nobody else has it yet.
        unsafe { M::new(memory.as_ptr(), data) }
    } else {
        // SAFETY: the maker has initialised it before it told the name.
        unsafe { M::from_existing(memory.as_ptr(), data) }
    };
    Ok(made?.0)
}

/// The other process: locks, changes half of what is guarded, and is killed.
fn holder<M: LockInit>(name: &str) -> Result<(), Box<dyn Error>> {
    let memory = ShmemConf::new().os_id(name).open()?;
    let mutex = mutex::<M>(&memory)?;
    let mut guard = mutex.lock()?;
    // SAFETY: the data is a byte within the mapping, and the lock is held.
    unsafe { **guard = 1 };
    println!("locked");
    loop {
        std::thread::park();
    }
}

/// Has another process die with the mutex, and tells how the next wait for it ends.
fn after_a_kill<M: LockInit>(which: &str) -> Result<Result<u8, Box<dyn Error>>, Box<dyn Error>> {
    let memory = ShmemConf::new().size(4096).create()?;
    let mutex = mutex::<M>(&memory)?;
    let mut child =
        Command::new("/proc/self/exe").args([which, memory.get_os_id()]).stdout(Stdio::piped()).spawn()?;
    let output = child.stdout.take().ok_or("the child's output is a pipe")?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    assert_eq!(line, "locked\n");
    child.kill()?;
    child.wait()?;

    // One second: raw_sync's own timeouts hold for whole seconds only.
    let first = mutex.try_lock(Timeout::Val(Duration::from_secs(1)));
    let Err(error) = first else { return Err("a holder died, and nobody was told".into()) };
    println!("{which}: {error}");
    if !error.is::<rawsync::Died>() {
        return Ok(Err(error));
    }
    // It is free again; what it guards is half changed.
    let guard = mutex.lock()?;
    // SAFETY: the data is a byte within the mapping, and the lock is held.
    Ok(Ok(unsafe { **guard }))
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [_, "plain", name] => return holder::<raw_sync::locks::Mutex>(name),
        [_, "robust", name] => return holder::<rawsync::Mutex>(name),
        _ => {}
    }
    let plain = after_a_kill::<raw_sync::locks::Mutex>("plain")?;
    assert!(plain.is_err(), "raw_sync's mutex was not robust when this was written");
    let robust = after_a_kill::<rawsync::Mutex>("robust")?;
    assert_eq!(robust?, 1);
    println!("raw_sync's own mutex is stuck, ours went to the next one");
    Ok(())
}
