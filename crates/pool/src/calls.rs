//! More of Python's names, as thin methods on the lazy builder.

use crate::{Fallible, Inputs, Pool, Results, Task, TaskError, Tasks, Work, Zipped};
use procession_parcel::function::Arguments;
use serde::{Serialize, de::DeserializeOwned};
use std::{error::Error, time::Duration};

impl Pool {
    /// The calls `f(a, b, ..)` for each tuple of `items`, of two to six: as [`tasks`](Pool::tasks), for a function of several
    /// arguments.
    ///
    /// The function is given as a closure that captures nothing, whose arguments need no types; a named function `add`
    /// as `|a, b| add(a, b)`.
    pub fn star_tasks<A, R, I>(&self, f: A::Function<R>, items: I) -> Tasks<A, R, I::IntoIter>
    where
        I: IntoIterator<Item = A>,
        A: Arguments + Serialize,
        R: Serialize + DeserializeOwned + 'static,
    {
        self.tasks_of(Work::spread(f), items)
    }

    /// Calls `f(a, b, ..)` for each tuple of `items` and gives the values in their order. Waits for all of them.
    ///
    /// ```no_run
    /// let pool = procession_pool::Pool::new(2)?;
    /// let powers = pool.starmap(|base, exponent| u64::pow(base, exponent), [(2, 10), (3, 4)])?;
    /// assert_eq!(powers, [1024, 81]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The error of the first item that has one.
    pub fn starmap<A, R, I>(&self, f: A::Function<R>, items: I) -> Result<Vec<R>, TaskError>
    where
        I: IntoIterator<Item = A>,
        A: Arguments + Serialize,
        R: Serialize + DeserializeOwned + 'static,
    {
        self.star_tasks(f, items).collect()
    }

    /// As [`starmap`](Pool::starmap), without waiting. The whole input is taken at once.
    ///
    /// # Errors
    ///
    /// As [`Tasks::spawn`].
    pub fn starmap_async<A, R, I>(&self, f: A::Function<R>, items: I) -> Result<Task<Vec<R>>, TaskError>
    where
        I: IntoIterator<Item = A>,
        A: Arguments + Serialize,
        R: Serialize + DeserializeOwned + 'static,
    {
        self.star_tasks(f, items).spawn()
    }

    /// As [`map`](Pool::map), without waiting. The whole input is taken at once.
    ///
    /// # Errors
    ///
    /// As [`Tasks::spawn`].
    pub fn map_async<A, R, I>(&self, f: fn(A) -> R, items: I) -> Result<Task<Vec<R>>, TaskError>
    where
        I: IntoIterator<Item = A>,
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
    {
        self.tasks(f, items).spawn()
    }

    /// Python's name for [`submit`](Pool::submit).
    ///
    /// # Errors
    ///
    /// As [`submit`](Pool::submit).
    pub fn apply_async<A, R>(&self, f: fn(A) -> R, arg: A) -> Result<Task<R>, TaskError>
    where
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
    {
        self.submit(f, arg)
    }

    /// Calls `f` for each item, and waits for all of them.
    ///
    /// # Errors
    ///
    /// The error of an item that has one, the first in the order of time.
    pub fn for_each<A, I>(&self, f: fn(A), items: I) -> Result<(), TaskError>
    where
        I: IntoIterator<Item = A>,
        A: Serialize + DeserializeOwned + 'static,
    {
        self.tasks(f, items).run()
    }

    /// The calls `f(a, b, ..)` for the items of several inputs side by side, as many as the shortest has: the `map` of Python's
    /// executors. It is lazy: inputs may be infinite.
    ///
    /// ```no_run
    /// let pool = procession_pool::Pool::new(2)?;
    /// let sums = pool.map_zip(|a: u32, b: u32, c: u32| a + b + c, ([1, 2], [10, 20], 100..)).collect()?;
    /// assert_eq!(sums, [111, 123]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn map_zip<T, R>(
        &self,
        f: <T::Item as Arguments>::Function<R>,
        inputs: T,
    ) -> Tasks<T::Item, R, Zipped<T::Iterators>>
    where
        T: Inputs,
        T::Item: Arguments + Serialize,
        Zipped<T::Iterators>: Iterator<Item = T::Item>,
        R: Serialize + DeserializeOwned + 'static,
    {
        self.tasks_of(Work::spread(f), inputs.zip())
    }

    /// As [`imap`](Pool::imap), within a total time that counts from now: see [`Tasks::timeout`].
    pub fn map_timeout<A, R, I>(&self, f: fn(A) -> R, items: I, total: Duration) -> Results<A, R, I::IntoIter>
    where
        I: IntoIterator<Item = A>,
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
    {
        self.tasks(f, items).timeout(total).ordered()
    }

    /// As [`tasks`](Pool::tasks), for an input whose items may be errors: each `Err` is that item's [`TaskError::Input`].
    /// [`collect`](Tasks::collect) runs all the others first, [`try_collect`](Tasks::try_collect) stops there.
    pub fn tasks_try<A, R, E, I>(&self, f: fn(A) -> R, input: I) -> Tasks<A, R, Fallible<I::IntoIter>>
    where
        I: IntoIterator<Item = Result<A, E>>,
        A: Serialize + DeserializeOwned + 'static,
        R: Serialize + DeserializeOwned + 'static,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        self.tasks_try_of(Work::function(f), input)
    }

    /// As [`tasks_try`](Pool::tasks_try), for any kind of [`Work`].
    pub fn tasks_try_of<A, R, E, I>(&self, work: Work<A, R>, input: I) -> Tasks<A, R, Fallible<I::IntoIter>>
    where
        I: IntoIterator<Item = Result<A, E>>,
        A: Serialize + 'static,
        R: DeserializeOwned + 'static,
        E: Into<Box<dyn Error + Send + Sync>>,
    {
        self.tasks_of_input(work, Fallible(input.into_iter()))
    }
}
