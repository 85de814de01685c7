//! Code written for raw_sync, over robust mutexes.

use crate::support::BOUND;
use core::cell::UnsafeCell;
use procession_sync::rawsync::{Died, Event, Mutex, TimedOut};
use procession_testkit::watchdog;
use raw_sync::{
    Timeout,
    events::{EventImpl, EventInit, EventState},
    locks::{LockImpl, LockInit},
};
use std::time::{Duration, Instant};

#[repr(align(8))]
struct Memory(UnsafeCell<[u8; 64]>);

fn mutex(memory: &Memory) -> Box<dyn LockImpl> {
    let start = memory.0.get().cast::<u8>();
    assert!(Mutex::size_of(Some(start)) <= 48);
    // SAFETY: within the memory.
    let data = unsafe { start.add(48) };
    // SAFETY: the memory is large enough and outlives the mutex in each test.
    unsafe { Mutex::new(start, data) }.unwrap().0
}

/// A second one over the same memory, for another thread: they are not `Send`.
fn again(start: usize) -> Box<dyn LockImpl> {
    let start = start as *mut u8;
    // SAFETY: within the memory.
    let data = unsafe { start.add(48) };
    // SAFETY: a mutex lies there.
    unsafe { Mutex::from_existing(start, data) }.unwrap().0
}

#[test]
fn raw_sync_code_is_told_once_of_a_death_and_goes_on() {
    let _watchdog = watchdog!();
    let memory = Memory(UnsafeCell::new([0; 64]));
    let mutex = mutex(&memory);
    let start = memory.0.get() as usize;
    for timed in [false, true] {
        // A thread that ends with the mutex is a dead holder as well.
        std::thread::spawn(move || std::mem::forget(again(start).lock().unwrap())).join().unwrap();
        let lock = || if timed { mutex.try_lock(Timeout::Val(BOUND)) } else { mutex.lock() };
        assert!(lock().map(drop).unwrap_err().is::<Died>());
        let mut guard = lock().unwrap();
        // SAFETY: a byte of the memory, and the mutex is held.
        unsafe { **guard += 1 };
        drop(guard);
        drop(lock().unwrap());
    }
}

#[test]
fn a_timeout_of_any_length_is_waited_out() {
    let _watchdog = watchdog!();
    let memory = Memory(UnsafeCell::new([0; 64]));
    let mutex = mutex(&memory);
    let start = memory.0.get() as usize;
    let held = mutex.lock().unwrap();
    // raw_sync's own fails at once with the probability of the fraction.
    std::thread::spawn(move || {
        for _ in 0..3 {
            let (timeout, begin) = (Duration::from_millis(400), Instant::now());
            assert!(again(start).try_lock(Timeout::Val(timeout)).is_err());
            assert!(begin.elapsed() >= timeout);
        }
        assert!(again(start).try_lock(Timeout::Val(Duration::ZERO)).is_err());
    })
    .join()
    .unwrap();
    drop(held);
    drop(mutex.try_lock(Timeout::Val(Duration::from_millis(999))).unwrap());
}

/// An event over the same memory, for another thread: they are not `Send`.
fn event_again(start: usize) -> Box<dyn EventImpl> {
    // SAFETY: an event lies there, in memory that outlives this.
    unsafe { Event::from_existing(start as *mut u8) }.unwrap().0
}

fn is_timeout(result: Result<(), Box<dyn std::error::Error>>) -> bool {
    result.unwrap_err().is::<TimedOut>()
}

#[test]
fn raw_sync_events_are_waited_for_and_reset_by_themselves_or_by_hand() {
    let _watchdog = watchdog!();
    for auto in [false, true] {
        let memory = Memory(UnsafeCell::new([0; 64]));
        // Not aligned.
        let start = memory.0.get() as usize + 1;
        assert!(Event::size_of(Some(start as *mut u8)) <= 63);
        // SAFETY: nothing was made there yet: it only looks.
        assert!(unsafe { Event::from_existing(start as *mut u8) }.is_err());
        // SAFETY: the memory is large enough and outlives the event.
        let event = unsafe { Event::new(start as *mut u8, auto) }.unwrap().0;
        assert!(is_timeout(event.wait(Timeout::Val(Duration::from_millis(1)))));
        std::thread::scope(|scope| {
            let waiters: Vec<_> = (0..3)
                .map(|_| scope.spawn(move || event_again(start).wait(Timeout::Val(BOUND)).is_ok()))
                .collect();
            if auto {
                // Each set ends one wait. One that comes too early is the same one again.
                while waiters.iter().any(|waiter| !waiter.is_finished()) {
                    event.set(EventState::Signaled).unwrap();
                    std::thread::yield_now();
                }
            } else {
                event.set(EventState::Signaled).unwrap();
            }
            assert!(waiters.into_iter().all(|waiter| waiter.join().unwrap()));
        });
        event.set(EventState::Signaled).unwrap();
        event.wait(Timeout::Infinite).unwrap();
        assert_eq!(event.wait(Timeout::Val(Duration::ZERO)).is_err(), auto);
        event.set(EventState::Clear).unwrap();
        assert!(is_timeout(event.wait(Timeout::Val(Duration::ZERO))));
    }
}
