//! Workers that die, in every way and at every time.

use crate::support::{Notebook, die_by, note, wait_until};
use procession_pool::{Pool, TaskError, Work, task};
use procession_process::ExitStatus;
use std::time::Duration;

/// Runs `f` on 0 to 9 in chunks of 5 by two workers; 4 is meant to be deadly. Returns its error.
fn deadly(f: fn(u32) -> u32) -> TaskError {
    let pool = Pool::new(2).unwrap();
    let mut results = pool.tasks(f, 0..10).chunk_size(5).collect_results();
    let error = results.remove(4).unwrap_err();
    let rest: Vec<u32> = results.into_iter().map(Result::unwrap).collect();
    assert_eq!(rest, [0, 1, 2, 3, 5, 6, 7, 8, 9], "only the item in hand is lost");
    assert_eq!(pool.map(|n: u32| n, 0..4).unwrap(), [0, 1, 2, 3], "the pool is usable afterwards");
    assert_eq!(pool.worker_pids().len(), 2);
    error
}

#[test]
fn a_task_that_exits_is_that_items_error_with_the_status() {
    let _watchdog = procession_testkit::test_watchdog();
    let error = deadly(|n| if n == 4 { std::process::exit(3) } else { n });
    let died = error.death().unwrap();
    assert_eq!((died.item, died.attempt, died.death.exit), (4, 1, ExitStatus::Code(3)));
    let text = error.to_string();
    assert!(text.contains("exited with status 3 while running item 4 (attempt 1)"), "{text}");
    assert!(text.contains("PoolWorker-"), "{text}");
}

#[test]
fn a_task_that_aborts_is_that_items_error_with_the_signal() {
    let _watchdog = procession_testkit::test_watchdog();
    let error = deadly(|n| if n == 4 { std::process::abort() } else { n });
    assert_eq!(error.death().unwrap().death.exit.signal(), Some(libc::SIGABRT));
    assert!(error.to_string().contains("SIGABRT"), "{error}");
}

#[test]
fn a_worker_that_is_killed_in_mid_task_loses_that_item_only() {
    let _watchdog = procession_testkit::test_watchdog();
    let error = deadly(|n| if n == 4 { die_by(9) } else { n });
    assert!(error.to_string().contains("signal 9 (SIGKILL)"), "{error}");
    let error = deadly(|n| if n == 4 { die_by(15) } else { n });
    assert!(error.to_string().contains("SIGTERM"), "{error}");
}

#[test]
fn a_stack_overflow_is_that_items_error() {
    #[expect(unconditional_recursion, reason = "that is the point")]
    fn deep(n: u32) -> u32 {
        std::hint::black_box([n; 100])[0] + deep(std::hint::black_box(n))
    }
    let _watchdog = procession_testkit::test_watchdog();
    let error = deadly(|n| if n == 4 { deep(n) } else { n });
    assert!(error.death().unwrap().death.exit.signal().is_some(), "{error}");
}

#[test]
fn an_item_whose_worker_died_is_tried_again_and_the_others_are_not() {
    let _watchdog = procession_testkit::test_watchdog();
    let notebook = Notebook::new();
    let path = notebook.path();
    let work = task!(move |n: u64| {
        note(path, n);
        // 4 dies twice, and is done by the third try.
        let tries = std::fs::read(path).unwrap().chunks(8).filter(|word| *word == 4_u64.to_le_bytes()).count();
        if n == 4 && tries < 3 { die_by(9) } else { n * 2 }
    }; path);
    let pool = Pool::new(2).unwrap();
    let work = Work::task(&work);
    let values = pool.tasks_of(work, 0..20).chunk_size(10).retry(2).collect().unwrap();
    assert!(values.into_iter().eq((0..20).map(|n| n * 2)));
    let mut runs = notebook.read();
    runs.sort_unstable();
    let mut wanted: Vec<u64> = (0..20).chain([4, 4]).collect();
    wanted.sort_unstable();
    assert_eq!(runs, wanted);
}

#[test]
fn retries_are_counted_and_panics_are_retried_too() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::builder().workers(2).retry(2).build().unwrap();
    let exit: fn(()) = |()| std::process::exit(1);
    let error = pool.apply(exit, ()).unwrap_err();
    assert_eq!(error.death().unwrap().attempt, 3);
    let notebook = Notebook::new();
    let path = notebook.path();
    let shy = task!(move |_: ()| {
        note(path, 0);
        assert!(std::fs::metadata(path).unwrap().len() >= 24, "not yet");
    }; path);
    assert_eq!(pool.map_with(&shy, [()]).unwrap().len(), 1);
    assert_eq!(notebook.read().len(), 3);
}

#[test]
fn a_worker_that_is_killed_idle_is_replaced() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::new(2).unwrap();
    pool.map(|n: u32| n, 0..10).unwrap();
    let before = pool.worker_pids();
    assert!(pool.kill_worker(0) && pool.kill_worker(1));
    assert_eq!(pool.map(|n: u32| n + 1, 0..1000).unwrap().len(), 1000);
    wait_until(|| {
        pool.apply(|()| (), ()).unwrap();
        pool.worker_pids().len() == 2
    });
    assert!(pool.worker_pids().iter().all(|pid| !before.contains(pid)));
}

#[test]
fn a_worker_that_dies_while_nobody_calls_is_replaced_all_the_same() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::new(2).unwrap();
    let before = pool.worker_pids();
    for pid in &before {
        let _ = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status();
    }
    wait_until(|| {
        let now = pool.worker_pids();
        now.len() == 2 && now.iter().all(|pid| !before.contains(pid))
    });
    assert!(before.iter().all(|pid| state(*pid).is_none()), "they were reaped");
}

#[test]
fn an_initialiser_that_fails_breaks_the_pool_with_the_cause() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::builder().workers(2).initializer(|()| panic!("no licence"), ()).build().unwrap();
    let error = pool.map(|n: u32| n, 0..10).unwrap_err();
    assert!(matches!(&error, TaskError::Broken(why) if why.contains("no licence")), "{error}");
    assert!(pool.apply(|n: u32| n, 1).is_err());
    let pool = Pool::builder().workers(2).initializer(|()| std::process::exit(9), ()).build().unwrap();
    let error = pool.apply(|n: u32| n, 1).unwrap_err();
    assert!(matches!(&error, TaskError::Broken(why) if why.contains("status 9")), "{error}");
    pool.join();
}

#[test]
fn terminate_returns_promptly_though_thousands_of_tasks_are_queued() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::new(2).unwrap();
    let pids = pool.worker_pids();
    let sleep = |_: u32| std::thread::sleep(Duration::from_secs(3600));
    let submitted: Vec<_> = (0..10_000).map(|n| pool.submit(sleep, n).unwrap()).collect();
    pool.terminate();
    for task in submitted {
        assert!(task.get().unwrap_err().is_terminated());
    }
    assert!(pids.iter().all(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists()));
    assert!(pool.apply(|n: u32| n, 1).unwrap_err().is_terminated());
    pool.terminate();
    pool.join();
}

#[test]
fn a_worker_that_waits_for_room_dies_with_its_pool() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::new(1).unwrap();
    let notebook = Notebook::new();
    let path = notebook.path();
    let flood = task!(move |n: u64| { note(path, n); vec![0_u8; 1 << 20] }; path);
    let mut results = pool.tasks_of(Work::task(&flood), 0..).chunk_size(4).unordered();
    assert!(results.next().unwrap().is_ok());
    // Nobody takes results in now, and the second one does not fit the lane.
    notebook.wait_for(2);
    drop(pool);
    assert!(results.last().unwrap().unwrap_err().is_terminated());
}

#[test]
fn a_worker_that_ignores_sigterm_is_killed() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::new(1).unwrap();
    let pid = pool.worker_pids()[0];
    let stubborn = pool
        .submit(
            |()| {
                let pid = std::process::id().to_string();
                // A stopped process acts on nothing but SIGKILL.
                let _ = std::process::Command::new("kill").args(["-STOP", &pid]).status();
            },
            (),
        )
        .unwrap();
    wait_until(|| state(pid) == Some('T'));
    drop(pool);
    assert!(stubborn.get().unwrap_err().is_terminated());
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn what_was_committed_before_a_death_is_delivered_after_it() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::new(1).unwrap();
    let pid = pool.worker_pids()[0];
    // More than is taken in at once, and less than a lane holds.
    let last = 150_u64;
    let work = task!(move |n: u64| if n == last { die_by(9) } else { format!("{n:01000}") }; last);
    let mut results = pool.tasks_of(Work::task(&work), 0..last + 1).chunk_size(10_000).unordered();
    let early = results.next_timeout(Duration::ZERO).ok().flatten();
    // Nobody takes anything in until it is dead.
    wait_until(|| matches!(state(pid), None | Some('Z')));
    let results: Vec<_> = early.into_iter().chain(results).collect();
    let (values, error) = results.split_at(last as usize);
    assert!(values.iter().zip(0..last).all(|(value, n)| *value.as_ref().unwrap() == format!("{n:01000}")));
    assert_eq!(error[0].as_ref().unwrap_err().death().unwrap().item, last);
}

#[test]
fn a_worker_that_finds_no_room_for_results_waits_and_loses_none() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::new(1).unwrap();
    let pid = pool.worker_pids()[0];
    let notebook = Notebook::new();
    let path = notebook.path();
    let work = task!(move |n: u64| {
        if n == 0 {
            note(path, n);
        }
        n
    }; path);
    let mut results = pool.tasks_of(Work::task(&work), 0..100_000).chunk_size(100_000).ordered();
    let early = results.next_timeout(Duration::ZERO).ok().flatten();
    notebook.wait_for(1);
    wait_until(|| state(pid) == Some('S'));
    assert!(early.into_iter().chain(results).map(Result::unwrap).eq(0..100_000));
}

/// Owns a pool whose worker is busy for ever, and tells the worker's pid.
fn owner(path: String) {
    let pool = Pool::new(1).unwrap();
    let busy = task!(move |_: ()| {
        note(path, u64::from(std::process::id()));
        loop {
            std::hint::spin_loop();
        }
    }; path);
    let _ = pool.map_with::<_, _, (), _>(&busy, [()]);
}

#[test]
fn workers_die_with_their_parent_in_the_middle_of_work() {
    let _watchdog = procession_testkit::test_watchdog();
    let notebook = Notebook::new();
    let parent = procession_process::Process::spawn(owner, notebook.path()).unwrap();
    let worker = notebook.wait_for(1)[0] as u32;
    assert!(state(worker).is_some());
    parent.kill().unwrap();
    wait_until(|| matches!(state(worker), None | Some('Z')));
}

/// The state of a process, as in `/proc`: `S` asleep, `T` stopped, `Z` a zombie.
fn state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Forks; the child goes on in one of three ways.
fn forks(n: u64) -> u64 {
    if n % 10 != 5 {
        return n;
    }
    // SAFETY: the worker has one thread.
    let child = unsafe { libc::fork() };
    if child == 0 {
        match n {
            5 => return 1000,
            15 => panic!("in the child"),
            // SAFETY: it ends the child.
            _ => unsafe { libc::_exit(0) },
        }
    }
    let mut status = 0;
    // SAFETY: the status is an integer of ours.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    n + 100 * libc::WEXITSTATUS(status) as u64
}

#[test]
fn a_function_that_forks_has_one_result_and_its_child_is_no_worker() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::new(1).unwrap();
    let expected = || (0..50_u64).map(|n| if n == 5 || n == 15 { n + 100 } else { n });
    for chunk in [1, 50] {
        let values = pool.tasks(forks, 0..50).chunk_size(chunk).collect().unwrap();
        assert!(values.into_iter().eq(expected()));
        // Each item in hand.
        let values = pool.tasks(forks, 0..50).chunk_size(chunk).cancellable(true).collect().unwrap();
        assert!(values.into_iter().eq(expected()));
    }
    assert_eq!(pool.worker_infos()[0].restarts, 0);
}
