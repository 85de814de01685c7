//! Who waits for room in a lane while another thread of this process reads, and takes the bells.
//!
//! # Protocol
//! Who waits counts itself, looks whether there is room or nobody reads any more, and sleeps. Who reads tells when it has heard a
//! bell, or has read something, and there is room; and when it stops reading. It looks first whether somebody waits: so nobody
//! pays where nobody does.
//!
//! A bell may be late: the room that it tells of was found and used without it, and the flag that it has cleared was set again
//! since then. So where there is no room the flag is set anew, and looked behind: by who has heard a bell that was for who waits,
//! and by who waits before it sleeps, since that bell may have been heard before it was counted.
//!
//! # Invariants
//! 1. Between the count and the look at the lane, and between what was heard and the look at the count, there is a full fence: of
//!    who waits and who tells, one sees the other.
//! 2. The word that nobody reads any more is written, and looked at, under a lock of the client's, and the count is read under that
//!    one: the same.
//! 3. Who tells takes the lock between its look and its word, and who waits has it from its look until it sleeps.
//! 4. While somebody sleeps here, the flag is set, or its bell is in the socket, or with who reads. A model has one who waits, one
//!    who reads, and the other side, whose first bell is late (`tests/loom.rs`).

use super::bug::{Bug, planted};
#[cfg(loom)]
use loom::sync::{Condvar, Mutex};
use procession_sys::{
    Deadline,
    sync::{AtomicU32, Ordering, fence},
};
use std::sync::PoisonError;
#[cfg(not(loom))]
use std::sync::{Condvar, Mutex};

#[derive(Default)]
pub(crate) struct Room {
    waiters: AtomicU32,
    lock: Mutex<()>,
    told: Condvar,
}

impl Room {
    /// Sleeps until there is room, as far as it is told, or `otherwise` is true, or the deadline. `ask` sets the flag.
    pub(crate) fn wait(
        &self,
        deadline: Option<Deadline>,
        has_room: impl Fn() -> bool,
        ask: impl Fn(),
        otherwise: impl Fn() -> bool,
    ) {
        self.waiters.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let asked = || {
            ask();
            has_room()
        };
        let ready = || has_room() || (!planted(Bug::WaiterDoesNotAsk) && asked()) || otherwise();
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

    /// A bell was heard, and a full fence is behind that. `ask` sets the flag.
    pub(crate) fn heard(&self, has_room: impl Fn() -> bool, ask: impl FnOnce()) {
        if !self.is_awaited() {
            return;
        }
        let asked = || {
            ask();
            has_room()
        };
        if has_room() || (!planted(Bug::HearerDoesNotAsk) && asked()) {
            self.tell();
        }
    }

    /// Whether somebody waits: to be asked behind a full fence, or under the lock of invariant 2.
    pub(crate) fn is_awaited(&self) -> bool {
        self.waiters.load(Ordering::Relaxed) > 0
    }

    pub(crate) fn tell(&self) {
        drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
        self.told.notify_all();
    }
}
