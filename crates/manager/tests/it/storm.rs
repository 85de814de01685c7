//! Clients and servers that are killed at random instants.

use crate::proxy::Proxy;
use procession_manager::{
    Address, Dict, ErrorKind, JoinableQueue, List, Lock, Manager, Queue, Reconnect, Semaphore, Session, Value,
};
use procession_process::Process;
use procession_testkit::{
    storm::{Rng, delay, kills},
    test_watchdog,
    wait::eventually,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, time::Duration};

const LONG: Duration = Duration::from_secs(20);

#[derive(Clone, Serialize, Deserialize)]
struct World {
    items: Queue<u64>,
    done: Dict<u64, u64>,
    tasks: JoinableQueue<u64>,
    lock: Lock,
    pair: [Value<u64>; 2],
    semaphore: Semaphore,
    proxies: List<List<u64>>,
}

fn churn(world: World) {
    let session = procession_manager::Hosted::session(&world.items);
    for round in 0_u64.. {
        if let Ok(item) = world.items.get_timeout(Duration::from_millis(1)) {
            world.done.update(&item, |times, ()| *times = Some(times.unwrap_or(0) + 1), &()).unwrap();
        }
        let guard = world.lock.lock().unwrap_or_else(|error| error.into_guard().unwrap());
        // Both or, after a death, the first alone.
        world.pair[0].update(|n, ()| *n += 1, &()).unwrap();
        world.pair[1].update(|n, ()| *n += 1, &()).unwrap();
        drop(guard);
        let permit = world.semaphore.permit_timeout(Duration::from_millis(1)).unwrap();
        let list = session.list_of(&[round]).unwrap();
        world.proxies.push(&list).unwrap();
        if world.proxies.len().unwrap() > 5 {
            let old = world.proxies.remove(0);
            if let Ok(old) = old {
                assert_eq!(old.len().unwrap(), 1);
            }
        }
        drop(permit);
        if world.tasks.try_get().is_ok() {
            world.tasks.task_done().unwrap();
        }
    }
}

#[test]
fn killed_clients_lose_nothing_but_what_they_had_in_hand() {
    let _watchdog = test_watchdog();
    kill_clients(&Manager::start().unwrap(), u64::from(kills(40)));
}

#[test]
fn clients_that_are_killed_at_their_sockets_lose_as_little() {
    let _watchdog = test_watchdog();
    kill_clients(&Manager::builder().shared_memory(false).start().unwrap(), u64::from(kills(12)));
}

fn kill_clients(manager: &Manager, deaths: u64) {
    let mut rng = Rng::from_env();
    let world = World {
        items: manager.queue().unwrap(),
        done: manager.dict().unwrap(),
        tasks: manager.joinable_queue(0).unwrap(),
        lock: manager.lock().unwrap(),
        pair: [manager.value(&0).unwrap(), manager.value(&0).unwrap()],
        semaphore: manager.semaphore(2).unwrap(),
        proxies: manager.list().unwrap(),
    };
    let objects = manager.stats().unwrap().objects;
    let mut next = 0;
    let mut workers: Vec<_> = (0..3).map(|_| Process::spawn(churn, world.clone()).unwrap()).collect();
    for _ in 0..deaths {
        let items: Vec<u64> = (next..next + rng.within(1..30)).collect();
        next += items.len() as u64;
        world.items.put_many(&items).unwrap();
        world.tasks.put_many(&[1, 2]).unwrap();
        delay(rng.duration(Duration::from_millis(20)));
        let at = rng.below(3) as usize;
        workers[at].kill().unwrap();
        assert_eq!(workers[at].wait().unwrap().signal(), Some(9));
        workers[at] = Process::spawn(churn, world.clone()).unwrap();
    }
    eventually("the items are taken", LONG, || world.items.is_empty().unwrap());
    eventually("the tasks are done", LONG, || {
        world
            .tasks
            .join_timeout(Duration::from_millis(50))
            .map_or_else(|e| e.kind() == ErrorKind::Lost, |()| true)
    });
    for worker in &workers {
        worker.kill().unwrap();
        worker.wait().unwrap();
    }
    let deaths = deaths + workers.len() as u64;
    let done: BTreeMap<u64, u64> = world.done.snapshot().unwrap().into_iter().collect();
    assert!(done.values().all(|times| *times == 1), "an item was taken twice: {done:?}");
    // One that was in hand, and one that was taken as its process died before it looked.
    let lost = next - done.len() as u64;
    assert!(lost <= deaths, "{lost} of {next} items are lost with {deaths} processes");
    eventually("nobody waits", LONG, || manager.stats().unwrap().waiting == 0);
    drop(world.lock.lock().or_else(|error| error.into_guard()).unwrap());
    eventually("the permits return", LONG, || world.semaphore.value().unwrap() == 2);
    let (first, second) = (world.pair[0].get().unwrap(), world.pair[1].get().unwrap());
    assert!(first >= second && first - second <= deaths, "{first} {second} {deaths}");
    world.proxies.clear().unwrap();
    eventually("no lease is lost", LONG, || manager.stats().unwrap().objects == objects);
    eventually("no connection is left", LONG, || manager.stats().unwrap().connections <= 1 + 9);
}

#[test]
fn killed_servers_end_every_call() {
    let _watchdog = test_watchdog();
    let mut rng = Rng::from_env();
    for round in 0..kills(12) {
        // By their lanes, and by their sockets.
        let manager = Manager::builder().shared_memory(round % 3 != 0).start().unwrap();
        let (dict, queue) = (manager.dict::<u64, u64>().unwrap(), manager.queue::<u64>().unwrap());
        let child = Process::spawn(
            |queue: Queue<u64>| {
                let mut last = 0;
                loop {
                    match queue.get() {
                        Ok(n) => {
                            assert!(n > last);
                            last = n;
                        }
                        Err(error) => return error.is_server_gone(),
                    }
                }
            },
            queue.clone(),
        )
        .unwrap();
        let busy = {
            let (dict, queue) = (dict.clone(), queue.clone());
            std::thread::spawn(move || {
                for n in 1.. {
                    let outcome =
                        queue.put(&n).and_then(|()| dict.update(&1, |n, ()| *n = n.map(|n| n + 1), &()));
                    if let Err(error) = outcome {
                        return error.is_server_gone();
                    }
                }
                false
            })
        };
        delay(rng.duration(Duration::from_millis(30)));
        let pid = rustix::process::Pid::from_raw(manager.pid() as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        assert!(busy.join().unwrap() && child.join().unwrap());
    }
}

/// As `churn`, over a network that fails, and without functions.
fn remote_churn(address: Address) {
    let pauses = (Duration::from_millis(1), Duration::from_millis(10));
    // Longer than a busy machine keeps one from coming back, who then would end by itself; what the killed hold is held as
    // long.
    let reconnect =
        Reconnect::default().attempts(1000).pauses(pauses.0, pauses.1).grace(Duration::from_millis(1500));
    // The connection that fails may be the first.
    let connect = || Session::connector("key").reconnect(reconnect).connect(address.clone());
    let session = std::iter::repeat_with(connect).find_map(Result::ok).unwrap();
    let items = session.find::<Queue<u64>>("items").unwrap();
    let done = session.find::<Dict<u64, u64>>("done").unwrap();
    let lock = session.find::<Lock>("lock").unwrap();
    let pair = ["first", "second"].map(|name| session.find::<Value<u64>>(name).unwrap());
    let semaphore = session.find::<Semaphore>("semaphore").unwrap();
    for round in 0_u64.. {
        if let Ok(item) = items.get_timeout(Duration::from_millis(1))
            && let Some(times) = done.insert(&item, &1).unwrap()
        {
            done.set(&item, &(times + 1)).unwrap();
        }
        let guard = lock.lock().unwrap_or_else(|error| error.into_guard().unwrap());
        for value in &pair {
            value.set(&(value.get().unwrap() + 1)).unwrap();
        }
        drop(guard);
        let permit = semaphore.permit_timeout(Duration::from_millis(1)).unwrap();
        assert_eq!(session.list_of(&[round]).unwrap().len().unwrap(), 1);
        drop(permit);
    }
}

#[test]
fn remote_clients_that_are_killed_or_cut_off_lose_nothing_but_what_they_had_in_hand() {
    let _watchdog = test_watchdog();
    let mut rng = Rng::from_env();
    let manager = Manager::builder().address(("127.0.0.1", 0)).authkey("key").start().unwrap();
    let Some(Address::Tcp(address)) = manager.public_address().cloned() else { panic!("no port") };
    let (items, done) = (manager.queue::<u64>().unwrap(), manager.dict::<u64, u64>().unwrap());
    let (lock, semaphore) = (manager.lock().unwrap(), manager.semaphore(2).unwrap());
    let pair = [manager.value(&0_u64).unwrap(), manager.value(&0_u64).unwrap()];
    manager.publish("items", &items).unwrap();
    manager.publish("done", &done).unwrap();
    manager.publish("lock", &lock).unwrap();
    manager.publish("first", &pair[0]).unwrap();
    manager.publish("second", &pair[1]).unwrap();
    manager.publish("semaphore", &semaphore).unwrap();
    let proxy = Proxy::to(address);
    proxy.cut_within(20_000);
    let start = || Process::spawn(remote_churn, Address::Tcp(proxy.address())).unwrap();
    let mut workers: Vec<_> = (0..3).map(|_| start()).collect();
    let deaths = u64::from(kills(12));
    let mut next = 0;
    for _ in 0..deaths {
        let more: Vec<u64> = (next..next + rng.within(1..30)).collect();
        next += more.len() as u64;
        items.put_many(&more).unwrap();
        delay(rng.duration(Duration::from_millis(100)));
        let at = rng.below(3) as usize;
        workers[at].kill().unwrap();
        assert_eq!(workers[at].wait().unwrap().signal(), Some(9), "it was killed, and did not end by itself");
        workers[at] = start();
    }
    eventually("the items are taken", LONG, || items.is_empty().unwrap());
    for worker in &workers {
        worker.kill().unwrap();
        assert_eq!(worker.wait().unwrap().signal(), Some(9));
    }
    let deaths = deaths + workers.len() as u64;
    eventually("nobody is away or waits", LONG, || {
        let stats = manager.stats().unwrap();
        (stats.away, stats.waiting) == (0, 0)
    });
    // What was in hand went back.
    while let Ok(item) = items.try_get() {
        done.insert(&item, &1).unwrap();
    }
    let done: BTreeMap<u64, u64> = done.snapshot().unwrap().into_iter().collect();
    assert!(done.values().all(|times| *times == 1), "an item was taken twice: {done:?}");
    let lost = next - done.len() as u64;
    assert!(lost <= deaths, "{lost} of {next} items are lost with {deaths} processes");
    drop(lock.lock().or_else(|error| error.into_guard()).unwrap());
    eventually("the permits return", LONG, || semaphore.value().unwrap() == 2);
    let (first, second) = (pair[0].get().unwrap(), pair[1].get().unwrap());
    assert!(first >= second && first - second <= deaths, "{first} {second} {deaths}");
    eventually("no lease is lost", LONG, || manager.stats().unwrap().objects == 6);
}
