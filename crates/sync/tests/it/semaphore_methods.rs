//! CPython's tests of semaphores: in threads, and in processes under each start method.

use procession_process::{Process, StartMethod, Stdio};
use procession_sync::{BoundedSemaphore, Semaphore};
use procession_testkit::{wait::eventually, watchdog};
use std::{
    io::Read,
    time::{Duration, Instant},
};

/// What is run here, in another thread, and in a child of each kind. Fork is refused where there are threads, so it is
/// used in a child that has one.
fn everywhere<T>(make: fn() -> T, body: fn(T))
where
    T: serde::Serialize + serde::de::DeserializeOwned + Send + 'static,
{
    let _watchdog = watchdog!(Duration::from_secs(60));
    body(make());
    std::thread::spawn(move || body(make())).join().unwrap();
    for method in [StartMethod::Spawn, StartMethod::ForkServer] {
        Process::builder().start_method(method).spawn(body, make()).unwrap().join().unwrap();
    }
}

/// The same in a forked child of a child.
fn forked<T>(body: fn(T), value: T)
where
    T: serde::Serialize + serde::de::DeserializeOwned + 'static,
{
    Process::builder().start_method(StartMethod::Fork).spawn(body, value).unwrap().join().unwrap();
}

fn in_a_host(body: fn(())) {
    let _watchdog = watchdog!(Duration::from_secs(60));
    Process::builder().start_method(StartMethod::Spawn).spawn(body, ()).unwrap().join().unwrap();
}

fn two() -> Semaphore {
    Semaphore::new(2).unwrap()
}

fn counts(semaphore: Semaphore) {
    assert_eq!(semaphore.value(), 2);
    semaphore.acquire().unwrap();
    assert_eq!(semaphore.value(), 1);
    semaphore.acquire().unwrap();
    assert_eq!(semaphore.value(), 0);
    assert!(semaphore.try_acquire().unwrap_err().is_timeout());
    for value in 1..=4 {
        semaphore.release().unwrap();
        assert_eq!(semaphore.value(), value);
    }
    let permits = [(); 4].map(|()| semaphore.permit().unwrap());
    assert!(semaphore.try_permit().is_err());
    drop(permits);
    assert_eq!(semaphore.value(), 4);
}

#[test]
fn a_semaphore_counts_and_may_be_released_above_its_start() {
    everywhere(two, counts);
    in_a_host(|()| forked(counts, two()));
}

fn bounded() -> BoundedSemaphore {
    BoundedSemaphore::new(2).unwrap()
}

fn counts_to_its_bound(semaphore: BoundedSemaphore) {
    assert_eq!(semaphore.value(), 2);
    semaphore.acquire().unwrap();
    let permit = semaphore.permit().unwrap();
    assert_eq!(semaphore.value(), 0);
    assert!(semaphore.try_acquire().is_err() && semaphore.try_permit().is_err());
    semaphore.release().unwrap();
    assert_eq!(semaphore.value(), 1);
    drop(permit);
    assert_eq!(semaphore.value(), 2);
    assert!(semaphore.release().is_err());
    assert_eq!(semaphore.value(), 2);
}

#[test]
fn a_bounded_semaphore_counts_and_refuses_more() {
    everywhere(bounded, counts_to_its_bound);
    in_a_host(|()| forked(counts_to_its_bound, bounded()));
}

fn empty() -> Semaphore {
    Semaphore::new(0).unwrap()
}

fn times_out(semaphore: Semaphore) {
    assert!(semaphore.try_acquire().unwrap_err().is_timeout());
    assert!(semaphore.acquire_timeout(Duration::ZERO).unwrap_err().is_timeout());
    for timeout in [Duration::from_millis(82), Duration::from_millis(35), Duration::from_millis(310)] {
        let started = Instant::now();
        assert!(semaphore.acquire_timeout(timeout).unwrap_err().is_timeout());
        assert!(started.elapsed() >= timeout);
        let started = Instant::now();
        assert!(semaphore.permit_timeout(timeout).unwrap_err().is_timeout());
        assert!(started.elapsed() >= timeout);
    }
}

#[test]
fn each_form_of_a_timeout_ends_in_time() {
    everywhere(empty, times_out);
    in_a_host(|()| forked(times_out, empty()));
}

fn give(semaphore: Semaphore) {
    semaphore.release().unwrap();
    // Owned to the end, and by then given back.
    std::mem::forget(semaphore.permit());
}

#[test]
fn a_child_releases_what_its_parent_waits_for() {
    let _watchdog = watchdog!(Duration::from_secs(60));
    for method in [StartMethod::Spawn, StartMethod::ForkServer] {
        let semaphore = empty();
        let child = Process::builder().start_method(method).spawn(give, semaphore.clone()).unwrap();
        semaphore.acquire().unwrap();
        semaphore.release().unwrap();
        child.join().unwrap();
        eventually("the child's permit is back", Duration::from_secs(10), || semaphore.value() == 1);
    }
}

/// As `TestNamedResource.test_global_named_resource_spawn`: each process has its own.
static GLOBAL: std::sync::LazyLock<Semaphore> = std::sync::LazyLock::new(two);

#[test]
fn a_static_semaphore_is_made_anew_in_an_executed_child_without_a_word() {
    let _watchdog = watchdog!();
    let permit = GLOBAL.permit().unwrap();
    let child = Process::builder().start_method(StartMethod::Spawn).stderr(Stdio::Piped);
    let child = child.spawn(|()| GLOBAL.permit().map(|_| GLOBAL.value()).unwrap(), ()).unwrap();
    let mut told = String::new();
    child.take_stderr().unwrap().read_to_string(&mut told).unwrap();
    assert_eq!((child.join().unwrap(), told.as_str()), (1, ""));
    drop(permit);
    assert_eq!(GLOBAL.value(), 2);
}
