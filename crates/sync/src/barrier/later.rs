//! Waiting as a future. One that is dropped leaves as if it had not come ([`Entered`]).

use super::{ACTING, Barrier, BarrierError, BarrierWords, pass::Arrived};
use crate::{
    arena::{Handle, join},
    later::{Entered, Inside, Leaves},
    robust::NotLocked,
    table::Table,
};
use procession_sys::{Deadline, crash_point};

impl Leaves for Barrier {
    type Words = BarrierWords;

    fn handle(&self) -> &Handle<BarrierWords> {
        &self.handle
    }

    fn table(words: &BarrierWords) -> &Table {
        &words.table
    }

    fn give_up(&self, index: usize) {
        // A round that is decided with it has released it, and then it was dropped.
        self.handle.words().table.entry(index).free();
        crash_point!("barrier.given_up");
    }
}

impl Barrier {
    /// As [`wait`](Barrier::wait), as a future for any executor (feature `async`). It can be dropped at any time: while it
    /// waits, this party then has not come, and the barrier stays whole.
    ///
    /// The barrier's timeout, if it has one, is looked at four times a second. An action runs while this is polled.
    ///
    /// # Errors
    ///
    /// As [`wait`](Barrier::wait).
    ///
    /// # Panics
    ///
    /// As [`wait`](Barrier::wait).
    pub async fn wait_async(&self) -> Result<usize, BarrierError> {
        self.pass_async(self.action.as_ref().map(|action| || action.call(()))).await
    }

    /// As [`wait_async`](Barrier::wait_async), with an action of this party's own: see [`wait_with`](Barrier::wait_with).
    ///
    /// # Errors
    ///
    /// As [`wait`](Barrier::wait).
    ///
    /// # Panics
    ///
    /// As [`wait`](Barrier::wait).
    pub async fn wait_with_async(&self, action: impl FnOnce()) -> Result<usize, BarrierError> {
        self.pass_async(Some(action)).await
    }

    async fn pass_async(&self, mut action: Option<impl FnOnce()>) -> Result<usize, BarrierError> {
        let (words, segment) = self.parts();
        let deadline = self.timeout().map(Deadline::after);
        let member = join(segment, deadline).map_err(|error| BarrierError::Member(Box::new(error)))?;
        loop {
            let locked = match Inside::until(&self.handle, |words| &words.mutex, deadline).await {
                Err(NotLocked::TimedOut) => return Err(self.give_up_outside()),
                other => other?,
            };
            let inside = words.with(locked, segment, Some(member));
            let party = match self.arrive(inside, member, action.is_some())? {
                Arrived::Passes(place) => return Ok(place),
                Arrived::Is(party) => party,
            };
            if party.state == ACTING
                && let Some(action) = action.take()
            {
                return self.act(party, action);
            }
            let entered = Entered::new(self, party.index);
            let late = || deadline.is_some_and(Deadline::passed);
            let answer = loop {
                entered.changes(party.state, || late() || words.table.due()).await;
                match self.look(party, late()) {
                    Ok(Some(answer)) => break Ok(answer),
                    Ok(None) => {}
                    Err(error) => break Err(error),
                }
            };
            // After an error the entry is gone already.
            entered.left();
            if let Some(passed) = self.leave(party, answer?) {
                return passed.map(|()| party.place);
            }
        }
    }
}
