//! Locking as a future. One that is dropped gives up its place, or what it was granted, to the next ([`Entered`]).

use super::{Access, Asked, Part, ReadGuard, RwLock, RwLockWords, WriteGuard, not_locked, with_no_guard};
use crate::arena::Handle;
use crate::{
    LockError, PoisonError,
    later::{Entered, Inside, Leaves},
    table::{self, Table},
    who::me,
};
#[cfg(feature = "lock-trace")]
use core::panic::Location;
use procession_sys::crash_point;

impl Leaves for RwLock {
    type Words = RwLockWords;

    fn handle(&self) -> &Handle<RwLockWords> {
        &self.handle
    }

    fn table(words: &RwLockWords) -> &Table {
        &words.table
    }

    fn give_up(&self, index: usize) {
        self.handle.words().table.entry(index).free();
        crash_point!("rwlock.given_up");
        self.grant();
    }
}

impl RwLock {
    /// As [`read`](RwLock::read), as a future for any executor (feature `async`). It can be dropped at any time.
    ///
    /// The lock belongs to the thread in which the future ends, and so does the guard: tasks that move between threads
    /// cannot keep it over an `await`. A thread that reads already reads again at once, whichever of its tasks asks;
    /// otherwise tasks of one thread wait for each other.
    ///
    /// # Errors
    ///
    /// As [`read`](RwLock::read), but never [`LockError::AlreadyHeld`].
    pub async fn read_async(&self) -> Result<ReadGuard<'_>, LockError<ReadGuard<'_>>> {
        let index = self.take_async(Access::Read).await.map_err(with_no_guard)?;
        let guard = ReadGuard { part: Part::new(self, index) };
        match self.poison() {
            None => Ok(guard),
            Some(cause) => Err(LockError::Poisoned(PoisonError::new(guard, cause))),
        }
    }

    /// As [`write`](RwLock::write), as a future for any executor (feature `async`). It can be dropped at any time.
    ///
    /// The lock belongs to the thread in which the future ends, and so does the guard: tasks that move between threads
    /// cannot keep it over an `await`. Tasks of one thread wait for each other; one that waits for itself does so for ever.
    ///
    /// # Errors
    ///
    /// As [`write`](RwLock::write), but never [`LockError::AlreadyHeld`].
    pub async fn write_async(&self) -> Result<WriteGuard<'_>, LockError<WriteGuard<'_>>> {
        let index = self.take_async(Access::Write).await.map_err(with_no_guard)?;
        let guard = WriteGuard { part: Part::new(self, index), panicking: std::thread::panicking() };
        match self.poison() {
            None => Ok(guard),
            Some(cause) => Err(LockError::Poisoned(PoisonError::new(guard, cause))),
        }
    }

    async fn take_async(&self, access: Access) -> Result<usize, LockError> {
        let words = self.handle.words();
        let member = self.join(None)?;
        let locked = Inside::of(&self.handle, |words| &words.mutex).await.map_err(not_locked)?;
        let held = table::with(&words.mutex, &words.table, locked, |wakes| words.grant(wakes));
        let index = match self.ask(held, member, access, true, false)? {
            Asked::Has(index) => {
                crash_point!("rwlock.taken");
                #[cfg(feature = "lock-trace")]
                words.note(index, Location::caller());
                return Ok(index);
            }
            Asked::Waits(index) => index,
        };
        let entered = Entered::new(self, index);
        let entry = entered.entry();
        let sweep = || {
            if words.table.due() {
                self.sweep();
            }
            false
        };
        entered.changes(access.waits(), sweep).await;
        // The thread that polls now is the holder.
        entry.set_note(me());
        #[cfg(feature = "lock-trace")]
        words.note(index, Location::caller());
        entry.have(access.has());
        crash_point!("rwlock.taken.after");
        entered.left();
        Ok(index)
    }
}
