//! A name goes with its owner, however that ends; and never while it lives.
//!
//! Each test has a folder of named segments of its own, so that nobody else clears away in it. Without the process
//! crate there is no helper that outlives an owner: what is left is found by others.

use crate::support::{folder, path};
use procession_shm::SharedMemory;
use procession_testkit::{
    isolated,
    limits::Surroundings,
    role,
    storm::{Rng, kill_within},
    wait::eventually,
};
use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

/// A folder of this test's own, or the test is skipped.
fn own_folder() -> bool {
    Surroundings::new().small_shm(64 << 20).apply_or_skip()
}

/// Owns a segment until it is killed, or told to end.
#[test]
pub(crate) fn role_owner() {
    let Some(mut role) = role::enter(role_owner) else { return };
    let name = role.hear();
    let made = SharedMemory::create_named(&name, 10).unwrap();
    role.say("made");
    match role.hear().as_str() {
        "leak and return" => std::mem::forget(made),
        "leak and exit" => {
            std::mem::forget(made);
            std::process::exit(0);
        }
        "leak and _exit" => {
            std::mem::forget(made);
            // SAFETY: ends the process; nothing is relied on.
            unsafe { libc::_exit(0) }
        }
        "fork" => {
            // SAFETY: the copy only sleeps.
            let pid = unsafe { libc::fork() };
            if pid == 0 {
                loop {
                    // SAFETY: waits for a signal.
                    unsafe { libc::pause() };
                }
            }
            role.say(&pid.to_string());
            role.hear();
        }
        other => panic!("{other}"),
    }
}

fn owner(name: &str) -> role::RoleProcess {
    let mut owner = role::start(role_owner, &[]);
    owner.say(name);
    owner.expect("made");
    owner
}

#[test]
fn a_killed_owners_name_is_found_and_removed_and_a_living_ones_is_not() {
    isolated!({
        if !own_folder() {
            return;
        }
        let mut dead = owner("dead");
        let _living = owner("living");
        let ours = SharedMemory::create_named("ours", 10).unwrap();
        dead.kill();
        assert!(path("dead").exists(), "nobody here outlives it");
        assert_eq!(SharedMemory::remove_stale().unwrap(), ["dead"]);
        assert_eq!(SharedMemory::remove_stale().unwrap(), [""; 0]);
        assert!(path("living").exists() && path("ours").exists());
        drop(ours);
        assert_eq!(folder(), ["living", "procession-owner-living"]);
    });
}

#[test]
fn the_name_of_a_dead_owner_is_free_at_once() {
    isolated!({
        if !own_folder() {
            return;
        }
        drop(SharedMemory::create(1).unwrap());
        let mut dead = owner("name");
        dead.kill();
        let made = SharedMemory::create_named("name", 20).unwrap();
        assert_eq!((made.len(), made.is_owner()), (20, true));
        assert_eq!(SharedMemory::remove_stale().unwrap(), [""; 0]);
        assert_eq!(SharedMemory::open("name").unwrap().len(), 20);
    });
}

#[test]
fn the_first_segment_of_a_process_clears_away_what_dead_owners_left() {
    isolated!({
        if !own_folder() {
            return;
        }
        let mut dead = owner("dead");
        dead.kill();
        let _made = owner("other");
        assert_eq!(folder(), ["other", "procession-owner-other"]);
    });
}

#[test]
fn an_end_in_order_removes_what_was_never_dropped() {
    isolated!({
        if !own_folder() {
            return;
        }
        for (end, left) in [("leak and return", false), ("leak and exit", false), ("leak and _exit", true)] {
            let mut process = owner("leaked");
            process.say(end);
            assert!(process.wait().success(), "{}", process.output());
            assert_eq!(path("leaked").exists(), left, "{end}");
        }
    });
}

#[test]
fn a_forked_child_that_outlives_its_parent_does_not_keep_the_name() {
    isolated!({
        if !own_folder() {
            return;
        }
        let mut process = owner("parents");
        process.say("fork");
        let child: i32 = process.hear().parse().unwrap();
        process.kill();
        // The child may be so young that its hook has not run yet.
        eventually("the child lets the lock go", Duration::from_secs(10), || {
            SharedMemory::remove_stale().unwrap() == ["parents"]
        });
        // SAFETY: the copy above; it is a child of nobody here.
        unsafe { libc::kill(child, libc::SIGKILL) };
    });
}

#[test]
fn a_foreign_segment_in_the_place_of_a_dead_owners_is_left_alone() {
    isolated!({
        if !own_folder() {
            return;
        }
        let mut dead = owner("name");
        SharedMemory::remove("name").unwrap();
        fs::write(path("name"), "another program's").unwrap();
        dead.kill();
        assert_eq!(SharedMemory::remove_stale().unwrap(), [""; 0]);
        assert_eq!(folder(), ["name"]);
    });
}

#[test]
fn removers_at_once_find_each_name_once() {
    isolated!({
        if !own_folder() {
            return;
        }
        for _ in 0..5 {
            let mut owners: Vec<_> = (0..4).map(|number| owner(&format!("dead-{number}"))).collect();
            owners.iter_mut().for_each(|owner| owner.kill());
            let mut found: Vec<String> = std::thread::scope(|scope| {
                let removers: Vec<_> =
                    (0..4).map(|_| scope.spawn(|| SharedMemory::remove_stale().unwrap())).collect();
                removers.into_iter().flat_map(|remover| remover.join().unwrap()).collect()
            });
            found.sort();
            assert_eq!(found, ["dead-0", "dead-1", "dead-2", "dead-3"]);
            assert_eq!(folder(), [""; 0]);
        }
    });
}

/// Records that this library did not write, or that lie.
#[test]
fn hostile_records_make_nobody_remove_anything() {
    isolated!({
        if !own_folder() {
            return;
        }
        fs::write(path("victim"), "precious").unwrap();
        let stat = rustix_stat("victim");
        let header = format!("procession owner 1\n{}\n", "0".repeat(32));
        let making = "procession-new-0123456789abcdef";
        let of = |object: (u64, u64), making: &str, name: &str| {
            format!("{header}{:016x} {:016x}\n{making}\n{name}", object.0, object.1)
        };
        let records = [
            String::new(),
            "procession owner 2\nwhatever comes".to_owned(),
            "garbage".to_owned(),
            header.clone(),
            of((stat.0, stat.1 + 1), making, "victim"),
            of((stat.0 + 1, stat.1), making, "victim"),
            of((0, 0), making, "victim"),
            of(stat, making, "../shm/victim"),
            of(stat, "victim", "victim"),
            of(stat, making, "x/../victim"),
            "procession owner 1\n".repeat(1000),
        ];
        for (number, record) in records.iter().enumerate() {
            fs::write(path(&format!("procession-owner-{number}")), record).unwrap();
        }
        fs::create_dir(path("procession-owner-folder")).unwrap();
        std::os::unix::fs::symlink("victim", path("procession-owner-link")).unwrap();
        let fifo = std::ffi::CString::new("/dev/shm/procession-owner-fifo").unwrap();
        // SAFETY: a string and a mode.
        unsafe { libc::mkfifo(fifo.as_ptr(), 0o600) };
        fs::write(path("procession-owner-closed"), "x").unwrap();
        fs::set_permissions(path("procession-owner-closed"), fs::Permissions::from_mode(0o000)).unwrap();
        assert_eq!(SharedMemory::remove_stale().unwrap(), [""; 0]);
        assert_eq!(fs::read(path("victim")).unwrap(), b"precious");
        // What they claim can be claimed.
        SharedMemory::create_named("4", 10).unwrap();
    });
}

fn rustix_stat(name: &str) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    let stat = fs::metadata(path(name)).unwrap();
    (stat.dev(), stat.ino())
}

/// Makes and drops segments until it is killed.
#[test]
fn role_busy() {
    let Some(mut role) = role::enter(role_busy) else { return };
    role.say("busy");
    for round in 0.. {
        let own = SharedMemory::create_named(&format!("own-{}", std::process::id()), 5_000).unwrap();
        // Contended: whoever wins owns it.
        let shared = SharedMemory::create_named(&format!("shared-{}", round % 3), 100);
        if let Err(error) = &shared {
            assert!(error.is_already_exists(), "{error}");
        }
        drop((own, shared));
    }
}

#[test]
fn creators_killed_at_random_leave_nothing_and_the_living_keep_theirs() {
    isolated!({
        if !own_folder() {
            return;
        }
        let mut rng = Rng::from_env();
        let kept = SharedMemory::create_named("kept", 10).unwrap();
        kept.write_at(0, b"kept").unwrap();
        for _ in 0..60 {
            let mut busy: Vec<_> = (0..3).map(|_| role::start(role_busy, &[])).collect();
            busy.iter_mut().for_each(|process| process.expect("busy"));
            for process in &mut busy {
                kill_within(&mut rng, process.pidfd(), Duration::from_millis(3)).unwrap();
                // While the others go on.
                SharedMemory::remove_stale().unwrap();
                process.kill();
                assert!(!process.output().contains("panicked"), "{}", process.output());
            }
            SharedMemory::remove_stale().unwrap();
            assert_eq!(folder(), ["kept", "procession-owner-kept"]);
        }
        assert_eq!(SharedMemory::open("kept").unwrap().get::<[u8; 4]>(0).unwrap(), *b"kept");
    });
}
