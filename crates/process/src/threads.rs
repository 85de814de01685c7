//! Threads that must finish before their process ends.

use procession_sys::{OverFork, hooks};
use std::{sync::Once, thread::JoinHandle};

static THREADS: OverFork<Vec<JoinHandle<()>>> = OverFork::new(Vec::new());

/// A forked child has none of its parent's threads.
pub(crate) fn prepare() {
    static PREPARED: Once = Once::new();
    PREPARED.call_once(|| {
        hooks::around_fork(hooks::ForkHooks {
            before: Some(|| THREADS.hold()),
            in_parent: Some(|| THREADS.release()),
            in_child: Some(|| THREADS.reset(|threads| std::mem::forget(std::mem::take(threads)))),
        });
    });
}

/// Makes a child process wait for this thread before it ends.
///
/// Rust ends all other threads when a process ends; Python waits for those that are not daemonic. The wait has no
/// bound: the parent's `join` waits with it. In a process that was not started by this library the thread is joined
/// by an exit hook.
pub fn join_at_exit(thread: JoinHandle<()>) {
    prepare();
    THREADS.lock().push(thread);
    if crate::parent_process().is_none() {
        hooks::at_exit(i32::MAX, join_all);
    }
}

/// Joins what was registered, and what that registers meanwhile.
pub(crate) fn join_all() {
    loop {
        let next = THREADS.lock().pop();
        // A panic of the thread was told by the panic hook.
        let Some(thread) = next else { return };
        let _ = thread.join();
    }
}
