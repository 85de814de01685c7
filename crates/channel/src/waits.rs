//! The waits of this process for an object in shared memory, by an event fd.
//!
//! # Protocol
//!
//! Such an object has no descriptor that says anything; a wait gives it one, an event fd. From the wait's beginning on the word
//! on which others sleep for the object is watched ([`procession_sys::waker`]), and its change signals the event fd. Whoever finds
//! the event fd readable and the object not ready makes it silent, watches anew, and looks once more.
//!
//! # Invariants
//!
//! 1. While anybody waits, what comes after the last look changes the word that is watched, or has been seen.
//! 2. The waits of a process share the event fd: who silences it watches anew before it looks, so the next change signals for
//!    all; and what it sees then it signals itself.
//! 3. The watch holds no wake back from other sleepers: ended, it passes on what it was given, where that matters.
//!
//! # When a process dies
//!
//! Whoever was to change the word and died before that: found at the end of a slice.
//!
//! # In a forked child
//!
//! The event fd and the watch are the parent's, and so are the waits under way, whose threads do not exist there; one of them may
//! have had the lock. So a child begins anew, beside what it inherited: it makes an event fd of its own with its first wait. Its
//! copy of the parent's stays open, and silent, as long as the object's handle lives.

use procession_sys::{
    OverFork,
    hooks::{ForkHooks, around_fork},
    waker::Watch,
};
use rustix::event::{EventfdFlags, eventfd};
use std::{
    fmt, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard, Once, OnceLock, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    task::{Wake, Waker},
};

/// How often this process is a forked child of one that waited.
static FORKS: AtomicU32 = AtomicU32::new(0);
/// Held while a forked child begins anew, so that no fork comes in the middle of that.
static BEGINNING: OverFork<()> = OverFork::new(());

fn watch_forks() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        around_fork(ForkHooks {
            before: Some(|| BEGINNING.hold()),
            in_parent: Some(|| BEGINNING.release()),
            in_child: Some(|| {
                FORKS.fetch_add(1, Ordering::Relaxed);
                BEGINNING.reset(|()| ());
            }),
        });
    });
}

/// An event fd as a waker.
struct Signal(OwnedFd);

impl Signal {
    fn silence(&self) {
        // It does not block: there is nothing to read where another wait was quicker.
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // It fails only where it is signalled many times over already.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }
}

/// The waits of this process for one object.
pub(crate) struct Waits(Own);

/// The waits of one process: this one, or one that it was forked from, directly or not.
#[derive(Default)]
struct Own {
    forks: u32,
    signal: OnceLock<Arc<Signal>>,
    under_way: Mutex<UnderWay>,
    /// Those of a forked child of this process.
    child: OnceLock<Box<Own>>,
}

impl Own {
    fn now() -> Own {
        Own { forks: FORKS.load(Ordering::Relaxed), ..Own::default() }
    }

    fn under_way(&self) -> MutexGuard<'_, UnderWay> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Waits {
    fn default() -> Waits {
        Waits(Own::now())
    }
}

#[derive(Default)]
struct UnderWay {
    count: usize,
    watch: Option<Watch>,
}

impl UnderWay {
    /// `watch` says at the object that somebody sleeps, and watches from there on.
    fn watch(&mut self, signal: &Arc<Signal>, watch: impl FnOnce(&Waker) -> Watch) {
        if let Some(ended) = self.watch.take() {
            ended.end();
        }
        self.watch = Some(watch(&Waker::from(signal.clone())));
    }
}

impl Waits {
    /// Those of this process.
    fn own(&self) -> &Own {
        let forks = FORKS.load(Ordering::Relaxed);
        let mut own = &self.0;
        while own.forks != forks {
            own = match own.child.get() {
                Some(child) => child,
                None => {
                    let _beginning = BEGINNING.lock();
                    own.child.get_or_init(|| Box::new(Own::now()))
                }
            };
        }
        own
    }

    /// A wait begins.
    pub(crate) fn prepare(&self, watch: impl FnOnce(&Waker) -> Watch) -> io::Result<BorrowedFd<'_>> {
        watch_forks();
        let own = self.own();
        let mut under_way = own.under_way();
        if own.signal.get().is_none() {
            let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            // Under the lock: nobody else sets it.
            let _ = own.signal.set(Arc::new(Signal(fd)));
        }
        let signal = own.signal.get().ok_or_else(|| io::Error::other("the event fd is gone"))?;
        under_way.count += 1;
        if under_way.count == 1 {
            signal.silence();
            under_way.watch(signal, watch);
        }
        Ok(signal.0.as_fd())
    }

    /// The event fd was readable, and the object is not ready: look again after this.
    pub(crate) fn again(&self, watch: impl FnOnce(&Waker) -> Watch) {
        let own = self.own();
        if let Some(signal) = own.signal.get() {
            let mut under_way = own.under_way();
            signal.silence();
            under_way.watch(signal, watch);
        }
    }

    /// It came after the silence and perhaps before the watch: the other waits of this process are to see it too.
    pub(crate) fn signal(&self) {
        if let Some(signal) = self.own().signal.get() {
            signal.wake_by_ref();
        }
    }

    /// A wait ends.
    pub(crate) fn finish(&self) {
        let mut under_way = self.own().under_way();
        under_way.count = under_way.count.saturating_sub(1);
        if under_way.count == 0 {
            let ended = under_way.watch.take();
            drop(under_way);
            // A wake that it was given goes on to the next.
            drop(ended);
        }
    }
}

impl fmt::Debug for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waits").field("count", &self.own().under_way().count).finish_non_exhaustive()
    }
}
