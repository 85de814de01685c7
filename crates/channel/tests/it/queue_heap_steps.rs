//! Death at every instruction of a put and of a get of an item with blocks of a heap.
//!
//! After each death the item is in the queue or not, never half; and when everything has been taken, a sweep leaves no block,
//! though the queue lives on.

use crate::queue_steps::{isolated, options};
use procession_channel::queue::{GetError, Policy, Queue};
use procession_shm::{Heap, SharedStr, SharedVec};
use procession_testkit::step::each_instruction_after;

/// Of a class of which a slab has few blocks, since a sweep looks at each.
const LEN: usize = 8000;

pub(crate) type Item = (u64, SharedVec<u8>, SharedStr);

pub(crate) struct World {
    pub(crate) heap: Heap,
    pub(crate) queue: Queue<Item>,
    text: String,
}

impl World {
    /// A queue with items of these numbers.
    pub(crate) fn new(policy: Policy, numbers: &[u64]) -> World {
        let heap = Heap::builder().cap(1 << 20).build().unwrap();
        let queue = Queue::builder().heap(&heap).memory(1 << 18).policy(policy).build().unwrap();
        let world = World { heap, queue, text: "x".repeat(LEN) };
        numbers.iter().for_each(|&n| world.queue.put(world.item(n)).unwrap());
        world
    }

    pub(crate) fn item(&self, n: u64) -> Item {
        let mut bytes = self.heap.vec::<u8>(LEN).unwrap();
        bytes.fill(n as u8);
        (n, bytes.moved(), self.heap.str(&self.text).unwrap())
    }

    fn is_whole(&self, (n, bytes, text): &Item) -> bool {
        bytes.len() == LEN && bytes.iter().all(|byte| *byte == *n as u8) && **text == *self.text
    }

    /// Takes what is there, and checks that it is whole.
    #[track_caller]
    pub(crate) fn drain(&self) -> Vec<u64> {
        let mut numbers = Vec::new();
        loop {
            match self.queue.try_get() {
                Ok(item) => {
                    assert!(self.is_whole(&item), "item {} is torn", item.0);
                    numbers.push(item.0);
                }
                Err(GetError::Empty | GetError::Closed) => return numbers,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// No block is left, and none of them was freed twice: all can be had.
    #[track_caller]
    pub(crate) fn check(&self) {
        self.heap.sweep().unwrap();
        let stats = self.heap.stats();
        assert_eq!((stats.blocks, stats.used, stats.free + stats.slack), (0, 0, stats.capacity));
        let all: Vec<Item> = (0..40).map(|n| self.item(n)).collect();
        assert!(all.iter().all(|item| self.is_whole(item)));
    }
}

#[test]
fn a_producer_of_blocks_dies_at_every_instruction() {
    isolated("queue_heap_steps::a_producer_of_blocks_dies_at_every_instruction", || {
        let (mut inside, mut outside) = (0, 0);
        let report = each_instruction_after(
            &options(1499),
            || World::new(Policy::Report, &[1]),
            // With its first put a process opens what it needs.
            |world| {
                world.queue.put(world.item(2)).unwrap();
                world.item(3)
            },
            |world, item| world.queue.try_put(item).unwrap(),
            |death, world| {
                world.queue.try_put(world.item(4)).unwrap();
                match world.drain().as_slice() {
                    [1, 2, 4] => {
                        assert!(!death.finished);
                        outside += 1;
                    }
                    [1, 2, 3, 4] => inside += 1,
                    other => panic!("{other:?}"),
                }
                world.check();
            },
        );
        println!(
            "put blocks: {report}; the item was in after {inside} of the deaths, and not after {outside}"
        );
        assert!(inside > 0 && outside > 0);
    });
}

fn consumer_dies(name: &str, policy: Policy) {
    isolated(name, || {
        let (mut waits, mut doubtful, mut consumed) = (0, 0, 0);
        let report = each_instruction_after(
            &options(1499),
            || World::new(policy, &[8, 1, 2]),
            |world| assert_eq!(world.queue.get().unwrap().0, 8),
            |world, ()| drop(world.queue.try_get().unwrap()),
            |death, world| {
                let stats = world.queue.stats().unwrap();
                assert_eq!((stats.accepted, stats.in_hand), (3, 0), "{stats:?}");
                match (world.drain().as_slice(), stats.in_doubt + stats.lost) {
                    ([1, 2], 0) => {
                        assert!(!death.finished);
                        waits += 1;
                    }
                    ([2], 1) => doubtful += 1,
                    ([2], 0) => consumed += 1,
                    other => panic!("{other:?}, {stats:?}"),
                }
                world.check();
            },
        );
        println!(
            "get blocks, {policy:?}: {report}; waiting after {waits} deaths, in doubt after {doubtful}, consumed after \
             {consumed}"
        );
        assert!(waits > 0 && consumed > 0 && doubtful > 0);
    });
}

#[test]
fn a_consumer_of_blocks_dies_at_every_instruction_and_is_reported() {
    consumer_dies(
        "queue_heap_steps::a_consumer_of_blocks_dies_at_every_instruction_and_is_reported",
        Policy::Report,
    );
}

#[test]
fn a_consumer_of_blocks_dies_at_every_instruction_and_its_item_comes_back_unopened() {
    consumer_dies(
        "queue_heap_steps::a_consumer_of_blocks_dies_at_every_instruction_and_its_item_comes_back_unopened",
        Policy::Redeliver,
    );
}

#[test]
fn a_consumer_of_blocks_dies_at_every_instruction_and_its_item_is_lost() {
    consumer_dies(
        "queue_heap_steps::a_consumer_of_blocks_dies_at_every_instruction_and_its_item_is_lost",
        Policy::Drop,
    );
}
