//! Workers that cannot do any work: initialisers that fail, memory that is short, starts in vain.

use crate::support::{Notebook, note, wait_until};
use procession_parcel::Bytes;
use procession_pool::{Pool, TaskError, Work, task};
use procession_process::{Interrupts, Process, interrupted};
use std::{
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

/// Leaves the worker `bytes` of address space more than it uses, and no place to complain.
fn leave_memory(bytes: u64) {
    let null = std::fs::File::options().write(true).open("/dev/null").unwrap();
    // SAFETY: it takes no pointers, and nothing here owns standard error.
    unsafe { libc::dup2(null.as_raw_fd(), libc::STDERR_FILENO) };
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmSize:")).unwrap();
    let used = line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024;
    let limit = libc::rlimit { rlim_cur: used + bytes, rlim_max: used + bytes };
    // SAFETY: it reads a structure that is there.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const limit) }, 0);
}

fn short_of_memory() -> Pool {
    Pool::builder().workers(1).initializer(leave_memory, 8 << 20).build().unwrap()
}

/// A function with `bytes` of captured data.
fn heavy(bytes: usize, number: u64) -> Work<u64, u64> {
    let data = Bytes(vec![1; bytes]);
    Work::task(&task!(move |n: u64| n + number + data.len() as u64; data, number))
}

#[test]
fn an_argument_that_a_worker_has_no_memory_for_is_that_items_error() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = short_of_memory();
    let length = |bytes: Bytes| bytes.len();
    assert_eq!(pool.apply(length, Bytes(vec![1; 1000])).unwrap(), 1000);
    let error = pool.apply(length, Bytes(vec![1; 32 << 20])).unwrap_err();
    assert_eq!(error.death().unwrap().attempt, 1, "{error}");
    assert_eq!(pool.apply(length, Bytes(vec![1; 2000])).unwrap(), 2000);
}

#[test]
fn a_function_that_workers_have_no_memory_for_is_refused() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = short_of_memory();
    let error = pool.tasks_of(heavy(32 << 20, 0), 0..1000).collect().unwrap_err();
    assert!(matches!(&error, TaskError::BadFunction(why) if why.contains("3 workers ended")), "{error}");
    // It cost its own call, not the pool.
    assert_eq!(pool.tasks_of(heavy(1000, 5), 0..3).collect().unwrap(), [1005, 1006, 1007]);
}

#[test]
fn workers_that_never_do_anything_of_what_they_are_given_break_the_pool() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = short_of_memory();
    for number in 0.. {
        match pool.tasks_of(heavy(12 << 20, number), 0..2).collect().unwrap_err() {
            TaskError::BadFunction(_) => assert!(number < 11, "it is never broken"),
            TaskError::Broken(why) => {
                assert!(why.contains("32 starts failed in a row"), "{why}");
                assert_eq!(number, 10);
                break;
            }
            other => panic!("{other}"),
        }
    }
}

#[test]
fn an_initialiser_that_fails_breaks_the_pool_though_a_worker_is_healthy() {
    let _watchdog = procession_testkit::test_watchdog();
    fn init((runs, licence): (String, String)) {
        note(runs, 1);
        // There is one licence.
        std::fs::remove_file(licence).expect("no licence");
    }
    let runs = Notebook::new();
    let licence = format!("{}.licence", runs.path());
    std::fs::File::create_new(&licence).unwrap();
    let pool = Pool::builder().workers(2).initializer(init, (runs.path(), licence)).build().unwrap();
    let slow = |_: u64| std::thread::sleep(Duration::from_micros(300));
    let error = pool.imap_unordered(slow, 0..).find_map(Result::err).unwrap();
    assert!(matches!(&error, TaskError::Broken(why) if why.contains("no licence")), "{error}");
    assert_eq!(runs.read().len(), 4, "one succeeded, three failed");
}

#[test]
fn a_replacement_that_is_well_ends_the_count_of_failed_initialisers() {
    let _watchdog = procession_testkit::test_watchdog();
    fn init(runs: String) {
        note(&runs, 1);
        // One worker, and after each that failed twice, one that is well.
        let run = std::fs::metadata(&runs).unwrap().len() / 8;
        assert!(run % 3 == 1, "not this time");
    }
    let runs = Notebook::new();
    let pool = Pool::builder().workers(1).initializer(init, runs.path()).build().unwrap();
    for round in 0..3 {
        assert_eq!(pool.apply(|n: u64| n, round).unwrap(), round);
        assert_eq!(runs.read().len() as u64, 3 * round + 1);
        assert!(pool.kill_worker(0));
    }
}

#[test]
fn starts_after_a_failure_are_put_off_and_come_though_nobody_waits() {
    let _watchdog = procession_testkit::test_watchdog();
    fn init(runs: String) {
        note(runs, 1);
        std::process::exit(9);
    }
    let runs = Notebook::new();
    let start = Instant::now();
    let pool = Pool::builder().workers(1).initializer(init, runs.path()).build().unwrap();
    // Nobody asks the pool for anything meanwhile.
    runs.wait_for(3);
    assert!(start.elapsed() >= Duration::from_millis(100), "{:?} for three", start.elapsed());
    let error = pool.apply(|n: u64| n, 1).unwrap_err();
    assert!(matches!(&error, TaskError::Broken(why) if why.contains("status 9")), "{error}");
    assert_eq!(runs.read().len(), 3);
}

#[test]
fn work_that_goes_well_is_not_broken_by_starts_that_fail() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::new(2).unwrap();
    let gate = Notebook::new();
    let path = gate.path();
    let wait = task!(move |_: ()| {
        note(path, u64::from(std::process::id()));
        wait_until(|| std::fs::metadata(path).unwrap().len() > 8);
    }; path);
    let submitted = pool.submit_work(&Work::task(&wait), &()).unwrap();
    let healthy = gate.wait_for(1)[0] as u32;
    let mut killed = std::collections::HashSet::new();
    let mut last = Instant::now();
    // Most are killed before they are ready, which are failed starts. When 32 have failed they become slow.
    while last.elapsed() < Duration::from_millis(500) {
        // This looks after them, too.
        assert!(!submitted.ready(), "{submitted:?}");
        let others = pool.worker_pids();
        for pid in others.into_iter().filter(|pid| *pid != healthy && killed.insert(*pid)) {
            // SAFETY: it takes no pointers, and the worker is not reaped before the pool has seen its end.
            unsafe { libc::kill(pid as i32, libc::SIGKILL) };
            last = Instant::now();
        }
    }
    note(gate.path(), 2);
    submitted.get().unwrap();
}

/// Is interrupted, loses a worker, and notes how many are left from then on.
fn interrupted_owner(path: String) {
    // Where the tests run in the background it may be ignored.
    // SAFETY: a disposition without a handler.
    unsafe { libc::signal(libc::SIGINT, libc::SIG_DFL) };
    Interrupts::new().quiet().patience(Duration::from_secs(3600)).install().unwrap();
    let pool = Pool::new(2).unwrap();
    pool.map(|n: u64| n, 0..10).unwrap();
    // SAFETY: it takes no pointers.
    unsafe { libc::raise(libc::SIGINT) };
    wait_until(interrupted);
    let before = pool.worker_pids();
    // SAFETY: likewise.
    unsafe { libc::kill(before[0] as i32, libc::SIGKILL) };
    wait_until(|| {
        pool.map(|n: u64| n, 0..10).unwrap();
        pool.worker_pids() != before
    });
    for _ in 0..20 {
        pool.map(|n: u64| n, 0..10).unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
    note(path, pool.worker_pids().len() as u64);
}

#[test]
fn workers_that_die_are_not_replaced_in_a_process_that_was_interrupted() {
    let _watchdog = procession_testkit::test_watchdog();
    let notebook = Notebook::new();
    let owner = Process::spawn(interrupted_owner, notebook.path()).unwrap();
    assert_eq!(notebook.wait_for(1), [1]);
    let _ = owner.wait();
}
