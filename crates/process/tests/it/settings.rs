//! What a child is set up with: by its builder, and by what its parent is at the time of the start.

use crate::support::{Line, assert_ends, each_method, heed_interrupts, host, say_pid_and_wait};
use procession_process::{Builder, Process, Resource, StartMethod, Stdio};
use rustix::process::{geteuid, getpid};
use std::{collections::BTreeMap, ffi::OsString, io::Read, path::PathBuf};

each_method! {
    the_environment_is_the_parents_with_the_builders_changes,
    an_emptied_environment_holds_only_what_is_added,
    the_arguments_are_those_of_the_parent,
    a_directory_can_be_given,
    a_umask_can_be_given,
    limits_hold_in_the_child_only,
    niceness_is_added,
    affinity_can_be_given,
    a_larger_stack_can_be_given,
    groups_and_sessions_can_be_made,
    what_cannot_be_set_up_is_told_by_join,
    hooks_run_at_the_start_of_every_child;
    alone:
    what_the_parent_has_changed_since_its_first_start_is_taken_over,
    an_ignored_sigint_is_taken_over_and_sigpipe_is_ignored,
    privileges_can_be_dropped,
    a_child_that_changed_its_user_dies_with_its_parent,
}

fn builder(method: StartMethod) -> Builder {
    Process::builder().start_method(method)
}

fn environment() -> BTreeMap<OsString, OsString> {
    std::env::vars_os().collect()
}

fn the_environment_is_the_parents_with_the_builders_changes(method: StartMethod) {
    let own = environment();
    let child = builder(method).spawn(|()| environment(), ()).unwrap();
    assert_eq!(child.join().unwrap(), own);
    let removed = own.keys().next().unwrap().clone();
    let changed = builder(method).env("PROCESSION_A", "1").env("PROCESSION_B", "=\n").env_remove(&removed);
    let found = changed.spawn(|()| environment(), ()).unwrap().join().unwrap();
    let mut expected = own;
    expected.remove(&removed);
    expected.insert("PROCESSION_A".into(), "1".into());
    expected.insert("PROCESSION_B".into(), "=\n".into());
    assert_eq!(found, expected);
}

fn an_emptied_environment_holds_only_what_is_added(method: StartMethod) {
    let child =
        builder(method).env("LOST", "").env_clear().env("KEPT", "x").spawn(|()| environment(), ()).unwrap();
    assert_eq!(child.join().unwrap(), [("KEPT".into(), "x".into())].into());
}

fn the_arguments_are_those_of_the_parent(method: StartMethod) {
    let arguments = |()| std::env::args_os().collect::<Vec<_>>();
    let own: Vec<_> = std::env::args_os().collect();
    assert_eq!(builder(method).spawn(arguments, ()).unwrap().join().unwrap(), own);
    fn nested(method: StartMethod) -> Vec<OsString> {
        builder(method).spawn(|()| std::env::args_os().collect(), ()).unwrap().join().unwrap()
    }
    assert_eq!(builder(method).spawn(nested, method).unwrap().join().unwrap(), own);
}

fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("Umask:")).unwrap();
    u32::from_str_radix(mask.trim(), 8).unwrap()
}

type Place = (PathBuf, u32, Option<OsString>);

fn place(_: ()) -> Place {
    (std::env::current_dir().unwrap(), umask(), std::env::var_os("PROCESSION_TEST"))
}

fn what_the_parent_has_changed_since_its_first_start_is_taken_over(method: StartMethod) {
    let own = place(());
    assert_eq!(builder(method).spawn(place, ()).unwrap().join().unwrap(), own);
    std::env::set_current_dir("/usr").unwrap();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o037));
    // SAFETY: this process has one thread.
    unsafe { std::env::set_var("PROCESSION_TEST", "changed") };
    let changed = (PathBuf::from("/usr"), 0o037, Some("changed".into()));
    assert_eq!(builder(method).spawn(place, ()).unwrap().join().unwrap(), changed);
    // SAFETY: as above.
    unsafe { std::env::remove_var("PROCESSION_TEST") };
    let removed = (PathBuf::from("/usr"), 0o037, None);
    assert_eq!(builder(method).spawn(place, ()).unwrap().join().unwrap(), removed);
    // The builder's word comes first, and changes nothing here.
    let told = builder(method).current_dir("/etc").umask(0o070).env("PROCESSION_TEST", "told");
    assert_eq!(told.spawn(place, ()).unwrap().join().unwrap(), ("/etc".into(), 0o070, Some("told".into())));
    assert_eq!(place(()), removed);
}

fn a_directory_can_be_given(method: StartMethod) {
    let child = builder(method).current_dir("/usr/..").spawn(place, ()).unwrap();
    assert_eq!(child.join().unwrap().0, PathBuf::from("/"));
}

fn a_umask_can_be_given(method: StartMethod) {
    assert_eq!(builder(method).umask(0o123).spawn(place, ()).unwrap().join().unwrap().1, 0o123);
}

fn limits_hold_in_the_child_only(method: StartMethod) {
    let limits = |()| {
        [rustix::process::Resource::Nofile, rustix::process::Resource::Core].map(|resource| {
            let limit = rustix::process::getrlimit(resource);
            (limit.current, limit.maximum)
        })
    };
    let own = limits(());
    let child =
        builder(method).limit(Resource::OpenFiles, 33).limit(Resource::Core, 0).spawn(limits, ()).unwrap();
    assert_eq!(child.join().unwrap(), [(Some(33), Some(33)), (Some(0), Some(0))]);
    assert_eq!(limits(()), own);
    // A limit that ends the process: its end is told as what it is.
    let spin = |()| -> () {
        loop {
            std::hint::spin_loop();
        }
    };
    let child = builder(method).limit(Resource::Core, 0).limit(Resource::Cpu, 1).spawn(spin, ()).unwrap();
    assert!(matches!(child.join().unwrap_err().signal(), Some(libc::SIGXCPU | libc::SIGKILL)));
}

fn niceness_is_added(method: StartMethod) {
    let own = rustix::process::nice(0).unwrap();
    let child = builder(method).nice(3).spawn(|()| rustix::process::nice(0).unwrap(), ()).unwrap();
    assert_eq!(child.join().unwrap(), (own + 3).min(19));
}

fn affinity_can_be_given(method: StartMethod) {
    let allowed = |()| {
        let set = rustix::thread::sched_getaffinity(None).unwrap();
        (0..rustix::thread::CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect::<Vec<_>>()
    };
    let own = allowed(());
    for &cpu in own.iter().take(2) {
        assert_eq!(builder(method).affinity([cpu]).spawn(allowed, ()).unwrap().join().unwrap(), [cpu]);
    }
    assert_eq!(builder(method).spawn(allowed, ()).unwrap().join().unwrap(), own);
}

fn deep(levels: u32) -> u32 {
    // About 1 KiB a level.
    let space = std::hint::black_box([levels; 256]);
    if levels == 0 { space[1] } else { deep(levels - 1) + (space[2] - levels) + 1 }
}

fn a_larger_stack_can_be_given(method: StartMethod) {
    let levels = 64 * 1024;
    let child = builder(method).stack_size(512 << 20).name("tall").spawn(deep, levels).unwrap();
    assert_eq!(child.join().unwrap(), levels);
    let child =
        builder(method).stack_size(1 << 20).name("tall").stderr(Stdio::Piped).limit(Resource::Core, 0);
    let child = child.spawn(deep, levels).unwrap();
    let mut told = String::new();
    child.take_stderr().unwrap().read_to_string(&mut told).unwrap();
    assert_eq!(child.join().unwrap_err().signal(), Some(libc::SIGSEGV));
    assert_eq!(told, "process `tall` has overflowed its stack\n");
    // A panic there is a panic all the same.
    let child = builder(method)
        .stack_size(1 << 20)
        .stderr(Stdio::Null)
        .spawn(|()| -> () { panic!("in a thread") }, ());
    assert_eq!(child.unwrap().join().unwrap_err().panic().unwrap().message(), "in a thread");
}

fn groups_and_sessions_can_be_made(method: StartMethod) {
    // Not through rustix, for which a group or session of another pid namespace, told as 0, does not exist.
    let ids = |()| {
        // SAFETY: takes and gives a number.
        let group = unsafe { libc::getpgid(0) };
        // SAFETY: as above.
        let session = unsafe { libc::getsid(0) };
        [getpid().as_raw_nonzero().get(), group, session]
    };
    let [_, group, session] = ids(());
    let plain = builder(method).spawn(ids, ()).unwrap().join().unwrap();
    assert_eq!(plain[1..], [group, session]);
    let [pid, own_group, same_session] =
        builder(method).process_group().spawn(ids, ()).unwrap().join().unwrap();
    assert_eq!([own_group, same_session], [pid, session]);
    let [pid, own_group, own_session] = builder(method).new_session().spawn(ids, ()).unwrap().join().unwrap();
    assert_eq!([own_group, own_session], [pid, pid]);
}

fn what_cannot_be_set_up_is_told_by_join(method: StartMethod) {
    let failure = |builder: Builder| {
        let child = builder.name("wrong").spawn(|()| (), ()).unwrap();
        let error = child.join().unwrap_err();
        assert!(matches!(error, procession_process::JoinError::NotStarted { .. }), "{error}");
        assert_eq!(child.exit_status().unwrap().code(), Some(127));
        error.to_string()
    };
    let text = failure(builder(method).affinity([1023]));
    assert!(
        text.starts_with("failed to start process `wrong`: failed to run on processors [1023]: "),
        "{text}"
    );
    if geteuid().is_root() {
        return;
    }
    let text = failure(builder(method).uid(0));
    assert!(text.starts_with("failed to start process `wrong`: failed to become user 0: "), "{text}");
}

fn an_ignored_sigint_is_taken_over_and_sigpipe_is_ignored(method: StartMethod) {
    fn disposition(signal: i32) -> usize {
        // SAFETY: zero is a value of the record.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: asks only.
        assert_eq!(unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) }, 0);
        action.sa_sigaction
    }
    let both = |()| [libc::SIGINT, libc::SIGPIPE].map(disposition);
    let [default, ignored] = [libc::SIG_DFL, libc::SIG_IGN];
    heed_interrupts();
    assert_eq!(builder(method).spawn(both, ()).unwrap().join().unwrap(), [default, ignored]);
    // SAFETY: a disposition without a handler.
    unsafe { libc::signal(libc::SIGINT, libc::SIG_IGN) };
    assert_eq!(builder(method).spawn(both, ()).unwrap().join().unwrap(), [ignored, ignored]);
}

fn identity(_: ()) -> ([u32; 3], [u32; 3], Vec<u32>) {
    let (mut users, mut groups) = ([0; 3], [0; 3]);
    let [a, b, c] = &mut users;
    // SAFETY: three places.
    assert_eq!(unsafe { libc::getresuid(a, b, c) }, 0);
    let [a, b, c] = &mut groups;
    // SAFETY: as above.
    assert_eq!(unsafe { libc::getresgid(a, b, c) }, 0);
    let mut more =
        rustix::process::getgroups().unwrap().into_iter().map(|group| group.as_raw()).collect::<Vec<_>>();
    more.sort_unstable();
    (users, groups, more)
}

/// Whether this test can change users; says so if not.
fn is_root() -> bool {
    let root = geteuid().is_root();
    if !root {
        println!("skipped: only root can become another user");
    }
    root
}

const USER: u32 = 54_000;

fn privileges_can_be_dropped(method: StartMethod) {
    if !is_root() {
        return;
    }
    let of = |builder: Builder| builder.spawn(identity, ()).unwrap().join().unwrap();
    assert_eq!(of(builder(method).uid(USER)).0, [USER; 3]);
    assert_eq!(of(builder(method).gid(USER + 1).uid(USER)), ([USER; 3], [USER + 1; 3], vec![USER + 1]));
    let with_groups = builder(method).groups([7, 8]).gid(USER + 1).uid(USER);
    assert_eq!(of(with_groups), ([USER; 3], [USER + 1; 3], vec![7, 8]));
    // Gone for good: its own child cannot have them back.
    let nested = |()| {
        let child =
            Process::builder().start_method(StartMethod::Fork).name("climber").uid(0).spawn(|()| (), ());
        child.unwrap().join().unwrap_err().to_string()
    };
    let text = builder(method).uid(USER).spawn(nested, ()).unwrap().join().unwrap();
    let expected =
        "failed to start process `climber`: failed to become user 0: Operation not permitted (os error 1)";
    assert_eq!(text, expected);
    assert_eq!(identity(()).0, [0; 3]);
}

fn a_child_that_changed_its_user_dies_with_its_parent(method: StartMethod) {
    if !is_root() {
        return;
    }
    fn parent((line, method): (Line, StartMethod)) {
        let _child = builder(method).uid(USER).gid(USER).spawn(say_pid_and_wait, line.again()).unwrap();
        line.try_hear();
    }
    let (here, there) = Line::pair();
    let process = builder(method).spawn(parent, (there, method)).unwrap();
    let child = here.hear_process();
    process.kill().unwrap();
    assert_ends("a child of another user", child);
}

static STARTED: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);

fn at_start() {
    STARTED.store(std::process::id(), std::sync::atomic::Ordering::Relaxed);
}

procession_process::on_child_start!(at_start);

fn hooks_run_at_the_start_of_every_child(method: StartMethod) {
    let started = |()| (STARTED.load(std::sync::atomic::Ordering::Relaxed), std::process::id());
    let (hook, pid) = builder(method).spawn(started, ()).unwrap().join().unwrap();
    assert_eq!(hook, pid);
}

#[test]
fn a_blocked_signal_of_the_parent_is_not_blocked_in_its_child() {
    let _watchdog = procession_testkit::watchdog!();
    host(
        |()| {
            // SAFETY: a set of signals is a record of numbers.
            let mut all: libc::sigset_t = unsafe { std::mem::zeroed() };
            // SAFETY: fills the record.
            unsafe { libc::sigfillset(&raw mut all) };
            // SAFETY: blocks what can be blocked.
            unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut()) };
            for method in [StartMethod::Spawn, StartMethod::ForkServer] {
                let (here, there) = Line::pair();
                let process = builder(method).spawn(say_pid_and_wait, there).unwrap();
                here.hear();
                process.terminate().unwrap();
                assert_eq!(process.join().unwrap_err().signal(), Some(libc::SIGTERM), "{method}");
            }
        },
        (),
    );
}
