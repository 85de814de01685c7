//! Deaths at each step of a queue's protocol: built with `--cfg crash_points`.

use crate::{
    queue_world::{Item, MEMORY, all_memory_is_there, drain, item},
    support::{give, take},
};
use procession_channel::queue::{Policy, Queue, Trouble};
use procession_sys::{Deadline, crash};
use procession_testkit::{
    role,
    wait::{asleep, eventually},
    watchdog,
};
use rustix::thread::gettid;
use std::{
    os::unix::{net::UnixStream, process::ExitStatusExt},
    sync::mpsc,
    time::Duration,
};

const BOUND: Duration = Duration::from_secs(20);

fn make(policy: Policy) -> Queue<Item> {
    Queue::builder().memory(MEMORY).policy(policy).build().unwrap()
}

#[test]
fn role_actor() {
    let Some(mut role) = role::enter(role_actor) else { return };
    let (point, action, queue): (String, String, Queue<Item>) = take(role.fd());
    // SAFETY: this is the only thread of the role that reads or writes the environment; the other one is the
    // harness's, which waits for this one.
    unsafe { std::env::set_var(crash::VARIABLE, &point) };
    match action.as_str() {
        "put" => queue.put(item(77, 40)).unwrap(),
        "get" => drop(queue.get().unwrap()),
        "claim" => std::mem::forget(queue.claim().unwrap()),
        "close" => queue.close().unwrap(),
        "stats" => drop(queue.stats().unwrap()),
        "settle" => drop(queue.settle().unwrap()),
        "sleep" => drop(queue.get().unwrap()),
        // Enough chunks to use some again, and to give some back.
        "churn" => loop {
            (0..40).for_each(|n| queue.put(item(n, 20_000)).unwrap());
            (0..40).for_each(|_| drop(queue.get().unwrap()));
        },
        other => panic!("{other}"),
    }
    panic!("{action} did not come to {point}");
}

/// Lets a process die at a point of an action.
#[track_caller]
fn dies(queue: &Queue<Item>, action: &str, point: &str) {
    let mut process = start(queue, action, point);
    died(&mut process, action, point);
}

fn start(queue: &Queue<Item>, action: &str, point: &str) -> role::RoleProcess {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let process = role::start(role_actor, &[&theirs]);
    give(&ours, &(point, action, queue));
    process
}

#[track_caller]
fn died(process: &mut role::RoleProcess, action: &str, point: &str) {
    let status = process.wait();
    assert_eq!(status.signal(), Some(9), "{action} at {point}: {status:?}\n{}", process.output());
}

/// How many of the accepted items are nowhere: they were consumed.
fn consumed(queue: &Queue<Item>) -> u64 {
    let stats = queue.stats().unwrap();
    assert_eq!(stats.in_hand, 0, "the dead have nothing in hand: {stats:?}");
    stats.accepted - stats.waiting - stats.in_doubt - stats.lost
}

#[test]
fn a_producer_that_dies_has_put_its_item_or_not() {
    let _watchdog = watchdog!(Duration::from_secs(120));
    let points = [
        ("queue.put.copied", false),
        ("queue.put.staged", false),
        ("queue.put.committed", true),
        ("queue.put.unlocked", true),
        ("queue.chunk.mapped", false),
    ];
    for (point, accepted) in points {
        let queue = make(Policy::Report);
        if point != "queue.chunk.mapped" {
            queue.put(item(1, 40)).unwrap();
        }
        dies(&queue, "put", point);
        queue.put(item(2, 40)).unwrap();
        let mut expected = vec![1; usize::from(point != "queue.chunk.mapped")];
        expected.extend(accepted.then_some(77));
        expected.push(2);
        assert_eq!(drain(&queue), expected, "at {point}");
        all_memory_is_there(&queue);
    }
}

#[test]
fn a_consumer_that_dies_has_left_its_item_or_is_recorded_with_it() {
    let _watchdog = watchdog!(Duration::from_secs(200));
    let points = [
        ("queue.get.copied", 0),
        ("queue.get.recorded", 0),
        ("queue.get.committed", 1),
        ("queue.get.freed", 1),
        ("queue.get.unlocked", 1),
        ("queue.acknowledged", 2),
    ];
    for policy in [Policy::Report, Policy::Drop, Policy::Redeliver] {
        for (point, state) in points {
            let queue = make(policy);
            (1..4).for_each(|n| queue.put(item(n, 40)).unwrap());
            dies(&queue, "get", point);
            let doubts = queue.in_doubt().unwrap();
            let stats = queue.stats().unwrap();
            let numbers = drain(&queue);
            let context = format!("{policy:?} at {point}: {stats:?}");
            assert_eq!(stats.accepted, 3, "{context}");
            match (state, policy) {
                (0, _) | (1, Policy::Redeliver) => {
                    assert_eq!((numbers, doubts.len(), stats.lost), (vec![1, 2, 3], 0, 0), "{context}");
                }
                (1, Policy::Report) => {
                    assert_eq!((numbers, stats.in_doubt, doubts.len()), (vec![2, 3], 1, 1), "{context}");
                    assert_eq!((doubts[0].ticket, doubts[0].count), (0, 1), "{context}");
                }
                (1, Policy::Drop) => {
                    assert_eq!((numbers, stats.lost, stats.in_doubt), (vec![2, 3], 1, 0), "{context}");
                }
                _ => assert_eq!((numbers, stats.lost, stats.in_doubt), (vec![2, 3], 0, 0), "{context}"),
            }
            all_memory_is_there(&queue);
        }
    }
}

#[test]
fn chunks_are_neither_lost_nor_used_twice() {
    let _watchdog = watchdog!(Duration::from_secs(120));
    let points = [
        "queue.chunk.mapped:7",
        "queue.chunk.taken",
        "queue.chunk.taken:5",
        "queue.chunk.freed",
        "queue.chunk.freed:5",
        "queue.chunk.discarded",
        "queue.chunk.discarded:4",
    ];
    for point in points {
        let queue = make(Policy::Report);
        dies(&queue, "churn", point);
        drain(&queue);
        all_memory_is_there(&queue);
        assert!(queue.stats().unwrap().in_doubt <= 1, "at {point}");
    }
}

#[test]
fn who_repairs_may_die_too() {
    let _watchdog = watchdog!(Duration::from_secs(120));
    for point in ["queue.repair.done", "queue.repair.declared", "queue.repair.chunks"] {
        let queue = make(Policy::Report);
        dies(&queue, "churn", "queue.chunk.freed:3");
        // It freed the chunk as a producer, or as a consumer that tidied up: under the producers' lock in both cases.
        dies(&queue, "put", point);
        drain(&queue);
        all_memory_is_there(&queue);
    }
    for point in ["queue.repair.done", "queue.repair.declared", "queue.repair.records"] {
        for (first, left) in [("queue.get.recorded", vec![1, 2]), ("queue.get.committed", vec![2])] {
            let queue = make(Policy::Report);
            (1..3).for_each(|n| queue.put(item(n, 40)).unwrap());
            dies(&queue, "get", first);
            dies(&queue, "get", point);
            let doubts = queue.in_doubt().unwrap().len();
            assert_eq!((drain(&queue), doubts), (left.clone(), 2 - left.len()), "{first}, then {point}");
            assert_eq!(consumed(&queue), left.len() as u64);
            all_memory_is_there(&queue);
        }
    }
}

#[test]
fn a_redelivered_item_is_taken_by_one() {
    let _watchdog = watchdog!(Duration::from_secs(120));
    for (point, attempts) in [("queue.again.copied", 1), ("queue.again.taken", 2)] {
        let queue = make(Policy::Redeliver);
        (1..3).for_each(|n| queue.put(item(n, 40)).unwrap());
        dies(&queue, "get", "queue.get.unlocked");
        // It comes back here, so that the next one finds it.
        assert_eq!(queue.stats().unwrap().waiting, 2);
        dies(&queue, "get", point);
        assert_eq!(queue.stats().unwrap().waiting, 2);
        let claim = queue.claim().unwrap();
        assert_eq!((claim.0, claim.attempts()), (1, attempts), "at {point}");
        drop(claim);
        assert_eq!(drain(&queue), [2]);
        assert_eq!(consumed(&queue), 2);
        all_memory_is_there(&queue);
    }
}

#[test]
fn who_settles_may_die_too() {
    let _watchdog = watchdog!(Duration::from_secs(200));
    let points = [
        (Policy::Report, "queue.settle.found"),
        (Policy::Report, "queue.settle.settled"),
        (Policy::Redeliver, "queue.settle.found"),
        (Policy::Redeliver, "queue.settle.flagged"),
        (Policy::Redeliver, "queue.settle.settled"),
        (Policy::Drop, "queue.lose.noted"),
        (Policy::Drop, "queue.lose.counted"),
        (Policy::Drop, "queue.lose.freed"),
    ];
    for (policy, point) in points {
        let queue = make(policy);
        (1..3).for_each(|n| queue.put(item(n, 40)).unwrap());
        dies(&queue, "get", "queue.get.unlocked");
        dies(&queue, "stats", point);
        let stats = queue.stats().unwrap();
        let context = format!("{policy:?} at {point}: {stats:?}");
        let expected = match policy {
            Policy::Report => (1, 1, 0),
            Policy::Drop => (1, 0, 1),
            Policy::Redeliver => (2, 0, 0),
        };
        assert_eq!((stats.waiting, stats.in_doubt, stats.lost), expected, "{context}");
        assert_eq!(drain(&queue).len() as u64, stats.waiting, "{context}");
    }
    // What is in doubt is given up once.
    for point in ["queue.lose.noted", "queue.lose.counted", "queue.lose.freed"] {
        let queue = make(Policy::Report);
        queue.put(item(1, 40)).unwrap();
        dies(&queue, "claim", "queue.get.unlocked");
        assert_eq!(queue.in_doubt().unwrap().len(), 1);
        dies(&queue, "settle", point);
        // Whoever died in the middle of it is finished for by the next to have the lock.
        let stats = queue.stats().unwrap();
        assert_eq!((stats.in_doubt, stats.lost), (0, 1), "at {point}");
    }
}

#[test]
fn a_close_happens_or_does_not() {
    let _watchdog = watchdog!();
    for (point, closed) in [("queue.close.locked", false), ("queue.close.closed", true)] {
        let queue = make(Policy::Report);
        dies(&queue, "close", point);
        assert_eq!(queue.is_closed(), closed, "at {point}");
        assert_eq!(queue.put(item(1, 40)).is_err(), closed, "at {point}");
    }
}

#[test]
fn a_wake_that_dies_with_its_process_is_made_up_for_after_a_slice() {
    let _watchdog = watchdog!(Duration::from_secs(120));
    for point in ["queue.gate.counted", "queue.gate.woken"] {
        let queue = make(Policy::Report);
        let (tell, told) = mpsc::channel();
        std::thread::scope(|scope| {
            let sleeps = scope.spawn(|| {
                tell.send(gettid().as_raw_nonzero().get().cast_unsigned()).unwrap();
                queue.get_timeout(BOUND).unwrap()
            });
            asleep(told.recv().unwrap(), BOUND);
            dies(&queue, "put", point);
            assert_eq!(sleeps.join().unwrap().0, 77, "at {point}");
        });
    }
    for point in ["queue.gate.flagged", "queue.gate.slept"] {
        let queue = make(Policy::Report);
        let mut process = start(&queue, "sleep", point);
        // At the end of a slice, if not before: who is alive may take the item itself.
        died(&mut process, "sleep", point);
        std::thread::scope(|scope| {
            let sleeps = scope.spawn(|| queue.get_timeout(BOUND).unwrap());
            queue.put(item(5, 40)).unwrap();
            assert_eq!(sleeps.join().unwrap().0, 5, "at {point}");
        });
    }
}

#[test]
fn no_deadline_is_missed_while_a_lock_s_holder_is_stopped() {
    let _watchdog = watchdog!(Duration::from_secs(120));
    for (action, point) in [("put", "queue.put.copied"), ("get", "queue.get.copied")] {
        let queue = make(Policy::Report);
        queue.put(item(1, 40)).unwrap();
        let process = start(&queue, action, &format!("stop {point}"));
        let soon = || Deadline::after(Duration::from_millis(5));
        let stopped = || match action {
            "put" => queue.close_deadline(soon()) == Err(Trouble::TimedOut),
            _ => queue.stats_deadline(soon()) == Err(Trouble::TimedOut),
        };
        if action == "put" {
            // Not before it holds the lock: that would close the queue.
            eventually("it is stopped", BOUND, || is_stopped(process.pid()));
        }
        eventually("its lock is held", BOUND, stopped);
        if action == "put" {
            assert!(!queue.is_closed());
            assert_eq!(queue.stats_deadline(Deadline::after(BOUND)).unwrap().accepted, 1);
        } else {
            assert_eq!(queue.in_doubt_deadline(soon()), Err(Trouble::TimedOut));
            assert_eq!(queue.settle_deadline(soon()), Err(Trouble::TimedOut));
            queue.close_deadline(Deadline::after(BOUND)).unwrap();
        }
        let mut process = process;
        process.kill();
        process.wait();
        queue.close_deadline(Deadline::after(BOUND)).unwrap();
        assert_eq!(queue.settle_deadline(Deadline::after(BOUND)).unwrap(), []);
        assert_eq!(drain(&queue), [1]);
    }
}

fn is_stopped(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
}
