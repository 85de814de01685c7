//! What a request may make the server do, and what a mistake leaves behind.

use crate::{
    hostile::frame,
    lanes::{Raw, mapped},
};
use procession_manager::{Address, ErrorKind, List, Manager, Session};
use procession_parcel::Bytes;
use procession_process::Process;
use procession_testkit::{isolated, test_watchdog, wait::eventually};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use std::{
    io::{Read, Write},
    time::Duration,
};

const LONG: Duration = Duration::from_secs(10);

#[test]
fn repeating_a_list_is_bounded_in_rounds_and_bytes() {
    let _watchdog = test_watchdog();
    let manager = Manager::builder().max_frame(4 << 20).start().unwrap();
    let list = manager.list::<Vec<u8>>().unwrap();
    list.repeat(usize::MAX).unwrap();
    list.push(&vec![1; 1 << 20]).unwrap();
    assert_eq!(list.repeat(100).unwrap_err().kind(), ErrorKind::Limit);
    list.repeat(3).unwrap();
    assert_eq!(list.len().unwrap(), 3);
}

#[test]
fn a_reply_does_not_grow_beyond_its_bound() {
    let _watchdog = test_watchdog();
    let manager = Manager::builder().max_frame(4 << 20).start().unwrap();
    let dict = manager.dict::<u64, Vec<u8>>().unwrap();
    dict.set(&1, &vec![1; 2 << 20]).unwrap();
    assert_eq!(dict.get_many(&[1; 1000]).unwrap_err().kind(), ErrorKind::Limit);
    assert!(dict.get_many(&[1, 2]).unwrap()[1].is_none());
}

#[derive(Debug)]
struct Cross;

impl Drop for Cross {
    fn drop(&mut self) {
        panic!("not like this");
    }
}

#[test]
fn a_panic_in_the_drop_of_a_hosted_object_ends_nothing() {
    let _watchdog = test_watchdog();
    let manager = Manager::start().unwrap();
    let cross = manager.host_with(|()| Cross, &()).unwrap();
    drop(cross);
    eventually("it is gone", LONG, || manager.stats().unwrap().objects == 0);
    let hosted = manager.host(&1_u64).unwrap();
    assert_eq!(hosted.call(|n, ()| *n, &()).unwrap(), 1);
    assert!(manager.is_alive());
}

#[test]
fn a_task_that_another_process_called_done_is_not_lost_with_its_taker() {
    let _watchdog = test_watchdog();
    let manager = Manager::start().unwrap();
    let tasks = manager.joinable_queue::<u64>(0).unwrap();
    tasks.put_many(&[1, 2]).unwrap();
    let (receiver, sender) = procession_channel::connection::Pipe::<u64>::one_way().unwrap();
    let taker = Process::spawn(
        |(tasks, sender): (
            procession_manager::JoinableQueue<u64>,
            procession_channel::connection::PipeSender<u64>,
        )| {
            sender.send(&tasks.get().unwrap()).unwrap();
            std::thread::park();
        },
        (tasks.clone(), sender),
    )
    .unwrap();
    assert_eq!(receiver.recv().unwrap(), 1);
    tasks.task_done().unwrap();
    let connections = manager.stats().unwrap().connections;
    taker.kill().unwrap();
    eventually("it is gone", LONG, || manager.stats().unwrap().connections < connections);
    // The second one is still to be done.
    assert_eq!(tasks.join_timeout(Duration::from_millis(20)).unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(tasks.get().unwrap(), 2);
    tasks.task_done().unwrap();
    tasks.join().unwrap();
}

/// It does not like 13.
#[derive(Serialize, Debug)]
struct Picky(u64);

impl<'de> Deserialize<'de> for Picky {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Picky, D::Error> {
        match u64::deserialize(d)? {
            13 => Err(D::Error::custom("13")),
            n => Ok(Picky(n)),
        }
    }
}

#[test]
fn a_reply_that_cannot_be_decoded_leaves_no_lease_behind() {
    let _watchdog = test_watchdog();
    let manager = Manager::start().unwrap();
    let dict = manager.dict::<u64, (Picky, List<u64>)>().unwrap();
    for n in [13, 14, 15] {
        dict.set(&n, &(Picky(n), manager.list().unwrap())).unwrap();
    }
    assert_eq!(dict.snapshot().unwrap_err().kind(), ErrorKind::Encoding);
    assert_eq!(dict.values().unwrap_err().kind(), ErrorKind::Encoding);
    assert_eq!(dict.get_many(&[13, 14, 15]).unwrap_err().kind(), ErrorKind::Encoding);
    assert!(dict.iter().next().unwrap().is_err());
    dict.clear().unwrap();
    eventually("their leases end", LONG, || manager.stats().unwrap().objects == 1);
}

#[test]
fn a_client_that_asks_and_asks_leaves_others_their_turn() {
    let _watchdog = test_watchdog();
    let manager = Manager::start().unwrap();
    let list = manager.list_of(&vec![0_u64; 100_000]).unwrap();
    let askers: Vec<_> = (0..8)
        .map(|_| {
            let list = list.clone();
            std::thread::spawn(move || (0..20).map(|_| list.count(&0).unwrap()).sum::<usize>())
        })
        .collect();
    askers.into_iter().for_each(|asker| assert_eq!(asker.join().unwrap(), 2_000_000));
}

#[test]
fn a_forked_childs_copy_of_a_guard_gives_nothing_back() {
    let _watchdog = test_watchdog();
    procession_testkit::isolated(procession_testkit::test_name!(), || {
        let manager = Manager::start().unwrap();
        let (lock, semaphore) = (manager.lock().unwrap(), manager.semaphore(2).unwrap());
        let mut held = Some((lock.lock().unwrap(), semaphore.permit().unwrap()));
        procession_testkit::forked(|| {
            let _own = semaphore.permit().unwrap();
            drop(held.take());
            assert!(lock.is_locked().unwrap());
            assert_eq!(semaphore.value().unwrap(), 0);
        });
        assert!(lock.is_locked().unwrap());
        drop(held);
        eventually("both are free", LONG, || !lock.is_locked().unwrap() && semaphore.value().unwrap() == 2);
    });
}

/// Says that it runs, by a file, and waits for another.
fn wait_behind(_: &mut u64, [inside, door]: [String; 2]) {
    std::fs::write(inside, []).unwrap();
    eventually("the door is open", LONG, || std::fs::exists(&door).unwrap());
}

#[test]
fn what_the_requests_of_a_client_that_wait_have_in_bytes_is_bounded() {
    let _watchdog = test_watchdog();
    // The least limit: 64 MiB for all of them together.
    let manager = Manager::builder().max_frame(1 << 20).start().unwrap();
    let (item, threads) = (Bytes(vec![7; 900 << 10]), 80);
    // The last one goes beyond.
    let fit = (64 << 20) / (900 << 10) + 1;
    let all_at_once = |call: &(dyn Fn() -> procession_manager::Result<()> + Sync),
                       release: &dyn Fn(usize)| {
        std::thread::scope(|scope| {
            let (said, outcomes) = std::sync::mpsc::channel();
            for _ in 0..threads {
                let said = said.clone();
                scope.spawn(move || said.send(call()).unwrap());
            }
            for _ in fit..threads {
                let refused = outcomes.recv().unwrap().unwrap_err();
                assert_eq!(refused.kind(), ErrorKind::Limit);
            }
            release(fit);
            (0..fit).for_each(|_| outcomes.recv().unwrap().unwrap());
        });
    };
    let queue = manager.bounded_queue::<Bytes>(1).unwrap();
    let drained = |count| (0..=count).for_each(|_| drop(queue.get().unwrap()));
    queue.put(&item).unwrap();
    all_at_once(&|| queue.put(&item), &drained);
    let hosted = manager.host(&0_u64).unwrap();
    let files = ["inside", "door"].map(|name| format!("procession-bound-{}-{name}", std::process::id()));
    let files = files.map(|name| std::env::temp_dir().join(name).to_str().unwrap().to_owned());
    std::thread::scope(|scope| {
        scope.spawn(|| hosted.call(wait_behind, &files).unwrap());
        eventually("it runs", LONG, || std::fs::exists(&files[0]).unwrap());
        all_at_once(&|| hosted.call(|sum, item: Bytes| *sum += item.0.len() as u64, &item), &|_| {
            std::fs::write(&files[1], []).unwrap();
        });
    });
    files.iter().for_each(|file| std::fs::remove_file(file).unwrap());
    assert_eq!(hosted.call(|sum, _: Bytes| *sum, &item).unwrap(), fit as u64 * (900 << 10));
    // What does not wait any more does not count.
    queue.put(&item).unwrap();
    all_at_once(&|| queue.put(&item), &drained);
}

#[test]
fn who_lets_an_object_go_while_waiting_for_it_is_told_when_its_time_is_over() {
    let _watchdog = test_watchdog();
    let path = std::env::temp_dir().join(format!("procession-manager-let-go-{}", std::process::id()));
    let manager = Manager::builder().address(path).authkey("key").start().unwrap();
    let mut raw = Raw::greeted(manager.public_address().unwrap());
    let words = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    // A queue; then an item of it is waited for, and its only lease is let go.
    raw.write_all(&frame(0, 2, 2, 0, &words(&[7, 0, 0]))).unwrap();
    let mut reply = [0; 40];
    raw.read_exact(&mut reply).unwrap();
    let queue = u64::from_le_bytes(reply[32..].try_into().unwrap());
    let wait = frame(0, 71, 3, queue, &words(&[20_000_000, 1]));
    raw.write_all(&[wait, frame(1, 4, 0, 0, &words(&[queue, 1]))].concat()).unwrap();
    raw.read_exact(&mut reply[..32]).unwrap();
    assert_eq!(reply[16..24], 3_u64.to_le_bytes());
    assert_ne!(reply[4..6], [0, 0], "it is an error");
    assert_eq!(manager.stats().unwrap().objects, 0);
}

#[test]
fn what_is_taken_out_at_once_is_bounded() {
    let _watchdog = test_watchdog();
    let manager = Manager::builder().max_frame(4 << 20).start().unwrap();
    let (queue, list) = (manager.queue::<Bytes>().unwrap(), manager.list::<Bytes>().unwrap());
    let (item, count) = (Bytes(vec![1; 1 << 20]), 70);
    for _ in 0..count {
        queue.put(&item).unwrap();
        list.push(&item).unwrap();
    }
    // As many as fit; the rest comes with the next call.
    let first = queue.get_many(count).unwrap().len();
    assert!((60..=65).contains(&first), "{first}");
    assert_eq!(first + queue.get_many(count).unwrap().len(), count);
    assert_eq!(list.splice(.., &[]).unwrap_err().kind(), ErrorKind::Limit);
    assert_eq!(list.len().unwrap(), count);
    assert_eq!(list.splice(..60, &[]).unwrap().len(), 60);
}

#[test]
fn a_client_that_dies_with_many_waits_takes_nothing_along() {
    let _watchdog = test_watchdog();
    let manager = Manager::start().unwrap();
    let (queue, event, lock) =
        (manager.queue::<u64>().unwrap(), manager.event().unwrap(), manager.lock().unwrap());
    let guard = lock.lock().unwrap();
    let waiter = Process::spawn(
        |(queue, event, lock): (
            procession_manager::Queue<u64>,
            procession_manager::Event,
            procession_manager::Lock,
        )| {
            std::thread::scope(|scope| {
                for _ in 0..20 {
                    scope.spawn(|| queue.get().map(drop));
                    scope.spawn(|| event.wait());
                    scope.spawn(|| lock.lock().map(drop));
                }
            });
        },
        (queue.clone(), event.clone(), lock.clone()),
    )
    .unwrap();
    eventually("all wait", LONG, || manager.stats().unwrap().waiting == 60);
    waiter.kill().unwrap();
    eventually("nobody waits", LONG, || manager.stats().unwrap().waiting == 0);
    queue.put(&1).unwrap();
    assert_eq!(queue.get().unwrap(), 1);
    event.set().unwrap();
    drop(guard);
    assert!(lock.lock_timeout(LONG).unwrap().is_some());
}

#[test]
fn one_client_more_than_may_have_lanes_is_served_by_its_socket_until_another_ends() {
    isolated!({
        let limit = getrlimit(Resource::Nofile);
        let soft = |most: u64| setrlimit(Resource::Nofile, Rlimit { current: Some(most), ..limit }).unwrap();
        // Two descriptors for each here; in the server a client may have lanes for each eight.
        let all = limit.maximum.unwrap_or(u64::MAX);
        soft(all.min(4096));
        for (descriptors, most) in [(170, 21), (all, (all / 8).min(256))] {
            let name = format!("procession-bound-{}-{most}", std::process::id());
            let has = |current: u64| {
                let maximum = getrlimit(Resource::Nofile).maximum;
                setrlimit(Resource::Nofile, Rlimit { current: Some(current), maximum }).unwrap();
            };
            let builder = Manager::builder().address(Address::Abstract(name.into_bytes())).authkey("key");
            let manager = builder.initializer(has, &descriptors).start().unwrap();
            let address = manager.public_address().unwrap().clone();
            let connections = || manager.stats().unwrap().connections;
            assert_eq!((connections(), mapped()), (1, 1), "the manager's own client has some");
            // One that was offered some counts as one that uses them.
            let mut raws: Vec<Raw> = (1..most).map(|_| Raw::asked(&address).expect("lanes")).collect();
            raws.iter_mut().step_by(2).for_each(Raw::use_them);
            let (_refused, text) = Raw::asked(&address).err().expect("there are no more");
            assert!(text.contains("too many have some"), "{text}");
            let by_socket = Session::connect(address.clone(), "key").unwrap();
            let dict = by_socket.dict::<u64, u64>().unwrap();
            dict.set(&1, &2).unwrap();
            assert_eq!((dict.get(&1).unwrap(), mapped()), (Some(2), 1));
            // Of one that used them, and of one that did not, the next one has some.
            for _ in 0..2 {
                let before = connections();
                drop(raws.remove(0));
                eventually("it is gone", LONG, || connections() < before);
                let mut next = Raw::asked(&address).expect("lanes again");
                next.use_them();
                next.ping();
                raws.push(next);
                assert!(Raw::asked(&address).is_err(), "and no more than that");
            }
            assert_eq!((dict.get(&1).unwrap(), mapped()), (Some(2), 1), "who has its socket keeps to it");
            drop(raws);
            eventually("they are gone", LONG, || connections() <= 3);
            drop((dict, by_socket));
            let by_lanes = Session::connect(address, "key").unwrap();
            by_lanes.ping_timeout(LONG).unwrap();
            assert_eq!(mapped(), 2);
        }
    });
}
