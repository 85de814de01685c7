//! What an operation asks of the kernel is listed, and nothing else is.

use procession_testkit::{isolated, syscalls};
use rustix::process::{getpid, getppid};

#[test]
fn arithmetic_makes_no_system_call() {
    isolated!({
        let calls = syscalls::trace(|| 20_u64, |number| *number = std::hint::black_box(*number) * 2 + 2);
        assert_eq!(calls, []);
        assert_eq!(syscalls::count(|| {}), 0);
    });
}

#[test]
fn calls_are_listed_in_order_with_their_arguments_and_preparation_is_not() {
    isolated!({
        let calls = syscalls::trace(getpid, |_| {
            let _ = getppid();
            let _ = rustix::process::setpriority_process(None, 5);
            let _ = getpid();
        });
        let numbers: Vec<_> = calls.iter().map(|call| call.number).collect();
        assert_eq!(numbers, [libc::SYS_getppid, libc::SYS_setpriority, libc::SYS_getpid]);
        assert_eq!(calls[1].arguments[..3], [0, 0, 5]);
    });
}

#[test]
fn an_uncontended_mutex_makes_no_system_call_and_a_file_does() {
    isolated!({
        let mutex = std::sync::Mutex::new(0);
        assert_eq!(syscalls::trace(|| (), |()| *mutex.lock().unwrap() += 1), []);
        assert!(syscalls::count(|| drop(std::fs::File::open("/dev/null"))) >= 2);
    });
}
