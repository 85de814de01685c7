//! What runs at the end of a process, and around `fork`.
//!
//! # Exit hooks
//!
//! Hooks run once, when the process ends by returning from `main` or by `exit`: the highest priority first, and of
//! equal ones the newest first. They belong to the process that registered them: a forked child starts with none.
//! A hook that panics is reported on stderr and does not stop the others. `_exit`, `abort` and signals skip them.
//!
//! # Fork hooks
//!
//! A library that keeps descriptors or locks must tidy up in a forked child, also when the fork was not its own.
//! [`around_fork`] registers three functions as `pthread_atfork(3)` does; the fork server, whose raw `clone` runs no
//! such handlers and which has one thread, calls [`before_fork`], [`after_fork_in_parent`] and [`after_fork_in_child`]
//! itself: all three, since what is not held before a fork is not tidied up after it.
#![expect(unsafe_code, reason = "atexit and pthread_atfork are C interfaces")]

use crate::OverFork;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        MutexGuard, Once,
        atomic::{AtomicPtr, AtomicU64, Ordering},
    },
};

/// Names a hook, to take it back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HookId(u64);

struct Hook {
    /// Twice the user's priority, so that [`at_exit_of_children`] has a place between -1 and 0.
    rank: i64,
    id: u64,
    run: Box<dyn FnOnce() + Send>,
}

static HOOKS: OverFork<Vec<Hook>> = OverFork::new(Vec::new());
static NEXT: AtomicU64 = AtomicU64::new(1);
static AT_EXIT: Once = Once::new();

fn hooks() -> MutexGuard<'static, Vec<Hook>> {
    HOOKS.lock()
}

/// Registers with the C library, which otherwise happens with the first hook. Called before there are threads, no fork can
/// come in the middle of it and leave the copy waiting for a thread that it does not have.
pub fn prepare() {
    extern "C" fn at_exit() {
        run_exit_hooks();
    }
    AT_EXIT.call_once(|| {
        around_fork(ForkHooks {
            before: Some(|| HOOKS.hold()),
            in_parent: Some(|| HOOKS.release()),
            in_child: Some(forget_hooks),
        });
        // SAFETY: the handler is a plain function that does not unwind: every hook runs under `catch_unwind`.
        unsafe { libc::atexit(at_exit) };
    });
}

fn register(rank: i64, run: Box<dyn FnOnce() + Send>) -> HookId {
    prepare();
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    hooks().push(Hook { rank, id, run });
    HookId(id)
}

/// Runs `hook` at the end of this process, in the order of `priority` (the highest first).
///
/// Children that are still running are ended and joined after the hooks of priority 0 and above, and before those
/// below 0.
pub fn at_exit(priority: i32, hook: impl FnOnce() + Send + 'static) -> HookId {
    register(i64::from(priority) * 2, Box::new(hook))
}

/// Runs `hook` between the priorities 0 and -1: the place where children are ended and joined.
pub fn at_exit_of_children(hook: impl FnOnce() + Send + 'static) -> HookId {
    register(-1, Box::new(hook))
}

/// Takes a hook back; false if it has run, or was taken back before.
pub fn cancel(hook: HookId) -> bool {
    let mut hooks = hooks();
    let before = hooks.len();
    hooks.retain(|other| other.id != hook.0);
    hooks.len() < before
}

/// Runs all hooks now, in their order. Hooks that are registered meanwhile run too; each runs once.
pub fn run_exit_hooks() {
    loop {
        let next = {
            let mut hooks = hooks();
            let best = (0..hooks.len()).max_by_key(|&index| (hooks[index].rank, hooks[index].id));
            best.map(|index| hooks.remove(index))
        };
        let Some(hook) = next else { return };
        if catch_unwind(AssertUnwindSafe(hook.run)).is_err() {
            // The panic hook has told what and where; the other hooks still run.
            eprintln!("procession: an exit hook panicked");
        }
    }
}

fn forget_hooks() {
    // The parent's hooks are the parent's. Their closures are leaked: dropping them could run the parent's code.
    HOOKS.reset(|hooks| core::mem::forget(core::mem::take(hooks)));
}

/// Three functions around a fork, each optional.
#[derive(Clone, Copy, Debug, Default)]
pub struct ForkHooks {
    /// Runs in the parent before the fork, the last registered first.
    pub before: Option<fn()>,
    /// Runs in the parent after the fork, the first registered first.
    pub in_parent: Option<fn()>,
    /// Runs in the child, the first registered first. Only what is safe in a signal handler is safe here, if the
    /// parent has threads.
    pub in_child: Option<fn()>,
}

/// How many libraries may register fork hooks.
const FORK_SLOTS: usize = 32;
static FORK_HOOKS: [AtomicPtr<ForkHooks>; FORK_SLOTS] =
    [const { AtomicPtr::new(core::ptr::null_mut()) }; FORK_SLOTS];
static AT_FORK: Once = Once::new();

/// Registers functions to run around every `fork` of this process.
///
/// They stay registered for good: a registration belongs in a `Once`.
///
/// # Panics
///
/// If more than 32 registrations are made, which means that one is repeated.
pub fn around_fork(hooks: ForkHooks) {
    extern "C" fn before() {
        before_fork();
    }
    extern "C" fn in_parent() {
        after_fork_in_parent();
    }
    extern "C" fn in_child() {
        after_fork_in_child();
    }
    let hooks = Box::into_raw(Box::new(hooks));
    let free = FORK_HOOKS.iter().any(|slot| {
        slot.compare_exchange(core::ptr::null_mut(), hooks, Ordering::AcqRel, Ordering::Acquire).is_ok()
    });
    assert!(free, "fork hooks are registered once per library, not per object");
    AT_FORK.call_once(|| {
        // SAFETY: the three are plain functions; the hooks behind them are functions that do not unwind.
        unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) };
    });
}

fn each_fork_hook() -> impl DoubleEndedIterator<Item = &'static ForkHooks> {
    FORK_HOOKS.iter().filter_map(|slot| {
        let hooks = slot.load(Ordering::Acquire);
        // SAFETY: a slot holds null, or a box that was leaked by `around_fork` and is never changed.
        unsafe { hooks.as_ref() }
    })
}

/// Runs what was registered to run before a fork.
pub fn before_fork() {
    each_fork_hook().rev().filter_map(|hooks| hooks.before).for_each(|hook| hook());
}

/// Runs what was registered to run in the parent after a fork.
pub fn after_fork_in_parent() {
    each_fork_hook().filter_map(|hooks| hooks.in_parent).for_each(|hook| hook());
}

/// Runs what was registered to run in a forked child.
pub fn after_fork_in_child() {
    each_fork_hook().filter_map(|hooks| hooks.in_child).for_each(|hook| hook());
}
