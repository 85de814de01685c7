//! The keeper: the thread that drives what cannot wait for a waiter, and runs what users left to be run.
//!
//! # When it is needed
//!
//! The front says so of its tasks ([`Need`]): of those somebody is to be told without waiting (a callback, a polled future),
//! and those that are to begin although nobody waits, at once; of those with a limit or with retries, soon. It is
//! started at the first need. While there is none it sleeps without a timeout.
//!
//! # Protocol
//!
//! It drives like any waiter, but every waiter takes over from it: a waiter that finds the keeper driving says that it drives
//! itself, and sleeps on the back's waiter beside it. The keeper sees that when it wakes, and parks. Whoever leaves the pool
//! with a need behind, and nobody else driving or waiting, rouses it ([`Shared::leave`]). For needs that can wait it looks
//! every [`SOON`] whether a waiter has come by since its last look, so that an iteration over tasks with retries does not
//! wake it each time.
//!
//! # Its end
//!
//! The end of the pool dismisses it: it runs what is due, and ends. Dropping the pool waits for that for a short time, and
//! not at all in the keeper itself. It holds the pool's state, not the pool, so it keeps no pool alive. What becomes due
//! later (a callback that is given to a call that is done) starts it once more. A forked copy has no keeper and needs none:
//! there every call fails before it would.

use super::{Driver, Listener, SLICE, Shared, State};
use crate::{
    front::Need,
    sync::{Builder, JoinHandle, MutexGuard, ThreadId, current},
};
use procession_sys::Deadline;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, PoisonError},
    time::Duration,
};

/// How long needs that can wait do.
const SOON: Duration = Duration::from_millis(5);
/// How long the pool's drop waits for the keeper, which may be in a callback that waits for who drops the pool.
const FAREWELL: Duration = Duration::from_millis(200);

/// What is known of the keeper.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    thread: Option<JoinHandle<()>>,
    /// Whether there is one, which has not decided to end.
    running: bool,
    place: Place,
    /// Whether it is to end once nothing is due.
    dismissed: bool,
    /// How often a waiter has left.
    visits: u64,
}

/// Where the keeper is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Place {
    /// At work.
    #[default]
    Up,
    /// On its condition variable, for some milliseconds or until it is roused.
    Dozing,
    /// On its condition variable, until it is roused.
    Parked,
    /// In a user's code.
    Telling,
}

impl State {
    /// Whether there is something to be told that has not been told to the end.
    pub(super) fn owes(&self) -> bool {
        self.keeper.running && (self.listeners.has_due() || self.keeper.place == Place::Telling)
    }
}

impl Shared {
    /// To be called by whoever has moved things on, and does not wait any more.
    #[inline]
    pub(crate) fn leave(self: &Arc<Shared>, state: &mut State) {
        let need = state.front.need();
        if need == Need::None {
            return;
        }
        state.keeper.visits += 1;
        let somebody = state.waiting > 0 || state.driver != Driver::Nobody;
        match (need, state.keeper.place) {
            _ if !state.keeper.running => self.rouse(state),
            (Need::Now, Place::Dozing | Place::Parked) if !somebody => self.rouse(state),
            (Need::Soon, Place::Parked) => self.rouse(state),
            _ => {}
        }
    }

    /// Sees to it that the keeper looks at the state.
    #[cold]
    pub(super) fn rouse(self: &Arc<Shared>, state: &mut State) {
        if state.keeper.running {
            if matches!(state.keeper.place, Place::Dozing | Place::Parked) {
                self.parked.notify_one();
            }
            return;
        }
        let shared = self.clone();
        let keeper = Builder::new().name("procession-keeper".to_owned());
        // Without a thread it is tried again by the next call that has a need.
        if let Ok(thread) = keeper.spawn(move || shared.keep()) {
            state.keeper.thread = Some(thread);
            state.keeper.running = true;
            state.keeper.place = Place::Up;
        }
    }

    /// Sees to it that there is a keeper for what is due.
    pub(crate) fn rouse_keeper(self: &Arc<Shared>) {
        let mut state = self.lock();
        if state.listeners.has_due() {
            self.rouse(&mut state);
        }
    }

    /// Has the keeper end once nothing is due.
    pub(super) fn dismiss(&self, state: &mut State) {
        state.keeper.dismissed = true;
        self.parked.notify_one();
    }

    /// Whether this thread is the keeper.
    pub(crate) fn in_keeper(&self) -> bool {
        self.is_ours()
            && self.lock().keeper.thread.as_ref().is_some_and(|it| it.thread().id() == current_id())
    }

    /// Waits for a dismissed keeper for a short time.
    pub(crate) fn part_from_keeper(&self) {
        let last = Deadline::after(FAREWELL);
        let mut state = self.lock();
        let Some(thread) = state.keeper.thread.take() else { return };
        if thread.thread().id() == current_id() {
            state.keeper.thread = Some(thread);
            return;
        }
        while state.keeper.running && !last.passed() {
            let rest = last.remaining().clamp(Duration::from_micros(1), SLICE);
            state = self.others.wait_timeout(state, rest).unwrap_or_else(PoisonError::into_inner).0;
        }
        if !state.keeper.running {
            drop(state);
            // It is on its last lines.
            let _ = thread.join();
        }
    }

    fn keep(self: &Arc<Shared>) {
        let mut seen = 0;
        let mut state = self.lock();
        loop {
            if let Some(due) = state.listeners.next_due() {
                state.keeper.place = Place::Telling;
                drop(state);
                // The panic hook has reported it.
                let _ = catch_unwind(AssertUnwindSafe(|| match due {
                    Listener::Mail(mailbox, number) => mailbox.put(number),
                    Listener::Wake(waker) => waker.wake(),
                    Listener::Notice(notice) => notice.notice(),
                }));
                state = self.lock();
                state.keeper.place = Place::Up;
                if !state.listeners.has_due() {
                    // A join waits for this.
                    self.others.notify_all();
                }
                continue;
            }
            if state.keeper.dismissed {
                break;
            }
            let visited = std::mem::replace(&mut seen, state.keeper.visits) != state.keeper.visits;
            let doze = match state.front.need() {
                Need::None => None,
                Need::Soon if visited || state.driver == Driver::Waiter => Some(SOON),
                Need::Now if state.driver == Driver::Waiter => None,
                Need::Soon | Need::Now => {
                    self.drive(state);
                    state = self.lock();
                    continue;
                }
            };
            state.keeper.place = if doze.is_some() { Place::Dozing } else { Place::Parked };
            state = match doze {
                Some(time) => {
                    let waited = self.parked.wait_timeout(state, time);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.parked.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
            state.keeper.place = Place::Up;
        }
        state.keeper.running = false;
        self.others.notify_all();
    }

    /// Drives until something is due, nothing is needed, a slice is over, or a waiter has taken over.
    fn drive(self: &Arc<Shared>, mut state: MutexGuard<'_, State>) {
        state.driver = Driver::Keeper;
        drop(state);
        self.waiter.wait_while(Some(Deadline::after(SLICE)), &mut || {
            let mut state = self.lock();
            self.pump(&mut state);
            state.driver == Driver::Keeper
                && !state.listeners.has_due()
                && !state.keeper.dismissed
                && state.front.need() != Need::None
        });
        let mut state = self.lock();
        if state.driver == Driver::Keeper {
            state.driver = Driver::Nobody;
        }
    }
}

fn current_id() -> ThreadId {
    current().id()
}
