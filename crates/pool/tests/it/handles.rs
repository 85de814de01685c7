//! Handles: waiting, cancelling, callbacks, futures, and many at once. CPython's tests of futures among them.

use crate::support::{Gate, Notebook, gate, note, settled, wait_until};
use procession_pool::{Pool, Task, TaskError, WaitFor, as_completed, wait};
use serde::{Deserialize, Serialize};
use std::{
    future::{Future, IntoFuture},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::Duration,
};

const LONG: u64 = 60_000;

fn nap(millis: u64) -> u64 {
    thread::sleep(Duration::from_millis(millis));
    millis
}

/// A waker that unparks a thread: the smallest executor.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}

/// Polls several futures in turn, each when it was woken; the results in the order of their ends.
fn run_all<T>(futures: Vec<Pin<Box<dyn Future<Output = T>>>>) -> Vec<T> {
    struct Number(usize, mpsc::Sender<usize>);
    impl Wake for Number {
        fn wake(self: Arc<Self>) {
            let _ = self.1.send(self.0);
        }
    }
    let (send, receive) = mpsc::channel();
    let mut futures: Vec<_> = futures.into_iter().map(Some).collect();
    (0..futures.len()).for_each(|number| send.send(number).unwrap());
    let mut done = Vec::new();
    while done.len() < futures.len() {
        let number = receive.recv().unwrap();
        let Some(future) = &mut futures[number] else { continue };
        let waker = Waker::from(Arc::new(Number(number, send.clone())));
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            futures[number] = None;
            done.push(value);
        }
    }
    done
}

#[test]
fn what_is_submitted_beyond_the_workers_room_begins_though_nobody_waits() {
    let _watchdog = procession_testkit::test_watchdog();
    let notes = Notebook::new();
    let pool = Pool::new(1).unwrap();
    let work = |(path, n): (String, u64)| note(path, n);
    let slow = pool.submit(nap, 50).unwrap();
    let tasks: Vec<_> = (0..300).map(|n| pool.submit(work, (notes.path(), n)).unwrap()).collect();
    assert!(notes.wait_for(300).into_iter().eq(0..300));
    drop((slow, tasks));
}

#[test]
fn a_call_is_pending_then_running_then_done() {
    let _watchdog = procession_testkit::test_watchdog();
    let (pool, gate_file) = (Pool::new(1).unwrap(), Gate::new());
    let running = pool.submit(gate, gate_file.path()).unwrap();
    wait_until(|| running.running());
    let pending = pool.submit(nap, 0).unwrap();
    assert!(!pending.running() && !pending.ready() && !running.ready());
    assert!(running.error().is_none() && running.peek(|_| ()).is_none());
    assert!(format!("{running:?}").contains("pending"));
    gate_file.open();
    running.wait();
    assert!(running.ready() && !running.running() && !running.cancelled());
    assert_eq!(running.peek(|result| *result.as_ref().unwrap()), Some(7), "a look does not take it");
    assert!(format!("{running:?}").contains("done"));
    assert_eq!((running.get().unwrap(), pending.get().unwrap()), (7, 0));
}

#[test]
fn a_call_that_was_not_started_is_cancelled_and_one_that_runs_is_not() {
    let _watchdog = procession_testkit::test_watchdog();
    let (pool, gate_file) = (Pool::new(1).unwrap(), Gate::new());
    let running = pool.submit(gate, gate_file.path()).unwrap();
    let pending = pool.submit(nap, LONG).unwrap();
    wait_until(|| running.running());
    assert!(!running.cancel() && !running.cancelled());
    assert!(pending.cancel() && pending.cancel(), "again is the same");
    assert!(pending.cancelled() && pending.ready() && pending.error().unwrap().is_cancelled());
    gate_file.open();
    assert_eq!(running.get().unwrap(), 7);
    assert!(matches!(pending.get(), Err(TaskError::Cancelled)));
    let done = pool.submit(nap, 0).unwrap();
    done.wait();
    assert!(!done.cancel() && done.get().is_ok());
}

#[test]
fn callbacks_run_once_in_order_and_before_the_value_is_handed_out() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::new(1).unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sees = |number: usize| {
        let seen = seen.clone();
        move |result: &Result<u64, TaskError>| {
            let name = thread::current().name().map(str::to_owned);
            seen.lock().unwrap().push((number, result.as_ref().ok().copied(), name));
        }
    };
    let task = pool.submit(nap, 5).unwrap();
    (0..3).for_each(|n| _ = task.on_done(sees(n)));
    task.wait();
    // To one that is done already.
    (3..6).for_each(|n| _ = task.on_done(sees(n)));
    assert_eq!(task.get().unwrap(), 5);
    let keeper = Some("procession-keeper".to_owned());
    let wanted: Vec<_> = (0..6).map(|n| (n, Some(5), keeper.clone())).collect();
    assert_eq!(*seen.lock().unwrap(), wanted);
    // One that failed.
    let task = pool.submit(|_: u64| -> u64 { panic!("by design") }, 1).unwrap();
    task.on_done(sees(6)).wait();
    task.on_done(sees(7));
    assert!(task.get().is_err());
    assert_eq!(seen.lock().unwrap()[6..], [(6, None, keeper.clone()), (7, None, keeper)]);
}

#[test]
fn a_callback_of_a_cancelled_call_and_of_a_dropped_handle_is_told_so() {
    let _watchdog = procession_testkit::test_watchdog();
    let (pool, gate_file) = (Pool::new(1).unwrap(), Gate::new());
    let running = pool.submit(gate, gate_file.path()).unwrap();
    wait_until(|| running.running());
    let (send, receive) = mpsc::channel();
    let tell = |number: u64| {
        let send = send.clone();
        move |result: &Result<u64, TaskError>| send.send((number, result.clone())).unwrap()
    };
    let cancelled = pool.submit(nap, LONG).unwrap();
    assert!(cancelled.on_done(tell(1)).cancel());
    cancelled.on_done(tell(2));
    let dropped = pool.submit(nap, LONG).unwrap();
    dropped.on_done(tell(3));
    drop(dropped);
    running.on_done(tell(4));
    drop(running);
    for number in 1..4 {
        let (told, result) = receive.recv().unwrap();
        assert!(told == number && matches!(result, Err(TaskError::Cancelled)), "{told}: {result:?}");
    }
    gate_file.open();
    assert!(matches!(receive.recv().unwrap(), (4, Ok(7))), "what runs is told as it ends");
}

#[test]
fn a_callback_that_panics_harms_nobody() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::new(1).unwrap();
    let ran = Arc::new(AtomicU32::new(0));
    let task = pool.submit(nap, 1).unwrap();
    for n in 0..3 {
        let ran = ran.clone();
        task.on_done(move |_| {
            ran.fetch_add(1, Ordering::Relaxed);
            assert!(n != 1, "by design");
        });
    }
    let other = pool.submit(nap, 2).unwrap();
    other.on_done(|_| std::panic::panic_any(5));
    assert_eq!((task.get().unwrap(), other.get().unwrap(), ran.load(Ordering::Relaxed)), (1, 2, 3));
    // To one that is done, and of a future.
    let task = pool.submit(nap, 1).unwrap();
    task.wait();
    task.on_done(|_| panic!("by design"));
    assert_eq!(block_on(task).unwrap(), 1);
    assert_eq!(pool.map(nap, [1, 2]).unwrap(), [1, 2]);
}

#[test]
fn a_callback_may_use_the_pool_and_wait_for_other_calls() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Arc::new(Pool::new(1).unwrap());
    let (send, receive) = mpsc::channel();
    let task = pool.submit(nap, 1).unwrap();
    let (inner, done) = (pool.clone(), pool.submit(nap, 3).unwrap());
    done.on_done(|_| ());
    task.on_done(move |_| {
        let other = inner.submit(nap, 2).unwrap();
        other.on_done(|_| ());
        let value = other.get().unwrap() + inner.apply(nap, 4).unwrap() + done.get().unwrap();
        send.send(value).unwrap();
    });
    assert_eq!(receive.recv().unwrap(), 9);
    assert_eq!(task.get().unwrap(), 1);
    // The last one that holds the pool may be its own keeper.
    let (send, receive) = mpsc::channel();
    let task = pool.submit(nap, 1).unwrap();
    let held = Mutex::new(Some(pool));
    task.on_done(move |_| {
        drop(held.lock().unwrap().take());
        send.send(()).unwrap();
    });
    receive.recv().unwrap();
}

#[test]
fn a_callback_that_waits_for_its_own_call_panics_instead() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::new(1).unwrap();
    let task = Arc::new(Mutex::new(Some(pool.submit(nap, 1).unwrap())));
    let (send, receive) = mpsc::channel();
    let own = task.clone();
    task.lock().unwrap().as_ref().unwrap().on_done(move |_| {
        let task = own.lock().unwrap().take().unwrap();
        let got = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| task.get()));
        send.send(got.is_err()).unwrap();
    });
    assert!(receive.recv().unwrap());
    assert_eq!(pool.apply(nap, 1).unwrap(), 1);
}

#[test]
fn a_detached_call_runs_to_its_end() {
    let _watchdog = procession_testkit::test_watchdog();
    let notes = Notebook::new();
    let pool = Pool::new(1).unwrap();
    for n in 0..20 {
        pool.submit(|(path, n): (String, u64)| note(path, n), (notes.path(), n)).unwrap().detach();
    }
    pool.join();
    assert!(notes.read().into_iter().eq(0..20));
}

#[test]
fn a_join_waits_for_callbacks_and_a_drop_tells_those_that_wait() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::new(1).unwrap();
    let (send, receive) = mpsc::channel();
    let slow = send.clone();
    let task = pool.submit(nap, 1).unwrap();
    task.on_done(move |result| {
        // Longer than the pool's drop would wait.
        nap(500);
        slow.send(result.is_ok()).unwrap();
    });
    pool.join();
    assert!(receive.try_recv().unwrap(), "the callback was not waited for");
    let pool = Pool::new(1).unwrap();
    let late = pool.submit(nap, LONG).unwrap();
    late.on_done(move |result| send.send(matches!(result, Err(TaskError::Terminated))).unwrap());
    let awaited = pool.submit(nap, LONG).unwrap();
    let waiting = thread::spawn(move || block_on(awaited));
    drop(pool);
    assert!(receive.recv().unwrap());
    assert!(matches!(waiting.join().unwrap(), Err(TaskError::Terminated)));
    // The pool has ended, and calls back all the same.
    let (send, receive) = mpsc::channel();
    late.on_done(move |_| send.send(()).unwrap());
    receive.recv().unwrap();
}

#[test]
fn a_keeper_goes_with_its_pool() {
    let _watchdog = procession_testkit::test_watchdog();
    procession_testkit::isolated!({
        let run = || {
            let pool = Pool::new(2).unwrap();
            assert_eq!(block_on(pool.submit(nap, 1).unwrap()).unwrap(), 1);
            drop(pool);
            let pool = Pool::new(1).unwrap();
            pool.submit(nap, 1).unwrap().on_done(|_| ()).wait();
            pool.join();
        };
        run();
        let before = settled();
        (0..3).for_each(|_| run());
        assert_eq!(before.difference(&settled()), None);
    });
}

#[test]
fn a_pool_that_is_only_waited_for_has_no_thread_of_its_own() {
    let _watchdog = procession_testkit::test_watchdog();
    procession_testkit::isolated!({
        let pool = Pool::new(1).unwrap();
        pool.map(nap, [0, 1]).unwrap();
        pool.apply(nap, 0).unwrap();
        pool.imap(nap, [0, 1]).for_each(|result| _ = result.unwrap());
        let names = || {
            let tasks = std::fs::read_dir("/proc/self/task").unwrap();
            tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap())
        };
        assert!(!names().any(|name| name.starts_with("procession-keep")));
        let task = pool.submit(nap, 0).unwrap();
        task.on_done(|_| ());
        task.get().unwrap();
        assert!(names().any(|name| name.starts_with("procession-keep")));
    });
}

#[test]
fn calls_are_futures_for_any_executor() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::new(2).unwrap();
    assert_eq!(block_on(pool.submit(nap, 3).unwrap()).unwrap(), 3);
    assert_eq!(block_on(pool.map_async(nap, [1, 2]).unwrap()).unwrap(), [1, 2]);
    let error = block_on(pool.submit(|_: u64| -> u64 { panic!("by design") }, 3).unwrap()).unwrap_err();
    assert_eq!(error.panic().unwrap().message(), "by design");
    let tasks = pool.tasks(|n: u64| n * n, 0..200).spawn_each().unwrap();
    let mut values: Vec<u64> = run_all(tasks.into_iter().map(|task| Box::pin(task) as _).collect())
        .into_iter()
        .map(Result::unwrap)
        .collect();
    values.sort_unstable();
    assert!(values.into_iter().eq((0..200).map(|n| n * n)));
    // One that is done before it is polled.
    let task = pool.submit(nap, 1).unwrap();
    task.wait();
    assert_eq!(block_on(task).unwrap(), 1);
}

#[test]
fn tasks_can_be_awaited_and_begin_then() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::new(2).unwrap();
    let values = block_on(async { pool.tasks(|n: u64| n + 1, 0..10_000).await });
    assert!(values.unwrap().into_iter().eq(1..=10_000));
    let error = block_on(pool.tasks(|n: u64| assert!(n != 5, "five"), 0..10).chunk_size(2).into_future());
    assert_eq!(error.unwrap_err().panic().unwrap().message(), "five");
    type Boxed = Pin<Box<dyn Future<Output = Result<Vec<u64>, TaskError>>>>;
    let many: Vec<Boxed> =
        (0..4).map(|_| Box::pin(pool.tasks(nap, [1, 2, 3]).chunk_size(1).into_future()) as _).collect();
    assert!(run_all(many).into_iter().all(|values| values.unwrap() == [1, 2, 3]));
}

#[test]
fn a_future_that_is_dropped_cancels_its_call() {
    let _watchdog = procession_testkit::test_watchdog();
    let notes = Notebook::new();
    let (pool, gate_file) = (Pool::new(1).unwrap(), Gate::new());
    let running = pool.submit(gate, gate_file.path()).unwrap();
    wait_until(|| running.running());
    let work = |(path, n): (String, u64)| note(path, n);
    let mut dropped: Vec<_> = (0..5).map(|n| pool.submit(work, (notes.path(), n)).unwrap()).collect();
    for task in &mut dropped {
        assert!(Pin::new(task).poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    drop(dropped);
    gate_file.open();
    pool.apply(work, (notes.path(), 9)).unwrap();
    assert_eq!(notes.read(), [9]);
}

#[cfg(feature = "async")]
#[test]
fn results_are_a_stream_within_their_window() {
    use futures_core::Stream;
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::new(2).unwrap();
    let mut taken = 0;
    let input = std::iter::from_fn(|| {
        taken += 1;
        Some(taken)
    });
    let mut results = pool.tasks(|n: u64| n, input).window(10).ordered();
    for n in 1..=100 {
        let next = std::future::poll_fn(|context| Stream::poll_next(Pin::new(&mut results), context));
        assert_eq!(block_on(next).unwrap().unwrap(), n);
    }
    drop(results);
    assert!(taken <= 110, "{taken} were taken");
}

#[test]
fn tasks_come_as_they_are_done() {
    let _watchdog = procession_testkit::test_watchdog();
    let (pool, other, gate_file) = (Pool::new(2).unwrap(), Pool::new(1).unwrap(), Gate::new());
    let first = pool.submit(nap, 1).unwrap();
    first.wait();
    let last = pool.submit(gate, gate_file.path()).unwrap();
    let mut done = as_completed([last, pool.submit(nap, 2).unwrap(), first]);
    assert_eq!(done.size_hint(), (3, Some(3)));
    assert_eq!([done.next(), done.next()].map(|task| task.unwrap().get().unwrap()), [1, 2]);
    assert!(done.next_timeout(Duration::from_millis(5)).is_err());
    gate_file.open();
    assert_eq!(done.next().unwrap().get().unwrap(), 7);
    assert!(done.next().is_none() && done.next_timeout(Duration::ZERO).unwrap().is_none());
    // Of several pools, driven by nobody else.
    let mut tasks = pool.tasks(nap, 0..20).spawn_each().unwrap();
    tasks.extend(other.tasks(nap, 20..40).spawn_each().unwrap());
    let mut values: Vec<u64> = as_completed(tasks).map(|task| task.get().unwrap()).collect();
    values.sort_unstable();
    assert!(values.into_iter().eq(0..40));
    assert!(as_completed(Vec::<Task<u64>>::new()).next().is_none());
}

#[test]
fn an_iteration_over_tasks_that_ends_in_time_gives_back_the_rest() {
    let _watchdog = procession_testkit::test_watchdog();
    let (pool, gate_file) = (Pool::new(1).unwrap(), Gate::new());
    let done = pool.submit(nap, 1).unwrap();
    done.wait();
    let late = pool.submit(gate, gate_file.path()).unwrap();
    let mut tasks = as_completed([late, done]).timeout(Duration::from_millis(20));
    assert_eq!(tasks.next().unwrap().unwrap().get().unwrap(), 1);
    let unfinished = tasks.next().unwrap().unwrap_err();
    assert_eq!(unfinished.to_string(), "1 (of 2) tasks are unfinished");
    assert!(tasks.next().is_none());
    gate_file.open();
    assert_eq!(unfinished.tasks.into_iter().next().unwrap().get().unwrap(), 7);
}

#[test]
fn a_wait_ends_with_the_first_or_the_first_error_or_all_or_in_time() {
    let _watchdog = procession_testkit::test_watchdog();
    let (pool, gate_file) = (Pool::new(3).unwrap(), Gate::new());
    let held = || pool.submit(gate, gate_file.path()).unwrap();
    let fails = || pool.submit(|_: u64| -> u64 { panic!("by design") }, 0).unwrap();
    let lens = |waited: &procession_pool::Waited<u64>| (waited.done.len(), waited.not_done.len());
    // Within some time.
    let waited = wait([held()], WaitFor::All, Some(Duration::from_millis(10)));
    assert_eq!(lens(&waited), (0, 1));
    // The first, also if it was done before.
    let one = pool.submit(nap, 1).unwrap();
    let waited = wait(waited.not_done.into_iter().chain([one]), WaitFor::FirstCompleted, None);
    assert_eq!(lens(&waited), (1, 1));
    let waited = wait(waited.not_done.into_iter().chain(waited.done), WaitFor::FirstCompleted, None);
    assert_eq!(lens(&waited), (1, 1));
    // A value is not enough for the first error; a failure is, also one that was there before.
    let waited = wait(
        waited.not_done.into_iter().chain(waited.done).chain([pool.submit(nap, 2).unwrap(), fails()]),
        WaitFor::FirstError,
        None,
    );
    assert!(
        waited.done.iter().any(|task| task.error().is_some()) && waited.not_done.iter().any(|it| !it.ready())
    );
    let waited = wait(waited.not_done.into_iter().chain(waited.done), WaitFor::FirstError, None);
    assert!(!waited.done.is_empty() && !waited.not_done.is_empty());
    // A cancelled one is an error, and done.
    let (blocked, queued) = ([held(), held()], pool.submit(nap, LONG).unwrap());
    wait_until(|| blocked.iter().all(Task::running) || queued.cancel());
    assert!(queued.cancel());
    let waited_too = wait([queued], WaitFor::FirstError, None);
    assert_eq!(lens(&waited_too), (1, 0));
    gate_file.open();
    let all = waited.not_done.into_iter().chain(waited.done).chain(blocked);
    let waited = wait(all, WaitFor::All, None);
    assert!(waited.not_done.is_empty() && waited.done.len() == 6, "{waited:?}");
    let nothing = wait(Vec::<Task<u64>>::new(), WaitFor::FirstCompleted, None);
    assert!(nothing.done.is_empty());
}

#[test]
fn several_inputs_go_side_by_side_lazily_and_within_a_total_time() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::new(2).unwrap();
    let sums = pool.map_zip(|a: u64, b: u64| a.pow(b as u32), (0..10, [2; 10])).collect().unwrap();
    assert!(sums.into_iter().eq((0..10).map(|n| n * n)));
    let mut endless = pool
        .map_zip(
            |a: u64, b: u64, c: String| format!("{}{c}", a + b),
            (0.., 10.., std::iter::repeat_with(|| "!".to_owned())),
        )
        .ordered();
    assert_eq!(endless.next().unwrap().unwrap(), "10!");
    assert_eq!(endless.next().unwrap().unwrap(), "12!");
    drop(endless);
    // An error comes at its place, and what follows it too.
    let quotients: Vec<_> = pool.map_zip(|a: u64, b: u64| a / b, ([1, 4, 9], [1, 0, 3])).ordered().collect();
    assert!(quotients[0].is_ok() && quotients[1].is_err() && quotients[2].is_ok());
    let mut late = pool.map_timeout(nap, [0, 0, LONG, 0], Duration::from_millis(300));
    assert!(late.by_ref().take(2).all(|result| result.is_ok()));
    assert!(matches!(late.next(), Some(Err(TaskError::OutOfTime(_)))));
    assert!(late.next().is_none());
    let late = pool.tasks(nap, [LONG]).timeout(Duration::from_millis(5)).collect();
    assert!(matches!(late, Err(TaskError::OutOfTime(_))));
}

#[test]
fn many_threads_submit_wait_call_back_and_await_at_once() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::builder().workers(2).retry(1).build().unwrap();
    let called = AtomicU32::new(0);
    let called = Arc::new(called);
    thread::scope(|scope| {
        for worker in 0..6_u64 {
            let (pool, called) = (&pool, called.clone());
            scope.spawn(move || {
                for n in 0..100 {
                    let task = pool.submit(|n: u64| n + 1, n).unwrap();
                    let value = match (worker + n) % 4 {
                        0 => task.get().unwrap(),
                        1 => block_on(task).unwrap(),
                        2 => {
                            let called = called.clone();
                            task.on_done(move |_| _ = called.fetch_add(1, Ordering::Relaxed));
                            task.get().unwrap()
                        }
                        _ => pool.apply(|n: u64| n + 1, n).unwrap(),
                    };
                    assert_eq!(value, n + 1);
                }
            });
        }
    });
    assert_eq!(called.load(Ordering::Relaxed), 150);
}

#[test]
fn calls_larger_than_a_lane_go_on_though_nobody_waits() {
    let _watchdog = procession_testkit::test_watchdog();
    let (pool, notebook) = (Pool::new(1).unwrap(), Notebook::new());
    let large = |(path, bytes): (String, Vec<u8>)| note(path, bytes.len() as u64);
    let task = pool.submit(large, (notebook.path(), vec![1_u8; 10 << 20])).unwrap();
    assert_eq!(notebook.wait_for(1), [10 << 20]);
    // Results as well, of which nobody takes any.
    let many = |(path, n): (String, u64)| {
        note(path, n);
        vec![0_u8; 100_000]
    };
    let results = pool.map_async(many, (0..50).map(|n| (notebook.path(), n))).unwrap();
    notebook.wait_for(51);
    task.get().unwrap();
    assert_eq!(results.get().unwrap().len(), 50);
}

/// A value that goes, and does not come.
#[derive(Debug)]
struct PanicsHere(u32);

impl Serialize for PanicsHere {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for PanicsHere {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<PanicsHere, D::Error> {
        panic!("by design")
    }
}

#[test]
fn a_value_whose_decoder_panics_is_an_error_however_it_is_asked_for() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::new(1).unwrap();
    let call = || pool.submit(PanicsHere, 5).unwrap();
    let (send, receive) = mpsc::channel();
    let told = call();
    told.on_done(move |result| send.send(result.is_err()).unwrap());
    assert!(receive.recv().unwrap());
    assert!(matches!(told.get(), Err(TaskError::BadResult(_))));
    let looked_at = call();
    looked_at.wait();
    assert!(looked_at.error().is_some() && !looked_at.cancelled());
    assert!(matches!(looked_at.get(), Err(TaskError::BadResult(_))));
    let many = pool.map_async(PanicsHere, 0..4).unwrap();
    many.wait();
    assert!(many.error().is_some());
    assert!(matches!(many.get(), Err(TaskError::BadResult(_))));
}
