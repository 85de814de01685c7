//! The lane within one thread: what one message costs without a hand-over between cores. One iteration sends a
//! message and receives it. Between processes: `cargo xtask bench --only channel`.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use procession_channel::lane::{Config, pair};

fn send_and_receive(c: &mut Criterion) {
    let mut group = c.benchmark_group("lane/send_and_receive");
    for size in [16, 256, 4096, 64 * 1024] {
        let (mut sender, mut receiver) = pair(&Config::default()).expect("a lane");
        let message = vec![7; size];
        let mut into = Vec::new();
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(format!("{size}B"), |b| {
            b.iter(|| {
                sender.try_send(&[black_box(&message)]).expect("there is room");
                receiver.try_recv(&mut into).expect("the sender is there")
            });
        });
    }
    group.finish();
}

criterion_group!(benches, send_and_receive);
criterion_main!(benches);
