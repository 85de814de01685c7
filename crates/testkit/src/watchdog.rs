//! A guard that turns a hang into an abort with a report.
//!
//! On expiry it prints, straight to descriptor 2 (a test harness captures only `print!`): the name and the limit,
//! every thread with its state, kernel wait channel and system call, every descendant process, and what was
//! registered with [`Watchdog::on_expiry`]. Then it kills the descendants and aborts.
//!
//! ```
//! let watchdog = procession_testkit::watchdog!();
//! watchdog.on_expiry(|| "the shared word was 0x3".to_owned());
//! ```

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::proc;

/// The default limit of a test, before scaling.
const DEFAULT: Duration = Duration::from_secs(60);

/// How long registered closures may take before the report goes on without them: they may need a lock that the
/// hang holds.
const CLOSURES: Duration = Duration::from_secs(2);

type Closures = Arc<Mutex<Vec<Box<dyn Fn() -> String + Send>>>>;

/// The limit of an ordinary test: 60 seconds, or `PROCESSION_TEST_TIMEOUT` seconds.
pub fn test_timeout() -> Duration {
    DEFAULT.mul_f64(scale())
}

/// What `PROCESSION_TEST_TIMEOUT` makes of every limit: its seconds divided by the default.
fn scale() -> f64 {
    let seconds = std::env::var("PROCESSION_TEST_TIMEOUT").ok().and_then(|text| text.parse::<f64>().ok());
    seconds.filter(|seconds| seconds.is_finite() && *seconds > 0.0).map_or(1.0, |seconds| seconds / 60.0)
}

/// `limit`, stretched or shrunk by `PROCESSION_TEST_TIMEOUT` (60 leaves it alone, 600 makes it ten times as long).
pub fn scaled(limit: Duration) -> Duration {
    limit.mul_f64(scale())
}

/// Starts a watchdog that aborts this process unless it is dropped within `limit` (see [`scaled`]).
///
/// It is a thread of its own, named `watchdog`, which ends before the drop returns.
///
/// # Panics
///
/// If the thread cannot be started.
pub fn watchdog(name: &str, limit: Duration) -> Watchdog {
    let limit = scaled(limit);
    let (disarm, disarmed) = mpsc::channel::<()>();
    let (start, started) = mpsc::channel::<()>();
    let closures = Closures::default();
    let name = name.to_owned();
    let thread = thread::Builder::new()
        .name("watchdog".to_owned())
        .spawn({
            let closures = Arc::clone(&closures);
            move || {
                drop(start);
                if disarmed.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
                    expire(&name, limit, &closures);
                }
            }
        })
        .expect("a test can start its watchdog thread");
    // It takes its name by itself, which a census that follows counts.
    let _ = started.recv();
    Watchdog { closures, disarm: Some(disarm), thread: Some(thread) }
}

/// A watchdog with [`test_timeout`], named after this thread, which the harness names after the test.
pub fn test_watchdog() -> Watchdog {
    watchdog(thread::current().name().unwrap_or("test"), DEFAULT)
}

/// A [`test_watchdog`](crate::test_watchdog), or one with a limit of its own: `watchdog!(Duration)`. Named after
/// the function it stands in.
#[macro_export]
macro_rules! watchdog {
    () => {
        $crate::watchdog!(::std::time::Duration::from_secs(60))
    };
    ($limit:expr) => {
        $crate::watchdog($crate::test_name!(), $limit)
    };
}

/// An armed watchdog: dropping it disarms it.
#[must_use = "a watchdog that is dropped at once guards nothing"]
pub struct Watchdog {
    closures: Closures,
    disarm: Option<mpsc::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Watchdog {
    /// Adds a line to the report: called on expiry, from another thread. It may block or panic, at the price of
    /// its line.
    pub fn on_expiry(&self, describe: impl Fn() -> String + Send + 'static) {
        self.closures.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(describe));
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.disarm.take());
        if let Some(thread) = self.thread.take() {
            // A watchdog that has just expired is aborting the process, which also ends this wait.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Watchdog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watchdog").finish_non_exhaustive()
    }
}

fn expire(name: &str, limit: Duration, closures: &Closures) -> ! {
    let pid = std::process::id();
    say(&format!("\nwatchdog: `{name}` (pid {pid}) did not end within {limit:?}\n"));
    say(&proc::report(pid.cast_signed()));
    let (send, lines) = mpsc::channel();
    let closures = Arc::clone(closures);
    let asked = thread::Builder::new().name("watchdog-state".to_owned()).spawn(move || {
        for describe in closures.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let _ = send.send(describe());
        }
    });
    if asked.is_ok() {
        loop {
            match lines.recv_timeout(CLOSURES) {
                Ok(line) => say(&format!("  {line}\n")),
                Err(mpsc::RecvTimeoutError::Timeout) => break say("  (no answer about the extra state)\n"),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
        }
    }
    kill_all(&proc::descendants(pid.cast_signed()));
    std::process::abort()
}

/// Writes to descriptor 2, past any capture.
pub(crate) fn say(text: &str) {
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        match rustix::io::write(io::stderr(), rest) {
            Ok(written) => rest = &rest[written..],
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

/// Kills processes in the order given.
pub(crate) fn kill_all(processes: &[proc::Stat]) {
    for pid in processes.iter().filter_map(|stat| Pid::from_raw(stat.pid)) {
        let _ = kill_process(pid, Signal::KILL);
    }
}
