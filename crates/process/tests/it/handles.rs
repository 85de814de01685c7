//! What becomes of a process when its handle is dropped, given up, copied or kept in a scope.

use crate::support::{BOUND, Line, assert_ends, each_method, host, say_pid_and_wait};
use procession_process::{ExitStatus, Process, StartMethod, active_children, scope};
use procession_testkit::{wait::eventually, watchdog};

each_method! {
    a_dropped_process_is_stopped,
    a_scope_joins_what_it_started;
    alone:
    a_detached_process_is_reaped_by_nobody_in_particular,
}

fn a_dropped_process_is_stopped(method: StartMethod) {
    let (here, there) = Line::pair();
    let process = Process::builder().start_method(method).spawn(say_pid_and_wait, there).unwrap();
    let pidfd = here.hear_process();
    drop(process);
    assert_ends("a dropped process", pidfd);
}

fn a_detached_process_is_reaped_by_nobody_in_particular(method: StartMethod) {
    let (here, there) = Line::pair();
    let process = Process::builder().start_method(method).spawn(say_pid_and_wait, there).unwrap();
    let pid = process.pid();
    process.detach();
    here.hear();
    assert_eq!(active_children().len(), 1);
    here.say("end");
    // Not even a zombie is left.
    let there = format!("/proc/{pid}");
    eventually("a detached process is reaped", BOUND, || !std::path::Path::new(&there).exists());
}

fn a_scope_joins_what_it_started(method: StartMethod) {
    let (here, there) = Line::pair();
    let process = scope(|scope| {
        let builder = Process::builder().start_method(method);
        let process = scope.spawn_with(builder, say_pid_and_wait, there).unwrap();
        here.hear();
        here.say("end");
        process
    });
    // Already known, so nothing is waited for.
    assert_eq!(process.exit_status(), Some(ExitStatus::Code(0)));
}

#[test]
fn handles_copied_by_a_fork_are_refused() {
    let _watchdog = watchdog!();
    host(
        |()| {
            let (here, there) = Line::pair();
            let process =
                Process::builder().start_method(StartMethod::Spawn).spawn(say_pid_and_wait, there).unwrap();
            here.hear();
            let pid = process.pid();
            let shared = &process;
            let look = move || {
                let alive = shared.is_alive();
                let error = shared.kill().unwrap_err();
                (alive, error.to_string(), shared.try_join().unwrap_err().to_string())
            };
            // SAFETY: this process has one thread.
            let copy = unsafe { Process::builder().fork_unchecked(look) }.unwrap();
            let (alive, kill, join) = copy.join().unwrap();
            assert!(!alive);
            assert!(kill.contains("copied by a fork"), "{kill}");
            assert!(join.contains("copied by a fork"), "{join}");
            assert!(process.is_alive(), "the copy's end must not stop process {pid}");
            here.say("end");
            process.join().unwrap();
        },
        (),
    );
}
