//! Waiting, by a thread.

use super::{Condition, Guard, WAITING, WaitError};
use crate::{
    arena::join,
    mutex::NotTaken,
    robust::NotLocked,
    spin,
    table::{self, Entry},
};
use procession_shm::Member;
use procession_sys::{Deadline, crash_point};

impl Condition {
    #[cfg_attr(feature = "lock-trace", track_caller)]
    pub(super) fn wait_until(
        &self,
        guard: &mut impl Guard,
        deadline: Option<Deadline>,
    ) -> Result<bool, WaitError> {
        self.check(guard)?;
        let (words, segment) = (self.handle.words(), self.handle.place().segment());
        let member = join(segment, deadline).map_err(|error| WaitError::Member(Box::new(error)))?;
        let index = match self.enter(member, deadline) {
            // It would be too late to be notified.
            Err(NotTaken::NotLocked(NotLocked::TimedOut)) => return Ok(false),
            other => other?,
        };
        let entry = words.table.entry(index.ok_or(WaitError::TooManyWaiters)?);
        crash_point!("condition.wait.entered");
        let lock = self.of.lock();
        let depth = lock.let_go_fully();
        crash_point!("condition.wait.let_go");
        let mut back = None;
        loop {
            spin::with(|spin| entry.wait_slice(WAITING, deadline, spin));
            if entry.state() != WAITING || deadline.is_some_and(Deadline::passed) {
                break;
            }
            if words.table.due() {
                self.sweep();
            }
            // A lock that is free and whole is left alone: others may be trying it.
            if !lock.is_orphaned() && lock.poison().is_none() {
                continue;
            }
            match self.of.take_back(depth, Some(Deadline::now())) {
                Ok(None) => {
                    lock.let_go_fully();
                }
                Err(NotTaken::NotLocked(NotLocked::TimedOut)) => {}
                poisoned => {
                    back = Some(poisoned);
                    break;
                }
            }
        }
        let back = match back {
            Some(back) => back,
            None => self.of.take_back(depth, None),
        };
        crash_point!("condition.wait.taken");
        // Up to here a death would pass the notification on.
        let notified = leave(entry);
        crash_point!("condition.wait.left");
        match back? {
            None => Ok(notified),
            Some(poison) => Err(WaitError::Poisoned(poison)),
        }
    }

    fn enter(&self, member: Member, deadline: Option<Deadline>) -> Result<Option<usize>, NotTaken> {
        let words = self.handle.words();
        let mut held = words.hold(deadline).map_err(NotTaken::NotLocked)?;
        Ok(self.enter_with(&mut held, member))
    }

    /// An entry for one who waits; `None` if there is no room, not even by the dead's.
    pub(super) fn enter_with(&self, held: &mut table::Held<'_>, member: Member) -> Option<usize> {
        let (words, segment) = (self.handle.words(), self.handle.place().segment());
        words.table.enter(member, 0, WAITING).or_else(|| {
            words.bury(&mut held.wakes, |member| segment.is_dead(member));
            words.table.enter(member, 0, WAITING)
        })
    }

    /// Looks for the dead, unless somebody holds the mutex: there is a next time.
    pub(super) fn sweep(&self) {
        let (words, segment) = (self.handle.words(), self.handle.place().segment());
        if let Ok(mut held) = words.hold(table::now()) {
            words.bury(&mut held.wakes, |member| segment.is_dead(member));
        }
    }
}

/// Frees one's entry; whether it was notified.
pub(super) fn leave(entry: &Entry) -> bool {
    let notified = entry.change(WAITING, table::FREE).is_none();
    if notified {
        entry.free();
    }
    notified
}
