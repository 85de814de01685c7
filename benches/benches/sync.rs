//! Locks and shared numbers that nobody else wants just then. One iteration takes and gives back, or changes once.
//! Between processes: `cargo xtask bench --only lock`.

use std::hint::black_box;
use std::sync::Mutex;

use criterion::{Criterion, criterion_group, criterion_main};
use procession_sync::{Event, Lock, RLock, RawValue, RwLock, Semaphore, Value};

fn free(c: &mut Criterion) {
    let mut group = c.benchmark_group("sync/free");
    let (lock, reentrant) = (Lock::new().expect("a lock"), RLock::new().expect("a lock"));
    let (shared, semaphore) = (RwLock::new().expect("a lock"), Semaphore::new(1).expect("a semaphore"));
    let std = Mutex::new(());
    group.bench_function("lock", |b| b.iter(|| drop(black_box(&lock).lock().expect("it is free"))));
    group.bench_function("rlock", |b| b.iter(|| drop(black_box(&reentrant).lock().expect("it is free"))));
    group.bench_function("rwlock_read", |b| b.iter(|| drop(black_box(&shared).read().expect("it is free"))));
    group
        .bench_function("rwlock_write", |b| b.iter(|| drop(black_box(&shared).write().expect("it is free"))));
    group
        .bench_function("permit", |b| b.iter(|| drop(black_box(&semaphore).permit().expect("there is one"))));
    group.bench_function("std_mutex", |b| b.iter(|| drop(black_box(&std).lock().expect("it is free"))));
    group.finish();
}

fn shared(c: &mut Criterion) {
    let mut group = c.benchmark_group("sync/shared");
    let (value, raw) = (Value::new(0_u64).expect("a value"), RawValue::new(0_u64).expect("a value"));
    let event = Event::new().expect("an event");
    group.bench_function("value_update", |b| {
        b.iter(|| black_box(&value).update(|number| *number += 1).expect("its lock is free"));
    });
    group.bench_function("raw_value_add", |b| b.iter(|| black_box(&raw).fetch_add(1)));
    group.bench_function("event_set_and_clear", |b| {
        b.iter(|| {
            black_box(&event).set();
            event.clear();
        });
    });
    group.finish();
}

criterion_group!(benches, free, shared);
criterion_main!(benches);
