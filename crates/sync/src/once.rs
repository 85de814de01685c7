//! [`Once`] and [`OnceValue`]: something that is done by one, once, for all.
//!
//! # Words
//!
//! | word | meaning | who changes it |
//! |---|---|---|
//! | `state` | not done, running, done, or poisoned; and a flag: somebody sleeps, or is about to | who begins, holding the mutex; the runner; the flag: who sleeps |
//! | `runner` | the process that runs it: its member number, plus 1 | who begins, before the state |
//! | `thread` | the thread that runs it; 0: a future does, in any thread | who begins, before the state |
//! | `pid` | the process that panicked | the runner, before the state |
//!
//! # Protocol
//!
//! * Begin: the mutex; if it is not done, or running in a process that is dead: `thread`, `runner`, and then the state,
//!   whose flag stays. The function runs without the mutex.
//! * End: swap the state; if the flag was set, wake everybody who sleeps on it. It takes no mutex: while the runner lives
//!   nobody else changes a word but for the flag. A runner that is a future, and dropped, makes it *not done*.
//! * Wait: set the flag by a compare-and-swap, which fails where the state has changed; sleep while the word is as it was
//!   then, for a slice; then look whether the runner lives.
//!
//! # Invariants
//!
//! 1. One thread runs it at a time: who takes over has proof that the runner is dead, under the mutex, and a member's
//!    number is not used again before [`Shared::recover`] has made the state *not done*.
//! 2. *Done* is final, and never has the flag; what was written before can be read after.
//! 3. Whoever sleeps has seen the flag set in the very value on which it sleeps, so who takes the flag away wakes it.
//!
//! # When a process dies
//!
//! As the runner: the next one runs it. Under the mutex: each store leaves the words whole, since the state is the last.
//! Before the wake: the sleepers look after a slice.
//!
//! # When a process is stopped
//!
//! With the mutex: who has a deadline gives up at it.

mod error;
#[cfg(feature = "async")]
mod later;
mod value;

pub use error::OnceError;
pub use value::OnceValue;
pub(crate) use value::OnceValueWords;

use crate::{
    Error, Holder,
    arena::{Handle, Shared, Tag, join},
    once_word::{DONE, NOT_DONE, OnceWord, POISONED, RUNNING},
    robust::{Locked, NotLocked, Robust},
    who::{generation, me},
};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use procession_shm::{Member, Segment};
use procession_sys::{Deadline, crash_point};
use serde::{Deserialize, Serialize};
use std::{fmt, time::Duration};

/// What lies in shared memory.
#[repr(C)]
pub(crate) struct OnceWords {
    tag: Tag,
    mutex: Robust,
    state: OnceWord,
    runner: AtomicU32,
    thread: AtomicU64,
    pid: AtomicU32,
    unused: u32,
}

#[expect(unsafe_code, reason = "declares what may lie in a slot")]
// SAFETY: `repr(C)` with a tag in front; atomics and a mutex, for which zeroes are not done.
unsafe impl Shared for OnceWords {
    const KIND: u16 = 24;
    const NAME: &'static str = "a Once";

    fn init(&self) -> Result<(), std::io::Error> {
        self.mutex.init()
    }

    fn recover(&self, _: &Segment, dead: Member, until: Deadline) -> bool {
        let Ok(_held) = self.hold(Some(until)) else { return false };
        if self.is_run_by(dead) {
            self.state.end(NOT_DONE);
        }
        true
    }
}

/// The mutex is held.
struct Held<'a>(&'a Robust);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.unlock();
    }
}

impl OnceWords {
    fn hold(&self, deadline: Option<Deadline>) -> Result<Held<'_>, NotLocked> {
        Ok(self.with(self.mutex.lock_inside(deadline)?))
    }

    /// By who has the mutex already.
    fn with(&self, locked: Locked) -> Held<'_> {
        if locked == Locked::OwnerDied {
            self.mutex.made_consistent();
        }
        Held(&self.mutex)
    }

    fn is_run_by(&self, member: Member) -> bool {
        self.state.state() == RUNNING && self.runner.load(Ordering::Relaxed) == member.index() as u32 + 1
    }

    fn runner(&self) -> Option<Member> {
        let number = self.runner.load(Ordering::Relaxed) as usize;
        number.checked_sub(1).and_then(Member::from_index)
    }

    #[inline]
    fn is_done(&self) -> bool {
        self.state.is_done()
    }

    /// Becomes the runner: false if it is done.
    fn begin(&self, segment: &Segment, force: bool, deadline: Option<Deadline>) -> Result<bool, OnceError> {
        if self.is_done() {
            return Ok(false);
        }
        let member = join(segment, deadline).map_err(|error| OnceError::Member(Box::new(error)))?;
        loop {
            if let Some(runs) = self.try_begin(self.hold(deadline)?, segment, member, force, me())? {
                return Ok(runs);
            }
            if deadline.is_some_and(Deadline::passed) {
                return Err(OnceError::TimedOut);
            }
            self.state.sleep(deadline, |state| state != RUNNING);
        }
    }

    /// Becomes the runner: false if it is done; `None` if somebody runs it.
    fn try_begin(
        &self,
        _held: Held<'_>,
        segment: &Segment,
        member: Member,
        force: bool,
        thread: u64,
    ) -> Result<Option<bool>, OnceError> {
        match self.state.state() {
            DONE => Ok(Some(false)),
            POISONED if !force => Err(OnceError::Poisoned { pid: self.pid.load(Ordering::Relaxed) }),
            RUNNING
                if self.is_run_by(member) && thread != 0 && self.thread.load(Ordering::Relaxed) == thread =>
            {
                Err(OnceError::Recursive)
            }
            // A number that no member has was not written by us.
            RUNNING if !self.runner().is_none_or(|runner| segment.is_dead(runner)) => Ok(None),
            _ => {
                self.thread.store(thread, Ordering::Relaxed);
                crash_point!("once.begin.named");
                self.runner.store(member.index() as u32 + 1, Ordering::Relaxed);
                crash_point!("once.begin.numbered");
                self.state.begin();
                crash_point!("once.begin.running");
                Ok(Some(true))
            }
        }
    }

    /// By the runner: it is over.
    fn end(&self, state: u32) {
        if state == POISONED {
            self.pid.store(Holder::current().pid, Ordering::Relaxed);
        }
        crash_point!("once.end.ready");
        self.state.end(state);
    }

    /// Waits until it is done; false at the deadline.
    fn wait(&self, deadline: Option<Deadline>) -> bool {
        loop {
            if self.is_done() {
                return true;
            }
            if deadline.is_some_and(Deadline::passed) {
                return false;
            }
            self.state.sleep(deadline, |state| state == DONE);
        }
    }

    /// Runs `f` if it is not done, and has it done after.
    fn run<T>(
        &self,
        segment: &Segment,
        force: bool,
        deadline: Option<Deadline>,
        f: impl FnOnce() -> T,
        last: impl FnOnce(T),
    ) -> Result<bool, OnceError> {
        if !self.begin(segment, force, deadline)? {
            return Ok(false);
        }
        let mut running = Running { words: self, done: false, generation: generation() };
        let value = f();
        if running.generation != generation() {
            return Err(OnceError::Recursive);
        }
        last(value);
        running.done = true;
        Ok(true)
    }

    fn debug(&self, segment: &Segment, f: &mut fmt::DebugStruct<'_, '_>) {
        match self.state.state() {
            NOT_DONE => f.field("state", &"not done"),
            RUNNING => f
                .field("state", &"running")
                .field("runner", &self.runner().and_then(|member| segment.pid_of(member))),
            DONE => f.field("state", &"done"),
            _ => f.field("state", &"poisoned").field("panicked", &self.pid.load(Ordering::Relaxed)),
        };
    }
}

/// The function runs; its end, whatever it is, is recorded.
struct Running<'a> {
    words: &'a OnceWords,
    done: bool,
    generation: u32,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        // A child that the function forked runs nothing.
        if self.generation == generation() {
            self.words.end(if self.done { DONE } else { POISONED });
        }
    }
}

/// Something that is to be done once, by whichever process comes first.
///
/// Clones stand for the same one; they go to other processes inside parcels. Where it is done, asking makes no system
/// call.
///
/// # When a process dies
///
/// If the process that runs the function dies, the next caller runs its own, also one that waits already, within half a
/// second: the function must be one that can follow a half of itself. A panic of the function poisons it, as in `std`.
///
/// # Examples
///
/// ```
/// use procession_sync::Once;
///
/// let once = Once::new()?;
/// assert!(once.call_once(|| println!("once"))?);
/// assert!(!once.clone().call_once(|| unreachable!())?);
/// assert!(once.is_completed());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Serialize, Deserialize)]
pub struct Once {
    handle: Handle<OnceWords>,
}

impl Once {
    /// One that is not done.
    ///
    /// # Errors
    ///
    /// No memory for it: see [`Segment::anonymous`](procession_shm::Segment::anonymous).
    pub fn new() -> Result<Once, Error> {
        Ok(Once { handle: Handle::new(0, |_| ())? })
    }

    /// Runs `f` if nobody has yet, or waits for whoever does. Tells whether it ran `f`; when this returns, it is done.
    ///
    /// # Errors
    ///
    /// * [`OnceError::Poisoned`]: a function panicked;
    /// * [`OnceError::Recursive`]: called by the function that this runs, or returned from in a child that it forked;
    /// * [`OnceError::Member`], [`OnceError::TooManyHeld`], [`OnceError::Damaged`].
    pub fn call_once(&self, f: impl FnOnce()) -> Result<bool, OnceError> {
        self.run(false, None, f)
    }

    /// As [`call_once`](Once::call_once), also if a function panicked.
    ///
    /// # Errors
    ///
    /// As [`call_once`](Once::call_once), but never [`OnceError::Poisoned`].
    pub fn call_once_force(&self, f: impl FnOnce()) -> Result<bool, OnceError> {
        self.run(true, None, f)
    }

    /// As [`call_once`](Once::call_once), but waits for others no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// As [`call_once`](Once::call_once), and [`OnceError::TimedOut`].
    pub fn call_once_timeout(&self, timeout: Duration, f: impl FnOnce()) -> Result<bool, OnceError> {
        self.run(false, Some(Deadline::after(timeout)), f)
    }

    /// As [`call_once`](Once::call_once), but waits for others no longer than until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`call_once`](Once::call_once), and [`OnceError::TimedOut`].
    pub fn call_once_deadline(&self, deadline: Deadline, f: impl FnOnce()) -> Result<bool, OnceError> {
        self.run(false, Some(deadline), f)
    }

    /// As [`call_once_force`](Once::call_once_force), but waits for others no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// As [`call_once_force`](Once::call_once_force), and [`OnceError::TimedOut`].
    pub fn call_once_force_timeout(&self, timeout: Duration, f: impl FnOnce()) -> Result<bool, OnceError> {
        self.run(true, Some(Deadline::after(timeout)), f)
    }

    /// As [`call_once_force`](Once::call_once_force), but waits for others no longer than until `deadline`.
    ///
    /// # Errors
    ///
    /// As [`call_once_force`](Once::call_once_force), and [`OnceError::TimedOut`].
    pub fn call_once_force_deadline(&self, deadline: Deadline, f: impl FnOnce()) -> Result<bool, OnceError> {
        self.run(true, Some(deadline), f)
    }

    fn run(&self, force: bool, deadline: Option<Deadline>, f: impl FnOnce()) -> Result<bool, OnceError> {
        self.handle.words().run(self.handle.place().segment(), force, deadline, f, |()| ())
    }

    /// Whether it is done.
    #[inline]
    #[must_use]
    pub fn is_completed(&self) -> bool {
        self.handle.words().is_done()
    }

    /// Waits until somebody has done it. It does not run anything.
    pub fn wait(&self) {
        self.handle.words().wait(None);
    }

    /// As [`wait`](Once::wait), but no longer than `timeout`: false if it was not done by then.
    #[must_use = "it tells whether the wait was for something"]
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        self.wait_deadline(Deadline::after(timeout))
    }

    /// As [`wait`](Once::wait), but no longer than until `deadline`: false if it was not done by then.
    #[must_use = "it tells whether the wait was for something"]
    pub fn wait_deadline(&self, deadline: Deadline) -> bool {
        self.handle.words().wait(Some(deadline))
    }

    /// Whether both stand for the same one.
    #[must_use]
    pub fn same(&self, other: &Once) -> bool {
        self.handle.same(&other.handle)
    }
}

impl fmt::Debug for Once {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = f.debug_struct("Once");
        self.handle.words().debug(self.handle.place().segment(), &mut f);
        f.finish()
    }
}
