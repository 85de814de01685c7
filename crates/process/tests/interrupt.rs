//! Ctrl-C: what a terminal sends to a whole process group, sent here to a program in a session of its own.
//!
//! The program is this test binary in a role, so its output is that of one program and its children.

use procession_process::{
    Builder, Interrupts, Process, StartMethod, Stdio, end_interrupted, handle_interrupts, interrupted,
    on_interrupt,
};
use procession_testkit::{
    isolated,
    role::{self, Role, RoleProcess},
    wait, watchdog,
};
use std::{
    io::{BufRead, BufReader},
    os::{fd::OwnedFd, unix::process::ExitStatusExt},
    sync::{Arc, Mutex},
    time::Duration,
};

use procession_sys::PidFd;

const LONG: Duration = Duration::from_secs(30);
/// Longer than a test may take.
const FOR_EVER: Duration = Duration::from_secs(3600);

/// Puts this process into a session of its own, as a terminal's program is.
fn own_session() {
    heed(libc::SIGINT);
    // SAFETY: no arguments; this process leads no group.
    assert_ne!(unsafe { libc::setsid() }, -1);
}

/// What a terminal does at Ctrl-C.
fn signal_group(leader: &RoleProcess, signal: i32) {
    let group = i32::try_from(leader.pid()).unwrap();
    // SAFETY: two numbers; the group is that of a process that is not reaped.
    assert_eq!(unsafe { libc::kill(-group, signal) }, 0);
}

/// What a script starts in the background inherits that SIGINT is ignored.
fn heed(signal: i32) {
    // SAFETY: a disposition without a handler.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

fn ignore(signal: i32) {
    // SAFETY: a disposition without a handler.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

fn sleep((): ()) {
    loop {
        std::thread::sleep(FOR_EVER);
    }
}

/// A child that sleeps, has been set up, and has said so: before, a child of the fork server ignores SIGINT.
fn sleeper(builder: Builder) -> Process<()> {
    let child = builder.stdout(Stdio::Piped).spawn(
        |()| {
            println!("ready");
            sleep(());
        },
        (),
    );
    let child = child.unwrap();
    hear(&child);
    child
}

/// The first line that a child writes.
fn hear<T>(child: &Process<T>) -> String {
    let mut line = String::new();
    BufReader::new(child.take_stdout().unwrap()).read_line(&mut line).unwrap();
    line
}

/// How a child meets its end.
const MEEK: u32 = 0;
const DEAF_TO_INTERRUPT: u32 = 1;
const DEAF: u32 = 2;

/// A child with a child, both of one kind. Tells both pids on stdout.
fn parent(kind: u32) {
    become_deaf(kind);
    let child = Process::builder().stdout(Stdio::Piped).spawn(
        |kind| {
            become_deaf(kind);
            println!("ready");
            sleep(());
        },
        kind,
    );
    let child = child.unwrap();
    hear(&child);
    println!("{} {}", std::process::id(), child.pid());
    child.join().unwrap();
}

fn become_deaf(kind: u32) {
    if kind >= DEAF_TO_INTERRUPT {
        ignore(libc::SIGINT);
    }
    if kind >= DEAF {
        ignore(libc::SIGTERM);
    }
}

/// Starts a tree of seven processes; returns the children, and all pids but this one's in a line.
fn tree() -> (Vec<Process<()>>, String) {
    let mut children = Vec::new();
    let mut pids = Vec::new();
    let kinds = [
        (MEEK, StartMethod::Spawn),
        (DEAF_TO_INTERRUPT, StartMethod::ForkServer),
        (DEAF, StartMethod::Spawn),
    ];
    for (kind, method) in kinds {
        let child = Process::builder().start_method(method).stdout(Stdio::Piped).spawn(parent, kind).unwrap();
        pids.push(hear(&child).trim().to_owned());
        children.push(child);
    }
    pids.push(procession_process::fork_server_pid().unwrap().to_string());
    (children, pids.join(" "))
}

/// The processes behind a line of pids.
fn handles(line: &str) -> Vec<(String, OwnedFd)> {
    let open = |pid: &str| (pid.to_owned(), PidFd::open(pid.parse().unwrap()).unwrap().into());
    line.split_whitespace().map(open).collect()
}

fn assert_gone(processes: &[(String, OwnedFd)]) {
    for (pid, handle) in processes {
        assert!(wait::ended(handle, LONG).unwrap(), "process {pid} lives");
    }
}

fn count(text: &str, what: &str) -> usize {
    text.matches(what).count()
}

#[test]
fn role_program() {
    let Some(mut role) = role::enter(role_program) else { return };
    own_session();
    Interrupts::new().grace(Duration::from_millis(200)).install().unwrap();
    procession_process::at_exit(0, || eprintln!("an exit hook ran"));
    let (children, pids) = tree();
    on_interrupt(|| eprintln!("told"));
    assert!(!interrupted());
    role.say(&pids);
    for child in children {
        // Fails, and must not be heard of.
        child.join().unwrap();
    }
}

#[test]
fn ctrl_c_ends_the_whole_tree_once_in_order_and_by_the_signal() {
    let _watchdog = watchdog!();
    let mut program = role::start(role_program, &[]);
    let processes = handles(&program.hear());
    assert_eq!(processes.len(), 7);
    signal_group(&program, libc::SIGINT);
    assert_eq!(program.wait().signal(), Some(libc::SIGINT), "{}", program.output());
    assert_gone(&processes);
    let output = program.output();
    assert_eq!(count(&output, "interrupted; ending"), 1, "{output}");
    assert_eq!(count(&output, "told"), 1, "{output}");
    assert_eq!(count(&output, "an exit hook ran"), 1, "{output}");
    assert_eq!(count(&output, "panicked"), 0, "{output}");
}

#[test]
fn role_unhandled() {
    let Some(mut role) = role::enter(role_unhandled) else { return };
    own_session();
    let (children, pids) = tree();
    role.say(&pids);
    for child in children {
        child.join().unwrap();
    }
}

#[test]
fn without_the_handler_ctrl_c_ends_the_tree_at_once_and_silently() {
    let _watchdog = watchdog!();
    let mut program = role::start(role_unhandled, &[]);
    let processes = handles(&program.hear());
    signal_group(&program, libc::SIGINT);
    assert_eq!(program.wait().signal(), Some(libc::SIGINT));
    assert_gone(&processes);
    let output = program.output();
    assert_eq!((count(&output, "interrupted"), count(&output, "panicked")), (0, 0), "{output}");
}

/// A role that several threads speak for.
fn shared(role: Role) -> Arc<Mutex<Role>> {
    Arc::new(Mutex::new(role))
}

#[test]
fn role_stuck() {
    let Some(role) = role::enter(role_stuck) else { return };
    own_session();
    handle_interrupts().unwrap();
    let (_children, pids) = tree();
    let role = shared(role);
    let told = role.clone();
    on_interrupt(move || {
        told.lock().unwrap().say("told");
        sleep(());
    });
    role.lock().unwrap().say(&pids);
    sleep(());
}

#[test]
fn a_second_ctrl_c_ends_a_program_that_is_stuck() {
    let _watchdog = watchdog!();
    let mut program = role::start(role_stuck, &[]);
    let processes = handles(&program.hear());
    signal_group(&program, libc::SIGINT);
    program.expect("told");
    signal_group(&program, libc::SIGINT);
    assert_eq!(program.wait().signal(), Some(libc::SIGINT));
    assert_gone(&processes);
}

#[test]
fn role_patient() {
    let Some(mut role) = role::enter(role_patient) else { return };
    own_session();
    Interrupts::new().patience(FOR_EVER).quiet().install().unwrap();
    let child = sleeper(Process::builder());
    role.say(&child.pid().to_string());
    // The child dies of the same Ctrl-C; with patience its join returns.
    let error = child.join().unwrap_err();
    let told = interrupted();
    role.say(&format!("ended by {:?}, interrupted {told}", error.signal()));
    if role.hear() == "exit" {
        std::process::exit(3);
    }
    end_interrupted();
}

#[test]
fn a_patient_program_ends_by_itself_and_by_the_signal() {
    let _watchdog = watchdog!();
    for way in ["exit", "end"] {
        let mut program = role::start(role_patient, &[]);
        let processes = handles(&program.hear());
        signal_group(&program, libc::SIGINT);
        program.expect("ended by Some(2), interrupted true");
        program.say(way);
        assert_eq!(program.wait().signal(), Some(libc::SIGINT), "{}", program.output());
        assert_gone(&processes);
        assert_eq!(count(&program.output(), "ending"), 0);
    }
}

#[test]
fn role_terminated() {
    let Some(mut role) = role::enter(role_terminated) else { return };
    own_session();
    Interrupts::new().terminate().install().unwrap();
    let child = sleeper(Process::builder().outlive_parent());
    role.say(&child.pid().to_string());
    child.join().unwrap();
}

#[test]
fn sigterm_can_be_handled_in_the_same_way() {
    let _watchdog = watchdog!();
    let mut program = role::start(role_terminated, &[]);
    // Not killed by the kernel with its parent, so it is gone only if it was stopped.
    let processes = handles(&program.hear());
    // SAFETY: two numbers; the process is not reaped.
    unsafe { libc::kill(i32::try_from(program.pid()).unwrap(), libc::SIGTERM) };
    assert_eq!(program.wait().signal(), Some(libc::SIGTERM), "{}", program.output());
    assert_gone(&processes);
    assert_eq!(count(&program.output(), "interrupted; ending"), 1);
}

extern "C" fn foreign(_signal: i32) {}

#[test]
fn a_foreign_handler_is_refused_and_an_ignored_signal_stays_ignored() {
    isolated!({
        let _watchdog = watchdog!();
        // SAFETY: the handler does nothing.
        unsafe { libc::signal(libc::SIGTERM, foreign as *const () as usize) };
        let error = Interrupts::new().terminate().install().unwrap_err().to_string();
        assert_eq!(error, "failed to handle SIGTERM: it has a handler already");
        ignore(libc::SIGINT);
        handle_interrupts().unwrap();
        handle_interrupts().unwrap();
        // SAFETY: a signal to this process.
        unsafe { libc::raise(libc::SIGINT) };
        assert!(!interrupted());
    });
}

#[test]
fn children_do_not_take_the_handler_over() {
    isolated!({
        let _watchdog = watchdog!();
        heed(libc::SIGINT);
        handle_interrupts().unwrap();
        for method in [StartMethod::Spawn, StartMethod::ForkServer] {
            let child = sleeper(Process::builder().start_method(method));
            child.interrupt().unwrap();
            assert_eq!(child.join().unwrap_err().signal(), Some(libc::SIGINT), "{method}");
        }
    });
}
