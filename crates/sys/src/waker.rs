//! Futures that wait for futex words: one thread watches up to 127 words for them (`futex_waitv(2)`).
//!
//! A future cannot sleep on a word itself, and no event loop can poll one. So it lays down the word, the value that it has
//! seen there and its waker ([`watch`]), and a thread of ours sleeps on all such words at once. Any executor will do.
//!
//! # Protocol
//!
//! * A future reads the word, makes its presence known to those who change the word, looks at its state again, and then
//!   lays down what it read: whatever happens from the read on changes the word.
//! * The thread notes its control word, collects what was laid down, and sleeps on all of it and the control word, until the
//!   first slice of an entry is over. Whoever lays something down changes the control word after it.
//! * A word that has changed, or was woken, wakes its future; so does the end of the slice that began when it was laid down, since
//!   whoever should have changed the word may have died. A future that was woken lays itself down anew, if it still must wait.
//! * The kernel tells the last word that was woken, though several may have been, and the control word is the first. So those
//!   before it whose wakes are for one sleeper only are taken for woken: such a one might have been theirs, and their word need
//!   not have changed. They stand behind all others, so that it is seldom them.
//!
//! # Invariants
//!
//! 1. Nothing that was laid down is missed: it changes the control word after it is in the table, and the thread notes
//!    that word before it looks there.
//! 2. A wake that was meant for one of several sleepers, and reached a future that was given up before it could look, is
//!    passed on ([`Word::passes_on`]).
//! 3. Wakers run under no lock of ours.
//!
//! # When a process dies
//!
//! Its futures die with it. A process that should have changed a word and has died is noticed at the end of a slice. A
//! forked child has none of its parent's futures, and no thread for them.

use crate::{
    Deadline, OverFork, SLICE, futex,
    hooks::{ForkHooks, around_fork},
    sync::{AtomicU32, AtomicU64, Ordering},
};
use rustix::thread::futex::{Timespec, Wait, WaitFlags, WaitPtr, WaitvFlags};
use std::{
    collections::BTreeMap,
    fmt, mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, Once, PoisonError},
    task::Waker,
    time::Duration,
};

/// A word that stays where it is as long as this value lives.
pub trait Word: Send + Sync + 'static {
    /// The word.
    fn word(&self) -> &AtomicU32;

    /// Whether a wake of this word is for one sleeper only, so that it must not end with a future that was given up.
    fn passes_on(&self) -> bool {
        false
    }

    /// Called when the word was found changed, or woken, before the future is, or in its place if it was given up meanwhile: for
    /// words whose other sleepers must not depend on when this one's future looks.
    fn fired(&self) {}
}

/// How many words the kernel takes in one call, less the thread's own.
const WORDS: usize = 127;
/// How long a thread stays without a word to watch.
const LINGER: Duration = Duration::from_secs(2);
/// Where one slice is over those that have no longer than this are taken for over as well: many futures that wait for long come
/// together so, and do not wake the thread one by one.
const EARLY: Duration = Duration::from_millis(SLICE.as_millis() as u64 / 4);
/// How often the words are looked at where the kernel has no `futex_waitv` (before Linux 5.16).
const LOOK: Duration = Duration::from_millis(2);

struct Entry {
    word: Arc<dyn Word>,
    seen: u32,
    waker: Waker,
    /// The end of its slice.
    until: Deadline,
}

/// An entry as the thread sleeps on it.
struct Watched {
    id: u64,
    word: Arc<dyn Word>,
    seen: u32,
    until: Deadline,
}

impl Entry {
    fn watched(&self, id: u64) -> Watched {
        Watched { id, word: self.word.clone(), seen: self.seen, until: self.until }
    }
}

/// What one thread watches.
struct Shard {
    control: AtomicU32,
    entries: Mutex<BTreeMap<u64, Entry>>,
}

static SHARDS: OverFork<Vec<Arc<Shard>>> = OverFork::new(Vec::new());
static NEXT: AtomicU64 = AtomicU64::new(0);
/// How often this process is a forked child of one that watched words.
static FORKS: AtomicU32 = AtomicU32::new(0);

/// A word that is being watched. Dropping it ends that.
#[must_use = "the word is watched as long as this lives"]
pub struct Watch {
    /// `None` where nothing is watched, or not any more.
    shard: Option<Arc<Shard>>,
    forks: u32,
    id: u64,
    word: Arc<dyn Word>,
}

impl Watch {
    /// Ends it, by a future that looks at its state now.
    pub fn end(mut self) {
        self.take_out();
        // Nothing to pass on.
        self.shard = None;
    }

    /// Ends the watching; false if the word was found changed, or woken, before.
    fn take_out(&self) -> bool {
        // In a forked child it is its parent's, and a thread that does not exist there may have had the lock.
        let shard = self.shard.as_ref().filter(|_| self.is_ours());
        // Its waker is dropped after the lock.
        let entry = shard.and_then(|shard| shard.entries().remove(&self.id));
        entry.is_some()
    }

    fn is_ours(&self) -> bool {
        self.forks == FORKS.load(Ordering::Relaxed)
    }
}

/// Wakes `waker` once when `word` is found to hold another value than `seen`, or is woken; and after about a slice ([`SLICE`]) all
/// the same.
///
/// Without a thread to watch it (the system refuses one) the waker is woken at once: the future then looks again and
/// again, as often as its executor lets it.
pub fn watch(word: Arc<dyn Word>, seen: u32, waker: &Waker) -> Watch {
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    let forks = FORKS.load(Ordering::Relaxed);
    let until = Deadline::after(SLICE);
    let entry = Entry { word: word.clone(), seen, waker: waker.clone(), until };
    match place(id, entry) {
        Ok(shard) => {
            shard.control.fetch_add(1, Ordering::Release);
            futex::wake_one(&shard.control);
            Watch { shard: Some(shard), forks, id, word }
        }
        Err(entry) => {
            entry.waker.wake();
            Watch { shard: None, forks, id, word }
        }
    }
}

/// Puts an entry where a thread looks for it, which is started if there is none with room.
fn place(id: u64, entry: Entry) -> Result<Arc<Shard>, Entry> {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        around_fork(ForkHooks {
            before: Some(|| SHARDS.hold()),
            in_parent: Some(|| SHARDS.release()),
            // Wakers and words of the parent: dropping them could run its code.
            in_child: Some(|| {
                FORKS.fetch_add(1, Ordering::Relaxed);
                SHARDS.reset(|shards| mem::forget(mem::take(shards)));
            }),
        });
    });
    let mut shards = SHARDS.lock();
    for shard in shards.iter() {
        let mut entries = shard.entries();
        if entries.len() < WORDS {
            entries.insert(id, entry);
            return Ok(shard.clone());
        }
    }
    let shard = Arc::new(Shard { control: AtomicU32::new(0), entries: Mutex::default() });
    let its = shard.clone();
    let started = std::thread::Builder::new().name("procession: wakers".to_owned()).spawn(move || its.run());
    if started.is_err() {
        return Err(entry);
    }
    shard.entries().insert(id, entry);
    shards.push(shard.clone());
    Ok(shard)
}

impl Shard {
    fn entries(&self) -> MutexGuard<'_, BTreeMap<u64, Entry>> {
        // Nothing under this lock panics.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        loop {
            let control = self.control.load(Ordering::Acquire);
            let mut watched: Vec<Watched> =
                self.entries().iter().map(|(id, entry)| entry.watched(*id)).collect();
            watched.sort_by_key(|watched| watched.word.passes_on());
            if watched.is_empty() {
                futex::wait(&self.control, control, Some(Deadline::after(LINGER)));
                if self.retire() {
                    return;
                }
                continue;
            }
            let woken = self.sleep(control, &watched);
            let now = Deadline::now();
            let over = watched.iter().any(|watched| watched.until <= now);
            let due = if over { Deadline::after(EARLY) } else { now };
            for (index, Watched { id, word, seen, until }) in watched.iter().enumerate() {
                let fires = match woken {
                    Some(Woken::All) => true,
                    Some(Woken::Word(one)) => one == index || (index < one && word.passes_on()),
                    None => false,
                };
                if !fires && due < *until && word.word().load(Ordering::Acquire) == *seen {
                    continue;
                }
                let entry = self.entries().remove(id);
                // A waker is foreign code. Should it panic, the hook has told; the other futures are still served.
                let wake = AssertUnwindSafe(|| {
                    word.fired();
                    match entry {
                        Some(entry) => entry.waker.wake(),
                        // Given up while this thread slept on its word.
                        None if word.passes_on() => drop(futex::wake_one(word.word())),
                        None => {}
                    }
                });
                let _ = catch_unwind(wake);
            }
        }
    }

    /// Sleeps until the first slice is over; tells which word was woken, or that it is not known.
    fn sleep(&self, control: u32, watched: &[Watched]) -> Option<Woken> {
        let one = |word: &AtomicU32, seen: u32| {
            let mut wait = Wait::new();
            wait.val = seen.into();
            wait.uaddr = WaitPtr::new(core::ptr::from_ref(word).cast_mut().cast());
            // Not private: the words are shared with other processes.
            wait.flags = WaitFlags::SIZE_U32;
            wait
        };
        let mut waits = vec![one(&self.control, control)];
        waits.extend(watched.iter().map(|watched| one(watched.word.word(), watched.seen)));
        let slice = Deadline::after(SLICE);
        let until = watched.iter().map(|watched| watched.until).min().unwrap_or(slice).as_nanos();
        let until =
            Timespec { tv_sec: (until / 1_000_000_000) as i64, tv_nsec: (until % 1_000_000_000) as i64 };
        use rustix::{io::Errno, thread::futex::waitv, time::ClockId};
        match waitv(&waits, WaitvFlags::empty(), Some(&until), ClockId::Monotonic) {
            // The control word is the first, and the last one that was woken is told: no other was.
            Ok(0) => None,
            Ok(index) => Some(Woken::Word(index - 1)),
            // A slice is over, one of them has changed, or a signal came.
            Err(Errno::TIMEDOUT | Errno::AGAIN | Errno::INTR) => None,
            Err(_) => {
                futex::wait(&self.control, control, Some(Deadline::after(LOOK)));
                Some(Woken::All)
            }
        }
    }

    /// Ends the thread if there is nothing to watch still.
    fn retire(&self) -> bool {
        let mut shards = SHARDS.lock();
        if !self.entries().is_empty() {
            return false;
        }
        shards.retain(|shard| !core::ptr::eq(shard.as_ref(), self));
        true
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Woken {
    Word(usize),
    All,
}

impl Drop for Watch {
    fn drop(&mut self) {
        if self.is_ours() && self.shard.is_some() && !self.take_out() && self.word.passes_on() {
            futex::wake_one(self.word.word());
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("id", &self.id).finish_non_exhaustive()
    }
}
