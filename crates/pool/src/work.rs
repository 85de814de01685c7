//! What a pool can be asked to run.

use crate::TaskError;
use procession_parcel::{Erased, Outcome, Task, codec};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    marker::PhantomData,
    sync::Arc,
};

/// Something that workers can call with an `A` to get an `R`: a function, a [`task!`](procession_parcel::task!) with
/// its captured data, or a registered name.
///
/// A function that cannot be sent is an error of the call that uses it.
pub struct Work<A, R> {
    callable: Result<Arc<Callable>, TaskError>,
    types: PhantomData<fn(A) -> R>,
}

/// A function, and what is sent for it: encoded once, however many calls it serves.
#[derive(Debug)]
pub(crate) struct Callable {
    pub(crate) erased: Arc<Erased>,
    pub(crate) encoding: Encoding,
}

/// A function's bytes, which may be many, as a key.
#[derive(Clone)]
pub(crate) struct Encoding {
    hash: u64,
    pub(crate) bytes: Arc<[u8]>,
}

impl Encoding {
    fn new(bytes: Vec<u8>) -> Encoding {
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        Encoding { hash: hasher.finish(), bytes: bytes.into() }
    }
}

impl Hash for Encoding {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.hash.hash(state);
    }
}

impl PartialEq for Encoding {
    fn eq(&self, other: &Encoding) -> bool {
        Arc::ptr_eq(&self.bytes, &other.bytes) || (self.hash == other.hash && self.bytes == other.bytes)
    }
}

impl Eq for Encoding {}

impl fmt::Debug for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Encoding({} bytes)", self.bytes.len())
    }
}

impl<A, R> Work<A, R>
where
    A: DeserializeOwned + 'static,
    R: Serialize + DeserializeOwned + 'static,
{
    pub(crate) fn new(erased: Result<Erased, procession_parcel::Error>) -> Work<A, R> {
        let encoded = erased.and_then(|erased| {
            let mut bytes = Vec::new();
            codec::encode(&erased, &mut bytes)?;
            Ok(Arc::new(Callable { erased: Arc::new(erased), encoding: Encoding::new(bytes) }))
        });
        let callable = encoded.map_err(|error| TaskError::BadFunction(error.to_string()));
        Work { callable, types: PhantomData }
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

    /// A function with captured data. The data goes to each worker once for all calls that are under way at the same
    /// time, and all that come as long as this `Work` or a clone of it lives. Beyond that the pool keeps it, in case
    /// it is used again, as long as there is not more than 4 MiB of such data.
    #[must_use]
    pub fn task<C>(task: &Task<C, A, R>) -> Work<A, R>
    where
        C: Serialize + DeserializeOwned + Send + Sync + 'static,
    {
        Work::new(Erased::of_task(task))
    }
}

impl<A, R> Work<A, R> {
    pub(crate) fn callable(&self) -> Result<&Arc<Callable>, TaskError> {
        self.callable.as_ref().map_err(Clone::clone)
    }
}

impl<A, R> Clone for Work<A, R> {
    fn clone(&self) -> Work<A, R> {
        Work { callable: self.callable.clone(), types: PhantomData }
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
