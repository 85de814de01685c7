//! Death at every instruction of one put and of one get.
//!
//! After each death the item is in the queue or not, never half; in doubt only where it was taken; the others go on.

use crate::queue_world::{Item, MEMORY, all_memory_is_there, drain, item};
use procession_channel::queue::{Policy, Queue};
use procession_testkit::{
    isolated_within,
    step::{Options, each_instruction_after, stride},
};
use std::time::Duration;

/// All instructions where the code is optimised. Where it is not it takes several times as many, and one of `thin`
/// stands for its neighbours.
pub(crate) fn options(thin: u64) -> Options {
    let stride = if cfg!(debug_assertions) { stride(thin) } else { 1 };
    Options { stride, limit: 100_000, ..Options::default() }
}

pub(crate) fn isolated(name: &str, body: impl FnOnce()) {
    isolated_within(name, Duration::from_secs(240), body);
}

/// A queue with two items, whose next one ends `before_the_end` bytes before the end of a chunk or behind it.
pub(crate) fn world(policy: Policy, before_the_end: usize) -> Queue<Item> {
    let queue = Queue::builder().memory(MEMORY).policy(policy).build().unwrap();
    // 65,536 bytes in a chunk, of which number, length and header of three items take some 16 each.
    queue.put(item(0, 65_536 - 150 - before_the_end)).unwrap();
    queue.get().unwrap();
    queue.put(item(1, 16)).unwrap();
    queue.put(item(2, 16)).unwrap();
    queue
}

fn producer_dies(name: &str, thin: u64, before_the_end: usize, len: usize) {
    isolated(name, || {
        let (mut inside, mut outside) = (0, 0);
        let report = each_instruction_after(
            &options(thin),
            || world(Policy::Report, before_the_end),
            |queue| {
                let other = Queue::unbounded().unwrap();
                other.put(item(3, len)).unwrap();
                let _ = queue.len();
                item(3, len)
            },
            |queue, item| queue.try_put(item).unwrap(),
            |death, queue| {
                queue.try_put(item(4, 16)).unwrap();
                let numbers = drain(queue);
                match numbers.as_slice() {
                    [1, 2, 4] => {
                        assert!(!death.finished);
                        outside += 1;
                    }
                    [1, 2, 3, 4] => inside += 1,
                    other => panic!("{other:?}"),
                }
                let stats = queue.stats().unwrap();
                assert_eq!((stats.accepted, stats.in_doubt), (1 + numbers.len() as u64, 0));
                if death.finished || death.instructions.is_multiple_of(7) {
                    all_memory_is_there(queue);
                }
            },
        );
        println!("put: {report}; the item was in after {inside} of the deaths, and not after {outside}");
        assert!(inside > 0 && outside > 0);
    });
}

#[test]
fn a_producer_dies_at_every_instruction() {
    producer_dies("queue_steps::a_producer_dies_at_every_instruction", 797, 20_000, 21);
}

#[test]
fn a_producer_that_takes_a_chunk_dies_at_every_instruction() {
    producer_dies("queue_steps::a_producer_that_takes_a_chunk_dies_at_every_instruction", 1999, 0, 140);
}

fn consumer_dies(name: &str, policy: Policy) {
    isolated(name, || {
        let (mut waits, mut doubtful, mut consumed) = (0, 0, 0);
        let report = each_instruction_after(
            &options(997),
            || {
                let queue = world(policy, 20_000);
                assert_eq!(drain(&queue), [1, 2]);
                [8, 1, 2].into_iter().for_each(|n| queue.put(item(n, 16)).unwrap());
                queue
            },
            // With its first take a process becomes a member.
            |queue| assert_eq!(queue.get().unwrap().0, 8),
            |queue, ()| drop(queue.try_get().unwrap()),
            |death, queue| {
                let stats = queue.stats().unwrap();
                let doubts = queue.in_doubt().unwrap();
                let numbers = drain(queue);
                assert_eq!((stats.accepted, stats.in_hand), (6, 0), "{stats:?}");
                assert_eq!(stats.waiting, numbers.len() as u64);
                match (numbers.as_slice(), stats.in_doubt + stats.lost) {
                    // There still, or there again.
                    ([1, 2], 0) => {
                        assert!(!death.finished);
                        waits += 1;
                    }
                    ([2], 1) => {
                        assert!(policy == Policy::Drop || doubts.len() == 1 && doubts[0].ticket == 4);
                        doubtful += 1;
                    }
                    ([2], 0) => consumed += 1,
                    other => panic!("{other:?}, {stats:?}"),
                }
                queue.put(item(5, 16)).unwrap();
                assert_eq!(drain(queue), [5]);
                if death.finished || death.instructions.is_multiple_of(7) {
                    all_memory_is_there(queue);
                }
            },
        );
        println!(
            "get, {policy:?}: {report}; waiting after {waits} deaths, in doubt after {doubtful}, consumed after {consumed}"
        );
        assert!(waits > 0 && consumed > 0 && (doubtful > 0) == (policy != Policy::Redeliver));
    });
}

#[test]
fn a_consumer_dies_at_every_instruction_and_is_reported() {
    consumer_dies("queue_steps::a_consumer_dies_at_every_instruction_and_is_reported", Policy::Report);
}

#[test]
fn a_consumer_dies_at_every_instruction_and_its_item_comes_back() {
    consumer_dies(
        "queue_steps::a_consumer_dies_at_every_instruction_and_its_item_comes_back",
        Policy::Redeliver,
    );
}

#[test]
fn a_consumer_dies_at_every_instruction_and_its_item_is_lost() {
    consumer_dies("queue_steps::a_consumer_dies_at_every_instruction_and_its_item_is_lost", Policy::Drop);
}
