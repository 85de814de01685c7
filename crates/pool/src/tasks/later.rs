//! Waiting for all results without a thread.

use super::{Input, Results, Tasks};
use crate::TaskError;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    fmt,
    future::{Future, IntoFuture},
    pin::Pin,
    task::{Context, Poll, ready},
};

/// All values of a call, to be awaited; made by awaiting [`Tasks`]. It comes to what [`Tasks::collect`] gives.
///
/// It begins when it is first polled, and works under any executor: where nobody waits in another way, the pool's keeper
/// goes on and wakes it. Dropping it cancels the rest.
#[must_use = "a future does nothing unless it is awaited"]
pub struct Collecting<A, R, I> {
    results: Results<A, R, I>,
    values: Vec<R>,
    first_error: Option<TaskError>,
}

impl<A, R, I> Unpin for Collecting<A, R, I> {}

impl<A, R, I> Future for Collecting<A, R, I>
where
    I: Input<A>,
    A: Serialize + 'static,
    R: DeserializeOwned + 'static,
{
    type Output = Result<Vec<R>, TaskError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            match ready!(self.results.poll_next(context)) {
                Some(Ok(value)) => self.values.push(value),
                Some(Err(error)) => {
                    self.first_error.get_or_insert(error);
                }
                None => {
                    let values = std::mem::take(&mut self.values);
                    return Poll::Ready(self.first_error.take().map_or(Ok(values), Err));
                }
            }
        }
    }
}

impl<A, R, I> IntoFuture for Tasks<A, R, I>
where
    I: Input<A>,
    A: Serialize + 'static,
    R: DeserializeOwned + 'static,
{
    type Output = Result<Vec<R>, TaskError>;
    type IntoFuture = Collecting<A, R, I>;

    fn into_future(mut self) -> Collecting<A, R, I> {
        self.how.cancellable = true;
        Collecting { results: self.start_awaited(), values: Vec::new(), first_error: None }
    }
}

impl<A, R, I> fmt::Debug for Collecting<A, R, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collecting").field("results", &self.results).finish_non_exhaustive()
    }
}
