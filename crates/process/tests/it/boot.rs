//! How a program finds out that it is a child, and who cannot make it believe so.

use crate::support::{BOUND, host};
use procession_process::{Process, StartMethod};
use procession_testkit::{command, watchdog};
use std::{
    fs,
    io::Write,
    os::fd::OwnedFd,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::PathBuf,
    process::{Command, Stdio},
};

const MARKER: &str = "--procession-child=00112233445566778899aabbccddeeff";

/// This test binary, which as a program lists its tests: it has reached `main` if it does.
fn program(last: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    // After `--` the harness takes everything for a name.
    command.args(["--list", "--exact", "--", "boot::a_name_that_no_test_has", last]);
    command
}

#[track_caller]
fn assert_reaches_main(command: Command, what: &str) {
    let finished = command::run(command, BOUND).unwrap();
    assert!(finished.status.success(), "with {what}: {} {}", finished.status, finished.output);
    assert!(finished.output.contains("0 tests, 0 benchmarks"), "with {what}: {}", finished.output);
}

#[test]
fn a_marker_without_a_job_switches_no_program_off() {
    let _watchdog = watchdog!();
    let with_stdin = |what: &str, stdin: Stdio| {
        let mut command = program(MARKER);
        command.stdin(stdin);
        assert_reaches_main(command, what);
    };
    with_stdin("the null device", Stdio::null());
    let (reader, writer) = std::io::pipe().unwrap();
    with_stdin("an open pipe", OwnedFd::from(reader).into());
    drop(writer);
    let (ours, theirs) = UnixStream::pair().unwrap();
    with_stdin("a silent socket of its parent", OwnedFd::from(theirs).into());
    drop(ours);
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(ours);
    with_stdin("a closed socket of its parent", OwnedFd::from(theirs).into());
    for garbage in [&b"garbage"[..], &[0; 64], &[0xff; 64], &b"PRCN".repeat(100)] {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.write_all(garbage).unwrap();
        with_stdin(&format!("garbage: {garbage:?}"), OwnedFd::from(theirs).into());
    }
}

#[test]
fn what_only_looks_like_a_marker_switches_no_program_off() {
    let _watchdog = watchdog!();
    for text in
        ["--procession-child=", "--procession-child=00", &MARKER.replace("ff", "fg"), &format!("{MARKER}0")]
    {
        let mut command = program(text);
        command.stdin(Stdio::null());
        assert_reaches_main(command, text);
    }
}

#[test]
fn standard_streams_that_are_closed_switch_no_program_off() {
    let _watchdog = watchdog!();
    let mut command = Command::new("/bin/sh");
    let exe = fs::read_link("/proc/self/exe").unwrap();
    command
        .arg("-c")
        .arg("exec \"$0\" --list --exact -- boot::a_name_that_no_test_has \"$1\" <&-")
        .arg(exe)
        .arg(MARKER);
    assert_reaches_main(command, "a closed stdin");
}

/// A script that executes this program with the arguments that `change` makes of those for a child.
fn script(name: &str, change: &str) -> PathBuf {
    // One for each: whoever is done removes it.
    let directory = std::env::temp_dir().join(format!("procession-script-{}-{name}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let path = directory.join(name);
    let exe = fs::read_link("/proc/self/exe").unwrap();
    fs::write(&path, format!("#!/bin/sh\nexe='{}'\n{change}\n", exe.display())).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn by_script(name: &str, change: &str) -> Result<u32, procession_process::JoinError> {
    let path = script(name, change);
    let builder = Process::builder().start_method(StartMethod::Spawn).executable(&path);
    let result = builder.stdout(procession_process::Stdio::Null).spawn(|n: u32| n + 1, 1).unwrap().join();
    fs::remove_file(&path).unwrap();
    let _ = fs::remove_dir(path.parent().unwrap());
    result
}

#[test]
fn a_job_is_believed_with_its_own_nonce_only() {
    let _watchdog = watchdog!();
    // The script is the child that the job waits for, and hands it on to this program.
    assert_eq!(by_script("right", "exec \"$exe\" \"$@\"").unwrap(), 2);
    let list = "--list --exact -- boot::a_name_that_no_test_has";
    // With another nonce the program runs as usual: it lists its tests, and ends well without a result.
    let error = by_script("wrong-nonce", &format!("exec \"$exe\" {list} {MARKER}")).unwrap_err();
    assert_eq!(error.code(), Some(0), "{error}");
    // As it does without the marker, or with one that is not the last.
    let error = by_script("no-marker", &format!("exec \"$exe\" {list}")).unwrap_err();
    assert_eq!(error.code(), Some(0), "{error}");
    let last = "for last; do :; done";
    let error = by_script("not-last", &format!("{last}\nexec \"$exe\" {list} \"$last\" more")).unwrap_err();
    assert_eq!(error.code(), Some(0), "{error}");
}

#[test]
fn a_job_is_taken_from_nobody_but_the_parent() {
    let _watchdog = watchdog!();
    // A child of the script has the right socket and the right nonce, and is not the one that they are for.
    let change = "\"$exe\" --list --exact -- boot::a_name_that_no_test_has \"$last\"\nexit 7";
    let error = by_script("grandchild", &format!("for last; do :; done\n{change}")).unwrap_err();
    assert_eq!(error.code(), Some(7), "{error}");
    assert_eq!(error.leftover::<u32>(), None, "it has run the job");
}

#[test]
fn a_child_hands_its_marker_to_nobody() {
    let _watchdog = watchdog!();
    let seen = host(
        |()| {
            let arguments = |()| {
                let line = fs::read("/proc/self/cmdline").unwrap();
                let own: Vec<_> = std::env::args().collect();
                (
                    String::from_utf8_lossy(&line).contains("--procession-child="),
                    own.iter().any(|own| own.contains("--procession")),
                )
            };
            StartMethod::ALL.map(|method| {
                Process::builder().start_method(method).spawn(arguments, ()).unwrap().join().unwrap().1
            })
        },
        (),
    );
    assert_eq!(seen, [false; 3]);
}
