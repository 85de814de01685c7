//! Pools of more workers than this process has processors.

use crate::support::{Gate, Notebook, gate, note, spin, wait_until};
use procession_pool::{Pool, Task, back::WorkerState};
use procession_process::cpu_count;
use std::time::Duration;

/// As many workers as this process has processors, and some more.
const MORE: usize = 14;

fn crowd() -> (Pool, usize) {
    (Pool::new(cpu_count() + MORE).unwrap(), cpu_count())
}

/// How many workers have something to do.
fn at_work(pool: &Pool) -> usize {
    pool.stats().workers.iter().filter(|worker| worker.state == WorkerState::Busy).count()
}

/// Has the pool learn that `gate` is quick.
fn warm_up(pool: &Pool) {
    for _ in 0..300 {
        pool.apply(gate, String::new()).unwrap();
    }
}

/// Gives the pool as many tasks as there are processors and some more, all of a function that is known to be quick and none
/// of which ends before the gate is opened; again, until as many workers as there are processors have got them.
fn hold(pool: &Pool, processors: usize) -> (Gate, Task<Vec<u64>>) {
    loop {
        warm_up(pool);
        let door = Gate::new();
        let doors = vec![door.path(); processors + 6];
        let tasks = pool.tasks(gate, doors).chunk_size(1).spawn().unwrap();
        // Where the machine was busy, what took a while counts as long, and goes to others.
        if at_work(pool) == processors {
            return (door, tasks);
        }
        println!("{} of {processors}", at_work(pool));
        door.open();
        tasks.get().unwrap();
    }
}

#[test]
fn a_burst_of_quick_items_goes_to_as_many_workers_as_there_are_processors() {
    let _watchdog = procession_testkit::test_watchdog();
    let (pool, processors) = crowd();
    let (door, tasks) = hold(&pool, processors);
    assert_eq!(
        pool.stats().workers.iter().map(|worker| worker.in_hand + worker.behind).sum::<usize>(),
        processors + 6
    );
    door.open();
    assert_eq!(tasks.get().unwrap(), vec![7; processors + 6]);
}

#[test]
fn where_quick_items_turn_out_long_what_comes_later_goes_to_workers_that_are_idle() {
    let _watchdog = procession_testkit::test_watchdog();
    let (pool, processors) = crowd();
    let (door, held) = hold(&pool, processors);
    let mut later: Vec<Task<u64>> = Vec::new();
    while !later.iter().any(Task::ready) {
        later.push(pool.submit(gate, String::new()).unwrap());
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(!held.ready());
    door.open();
    held.get().unwrap();
    assert!(later.into_iter().all(|task| task.get().unwrap() == 7));
}

#[test]
fn items_that_may_be_long_go_to_all_workers_however_few_processors_there_are() {
    let _watchdog = procession_testkit::test_watchdog();
    let (pool, processors) = crowd();
    let workers = processors + MORE;
    for known in [false, true] {
        if known {
            // Longer than what is queued ahead, though short enough for something to be queued behind it.
            pool.for_each(held, vec![(String::new(), String::new()); 4]).unwrap();
        }
        let (door, book) = (Gate::new(), Notebook::new());
        let items = vec![(book.path(), door.path()); workers];
        let tasks = pool.tasks(held, items).chunk_size(1).spawn().unwrap();
        book.wait_for(workers);
        door.open();
        tasks.get().unwrap();
    }
}

fn held((book, door): (String, String)) {
    if book.is_empty() {
        return spin(Duration::from_micros(100));
    }
    note(book, 1);
    gate(door);
}

#[test]
fn the_death_of_one_of_64_idle_workers_is_noticed_though_nobody_waits() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::new(64).unwrap();
    pool.map(same, 0..1000).unwrap();
    for index in [0, 40, 63] {
        let before = pool.worker_pids();
        let killed = std::process::Command::new("kill").args(["-KILL", &before[index].to_string()]).status();
        assert!(killed.unwrap().success());
        wait_until(|| {
            let now = pool.worker_pids();
            now.len() == 64 && now[index] != before[index]
        });
    }
    assert_eq!(pool.map(same, 0..1000).unwrap().len(), 1000);
}

fn same(n: u64) -> u64 {
    n
}
