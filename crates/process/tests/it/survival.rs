//! Starts that go wrong: a parent that dies in the middle, other executables, changed credentials, hooks of the fork
//! server that do what they may not, odd environments.

use crate::support::{BOUND, host};
use procession_process::{
    Builder, JoinError, Process, StartMethod, Stdio, fork_server_pid, fork_server_preload, start_fork_server,
};
use procession_testkit::{
    isolated,
    storm::{self, Rng},
    test_name, wait, watchdog,
};
use std::{
    ffi::OsStr,
    fs,
    io::{self, PipeReader, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::{Duration, Instant},
};

/// Names what a re-run test does instead of its body.
const ROLE: &str = "PROCESSION_TEST_ROLE";
/// Names what the preload hook does.
const PRELOAD: &str = "PROCESSION_TEST_PRELOAD";
/// Users that own nothing.
pub(crate) const USER: u32 = 65534;
const OTHER: u32 = 65533;

fn triple(n: u32) -> u32 {
    n * 3
}

pub(crate) fn builder(method: StartMethod) -> Builder {
    Process::builder().start_method(method)
}

/// Whether this is root; says that the test is skipped if not.
pub(crate) fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: only root may change its user");
    }
    root
}

pub(crate) fn become_user(uid: u32) {
    // SAFETY: three numbers; glibc changes all threads.
    assert_eq!(unsafe { libc::setresuid(uid, uid, uid) }, 0);
}

/// This test binary with one test in a role. What comes after `--` is a filter to a harness, so a child that reached
/// `main` would take up the role again.
fn again(test: &str, role: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.args(["--exact", "--nocapture", "--test-threads=1", test, "--"]).env(ROLE, role);
    command.stdin(std::process::Stdio::null());
    command
}

/// Reads on until the text holds `word`, or to the end. If nothing comes for [`BOUND`], the test fails.
#[track_caller]
fn read_to(pipe: &mut PipeReader, text: &mut String, word: Option<&str>) {
    while word.is_none_or(|word| !text.contains(word)) {
        assert!(wait::ended(&*pipe, BOUND).unwrap(), "somebody still holds the pipe after {text:?}");
        let mut bytes = [0; 4096];
        match pipe.read(&mut bytes).unwrap() {
            0 => return,
            length => text.push_str(&String::from_utf8_lossy(&bytes[..length])),
        }
    }
}

/// Starts, and is killed in the middle of it.
fn start(role: &str) {
    // SAFETY: a number. Should this be nobody's child, it ends all the same.
    unsafe { libc::alarm(20) };
    println!("this is main");
    let child = |_: ()| loop {
        std::thread::park();
    };
    match role {
        "fork server" => start_fork_server().unwrap(),
        "outlive" => builder(StartMethod::Spawn).outlive_parent().spawn(triple, 2).unwrap().detach(),
        _ => std::mem::forget(builder(StartMethod::Spawn).spawn::<_, ()>(child, ()).unwrap()),
    }
    std::thread::park();
}

#[test]
fn a_parent_that_is_killed_in_a_start_leaves_nobody_who_runs_main() {
    if let Ok(role) = std::env::var(ROLE) {
        return start(&role);
    }
    let _watchdog = watchdog!();
    let mut rng = Rng::from_env();
    for role in ["spawn", "fork server", "outlive"] {
        for _ in 0..20 {
            let (mut pipe, writer) = io::pipe().unwrap();
            let mut command = again(test_name!(), role);
            command.stdout(writer.try_clone().unwrap()).stderr(writer);
            let mut parent = command.spawn().unwrap();
            drop(command);
            let mut told = String::new();
            read_to(&mut pipe, &mut told, Some("this is main\n"));
            let pidfd = storm::pidfd(parent.id()).unwrap();
            let instant = storm::kill_within(&mut rng, &pidfd, Duration::from_millis(2)).unwrap();
            parent.wait().unwrap();
            // The end of the pipe is the end of all who had it from the parent.
            read_to(&mut pipe, &mut told, None);
            assert_eq!(told.matches("this is main").count(), 1, "{role}, after {instant:?}: {told}");
            assert!(!told.contains("error"), "{role}, after {instant:?}: {told}");
        }
    }
}

/// This executable's bytes.
fn own_bytes() -> Vec<u8> {
    fs::read("/proc/self/exe").unwrap()
}

/// Writes an executable into this test's own folder.
fn executable(bytes: &[u8], mode: u32) -> PathBuf {
    let path = std::env::temp_dir().join("executable");
    fs::write(&path, bytes).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

/// Starts a child from an executable, which tells its user. What the harness would print is in the text: that is its
/// `main`.
fn run_from(path: &Path) -> (Result<u32, JoinError>, String) {
    let user = |()| rustix::process::geteuid().as_raw();
    let builder = builder(StartMethod::Spawn).executable(path).stdout(Stdio::Piped).stderr(Stdio::Piped);
    let child = builder.spawn(user, ()).unwrap();
    let mut told = String::new();
    child.take_stdout().unwrap().read_to_string(&mut told).unwrap();
    child.take_stderr().unwrap().read_to_string(&mut told).unwrap();
    (child.join(), told)
}

#[test]
fn the_main_of_another_build_does_not_run() {
    isolated!({
        let _watchdog = watchdog!();
        let mut bytes = own_bytes();
        let user = rustix::process::geteuid().as_raw();
        assert_eq!(run_from(&executable(&bytes, 0o755)).0.unwrap(), user);
        // The note of the build id: the lengths of name and value, its type, its name.
        let note = [&[4, 0, 0, 0, 20, 0, 0, 0, 3, 0, 0, 0][..], b"GNU\0"].concat();
        let Some(start) = bytes.windows(note.len()).position(|window| window == note) else {
            return println!("skipped: the linker makes no build id");
        };
        bytes[start + note.len()] ^= 1;
        let (error, told) = run_from(&executable(&bytes, 0o755));
        let error = error.unwrap_err();
        assert!(matches!(error, JoinError::NotStarted { .. }), "{error}\n{told}");
        assert!(error.to_string().contains("the executable is another build than its parent"), "{error}");
        assert_eq!(told, "");
    });
}

#[test]
fn the_main_of_a_set_user_id_executable_does_not_run() {
    isolated!({
        let _watchdog = watchdog!();
        if !is_root() {
            return;
        }
        let path = executable(&own_bytes(), 0o755);
        std::os::unix::fs::chown(&path, Some(OTHER), None).unwrap();
        // After the owner, whose change takes the bit away.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o4755)).unwrap();
        become_user(USER);
        if fs::metadata(&path).is_err() {
            return println!("skipped: the folder for temporary files is root's alone");
        }
        let (error, told) = run_from(&path);
        match error {
            Ok(user) => {
                assert_eq!(user, USER);
                println!("skipped: the file system knows no set-user-ID");
            }
            Err(error) => {
                assert!(matches!(error, JoinError::NotStarted { .. }), "{error}\n{told}");
                assert!(error.to_string().contains("set-user-ID"), "{error}");
                assert_eq!(told, "");
            }
        }
    });
}

#[test]
fn a_fork_server_with_other_credentials_is_replaced() {
    fn credentials((): ()) -> (u32, bool) {
        (rustix::process::getuid().as_raw(), rustix::thread::no_new_privs().unwrap())
    }
    let _watchdog = watchdog!();
    let body = |()| {
        let mut servers = Vec::new();
        let mut look = || {
            for _ in 0..2 {
                let child = builder(StartMethod::ForkServer).spawn(credentials, ()).unwrap();
                assert_eq!(child.join().unwrap(), credentials(()));
                servers.push(fork_server_pid().unwrap());
            }
        };
        assert!(!rustix::thread::no_new_privs().unwrap());
        look();
        rustix::thread::set_no_new_privs(true).unwrap();
        look();
        if is_root() {
            become_user(USER);
            look();
        }
        // One for each change, and not one for each start; the old ones are buried.
        servers.dedup();
        let alive = |pid: &&u32| Path::new(&format!("/proc/{pid}")).exists();
        assert_eq!(servers.iter().filter(alive).collect::<Vec<_>>(), [servers.last().unwrap()]);
        servers.len()
    };
    assert_eq!(host(body, ()), if rustix::process::geteuid().is_root() { 3 } else { 2 });
}

/// What came of the preload hook's starts.
static STARTS: OnceLock<Vec<String>> = OnceLock::new();

fn preload() {
    match std::env::var(PRELOAD).as_deref() {
        Ok("start") => {
            // Were a start possible, the next server's hook must not do the same, or there would be no end.
            // SAFETY: the server has one thread.
            unsafe { std::env::set_var(PRELOAD, "once") };
            let methods = [StartMethod::Spawn, StartMethod::ForkServer, StartMethod::Fork];
            let mut starts: Vec<_> =
                methods.into_iter().map(|method| builder(method).spawn(triple, 1).map(drop)).collect();
            starts.push(start_fork_server());
            let told = |start: procession_process::Result<()>| {
                start.map_or_else(|error| error.to_string(), |()| "it started".to_owned())
            };
            let _ = STARTS.set(starts.into_iter().map(told).collect());
        }
        Ok("slow") => std::thread::sleep(Duration::from_secs(1)),
        _ => {}
    }
}

fork_server_preload!(preload);

/// Runs a body in a process whose fork server's hook does what `hook` says.
#[track_caller]
fn host_with(hook: &str, body: fn(())) {
    builder(StartMethod::Spawn).env(PRELOAD, hook).spawn(body, ()).unwrap().join().unwrap();
}

#[test]
fn a_preload_hook_that_starts_a_process_gets_an_error() {
    let _watchdog = watchdog!();
    host_with("start", |()| {
        let child = |()| {
            let nested = builder(StartMethod::Spawn).spawn(triple, 7).unwrap().join().unwrap();
            (STARTS.get().cloned(), nested)
        };
        let (starts, nested) = builder(StartMethod::ForkServer).spawn(child, ()).unwrap().join().unwrap();
        let starts = starts.unwrap();
        assert_eq!(starts.len(), 4);
        for start in starts {
            assert!(
                start.contains("this is the fork server, whose preload hooks may not start any"),
                "{start}"
            );
        }
        // Its clones may.
        assert_eq!(nested, 21);
    });
}

#[test]
fn a_slow_preload_hook_delays_the_first_start_and_costs_no_server() {
    let _watchdog = watchdog!();
    host_with("slow", |()| {
        let before = Instant::now();
        start_fork_server().unwrap();
        let server = fork_server_pid().unwrap();
        for number in 0..3 {
            let child = builder(StartMethod::ForkServer).spawn(triple, number).unwrap();
            assert!(before.elapsed() >= Duration::from_secs(1));
            assert_eq!(child.join().unwrap(), 3 * number);
            assert_eq!(fork_server_pid(), Some(server));
        }
    });
}

/// The environment has an entry whose name begins with `=`: a child has it too.
fn pass_the_odd_entry_on(method: StartMethod) {
    let odd = |()| std::env::var_os("=odd");
    for builder in [builder(method), builder(method).env("OTHER", "x")] {
        assert_eq!(
            builder.spawn(odd, ()).unwrap().join().unwrap().as_deref(),
            Some(OsStr::new("1")),
            "{method}"
        );
    }
}

#[test]
fn odd_entries_of_the_environment_reach_children() {
    if std::env::var_os(ROLE).is_some() {
        for method in [StartMethod::Spawn, StartMethod::ForkServer, StartMethod::Fork] {
            host(pass_the_odd_entry_on, method);
        }
        return println!("all have it");
    }
    let _watchdog = watchdog!();
    let mut command = again(test_name!(), "odd");
    command.env("=odd", "1");
    let finished = procession_testkit::command::run(command, BOUND).unwrap();
    assert!(finished.status.success() && finished.output.contains("all have it"), "{}", finished.output);
}

#[test]
fn what_no_environment_can_hold_is_refused() {
    let _watchdog = watchdog!();
    for method in [StartMethod::Spawn, StartMethod::ForkServer, StartMethod::Fork] {
        for (name, value) in [("A=B", "x"), ("=A", "x"), ("", "x"), ("A\0", "x"), ("A", "x\0")] {
            let error = builder(method).env(name, value).spawn(triple, 1).unwrap_err().to_string();
            assert!(error.contains("environment variable"), "{method}, {name:?}={value:?}: {error}");
        }
    }
}
