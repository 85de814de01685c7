//! Which descriptors a child has, and that none is left in its parent.

use crate::support::{BOUND, Line, census, descriptors, each_method, host, say_pid_and_wait};
use procession_process::{Process, StartMethod};
use std::{fs::File, os::fd::AsRawFd};

each_method! {
    ; alone:
    a_thousand_starts_leave_what_was_open,
    a_child_has_its_own_descriptors_only,
    an_unrelated_descriptor_is_open_in_a_forked_child_only,
    children_that_live_together_have_no_more_descriptors_each,
    what_a_failed_start_was_given_is_closed,
}

fn a_thousand_starts_leave_what_was_open(method: StartMethod) {
    // What stays: the fork server's socket, pidfd, lifeline and page.
    Process::builder().start_method(method).spawn(|()| (), ()).unwrap().join().unwrap();
    let census = census();
    for number in 0..1000_u32 {
        let process = Process::builder().start_method(method).spawn(|n: u32| n, number).unwrap();
        assert_eq!(process.join().unwrap(), number);
    }
    census.assert_settles(BOUND);
}

fn kinds(descriptors: &[(i32, String)]) -> Vec<String> {
    let kind = |target: &String| target.split(":[").next().unwrap_or_default().to_owned();
    let mut kinds: Vec<_> =
        descriptors.iter().filter(|(fd, _)| *fd > 2).map(|(_, target)| kind(target)).collect();
    kinds.sort();
    kinds
}

fn a_child_has_its_own_descriptors_only(method: StartMethod) {
    let child = |()| (descriptors(), std::io::stdin().lines().count());
    let process = Process::builder().start_method(method).spawn(child, ()).unwrap();
    let (found, lines) = process.join().unwrap();
    let streams: Vec<_> = found.iter().filter(|(fd, _)| *fd < 3).cloned().collect();
    assert_eq!(streams[0], (0, "/dev/null".to_owned()), "{found:?}");
    assert_eq!(lines, 0);
    assert_eq!(streams.len(), 3);
    if method != StartMethod::Fork {
        // Its lifeline, and where it answers.
        assert_eq!(kinds(&found), ["pipe", "socket"], "{found:?}");
    }
}

fn an_unrelated_descriptor_is_open_in_a_forked_child_only(method: StartMethod) {
    let is_open = |target: String| descriptors().iter().any(|(_, found)| *found == target);
    let look = |target: String| {
        Process::builder().start_method(method).spawn(is_open, target).unwrap().join().unwrap()
    };
    let name = |what: &str| format!("procession-{what}-{}", std::process::id());
    let open = |name: &str| {
        let path = std::env::temp_dir().join(name);
        (File::create(&path).unwrap(), path)
    };
    let (before, before_path) = open(&name("before"));
    // Handed to every program that is executed, unless that is prevented.
    rustix::io::fcntl_setfd(&before, rustix::io::FdFlags::empty()).unwrap();
    let (closed, closed_path) = open(&name("closed"));
    assert!(closed.as_raw_fd() > before.as_raw_fd());
    Process::builder().start_method(method).spawn(|()| (), ()).unwrap().join().unwrap();
    let (after, after_path) = open(&name("after"));
    rustix::io::fcntl_setfd(&after, rustix::io::FdFlags::empty()).unwrap();
    let (far, far_path) = open(&name("far"));
    // Put out of the way, as shells do; the low number is closed.
    let far = rustix::io::fcntl_dupfd_cloexec(far, 700).unwrap();
    rustix::io::fcntl_setfd(&far, rustix::io::FdFlags::empty()).unwrap();

    let forked = method == StartMethod::Fork;
    let paths = [before_path, closed_path, after_path, far_path];
    let seen = paths.clone().map(|path| look(path.to_str().unwrap().to_owned()));
    for path in paths {
        std::fs::remove_file(path).unwrap();
    }
    assert_eq!(seen, [forked; 4]);
}

fn children_that_live_together_have_no_more_descriptors_each(method: StartMethod) {
    if method == StartMethod::Fork {
        // A copy has what its parent has.
        return;
    }
    let body = |line: Line| {
        line.say(descriptors().len());
        say_pid_and_wait(line);
    };
    let living: Vec<_> = (0..5)
        .map(|_| {
            let (here, there) = Line::pair();
            let process = Process::builder().start_method(method).spawn(body, there).unwrap();
            (here.hear_number::<usize>(), here, process)
        })
        .collect();
    let counts: Vec<_> = living.iter().map(|(count, ..)| *count).collect();
    assert_eq!(counts, vec![counts[0]; 5]);
}

fn what_a_failed_start_was_given_is_closed(method: StartMethod) {
    Process::builder().start_method(method).spawn(|()| (), ()).unwrap().join().unwrap();
    let census = census();
    for _ in 0..10 {
        let (_here, there) = Line::pair();
        let builder = Process::builder().start_method(method).stdin(procession_process::Stdio::Piped);
        let error = builder.current_dir("/nowhere/at all").spawn(say_pid_and_wait, there).unwrap_err();
        assert_eq!(error.os_error(), Some(libc::ENOENT), "{error}");
        assert!(
            error.to_string().starts_with("failed to open the working directory `/nowhere/at all`: "),
            "{error}"
        );
        // One that the child finds out.
        let (_here, there) = Line::pair();
        let builder = Process::builder().start_method(method).name("nowhere").affinity([]);
        let error = builder.spawn(say_pid_and_wait, there).unwrap().join().unwrap_err();
        assert!(
            error.to_string().starts_with("failed to start process `nowhere`: failed to run on"),
            "{error}"
        );
    }
    census.assert_settles(BOUND);
}

#[test]
fn children_started_by_threads_at_once_hold_nothing_of_each_other() {
    let _watchdog = procession_testkit::watchdog!();
    for method in [StartMethod::Spawn, StartMethod::ForkServer] {
        let counts = host(
            |method| {
                let start =
                    || Process::builder().start_method(method).spawn(|()| descriptors().len(), ()).unwrap();
                let start = || (0..25).map(|_| start().join().unwrap()).collect::<Vec<_>>();
                std::thread::scope(|scope| {
                    let threads: Vec<_> = (0..4).map(|_| scope.spawn(start)).collect();
                    threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
                })
            },
            method,
        );
        assert_eq!(counts, vec![counts[0]; 100]);
    }
}
