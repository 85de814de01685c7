//! Other programs run with a deadline.

use std::process::Command;
use std::time::Duration;

use procession_testkit::{command, python, watchdog};

#[test]
fn output_and_status_are_told() {
    let _watchdog = watchdog!();
    let mut shell = Command::new("sh");
    shell.args(["-c", "echo out; echo err >&2; exit 3"]);
    let finished = command::run(shell, Duration::from_secs(30)).unwrap();
    assert_eq!(finished.status.code(), Some(3));
    assert_eq!(finished.output, "out\nerr\n");
    assert_eq!(finished.overdue, None);
}

#[test]
fn an_overdue_program_is_killed_and_reported() {
    let _watchdog = watchdog!();
    let mut shell = Command::new("sh");
    shell.args(["-c", "echo begun; sleep 1000; true"]);
    let finished = command::run(shell, Duration::from_secs(2)).unwrap();
    assert_eq!(finished.output, "begun\n");
    assert!(finished.overdue.as_ref().is_some_and(|report| report.contains("`sleep`")), "{finished:?}");
    assert!(!finished.status.success());
}

#[test]
fn much_output_does_not_block() {
    let _watchdog = watchdog!();
    let mut shell = Command::new("sh");
    shell.args(["-c", "head -c 3000000 /dev/zero | tr '\\0' x"]);
    assert_eq!(command::run(shell, Duration::from_secs(30)).unwrap().output.len(), 3_000_000);
}

#[test]
fn each_interpreter_found_is_the_version_it_says() {
    let _watchdog = watchdog!(Duration::from_secs(180));
    for python in python::find() {
        assert!(python.version >= (3, 8, 0), "{python}");
        let script = "import sys; print(*sys.version_info[:3], sys.argv[1:])";
        let finished = python.run(script, &["a", "b c"], Duration::from_secs(60)).unwrap();
        let (major, minor, patch) = python.version;
        assert_eq!(finished.output, format!("{major} {minor} {patch} ['a', 'b c']\n"));
    }
    assert!(python::find().is_sorted());
    assert_eq!(python::newest(), python::find().last());
}
