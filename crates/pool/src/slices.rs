//! Work on shared arrays, in place: what crosses for a chunk is its range and the result.
//!
//! A worker takes the chunk that it is given as a part of the array ([`Array::part`]), for as long as the function
//! runs, so nobody else has any element of it, whoever asks. The array goes to each worker once, with the function.

use crate::{Pool, TaskError, Tasks, Work};
use procession_parcel::{Task, function::Function};
use procession_sync::{Array, ArrayChunk, PartError, bytemuck::Pod};
use serde::{Serialize, de::DeserializeOwned};
use std::{iter::FusedIterator, ops::Range};

/// The chunks of a shared array, on which functions can be run; made by [`Pool::par_chunks_mut`].
///
/// A function gets an [`ArrayChunk`], which is a `&mut [T]` into the shared memory and knows its place in the array.
/// No element is copied, so the cost of a chunk does not grow with its size.
///
/// # When a worker dies
///
/// Its chunk's item fails, or is tried again (`retry`), on elements that it may have changed in part. In both cases the
/// array is poisoned, as [`ArrayPart`](procession_sync::ArrayPart) says; an array is also poisoned by a function that
/// panics. [`Array::clear_poison`] says that the elements are right.
///
/// # Errors
///
/// An item fails with [`TaskError::Failed`] where somebody else has the array's lock's data or a part that overlaps its
/// chunk: chunks are disjoint from all parts there are, not only from each other.
#[derive(Debug)]
#[must_use = "chunks do nothing until a function is run on them"]
pub struct Chunks<'a, T> {
    pool: &'a Pool,
    array: &'a Array<T>,
    len: usize,
}

impl<T: Pod + Send + Sync> Chunks<'_, T> {
    /// The calls `f(chunk)` for each chunk: a builder, with deadlines, retries and all of the pool's ways to take
    /// results.
    pub fn tasks<R>(&self, f: fn(ArrayChunk<T>) -> R) -> Tasks<Range<usize>, R, Ranges>
    where
        R: Serialize + DeserializeOwned + 'static,
    {
        let captures = (self.array.clone(), Function::new(f));
        let run = |(array, f): &(Array<T>, Function<ArrayChunk<T>, R>), range: Range<usize>| {
            let chunk = array.part(range)?.stay()?;
            Ok::<R, PartError>(f.call(chunk))
        };
        self.pool.tasks_of(Work::fallible_task(&Task::new(captures, run)), self.ranges())
    }

    /// As [`tasks`](Chunks::tasks), with a [`task!`](crate::task) and its captured data, which goes to each worker once.
    pub fn tasks_with<C, R>(&self, task: &Task<C, ArrayChunk<T>, R>) -> Tasks<Range<usize>, R, Ranges>
    where
        C: Serialize + DeserializeOwned + Clone + Send + Sync + 'static,
        R: Serialize + DeserializeOwned + 'static,
    {
        let captures = (self.array.clone(), task.clone());
        let run = |(array, task): &(Array<T>, Task<C, ArrayChunk<T>, R>), range: Range<usize>| {
            let chunk = array.part(range)?.stay()?;
            Ok::<R, PartError>(task.call(chunk))
        };
        self.pool.tasks_of(Work::fallible_task(&Task::new(captures, run)), self.ranges())
    }

    /// Runs `f` on each chunk, and waits for all of them.
    ///
    /// # Errors
    ///
    /// The error of the first chunk that has one.
    pub fn for_each(&self, f: fn(ArrayChunk<T>)) -> Result<(), TaskError> {
        self.tasks(f).chunk_size(1).collect().map(drop)
    }

    /// As [`for_each`](Chunks::for_each), with captured data.
    ///
    /// # Errors
    ///
    /// The error of the first chunk that has one.
    pub fn for_each_with<C>(&self, task: &Task<C, ArrayChunk<T>, ()>) -> Result<(), TaskError>
    where
        C: Serialize + DeserializeOwned + Clone + Send + Sync + 'static,
    {
        self.tasks_with(task).chunk_size(1).collect().map(drop)
    }

    /// Runs `f` on each chunk, and gives the values in the order of the chunks.
    ///
    /// # Errors
    ///
    /// The error of the first chunk that has one.
    pub fn map<R>(&self, f: fn(ArrayChunk<T>) -> R) -> Result<Vec<R>, TaskError>
    where
        R: Serialize + DeserializeOwned + 'static,
    {
        self.tasks(f).chunk_size(1).collect()
    }

    /// As [`map`](Chunks::map), with captured data.
    ///
    /// # Errors
    ///
    /// The error of the first chunk that has one.
    pub fn map_with<C, R>(&self, task: &Task<C, ArrayChunk<T>, R>) -> Result<Vec<R>, TaskError>
    where
        C: Serialize + DeserializeOwned + Clone + Send + Sync + 'static,
        R: Serialize + DeserializeOwned + 'static,
    {
        self.tasks_with(task).chunk_size(1).collect()
    }

    fn ranges(&self) -> Ranges {
        Ranges { next: 0, end: self.array.len(), len: self.len }
    }
}

/// Consecutive ranges of one length, the last one of what is left.
#[derive(Clone, Debug)]
pub struct Ranges {
    next: usize,
    end: usize,
    len: usize,
}

impl Iterator for Ranges {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        if self.next >= self.end {
            return None;
        }
        let range = self.next..self.end.min(self.next.saturating_add(self.len));
        self.next = range.end;
        Some(range)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = (self.end - self.next).div_ceil(self.len);
        (left, Some(left))
    }
}

impl ExactSizeIterator for Ranges {}
impl FusedIterator for Ranges {}

impl Pool {
    /// The chunks of `len` elements of a shared array, the last one of what is left, to run functions on in place.
    ///
    /// ```no_run
    /// use procession_pool::{Pool, task};
    /// use procession_sync::Array;
    ///
    /// let pool = Pool::new(2)?;
    /// let array = Array::<f64>::new(1_000_000)?;
    /// let step = 0.5;
    /// pool.par_chunks_mut(&array, 10_000).for_each_with(&task!(
    ///     |mut chunk: procession_sync::ArrayChunk<f64>| {
    ///         let start = chunk.start();
    ///         for (index, x) in chunk.iter_mut().enumerate() {
    ///             *x = (start + index) as f64 * step;
    ///         }
    ///     };
    ///     step
    /// ))?;
    /// let sums = pool.map_slices(&array, 10_000, |chunk| chunk.iter().sum::<f64>())?;
    /// assert_eq!(sums.len(), 100);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Panics
    ///
    /// `len` is 0.
    pub fn par_chunks_mut<'a, T: Pod + Send + Sync>(
        &'a self,
        array: &'a Array<T>,
        len: usize,
    ) -> Chunks<'a, T> {
        assert!(len > 0, "chunks have elements");
        Chunks { pool: self, array, len }
    }

    /// Runs `f` on each chunk of `len` elements of a shared array, in place. See [`Chunks`].
    ///
    /// # Errors
    ///
    /// The error of the first chunk that has one. All have been tried by then.
    ///
    /// # Panics
    ///
    /// `len` is 0.
    pub fn for_each_chunk<T: Pod + Send + Sync>(
        &self,
        array: &Array<T>,
        len: usize,
        f: fn(ArrayChunk<T>),
    ) -> Result<(), TaskError> {
        self.par_chunks_mut(array, len).for_each(f)
    }

    /// Runs `f` on each chunk of `len` elements of a shared array, without copying them, and gives its values in the
    /// order of the chunks. See [`Chunks`].
    ///
    /// # Errors
    ///
    /// The error of the first chunk that has one. All have been tried by then.
    ///
    /// # Panics
    ///
    /// `len` is 0.
    pub fn map_slices<T: Pod + Send + Sync, R>(
        &self,
        array: &Array<T>,
        len: usize,
        f: fn(ArrayChunk<T>) -> R,
    ) -> Result<Vec<R>, TaskError>
    where
        R: Serialize + DeserializeOwned + 'static,
    {
        self.par_chunks_mut(array, len).map(f)
    }
}
