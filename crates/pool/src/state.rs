//! Work that is called with the state of its worker.

use crate::Work;
use procession_parcel::{Erased, Error, Function, Parcel, Task, function::set_local_state};
use serde::{Serialize, de::DeserializeOwned};

impl<A, R> Work<A, R>
where
    A: DeserializeOwned + 'static,
    R: Serialize + DeserializeOwned + 'static,
{
    /// A function that is called with the state of the worker that runs it: see
    /// [`Builder::worker_state`](crate::Builder::worker_state). In a pool without such a state, or with one of another
    /// type, the item fails with [`TaskError::BadArguments`](crate::TaskError::BadArguments).
    ///
    /// A call that panics leaves the state as it was at that moment. A worker that dies takes its state along; its
    /// replacement makes a new one.
    ///
    /// ```no_run
    /// use procession_pool::{Pool, Work};
    ///
    /// let pool = Pool::builder().workers(2).worker_state(|()| 0_u64, ()).build()?;
    /// let count = Work::with_state(|seen: &mut u64, n: u64| { *seen += 1; (n, *seen) });
    /// for (n, nth_of_its_worker) in pool.tasks_of(count, 0..10).collect()? {
    ///     println!("{n} {nth_of_its_worker}");
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn with_state<S: 'static>(f: fn(&mut S, A) -> R) -> Work<A, R> {
        Work::new(Erased::with_local_state(f))
    }

    /// The function that this program, or the workers' program, has registered under `name` (see
    /// [`register!`](procession_parcel::register)). Where it is not registered, or has other types, each item fails with
    /// [`TaskError::BadArguments`](crate::TaskError::BadArguments).
    #[must_use]
    pub fn named(name: &str) -> Work<A, R> {
        Work::new(Ok(Erased::named_unchecked(name)))
    }
}

/// What a worker calls to make its state.
pub(crate) fn maker<A, S>(init: fn(A) -> S, arg: &A) -> Result<(Erased, Parcel), Error>
where
    A: Serialize + DeserializeOwned + 'static,
    S: 'static,
{
    let make = Task::new(Function::new(init), |init: &Function<A, S>, arg| set_local_state(init.call(arg)));
    Ok((Erased::of_task(&make)?, Parcel::pack(arg)?))
}
