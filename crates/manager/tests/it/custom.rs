//! Objects of any type.

use crate::ways::{Way, each_way};
use procession_manager::{Custom, ErrorKind, Manager};
use procession_testkit::{test_watchdog, wait::eventually};
use serde::{Deserialize, Serialize};
use std::{sync::mpsc, time::Duration};

#[derive(Serialize, Deserialize)]
struct Counter {
    hits: u64,
}

impl Counter {
    fn add(&mut self, by: u64) -> u64 {
        self.hits += by;
        self.hits
    }
}

fn a_hosted_counter_counts_for_all(way: Way) {
    let manager = Manager::start().unwrap();
    let counter = manager.host(&Counter { hits: 1 }).unwrap();
    let parties: Vec<_> = (0..3)
        .map(|_| {
            way.start(
                |counter: Custom<Counter>| {
                    for _ in 0..10 {
                        counter.call(Counter::add, &2).unwrap();
                    }
                },
                counter.clone(),
            )
        })
        .collect();
    parties.into_iter().for_each(|party| party.join());
    assert_eq!(counter.call(|counter, ()| counter.hits, &()).unwrap(), 61);
}
each_way!(a_hosted_counter_counts_for_all);

/// It could not travel.
struct Local {
    sender: mpsc::Sender<u64>,
    receiver: mpsc::Receiver<u64>,
}

#[test]
fn an_object_that_cannot_travel_is_made_in_the_server() {
    let _watchdog = test_watchdog();
    let manager = Manager::start().unwrap();
    let make = |first: u64| {
        let (sender, receiver) = mpsc::channel();
        sender.send(first).unwrap();
        Local { sender, receiver }
    };
    let local = manager.host_with(make, &7).unwrap();
    local.call(|local, n: u64| local.sender.send(n).is_ok(), &8).unwrap();
    let all = local.call(|local, ()| local.receiver.try_iter().collect::<Vec<u64>>(), &()).unwrap();
    assert_eq!(all, [7, 8]);
    assert_eq!(local.call(|_, ()| std::process::id(), &()).unwrap(), manager.pid());
}

#[test]
fn a_panic_is_the_calls_error_and_the_object_goes_on() {
    let _watchdog = test_watchdog();
    let manager = Manager::start().unwrap();
    let counter = manager.host(&Counter { hits: 1 }).unwrap();
    let error = counter
        .call(
            |counter, ()| -> u64 {
                counter.hits = 5;
                panic!("hits: {}", counter.hits)
            },
            &(),
        )
        .unwrap_err();
    assert!(error.panic().unwrap().message().contains("hits: 5"));
    assert_eq!(counter.call(Counter::add, &1).unwrap(), 6);
    let error = manager.host_with(|()| -> Counter { panic!("no counter") }, &()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Panicked);
    drop(counter);
    eventually("nothing is left", Duration::from_secs(10), || manager.stats().unwrap().objects == 0);
}

#[test]
fn a_function_that_blocks_stands_in_nobody_elses_way() {
    let _watchdog = test_watchdog();
    let manager = Manager::start().unwrap();
    let path = std::env::temp_dir().join(format!("procession-manager-gate-{}", std::process::id()));
    let (slow, fast) =
        (manager.host(&Counter { hits: 0 }).unwrap(), manager.host(&Counter { hits: 0 }).unwrap());
    let dict = manager.dict::<u64, u64>().unwrap();
    let wait_for_file = |counter: &mut Counter, path: std::path::PathBuf| {
        while !path.exists() {
            std::thread::sleep(Duration::from_millis(1));
        }
        counter.add(1)
    };
    let blocked: Vec<_> = (0..2)
        .map(|_| {
            let (slow, path) = (slow.clone(), path.clone());
            std::thread::spawn(move || slow.call(wait_for_file, &path).unwrap())
        })
        .collect();
    for n in 1..=20 {
        assert_eq!(fast.call(Counter::add, &1).unwrap(), n);
        dict.set(&n, &n).unwrap();
    }
    std::fs::write(&path, "").unwrap();
    let mut order: Vec<u64> = blocked.into_iter().map(|thread| thread.join().unwrap()).collect();
    order.sort_unstable();
    assert_eq!(order, [1, 2]);
    std::fs::remove_file(&path).unwrap();
}
