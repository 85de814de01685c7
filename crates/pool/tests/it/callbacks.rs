//! Callbacks that take their time.

use procession_pool::{Pool, WaitFor, Waited, wait};
use std::{sync::mpsc, thread, time::Duration};

fn nap(millis: u64) -> u64 {
    thread::sleep(Duration::from_millis(millis));
    millis
}

#[test]
fn a_callback_that_takes_long_holds_nobody_beyond_their_timeout() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::new(1).unwrap();
    let short = Duration::from_millis(10);
    let (begun, begins) = mpsc::channel();
    let (go_on, goes_on) = mpsc::channel::<()>();
    let task = pool.submit(nap, 1).unwrap();
    task.on_done(move |_| {
        begun.send(()).unwrap();
        goes_on.recv().unwrap();
    });
    let behind = pool.submit(nap, 2).unwrap();
    behind.on_done(|_| ());
    begins.recv().unwrap();
    // One whose callback is running, and one whose callback is behind that.
    assert!(task.wait_timeout(short) && task.ready());
    let task = task.get_timeout(short).unwrap_err();
    let task = task.get_timeout(Duration::ZERO).unwrap_err();
    behind.wait();
    let behind = behind.get_timeout(short).unwrap_err();
    let Waited { done, not_done } = wait([task, behind], WaitFor::FirstError, Some(short));
    assert_eq!((done.len(), not_done.len()), (2, 0));
    go_on.send(()).unwrap();
    for (task, value) in done.into_iter().zip(1..) {
        assert_eq!(task.get_timeout(Duration::from_secs(60)).unwrap().unwrap(), value);
    }
}
