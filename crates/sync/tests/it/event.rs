//! An event, set, cleared and waited for by anybody.

use crate::{
    support::{BOUND, given, take, through_a_parcel},
    ways::{Way, each_way},
};
use procession_sync::{Deadline, Event};
use procession_testkit::{isolated, role, syscalls, test_name, watchdog};
use std::time::{Duration, Instant};

each_way! {
    it_is_set_cleared_and_waited_for,
    debug_tells_whether_it_is_set,
    a_wait_sees_a_set_that_was_cleared_at_once,
    what_was_written_before_a_set_is_there_after_the_wait,
}

/// As `_TestEvent.test_event`.
fn it_is_set_cleared_and_waited_for(way: Way) {
    let event = Event::new().unwrap();
    assert!(!event.is_set());
    assert!(!event.wait_timeout(Duration::ZERO));
    let before = Instant::now();
    assert!(!event.wait_timeout(Duration::from_millis(100)));
    assert!(before.elapsed() >= Duration::from_millis(100));
    assert!(event.set());
    assert!(!event.set());
    assert!(event.is_set());
    assert!(event.wait_timeout(Duration::ZERO));
    assert!(event.wait_deadline(Deadline::now()));
    event.wait();
    assert!(event.clear());
    assert!(!event.clear());
    assert!(!event.is_set());
    let party = way.start(|event: Event| event.set(), event.clone());
    assert!(event.wait_timeout(BOUND * 2));
    assert!(party.join());
}

/// CPython's event would say that it is not set.
fn a_wait_sees_a_set_that_was_cleared_at_once(way: Way) {
    let (event, ready) = (Event::new().unwrap(), Event::new().unwrap());
    let parties: Vec<_> = (0..3)
        .map(|_| {
            let wait = |(event, ready): (Event, Event)| {
                ready.set();
                event.wait_timeout(BOUND * 2)
            };
            let party = way.start(wait, (event.clone(), ready.clone()));
            assert!(ready.wait_timeout(BOUND * 2));
            ready.clear();
            party
        })
        .collect();
    // A party says that it is ready before it waits: it may see any of these.
    let mut done = false;
    std::thread::scope(|scope| {
        let joined = scope.spawn(|| parties.into_iter().map(|party| party.join()).collect::<Vec<_>>());
        while !done {
            event.set();
            event.clear();
            done = joined.is_finished();
            std::thread::yield_now();
        }
        assert_eq!(joined.join().unwrap(), [true; 3]);
    });
}

fn what_was_written_before_a_set_is_there_after_the_wait(way: Way) {
    let (ping, pong) = (Event::new().unwrap(), Event::new().unwrap());
    let echo = |(ping, pong): (Event, Event)| {
        for _ in 0..500 {
            ping.wait();
            ping.clear();
            pong.set();
        }
    };
    let party = way.start(echo, (ping.clone(), pong.clone()));
    for _ in 0..500 {
        ping.set();
        assert!(pong.wait_timeout(BOUND));
        // Cleared by who waited, before it answered.
        assert!(!ping.is_set());
        pong.clear();
    }
    party.join();
}

/// As `_TestEvent.test_repr`.
fn debug_tells_whether_it_is_set(way: Way) {
    let event = Event::new().unwrap();
    let told = || way.start(|event: Event| format!("{event:?}"), event.clone()).join();
    assert_eq!(
        (format!("{event:?}"), told()),
        ("Event { set: false }".into(), "Event { set: false }".into())
    );
    event.set();
    assert_eq!((format!("{event:?}"), told()), ("Event { set: true }".into(), "Event { set: true }".into()));
    assert!(through_a_parcel(&event).same(&event));
}

#[test]
fn role_event_waiter() {
    let Some(mut role) = role::enter(role_event_waiter) else { return };
    let event: Event = take(role.fd());
    role.say("waits");
    event.wait();
    role.say("set");
}

#[test]
fn killed_waiters_are_in_nobodys_way() {
    let _watchdog = watchdog!();
    let event = Event::new().unwrap();
    for _ in 0..5 {
        let mut victim = role::start(role_event_waiter, &[&given(&event)]);
        let mut other = role::start(role_event_waiter, &[&given(&event)]);
        victim.expect("waits");
        other.expect("waits");
        victim.kill();
        event.set();
        other.expect("set");
        event.clear();
    }
}

#[test]
fn without_a_sleeper_nothing_is_asked_of_the_kernel() {
    isolated!(test_name!(), {
        let calls = syscalls::trace(
            || {
                let event = Event::new().unwrap();
                event.set();
                event.clear();
                event
            },
            |event| {
                event.set();
                event.wait();
                assert!(event.wait_timeout(BOUND));
                event.clear();
                assert!(!event.is_set());
            },
        );
        assert_eq!(calls, []);
    });
}
