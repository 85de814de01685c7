//! A state that one thread or future works with at a time, for as long as it likes.

use procession_sys::Deadline;
use std::{
    ops::{Deref, DerefMut},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

/// A lock whose holder may block, so those who wait for it have deadlines, or wakers.
pub(super) struct Turn<T> {
    place: Mutex<Option<T>>,
    back: Condvar,
    /// Pushed to under `place`'s lock only.
    #[cfg(feature = "async")]
    wakers: Mutex<Vec<std::task::Waker>>,
}

/// The state, until it is dropped.
pub(super) struct Held<'a, T> {
    turn: &'a Turn<T>,
    /// There until the drop.
    value: Option<T>,
}

impl<T> Turn<T> {
    pub(super) fn new(value: T) -> Turn<T> {
        Turn {
            place: Mutex::new(Some(value)),
            back: Condvar::new(),
            #[cfg(feature = "async")]
            wakers: Mutex::default(),
        }
    }

    fn place(&self) -> MutexGuard<'_, Option<T>> {
        // Nothing under this lock panics.
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the state; nothing if others have it until `deadline`.
    pub(super) fn take(&self, deadline: Option<Deadline>) -> Option<Held<'_, T>> {
        let mut place = self.place();
        loop {
            if let Some(value) = place.take() {
                return Some(Held { turn: self, value: Some(value) });
            }
            place = match deadline {
                None => self.back.wait(place).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) if deadline.passed() => return None,
                Some(deadline) => {
                    let waited = self.back.wait_timeout(place, deadline.remaining());
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Takes the state, or has `waker` woken when it is back.
    #[cfg(feature = "async")]
    pub(super) fn poll(&self, waker: &std::task::Waker) -> Option<Held<'_, T>> {
        // Foreign code, so under no lock.
        let waker = waker.clone();
        let mut place = self.place();
        let Some(value) = place.take() else {
            self.wakers.lock().unwrap_or_else(PoisonError::into_inner).push(waker);
            return None;
        };
        drop(place);
        Some(Held { turn: self, value: Some(value) })
    }
}

impl<T> Deref for Held<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        match &self.value {
            Some(value) => value,
            None => unreachable!("only the drop takes it"),
        }
    }
}

impl<T> DerefMut for Held<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        match &mut self.value {
            Some(value) => value,
            None => unreachable!("only the drop takes it"),
        }
    }
}

impl<T> Drop for Held<'_, T> {
    fn drop(&mut self) {
        *self.turn.place() = self.value.take();
        self.turn.back.notify_one();
        #[cfg(feature = "async")]
        {
            let wakers =
                std::mem::take(&mut *self.turn.wakers.lock().unwrap_or_else(PoisonError::into_inner));
            wakers.into_iter().for_each(std::task::Waker::wake);
        }
    }
}
