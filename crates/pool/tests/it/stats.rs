//! Statistics tell what was done, and what is under way.

use crate::support::{Gate, gate, note, pools, wait_until};
use procession_pool::{Pool, Verdict, back::WorkerState, simulated::Faults};
use std::time::Duration;

fn same(n: u64) -> u64 {
    n
}

fn work(micros: u64) -> u64 {
    crate::support::spin(Duration::from_micros(micros));
    micros
}

#[test]
fn what_was_done_is_counted_once_over_processes_threads_and_a_simulation() {
    let _watchdog = procession_testkit::test_watchdog();
    let simulated = Pool::simulated_builder(7).workers(2).faults(Faults::NONE).build();
    for pool in pools(2).chain([simulated]) {
        assert_eq!(pool.tasks(same, 0..1000).chunk_size(10).collect().unwrap().len(), 1000);
        let is_done = |pool: &Pool| pool.stats().total.tasks == 100;
        wait_until(|| is_done(&pool));
        let stats = pool.stats();
        assert_eq!((stats.total.items, stats.total.tasks, stats.waiting), (1000, 100, 0));
        assert_eq!((stats.total.started, stats.total.restarts), (2, 0));
        wait_until(|| pool.stats().total.in_hand == 0);
        assert_eq!(stats.total.behind, 0);
        assert!(stats.total.bytes_sent > 1000, "{stats}");
        assert_eq!(stats.workers.iter().map(|worker| worker.items).sum::<u64>(), 1000);
        assert_eq!(stats.pid, std::process::id());
        let table = stats.to_string();
        assert!(
            table.contains(&stats.workers[1].name) && table.contains("1000 items in 100 tasks"),
            "{table}"
        );
    }
}

#[test]
fn an_item_that_runs_is_seen_in_hand_with_what_is_behind_it_and_its_time_counts() {
    let _watchdog = procession_testkit::test_watchdog();
    for pool in pools(1) {
        pool.tasks(same, 0..100).chunk_size(1).run().unwrap();
        let door = Gate::new();
        let waits = pool.submit(gate, door.path()).unwrap();
        wait_until(|| pool.stats().total.in_hand == 1);
        let before = pool.stats().workers[0].busy;
        // Nobody is told of the time that passes: it is seen.
        wait_until(|| pool.stats().workers[0].busy >= before + Duration::from_millis(20));
        let stats = pool.stats();
        assert_eq!(stats.workers[0].state, WorkerState::Busy);
        let more: Vec<_> = (0..5).map(|n| pool.submit(same, n).unwrap()).collect();
        let stats = pool.stats();
        assert_eq!(stats.waiting + stats.total.behind, 5, "{stats}");
        door.open();
        assert_eq!(waits.get().unwrap(), 7);
        assert!(more.into_iter().all(|task| task.get().is_ok()));
        wait_until(|| pool.stats().workers[0].state == WorkerState::Idle);
        // Rest is not work, once it has begun to rest: it may look for more first.
        let busy = || pool.stats().workers[0].busy;
        wait_until(|| {
            let before = busy();
            std::thread::sleep(Duration::from_millis(5));
            busy() == before
        });
        assert!(pool.stats().workers[0].idle >= Duration::from_millis(5));
    }
}

fn grow(bytes: usize) -> usize {
    let mut large = vec![1_u8; bytes];
    std::hint::black_box(&mut large);
    large.len()
}

#[test]
fn memory_is_told_of_each_process_now_and_at_its_peak() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::new(1).unwrap();
    pool.apply(grow, 64 << 20).unwrap();
    let worker = &pool.stats().workers[0];
    let (now, peak) = (worker.memory.unwrap(), worker.peak_memory.unwrap());
    assert!(peak >= 64 << 20 && now > 0 && now <= peak, "{now} {peak}");
    assert!(worker.start_up.is_some_and(|time| time > Duration::ZERO && time < worker.age));
    assert!(Pool::threads(1).unwrap().stats().workers[0].memory.is_none());
}

fn die_at(item: (u64, String)) -> u64 {
    note(&item.1, item.0);
    if item.0 == 13 {
        std::process::abort();
    }
    item.0
}

#[test]
fn what_workers_did_that_are_gone_stays_in_the_totals() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::new(1).unwrap();
    let notes = crate::support::Notebook::new();
    let items = (0..20).map(|n| (n, notes.path()));
    let results = pool.tasks(die_at, items).chunk_size(5).collect_results();
    assert_eq!(results.iter().filter(|result| result.is_err()).count(), 1);
    let stats = pool.stats();
    assert_eq!(stats.total.items, 19, "{stats}");
    assert_eq!((stats.total.restarts, stats.workers[0].restarts), (1, 1));
    assert_eq!(stats.total.started, 2);
    let last = stats.workers[0].items;
    assert!(last < 19 && stats.total.busy > stats.workers[0].busy, "{stats}");
    // Also those that were dismissed.
    pool.resize(2);
    pool.resize(1);
    wait_until(|| pool.stats().total.started == 3 && pool.worker_pids().len() == 1);
    assert_eq!(pool.stats().total.items, 19);
    let shared = pool.submit(same, 1).unwrap();
    pool.terminate();
    drop(shared);
    let stats = pool.stats();
    assert!(stats.workers.is_empty() && stats.total.items >= 19, "{stats}");
}

#[test]
fn the_slowest_items_are_told_with_their_function() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::new(2).unwrap();
    pool.map(work, (0..40).map(|n| if n == 20 { 50_000 } else { 10 })).unwrap();
    let slowest = pool.stats().slowest;
    assert!(slowest[0].time >= Duration::from_millis(50), "{slowest:?}");
    assert!(slowest.is_sorted_by_key(|slow| std::cmp::Reverse(slow.each())));
    let name = if cfg!(feature = "stacks") { "it::stats::work" } else { "fn(u64) -> u64" };
    assert_eq!(slowest[0].function, name);
}

#[test]
fn insights_say_where_the_time_went_and_whether_chunks_have_the_right_size() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::new(2).unwrap();
    assert_eq!(pool.insights().verdict, Verdict::TooEarly);
    pool.tasks(same, 0..20_000).chunk_size(1).run().unwrap();
    let insights = pool.insights();
    let Verdict::TooSmall(better) = insights.verdict else { panic!("{insights}") };
    assert!(better > 1 && insights.items == 20_000, "{insights}");
    assert!(insights.workers.iter().all(|worker| worker.start_up.is_some()));
    let report = insights.to_string();
    assert!(report.contains("chunk size: too small") && report.contains("PoolWorker-1: "), "{report}");
    let pool = Pool::new(2).unwrap();
    pool.tasks(work, [40_000, 40_000, 1, 1]).chunk_size(2).run().unwrap();
    assert_eq!(pool.insights().verdict, Verdict::TooLarge(1), "{}", pool.insights());
}
