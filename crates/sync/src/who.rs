//! Which thread of which process: the identity that a lock's holder leaves in it.

use procession_sys::hooks::{ForkHooks, around_fork};
use std::{
    cell::Cell,
    fmt,
    sync::{
        Once,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

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

/// What a thread knows of itself, in one place so that one address leads to all of it.
struct Me {
    /// [`me`]; 0 if it was not asked for yet.
    word: Cell<u64>,
    /// A number that no other thread of this process has or had; 0 if there is none yet.
    token: Cell<u64>,
    /// How many robust mutexes it holds.
    held: Cell<u32>,
    /// Whether it has put off wakes (`put_off.rs`).
    puts_off: Cell<bool>,
}

thread_local! {
    static ME: Me = const {
        Me { word: Cell::new(0), token: Cell::new(0), held: Cell::new(0), puts_off: Cell::new(false) }
    };
}

/// The calling thread as a word: the process's number in the upper half, the thread's in the lower. Never 0.
///
/// For people and messages: in another pid namespace another thread may have the same.
#[inline]
pub(crate) fn me() -> u64 {
    let word = ME.with(|me| me.word.get());
    if word != 0 { word } else { ask() }
}

/// A number of the calling thread that no other thread of this process has or had. Never 0.
///
/// It means nothing in another process. The one thread of a forked child keeps its number.
#[inline]
#[cfg(feature = "lock-trace")]
pub(crate) fn token() -> u64 {
    names().1
}

/// Whether that is the calling thread's token: a number that no other thread of this process has or had.
#[inline]
pub(crate) fn is_token(token: u64) -> bool {
    // One that was not asked for its token yet has 0.
    token != 0 && ME.with(|me| me.token.get()) == token
}

/// [`me`] and the token, at the price of one.
#[inline]
pub(crate) fn names() -> (u64, u64) {
    ME.with(|me| {
        if me.word.get() == 0 {
            ask();
        }
        (me.word.get(), me.token.get())
    })
}

/// How many robust mutexes the calling thread holds.
#[inline]
pub(crate) fn held() -> u32 {
    ME.with(|me| me.held.get())
}

/// Counts one robust mutex more, or one less.
#[inline]
pub(crate) fn hold(more: bool) {
    ME.with(|me| {
        let held = me.held.get();
        me.held.set(if more { held.wrapping_add(1) } else { held.saturating_sub(1) });
    });
}

/// Whether the calling thread has put off wakes.
#[inline]
pub(crate) fn puts_off() -> bool {
    ME.with(|me| me.puts_off.get())
}

pub(crate) fn set_puts_off(puts_off: bool) {
    ME.with(|me| me.puts_off.set(puts_off));
}

/// How many forks lie between this process and the first of its ancestors that asked, plus 1. 0: nobody asked yet.
static GENERATION: AtomicU32 = AtomicU32::new(0);

/// Which of its ancestors' lives this process is: what was begun in another one is not this process's to end. (Its pid does
/// not tell: in a pid namespace of its own a forked child can have its parent's.)
#[inline]
pub(crate) fn generation() -> u32 {
    match GENERATION.load(Ordering::Relaxed) {
        0 => first_generation(),
        generation => generation,
    }
}

#[cold]
fn first_generation() -> u32 {
    watch_forks();
    let _ = GENERATION.compare_exchange(0, 1, Ordering::Relaxed, Ordering::Relaxed);
    GENERATION.load(Ordering::Relaxed)
}

/// Lets forked children find out anew who they are. Called before anything here is asked for.
pub(crate) fn watch_forks() {
    static ONCE: Once = Once::new();
    // A forked child is another process, in which only the thread that forked goes on, and holds nothing.
    ONCE.call_once(|| {
        let in_child = || {
            ME.with(|me| {
                me.word.set(0);
                me.held.set(0);
            });
            GENERATION.fetch_add(1, Ordering::Relaxed);
            #[cfg(feature = "lock-trace")]
            crate::trace::forget();
        };
        around_fork(ForkHooks { in_child: Some(in_child), ..ForkHooks::default() });
    });
}

#[cold]
fn ask() -> u64 {
    watch_forks();
    let pid = rustix::process::getpid().as_raw_nonzero().get() as u32;
    let tid = rustix::thread::gettid().as_raw_nonzero().get() as u32;
    let word = u64::from(pid) << 32 | u64::from(tid);
    static NEXT: AtomicU64 = AtomicU64::new(1);
    ME.with(|me| {
        if me.token.get() == 0 {
            me.token.set(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        me.word.set(word);
    });
    word
}
