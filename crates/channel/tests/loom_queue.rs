//! Interleavings of a queue and its gates, within a bound on preemptions, and mistakes that must be found.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --release -p procession-channel --test loom_queue --target-dir target/loom`
#![cfg(loom)]

use loom::{sync::Arc, thread};
use procession_channel::model::{
    ALL, Bug, Gate, NotTaken, Patience, Policy, QueueCells, Refused, Ring, frame, plant,
};
use procession_sys::{
    Spin,
    sync::{AtomicU32, Ordering},
};

fn holds(model: fn()) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.max_branches = 5_000;
    builder.check(model);
}

/// The model must find this mistake.
fn finds(bug: Bug, model: fn()) {
    procession_sys::planted::finds(&bug, || {
        plant(Some(bug));
        holds(model);
    });
}

type Queue = Arc<Ring<Arc<QueueCells>>>;

fn queue(chunks: u32, max_items: u64) -> Queue {
    Arc::new(Ring::new(QueueCells::new(chunks, max_items, Policy::Report)))
}

fn put(queue: &Queue, item: u8) -> Result<(), Refused> {
    queue.put(&frame(item), 1, None, &mut Spin::none(), None).map_err(|(_, refused)| refused)
}

fn get(queue: &Queue) -> Result<u8, NotTaken> {
    let mut frames = Vec::new();
    let taken = queue.take(1, &mut 0, None, &mut Spin::none(), &mut frames)?;
    queue.acknowledge(&taken.hand);
    assert_eq!((frames.len(), frames[0]), (16, 1));
    Ok(frames[8])
}

fn one_to_one() {
    let queue = queue(4, u64::MAX);
    let producer = thread::spawn({
        let queue = queue.clone();
        move || (1..3).for_each(|item| put(&queue, item).unwrap())
    });
    assert_eq!(get(&queue), Ok(1));
    assert_eq!(get(&queue), Ok(2));
    producer.join().unwrap();
}

/// Two producers, of whom each item comes once.
fn two_producers() {
    let queue = queue(4, u64::MAX);
    let producers = [1, 2].map(|item| {
        let queue = queue.clone();
        thread::spawn(move || put(&queue, item).unwrap())
    });
    let (one, two) = (get(&queue).unwrap(), get(&queue).unwrap());
    assert_eq!((one.min(two), one.max(two)), (1, 2));
    for producer in producers {
        producer.join().unwrap();
    }
}

/// Two consumers, each of whom gets one.
fn two_consumers() {
    let queue = queue(4, u64::MAX);
    let consumer = thread::spawn({
        let queue = queue.clone();
        move || get(&queue).unwrap()
    });
    (1..3).for_each(|item| put(&queue, item).unwrap());
    let one = get(&queue).unwrap();
    let two = consumer.join().unwrap();
    assert_eq!((one.min(two), one.max(two)), (1, 2));
}

/// The producer waits for its bound.
fn full_by_items() {
    let queue = queue(4, 1);
    let producer = thread::spawn({
        let queue = queue.clone();
        move || (1..4).for_each(|item| put(&queue, item).unwrap())
    });
    assert_eq!([(); 3].map(|()| get(&queue).unwrap()), [1, 2, 3]);
    producer.join().unwrap();
}

/// The producer waits for memory: an item in a chunk, two chunks, used again.
fn full_by_bytes() {
    let queue = queue(2, u64::MAX);
    (1..3).for_each(|item| put(&queue, item).unwrap());
    let producer = thread::spawn({
        let queue = queue.clone();
        move || put(&queue, 3).unwrap()
    });
    assert_eq!([(); 3].map(|()| get(&queue).unwrap()), [1, 2, 3]);
    producer.join().unwrap();
}

fn closes() {
    let queue = queue(4, u64::MAX);
    let producer = thread::spawn({
        let queue = queue.clone();
        move || {
            put(&queue, 1).unwrap();
            queue.close(None).unwrap();
            assert_eq!(queue.try_put(&frame(2), 1, Patience::Brief, None), Err(Refused::Closed));
        }
    });
    assert_eq!(get(&queue), Ok(1));
    assert_eq!(get(&queue), Err(NotTaken::Closed));
    producer.join().unwrap();
}

/// Of two consumers, none may take an empty queue for the end while the last item comes.
fn closes_for_two() {
    let queue = queue(4, u64::MAX);
    put(&queue, 1).unwrap();
    let consumer = thread::spawn({
        let queue = queue.clone();
        move || usize::from(get(&queue).is_ok())
    });
    let producer = thread::spawn({
        let queue = queue.clone();
        move || {
            put(&queue, 2).unwrap();
            queue.close(None).unwrap();
        }
    });
    let mut count = 0;
    while get(&queue).is_ok() {
        count += 1;
    }
    assert_eq!(count + consumer.join().unwrap(), 2);
    producer.join().unwrap();
}

/// Two sleepers, and a ring for one at a time.
fn gate() {
    let shared = Arc::new((Gate::default(), AtomicU32::new(0)));
    let sleep = |shared: &(Gate, AtomicU32)| {
        let take = || {
            let take = |count: u32| count.checked_sub(1);
            shared.1.fetch_update(Ordering::AcqRel, Ordering::Relaxed, take).is_ok()
        };
        while !take() {
            shared.0.wait_slice(None, &mut Spin::none(), || shared.1.load(Ordering::Acquire) > 0);
        }
    };
    let sleeper = thread::spawn({
        let shared = shared.clone();
        move || sleep(&shared)
    });
    let ringer = thread::spawn({
        let shared = shared.clone();
        move || {
            for _ in 0..2 {
                shared.1.fetch_add(1, Ordering::Release);
                shared.0.ring(1);
            }
        }
    });
    sleep(&shared);
    sleeper.join().unwrap();
    ringer.join().unwrap();
    shared.0.ring(ALL);
}

#[test]
fn items_arrive_whole_and_in_order() {
    holds(one_to_one);
}

#[test]
fn items_of_two_producers_come_once_each() {
    holds(two_producers);
}

#[test]
fn two_consumers_are_woken_for_two_items() {
    holds(two_consumers);
}

#[test]
fn a_producer_waits_for_its_bound() {
    holds(full_by_items);
}

#[test]
fn chunks_are_used_again() {
    holds(full_by_bytes);
}

#[test]
fn a_close_comes_after_the_last_item() {
    holds(closes);
}

#[test]
fn a_gate_wakes_as_many_as_there_is_work_for() {
    holds(gate);
}

#[test]
fn finds_a_commit_that_does_not_publish() {
    finds(Bug::RelaxedTail, one_to_one);
}

#[test]
fn finds_space_that_is_freed_before_it_is_copied() {
    finds(Bug::FreedBeforeCopy, full_by_bytes);
}

#[test]
fn finds_space_that_is_freed_without_order() {
    finds(Bug::RelaxedFree, full_by_bytes);
}

#[test]
fn finds_space_that_is_used_again_without_order() {
    finds(Bug::RelaxedFreed, full_by_bytes);
}

#[test]
fn finds_a_ring_without_a_fence() {
    finds(Bug::NoFenceBeforeGate, gate);
}

#[test]
fn finds_a_wake_that_is_not_counted() {
    finds(Bug::GateNotCounted, gate);
}

#[test]
fn finds_a_flag_that_is_cleared_while_others_sleep() {
    finds(Bug::GateClearedAlways, gate);
}

#[test]
fn finds_a_close_that_wakes_nobody() {
    finds(Bug::QueueCloseWithoutRing, closes);
}

#[test]
fn finds_a_missing_look_after_a_close() {
    finds(Bug::NoLookAfterQueueClose, closes_for_two);
}
