//! An isolated test runs alone, and its failure is the test's failure.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use procession_testkit::wait::ended;
use procession_testkit::{forked, isolated, isolated_within, storm, test_name};

const SOON: Duration = Duration::from_secs(30);

/// Runs `test`, and where this is the outer process returns the message of its panic.
fn message_of(test: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(test)).unwrap_err();
    if std::env::var_os("PROCESSION_ISOLATED").is_some() {
        resume_unwind(panic);
    }
    panic.downcast_ref::<String>().expect("a formatted message").clone()
}

#[test]
fn the_body_runs_in_another_process() {
    static RAN: AtomicBool = AtomicBool::new(false);
    let outer = std::env::var_os("PROCESSION_ISOLATED").is_none();
    isolated!({ RAN.store(true, Ordering::Relaxed) });
    assert_eq!(RAN.load(Ordering::Relaxed), !outer);
}

#[test]
fn a_failure_comes_with_its_output() {
    let message = message_of(|| {
        isolated!({
            println!("said on the way");
            panic!("the reason");
        });
    });
    assert!(message.contains("said on the way") && message.contains("the reason"), "{message}");
}

#[test]
#[expect(clippy::zombie_processes, reason = "what is left behind is the point")]
fn an_overdue_body_is_killed_with_its_descendants_and_reported() {
    let message = message_of(|| {
        isolated_within(test_name!(), Duration::from_secs(2), || {
            let child = Command::new("sleep").arg("1000").spawn().unwrap();
            println!("sleeper {}", child.id());
            loop {
                std::thread::park();
            }
        });
    });
    assert!(message.contains("did not end within") && message.contains("`sleep`"), "{message}");
    let (_, pid) = message.split_once("sleeper ").unwrap();
    let pid = pid.lines().next().unwrap().parse().unwrap();
    if let Ok(pidfd) = storm::pidfd(pid) {
        assert!(ended(&pidfd, SOON).unwrap());
    }
}

#[test]
fn a_name_that_no_test_has_is_a_failure() {
    let message = message_of(|| isolated("no::such_test", || {}));
    assert!(message.contains("no test of that name ran"), "{message}");
}

#[test]
fn a_body_that_ends_its_process_early_is_a_failure() {
    let message = message_of(|| isolated!({ std::process::exit(0) }));
    assert!(message.contains("ended before its body did"), "{message}");
}

#[test]
#[expect(clippy::zombie_processes, reason = "what is left behind is the point")]
fn a_descendant_that_holds_the_output_open_holds_up_nobody() {
    isolated!({
        Command::new("sleep").arg("1000").spawn().unwrap();
    });
}

#[test]
fn a_forked_body_is_on_its_only_thread_and_its_failure_is_heard() {
    isolated!({
        forked(|| assert_eq!(std::fs::read_dir("/proc/self/task").unwrap().count(), 1));
        assert!(catch_unwind(|| forked(|| panic!("on purpose"))).is_err());
    });
}
