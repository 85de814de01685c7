//! When the kernel refuses: each system call of the main calls fails once, and each outcome is a success or an error; the next
//! try succeeds, and nothing is left of either.

use procession_process::{Process, StartMethod, scope};
use procession_testkit::{
    faults::{Outcome, tried},
    isolated,
};
use std::time::Duration;

fn started(method: StartMethod) -> Outcome {
    let child = Process::builder().start_method(method).spawn(|n: u64| n + 1, 1)?;
    assert_eq!(child.join()?, 2);
    Ok(())
}

#[test]
fn a_process_of_the_fork_server_starts_or_is_refused() {
    isolated!({
        tried(|| {
            started(StartMethod::ForkServer)?;
            Ok(())
        });
    });
}

#[test]
fn a_spawned_process_starts_or_is_refused() {
    isolated!({
        tried(|| {
            started(StartMethod::Spawn)?;
            Ok(())
        });
    });
}

#[test]
fn a_forked_process_starts_or_is_refused() {
    isolated!({
        tried(|| {
            started(StartMethod::Fork)?;
            Ok(())
        });
    });
}

#[test]
fn a_process_is_stopped_or_the_refusal_is_told() {
    isolated!({
        tried(|| {
            let child =
                Process::builder().start_method(StartMethod::Spawn).spawn(|()| std::thread::park(), ())?;
            assert!(child.join_timeout(Duration::from_millis(1))?.is_none());
            // By SIGTERM, or where that is refused by SIGKILL.
            assert!([Some(15), Some(9)].contains(&child.stop(Duration::from_millis(100))?.signal()));
            Ok(())
        });
    });
}

#[test]
fn a_scope_joins_or_refuses() {
    isolated!({
        tried(|| {
            scope(|scope| -> Outcome {
                let (one, two) = (scope.spawn(|n: u64| n, 1)?, scope.spawn(|n: u64| n, 2)?);
                assert_eq!(one.join()? + two.join()?, 3);
                Ok(())
            })?;
            Ok(())
        });
    });
}
