use procession_sys::{Deadline, futex, futex::Wake, sync::AtomicU32};
use procession_testkit::{isolated, watchdog};
use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

#[test]
fn a_wait_on_another_value_does_not_sleep() {
    let _watchdog = watchdog!();
    assert_eq!(futex::wait(&AtomicU32::new(1), 0, None), Wake::Changed);
}

#[test]
fn a_wait_ends_at_its_deadline_and_not_before() {
    let _watchdog = watchdog!();
    let word = AtomicU32::new(0);
    let start = Instant::now();
    let wake = futex::wait(&word, 0, Some(Deadline::after(Duration::from_millis(20))));
    assert_eq!(wake, Wake::TimedOut);
    assert!(start.elapsed() >= Duration::from_millis(20));
}

#[test]
fn a_deadline_in_the_past_does_not_sleep() {
    let _watchdog = watchdog!();
    assert_eq!(futex::wait(&AtomicU32::new(0), 0, Some(Deadline::from_nanos(0))), Wake::TimedOut);
}

/// With the private flag the kernel would look for the sleeper in the waker's own address space, and the wake would
/// be lost.
#[test]
fn a_wake_reaches_a_sleeper_in_another_process() {
    isolated!({
        let word = shared_word();
        // SAFETY: the isolated process forks before it has other threads than the harness's, and the child only
        // stores, wakes and leaves.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let parent = procession_sys::PidFd::open(std::os::unix::process::parent_id()).ok();
            while word.load(Ordering::Acquire) == 0 {
                std::thread::yield_now();
            }
            // Wakes until the sleeper says that it was woken, since nobody can see that another process sleeps.
            while word.load(Ordering::Acquire) == 1
                && !parent.as_ref().is_some_and(|p| p.has_ended().unwrap_or(true))
            {
                futex::wake_all(word);
            }
            // SAFETY: ends the child without the parent's handlers.
            unsafe { libc::_exit(0) };
        }
        word.store(1, Ordering::Release);
        let wake = futex::wait(word, 1, Some(Deadline::after(Duration::from_secs(30))));
        word.store(2, Ordering::Release);
        assert_eq!(wake, Wake::Woken);
        let mut status = 0;
        // SAFETY: our child; the status is written.
        unsafe { libc::waitpid(pid, &raw mut status, 0) };
        assert_eq!(status, 0);
    });
}

fn shared_word() -> &'static AtomicU32 {
    let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping at an address of the kernel's choice.
    let page = unsafe { libc::mmap(std::ptr::null_mut(), 4096, access, flags, -1, 0) };
    assert_ne!(page, libc::MAP_FAILED);
    // SAFETY: the page is zeroed, aligned and never unmapped.
    unsafe { &*page.cast::<AtomicU32>() }
}
