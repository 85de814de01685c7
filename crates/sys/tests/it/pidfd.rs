use procession_sys::{Deadline, PidFd, ProcessExit, ProcessId};
use procession_testkit::watchdog;
use std::{
    process::{Command, Stdio},
    time::Duration,
};

fn cat() -> std::process::Child {
    Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
}

#[test]
#[expect(clippy::zombie_processes, reason = "reaped through its pidfd")]
fn a_zombie_has_ended_and_is_reaped_once() {
    let _watchdog = watchdog!();
    let mut child = cat();
    let pidfd = PidFd::open(child.id()).unwrap();
    assert!(!pidfd.has_ended().unwrap());
    assert_eq!(pidfd.reap().unwrap(), None);
    assert!(!pidfd.wait(Some(Deadline::after(Duration::from_millis(1)))).unwrap());
    drop(child.stdin.take());
    assert!(pidfd.wait(None).unwrap());
    assert!(pidfd.has_ended().unwrap());
    assert_eq!(pidfd.reap().unwrap(), Some(ProcessExit::Code(0)));
    assert_eq!(pidfd.reap().unwrap_err().raw_os_error(), Some(libc::ECHILD));
}

#[test]
#[expect(clippy::zombie_processes, reason = "reaped through its pidfd")]
fn a_signal_reaches_the_process_and_nobody_after_it() {
    let _watchdog = watchdog!();
    let child = cat();
    let pidfd = PidFd::open(child.id()).unwrap();
    pidfd.signal(libc::SIGTERM).unwrap();
    assert!(pidfd.wait(None).unwrap());
    let exit = pidfd.reap().unwrap();
    assert_eq!(exit, Some(ProcessExit::Signal { signal: libc::SIGTERM, core_dumped: false }));
    assert_eq!(pidfd.signal(libc::SIGTERM).unwrap_err().raw_os_error(), Some(libc::ESRCH));
}

#[test]
fn what_somebody_else_reaped_is_still_told_by_new_kernels() {
    let _watchdog = watchdog!();
    let mut child = Command::new("sh").args(["-c", "exit 7"]).spawn().unwrap();
    let pidfd = PidFd::open(child.id()).unwrap();
    assert!(pidfd.wait(None).unwrap());
    assert_eq!(pidfd.exit_after_reaping(), None, "nobody has reaped it");
    child.wait().unwrap();
    match pidfd.exit_after_reaping() {
        Some(exit) => assert_eq!(exit, ProcessExit::Code(7)),
        None => println!("skipped: this kernel has no PIDFD_INFO_EXIT (Linux 6.15)"),
    }
}

#[test]
fn a_process_is_told_from_a_later_one_by_its_start_time() {
    let _watchdog = watchdog!();
    let me = ProcessId::current();
    assert_eq!(ProcessId::of(me.pid), Some(me));
    assert_ne!(me.start_time, 0);
    let mut child = cat();
    let other = ProcessId::of(child.id()).unwrap();
    assert!(other.start_time >= me.start_time);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(ProcessId::of(other.pid), None);
}
