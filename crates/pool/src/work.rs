//! What a pool can be asked to run.

use crate::{
    TaskError,
    back::FunctionId,
    records::{Layout, Layouts},
};
use procession_parcel::{Erased, Outcome, Parcel, Task, codec::plain::Plain, function::Arguments};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    marker::PhantomData,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

/// Something that workers can call with an `A` to get an `R`: a function, a [`task!`](procession_parcel::task!) with
/// its captured data, or a registered name.
///
/// A function that cannot be sent is an error of the call that uses it.
pub struct Work<A, R> {
    callable: Result<Arc<Callable>, TaskError>,
    layouts: Layouts,
    types: PhantomData<fn(A) -> R>,
}

/// A function, and what is sent for it: encoded once, however many calls it serves.
#[derive(Debug)]
pub(crate) struct Callable {
    pub(crate) erased: Arc<Erased>,
    pub(crate) encoding: Encoding,
    /// The pools to tell when nobody holds it any more, and what it is there.
    known: Mutex<Vec<(Weak<LetGo>, FunctionId)>>,
}

impl Callable {
    /// Has a pool told, in which it is `id`, when nobody holds it any more.
    pub(crate) fn tell(&self, pool: &Arc<LetGo>, id: FunctionId) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match known.iter_mut().find(|(other, _)| std::ptr::eq(other.as_ptr(), Arc::as_ptr(pool))) {
            Some((_, known)) => *known = id,
            None => {
                known.retain(|(other, _)| other.strong_count() > 0);
                known.push((Arc::downgrade(pool), id));
            }
        }
    }
}

impl Drop for Callable {
    fn drop(&mut self) {
        let known = self.known.get_mut().unwrap_or_else(PoisonError::into_inner);
        known
            .iter()
            .filter_map(|(pool, id)| Some((pool.upgrade()?, *id)))
            .for_each(|(pool, id)| pool.put(id));
    }
}

/// The functions of a pool that their users let go of.
#[derive(Debug, Default)]
pub(crate) struct LetGo {
    ids: Mutex<Vec<FunctionId>>,
    missed: AtomicBool,
}

impl LetGo {
    /// It does not wait: who drops a function may be a forked copy, in which nobody would ever let go of the lock.
    fn put(&self, id: FunctionId) {
        match self.ids.try_lock() {
            Ok(mut ids) => ids.push(id),
            Err(_) => self.missed.store(true, Ordering::Release),
        }
    }

    /// Those since the last time; `None` if some could not be noted, which may be any.
    pub(crate) fn take(&self) -> Option<Vec<FunctionId>> {
        let ids = std::mem::take(&mut *self.ids.lock().unwrap_or_else(PoisonError::into_inner));
        (!self.missed.swap(false, Ordering::AcqRel)).then_some(ids)
    }
}

/// A function's parcel, whose bytes may be many, as a key.
#[derive(Clone)]
pub(crate) struct Encoding {
    hash: u64,
    pub(crate) parcel: Arc<Parcel>,
}

impl Encoding {
    fn new(parcel: Parcel) -> Encoding {
        let mut hasher = DefaultHasher::new();
        parcel.bytes().hash(&mut hasher);
        Encoding { hash: hasher.finish(), parcel: Arc::new(parcel) }
    }

    /// How many bytes it has.
    pub(crate) fn len(&self) -> usize {
        self.parcel.bytes().len()
    }
}

impl Hash for Encoding {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.hash.hash(state);
    }
}

impl PartialEq for Encoding {
    fn eq(&self, other: &Encoding) -> bool {
        // The bytes say that there are descriptors, not what they stand for.
        let alike =
            |a: &Parcel, b: &Parcel| a.fds().is_empty() && b.fds().is_empty() && a.bytes() == b.bytes();
        Arc::ptr_eq(&self.parcel, &other.parcel)
            || (self.hash == other.hash && alike(&self.parcel, &other.parcel))
    }
}

impl Eq for Encoding {}

impl fmt::Debug for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Encoding({} bytes, {} descriptors)", self.len(), self.parcel.fds().len())
    }
}

impl<A, R> Work<A, R>
where
    A: DeserializeOwned + 'static,
    R: Serialize + DeserializeOwned + 'static,
{
    pub(crate) fn new(erased: Result<Erased, procession_parcel::Error>) -> Work<A, R> {
        let mut layouts = Layouts::default();
        let encoded = erased.and_then(|erased| {
            // A function that was registered under a name may have other types than these, or be elsewhere.
            let [argument, value] = erased.plain_types();
            let shared =
                |its: Option<Plain>, own| its.filter(|_| its == own).map_or(Layout::RECORDS, Layout::plain);
            layouts = Layouts {
                items: shared(argument, Plain::of::<A>()),
                values: shared(value, Plain::of::<R>()),
            };
            let encoding = Encoding::new(Parcel::pack(&erased)?);
            Ok(Arc::new(Callable { erased: Arc::new(erased), encoding, known: Mutex::default() }))
        });
        let callable = encoded.map_err(|error| TaskError::BadFunction(error.to_string()));
        Work { callable, layouts, types: PhantomData }
    }

    /// A function, or a closure that captures nothing.
    #[must_use]
    pub fn function(f: fn(A) -> R) -> Work<A, R> {
        Work::new(Erased::new(f))
    }

    /// A function whose `Err` is the task's error: it arrives as [`TaskError::Failed`] with type, message and
    /// sources, so the error type need not be serialisable.
    #[must_use]
    pub fn fallible<E>(f: fn(A) -> Result<R, E>) -> Work<A, R>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
    {
        Work::new(Erased::fallible(f))
    }

    /// A function of several arguments, which come as a tuple.
    #[must_use]
    pub fn spread(f: A::Function<R>) -> Work<A, R>
    where
        A: Arguments,
    {
        Work::new(Erased::spread::<A, R>(f))
    }

    /// A function with captured data. The data goes to each worker once for all calls that are under way at the same
    /// time, and all that come as long as this `Work` or a clone of it lives. Beyond that the pool keeps it, in case
    /// it is used again, as long as there is not more than 4 MiB of such data.
    ///
    /// It may hold handles: locks, values, arrays, queues, segments, sockets and files. Each worker gets its own
    /// descriptors for them, which it keeps as long as it keeps the data: until the pool's next call after the last clone
    /// of this `Work` was dropped. Of something that can be sent only once (a pipe's
    /// end, an array's part) the first worker to look has it; in the others the calls fail.
    #[must_use]
    pub fn task<C>(task: &Task<C, A, R>) -> Work<A, R>
    where
        C: Serialize + DeserializeOwned + Send + Sync + 'static,
    {
        Work::new(Erased::of_task(task))
    }

    /// As [`task`](Work::task), with a function that may fail, as in [`fallible`](Work::fallible).
    #[must_use]
    pub fn fallible_task<C, E>(task: &Task<C, A, Result<R, E>>) -> Work<A, R>
    where
        C: Serialize + DeserializeOwned + Send + Sync + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
    {
        Work::new(Erased::of_fallible_task(task))
    }
}

impl<A, R> Work<A, R> {
    pub(crate) fn callable(&self) -> Result<&Arc<Callable>, TaskError> {
        self.callable.as_ref().map_err(Clone::clone)
    }

    /// How items and values may follow each other, where the back can do with plain numbers.
    pub(crate) fn layouts(&self) -> Layouts {
        self.layouts
    }
}

impl<A, R> Clone for Work<A, R> {
    fn clone(&self) -> Work<A, R> {
        Work { callable: self.callable.clone(), layouts: self.layouts, types: PhantomData }
    }
}

impl<A, R> fmt::Debug for Work<A, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.callable {
            Ok(callable) => write!(f, "Work({})", callable.erased.name()),
            Err(error) => write!(f, "Work({error})"),
        }
    }
}

/// What an outcome is to the front.
pub(crate) fn judge(outcome: Outcome<()>) -> Result<(), TaskError> {
    match outcome {
        Outcome::Value(()) => Ok(()),
        Outcome::Panicked(panic) => Err(TaskError::Panicked(panic)),
        Outcome::Failed(error) => Err(TaskError::Failed(error)),
        Outcome::BadArguments(why) => Err(TaskError::BadArguments(why)),
        Outcome::BadResult(why) => Err(TaskError::BadResult(why)),
    }
}
