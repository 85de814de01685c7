//! Where nobody waits, nothing is asked of the kernel: of locks, semaphores and events their own tests say it; here of all
//! others.

use crate::support::BOUND;
use procession_sync::{
    Array, Barrier, BoundedSemaphore, Condition, Held, Lock, Once, OnceValue, RLock, RawArray, RawValue,
    Value,
};
use procession_testkit::{isolated, syscalls, test_name};

#[test]
fn a_notification_for_nobody_makes_no_system_call() {
    isolated!(test_name!(), {
        let notifies = |condition: &mut Condition| {
            let guard = condition.lock().unwrap();
            assert_eq!(condition.notify_one().unwrap() + condition.notify_all().unwrap(), 0);
            drop(guard);
            drop(condition.lock_timeout(BOUND).unwrap());
            condition.acquire().unwrap();
            condition.wait_while(&mut Held, || false).unwrap();
            condition.release().unwrap();
            assert_eq!((condition.waiting(), condition.holder()), (0, None));
        };
        let over_lock = || {
            let mut condition = Condition::with_lock(Lock::new().unwrap()).unwrap();
            notifies(&mut condition);
            condition
        };
        let over_rlock = || {
            let mut condition = Condition::with_rlock(RLock::new().unwrap()).unwrap();
            notifies(&mut condition);
            condition
        };
        assert_eq!(syscalls::trace(over_lock, notifies), []);
        assert_eq!(syscalls::trace(over_rlock, notifies), []);
    });
}

#[test]
fn a_barrier_that_waits_for_nobody_makes_no_system_call() {
    isolated!(test_name!(), {
        let passes = |barrier: &mut Barrier| {
            assert_eq!(barrier.wait().unwrap(), 0);
            assert_eq!(barrier.wait_timeout(BOUND).unwrap(), 0);
            let mut ran = false;
            barrier.wait_with(|| ran = true).unwrap();
            assert!(ran);
            barrier.abort().unwrap();
            assert!(barrier.wait().is_err());
            barrier.reset().unwrap();
        };
        let make = || {
            let mut barrier = Barrier::builder(1).action(|()| ()).build().unwrap();
            passes(&mut barrier);
            barrier
        };
        assert_eq!(syscalls::trace(make, passes), []);
    });
}

#[test]
fn what_is_done_once_is_done_and_asked_for_without_a_system_call() {
    isolated!(test_name!(), {
        let runs = |(once, value): &mut (Once, OnceValue<u64>)| {
            assert!(once.call_once(|| ()).unwrap());
            assert!(!once.call_once_timeout(BOUND, || unreachable!()).unwrap());
            once.wait();
            assert!(once.is_completed());
            assert_eq!(value.get_or_init(|| 7).unwrap(), 7);
            assert_eq!((value.get(), value.wait()), (Some(7), 7));
        };
        let make = || {
            let make = || (Once::new().unwrap(), OnceValue::new().unwrap());
            // The first use makes this process a member of both segments.
            let mut first = make();
            runs(&mut first);
            std::mem::forget(first);
            make()
        };
        assert_eq!(syscalls::trace(make, runs), []);
    });
}

#[test]
fn data_that_nobody_holds_is_read_and_written_without_a_system_call() {
    isolated!(test_name!(), {
        type Data = (Value<u64>, Array<u32>, RawValue<u64>, RawArray<u32>);
        let uses = |(value, array, raw, raws): &mut Data| {
            value.set(1).unwrap();
            value.update(|value| *value += 1).unwrap();
            *value.lock().unwrap() += raw.load();
            drop(value.lock_timeout(BOUND).unwrap());
            assert_eq!(value.get().unwrap(), 2);
            array.set(3, 4).unwrap();
            array.lock().unwrap()[5] = 6;
            array.write(6, &[7, 8]).unwrap();
            assert_eq!(array.get(5).unwrap(), 6);
            assert_eq!(raw.fetch_add(1) + raw.fetch_sub(1), 1);
            raws[1].store(raws[0].load());
        };
        let make = || {
            let mut data = (
                Value::new(0).unwrap(),
                Array::new(10).unwrap(),
                RawValue::new(0).unwrap(),
                RawArray::new(10).unwrap(),
            );
            uses(&mut data);
            data
        };
        assert_eq!(syscalls::trace(make, uses), []);
    });
}

#[test]
fn a_bounded_semaphore_with_free_permits_makes_no_system_call() {
    isolated!(test_name!(), {
        let uses = |semaphore: &mut BoundedSemaphore| {
            drop(semaphore.permit().unwrap());
            drop(semaphore.permit_timeout(BOUND).unwrap());
            semaphore.acquire().unwrap();
            semaphore.release().unwrap();
            assert!(semaphore.release().is_err());
        };
        let make = || {
            let mut semaphore = BoundedSemaphore::new(2).unwrap();
            uses(&mut semaphore);
            semaphore
        };
        assert_eq!(syscalls::trace(make, uses), []);
    });
}
