//! The one watcher of a process: a thread, started when first needed, that waits for descriptors on behalf of nobody
//! in particular.
//!
//! It completes what nobody waits for: it reaps detached children, and rings the bells of those who sleep on shared
//! words. It holds no lock while it runs a callback.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, MutexGuard, Once},
};

use procession_sys::{OverFork, hooks};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd};

/// What runs when a watched descriptor becomes readable.
pub type Callback = Box<dyn FnOnce() + Send>;

/// Names a watch, to end it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct WatchId(u64);

struct Watcher {
    next: u64,
    watched: HashMap<u64, (Arc<OwnedFd>, Callback)>,
    bell: Arc<OwnedFd>,
}

static WATCHER: OverFork<Option<Watcher>> = OverFork::new(None);

/// A forked child has no watcher, and what was watched is its parent's: nothing of it is dropped there.
pub(crate) fn prepare() {
    static PREPARED: Once = Once::new();
    PREPARED.call_once(|| {
        hooks::around_fork(hooks::ForkHooks {
            before: Some(|| WATCHER.hold()),
            in_parent: Some(|| WATCHER.release()),
            in_child: Some(|| WATCHER.reset(|watcher| std::mem::forget(watcher.take()))),
        });
    });
}

fn lock() -> MutexGuard<'static, Option<Watcher>> {
    WATCHER.lock()
}

/// Runs `callback` on the watcher's thread once `fd` is readable or hung up: for a pidfd, once its process has ended.
///
/// The descriptor is duplicated. The callback should be short: it delays the others.
///
/// # Errors
///
/// If no descriptor or thread is left.
pub fn watch(fd: BorrowedFd<'_>, callback: Callback) -> io::Result<WatchId> {
    prepare();
    let fd = Arc::new(rustix::io::fcntl_dupfd_cloexec(fd, 3)?);
    let mut place = lock();
    let watcher = match &mut *place {
        Some(watcher) => watcher,
        place => place.insert(start()?),
    };
    let id = watcher.next;
    watcher.next += 1;
    watcher.watched.insert(id, (fd, callback));
    ring(&watcher.bell);
    Ok(WatchId(id))
}

/// Ends a watch; false if its callback has run or is running.
pub fn unwatch(id: WatchId) -> bool {
    let mut place = lock();
    let Some(watcher) = place.as_mut() else { return false };
    let found = watcher.watched.remove(&id.0);
    ring(&watcher.bell);
    drop(place);
    // The callback may hold anything, so it is dropped without the lock.
    found.is_some()
}

fn ring(bell: &OwnedFd) {
    // A full counter is a ringing bell.
    let _ = rustix::io::write(bell, &1_u64.to_ne_bytes());
}

fn start() -> io::Result<Watcher> {
    let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
    let watcher = Watcher { next: 0, watched: HashMap::new(), bell: bell.clone() };
    std::thread::Builder::new().name("procession-watch".to_owned()).spawn(move || run(&bell))?;
    Ok(watcher)
}

fn run(bell: &OwnedFd) {
    loop {
        let watched: Vec<(u64, Arc<OwnedFd>)> = lock()
            .iter()
            .flat_map(|watcher| &watcher.watched)
            .map(|(id, (fd, _))| (*id, fd.clone()))
            .collect();
        let mut polled = vec![PollFd::from_borrowed_fd(bell.as_fd(), PollFlags::IN)];
        polled.extend(watched.iter().map(|(_, fd)| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)));
        if procession_sys::fd::wait(&mut polled, None).is_err() {
            // Only memory can be short here; what is watched is looked at again.
            std::thread::yield_now();
            continue;
        }
        let _ = rustix::io::read(bell, &mut [0_u8; 8]);
        let ready: Vec<u64> = polled[1..]
            .iter()
            .zip(&watched)
            .filter(|(polled, _)| !polled.revents().is_empty())
            .map(|(_, (id, _))| *id)
            .collect();
        for id in ready {
            let callback = lock().as_mut().and_then(|watcher| watcher.watched.remove(&id));
            if let Some((_, callback)) = callback {
                // A callback that panics has told so by the panic hook; the others still run.
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(callback));
            }
        }
    }
}
