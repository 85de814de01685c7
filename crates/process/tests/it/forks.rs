//! Forks that are none of this library's, or come in the middle of what other threads do.

use crate::support::{BOUND, Line, assert_ends, host, say_pid_and_wait};
use procession_process::{
    Process, StartMethod, Stdio, at_exit, cancel_exit_hook, current_process, fork_server_pid, join_at_exit,
    start_fork_server, watch,
};
use procession_testkit::{
    storm::{self, Rng},
    wait::eventually,
    watchdog,
};
use std::{
    io::{self, Read},
    os::fd::AsFd,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Duration,
};

/// Forks as a foreign library would. The copy runs `body`, and ends.
fn fork(body: impl FnOnce()) -> i32 {
    // SAFETY: the bodies do only what is safe in a signal handler.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        body();
        // SAFETY: ends the copy.
        unsafe { libc::_exit(0) };
    }
    assert!(pid > 0);
    pid
}

/// What a daemon does that nobody waits for; should nobody kill it, it ends all the same.
fn linger() {
    // SAFETY: a number.
    unsafe { libc::alarm(30) };
    loop {
        // SAFETY: no arguments.
        unsafe { libc::pause() };
    }
}

/// Starts children while another thread forks, tells all pids, and waits for its death.
fn asker((line, method, seed): (Line, StartMethod, u64)) {
    const CHILDREN: usize = 40;
    const COPIES: usize = 300;
    let done = AtomicBool::new(false);
    let (children, copies) = std::thread::scope(|scope| {
        let copies = scope.spawn(|| {
            let mut rng = Rng::from_seed(seed);
            let mut copies = Vec::new();
            while !done.load(Ordering::Relaxed) && copies.len() < COPIES {
                copies.push(fork(linger));
                storm::delay(rng.duration(Duration::from_micros(600)));
            }
            copies
        });
        let sleep = |_: ()| loop {
            std::thread::park();
        };
        let start = |_| Process::builder().start_method(method).spawn::<_, ()>(sleep, ()).unwrap();
        let children: Vec<_> = (0..CHILDREN).map(start).collect();
        done.store(true, Ordering::Relaxed);
        (children, copies.join().unwrap())
    });
    for pid in children.iter().map(Process::pid).chain(fork_server_pid()) {
        line.say(pid);
    }
    line.say("copies");
    copies.iter().for_each(|pid| line.say(pid));
    line.say("all");
    line.try_hear();
}

#[test]
fn a_foreign_fork_in_the_middle_of_a_start_keeps_no_child_alive() {
    let _watchdog = watchdog!();
    let mut rng = Rng::from_env();
    for method in [StartMethod::Spawn, StartMethod::ForkServer, StartMethod::Spawn] {
        let (here, there) = Line::pair();
        let argument = (there, method, rng.next_u64());
        let host = Process::builder().start_method(StartMethod::Spawn).stderr(Stdio::Piped);
        let host = host.spawn(asker, argument).unwrap();
        let processes_until = |word: &str| {
            let pids = std::iter::from_fn(|| Some(here.hear()).filter(|said| said != word));
            pids.map(|pid| storm::pidfd(pid.parse().unwrap()).unwrap()).collect::<Vec<_>>()
        };
        let children = processes_until("copies");
        let copies = processes_until("all");
        println!("{method}: {} copies", copies.len());
        host.kill().unwrap();
        for child in &children {
            assert_ends("a child of a killed process, whose copies live", child);
        }
        for copy in &copies {
            rustix::process::pidfd_send_signal(copy, rustix::process::Signal::KILL).unwrap();
        }
        // A child that the death found before its first instruction has not run `main`, which complains about its words.
        let mut told = String::new();
        host.take_stderr().unwrap().read_to_string(&mut told).unwrap();
        assert_eq!(told, "");
    }
}

#[test]
fn a_foreign_fork_does_not_wait_for_a_start() {
    let _watchdog = watchdog!();
    host(
        |()| {
            start_fork_server().unwrap();
            let start = || Process::spawn(|n: u32| n * 2, 21).unwrap().join().unwrap();
            assert_eq!(start(), 42);
            let pid = fork_server_pid().unwrap();
            let server = storm::pidfd(pid).unwrap();
            rustix::process::pidfd_send_signal(&server, rustix::process::Signal::STOP).unwrap();
            let (tell, told) = mpsc::channel();
            let thread = std::thread::spawn(move || {
                tell.send(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
                start()
            });
            let thread_id = told.recv().unwrap();
            eventually("a start that waits for its server", BOUND, || {
                let call = std::fs::read_to_string(format!("/proc/self/task/{thread_id}/syscall")).unwrap();
                let number = call.split(' ').next().and_then(|number| number.parse().ok());
                matches!(number, Some(libc::SYS_ppoll | libc::SYS_poll))
            });
            let copy = fork(|| {});
            // SAFETY: a child that nobody else waits for; no status is wanted.
            assert_eq!(unsafe { libc::waitpid(copy, std::ptr::null_mut(), 0) }, copy);
            // A fork that had waited for the start would have waited until the server was given up.
            assert!(!thread.is_finished());
            let resumed = rustix::process::pidfd_send_signal(&server, rustix::process::Signal::CONT);
            resumed.expect("the server that the start waits for is still there");
            assert_eq!(thread.join().unwrap(), 42);
            assert_eq!(fork_server_pid(), Some(pid));
        },
        (),
    );
}

/// What a copy does with everything that other threads of its parent were in the middle of.
fn use_everything() -> bool {
    let hook = at_exit(0, || {});
    let cancelled = cancel_exit_hook(hook);
    let (reader, _writer) = io::pipe().unwrap();
    let watched = watch::watch(reader.as_fd(), Box::new(|| {})).map(watch::unwatch);
    cancelled && matches!(watched, Ok(true)) && current_process().pid() == std::process::id()
}

#[test]
fn a_forked_copy_finds_every_lock_free() {
    let _watchdog = watchdog!();
    host(
        |()| {
            // What is done once per process is no lock.
            assert!(use_everything());
            let done = AtomicBool::new(false);
            let until_done = |call: &dyn Fn()| {
                while !done.load(Ordering::Relaxed) {
                    call();
                }
            };
            std::thread::scope(|scope| {
                scope.spawn(|| until_done(&|| assert!(cancel_exit_hook(at_exit(0, || {})))));
                scope.spawn(|| {
                    let (reader, _writer) = io::pipe().unwrap();
                    until_done(&|| {
                        let id = watch::watch(reader.as_fd(), Box::new(|| {})).unwrap();
                        assert!(watch::unwatch(id));
                    });
                });
                scope.spawn(|| until_done(&|| drop(current_process().name().to_owned())));
                for number in 0..100 {
                    let builder = Process::builder().drop_grace(Duration::ZERO);
                    // SAFETY: what the copy calls is made for it, and glibc's allocator is whole after a fork.
                    let copy = unsafe { builder.fork_unchecked(use_everything) }.unwrap();
                    let result = copy.join_timeout(BOUND);
                    if !matches!(result, Ok(Some(true))) {
                        done.store(true, Ordering::Relaxed);
                        panic!("copy {number}: {result:?}");
                    }
                }
                done.store(true, Ordering::Relaxed);
            });
        },
        (),
    );
}

#[test]
fn a_forked_copy_does_not_wait_for_its_parents_threads() {
    let _watchdog = watchdog!();
    host(
        |()| {
            let (end, ended) = mpsc::channel::<()>();
            join_at_exit(std::thread::spawn(move || assert!(ended.recv().is_err())));
            let builder = Process::builder().drop_grace(Duration::ZERO);
            // SAFETY: the closure gives a number.
            let copy = unsafe { builder.fork_unchecked(|| 5) }.unwrap();
            assert_eq!(copy.join_timeout(BOUND).unwrap(), Some(5));
            drop(end);
        },
        (),
    );
}

/// Makes the next child the first process of a new pid namespace, or says why not.
fn new_pid_namespace() -> bool {
    // SAFETY: a number; no thread shares this process's namespaces.
    let result = unsafe { libc::unshare(libc::CLONE_NEWPID) };
    if result != 0 {
        println!("skipped: no pid namespace: {}", io::Error::last_os_error());
    }
    result == 0
}

#[test]
fn a_fork_server_that_would_be_the_first_of_a_pid_namespace_is_an_error_that_names_spawn() {
    let _watchdog = watchdog!();
    let body = |first: StartMethod| {
        if !new_pid_namespace() {
            return;
        }
        let start = |method| {
            let (here, there) = Line::pair();
            let child = Process::builder().start_method(method).spawn(say_pid_and_wait, there)?;
            Ok::<_, procession_process::Error>((child, here))
        };
        // A namespace ends with its first process, so that one is kept until the end.
        let mut kept = Vec::new();
        if first == StartMethod::Spawn {
            let (child, here) = start(StartMethod::Spawn).unwrap();
            assert_eq!(here.hear_number::<u32>(), 1);
            kept.push((child, here));
        } else {
            let error = start(StartMethod::ForkServer).map(drop).unwrap_err().to_string();
            assert!(error.contains("use the spawn start method"), "{error}");
        }
        let (child, here) = start(StartMethod::Spawn).unwrap();
        assert_eq!(here.hear_number::<u32>(), 2);
        here.say("end");
        child.join().unwrap();
        for (child, here) in kept {
            here.say("end");
            child.join().unwrap();
        }
    };
    host(body, StartMethod::Spawn);
    host(body, StartMethod::ForkServer);
}
