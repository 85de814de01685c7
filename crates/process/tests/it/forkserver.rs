//! The fork server: its life, its deaths, and what its children do not share.

use crate::support::{BOUND, Line, assert_ends, descriptors, heed_interrupts, host, say_pid_and_wait};
use procession_parcel::Fd;
use procession_process::{
    Builder, Process, StartMethod, Stdio, active_children, fork_server_pid, fork_server_preload,
    start_fork_server,
};
use procession_testkit::{
    storm::{self, Rng},
    wait::eventually,
    watchdog,
};
use std::{
    io::Read,
    os::fd::OwnedFd,
    sync::{
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    time::Duration,
};

fn builder() -> Builder {
    Process::builder().start_method(StartMethod::ForkServer)
}

/// The server's pid, and a pidfd of it.
fn server() -> (u32, OwnedFd) {
    let pid = fork_server_pid().unwrap();
    (pid, storm::pidfd(pid).unwrap())
}

fn signal(process: &OwnedFd, signal: rustix::process::Signal) {
    rustix::process::pidfd_send_signal(process, signal).unwrap();
}

static PRELOADED_BY: AtomicU32 = AtomicU32::new(0);

fn preload() {
    PRELOADED_BY.store(std::process::id(), Ordering::Relaxed);
}

fork_server_preload!(preload);

#[test]
fn children_find_what_the_server_has_preloaded() {
    let _watchdog = watchdog!();
    host(
        |()| {
            let loaded = |()| PRELOADED_BY.load(Ordering::Relaxed);
            let first = builder().spawn(loaded, ()).unwrap().join().unwrap();
            assert_eq!(first, fork_server_pid().unwrap());
            assert_eq!(builder().spawn(loaded, ()).unwrap().join().unwrap(), first);
            let spawned = Process::builder().start_method(StartMethod::Spawn).spawn(loaded, ()).unwrap();
            assert_eq!(spawned.join().unwrap(), 0);
            assert_eq!(loaded(()), 0);
        },
        (),
    );
}

#[test]
fn a_server_says_nothing() {
    let _watchdog = watchdog!();
    let body = |()| builder().spawn(|n: u32| n + 1, 1).unwrap().join().unwrap();
    let host = Process::builder().start_method(StartMethod::Spawn).stdout(Stdio::Piped).stderr(Stdio::Piped);
    let host = host.spawn(body, ()).unwrap();
    let mut told = String::new();
    host.take_stdout().unwrap().read_to_string(&mut told).unwrap();
    host.take_stderr().unwrap().read_to_string(&mut told).unwrap();
    assert_eq!((host.join().unwrap(), told.as_str()), (2, ""));
}

#[test]
fn a_server_is_no_child_of_the_users_and_has_a_name() {
    let _watchdog = watchdog!();
    host(
        |()| {
            assert_eq!(fork_server_pid(), None);
            start_fork_server().unwrap();
            let (pid, _) = server();
            assert!(active_children().is_empty());
            let title = |pid| {
                let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
                String::from_utf8(line.split(|&byte| byte == 0).next().unwrap().to_vec()).unwrap()
            };
            // Its start does not wait until its execution is done.
            eventually("a title", BOUND, || title(pid) == "procession: fork server");
            // Once it is there, starting it is nothing.
            start_fork_server().unwrap();
            assert_eq!(fork_server_pid(), Some(pid));
            let (here, there) = Line::pair();
            let child = builder().name("worker").spawn(say_pid_and_wait, there).unwrap();
            here.hear();
            assert_eq!(title(child.pid()).trim_end(), "worker");
            let name = std::fs::read_to_string(format!("/proc/{}/comm", child.pid())).unwrap();
            assert_eq!(name, "worker\n");
        },
        (),
    );
}

#[test]
fn a_server_ends_when_its_asker_does() {
    let _watchdog = watchdog!();
    let body = |line: Line| {
        builder().spawn(|()| (), ()).unwrap().join().unwrap();
        line.say(fork_server_pid().unwrap());
        line.hear()
    };
    let start = |line| Process::builder().start_method(StartMethod::Spawn).spawn(body, line).unwrap();
    let (here, there) = Line::pair();
    let asker = start(there);
    let server = here.hear_process();
    here.say("end");
    asker.join().unwrap();
    assert_ends("the server of one that returned", server);

    let (here, there) = Line::pair();
    let asker = start(there);
    let server = here.hear_process();
    asker.kill().unwrap();
    assert_ends("the server of one that was killed", server);
}

#[test]
fn sigint_does_not_end_a_server() {
    let _watchdog = watchdog!();
    host(
        |()| {
            heed_interrupts();
            let (here, there) = Line::pair();
            let old = builder().spawn(say_pid_and_wait, there).unwrap();
            here.hear();
            let (pid, pidfd) = server();
            signal(&pidfd, rustix::process::Signal::INT);
            assert_eq!(builder().spawn(|n: u32| n, 5).unwrap().join().unwrap(), 5);
            assert_eq!(fork_server_pid(), Some(pid));
            here.say("end");
            old.join().unwrap();
            // Its children do not ignore the signal as it does.
            let (here, there) = Line::pair();
            let new = builder().spawn(say_pid_and_wait, there).unwrap();
            here.hear();
            new.interrupt().unwrap();
            assert_eq!(new.join().unwrap_err().signal(), Some(libc::SIGINT));
        },
        (),
    );
}

#[test]
fn an_idle_server_that_was_killed_is_replaced_and_its_children_live() {
    let _watchdog = watchdog!();
    host(
        |()| {
            let (here, there) = Line::pair();
            let body = |line: Line| {
                say_pid_and_wait(line);
                "old".to_owned()
            };
            let old = builder().spawn(body, there).unwrap();
            here.hear();
            let (pid, pidfd) = server();
            for signal_number in [rustix::process::Signal::KILL, rustix::process::Signal::TERM] {
                let (_, pidfd) = server();
                signal(&pidfd, signal_number);
                assert_ends("a killed server", &pidfd);
                assert_eq!(fork_server_pid(), None);
                assert_eq!(builder().spawn(|n: u32| n, 6).unwrap().join().unwrap(), 6);
            }
            assert_ends("the first server", pidfd);
            assert_ne!(fork_server_pid(), Some(pid));
            assert!(old.is_alive());
            here.say("end");
            assert_eq!(old.join().unwrap(), "old");
            // The dead are buried.
            assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
        },
        (),
    );
}

#[test]
fn a_start_survives_the_death_of_its_server() {
    let _watchdog = watchdog!();
    host(
        |()| {
            start_fork_server().unwrap();
            let (pid, pidfd) = server();
            // A stopped server is one that is killed before it has read the request.
            signal(&pidfd, rustix::process::Signal::STOP);
            let (tell, told) = mpsc::channel();
            let start = std::thread::spawn(move || {
                tell.send(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
                builder().spawn(|n: u32| n * 2, 21).unwrap().join().unwrap()
            });
            let thread = told.recv().unwrap();
            eventually("a start that waits for its server", BOUND, || {
                let call = std::fs::read_to_string(format!("/proc/self/task/{thread}/syscall")).unwrap();
                let number = call.split(' ').next().and_then(|number| number.parse().ok());
                matches!(number, Some(libc::SYS_ppoll | libc::SYS_poll))
            });
            signal(&pidfd, rustix::process::Signal::KILL);
            assert_eq!(start.join().unwrap(), 42);
            assert_ne!(fork_server_pid().unwrap(), pid);
        },
        (),
    );
}

#[test]
fn no_start_is_lost_or_done_twice_however_often_the_server_is_killed() {
    let _watchdog = watchdog!();
    host(
        |()| {
            const STARTS: u32 = 300;
            let mut rng = Rng::from_env_or(24);
            let (mut log, entry) = std::io::pipe().unwrap();
            let (order, orders) = mpsc::channel::<(OwnedFd, Duration)>();
            let (done, ready) = mpsc::channel();
            std::thread::spawn(move || {
                for (server, delay) in orders {
                    storm::delay(delay);
                    // It may have ended.
                    let _ = rustix::process::pidfd_send_signal(server, rustix::process::Signal::KILL);
                    done.send(()).unwrap();
                }
            });
            let body = |(number, log): (u32, Fd)| {
                rustix::io::write(&log.0, &number.to_le_bytes()).unwrap();
                number
            };
            let mut killed = 0;
            for number in 0..STARTS {
                let kill = fork_server_pid().filter(|_| rng.chance(1, 2));
                if let Some(pid) = kill {
                    let pidfd = storm::pidfd(pid).unwrap();
                    order.send((pidfd, rng.duration(Duration::from_micros(600)))).unwrap();
                    killed += 1;
                }
                let entry = Fd(OwnedFd::from(entry.try_clone().unwrap()));
                let process = builder().spawn(body, (number, entry)).unwrap();
                assert_eq!(process.join().unwrap(), number);
                if kill.is_some() {
                    ready.recv().unwrap();
                }
            }
            assert!(killed > STARTS / 4);
            drop(entry);
            let mut ran = Vec::new();
            log.read_to_end(&mut ran).unwrap();
            let ran: Vec<u32> =
                ran.chunks(4).map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap())).collect();
            assert_eq!(ran, (0..STARTS).collect::<Vec<_>>());
            assert!(active_children().is_empty());
        },
        (),
    );
}

#[test]
fn no_descriptor_of_one_request_reaches_a_later_child() {
    let _watchdog = watchdog!();
    host(
        |()| {
            let look = |_: Option<Fd>| descriptors().len();
            let count = builder().spawn(look, None).unwrap().join().unwrap();
            let (mut reader, writer) = std::io::pipe().unwrap();
            let holder = |(_writer, line): (Fd, Line)| say_pid_and_wait(line);
            let (here, there) = Line::pair();
            let first = builder().spawn(holder, (Fd(OwnedFd::from(writer)), there)).unwrap();
            here.hear();
            // A younger one, which lives on, while the first holds its pipe.
            let (_stay, there) = Line::pair();
            let second = builder().spawn(say_pid_and_wait, there).unwrap();
            assert_eq!(builder().spawn(look, None).unwrap().join().unwrap(), count);
            first.kill().unwrap();
            first.join().unwrap_err();
            // Nobody else has its writing end: neither the server nor a sibling.
            assert_eq!(reader.read(&mut [0]).unwrap(), 0);
            assert!(second.is_alive());
            assert_eq!(builder().spawn(look, None).unwrap().join().unwrap(), count);
        },
        (),
    );
}

#[test]
fn threads_start_children_of_one_server_at_once() {
    let _watchdog = watchdog!();
    host(
        |()| {
            std::thread::scope(|scope| {
                for thread in 0..4_u32 {
                    scope.spawn(move || {
                        for number in 0..50 {
                            let process = builder().spawn(|n: (u32, u32)| n, (thread, number)).unwrap();
                            assert_eq!(process.join().unwrap(), (thread, number));
                        }
                    });
                }
            });
            assert!(active_children().is_empty());
        },
        (),
    );
}

#[test]
fn a_forked_copy_of_the_asker_has_a_server_of_its_own() {
    let _watchdog = watchdog!();
    host(
        |()| {
            start_fork_server().unwrap();
            let ours = fork_server_pid().unwrap();
            let body = |ours: u32| {
                assert_eq!(fork_server_pid(), None);
                assert_eq!(builder().spawn(|n: u32| n, 7).unwrap().join().unwrap(), 7);
                assert_ne!(fork_server_pid(), Some(ours));
            };
            Process::builder().start_method(StartMethod::Fork).spawn(body, ours).unwrap().join().unwrap();
            assert_eq!(fork_server_pid(), Some(ours));
            assert_eq!(builder().spawn(|n: u32| n, 8).unwrap().join().unwrap(), 8);
        },
        (),
    );
}
