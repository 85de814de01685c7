//! Named segments of processes that end in whatever way: a helper that outlives them takes their names away.

use crate::support::{BOUND, Line, each_method, host, say_pid_and_wait};
use procession_process::{Process, StartMethod, Stdio, active_children};
use procession_shm::{ShareableList, SharedMemory, SharedMemoryManager};
use procession_testkit::{storm::Rng, wait::eventually, watchdog};
use serde::{Deserialize, Serialize};
use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

each_method! {
    a_child_writes_by_name_and_by_handle,
    a_killed_owners_name_is_removed,
    a_managers_segments_outlast_an_interrupted_guardian_and_leave_no_word_on_stderr;
    alone:
    a_child_that_ends_in_order_removes_what_it_leaked,
    owners_killed_at_random_leave_nothing,
}

fn path(name: &str) -> PathBuf {
    Path::new("/dev/shm").join(name)
}

/// Both the segment and what stands beside it.
#[track_caller]
fn assert_removed(name: &str) {
    let record = path(&format!("procession-owner-{name}"));
    eventually("a dead owner's name is removed", BOUND, || !path(name).exists() && !record.exists());
}

fn a_child_writes_by_name_and_by_handle(method: StartMethod) {
    let shm = SharedMemory::create(64).unwrap();
    let list = ShareableList::create(["ours", "?"]).unwrap();
    let by_name = |name: String| {
        let shm = SharedMemory::open(&name).unwrap();
        shm.write_at(3, b"by name").unwrap();
        shm.is_owner()
    };
    let by_handle = |(shm, list): (SharedMemory, ShareableList)| {
        shm.write_at(20, b"by handle").unwrap();
        list.set(1, "child's").unwrap();
        shm.is_owner() || list.shm().is_owner()
    };
    let builder = || Process::builder().start_method(method);
    assert!(!builder().spawn(by_name, shm.name().to_owned()).unwrap().join().unwrap());
    let handles = (shm.try_clone().unwrap(), ShareableList::open(list.name()).unwrap());
    assert!(!builder().spawn(by_handle, handles).unwrap().join().unwrap());
    assert_eq!(shm.get::<[u8; 7]>(3).unwrap(), *b"by name");
    assert_eq!(shm.get::<[u8; 9]>(20).unwrap(), *b"by handle");
    assert_eq!(list.get(1).unwrap(), "child's".into());
    assert!(path(shm.name()).exists(), "children that attached are gone, and their ends took nothing away");
}

fn own_and_wait(line: Line) {
    let shm = SharedMemory::create(64).unwrap();
    line.say(shm.name());
    line.try_hear();
}

fn a_killed_owners_name_is_removed(method: StartMethod) {
    for signal in ["SIGTERM", "SIGKILL"] {
        let (here, there) = Line::pair();
        let owner = Process::builder().start_method(method).spawn(own_and_wait, there).unwrap();
        let name = here.hear();
        assert!(path(&name).exists());
        if signal == "SIGKILL" { owner.kill() } else { owner.terminate() }.unwrap();
        owner.join().unwrap_err();
        assert_removed(&name);
    }
}

/// CPython's manager has a server that must live through Ctrl-C; here it is the guardian that must.
fn a_managers_segments_outlast_an_interrupted_guardian_and_leave_no_word_on_stderr(method: StartMethod) {
    use std::io::Read;
    let (here, there) = Line::pair();
    let body = |line: Line| {
        let manager = SharedMemoryManager::new();
        let (shm, list) = (manager.create(64).unwrap(), manager.list([1, 2]).unwrap());
        let pid = only_guardian().cast_signed();
        eventually("it has come so far as to ignore them", BOUND, || {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
            u64::from_str_radix(ignored.trim(), 16).unwrap() & (1 << (libc::SIGINT - 1)) != 0
        });
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            // SAFETY: sends a signal to a child that is not reaped.
            unsafe { libc::kill(pid, signal) };
        }
        line.say(shm.name());
        line.say(list.name());
        line.hear();
    };
    let builder = Process::builder().start_method(method).stderr(Stdio::Piped);
    let owner = builder.spawn(body, there).unwrap();
    let names = [here.hear(), here.hear()];
    assert!(names.iter().all(|name| path(name).exists()));
    here.say("end");
    let mut told = String::new();
    owner.take_stderr().unwrap().read_to_string(&mut told).unwrap();
    owner.join().unwrap();
    assert_eq!(told, "");
    for name in names {
        assert!(!path(&name).exists(), "the manager's end is the end of its names");
    }
    // The same, killed.
    let (here, there) = Line::pair();
    let owner = Process::builder().start_method(method).spawn(body, there).unwrap();
    let names = [here.hear(), here.hear()];
    owner.kill().unwrap();
    owner.join().unwrap_err();
    for name in names {
        assert_removed(&name);
    }
}

fn leak(method: u32) -> String {
    let shm = SharedMemory::create(64).unwrap();
    let name = shm.name().to_owned();
    std::mem::forget(shm);
    match method {
        0 => name,
        1 => {
            println!("{name}");
            std::process::exit(0)
        }
        // SAFETY: ends the process.
        _ => unsafe { libc::_exit(0) },
    }
}

fn a_child_that_ends_in_order_removes_what_it_leaked(method: StartMethod) {
    let name = Process::builder().start_method(method).spawn(leak, 0).unwrap().join().unwrap();
    // Before its end, so that whoever joined it can rely on it.
    assert!(!path(&name).exists());
}

fn busy(line: Line) {
    line.say("busy");
    for round in 0.. {
        let kept =
            SharedMemory::create_named(&format!("test-busy-{}-{}", std::process::id(), round % 5), 5_000);
        drop(kept);
    }
}

fn owners_killed_at_random_leave_nothing(method: StartMethod) {
    let mut rng = Rng::from_env();
    let kept = SharedMemory::create(10).unwrap();
    for _ in 0..10 {
        let (here, there) = Line::pair();
        let owner = Process::builder().start_method(method).spawn(busy, there).unwrap();
        here.expect("busy");
        let pid = owner.pid();
        procession_testkit::storm::delay(rng.duration(Duration::from_millis(5)));
        owner.kill().unwrap();
        owner.join().unwrap_err();
        let prefix = format!("test-busy-{pid}-");
        eventually("all of a dead owner's names are removed", BOUND, || {
            !std::fs::read_dir("/dev/shm")
                .unwrap()
                .any(|entry| entry.unwrap().file_name().to_string_lossy().contains(&prefix))
        });
    }
    assert!(kept.is_owner() && path(kept.name()).exists());
}

/// This process's helpers of that kind.
fn guardians() -> Vec<u32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let read = |file: &str| std::fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        let stat = read("stat");
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ours = fields.get(1).is_some_and(|parent| *parent == std::process::id().to_string());
        if ours && fields[0] != "Z" && read("cmdline").starts_with("procession: guardian") {
            found.push(pid);
        }
    }
    found
}

fn only_guardian() -> u32 {
    let mut found = Vec::new();
    eventually("there is a guardian", BOUND, || {
        found = guardians();
        !found.is_empty()
    });
    assert_eq!(found.len(), 1);
    found[0]
}

#[test]
fn one_guardian_serves_a_process_and_keeps_nothing_of_it_open() {
    let _watchdog = watchdog!();
    host(
        |()| {
            assert_eq!(guardians(), [0; 0], "none before it is needed");
            let (_here, _there) = Line::pair();
            let _segments: Vec<_> = (0..20).map(|_| SharedMemory::create(64).unwrap()).collect();
            let pid = only_guardian();
            assert_eq!(active_children().len(), 0, "it is no child of the user's");
            let descriptors = || -> Vec<String> {
                std::fs::read_dir(format!("/proc/{pid}/fd"))
                    .unwrap()
                    .flatten()
                    .map(|entry| std::fs::read_link(entry.path()).unwrap_or_default().display().to_string())
                    .collect()
            };
            eventually("it holds its streams and a pidfd only", BOUND, || {
                let mut held = descriptors();
                held.sort();
                held.len() == 4
                    && held.iter().filter(|file| *file == "/dev/null").count() == 3
                    && held.iter().any(|file| file.contains("pidfd"))
            });
            // Neither a terminal's signals nor those to a group reach it.
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            let session = stat.rsplit(')').next().unwrap().split_whitespace().nth(3).unwrap().to_owned();
            assert_eq!(session, pid.to_string());
        },
        (),
    );
}

#[test]
fn a_guardian_that_was_killed_is_replaced() {
    let _watchdog = watchdog!();
    let (here, there) = Line::pair();
    let owner = Process::builder()
        .start_method(StartMethod::Spawn)
        .spawn(
            |line: Line| {
                let first = SharedMemory::create(64).unwrap();
                let pid = only_guardian();
                rustix_kill(pid);
                eventually("it is dead", BOUND, || guardians().is_empty());
                let second = SharedMemory::create(64).unwrap();
                assert_ne!(only_guardian(), pid);
                line.say(first.name());
                line.say(second.name());
                line.try_hear();
            },
            there,
        )
        .unwrap();
    let names = [here.hear(), here.hear()];
    owner.kill().unwrap();
    owner.join().unwrap_err();
    for name in names {
        assert_removed(&name);
    }
}

fn rustix_kill(pid: u32) {
    // SAFETY: a child of this process that is not reaped.
    unsafe { libc::kill(pid.cast_signed(), libc::SIGKILL) };
}

#[test]
fn when_owner_and_guardian_are_killed_the_name_is_stale_and_found() {
    let _watchdog = watchdog!();
    let (here, there) = Line::pair();
    let owner = Process::builder()
        .start_method(StartMethod::Spawn)
        .spawn(
            |line: Line| {
                let shm = SharedMemory::create(64).unwrap();
                rustix_kill(only_guardian());
                eventually("it is dead", BOUND, || guardians().is_empty());
                line.say(shm.name());
                line.try_hear();
            },
            there,
        )
        .unwrap();
    let name = here.hear();
    owner.kill().unwrap();
    owner.join().unwrap_err();
    // The helper of some other process may be at it: it has the lock then until it has removed it.
    eventually("it is removed", BOUND, || {
        SharedMemory::remove_stale().unwrap();
        !path(&name).exists()
    });
}

#[derive(Serialize, Deserialize)]
struct Deep(Line);

#[test]
fn the_names_of_a_whole_tree_go_with_its_root() {
    let _watchdog = watchdog!();
    let (here, there) = Line::pair();
    let root = Process::builder()
        .start_method(StartMethod::Spawn)
        .spawn(
            |Deep(line): Deep| {
                let shm = SharedMemory::create(64).unwrap();
                line.say(shm.name());
                let _child = Process::builder()
                    .start_method(StartMethod::ForkServer)
                    .spawn(own_and_wait, line.again())
                    .unwrap();
                std::thread::park();
            },
            Deep(there),
        )
        .unwrap();
    let names = [here.hear(), here.hear()];
    root.kill().unwrap();
    root.join().unwrap_err();
    for name in names {
        assert_removed(&name);
    }
}

#[test]
fn a_process_that_ends_without_handlers_loses_its_names_too() {
    let _watchdog = watchdog!();
    for method in [1, 2] {
        let before: Vec<_> = shm_of_ours();
        let process =
            Process::builder().start_method(StartMethod::Spawn).name("leaks").spawn(leak, method).unwrap();
        let pidfd: OwnedFd = procession_testkit::storm::pidfd(process.pid()).unwrap();
        process.join().unwrap_err();
        drop(pidfd);
        eventually("what it leaked is removed", BOUND, || {
            shm_of_ours().iter().all(|name| before.contains(name) || others(name))
        });
    }
}

fn shm_of_ours() -> Vec<String> {
    std::fs::read_dir("/dev/shm")
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// Segments of tests that run at the same time: their owners live.
fn others(name: &str) -> bool {
    let record = name.strip_prefix("procession-owner-").unwrap_or(name);
    let Ok(file) = std::fs::File::open(path(&format!("procession-owner-{record}"))) else { return true };
    file.try_lock().is_err()
}

#[test]
fn a_child_of_the_user_does_not_keep_a_dead_owners_name() {
    let _watchdog = watchdog!();
    let (here, there) = Line::pair();
    let owner = Process::builder()
        .start_method(StartMethod::Spawn)
        .spawn(
            |line: Line| {
                let shm = SharedMemory::create(64).unwrap();
                let survivor = Process::builder()
                    .start_method(StartMethod::Fork)
                    .outlive_parent()
                    .spawn(say_pid_and_wait, line.again())
                    .unwrap();
                survivor.detach();
                line.say(shm.name());
                line.try_hear();
            },
            there,
        )
        .unwrap();
    let (one, other) = (here.hear(), here.hear());
    let (pid, name) = if one.starts_with("psm_") { (other, one) } else { (one, other) };
    let survivor = procession_testkit::storm::pidfd(pid.parse().unwrap()).unwrap();
    owner.kill().unwrap();
    owner.join().unwrap_err();
    assert_removed(&name);
    assert!(!procession_testkit::wait::ended(&survivor, Duration::ZERO).unwrap(), "it lives on");
    here.say("end");
}
