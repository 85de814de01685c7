//! Producers and consumers that are killed at random moments.

use crate::support::{give, take};
use core::sync::atomic::{AtomicU64, Ordering};
use procession_channel::queue::{GetError, Policy, Queue};
use procession_shm::{Kind, Segment};
use procession_sys::Deadline;
use procession_testkit::{
    role::{self, RoleProcess},
    storm::{Rng, kill_within, kills},
    watchdog,
};
use std::{
    collections::BTreeMap,
    os::unix::{net::UnixStream, process::ExitStatusExt},
    time::Duration,
};

const PRODUCERS: usize = 2;
const CONSUMERS: usize = 2;
/// Places in the log for tickets, and for producers by the number of their start.
pub(crate) const TICKETS: usize = 1 << 26;
pub(crate) const STARTS: usize = 1 << 20;

/// What the processes did, in memory that survives them.
pub(crate) struct Log {
    pub(crate) segment: Segment,
}

impl Log {
    pub(crate) const KIND: Kind = Kind::new("log", 7, 7);

    fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < TICKETS + STARTS + 1);
        // SAFETY: within the payload, which is that large.
        let word = unsafe { self.segment.as_ptr().cast::<u64>().add(index) };
        // SAFETY: aligned, zero at the start, and every process accesses it as an atomic, while `self` lives.
        unsafe { AtomicU64::from_ptr(word.as_ptr()) }
    }

    /// Who saw the item with a ticket: the item's word, plus 1.
    pub(crate) fn seen(&self, ticket: u64) -> &AtomicU64 {
        self.word(ticket as usize)
    }

    /// How many puts of a producer returned.
    fn put(&self, start: u64) -> &AtomicU64 {
        self.word(TICKETS + start as usize)
    }

    /// How many items were seen twice without a mark.
    pub(crate) fn twice(&self) -> &AtomicU64 {
        self.word(TICKETS + STARTS)
    }

    /// Notes that the item of a ticket was seen.
    pub(crate) fn see(&self, ticket: u64, (start, n): Item, marked: bool) {
        let before = self.seen(ticket).swap((start << 32 | n) + 1, Ordering::Relaxed);
        if before != 0 && !marked {
            self.twice().fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The number of a producer's start, and how many it had put before.
pub(crate) type Item = (u64, u64);

#[test]
fn role_producer() {
    let Some(mut role) = role::enter(role_producer) else { return };
    let (queue, segment, start): (Queue<Item>, Segment, u64) = take(role.fd());
    let log = Log { segment };
    role.say("here");
    let mut n = 0;
    loop {
        // Batches too, of which a death may let in any part that stands at their beginning.
        let batch = if n % 64 == 0 { 5 } else { 1 };
        if batch == 1 {
            queue.put((start, n)).unwrap();
        } else {
            queue.put_many((n..n + batch).map(|n| (start, n)).collect()).unwrap();
        }
        n += batch;
        log.put(start).store(n, Ordering::Relaxed);
    }
}

#[test]
fn role_consumer() {
    let Some(mut role) = role::enter(role_consumer) else { return };
    let (queue, segment, _): (Queue<Item>, Segment, u64) = take(role.fd());
    let log = Log { segment };
    role.say("here");
    loop {
        let claim = queue.claim().unwrap();
        log.see(claim.ticket(), *claim, claim.redelivered());
        drop(claim);
    }
}

fn storm(policy: Policy) {
    let mut rng = Rng::from_env();
    let kills = kills(40);
    let queue: Queue<Item> = Queue::builder().capacity(100).memory(1 << 18).policy(policy).build().unwrap();
    let log = Log { segment: Segment::anonymous(Log::KIND, (TICKETS + STARTS + 1) * 8).unwrap() };
    let mut starts = 0;
    let mut start = |index: usize| -> RoleProcess {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let process = if index < PRODUCERS {
            role::start(role_producer, &[&theirs])
        } else {
            role::start(role_consumer, &[&theirs])
        };
        starts += 1;
        give(&ours, &(&queue, &log.segment, starts - 1));
        process
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
    let mut own = 0;
    loop {
        match queue.claim_deadline(Deadline::after(Duration::from_secs(20))) {
            Ok(claim) => {
                log.see(claim.ticket(), *claim, claim.redelivered());
                own += 1;
            }
            Err(GetError::Closed) => break,
            Err(error) => panic!("{error}"),
        }
    }
    let stats = queue.stats().unwrap();
    println!("{policy:?}: {kills} kills, {own} items at the end; {stats:?}");
    assert_eq!((stats.waiting, stats.in_hand), (0, 0));
    assert!(stats.accepted > 0 && (stats.accepted as usize) < TICKETS, "{stats:?}");
    assert_eq!(log.twice().load(Ordering::Relaxed), 0, "items were seen twice without a mark");
    check(&queue, &log, policy, kills.into());
}

/// The books, and each producer's order.
fn check(queue: &Queue<Item>, log: &Log, policy: Policy, kills: u64) {
    let stats = queue.stats().unwrap();
    let doubts: Vec<u64> =
        queue.in_doubt().unwrap().iter().flat_map(|doubt| doubt.ticket..doubt.ticket + doubt.count).collect();
    assert_eq!(doubts.len() as u64, stats.in_doubt);
    assert!(stats.in_doubt + stats.lost <= kills, "a consumer has one item in hand");
    let mut missing = 0;
    let mut next = BTreeMap::new();
    let mut skipped = 0;
    for ticket in 0..stats.accepted {
        let Some(word) = log.seen(ticket).load(Ordering::Relaxed).checked_sub(1) else {
            // Nobody saw it: so it is in doubt, or was given up.
            assert!(
                policy == Policy::Drop || doubts.contains(&ticket),
                "the item of ticket {ticket} is nowhere"
            );
            missing += 1;
            continue;
        };
        let (start, n) = (word >> 32, word & 0xffff_ffff);
        let expected = next.insert(start, n + 1).unwrap_or(0);
        assert!(n >= expected, "producer {start} put {n} after {expected}");
        skipped += n - expected;
    }
    assert!(missing <= stats.in_doubt + stats.lost);
    assert!(policy != Policy::Redeliver || missing == 0, "nothing is lost where everything comes back");
    // Of each producer there is everything whose put returned, but for what nobody saw.
    let mut behind = 0;
    for (&start, &seen) in &next {
        let returned = log.put(start).load(Ordering::Relaxed);
        assert!(seen <= returned + 5, "producer {start} put more than it tried");
        behind += returned.saturating_sub(seen);
    }
    assert!(
        skipped + behind <= missing,
        "{skipped} items are missing within, {behind} at the end, {missing} unseen"
    );
}

#[test]
fn a_storm_over_a_queue_that_reports_loses_nothing_silently() {
    let _watchdog = watchdog!(Duration::from_secs(120).max(Duration::from_millis(300) * kills(40)));
    storm(Policy::Report);
}

#[test]
fn a_storm_over_a_queue_that_redelivers_loses_nothing() {
    let _watchdog = watchdog!(Duration::from_secs(120).max(Duration::from_millis(300) * kills(40)));
    storm(Policy::Redeliver);
}

#[test]
fn a_storm_over_a_queue_that_drops_counts_what_it_loses() {
    let _watchdog = watchdog!(Duration::from_secs(120).max(Duration::from_millis(300) * kills(40)));
    storm(Policy::Drop);
}
