//! How long workers live, and what they do besides tasks: recycling, idleness, restarts, resizing, state, exit functions.

use crate::support::{Notebook, note, spin, wait_until};
use procession_parcel::Bytes;
use procession_pool::{
    Cause, Pool, TaskError, Work,
    back::{WorkerInfo, WorkerState},
    task,
};
use procession_process::{Resource, StartMethod};
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

fn pid(_: u32) -> u32 {
    std::process::id()
}

fn gone(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok();
    stat.and_then(|stat| stat.rsplit_once(") ").map(|(_, rest)| rest.starts_with('Z'))).unwrap_or(true)
}

fn counts(pids: &[u32]) -> HashMap<u32, usize> {
    let mut counts = HashMap::new();
    for pid in pids {
        *counts.entry(*pid).or_insert(0) += 1;
    }
    counts
}

#[test]
fn no_worker_gets_more_tasks_than_it_may_and_nothing_is_lost() {
    let _watchdog = procession_testkit::test_watchdog();
    for method in [StartMethod::ForkServer, StartMethod::Spawn] {
        let pool = Pool::builder().workers(2).start_method(method).recycle_after_tasks(3).build().unwrap();
        let pids = pool.tasks(pid, 0..30).chunk_size(1).collect().unwrap();
        let counts = counts(&pids);
        assert_eq!(pids.len(), 30);
        assert!(counts.values().all(|count| *count <= 3), "{counts:?}");
        assert!(counts.len() >= 10);
        pool.join();
    }
}

#[test]
fn what_was_submitted_before_a_close_is_done_by_workers_of_one_task_each() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::builder().workers(3).recycle_after_tasks(1).build().unwrap();
    let submitted: Vec<_> = (0..6).map(|n: u32| pool.submit(|n: u32| n * n, n).unwrap()).collect();
    pool.close();
    for (n, task) in submitted.into_iter().enumerate() {
        assert_eq!(task.get().unwrap() as usize, n * n);
    }
    pool.join();
}

#[test]
fn numbers_that_make_no_sense_are_refused() {
    for builder in [
        || Pool::builder().recycle_after_tasks(0),
        || Pool::builder().recycle_after_items(0),
        || Pool::builder().workers(0),
    ] {
        assert!(std::panic::catch_unwind(|| drop(builder())).is_err());
    }
}

#[test]
fn a_chunk_is_one_task_and_its_items_are_counted_where_items_are() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::builder().workers(2).recycle_after_tasks(1).build().unwrap();
    let pids = pool.tasks(pid, 0..40).chunk_size(10).collect().unwrap();
    assert!(counts(&pids).values().all(|count| *count == 10));
    let pool = Pool::builder().workers(2).recycle_after_items(15).build().unwrap();
    let pids = pool.tasks(pid, 0..80).chunk_size(10).collect().unwrap();
    assert!(counts(&pids).values().all(|count| *count <= 20), "two chunks reach it");
    assert!(counts(&pids).len() >= 4);
}

#[test]
fn a_worker_that_has_grown_is_replaced_and_what_was_behind_runs_elsewhere() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::builder().workers(1).recycle_above_memory(200 << 20).build().unwrap();
    let before = pool.apply(pid, 0).unwrap();
    let small = pool.map(pid, 0..1000).unwrap();
    assert!(small.iter().all(|pid| *pid == before));
    let grow: fn(u32) -> u32 = |n| {
        std::mem::forget(std::hint::black_box(vec![n as u8 | 1; 300 << 20]));
        std::process::id()
    };
    assert_eq!(pool.apply(grow, 1).unwrap(), before);
    wait_until(|| gone(before));
    let after = pool.map(pid, 0..1000).unwrap();
    assert!(after.iter().all(|pid| *pid != before));
    pool.join();
}

#[test]
fn a_worker_that_is_too_old_is_replaced_though_nobody_calls() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::builder().workers(1).recycle_after(Duration::from_millis(50)).build().unwrap();
    let before = pool.worker_pids()[0];
    wait_until(|| pool.worker_pids().first().is_some_and(|pid| *pid != before));
    assert!(gone(before));
    for n in 0..200 {
        assert_eq!(pool.apply(|n: u32| n, n).unwrap(), n);
    }
}

#[test]
fn idle_workers_end_and_come_back_when_there_is_work() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::builder().workers(2).retire_idle_after(Duration::from_millis(30)).build().unwrap();
    for round in 0..3 {
        assert_eq!(pool.map(|n: u32| n + 1, 0..100).unwrap()[99], 100);
        wait_until(|| pool.worker_pids().is_empty());
        let infos = pool.worker_infos();
        assert!(infos.len() == 2 && infos.iter().all(|info| info.state == WorkerState::Absent), "{round}");
    }
    assert_eq!(pool.workers(), 2);
    let slow: fn(u32) -> u32 = |_| {
        spin(Duration::from_millis(100));
        std::process::id()
    };
    let pids = pool.tasks(slow, 0..2).chunk_size(1).collect().unwrap();
    assert_ne!(pids[0], pids[1], "both came back");
    wait_until(|| pool.worker_pids().is_empty());
    pool.join();
}

#[test]
fn a_worker_that_is_restarted_finishes_its_task_and_what_is_behind_runs_elsewhere() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::new(2).unwrap();
    let mut all = Vec::new();
    for round in 0..20_u64 {
        let mut results = pool.tasks(|n: u64| n, 0..2_000).chunk_size(1).unordered();
        all.extend(results.by_ref().take(10).map(Result::unwrap));
        assert!(pool.restart_worker((round % 2) as usize));
        all.extend(results.map(Result::unwrap));
    }
    all.sort_unstable();
    assert!(all.chunks(20).enumerate().all(|(n, chunk)| chunk.iter().all(|value| *value == n as u64)));
    assert!(!pool.restart_worker(2));
    let infos = pool.worker_infos();
    assert!(infos.iter().map(|info| info.restarts).sum::<u64>() > 2, "{infos:?}");
}

#[test]
fn a_running_item_learns_that_its_worker_is_to_be_replaced() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::new(1).unwrap();
    let notebook = Notebook::new();
    let path = notebook.path();
    let patient = task!(move |_: ()| {
        note(path, 1);
        while !procession_pool::cancelled() {
            std::thread::yield_now();
        }
        std::process::id()
    }; path);
    let before = pool.worker_pids()[0];
    std::thread::scope(|scope| {
        let call = scope.spawn(|| pool.map_with(&patient, [()]).unwrap());
        notebook.wait_for(1);
        assert!(pool.restart_worker(0));
        assert_eq!(call.join().unwrap(), [before]);
    });
    assert_ne!(pool.apply(pid, 0).unwrap(), before);
}

#[test]
fn a_pool_grows_and_shrinks_in_the_middle_of_work() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::new(1).unwrap();
    let mut results = pool.tasks(|n: u64| n, 0..20_000).chunk_size(3).unordered();
    let mut all = Vec::new();
    for (round, workers) in [4, 1, 3, 2, 5, 1].into_iter().enumerate() {
        all.extend(results.by_ref().take(2_000).map(Result::unwrap));
        pool.resize(workers);
        assert_eq!(pool.workers(), workers, "{round}");
    }
    all.extend(results.map(Result::unwrap));
    all.sort_unstable();
    assert!(all.into_iter().eq(0..20_000));
    wait_until(|| {
        pool.apply(|()| (), ()).unwrap();
        pool.worker_pids().len() == 1 && pool.worker_infos().len() == 1
    });
    pool.resize(2);
    wait_until(|| pool.worker_pids().len() == 2);
    pool.join();
}

#[test]
fn whatever_is_restarted_resized_and_killed_at_random_each_result_comes_once() {
    let _watchdog = procession_testkit::test_watchdog();
    let mut random = procession_testkit::storm::Rng::from_env_or(3);
    let pool = Pool::builder()
        .workers(2)
        .retry(1000)
        .recycle_after_items(100)
        .recycle_after(Duration::from_millis(20))
        .retire_idle_after(Duration::from_millis(1))
        .build()
        .unwrap();
    let mut results = pool.tasks(|n: u64| n * 3, 0..10_000).chunk_size(7).unordered();
    let mut all = Vec::new();
    while all.len() < 10_000 {
        all.extend(results.by_ref().take(200).map(Result::unwrap));
        match random.below(4) {
            0 => pool.resize(1 + random.below(3) as usize),
            1 => drop(pool.restart_worker(random.below(3) as usize)),
            2 => drop(pool.kill_worker(random.below(3) as usize)),
            _ => std::thread::sleep(Duration::from_millis(random.below(4))),
        }
    }
    all.sort_unstable();
    assert!(all.into_iter().eq((0..10_000).map(|n| n * 3)));
    assert!(results.next().is_none());
}

#[test]
fn workers_keep_a_state_and_a_replacement_makes_a_new_one() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::builder().workers(1).worker_state(|start: u64| vec![start], 7).build().unwrap();
    let push = Work::with_state(|seen: &mut Vec<u64>, n: u64| {
        seen.push(n);
        assert_ne!(n, 3, "three");
        if n == 4 {
            std::process::abort();
        }
        seen.clone()
    });
    assert_eq!(pool.tasks_of(push.clone(), [1, 2]).collect().unwrap(), [vec![7, 1], vec![7, 1, 2]]);
    let mut results = pool.tasks_of(push.clone(), [3, 5]).chunk_size(1).collect_results();
    assert_eq!(results.pop().unwrap().unwrap(), [7, 1, 2, 3, 5], "a panic leaves the state as it was");
    assert!(results[0].as_ref().unwrap_err().panic().is_some());
    let results = pool.tasks_of(push, [4, 6]).chunk_size(1).collect_results();
    assert!(results[0].as_ref().unwrap_err().death().is_some());
    assert_eq!(*results[1].as_ref().unwrap(), [7, 6]);
    let other = Work::with_state(|state: &mut String, ()| state.len() as u64);
    let error = pool.tasks_of(other, [()]).collect().unwrap_err();
    assert!(matches!(&error, TaskError::BadArguments(why) if why.contains("String")), "{error}");
    let without = Pool::new(1).unwrap();
    let work = Work::with_state(|state: &mut u64, ()| *state);
    let error = without.tasks_of(work, [()]).collect().unwrap_err();
    assert!(matches!(&error, TaskError::BadArguments(why) if why.contains("no state")), "{error}");
}

#[test]
fn a_state_that_cannot_be_made_breaks_the_pool_with_the_cause() {
    let _watchdog = procession_testkit::test_watchdog();
    let fails: fn(()) -> u64 = |()| panic!("no model");
    let pool = Pool::builder().workers(2).worker_state(fails, ()).build().unwrap();
    let error = pool.apply(pid, 0).unwrap_err();
    assert!(matches!(&error, TaskError::Broken(why) if why.contains("no model")), "{error}");
}

#[test]
fn exit_functions_run_where_a_worker_ends_in_order_and_see_its_state() {
    let _watchdog = procession_testkit::test_watchdog();
    let notebook = Notebook::new();
    let pool = Pool::builder()
        .workers(2)
        .on_worker_exit(|path: String| note(path, u64::from(std::process::id())), notebook.path())
        .build()
        .unwrap();
    pool.map(pid, 0..10).unwrap();
    let first = pool.worker_pids();
    assert!(pool.restart_worker(0));
    notebook.wait_for(1);
    assert_eq!(notebook.read(), [u64::from(first[0])]);
    wait_until(|| {
        pool.apply(pid, 0).unwrap();
        pool.worker_infos().iter().all(|info| info.state == WorkerState::Idle)
    });
    let second = pool.worker_pids();
    assert!(pool.kill_worker(1));
    wait_until(|| gone(second[1]));
    pool.apply(pid, 0).unwrap();
    pool.join();
    let all = notebook.read();
    assert!(!all.contains(&u64::from(second[1])), "a killed worker runs none");
    assert!(all.contains(&u64::from(second[0])));
}

#[test]
fn a_pool_whose_workers_die_too_often_breaks_with_the_cause() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::builder().workers(2).restart_limit(3, Duration::from_secs(3600)).build().unwrap();
    // Those that were meant do not count.
    for _ in 0..5 {
        pool.kill_worker(0);
        pool.restart_worker(1);
        pool.map(pid, 0..10).unwrap();
    }
    let die: fn(u32) -> u32 = |_| std::process::exit(7);
    for n in 0..3 {
        assert!(pool.apply(die, n).unwrap_err().death().is_some());
    }
    let error = loop {
        match pool.apply(die, 0).unwrap_err() {
            TaskError::Broken(why) => break why,
            error => assert!(error.death().is_some(), "{error}"),
        }
    };
    assert!(error.contains("4 workers died") && error.contains("status 7"), "{error}");
}

#[test]
fn lines_that_workers_write_are_captured_whole_and_by_name() {
    let _watchdog = procession_testkit::test_watchdog();
    let lines = Arc::new(Mutex::new(Vec::new()));
    let listener = lines.clone();
    let pool = Pool::builder()
        .workers(2)
        .name("Talker")
        .capture_output(move |line| {
            let mut lines = listener.lock().unwrap();
            lines.push(line);
            let count = lines.len();
            drop(lines);
            assert_ne!(count, 3, "a listener that panics gets the next line");
        })
        .build()
        .unwrap();
    let talk: fn(u32) -> u32 = |n| {
        println!("out {n}");
        eprintln!("err {n}");
        std::process::id()
    };
    let pids = pool.tasks(talk, 0..50).chunk_size(1).collect().unwrap();
    let dying: fn(()) = |()| {
        println!("last words");
        std::process::abort();
    };
    assert!(pool.apply(dying, ()).is_err());
    pool.join();
    let lines = lines.lock().unwrap();
    for (n, pid) in pids.iter().enumerate() {
        for text in [format!("out {n}"), format!("err {n}")] {
            let line = lines.iter().find(|line| line.text == text).unwrap();
            assert!(line.worker.starts_with("Talker-") && line.pid == *pid);
        }
    }
    assert!(lines.iter().any(|line| line.text == "last words"));
}

#[test]
fn workers_have_the_environment_the_processors_and_the_limits_that_were_asked_for() {
    let _watchdog = procession_testkit::test_watchdog();
    let all = procession_process::cpu_count();
    let pool = Pool::builder()
        .workers(2)
        .threads_per_worker(3)
        .env("PROCESSION_TEST", "yes")
        .limit(Resource::OpenFiles, 100)
        .pin([[0]])
        .build()
        .unwrap();
    let look: fn(()) -> (String, String, usize, String) = |()| {
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
        let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap().to_owned();
        let var = |name| std::env::var(name).unwrap_or_default();
        (var("RAYON_NUM_THREADS"), var("PROCESSION_TEST"), procession_process::cpu_count(), files)
    };
    let (rayon, own, processors, files) = pool.apply(look, ()).unwrap();
    assert_eq!((rayon.as_str(), own.as_str(), processors), ("3", "yes", 1));
    assert!(files.contains("100"), "{files}");
    assert_eq!(procession_process::cpu_count(), all, "this process is as it was");
}

#[test]
fn a_worker_that_comes_up_against_its_limit_of_memory_is_said_to() {
    let _watchdog = procession_testkit::test_watchdog();
    let limit = 64 << 20;
    // The printing of a backtrace would hide what failed first.
    let builder = Pool::builder().workers(1).env("RUST_BACKTRACE", "0");
    let pool = builder.memory_limit(limit).build().unwrap();
    let allocate: fn(usize) -> usize = |bytes| std::hint::black_box(vec![1_u8; bytes]).len();
    assert_eq!(pool.apply(allocate, 1 << 20).unwrap(), 1 << 20);
    let error = pool.apply(allocate, 1 << 30).unwrap_err();
    assert_eq!(error.death().unwrap().death.cause, Cause::MemoryLimit(limit), "{error}");
    assert!(error.to_string().contains("SIGABRT") && error.to_string().contains("limit"), "{error}");
    let abort: fn(()) = |()| std::process::abort();
    let error = pool.apply(abort, ()).unwrap_err();
    assert_eq!(error.death().unwrap().death.cause, Cause::Itself, "{error}");
    // Where a task can go on without the memory, it does.
    let cautious: fn(usize) -> bool = |bytes| Vec::<u8>::new().try_reserve_exact(bytes).is_err();
    assert!(pool.apply(cautious, 1 << 30).unwrap());
}

#[test]
fn a_death_tells_the_peak_of_memory() {
    let _watchdog = procession_testkit::test_watchdog();
    for method in [StartMethod::ForkServer, StartMethod::Spawn] {
        let pool = Pool::builder().workers(1).start_method(method).build().unwrap();
        let grow: fn(usize) = |bytes| {
            drop(std::hint::black_box(vec![1_u8; bytes]));
            std::process::abort();
        };
        let error = pool.apply(grow, 100 << 20).unwrap_err();
        let peak = error.death().unwrap().death.peak_memory;
        // A process that was executed has the peak of this one to begin with, which may be larger than its own.
        assert!(peak.is_some() || method == StartMethod::Spawn);
        assert!(peak.is_none_or(|peak| peak >= 100 << 20), "{peak:?}");
        assert_eq!(error.to_string().contains("MiB"), peak.is_some(), "{error}");
    }
}

#[test]
fn what_workers_do_is_told() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::new(2).unwrap();
    assert_eq!(pool.map(|n: u32| n, 0..1000).unwrap().len(), 1000);
    let infos: Vec<WorkerInfo> = pool.worker_infos();
    assert_eq!(infos.iter().map(|info| info.items).sum::<u64>(), 1000);
    assert!(infos.iter().map(|info| info.bytes_in).sum::<u64>() > 1000);
    assert!(infos.iter().all(|info| info.queued == 0 && info.pid.is_some() && info.restarts == 0));
    assert_eq!(infos.iter().map(|info| info.index).collect::<Vec<_>>(), [0, 1]);
    assert!(infos[0].name.starts_with("PoolWorker-") && infos[0].age > Duration::ZERO);
}

/// Calls a pool of this process when it is dropped, if there is one.
#[derive(Debug, Serialize, Deserialize)]
struct Caller(Bytes);

static CALLED: OnceLock<Pool> = OnceLock::new();
static CALLS: AtomicUsize = AtomicUsize::new(0);

impl Drop for Caller {
    fn drop(&mut self) {
        if let Some(pool) = CALLED.get() {
            CALLS.fetch_add(pool.apply(|n: usize| n, 1).unwrap(), Ordering::Relaxed);
        }
    }
}

impl std::fmt::Display for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a caller")
    }
}

impl std::error::Error for Caller {}

#[test]
fn what_is_dropped_of_the_users_may_call_the_same_pool() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = CALLED.get_or_init(|| Pool::threads(2).unwrap());
    let calls = || CALLS.swap(0, Ordering::Relaxed);
    // An error of the input that nobody takes.
    let input = [Ok(1), Err(Caller(Bytes(Vec::new())))];
    drop(pool.tasks_try(|n: usize| n, input).spawn().unwrap());
    assert_eq!(calls(), 1);
    // Captured data that is too large to be kept; a worker had a copy of its own.
    let data = Caller(Bytes(vec![0; 5 << 20]));
    let work = Work::task(&task!(move |n: usize| n + data.0.len(); data));
    assert_eq!(pool.tasks_of(work, [1]).collect().unwrap(), [1 + (5 << 20)]);
    pool.apply(|n: usize| n, 1).unwrap();
    assert!(calls() > 0);
}
