//! What `join` says of each kind of end.

use crate::support::{Line, each_method, host, say_pid_and_wait};
use procession_parcel::{Bytes, Fd};
use procession_process::{ExitStatus, JoinError, Process, StartMethod, Stdio, at_exit};
use procession_testkit::{wait::eventually, watchdog};
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    fs::File,
    io::{Read, Seek, Write},
};

each_method! {
    a_panic_arrives_with_message_and_location,
    a_panic_that_is_no_text_still_arrives,
    an_exit_before_the_return_is_its_code,
    a_signal_before_the_return_is_its_number,
    a_kill_after_the_return_brings_the_value_along,
    a_bad_exit_after_the_return_brings_the_value_along,
    an_error_value_arrives_as_it_is,
    an_error_that_cannot_travel_arrives_with_its_sources,
    borrowed_arguments_arrive_owned,
    big_arguments_and_results_do_not_wait_for_each_other,
    descriptors_travel_both_ways,
    a_result_that_cannot_be_encoded_is_told,
    an_argument_that_cannot_be_decoded_is_told,
    a_stack_overflow_is_a_signal,
}

fn quiet(method: StartMethod) -> procession_process::Builder {
    Process::builder().start_method(method).stderr(Stdio::Null)
}

fn a_panic_arrives_with_message_and_location(method: StartMethod) {
    let line = line!() + 1;
    let body = |n: u32| -> u32 { panic!("cannot do {n}") };
    let process = quiet(method).name("faulty").spawn(body, 3).unwrap();
    let error = process.join().unwrap_err();
    let panic = error.panic().unwrap();
    assert_eq!(panic.message(), "cannot do 3");
    let location = panic.location().unwrap();
    assert!(location.contains(&format!("join.rs:{line}:")), "{location}");
    let text = error.to_string();
    assert!(text.starts_with("process `faulty` panicked at "), "{text}");
    assert!(text.contains("cannot do 3"), "{text}");
    assert_eq!(process.exit_status(), Some(ExitStatus::Code(101)));
    let resumed =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| error.resume_unwind())).unwrap_err();
    let text =
        resumed.downcast_ref::<String>().map(String::as_str).or(resumed.downcast_ref::<&str>().copied());
    let told = resumed.downcast_ref::<procession_process::Panic>().map(procession_process::Panic::message);
    assert!(text.or(told).is_some_and(|text| text.contains("cannot do 3")));
}

fn a_panic_that_is_no_text_still_arrives(method: StartMethod) {
    let process = quiet(method).spawn(|()| -> () { std::panic::panic_any(7_u8) }, ()).unwrap();
    let error = process.join().unwrap_err();
    assert!(error.panic().is_some(), "{error}");
}

fn an_exit_before_the_return_is_its_code(method: StartMethod) {
    // Python's table, where `sys.exit` takes any object, as far as an exit status goes.
    for (asked, given) in [(0, 0), (1, 1), (8, 8), (255, 255), (256, 0), (-1, 255), (300, 44)] {
        let process =
            quiet(method).name("leaver").spawn(|code: i32| -> u8 { std::process::exit(code) }, asked);
        let process = process.unwrap();
        let error = process.join().unwrap_err();
        assert_eq!(error.code(), Some(given), "{error}");
        assert_eq!(error.leftover::<u8>(), None);
        let text = format!(
            "process `leaver` (pid {}) exited with status {given} before its function had returned",
            process.pid()
        );
        assert_eq!(error.to_string(), text);
        assert_eq!(process.exit_status().unwrap().exitcode(), Some(given));
    }
}

fn a_signal_before_the_return_is_its_number(method: StartMethod) {
    for signal in [libc::SIGKILL, libc::SIGTERM, libc::SIGABRT, libc::SIGSEGV, libc::SIGUSR1] {
        let body = |signal: i32| {
            let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
            rustix::process::setrlimit(rustix::process::Resource::Core, none).unwrap();
            // SAFETY: a number. A handler that is left runs nothing but what is safe in one.
            unsafe { libc::raise(signal) };
        };
        let process = quiet(method).name("victim").spawn(body, signal).unwrap();
        let error = process.join().unwrap_err();
        assert_eq!(error.signal(), Some(signal), "{error}");
        let name = procession_process::signal_name(signal);
        let text = format!("process `victim` (pid {}) was ended by signal {signal} ({name})", process.pid());
        assert_eq!(error.to_string(), text);
    }
}

fn a_kill_after_the_return_brings_the_value_along(method: StartMethod) {
    let (here, there) = Line::pair();
    let body = |line: Line| {
        at_exit(0, move || say_pid_and_wait(line));
        "whole".to_owned()
    };
    let process = quiet(method).spawn(body, there).unwrap();
    here.hear();
    assert!(process.try_join().unwrap().is_none(), "a value alone is no end");
    process.kill().unwrap();
    let error = process.join().unwrap_err();
    assert_eq!(error.signal(), Some(libc::SIGKILL));
    assert_eq!(error.leftover::<String>().as_deref(), Some("whole"));
    assert!(error.to_string().ends_with("after its function had returned"), "{error}");
}

fn a_bad_exit_after_the_return_brings_the_value_along(method: StartMethod) {
    let body = |value: u32| {
        // SAFETY: ends the process.
        at_exit(0, || unsafe { libc::_exit(9) });
        value
    };
    let error = quiet(method).spawn(body, 5).unwrap().join().unwrap_err();
    assert_eq!((error.code(), error.leftover::<u32>()), (Some(9), Some(5)));
    assert!(error.to_string().ends_with("status 9 after its function had returned"), "{error}");
}

fn an_error_value_arrives_as_it_is(method: StartMethod) {
    let divide = |(a, b): (u32, u32)| a.checked_div(b).ok_or_else(|| format!("{a} / {b}"));
    assert_eq!(quiet(method).spawn(divide, (6, 3)).unwrap().join().unwrap(), Ok(2));
    assert_eq!(quiet(method).spawn(divide, (6, 0)).unwrap().join().unwrap(), Err("6 / 0".to_owned()));
}

#[derive(Debug)]
struct Outer(std::num::ParseIntError);

impl fmt::Display for Outer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("failed to read the number")
    }
}

impl std::error::Error for Outer {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

fn an_error_that_cannot_travel_arrives_with_its_sources(method: StartMethod) {
    let read = |text: String| text.parse::<u32>().map_err(Outer);
    assert_eq!(quiet(method).spawn_fallible(read, "7".to_owned()).unwrap().join().unwrap(), 7);
    let process = quiet(method).name("reader").spawn_fallible(read, "seven".to_owned()).unwrap();
    let error = process.join().unwrap_err();
    let remote = error.remote().unwrap();
    assert_eq!(remote.message(), "failed to read the number");
    assert!(remote.type_name().ends_with("Outer"), "{}", remote.type_name());
    assert_eq!(remote.sources(), ["invalid digit found in string"]);
    assert!(error.to_string().starts_with("process `reader` failed: failed to read the number"), "{error}");
    assert_eq!(process.exit_status(), Some(ExitStatus::Code(1)));
    let boxed = |text: String| -> Result<u8, Box<dyn std::error::Error + Send + Sync>> { Err(text.into()) };
    let error = quiet(method).spawn_fallible(boxed, "in a box".to_owned()).unwrap().join().unwrap_err();
    assert_eq!(error.remote().unwrap().message(), "in a box");
}

fn borrowed_arguments_arrive_owned(method: StartMethod) {
    let (text, bytes) = ("text".to_owned(), vec![1_u8, 2, 3]);
    let length = |text: String| text.len();
    assert_eq!(quiet(method).spawn_ref(length, text.as_str()).unwrap().join().unwrap(), 4);
    let sum = |bytes: Vec<u8>| bytes.iter().map(|&byte| u32::from(byte)).sum::<u32>();
    assert_eq!(quiet(method).spawn_ref(sum, &bytes[1..]).unwrap().join().unwrap(), 5);
    let both = |(text, bytes, n): (String, Vec<u8>, u64)| (text.len() + bytes.len()) as u64 * n;
    assert_eq!(quiet(method).spawn_refs(both, (&text, &bytes[..], 2_u64)).unwrap().join().unwrap(), 14);
}

/// Each byte says where it is, so that a piece that is missing or repeated shows.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|place| (place % 251) as u8).collect()
}

fn big_arguments_and_results_do_not_wait_for_each_other(method: StartMethod) {
    const BIG: usize = 64 << 20;
    let body = |Bytes(mut bytes): Bytes| {
        bytes.reverse();
        Bytes(bytes)
    };
    let mut expected = pattern(BIG);
    let process = quiet(method).spawn(body, Bytes(expected.clone())).unwrap();
    // Nobody reads meanwhile, and the child ends all the same.
    crate::support::assert_ends("a child with a big result", &process);
    let Bytes(found) = process.join().unwrap();
    expected.reverse();
    assert!(found == expected, "{} bytes arrived changed", found.len());
    // A size on either side of where bodies leave the socket for a memfd.
    for size in [0, 1, 32 * 1024 - 64, 32 * 1024, 32 * 1024 + 1, 1 << 20] {
        let process = quiet(method).spawn(body, Bytes(pattern(size))).unwrap();
        assert_eq!(process.join().unwrap().0.len(), size);
    }
}

fn descriptors_travel_both_ways(method: StartMethod) {
    let body = |files: Vec<Fd>| {
        for (number, file) in files.into_iter().enumerate() {
            write!(File::from(std::os::fd::OwnedFd::from(file)), "file {number}").unwrap();
        }
        (0..300).map(memfd).collect::<Vec<_>>()
    };
    fn memfd(number: u32) -> Fd {
        let file = rustix::fs::memfd_create("travels", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let mut file = File::from(file);
        write!(file, "result {number}").unwrap();
        file.into()
    }
    let given: Vec<_> = (0..300).map(memfd).collect();
    let copies: Vec<_> = given.iter().map(|fd| File::from(fd.0.try_clone().unwrap())).collect();
    let process = quiet(method).spawn(body, given).unwrap();
    let results = process.join().unwrap();
    assert_eq!(results.len(), 300);
    for (number, result) in results.into_iter().enumerate() {
        assert_eq!(contents(File::from(std::os::fd::OwnedFd::from(result))), format!("result {number}"));
    }
    for (number, copy) in copies.into_iter().enumerate() {
        // Written behind what was there: an open file description is shared, its position too.
        assert_eq!(contents(copy), format!("result {number}file {number}"));
    }
}

fn contents(mut file: File) -> String {
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    text
}

/// Refuses to be encoded in the process, or decoded, as its number says.
#[derive(Debug)]
struct Stubborn(u8);

impl Serialize for Stubborn {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0 == 1 {
            Err(serde::ser::Error::custom("will not leave"))
        } else {
            serializer.serialize_u8(self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Stubborn {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Stubborn, D::Error> {
        match u8::deserialize(deserializer)? {
            2 => Err(serde::de::Error::custom("will not arrive")),
            number => Ok(Stubborn(number)),
        }
    }
}

fn a_result_that_cannot_be_encoded_is_told(method: StartMethod) {
    // Not even started with an argument of that kind.
    let error = quiet(method).spawn(|_: Stubborn| (), Stubborn(1)).unwrap_err();
    assert!(error.to_string().starts_with("failed to encode the arguments of a process: "), "{error}");
    let error = quiet(method).name("bad").spawn(|()| Stubborn(1), ()).unwrap().join().unwrap_err();
    assert!(matches!(error, JoinError::Codec { .. }), "{error}");
    assert!(error.to_string().starts_with("process `bad`: failed to encode its result: "), "{error}");
}

fn an_argument_that_cannot_be_decoded_is_told(method: StartMethod) {
    let error = quiet(method).name("bad").spawn(|_: Stubborn| (), Stubborn(2)).unwrap().join().unwrap_err();
    assert!(error.to_string().starts_with("process `bad`: failed to decode its arguments: "), "{error}");
    let error = quiet(method).name("bad").spawn(|()| Stubborn(2), ()).unwrap().join().unwrap_err();
    assert!(error.to_string().starts_with("process `bad`: failed to decode its result: "), "{error}");
}

fn deep(n: u64) -> u64 {
    let space = std::hint::black_box([n; 512]);
    if n == u64::MAX { 0 } else { deep(n + 1) + space[3] }
}

fn a_stack_overflow_is_a_signal(method: StartMethod) {
    let builder = Process::builder().start_method(method).name("deep");
    let process =
        builder.limit(procession_process::Resource::Core, 0).stderr(Stdio::Piped).spawn(deep, 1).unwrap();
    let mut told = String::new();
    process.take_stderr().unwrap().read_to_string(&mut told).unwrap();
    let error = process.join().unwrap_err();
    assert_eq!(error.signal(), Some(libc::SIGSEGV), "{error}");
    assert_eq!(told, "process `deep` has overflowed its stack\n");
}

#[test]
fn threads_that_join_poll_and_kill_at_once_agree() {
    let _watchdog = watchdog!();
    for method in [StartMethod::Spawn, StartMethod::ForkServer] {
        for round in 0..20 {
            let (here, there) = Line::pair();
            let process = quiet(method).spawn(say_pid_and_wait, there).unwrap();
            here.hear();
            std::thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| assert_eq!(process.join().unwrap_err().signal(), Some(libc::SIGKILL)));
                    scope.spawn(|| while process.is_alive() {});
                    scope.spawn(|| {
                        eventually("an exit status", crate::support::BOUND, || {
                            process.exit_status().is_some()
                        });
                        assert_eq!(process.exit_status().unwrap().signal(), Some(libc::SIGKILL));
                    });
                    scope.spawn(|| process.kill().unwrap());
                }
            });
            assert_eq!(process.wait().unwrap().signal(), Some(libc::SIGKILL), "round {round}");
        }
    }
}

#[test]
fn a_value_is_decoded_anew_for_each_who_joins() {
    let _watchdog = watchdog!();
    let process = Process::spawn(|n: usize| vec![n; n], 1000).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(process.join().unwrap(), vec![1000; 1000]));
        }
    });
}

#[test]
fn the_text_of_a_panic_reaches_stderr_before_the_end() {
    let _watchdog = watchdog!();
    for method in [StartMethod::Spawn, StartMethod::ForkServer] {
        let builder = Process::builder().start_method(method).name("loud").stderr(Stdio::Piped);
        let process = builder.spawn(|()| -> () { panic!("heard") }, ()).unwrap();
        let mut told = String::new();
        process.take_stderr().unwrap().read_to_string(&mut told).unwrap();
        assert!(told.starts_with("process `loud` panicked at "), "{told}");
        assert!(told.contains("heard"), "{told}");
        assert_eq!(told.lines().count(), 1, "{told}");
        process.join().unwrap_err();
    }
    // Where nobody listens, the panic is what it was.
    host(
        |()| {
            let (reader, writer) = std::io::pipe().unwrap();
            drop(reader);
            let writer = std::os::fd::OwnedFd::from(writer);
            let process =
                Process::builder().stderr(writer).spawn(|()| -> () { panic!("unheard") }, ()).unwrap();
            assert_eq!(process.join().unwrap_err().panic().unwrap().message(), "unheard");
        },
        (),
    );
}
