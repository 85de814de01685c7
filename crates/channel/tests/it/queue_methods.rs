//! CPython's tests of queues, with threads and with processes of each start method.

use crate::ways::{Way, each_way};
use procession_channel::queue::{JoinError, JoinableQueue, Policy, PutError, Queue, SimpleQueue};
use procession_process::{Process, StartMethod};
use procession_testkit::{wait::eventually, watchdog};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

const BOUND: Duration = Duration::from_secs(20);
const TIMEOUT: Duration = Duration::from_millis(30);

each_way!(
    every_form_of_put_is_refused_when_it_is_full,
    every_form_of_get_finds_it_empty,
    items_that_were_put_before_a_start_come_once,
    its_length_is_known,
    a_join_ends_when_every_task_is_done,
    a_consumer_that_ends_without_task_done_is_reported,
    many_producers_and_consumers_lose_nothing,
    a_close_reaches_everybody,
    a_simple_queue_is_empty_for_both,
);

fn refused<R: std::fmt::Debug>(call: impl FnOnce() -> R, at_least: Duration) -> R {
    let start = Instant::now();
    let result = call();
    assert!(start.elapsed() >= at_least, "it gave {result:?} too soon");
    result
}

fn every_form_of_put_is_refused_when_it_is_full(way: Way) {
    let queue = Queue::bounded(6).unwrap();
    queue.put(1).unwrap();
    queue.put_timeout(2, BOUND).unwrap();
    queue.try_put(3).unwrap();
    queue.put_many(vec![4, 5]).unwrap();
    queue.put_deadline(6, procession_sys::Deadline::after(BOUND)).unwrap();
    assert!(queue.is_full() && queue.len() == 6);
    assert!(refused(|| queue.try_put(7), Duration::ZERO).unwrap_err().is_full());
    assert!(refused(|| queue.put_timeout(7, TIMEOUT), TIMEOUT).unwrap_err().is_full());
    assert!(refused(|| queue.put_timeout(7, Duration::ZERO), Duration::ZERO).unwrap_err().is_full());
    let drains = |queue: Queue<i32>| (0..6).map(|_| queue.get().unwrap()).collect::<Vec<_>>();
    assert_eq!(way.start(drains, queue.clone()).join(), [1, 2, 3, 4, 5, 6]);
    assert!(queue.is_empty() && !queue.is_full());
}

fn every_form_of_get_finds_it_empty(way: Way) {
    let queue: Queue<u32> = Queue::unbounded().unwrap();
    let puts = |queue: Queue<u32>| (2..6).for_each(|n| queue.put(n).unwrap());
    let other = way.start(puts, queue.clone());
    assert_eq!(queue.get().unwrap(), 2);
    assert_eq!(queue.get_timeout(BOUND).unwrap(), 3);
    other.join();
    assert_eq!(queue.try_get().unwrap(), 4);
    assert_eq!(queue.get_many(10).unwrap(), [5]);
    assert!(queue.is_empty());
    assert!(refused(|| queue.try_get(), Duration::ZERO).unwrap_err().is_empty());
    assert!(refused(|| queue.get_timeout(TIMEOUT), TIMEOUT).unwrap_err().is_empty());
    assert!(refused(|| queue.get_timeout(Duration::ZERO), Duration::ZERO).unwrap_err().is_empty());
}

fn items_that_were_put_before_a_start_come_once(way: Way) {
    let queue = Queue::unbounded().unwrap();
    (0..10).for_each(|n| queue.put(n).unwrap());
    let puts = |queue: Queue<u32>| (10..20).for_each(|n| queue.put(n).unwrap());
    way.start(puts, queue.clone()).join();
    assert_eq!((0..20).map(|_| queue.get().unwrap()).collect::<Vec<_>>(), (0..20).collect::<Vec<_>>());
    assert!(queue.try_get().unwrap_err().is_empty());
}

fn its_length_is_known(way: Way) {
    let queue = Queue::unbounded().unwrap();
    assert_eq!(queue.len(), 0);
    queue.put(1).unwrap();
    assert_eq!(queue.len(), 1);
    queue.put(5).unwrap();
    let looks = |queue: Queue<u32>| {
        let before = queue.len();
        queue.get().unwrap();
        (before, queue.len())
    };
    assert_eq!(way.start(looks, queue.clone()).join(), (2, 1));
    queue.try_get().unwrap();
    assert_eq!(queue.len(), 0);
}

fn a_join_ends_when_every_task_is_done(way: Way) {
    let queue = JoinableQueue::unbounded().unwrap();
    let works = |queue: JoinableQueue<u32>| -> u32 {
        let mut done = 0;
        while let Ok(_task) = queue.get() {
            queue.task_done().unwrap();
            done += 1;
        }
        done
    };
    let workers: Vec<_> = (0..4).map(|_| way.start(works, queue.clone())).collect();
    (0..10).for_each(|n| queue.put(n).unwrap());
    queue.join().unwrap();
    assert!(queue.is_empty());
    queue.close().unwrap();
    assert_eq!(workers.into_iter().map(crate::ways::Party::join).sum::<u32>(), 10);
}

fn a_consumer_that_ends_without_task_done_is_reported(way: Way) {
    for policy in [Policy::Report, Policy::Redeliver, Policy::Drop] {
        let queue = Queue::builder().policy(policy).build_joinable().unwrap();
        queue.put(7).unwrap();
        queue.put(8).unwrap();
        let takes = |queue: JoinableQueue<u32>| queue.get().unwrap();
        assert_eq!(way.start(takes, queue.clone()).join(), 7);
        if way == Way::Threads {
            // The process lives: it may say so still.
            queue.task_done().unwrap();
        }
        // What comes back does so when somebody finds out, which may be after the other one was taken.
        let rest = if policy == Policy::Redeliver && way != Way::Threads { vec![7, 8] } else { vec![8] };
        let mut got: Vec<u32> = rest.iter().map(|_| queue.get_timeout(BOUND).unwrap()).collect();
        got.sort_unstable();
        assert_eq!(got, rest);
        rest.iter().for_each(|_| queue.task_done().unwrap());
        match queue.join_timeout(BOUND) {
            Err(JoinError::InDoubt(1)) => {
                assert!(policy == Policy::Report && way != Way::Threads);
                assert_eq!(queue.settle().unwrap()[0].ticket, 0);
                queue.join_timeout(BOUND).unwrap();
            }
            joined => {
                joined.unwrap();
                assert!(policy != Policy::Report || way == Way::Threads);
            }
        }
    }
}

fn many_producers_and_consumers_lose_nothing(way: Way) {
    const EACH: u64 = 3000;
    let queue = Queue::bounded(50).unwrap();
    let puts = |(queue, from): (Queue<u64>, u64)| (from..from + EACH).for_each(|n| queue.put(n).unwrap());
    let gets = |queue: Queue<u64>| queue.iter().map(Result::unwrap).collect::<Vec<u64>>();
    let consumers: Vec<_> = (0..2).map(|_| way.start(gets, queue.clone())).collect();
    let producers: Vec<_> = (0..2).map(|n| way.start(puts, (queue.clone(), n * EACH))).collect();
    producers.into_iter().for_each(crate::ways::Party::join);
    queue.close().unwrap();
    let mut all: Vec<u64> = consumers.into_iter().flat_map(crate::ways::Party::join).collect();
    all.sort_unstable();
    assert_eq!(all, (0..2 * EACH).collect::<Vec<_>>());
    let stats = queue.stats().unwrap();
    assert_eq!((stats.accepted, stats.waiting, stats.in_hand, stats.in_doubt), (2 * EACH, 0, 0, 0));
}

fn a_close_reaches_everybody(way: Way) {
    let queue: Queue<u32> = Queue::bounded(1).unwrap();
    let waits = |queue: Queue<u32>| queue.get().is_err_and(|error| error.is_closed());
    let other = way.start(waits, queue.clone());
    queue.close().unwrap();
    assert!(other.join());
    assert!(queue.put(1).unwrap_err().to_string().contains("is closed"));
    assert!(queue.get().unwrap_err().to_string().contains("is closed"));
    let queue: JoinableQueue<u32> = JoinableQueue::unbounded().unwrap();
    queue.close().unwrap();
    assert!(queue.try_put(1).unwrap_err().is_closed() && queue.try_get().unwrap_err().is_closed());
    assert!(queue.is_empty());
    queue.join().unwrap();
}

fn a_simple_queue_is_empty_for_both(way: Way) {
    let queue = SimpleQueue::new().unwrap();
    assert!(queue.is_empty());
    let child = |queue: SimpleQueue<bool>| {
        let empty = queue.is_empty();
        queue.put(empty).unwrap();
        queue.is_empty()
    };
    assert!(!way.start(child, queue.clone()).join());
    assert!(!queue.is_empty());
    assert!(queue.get().unwrap());
    assert!(queue.is_empty());
    queue.close().unwrap();
    queue.close().unwrap();
    assert!(queue.is_empty() && queue.get().is_err());
}

#[derive(Serialize, Deserialize, Debug)]
struct Unserialisable(#[serde(serialize_with = "refuse")] u32);

fn refuse<S: serde::Serializer>(_: &u32, _: S) -> Result<S::Ok, S::Error> {
    Err(serde::ser::Error::custom("it will not be serialised"))
}

#[test]
fn an_item_that_fails_to_encode_is_the_callers_and_the_next_one_arrives() {
    let _watchdog = watchdog!();
    let queue = Queue::bounded(1).unwrap();
    let bad: Result<u32, Unserialisable> = Err(Unserialisable(1));
    match queue.put_timeout(bad, BOUND) {
        Err(PutError::Encode(Err(item), error)) => {
            assert_eq!(item.0, 1);
            assert!(error.to_string().contains("it will not be serialised"));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(queue.len(), 0);
    queue.try_put(Ok(5)).unwrap();
    assert_eq!(queue.get_timeout(BOUND).unwrap().unwrap(), 5);
}

#[test]
fn a_queue_goes_through_start_methods_and_generations() {
    let _watchdog = watchdog!(Duration::from_secs(100));
    let queue = Queue::unbounded().unwrap();
    let child = |queue: Queue<String>| -> () {
        let grandchild = |queue: Queue<String>| queue.put("grandchild".to_owned()).unwrap();
        let inner = Process::builder().start_method(StartMethod::Spawn).spawn(grandchild, queue.clone());
        inner.unwrap().join().unwrap();
        queue.put("child".to_owned()).unwrap();
    };
    let process = Process::builder().start_method(StartMethod::ForkServer).spawn(child, queue.clone());
    assert_eq!(queue.get().unwrap(), "grandchild");
    assert_eq!(queue.get().unwrap(), "child");
    process.unwrap().join().unwrap();
}

#[test]
fn a_producer_that_ends_at_once_leaves_all_of_its_items() {
    let _watchdog = watchdog!(Duration::from_secs(100));
    let queue = Queue::unbounded().unwrap();
    let puts = |queue: Queue<Vec<u8>>| -> () {
        (0..100_u8).for_each(|n| queue.put(vec![n; 5000]).unwrap());
        // Nothing is flushed at an exit, since nothing has to be.
        std::process::abort();
    };
    let process = Process::builder().start_method(StartMethod::Spawn).spawn(puts, queue.clone()).unwrap();
    assert!(process.join().is_err());
    (0..100_u8).for_each(|n| assert_eq!(queue.get().unwrap(), vec![n; 5000]));
}

#[test]
fn a_claim_of_a_killed_process_comes_back_marked() {
    let _watchdog = watchdog!(Duration::from_secs(100));
    let queue = Queue::builder().policy(Policy::Redeliver).build().unwrap();
    queue.put(1).unwrap();
    let told = Queue::unbounded().unwrap();
    let claims = |(queue, told): (Queue<u32>, Queue<u64>)| -> () {
        let claim = queue.claim().unwrap();
        told.put(claim.ticket()).unwrap();
        loop {
            std::thread::park();
        }
    };
    for attempts in 0..3 {
        let process = Process::spawn(claims, (queue.clone(), told.clone())).unwrap();
        assert_eq!(told.get().unwrap(), 0);
        assert!(queue.try_get().unwrap_err().is_empty(), "after {attempts} attempts");
        process.kill().unwrap();
        assert!(process.join().is_err());
    }
    let claim = queue.claim_deadline(procession_sys::Deadline::after(BOUND)).unwrap();
    assert_eq!((*claim, claim.attempts()), (1, 3));
    assert_eq!(claim.done(), 1);
    eventually("everything is done", BOUND, || queue.stats().unwrap().in_hand == 0);
}
