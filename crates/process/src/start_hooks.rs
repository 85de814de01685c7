//! Functions that run at the start of children and of the fork server, known before `main`.

use linkme::distributed_slice;

/// What runs in every child before its function, under every start method.
#[doc(hidden)]
#[distributed_slice]
pub static CHILD: [fn()];

/// What runs in the fork server before its first fork.
#[doc(hidden)]
#[distributed_slice]
pub static PRELOAD: [fn()];

/// Runs a function in every child process before its own function, under every start method.
///
/// It is registered when the program is linked, since a child never reaches `main`. Order is not promised.
///
/// ```
/// fn quiet() {
///     // Set up what every child needs.
/// }
///
/// procession_process::on_child_start!(quiet);
/// ```
#[macro_export]
macro_rules! on_child_start {
    ($function:path) => {
        const _: () = {
            use $crate::linkme;
            #[linkme::distributed_slice($crate::start_hooks::CHILD)]
            #[linkme(crate = $crate::linkme)]
            static HOOK: fn() = $function;
        };
    };
}

/// Runs a function in the fork server before its first fork, so that every child starts with what it made: tables,
/// parsed configuration, warmed caches (Python's `set_forkserver_preload`).
///
/// It must not start threads: the server is single-threaded, which is what makes its forks safe. It cannot start
/// processes. What it seeds repeats in every child: a random generator belongs in the children
/// ([`on_child_start!`](crate::on_child_start)), since the handlers of `pthread_atfork` that others use to seed anew do not
/// run in a clone.
///
/// ```
/// use std::sync::OnceLock;
///
/// static TABLE: OnceLock<Vec<u64>> = OnceLock::new();
///
/// fn warm() {
///     TABLE.get_or_init(|| (0..1000).map(|n| n * n).collect());
/// }
///
/// procession_process::fork_server_preload!(warm);
/// ```
#[macro_export]
macro_rules! fork_server_preload {
    ($function:path) => {
        const _: () = {
            use $crate::linkme;
            #[linkme::distributed_slice($crate::start_hooks::PRELOAD)]
            #[linkme(crate = $crate::linkme)]
            static HOOK: fn() = $function;
        };
    };
}
