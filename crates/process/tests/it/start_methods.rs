//! How a start method is chosen, and what the methods have in common.

use crate::support::{Line, each_method, host, say_pid_and_wait};
use procession_process::{Context, Process, StartMethod, current_process, spawn};
use procession_testkit::watchdog;

each_method! {
    a_context_starts_by_its_method_and_the_child_knows_it,
    a_child_starts_a_child_that_shares_a_line,
    two_functions_of_one_type_are_told_apart,
    generic_functions_and_closures_without_captures_run;
    alone:
    the_default_method_can_be_set_and_is_inherited,
}

fn a_context_starts_by_its_method_and_the_child_knows_it(method: StartMethod) {
    let context = Context::new(method);
    assert_eq!(context.start_method(), method);
    let child = context.spawn(|()| current_process().start_method(), ()).unwrap();
    assert_eq!(child.join().unwrap(), Some(method));
    let child = context.builder().name("built").spawn(|()| current_process().name().to_owned(), ()).unwrap();
    assert_eq!(child.join().unwrap(), "built");
}

#[test]
fn all_methods_are_listed_the_default_first() {
    assert_eq!(StartMethod::ALL[0], StartMethod::default_method());
    assert_eq!(StartMethod::ALL.map(StartMethod::name), ["forkserver", "spawn", "fork"]);
    for method in StartMethod::ALL {
        assert_eq!(method.to_string().parse::<StartMethod>().unwrap(), method);
    }
    let error = "vfork".parse::<StartMethod>().unwrap_err();
    assert_eq!(error.to_string(), "cannot find start method `vfork`: there are forkserver, spawn and fork");
}

fn the_default_method_can_be_set_and_is_inherited(method: StartMethod) {
    StartMethod::set_default(method);
    assert_eq!(StartMethod::default_method(), method);
    let child = |()| (current_process().start_method(), StartMethod::default_method());
    assert_eq!(Process::spawn(child, ()).unwrap().join().unwrap(), (Some(method), method));
    // The choice for one process does not change the default, here or there.
    let other = Process::builder().start_method(StartMethod::Spawn).spawn(child, ()).unwrap();
    assert_eq!(other.join().unwrap(), (Some(StartMethod::Spawn), method));
}

fn a_child_starts_a_child_that_shares_a_line(method: StartMethod) {
    fn child((line, method): (Line, StartMethod)) {
        let grandchild = Process::builder()
            .start_method(method)
            .spawn(|line: Line| line.say("grandchild"), line.again())
            .unwrap();
        grandchild.join().unwrap();
        line.say("child");
    }
    let (here, there) = Line::pair();
    let process = Process::builder().start_method(method).spawn(child, (there, method)).unwrap();
    here.expect("grandchild");
    here.expect("child");
    process.join().unwrap();
}

#[test]
fn methods_mix_in_one_tree() {
    let _watchdog = watchdog!();
    fn child((line, mut methods): (Line, Vec<StartMethod>)) {
        line.say(current_process().start_method().unwrap());
        if let Some(method) = methods.pop() {
            Process::builder().start_method(method).spawn(child, (line, methods)).unwrap().join().unwrap();
        }
    }
    host(
        |()| {
            for first in StartMethod::ALL {
                for second in StartMethod::ALL {
                    for third in StartMethod::ALL {
                        let (here, there) = Line::pair();
                        let process = Process::builder().start_method(first);
                        let process = process.spawn(child, (there, vec![third, second])).unwrap();
                        for method in [first, second, third] {
                            here.expect(method.name());
                        }
                        process.join().unwrap();
                    }
                }
            }
        },
        (),
    );
}

// The same code: a linker that folds identical functions makes one address of both.
fn add_one(n: u64) -> u64 {
    n + 1
}

fn increment(n: u64) -> u64 {
    n + 1
}

fn twice(n: u64) -> u64 {
    n * 2
}

fn two_functions_of_one_type_are_told_apart(method: StartMethod) {
    for (function, expected) in [(add_one as fn(u64) -> u64, 22), (increment, 22), (twice, 42)] {
        let process = Process::builder().start_method(method).spawn(function, 21).unwrap();
        assert_eq!(process.join().unwrap(), expected);
    }
}

fn generic_functions_and_closures_without_captures_run(method: StartMethod) {
    fn size<T>(times: usize) -> usize {
        size_of::<T>() * times
    }
    let builder = || Process::builder().start_method(method);
    assert_eq!(builder().spawn(size::<u64>, 2).unwrap().join().unwrap(), 16);
    assert_eq!(builder().spawn(size::<u8>, 2).unwrap().join().unwrap(), 2);
    assert_eq!(builder().spawn(|text: String| text.len(), "four".to_owned()).unwrap().join().unwrap(), 4);
}

#[test]
fn a_start_reads_like_a_call() {
    let _watchdog = watchdog!();
    mod inner {
        pub(super) fn area(width: u32, height: u32, unit: String) -> String {
            format!("{} {unit}", width * height)
        }
    }
    fn nothing() -> u8 {
        3
    }
    assert_eq!(spawn!(inner::area(3, 4, "m²".to_owned())).unwrap().join().unwrap(), "12 m²");
    assert_eq!(spawn!(nothing()).unwrap().join().unwrap(), 3);
}

#[test]
fn fork_is_refused_where_there_are_threads() {
    let _watchdog = watchdog!();
    let error = Process::builder().start_method(StartMethod::Fork).spawn(twice, 1).unwrap_err();
    assert!(error.is_threads(), "{error}");
    assert!(error.to_string().contains("use the spawn or fork server start method"), "{error}");
    // Only the calling process counts.
    host(
        |()| {
            let (stay, end) = std::sync::mpsc::channel::<()>();
            let fork = || Process::builder().start_method(StartMethod::Fork).spawn(twice, 21);
            assert_eq!(fork().unwrap().join().unwrap(), 42);
            let thread = std::thread::spawn(move || end.recv());
            let error = fork().unwrap_err();
            assert!(error.to_string().contains("this process has 2 threads"), "{error}");
            drop(stay);
            let _ = thread.join();
            // The thread's task may be there a moment longer than its end is known.
            procession_testkit::wait::eventually("a fork without threads", crate::support::BOUND, || {
                fork().is_ok()
            });
        },
        (),
    );
}

#[test]
fn an_unchecked_fork_takes_a_closure_with_captures() {
    let _watchdog = watchdog!();
    host(
        |()| {
            let numbers = vec![1, 2, 3];
            let borrowed = &numbers;
            // SAFETY: this process has one thread.
            let sum = unsafe { Process::builder().fork_unchecked(|| borrowed.iter().sum::<i32>()) }.unwrap();
            assert_eq!(sum.join().unwrap(), 6);
            let fail = || -> () { panic!("in a closure over {borrowed:?}") };
            let builder = Process::builder().stderr(procession_process::Stdio::Null);
            // SAFETY: as above.
            let error = unsafe { builder.fork_unchecked(fail) }.unwrap().join().unwrap_err();
            assert_eq!(error.panic().unwrap().message(), "in a closure over [1, 2, 3]");
        },
        (),
    );
}

/// Lives on through `left` more generations, each of which registers what a process registers.
fn generation(left: u32) -> u32 {
    procession_process::at_exit(0, || ());
    if left == 0 {
        return 0;
    }
    let method = if left.is_multiple_of(8) { StartMethod::ForkServer } else { StartMethod::Fork };
    1 + Process::builder().start_method(method).spawn(generation, left - 1).unwrap().join().unwrap()
}

#[test]
fn forks_of_forks_register_their_hooks_once() {
    let _watchdog = watchdog!();
    // More than there is room for fork hooks.
    assert_eq!(host(generation, 40), 40);
}

#[test]
fn the_executable_can_be_another_name_of_this_program() {
    let _watchdog = watchdog!();
    let directory = std::env::temp_dir().join(format!("procession-executable-{}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    let link = directory.join("other name");
    std::os::unix::fs::symlink("/proc/self/exe", &link).unwrap();
    let real = std::fs::canonicalize("/proc/self/exe").unwrap();
    for path in [link.as_os_str(), real.as_os_str()] {
        let builder = Process::builder().start_method(StartMethod::Spawn).executable(path);
        assert_eq!(builder.spawn(twice, 4).unwrap().join().unwrap(), 8);
    }
    let text = real.to_str().unwrap();
    let builder = Process::builder().start_method(StartMethod::Spawn).executable(text);
    assert_eq!(builder.spawn(twice, 5).unwrap().join().unwrap(), 10);
    std::fs::remove_dir_all(directory).unwrap();

    let missing =
        Process::builder().name("lost").start_method(StartMethod::Spawn).executable("/nowhere/at all");
    let error = missing.spawn(twice, 4).unwrap_err();
    let message =
        "failed to start process `lost` from `/nowhere/at all`: No such file or directory (os error 2)";
    assert_eq!(error.to_string(), message);
}

#[test]
fn an_executable_that_is_another_program_gives_no_value() {
    let _watchdog = watchdog!();
    let (_here, there) = Line::pair();
    let builder = Process::builder().start_method(StartMethod::Spawn).executable("/bin/true");
    let error = builder.spawn(say_pid_and_wait, there).unwrap().join().unwrap_err();
    assert_eq!(error.code(), Some(0), "{error}");
}
