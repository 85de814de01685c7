//! Work on the elements of a [`SharedVec`], in place, by workers to which its owner lends them.
//!
//! The block stays its owner's: for the time of the call it is lent to the ends of the pool's ring, part by part
//! (see [`HeapRing::lend`](procession_shm::HeapRing::lend)). What crosses for a chunk is its number. Who is in a part has it locked,
//! so no two workers are in one, also if an item is tried again; and the call gives the elements back only when nobody is in
//! any part of them.
//!
//! A function gets its chunk for the time of its call only: its type holds for every lifetime, so that a chunk cannot be kept.
#![expect(unsafe_code, reason = "parts of what is lent, and a lifetime that a function's type cannot say")]

use crate::{Pool, TaskError, Work, loads::with_worker_ring};
use procession_parcel::{Task, function::Function};
use procession_shm::{Loan, Plain, SharedVec};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    fmt,
    ops::{Deref, DerefMut, Range},
};

/// Elements of a [`SharedVec`], lent to a worker for a call: a `&mut [T]` into the shared memory.
pub struct LentChunk<'a, T> {
    elements: &'a mut [T],
    start: usize,
}

impl<T> LentChunk<'_, T> {
    /// The number of the first of them in the whole.
    #[must_use]
    pub fn start(&self) -> usize {
        self.start
    }

    /// Which elements these are, by their numbers in the whole.
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        self.start..self.start + self.elements.len()
    }
}

impl<T> Deref for LentChunk<'_, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.elements
    }
}

impl<T> DerefMut for LentChunk<'_, T> {
    fn deref_mut(&mut self) -> &mut [T] {
        self.elements
    }
}

impl<T> fmt::Debug for LentChunk<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LentChunk").field("range", &self.range()).finish_non_exhaustive()
    }
}

/// The chunks of a [`SharedVec`], on which functions can be run; made by [`Pool::par_chunks_lent`].
///
/// # When a worker dies
///
/// Its chunk's item fails, or is tried again where the pool was made so ([`retry`](crate::Builder::retry)), on elements that
/// it may have changed in part. The elements are the caller's again when nobody works on them: a call ends only when whoever
/// was in the middle of a chunk has left it, or is dead.
///
/// When this process dies, its workers do, and the next sweep of the heap frees the elements.
#[derive(Debug)]
#[must_use = "chunks do nothing until a function is run on them"]
pub struct LentChunks<'a, T: Plain> {
    pool: &'a Pool,
    elements: &'a mut SharedVec<T>,
    len: usize,
}

/// What the pool runs for a chunk.
fn on_part<C, T, R>(
    (loan, task): &(Loan, Task<C, LentChunk<'static, T>, R>),
    index: u64,
) -> Result<R, Box<dyn std::error::Error + Send + Sync>>
where
    T: Plain,
{
    with_worker_ring(|ring| {
        let ring = ring.ok_or("this worker's pool has no heap")?;
        // SAFETY: what a worker is given comes from `LentChunks::results` of this pool, which lent elements of type `T` to
        // its ring, of which this is an end.
        let mut part = unsafe { ring.enter::<T>(*loan, index) }?;
        let start = part.range().start;
        let elements: *mut [T] = part.elements();
        // SAFETY: they are this function's until `part` is dropped. The function that gets them was made of one that takes
        // chunks of every lifetime, and whose result is of one type for all: it cannot keep them.
        let elements = unsafe { &mut *elements };
        Ok(task.call(LentChunk { elements, start }))
    })
}

impl<T: Plain> LentChunks<'_, T> {
    /// Runs `f` on each chunk, and gives what became of each, in their order. All have been tried by then.
    ///
    /// # Errors
    ///
    /// [`TaskError::BadArguments`]: the elements do not lie in the heap that the pool was made on
    /// ([`Builder::heap`](crate::Builder::heap)), or are not here.
    pub fn results<C, R>(
        &mut self,
        captures: C,
        f: for<'c> fn(&C, LentChunk<'c, T>) -> R,
    ) -> Result<Vec<Result<R, TaskError>>, TaskError>
    where
        C: Serialize + DeserializeOwned + Send + Sync + 'static,
        R: Serialize + DeserializeOwned + 'static,
    {
        // A function for every lifetime is one for this lifetime; `on_part` relies on where it came from.
        self.run(Task::new(captures, f as fn(&C, LentChunk<'static, T>) -> R))
    }

    /// Runs `f` on each chunk with captured data, which goes to each worker once, and gives the values in the order of the
    /// chunks.
    ///
    /// # Errors
    ///
    /// As [`results`](LentChunks::results); the error of the first chunk that has one. All have been tried by then.
    pub fn map_with<C, R>(
        &mut self,
        captures: C,
        f: for<'c> fn(&C, LentChunk<'c, T>) -> R,
    ) -> Result<Vec<R>, TaskError>
    where
        C: Serialize + DeserializeOwned + Send + Sync + 'static,
        R: Serialize + DeserializeOwned + 'static,
    {
        self.results(captures, f)?.into_iter().collect()
    }

    /// Runs `f` on each chunk with captured data, and waits for all of them.
    ///
    /// # Errors
    ///
    /// As [`map_with`](LentChunks::map_with).
    pub fn for_each_with<C>(
        &mut self,
        captures: C,
        f: for<'c> fn(&C, LentChunk<'c, T>),
    ) -> Result<(), TaskError>
    where
        C: Serialize + DeserializeOwned + Send + Sync + 'static,
    {
        self.map_with(captures, f).map(drop)
    }
}

impl<T: Plain> LentChunks<'_, T> {
    /// Runs `f` on each chunk, and gives the values in the order of the chunks.
    ///
    /// # Errors
    ///
    /// As [`map_with`](LentChunks::map_with).
    pub fn map<R>(&mut self, f: for<'c> fn(LentChunk<'c, T>) -> R) -> Result<Vec<R>, TaskError>
    where
        R: Serialize + DeserializeOwned + 'static,
    {
        // As in `results`: it is called with chunks of shorter lives than its type says, which it holds for.
        let function = Function::new(f as fn(LentChunk<'static, T>) -> R);
        self.run(Task::new(function, Function::call))?.into_iter().collect()
    }

    /// Runs `f` on each chunk, and waits for all of them.
    ///
    /// # Errors
    ///
    /// As [`map_with`](LentChunks::map_with).
    pub fn for_each(&mut self, f: for<'c> fn(LentChunk<'c, T>)) -> Result<(), TaskError> {
        self.map(f).map(drop)
    }

    /// The function of `task` must have been made of one that takes chunks of every lifetime.
    fn run<C, R>(
        &mut self,
        task: Task<C, LentChunk<'static, T>, R>,
    ) -> Result<Vec<Result<R, TaskError>>, TaskError>
    where
        C: Serialize + DeserializeOwned + Send + Sync + 'static,
        R: Serialize + DeserializeOwned + 'static,
    {
        let shared = &self.pool.shared;
        if !shared.is_ours() {
            return Err(TaskError::ForkedCopy);
        }
        let loads = shared.loads.as_ref().ok_or_else(|| {
            TaskError::BadArguments("the pool was not made on the heap that the elements lie in".to_owned())
        })?;
        let lending = loads.lend(self.elements, self.len)?;
        let loan = lending.loan();
        let task = Task::new((loan, task), on_part);
        let tasks = self.pool.tasks_of(Work::fallible_task(&task), 0..loan.parts());
        let results = tasks.chunk_size(1).collect_results();
        // Waits until nobody is in a part.
        drop(lending);
        Ok(results)
    }
}

impl Pool {
    /// The chunks of `len` elements of a [`SharedVec`], the last one of what is left, to run functions on in place: each gets
    /// a `&mut [T]` into the shared memory, and nobody else has any element of it. The pool must have been made on the heap
    /// of the elements.
    ///
    /// ```no_run
    /// use procession_pool::Pool;
    /// use procession_shm::Heap;
    ///
    /// let heap = Heap::new()?;
    /// let pool = Pool::builder().workers(2).heap(&heap).build()?;
    /// let mut numbers = heap.vec::<f64>(1_000_000)?;
    /// pool.par_chunks_lent(&mut numbers, 10_000).for_each_with(0.5, |step, mut chunk| {
    ///     let start = chunk.start();
    ///     for (index, x) in chunk.iter_mut().enumerate() {
    ///         *x = (start + index) as f64 * step;
    ///     }
    /// })?;
    /// assert_eq!(numbers[10], 5.0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Panics
    ///
    /// `len` is 0.
    pub fn par_chunks_lent<'a, T: Plain>(
        &'a self,
        elements: &'a mut SharedVec<T>,
        len: usize,
    ) -> LentChunks<'a, T> {
        assert!(len > 0, "chunks have elements");
        LentChunks { pool: self, elements, len }
    }
}
