use procession_channel::queue::Queue;
use std::time::Instant;
fn run(p: usize, c: usize, n: u64, batch: usize, size: usize) {
    let q: Queue<(u64, u64)> = Queue::bounded(4096).unwrap();
    let qv: Queue<procession_parcel::Bytes> = Queue::bounded(256).unwrap();
    let t = Instant::now();
    std::thread::scope(|s| {
        let ps: Vec<_> = (0..p)
            .map(|_| {
                let q = &q;
                let qv = &qv;
                s.spawn(move || {
                    if size > 16 {
                        for _ in 0..n {
                            qv.put(procession_parcel::Bytes::from(vec![1u8; size])).unwrap();
                        }
                    } else if batch == 1 {
                        for i in 0..n {
                            q.put((i, i)).unwrap();
                        }
                    } else {
                        let mut i = 0;
                        while i < n {
                            q.put_many((i..i + batch as u64).map(|i| (i, i)).collect()).unwrap();
                            i += batch as u64;
                        }
                    }
                })
            })
            .collect();
        let cs: Vec<_> = (0..c)
            .map(|_| {
                let q = &q;
                let qv = &qv;
                s.spawn(move || {
                    let mut k = 0u64;
                    if size > 16 {
                        while let Ok(_) = qv.get() {
                            k += 1;
                        }
                    } else if batch == 1 {
                        while let Ok(_) = q.get() {
                            k += 1;
                        }
                    } else {
                        while let Ok(v) = q.get_many(batch) {
                            k += v.len() as u64;
                        }
                    }
                    k
                })
            })
            .collect();
        for p in ps {
            p.join().unwrap();
        }
        q.close().unwrap();
        qv.close().unwrap();
        let k: u64 = cs.into_iter().map(|c| c.join().unwrap()).sum();
        assert_eq!(k, n * p as u64);
    });
    let e = t.elapsed();
    let total = n * p as u64;
    println!(
        "{p}x{c} batch {batch} size {size}: {:.2} M/s, {:.0} ns/item, {:.0} MB/s",
        total as f64 / e.as_secs_f64() / 1e6,
        e.as_nanos() as f64 / total as f64,
        (total * size as u64) as f64 / e.as_secs_f64() / 1e6
    );
}
fn main() {
    {
        let q: Queue<(u64, u64)> = Queue::bounded(4096).unwrap();
        let n = 1_000_000u64;
        let t = Instant::now();
        for i in 0..n {
            q.put((i, i)).unwrap();
            q.get().unwrap();
        }
        println!("one thread put+get: {:.0} ns", t.elapsed().as_nanos() as f64 / n as f64);
    }
    run(1, 1, 2_000_000, 1, 16);
    run(2, 2, 1_000_000, 1, 16);
    run(1, 1, 4_000_000, 64, 16);
    run(2, 2, 2_000_000, 64, 16);
    run(4, 4, 1_000_000, 64, 16);
    run(1, 1, 20_000, 1, 65536);
}
