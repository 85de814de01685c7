//! Values through queues and channels within one thread: what an item costs without a hand-over between cores. One iteration
//! puts an item and gets it, or 64 at a time. Between processes: `cargo xtask bench --only queue`.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use procession_channel::{Queue, channel};

fn items(c: &mut Criterion) {
    let mut group = c.benchmark_group("queue/put_and_get");
    let queue = Queue::<[u64; 2]>::bounded(4096).expect("a queue");
    group.throughput(Throughput::Elements(1));
    group.bench_function("16B", |b| {
        b.iter(|| {
            queue.put(black_box([1, 2])).expect("there is room");
            queue.get().expect("there is one")
        });
    });
    group.throughput(Throughput::Elements(64));
    group.bench_function("64x16B", |b| {
        b.iter(|| {
            queue.put_many(black_box(vec![[1, 2]; 64])).expect("there is room");
            queue.get_many(64).expect("there are some")
        });
    });
    let large = Queue::<Vec<u8>>::bounded(64).expect("a queue");
    group.throughput(Throughput::Bytes(64 * 1024));
    group.bench_function("64KiB", |b| {
        b.iter(|| {
            large.put(black_box(vec![7; 64 * 1024])).expect("there is room");
            large.get().expect("there is one")
        });
    });
    group.finish();
}

fn channels(c: &mut Criterion) {
    let mut group = c.benchmark_group("channel/send_and_receive");
    let (mut sender, mut receiver) = channel::<[u64; 2]>().expect("a channel");
    group.throughput(Throughput::Elements(1));
    group.bench_function("16B", |b| {
        b.iter(|| {
            sender.send(black_box([1, 2])).expect("there is room");
            receiver.recv().expect("there is one")
        });
    });
    group.finish();
}

criterion_group!(benches, items, channels);
criterion_main!(benches);
