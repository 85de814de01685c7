//! Deaths at each step of the protocol of blocks in a queue: built with `--cfg crash_points`.

use crate::{
    heap::{Frame, check, frame, heap},
    support::{give, take},
};
use procession_channel::queue::{GetError, Policy, Queue};
use procession_shm::Heap;
use procession_sys::{Deadline, crash};
use procession_testkit::{role, wait::eventually, watchdog};
use std::{
    os::unix::{net::UnixStream, process::ExitStatusExt},
    time::Duration,
};

#[test]
fn role_actor() {
    let Some(mut role) = role::enter(role_actor) else { return };
    let (point, action, queue): (String, String, Queue<Frame>) = take(role.fd());
    let heap = queue.heap().unwrap();
    let item = frame(&heap, 77);
    // SAFETY: this is the only thread of the role that reads or writes the environment; the other one is the
    // harness's, which waits for this one.
    unsafe { std::env::set_var(crash::VARIABLE, &point) };
    match action.as_str() {
        "put" => queue.put(item).unwrap(),
        "get" => check(&queue.get().unwrap(), 1),
        "claim" => std::mem::forget(queue.claim().unwrap()),
        "give back" => queue.claim().unwrap().give_back(),
        "stats" => drop(queue.stats().unwrap()),
        other => panic!("{other}"),
    }
    panic!("{action} did not come to {point}");
}

#[track_caller]
fn dies(queue: &Queue<Frame>, action: &str, point: &str) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut process = role::start(role_actor, &[&theirs]);
    give(&ours, &(point, action, queue));
    let status = process.wait();
    assert_eq!(status.signal(), Some(9), "{action} at {point}: {status:?}\n{}", process.output());
}

fn make(heap: &Heap, policy: Policy) -> Queue<Frame> {
    Queue::builder().heap(heap).memory(1 << 20).policy(policy).build().unwrap()
}

/// Sweeps leave so many blocks, while the queue lives on.
#[track_caller]
fn assert_soon_left(heap: &Heap, blocks: usize, context: &str) {
    let left = || {
        heap.sweep().unwrap();
        heap.stats().blocks == blocks
    };
    eventually(context, Duration::from_secs(20), left);
}

#[track_caller]
fn drain(queue: &Queue<Frame>) -> Vec<u64> {
    let mut numbers = Vec::new();
    loop {
        match queue.try_get() {
            Ok(item) => {
                check(&item, item.number);
                numbers.push(item.number);
            }
            Err(GetError::Empty) => return numbers,
            Err(error) => panic!("{error}"),
        }
    }
}

const PUTS: [(&str, bool); 8] = [
    ("queue.put.noted", false),
    ("heap.ring.held", false),
    ("heap.ring.departed", false),
    ("heap.ring.departed:2", false),
    ("queue.put.departed", false),
    ("queue.put.copied", false),
    ("queue.put.staged", false),
    ("queue.put.committed", true),
];

#[test]
fn a_producer_that_dies_leaves_its_blocks_in_the_queue_or_nowhere() {
    let _watchdog = watchdog!(Duration::from_secs(200));
    for (point, accepted) in PUTS {
        let heap = heap();
        let queue = make(&heap, Policy::Report);
        queue.put(frame(&heap, 1)).unwrap();
        dies(&queue, "put", point);
        // The next producer takes over.
        queue.put(frame(&heap, 2)).unwrap();
        assert_soon_left(&heap, if accepted { 12 } else { 8 }, point);
        let expected: &[u64] = if accepted { &[1, 77, 2] } else { &[1, 2] };
        assert_eq!(drain(&queue), expected, "at {point}");
        assert_eq!(heap.stats().blocks, 0, "at {point}");
    }
}

#[test]
fn a_consumer_that_waits_takes_over_from_a_producer_that_died() {
    let _watchdog = watchdog!(Duration::from_secs(200));
    for (point, accepted) in PUTS {
        let heap = heap();
        let queue = make(&heap, Policy::Report);
        dies(&queue, "put", point);
        let get = || queue.get_deadline(Deadline::after(Duration::from_millis(1)));
        assert_eq!(get().is_ok(), accepted, "at {point}");
        // After its first slice.
        assert!(queue.get_timeout(Duration::from_millis(400)).is_err());
        assert_soon_left(&heap, 0, point);
    }
}

#[test]
fn who_takes_over_from_a_producer_may_die_too() {
    let _watchdog = watchdog!(Duration::from_secs(200));
    for point in [
        "heap.sweep.block",
        "heap.sweep.small",
        "queue.repair.revoked",
        "queue.repair.done",
        "queue.repair.declared",
    ] {
        let heap = heap();
        let queue = make(&heap, Policy::Report);
        dies(&queue, "put", "queue.put.copied");
        dies(&queue, "put", point);
        queue.put(frame(&heap, 2)).unwrap();
        assert_soon_left(&heap, 4, point);
        assert_eq!(drain(&queue), [2], "at {point}");
        assert_eq!(heap.stats().blocks, 0, "at {point}");
    }
}

#[test]
fn a_consumer_that_dies_has_left_its_item_or_its_blocks_are_freed() {
    let _watchdog = watchdog!(Duration::from_secs(400));
    // 0: nothing was taken; 1: taken, and not opened; 2: opened; 3: acknowledged.
    let points = [
        ("queue.get.copied", 0),
        ("queue.get.recorded", 0),
        ("queue.get.committed", 1),
        ("queue.get.unlocked", 1),
        ("queue.get.opened", 2),
        ("heap.receive.owned", 2),
        ("heap.receive.owned:2", 2),
        ("heap.hold.added", 2),
        ("heap.hold.cleared", 2),
        ("queue.get.emptied", 2),
        ("queue.acknowledged", 3),
    ];
    for policy in [Policy::Report, Policy::Drop, Policy::Redeliver] {
        for (point, state) in points {
            let only_where =
                [("queue.get.opened", true), ("queue.get.emptied", false)].into_iter().find(|p| p.0 == point);
            if only_where.is_some_and(|(_, again)| again != (policy == Policy::Redeliver)) {
                // Nothing is marked there.
                continue;
            }
            let heap = heap();
            let queue = make(&heap, policy);
            (1..4).for_each(|n| queue.put(frame(&heap, n)).unwrap());
            dies(&queue, "get", point);
            let stats = queue.stats().unwrap();
            let context = format!("{policy:?} at {point}: {stats:?}");
            let (waits, doubt, lost) = match (state, policy) {
                (0, _) | (1, Policy::Redeliver) => (3, 0, 0),
                (1 | 2, Policy::Drop) => (2, 0, 1),
                (3, _) => (2, 0, 0),
                _ => (2, 1, 0),
            };
            assert_eq!((stats.waiting, stats.in_doubt, stats.lost), (waits, doubt, lost), "{context}");
            assert_soon_left(&heap, waits as usize * 4, &context);
            assert_eq!(drain(&queue), (4 - waits..4).collect::<Vec<_>>(), "{context}");
            assert_eq!(heap.stats().blocks, 0, "{context}");
        }
    }
}

#[test]
fn who_settles_may_die_too() {
    let _watchdog = watchdog!(Duration::from_secs(200));
    for policy in [Policy::Report, Policy::Drop, Policy::Redeliver] {
        for point in
            ["queue.settle.found", "heap.sweep.small", "queue.settle.revoked", "queue.settle.settled"]
        {
            let heap = heap();
            let queue = make(&heap, policy);
            (1..3).for_each(|n| queue.put(frame(&heap, n)).unwrap());
            // In the middle of it: some blocks are the dead one's, others are in the message.
            dies(&queue, "get", "heap.receive.owned");
            dies(&queue, "stats", point);
            let stats = queue.stats().unwrap();
            let context = format!("{policy:?} at {point}: {stats:?}");
            assert_eq!((stats.waiting, stats.in_doubt + stats.lost), (1, 1), "{context}");
            assert_soon_left(&heap, 4, &context);
            assert_eq!(drain(&queue), [2], "{context}");
            assert_eq!(heap.stats().blocks, 0, "{context}");
        }
    }
}

#[test]
fn what_comes_again_brings_its_blocks_to_one() {
    let _watchdog = watchdog!(Duration::from_secs(200));
    for (point, comes) in
        [("queue.again.copied", true), ("queue.again.taken", true), ("queue.get.opened", false)]
    {
        let heap = heap();
        let queue = make(&heap, Policy::Redeliver);
        (1..3).for_each(|n| queue.put(frame(&heap, n)).unwrap());
        dies(&queue, "get", "queue.get.unlocked");
        assert_eq!(queue.stats().unwrap().waiting, 2);
        dies(&queue, "get", point);
        assert_eq!(queue.stats().unwrap().waiting, 1 + u64::from(comes), "at {point}");
        assert_soon_left(&heap, 4 + usize::from(comes) * 4, point);
        assert_eq!(drain(&queue), if comes { vec![1, 2] } else { vec![2] }, "at {point}");
        assert_eq!(heap.stats().blocks, 0, "at {point}");
    }
    // And one that gives it back dies in the middle of that.
    let heap = heap();
    let queue = make(&heap, Policy::Redeliver);
    queue.put(frame(&heap, 1)).unwrap();
    dies(&queue, "give back", "queue.settle.revoked");
    assert_eq!(queue.stats().unwrap().in_doubt, 1);
    assert_soon_left(&heap, 0, "given back");
}
