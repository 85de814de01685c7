//! Futures that wait for descriptors: one thread watches all of them in one epoll.
//!
//! Any executor will do: a future that finds nothing on its descriptor has it watched ([`watch`]), and its waker is woken
//! once when that has changed.
//!
//! # Protocol
//!
//! * The table has an entry for each descriptor that is watched, by number, with all who wait for it. In the epoll it is
//!   registered for one event, for all that they wait for.
//! * The thread takes those out whom an event concerns, and wakes them, outside of the lock. For the others the descriptor
//!   is registered anew. Who gives up takes himself out.
//! * Registering looks at the descriptor's state: what became ready before is an event too.
//!
//! # Invariants
//!
//! 1. A descriptor is registered exactly as long as somebody waits for it, and both change under the table's lock. A
//!    [`Watch`] borrows its descriptor, so that is open meanwhile. (Should a watch be leaked and the number be used
//!    again, then what is registered is put right by the next watch of it.)
//! 2. Wakers are cloned, woken and dropped under no lock of ours.
//!
//! # When a process dies
//!
//! Its futures die with it. What its death does to descriptors elsewhere is an event there. A forked child has none of its
//! parent's futures; it lets go of the epoll, which is its parent's, and makes its own.
#![expect(unsafe_code, reason = "a forked child closes its copy of the epoll")]

use crate::{
    OverFork,
    hooks::{ForkHooks, around_fork},
    sync::{AtomicU64, Ordering},
};
use rustix::{
    buffer::spare_capacity,
    event::epoll::{self, CreateFlags, Event, EventData, EventFlags},
    io::Errno,
    time::Timespec,
};
use std::{
    collections::BTreeMap,
    fmt,
    marker::PhantomData,
    mem,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Once},
    task::Waker,
};

/// What is waited for. An end or an error is both.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Interest {
    /// Something can be read.
    Read,
    /// Something can be written.
    Write,
}

/// How long the thread stays without a descriptor to watch.
const LINGER: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };

struct Waiting {
    id: u64,
    interest: Interest,
    waker: Waker,
}

struct Poller {
    epoll: Arc<OwnedFd>,
    watched: BTreeMap<RawFd, Vec<Waiting>>,
}

static POLLER: OverFork<Option<Poller>> = OverFork::new(None);
static NEXT: AtomicU64 = AtomicU64::new(0);

/// A descriptor that is being watched. Dropping it ends that.
#[must_use = "the descriptor is watched as long as this lives"]
pub struct Watch<'fd> {
    fd: RawFd,
    id: u64,
    borrowed: PhantomData<BorrowedFd<'fd>>,
}

/// Wakes `waker` once when `fd` is ready for `interest`, if it is now too.
///
/// Where it cannot be watched (the system refuses a thread or a descriptor, or it is a file, which is always ready) the
/// waker is woken at once: the future then looks again and again, as often as its executor lets it.
pub fn watch<'fd>(fd: BorrowedFd<'fd>, interest: Interest, waker: &Waker) -> Watch<'fd> {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        around_fork(ForkHooks {
            before: Some(|| POLLER.hold()),
            in_parent: Some(|| POLLER.release()),
            in_child: Some(|| POLLER.reset(forget)),
        });
    });
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    let waiting = Waiting { id, interest, waker: waker.clone() };
    if let Err(waiting) = place(fd, waiting) {
        waiting.waker.wake();
    }
    Watch { fd: fd.as_raw_fd(), id, borrowed: PhantomData }
}

/// In a forked child: wakers of the parent are left alone, since dropping them could run its code.
fn forget(poller: &mut Option<Poller>) {
    let Some(poller) = poller.take() else { return };
    let epoll = poller.epoll.as_raw_fd();
    mem::forget(poller);
    // SAFETY: its owners are the poller, which was forgotten, and the parent's thread, which is not in this process.
    unsafe { rustix::io::close(epoll) };
}

fn place(fd: BorrowedFd<'_>, waiting: Waiting) -> Result<(), Waiting> {
    let mut poller = POLLER.lock();
    if poller.is_none() {
        let Ok(epoll) = epoll::create(CreateFlags::CLOEXEC) else { return Err(waiting) };
        let epoll = Arc::new(epoll);
        let its = epoll.clone();
        let thread = std::thread::Builder::new().name("procession: poller".to_owned());
        if thread.spawn(move || run(&its)).is_err() {
            return Err(waiting);
        }
        *poller = Some(Poller { epoll, watched: BTreeMap::new() });
    }
    let Some(Poller { epoll, watched }) = &mut *poller else { return Err(waiting) };
    let all = watched.entry(fd.as_raw_fd()).or_default();
    all.push(waiting);
    if register(epoll, fd, all).is_ok() {
        return Ok(());
    }
    let waiting = all.pop();
    if all.is_empty() {
        watched.remove(&fd.as_raw_fd());
    }
    waiting.map_or(Ok(()), Err)
}

/// Has the epoll report the next event that concerns one of those who wait.
fn register(epoll: &OwnedFd, fd: BorrowedFd<'_>, all: &[Waiting]) -> Result<(), Errno> {
    let mut events = EventFlags::ONESHOT;
    for waiting in all {
        events |= match waiting.interest {
            Interest::Read => EventFlags::IN | EventFlags::RDHUP,
            Interest::Write => EventFlags::OUT,
        };
    }
    let data = EventData::new_u64(fd.as_raw_fd() as u64);
    // It is known already where others wait for it, or an event has come.
    match epoll::add(epoll, fd, data, events) {
        Err(Errno::EXIST) => epoll::modify(epoll, fd, data, events),
        other => other,
    }
}

/// Those of an event, taken out. What is left is registered again.
fn take_out(poller: &mut Poller, fd: RawFd, events: EventFlags) -> Vec<Waiting> {
    let Some(all) = poller.watched.get_mut(&fd) else { return Vec::new() };
    let over = EventFlags::HUP | EventFlags::ERR;
    let concerns = |interest| match interest {
        Interest::Read => events.intersects(EventFlags::IN | EventFlags::RDHUP | over),
        Interest::Write => events.intersects(EventFlags::OUT | over),
    };
    let mut out: Vec<Waiting> = all.extract_if(.., |waiting| concerns(waiting.interest)).collect();
    if !update(poller, fd) {
        out.append(&mut poller.watched.remove(&fd).unwrap_or_default());
    }
    out
}

/// Registers a descriptor for those who still wait for it, or no longer; false if that failed.
fn update(poller: &mut Poller, fd: RawFd) -> bool {
    // SAFETY: it is in the table, so somebody borrows it (invariant 1), and to let it go he needs the lock that we hold. If
    // his watch was leaked, it may be closed, or another one: then at worst that is registered without anybody waiting
    // for it, or no longer though somebody does, whose next watch puts it right.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    match poller.watched.get(&fd) {
        Some(all) if !all.is_empty() => register(&poller.epoll, borrowed, all).is_ok(),
        _ => {
            poller.watched.remove(&fd);
            let _ = epoll::delete(&poller.epoll, borrowed);
            true
        }
    }
}

fn run(epoll: &Arc<OwnedFd>) {
    let mut events: Vec<Event> = Vec::with_capacity(64);
    loop {
        events.clear();
        let waited = epoll::wait(epoll.as_fd(), spare_capacity(&mut events), Some(&LINGER));
        if waited.is_err() || events.is_empty() {
            let mut poller = POLLER.lock();
            if poller.as_ref().is_none_or(|poller| poller.watched.is_empty()) {
                *poller = None;
                return;
            }
            continue;
        }
        for event in &events {
            let (fd, flags) = (event.data.u64() as RawFd, event.flags);
            let out = match &mut *POLLER.lock() {
                Some(poller) => take_out(poller, fd, flags),
                None => Vec::new(),
            };
            for waiting in out {
                // A waker is foreign code. Should it panic, the hook has told; the other futures are still served.
                let _ = catch_unwind(AssertUnwindSafe(|| waiting.waker.wake()));
            }
        }
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        let mut lock = POLLER.lock();
        let Some(poller) = &mut *lock else { return };
        let Some(all) = poller.watched.get_mut(&self.fd) else { return };
        let Some(place) = all.iter().position(|waiting| waiting.id == self.id) else { return };
        // Its waker is dropped after the lock.
        let waiting = all.swap_remove(place);
        let mut others = Vec::new();
        if !update(poller, self.fd) {
            others = poller.watched.remove(&self.fd).unwrap_or_default();
        }
        drop(lock);
        drop(waiting);
        others.into_iter().for_each(|waiting| waiting.waker.wake());
    }
}

impl fmt::Debug for Watch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("fd", &self.fd).finish_non_exhaustive()
    }
}
