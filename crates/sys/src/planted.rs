//! Mistakes that are planted in an algorithm, which its model must find. In any other build there are none.
//!
//! Used by the models of the library's own crates.

/// Makes `plant` and `planted` for an enumeration of mistakes: `repr(u32)`, `Copy`, the first one 1.
///
/// `plant(Some(bug))` exists under `--cfg loom` and `--cfg shuttle` alone; `planted(bug)` is a constant `false` without it.
#[macro_export]
macro_rules! plantable {
    ($bug:ty) => {
        #[cfg(any(loom, shuttle))]
        static PLANTED: ::core::sync::atomic::AtomicU32 = ::core::sync::atomic::AtomicU32::new(0);

        /// Plants a mistake, or takes it out again.
        #[cfg(any(loom, shuttle))]
        #[allow(dead_code, unreachable_pub, reason = "called by the model only")]
        pub fn plant(bug: Option<$bug>) {
            PLANTED.store(bug.map_or(0, |bug| bug as u32), ::core::sync::atomic::Ordering::SeqCst);
        }

        /// Whether this mistake is planted.
        #[cfg(any(loom, shuttle))]
        pub(crate) fn planted(bug: $bug) -> bool {
            PLANTED.load(::core::sync::atomic::Ordering::SeqCst) == bug as u32
        }

        /// Whether this mistake is planted: never outside the model.
        #[cfg(not(any(loom, shuttle)))]
        #[inline(always)]
        pub(crate) const fn planted(_: $bug) -> bool {
            false
        }
    };
}

/// Runs the calling test once more, in a process of its own, in which it does `with_the_mistake`. That must fail: by an
/// assertion, a deadlock, or an access that the model calls a race. (A deadlock ends in an abort, hence the process.)
///
/// # Panics
///
/// If it does not fail.
#[cfg(any(loom, shuttle))]
pub fn finds(bug: &dyn std::fmt::Debug, with_the_mistake: impl FnOnce()) {
    const VARIABLE: &str = "PROCESSION_PLANTED_BUG";
    if std::env::var(VARIABLE).is_ok() {
        return with_the_mistake();
    }
    let thread = std::thread::current();
    let test = thread.name().expect("the harness names threads after tests");
    let output = std::env::current_exe().and_then(|exe| {
        std::process::Command::new(exe)
            .args([test, "--exact", "--nocapture", "--test-threads=1"])
            .env(VARIABLE, "1")
            .env("RUST_BACKTRACE", "0")
            .output()
    });
    let output = output.expect("the test runs once more");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("panicked"), "the model did not find {bug:?}: {text}");
}
