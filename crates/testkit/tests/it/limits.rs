//! Surroundings are as hostile as they say, or the reason is told.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

use procession_testkit::isolated;
use procession_testkit::limits::Surroundings;
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;

#[test]
fn descriptors_run_out() {
    isolated!({
        if !Surroundings::new().nofile(40).apply_or_skip() {
            return;
        }
        let files: Result<Vec<_>, _> = (0..40).map(|_| fs::File::open("/dev/null")).collect();
        assert_eq!(files.unwrap_err().raw_os_error(), Some(Errno::MFILE.raw_os_error()));
    });
}

#[test]
fn tasks_run_out_and_the_process_still_sees_itself() {
    isolated!({
        if !Surroundings::new().tasks(1).apply_or_skip() {
            return;
        }
        let user = rustix::process::getuid();
        assert!(!user.is_root());
        assert_eq!(fs::metadata("/proc/self/fd").unwrap().uid(), user.as_raw());
        let mut first = Command::new("sleep").arg("1000").spawn().unwrap();
        let second = Command::new("true").spawn();
        first.kill().unwrap();
        first.wait().unwrap();
        assert_eq!(second.unwrap_err().kind(), ErrorKind::WouldBlock);
        assert!(Command::new("true").status().unwrap().success());
    });
}

#[test]
fn a_file_cannot_outgrow_its_limit() {
    isolated!({
        if !Surroundings::new().fsize(8192).apply_or_skip() {
            return;
        }
        let script = "head -c 20000 /dev/zero > $TMPDIR/large";
        assert!(!Command::new("sh").args(["-c", script]).status().unwrap().success());
        assert_eq!(fs::metadata(std::env::temp_dir().join("large")).unwrap().len(), 8192);
    });
}

#[test]
fn shm_is_small_and_empty_here_only() {
    isolated!({
        let outside = format!("/dev/shm/testkit-outside-{}", std::process::id());
        fs::write(&outside, "x").unwrap();
        let ran = Surroundings::new().small_shm(65536).run_or_skip(|| {
            assert_eq!(fs::read_dir("/dev/shm").unwrap().count(), 0);
            let full = fs::write("/dev/shm/large", vec![1; 100_000]).unwrap_err();
            assert_eq!(full.kind(), ErrorKind::StorageFull);
        });
        let seen = fs::exists(&outside).unwrap();
        let leaked = fs::exists("/dev/shm/large").unwrap();
        fs::remove_file(&outside).unwrap();
        assert!(seen && !leaked);
        println!("ran: {ran}");
    });
}

#[test]
fn proc_is_empty() {
    isolated!({
        if !Surroundings::new().no_proc().apply_or_skip() {
            return;
        }
        assert_eq!(fs::read_dir("/proc").unwrap().count(), 0);
        assert!(Command::new("true").status().unwrap().success());
    });
}

#[test]
fn a_body_runs_as_pid_one_with_its_own_proc() {
    isolated!({
        let ran = Surroundings::new().pid_one().run(|| {
            assert_eq!(std::process::id(), 1);
            assert_eq!(fs::read_link("/proc/self").unwrap().to_str(), Some("1"));
            assert!(Command::new("true").status().unwrap().success());
        });
        if let Err(reason) = ran {
            println!("skipped: {reason}");
            assert!(reason.to_string().contains("namespace"), "{reason}");
        }
        assert_ne!(std::process::id(), 1);
        assert!(Surroundings::new().pid_one().apply().is_err());
    });
}

#[test]
fn an_ignored_sigchld_leaves_no_status() {
    isolated!({
        assert!(Surroundings::new().sigchld_ignored().apply_or_skip());
        let status = Command::new("true").spawn().unwrap().wait();
        assert_eq!(status.unwrap_err().raw_os_error(), Some(Errno::CHILD.raw_os_error()));
    });
}

#[test]
#[expect(clippy::zombie_processes, reason = "the reaper waits for it")]
fn a_reaper_takes_statuses() {
    isolated!({
        assert!(Surroundings::new().reaper().apply_or_skip());
        let child = Command::new("true").spawn().unwrap();
        // Gone without our wait: the zombie was taken.
        while fs::exists(format!("/proc/{}", child.id())).unwrap() {
            std::thread::yield_now();
        }
    });
}

#[test]
fn a_refused_system_call_fails_with_the_errno_in_every_thread() {
    isolated!({
        let (go, started) = std::sync::mpsc::channel::<()>();
        let earlier = std::thread::spawn(move || {
            let _ = started.recv();
            memfd_create("x", MemfdFlags::CLOEXEC).unwrap_err()
        });
        let filtered = Surroundings::new().fail(libc::SYS_memfd_create, libc::ENOSYS);
        if !filtered.apply_or_skip() {
            return;
        }
        assert_eq!(memfd_create("x", MemfdFlags::CLOEXEC).unwrap_err(), Errno::NOSYS);
        drop(go);
        assert_eq!(earlier.join().unwrap(), Errno::NOSYS);
        fs::File::open("/dev/null").unwrap();
    });
}

#[test]
fn a_refused_flag_leaves_the_call_without_it_alone() {
    isolated!({
        let mask = MemfdFlags::ALLOW_SEALING.bits();
        let filtered = Surroundings::new().fail_with_flags(libc::SYS_memfd_create, 1, mask, libc::EINVAL);
        if !filtered.apply_or_skip() {
            return;
        }
        memfd_create("x", MemfdFlags::CLOEXEC).unwrap();
        let both = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        assert_eq!(memfd_create("x", both).unwrap_err(), Errno::INVAL);
    });
}

#[test]
fn a_failure_in_a_forked_body_is_the_tests_failure() {
    isolated!({
        for surroundings in [Surroundings::new(), Surroundings::new().pid_one()] {
            if surroundings.run(|| {}).is_ok() {
                let run = || surroundings.run(|| panic!("on purpose"));
                assert!(std::panic::catch_unwind(run).is_err());
            }
        }
    });
}
