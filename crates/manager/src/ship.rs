//! Functions that are sent to the data.
//!
//! A method `fn(&mut T, A) -> R` goes with a *trampoline*, a function that is compiled with `T`, `A` and `R` and called
//! without them: it takes a [`Job`] of bytes, decodes what it needs, calls the method, and encodes what comes of it. Both go
//! as references of the parcel crate, which are honoured from a client of this tree only, and under an intact seal.
//!
//! # Invariant
//! The pointer of a `Function<Shape<T, A, R>, Never>` is that of an `fn(&mut T, A) -> R`, and is never called as what its
//! type says: [`Method`] alone makes and reads them, and `Shape` cannot be named outside of this module.
#![expect(unsafe_code, reason = "a function of two arguments travels as a reference to a function of one")]

use crate::error::{Error, ErrorKind};
use procession_parcel::{Function, Panic, Parcel, codec, panics};
use serde::{Serialize, de::DeserializeOwned};
use std::{any::Any, marker::PhantomData, mem::transmute};

/// What a function works on.
pub(crate) enum State {
    /// One encoded value, or none.
    One(Option<Vec<u8>>),
    /// A row of encoded values.
    Many(Vec<Vec<u8>>),
    /// An object of the server's memory.
    Object(Option<Box<dyn Any + Send>>),
}

/// A call that is to be made. Public, but not to be named: what `#[hosted]` writes hands it on.
#[expect(missing_debug_implementations, reason = "nobody can see one")]
pub struct Job {
    pub(crate) state: State,
    /// A packed reference to the method.
    pub(crate) method: Vec<u8>,
    pub(crate) args: Vec<u8>,
}

/// A call that was made. Where it failed, a row or value is as it was.
#[expect(missing_debug_implementations, reason = "nobody can see one")]
pub struct Done {
    pub(crate) state: State,
    pub(crate) outcome: Result<Vec<u8>, Failure>,
}

/// Why a call gave no value.
pub(crate) enum Failure {
    Panicked(Panic),
    Other(ErrorKind, String),
}

type Trampoline = Function<Job, Done>;

/// Stands in the place of an argument; there is no value of it.
enum Never {}
struct Shape<T, A, R>(Never, PhantomData<fn(T, A) -> R>);

/// A function that is sent.
struct Method<T, A, R>(fn(&mut T, A) -> R);

type Reference<T, A, R> = Function<Shape<T, A, R>, Never>;

impl<T: 'static, A: 'static, R: 'static> Method<T, A, R> {
    fn reference(&self) -> Reference<T, A, R> {
        // SAFETY: both are pointers to functions, and the result is never called (see the module's invariant).
        let carried = unsafe { transmute::<fn(&mut T, A) -> R, fn(Shape<T, A, R>) -> Never>(self.0) };
        Function::new(carried)
    }

    fn of(reference: &Reference<T, A, R>) -> Method<T, A, R> {
        // SAFETY: it was made by `reference` for the same three types: the reference's signature, which its receiver
        // checked, says so, and nobody else can make one (see the module's invariant).
        let method =
            unsafe { transmute::<fn(Shape<T, A, R>) -> Never, fn(&mut T, A) -> R>(reference.as_fn()) };
        Method(method)
    }
}

/// The packed references of a call: trampoline, method.
pub(crate) type Packed = (Vec<u8>, Vec<u8>);

fn pack<T: Serialize>(doing: &'static str, value: &T) -> Result<Vec<u8>, Error> {
    let parcel = Parcel::pack(value).map_err(|error| Error::encoding(doing, error))?;
    Ok(parcel.into_parts().0)
}

fn unpack<T: DeserializeOwned + 'static>(bytes: &[u8]) -> Result<T, procession_parcel::Error> {
    let parcel = Parcel::new(bytes.to_vec(), Vec::new());
    // SAFETY: the bytes came over a connection whose client proved that it knows the manager's key, which is handed out
    // within the tree only, and is of the same build (`Hello`). What makes a reference safe to call is its seal, which is
    // checked besides.
    unsafe { parcel.assume_same_program() }.unpack()
}

/// A method for one encoded value, which it may make or take away.
pub(crate) fn for_option<V, A, R>(
    doing: &'static str,
    method: fn(&mut Option<V>, A) -> R,
) -> Result<Packed, Error>
where
    V: Serialize + DeserializeOwned + 'static,
    A: DeserializeOwned + 'static,
    R: Serialize + 'static,
{
    let trampoline: Trampoline = Function::new(option::<V, A, R>);
    Ok((pack(doing, &trampoline)?, pack(doing, &Method(method).reference())?))
}

/// A method for one encoded value that is there.
pub(crate) fn for_value<V, A, R>(doing: &'static str, method: fn(&mut V, A) -> R) -> Result<Packed, Error>
where
    V: Serialize + DeserializeOwned + 'static,
    A: DeserializeOwned + 'static,
    R: Serialize + 'static,
{
    let trampoline: Trampoline = Function::new(value::<V, A, R>);
    Ok((pack(doing, &trampoline)?, pack(doing, &Method(method).reference())?))
}

/// A method for a whole row.
pub(crate) fn for_row<V, A, R>(doing: &'static str, method: fn(&mut Vec<V>, A) -> R) -> Result<Packed, Error>
where
    V: Serialize + DeserializeOwned + 'static,
    A: DeserializeOwned + 'static,
    R: Serialize + 'static,
{
    let trampoline: Trampoline = Function::new(row::<V, A, R>);
    Ok((pack(doing, &trampoline)?, pack(doing, &Method(method).reference())?))
}

/// A method for an object.
pub(crate) fn for_object<T, A, R>(doing: &'static str, method: fn(&mut T, A) -> R) -> Result<Packed, Error>
where
    T: Send + 'static,
    A: DeserializeOwned + 'static,
    R: Serialize + 'static,
{
    let trampoline: Trampoline = Function::new(object::<T, A, R>);
    Ok((pack(doing, &trampoline)?, pack(doing, &Method(method).reference())?))
}

/// A function that makes an object.
pub(crate) fn for_new<T, A>(doing: &'static str, make: fn(A) -> T) -> Result<Packed, Error>
where
    T: Send + 'static,
    A: DeserializeOwned + 'static,
{
    let trampoline: Trampoline = Function::new(new::<T, A>);
    Ok((pack(doing, &trampoline)?, pack(doing, &Function::new(make))?))
}

/// The trampoline that a client named, if it may.
pub(crate) fn trampoline(bytes: &[u8], trusted: bool) -> Result<fn(Job) -> Done, String> {
    if !trusted {
        return Err(
            "functions are taken from processes of the manager's own tree only, not over a public address: \
                    use compare_and_swap"
                .to_owned(),
        );
    }
    unpack::<Trampoline>(bytes).map(|function| function.as_fn()).map_err(|error| error.to_string())
}

/// A function that a client named for a pool: by offset only if the client may.
#[cfg(feature = "pool")]
pub(crate) fn erased(bytes: &[u8], trusted: bool) -> Result<procession_parcel::Erased, String> {
    let function = if trusted { unpack(bytes) } else { Parcel::new(bytes.to_vec(), Vec::new()).unpack() };
    function.map_err(|error| error.to_string())
}

pub(crate) fn encoding(error: procession_parcel::Error) -> Failure {
    Failure::Other(ErrorKind::Encoding, error.to_string())
}

/// Decodes the method and its argument, and calls it on what `state` is decoded to.
fn run<T: 'static, A: DeserializeOwned + 'static, R: Serialize + 'static>(
    method: &[u8],
    args: &[u8],
    state: &mut T,
) -> Result<Vec<u8>, Failure> {
    let method = Method::of(&unpack::<Reference<T, A, R>>(method).map_err(encoding)?);
    let args: A = codec::decode(args).map_err(encoding)?;
    let value = (method.0)(state, args);
    let mut bytes = Vec::new();
    codec::encode(&value, &mut bytes).map_err(encoding)?;
    Ok(bytes)
}

pub(crate) fn caught<R>(f: impl FnOnce() -> Result<R, Failure>) -> Result<R, Failure> {
    panics::catch(f).unwrap_or_else(|panic| Err(Failure::Panicked(panic)))
}

fn option<V, A, R>(job: Job) -> Done
where
    V: Serialize + DeserializeOwned + 'static,
    A: DeserializeOwned + 'static,
    R: Serialize + 'static,
{
    let Job { state: State::One(old), method, args } = job else { return wrong(job.state) };
    let done = caught(|| {
        let mut value: Option<V> = old.as_deref().map(codec::decode).transpose().map_err(encoding)?;
        let result = run::<Option<V>, A, R>(&method, &args, &mut value)?;
        let new = value.map(|value| encoded(&value)).transpose()?;
        Ok((new, result))
    });
    match done {
        Ok((new, result)) => Done { state: State::One(new), outcome: Ok(result) },
        Err(failure) => Done { state: State::One(old), outcome: Err(failure) },
    }
}

fn encoded<V: Serialize>(value: &V) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    codec::encode(value, &mut bytes).map_err(encoding)?;
    Ok(bytes)
}

fn value<V, A, R>(job: Job) -> Done
where
    V: Serialize + DeserializeOwned + 'static,
    A: DeserializeOwned + 'static,
    R: Serialize + 'static,
{
    let Job { state: State::One(Some(old)), method, args } = job else { return wrong(job.state) };
    let done = caught(|| {
        let mut value: V = codec::decode(&old).map_err(encoding)?;
        let result = run::<V, A, R>(&method, &args, &mut value)?;
        Ok((encoded(&value)?, result))
    });
    match done {
        Ok((new, result)) => Done { state: State::One(Some(new)), outcome: Ok(result) },
        Err(failure) => Done { state: State::One(Some(old)), outcome: Err(failure) },
    }
}

fn row<V, A, R>(job: Job) -> Done
where
    V: Serialize + DeserializeOwned + 'static,
    A: DeserializeOwned + 'static,
    R: Serialize + 'static,
{
    let Job { state: State::Many(old), method, args } = job else { return wrong(job.state) };
    let done = caught(|| {
        let mut values: Vec<V> =
            old.iter().map(|bytes| codec::decode(bytes)).collect::<Result<_, _>>().map_err(encoding)?;
        let result = run::<Vec<V>, A, R>(&method, &args, &mut values)?;
        let new = values.iter().map(encoded).collect::<Result<Vec<_>, _>>()?;
        Ok((new, result))
    });
    match done {
        Ok((new, result)) => Done { state: State::Many(new), outcome: Ok(result) },
        Err(failure) => Done { state: State::Many(old), outcome: Err(failure) },
    }
}

fn object<T, A, R>(job: Job) -> Done
where
    T: Send + 'static,
    A: DeserializeOwned + 'static,
    R: Serialize + 'static,
{
    let Job { state: State::Object(Some(mut object)), method, args } = job else { return wrong(job.state) };
    let outcome = match object.downcast_mut::<T>() {
        Some(target) => caught(|| run::<T, A, R>(&method, &args, target)),
        None => Err(Failure::Other(ErrorKind::WrongType, "the object is of another type".to_owned())),
    };
    Done { state: State::Object(Some(object)), outcome }
}

fn new<T, A>(job: Job) -> Done
where
    T: Send + 'static,
    A: DeserializeOwned + 'static,
{
    let made = caught(|| {
        let make = unpack::<Function<A, T>>(&job.method).map_err(encoding)?;
        let args: A = codec::decode(&job.args).map_err(encoding)?;
        Ok(Box::new(make.call(args)) as Box<dyn Any + Send>)
    });
    match made {
        Ok(object) => Done { state: State::Object(Some(object)), outcome: Ok(Vec::new()) },
        Err(failure) => Done { state: State::Object(None), outcome: Err(failure) },
    }
}

#[cold]
fn wrong(state: State) -> Done {
    let failure =
        Failure::Other(ErrorKind::WrongType, "the function is for another kind of object".to_owned());
    Done { state, outcome: Err(failure) }
}
