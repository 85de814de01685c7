//! Who waits for room in a lane while another thread of this process reads, and takes the bells.
//!
//! # Protocol
//! Who waits counts itself, looks whether there is room or nobody reads any more, and sleeps. Who reads tells when it has heard a
//! bell, or has read something, and there is room; and when it stops reading. It looks first whether somebody waits: so nobody
//! pays where nobody does.
//!
//! # Invariants
//! 1. Between the count and the look at the lane, and between what was heard and the look at the count, there is a full fence: of
//!    who waits and who tells, one sees the other.
//! 2. The word that nobody reads any more is written, and looked at, under a lock of the client's, and the count is read under that
//!    one: the same.
//! 3. Who tells takes the lock between its look and its word, and who waits has it from its look until it sleeps.

use procession_sys::Deadline;
use std::sync::{
    Condvar, Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering, fence},
};

#[derive(Default)]
pub(super) struct Room {
    waiters: AtomicUsize,
    lock: Mutex<()>,
    told: Condvar,
}

impl Room {
    /// Sleeps until there is something to do, as far as it is told, or the deadline.
    pub(super) fn wait(&self, deadline: Option<Deadline>, ready: impl Fn() -> bool) {
        self.waiters.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        while !ready() && !deadline.is_some_and(Deadline::passed) {
            lock = match deadline {
                None => self.told.wait(lock).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let waited = self.told.wait_timeout(lock, deadline.remaining());
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        drop(lock);
        self.waiters.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether somebody waits: to be asked behind a full fence, or under the lock of invariant 2.
    pub(super) fn is_awaited(&self) -> bool {
        self.waiters.load(Ordering::Relaxed) > 0
    }

    pub(super) fn tell(&self) {
        drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
        self.told.notify_all();
    }
}
