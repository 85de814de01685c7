//! Functions with captured values, which are data and sent as such.

use std::fmt;

/// A function and the values it needs besides its argument; made by [`task!`](crate::task).
#[derive(Clone, Copy)]
pub struct Task<C, A, R> {
    pub(super) captures: C,
    pub(super) function: fn(&C, A) -> R,
}

impl<C, A, R> Task<C, A, R> {
    /// A task of a function that takes the captured values by reference, and its argument.
    #[must_use]
    pub fn new(captures: C, function: fn(&C, A) -> R) -> Task<C, A, R> {
        Task { captures, function }
    }

    /// Runs it, here.
    pub fn call(&self, argument: A) -> R {
        (self.function)(&self.captures, argument)
    }

    /// The captured values.
    #[must_use]
    pub fn captures(&self) -> &C {
        &self.captures
    }
}

impl<C: fmt::Debug, A, R> fmt::Debug for Task<C, A, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").field("captures", &self.captures).finish_non_exhaustive()
    }
}
