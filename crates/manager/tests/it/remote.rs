//! Clients over a network that fails: they come back, or are noticed as gone.

use crate::proxy::Proxy;
use procession_manager::{Address, ErrorKind, Lock, Manager, Queue, Reconnect, Session};
use procession_process::Process;
use procession_testkit::{test_watchdog, wait::eventually};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(20);

pub(crate) fn manager() -> (Manager, SocketAddr) {
    let manager = Manager::builder().address(("127.0.0.1", 0)).authkey("key").start().unwrap();
    let Some(Address::Tcp(address)) = manager.public_address().cloned() else { panic!("no port") };
    (manager, address)
}

/// Quick attempts, and many of them.
pub(crate) fn quick() -> Reconnect {
    Reconnect::default().attempts(1000).pauses(Duration::from_millis(1), SHORT)
}

fn pid(manager: &Manager) -> Pid {
    Pid::from_raw(manager.pid() as i32).unwrap()
}

#[test]
fn cut_connections_lose_nothing_and_repeat_nothing() {
    let _watchdog = test_watchdog();
    let (manager, address) = manager();
    let list = manager.list::<(u64, Vec<u8>)>().unwrap();
    let queue = manager.queue::<u64>().unwrap();
    let total = manager.value(&0_u64).unwrap();
    let lock = manager.lock().unwrap();
    manager.publish("list", &list).unwrap();
    manager.publish("queue", &queue).unwrap();
    manager.publish("total", &total).unwrap();
    manager.publish("lock", &lock).unwrap();
    let proxy = Proxy::to(address);
    let session = Session::connector("key").reconnect(quick()).connect(proxy.address()).unwrap();
    assert!(session.grace().unwrap() > Duration::ZERO);
    let kept = session.list_of(&[1_u8, 2, 3]).unwrap();
    let guard = session.find::<Lock>("lock").unwrap().lock().unwrap();
    const EACH: u64 = 150;
    // Long enough for a handshake to get through now and then.
    proxy.cut_within(3000);
    proxy.cut();
    std::thread::scope(|scope| {
        for thread in 0..3_u64 {
            let session = session.clone();
            scope.spawn(move || {
                let list = session.find::<procession_manager::List<(u64, Vec<u8>)>>("list").unwrap();
                let queue = session.find::<Queue<u64>>("queue").unwrap();
                let total = session.find::<procession_manager::Value<u64>>("total").unwrap();
                for n in 0..EACH {
                    let n = thread * EACH + n;
                    // Some are longer than what passes at once, so they take several attempts.
                    list.push(&(n, vec![7; if n % 50 == 7 { 2000 } else { 10 }])).unwrap();
                    queue.put(&n).unwrap();
                    queue.get().unwrap();
                    loop {
                        let now = total.get().unwrap();
                        if total.compare_and_swap(&now, &(now + 1)).unwrap() {
                            break;
                        }
                    }
                    drop(session.dict::<u8, u8>().unwrap());
                }
            });
        }
    });
    proxy.cut_within(0);
    proxy.cut();
    let mut all: Vec<u64> = list.snapshot().unwrap().into_iter().map(|(n, _)| n).collect();
    for thread in 0..3 {
        let of_thread = all.iter().filter(|n| **n / EACH == thread);
        assert!(of_thread.is_sorted(), "in the order in which they were said");
    }
    all.sort_unstable();
    assert!(all.into_iter().eq(0..3 * EACH));
    assert_eq!((total.get().unwrap(), queue.len().unwrap()), (3 * EACH, 0));
    assert!(proxy.cuts() > 20, "{} cuts", proxy.cuts());
    assert!(lock.is_locked().unwrap() && lock.poisoned_by().unwrap().is_none());
    drop(guard);
    eventually("the lock is free", LONG, || !lock.is_locked().unwrap());
    assert_eq!(kept.len().unwrap(), 3);
    drop(kept);
    eventually("no lease is left over", LONG, || manager.stats().unwrap().objects == 4);
}

#[test]
fn a_call_that_waits_goes_on_waiting_through_a_cut() {
    let _watchdog = test_watchdog();
    let (manager, address) = manager();
    let queue = manager.queue::<u64>().unwrap();
    manager.publish("queue", &queue).unwrap();
    let proxy = Proxy::to(address);
    let session = Session::connector("key").reconnect(quick()).connect(proxy.address()).unwrap();
    let theirs = session.find::<Queue<u64>>("queue").unwrap();
    for n in 0..5 {
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| theirs.get().unwrap());
            eventually("it waits", LONG, || manager.stats().unwrap().waiting == 1);
            proxy.refuse(true);
            proxy.cut();
            eventually("the server sees it", LONG, || manager.stats().unwrap().away == 1);
            assert_eq!(manager.stats().unwrap().waiting, 1);
            // It comes while nobody is there.
            queue.put(&n).unwrap();
            proxy.refuse(false);
            assert_eq!(waits.join().unwrap(), n);
        });
    }
    assert!(queue.is_empty().unwrap());
    assert_eq!(manager.stats().unwrap().away, 0);
}

#[test]
fn when_the_grace_is_over_everything_is_given_back_and_each_call_is_an_error() {
    let _watchdog = test_watchdog();
    let (manager, address) = manager();
    let (lock, queue) = (manager.lock().unwrap(), manager.queue::<u64>().unwrap());
    manager.publish("lock", &lock).unwrap();
    manager.publish("queue", &queue).unwrap();
    let proxy = Proxy::to(address);
    let reconnect = quick().grace(Duration::from_millis(200));
    let session = Session::connector("key").reconnect(reconnect).connect(proxy.address()).unwrap();
    let list = session.list_of(&[1]).unwrap();
    let guard = session.find::<Lock>("lock").unwrap().lock().unwrap();
    let theirs = session.find::<Queue<u64>>("queue").unwrap();
    let waits = std::thread::spawn(move || theirs.get().unwrap_err());
    eventually("it waits", LONG, || manager.stats().unwrap().waiting == 1);
    proxy.refuse(true);
    proxy.cut();
    let died = lock.lock().unwrap_err();
    assert_eq!(died.died(), Some(std::process::id()));
    eventually("nothing is left", LONG, || {
        let stats = manager.stats().unwrap();
        (stats.objects, stats.waiting, stats.away) == (2, 0, 0)
    });
    // It comes too late.
    proxy.refuse(false);
    let error = waits.join().unwrap();
    assert!(error.is_server_gone() && error.may_have_run(), "{error}");
    assert!(error.to_string().contains("does not know this client"), "{error}");
    let error = list.len().unwrap_err();
    assert!(error.is_server_gone() && !error.may_have_run(), "{error}");
    drop(guard);
    drop(died);
    // The session begins anew.
    assert_eq!(session.list_of(&[1]).unwrap().len().unwrap(), 1);
}

#[test]
fn a_killed_server_is_an_error_after_the_last_attempt() {
    let _watchdog = test_watchdog();
    let (manager, address) = manager();
    let reconnect = Reconnect::default().attempts(3).pauses(Duration::from_millis(1), SHORT);
    let session = Session::connector("key").reconnect(reconnect).connect(address).unwrap();
    let queue = session.queue::<u64>().unwrap();
    let waits: Vec<_> = (0..3)
        .map(|_| {
            let queue = queue.clone();
            std::thread::spawn(move || queue.get().unwrap_err())
        })
        .collect();
    eventually("all wait", LONG, || manager.stats().unwrap().waiting == 3);
    kill_process(pid(&manager), Signal::KILL).unwrap();
    for wait in waits {
        let error = wait.join().unwrap();
        assert!(error.is_server_gone() && error.may_have_run(), "{error}");
    }
    assert!(queue.len().unwrap_err().is_server_gone());
}

#[test]
fn a_connection_that_does_not_come_back_says_what_is_not_known() {
    let _watchdog = test_watchdog();
    let (manager, address) = manager();
    let proxy = Proxy::to(address);
    let session = Session::connect(proxy.address(), "key").unwrap();
    let queue = session.queue::<u64>().unwrap();
    assert_eq!(session.grace().unwrap(), Duration::ZERO);
    let theirs = queue.clone();
    let waits = std::thread::spawn(move || theirs.get().unwrap_err());
    eventually("it waits", LONG, || manager.stats().unwrap().waiting == 1);
    proxy.cut();
    let error = waits.join().unwrap();
    assert!(error.is_server_gone() && error.may_have_run(), "{error}");
    let error = queue.get().unwrap_err();
    assert!(error.is_server_gone() && !error.may_have_run(), "{error}");
    eventually("nothing is left", LONG, || manager.stats().unwrap().objects == 0);
    // A session is not its connection.
    assert!(session.queue::<u64>().unwrap().is_empty().unwrap());
}

#[test]
fn who_says_farewell_is_not_waited_for_and_who_is_killed_is_for_the_grace() {
    let _watchdog = test_watchdog();
    let (manager, address) = manager();
    let lock = manager.lock().unwrap();
    manager.publish("lock", &lock).unwrap();
    let session = Session::connector("key").reconnect(quick()).connect(address).unwrap();
    let list = session.list_of(&[1]).unwrap();
    drop((session, list));
    eventually("it is gone", LONG, || manager.stats().unwrap().objects == 1);
    assert_eq!(manager.stats().unwrap().away, 0);
    let child = Process::spawn(
        |address: Address| {
            let reconnect = Reconnect::default().grace(Duration::from_millis(300));
            let session = Session::connector("key").reconnect(reconnect).connect(address).unwrap();
            let _guard = session.find::<Lock>("lock").unwrap().lock().unwrap();
            std::thread::park();
        },
        Address::Tcp(address),
    )
    .unwrap();
    eventually("it has the lock", LONG, || lock.is_locked().unwrap());
    child.kill().unwrap();
    eventually("it is away", LONG, || manager.stats().unwrap().away == 1);
    assert!(lock.try_lock().unwrap().is_none());
    assert_eq!(lock.lock().unwrap_err().died(), Some(child.pid()));
}

#[test]
fn a_server_may_forbid_coming_back() {
    let _watchdog = test_watchdog();
    let manager = Manager::builder()
        .address(("127.0.0.1", 0))
        .authkey("key")
        .max_grace(Duration::ZERO)
        .start()
        .unwrap();
    let Some(Address::Tcp(address)) = manager.public_address().cloned() else { panic!("no port") };
    let proxy = Proxy::to(address);
    let session = Session::connector("key").reconnect(quick()).connect(proxy.address()).unwrap();
    assert_eq!(session.grace().unwrap(), Duration::ZERO);
    let list = session.list_of(&[1]).unwrap();
    proxy.cut();
    eventually("it is gone", LONG, || manager.stats().unwrap().objects == 0);
    assert!(list.len().unwrap_err().is_server_gone());
}

#[test]
fn those_who_are_away_are_bounded() {
    let _watchdog = test_watchdog();
    let manager =
        Manager::builder().address(("127.0.0.1", 0)).authkey("key").max_connections(1).start().unwrap();
    let Some(Address::Tcp(address)) = manager.public_address().cloned() else { panic!("no port") };
    let lost = || {
        let proxy = Proxy::to(address);
        let session = Session::connector("key").reconnect(quick()).connect(proxy.address()).unwrap();
        let list = session.list_of(&[1]).unwrap();
        proxy.refuse(true);
        proxy.cut();
        eventually("the server sees it", LONG, || manager.stats().unwrap().connections == 1);
        (proxy, list)
    };
    let first = lost();
    assert_eq!((manager.stats().unwrap().away, manager.stats().unwrap().objects), (1, 1));
    let second = lost();
    assert_eq!((manager.stats().unwrap().away, manager.stats().unwrap().objects), (1, 1));
    first.0.refuse(false);
    assert_eq!(first.1.len().unwrap(), 1);
    second.0.refuse(false);
    assert!(second.1.len().unwrap_err().is_server_gone());
}

#[test]
fn a_stopped_client_is_noticed_and_what_it_holds_is_given_back() {
    let _watchdog = test_watchdog();
    let (manager, address) = manager();
    let (lock, queue) = (manager.lock().unwrap(), manager.queue::<u64>().unwrap());
    manager.publish("lock", &lock).unwrap();
    manager.publish("queue", &queue).unwrap();
    let child = Process::spawn(
        |address: Address| {
            let bound = Duration::from_secs(1);
            let session = Session::connector("key").keepalive(bound).connect(address).unwrap();
            let _guard = session.find::<Lock>("lock").unwrap().lock().unwrap();
            let _list = session.list_of(&[1]).unwrap();
            // It is quiet for longer than the bound, and not gone.
            let _ = session.find::<Queue<u64>>("queue").unwrap().get();
        },
        Address::Tcp(address),
    )
    .unwrap();
    eventually("it waits", LONG, || manager.stats().unwrap().waiting == 1);
    assert!(lock.lock_timeout(Duration::from_millis(2500)).unwrap().is_none(), "it is still there");
    let stopped = Pid::from_raw(child.pid() as i32).unwrap();
    kill_process(stopped, Signal::STOP).unwrap();
    assert_eq!(lock.lock().unwrap_err().died(), Some(child.pid()));
    let stats = manager.stats().unwrap();
    assert_eq!((stats.objects, stats.waiting), (2, 0));
    kill_process(stopped, Signal::KILL).unwrap();
    kill_process(stopped, Signal::CONT).unwrap();
}

#[test]
fn a_server_that_is_stopped_is_noticed_by_who_waits() {
    let _watchdog = test_watchdog();
    let (manager, address) = manager();
    let bound = Duration::from_secs(1);
    let session = Session::connector("key").keepalive(bound).connect(address).unwrap();
    let queue = session.queue::<u64>().unwrap();
    let waits = std::thread::spawn(move || queue.get().unwrap_err());
    eventually("it waits", LONG, || manager.stats().unwrap().waiting == 1);
    kill_process(pid(&manager), Signal::STOP).unwrap();
    let begin = Instant::now();
    let error = waits.join().unwrap();
    assert!(error.is_server_gone() && error.may_have_run(), "{error}");
    assert!(error.to_string().contains("said nothing"), "{error}");
    assert!(begin.elapsed() < LONG);
    kill_process(pid(&manager), Signal::CONT).unwrap();
    eventually("the server notices as well", LONG, || manager.stats().unwrap().objects == 0);
}

#[test]
fn a_network_that_swallows_everything_for_a_while_loses_nothing() {
    let _watchdog = test_watchdog();
    let (manager, address) = manager();
    let list = manager.list::<u64>().unwrap();
    manager.publish("list", &list).unwrap();
    let proxy = Proxy::to(address);
    let connector = Session::connector("key").reconnect(quick()).keepalive(Duration::from_secs(1));
    let session = connector.connect(proxy.address()).unwrap();
    let theirs = session.find::<procession_manager::List<u64>>("list").unwrap();
    theirs.push(&0).unwrap();
    proxy.swallow(true);
    let says = std::thread::spawn(move || (1..10).for_each(|n| theirs.push(&n).unwrap()));
    eventually("the server notices", LONG, || manager.stats().unwrap().away == 1);
    proxy.swallow(false);
    says.join().unwrap();
    assert!(list.snapshot().unwrap().into_iter().eq(0..10));
}

#[test]
fn one_connection_too_many_is_told_so() {
    let _watchdog = test_watchdog();
    let manager =
        Manager::builder().address(("127.0.0.1", 0)).authkey("key").max_connections(2).start().unwrap();
    let address = manager.public_address().unwrap().clone();
    let connect = |key: &str| {
        // A connection of its own: sites are told apart by what they are reached with.
        let bound = Duration::from_secs(100 + key.len() as u64);
        Session::connector("key").keepalive(bound).connect(address.clone())
    };
    let (first, second) = (connect("a").unwrap(), connect("ab").unwrap());
    let error = connect("abc").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit);
    assert!(error.to_string().contains("2 connections"), "{error}");
    assert!(manager.refusals().unwrap().iter().any(|text| text.contains("2 connections")));
    assert!(first.list_of(&[1]).unwrap().len().unwrap() == 1 && second.stats().is_ok());
    assert_eq!(second.refusals().unwrap_err().kind(), ErrorKind::Refused);
    drop(first);
    eventually("there is a place", LONG, || connect("abcd").is_ok());
    // The tree's own are others.
    assert!(manager.list_of(&[1]).is_ok());
}
