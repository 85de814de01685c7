//! Death at every instruction of a recovery.
//!
//! A producer or a consumer dies in one of some places of its operation; a second process that recovers from that dies at every
//! instruction; the third one finds everything whole.

use crate::{
    queue_heap_steps::World,
    queue_steps::{self, isolated, options},
    queue_world::{Item, all_memory_is_there, drain, item},
};
use procession_channel::queue::{Policy, Queue};
use procession_testkit::step::{Death, Options, Recorded, each_instruction_after};

/// The two halves of an operation: what is not stepped, and what is.
struct Operation<A, B>(A, B);

/// Kills one that recovers, after each number of instructions. Before that the first one is killed: on its way, right before its
/// commit, right after it, and between there and its end.
fn each_recovery<W, P, Q>(
    what: &str,
    thin: u64,
    world: impl Fn() -> W,
    first: Operation<impl Fn(&mut W) -> P, impl Fn(&mut W, P)>,
    is_committed: impl Fn(&mut W) -> bool,
    second: Operation<impl Fn(&mut W) -> Q, impl Fn(&mut W, Q)>,
    mut check: impl FnMut(Death, &mut W),
) {
    let recorded = Recorded::new(&world, &first.0, &first.1);
    let dies = |after: u64| recorded.kill_after(after, &world, &first.0, &first.1);
    let all = recorded.instructions();
    // The number of instructions with which it is committed.
    let (mut before, mut commit) = (0, all);
    // Unoptimised code has many times as many: then it is near enough.
    let near = if cfg!(debug_assertions) { all / 16 } else { 1 };
    while commit - before > near {
        let middle = before.midpoint(commit);
        if is_committed(&mut dies(middle)) { commit = middle } else { before = middle }
    }
    let options = Options { limit: Options::default().limit, ..options(thin) };
    let places = [before, commit, commit - commit / 10, commit.midpoint(all)];
    for &place in if cfg!(debug_assertions) { &places[..2] } else { &places } {
        let setup = || dies(place);
        let report = each_instruction_after(&options, setup, &second.0, &second.1, &mut check);
        println!("{what}, dead after {place} of {all}: {report}");
    }
}

/// To fill the memory twice takes twenty times as long as all the rest: after some of the deaths.
fn is_looked_at_more(death: Death) -> bool {
    death.finished || death.instructions.is_multiple_of(7)
}

#[test]
fn who_recovers_from_a_producer_dies_at_every_instruction() {
    isolated("queue_recovery_steps::who_recovers_from_a_producer_dies_at_every_instruction", || {
        let (mut inside, mut outside) = (0, 0);
        each_recovery(
            "put after a producer's death",
            7919,
            || queue_steps::world(Policy::Report, 20_000),
            Operation(|_: &mut _| item(3, 21), |queue: &mut Queue<Item>, item| queue.try_put(item).unwrap()),
            |queue| queue.stats().unwrap().accepted == 4,
            Operation(|_: &mut _| item(4, 21), |queue: &mut Queue<Item>, item| queue.try_put(item).unwrap()),
            |death, queue| {
                queue.try_put(item(5, 16)).unwrap();
                let numbers = drain(queue);
                assert!(numbers.starts_with(&[1, 2]) && numbers.ends_with(&[5]), "{numbers:?}");
                let between = &numbers[2..numbers.len() - 1];
                assert!(between.is_sorted() && between.iter().all(|n| [3, 4].contains(n)), "{numbers:?}");
                let stats = queue.stats().unwrap();
                assert_eq!((stats.accepted, stats.in_doubt), (1 + numbers.len() as u64, 0));
                inside += u32::from(between.contains(&3));
                outside += u32::from(!between.contains(&3));
                if is_looked_at_more(death) {
                    all_memory_is_there(queue);
                }
            },
        );
        assert!(inside > 0 && outside > 0);
    });
}

fn consumer(name: &str, policy: Policy) {
    isolated(name, || {
        let (mut waits, mut doubtful) = (0, 0);
        each_recovery(
            &format!("settle after a consumer's death, {policy:?}"),
            7919,
            || {
                let queue = queue_steps::world(policy, 20_000);
                queue.put(item(8, 16)).unwrap();
                assert_eq!(queue.get().unwrap().0, 1);
                queue
            },
            Operation(
                |queue: &mut Queue<Item>| assert_eq!(queue.get().unwrap().0, 2),
                |queue: &mut Queue<Item>, ()| drop(queue.try_get().unwrap()),
            ),
            // It is not in the ring any more.
            |queue| {
                let stats = queue.stats().unwrap();
                stats.waiting == 0 || queue.try_claim().unwrap().redelivered()
            },
            Operation(
                |queue: &mut Queue<Item>| {
                    let _ = queue.len();
                },
                |queue: &mut Queue<Item>, ()| _ = queue.stats().unwrap(),
            ),
            |death, queue| {
                let stats = queue.stats().unwrap();
                assert_eq!((stats.accepted, stats.in_hand), (4, 0), "{stats:?}");
                match (drain(queue).as_slice(), stats.in_doubt + stats.lost) {
                    ([8], 0) => waits += 1,
                    ([], 1) => doubtful += 1,
                    ([], 0) => {}
                    other => panic!("{other:?}, {stats:?}"),
                }
                if is_looked_at_more(death) {
                    all_memory_is_there(queue);
                }
            },
        );
        assert!(waits > 0 && (doubtful > 0) == (policy != Policy::Redeliver));
    });
}

#[test]
fn who_reports_for_a_consumer_dies_at_every_instruction() {
    consumer("queue_recovery_steps::who_reports_for_a_consumer_dies_at_every_instruction", Policy::Report);
}

#[test]
fn who_brings_an_item_back_dies_at_every_instruction() {
    consumer("queue_recovery_steps::who_brings_an_item_back_dies_at_every_instruction", Policy::Redeliver);
}

#[test]
fn who_gives_an_item_up_dies_at_every_instruction() {
    consumer("queue_recovery_steps::who_gives_an_item_up_dies_at_every_instruction", Policy::Drop);
}

#[test]
fn who_recovers_from_a_producer_of_blocks_dies_at_every_instruction() {
    isolated(
        "queue_recovery_steps::who_recovers_from_a_producer_of_blocks_dies_at_every_instruction",
        || {
            let (mut inside, mut outside) = (0, 0);
            each_recovery(
                "put after the death of a producer of blocks",
                39_989,
                || World::new(Policy::Report, &[1]),
                Operation(
                    |world: &mut World| world.item(3),
                    |world: &mut World, item| world.queue.try_put(item).unwrap(),
                ),
                |world| world.queue.stats().unwrap().accepted == 2,
                Operation(
                    |world: &mut World| world.item(4),
                    |world: &mut World, item| world.queue.try_put(item).unwrap(),
                ),
                |_, world| {
                    world.queue.try_put(world.item(5)).unwrap();
                    let numbers = world.drain();
                    assert!(numbers.starts_with(&[1]) && numbers.ends_with(&[5]), "{numbers:?}");
                    inside += u32::from(numbers.contains(&3));
                    outside += u32::from(!numbers.contains(&3));
                    world.check();
                },
            );
            assert!(inside > 0 && outside > 0);
        },
    );
}

#[test]
fn who_settles_for_a_consumer_of_blocks_dies_at_every_instruction() {
    isolated("queue_recovery_steps::who_settles_for_a_consumer_of_blocks_dies_at_every_instruction", || {
        let (mut waits, mut doubtful) = (0, 0);
        each_recovery(
            "settle after the death of a consumer of blocks",
            39_989,
            || World::new(Policy::Redeliver, &[8, 1]),
            Operation(
                |world: &mut World| assert_eq!(world.queue.get().unwrap().0, 8),
                |world: &mut World, ()| drop(world.queue.try_get().unwrap()),
            ),
            // Its record does not let it come again.
            |world| world.queue.stats().unwrap().waiting == 0,
            Operation(
                // So that it is a member of the heap.
                |world: &mut World| drop(world.item(9)),
                |world: &mut World, ()| _ = world.queue.stats().unwrap(),
            ),
            |_, world| {
                let stats = world.queue.stats().unwrap();
                assert_eq!((stats.accepted, stats.in_hand), (2, 0), "{stats:?}");
                match (world.drain().as_slice(), stats.in_doubt) {
                    ([1], 0) => waits += 1,
                    ([], 1) => doubtful += 1,
                    ([], 0) => {}
                    other => panic!("{other:?}, {stats:?}"),
                }
                world.check();
            },
        );
        assert!(waits > 0 && doubtful > 0);
    });
}
