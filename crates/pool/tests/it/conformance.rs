//! CPython's tests of its pool, each under every start method; see `docs/conformance.md`.

use crate::support::{Notebook, each_method, note, pool_under, wait_until};
use procession_pool::{Pool, TaskError};
use procession_process::{Process, StartMethod};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

each_method! {
    apply_gives_the_value,
    map_gives_what_a_loop_gives,
    starmap_unpacks_tuples,
    handles_for_many_items_give_what_map_gives,
    a_callback_gets_the_whole_result_once_and_a_failure_once,
    an_argument_that_cannot_be_encoded_is_the_calls_error,
    an_empty_input_is_no_call_at_all,
    a_failing_input_is_the_calls_error_every_time,
    a_submitted_call_gives_its_value_later,
    a_wait_for_a_slow_call_times_out_and_can_be_repeated,
    an_ordered_iteration_gives_all_in_order_and_ends,
    an_ordered_iteration_over_a_failing_input_gives_what_came_before_first,
    an_unordered_iteration_gives_all_once,
    an_unordered_iteration_over_a_failing_input_gives_the_error_and_valid_values,
    ten_thousand_queued_sleeps_do_not_delay_the_end,
    an_ended_pool_refuses_work,
    a_remote_panic_tells_message_and_place_and_an_inputs_error_tells_itself,
    the_kind_of_a_tasks_error_is_kept,
    map_waits_for_all_before_it_fails,
    nothing_of_the_arguments_is_kept,
    a_failing_call_tells_its_callback_and_its_getter,
    twenty_results_that_cannot_be_encoded_harm_nobody,
    the_initialiser_runs_once_in_every_worker,
}

fn square(n: u64) -> u64 {
    n * n
}

fn nap(millis: u64) -> u64 {
    std::thread::sleep(Duration::from_millis(millis));
    millis
}

fn apply_gives_the_value(method: StartMethod) {
    let pool = pool_under(method, 4);
    assert_eq!(pool.apply(square, 5).unwrap(), 25);
    assert_eq!(pool.apply(|(n, wait): (u64, u64)| n * n + nap(wait), (6, 1)).unwrap(), 37);
}

fn map_gives_what_a_loop_gives(method: StartMethod) {
    let pool = pool_under(method, 4);
    assert!(pool.map(square, 0..10).unwrap().into_iter().eq((0..10).map(square)));
    assert!(
        pool.tasks(square, 0..100).chunk_size(20).collect().unwrap().into_iter().eq((0..100).map(square))
    );
}

fn starmap_unpacks_tuples(method: StartMethod) {
    let pool = pool_under(method, 4);
    let pairs = || (0..100_u64).map(|n| (n, 99 - n));
    let wanted: Vec<u64> = pairs().map(|(a, b)| a * b).collect();
    assert_eq!(pool.starmap(|a, b| a * b, pairs().take(10)).unwrap(), wanted[..10]);
    assert_eq!(pool.star_tasks(|a, b| a * b, pairs()).chunk_size(20).collect().unwrap(), wanted);
    assert_eq!(pool.starmap_async(|a, b| a * b, pairs()).unwrap().get().unwrap(), wanted);
    // As many arguments as there may be.
    let sum = pool.starmap(
        |a: u8, b: u16, c: u32, d: u64, e: i8, f: bool| {
            u64::from(a) + u64::from(b) + u64::from(c) + d + e as u64 + u64::from(f)
        },
        [(1, 2, 3, 4, 5, true)],
    );
    assert_eq!(sum.unwrap(), [16]);
}

fn handles_for_many_items_give_what_map_gives(method: StartMethod) {
    let pool = pool_under(method, 4);
    let handle = pool.map_async(square, 0..10).unwrap();
    assert!(handle.get().unwrap().into_iter().eq((0..10).map(square)));
    let handle = pool.tasks(square, 0..1000).chunk_size(7).spawn().unwrap();
    assert!(handle.get().unwrap().into_iter().eq((0..1000).map(square)));
}

fn a_callback_gets_the_whole_result_once_and_a_failure_once(method: StartMethod) {
    let pool = pool_under(method, 2);
    let (send, receive) = mpsc::channel();
    let tell = move |result: &Result<Vec<u64>, TaskError>| send.send(result.as_ref().ok().cloned()).unwrap();
    pool.map_async(square, 1..4).unwrap().on_done(tell.clone()).wait();
    pool.map_async(square, [5]).unwrap().on_done(tell.clone()).wait();
    // Nobody waits, and nobody keeps the handle.
    let odd = |n: u64| if n == 2 { panic!("{n} is even") } else { n };
    let failing = pool.map_async(odd, 1..4).unwrap();
    failing.on_done(tell);
    failing.detach();
    let mut told = [(); 3].map(|()| receive.recv().unwrap());
    told.sort();
    assert_eq!(told, [None, Some(vec![1, 4, 9]), Some(vec![25])]);
    assert!(receive.recv().is_err(), "a callback was called twice, or is kept");
}

#[derive(Debug)]
struct Unwritable;

impl Serialize for Unwritable {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("by design"))
    }
}

impl<'de> Deserialize<'de> for Unwritable {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Unwritable, D::Error> {
        Ok(Unwritable)
    }
}

fn an_argument_that_cannot_be_encoded_is_the_calls_error(method: StartMethod) {
    let pool = pool_under(method, 2);
    let error = pool.map(|_: Unwritable| 1, (0..10).map(|_| Unwritable)).unwrap_err();
    assert!(matches!(&error, TaskError::BadArguments(why) if why.contains("by design")), "{error}");
    assert!(pool.submit(|_: Unwritable| 1, Unwritable).is_err());
    assert!(pool.map_async(|_: Unwritable| 1, [Unwritable]).unwrap().get().is_err());
    assert_eq!(pool.apply(square, 3).unwrap(), 9);
}

fn an_empty_input_is_no_call_at_all(method: StartMethod) {
    let pool = pool_under(method, 2);
    assert!(pool.tasks(square, []).chunk_size(1).collect().unwrap().is_empty());
    assert!(pool.tasks(square, []).spawn().unwrap().get().unwrap().is_empty());
    assert!(pool.map(square, []).unwrap().is_empty());
    assert!(pool.map_async(square, []).unwrap().get().unwrap().is_empty());
    assert!(pool.imap(square, []).next().is_none());
    assert!(pool.imap_unordered(square, []).next().is_none());
    assert!(pool.starmap(|a, b| a + b, [(0_u64, 0_u64); 0]).unwrap().is_empty());
    pool.for_each(|_: u64| (), []).unwrap();
    let (send, receive) = mpsc::channel();
    pool.map_async(square, []).unwrap().on_done(move |result| send.send(result.is_ok()).unwrap()).wait();
    assert!(receive.recv().unwrap());
}

/// Numbers, and an error after some of them.
fn failing(after: u64) -> impl Iterator<Item = Result<u64, String>> {
    (0..after).map(Ok).chain([Err("the input broke".to_owned())])
}

fn is_of_the_input(error: &TaskError) -> bool {
    matches!(error, TaskError::Input(error) if error.to_string() == "the input broke")
}

fn a_failing_input_is_the_calls_error_every_time(method: StartMethod) {
    let pool = pool_under(method, 2);
    for _ in 0..2 {
        assert!(is_of_the_input(&pool.tasks_try(square, failing(1)).collect().unwrap_err()));
        assert!(is_of_the_input(&pool.tasks_try(square, failing(10)).try_collect().unwrap_err()));
        assert!(is_of_the_input(&pool.tasks_try(square, failing(4)).spawn().unwrap().get().unwrap_err()));
    }
    assert_eq!(pool.map(square, [3]).unwrap(), [9]);
}

fn a_submitted_call_gives_its_value_later(method: StartMethod) {
    let pool = pool_under(method, 2);
    let handle = pool.apply_async(|n: u64| nap(20) + n, 29).unwrap();
    assert_eq!(handle.get().unwrap(), 49);
}

fn a_wait_for_a_slow_call_times_out_and_can_be_repeated(method: StartMethod) {
    let pool = pool_under(method, 1);
    let handle = pool.submit(nap, 60_000).unwrap();
    let handle = handle.get_timeout(Duration::from_millis(20)).unwrap_err();
    assert!(!handle.wait_timeout(Duration::from_millis(1)) && !handle.ready());
    pool.terminate();
    assert!(matches!(handle.get(), Err(TaskError::Terminated)));
}

fn an_ordered_iteration_gives_all_in_order_and_ends(method: StartMethod) {
    let pool = pool_under(method, 4);
    assert!(pool.imap(square, 0..10).map(Result::unwrap).eq((0..10).map(square)));
    let mut results = pool.imap(square, 0..10);
    (0..10).for_each(|n| assert_eq!(results.next().unwrap().unwrap(), n * n));
    assert!(results.next().is_none() && results.next().is_none());
    let results = pool.tasks(square, 0..1000).chunk_size(100).ordered();
    assert!(results.map(Result::unwrap).eq((0..1000).map(square)));
}

fn an_ordered_iteration_over_a_failing_input_gives_what_came_before_first(method: StartMethod) {
    let pool = pool_under(method, 2);
    for chunk in [1, 2, 4] {
        let mut results = pool.tasks_try(square, failing(9)).chunk_size(chunk).ordered();
        // Of a chunk that the error cuts short nothing is lost.
        (0..9).for_each(|n| assert_eq!(results.next().unwrap().unwrap(), n * n, "chunks of {chunk}"));
        assert!(is_of_the_input(&results.next().unwrap().unwrap_err()));
        assert!(results.next().is_none());
    }
}

fn an_unordered_iteration_gives_all_once(method: StartMethod) {
    let pool = pool_under(method, 4);
    for chunk in [1, 100] {
        let results = pool.tasks(square, 0..1000).chunk_size(chunk).unordered();
        let mut values: Vec<u64> = results.map(Result::unwrap).collect();
        values.sort_unstable();
        assert!(values.into_iter().eq((0..1000).map(square)), "chunks of {chunk}");
    }
}

fn an_unordered_iteration_over_a_failing_input_gives_the_error_and_valid_values(method: StartMethod) {
    let pool = pool_under(method, 2);
    for chunk in [1, 2, 4] {
        let results = pool.tasks_try(square, failing(10)).chunk_size(chunk).unordered();
        let (values, errors): (Vec<_>, Vec<_>) = results.partition(Result::is_ok);
        let values: BTreeSet<u64> = values.into_iter().map(Result::unwrap).collect();
        assert!(values.into_iter().eq((0..10).map(square)));
        assert!(matches!(&errors[..], [Err(error)] if is_of_the_input(error)), "{errors:?}");
    }
}

fn ten_thousand_queued_sleeps_do_not_delay_the_end(method: StartMethod) {
    let pool = pool_under(method, 3);
    let handle = pool.tasks(nap, (0..10_000).map(|_| 100)).chunk_size(1).spawn().unwrap();
    pool.terminate();
    // The watchdog would end a test that waits for a thousandth of that.
    assert!(matches!(handle.get(), Err(TaskError::Terminated)));
    drop(pool);
}

fn an_ended_pool_refuses_work(method: StartMethod) {
    let pool = pool_under(method, 2);
    let handle = pool.map_async(square, 0..4).unwrap();
    assert_eq!(handle.get().unwrap().len(), 4);
    pool.close();
    assert!(matches!(pool.map_async(square, 0..4), Err(TaskError::Terminated)));
    pool.terminate();
    assert!(matches!(pool.map(square, 0..4), Err(TaskError::Terminated)));
    assert!(matches!(pool.submit(square, 4), Err(TaskError::Terminated)));
    assert!(pool.imap(square, 0..4).next().is_some_and(|result| result.is_err()));
    pool.join();
}

fn a_remote_panic_tells_message_and_place_and_an_inputs_error_tells_itself(method: StartMethod) {
    use std::error::Error as _;
    let pool = pool_under(method, 1);
    let error = pool.apply(|n: u64| -> u64 { panic!("no {n}") }, 5).unwrap_err();
    let panic = error.panic().unwrap();
    assert_eq!(panic.message(), "no 5");
    assert!(panic.location().is_some_and(|place| place.contains("conformance.rs")), "{panic}");
    let error = pool.tasks_try(square, failing(1)).collect().unwrap_err();
    assert!(error.panic().is_none() && error.remote().is_none());
    assert_eq!(error.source().unwrap().to_string(), "the input broke");
    assert_eq!(error.to_string(), "the input failed: the input broke");
}

fn the_kind_of_a_tasks_error_is_kept(method: StartMethod) {
    let pool = pool_under(method, 1);
    let error = pool.try_map(|text: String| text.parse::<u8>(), ["x".to_owned()]).unwrap_err();
    let remote = error.remote().unwrap();
    assert!(remote.type_name().contains("ParseIntError"), "{remote}");
}

fn map_waits_for_all_before_it_fails(method: StartMethod) {
    let notes = Notebook::new();
    let pool = pool_under(method, 2);
    let work = |(path, n): (String, u64)| {
        assert!(n > 0, "0 fails at once");
        nap(5);
        note(path, n);
    };
    let items: Vec<_> = (0..20).map(|n| (notes.path(), n)).collect();
    let error = pool.tasks(work, items).chunk_size(1).collect().unwrap_err();
    assert!(error.panic().is_some(), "{error}");
    assert_eq!(notes.read().len(), 19);
}

static ALIVE: AtomicUsize = AtomicUsize::new(0);

#[derive(Serialize, Deserialize)]
struct Counted;

impl Counted {
    fn new() -> Counted {
        ALIVE.fetch_add(1, Ordering::Relaxed);
        Counted
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        // A worker's copies were not counted, and wrap around there.
        ALIVE.fetch_sub(1, Ordering::Relaxed);
    }
}

fn nothing_of_the_arguments_is_kept(method: StartMethod) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _alone = ONE_AT_A_TIME.lock().unwrap();
    let pool = pool_under(method, 2);
    let handle = pool.map_async(|_: Counted| (), (0..10).map(|_| Counted::new())).unwrap();
    assert_eq!(ALIVE.load(Ordering::Relaxed), 0, "arguments outlive their encoding");
    handle.get().unwrap();
    // A callback and what it holds go when it has run.
    let held = Arc::new(());
    let holding = held.clone();
    let handle = pool.submit(square, 2).unwrap();
    handle.on_done(move |_| drop(holding));
    assert_eq!(handle.get().unwrap(), 4);
    assert_eq!(Arc::strong_count(&held), 1);
}

fn a_failing_call_tells_its_callback_and_its_getter(method: StartMethod) {
    let pool = pool_under(method, 1);
    let (send, receive) = mpsc::channel();
    let handle = pool.submit(|(): ()| -> u64 { panic!("by design") }, ()).unwrap();
    handle.on_done(move |result| send.send(result.as_ref().unwrap_err().to_string()).unwrap());
    let error = handle.get().unwrap_err();
    assert_eq!(receive.recv().unwrap(), error.to_string());
    assert_eq!(error.panic().unwrap().message(), "by design");
}

fn twenty_results_that_cannot_be_encoded_harm_nobody(method: StartMethod) {
    let pool = pool_under(method, 2);
    for _ in 0..20 {
        let error = pool.apply(|(): ()| Unwritable, ()).unwrap_err();
        assert!(matches!(&error, TaskError::BadResult(why) if why.contains("by design")), "{error}");
    }
    assert_eq!(pool.map(square, 0..4).unwrap(), [0, 1, 4, 9]);
}

fn the_initialiser_runs_once_in_every_worker(method: StartMethod) {
    static RUNS: AtomicU64 = AtomicU64::new(0);
    let count = |by: u64| _ = RUNS.fetch_add(by, Ordering::Relaxed);
    let pool = Pool::builder().workers(3).start_method(method).initializer(count, 1).build().unwrap();
    let look = |_: u64| {
        nap(1);
        (std::process::id(), RUNS.load(Ordering::Relaxed))
    };
    let seen = pool.tasks(look, 0..60).chunk_size(1).collect().unwrap();
    assert!(seen.iter().all(|(_, runs)| *runs == 1), "{seen:?}");
    assert_eq!(RUNS.load(Ordering::Relaxed), 0);
}

#[test]
#[should_panic(expected = "at least one worker")]
fn a_pool_of_no_workers_is_refused() {
    let _ = Pool::new(0);
}

#[test]
fn a_pool_has_as_many_workers_as_were_asked_for() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::new(3).unwrap();
    assert_eq!((pool.workers(), pool.worker_pids().len()), (3, 3));
}

#[test]
fn a_pool_works_in_a_child_and_one_that_is_never_closed_lets_its_process_end() {
    static POOL: std::sync::OnceLock<Pool> = std::sync::OnceLock::new();
    let _watchdog = procession_testkit::test_watchdog();
    for method in [StartMethod::ForkServer, StartMethod::Spawn] {
        let child = Process::builder().daemon(false).start_method(method);
        let child = child.spawn(
            |method: StartMethod| {
                let pool = POOL.get_or_init(|| pool_under(method, 2));
                // Its keeper is at work when the process ends.
                let handle = pool.map_async(nap, (0..100).map(|_| 50)).unwrap();
                handle.on_done(|_| ());
                handle.detach();
                let squares = pool.tasks(square, 0..10).priority(1).collect();
                pool.worker_pids().into_iter().map(u64::from).chain(squares.unwrap()).collect::<Vec<u64>>()
            },
            method,
        );
        let told = child.unwrap().join().unwrap();
        assert!(told[2..].iter().copied().eq((0..10).map(square)), "{told:?}");
        wait_until(|| told[..2].iter().all(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists()));
    }
}

#[test]
fn two_hundred_workers_are_a_pool() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::new(200).unwrap();
    assert!(pool.map(square, 0..1000).unwrap().into_iter().eq((0..1000).map(square)));
    assert_eq!(pool.worker_pids().len(), 200);
}
