//! How fast large buffers go to workers and come back, beside what copying and touching memory costs here.
//!
//! `cargo run --release -p procession-pool --example buffers -- [MIB] [COUNT]`
// ci: 1 4 => by reference

use procession_pool::Pool;
use procession_shm::{Heap, SharedVec};
use std::{error::Error, hint::black_box, time::Instant};

fn identity(buffer: Vec<u8>) -> Vec<u8> {
    buffer
}

fn change(mut buffer: SharedVec<u8>) -> SharedVec<u8> {
    buffer[0] = buffer[0].wrapping_add(1);
    buffer
}

fn length(buffer: Vec<u8>) -> usize {
    buffer.len()
}

fn make(bytes: usize) -> Vec<u8> {
    vec![1; bytes]
}

/// The processor time in ns that processes have used, and how many pages they have touched for the first time.
fn used(pids: &[u32]) -> (f64, f64) {
    let (mut time, mut faults) = (0.0, 0.0);
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    for pid in pids {
        let read = |what| std::fs::read_to_string(format!("/proc/{pid}/{what}")).unwrap_or_default();
        time += number(read("schedstat").split(' ').next());
        let stat = read("stat");
        faults += number(stat.rsplit(')').next().and_then(|rest| rest.split(' ').nth(8)));
    }
    (time, faults)
}

/// Prints and gives how many GB/s that was; beside it the processor time, which other programs change less, and the pages
/// touched for the first time, for each byte that had to go or come.
fn measure(
    pool: &Pool,
    what: &str,
    bytes: usize,
    run: impl FnOnce() -> Result<(), Box<dyn Error>>,
) -> Result<f64, Box<dyn Error>> {
    let (here, workers) = ([std::process::id()], pool.worker_pids());
    let before = (used(&here), used(&workers));
    let start = Instant::now();
    run()?;
    let rate = bytes as f64 / start.elapsed().as_secs_f64() / 1e9;
    let after = (used(&here), used(&workers));
    let (here, there) = (after.0.0 - before.0.0, after.1.0 - before.1.0);
    let faults = (after.0.1 - before.0.1 + after.1.1 - before.1.1) * 4096.0;
    println!(
        "{what:<42} {rate:>7.2} GB/s; processors: {:>6.0} µs/MB here, {:>6.0} in workers; touched {:>5.2}",
        here / 1e3 / (bytes as f64 / 1e6),
        there / 1e3 / (bytes as f64 / 1e6),
        faults / bytes as f64
    );
    Ok(rate)
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut numbers = std::env::args().skip(1).map(|n| n.parse::<usize>());
    let mib = numbers.next().unwrap_or(Ok(8))?;
    let count = numbers.next().unwrap_or(Ok(32))?;
    let (size, all) = (mib << 20, (mib << 20) * count);
    let pool = Pool::new(2)?;
    pool.map(length, [vec![0; 1 << 20], vec![0; 1 << 20]])?;
    let source = make(size);
    let heap = Heap::new()?;
    let on_heap = Pool::builder().workers(1).heap(&heap).build()?;
    for _ in 0..3 {
        let mut target = make(size);
        let copy = measure(&pool, "memcpy", all, || {
            (0..count).for_each(|_| black_box(&mut target).copy_from_slice(black_box(&source)));
            Ok(())
        })?;
        let touch = measure(&pool, "copy into memory never used before", all, || {
            let copies: Vec<_> = (0..count).map(|_| black_box(&source).clone()).collect();
            black_box(copies);
            Ok(())
        })?;
        let inputs = || (0..count).map(|_| source.clone()).collect::<Vec<_>>();
        let input = inputs();
        let out = measure(&pool, "out: Vec<u8> -> usize", all, || Ok(pool.map(length, input).map(drop)?))?;
        let back = measure(&pool, "back: usize -> Vec<u8>, all kept", all, || {
            Ok(pool.tasks(make, (0..count).map(|_| size)).chunk_size(1).collect().map(drop)?)
        })?;
        let recycled = measure(&pool, "back: usize -> Vec<u8>, one after the other", all, || {
            let tasks = pool.tasks(make, (0..count).map(|_| size)).chunk_size(1).window(4);
            Ok(tasks.unordered().try_for_each(|result| result.map(drop))?)
        })?;
        let input = inputs();
        let both =
            measure(&pool, "out and back, all kept", all, || Ok(pool.map(identity, input).map(drop)?))?;
        let input = inputs();
        let passing = measure(&pool, "out and back, one after the other", all, || {
            let tasks = pool.tasks(identity, input).chunk_size(1).window(4);
            Ok(tasks.unordered().try_for_each(|result| result.map(drop))?)
        })?;
        let passed = measure(&pool, "out and back by reference, copied in and out", all, || {
            let mut target = vec![0; size];
            for _ in 0..count {
                let shared = on_heap.apply(change, heap.vec_from(&source)?)?;
                target.copy_from_slice(&shared);
            }
            black_box(target);
            Ok(())
        })?;
        let mut shared = heap.vec_from(&source)?;
        let start = Instant::now();
        for _ in 0..1000 {
            shared = on_heap.apply(change, shared)?;
        }
        let round_trip = start.elapsed() / 1000;
        println!(
            "by reference: {round_trip:?} there and back, {:.2} of memcpy if copied in and out\n\
             of first touch: out {:.2}, back {:.2} ({:.2}), both {:.2} ({:.2}); of memcpy: both {:.2} ({:.2})\n",
            passed / copy,
            out / touch,
            back / touch,
            recycled / touch,
            both / touch,
            passing / touch,
            both / copy,
            passing / copy
        );
    }
    pool.join();
    Ok(())
}
