//! [`Event`]: something that has happened, or has not yet.
//!
//! The word and its protocol are in [`event_word`](crate::event_word): no lock, no record of who waits, so that nobody's
//! death leaves anything to repair.

#[cfg(feature = "async")]
use crate::later::{Later, Try, WordOf};
use crate::{
    Error,
    arena::{Handle, Shared, Tag},
    event_word::EventWord,
    spin,
};
use procession_sys::Deadline;
use serde::{Deserialize, Serialize};
use std::{fmt, time::Duration};

/// What lies in shared memory.
#[repr(C)]
pub(crate) struct EventWords {
    tag: Tag,
    word: EventWord,
}

#[expect(unsafe_code, reason = "declares what may lie in a slot")]
// SAFETY: `repr(C)` with a tag in front; an atomic, for which zero is an event that is not set.
unsafe impl Shared for EventWords {
    const KIND: u16 = 20;
    const NAME: &'static str = "an Event";
}

/// A flag that processes and threads set, clear and wait for.
///
/// Clones stand for the same event; they go to other processes inside parcels. Setting one for which nobody sleeps,
/// clearing it, and waiting for one that is set make no system call. What was written before [`set`](Event::set) can be
/// read after the wait that it ended.
///
/// # When a process dies
///
/// Nothing is left to repair: a killed waiter costs the next setter a system call at most. An event that a killed process
/// had set stays set; if it died before it woke the sleepers, they notice within a quarter of a second. Nobody can tell
/// who should have set an event, so a wait for a dead process's event goes on: use a deadline, or watch the process.
///
/// # Examples
///
/// ```
/// use procession_sync::Event;
/// use std::time::Duration;
///
/// let ready = Event::new()?;
/// let other = ready.clone();
/// let thread = std::thread::spawn(move || other.wait());
/// ready.set();
/// thread.join().unwrap();
/// assert!(ready.is_set());
/// ready.clear();
/// assert!(!ready.wait_timeout(Duration::from_millis(1)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Serialize, Deserialize)]
pub struct Event {
    handle: Handle<EventWords>,
}

impl Event {
    /// An event that is not set.
    ///
    /// # Errors
    ///
    /// No memory for it: see [`Segment::anonymous`](procession_shm::Segment::anonymous).
    pub fn new() -> Result<Event, Error> {
        Ok(Event { handle: Handle::new(0, |_| ())? })
    }

    fn word(&self) -> &EventWord {
        &self.handle.words().word
    }

    /// Sets it and wakes everybody who waits. Tells whether it was clear before.
    #[inline]
    pub fn set(&self) -> bool {
        self.word().set()
    }

    /// Clears it: later waits wait again. Tells whether it was set before.
    #[inline]
    pub fn clear(&self) -> bool {
        self.word().clear()
    }

    /// Whether it is set.
    #[inline]
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.word().is_set()
    }

    /// Waits until it is set, or was set since the call, even if it was cleared again at once.
    #[inline]
    pub fn wait(&self) {
        self.wait_until(None);
    }

    /// As [`wait`](Event::wait), but no longer than `timeout`: false if it was not set within that.
    #[inline]
    #[must_use = "it tells whether the wait was for something"]
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        self.is_set() || self.wait_until(Some(Deadline::after(timeout)))
    }

    /// As [`wait`](Event::wait), but no longer than until `deadline`: false if it was not set by then.
    #[inline]
    #[must_use = "it tells whether the wait was for something"]
    pub fn wait_deadline(&self, deadline: Deadline) -> bool {
        self.wait_until(Some(deadline))
    }

    #[inline]
    fn wait_until(&self, deadline: Option<Deadline>) -> bool {
        self.is_set() || spin::with(|spin| self.word().wait(deadline, spin))
    }

    /// As [`wait`](Event::wait), as a future for any executor (feature `async`). It can be dropped at any time.
    #[cfg(feature = "async")]
    pub fn wait_async(&self) -> impl Future<Output = ()> + Send + '_ {
        Later::new(Set { event: self, first: self.word().first() })
    }

    /// Whether both stand for the same event.
    #[must_use]
    pub fn same(&self, other: &Event) -> bool {
        self.handle.same(&other.handle)
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event").field("set", &self.is_set()).finish()
    }
}

/// A wait that began when the word was `first`.
#[cfg(feature = "async")]
struct Set<'a> {
    event: &'a Event,
    first: u32,
}

#[cfg(feature = "async")]
impl Try for Set<'_> {
    type Output = ();

    fn attempt(&self, _: bool) -> Option<()> {
        self.event.word().was_set(self.first).then_some(())
    }

    fn flag(&self) -> Option<u32> {
        Some(self.event.word().flag())
    }

    fn word(&self) -> std::sync::Arc<dyn procession_sys::waker::Word> {
        let handle = self.event.handle.clone();
        std::sync::Arc::new(WordOf { handle, find: |words| words.word.word(), one: false, fired: |_| () })
    }
}
