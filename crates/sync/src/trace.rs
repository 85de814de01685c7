//! Feature `lock-trace`: who holds a lock since when and from where, and deadlocks that are told instead of waited out.
//!
//! # Words
//!
//! In each lock, written by its holder before its name and meant for people: [`Trace`]; in a read-write lock one for each that
//! has it or waits (`rwlock/traced.rs`). Once in each segment, in its first
//! slot: [`Waits`], the threads that wait without a deadline for a lock in this segment.
//!
//! A thread is known by a random number here, so that threads of different pid namespaces are told apart, and one that
//! has ended is never taken for another.
//!
//! # Protocol
//!
//! A waiter writes its entry, then stores its number in it; it takes the number out when it stops waiting. Whoever has
//! waited for a slice follows the chain: who holds the lock, what does that one wait for, who holds that, through all
//! segments that are mapped here. If the chain comes back to itself, and is the same one slice later, that is a
//! deadlock: the waiter gives up with an error that tells all of the chain. Who waits with a deadline is in no chain, since
//! it will let go by itself.
//!
//! A read-write lock may have many readers. Who waits for them waits for all, so a chain is followed through each of them,
//! and one that comes back is enough.
//!
//! # When a process dies
//!
//! Its entries stay, until another waiter needs the room ([`STALE`]). They close no chain: the kernel lets go of what a
//! dead thread holds, and a chain asks that each lock in it is held by one who lives.

use crate::{
    Holder,
    arena::{self, Place, Shared, Tag},
    mutex::{LockWords, RLockWords},
    rwlock::RwLockWords,
    who,
};
use core::{
    panic::Location,
    sync::atomic::{AtomicU64, Ordering},
};
use procession_shm::Segment;
use procession_sys::{Deadline, SLICE};
use std::{
    cell::{Cell, RefCell},
    fmt,
    hash::BuildHasher,
    time::Duration,
};

/// How many threads can wait in one segment and be seen.
const ENTRIES: usize = 128;
/// An entry that was not refreshed for that long is of one who died.
const STALE: Duration = Duration::from_secs(10);
/// The longest chain that is followed.
const LONGEST: usize = 64;

thread_local! {
    static NUMBER: Cell<u64> = const { Cell::new(0) };
    /// What the last wait of this thread found, for the error that is made of it.
    static FOUND: RefCell<Vec<DeadlockStep>> = const { RefCell::new(Vec::new()) };
}

/// In a forked child: its thread is another one.
pub(crate) fn forget() {
    NUMBER.set(0);
}

fn number() -> u64 {
    if NUMBER.get() == 0 {
        who::watch_forks();
        NUMBER.set(std::hash::RandomState::new().hash_one(who::token()) | 1);
    }
    NUMBER.get()
}

/// A line of source code, as far as it fits: the end of the file's name.
#[repr(C)]
#[derive(Debug)]
struct Site {
    line: AtomicU64,
    name: [AtomicU64; 5],
}

impl Site {
    fn set(&self, location: &Location<'_>) {
        let name = location.file().as_bytes();
        let name = &name[name.len().saturating_sub(40)..];
        for (word, at) in self.name.iter().zip((0..).step_by(8)) {
            let byte = |index: usize| name.get(at + index).copied().unwrap_or(0);
            word.store(u64::from_ne_bytes(core::array::from_fn(byte)), Ordering::Relaxed);
        }
        self.line.store(location.line().into(), Ordering::Relaxed);
    }

    fn get(&self) -> String {
        let bytes: Vec<u8> =
            self.name.iter().flat_map(|word| word.load(Ordering::Relaxed).to_ne_bytes()).collect();
        let name = String::from_utf8_lossy(&bytes);
        format!("{}:{}", name.trim_end_matches('\0'), self.line.load(Ordering::Relaxed))
    }
}

/// What a lock tells of its holder.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Trace {
    thread: AtomicU64,
    since: AtomicU64,
    site: Site,
}

impl Trace {
    pub(crate) fn taken(&self, location: &Location<'_>) {
        self.site.set(location);
        self.since.store(Deadline::now().as_nanos(), Ordering::Relaxed);
        self.thread.store(number(), Ordering::Release);
    }

    /// The holder's number.
    pub(crate) fn thread(&self) -> u64 {
        self.thread.load(Ordering::Acquire)
    }

    pub(crate) fn since(&self) -> Duration {
        ago(&self.since)
    }

    pub(crate) fn site(&self) -> String {
        self.site.get()
    }
}

fn ago(word: &AtomicU64) -> Duration {
    Duration::from_nanos(Deadline::now().as_nanos().saturating_sub(word.load(Ordering::Relaxed)))
}

/// One that waits.
#[repr(C)]
struct Entry {
    thread: AtomicU64,
    /// Where the lock lies in this segment.
    lock: AtomicU64,
    /// When the entry was refreshed.
    seen: AtomicU64,
    since: AtomicU64,
    name: AtomicU64,
    site: Site,
}

/// Those that wait for locks in a segment.
#[repr(C)]
pub(crate) struct Waits {
    tag: Tag,
    entries: [Entry; ENTRIES],
}

#[expect(unsafe_code, reason = "declares what may lie in a slot")]
// SAFETY: `repr(C)` with a tag in front; atomics.
unsafe impl Shared for Waits {
    const KIND: u16 = 0x12;
    const NAME: &'static str = "a table of waiters";
}

/// A published wait; its end takes it back.
struct Published<'a>(Option<&'a Entry>);

impl Drop for Published<'_> {
    fn drop(&mut self) {
        if let Some(entry) = self.0 {
            let _ = entry.thread.compare_exchange(number(), 0, Ordering::AcqRel, Ordering::Relaxed);
        }
    }
}

fn publish<'a>(segment: &'a Segment, offset: usize, location: &Location<'_>) -> Published<'a> {
    let Some(waits) = arena::slot_of::<Waits>(segment, 0) else { return Published(None) };
    let now = Deadline::now().as_nanos();
    let claim = (now << 1).max(2);
    let stale = |entry: &Entry, word: u64| {
        let seen = if word & 1 == 0 { word >> 1 } else { entry.seen.load(Ordering::Relaxed) };
        u128::from(now.saturating_sub(seen)) > STALE.as_nanos()
    };
    for entry in &waits.entries {
        let old = entry.thread.load(Ordering::Acquire);
        if old != 0 && !stale(entry, old) {
            continue;
        }
        // Numbers of threads are odd. What is even is a claim, and tells since when: `seen` is the last owner's as yet.
        if entry.thread.compare_exchange(old, claim, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            continue;
        }
        entry.seen.store(now, Ordering::Relaxed);
        entry.since.store(now, Ordering::Relaxed);
        entry.lock.store(offset as u64, Ordering::Relaxed);
        entry.name.store(who::me(), Ordering::Relaxed);
        entry.site.set(location);
        // Who stopped for so long that another one claimed it looks on.
        if entry.thread.compare_exchange(claim, number(), Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            return Published(Some(entry));
        }
    }
    Published(None)
}

/// Waits for a lock that somebody holds, by `wait`, which tries until its deadline; `None` is a deadlock.
pub(crate) fn wait<R>(
    place: &Place,
    location: &Location<'_>,
    mut wait: impl FnMut(Deadline) -> Option<R>,
) -> Option<R> {
    let (segment, offset) = place.at();
    let published = publish(segment, offset, location);
    let mut before = Vec::new();
    loop {
        if let Some(result) = wait(Deadline::after(SLICE)) {
            return Some(result);
        }
        if let Some(entry) = published.0 {
            entry.seen.store(Deadline::now().as_nanos(), Ordering::Relaxed);
        }
        let (ids, steps) = chain(segment, offset, location);
        if !ids.is_empty() && ids == before {
            FOUND.with(|found| *found.borrow_mut() = steps);
            return None;
        }
        before = ids;
    }
}

/// The chain of waits from a lock that this thread waits for back to itself: what identifies each step, and the steps. Empty
/// if there is none.
fn chain(segment: &Segment, offset: usize, location: &Location<'_>) -> (Vec<[u64; 3]>, Vec<DeadlockStep>) {
    let mut chain =
        Chain { segments: arena::segments(), seen: vec![number()], ids: Vec::new(), steps: Vec::new() };
    let waiter = (number(), Holder::current(), location_text(location));
    chain.leads_back(segment, offset, waiter);
    (chain.ids, chain.steps)
}

/// A chain as far as it was followed.
struct Chain {
    segments: Vec<Segment>,
    /// The threads that were come by: each is followed once.
    seen: Vec<u64>,
    ids: Vec<[u64; 3]>,
    steps: Vec<DeadlockStep>,
}

impl Chain {
    /// Whether one that waits for this lock waits for the calling thread in the end; the chain is the way then. Who waits for
    /// several waits for each of them, so one way is enough.
    fn leads_back(&mut self, segment: &Segment, offset: usize, waiter: (u64, Holder, String)) -> bool {
        let Some((name, held)) = held_at(segment, offset, waiter.0).filter(|_| self.steps.len() < LONGEST)
        else {
            return false;
        };
        for (holder, trace) in held {
            let thread = trace.thread();
            self.ids.push([thread, trace.since.load(Ordering::Relaxed), offset as u64]);
            self.steps.push(DeadlockStep {
                waiter: waiter.1,
                waits_at: waiter.2.clone(),
                lock: format!("{name} at offset {offset}"),
                holder,
                held_at: trace.site(),
                held_for: trace.since(),
            });
            if thread == number() || self.goes_on(thread, holder) {
                return true;
            }
            self.ids.pop();
            self.steps.pop();
        }
        false
    }

    /// Whether what that thread waits for, if it does, leads back.
    fn goes_on(&mut self, thread: u64, holder: Holder) -> bool {
        if self.seen.contains(&thread) {
            return false;
        }
        self.seen.push(thread);
        let next = self.segments.iter().find_map(|segment| Some((segment, wait_of(segment, thread)?)));
        let Some((segment, entry)) = next else { return false };
        let Ok(offset) = usize::try_from(entry.lock.load(Ordering::Relaxed)) else { return false };
        let name = Holder::from_word(entry.name.load(Ordering::Relaxed)).unwrap_or(holder);
        let waiter = (thread, name, entry.site.get());
        self.leads_back(&segment.clone(), offset, waiter)
    }
}

/// What a thread waits for in this segment.
fn wait_of(segment: &Segment, thread: u64) -> Option<&Entry> {
    let waits = arena::slot_of::<Waits>(segment, 0)?;
    waits.entries.iter().find(|entry| entry.thread.load(Ordering::Acquire) == thread)
}

fn location_text(location: &Location<'_>) -> String {
    format!("{}:{}", location.file(), location.line())
}

/// A lock, and who keeps it from a thread that waits for it, all of them.
fn held_at(segment: &Segment, offset: usize, waiter: u64) -> Option<(&'static str, Vec<(Holder, &Trace)>)> {
    if let Some(lock) = arena::slot_of::<RwLockWords>(segment, offset) {
        return Some(("the RwLock", lock.in_the_way(segment, waiter)));
    }
    let lock = arena::slot_of::<LockWords>(segment, offset).map(|lock| ("the Lock", lock));
    let rlock = || arena::slot_of::<RLockWords>(segment, offset).map(|lock| ("the RLock", lock.as_lock()));
    let (name, lock) = lock.or_else(rlock)?;
    Some((name, lock.traced_holder().into_iter().collect()))
}

/// What the last failed wait of this thread found.
pub(crate) fn found() -> Deadlock {
    Deadlock { steps: FOUND.take() }
}

/// One wait in a circle of waits.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct DeadlockStep {
    /// Who waits.
    pub waiter: Holder,
    /// The end of the source file's name and the line where it waits.
    pub waits_at: String,
    /// The lock: its type, and its place in its segment.
    pub lock: String,
    /// Who holds it.
    pub holder: Holder,
    /// The end of the source file's name and the line where it was locked.
    pub held_at: String,
    /// For how long.
    pub held_for: Duration,
}

/// Threads, of whatever processes, that wait for each other in a circle.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Deadlock {
    steps: Vec<DeadlockStep>,
}

impl Deadlock {
    /// The waits, the caller's first: each holder is the next one's waiter, and the last one's is the caller.
    #[must_use]
    pub fn steps(&self) -> &[DeadlockStep] {
        &self.steps
    }
}

impl fmt::Display for Deadlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("deadlock")?;
        for (index, step) in self.steps.iter().enumerate() {
            let DeadlockStep { waiter, waits_at, lock, holder, held_at, held_for } = step;
            f.write_str(if index == 0 { ": " } else { "; " })?;
            write!(
                f,
                "{waiter} ({waits_at}) waits for {lock}, held by {holder} for {held_for:.1?} ({held_at})"
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::Handle;
    use std::sync::Barrier;

    #[test]
    fn all_that_begin_to_wait_at_one_moment_are_seen() {
        const THREADS: usize = 4;
        let handle = Handle::new(0, |_: &LockWords| ()).unwrap();
        let (segment, offset) = handle.place().at();
        let waits = arena::slot_of::<Waits>(segment, 0).unwrap();
        let together = Barrier::new(THREADS);
        std::thread::scope(|scope| {
            for first in [true, false, false, false] {
                let together = &together;
                scope.spawn(move || {
                    let mut unseen = 0;
                    for _ in 0..2_000 {
                        if first {
                            // As they are in new memory.
                            waits.entries.iter().for_each(|entry| entry.seen.store(0, Ordering::Relaxed));
                        }
                        together.wait();
                        let published = publish(segment, offset, Location::caller());
                        together.wait();
                        let seen = published.0.unwrap().thread.load(Ordering::Acquire);
                        unseen += u32::from(seen != number());
                        together.wait();
                        drop(published);
                        together.wait();
                    }
                    assert_eq!(unseen, 0);
                });
            }
        });
    }
}
