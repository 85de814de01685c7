//! Waits as futures: they end as blocking ones do, can be dropped at any time, and hold up nobody.

use crate::support::{BOUND, given, take};
use procession_sync::{Array, BoundedSemaphore, Event, Lock, LockError, Poison, Semaphore, Value};
use procession_testkit::{
    isolated, role,
    wait::{self, eventually},
    watchdog,
};
use std::{
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
};

pub(crate) struct Unpark(Thread, AtomicU32);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.unpark();
    }
}

pub(crate) fn waker() -> (Arc<Unpark>, Waker) {
    let unpark = Arc::new(Unpark(thread::current(), AtomicU32::new(0)));
    (unpark.clone(), unpark.into())
}

/// The smallest executor.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let (_, waker) = waker();
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}

/// Polls it once, for a wait that does not end at once.
pub(crate) fn begin<T>(future: Pin<&mut impl Future<Output = T>>) -> Arc<Unpark> {
    let (unpark, waker) = waker();
    assert!(future.poll(&mut Context::from_waker(&waker)).is_pending());
    unpark
}

#[test]
fn role_setter() {
    let Some(mut role) = role::enter(role_setter) else { return };
    let (event, semaphore, lock): (Event, Semaphore, Lock) = take(role.fd());
    loop {
        match role.hear().as_str() {
            "set" => drop(event.set()),
            "release" => semaphore.release().unwrap(),
            "lock" => lock.acquire().unwrap(),
            "unlock" => lock.release().unwrap(),
            word => panic!("{word}?"),
        }
        role.say("done");
    }
}

#[test]
fn what_another_process_does_ends_them() {
    let _watchdog = watchdog!();
    let (event, semaphore, lock) = (Event::new().unwrap(), Semaphore::new(0).unwrap(), Lock::new().unwrap());
    let mut other = role::start(role_setter, &[&given(&(&event, &semaphore, &lock))]);
    let mut tell = |word: &str| {
        other.say(word);
        other.expect("done");
    };
    {
        let mut wait = pin!(event.wait_async());
        begin(wait.as_mut());
        tell("set");
        block_on(wait);
    }
    {
        let mut wait = pin!(semaphore.permit_async());
        begin(wait.as_mut());
        tell("release");
        let permit = block_on(wait).unwrap();
        assert_eq!(semaphore.value(), 0);
        permit.forget();
    }
    {
        tell("lock");
        let mut wait = pin!(lock.lock_async());
        begin(wait.as_mut());
        tell("unlock");
        drop(block_on(wait).unwrap());
    }
    tell("lock");
    let pid = other.pid();
    let mut wait = pin!(lock.lock_async());
    begin(wait.as_mut());
    other.kill();
    assert_eq!(block_on(wait).unwrap_err().poison(), Some(Poison::Died { pid }));
}

#[test]
fn what_is_there_is_had_at_once() {
    let _watchdog = watchdog!();
    let (event, semaphore, lock) =
        (Event::new().unwrap(), BoundedSemaphore::new(1).unwrap(), Lock::new().unwrap());
    event.set();
    block_on(event.wait_async());
    drop(block_on(semaphore.permit_async()).unwrap());
    block_on(semaphore.acquire_async()).unwrap();
    let guard = block_on(lock.lock_async()).unwrap();
    assert!(matches!(lock.lock(), Err(LockError::AlreadyHeld)));
    drop(guard);
}

#[test]
fn a_set_that_is_cleared_at_once_ends_the_wait() {
    let _watchdog = watchdog!();
    let event = Event::new().unwrap();
    let mut wait = pin!(event.wait_async());
    begin(wait.as_mut());
    event.set();
    event.clear();
    block_on(wait);
}

#[test]
fn a_future_that_is_dropped_takes_nothing_and_passes_its_wake_on() {
    let _watchdog = watchdog!();
    let semaphore = Semaphore::new(0).unwrap();
    for _ in 0..20 {
        let mut given_up = Box::pin(semaphore.acquire_async());
        let unpark = begin(given_up.as_mut());
        thread::scope(|scope| {
            let waiter = scope.spawn(|| semaphore.acquire_timeout(BOUND));
            semaphore.release().unwrap();
            eventually("somebody has it, or was woken for it", BOUND, || {
                semaphore.value() == 0 || unpark.1.load(Ordering::Relaxed) > 0
            });
            drop(given_up);
            waiter.join().unwrap().unwrap();
        });
        assert_eq!(semaphore.value(), 0);
    }
}

#[test]
fn a_future_that_is_never_polled_again_holds_up_nobody() {
    let _watchdog = watchdog!();
    let lock = Lock::new().unwrap();
    for _ in 0..20 {
        let guard = lock.lock().unwrap();
        let mut forgotten = Box::pin(lock.lock_async());
        begin(forgotten.as_mut());
        thread::scope(|scope| {
            // A mutex's sleepers have no slices: one whose wake is lost sleeps to its deadline.
            let waiters: Vec<_> = (0..2)
                .map(|_| scope.spawn(|| lock.lock_timeout(BOUND).map(drop).map_err(LockError::without_guard)))
                .collect();
            drop(guard);
            for waiter in waiters {
                waiter.join().unwrap().unwrap();
            }
        });
        drop(forgotten);
    }
}

/// Whether the thread that watches words sleeps on some.
fn words_are_slept_on() -> bool {
    let waitv = format!("{} ", libc::SYS_futex_waitv);
    std::fs::read_dir("/proc/self/task").unwrap().any(|task| {
        let read =
            |name| std::fs::read_to_string(task.as_ref().unwrap().path().join(name)).unwrap_or_default();
        read("comm").starts_with("procession: wak") && read("syscall").starts_with(&waitv)
    })
}

#[test]
fn a_future_that_is_given_up_in_front_of_others_takes_no_wake_along() {
    let _watchdog = watchdog!();
    isolated!({
        let lock = Lock::new().unwrap();
        for _ in 0..20 {
            let guard = lock.lock().unwrap();
            let mut given_up = Box::pin(lock.lock_async());
            begin(given_up.as_mut());
            eventually("its word is slept on", BOUND, words_are_slept_on);
            thread::scope(|scope| {
                let (said, tid) = std::sync::mpsc::channel();
                let lock = &lock;
                let waiter = scope.spawn(move || {
                    said.send(rustix::thread::gettid().as_raw_pid().cast_unsigned()).unwrap();
                    lock.lock_timeout(BOUND).map(drop).map_err(LockError::without_guard)
                });
                wait::asleep(tid.recv().unwrap(), BOUND);
                // Its place in front of the waiter's is still there.
                drop(given_up);
                drop(guard);
                waiter.join().unwrap().unwrap();
            });
        }
    });
}

#[test]
fn futures_and_blocking_waits_take_turns() {
    let _watchdog = watchdog!();
    const ROUNDS: u64 = 300;
    let (lock, count) = (Lock::new().unwrap(), AtomicU64::new(0));
    // Not one step: only the lock keeps rounds from being lost.
    let round = || {
        let seen = count.load(Ordering::Relaxed);
        thread::yield_now();
        count.store(seen + 1, Ordering::Relaxed);
    };
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    let _guard = block_on(lock.lock_async()).unwrap();
                    round();
                }
            });
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    let _guard = lock.lock().unwrap();
                    round();
                }
            });
        }
    });
    assert_eq!(count.into_inner(), 4 * ROUNDS);
}

#[test]
fn several_permits_are_had_at_once_or_not_at_all() {
    let _watchdog = watchdog!();
    let semaphore = BoundedSemaphore::new(3).unwrap();
    let held = block_on(semaphore.permits_async(2)).unwrap();
    let mut given_up = Box::pin(semaphore.permits_async(2));
    begin(given_up.as_mut());
    let mut wait = pin!(semaphore.acquire_many_async(3));
    begin(wait.as_mut());
    drop(given_up);
    assert_eq!((semaphore.value(), semaphore.held()), (1, 2));
    drop(held);
    block_on(wait).unwrap();
    assert_eq!((semaphore.value(), semaphore.held()), (0, 0));
    assert!(block_on(semaphore.permits_async(4)).is_err());
}

#[test]
fn data_under_a_lock_is_awaited() {
    let _watchdog = watchdog!();
    let (value, array) = (Value::new(1_u64).unwrap(), Array::<u64>::new(2).unwrap());
    let held = (value.lock().unwrap(), array.lock().unwrap());
    let mut given_up = (Box::pin(value.lock_async()), Box::pin(array.lock_async()));
    begin(given_up.0.as_mut());
    begin(given_up.1.as_mut());
    drop(given_up);
    let (mut one, mut other) = (pin!(value.lock_async()), pin!(array.lock_async()));
    begin(one.as_mut());
    begin(other.as_mut());
    drop(held);
    *block_on(one).unwrap() += 1;
    block_on(other).unwrap()[1] += 1;
    assert_eq!((value.get().unwrap(), array.to_vec().unwrap()), (2, vec![0, 1]));
    let panics = || {
        let _guard = value.lock().unwrap();
        panic!("under the lock");
    };
    assert!(thread::scope(|scope| scope.spawn(panics).join()).is_err());
    let pid = std::process::id();
    let error = block_on(value.lock_async()).map(drop).map_err(LockError::without_guard).unwrap_err();
    assert_eq!(error.poison(), Some(Poison::Panicked { pid }));
}
