//! Queues, locks, semaphores, conditions, events, barriers: what waits, and for whom it waits in vain.

use crate::ways::{Way, each_way};
use procession_channel::connection::{Pipe, PipeSender};
use procession_manager::{
    Barrier, Condition, ErrorKind, Event, JoinableQueue, Lock, Manager, Queue, Semaphore, Waited,
};
use procession_process::Process;
use procession_testkit::{test_watchdog, wait::eventually};
use serde::{Serialize, de::DeserializeOwned};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(20);

/// A process that does something, says so, and then stays until it is killed.
fn stays<A: Serialize + DeserializeOwned + 'static>(f: fn((A, PipeSender<()>)), arg: A) -> Process<()> {
    let (receiver, sender) = Pipe::<()>::one_way().unwrap();
    let process = Process::spawn(f, (arg, sender)).unwrap();
    receiver.recv().unwrap();
    process
}

fn waiting(manager: &Manager, count: u64) {
    eventually("they wait", LONG, || manager.stats().unwrap().waiting == count);
}

#[test]
fn a_queue_is_first_in_first_out_and_bounded() {
    let _watchdog = test_watchdog();
    let manager = Manager::start().unwrap();
    let queue = manager.bounded_queue::<u64>(3).unwrap();
    assert!(queue.is_empty().unwrap());
    queue.put(&1).unwrap();
    queue.put_many(&[2, 3]).unwrap();
    assert!(queue.is_full().unwrap() && queue.len().unwrap() == 3);
    assert_eq!(queue.try_put(&4).unwrap_err().kind(), ErrorKind::Full);
    assert_eq!(queue.put_timeout(&4, SHORT).unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(queue.put_many(&[1; 4]).unwrap_err().kind(), ErrorKind::Limit);
    let putter = {
        let queue = queue.clone();
        std::thread::spawn(move || queue.put(&4).unwrap())
    };
    waiting(&manager, 1);
    assert_eq!(queue.get().unwrap(), 1);
    putter.join().unwrap();
    assert_eq!(queue.get_many(9).unwrap(), [2, 3, 4]);
    assert_eq!(queue.try_get().unwrap_err().kind(), ErrorKind::Empty);
    assert_eq!(queue.get_timeout(SHORT).unwrap_err().kind(), ErrorKind::Timeout);
}

fn every_item_is_taken_once(way: Way) {
    let manager = Manager::start().unwrap();
    let (items, sums) = (manager.bounded_queue::<u64>(5).unwrap(), manager.queue::<u64>().unwrap());
    let parties: Vec<_> = (0..3)
        .map(|_| {
            way.start(
                |(items, sums): (Queue<u64>, Queue<u64>)| {
                    let sum = std::iter::from_fn(|| Some(items.get().unwrap())).take_while(|n| *n > 0).sum();
                    sums.put(&sum).unwrap();
                },
                (items.clone(), sums.clone()),
            )
        })
        .collect();
    for n in 1..=200 {
        items.put(&n).unwrap();
    }
    items.put_many(&[0, 0, 0]).unwrap();
    parties.into_iter().for_each(|party| party.join());
    assert_eq!((0..3).map(|_| sums.get().unwrap()).sum::<u64>(), 200 * 201 / 2);
    assert_eq!(manager.stats().unwrap().waiting, 0);
}

fn a_join_ends_when_all_tasks_are_done(way: Way) {
    let manager = Manager::start().unwrap();
    let tasks = manager.joinable_queue::<u64>(0).unwrap();
    tasks.put_many(&[1, 2, 3]).unwrap();
    assert_eq!(tasks.join_timeout(SHORT).unwrap_err().kind(), ErrorKind::Timeout);
    let party = way.start(
        |tasks: JoinableQueue<u64>| {
            for _ in 0..3 {
                tasks.get().unwrap();
                tasks.task_done().unwrap();
            }
        },
        tasks.clone(),
    );
    tasks.join().unwrap();
    party.join();
    assert_eq!(tasks.task_done().unwrap_err().kind(), ErrorKind::Invalid);
}

fn a_lock_excludes_and_its_state_is_known(way: Way) {
    let manager = Manager::start().unwrap();
    let (lock, value) = (manager.lock().unwrap(), manager.value(&0_u64).unwrap());
    let parties: Vec<_> = (0..3)
        .map(|_| {
            way.start(
                |(lock, value): (Lock, procession_manager::Value<u64>)| {
                    for _ in 0..20 {
                        let _guard = lock.lock().unwrap();
                        let n = value.get().unwrap();
                        value.set(&(n + 1)).unwrap();
                    }
                },
                (lock.clone(), value.clone()),
            )
        })
        .collect();
    parties.into_iter().for_each(|party| party.join());
    assert_eq!(value.get().unwrap(), 60);
    let guard = lock.lock().unwrap();
    assert!(lock.is_locked().unwrap() && lock.try_lock().unwrap().is_none());
    assert_eq!(lock.lock().unwrap_err().kind(), Some(ErrorKind::Deadlock));
    let other = lock.clone();
    let waits = std::thread::spawn(move || other.lock_timeout(SHORT).unwrap().is_none());
    assert!(waits.join().unwrap());
    drop(guard);
    assert!(!lock.is_locked().unwrap());
    let rlock = manager.rlock().unwrap();
    let (first, second) = (rlock.lock().unwrap(), rlock.lock().unwrap());
    drop(first);
    assert!(rlock.is_locked().unwrap());
    drop(second);
    assert!(!rlock.is_locked().unwrap());
}

/// A worker acquires, this process releases: what a semaphore is for.
fn a_semaphore_may_be_released_by_another_process(way: Way) {
    let manager = Manager::start().unwrap();
    let (free, bounded) = (manager.semaphore(2).unwrap(), manager.bounded_semaphore(1).unwrap());
    let party = way.start(
        |(free, bounded): (Semaphore, procession_manager::BoundedSemaphore)| {
            free.acquire().unwrap();
            bounded.acquire().unwrap();
        },
        (free.clone(), bounded.clone()),
    );
    party.join();
    assert_eq!((free.value().unwrap(), bounded.try_acquire().unwrap()), (1, false));
    assert!(!bounded.acquire_timeout(SHORT).unwrap());
    free.release().unwrap();
    free.release().unwrap();
    bounded.release().unwrap();
    assert_eq!((free.value().unwrap(), bounded.value().unwrap()), (3, 1));
    assert_eq!(bounded.release().unwrap_err().kind(), ErrorKind::Invalid);
    let permit = bounded.permit().unwrap();
    assert_eq!(bounded.release().unwrap_err().kind(), ErrorKind::Invalid);
    assert!(bounded.permit_timeout(SHORT).unwrap().is_none());
    drop(permit);
    assert_eq!(bounded.value().unwrap(), 1);
}

fn an_event_is_set_waited_for_and_cleared(way: Way) {
    let manager = Manager::start().unwrap();
    let event = manager.event().unwrap();
    assert!(!event.is_set().unwrap() && !event.wait_timeout(SHORT).unwrap());
    let party = way.start(|event: Event| event.wait().and_then(|()| event.clear()).is_ok(), event.clone());
    event.set().unwrap();
    assert!(party.join());
    assert!(!event.is_set().unwrap());
}

fn a_barriers_parties_pass_together(way: Way) {
    let manager = Manager::start().unwrap();
    let barrier = manager.barrier(3).unwrap();
    let parties: Vec<_> =
        (0..2).map(|_| way.start(|barrier: Barrier| barrier.wait().unwrap(), barrier.clone())).collect();
    waiting(&manager, 2);
    assert_eq!((barrier.state().unwrap().waiting, barrier.state().unwrap().parties), (2, 3));
    let mut numbers = vec![barrier.wait().unwrap()];
    numbers.extend(parties.into_iter().map(|party| party.join()));
    numbers.sort_unstable();
    assert_eq!(numbers, [0, 1, 2]);
    assert_eq!(barrier.wait_timeout(SHORT).unwrap_err().kind(), ErrorKind::Timeout);
    assert!(barrier.state().unwrap().broken);
    assert_eq!(barrier.wait().unwrap_err().kind(), ErrorKind::Broken);
    barrier.reset().unwrap();
    let party = way
        .start(|barrier: Barrier| barrier.wait().unwrap_err().kind() == ErrorKind::Broken, barrier.clone());
    waiting(&manager, 1);
    barrier.abort().unwrap();
    assert!(party.join());
}

fn a_condition_wakes_who_waits(way: Way) {
    let manager = Manager::start().unwrap();
    let (ready, value) = (manager.condition().unwrap(), manager.value(&0_u64).unwrap());
    let start = || {
        way.start(
            |(ready, value): (Condition, procession_manager::Value<u64>)| {
                let mut guard = ready.lock().unwrap();
                ready.wait_while(&mut guard, || value.get().unwrap() == 0).unwrap();
                let n = value.get().unwrap();
                value.set(&(n + 1)).unwrap();
            },
            (ready.clone(), value.clone()),
        )
    };
    let parties = [start(), start()];
    waiting(&manager, 2);
    let mut guard = ready.lock().unwrap();
    assert_eq!(ready.wait_timeout(&mut guard, SHORT).unwrap(), Waited::TimedOut);
    value.set(&1).unwrap();
    ready.notify_n(&guard, 1).unwrap();
    ready.notify_all(&guard).unwrap();
    drop(guard);
    parties.into_iter().for_each(|party| party.join());
    assert_eq!(value.get().unwrap(), 3);
}

each_way!(
    every_item_is_taken_once,
    a_join_ends_when_all_tasks_are_done,
    a_lock_excludes_and_its_state_is_known,
    a_semaphore_may_be_released_by_another_process,
    an_event_is_set_waited_for_and_cleared,
    a_barriers_parties_pass_together,
    a_condition_wakes_who_waits,
);

#[test]
fn the_lock_of_a_killed_holder_goes_on_with_a_word_about_it() {
    let _watchdog = test_watchdog();
    let manager = Manager::start().unwrap();
    let lock = manager.lock().unwrap();
    let holder = stays(
        |(lock, said): (Lock, PipeSender<()>)| {
            let _guard = lock.lock().unwrap();
            said.send(&()).unwrap();
            std::thread::park();
        },
        lock.clone(),
    );
    let other = lock.clone();
    let waits = std::thread::spawn(move || other.lock().unwrap_err().died());
    waiting(&manager, 1);
    holder.kill().unwrap();
    assert_eq!(waits.join().unwrap(), Some(holder.pid()));
    assert_eq!(lock.poisoned_by().unwrap(), Some(holder.pid()));
    let guard = lock.lock().unwrap_err().into_guard().unwrap();
    lock.clear_poison().unwrap();
    drop(guard);
    drop(lock.lock().unwrap());
}

#[test]
fn who_is_killed_while_waiting_takes_nothing_along() {
    let _watchdog = test_watchdog();
    let manager = Manager::start().unwrap();
    let (lock, queue) = (manager.lock().unwrap(), manager.queue::<u64>().unwrap());
    let (semaphore, barrier) = (manager.semaphore(0).unwrap(), manager.barrier(2).unwrap());
    let guard = lock.lock().unwrap();
    let parties = [
        Process::spawn(|lock: Lock| lock.lock().is_ok(), lock.clone()).unwrap(),
        Process::spawn(|queue: Queue<u64>| queue.get().is_ok(), queue.clone()).unwrap(),
        Process::spawn(|semaphore: Semaphore| semaphore.acquire().is_ok(), semaphore.clone()).unwrap(),
        Process::spawn(|barrier: Barrier| barrier.wait().is_ok(), barrier.clone()).unwrap(),
    ];
    waiting(&manager, 4);
    parties.iter().for_each(|party| party.kill().unwrap());
    waiting(&manager, 0);
    drop(guard);
    drop(lock.lock().unwrap());
    queue.put(&1).unwrap();
    semaphore.release().unwrap();
    assert_eq!((queue.try_get().unwrap(), semaphore.try_acquire().unwrap()), (1, true));
    assert!(barrier.state().unwrap().broken);
}

#[test]
fn the_permits_and_tasks_of_a_killed_process_come_to_light() {
    let _watchdog = test_watchdog();
    let manager = Manager::start().unwrap();
    let (semaphore, tasks) =
        (manager.bounded_semaphore(1).unwrap(), manager.joinable_queue::<u64>(0).unwrap());
    tasks.put_many(&[1, 2]).unwrap();
    let holder = stays(
        |((semaphore, tasks), said): (
            (procession_manager::BoundedSemaphore, JoinableQueue<u64>),
            PipeSender<()>,
        )| {
            let _permit = semaphore.permit().unwrap();
            tasks.get().unwrap();
            said.send(&()).unwrap();
            std::thread::park();
        },
        (semaphore.clone(), tasks.clone()),
    );
    assert!(!semaphore.try_acquire().unwrap());
    holder.kill().unwrap();
    semaphore.acquire().unwrap();
    assert_eq!(tasks.get().unwrap(), 2);
    tasks.task_done().unwrap();
    assert_eq!(tasks.join().unwrap_err().kind(), ErrorKind::Lost);
    tasks.join().unwrap();
}

#[test]
fn waits_for_a_condition_end_when_its_lock_is_poisoned() {
    let _watchdog = test_watchdog();
    let manager = Manager::start().unwrap();
    let ready = manager.condition().unwrap();
    let waits = {
        let ready = ready.clone();
        std::thread::spawn(move || {
            let mut guard = ready.lock().unwrap();
            ready.wait(&mut guard).unwrap_err().kind()
        })
    };
    waiting(&manager, 1);
    let holder = stays(
        |(ready, said): (Condition, PipeSender<()>)| {
            let _guard = ready.lock().unwrap();
            said.send(&()).unwrap();
            std::thread::park();
        },
        ready.clone(),
    );
    holder.kill().unwrap();
    assert_eq!(waits.join().unwrap(), ErrorKind::Lost);
}

#[test]
fn a_stopped_server_does_not_keep_a_call_beyond_its_time() {
    use rustix::process::{Pid, Signal, kill_process};
    let _watchdog = test_watchdog();
    let manager = Manager::start().unwrap();
    let (lock, queue) = (manager.lock().unwrap(), manager.queue::<u64>().unwrap());
    queue.put(&7).unwrap();
    let proxies = manager.queue::<Queue<u64>>().unwrap();
    proxies.put(&manager.queue().unwrap()).unwrap();
    assert_eq!(manager.stats().unwrap().objects, 4);
    let pid = Pid::from_raw(manager.pid() as i32).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    assert_eq!(queue.get_timeout(SHORT).unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(proxies.get_timeout(SHORT).unwrap_err().kind(), ErrorKind::Timeout);
    assert!(lock.lock_timeout(SHORT).is_err());
    assert!(manager.ping_timeout(SHORT).unwrap_err().is_timeout());
    kill_process(pid, Signal::CONT).unwrap();
    // What came too late was given back.
    assert_eq!(queue.get().unwrap(), 7);
    eventually("the lock is given back", LONG, || !lock.is_locked().unwrap());
    drop(proxies.get().unwrap());
    eventually("no lease is left over", LONG, || manager.stats().unwrap().objects == 3);
}
