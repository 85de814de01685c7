//! What several tests need.

use procession_pool::Pool;
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
