//! What a queue promises in one process.

use crate::support::{past, soon};
use procession_channel::queue::{GetError, JoinError, JoinableQueue, Policy, PutError, Queue, SimpleQueue};
use procession_parcel::{Fd, Parcel};
use procession_testkit::{wait::eventually, watchdog};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fs::File, time::Duration};

/// For what must happen soon: an order of magnitude more than it ever takes.
const BOUND: Duration = Duration::from_secs(20);

#[test]
fn items_come_out_in_the_order_in_which_they_were_put() {
    let _watchdog = watchdog!();
    let queue = Queue::unbounded().unwrap();
    for n in 0..1000_u32 {
        queue.put((n, n.to_string())).unwrap();
    }
    assert_eq!(
        (queue.len(), queue.is_empty(), queue.is_full(), queue.capacity()),
        (1000, false, false, None)
    );
    for n in 0..1000 {
        assert_eq!(queue.get().unwrap(), (n, n.to_string()));
    }
    assert!(queue.is_empty() && queue.try_get().unwrap_err().is_empty());
}

#[test]
fn what_many_put_is_taken_once_and_in_each_ones_order() {
    let _watchdog = watchdog!(Duration::from_secs(100));
    const EACH: u32 = 20_000;
    let queue = Queue::bounded(64).unwrap();
    let taken: Vec<Vec<(u32, u32)>> = std::thread::scope(|scope| {
        let producers: Vec<_> = (0..3)
            .map(|producer| {
                let queue = &queue;
                scope.spawn(move || (0..EACH).for_each(|n| queue.put((producer, n)).unwrap()))
            })
            .collect();
        let consumers: Vec<_> =
            (0..3).map(|_| scope.spawn(|| queue.iter().map(Result::unwrap).collect())).collect();
        for producer in producers {
            producer.join().unwrap();
        }
        queue.close().unwrap();
        consumers.into_iter().map(|consumer| consumer.join().unwrap()).collect()
    });
    let mut counts = BTreeMap::new();
    for items in &taken {
        let mut last = BTreeMap::new();
        for &(producer, n) in items {
            assert!(
                last.insert(producer, n).is_none_or(|before| before < n),
                "one consumer sees them in order"
            );
            *counts.entry((producer, n)).or_insert(0) += 1;
        }
    }
    assert_eq!(counts.len() as u32, 3 * EACH);
    assert!(counts.values().all(|&count| count == 1));
}

#[test]
fn a_refused_item_comes_back() {
    let _watchdog = watchdog!();
    let queue = Queue::bounded(1).unwrap();
    queue.put("first".to_owned()).unwrap();
    assert!(queue.is_full());
    let error = queue.try_put("second".to_owned()).unwrap_err();
    assert!(error.is_full() && error.into_item() == "second");
    let error = queue.put_deadline("second".to_owned(), past()).unwrap_err();
    assert_eq!(error.to_string(), "failed to put an item: the queue is full");
    assert_eq!(
        queue.put_timeout("third".to_owned(), Duration::from_millis(5)).unwrap_err().into_item(),
        "third"
    );
    queue.close().unwrap();
    let error = queue.put("fourth".to_owned()).unwrap_err();
    assert!(error.is_closed() && error.into_item() == "fourth");
    assert_eq!(queue.get().unwrap(), "first");
    assert!(queue.get().unwrap_err().is_closed());
}

#[test]
fn an_item_that_holds_a_descriptor_is_refused_and_told_of_pipes() {
    let _watchdog = watchdog!();
    let queue = Queue::unbounded().unwrap();
    let error = queue.put(Fd::from(File::open("/dev/null").unwrap())).unwrap_err();
    assert!(matches!(error, PutError::Encode(..)) && error.to_string().contains("Pipe"), "{error}");
    assert!(queue.is_empty());
}

#[derive(Serialize, Deserialize, PartialEq, Debug)]
struct Choosy(#[serde(serialize_with = "refuse_seven")] u32);

fn refuse_seven<S: serde::Serializer>(n: &u32, serializer: S) -> Result<S::Ok, S::Error> {
    if *n == 7 { Err(serde::ser::Error::custom("not seven")) } else { serializer.serialize_u32(*n) }
}

#[test]
fn what_cannot_be_encoded_is_the_puts_error_and_takes_no_room() {
    let _watchdog = watchdog!();
    let queue = Queue::bounded(1).unwrap();
    let error = queue.put(Choosy(7)).unwrap_err();
    assert!(error.to_string().contains("not seven"), "{error}");
    assert_eq!(error.into_item(), Choosy(7));
    assert_eq!(queue.len(), 0);
    queue.try_put(Choosy(1)).unwrap();
    assert_eq!(queue.get().unwrap(), Choosy(1));
    let error = Queue::unbounded().unwrap().put_many(vec![Choosy(1), Choosy(7), Choosy(2)]).unwrap_err();
    assert_eq!(error.rest, [Choosy(7), Choosy(2)]);
}

#[test]
fn a_close_lets_consumers_drain_and_wakes_who_waits() {
    let _watchdog = watchdog!();
    let queue = Queue::bounded(2).unwrap();
    queue.put(1).unwrap();
    queue.put(2).unwrap();
    std::thread::scope(|scope| {
        let full = scope.spawn(|| queue.put(3));
        let empty: Queue<u32> = Queue::unbounded().unwrap();
        let waits = scope.spawn({
            let empty = empty.clone();
            move || empty.get()
        });
        queue.close().unwrap();
        empty.close().unwrap();
        assert!(full.join().unwrap().unwrap_err().is_closed());
        assert!(waits.join().unwrap().unwrap_err().is_closed());
    });
    assert_eq!(queue.iter().map(Result::unwrap).collect::<Vec<_>>(), [1, 2]);
    queue.close().unwrap();
    assert!(queue.is_closed() && queue.try_get().unwrap_err().is_closed());
}

#[test]
fn a_get_ends_at_its_deadline() {
    let _watchdog = watchdog!();
    let queue: Queue<u32> = Queue::unbounded().unwrap();
    assert!(queue.get_timeout(Duration::from_millis(5)).unwrap_err().is_empty());
    assert!(queue.get_deadline(past()).unwrap_err().is_empty());
    assert!(queue.get_many_deadline(5, soon()).unwrap_err().is_empty());
    assert!(queue.claim_deadline(soon()).unwrap_err().is_empty());
    assert_eq!(GetError::Empty.to_string(), "failed to get an item: the queue is empty");
}

#[test]
fn batches_are_put_and_taken_in_order_and_as_far_as_there_is_room() {
    let _watchdog = watchdog!();
    let queue = Queue::bounded(10).unwrap();
    let error = queue.try_put_many((0..25).collect()).unwrap_err();
    assert!(error.cause.is_full());
    assert_eq!(error.rest, (10..25).collect::<Vec<_>>());
    assert_eq!(queue.get_many(4).unwrap(), [0, 1, 2, 3]);
    assert_eq!(queue.try_get_many(100).unwrap(), [4, 5, 6, 7, 8, 9]);
    let all: Vec<u32> = (0..50_000).collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            queue.put_many(all.clone()).unwrap();
            queue.close().unwrap();
        });
        let mut got = Vec::new();
        loop {
            match queue.get_many(7) {
                Ok(items) => got.extend(items),
                Err(error) => break assert!(error.is_closed()),
            }
        }
        assert_eq!(got, all);
    });
}

#[test]
fn bounds_in_bytes_hold_and_a_larger_item_has_the_queue_for_itself() {
    let _watchdog = watchdog!();
    let queue = Queue::builder().capacity_bytes(1000).build().unwrap();
    queue.put(vec![1_u8; 480]).unwrap();
    queue.put(vec![2_u8; 480]).unwrap();
    assert!(queue.try_put(vec![3_u8; 480]).unwrap_err().is_full());
    assert_eq!(queue.get().unwrap(), [1; 480]);
    assert!(queue.try_put(vec![3_u8; 5000]).unwrap_err().is_full());
    assert_eq!(queue.get().unwrap(), [2; 480]);
    queue.try_put(vec![3_u8; 5000]).unwrap();
    assert!(queue.try_put(Vec::new()).unwrap_err().is_full());
    assert_eq!(queue.get().unwrap(), [3; 5000]);
}

#[test]
fn an_item_as_large_as_the_memory_fits_wherever_it_starts() {
    let _watchdog = watchdog!();
    let queue = Queue::builder().memory(1 << 20).build().unwrap();
    for start in [0, 1000, 70_000, 131_000] {
        queue.put(vec![1_u8; start]).unwrap();
        queue.get().unwrap();
        let large: Vec<u8> = (0..(1_u32 << 20) - 16).map(|at| (at * 7 + at / 251) as u8).collect();
        queue.put(large.clone()).unwrap();
        assert!(queue.try_put(vec![0; 200_000]).unwrap_err().is_full());
        assert!(queue.get().unwrap() == large);
    }
    let error = queue.put(vec![0; (1 << 20) + 1]).unwrap_err();
    assert!(matches!(error, PutError::TooLarge { limit: 1_048_568, .. }), "{error}");
}

#[test]
fn handles_out_of_parcels_stand_for_the_same_queue() {
    let _watchdog = watchdog!();
    let queue = Queue::bounded(3).unwrap();
    queue.put(5).unwrap();
    let again: Queue<u32> = Parcel::pack(&queue).unwrap().unpack().unwrap();
    assert!(again.same(&queue) && again.capacity() == Some(3));
    assert_eq!(again.get().unwrap(), 5);
    let wrong = Parcel::pack(&queue).unwrap().unpack::<JoinableQueue<u32>>().unwrap_err();
    assert!(wrong.to_string().contains("JoinableQueue"), "{wrong}");
}

#[test]
fn a_queue_for_nothing_is_refused() {
    let _watchdog = watchdog!();
    assert!(Queue::<u32>::bounded(0).is_err());
    assert!(Queue::builder().memory(0).build::<u32>().is_err());
}

#[test]
fn a_claim_is_in_hand_until_it_is_done() {
    let _watchdog = watchdog!();
    let queue = Queue::unbounded().unwrap();
    queue.put_many(vec![10, 11, 12]).unwrap();
    let first = queue.claim().unwrap();
    let second = queue.claim().unwrap();
    assert_eq!((*first, first.ticket(), *second, second.ticket()), (10, 0, 11, 1));
    let stats = queue.stats().unwrap();
    assert_eq!((stats.accepted, stats.waiting, stats.in_hand, stats.in_doubt), (3, 1, 2, 0));
    assert_eq!(second.done(), 11);
    drop(first);
    assert_eq!(queue.stats().unwrap().in_hand, 0);
}

#[test]
fn a_claim_that_is_given_back_goes_where_a_dead_ones_would() {
    let _watchdog = watchdog!();
    let make = |policy| {
        let queue = Queue::builder().policy(policy).build().unwrap();
        queue.put_many(vec![1, 2]).unwrap();
        queue
    };
    let queue = make(Policy::Redeliver);
    queue.claim().unwrap().give_back();
    assert_eq!(queue.len(), 2);
    let claim = queue.claim().unwrap();
    assert_eq!((*claim, claim.attempts(), claim.redelivered()), (1, 1, true));
    claim.give_back();
    assert_eq!((queue.get().unwrap(), queue.get().unwrap()), (1, 2));

    let queue = make(Policy::Report);
    queue.claim().unwrap().give_back();
    let doubts = queue.in_doubt().unwrap();
    assert_eq!((doubts.len(), doubts[0].ticket, doubts[0].pid), (1, 0, std::process::id()));
    assert_eq!(queue.settle().unwrap(), doubts);
    assert_eq!((queue.in_doubt().unwrap().len(), queue.stats().unwrap().lost), (0, 1));

    let queue = make(Policy::Drop);
    let claim = queue.claim().unwrap();
    let panics = std::thread::spawn(move || {
        let _claim = claim;
        panic!("on purpose");
    });
    assert!(panics.join().is_err());
    let stats = queue.stats().unwrap();
    assert_eq!((stats.lost, stats.waiting, stats.in_hand), (1, 1, 0));
}

#[test]
fn a_redelivered_body_stays_while_others_come_and_go() {
    let _watchdog = watchdog!();
    let queue = Queue::builder().policy(Policy::Redeliver).memory(1 << 20).build().unwrap();
    queue.put(vec![9_u8; 1000]).unwrap();
    let claim = queue.claim().unwrap();
    for n in 0..200_u32 {
        queue.put(vec![n as u8; 4000]).unwrap();
        assert_eq!(queue.get().unwrap()[0], n as u8);
    }
    // All memory lies behind what is in hand.
    assert!(queue.try_put(vec![0; 1 << 19]).unwrap_err().is_full());
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| queue.put_timeout(vec![0; 1 << 19], BOUND));
        claim.give_back();
        assert_eq!(queue.get().unwrap(), vec![9_u8; 1000]);
        waits.join().unwrap().unwrap();
    });
}

#[test]
fn the_end_of_a_queue_that_redelivers_waits_for_what_others_have_in_hand() {
    let _watchdog = watchdog!();
    let queue = Queue::builder().policy(Policy::Redeliver).build().unwrap();
    queue.put(1).unwrap();
    queue.close().unwrap();
    let claim = queue.claim().unwrap();
    // This process has it itself: it will not wait for itself.
    assert!(queue.get().unwrap_err().is_closed());
    claim.give_back();
    assert_eq!(queue.get().unwrap(), 1);
    assert!(queue.get().unwrap_err().is_closed());
}

#[test]
fn a_joinable_queue_tells_when_all_is_done() {
    let _watchdog = watchdog!();
    let queue = JoinableQueue::bounded(10).unwrap();
    queue.join().unwrap();
    for n in 0..3 {
        queue.put(n).unwrap();
    }
    assert_eq!(queue.join_timeout(Duration::from_millis(5)), Err(JoinError::TimedOut));
    assert_eq!(queue.get().unwrap(), 0);
    queue.task_done().unwrap();
    assert!(queue.task_done().is_err());
    let again: JoinableQueue<u32> = Parcel::pack(&queue).unwrap().unpack().unwrap();
    assert_eq!(queue.get().unwrap(), 1);
    // Another handle of the same process.
    again.task_done().unwrap();
    std::thread::scope(|scope| {
        let joins = scope.spawn(|| queue.join());
        queue.claim().unwrap().done();
        joins.join().unwrap().unwrap();
    });
    assert!(queue.task_done().unwrap_err().to_string().contains("task_done() was called more often"));
}

#[test]
fn a_simple_queue_puts_and_gets() {
    let _watchdog = watchdog!();
    let queue = SimpleQueue::new().unwrap();
    assert!(queue.is_empty());
    queue.put("item".to_owned()).unwrap();
    assert!(!queue.is_empty());
    assert_eq!(queue.get().unwrap(), "item");
    queue.close().unwrap();
    assert!(queue.put("more".to_owned()).is_err() && queue.get().unwrap_err().is_closed());
}

#[test]
fn a_wake_for_each_item_reaches_as_many_sleepers() {
    let _watchdog = watchdog!();
    let queue = Queue::unbounded().unwrap();
    std::thread::scope(|scope| {
        let sleepers: Vec<_> = (0..8).map(|_| scope.spawn(|| queue.get().unwrap())).collect();
        for n in 0..8_u32 {
            queue.put(n).unwrap();
        }
        let mut got: Vec<_> = sleepers.into_iter().map(|sleeper| sleeper.join().unwrap()).collect();
        got.sort_unstable();
        assert_eq!(got, (0..8).collect::<Vec<_>>());
    });
    eventually("it is empty", BOUND, || queue.is_empty());
}
