//! The end of a process: hooks, threads, children, streams.

use crate::support::{Line, assert_ends, each_method, host, say_pid_and_wait};
use procession_process::{
    Process, StartMethod, Stdio, at_exit, cancel_exit_hook, join_at_exit, set_exit_bound,
};
use procession_testkit::{role, watchdog};
use std::{
    io::Read,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

each_method! {
    exit_hooks_run_once_in_the_order_of_their_priorities,
    a_parents_hooks_are_not_run_by_its_children,
    hooks_run_in_a_child_that_calls_exit,
    a_hook_that_panics_does_not_stop_the_others,
    children_end_between_the_hooks_of_priority_zero_and_those_below,
    children_are_joined_by_a_process_that_calls_exit,
    a_child_that_outlives_the_exit_bound_is_stopped,
    threads_that_must_finish_are_waited_for,
    what_was_printed_is_there_at_the_end,
    a_child_that_closes_its_streams_ends_well;
    alone:
    a_parent_without_standard_streams_starts_children,
    a_childs_stream_never_is_something_else_of_a_parent_without_streams,
}

fn say_at_exit(line: &Line, priority: i32, word: &'static str) -> procession_process::HookId {
    let line = line.again();
    at_exit(priority, move || line.say(word))
}

fn exit_hooks_run_once_in_the_order_of_their_priorities(method: StartMethod) {
    let body = |line: Line| {
        let cancelled = say_at_exit(&line, 0, "c");
        say_at_exit(&line, -10, "e");
        say_at_exit(&line, 0, "d01");
        say_at_exit(&line, 0, "d02");
        say_at_exit(&line, 0, "d03");
        say_at_exit(&line, 1, "d10");
        let inner = line.again();
        at_exit(-5, move || {
            inner.say("late");
            // Registered while hooks run: it has its turn.
            say_at_exit(&inner, 7, "later");
        });
        assert!(cancel_exit_hook(cancelled));
        assert!(!cancel_exit_hook(cancelled));
        line.say("a");
    };
    let (here, there) = Line::pair();
    let process = Process::builder().start_method(method).spawn(body, there).unwrap();
    for word in ["a", "d10", "d03", "d02", "d01", "late", "later", "e"] {
        here.expect(word);
    }
    process.join().unwrap();
    assert_nothing_was_said(&here);
}

fn assert_nothing_was_said(line: &Line) {
    // Everything that was said is in the buffer, since whoever could speak has ended.
    assert!(!line.has_word());
}

fn a_parents_hooks_are_not_run_by_its_children(method: StartMethod) {
    fn parent((line, method): (Line, StartMethod)) {
        say_at_exit(&line, 0, "parent's hook");
        let child = |line: Line| {
            say_at_exit(&line, 0, "child's hook");
        };
        Process::builder().start_method(method).spawn(child, line.again()).unwrap().join().unwrap();
        line.say("child has ended");
    }
    let (here, there) = Line::pair();
    let process = Process::builder().start_method(method).spawn(parent, (there, method)).unwrap();
    for word in ["child's hook", "child has ended", "parent's hook"] {
        here.expect(word);
    }
    process.join().unwrap();
    assert_nothing_was_said(&here);
}

fn hooks_run_in_a_child_that_calls_exit(method: StartMethod) {
    let body = |line: Line| -> () {
        say_at_exit(&line, 0, "hook");
        std::process::exit(4);
    };
    let (here, there) = Line::pair();
    let process = Process::builder().start_method(method).spawn(body, there).unwrap();
    here.expect("hook");
    assert_eq!(process.join().unwrap_err().code(), Some(4));
    assert_nothing_was_said(&here);
}

fn a_hook_that_panics_does_not_stop_the_others(method: StartMethod) {
    let body = |line: Line| {
        say_at_exit(&line, 1, "before");
        at_exit(0, || panic!("in a hook"));
        say_at_exit(&line, -1, "after");
        6
    };
    let (here, there) = Line::pair();
    let process = Process::builder().start_method(method).stderr(Stdio::Null).spawn(body, there).unwrap();
    here.expect("before");
    here.expect("after");
    assert_eq!(process.join().unwrap(), 6);
}

fn there_is(pid: u32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

fn children_end_between_the_hooks_of_priority_zero_and_those_below(method: StartMethod) {
    fn parent((line, method): (Line, StartMethod)) {
        let ((daemonic, there), (joined, joined_there)) = (Line::pair(), Line::pair());
        let start = |daemon, line| {
            let builder = Process::builder().start_method(method).daemon(daemon);
            let process = builder.spawn(say_pid_and_wait, line).unwrap();
            let pid = process.pid();
            process.detach_quietly();
            pid
        };
        let joined_pid = start(false, joined_there);
        let daemonic_pid = start(true, there);
        daemonic.hear();
        joined.hear();
        let says = line.again();
        at_exit(0, move || {
            says.say(format!("{} {}", there_is(daemonic_pid), there_is(joined_pid)));
            joined.say("end");
        });
        at_exit(-1, move || {
            let _open = daemonic;
            line.say(format!("{} {}", there_is(daemonic_pid), there_is(joined_pid)));
        });
    }
    let (here, there) = Line::pair();
    let process = Process::builder().start_method(method).spawn(parent, (there, method)).unwrap();
    here.expect("true true");
    here.expect("false false");
    process.join().unwrap();
}

trait DetachQuietly {
    fn detach_quietly(self);
}

impl<T> DetachQuietly for Process<T> {
    /// Lets it run without the thread that `detach` starts, which would forbid a fork.
    fn detach_quietly(self) {
        std::mem::forget(self);
    }
}

fn children_are_joined_by_a_process_that_calls_exit(method: StartMethod) {
    fn parent((line, method): (Line, StartMethod)) {
        let child = |line: Line| {
            line.hear();
            line.say("child ends");
        };
        Process::builder().start_method(method).spawn(child, line.again()).unwrap().detach_quietly();
        let hook = line.again();
        at_exit(-1, move || hook.say("parent ends"));
        line.say("exit");
        std::process::exit(2);
    }
    let (here, there) = Line::pair();
    let process = Process::builder().start_method(method).spawn(parent, (there, method)).unwrap();
    here.expect("exit");
    assert!(process.try_join().unwrap().is_none());
    here.say("end");
    here.expect("child ends");
    here.expect("parent ends");
    assert_eq!(process.join().unwrap_err().code(), Some(2));
}

fn a_child_that_outlives_the_exit_bound_is_stopped(method: StartMethod) {
    fn parent((line, method): (Line, StartMethod)) {
        set_exit_bound(Duration::from_millis(20));
        Process::builder()
            .start_method(method)
            .name("slow")
            .spawn(say_pid_and_wait, line)
            .unwrap()
            .detach_quietly();
    }
    let (here, there) = Line::pair();
    let builder = Process::builder().start_method(method).stderr(Stdio::Piped);
    let process = builder.spawn(parent, (there, method)).unwrap();
    let child = here.hear_process();
    process.join().unwrap();
    assert_ends("a child that outlived the bound", child);
    let mut told = String::new();
    process.take_stderr().unwrap().read_to_string(&mut told).unwrap();
    assert!(told.starts_with("procession: process `slow` (pid "), "{told}");
    assert!(told.ends_with("outlived the exit bound and is stopped\n"), "{told}");
}

/// Plays a program whose `main` returns while its children run.
#[test]
fn role_main_that_returns() {
    let Some(mut role) = role::enter(role_main_that_returns) else { return };
    for (daemon, method) in [(true, StartMethod::Spawn), (false, StartMethod::ForkServer)] {
        let (line, there) = Line::pair();
        let builder = Process::builder().start_method(method).daemon(daemon);
        builder.spawn(say_pid_and_wait, there).unwrap().detach();
        role.say(&line.hear());
        at_exit(0, move || {
            // The daemonic one hears nothing and is ended.
            if daemon { std::mem::forget(line) } else { line.say("end") }
        });
    }
    role.say(&procession_process::fork_server_pid().unwrap().to_string());
    role.hear();
}

#[test]
fn the_end_of_main_ends_daemonic_children_and_joins_the_others() {
    let _watchdog = watchdog!();
    let mut role = role::start(role_main_that_returns, &[]);
    let pidfds: Vec<_> =
        (0..3).map(|_| procession_testkit::storm::pidfd(role.hear().parse().unwrap()).unwrap()).collect();
    role.say("return");
    assert!(role.wait().success(), "{}", role.output());
    for pidfd in pidfds {
        // They were waited for, so they are gone already.
        assert!(procession_testkit::wait::ended(pidfd, Duration::ZERO).unwrap());
    }
}

fn threads_that_must_finish_are_waited_for(method: StartMethod) {
    let body = |line: Line| {
        let (last, forgotten) = (line.again(), line.again());
        join_at_exit(std::thread::spawn(move || {
            last.expect("finish");
            // A thread may register another.
            join_at_exit(std::thread::spawn(move || last.say("finished")));
        }));
        // Ended with the process.
        std::thread::spawn(move || {
            let _line = forgotten;
            loop {
                std::thread::park();
            }
        });
        line.say("returns");
        3
    };
    let (here, there) = Line::pair();
    let process = Process::builder().start_method(method).spawn(body, there).unwrap();
    here.expect("returns");
    assert!(process.try_join().unwrap().is_none());
    here.say("finish");
    here.expect("finished");
    assert_eq!(process.join().unwrap(), 3);
}

fn what_was_printed_is_there_at_the_end(method: StartMethod) {
    let builder = Process::builder().start_method(method).stdout(Stdio::Piped).stderr(Stdio::Piped);
    let body = |()| {
        print!("without a line's end");
        eprint!("an error");
    };
    let process = builder.spawn(body, ()).unwrap();
    let (mut out, mut err) = (String::new(), String::new());
    process.take_stdout().unwrap().read_to_string(&mut out).unwrap();
    process.take_stderr().unwrap().read_to_string(&mut err).unwrap();
    assert_eq!((out.as_str(), err.as_str()), ("without a line's end", "an error"));
    assert!(process.take_stdout().is_none(), "handed out once");
    process.join().unwrap();
}

fn close(fd: i32) {
    // SAFETY: a standard stream, which nobody owns.
    unsafe { libc::close(fd) };
}

fn a_child_that_closes_its_streams_ends_well(method: StartMethod) {
    let body = |()| {
        print!("never seen");
        (0..3).for_each(close);
        8
    };
    assert_eq!(Process::builder().start_method(method).spawn(body, ()).unwrap().join().unwrap(), 8);
    // Closed before a panic is told.
    let body = |()| -> () {
        (0..3).for_each(close);
        panic!("unseen");
    };
    let error = Process::builder().start_method(method).spawn(body, ()).unwrap().join().unwrap_err();
    assert_eq!(error.panic().unwrap().message(), "unseen");
}

fn a_parent_without_standard_streams_starts_children(method: StartMethod) {
    let stderr = rustix::io::fcntl_dupfd_cloexec(std::io::stderr(), 10).unwrap();
    (0..3).for_each(close);
    let body = |n: u32| {
        print!("somewhere");
        eprint!("somewhere");
        (n, [0, 1, 2].map(|fd| std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap()))
    };
    let children: Vec<_> =
        (0..4).map(|n| Process::builder().start_method(method).spawn(body, n).unwrap()).collect();
    let found: Vec<_> =
        children.iter().map(|process| process.join().map_err(|error| error.to_string())).collect();
    // So that a failure can be told.
    rustix::stdio::dup2_stderr(stderr).unwrap();
    for (n, found) in found.into_iter().enumerate() {
        let (number, streams) = found.unwrap();
        assert_eq!(number, n as u32);
        assert_eq!(streams, [const { "/dev/null" }; 3].map(std::path::PathBuf::from));
    }
}

fn a_childs_stream_never_is_something_else_of_a_parent_without_streams(method: StartMethod) {
    fn parent((line, method): (Line, StartMethod)) {
        (0..3).for_each(close);
        let start = |line| Process::builder().start_method(method).spawn(say_pid_and_wait, line).unwrap();
        let _first = start(line.again());
        let _second = start(line.again());
        line.try_hear();
    }
    // If the second child got the first one's lifeline as a stream, the first would not die with its parent.
    let (here, there) = Line::pair();
    let process = Process::builder().start_method(method).spawn(parent, (there, method)).unwrap();
    let children = [here.hear_process(), here.hear_process()];
    process.kill().unwrap();
    process.join().unwrap_err();
    for child in children {
        assert_ends("a child of a parent without streams", child);
    }
}

#[test]
fn hooks_are_registered_cancelled_and_run_by_threads_at_once() {
    let _watchdog = watchdog!();
    host(
        |()| {
            let ran = Arc::new(AtomicU32::new(0));
            let cancelled = AtomicU32::new(0);
            const EACH: u32 = 2000;
            std::thread::scope(|scope| {
                for thread in 0..3 {
                    let (ran, cancelled) = (&ran, &cancelled);
                    scope.spawn(move || {
                        for number in 0..EACH {
                            let ran = ran.clone();
                            let hook = at_exit((number % 7) as i32 - 3, move || {
                                ran.fetch_add(1, Ordering::Relaxed);
                            });
                            if number % 3 == thread && cancel_exit_hook(hook) {
                                cancelled.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                    });
                }
                scope.spawn(|| {
                    for _ in 0..200 {
                        procession_sys::hooks::run_exit_hooks();
                    }
                });
            });
            procession_sys::hooks::run_exit_hooks();
            assert_eq!(ran.load(Ordering::Relaxed) + cancelled.load(Ordering::Relaxed), 3 * EACH);
        },
        (),
    );
}
