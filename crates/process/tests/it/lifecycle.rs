//! A process from its start to its end, under each start method.

use crate::support::{BOUND, Line, assert_ends, census, each_method, heed_interrupts, say_pid_and_wait};
use procession_process::{
    ExitStatus, Process, Run, StartMethod, active_children, cpu_count, current_process, parent_process,
};
use serde::{Deserialize, Serialize, Serializer};
use std::{
    os::fd::AsFd,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

each_method! {
    arguments_of_any_size_arrive_whole,
    a_process_runs_a_function_and_gives_its_value,
    arguments_arrive_unchanged,
    a_daemon_flag_is_inherited_unless_it_is_set,
    a_child_knows_its_parent,
    an_orphan_sees_its_parent_die,
    the_main_thread_of_a_child_is_another_one,
    terminate_ends_a_process_by_sigterm,
    kill_ends_a_process_by_sigkill,
    interrupt_ends_a_process_by_sigint,
    recursion_reports_in_depth_first_order,
    the_sentinel_is_readable_only_after_the_end,
    close_is_refused_while_the_process_runs,
    the_argument_is_dropped_in_the_parent,
    a_type_can_be_a_job,
    a_child_counts_its_own_processors;
    alone:
    active_children_are_those_between_start_and_join,
    names_follow_pythons_scheme,
    many_processes_start_and_end,
}

fn a_process_runs_a_function_and_gives_its_value(method: StartMethod) {
    let (here, there) = Line::pair();
    let body = |(line, text): (Line, String)| {
        line.expect("go on");
        let me = current_process();
        (text, me.name().to_owned(), me.pid(), me.daemon(), me.start_method())
    };
    let builder = Process::builder().start_method(method).name("worker");
    let process = builder.spawn(body, (there, "text".to_owned())).unwrap();
    assert!(process.is_alive());
    assert_eq!(process.exit_status(), None);
    assert_eq!(process.name(), "worker");
    assert!(!process.daemon());
    assert_ne!(process.pid(), std::process::id());
    assert!(format!("{process:?}").contains("started"), "{process:?}");
    here.say("go on");
    let value = process.join().unwrap();
    assert_eq!(value, ("text".to_owned(), "worker".to_owned(), process.pid(), false, Some(method)));
    assert!(!process.is_alive());
    assert_eq!(process.exit_status(), Some(ExitStatus::Code(0)));
    // As often as one likes.
    assert_eq!(process.join().unwrap(), value);
    assert_eq!(process.try_join().unwrap(), Some(value));
    assert!(format!("{process:?}").contains("stopped, exit status 0"), "{process:?}");
}

fn arguments_arrive_unchanged(method: StartMethod) {
    type Arguments =
        (i64, f64, String, Option<Vec<u8>>, std::collections::BTreeMap<String, [u16; 2]>, char, ());
    let map = [("a".to_owned(), [1, 2]), (String::new(), [u16::MAX, 0])].into();
    let arguments: Arguments = (i64::MIN, -0.5, "ü\0\n".to_owned(), Some(vec![0, 255]), map, '…', ());
    let process =
        Process::builder().start_method(method).spawn(|given: Arguments| given, arguments.clone()).unwrap();
    assert_eq!(process.join().unwrap(), arguments);
}

fn arguments_of_any_size_arrive_whole(method: StartMethod) {
    // With its length before it, the largest that travels together with the job has 4,096 bytes.
    for length in (4090..=4098).chain([0, 1, 70_000]) {
        let bytes: Vec<u8> = (0..length).map(|n| n as u8).collect();
        let echo = |bytes: Vec<u8>| bytes;
        let process = Process::builder().start_method(method).spawn(echo, bytes.clone()).unwrap();
        assert!(process.join().unwrap() == bytes, "{length} bytes");
    }
}

#[test]
fn the_main_process_knows_itself() {
    let me = current_process();
    assert_eq!((me.name(), me.pid(), me.daemon()), ("MainProcess", std::process::id(), false));
    assert_eq!(me.path(), [0; 0]);
    assert_eq!(me.start_method(), None);
    assert!(parent_process().is_none());
}

fn a_daemon_flag_is_inherited_unless_it_is_set(method: StartMethod) {
    fn flags(method: StartMethod) -> [bool; 4] {
        let child = |daemon: Option<bool>| {
            let mut builder = Process::builder().start_method(method);
            if let Some(daemon) = daemon {
                builder = builder.daemon(daemon);
            }
            builder.spawn(|()| current_process().daemon(), ()).unwrap().join().unwrap()
        };
        [current_process().daemon(), child(None), child(Some(true)), child(Some(false))]
    }
    let of = |daemon| {
        let process = Process::builder().start_method(method).daemon(daemon).spawn(flags, method).unwrap();
        assert_eq!(process.daemon(), daemon);
        process.join().unwrap()
    };
    assert_eq!(of(false), [false, false, true, false]);
    // A daemonic process may have children, unlike Python's.
    assert_eq!(of(true), [true, true, true, false]);
}

fn a_child_knows_its_parent(method: StartMethod) {
    let body = |()| {
        let parent = parent_process().unwrap();
        let real = rustix::process::getppid().unwrap().as_raw_nonzero().get();
        (parent.pid(), parent.name().to_owned(), parent.is_alive(), real.cast_unsigned())
    };
    let process = Process::builder().start_method(method).spawn(body, ()).unwrap();
    let (pid, name, alive, real) = process.join().unwrap();
    assert_eq!((pid, real, alive), (std::process::id(), std::process::id(), true));
    assert_eq!(name, current_process().name());
}

fn an_orphan_sees_its_parent_die(method: StartMethod) {
    fn orphan(line: Line) {
        let parent = parent_process().unwrap();
        line.say(parent.is_alive());
        line.say(parent.join_timeout(Duration::ZERO).unwrap());
        line.say(parent.join_timeout(BOUND).unwrap());
        line.say(parent.is_alive());
    }
    fn parent((line, method): (Line, StartMethod)) {
        let builder = Process::builder().start_method(method).outlive_parent();
        builder.spawn(orphan, line).unwrap().join().unwrap();
    }
    let (here, there) = Line::pair();
    let process = Process::builder().start_method(method).spawn(parent, (there, method)).unwrap();
    here.expect("true");
    here.expect("false");
    // A younger sibling must not make the parent seem alive.
    let (_held, line) = Line::pair();
    let sibling = Process::builder().start_method(method).spawn(say_pid_and_wait, line).unwrap();
    process.terminate().unwrap();
    assert_eq!(process.join().unwrap_err().signal(), Some(libc::SIGTERM));
    here.expect("true");
    here.expect("false");
    assert!(sibling.is_alive());
}

fn the_main_thread_of_a_child_is_another_one(method: StartMethod) {
    let body = |()| {
        // A clone that glibc does not know of must not keep the old thread's id.
        let cached = std::fs::read_link("/proc/thread-self").unwrap();
        (rustix::thread::gettid().as_raw_nonzero().get(), cached.to_string_lossy().into_owned())
    };
    let process = Process::builder().start_method(method).spawn(body, ()).unwrap();
    let (thread, link) = process.join().unwrap();
    assert_eq!(thread.cast_unsigned(), process.pid());
    assert_eq!(link, format!("{thread}/task/{thread}"));
}

fn ended_by(method: StartMethod, signal: i32, send: fn(&Process<()>) -> procession_process::Result<()>) {
    heed_interrupts();
    let (here, there) = Line::pair();
    let process = Process::builder().start_method(method).spawn(say_pid_and_wait, there).unwrap();
    assert_eq!(here.hear_number::<u32>(), process.pid());
    assert!(process.try_join().unwrap().is_none());
    assert!(process.join_timeout(Duration::ZERO).unwrap().is_none());
    let start = Instant::now();
    assert!(process.join_timeout(Duration::from_millis(5)).unwrap().is_none());
    assert!(start.elapsed() >= Duration::from_millis(5));
    send(&process).unwrap();
    let error = process.join().unwrap_err();
    assert_eq!(error.signal(), Some(signal), "{error}");
    assert_eq!(error.leftover::<()>(), None);
    let status = process.exit_status().unwrap();
    assert_eq!((status.signal(), status.exitcode()), (Some(signal), Some(-signal)));
    assert_eq!(process.join().unwrap_err().signal(), Some(signal));
    // To one that has ended nothing happens.
    send(&process).unwrap();
}

fn terminate_ends_a_process_by_sigterm(method: StartMethod) {
    ended_by(method, libc::SIGTERM, Process::terminate);
}

fn kill_ends_a_process_by_sigkill(method: StartMethod) {
    ended_by(method, libc::SIGKILL, Process::kill);
}

fn interrupt_ends_a_process_by_sigint(method: StartMethod) {
    ended_by(method, libc::SIGINT, Process::interrupt);
}

fn active_children_are_those_between_start_and_join(method: StartMethod) {
    assert!(active_children().is_empty());
    let start = |line| Process::builder().start_method(method).spawn(say_pid_and_wait, line).unwrap();
    let ((one, there_one), (two, there_two)) = (Line::pair(), Line::pair());
    let (first, second) = (start(there_one), start(there_two));
    let pids = || active_children().iter().map(procession_process::Child::pid).collect::<Vec<_>>();
    assert_eq!(pids(), [first.pid(), second.pid()]);
    assert_eq!(active_children()[0].name(), first.name());
    one.say("end");
    first.join().unwrap();
    assert_eq!(pids(), [second.pid()]);
    // Looking reaps what has ended.
    two.say("end");
    assert_ends("the second child", &second);
    assert!(active_children().is_empty());
    assert_eq!(second.exit_status(), Some(ExitStatus::Code(0)));
}

fn recursion_reports_in_depth_first_order(method: StartMethod) {
    fn visit((line, path, method): (Line, Vec<u8>, StartMethod)) {
        line.say(format!("{path:?}"));
        if path.len() < 2 {
            for step in 0..2 {
                let deeper = path.iter().copied().chain([step]).collect();
                let child =
                    Process::builder().start_method(method).spawn(visit, (line.again(), deeper, method));
                child.unwrap().join().unwrap();
            }
        }
    }
    let (here, there) = Line::pair();
    Process::builder().start_method(method).spawn(visit, (there, vec![], method)).unwrap().join().unwrap();
    for path in ["[]", "[0]", "[0, 0]", "[0, 1]", "[1]", "[1, 0]", "[1, 1]"] {
        here.expect(path);
    }
}

fn the_sentinel_is_readable_only_after_the_end(method: StartMethod) {
    let (here, there) = Line::pair();
    let process = Process::builder().start_method(method).spawn(say_pid_and_wait, there).unwrap();
    here.hear();
    assert!(!procession_testkit::wait::ended(process.sentinel(), Duration::ZERO).unwrap());
    here.say("end");
    assert_ends("the process", process.sentinel());
    assert_ends("the process", process.as_fd());
    process.join().unwrap();
    assert_ends("the joined process", process.sentinel());
}

fn close_is_refused_while_the_process_runs(method: StartMethod) {
    let (here, there) = Line::pair();
    let process = Process::builder().start_method(method).spawn(say_pid_and_wait, there).unwrap();
    let error = process.close().unwrap_err();
    assert!(error.to_string().contains("still running"), "{error}");
    let process = error.into_process();
    here.say("end");
    process.join().unwrap();
    process.close().unwrap();
}

fn many_processes_start_and_end(method: StartMethod) {
    let count = if method == StartMethod::Spawn { 10 } else { 100 };
    let census = census();
    let started: Vec<_> = (0..count)
        .map(|n: u32| (n, Process::builder().start_method(method).spawn(|n: u32| n * 2, n).unwrap()))
        .collect();
    for (n, process) in &started {
        assert_eq!(process.join().unwrap(), n * 2);
    }
    drop(started);
    let waiting: Vec<_> = (0..count)
        .map(|_| {
            let (here, there) = Line::pair();
            (here, Process::builder().start_method(method).spawn(say_pid_and_wait, there).unwrap())
        })
        .collect();
    for (_, process) in &waiting {
        process.terminate().unwrap();
    }
    for (_, process) in &waiting {
        assert_eq!(process.join().unwrap_err().signal(), Some(libc::SIGTERM));
    }
    drop(waiting);
    if method == StartMethod::ForkServer {
        // What the server itself holds here: socket, pidfd, lifeline, page.
        assert!(procession_process::fork_server_pid().is_some());
    } else {
        census.assert_settles(BOUND);
    }
}

static DROPPED: AtomicU32 = AtomicU32::new(0);

#[derive(Deserialize)]
struct Watched(u32);

impl Serialize for Watched {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_newtype_struct("Watched", &self.0)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        DROPPED.fetch_add(1, Ordering::Relaxed);
    }
}

fn the_argument_is_dropped_in_the_parent(method: StartMethod) {
    let (here, there) = Line::pair();
    let body = |(watched, line): (Watched, Line)| {
        say_pid_and_wait(line);
        watched.0
    };
    let before = DROPPED.load(Ordering::Relaxed);
    let process = Process::builder().start_method(method).spawn(body, (Watched(7), there)).unwrap();
    here.hear();
    assert!(process.is_alive());
    // Others may be dropped at the same time, in tests of the other methods.
    assert!(DROPPED.load(Ordering::Relaxed) > before);
    here.say("end");
    assert_eq!(process.join().unwrap(), 7);
}

#[derive(Serialize, Deserialize)]
struct Greeter<'a> {
    greeting: std::borrow::Cow<'a, str>,
    line: Line,
}

impl Run for Greeter<'static> {
    type Output = (String, usize);

    fn run(self) -> (String, usize) {
        let name = self.line.hear();
        self.line.say(format!("{}, {name}", self.greeting));
        (current_process().name().to_owned(), name.len())
    }
}

fn a_type_can_be_a_job(method: StartMethod) {
    let (here, line) = Line::pair();
    let process =
        Process::builder().start_method(method).run(Greeter { greeting: "hello".into(), line }).unwrap();
    here.say("world");
    here.expect("hello, world");
    let (name, length) = process.join().unwrap();
    assert!(name.starts_with("Greeter-"), "{name}");
    assert_eq!((name.as_str(), length), (process.name(), 5));
}

fn names_follow_pythons_scheme(method: StartMethod) {
    fn names((method, depth): (StartMethod, u32)) -> Vec<String> {
        let mut all = vec![current_process().name().to_owned()];
        if depth > 0 {
            let start = || Process::builder().start_method(method).spawn(names, (method, depth - 1)).unwrap();
            let (first, second) = (start(), start());
            all.extend(first.join().unwrap());
            all.extend(second.join().unwrap());
        }
        all
    }
    let path = current_process().path().iter().map(u32::to_string).collect::<Vec<_>>().join(":");
    let expected = ["1", "1:1", "1:2"].map(|number| format!("Process-{path}:{number}"));
    let first = Process::builder().start_method(method).spawn(names, (method, 1)).unwrap();
    assert_eq!(first.join().unwrap(), expected);
    let named = Process::builder().class("Worker").start_method(method).spawn(names, (method, 0)).unwrap();
    assert_eq!(named.join().unwrap(), [format!("Worker-{path}:2")]);
}

fn a_child_counts_its_own_processors(method: StartMethod) {
    assert!(cpu_count() >= 1);
    let builder = || Process::builder().start_method(method);
    assert_eq!(builder().spawn(|()| cpu_count(), ()).unwrap().join().unwrap(), cpu_count());
    let allowed = rustix::thread::sched_getaffinity(None).unwrap();
    let one = (0..rustix::thread::CpuSet::MAX_CPU).find(|&cpu| allowed.is_set(cpu)).unwrap();
    assert_eq!(builder().affinity([one]).spawn(|()| cpu_count(), ()).unwrap().join().unwrap(), 1);
}
