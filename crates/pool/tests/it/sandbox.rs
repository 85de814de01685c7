//! What sandboxed workers cannot do, and what they can.

use procession_pool::{Pool, Sandbox, Work};
use procession_process::StartMethod;
use std::{net::TcpListener, os::unix::net::UnixStream, process::Command};

/// What became of each thing that a task tried: the error, or nothing.
type Tries = Vec<(String, Option<i32>)>;

fn try_everything(path: String) -> Tries {
    fn error<T>(result: std::io::Result<T>) -> Option<i32> {
        result.err().map(|error| error.raw_os_error().unwrap_or(-1))
    }
    let elsewhere = std::env::temp_dir().join("procession-sandbox-must-not-be-there");
    let tries = [
        ("read", error(std::fs::read(&path))),
        ("write", error(std::fs::write(elsewhere, "x"))),
        ("listen", error(TcpListener::bind("127.0.0.1:0"))),
        ("connect", error(UnixStream::connect("/nowhere"))),
        ("execute", error(Command::new("/bin/true").status())),
        ("thread", error(std::thread::Builder::new().spawn(|| ()).map(|thread| thread.join().unwrap()))),
    ];
    tries.into_iter().map(|(what, error)| (what.to_owned(), error)).collect()
}

fn of(tries: &Tries, what: &str) -> Option<i32> {
    tries.iter().find(|(name, _)| name == what).unwrap().1
}

#[test]
fn a_sandboxed_task_gets_errors_and_its_worker_goes_on_and_ends_in_order() {
    let _watchdog = procession_testkit::test_watchdog();
    for method in [StartMethod::ForkServer, StartMethod::Spawn] {
        let pool =
            Pool::builder().workers(1).start_method(method).sandbox(Sandbox::strict()).build().unwrap();
        let before = pool.worker_pids();
        let tries = pool.apply(try_everything, "/etc/passwd".to_owned()).unwrap();
        for what in ["read", "write", "listen", "connect", "execute"] {
            let error = of(&tries, what).unwrap_or(0);
            assert!([libc::EPERM, libc::EACCES].contains(&error), "{method:?} {what}: {error}");
        }
        assert_eq!(of(&tries, "thread"), None);
        // Large results and arguments, a panic, and the end of the worker need nothing that is forbidden.
        assert_eq!(pool.apply(|bytes: Vec<u8>| bytes, vec![1; 3 << 20]).unwrap().len(), 3 << 20);
        let fails: fn(()) = |()| panic!("in the sandbox");
        assert!(pool.apply(fails, ()).unwrap_err().panic().is_some());
        assert_eq!(pool.worker_pids(), before, "nobody was killed");
        pool.join();
    }
}

#[test]
fn what_is_allowed_can_be_used_and_so_can_what_was_not_forbidden() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::builder().workers(1).sandbox(Sandbox::new().read("/etc")).build().unwrap();
    let tries = pool.apply(try_everything, "/etc/passwd".to_owned()).unwrap();
    assert_eq!((of(&tries, "read"), of(&tries, "write")), (None, Some(libc::EACCES)));
    assert_eq!(of(&tries, "listen"), None);
    let folder = std::env::temp_dir().join(format!("procession-sandbox-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    let pool = Pool::builder().workers(1).sandbox(Sandbox::strict().write(&folder)).build().unwrap();
    let write: fn(String) -> bool = |path| std::fs::write(path, "x").is_ok();
    assert!(pool.apply(write, folder.join("file").to_str().unwrap().to_owned()).unwrap());
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_sandboxed_worker_can_hurt_itself_alone_and_its_death_is_told() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::builder().workers(1).sandbox(Sandbox::new()).build().unwrap();
    let kill: fn(u32) -> bool =
        |pid| Command::new("kill").args(["-CONT", &pid.to_string()]).status().unwrap().success();
    assert!(!pool.apply(kill, std::process::id()).unwrap());
    let pool = Pool::builder().workers(1).sandbox(Sandbox::strict()).build().unwrap();
    let abort: fn(()) = |()| std::process::abort();
    let error = pool.apply(abort, ()).unwrap_err();
    assert_eq!(error.death().unwrap().death.exit.signal(), Some(libc::SIGABRT), "{error}");
    assert_eq!(pool.apply(|n: u32| n, 3).unwrap(), 3, "the next one is bound and works");
}

#[test]
fn the_initialiser_is_free_and_may_start_no_threads() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::builder()
        .workers(1)
        .worker_state(|()| std::fs::read("/etc/passwd").unwrap().len(), ())
        .sandbox(Sandbox::strict())
        .build()
        .unwrap();
    let length = Work::with_state(|length: &mut usize, ()| *length);
    assert!(pool.tasks_of(length, [()]).collect().unwrap()[0] > 0);
    let threads: fn(()) = |()| drop(std::thread::spawn(std::thread::park));
    let pool =
        Pool::builder().workers(1).initializer(threads, ()).sandbox(Sandbox::strict()).build().unwrap();
    let error = pool.apply(|n: u32| n, 3).unwrap_err();
    assert!(error.to_string().contains("threads"), "{error}");
}

#[test]
fn a_path_that_is_not_there_is_an_error_of_the_builder() {
    let error = Pool::builder().sandbox(Sandbox::new().read("/nowhere/at/all")).build().unwrap_err();
    assert!(error.to_string().contains("/nowhere/at/all"), "{error}");
}
