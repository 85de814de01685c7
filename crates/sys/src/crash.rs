//! Named steps at which a test may kill the process.
//!
//! Built with `RUSTFLAGS="--cfg crash_points"`, [`crash_point!`](crate::crash_point) sends SIGKILL to its own
//! process when the environment variable [`VARIABLE`] names that point; `NAME:3` means the third time it is
//! reached. `stop NAME` sends SIGSTOP instead. In any other build the macro is empty.

/// The environment variable that names the point at which to die.
pub const VARIABLE: &str = "PROCESSION_CRASH_POINT";

/// Marks a step of a protocol. See [`crash`](mod@crate::crash).
#[macro_export]
macro_rules! crash_point {
    ($name:literal) => {
        if cfg!(crash_points) {
            $crate::crash::reached($name);
        }
    };
}

/// Kills or stops this process if the environment asks for it at the point `name`.
pub fn reached(name: &str) {
    use std::sync::atomic::{AtomicU32, Ordering};
    static REACHED: AtomicU32 = AtomicU32::new(0);
    use rustix::process::Signal;
    let Ok(wanted) = std::env::var(VARIABLE) else { return };
    let (wanted, signal) = match wanted.strip_prefix("stop ") {
        Some(wanted) => (wanted, Signal::STOP),
        None => (wanted.as_str(), Signal::KILL),
    };
    let (point, times) = match wanted.split_once(':') {
        Some((point, times)) => (point, times.parse().unwrap_or(1)),
        None => (wanted, 1),
    };
    if point == name && REACHED.fetch_add(1, Ordering::Relaxed) + 1 == times {
        let _ = rustix::process::kill_process(rustix::process::getpid(), signal);
        if signal == Signal::STOP {
            // Another thread may take the signal first: this one is not to go on before that stops all.
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
}
