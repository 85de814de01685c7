//! Waiting as a future.
//!
//! A future may be dropped at any time, and cannot take the lock back then: so it has the guard, which goes with it. What
//! it was notified of goes to another waiter ([`Entered`]).

use super::{
    AsyncWaitError, Condition, ConditionGuard, ConditionWords, GIVEN_UP, Guard, Of, WAITING, WaitError,
};
use super::{guard, wait::leave};
use crate::{
    LockError, Poison,
    arena::{Handle, join},
    later::{Entered, Inside, Leaves},
    mutex::NotTaken,
    table::{self, Table},
};
use core::{marker::PhantomData, mem::ManuallyDrop};
use procession_sys::crash_point;

/// The lock belongs to the thread that polls the future, which therefore stays with it.
struct Stays(PhantomData<*const ()>);

impl Of {
    async fn take_back_async(&self) -> Result<Option<Poison>, NotTaken> {
        match self {
            Of::Lock(lock) => lock.later().await,
            Of::RLock(lock) => lock.later().await,
        }
    }

    /// Whether one who waits can let it go by one unlocking.
    fn is_held_once(&self) -> bool {
        match self {
            Of::Lock(_) => true,
            Of::RLock(lock) => lock.depth() == 1,
        }
    }
}

impl Leaves for Condition {
    type Words = ConditionWords;

    fn handle(&self) -> &Handle<ConditionWords> {
        &self.handle
    }

    fn table(words: &ConditionWords) -> &Table {
        &words.table
    }

    fn give_up(&self, index: usize) {
        let words = self.handle.words();
        let entry = words.table.entry(index);
        if entry.change(WAITING, table::FREE).is_some() {
            return;
        }
        entry.have(GIVEN_UP);
        crash_point!("condition.wait.given_up");
        // Without the mutex whoever waits finds it after a slice.
        if let Ok(mut held) = words.hold(table::moment()) {
            words.bury(&mut held.wakes, |_| false);
        }
    }
}

impl Condition {
    /// Locks its lock, as a future for any executor (feature `async`). It can be dropped at any time.
    ///
    /// The lock belongs to the thread that polls the future: see [`Lock::lock_async`](crate::Lock::lock_async), or
    /// [`RLock::lock_async`](crate::RLock::lock_async).
    ///
    /// # Errors
    ///
    /// As [`lock`](Condition::lock).
    pub async fn lock_async(&self) -> Result<ConditionGuard<'_>, LockError<ConditionGuard<'_>>> {
        match &self.of {
            Of::Lock(lock) => guard::of_lock(lock.lock_async().await),
            Of::RLock(lock) => guard::of_rlock(lock.lock_async().await),
        }
    }

    /// Waits for a notification, as a future for any executor (feature `async`).
    ///
    /// It takes the guard, and gives it back when the lock is held again. It can be dropped at any time: the lock is not held
    /// then, and a notification that had reached it goes to another waiter. (That is why the guard goes with it. Where the
    /// lock was taken by [`acquire`](Condition::acquire), give [`Held`](crate::Held), and remember that after a drop it is not
    /// held.) The future stays with its thread, as the lock does; other tasks of the thread may hold the lock meanwhile.
    ///
    /// # Errors
    ///
    /// As [`wait`](Condition::wait), with the guard; and [`WaitError::HeldAgain`].
    pub async fn wait_async<G: Guard>(&self, guard: G) -> Result<G, AsyncWaitError<G>> {
        let stays = Stays(PhantomData);
        let index = match self.enter_async(&guard).await {
            Ok(index) => index,
            Err(error) => return Err(AsyncWaitError::new(error, Some(guard))),
        };
        let entered = Entered::new(self, index);
        let entry = entered.entry();
        let lock = self.of.lock();
        // While the lock is another's, a drop must not let it go.
        let guard = ManuallyDrop::new(guard);
        let back = loop {
            lock.let_go_fully();
            let words = self.handle.words();
            let over = || {
                if words.table.due() {
                    self.sweep();
                }
                self.of.lock().is_orphaned() || self.of.lock().poison().is_some()
            };
            entered.changes(WAITING, over).await;
            match self.of.take_back_async().await {
                Ok(None) if entry.state() == WAITING => {}
                back => break back,
            }
        };
        leave(entry);
        entered.left();
        let _ = stays;
        match back {
            Ok(None) => Ok(ManuallyDrop::into_inner(guard)),
            Ok(Some(poison)) => {
                let error = WaitError::Poisoned(poison);
                Err(AsyncWaitError::new(error, Some(ManuallyDrop::into_inner(guard))))
            }
            Err(error) => Err(AsyncWaitError::new(error.into(), None)),
        }
    }

    /// As [`wait_async`](Condition::wait_async), as long as `condition` holds. It is asked under the lock: first, and
    /// after each notification.
    ///
    /// # Errors
    ///
    /// As [`wait_async`](Condition::wait_async).
    pub async fn wait_while_async<G: Guard>(
        &self,
        mut guard: G,
        mut condition: impl FnMut() -> bool,
    ) -> Result<G, AsyncWaitError<G>> {
        if let Err(error) = self.check(&guard) {
            return Err(AsyncWaitError::new(error, Some(guard)));
        }
        while condition() {
            guard = self.wait_async(guard).await?;
        }
        Ok(guard)
    }

    async fn enter_async(&self, guard: &impl Guard) -> Result<usize, WaitError> {
        self.check(guard)?;
        if !self.of.is_held_once() {
            return Err(WaitError::HeldAgain);
        }
        let (words, segment) = (self.handle.words(), self.handle.place().segment());
        let member = join(segment, None).map_err(|error| WaitError::Member(Box::new(error)))?;
        let locked = Inside::of(&self.handle, |words| &words.mutex).await.map_err(NotTaken::NotLocked)?;
        let mut held = table::with(&words.mutex, &words.table, locked, |_| ());
        self.enter_with(&mut held, member).ok_or(WaitError::TooManyWaiters)
    }
}
