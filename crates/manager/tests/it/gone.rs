//! What a call says of itself when the server is gone: whether it may have been done.

use procession_manager::{Error, Manager};
use procession_testkit::{test_watchdog, wait::eventually};
use rustix::process::{Pid, Signal, kill_process};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(10);

fn signal(manager: &Manager, signal: Signal) {
    kill_process(Pid::from_raw(manager.pid() as i32).unwrap(), signal).unwrap();
}

fn kill(manager: &Manager) {
    signal(manager, Signal::KILL);
    eventually("it is dead", LONG, || !manager.is_alive());
}

fn stop(manager: &Manager) {
    signal(manager, Signal::STOP);
    eventually("it is stopped", LONG, || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", manager.pid())).unwrap();
        stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
    });
}

fn was_not_done(error: &Error) {
    assert!(error.is_server_gone() && !error.may_have_run(), "{error}");
    assert!(error.to_string().contains("the call was not done"), "{error}");
}

fn may_have_been_done(error: &Error) {
    assert!(error.is_server_gone() && error.may_have_run(), "{error}");
    assert!(error.to_string().contains("the call may have been done"), "{error}");
}

#[test]
fn a_call_to_a_server_that_died_while_its_client_was_idle_was_not_done() {
    let _watchdog = test_watchdog();
    for lanes in [true, false] {
        let manager = Manager::builder().shared_memory(lanes).start().unwrap();
        let dict = manager.dict::<u64, u64>().unwrap();
        dict.set(&1, &1).unwrap();
        kill(&manager);
        was_not_done(&dict.set(&1, &2).unwrap_err());
    }
}

#[test]
fn a_request_that_a_server_did_not_read_before_it_died_was_not_done() {
    let _watchdog = test_watchdog();
    // A small one; one of which a part has room.
    for len in [10, 2 << 20] {
        let manager = Manager::start().unwrap();
        let value = manager.value(&Vec::<u8>::new()).unwrap();
        stop(&manager);
        let before = value.clone();
        let (begin, begun) = std::sync::mpsc::channel();
        let call = std::thread::spawn(move || {
            begin.send(()).unwrap();
            before.set(&vec![1; len]).unwrap_err()
        });
        begun.recv().unwrap();
        // The reply to nobody: it is given up, and its request lies there all the same.
        assert!(manager.ping_timeout(Duration::ZERO).unwrap_err().is_timeout());
        kill(&manager);
        was_not_done(&call.join().unwrap());
    }
}

#[test]
fn a_call_that_waits_in_a_server_that_dies_may_have_been_done() {
    let _watchdog = test_watchdog();
    for lanes in [true, false] {
        let manager = Manager::builder().shared_memory(lanes).start().unwrap();
        let queue = manager.queue::<u64>().unwrap();
        let waits = queue.clone();
        let call = std::thread::spawn(move || waits.get().unwrap_err());
        eventually("it waits", LONG, || manager.stats().unwrap().waiting == 1);
        kill(&manager);
        may_have_been_done(&call.join().unwrap());
    }
}

#[cfg(feature = "async")]
#[test]
fn a_future_says_the_same() {
    use std::task::{Context, Poll, Waker};
    let _watchdog = test_watchdog();
    let manager = Manager::start().unwrap();
    let queue = manager.queue::<u64>().unwrap();
    let poll = |future: &mut std::pin::Pin<Box<dyn Future<Output = _>>>| {
        future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    };
    let mut parked: std::pin::Pin<Box<dyn Future<Output = _>>> = Box::pin(queue.get_async());
    assert!(poll(&mut parked).is_pending());
    eventually("it waits", LONG, || manager.stats().unwrap().waiting == 1);
    stop(&manager);
    let mut unread: std::pin::Pin<Box<dyn Future<Output = _>>> = Box::pin(queue.get_async());
    assert!(poll(&mut unread).is_pending());
    kill(&manager);
    let end = |mut future| {
        let mut error = None;
        eventually("it has heard", LONG, || {
            if let Poll::Ready(outcome) = poll(&mut future) {
                error = Result::<u64, Error>::err(outcome);
            }
            error.is_some()
        });
        error.unwrap()
    };
    may_have_been_done(&end(parked));
    was_not_done(&end(unread));
}
