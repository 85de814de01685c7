//! Waiting on a 32-bit word that processes share (`futex(2)`).
//!
//! The words may lie in shared memory, so the private flag is never set: with it a wake from another process is
//! silently lost. Timeouts are absolute and monotonic. A wait may return [`Wake::Woken`] without a wake (a signal,
//! or a wake meant for another use of the same address): callers check their state and wait again.

#[cfg(not(loom))]
use crate::{Deadline, sync::AtomicU32};

/// Why a wait ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wake {
    /// Somebody woke the word, or a signal arrived.
    Woken,
    /// The word did not hold the expected value, so there was no wait.
    Changed,
    /// The deadline came first.
    TimedOut,
}

/// Sleeps while `word` holds `expected`, until it is woken or `deadline` comes.
#[cfg(not(loom))]
pub fn wait(word: &AtomicU32, expected: u32, deadline: Option<Deadline>) -> Wake {
    use rustix::{io::Errno, thread::futex};
    let until = deadline.map(|deadline| futex::Timespec {
        // 2^63 seconds are beyond any `u64` of nanoseconds.
        tv_sec: (deadline.as_nanos() / 1_000_000_000) as i64,
        tv_nsec: (deadline.as_nanos() % 1_000_000_000) as i64,
    });
    let any = core::num::NonZeroU32::MAX;
    match futex::wait_bitset(word, futex::Flags::empty(), expected, until.as_ref(), any) {
        Err(Errno::AGAIN) => Wake::Changed,
        Err(Errno::TIMEDOUT) => Wake::TimedOut,
        // EINTR, and a plain return. Other errors mean a bad address or timeout, which the types rule out.
        _ => Wake::Woken,
    }
}

/// Wakes at most one sleeper of `word`; tells whether there was one.
#[cfg(not(loom))]
pub fn wake_one(word: &AtomicU32) -> bool {
    rustix::thread::futex::wake(word, rustix::thread::futex::Flags::empty(), 1).is_ok_and(|woken| woken > 0)
}

/// Wakes at most `most` sleepers of `word`; tells how many there were.
#[cfg(not(loom))]
pub fn wake(word: &AtomicU32, most: u32) -> u32 {
    // The kernel counts in an `int`. The call fails on a bad address only.
    let most = most.min(i32::MAX as u32);
    rustix::thread::futex::wake(word, rustix::thread::futex::Flags::empty(), most).unwrap_or(0) as u32
}

/// Wakes all sleepers of `word`.
#[cfg(not(loom))]
pub fn wake_all(word: &AtomicU32) {
    // The call fails on a bad address only.
    let _ = rustix::thread::futex::wake(word, rustix::thread::futex::Flags::empty(), i32::MAX as u32);
}

#[cfg(loom)]
pub use model::{wait, wake, wake_all, wake_one};

/// The futex in the model: one condition variable per word, under one lock. Time stands still there, so a deadline
/// never comes, and a wake that is missing shows as a deadlock.
#[cfg(loom)]
mod model {
    use super::Wake;
    use crate::{
        Deadline,
        sync::{AtomicU32, Ordering},
    };
    use loom::sync::{Arc, Condvar, Mutex};
    use std::collections::HashMap;

    /// Who sleeps on a word, and how many.
    #[derive(Default)]
    struct Sleepers {
        condition: Arc<Condvar>,
        count: u32,
    }

    loom::lazy_static! {
        static ref WORDS: Mutex<HashMap<usize, Sleepers>> = Mutex::new(HashMap::new());
    }

    fn address(word: &AtomicU32) -> usize {
        core::ptr::from_ref(word).addr()
    }

    /// The model of [`super::wait`].
    pub fn wait(word: &AtomicU32, expected: u32, _deadline: Option<Deadline>) -> Wake {
        let Ok(mut words) = WORDS.lock() else { return Wake::Woken };
        if word.load(Ordering::SeqCst) != expected {
            return Wake::Changed;
        }
        let sleepers = words.entry(address(word)).or_default();
        sleepers.count += 1;
        let condition = sleepers.condition.clone();
        drop(condition.wait(words));
        Wake::Woken
    }

    /// The model of `wake`.
    pub fn wake(word: &AtomicU32, most: u32) -> u32 {
        let Ok(mut words) = WORDS.lock() else { return 0 };
        let Some(sleepers) = words.get_mut(&address(word)) else { return 0 };
        let woken = most.min(sleepers.count);
        sleepers.count -= woken;
        (0..woken).for_each(|_| sleepers.condition.notify_one());
        woken
    }

    /// The model of `wake_one`.
    pub fn wake_one(word: &AtomicU32) -> bool {
        wake(word, 1) > 0
    }

    /// The model of `wake_all`.
    pub fn wake_all(word: &AtomicU32) {
        wake(word, u32::MAX);
    }
}
