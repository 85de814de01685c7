//! What the items of a call come from.

use crate::TaskError;
use std::{error::Error, fmt, sync::Arc};

/// What the items of a call come from: any iterator over them, or one whose items may be errors
/// ([`Pool::tasks_try`](crate::Pool::tasks_try)).
pub trait Input<A>: sealed::Sealed<A> {
    /// The next item, or why there is none in its place.
    fn next_item(&mut self) -> Option<Result<A, TaskError>>;

    /// At least and at most how many items are left, as of an iterator.
    fn bounds(&self) -> (usize, Option<usize>);
}

mod sealed {
    pub trait Sealed<A> {}
    impl<A, I: Iterator<Item = A>> Sealed<A> for I {}
    impl<A, I> Sealed<A> for super::Fallible<I> {}
}

impl<A, I: Iterator<Item = A>> Input<A> for I {
    #[inline]
    fn next_item(&mut self) -> Option<Result<A, TaskError>> {
        self.next().map(Ok)
    }

    fn bounds(&self) -> (usize, Option<usize>) {
        self.size_hint()
    }
}

/// An input whose items may be errors. Each error is that item's [`TaskError::Input`].
pub struct Fallible<I>(pub(crate) I);

impl<A, E, I> Input<A> for Fallible<I>
where
    I: Iterator<Item = Result<A, E>>,
    E: Into<Box<dyn Error + Send + Sync>>,
{
    fn next_item(&mut self) -> Option<Result<A, TaskError>> {
        let item = self.0.next()?;
        Some(item.map_err(|error| TaskError::Input(Arc::from(error.into()))))
    }

    fn bounds(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl<I> fmt::Debug for Fallible<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fallible")
    }
}
