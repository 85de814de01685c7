//! What is left behind is seen, and what is not is not.

use std::fs::{self, File};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, Stdio};
use std::time::Duration;

use procession_testkit::{Census, census, isolated, wait::eventually};

const SOON: Duration = Duration::from_secs(20);

#[test]
fn an_unchanged_process_shows_no_difference() {
    isolated!({
        let before = Census::take();
        assert_eq!(before.difference(&Census::take()), None);
        drop(std::io::pipe().unwrap());
        before.assert_settles(SOON);
    });
}

#[test]
fn a_leaked_descriptor_is_named() {
    isolated!({
        let before = Census::take();
        let file = File::open("/dev/zero").unwrap();
        let difference = before.difference(&Census::take()).unwrap();
        assert!(difference.contains("`/dev/zero`: 0 before, 1 now"), "{difference}");
        drop(file);
        before.assert_settles(SOON);
    });
}

#[test]
fn a_descriptor_closed_and_opened_anew_is_no_difference() {
    isolated!({
        let pipe = std::io::pipe().unwrap();
        let before = Census::take();
        drop(pipe);
        let _pipe = std::io::pipe().unwrap();
        assert_eq!(before.difference(&Census::take()), None);
    });
}

#[test]
fn a_mapped_memfd_counts_after_its_descriptor_is_closed() {
    isolated!({
        let before = Census::take();
        let page = super::step::SharedPage::of_memfd("leaked");
        let difference = before.difference(&Census::take()).unwrap();
        assert!(difference.contains("shared mappings of `/memfd:leaked"), "{difference}");
        assert!(!difference.contains("descriptors"), "{difference}");
        drop(page);
        before.assert_settles(SOON);
    });
}

#[test]
fn a_thread_and_a_zombie_are_named() {
    isolated!({
        let before = Census::take();
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let thread =
            std::thread::Builder::new().name("lingers".into()).spawn(move || stopped.recv()).unwrap();
        let mut child = Command::new("true").stdout(Stdio::null()).spawn().unwrap();
        let zombie = || Census::take().children().iter().any(|child| child.state == 'Z');
        while !zombie() {
            std::thread::yield_now();
        }
        let difference = before.difference(&Census::take()).unwrap();
        assert!(difference.contains("threads named `lingers`: 0 before, 1 now"), "{difference}");
        assert!(difference.contains("`true (zombie)`: 0 before, 1 now"), "{difference}");
        let settled = catch_unwind(AssertUnwindSafe(|| before.assert_settles(Duration::ZERO)));
        assert!(settled.is_err(), "a zombie is not settled");
        child.wait().unwrap();
        drop(stop);
        let _ = thread.join();
        before.assert_settles(SOON);
    });
}

#[test]
fn a_helper_counts_only_if_asked_for() {
    isolated!({
        use std::os::unix::process::CommandExt as _;
        let all = census::Options { helpers: true, ..census::Options::default() };
        let (before, before_all) = (Census::take(), Census::with(&all));
        let mut child = Command::new("sleep").arg0("procession:helper").arg("1000").spawn().unwrap();
        // The child is executing the program when `spawn` returns, and gets its arguments last.
        let arguments = format!("/proc/{}/cmdline", child.id());
        eventually("it has its name", SOON, || {
            fs::read(&arguments).unwrap().starts_with(b"procession:helper")
        });
        let difference = before_all.difference(&Census::with(&all)).unwrap();
        assert!(difference.contains("child processes"), "{difference}");
        assert_eq!(before.difference(&Census::take()), None);
        child.kill().unwrap();
        child.wait().unwrap();
    });
}

#[test]
fn names_with_the_prefixes_count() {
    isolated!({
        let unique = format!("testkit-{}", std::process::id());
        let options = census::Options { shm_prefixes: vec![unique.clone()], ..census::Options::default() };
        let before = Census::with(&options);
        let (shm, temp) = (format!("/dev/shm/{unique}"), std::env::temp_dir().join("procession-left"));
        File::create(&shm).unwrap();
        File::create(&temp).unwrap();
        let after = Census::with(&options);
        fs::remove_file(&shm).unwrap();
        fs::remove_file(&temp).unwrap();
        let difference = before.difference(&after).unwrap();
        assert!(difference.contains(&format!("/dev/shm names `{unique}`")), "{difference}");
        assert!(difference.contains("temporary names `procession-left`"), "{difference}");
        before.assert_settles(SOON);
    });
}
