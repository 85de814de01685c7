//! Surroundings that work against us, each with its stated outcome.

use crate::support::{BOUND, Line, census, descriptors, each_method, host, say_pid_and_wait};
use procession_parcel::Bytes;
use procession_process::{Error, Process, StartMethod, active_children, at_exit};
use procession_testkit::{limits::Surroundings, watchdog};
use std::fs::File;

each_method! {
    ; alone:
    an_ignored_sigchld_changes_nothing,
    as_process_one_of_a_namespace_all_works,
    without_proc_a_start_says_that_it_needs_it,
    without_pidfds_a_start_says_that_it_needs_them,
    without_descriptors_a_start_names_the_limit_and_works_once_there_is_room,
    without_processes_a_start_names_the_limit_and_works_once_there_is_room,
    without_memfds_small_and_large_values_travel,
    where_the_kernel_does_not_tell_the_status_that_is_what_join_says,
}

fn triple(n: u64) -> u64 {
    n * 3
}

/// One process of each kind of end.
#[track_caller]
fn assert_all_ends_are_told(method: StartMethod) {
    let builder = || Process::builder().start_method(method).stderr(procession_process::Stdio::Null);
    assert_eq!(builder().spawn(triple, 14).unwrap().join().unwrap(), 42);
    let error = builder().spawn(|()| -> () { panic!("told") }, ()).unwrap().join().unwrap_err();
    assert_eq!(error.panic().unwrap().message(), "told");
    let error = builder().spawn(|()| -> () { std::process::exit(3) }, ()).unwrap().join().unwrap_err();
    assert_eq!(error.code(), Some(3), "{error}");
    let (here, there) = Line::pair();
    let process = builder().spawn(say_pid_and_wait, there).unwrap();
    here.hear();
    process.kill().unwrap();
    let error = process.join().unwrap_err();
    assert_eq!(error.signal(), Some(libc::SIGKILL), "{error}");
    assert!(active_children().is_empty());
}

fn an_ignored_sigchld_changes_nothing(method: StartMethod) {
    if Surroundings::new().sigchld_ignored().apply_or_skip() {
        assert_all_ends_are_told(method);
    }
}

#[test]
fn a_thread_that_waits_for_any_child_changes_nothing() {
    let _watchdog = watchdog!();
    host(
        |()| {
            if Surroundings::new().reaper().apply_or_skip() {
                for method in [StartMethod::Spawn, StartMethod::ForkServer] {
                    for _ in 0..20 {
                        assert_all_ends_are_told(method);
                    }
                }
            }
        },
        (),
    );
}

/// `PIDFD_GET_INFO` is an `ioctl` whose number has this bit, and no other that is used here has.
const PIDFD_IOCTL: u32 = 0x8000;

fn where_the_kernel_does_not_tell_the_status_that_is_what_join_says(method: StartMethod) {
    let old = Surroundings::new().sigchld_ignored();
    let old = old.fail_with_flags(libc::SYS_ioctl, 1, PIDFD_IOCTL, libc::ENOTTY);
    if !old.apply_or_skip() {
        return;
    }
    let builder =
        || Process::builder().start_method(method).name("lost").stderr(procession_process::Stdio::Null);
    let process = builder().spawn(triple, 14).unwrap();
    let error = process.join().unwrap_err();
    assert!(matches!(error, procession_process::JoinError::StatusLost { .. }), "{error}");
    assert_eq!(error.leftover::<u64>(), Some(42));
    let text = error.to_string();
    assert!(text.contains("the program ignores SIGCHLD or waits for every child"), "{text}");
    assert_eq!(process.exit_status(), Some(procession_process::ExitStatus::Unknown));
    // What the child reported itself needs no status.
    let error = builder().spawn(|()| -> () { panic!("told") }, ()).unwrap().join().unwrap_err();
    assert_eq!(error.panic().unwrap().message(), "told");
    let error = builder().spawn(|()| -> () { std::process::exit(3) }, ()).unwrap().join().unwrap_err();
    assert!(matches!(error, procession_process::JoinError::StatusLost { .. }), "{error}");
    assert_eq!(error.leftover::<()>(), None);
}

fn as_process_one_of_a_namespace_all_works(method: StartMethod) {
    Surroundings::new().pid_one().run_or_skip(|| {
        assert_eq!(std::process::id(), 1);
        assert_all_ends_are_told(method);
        let tree = |method: StartMethod| {
            Process::builder().start_method(method).spawn(triple, 5).unwrap().join().unwrap()
        };
        assert_eq!(Process::builder().start_method(method).spawn(tree, method).unwrap().join().unwrap(), 15);
        // So that the first process leaves nobody behind.
        procession_sys::hooks::run_exit_hooks();
    });
}

fn without_proc_a_start_says_that_it_needs_it(method: StartMethod) {
    if !Surroundings::new().no_proc().apply_or_skip() {
        return;
    }
    let error = Process::builder().start_method(method).spawn(triple, 14).unwrap_err();
    assert!(error.to_string().contains("/proc"), "{error}");
}

fn without_pidfds_a_start_says_that_it_needs_them(method: StartMethod) {
    for errno in [libc::ENOSYS, libc::EPERM] {
        // A filter on top of the first one is refused nothing.
        if !Surroundings::new().fail(libc::SYS_pidfd_open, errno).apply_or_skip() {
            return;
        }
        let census = census();
        let before = descriptors();
        for _ in 0..3 {
            match Process::builder().start_method(method).spawn(triple, 14) {
                // The kernel gives a pidfd with the clone of a fork server that is there already.
                Ok(_) => panic!("a start without pidfds"),
                Err(error) => {
                    assert!(error.to_string().contains("processes need pidfds (Linux 5.4)"), "{error}")
                }
            }
        }
        census.assert_settles(BOUND);
        assert_eq!(descriptors().len(), before.len());
    }
}

#[test]
fn a_fork_server_works_without_clone3() {
    let _watchdog = watchdog!();
    host(
        |()| {
            if Surroundings::new().fail(libc::SYS_clone3, libc::ENOSYS).apply_or_skip() {
                assert_all_ends_are_told(StartMethod::ForkServer);
                assert!(procession_process::fork_server_pid().is_some());
            }
        },
        (),
    );
}

fn without_memfds_small_and_large_values_travel(method: StartMethod) {
    if !Surroundings::new().fail(libc::SYS_memfd_create, libc::ENOSYS).apply_or_skip() {
        return;
    }
    if method == StartMethod::ForkServer {
        let error = Process::builder().start_method(method).spawn(triple, 14).unwrap_err();
        assert!(error.to_string().starts_with("failed to create the fork server's page: "), "{error}");
        return;
    }
    assert_all_ends_are_told(method);
    // Through the socket, as far as that has room before anybody reads.
    let reverse = |Bytes(mut bytes): Bytes| {
        bytes.reverse();
        Bytes(bytes)
    };
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| n as u8).collect();
    let process = Process::builder().start_method(method).spawn(reverse, Bytes(bytes.clone())).unwrap();
    let Bytes(found) = process.join().unwrap();
    assert!(found.iter().rev().eq(&bytes));
}

#[track_caller]
fn assert_names_the_limit(error: &Error, errno: i32, limit: &str) {
    assert!(error.is_limit(), "{error}");
    assert_eq!(error.os_error(), Some(errno), "{error}");
    assert!(error.to_string().contains(limit), "{error}");
}

fn without_descriptors_a_start_names_the_limit_and_works_once_there_is_room(method: StartMethod) {
    if !Surroundings::new().nofile(40).apply_or_skip() {
        return;
    }
    if method == StartMethod::ForkServer {
        procession_process::start_fork_server().unwrap();
    }
    let mut taken = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        taken.push(file);
    }
    assert!(taken.len() > 10);
    let mut refused = 0;
    // One more each time, so that every descriptor that a start needs is the one that is missing.
    loop {
        let open = taken.len();
        match Process::builder().start_method(method).spawn(triple, 14) {
            Ok(process) => match process.join() {
                Ok(value) => {
                    assert_eq!(value, 42);
                    break;
                }
                // An executed or cloned child may be the one that is short of them.
                Err(error) => assert!(error.to_string().contains("Too many open files"), "{error}"),
            },
            Err(error) => assert_names_the_limit(&error, libc::EMFILE, "RLIMIT_NOFILE"),
        }
        refused += 1;
        // Nothing of the failed start is left: as many as were free are free, by taking them all.
        assert!(active_children().is_empty());
        assert_eq!(free_descriptors(), refused - 1, "after {refused} failed starts");
        assert_eq!(taken.len(), open);
        drop(taken.pop());
    }
    assert!(refused >= 3, "{refused}");
    drop(taken);
    assert_eq!(Process::builder().start_method(method).spawn(triple, 3).unwrap().join().unwrap(), 9);
}

fn free_descriptors() -> usize {
    let mut taken = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        taken.push(file);
    }
    taken.len()
}

fn without_processes_a_start_names_the_limit_and_works_once_there_is_room(method: StartMethod) {
    const ROOM: u64 = 4;
    if !Surroundings::new().tasks(ROOM).apply_or_skip() {
        return;
    }
    if method == StartMethod::ForkServer {
        procession_process::start_fork_server().unwrap();
    }
    let start = || {
        let (here, there) = Line::pair();
        let process = Process::builder().start_method(method).spawn(say_pid_and_wait, there)?;
        here.hear();
        Ok::<_, Error>((here, process))
    };
    let mut running = Vec::new();
    let error = loop {
        match start() {
            Ok(started) => running.push(started),
            Err(error) => break error,
        }
        assert!(running.len() as u64 <= ROOM);
    };
    assert_names_the_limit(&error, libc::EAGAIN, "RLIMIT_NPROC");
    assert!(running.len() > 1);
    let census = census();
    for _ in 0..5 {
        assert_names_the_limit(&start().unwrap_err(), libc::EAGAIN, "RLIMIT_NPROC");
    }
    census.assert_settles(BOUND);
    let (line, process) = running.pop().unwrap();
    line.say("end");
    process.join().unwrap();
    running.push(start().unwrap());
    for (line, process) in running {
        line.say("end");
        process.join().unwrap();
    }
}

#[test]
fn a_child_that_ends_while_its_parent_ignores_the_children_is_told_at_exit() {
    let _watchdog = watchdog!();
    let ended = host(
        |()| {
            if !Surroundings::new().sigchld_ignored().apply_or_skip() {
                return true;
            }
            // At the end of this process its children are joined, whose statuses nobody can wait for.
            let process = Process::spawn(triple, 1).unwrap();
            let (here, there) = Line::pair();
            Process::spawn(say_pid_and_wait, there).unwrap().detach();
            at_exit(0, move || here.say("end"));
            process.join().unwrap() == 3
        },
        (),
    );
    assert!(ended);
}
