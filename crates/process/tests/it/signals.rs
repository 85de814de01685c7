//! Signals that arrive during any call lose nothing.

use crate::support::{BOUND, each_method};
use procession_process::{Process, StartMethod};
use procession_testkit::{storm, wait::eventually};
use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

each_method! {
    ; alone:
    a_storm_of_signals_loses_no_start_and_no_result,
}

static ARRIVED: AtomicU32 = AtomicU32::new(0);

extern "C" fn count(_signal: i32) {
    ARRIVED.fetch_add(1, Ordering::Relaxed);
}

/// Installs a handler without SA_RESTART, so that every call that sleeps is interrupted.
fn interrupt_on(signal: i32) {
    // SAFETY: zero is a value of the record.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = count as *const () as usize;
    // SAFETY: the handler only counts.
    assert_eq!(unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) }, 0);
}

fn storm(parent: u32) {
    let parent = storm::pidfd(parent).unwrap();
    // Ended by its parent, or with it.
    while rustix::process::pidfd_send_signal(&parent, rustix::process::Signal::USR1).is_ok() {
        storm::delay(Duration::from_micros(60));
    }
}

fn a_storm_of_signals_loses_no_start_and_no_result(method: StartMethod) {
    interrupt_on(libc::SIGUSR1);
    let mut storm =
        Some(Process::builder().start_method(StartMethod::Spawn).spawn(storm, std::process::id()).unwrap());
    eventually("a storm", BOUND, || ARRIVED.load(Ordering::Relaxed) > 10);
    let before = ARRIVED.load(Ordering::Relaxed);
    for number in 0..100_u32 {
        let body = |(number, bytes): (u32, Vec<u8>)| {
            // The join has something to wait for.
            storm::delay(Duration::from_micros(200));
            (number, bytes)
        };
        let bytes = vec![number as u8; if number % 10 == 0 { 200_000 } else { 10 }];
        let process = Process::builder().start_method(method).spawn(body, (number, bytes.clone())).unwrap();
        let value = match number % 3 {
            0 => process.join().unwrap(),
            1 => process.join_timeout(BOUND).unwrap().expect("an end long before the deadline"),
            _ => {
                assert!(procession_testkit::wait::ended(process.sentinel(), BOUND).unwrap());
                process.try_join().unwrap().expect("an end that the sentinel tells")
            }
        };
        assert_eq!(value, (number, bytes));
    }
    assert!(ARRIVED.load(Ordering::Relaxed) > before + 100);
    let stormer = storm.take().unwrap();
    stormer.kill().unwrap();
    assert_eq!(stormer.join().unwrap_err().signal(), Some(libc::SIGKILL));
}
