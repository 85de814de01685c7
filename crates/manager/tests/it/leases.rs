//! What keeps an object alive: proxies here and elsewhere, on their way, and inside of others.

use crate::ways::{Way, each_way};
use procession_channel::connection::Pipe;
use procession_manager::{Dict, ErrorKind, Hosted as _, List, Manager, Session, Value};
use procession_parcel::Parcel;
use procession_process::{Process, StartMethod};
use procession_testkit::{Census, test_watchdog, wait::eventually};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(10);

fn soon_objects(session: &Session, count: u64) {
    eventually("the leases are given back", LONG, || session.stats().unwrap().objects == count);
}

#[test]
fn an_object_goes_with_its_last_proxy() {
    let _watchdog = test_watchdog();
    let manager = Manager::start().unwrap();
    let dict = manager.dict::<u8, u8>().unwrap();
    let again = dict.clone();
    assert_eq!(dict, again);
    drop(dict);
    assert_eq!(manager.stats().unwrap().objects, 1);
    drop(again);
    assert_eq!(manager.stats().unwrap().objects, 0);
}

#[test]
fn a_parcel_keeps_what_is_in_it_when_its_sender_lets_go() {
    let _watchdog = test_watchdog();
    let manager = Manager::start().unwrap();
    let value = manager.value(&7_u32).unwrap();
    let parcel = Parcel::pack(&value).unwrap();
    drop(value);
    assert_eq!(manager.stats().unwrap().objects, 1);
    let value: Value<u32> = parcel.unpack().unwrap();
    assert_eq!(manager.stats().unwrap().objects, 1);
    assert_eq!(value.get().unwrap(), 7);
    drop(value);
    soon_objects(&manager, 0);
    // A parcel that nobody unpacks.
    let value = manager.value(&8_u32).unwrap();
    let parcel = Parcel::pack(&(&value, &value)).unwrap();
    drop(value);
    assert_eq!(manager.stats().unwrap().objects, 1);
    drop(parcel);
    soon_objects(&manager, 0);
}

/// CPython loses the object here (gh-75275, gh-119937).
fn a_proxy_on_its_way_is_not_lost(way: Way) {
    let manager = Manager::start().unwrap();
    let (receiver, sender) = Pipe::<Value<String>>::one_way().unwrap();
    for n in 0..10 {
        // The only proxy there is goes away before anybody unpacks it.
        sender.send(&manager.value(&format!("number {n}")).unwrap()).unwrap();
    }
    let party = way.start(
        |receiver: procession_channel::connection::PipeReceiver<Value<String>>| {
            (0..10).map(|_| receiver.recv().unwrap().get().unwrap()).collect::<Vec<_>>()
        },
        receiver,
    );
    assert_eq!(party.join(), (0..10).map(|n| format!("number {n}")).collect::<Vec<_>>());
    soon_objects(&manager, 0);
}

/// What a child made and gives back as its result, when it is gone.
fn a_childs_object_lives_on_in_its_result(way: Way) {
    let manager = Manager::start().unwrap();
    let party = way.start(
        |session: Session| {
            let list = session.list::<Value<u64>>().unwrap();
            list.push(&session.value(&5).unwrap()).unwrap();
            list
        },
        manager.session(),
    );
    let list = party.join();
    assert_eq!(list.get(0).unwrap().unwrap().get().unwrap(), 5);
    assert_eq!(manager.stats().unwrap().objects, 2);
    drop(list);
    soon_objects(&manager, 0);
}

each_way!(a_proxy_on_its_way_is_not_lost, a_childs_object_lives_on_in_its_result);

#[test]
fn a_killed_client_gives_back_its_leases() {
    let _watchdog = test_watchdog();
    let manager = Manager::start().unwrap();
    let shared = manager.list::<u64>().unwrap();
    let (receiver, sender) = Pipe::<()>::one_way().unwrap();
    let child = Process::spawn(
        |(session, shared, sender): (Session, List<u64>, procession_channel::connection::PipeSender<()>)| {
            let own: Vec<_> = (0..20).map(|n| session.value(&n).unwrap()).collect();
            shared.push(&(own.len() as u64)).unwrap();
            sender.send(&()).unwrap();
            std::thread::park();
        },
        (manager.session(), shared.clone(), sender),
    )
    .unwrap();
    receiver.recv().unwrap();
    assert_eq!(manager.stats().unwrap().objects, 21);
    child.kill().unwrap();
    soon_objects(&manager, 1);
    assert_eq!(shared.snapshot().unwrap(), [20]);
}

#[test]
fn a_proxy_of_other_types_is_refused() {
    let _watchdog = test_watchdog();
    let manager = Manager::start().unwrap();
    let dict = manager.dict::<u64, u64>().unwrap();
    let pack = || Parcel::pack(&dict).unwrap();
    assert!(pack().unpack::<Dict<u64, String>>().unwrap_err().to_string().contains("other types"));
    assert!(pack().unpack::<List<u64>>().is_err());
    assert_eq!(pack().unpack::<Dict<u64, u64>>().unwrap(), dict);
}

#[test]
fn a_proxy_is_refused_by_what_carries_bytes_alone() {
    let _watchdog = test_watchdog();
    let manager = Manager::start().unwrap();
    let queue = procession_channel::queue::Queue::bounded(4).unwrap();
    let error = queue.put(manager.value(&1_u8).unwrap()).unwrap_err().to_string();
    assert!(error.contains("Pipe"), "{error}");
}

#[test]
fn a_ticket_goes_where_no_descriptor_does_and_keeps_its_object() {
    let _watchdog = test_watchdog();
    let manager = Manager::start().unwrap();
    let queue = procession_channel::queue::Queue::bounded(4).unwrap();
    for n in 0..3_u64 {
        queue.put(manager.value(&n).unwrap().ticket().unwrap()).unwrap();
    }
    assert_eq!(manager.stats().unwrap().objects, 3);
    let child = Process::spawn(
        |queue: procession_channel::queue::Queue<procession_manager::Ticket<Value<u64>>>| {
            queue.get().unwrap().redeem().unwrap().get().unwrap()
        },
        queue.clone(),
    )
    .unwrap();
    assert_eq!(child.join().unwrap(), 0);
    queue.get().unwrap().cancel().unwrap();
    let bytes = Parcel::pack(&queue.get().unwrap()).unwrap();
    let ticket = || bytes.try_clone().unwrap().unpack::<procession_manager::Ticket<Value<u64>>>().unwrap();
    let value = ticket().redeem().unwrap();
    assert_eq!(value.get().unwrap(), 2);
    assert_eq!(ticket().redeem().unwrap_err().kind(), ErrorKind::ObjectGone);
    drop(value);
    soon_objects(&manager, 0);
    // One whose issuer is gone.
    let issue = |session: Session| session.value(&1_u64).unwrap().ticket().unwrap();
    let orphan = Process::spawn(issue, manager.session()).unwrap().join().unwrap();
    soon_objects(&manager, 0);
    assert_eq!(orphan.redeem().unwrap_err().kind(), ErrorKind::ObjectGone);
}

#[test]
fn a_circle_of_proxies_stays_until_the_end() {
    let _watchdog = test_watchdog();
    let manager = Manager::start().unwrap();
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Node(Option<List<Node>>);
    let list = manager.list::<Node>().unwrap();
    list.push(&Node(None)).unwrap();
    list.push(&Node(Some(list.clone()))).unwrap();
    let inner = list.get(1).unwrap().unwrap().0.unwrap();
    assert_eq!((inner == list, inner.len().unwrap()), (true, 2));
    inner.clear().unwrap();
    drop((list, inner));
    soon_objects(&manager, 0);
}

#[test]
fn proxies_sent_and_used_leave_no_descriptors() {
    let _watchdog = test_watchdog();
    procession_testkit::isolated(procession_testkit::test_name!(), || {
        let manager = Manager::start().unwrap();
        let echo = |dict: Dict<u64, u64>| {
            dict.set(&1, &1).unwrap();
            dict
        };
        let child = |method| Process::builder().start_method(method).spawn(echo, manager.dict().unwrap());
        let connections = manager.stats().unwrap().connections;
        let ended = || manager.stats().unwrap().connections == connections;
        drop(child(StartMethod::ForkServer).unwrap().join().unwrap());
        // Those of the first child as well.
        eventually("the first connections end", LONG, ended);
        let before = Census::take();
        for _ in 0..5 {
            let back = child(StartMethod::ForkServer).unwrap().join().unwrap();
            assert_eq!(back.get(&1).unwrap(), Some(1));
        }
        soon_objects(&manager, 0);
        eventually("connections end", LONG, ended);
        before.assert_settles(LONG);
    });
}

#[test]
fn a_released_object_is_gone_for_who_remembers_its_number() {
    let _watchdog = test_watchdog();
    let manager = Manager::start().unwrap();
    manager.publish("it", &manager.value(&1_u8).unwrap()).unwrap();
    let found = manager.find::<Value<u8>>("it").unwrap();
    assert!(manager.unpublish("it").unwrap());
    assert_eq!(found.get().unwrap(), 1);
    drop(found);
    soon_objects(&manager, 0);
    assert_eq!(manager.find::<Value<u8>>("it").unwrap_err().kind(), ErrorKind::NotFound);
}
