//! Ends that something holds up: lost rights, tracers, results that wait for a reader.

use crate::{
    support::{BOUND, Line, assert_ends, each_method, say_pid_and_wait},
    survival::{USER, become_user, builder, is_root},
};
use procession_process::{Resource, StartMethod, Stdio};
use procession_testkit::{isolated, storm, syscalls, wait, watchdog};
use std::{
    io::Read,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::Duration,
};

each_method! {
    ; alone:
    stop_and_drop_end_a_child_that_may_not_be_signalled_any_more,
    a_traced_child_that_was_killed_does_not_hold_up_a_deadline,
    short_polls_receive_a_result_that_cannot_be_spilled,
    stop_signals_the_leader_of_a_group_once,
    a_detached_child_with_a_result_that_cannot_be_spilled_ends,
    an_overflow_of_a_limited_stack_is_told,
}

fn zeros(length: usize) -> Vec<u8> {
    vec![0; length]
}

fn stop_and_drop_end_a_child_that_may_not_be_signalled_any_more(method: StartMethod) {
    if !is_root() {
        return;
    }
    let grace = Duration::from_millis(10);
    let start = || {
        let (here, there) = Line::pair();
        let child = builder(method).drop_grace(grace).spawn(say_pid_and_wait, there).unwrap();
        here.hear();
        (child, here)
    };
    let ((stopped, _one), (dropped, _other)) = (start(), start());
    let pidfd = storm::pidfd(dropped.pid()).unwrap();
    become_user(USER);
    assert_eq!(stopped.terminate().unwrap_err().os_error(), Some(libc::EPERM));
    assert_eq!(stopped.stop(grace).unwrap().signal(), Some(libc::SIGKILL));
    drop(dropped);
    assert_ends("the dropped child", pidfd);
}

/// Traces a process, and neither reaps it nor lets it go before it is told to.
fn tracer((line, pid): (Line, i32)) {
    let null = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: only numbers.
    let result = unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, null, null) };
    line.say(if result == 0 { "traced" } else { "not allowed" });
    line.try_hear();
}

fn a_traced_child_that_was_killed_does_not_hold_up_a_deadline(method: StartMethod) {
    let (here, there) = Line::pair();
    let body = |line| {
        // SAFETY: two numbers. Any process of this user may trace this one.
        unsafe { libc::prctl(libc::PR_SET_PTRACER, libc::PR_SET_PTRACER_ANY) };
        say_pid_and_wait(line);
    };
    let child = builder(method).spawn(body, there).unwrap();
    let pid: i32 = here.hear_number();
    let (to_tracer, line) = Line::pair();
    let tracer = builder(StartMethod::Spawn).spawn(tracer, (line, pid)).unwrap();
    if to_tracer.hear() != "traced" {
        return println!("skipped: this process may not trace");
    }
    child.kill().unwrap();
    assert_ends("the killed child", &child);
    assert_eq!(child.join_timeout(Duration::from_millis(20)).unwrap(), None);
    assert_eq!(child.wait_timeout(Duration::from_millis(20)).unwrap(), None);
    to_tracer.say("let go");
    tracer.join().unwrap();
    assert_eq!(child.join().unwrap_err().signal(), Some(libc::SIGKILL));
}

fn short_polls_receive_a_result_that_cannot_be_spilled(method: StartMethod) {
    let child = builder(method).limit(Resource::FileSize, 1000).spawn(zeros, 8 << 20).unwrap();
    let mut result = None;
    wait::eventually("a result", BOUND, || {
        result = child.join_timeout(Duration::from_millis(5)).unwrap();
        result.is_some()
    });
    assert_eq!(result.unwrap().len(), 8 << 20);
}

fn a_detached_child_with_a_result_that_cannot_be_spilled_ends(method: StartMethod) {
    let body = |line: Line| {
        line.expect("go on");
        zeros(8 << 20)
    };
    let (here, there) = Line::pair();
    let child = builder(method).limit(Resource::FileSize, 1000).spawn(body, there).unwrap();
    let pidfd = storm::pidfd(child.pid()).unwrap();
    child.detach();
    here.say("go on");
    assert_ends("the detached child", pidfd);
}

static TERMINATED: AtomicU32 = AtomicU32::new(0);
static CONTINUED: AtomicBool = AtomicBool::new(false);

extern "C" fn count(signal: i32) {
    if signal == libc::SIGTERM {
        TERMINATED.fetch_add(1, Ordering::Relaxed);
    } else {
        CONTINUED.store(true, Ordering::Relaxed);
    }
}

/// Counts SIGTERM until SIGCONT, which comes after it.
fn leader(line: Line) -> u32 {
    for signal in [libc::SIGTERM, libc::SIGCONT] {
        let handler = count as *const () as libc::sighandler_t;
        // SAFETY: the handler stores numbers.
        assert_ne!(unsafe { libc::signal(signal, handler) }, libc::SIG_ERR);
    }
    line.say("ready");
    while !CONTINUED.load(Ordering::Relaxed) {
        std::hint::spin_loop();
    }
    TERMINATED.load(Ordering::Relaxed)
}

fn stop_signals_the_leader_of_a_group_once(method: StartMethod) {
    for _ in 0..30 {
        let (here, there) = Line::pair();
        let child = builder(method).process_group().spawn(leader, there).unwrap();
        here.expect("ready");
        assert_eq!(child.stop(BOUND).unwrap().code(), Some(0));
        assert_eq!(child.join().unwrap(), 1);
    }
}

/// The same as the kernel sees it: a handler that is slow to start counts two signals as one.
#[test]
fn stop_makes_one_call_for_each_signal_to_a_group() {
    isolated!({
        let _watchdog = watchdog!();
        let start = || {
            let (here, there) = Line::pair();
            let child = builder(StartMethod::Fork).process_group().spawn(say_pid_and_wait, there).unwrap();
            here.hear();
            (child, here)
        };
        let calls = syscalls::trace(start, |(child, _)| {
            assert_eq!(child.stop(BOUND).unwrap().signal(), Some(libc::SIGTERM));
        });
        let sends = |number| matches!(number, libc::SYS_kill | libc::SYS_pidfd_send_signal);
        let sent: Vec<_> =
            calls.iter().filter(|call| sends(call.number)).map(|call| call.arguments[1]).collect();
        for signal in [libc::SIGTERM, libc::SIGCONT] {
            assert_eq!(sent.iter().filter(|&&sent| sent == signal as u64).count(), 1, "{signal} in {sent:?}");
        }
    });
}

/// Fills any stack.
fn deep(n: u64) -> u64 {
    let frame = std::hint::black_box([n; 64]);
    if n == u64::MAX { 0 } else { deep(n + 1) + std::hint::black_box(frame)[3] }
}

fn an_overflow_of_a_limited_stack_is_told(method: StartMethod) {
    let child = builder(method).name("deep").limit(Resource::Core, 0).limit(Resource::Stack, 2 << 20);
    let child = child.stderr(Stdio::Piped).spawn(deep, 0).unwrap();
    let mut told = String::new();
    child.take_stderr().unwrap().read_to_string(&mut told).unwrap();
    assert_eq!(child.join().unwrap_err().signal(), Some(libc::SIGSEGV));
    assert_eq!(told, "process `deep` has overflowed its stack\n");
}
