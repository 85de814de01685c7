//! A state that one thread works with at a time, for as long as it likes.

use procession_sys::Deadline;
use std::{
    ops::{Deref, DerefMut},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

/// A lock whose holder may block, so those who wait for it have deadlines.
pub(super) struct Turn<T> {
    place: Mutex<Option<T>>,
    back: Condvar,
}

/// The state, until it is dropped.
pub(super) struct Held<'a, T> {
    turn: &'a Turn<T>,
    /// There until the drop.
    value: Option<T>,
}

impl<T> Turn<T> {
    pub(super) fn new(value: T) -> Turn<T> {
        Turn { place: Mutex::new(Some(value)), back: Condvar::new() }
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
    }
}
