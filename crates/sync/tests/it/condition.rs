//! A condition: exact notifications, and what is left of them when processes die.

use crate::{
    support::{BOUND, given, soon, take, through_a_parcel},
    ways::{Way, each_way},
};
use procession_sync::{Condition, Event, Held, Lock, LockError, Poison, WaitError};
use procession_testkit::{role, watchdog};
use std::time::{Duration, Instant};

each_way! {
    one_notification_wakes_exactly_one,
    notify_all_wakes_all,
    notify_n_wakes_exactly_n_and_nothing_is_remembered,
    a_wait_ends_at_its_timeout,
    waiting_for_a_predicate_ends_when_it_holds,
    waiting_for_a_predicate_ends_at_its_deadline,
    a_wait_tells_a_notification_from_a_timeout,
}

fn wait_and_tell((condition, woken): (Condition, Event)) {
    let mut guard = condition.lock().unwrap();
    condition.wait(&mut guard).unwrap();
    woken.set();
}

fn woken(events: &[Event]) -> usize {
    events.iter().filter(|event| event.is_set()).count()
}

fn waiters(way: Way, condition: &Condition, count: usize) -> (Vec<crate::ways::Party<()>>, Vec<Event>) {
    let events: Vec<Event> = (0..count).map(|_| Event::new().unwrap()).collect();
    let parties =
        events.iter().map(|event| way.start(wait_and_tell, (condition.clone(), event.clone()))).collect();
    soon("all wait", || condition.waiting() == count);
    (parties, events)
}

fn notify(condition: &Condition, n: usize) -> usize {
    let _guard = condition.lock().unwrap();
    condition.notify_n(n).unwrap()
}

/// As `_TestCondition.test_notify`.
fn one_notification_wakes_exactly_one(way: Way) {
    let condition = Condition::new().unwrap();
    let (parties, events) = waiters(way, &condition, 2);
    assert_eq!(woken(&events), 0);
    for left in [1, 0] {
        assert_eq!(notify(&condition, 1), 1);
        assert_eq!(condition.waiting(), left);
        soon("one more is woken", || woken(&events) == 2 - left);
    }
    parties.into_iter().for_each(|party| party.join());
    assert_eq!(notify(&condition, 1), 0);
}

/// As `_TestCondition.test_notify_all`.
fn notify_all_wakes_all(way: Way) {
    let condition = Condition::new().unwrap();
    let late = |condition: Condition| {
        let mut guard = condition.lock().unwrap();
        condition.wait_timeout(&mut guard, Duration::from_millis(50)).unwrap()
    };
    let parties: Vec<_> = (0..6).map(|_| way.start(late, condition.clone())).collect();
    assert!(parties.into_iter().all(|party| !party.join()));
    assert_eq!(condition.waiting(), 0);
    let (parties, events) = waiters(way, &condition, 6);
    let guard = condition.lock().unwrap();
    assert_eq!(condition.notify_all().unwrap(), 6);
    drop(guard);
    parties.into_iter().for_each(|party| party.join());
    assert_eq!(woken(&events), 6);
}

/// As `_TestCondition.test_notify_n`.
fn notify_n_wakes_exactly_n_and_nothing_is_remembered(way: Way) {
    let condition = Condition::new().unwrap();
    let (parties, events) = waiters(way, &condition, 6);
    assert_eq!(notify(&condition, 2), 2);
    soon("two are woken", || woken(&events) == 2);
    assert_eq!(condition.waiting(), 4);
    assert_eq!(notify(&condition, 4), 4);
    soon("six are woken", || woken(&events) == 6);
    parties.into_iter().for_each(|party| party.join());
    assert_eq!(notify(&condition, 3), 0);
    let mut guard = condition.lock().unwrap();
    assert!(!condition.wait_timeout(&mut guard, Duration::from_millis(20)).unwrap());
}

/// As `_TestCondition.test_timeout`.
fn a_wait_ends_at_its_timeout(way: Way) {
    let wait = |condition: Condition| {
        let mut guard = condition.lock().unwrap();
        let before = Instant::now();
        let notified = condition.wait_timeout(&mut guard, Duration::from_millis(60)).unwrap();
        (notified, before.elapsed() >= Duration::from_millis(60))
    };
    let condition = Condition::new().unwrap();
    assert_eq!(way.start(wait, condition).join(), (false, true));
}

/// As `_TestCondition.test_waitfor`: the state is a row of events, of which one more is set with each notification.
fn waiting_for_a_predicate_ends_when_it_holds(way: Way) {
    let condition = Condition::new().unwrap();
    let state: Vec<Event> = (0..5).map(|_| Event::new().unwrap()).collect();
    let wait = |(condition, state): (Condition, Vec<Event>)| {
        let mut guard = condition.lock().unwrap();
        state[0].set();
        condition.notify_all().unwrap();
        condition.wait_while(&mut guard, || woken(&state) < 5).unwrap();
        woken(&state)
    };
    let party = way.start(wait, (condition.clone(), state.clone()));
    let mut guard = condition.lock().unwrap();
    condition.wait_while(&mut guard, || !state[0].is_set()).unwrap();
    drop(guard);
    for event in &state[1..] {
        let guard = condition.lock().unwrap();
        event.set();
        condition.notify_one().unwrap();
        drop(guard);
    }
    assert_eq!(party.join(), 5);
}

/// As `_TestCondition.test_waitfor_timeout`.
fn waiting_for_a_predicate_ends_at_its_deadline(way: Way) {
    let condition = Condition::new().unwrap();
    let wait = |condition: Condition| {
        let mut guard = condition.lock().unwrap();
        let before = Instant::now();
        let timeout = Duration::from_millis(100);
        let held = condition.wait_timeout_while(&mut guard, timeout, || true).unwrap();
        (held, before.elapsed() >= timeout)
    };
    let party = way.start(wait, condition.clone());
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(10));
        notify(&condition, 1);
    }
    assert_eq!(party.join(), (false, true));
}

/// As `_TestCondition.test_wait_result`.
fn a_wait_tells_a_notification_from_a_timeout(way: Way) {
    let condition = Condition::new().unwrap();
    let mut guard = condition.lock().unwrap();
    assert!(!condition.wait_timeout(&mut guard, Duration::ZERO).unwrap());
    assert!(!condition.wait_timeout(&mut guard, Duration::from_millis(10)).unwrap());
    let party = way.start(|condition: Condition| notify(&condition, 1), condition.clone());
    // Whoever notifies must wait for the lock, which the wait lets go of.
    assert!(condition.wait_timeout(&mut guard, BOUND * 2).unwrap());
    drop(guard);
    assert_eq!(party.join(), 1);
}

#[test]
fn only_the_holder_waits_and_notifies() {
    let _watchdog = watchdog!();
    let condition = Condition::new().unwrap();
    assert!(matches!(condition.notify_one(), Err(WaitError::NotHeld)));
    assert!(matches!(condition.wait(&mut Held), Err(WaitError::NotHeld)));
    let lock = Lock::new().unwrap();
    let mut guard = lock.lock().unwrap();
    assert!(matches!(condition.wait(&mut guard), Err(WaitError::OtherLock)));
    let ours = Condition::with_lock(lock.clone()).unwrap();
    assert!(!ours.wait_timeout(&mut guard, Duration::ZERO).unwrap());
    drop(guard);
    // Python's style.
    ours.acquire().unwrap();
    assert!(!ours.wait_timeout(&mut Held, Duration::ZERO).unwrap());
    assert_eq!(ours.notify_all().unwrap(), 0);
    ours.release().unwrap();
    assert!(ours.release().is_err());
    assert!(through_a_parcel(&ours).same(&ours));
}

#[test]
fn role_condition() {
    let Some(mut role) = role::enter(role_condition) else { return };
    let condition: Condition = take(role.fd());
    let mut guard = condition.lock().unwrap();
    loop {
        match role.hear().as_str() {
            "wait" => {
                role.say("waits");
                role.say(&match condition.wait(&mut guard) {
                    Ok(()) => "notified".to_owned(),
                    Err(error) => error.to_string(),
                });
            }
            "notify" => role.say(&condition.notify_one().unwrap().to_string()),
            word => panic!("{word}?"),
        }
    }
}

#[test]
fn a_killed_waiters_notification_goes_to_another() {
    let _watchdog = watchdog!();
    let condition = Condition::new().unwrap();
    let mut victim = role::start(role_condition, &[&given(&condition)]);
    victim.say("wait");
    soon("the first waits", || condition.waiting() == 1);
    let mut heir = role::start(role_condition, &[&given(&condition)]);
    heir.say("wait");
    soon("the second waits", || condition.waiting() == 2);
    // Who has entered holds the lock still for a moment: killed then, it would leave a poison.
    drop(condition.lock().unwrap());
    victim.kill();
    // It goes to the oldest, who is dead.
    assert_eq!(notify(&condition, 1), 1);
    heir.expect("waits");
    heir.expect("notified");
    assert_eq!(condition.waiting(), 0);
}

#[test]
fn a_notification_is_not_passed_on_to_one_that_came_later() {
    let _watchdog = watchdog!();
    let condition = Condition::new().unwrap();
    let mut victim = role::start(role_condition, &[&given(&condition)]);
    victim.say("wait");
    soon("it waits", || condition.waiting() == 1);
    drop(condition.lock().unwrap());
    victim.kill();
    assert_eq!(notify(&condition, 1), 1);
    let mut guard = condition.lock().unwrap();
    assert!(!condition.wait_timeout(&mut guard, Duration::from_millis(700)).unwrap());
    drop(guard);
    assert_eq!(format!("{condition:?}"), "Condition { waiting: [], holder: None, poison: None }");
}

#[test]
fn a_dead_holder_of_the_lock_ends_every_wait_with_its_pid() {
    let _watchdog = watchdog!();
    let condition = Condition::new().unwrap();
    let mut waiter = role::start(role_condition, &[&given(&condition)]);
    waiter.say("wait");
    soon("it waits", || condition.waiting() == 1);
    let mut holder = role::start(role_condition, &[&given(&condition)]);
    // It holds the lock, has changed something perhaps, and has not notified anybody.
    soon("the lock is held", || condition.holder().is_some_and(|by| by.pid == holder.pid()));
    let pid = holder.pid();
    holder.kill();
    waiter.expect("waits");
    let said = waiter.hear();
    assert!(said.contains(&format!("process {pid} died while it held the lock")), "{said}");
    // It holds the lock all the same.
    assert!(matches!(condition.try_lock(), Err(LockError::TimedOut)));
    assert_eq!(condition.poison(), Some(Poison::Died { pid }));
    waiter.kill();
    drop(condition.lock().unwrap_err());
    condition.clear_poison();
    drop(condition.lock().unwrap());
}

#[test]
fn more_waiters_than_fit_are_told_so() {
    let _watchdog = watchdog!();
    let condition = Condition::new().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..512 {
            scope.spawn(|| {
                let mut guard = condition.lock().unwrap();
                condition.wait(&mut guard).unwrap();
            });
        }
        soon("all places are taken", || condition.waiting() == 512);
        let mut guard = condition.lock().unwrap();
        assert!(matches!(condition.wait(&mut guard), Err(WaitError::TooManyWaiters)));
        assert_eq!(condition.notify_all().unwrap(), 512);
    });
}

#[test]
fn a_wait_lets_an_rlock_go_fully_and_takes_it_back_as_often() {
    let _watchdog = watchdog!();
    let lock = procession_sync::RLock::new().unwrap();
    let condition = Condition::with_rlock(lock.clone()).unwrap();
    let _outer = condition.lock().unwrap();
    let mut inner = lock.lock().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            assert_eq!(notify(&condition, 1), 1);
        });
        assert!(condition.wait_timeout(&mut inner, BOUND).unwrap());
    });
    assert_eq!(lock.depth(), 2);
    let other = Lock::new().unwrap();
    let mut wrong = other.lock().unwrap();
    assert!(matches!(condition.wait(&mut wrong), Err(WaitError::OtherLock)));
}
