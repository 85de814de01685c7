//! How long a call takes, beside a round trip over a raw Unix socket: `cargo run --release --example latency`.

use procession_manager::Manager;
use procession_parcel::Fd;
use procession_process::Process;
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

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let manager = Manager::start()?;
    let (dict, list) = (manager.dict::<u64, u64>()?, manager.list::<u64>()?);
    let (queue, value) = (manager.queue::<u64>()?, manager.value(&0_u64)?);
    let (mut ours, theirs) = UnixStream::pair()?;
    let _echo = Process::builder().daemon(true).spawn(echo, theirs.into())?;
    let mut bytes = [7; 64];
    dict.set(&1, &1)?;
    for _ in 0..2 {
        measure("raw Unix socket, 64 bytes and back", || {
            ours.write_all(&bytes).unwrap();
            ours.read_exact(&mut bytes).unwrap();
        });
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
    let large = manager.value(&vec![1_u8; 64 << 20])?;
    let start = Instant::now();
    assert_eq!(large.get()?.len(), 64 << 20);
    println!("value.get of 64 MiB: {:?}", start.elapsed());
    Ok(())
}
