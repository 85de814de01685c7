//! Logging across the tree. Each test has a process of its own, since the global subscriber is set once.

use procession_process::{Process, StartMethod, Stdio, current_process, log, on_child_start};
use procession_testkit::{isolated, watchdog};
use std::{
    io::{BufRead, BufReader, Read, Write},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tracing::{
    Event, Level, Subscriber, debug, error,
    field::{Field, Visit},
    info,
    level_filters::LevelFilter,
    trace, warn,
};
use tracing_subscriber::{
    EnvFilter, Layer,
    layer::{Context, SubscriberExt},
    util::SubscriberInitExt,
};

const METHODS: [StartMethod; 2] = [StartMethod::Spawn, StartMethod::ForkServer];
const LONG: Duration = Duration::from_secs(30);

/// What a subscriber saw of one record.
#[derive(Clone, Debug, Default, PartialEq)]
struct Seen {
    level: String,
    target: String,
    file: String,
    line: u32,
    message: String,
    fields: String,
    process: String,
    pid: u64,
}

impl Visit for Seen {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "pid" {
            self.pid = value;
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            "fields" => self.fields = format!("{value:?}"),
            "process" => self.process = format!("{value:?}"),
            _ => {}
        }
    }
}

/// Keeps every record.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Vec<Seen>>>);

impl Recorder {
    fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl<S: Subscriber> Layer<S> for Recorder {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let metadata = event.metadata();
        let mut seen = Seen {
            level: metadata.level().to_string(),
            target: metadata.target().to_owned(),
            file: metadata.file().unwrap_or_default().to_owned(),
            line: metadata.line().unwrap_or_default(),
            ..Seen::default()
        };
        event.record(&mut seen);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(seen);
    }
}

fn taken_over((): ()) -> String {
    log::filter()
}

#[test]
fn children_take_over_the_filter_that_was_set() {
    isolated!({
        let _watchdog = watchdog!();
        for method in METHODS {
            for filter in ["debug", "warn,net::tcp=trace"] {
                log::set_filter(filter).unwrap();
                let child = Process::builder().start_method(method).spawn(taken_over, ()).unwrap();
                assert_eq!(child.join().unwrap(), filter, "{method}");
            }
        }
        assert!(log::set_filter("a=b=c").unwrap_err().to_string().contains("`a=b=c`"));
        assert_eq!(log::filter(), "warn,net::tcp=trace");
    });
}

#[test]
fn children_take_over_the_level_of_the_subscriber_where_no_filter_was_set() {
    isolated!({
        let _watchdog = watchdog!();
        let child =
            |method| Process::builder().start_method(method).env_remove("RUST_LOG").spawn(taken_over, ());
        // SAFETY: no other thread of this process reads the environment now.
        unsafe { std::env::remove_var("RUST_LOG") };
        assert_eq!(log::filter(), "off");
        tracing_subscriber::registry().with(Recorder::default()).with(LevelFilter::INFO).init();
        for method in METHODS {
            assert_eq!(child(method).unwrap().join().unwrap(), "info", "{method}");
        }
        // SAFETY: as above; the fork server is asked by this thread only.
        unsafe { std::env::set_var("RUST_LOG", "error,x=debug") };
        for method in METHODS {
            assert_eq!(child(method).unwrap().join().unwrap(), "error,x=debug", "{method}");
        }
    });
}

fn speak((): ()) -> u32 {
    trace!("too fine");
    debug!("too fine as well");
    let line = line!() + 1;
    info!(count = 3, name = "x", "hello");
    error!("goodbye");
    line
}

#[test]
fn log_to_stderr_writes_a_line_with_level_process_target_and_place() {
    isolated!({
        let _watchdog = watchdog!();
        log::log_to_stderr(Level::INFO);
        for method in METHODS {
            let child = Process::builder()
                .name("speaker")
                .start_method(method)
                .stderr(Stdio::Piped)
                .spawn(speak, ())
                .unwrap();
            let mut text = String::new();
            child.take_stderr().unwrap().read_to_string(&mut text).unwrap();
            let line = child.join().unwrap();
            let (target, file) = (module_path!(), file!());
            let expected = format!(
                "[INFO/speaker] hello count=3 name=\"x\" ({target}, {file}:{line})\n\
                 [ERROR/speaker] goodbye ({target}, {file}:{})\n",
                line + 1
            );
            assert_eq!(text, expected, "{method}");
        }
    });
}

#[test]
fn a_later_call_changes_the_level_of_this_process_too() {
    isolated!({
        let _watchdog = watchdog!();
        log::log_to_stderr(Level::WARN);
        assert!(!tracing::enabled!(Level::INFO));
        log::log_to_stderr(Level::DEBUG);
        assert!(tracing::enabled!(Level::DEBUG));
        log::set_filter("log=trace").unwrap();
        assert!(tracing::enabled!(target: "log", Level::TRACE));
        assert!(!tracing::enabled!(target: "other", Level::ERROR));
        assert_eq!(log::filter(), "log=trace");
    });
}

fn speak_in_two(method: StartMethod) -> (u32, u32, u32) {
    let line = speak(());
    let child = Process::builder().name("grandchild").start_method(method).spawn(speak, ()).unwrap();
    let pid = child.pid();
    child.join().unwrap();
    (line, std::process::id(), pid)
}

#[test]
fn forwarded_records_of_all_descendants_reach_the_subscriber_as_they_were() {
    isolated!({
        let _watchdog = watchdog!();
        let recorder = Recorder::default();
        tracing_subscriber::registry().with(recorder.clone()).with(EnvFilter::new("info")).init();
        log::set_filter("info").unwrap();
        log::forward_to_parent(true).unwrap();
        // The children have one thread, so they may fork.
        let methods =
            [(METHODS[0], StartMethod::Fork), (METHODS[1], StartMethod::Fork), (METHODS[0], METHODS[1])];
        for (method, below) in methods {
            let child =
                Process::builder().name("child").start_method(method).spawn(speak_in_two, below).unwrap();
            let (line, pid, grandchild) = child.join().unwrap();
            assert!(log::flush(LONG));
            let seen = recorder.take();
            let expect = |process: &str, pid: u32, level: &str, line, message: &str, fields: &str| Seen {
                level: level.to_owned(),
                target: module_path!().to_owned(),
                file: file!().to_owned(),
                line,
                message: message.to_owned(),
                fields: fields.to_owned(),
                process: process.to_owned(),
                pid: u64::from(pid),
            };
            assert_eq!(
                seen,
                [
                    expect("child", pid, "INFO", line, "hello", "count=3 name=\"x\""),
                    expect("child", pid, "ERROR", line + 1, "goodbye", ""),
                    expect("grandchild", grandchild, "INFO", line, "hello", "count=3 name=\"x\""),
                    expect("grandchild", grandchild, "ERROR", line + 1, "goodbye", ""),
                ],
                "{method}"
            );
        }
        log::forward_to_parent(false).unwrap();
        Process::spawn(speak, ()).unwrap().join().unwrap();
        assert!(log::flush(LONG));
        assert_eq!(recorder.take(), []);
    });
}

#[test]
fn the_filter_of_the_parent_applies_to_the_targets_of_forwarded_records() {
    isolated!({
        let _watchdog = watchdog!();
        let recorder = Recorder::default();
        tracing_subscriber::registry().with(recorder.clone()).with(EnvFilter::new("off,wanted=warn")).init();
        log::set_filter("trace").unwrap();
        log::forward_to_parent(true).unwrap();
        let child = Process::spawn(
            |()| {
                warn!(target: "wanted", "yes");
                info!(target: "wanted", "too fine");
                error!(target: "unwanted", "no");
            },
            (),
        );
        child.unwrap().join().unwrap();
        assert!(log::flush(LONG));
        let messages: Vec<_> = recorder.take().into_iter().map(|seen| seen.message).collect();
        assert_eq!(messages, ["yes"]);
    });
}

static OWN: Mutex<Option<Recorder>> = Mutex::new(None);

/// The hook of a user who knows better, in the children of one name.
fn own_subscriber() {
    if current_process().name() == "own" {
        let recorder = Recorder::default();
        *OWN.lock().unwrap() = Some(recorder.clone());
        tracing_subscriber::registry().with(recorder).with(EnvFilter::new(log::filter())).init();
    }
}

on_child_start!(own_subscriber);

#[test]
fn a_subscriber_of_a_child_hook_stays_and_learns_the_filter() {
    isolated!({
        let _watchdog = watchdog!();
        log::log_to_stderr(Level::INFO);
        log::forward_to_parent(true).unwrap();
        for method in METHODS {
            let child = Process::builder().name("own").start_method(method).spawn(
                |()| {
                    speak(());
                    OWN.lock().unwrap().as_ref().map(|own| own.take().len())
                },
                (),
            );
            assert_eq!(child.unwrap().join().unwrap(), Some(2), "{method}");
        }
    });
}

/// A recorder that can be held up.
#[derive(Clone, Default)]
struct Slow(Recorder, Arc<Mutex<()>>);

impl<S: Subscriber> Layer<S> for Slow {
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        drop(self.1.lock());
        self.0.on_event(event, context);
    }
}

#[test]
fn a_full_socket_never_blocks_a_child_and_the_lost_records_are_counted() {
    const MANY: usize = 20_000;
    isolated!({
        let _watchdog = watchdog!();
        let slow = Slow::default();
        tracing_subscriber::registry().with(slow.clone()).init();
        log::set_filter("info").unwrap();
        log::forward_to_parent(true).unwrap();
        let held = slow.1.lock().unwrap();
        let child = Process::builder().stdin(Stdio::Piped).stdout(Stdio::Piped).spawn(
            |()| {
                for n in 0..MANY {
                    info!(n, "many");
                }
                println!("done");
                std::io::stdin().read_line(&mut String::new()).unwrap();
                info!("last");
            },
            (),
        );
        let child = child.unwrap();
        let mut line = String::new();
        BufReader::new(child.take_stdout().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "done\n");
        assert!(!log::flush(Duration::ZERO));
        drop(held);
        assert!(log::flush(LONG));
        child.take_stdin().unwrap().write_all(b"go on\n").unwrap();
        child.join().unwrap();
        assert!(log::flush(LONG));
        let seen = slow.0.take();
        let dropped: usize =
            seen.iter().filter_map(|seen| seen.fields.strip_prefix("dropped=")?.parse::<usize>().ok()).sum();
        let arrived = seen.iter().filter(|seen| seen.message == "many").count();
        assert!(dropped > 0);
        assert_eq!(arrived + dropped, MANY);
        assert_eq!(seen.last().unwrap().message, "last");
    });
}

/// The descriptors of this process that are sequenced-packet sockets.
fn packet_sockets() -> Vec<i32> {
    let is_packet = |&fd: &i32| {
        let (mut kind, mut size) = (0_i32, 4_u32);
        // SAFETY: both places are valid for what is written.
        let result = unsafe {
            libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_TYPE, (&raw mut kind).cast(), &raw mut size)
        };
        result == 0 && kind == libc::SOCK_SEQPACKET
    };
    (3..256).filter(is_packet).collect()
}

#[test]
fn what_is_not_a_record_is_ignored() {
    isolated!({
        let _watchdog = watchdog!();
        let recorder = Recorder::default();
        tracing_subscriber::registry().with(recorder.clone()).init();
        log::set_filter("info").unwrap();
        log::forward_to_parent(true).unwrap();
        let child = Process::spawn(
            |()| {
                let sockets = packet_sockets();
                for length in [0, 1, 2, 9, 300, 70_000] {
                    for byte in [0_u8, 1, 0x7f, 0xff] {
                        for socket in &sockets {
                            let bytes = vec![byte; length];
                            // SAFETY: the buffer is as long as told.
                            unsafe { libc::send(*socket, bytes.as_ptr().cast(), length, libc::MSG_NOSIGNAL) };
                        }
                    }
                }
                info!("{}", "x".repeat(100_000));
                info!("whole");
                sockets.len()
            },
            (),
        );
        assert_eq!(child.unwrap().join().unwrap(), 1);
        assert!(log::flush(LONG));
        let seen = recorder.take();
        assert_eq!(seen.len(), 2, "{seen:?}");
        assert!(seen[0].message.len() < 20_000 && seen[0].message.ends_with("x…"));
        assert_eq!(seen[1].message, "whole");
    });
}

#[test]
fn records_of_a_child_that_is_killed_arrive() {
    isolated!({
        let _watchdog = watchdog!();
        let recorder = Recorder::default();
        tracing_subscriber::registry().with(recorder.clone()).init();
        log::set_filter("info").unwrap();
        log::forward_to_parent(true).unwrap();
        for method in METHODS {
            let child = Process::builder().start_method(method).spawn(
                |()| {
                    info!("last words");
                    // SAFETY: a number.
                    unsafe { libc::raise(libc::SIGKILL) };
                },
                (),
            );
            assert_eq!(child.unwrap().join().unwrap_err().signal(), Some(libc::SIGKILL));
            assert!(log::flush(LONG));
            let messages: Vec<_> = recorder.take().into_iter().map(|seen| seen.message).collect();
            assert_eq!(messages, ["last words"], "{method}");
        }
    });
}

#[test]
fn a_child_logs_on_unharmed_when_its_parent_is_dead() {
    isolated!({
        let _watchdog = watchdog!();
        let middle = Process::builder().stdout(Stdio::Piped).spawn(
            |()| {
                log::set_filter("info").unwrap();
                log::forward_to_parent(true).unwrap();
                let orphan = Process::builder().outlive_parent().stdin(Stdio::Piped).spawn(
                    |()| {
                        // Its other end closes with the parent.
                        std::io::stdin().read_to_string(&mut String::new()).unwrap();
                        for n in 0..10_000 {
                            info!(n, "into the void");
                        }
                        println!("alive");
                    },
                    (),
                );
                println!("ready");
                orphan.unwrap().wait().unwrap();
            },
            (),
        );
        let middle = middle.unwrap();
        let mut output = BufReader::new(middle.take_stdout().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        middle.kill().unwrap();
        let mut rest = String::new();
        output.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "alive\n");
    });
}
