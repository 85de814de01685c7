//! Death at every instruction of a wait, a notification, a pass, a lock.
//!
//! By default some of the instructions; all of them where `PROCESSION_STEPS=all` is set, which takes minutes.

use crate::{support::BOUND, ways::soon};
use procession_sync::{Barrier, Condition, Deadline, Event, LockError, RwLock};
use procession_testkit::{
    isolated_within,
    step::{Options, Report, each_instruction, each_instruction_after},
    test_name,
};
use std::time::Duration;

fn options(thin: u64) -> Options {
    let all = std::env::var("PROCESSION_STEPS").is_ok_and(|steps| steps == "all");
    Options { stride: if all { 1 } else { thin * 4 }, limit: 200_000, ..Options::default() }
}

/// Alone, on one processor, where nobody spins.
fn isolated(name: &str, body: impl FnOnce()) {
    isolated_within(name, Duration::from_secs(1500), || {
        let mut set = rustix::thread::CpuSet::new();
        let all = rustix::thread::sched_getaffinity(None).unwrap();
        let first = (0..rustix::thread::CpuSet::MAX_CPU).find(|cpu| all.is_set(*cpu)).unwrap();
        set.set(first);
        rustix::thread::sched_setaffinity(None, &set).unwrap();
        body();
    });
}

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
            &options(17),
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
            &options(53),
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
            &options(211),
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
            &options(211),
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
            &options(211),
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
            &options(211),
            || Barrier::new(2).unwrap(),
            // It breaks the barrier itself, if it comes so far.
            |barrier| assert!(barrier.wait_deadline(past()).is_err()),
            |_, barrier| {
                // Alone it cannot pass: it must learn of the death, or give up.
                let error = barrier.wait_timeout(Duration::from_millis(300)).unwrap_err();
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

#[test]
fn a_read_write_lock_comes_back_wherever_its_holder_dies() {
    isolated(test_name!(), || {
        for writes in [false, true] {
            let (mut clean, mut poisoned) = (0, 0);
            let report = each_instruction_after(
                &options(211),
                || RwLock::new().unwrap(),
                |lock| drop(lock.read().unwrap()),
                |lock, ()| {
                    if writes { drop(lock.write().unwrap()) } else { drop(lock.read().unwrap()) }
                },
                |_, lock| {
                    match lock.try_write() {
                        Ok(_) => clean += 1,
                        Err(LockError::Poisoned(_)) => poisoned += 1,
                        Err(error) => panic!("{error}"),
                    }
                    lock.clear_poison();
                    drop(lock.try_read().unwrap());
                    drop(lock.try_write().unwrap());
                },
            );
            told(if writes { "write" } else { "read" }, report);
            assert!(clean > 0 && poisoned > 0);
        }
    });
}
