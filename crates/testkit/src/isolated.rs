//! Running one test's body alone in a fresh process, or in a fork with a single thread.
//!
//! A test harness runs tests side by side in one process. A test that counts descriptors, changes limits or
//! forks needs the process for itself, so it runs its own binary once more, with only itself selected.

use std::any::Any;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::{Signal, WaitOptions, set_parent_process_death_signal, waitpid};

use crate::watchdog::say;
use crate::{command, fork};

/// The variable that names the test which this process runs alone.
const MARKER: &str = "PROCESSION_ISOLATED";

/// The default limit, before scaling: more than that of a watchdog inside, which knows more to tell.
const LIMIT: Duration = Duration::from_secs(70);

/// Runs a block as the body of the test it stands in, alone in a fresh process:
/// `isolated!({ … })`, or `isolated!("module::test", { … })` where the name cannot be derived.
///
/// See [`isolated()`](crate::isolated()).
#[macro_export]
macro_rules! isolated {
    ($name:expr, $body:block) => {
        $crate::isolated($name, || $body)
    };
    ($body:block) => {
        $crate::isolated($crate::test_name!(), || $body)
    };
}

/// Runs `body` alone in a fresh process of this test binary, within 70 seconds (see
/// [`scaled`](crate::watchdog::scaled)), so that an ordinary watchdog in it comes first.
///
/// The process is started with `TEST --exact --nocapture --test-threads=1` and ends with the thread that waits
/// for it. It has a temporary directory of its own (`TMPDIR`), removed afterwards. In it `body` runs on the
/// harness's test thread, beside the waiting main thread. What descends from it and is still in its process group
/// when it ends is killed.
///
/// A test binary without a harness may call this for each of its tests: in the fresh process only the named
/// one runs.
///
/// # Panics
///
/// With the process's output if it fails, does not reach the end of `body`, or is overdue; then also with what its
/// threads and descendants were doing. If no test of that name runs.
#[track_caller]
pub fn isolated(test: &str, body: impl FnOnce()) {
    isolated_within(test, LIMIT, body);
}

/// As [`isolated()`], with a limit of its own (see [`scaled`](crate::watchdog::scaled)).
///
/// # Panics
///
/// As [`isolated()`].
#[track_caller]
pub fn isolated_within(test: &str, limit: Duration, body: impl FnOnce()) {
    match std::env::var(MARKER) {
        Ok(selected) if selected == test => {
            // The signal comes when the starting thread ends, and that one waits for this process.
            let _ = set_parent_process_death_signal(Some(Signal::KILL));
            say(&mark("started", test));
            body();
            say(&mark("finished", test));
        }
        Ok(_) => {}
        Err(_) => start(test, limit),
    }
}

#[track_caller]
fn start(test: &str, limit: Duration) {
    let temporary = match TemporaryDirectory::new() {
        Ok(temporary) => temporary,
        Err(error) => panic!("failed to make a temporary directory for `{test}`: {error}"),
    };
    let mut command = this_binary(test);
    command.env(MARKER, test).env("TMPDIR", &temporary.0).stdin(std::process::Stdio::null());
    let finished = match command::run(command, limit) {
        Ok(finished) => finished,
        Err(error) => panic!("failed to run `{test}` in a process of its own: {error}"),
    };
    let (started, ended) = (mark("started", test), mark("finished", test));
    let reason = if let Some(report) = &finished.overdue {
        format!("it did not end within {limit:?}\n{report}")
    } else if !finished.output.contains(&started) {
        format!("no test of that name ran in the fresh process ({})", finished.status)
    } else if !finished.status.success() {
        format!("{}", finished.status)
    } else if !finished.output.contains(&ended) {
        "its process ended before its body did".to_owned()
    } else {
        // For a harness that shows it: skip reasons, seeds and counts.
        print!("{}", interesting(&finished.output, test));
        return;
    };
    panic!(
        "isolated test `{test}` failed: {reason}\n---- its output\n{}----",
        finished.output.replace(&started, "").replace(&ended, "")
    );
}

/// The body's own output: without the harness's lines around it.
fn interesting(output: &str, test: &str) -> String {
    let body = output.split(&mark("started", test)).nth(1).unwrap_or_default();
    body.split(&mark("finished", test)).next().unwrap_or_default().to_owned()
}

fn mark(what: &str, test: &str) -> String {
    format!("<isolated test {what}: {test}>\n")
}

/// This test binary with one test selected.
pub(crate) fn this_binary(test: &str) -> Command {
    // The link outlives a rebuild of the file; where `/proc` is missing there is only the path.
    let path = std::env::args_os().next().unwrap_or_default();
    let link = PathBuf::from("/proc/self/exe");
    let mut command = if link.exists() { Command::new(link) } else { Command::new(&path) };
    command.arg0(&path).args([test, "--exact", "--nocapture", "--test-threads=1"]);
    command
}

/// Writable for everybody, since a test may drop its user.
struct TemporaryDirectory(PathBuf);

impl TemporaryDirectory {
    fn new() -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("isolated-{}-{number}", std::process::id()));
        fs::create_dir(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777))?;
        Ok(Self(path))
    }
}

impl Drop for TemporaryDirectory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs `body` in a forked child whose only thread it is on, and waits for its end.
///
/// Call it where no other thread holds a lock that `body` needs, so inside [`isolated!`](crate::isolated!). The
/// child ends by [`std::process::exit`], so what is registered for the exit runs in it.
///
/// # Panics
///
/// If `body` panics (the message goes to standard error) or the child ends in any other way than by returning
/// from it.
#[track_caller]
pub fn forked(body: impl FnOnce()) {
    let child = fork::child(|| {
        std::panic::set_hook(Box::new(|panic| say(&format!("in a forked child: {panic}\n"))));
        let result: Result<(), Box<dyn Any + Send>> = catch_unwind(AssertUnwindSafe(body));
        std::process::exit(if result.is_ok() { 0 } else { 101 });
    });
    let pid = match child {
        Ok(pid) => pid,
        Err(error) => panic!("failed to fork: {error}"),
    };
    match waitpid(Some(pid), WaitOptions::empty()) {
        Ok(Some((_, status))) if status.exit_status() == Some(0) => {}
        Ok(Some((_, status))) => panic!("a forked child failed: {status:?}"),
        Ok(None) => panic!("waitpid without WNOHANG returned no status"),
        // SIGCHLD is ignored here: the wait lasted until the child's end, and the status is lost.
        Err(rustix::io::Errno::CHILD) => {}
        Err(error) => panic!("failed to wait for a forked child: {error}"),
    }
}
