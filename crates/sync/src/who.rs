//! Which thread of which process: the identity that a lock's holder leaves in it.

use procession_sys::hooks::{ForkHooks, around_fork};
use std::{cell::Cell, fmt, sync::Once};

/// The thread that holds a lock.
///
/// The numbers are those of its own pid namespace. They are for people and for messages: a pid can be used again, so no
/// decision here rests on them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Holder {
    /// The process.
    pub pid: u32,
    /// The thread; the first thread of a process has the process's number.
    pub tid: u32,
}

impl Holder {
    /// The calling thread.
    #[must_use]
    pub fn current() -> Holder {
        // The calling thread is never nobody.
        Holder::from_word(me()).unwrap_or(Holder { pid: 0, tid: 0 })
    }

    /// Whether it is a thread of this process.
    #[must_use]
    pub fn is_here(self) -> bool {
        self.pid == Holder::current().pid
    }

    pub(crate) fn from_word(word: u64) -> Option<Holder> {
        (word != 0).then_some(Holder { pid: (word >> 32) as u32, tid: word as u32 })
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {}, thread {}", self.pid, self.tid)
    }
}

thread_local! {
    static ME: Cell<u64> = const { Cell::new(0) };
}

/// The calling thread as a word: the process's number in the upper half, the thread's in the lower. Never 0.
#[inline]
pub(crate) fn me() -> u64 {
    let word = ME.get();
    if word != 0 { word } else { ask() }
}

#[cold]
fn ask() -> u64 {
    static ONCE: Once = Once::new();
    // A forked child is another process, in which only the thread that forked goes on.
    ONCE.call_once(|| {
        let in_child = || {
            ME.set(0);
            crate::robust::forget_held();
        };
        around_fork(ForkHooks { in_child: Some(in_child), ..ForkHooks::default() });
    });
    let pid = rustix::process::getpid().as_raw_nonzero().get() as u32;
    let tid = rustix::thread::gettid().as_raw_nonzero().get() as u32;
    let word = u64::from(pid) << 32 | u64::from(tid);
    ME.set(word);
    word
}
