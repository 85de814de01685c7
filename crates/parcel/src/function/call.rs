//! The trampolines: from bytes to a typed call and back.
//!
//! For each function type there is one entry, a function that is compiled with the types and called without them.
//! It decodes the argument, calls, encodes the result; all of it under one `catch_unwind`, with no allocation but
//! the growth of the output.
#![expect(unsafe_code, reason = "turns the address of a function back into a function of the type it was")]

use super::signature::signature;
use crate::carrier::Carrier;
use crate::codec::{
    self, Fault,
    plain::{self, Plain},
};
use crate::panics;
use crate::{Outcome, Parcel, RemoteError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::any::{Any, type_name};
use std::borrow::Cow;
use std::error::Error as StdError;
use std::marker::PhantomData;
use std::mem::transmute;
use std::sync::OnceLock;

/// A trampoline.
pub(super) type Entry = for<'a, 'i> fn(&Target, Body<'a, 'i>);

/// What an entry calls.
pub(super) struct Target {
    /// The address of a function of the type that `signature` stands for.
    pub(super) function: usize,
    pub(super) signature: u64,
    pub(super) state: Option<State>,
}

/// How the argument comes and the result goes.
pub(super) enum Body<'a, 'i> {
    Parcel(&'a mut Option<Parcel>, &'a mut Outcome),
    Bytes {
        input: &'a [u8],
        plainly: Plainly,
        trusted: bool,
        output: &'a mut Vec<u8>,
        outcome: &'a mut Outcome<()>,
    },
    Records {
        count: usize,
        input: &'a mut &'i [u8],
        plainly: Plainly,
        trusted: bool,
        output: &'a mut Vec<u8>,
        sink: &'a mut dyn Records,
    },
    Carried {
        input: Cow<'a, [u8]>,
        plainly: Plainly,
        trusted: bool,
        load: Option<&'a mut dyn Carrying>,
        output: &'a mut Vec<u8>,
        outcome: &'a mut Outcome<()>,
    },
    /// No call: tells of the types.
    Types(&'a mut [Option<Plain>; 2]),
}

/// Which sides of a call come and go as [plain numbers](crate::codec::plain), where the default is the
/// [codec](crate::codec)'s encoding. A call whose type is none there fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Plainly {
    /// The argument's bytes are a plain number's.
    pub argument: bool,
    /// So are the value's to be.
    pub value: bool,
}

/// What the argument and the value of one call bring along beside their bytes: see [`carrier`](crate::carrier).
///
/// See [`Erased::call_carried`](super::Erased::call_carried).
pub trait Carrying {
    /// What the decoding of the argument is given.
    fn incoming(&self) -> &Carrier;

    /// What the encoding of the value is given.
    fn outgoing(&self) -> &Carrier;

    /// The value was encoded to the end of `output`, and still exists. Whatever is appended here is part of the result.
    ///
    /// # Errors
    ///
    /// Why it cannot go, which becomes the call's [`Outcome::BadResult`].
    fn departs(&mut self, output: &mut Vec<u8>) -> Result<(), String>;

    /// The value could not be encoded, or not depart; it still exists.
    fn stays(&mut self);
}

/// The bytes in front of each argument and value of many calls: its length, as a little-endian `u32`.
const PREFIX: usize = 4;

/// Who is told of each of many calls. See [`Erased::call_records`](super::Erased::call_records).
///
/// Where it returns false, no further call is made. A panic of it goes through.
pub trait Records {
    /// A call has returned a value: its record, the length in front included (that is `u32::MAX` for a value of more
    /// bytes), or its bytes alone where values are [plain](Plainly).
    fn value(&mut self, record: &[u8]) -> bool;

    /// A call has come to something other than a value.
    fn failed(&mut self, outcome: Outcome<()>) -> bool;
}

/// The captured values of a task: packed, and decoded when first needed.
pub(super) struct State {
    pub(super) packed: Parcel,
    pub(super) decoded: OnceLock<Result<Box<dyn Any + Send + Sync>, String>>,
}

impl State {
    pub(super) fn new(packed: Parcel) -> State {
        State { packed, decoded: OnceLock::new() }
    }

    fn get<C: DeserializeOwned + Send + Sync + 'static>(&self) -> Result<&C, Failure> {
        let decoded = self.decoded.get_or_init(|| {
            let value = self.packed.try_clone().and_then(Parcel::unpack::<C>);
            value.map(|value| Box::new(value) as _).map_err(|error| format!("captured values: {error}"))
        });
        match decoded {
            Ok(value) => value
                .downcast_ref::<C>()
                .ok_or_else(|| Failure::Arguments("captured values of another type".to_owned())),
            Err(cause) => Err(Failure::Arguments(cause.clone())),
        }
    }
}

/// Why there is no value; the kinds of [`Outcome`] that are no panic.
pub(super) enum Failure {
    Arguments(String),
    Failed(RemoteError),
    Result(String),
}

impl Failure {
    fn into_outcome<V>(self) -> Outcome<V> {
        match self {
            Failure::Arguments(cause) => Outcome::BadArguments(cause),
            Failure::Failed(error) => Outcome::Failed(error),
            Failure::Result(cause) => Outcome::BadResult(cause),
        }
    }
}

/// A kind of function: how its address becomes a call.
pub(super) trait Call {
    type Argument: DeserializeOwned + 'static;
    type Value: Serialize + 'static;

    fn call(&self, argument: Self::Argument) -> Result<Self::Value, Failure>;
}

struct Simple<A, R>(fn(A) -> R);
struct Fallible<A, T, E>(fn(A) -> Result<T, E>);
struct OfTask<'s, C, A, R>(&'s State, fn(&C, A) -> R);
struct OfFallibleTask<'s, C, A, T, E>(&'s State, fn(&C, A) -> Result<T, E>);
struct OfState<S, A, R>(fn(&mut S, A) -> R);

impl<A: DeserializeOwned + 'static, R: Serialize + 'static> Call for Simple<A, R> {
    type Argument = A;
    type Value = R;
    #[inline(always)]
    fn call(&self, argument: A) -> Result<R, Failure> {
        Ok((self.0)(argument))
    }
}

impl<A, T, E> Call for Fallible<A, T, E>
where
    A: DeserializeOwned + 'static,
    T: Serialize + 'static,
    E: Into<Box<dyn StdError + Send + Sync>>,
{
    type Argument = A;
    type Value = T;
    #[inline(always)]
    fn call(&self, argument: A) -> Result<T, Failure> {
        (self.0)(argument).map_err(failed)
    }
}

fn failed<E: Into<Box<dyn StdError + Send + Sync>>>(error: E) -> Failure {
    Failure::Failed(RemoteError::named(type_name::<E>(), &*error.into()))
}

impl<C, A, R> Call for OfTask<'_, C, A, R>
where
    C: DeserializeOwned + Send + Sync + 'static,
    A: DeserializeOwned + 'static,
    R: Serialize + 'static,
{
    type Argument = A;
    type Value = R;
    #[inline(always)]
    fn call(&self, argument: A) -> Result<R, Failure> {
        Ok((self.1)(self.0.get::<C>()?, argument))
    }
}

impl<C, A, T, E> Call for OfFallibleTask<'_, C, A, T, E>
where
    C: DeserializeOwned + Send + Sync + 'static,
    A: DeserializeOwned + 'static,
    T: Serialize + 'static,
    E: Into<Box<dyn StdError + Send + Sync>>,
{
    type Argument = A;
    type Value = T;
    #[inline(always)]
    fn call(&self, argument: A) -> Result<T, Failure> {
        (self.1)(self.0.get::<C>()?, argument).map_err(failed)
    }
}

impl<S, A, R> Call for OfState<S, A, R>
where
    S: 'static,
    A: DeserializeOwned + 'static,
    R: Serialize + 'static,
{
    type Argument = A;
    type Value = R;
    #[inline(always)]
    fn call(&self, argument: A) -> Result<R, Failure> {
        super::local::lend(|state| (self.0)(state, argument)).map_err(Failure::Arguments)
    }
}

/// The signature of each kind: its types, and which entry takes them.
pub(super) fn plain_signature<A: 'static, R: 'static>() -> u64 {
    signature::<PhantomData<fn(A) -> R>, A, R>()
}
pub(super) fn fallible_signature<A: 'static, T: 'static, E: 'static>() -> u64 {
    signature::<PhantomData<fn(A, E) -> T>, A, Result<T, E>>()
}
pub(super) fn task_signature<C: 'static, A: 'static, R: 'static>() -> u64 {
    signature::<PhantomData<(C, fn(A) -> R)>, A, R>()
}
pub(super) fn fallible_task_signature<C: 'static, A: 'static, T: 'static, E: 'static>() -> u64 {
    signature::<PhantomData<(C, fn(A, E) -> T)>, A, Result<T, E>>()
}

pub(super) fn state_signature<S: 'static, A: 'static, R: 'static>() -> u64 {
    signature::<PhantomData<fn(&mut S, A) -> R>, A, R>()
}

pub(super) fn plain<A, R>(target: &Target, body: Body<'_, '_>)
where
    A: DeserializeOwned + 'static,
    R: Serialize + 'static,
{
    if target.signature != plain_signature::<A, R>() {
        return refuse::<fn(A) -> R>(body);
    }
    // SAFETY: a target whose signature is this one holds the address of an `fn(A) -> R` (invariants 1 and 2).
    let function = unsafe { transmute::<usize, fn(A) -> R>(target.function) };
    run(&Simple(function), body);
}

pub(super) fn fallible<A, T, E>(target: &Target, body: Body<'_, '_>)
where
    A: DeserializeOwned + 'static,
    T: Serialize + 'static,
    E: Into<Box<dyn StdError + Send + Sync>> + 'static,
{
    if target.signature != fallible_signature::<A, T, E>() {
        return refuse::<fn(A) -> Result<T, E>>(body);
    }
    // SAFETY: as in `plain`, for an `fn(A) -> Result<T, E>`.
    let function = unsafe { transmute::<usize, fn(A) -> Result<T, E>>(target.function) };
    run(&Fallible(function), body);
}

pub(super) fn task<C, A, R>(target: &Target, body: Body<'_, '_>)
where
    C: DeserializeOwned + Send + Sync + 'static,
    A: DeserializeOwned + 'static,
    R: Serialize + 'static,
{
    let (true, Some(state)) = (target.signature == task_signature::<C, A, R>(), &target.state) else {
        return refuse::<fn(&C, A) -> R>(body);
    };
    // SAFETY: as in `plain`, for an `fn(&C, A) -> R`.
    let function = unsafe { transmute::<usize, fn(&C, A) -> R>(target.function) };
    run(&OfTask(state, function), body);
}

pub(super) fn fallible_task<C, A, T, E>(target: &Target, body: Body<'_, '_>)
where
    C: DeserializeOwned + Send + Sync + 'static,
    A: DeserializeOwned + 'static,
    T: Serialize + 'static,
    E: Into<Box<dyn StdError + Send + Sync>> + 'static,
{
    let (true, Some(state)) = (target.signature == fallible_task_signature::<C, A, T, E>(), &target.state)
    else {
        return refuse::<fn(&C, A) -> Result<T, E>>(body);
    };
    // SAFETY: as in `plain`, for an `fn(&C, A) -> Result<T, E>`.
    let function = unsafe { transmute::<usize, fn(&C, A) -> Result<T, E>>(target.function) };
    run(&OfFallibleTask(state, function), body);
}

pub(super) fn with_state<S, A, R>(target: &Target, body: Body<'_, '_>)
where
    S: 'static,
    A: DeserializeOwned + 'static,
    R: Serialize + 'static,
{
    if target.signature != state_signature::<S, A, R>() {
        return refuse::<fn(&mut S, A) -> R>(body);
    }
    // SAFETY: as in `plain`, for an `fn(&mut S, A) -> R`.
    let function = unsafe { transmute::<usize, fn(&mut S, A) -> R>(target.function) };
    run(&OfState(function), body);
}

/// Says no in the form that the caller waits for.
#[cold]
pub(super) fn refuse<F>(body: Body<'_, '_>) {
    refuse_with(body, &format!("the reference is not to a function of type `{}`", type_name::<F>()));
}

/// Ends a call, or each of a batch, without calling anything.
#[cold]
pub(super) fn refuse_with(body: Body<'_, '_>, cause: &str) {
    let cause = || cause.to_owned();
    match body {
        Body::Parcel(_, outcome) => *outcome = Outcome::BadArguments(cause()),
        Body::Bytes { outcome, .. } | Body::Carried { outcome, .. } => {
            *outcome = Outcome::BadArguments(cause());
        }
        Body::Types(_) => {}
        Body::Records { count, input, plainly, sink, .. } => {
            for _ in 0..count {
                if !plainly.argument {
                    let Some((_, rest)) = split(input) else { break };
                    *input = rest;
                }
                if !sink.failed(Outcome::BadArguments(cause())) {
                    break;
                }
            }
        }
    }
}

#[inline]
pub(super) fn run<C: Call>(call: &C, body: Body<'_, '_>) {
    match body {
        Body::Bytes { input, plainly, trusted, output, outcome } => {
            *outcome = once(call, input, plainly, trusted, output);
        }
        Body::Types(types) => *types = [Plain::of::<C::Argument>(), Plain::of::<C::Value>()],
        Body::Records { mut count, input, plainly, trusted, output, sink } => {
            // The catch is around all calls up to one that panics: it costs as much as a small call.
            let mut calling = false;
            while let Err(panic) =
                panics::catch(|| many(call, &mut count, input, plainly, trusted, output, sink, &mut calling))
            {
                if !calling {
                    panic.resume();
                }
                if !sink.failed(Outcome::Panicked(panic)) {
                    return;
                }
            }
        }
        Body::Carried { input, plainly, trusted, load, output, outcome } => {
            *outcome = carried(call, input, plainly, trusted, load, output);
        }
        Body::Parcel(input, outcome) => {
            let input = input.take().unwrap_or_else(|| Parcel::new(Vec::new(), Vec::new()));
            let result = panics::catch(|| {
                let argument = input.unpack().map_err(|e| Failure::Arguments(e.to_string()))?;
                let value = call.call(argument)?;
                Parcel::pack(&value).map_err(|e| Failure::Result(e.to_string()))
            });
            *outcome = match result {
                Ok(Ok(value)) => Outcome::Value(value),
                Ok(Err(failure)) => failure.into_outcome(),
                Err(panic) => Outcome::Panicked(panic),
            };
        }
    }
}

/// One call.
#[inline]
fn once<C: Call>(
    call: &C,
    input: &[u8],
    plainly: Plainly,
    trusted: bool,
    output: &mut Vec<u8>,
) -> Outcome<()> {
    match panics::catch(|| bare(call, input, plainly, trusted, output)) {
        Ok(Ok(())) => Outcome::Value(()),
        Ok(Err(failure)) => failure.into_outcome(),
        Err(panic) => Outcome::Panicked(panic),
    }
}

/// One call whose argument and value bring something along, or whose argument may keep the memory that it comes in.
#[inline(never)]
fn carried<C: Call>(
    call: &C,
    input: Cow<'_, [u8]>,
    plainly: Plainly,
    trusted: bool,
    load: Option<&mut dyn Carrying>,
    output: &mut Vec<u8>,
) -> Outcome<()> {
    /// Also if the encoding panics.
    struct Stays<'a>(Option<&'a mut dyn Carrying>);
    impl Drop for Stays<'_> {
        fn drop(&mut self) {
            if let Some(load) = self.0.take() {
                load.stays();
            }
        }
    }
    let (start, len) = (output.len(), input.len());
    let result = panics::catch(|| {
        let argument = match (&load, input) {
            (Some(load), input) => codec::decode_carried(&input, load.incoming(), trusted),
            (None, input) if plainly.argument => plain_number(&input),
            (None, Cow::Owned(bytes)) => codec::decode_vec_raw(bytes, 0, trusted),
            (None, Cow::Borrowed(bytes)) => codec::decode_raw(bytes, None, trusted),
        };
        let argument = argument.map_err(|fault| bad_argument::<C::Argument>(len, fault))?;
        let value = call.call(argument)?;
        // Dropped before the value.
        let mut going = Stays(load);
        let Some(load) = &mut going.0 else {
            return encode(&value, plainly.value, output);
        };
        let outgoing = load.outgoing().clone();
        codec::encode_carried(&value, &outgoing, output).map_err(bad_result::<C::Value>)?;
        load.departs(output).map_err(Failure::Result)?;
        going.0 = None;
        Ok(())
    });
    let outcome = match result {
        Ok(Ok(())) => Outcome::Value(()),
        Ok(Err(failure)) => failure.into_outcome(),
        Err(panic) => Outcome::Panicked(panic),
    };
    if !outcome.is_value() {
        output.truncate(start);
    }
    outcome
}

/// One call, whose panic goes through.
#[inline(always)]
fn bare<C: Call>(
    call: &C,
    input: &[u8],
    plainly: Plainly,
    trusted: bool,
    output: &mut Vec<u8>,
) -> Result<(), Failure> {
    let argument =
        if plainly.argument { plain_number(input) } else { codec::decode_raw(input, None, trusted) };
    let argument = argument.map_err(|fault| bad_argument::<C::Argument>(input.len(), fault))?;
    let value = call.call(argument)?;
    encode(&value, plainly.value, output)
}

#[inline(always)]
fn plain_number<A: 'static>(input: &[u8]) -> Result<A, Fault> {
    plain::get(input).ok_or_else(|| Fault::new("they are not a plain number of this type"))
}

/// Appends what a call returned.
#[inline(always)]
fn encode<R: Serialize + 'static>(value: &R, plain: bool, output: &mut Vec<u8>) -> Result<(), Failure> {
    let encoded = match plain {
        false => codec::encode_raw(value, None, output),
        true if plain::put(value, output) => Ok(()),
        true => Err(Fault::new("it is no plain number")),
    };
    encoded.map_err(bad_result::<R>)
}

/// At most `count` calls, whose arguments are records or plain numbers; `calling` says whether it was a call that panicked.
#[inline]
#[expect(clippy::too_many_arguments, reason = "the parts of a `Body::Records`, some of them by reference")]
fn many<'i, C: Call>(
    call: &C,
    count: &mut usize,
    input: &mut &'i [u8],
    plainly: Plainly,
    trusted: bool,
    output: &mut Vec<u8>,
    sink: &mut dyn Records,
    calling: &mut bool,
) {
    *calling = false;
    let next = |input: &mut &'i [u8]| match plainly.argument {
        true => input.split_at_checked(Plain::of::<C::Argument>().map_or(0, |plain| plain.size().into())),
        false => split(input),
    };
    while *count > 0
        && let Some((argument, rest)) = next(input)
    {
        // Before the call: if that panics, the next one comes next.
        (*count, *input) = (*count - 1, rest);
        *calling = true;
        output.clear();
        if !plainly.value {
            output.extend_from_slice(&[0; PREFIX]);
        }
        let result = bare(call, argument, plainly, trusted, output);
        *calling = false;
        let more = match result {
            Ok(()) if plainly.value => sink.value(output),
            Ok(()) => {
                let len = u32::try_from(output.len() - PREFIX).unwrap_or(u32::MAX);
                output[..PREFIX].copy_from_slice(&len.to_le_bytes());
                sink.value(output)
            }
            Err(failure) => sink.failed(failure.into_outcome()),
        };
        if !more {
            return;
        }
    }
}

/// The first record's content, and what follows it. `None` if there is no whole record.
#[inline(always)]
fn split<'i>(records: &&'i [u8]) -> Option<(&'i [u8], &'i [u8])> {
    let (length, rest) = records.split_first_chunk::<PREFIX>()?;
    rest.split_at_checked(u32::from_le_bytes(*length) as usize)
}

#[cold]
fn bad_argument<A>(bytes: usize, fault: Fault) -> Failure {
    Failure::Arguments(codec::decode_error::<A>(bytes, fault).to_string())
}

#[cold]
fn bad_result<R>(fault: Fault) -> Failure {
    Failure::Result(codec::encode_error::<R>(fault).to_string())
}
