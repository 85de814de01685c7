//! What processes use: memory and processor time, measured while they run and when they have ended; and a limit.
//!
//! Python: `resource.getrusage(RUSAGE_CHILDREN)` or the psutil package. Here a process knows its peak, and `/proc` tells the
//! rest, as it does to everybody.
//!
//! ```sh
//! cargo run --release --example resources
//! ```
// ci: => the large one had more, the greedy one was ended

use procession::prelude::*;
use std::{error::Error, fs, hint, thread};

/// Keeps so many MiB resident, says so, and waits for the word to end.
fn hold(mebibytes: usize, there: Event, end: Event) -> usize {
    let memory = hint::black_box(vec![1_u8; mebibytes << 20]);
    there.set();
    end.wait();
    memory.len()
}

/// What the kernel says about a process: resident memory in bytes, and processor time in its ticks of 10 ms.
fn usage(pid: u32) -> Result<(u64, u64), Box<dyn Error>> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    let kibibytes: u64 = resident.trim().trim_end_matches(" kB").parse()?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may contain anything: what follows is counted from its end.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    Ok((kibibytes << 10, ticks(11) + ticks(12)))
}

fn mib(bytes: u64) -> u64 {
    bytes >> 20
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut peaks = Vec::new();
    for mebibytes in [1, 64] {
        let (there, end) = (Event::new()?, Event::new()?);
        let child = spawn!(hold(mebibytes, there.clone(), end.clone()))?;
        there.wait();
        let (resident, _) = usage(child.pid())?;
        end.set();
        assert_eq!(child.join()?, mebibytes << 20);
        // Its peak, which needs nobody who looks at the right moment.
        let peak = child.peak_memory().ok_or("nobody else waits for it")?;
        println!("holds {mebibytes:>2} MiB: {} MiB resident, at most {} MiB", mib(resident), mib(peak));
        peaks.push(peak);
    }
    assert!(peaks[1] > peaks[0] + (32 << 20), "{peaks:?}");

    // Processor time: one that works against one that waits.
    let busy = Process::spawn(
        |()| -> () {
            loop {
                hint::spin_loop()
            }
        },
        (),
    )?;
    let idle = Process::spawn(
        |()| -> () {
            loop {
                thread::park()
            }
        },
        (),
    )?;
    while usage(busy.pid())?.1 < 10 {
        thread::yield_now();
    }
    let (worked, waited) = (usage(busy.pid())?.1, usage(idle.pid())?.1);
    println!("processor time: {} ms at work, {} ms waiting", worked * 10, waited * 10);
    assert!(worked > waited);
    drop((busy, idle)); // dropped, so stopped

    // More than it may have: its allocation fails, and that ends it, instead of the machine's out-of-memory killer.
    let greedy = Process::builder()
        .limit(Resource::Data, 32 << 20)
        .spawn(|bytes: usize| hint::black_box(vec![1_u8; bytes]).len(), 256 << 20)?;
    println!("{}", greedy.join().err().ok_or("it got more than it may have")?);
    println!("the large one had more, the greedy one was ended");
    Ok(())
}
