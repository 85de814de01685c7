//! Ending a process in two stages, with all of its group.

use crate::support::{Line, assert_ends, each_method, say_pid_and_wait};
use procession_process::{Builder, ExitStatus, Process, StartMethod};
use std::{
    os::unix::process::CommandExt,
    process::Command,
    time::{Duration, Instant},
};

/// Longer than any test.
const EVER: Duration = Duration::from_secs(600);

each_method! {
    a_stop_lets_a_process_end_by_itself,
    a_stop_kills_after_the_grace,
    a_stop_wakes_a_stopped_process,
    a_stop_reaches_the_whole_process_group,
    a_stop_reaches_the_whole_session,
    a_stop_of_one_that_has_ended_tells_how,
    a_stop_reaches_no_group_but_the_processs_own,
    a_drop_kills_after_its_grace,
}

extern "C" fn leave(_signal: i32) {
    // SAFETY: allowed in a handler.
    unsafe { libc::_exit(5) }
}

/// On SIGTERM, do this from now on.
fn on_sigterm(action: libc::sighandler_t) {
    // SAFETY: the handler does only what is allowed in one.
    unsafe { libc::signal(libc::SIGTERM, action) };
}

fn a_stop_lets_a_process_end_by_itself(method: StartMethod) {
    let body = |line: Line| {
        on_sigterm(leave as *const () as usize);
        say_pid_and_wait(line);
    };
    let (here, there) = Line::pair();
    let process = Process::builder().start_method(method).spawn(body, there).unwrap();
    here.hear();
    assert_eq!(process.stop(EVER).unwrap(), ExitStatus::Code(5));
    assert_eq!(process.join().unwrap_err().code(), Some(5));
    // Without a handler SIGTERM is the end.
    let (here, there) = Line::pair();
    let process = Process::builder().start_method(method).spawn(say_pid_and_wait, there).unwrap();
    here.hear();
    assert_eq!(process.stop(EVER).unwrap().signal(), Some(libc::SIGTERM));
}

fn deaf(line: Line) {
    on_sigterm(libc::SIG_IGN);
    say_pid_and_wait(line);
}

fn a_stop_kills_after_the_grace(method: StartMethod) {
    let (here, there) = Line::pair();
    let process = Process::builder().start_method(method).spawn(deaf, there).unwrap();
    here.hear();
    let (start, grace) = (Instant::now(), Duration::from_millis(30));
    assert_eq!(process.stop(grace).unwrap().signal(), Some(libc::SIGKILL));
    assert!(start.elapsed() >= grace);
}

fn a_stop_wakes_a_stopped_process(method: StartMethod) {
    let (here, there) = Line::pair();
    let process = Process::builder().start_method(method).spawn(say_pid_and_wait, there).unwrap();
    here.hear();
    process.signal(libc::SIGSTOP).unwrap();
    let state = format!("/proc/{}/stat", process.pid());
    procession_testkit::wait::eventually("a stopped process", crate::support::BOUND, || {
        std::fs::read_to_string(&state).unwrap().contains(") T ")
    });
    // A stopped process has not ended.
    assert!(process.try_join().unwrap().is_none());
    assert_eq!(process.stop(EVER).unwrap().signal(), Some(libc::SIGTERM));
}

/// Starts a foreign program and a child of its own, each of which ignores SIGTERM or not, and says all pids.
fn leader((line, method, deaf_members): (Line, StartMethod, bool)) {
    let mut foreign = Command::new("sleep");
    foreign.arg("600");
    if deaf_members {
        // SAFETY: a disposition without a handler, which execution keeps.
        unsafe {
            foreign.pre_exec(|| {
                on_sigterm(libc::SIG_IGN);
                Ok(())
            })
        };
    }
    let mut foreign = foreign.spawn().unwrap();
    line.say(foreign.id());
    let member = Process::builder().start_method(method).spawn(say_pid_and_wait, line.again()).unwrap();
    line.try_hear();
    let _ = foreign.wait();
    drop(member);
}

fn reaches_whole(method: StartMethod, apart: fn(Builder) -> Builder) {
    for deaf_members in [false, true] {
        let (here, there) = Line::pair();
        let builder = apart(Process::builder().start_method(method));
        let process = builder.spawn(leader, (there, method, deaf_members)).unwrap();
        let members = [here.hear_process(), here.hear_process()];
        assert_eq!(process.stop(EVER).unwrap().signal(), Some(libc::SIGTERM));
        for member in members {
            assert_ends("a member of the group", member);
        }
    }
}

fn a_stop_reaches_the_whole_process_group(method: StartMethod) {
    reaches_whole(method, Builder::process_group);
}

fn a_stop_reaches_the_whole_session(method: StartMethod) {
    reaches_whole(method, Builder::new_session);
}

fn a_stop_of_one_that_has_ended_tells_how(method: StartMethod) {
    let process = Process::builder().start_method(method).spawn(|n: u8| n, 9).unwrap();
    assert_ends("a process", &process);
    assert_eq!(process.stop(EVER).unwrap(), ExitStatus::Code(0));
    assert_eq!(process.stop(Duration::ZERO).unwrap(), ExitStatus::Code(0));
    assert_eq!(process.join().unwrap(), 9);
}

fn a_stop_reaches_no_group_but_the_processs_own(method: StartMethod) {
    let ((first, first_there), (second, second_there)) = (Line::pair(), Line::pair());
    let start = |line| Process::builder().start_method(method).spawn(say_pid_and_wait, line).unwrap();
    let (one, other) = (start(first_there), start(second_there));
    first.hear();
    second.hear();
    // Both are in this process's group.
    one.stop(EVER).unwrap();
    assert!(other.is_alive());
}

fn a_drop_kills_after_its_grace(method: StartMethod) {
    let (here, there) = Line::pair();
    let grace = Duration::from_millis(30);
    let process = Process::builder().start_method(method).drop_grace(grace).spawn(deaf, there).unwrap();
    let pidfd = here.hear_process();
    let start = Instant::now();
    drop(process);
    assert!(start.elapsed() >= grace);
    // The drop has waited for it.
    assert!(procession_testkit::wait::ended(pidfd, Duration::ZERO).unwrap());
}
