//! When the kernel refuses: each system call of the main calls fails once, and each outcome is a success or an error; the next
//! try succeeds, and nothing is left of either.

use procession_sync::{
    Array, Barrier, BoundedSemaphore, Condition, Event, Lock, OnceValue, RLock, RawArray, RawValue, RwLock,
    Semaphore, Value,
};
use procession_testkit::{faults::tried, isolated};
use std::time::Duration;

/// Long enough to sleep, so that the sleep can fail.
const NAP: Duration = Duration::from_millis(2);

#[test]
fn locks_are_made_and_taken_or_refused() {
    isolated!({
        tried(|| {
            let (lock, rlock, rwlock) = (Lock::new()?, RLock::new()?, RwLock::new()?);
            let _guard = lock.lock().map_err(|error| error.without_guard())?;
            let _deep = rlock.lock().map_err(|error| error.without_guard())?;
            let _reader = rwlock.read().map_err(|error| error.without_guard())?;
            Ok(())
        });
    });
}

#[test]
fn permits_are_given_and_waited_for_or_refused() {
    isolated!({
        tried(|| {
            let (semaphore, bounded) = (Semaphore::new(1)?, BoundedSemaphore::new(1)?);
            let _permit = semaphore.permit()?;
            bounded.acquire()?;
            match semaphore.permit_timeout(NAP) {
                Err(error) if error.is_timeout() => {}
                Err(error) => return Err(error.into()),
                Ok(_) => panic!("the only permit was given twice"),
            }
            bounded.release()?;
            Ok(())
        });
    });
}

#[test]
fn events_and_conditions_are_waited_for_or_refused() {
    isolated!({
        tried(|| {
            let (event, condition) = (Event::new()?, Condition::new()?);
            assert!(!event.wait_timeout(NAP));
            event.set();
            event.wait();
            let mut guard = condition.lock().map_err(|error| error.without_guard())?;
            assert!(!condition.wait_timeout(&mut guard, NAP)?);
            condition.notify_all()?;
            Ok(())
        });
    });
}

#[test]
fn a_barrier_is_made_and_waited_at_or_refused() {
    isolated!({
        tried(|| {
            let (alone, pair) = (Barrier::new(1)?, Barrier::new(2)?);
            alone.wait()?;
            match pair.wait_timeout(NAP) {
                Err(error) if error.broken().is_some() => {}
                Err(error) => return Err(error.into()),
                Ok(_) => panic!("one has passed a barrier for two"),
            }
            Ok(())
        });
    });
}

#[test]
fn values_and_arrays_are_made_and_changed_or_refused() {
    isolated!({
        tried(|| {
            let (value, array) = (Value::new(1_u64)?, Array::from_slice(&[1_u32; 100])?);
            let (raw, raws, once) =
                (RawValue::new(0_u32)?, RawArray::<u64>::new(10)?, OnceValue::<u32>::new()?);
            value.update(|n| *n += 1)?;
            assert_eq!((value.get()?, array.get(7)?), (2, 1));
            assert_eq!(array.chunks_mut(50)?.len(), 2);
            raws[3].store(u64::from(raw.fetch_add(1)));
            assert_eq!(once.get_or_init(|| 5)?, 5);
            Ok(())
        });
    });
}
