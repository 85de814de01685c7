//! Producers and consumers of blocks that are killed at random moments: no block is leaked, or freed twice.

use crate::{
    queue_storm::{Item, Log, STARTS, TICKETS},
    support::{give, take},
};
use core::sync::atomic::Ordering;
use procession_channel::queue::{Claim, GetError, Policy, Queue};
use procession_shm::{Heap, Segment, SharedSlice, SharedVec};
use procession_sys::Deadline;
use procession_testkit::{
    role::{self, RoleProcess},
    storm::{Rng, kill_within, kills},
    wait::eventually,
    watchdog,
};
use serde::{Deserialize, Serialize};
use std::{
    os::unix::{net::UnixStream, process::ExitStatusExt},
    time::Duration,
};

const PRODUCERS: usize = 2;
const CONSUMERS: usize = 2;

#[derive(Serialize, Deserialize)]
struct Load {
    item: Item,
    small: Option<SharedVec<u64>>,
    large: Option<SharedVec<u64>>,
    text: Option<SharedSlice<u64>>,
}

impl Load {
    /// `None` where the heap is full.
    fn new(heap: &Heap, item: Item) -> Option<Load> {
        let filled = |len: usize| {
            let mut block = heap.vec::<u64>(len).ok()?;
            block.fill(item.0 << 32 | item.1);
            Some(block)
        };
        let some = |bit: u64| item.1 & bit != 0;
        let small = if some(1) { Some(filled(20)?) } else { None };
        let large = if some(2) { Some(filled(10_000)?) } else { None };
        let text = if some(4) { Some(filled(3)?.freeze().ok()?) } else { None };
        Some(Load { item, small, large, text })
    }

    /// Nobody else has its blocks, or had them since they were written.
    #[track_caller]
    fn check(claim: &mut Claim<Load>) {
        let word = claim.item.0 << 32 | claim.item.1;
        let Load { small, large, text, .. } = &mut **claim;
        for block in [small, large].into_iter().flatten() {
            assert!(block.iter().all(|&element| element == word), "torn: {block:?}");
            block.fill(word ^ 1);
            assert!(block.iter().all(|&element| element == word ^ 1), "somebody else wrote");
        }
        assert!(text.iter().all(|text| **text == [word; 3]));
    }
}

#[test]
fn role_producer() {
    let Some(mut role) = role::enter(role_producer) else { return };
    let (queue, _, start): (Queue<Load>, Segment, u64) = take(role.fd());
    let heap = queue.heap().unwrap();
    role.say("here");
    for n in 0.. {
        let load = loop {
            match Load::new(&heap, (start, n)) {
                Some(load) => break load,
                None => std::thread::yield_now(),
            }
        };
        if n % 16 < 12 {
            queue.put(load).unwrap();
        } else {
            queue.put_many(vec![load]).unwrap();
        }
    }
}

#[test]
fn role_consumer() {
    let Some(mut role) = role::enter(role_consumer) else { return };
    let (queue, segment, _): (Queue<Load>, Segment, u64) = take(role.fd());
    let log = Log { segment };
    role.say("here");
    loop {
        let mut claim = queue.claim().unwrap();
        Load::check(&mut claim);
        log.see(claim.ticket(), claim.item, claim.redelivered());
        drop(claim);
    }
}

fn storm(policy: Policy) {
    let mut rng = Rng::from_env();
    let kills = kills(40);
    let heap = Heap::builder().cap(16 << 20).build().unwrap();
    let queue: Queue<Load> =
        Queue::builder().heap(&heap).capacity(50).memory(1 << 18).policy(policy).build().unwrap();
    let log = Log { segment: Segment::anonymous(Log::KIND, (TICKETS + STARTS + 1) * 8).unwrap() };
    let mut starts = 0;
    let mut start = |index: usize| -> RoleProcess {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let role = if index < PRODUCERS {
            role::start(role_producer, &[&theirs])
        } else {
            role::start(role_consumer, &[&theirs])
        };
        starts += 1;
        give(&ours, &(&queue, &log.segment, starts - 1));
        role
    };
    let mut processes: Vec<RoleProcess> = (0..PRODUCERS + CONSUMERS).map(&mut start).collect();
    processes.iter_mut().for_each(|process| process.expect("here"));
    for _ in 0..kills {
        let victim = rng.below(processes.len() as u64) as usize;
        kill_within(&mut rng, processes[victim].pidfd(), Duration::from_millis(3)).unwrap();
        let status = processes[victim].wait();
        assert_eq!(status.signal(), Some(9), "{status:?}\n{}", processes[victim].output());
        processes[victim] = start(victim);
        processes[victim].expect("here");
    }
    processes.iter_mut().for_each(RoleProcess::kill);
    for process in &mut processes {
        process.wait();
    }
    queue.close().unwrap();
    loop {
        match queue.claim_deadline(Deadline::after(Duration::from_secs(20))) {
            Ok(mut claim) => {
                Load::check(&mut claim);
                log.see(claim.ticket(), claim.item, claim.redelivered());
            }
            Err(GetError::Closed) => break,
            Err(error) => panic!("{error}"),
        }
    }
    let stats = queue.stats().unwrap();
    println!("{policy:?}: {kills} kills; {stats:?}");
    assert_eq!((stats.waiting, stats.in_hand), (0, 0));
    assert!(stats.accepted > 0 && (stats.accepted as usize) < TICKETS, "{stats:?}");
    assert!(stats.in_doubt + stats.lost <= kills.into(), "a consumer has one item in hand");
    assert_eq!(log.twice().load(Ordering::Relaxed), 0, "items were seen twice without a mark");
    let unseen = (0..stats.accepted).filter(|&ticket| log.seen(ticket).load(Ordering::Relaxed) == 0).count();
    assert!(unseen as u64 <= stats.in_doubt + stats.lost, "{unseen} items are nowhere: {stats:?}");
    // The queue lives still, so nothing is freed with it.
    eventually("the heap is empty", Duration::from_secs(20), || {
        heap.sweep().unwrap();
        heap.stats().blocks == 0
    });
    let books = heap.stats();
    assert_eq!((books.used, books.free + books.slack), (0, books.capacity), "{books:?}");
    drop(queue);
}

#[test]
fn a_storm_over_blocks_in_a_queue_that_reports_leaks_none() {
    let _watchdog = watchdog!(Duration::from_secs(120).max(Duration::from_millis(300) * kills(40)));
    storm(Policy::Report);
}

#[test]
fn a_storm_over_blocks_in_a_queue_that_redelivers_leaks_none() {
    let _watchdog = watchdog!(Duration::from_secs(120).max(Duration::from_millis(300) * kills(40)));
    storm(Policy::Redeliver);
}

#[test]
fn a_storm_over_blocks_in_a_queue_that_drops_leaks_none() {
    let _watchdog = watchdog!(Duration::from_secs(120).max(Duration::from_millis(300) * kills(40)));
    storm(Policy::Drop);
}
