//! Death at every instruction of a wait, a notification, a pass.

use crate::{
    steps_support::{BOUND, PERIOD, Partner, isolated},
    support::soon,
};
use procession_sync::{Barrier, Condition, Deadline, Event, LockError};
use procession_testkit::{
    step::{Options, Report, each_instruction, each_instruction_after},
    test_name,
};
use std::time::Duration;

fn past() -> Deadline {
    Deadline::from_nanos(1)
}

fn told(what: &str, report: Report) {
    println!("{what}: {report}");
}

#[test]
fn an_event_is_set_or_not_wherever_a_setter_dies() {
    isolated(test_name!(), || {
        let (mut set, mut clear) = (0, 0);
        let report = each_instruction(
            &Options::one_of(17),
            || Event::new().unwrap(),
            |event| assert!(event.set()),
            |death, event| {
                if event.is_set() {
                    set += 1
                } else {
                    clear += 1
                }
                assert!(event.is_set() || !death.finished);
                event.set();
                assert!(event.wait_deadline(past()));
            },
        );
        told("event set", report);
        assert!(set > 0 && clear > 0);
    });
}

#[test]
fn an_event_is_whole_wherever_a_waiter_dies() {
    isolated(test_name!(), || {
        let report = each_instruction_after(
            &Options::one_of(53),
            || Event::new().unwrap(),
            |event| assert!(!event.wait_deadline(past())),
            |event, ()| assert!(!event.wait_deadline(Deadline::after(Duration::from_micros(1)))),
            |_, event| {
                assert!(!event.is_set() && event.set() && event.wait_deadline(past()) && event.clear());
            },
        );
        told("event wait", report);
    });
}

/// The lock of a condition, whether a dead one left a poison or not.
fn whole(condition: &Condition) {
    match condition.lock_timeout(BOUND) {
        Ok(guard) => drop(guard),
        Err(LockError::Poisoned(_)) => condition.clear_poison(),
        Err(error) => panic!("{error}"),
    }
}

/// One waits and another notifies it, after a death in another process.
fn works(condition: &Condition) {
    whole(condition);
    let mut guard = condition.lock().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _guard = condition.lock().unwrap();
            // The dead one may be among them.
            assert!(condition.notify_all().unwrap() >= 1);
        });
        assert!(condition.wait_timeout(&mut guard, BOUND).unwrap());
        drop(guard);
    });
}

#[test]
fn a_condition_works_wherever_a_waiter_dies() {
    isolated(test_name!(), || {
        let report = each_instruction_after(
            &Options::one_of(211),
            || {
                let condition = Condition::new().unwrap();
                whole(&condition);
                condition
            },
            |condition| {
                let mut guard = condition.lock().unwrap();
                // Becomes a member.
                assert!(!condition.wait_deadline(&mut guard, past()).unwrap());
                drop(guard);
            },
            |condition, ()| {
                let mut guard = condition.lock().unwrap();
                assert!(!condition.wait_deadline(&mut guard, past()).unwrap());
            },
            |_, condition| works(condition),
        );
        told("condition wait", report);
    });
}

#[test]
fn a_waiter_is_notified_or_told_wherever_a_notifier_dies() {
    isolated(test_name!(), || {
        let (mut notified, mut poisoned) = (0, 0);
        let report = each_instruction_after(
            &Options::one_of(211),
            || {
                let condition = Condition::new().unwrap();
                let waits = condition.clone();
                let waiter = std::thread::spawn(move || {
                    let mut guard = waits.lock().unwrap();
                    waits.wait_timeout(&mut guard, BOUND)
                });
                soon("it waits", || condition.waiting() == 1 && condition.holder().is_none());
                (condition, Some(waiter))
            },
            |(condition, _)| drop(condition.try_lock()),
            |(condition, _), ()| {
                let _guard = condition.lock().unwrap();
                condition.notify_one().unwrap();
            },
            |_, (condition, waiter)| {
                if condition.waiting() == 1 {
                    whole(condition);
                    let _guard = condition.lock().unwrap();
                    condition.notify_one().unwrap();
                }
                match waiter.take().unwrap().join().unwrap() {
                    Ok(true) => notified += 1,
                    Ok(false) => panic!("it waited to the end"),
                    Err(_) => poisoned += 1,
                }
                works(condition);
            },
        );
        told("condition notify", report);
        println!("notified after {notified} of the deaths, told of the death after {poisoned}");
        assert!(notified > 0);
    });
}

#[test]
fn a_barrier_is_passed_or_breaks_wherever_the_last_party_dies() {
    isolated(test_name!(), || {
        let (mut passed, mut broke, mut absent) = (0, 0, 0);
        let report = each_instruction(
            &Options::one_of(211),
            || {
                let barrier = Barrier::new(1).unwrap();
                barrier.wait().unwrap();
                barrier
            },
            |barrier| assert_eq!(barrier.wait().unwrap(), 0),
            |_, barrier| {
                // What the dead one had begun is finished by whoever comes next, and breaks it if it died within.
                match barrier.wait_timeout(BOUND) {
                    Ok(0) => passed += 1,
                    Ok(place) => panic!("place {place}"),
                    Err(error) => {
                        assert!(error.to_string().contains("died"), "{error}");
                        broke += 1;
                    }
                }
                absent += usize::from(barrier.waiting() > 0);
                barrier.reset().unwrap();
                assert_eq!(barrier.wait_timeout(BOUND).unwrap(), 0);
            },
        );
        told("barrier pass", report);
        println!("passed after {passed} of the deaths, broken after {broke}");
        assert!(passed > 0 && absent == 0);
    });
}

#[test]
fn a_barrier_breaks_or_waits_on_wherever_a_waiting_party_dies() {
    isolated(test_name!(), || {
        let report = each_instruction(
            &Options::one_of(211),
            || Barrier::new(2).unwrap(),
            // It breaks the barrier itself, if it comes so far.
            |barrier| assert!(barrier.wait_deadline(past()).is_err()),
            |_, barrier| {
                // Alone it cannot pass: it must learn of the death, or give up.
                let error = barrier.wait_timeout(2 * PERIOD).unwrap_err();
                assert!(error.broken().is_some(), "{error}");
                barrier.reset().unwrap();
                std::thread::scope(|scope| {
                    let other = scope.spawn(|| barrier.wait_timeout(BOUND).unwrap());
                    assert_eq!(barrier.wait_timeout(BOUND).unwrap() + other.join().unwrap(), 1);
                });
            },
        );
        told("barrier wait", report);
    });
}

/// The child sleeps, and is woken by a partner.
#[test]
fn an_event_is_whole_wherever_a_woken_waiter_dies() {
    isolated(test_name!(), || {
        let report = each_instruction_after(
            &Options::one_of(97),
            || {
                let event = Event::new().unwrap();
                let sets = event.clone();
                let partner = Partner::start(move |gate| {
                    gate.ready();
                    gate.child_sleeps() && sets.set()
                });
                (event, partner)
            },
            |(_, partner)| partner.here(),
            |(event, _), ()| event.wait(),
            |death, (event, partner)| {
                assert_eq!(partner.end(), event.is_set());
                assert!(event.is_set() || !death.finished);
                event.set();
                assert!(event.wait_deadline(past()) && event.clear());
            },
        );
        told("event wait and wake", report);
    });
}

/// The child sleeps, is notified by a partner, and takes the lock again.
#[test]
fn a_condition_works_wherever_a_notified_waiter_dies() {
    isolated(test_name!(), || {
        let mut notified = 0;
        let report = each_instruction_after(
            &Options::one_of(307),
            || {
                let condition = Condition::new().unwrap();
                whole(&condition);
                let notifies = condition.clone();
                let partner = Partner::start(move |gate| {
                    gate.ready();
                    if !gate.child_sleeps() {
                        return 0;
                    }
                    whole(&notifies);
                    let _guard = notifies.lock().unwrap();
                    notifies.notify_one().unwrap()
                });
                (condition, partner)
            },
            |(condition, partner)| {
                // Becomes a member.
                let mut guard = condition.lock().unwrap();
                assert!(!condition.wait_deadline(&mut guard, past()).unwrap());
                drop(guard);
                partner.here();
            },
            |(condition, _), ()| {
                let mut guard = condition.lock().unwrap();
                assert!(condition.wait_timeout(&mut guard, BOUND).unwrap());
            },
            |death, (condition, partner)| {
                let count = partner.end();
                assert!(count == 1 || !death.finished);
                notified += count;
                works(condition);
            },
        );
        told("condition wait and notification", report);
        assert!(notified > 0);
    });
}

/// The child is the first of two parties, and sleeps until the partner comes.
#[test]
fn a_barrier_is_passed_or_breaks_wherever_the_first_party_dies() {
    isolated(test_name!(), || {
        let (mut passed, mut broke) = (0, 0);
        let report = each_instruction_after(
            &Options::one_of(307),
            || {
                let barrier = Barrier::new(2).unwrap();
                let comes = barrier.clone();
                let partner = Partner::start(move |gate| {
                    gate.ready();
                    gate.child_sleeps().then(|| comes.wait_timeout(BOUND).map_err(|error| error.to_string()))
                });
                (barrier, partner)
            },
            |(_, partner)| partner.here(),
            |(barrier, _), ()| _ = barrier.wait().unwrap(),
            |death, (barrier, partner)| {
                match partner.end() {
                    Some(Ok(_)) => passed += 1,
                    Some(Err(error)) => {
                        assert!(error.contains("died"), "{error}");
                        broke += 1;
                    }
                    None => assert!(!death.finished),
                }
                barrier.reset().unwrap();
                std::thread::scope(|scope| {
                    let other = scope.spawn(|| barrier.wait_timeout(BOUND).unwrap());
                    assert_eq!(barrier.wait_timeout(BOUND).unwrap() + other.join().unwrap(), 1);
                });
            },
        );
        told("barrier pass of two", report);
        println!("passed after {passed} of the deaths, broken after {broke}");
        assert!(passed > 0);
    });
}
