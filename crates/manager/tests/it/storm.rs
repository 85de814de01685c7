//! Clients and servers that are killed at random instants.

use procession_manager::{Dict, ErrorKind, JoinableQueue, List, Lock, Manager, Queue, Semaphore, Value};
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
    let mut rng = Rng::from_env();
    let manager = Manager::start().unwrap();
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
    let deaths = u64::from(kills(40));
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
    for _ in 0..kills(8) {
        let manager = Manager::start().unwrap();
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
