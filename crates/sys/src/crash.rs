//! Named steps at which a test may kill the process.
//!
//! Built with `RUSTFLAGS="--cfg crash_points"`, [`crash_point!`](crate::crash_point) sends SIGKILL to its own
//! process when the environment variable [`VARIABLE`] names that point; `NAME:3` means the third time it is
//! reached. In any other build the macro is empty.

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

/// Kills this process if the environment asks for it at the point `name`.
pub fn reached(name: &str) {
    use std::sync::atomic::{AtomicU32, Ordering};
    static REACHED: AtomicU32 = AtomicU32::new(0);
    let Ok(wanted) = std::env::var(VARIABLE) else { return };
    let (point, times) = match wanted.split_once(':') {
        Some((point, times)) => (point, times.parse().unwrap_or(1)),
        None => (wanted.as_str(), 1),
    };
    if point == name && REACHED.fetch_add(1, Ordering::Relaxed) + 1 == times {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}
