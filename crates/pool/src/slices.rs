//! Work on shared arrays, in place: what crosses for a chunk is its range and the result.
//!
//! A worker takes the chunk that it is given as a part of the array ([`Array::part`]), for as long as the function
//! runs, so nobody else has any element of it, whoever asks; of a [`SharedSlice`], which cannot be changed, it looks at
//! its chunk. The array goes to each worker once, with the function. Of a [`SharedVec`](procession_shm::SharedVec), which
//! has one owner, see `lent`.

mod lent;

pub use lent::{LentChunk, LentChunks};

use crate::{Pool, TaskError, Tasks, Work};
use procession_parcel::{Task, function::Function};
use procession_shm::{Plain, SharedSlice};
use procession_sync::{Array, ArrayChunk, PartError, bytemuck::Pod};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    any::Any,
    iter::FusedIterator,
    ops::{Deref, Range},
    sync::{Mutex, PoisonError},
};

/// Shared elements of which workers can be given chunks: an [`Array`], or a [`SharedSlice`].
///
/// It is sealed: what a chunk may be is a matter of trust.
pub trait Slices: sealed::Sealed + Clone + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// What a function gets: the elements of one chunk, in place.
    type Chunk: 'static;

    /// How many elements there are.
    fn elements(&self) -> usize;

    /// The elements of `range`, for as long as the chunk lives.
    #[doc(hidden)]
    fn take(&self, range: Range<usize>) -> Result<Self::Chunk, PartError>;
}

mod sealed {
    pub trait Sealed {}
    impl<T> Sealed for procession_sync::Array<T> {}
    impl<T: procession_shm::Plain> Sealed for procession_shm::SharedSlice<T> {}
}

/// A chunk is an [`ArrayChunk`]: nobody else has any of its elements meanwhile.
impl<T: Pod + Send + Sync> Slices for Array<T> {
    type Chunk = ArrayChunk<T>;

    fn elements(&self) -> usize {
        self.len()
    }

    fn take(&self, range: Range<usize>) -> Result<ArrayChunk<T>, PartError> {
        self.part(range)?.stay().map_err(|refused| refused.0)
    }
}

/// A chunk is a [`SharedChunk`]: it can be read only, by everybody.
impl<T: Plain> Slices for SharedSlice<T> {
    type Chunk = SharedChunk<T>;

    fn elements(&self) -> usize {
        self.len()
    }

    fn take(&self, range: Range<usize>) -> Result<SharedChunk<T>, PartError> {
        Ok(SharedChunk { slice: self.clone(), range })
    }
}

/// Elements of a [`SharedSlice`]: a `&[T]` into the shared memory.
#[derive(Clone, Debug)]
pub struct SharedChunk<T: Plain> {
    slice: SharedSlice<T>,
    range: Range<usize>,
}

impl<T: Plain> SharedChunk<T> {
    /// Which elements these are, by their numbers in the whole.
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// The number of the first of them.
    #[must_use]
    pub fn start(&self) -> usize {
        self.range.start
    }
}

impl<T: Plain> Deref for SharedChunk<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.slice[self.range.clone()]
    }
}

/// The chunks of shared elements, on which functions can be run; made by [`Pool::par_chunks_mut`].
///
/// A function gets an [`ArrayChunk`], which is a `&mut [T]` into the shared memory and knows its place in the array; or,
/// of a [`SharedSlice`], a [`SharedChunk`], which is a `&[T]`. No element is copied, so the cost of a chunk does not
/// grow with its size.
///
/// Workers keep the elements mapped as long as this lives: the same function, run again, finds them as it left them. Each
/// call of [`Pool::map_slices`] or [`Pool::for_each_chunk`] maps them anew.
///
/// # When a worker dies
///
/// Its chunk's item fails, or is tried again (`retry`), on elements that it may have changed in part. In both cases the
/// array is poisoned, as [`ArrayPart`](procession_sync::ArrayPart) says; an array is also poisoned by a function that
/// panics. [`Array::clear_poison`] says that the elements are right. A [`SharedSlice`] cannot be harmed.
///
/// # Errors
///
/// An item fails with [`TaskError::Failed`] where somebody else has the data under the array's lock, or a part that
/// overlaps its chunk: chunks are disjoint from all parts there are, not only from each other.
#[derive(Debug)]
#[must_use = "chunks do nothing until a function is run on them"]
pub struct Chunks<'a, S> {
    pool: &'a Pool,
    source: &'a S,
    len: usize,
    /// The last function without captured data, a [`Known`] of its types: what holds it in the workers.
    known: Mutex<Option<Box<dyn Any + Send>>>,
}

/// A function on chunks, and what the pool runs for it.
struct Known<A, R> {
    f: fn(A) -> R,
    work: Work<Range<usize>, R>,
}

impl<S: Slices> Chunks<'_, S> {
    /// The calls `f(chunk)` for each chunk: a builder, with retries and all of the pool's ways to take results.
    pub fn tasks<R>(&self, f: fn(S::Chunk) -> R) -> Tasks<Range<usize>, R, Ranges>
    where
        R: Serialize + DeserializeOwned + 'static,
    {
        self.pool.tasks_of(self.work(f), self.ranges())
    }

    /// As [`tasks`](Chunks::tasks), with a [`task!`](crate::task) and its captured data, which goes to each worker once.
    pub fn tasks_with<C, R>(&self, task: &Task<C, S::Chunk, R>) -> Tasks<Range<usize>, R, Ranges>
    where
        C: Serialize + DeserializeOwned + Clone + Send + Sync + 'static,
        R: Serialize + DeserializeOwned + 'static,
    {
        let run = |(source, task): &(S, Task<C, S::Chunk, R>), range: Range<usize>| {
            source.take(range).map(|chunk| task.call(chunk))
        };
        let task = Task::new((self.source.clone(), task.clone()), run);
        self.pool.tasks_of(Work::fallible_task(&task), self.ranges())
    }

    /// Runs `f` on each chunk, and waits for all of them.
    ///
    /// # Errors
    ///
    /// The error of the first chunk that has one.
    pub fn for_each(&self, f: fn(S::Chunk)) -> Result<(), TaskError> {
        self.map(f).map(drop)
    }

    /// As [`for_each`](Chunks::for_each), with captured data.
    ///
    /// # Errors
    ///
    /// The error of the first chunk that has one.
    pub fn for_each_with<C>(&self, task: &Task<C, S::Chunk, ()>) -> Result<(), TaskError>
    where
        C: Serialize + DeserializeOwned + Clone + Send + Sync + 'static,
    {
        self.map_with(task).map(drop)
    }

    /// Runs `f` on each chunk, and gives the values in the order of the chunks.
    ///
    /// # Errors
    ///
    /// The error of the first chunk that has one.
    pub fn map<R>(&self, f: fn(S::Chunk) -> R) -> Result<Vec<R>, TaskError>
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
    pub fn map_with<C, R>(&self, task: &Task<C, S::Chunk, R>) -> Result<Vec<R>, TaskError>
    where
        C: Serialize + DeserializeOwned + Clone + Send + Sync + 'static,
        R: Serialize + DeserializeOwned + 'static,
    {
        self.tasks_with(task).chunk_size(1).collect()
    }

    fn work<R>(&self, f: fn(S::Chunk) -> R) -> Work<Range<usize>, R>
    where
        R: Serialize + DeserializeOwned + 'static,
    {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        // Of one address and the same types they are the same code.
        let same = known.as_ref().and_then(|known| known.downcast_ref::<Known<S::Chunk, R>>());
        if let Some(same) = same.filter(|same| std::ptr::fn_addr_eq(same.f, f)) {
            return same.work.clone();
        }
        let run = |(source, f): &(S, Function<S::Chunk, R>), range: Range<usize>| {
            source.take(range).map(|chunk| f.call(chunk))
        };
        let work = Work::fallible_task(&Task::new((self.source.clone(), Function::new(f)), run));
        *known = Some(Box::new(Known { f, work: work.clone() }));
        work
    }

    fn ranges(&self) -> Ranges {
        Ranges { next: 0, end: self.source.elements(), len: self.len }
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
    pub fn par_chunks_mut<'a, S: Slices>(&'a self, source: &'a S, len: usize) -> Chunks<'a, S> {
        assert!(len > 0, "chunks have elements");
        Chunks { pool: self, source, len, known: Mutex::default() }
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
    pub fn for_each_chunk<S: Slices>(
        &self,
        source: &S,
        len: usize,
        f: fn(S::Chunk),
    ) -> Result<(), TaskError> {
        self.par_chunks_mut(source, len).for_each(f)
    }

    /// Runs `f` on each chunk of `len` elements of a shared array or slice, without copying them, and gives its values
    /// in the order of the chunks. See [`Chunks`].
    ///
    /// # Errors
    ///
    /// The error of the first chunk that has one. All have been tried by then.
    ///
    /// # Panics
    ///
    /// `len` is 0.
    pub fn map_slices<S: Slices, R>(
        &self,
        source: &S,
        len: usize,
        f: fn(S::Chunk) -> R,
    ) -> Result<Vec<R>, TaskError>
    where
        R: Serialize + DeserializeOwned + 'static,
    {
        self.par_chunks_mut(source, len).map(f)
    }
}
