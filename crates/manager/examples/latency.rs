//! How long a call takes, beside a round trip over a raw Unix socket: `cargo run --release --example latency`.

use procession_channel::Queue;
use procession_manager::Manager;
use procession_parcel::{Bytes, Fd};
use procession_process::Process;
use rustix::{
    process::Pid,
    thread::{CpuSet, sched_setaffinity},
};
use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

const CALLS: u32 = 20_000;

/// The median of the times of one call each, and the 99th of a hundred.
fn measure(name: &str, mut call: impl FnMut()) {
    for _ in 0..CALLS / 10 {
        call();
    }
    let mut times: Vec<Duration> = (0..CALLS)
        .map(|_| {
            let start = Instant::now();
            call();
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    let at = |part: usize| times[times.len() * part / 100].as_nanos() as f64 / 1000.0;
    println!("{name:<44} median {:7.2} µs   99 % {:7.2} µs", at(50), at(99));
}

fn echo(socket: Fd) {
    let mut socket = UnixStream::from(socket);
    let mut bytes = [0; 64];
    while let Ok(came @ 1..) = socket.read(&mut bytes) {
        if socket.write_all(&bytes[..came]).is_err() {
            return;
        }
    }
}

fn echo_items((from, to): (Queue<[u8; 16]>, Queue<[u8; 16]>)) {
    while let Ok(item) = from.get() {
        if to.put(item).is_err() {
            return;
        }
    }
}

fn queues() -> Result<(), Box<dyn std::error::Error>> {
    let (there, back) = (Queue::unbounded()?, Queue::unbounded()?);
    let process = Process::builder().daemon(true).spawn(echo_items, (there.clone(), back.clone()))?;
    let round = || {
        there.put([7; 16]).unwrap();
        back.get().unwrap();
    };
    round();
    pin(process.pid());
    measure("queues in shared memory, 16 bytes and back", round);
    unpin();
    Ok(())
}

fn calls(manager: &Manager, mut raw: impl FnMut()) -> Result<(), Box<dyn std::error::Error>> {
    let (dict, list) = (manager.dict::<u64, u64>()?, manager.list::<u64>()?);
    let (queue, value) = (manager.queue::<u64>()?, manager.value(&0_u64)?);
    dict.set(&1, &1)?;
    for _ in 0..2 {
        measure("raw Unix socket, 64 bytes and back", &mut raw);
        measure("dict.set", || dict.set(&1, &2).unwrap());
        measure("dict.get", || assert_eq!(dict.get(&1).unwrap(), Some(2)));
        measure("queue.put and get", || {
            queue.put(&1).unwrap();
            queue.get().unwrap();
        });
    }
    measure("value.update by a function", || value.update(|n, by: u64| *n += by, &1).unwrap());
    let many: Vec<u64> = (0..1_000_000).collect();
    let start = Instant::now();
    list.extend(&many)?;
    println!("list.extend of a million numbers: {:?}", start.elapsed());
    let start = Instant::now();
    assert_eq!(list.snapshot()?.len(), many.len());
    println!("list.snapshot of a million numbers: {:?}", start.elapsed());
    let bytes = Bytes(vec![1_u8; 64 << 20]);
    let large = manager.value(&bytes)?;
    for _ in 0..3 {
        let start = Instant::now();
        large.set(&bytes)?;
        print!("64 MiB of bytes: set {:?}", start.elapsed());
        let start = Instant::now();
        assert_eq!(large.get()?.len(), 64 << 20);
        println!(", get {:?}", start.elapsed());
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (mut ours, theirs) = UnixStream::pair()?;
    let _echo = Process::builder().daemon(true).spawn(echo, theirs.into())?;
    let mut bytes = [7; 64];
    let mut raw = || {
        ours.write_all(&bytes).unwrap();
        ours.read_exact(&mut bytes).unwrap();
    };
    queues()?;
    for (name, shared) in [("by shared memory", true), ("by sockets", false)] {
        println!("{name}");
        let manager = Manager::builder().shared_memory(shared).start()?;
        // After this both sides have seen that there are several cores.
        manager.dict::<u64, u64>()?;
        pin(manager.pid());
        calls(&manager, &mut raw)?;
        unpin();
    }
    Ok(())
}

fn cores(cores: &[usize]) -> CpuSet {
    let mut set = CpuSet::new();
    cores.iter().for_each(|core| set.set(*core));
    set
}

/// A core for each side, where there are two.
fn pin(other: u32) {
    if sched_setaffinity(Pid::from_raw(other as i32), &cores(&[1])).is_ok() {
        let _ = sched_setaffinity(None, &cores(&[0]));
    }
}

fn unpin() {
    let _ = sched_setaffinity(None, &cores(&[0, 1]));
}
