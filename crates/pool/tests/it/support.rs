//! What several tests need.

use procession_pool::Pool;
use procession_process::{Process, StartMethod};
use procession_testkit::Census;
use std::{
    fs::{File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// A pool of each kind that really runs things, with so many workers: processes, then threads.
pub(crate) fn pools(workers: usize) -> impl Iterator<Item = Pool> {
    ["processes", "threads"].into_iter().map(move |kind| {
        println!("over {kind}");
        if kind == "threads" { Pool::threads(workers) } else { Pool::new(workers) }.unwrap()
    })
}

/// A file in which processes note what they do, in one atomic append each.
pub(crate) struct Notebook {
    path: PathBuf,
}

impl Notebook {
    pub(crate) fn new() -> Notebook {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name =
            format!("procession-pool-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        File::create_new(&path).unwrap();
        Notebook { path }
    }

    pub(crate) fn path(&self) -> String {
        self.path.to_str().unwrap().to_owned()
    }

    /// Everything that was noted so far.
    pub(crate) fn read(&self) -> Vec<u64> {
        let bytes = std::fs::read(&self.path).unwrap();
        bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect()
    }

    /// Waits until `count` numbers were noted.
    pub(crate) fn wait_for(&self, count: usize) -> Vec<u64> {
        wait_until(|| self.read().len() >= count);
        self.read()
    }
}

impl Drop for Notebook {
    fn drop(&mut self) {
        std::fs::remove_file(&self.path).unwrap();
    }
}

/// Appends a number to a notebook.
pub(crate) fn note(path: impl AsRef<Path>, number: u64) {
    let mut file = OpenOptions::new().append(true).open(path).unwrap();
    file.write_all(&number.to_le_bytes()).unwrap();
}

/// Looks again and again; the watchdog bounds it.
pub(crate) fn wait_until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Keeps the processor busy.
pub(crate) fn spin(time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        std::hint::spin_loop();
    }
}

/// Ends this process by a signal, whatever its disposition.
pub(crate) fn die_by(signal: i32) -> ! {
    let pid = std::process::id().to_string();
    let number = format!("-{signal}");
    let _ = std::process::Command::new("kill").args([number, pid]).status();
    loop {
        std::thread::park();
    }
}

/// A census at a moment when nothing is under way.
pub(crate) fn settled() -> Census {
    let mut census = Census::take();
    loop {
        std::thread::sleep(Duration::from_millis(50));
        let next = Census::take();
        if census.difference(&next).is_none() {
            return next;
        }
        census = next;
    }
}

/// Makes a test of each function of the list for each start method, in modules of their names.
///
/// A process with threads is not forked, so there the function runs in a process of its own, with one thread until it
/// makes its pool: the first one. It may make one only.
macro_rules! each_method {
    ($($name:ident),* $(,)?) => {
        $crate::support::each_method!(@module forkserver ForkServer [$($name)*]);
        $crate::support::each_method!(@module spawn Spawn [$($name)*]);
        $crate::support::each_method!(@module fork Fork [$($name)*]);
    };
    (@module $module:ident $method:ident [$($name:ident)*]) => {
        mod $module {
            $(#[test]
            fn $name() {
                let _watchdog = procession_testkit::test_watchdog();
                $crate::support::under(procession_process::StartMethod::$method, super::$name);
            })*
        }
    };
}
pub(crate) use each_method;

/// Runs a body under a start method, on this thread where that is possible.
#[track_caller]
pub(crate) fn under(method: StartMethod, body: fn(StartMethod)) {
    if method != StartMethod::Fork {
        return body(method);
    }
    let host = Process::builder().name("host").start_method(StartMethod::Spawn);
    if let Err(error) = host.spawn(body, method).unwrap().join() {
        panic!("{error}");
    }
}

/// A pool whose workers start by `method`.
#[track_caller]
pub(crate) fn pool_under(method: StartMethod, workers: usize) -> Pool {
    Pool::builder().workers(workers).start_method(method).build().unwrap()
}

/// A file that does not exist until the gate is opened.
pub(crate) struct Gate {
    path: PathBuf,
}

impl Gate {
    pub(crate) fn new() -> Gate {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name =
            format!("procession-gate-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Gate { path: std::env::temp_dir().join(name) }
    }

    pub(crate) fn path(&self) -> String {
        self.path.to_str().unwrap().to_owned()
    }

    pub(crate) fn open(&self) {
        open_gate(self.path());
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Waits at a gate; at none if the path is empty.
pub(crate) fn gate(path: String) -> u64 {
    wait_until(|| path.is_empty() || Path::new(&path).exists());
    7
}

pub(crate) fn open_gate(path: String) {
    std::fs::write(path, b"").unwrap();
}
