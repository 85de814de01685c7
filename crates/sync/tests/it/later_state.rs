//! Conditions, barriers, read-write locks and what is done once, as futures: dropped at any time they leave nothing
//! behind, and what had reached them goes to another.

use crate::{
    later::{begin, block_on, waker},
    support::{BOUND, given, soon, take},
};
use procession_sync::{
    Barrier, Broken, Condition, Event, Held, Lock, LockError, Once, OnceError, OnceValue, Poison, RLock,
    RwLock, WaitError,
};
use procession_testkit::{isolated, role, test_name, watchdog};
use std::{
    cell::Cell,
    future::{Future, pending, poll_fn},
    pin::{Pin, pin},
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll},
    thread,
    time::Duration,
};

/// Everything that the roles work on.
type World = (Condition, Event, Barrier, RwLock, Once, OnceValue<u64>);

fn world() -> World {
    (
        Condition::new().unwrap(),
        Event::new().unwrap(),
        Barrier::new(2).unwrap(),
        RwLock::new().unwrap(),
        Once::new().unwrap(),
        OnceValue::new().unwrap(),
    )
}

/// An executor for some tasks in one thread.
fn all<'a>(tasks: impl IntoIterator<Item = Pin<Box<dyn Future<Output = ()> + 'a>>>) {
    let mut tasks: Vec<_> = tasks.into_iter().collect();
    let (_, waker) = waker();
    loop {
        tasks.retain_mut(|task| task.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        if tasks.is_empty() {
            return;
        }
        thread::park();
    }
}

fn task<'a>(future: impl Future<Output = ()> + 'a) -> Pin<Box<dyn Future<Output = ()> + 'a>> {
    Box::pin(future)
}

/// Lets the thread's other tasks go on once.
async fn others() {
    let mut first = true;
    poll_fn(|context| {
        context.waker().wake_by_ref();
        if std::mem::take(&mut first) { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
}

#[test]
fn role_state() {
    let Some(mut role) = role::enter(role_state) else { return };
    let (condition, event, barrier, rwlock, once, value): World = take(role.fd());
    let mut reader = None;
    loop {
        match role.hear().as_str() {
            "notify" => {
                let _guard = condition.lock().unwrap();
                event.set();
                assert_eq!(condition.notify_one().unwrap(), 1);
            }
            "hold" => condition.acquire().unwrap(),
            "wait" => {
                role.say("waits");
                let guard = condition.lock().unwrap();
                drop(block_on(condition.wait_async(guard)).unwrap());
            }
            // Never polled again.
            "wait, forget" => {
                let mut wait = Box::pin(condition.wait_async(condition.lock().unwrap()));
                begin(wait.as_mut());
                std::mem::forget(wait);
            }
            "pass" => {
                block_on(barrier.wait_async()).unwrap();
            }
            "pass, forget" => {
                let mut wait = Box::pin(barrier.wait_async());
                begin(wait.as_mut());
                std::mem::forget(wait);
            }
            "read" => reader = Some(rwlock.read().unwrap()),
            "stop reading" => drop(reader.take()),
            "write" => std::mem::forget(rwlock.write().unwrap()),
            "run" => {
                let mut run = Box::pin(once.call_once_async(async || pending().await));
                begin(run.as_mut());
                std::mem::forget(run);
            }
            "compute" => {
                let mut run = Box::pin(value.get_or_init_async(async || pending().await));
                begin(run.as_mut());
                std::mem::forget(run);
            }
            word => panic!("{word}?"),
        }
        role.say("done");
    }
}

fn other(world: &World) -> role::RoleProcess {
    role::start(role_state, &[&given(world)])
}

fn tell(process: &mut role::RoleProcess, word: &str) {
    process.say(word);
    process.expect("done");
}

#[test]
fn another_process_notifies_a_future() {
    let _watchdog = watchdog!();
    let world = world();
    let (condition, event, ..) = &world;
    let mut process = other(&world);
    let guard = condition.lock().unwrap();
    let mut wait = pin!(condition.wait_while_async(guard, || !event.is_set()));
    begin(wait.as_mut());
    assert_eq!((condition.waiting(), condition.holder()), (1, None));
    tell(&mut process, "notify");
    let guard = block_on(wait).unwrap();
    assert_eq!(condition.holder().unwrap().pid, std::process::id());
    drop(guard);
    assert_eq!((condition.waiting(), condition.holder()), (0, None));
}

#[test]
fn a_wait_that_is_dropped_leaves_no_place_and_no_lock() {
    let _watchdog = watchdog!();
    let condition = Condition::new().unwrap();
    for _ in 0..3 {
        let mut wait = Box::pin(condition.wait_async(condition.lock().unwrap()));
        begin(wait.as_mut());
        assert_eq!(condition.waiting(), 1);
        drop(wait);
        assert_eq!(condition.waiting(), 0);
        let _guard = condition.try_lock().unwrap();
        assert_eq!(condition.notify_all().unwrap(), 0);
    }
}

#[test]
fn a_notification_that_reached_a_dropped_future_goes_to_another_waiter() {
    let _watchdog = watchdog!();
    let condition = Condition::new().unwrap();
    let mut given_up = Box::pin(condition.wait_async(condition.lock().unwrap()));
    begin(given_up.as_mut());
    thread::scope(|scope| {
        let waits = scope.spawn(|| {
            let mut guard = condition.lock().unwrap();
            condition.wait_timeout(&mut guard, BOUND).unwrap()
        });
        soon("both wait", || condition.waiting() == 2);
        let guard = condition.lock().unwrap();
        assert_eq!(condition.notify_one().unwrap(), 1);
        drop(guard);
        // It came first, so it was meant.
        assert_eq!(condition.waiting(), 1);
        drop(given_up);
        assert!(waits.join().unwrap());
    });
    assert_eq!(condition.waiting(), 0);
    let mut late = Box::pin(condition.wait_async(condition.lock().unwrap()));
    begin(late.as_mut());
    assert_eq!(condition.waiting(), 1, "a notification is not remembered");
}

#[test]
fn a_notification_that_reached_a_killed_processs_future_goes_to_another_waiter() {
    let _watchdog = watchdog!();
    let world = world();
    let condition = &world.0;
    let mut process = other(&world);
    tell(&mut process, "wait, forget");
    let mut wait = pin!(condition.wait_async(condition.lock().unwrap()));
    begin(wait.as_mut());
    assert_eq!(condition.waiting(), 2);
    let guard = condition.lock().unwrap();
    assert_eq!(condition.notify_one().unwrap(), 1);
    drop(guard);
    process.kill();
    drop(block_on(wait).unwrap());
}

#[test]
fn a_dropped_wait_does_not_let_go_of_another_tasks_lock() {
    let _watchdog = watchdog!();
    let condition = Condition::new().unwrap();
    let mut wait = Box::pin(condition.wait_async(condition.lock().unwrap()));
    begin(wait.as_mut());
    // The same thread, so the lock cannot tell them apart.
    let guard = condition.lock().unwrap();
    drop(wait);
    assert_eq!(condition.holder().unwrap().pid, std::process::id());
    assert!(condition.notify_all().is_ok());
    drop(guard);
}

#[test]
fn a_future_learns_that_the_locks_holder_died() {
    let _watchdog = watchdog!();
    let world = world();
    let condition = &world.0;
    let mut process = other(&world);
    let mut wait = pin!(condition.wait_async(condition.lock().unwrap()));
    begin(wait.as_mut());
    tell(&mut process, "hold");
    let pid = process.pid();
    process.kill();
    let (error, guard) = block_on(wait).unwrap_err().into_parts();
    assert!(matches!(error, WaitError::Poisoned(Poison::Died { pid: dead }) if dead == pid), "{error}");
    assert!(guard.is_some() && condition.holder().is_some());
    drop(guard);
    assert_eq!(condition.holder(), None);
}

#[test]
fn a_future_waits_under_a_lock_that_is_its_own_and_held_once() {
    let _watchdog = watchdog!();
    let lock = RLock::new().unwrap();
    let condition = Condition::with_rlock(lock.clone()).unwrap();
    let other = Lock::new().unwrap();
    let error = block_on(condition.wait_async(other.lock().unwrap())).unwrap_err();
    assert!(matches!(error.error(), WaitError::OtherLock));
    let error = block_on(condition.wait_async(Held)).unwrap_err();
    assert!(matches!(error.error(), WaitError::NotHeld));
    let outer = block_on(condition.lock_async()).unwrap();
    let inner = block_on(lock.lock_async()).unwrap();
    assert_eq!(lock.depth(), 2);
    let (error, inner) = block_on(condition.wait_async(inner)).unwrap_err().into_parts();
    assert!(matches!(error, WaitError::HeldAgain) && lock.depth() == 2);
    drop(inner);
    let mut wait = pin!(condition.wait_async(outer));
    begin(wait.as_mut());
    assert!(!lock.is_locked());
    thread::scope(|scope| {
        scope.spawn(|| {
            let _guard = condition.lock().unwrap();
            condition.notify_one().unwrap();
        });
    });
    let outer = block_on(wait).unwrap();
    assert_eq!(lock.depth(), 1);
    drop(outer);
}

#[test]
fn a_forked_childs_copies_leave_nothing() {
    isolated!(test_name!(), {
        let (condition, barrier, rwlock, once) = (
            Condition::new().unwrap(),
            Barrier::new(2).unwrap(),
            RwLock::new().unwrap(),
            Once::new().unwrap(),
        );
        let mut wait = Some(Box::pin(condition.wait_async(condition.lock().unwrap())));
        let mut pass = Some(Box::pin(barrier.wait_async()));
        let guard = rwlock.write().unwrap();
        let mut write = Some(Box::pin(rwlock.write_async()));
        let mut run = Some(Box::pin(once.call_once_async(async || pending().await)));
        begin(wait.as_mut().unwrap().as_mut());
        begin(pass.as_mut().unwrap().as_mut());
        begin(write.as_mut().unwrap().as_mut());
        begin(run.as_mut().unwrap().as_mut());
        procession_testkit::forked(|| {
            drop((wait.take(), pass.take(), write.take(), run.take()));
            assert_eq!((condition.waiting(), barrier.waiting(), rwlock.waiting()), (1, 1, 1));
            assert!(format!("{once:?}").contains("running"), "{once:?}");
        });
        drop(guard);
        drop(block_on(write.take().unwrap()).unwrap());
        drop((wait, pass, run));
        assert_eq!((condition.waiting(), barrier.waiting(), rwlock.waiting()), (0, 0, 0));
        assert!(once.call_once(|| ()).unwrap());
    });
}

#[test]
fn tasks_of_many_threads_and_threads_take_turns() {
    let _watchdog = watchdog!(Duration::from_secs(100));
    const ROUNDS: u64 = 100;
    const PARTIES: u64 = 6;
    let condition = Condition::new().unwrap();
    let turn = AtomicU64::new(0);
    let turns = |me: u64| {
        let (condition, turn) = (&condition, &turn);
        async move {
            for _ in 0..ROUNDS {
                let guard = condition.lock_async().await.unwrap();
                let mine = || turn.load(Ordering::Relaxed) % PARTIES != me;
                let guard = condition.wait_while_async(guard, mine).await.unwrap();
                turn.fetch_add(1, Ordering::Relaxed);
                condition.notify_all().unwrap();
                drop(guard);
            }
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| all([task(turns(0)), task(turns(1))]));
        scope.spawn(|| all([task(turns(2)), task(turns(3))]));
        scope.spawn(|| block_on(turns(4)));
        scope.spawn(|| {
            for _ in 0..ROUNDS {
                let mut guard = condition.lock().unwrap();
                condition.wait_while(&mut guard, || turn.load(Ordering::Relaxed) % PARTIES != 5).unwrap();
                turn.fetch_add(1, Ordering::Relaxed);
                condition.notify_all().unwrap();
            }
        });
    });
    assert_eq!(turn.into_inner(), PARTIES * ROUNDS);
}

#[test]
fn tasks_and_threads_pass_a_barrier_together() {
    let _watchdog = watchdog!();
    let barrier = Barrier::new(4).unwrap();
    let places = AtomicU64::new(0);
    let pass = || async {
        let place = barrier.wait_async().await.unwrap();
        places.fetch_add(1 << (8 * place), Ordering::Relaxed);
    };
    for _ in 0..20 {
        thread::scope(|scope| {
            scope.spawn(|| all([task(pass()), task(pass())]));
            scope.spawn(|| block_on(pass()));
            let place = barrier.wait_timeout(BOUND).unwrap();
            places.fetch_add(1 << (8 * place), Ordering::Relaxed);
        });
        assert_eq!(places.swap(0, Ordering::Relaxed), 0x0101_0101, "each place once");
    }
}

#[test]
fn a_party_that_is_dropped_has_not_come() {
    let _watchdog = watchdog!();
    let world = world();
    let barrier = &world.2;
    let mut process = other(&world);
    let mut first = Box::pin(barrier.wait_async());
    begin(first.as_mut());
    assert_eq!(barrier.waiting(), 1);
    drop(first);
    assert_eq!((barrier.waiting(), barrier.broken()), (0, None));
    let mut second = pin!(barrier.wait_async());
    begin(second.as_mut());
    tell(&mut process, "pass");
    assert_eq!(block_on(second).unwrap(), 0);
}

#[test]
fn every_place_is_given_once_where_parties_leave() {
    let _watchdog = watchdog!();
    let barrier = Barrier::new(3).unwrap();
    let mut leaves = Box::pin(barrier.wait_async());
    begin(leaves.as_mut());
    let mut stays = pin!(barrier.wait_async());
    begin(stays.as_mut());
    drop(leaves);
    let mut comes = pin!(barrier.wait_async());
    begin(comes.as_mut());
    assert_eq!(barrier.wait_timeout(BOUND).unwrap(), 2);
    assert_eq!((block_on(stays).unwrap(), block_on(comes).unwrap()), (1, 0));
}

#[test]
fn a_killed_party_breaks_the_barrier_for_a_future() {
    let _watchdog = watchdog!();
    let world = world();
    let barrier = &world.2;
    let mut process = other(&world);
    tell(&mut process, "pass, forget");
    let pid = process.pid();
    process.kill();
    let error = block_on(barrier.wait_async()).unwrap_err();
    assert_eq!(error.broken(), Some(Broken::Died { pid }));
}

#[test]
fn a_futures_barrier_has_its_timeout_and_its_action() {
    let _watchdog = watchdog!();
    let barrier = Barrier::builder(2).timeout(Duration::from_millis(10)).build().unwrap();
    let error = block_on(barrier.wait_async()).unwrap_err();
    assert_eq!(error.broken(), Some(Broken::TimedOut { pid: std::process::id() }));
    static RUNS: AtomicU64 = AtomicU64::new(0);
    fn runs((): ()) {
        RUNS.fetch_add(1, Ordering::Relaxed);
    }
    let barrier = Barrier::builder(2).action(runs).build().unwrap();
    let pass = || async {
        barrier.wait_async().await.unwrap();
    };
    all([task(pass()), task(pass())]);
    assert_eq!(RUNS.load(Ordering::Relaxed), 1);
}

#[test]
fn a_future_reads_and_writes_in_its_turn() {
    let _watchdog = watchdog!();
    let world = world();
    let lock = &world.3;
    let mut process = other(&world);
    tell(&mut process, "read");
    drop(block_on(lock.read_async()).unwrap());
    let mut write = pin!(lock.write_async());
    begin(write.as_mut());
    // Behind the writer.
    let mut read = pin!(lock.read_async());
    begin(read.as_mut());
    tell(&mut process, "stop reading");
    let guard = block_on(write).unwrap();
    assert_eq!((lock.writer(), lock.readers()), (Some(std::process::id()), 0));
    drop(guard);
    drop(block_on(read).unwrap());
    assert_eq!((lock.writer(), lock.readers(), lock.waiting()), (None, 0, 0));
    tell(&mut process, "write");
    let mut write = pin!(lock.write_async());
    begin(write.as_mut());
    let pid = process.pid();
    process.kill();
    assert_eq!(block_on(write).unwrap_err().poison(), Some(Poison::Died { pid }));
}

#[test]
fn what_a_dropped_future_was_granted_or_waited_for_goes_to_the_next() {
    let _watchdog = watchdog!();
    let lock = RwLock::new().unwrap();
    let reads = lock.read().unwrap();
    let mut write = Box::pin(lock.write_async());
    begin(write.as_mut());
    thread::scope(|scope| {
        // Behind the writer, and let in when that leaves.
        let reader = scope.spawn(|| lock.read_timeout(BOUND).is_ok());
        soon("two wait", || lock.waiting() == 2);
        drop(write);
        assert!(reader.join().unwrap());
    });
    let mut write = Box::pin(lock.write_async());
    begin(write.as_mut());
    drop(reads);
    assert!(matches!(lock.try_read(), Err(LockError::TimedOut)), "it is granted");
    drop(write);
    drop(lock.try_write().unwrap());
}

#[test]
fn tasks_of_one_thread_wait_for_each_others_read_write_lock() {
    let _watchdog = watchdog!();
    let lock = RwLock::new().unwrap();
    let inside = Cell::new(0);
    let write = || async {
        for _ in 0..50 {
            let guard = lock.write_async().await.unwrap();
            assert_eq!(inside.replace(1), 0);
            others().await;
            inside.set(0);
            drop(guard);
        }
    };
    all([task(write()), task(write()), task(write())]);
}

#[test]
fn a_reentrant_lock_is_the_threads() {
    let _watchdog = watchdog!();
    let lock = RLock::new().unwrap();
    let outer = block_on(lock.lock_async()).unwrap();
    drop(block_on(lock.lock_async()).unwrap());
    thread::scope(|scope| {
        let (tell, told) = std::sync::mpsc::channel();
        let lock = &lock;
        let waits = scope.spawn(move || {
            let mut wait = pin!(lock.lock_async());
            begin(wait.as_mut());
            tell.send(()).unwrap();
            block_on(wait).unwrap().lock().depth()
        });
        told.recv().unwrap();
        drop(outer);
        assert_eq!(waits.join().unwrap(), 1);
    });
}

#[test]
fn what_a_dropped_future_was_doing_another_does() {
    let _watchdog = watchdog!();
    let (once, value) = (Once::new().unwrap(), OnceValue::<u64>::new().unwrap());
    let mut dropped = Box::pin(once.call_once_async(async || pending().await));
    begin(dropped.as_mut());
    let mut next = pin!(once.call_once_async(async || others().await));
    begin(next.as_mut());
    let mut done = pin!(once.wait_async());
    begin(done.as_mut());
    drop(dropped);
    assert!(block_on(next).unwrap());
    block_on(done);
    assert!(!block_on(once.call_once_async(async || unreachable!())).unwrap());

    let mut dropped = Box::pin(value.get_or_init_async(async || pending().await));
    begin(dropped.as_mut());
    thread::scope(|scope| {
        let waits = scope.spawn(|| value.get_or_init_timeout(BOUND, || 7).unwrap());
        drop(dropped);
        assert_eq!(waits.join().unwrap(), 7);
    });
    assert_eq!(
        (block_on(value.wait_async()), block_on(value.get_or_init_async(async || 8)).unwrap()),
        (7, 7)
    );
}

#[test]
fn what_a_killed_process_was_doing_a_future_does() {
    let _watchdog = watchdog!();
    let world = world();
    let (.., once, value) = &world;
    let mut process = other(&world);
    tell(&mut process, "run");
    tell(&mut process, "compute");
    let mut run = pin!(once.call_once_async(async || ()));
    begin(run.as_mut());
    process.kill();
    assert!(block_on(run).unwrap());
    assert_eq!(block_on(value.get_or_init_async(async || 9)).unwrap(), 9);
}

#[test]
fn a_future_that_panics_poisons_what_it_was_doing() {
    let _watchdog = watchdog!();
    let once = Once::new().unwrap();
    let other = once.clone();
    let panics = move || block_on(other.call_once_async(async || panic!("as it should")));
    assert!(thread::spawn(panics).join().is_err());
    assert!(matches!(block_on(once.call_once_async(async || ())), Err(OnceError::Poisoned { .. })));
    assert!(once.call_once_force(|| ()).unwrap());
}

#[test]
fn a_future_that_panicked_is_forced() {
    let _watchdog = watchdog!();
    let once = Once::new().unwrap();
    let other = once.clone();
    let panics = move || block_on(other.call_once_async(async || panic!("as it should")));
    assert!(thread::spawn(panics).join().is_err());
    let mut dropped = Box::pin(once.call_once_force_async(async || pending().await));
    begin(dropped.as_mut());
    drop(dropped);
    assert!(block_on(once.call_once_force_async(async || others().await)).unwrap());
    assert!(once.is_completed());
}

#[test]
fn a_party_that_comes_last_as_a_future_runs_its_own_action() {
    let _watchdog = watchdog!();
    let barrier = Barrier::new(2).unwrap();
    let ran = Cell::new(false);
    let mut first = pin!(barrier.wait_with_async(|| unreachable!()));
    begin(first.as_mut());
    assert_eq!(block_on(barrier.wait_with_async(|| ran.set(true))).unwrap(), 1);
    assert!(ran.get());
    assert_eq!(block_on(first).unwrap(), 0);
}
