//! Where a worker is stuck can be seen, and it goes on afterwards.

use crate::support::{Gate, Notebook, gate, note, under};
use procession_pool::Pool;
use procession_process::StartMethod;
use std::time::Duration;

#[inline(never)]
fn waits_deep_inside(paths: (String, String), depth: u32) -> u64 {
    if depth > 0 {
        return std::hint::black_box(waits_deep_inside(paths, depth - 1)) + 1;
    }
    note(paths.0, 1);
    gate(paths.1)
}

fn stuck_asleep(paths: (String, String)) -> u64 {
    waits_deep_inside(paths, 3)
}

fn stuck_awake(paths: (String, String)) -> u64 {
    note(&paths.0, 1);
    let mut rounds = 0_u64;
    while !std::path::Path::new(&paths.1).exists() {
        for _ in 0..100_000 {
            rounds = std::hint::black_box(rounds.wrapping_add(1));
        }
    }
    7
}

fn dumps(method: StartMethod) {
    let pool = Pool::builder().workers(1).start_method(method).build().unwrap();
    for (f, name, depth) in
        [(stuck_asleep as fn((String, String)) -> u64, "stuck_asleep", 4), (stuck_awake, "stuck_awake", 0)]
    {
        let (door, notes) = (Gate::new(), Notebook::new());
        let task = pool.submit(f, (notes.path(), door.path())).unwrap();
        notes.wait_for(1);
        for _ in 0..5 {
            let dump = pool.dump_stack(0).unwrap();
            let frames = &dump.threads[0].frames;
            let functions: Vec<&str> = frames.iter().filter_map(|frame| frame.function.as_deref()).collect();
            let count = |part: &str| functions.iter().filter(|function| function.contains(part)).count();
            assert!(count(name) >= 1, "{method}: {dump}");
            assert_eq!(count("waits_deep_inside"), depth, "{method}: {dump}");
            // To its very beginning.
            assert!(count("local::worker::") >= 1, "{method}: {dump}");
            assert_eq!(dump.threads[0].incomplete, None, "{method}: {dump}");
            // What was put into a function by the compiler may have the line of another file.
            let of_ours = |frame: &&procession_pool::seeing::stack::Frame| {
                frame.file.as_ref().is_some_and(|file| file.ends_with("stacks.rs"))
            };
            assert!(depth == 0 || frames.iter().filter(of_ours).all(|frame| frame.line.is_some()), "{dump}");
            assert!(depth == 0 || dump.to_string().contains("stacks.rs:"), "{dump}");
        }
        door.open();
        assert_eq!(task.get().unwrap(), if depth > 0 { 10 } else { 7 }, "it went on");
    }
    let idle = pool.dump_stack(0).unwrap();
    assert!(!idle.threads[0].frames.is_empty(), "{idle}");
}

#[test]
fn the_stack_of_a_worker_that_is_stuck_leads_from_where_it_is_to_its_beginning_and_it_goes_on() {
    let _watchdog = procession_testkit::test_watchdog();
    for method in [StartMethod::Spawn, StartMethod::ForkServer, StartMethod::Fork] {
        under(method, dumps);
    }
}

fn sleeps(millis: u64) -> u64 {
    std::thread::sleep(Duration::from_millis(millis));
    millis
}

#[test]
fn workers_that_are_looked_at_all_the_time_do_their_work_and_none_is_lost() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::new(2).unwrap();
    let task = pool.map_async(sleeps, vec![1; 200]).unwrap();
    while !task.ready() {
        for worker in 0..2 {
            pool.dump_stack(worker).unwrap();
        }
    }
    assert_eq!(task.get().unwrap(), vec![1; 200]);
    assert_eq!(pool.stats().total.restarts, 0);
}

#[test]
fn without_such_a_worker_there_is_an_error_that_says_so() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::new(1).unwrap();
    assert!(pool.dump_stack(7).unwrap_err().to_string().contains("worker 7: there is none"));
    let threads = Pool::threads(1).unwrap();
    assert!(threads.dump_stack(0).unwrap_err().to_string().contains("not a process"));
    // One that is traced by somebody already, or has ended, is an error, too, not a hang.
    pool.terminate();
    assert!(pool.dump_stack(0).is_err());
}
