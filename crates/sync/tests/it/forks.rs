//! A function of the user's that forks: its child comes back from the primitive's call too, and is not who made it.

use crate::support::soon;
use procession_sync::{Barrier, BarrierError, Broken, LockError, Once, OnceError, OnceValue, RwLock};
use procession_testkit::{forked, isolated, limits::Surroundings, test_name};
use std::time::Duration;

const BOUND: Duration = Duration::from_secs(20);

fn fork() -> i32 {
    // SAFETY: of a process whose other threads hold nothing that the child needs.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    pid
}

/// The child's end, which tells whether it saw what it should.
fn end(right: bool) -> ! {
    // SAFETY: no preconditions.
    unsafe { libc::_exit(i32::from(!right)) }
}

fn ends_well(pid: i32) {
    let mut status = 0;
    // SAFETY: a child of this process, and a place for its status.
    let ended = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    assert_eq!((ended, status), (pid, 0));
}

#[test]
fn a_child_of_the_function_that_makes_a_value_writes_nothing() {
    isolated!(test_name!(), {
        let once = OnceValue::<[u64; 4]>::new().unwrap();
        let mut pid = 0;
        let made = once.get_or_init(|| {
            pid = fork();
            if pid == 0 {
                // Its parent is done by now.
                let _ = once.wait_timeout(BOUND);
                return [1; 4];
            }
            [2; 4]
        });
        if pid == 0 {
            end(matches!(made, Err(OnceError::Recursive)));
        }
        assert_eq!(made.unwrap(), [2; 4]);
        ends_well(pid);
        assert_eq!(once.get(), Some([2; 4]));
    });
}

#[test]
fn a_child_of_the_function_that_runs_once_is_not_its_end() {
    isolated!(test_name!(), {
        let once = Once::new().unwrap();
        let mut pid = 0;
        let ran = once.call_once(|| {
            pid = fork();
            if pid != 0 {
                ends_well(pid);
                assert!(!once.is_completed());
            }
        });
        if pid == 0 {
            end(matches!(ran, Err(OnceError::Recursive)));
        }
        assert!(ran.unwrap() && once.is_completed());
    });
}

#[test]
fn a_child_of_a_barriers_action_is_no_party() {
    isolated!(test_name!(), {
        let barrier = Barrier::new(2).unwrap();
        let other = std::thread::spawn({
            let barrier = barrier.clone();
            move || barrier.wait()
        });
        soon("the other one waits", || barrier.waiting() == 1);
        let mut pid = 0;
        let passed = barrier.wait_with(|| {
            pid = fork();
            if pid != 0 {
                ends_well(pid);
                assert_eq!(barrier.waiting(), 1, "the action still runs");
            }
        });
        if pid == 0 {
            end(matches!(passed, Err(BarrierError::Broken(Broken::Reset))));
        }
        assert_eq!(passed.unwrap() + other.join().unwrap().unwrap(), 1);
    });
}

#[test]
fn a_copy_of_a_guard_lets_nothing_go_in_a_child_with_its_parents_pid() {
    isolated!(test_name!(), {
        Surroundings::new().pid_one().run_or_skip(|| {
            let lock = RwLock::new().unwrap();
            let mut guard = Some(lock.write().unwrap());
            // SAFETY: changes nothing for this thread; its children are in a namespace of their own.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWPID) }, 0);
            forked(|| {
                assert_eq!(std::process::id(), 1);
                drop(guard.take());
                assert!(matches!(lock.try_read(), Err(LockError::TimedOut)));
            });
            assert!(lock.writer().is_some() && guard.is_some());
        });
    });
}
