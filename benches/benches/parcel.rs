//! Packing and unpacking: large slices against memcpy, a small struct against the codec by itself.
//! One iteration packs one value, or unpacks one, as the name says.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use procession_benches::memory::keep_what_is_freed;
use procession_parcel::{Parcel, codec};
use serde::{Deserialize, Serialize};

const SIZE: usize = 8 << 20;

fn large<T: Serialize + serde::de::DeserializeOwned + Clone + 'static>(
    c: &mut Criterion,
    name: &str,
    data: &Vec<T>,
) {
    let mut group = c.benchmark_group(format!("parcel/{name}/8MiB"));
    group.throughput(Throughput::Bytes(SIZE as u64)).sample_size(20);
    group.bench_function("memcpy", |b| b.iter(|| black_box(black_box(data).clone())));
    group.bench_function("pack", |b| b.iter(|| Parcel::pack(black_box(data))));
    group.bench_function("unpack", |b| {
        let pack = || Parcel::pack(data).expect("plain data packs");
        b.iter_batched(pack, |parcel| black_box(parcel.unpack::<Vec<T>>()), BatchSize::PerIteration);
    });
    group.finish();
}

#[derive(Clone, Serialize, Deserialize)]
struct Job {
    id: u64,
    name: String,
    weights: [f32; 8],
    tags: Vec<String>,
}

fn small(c: &mut Criterion) {
    let job =
        Job { id: 7, name: "resize".into(), weights: [0.5; 8], tags: vec!["a".into(), "of two".into()] };
    let mut encoded = Vec::new();
    codec::encode(&job, &mut encoded).expect("plain data encodes");
    let mut group = c.benchmark_group("parcel/job");
    group.bench_function("encode", |b| {
        let mut into = Vec::with_capacity(256);
        b.iter(|| {
            into.clear();
            codec::encode(black_box(&job), &mut into)
        });
    });
    group.bench_function("decode", |b| b.iter(|| codec::decode::<Job>(black_box(&encoded))));
    group.bench_function("postcard/encode", |b| {
        let mut into = [0; 256];
        b.iter(|| postcard::to_slice(black_box(&job), &mut into).map(|bytes| bytes.len()));
    });
    group.bench_function("postcard/decode", |b| b.iter(|| postcard::from_bytes::<Job>(black_box(&encoded))));
    group.finish();
}

fn all(c: &mut Criterion) {
    keep_what_is_freed();
    large(c, "bytes", &vec![7u8; SIZE]);
    large(c, "f64", &vec![0.7f64; SIZE / 8]);
    small(c);
}

criterion_group!(benches, all);
criterion_main!(benches);
