//! A running pool can be seen from outside by the same user, and nothing of that stays.

use crate::support::{Gate, gate, wait_until};
use procession_pool::{Pool, back::WorkerState, seeing::look};
use procession_process::{Process, StartMethod};
use std::io::ErrorKind;

fn same(n: u64) -> u64 {
    n
}

fn two_pools(door: String) {
    let first = Pool::new(1).unwrap();
    let hidden = Pool::builder().workers(1).visible(false).build().unwrap();
    let second = Pool::new(2).unwrap();
    second.map(same, 0..50).unwrap();
    let waits = first.submit(gate, door.clone()).unwrap();
    gate(door);
    waits.get().unwrap();
    drop(hidden);
}

#[test]
fn the_pools_of_another_process_are_seen_while_they_work_and_not_when_it_is_gone() {
    let _watchdog = procession_testkit::test_watchdog();
    for killed in [false, true] {
        let door = Gate::new();
        let host = Process::builder().start_method(StartMethod::Spawn).spawn(two_pools, door.path()).unwrap();
        let pid = host.pid();
        let works = |pools: &[procession_pool::Stats]| {
            pools.len() == 2 && pools[0].total.in_hand == 1 && pools[1].total.items == 50
        };
        wait_until(|| look(pid).is_ok_and(|pools| works(&pools)));
        let pools = look(pid).unwrap();
        assert_eq!((pools[0].workers.len(), pools[1].workers.len()), (1, 2));
        assert_eq!((pools[0].pid, pools[1].pid), (pid, pid));
        assert_eq!(pools[0].workers[0].state, WorkerState::Busy);
        assert!(pools[0].workers[0].memory.is_some_and(|bytes| bytes > 0));
        if killed {
            host.kill().unwrap();
            host.wait().unwrap();
        } else {
            door.open();
            host.join().unwrap();
        }
        assert_eq!(look(pid).unwrap_err().kind(), ErrorKind::NotFound);
    }
}

#[test]
fn a_pool_of_threads_is_seen_if_it_wants_to_be() {
    let _watchdog = procession_testkit::test_watchdog();
    let door = Gate::new();
    let pool = Pool::threads_builder().name("SeenThread").workers(2).visible(true).build().unwrap();
    let hidden = Pool::threads_builder().name("HiddenThread").workers(1).build().unwrap();
    let waits = pool.submit(gate, door.path()).unwrap();
    hidden.map(same, 0..2).unwrap();
    // Other tests of this process have pools as well.
    let named = |name: &str| {
        let pools = look(std::process::id()).unwrap_or_default();
        pools.into_iter().find(|pool| pool.workers.iter().any(|worker| worker.name.starts_with(name)))
    };
    // A look may meet a pool that ends just then, and give an error.
    let mut seen = None;
    wait_until(|| {
        seen = named("SeenThread-").filter(|pool| pool.total.in_hand == 1);
        seen.is_some()
    });
    let seen = seen.unwrap();
    assert_eq!((seen.pid, seen.workers.len(), seen.workers[0].pid), (std::process::id(), 2, None));
    assert!(named("HiddenThread-").is_none());
    door.open();
    waits.get().unwrap();
    drop(pool);
    wait_until(|| named("SeenThread-").is_none());
}

#[test]
fn a_pool_that_has_ended_is_not_seen_and_who_looks_in_between_gets_an_answer_or_an_error() {
    let _watchdog = procession_testkit::test_watchdog();
    let me = std::process::id();
    let mine = |pools: Vec<procession_pool::Stats>| {
        pools
            .into_iter()
            .filter(|pool| pool.workers.iter().any(|worker| worker.name.starts_with("Seen-")))
            .count()
    };
    let pool = Pool::builder().name("Seen").workers(1).build().unwrap();
    // Other tests of this process have pools that begin and end.
    wait_until(|| look(me).is_ok_and(|pools| mine(pools) == 1));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..20).for_each(|_| drop(look(me))));
        }
    });
    wait_until(|| look(me).is_ok_and(|pools| mine(pools) == 1));
    pool.terminate();
    wait_until(|| look(me).map_or(true, |pools| mine(pools) == 0));
}
