//! A function with its types forgotten.
#![expect(unsafe_code, reason = "turns a checked address into an entry; takes the caller's promise of trust")]

use super::call::{self, Body, Carrying, Entry, Plainly, Records, State, Target};
use super::named;
use super::seal::{Form, seal};
use super::spread::Arguments;
use super::task::Task;
use super::{BuildId, image};
use crate::codec::plain::Plain;
use crate::error::Error;
use crate::{Outcome, Parcel, trust};
use serde::de::{DeserializeOwned, Error as _};
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::any::type_name;
use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::mem::transmute;
use std::sync::Arc;

/// A function that takes bytes and gives bytes: what a process or a pool runs.
///
/// ```
/// use procession_parcel::{Outcome, Parcel, function::Erased};
///
/// fn double(n: u64) -> u64 {
///     n * 2
/// }
///
/// let erased = Erased::new(double)?;
/// let Outcome::Value(result) = erased.call(Parcel::pack(&21u64)?) else { panic!() };
/// assert_eq!(result.unpack::<u64>()?, 42);
/// # Ok::<(), procession_parcel::Error>(())
/// ```
///
/// It is made from a function, or a closure that captures nothing; one that captures is a type error. Captured
/// data goes by [`task!`](crate::task).
#[derive(Clone)]
pub struct Erased {
    inner: Arc<Inner>,
    name: Cow<'static, str>,
    /// Whether inputs that come as bytes may refer to functions by offset.
    trusts_inputs: bool,
}

struct Inner {
    /// None if the function goes by a name that is not registered here.
    entry: Option<Entry>,
    target: Target,
    by: By,
}

enum By {
    Offset,
    Name { name: String, types: Option<(String, String)> },
}

impl Erased {
    /// Refers to `function`.
    ///
    /// # Errors
    /// If its code does not lie in the main program but in a shared library, where it has no offset that another
    /// process could use.
    pub fn new<A, R>(function: fn(A) -> R) -> Result<Erased, Error>
    where
        A: DeserializeOwned + 'static,
        R: Serialize + 'static,
    {
        let signature = call::plain_signature::<A, R>();
        Erased::here(call::plain::<A, R>, function as usize, signature, None, type_name::<fn(A) -> R>())
    }

    /// Refers to a function that may fail: its `Ok` value becomes [`Outcome::Value`], its error
    /// [`Outcome::Failed`], whether serialisable or not.
    ///
    /// # Errors
    /// As [`Erased::new`].
    pub fn fallible<A, T, E>(function: fn(A) -> Result<T, E>) -> Result<Erased, Error>
    where
        A: DeserializeOwned + 'static,
        T: Serialize + 'static,
        E: Into<Box<dyn StdError + Send + Sync>> + 'static,
    {
        let signature = call::fallible_signature::<A, T, E>();
        let name = type_name::<fn(A) -> Result<T, E>>();
        Erased::here(call::fallible::<A, T, E>, function as usize, signature, None, name)
    }

    /// Refers to a function of several arguments, which are packed as a tuple.
    ///
    /// ```
    /// use procession_parcel::{Outcome, Parcel, function::Erased};
    ///
    /// let erased = Erased::spread::<(u64, u64), _>(|a, b| a - b)?;
    /// let Outcome::Value(result) = erased.call(Parcel::pack(&(50_u64, 8_u64))?) else { panic!() };
    /// assert_eq!(result.unpack::<u64>()?, 42);
    /// # Ok::<(), procession_parcel::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Erased::new`].
    pub fn spread<A, R>(function: A::Function<R>) -> Result<Erased, Error>
    where
        A: Arguments,
        R: Serialize + 'static,
    {
        A::erase(function)
    }

    /// Refers to a function with captured values. These are packed now, once, and decoded once by each receiver
    /// of the reference (and by this process, if it calls).
    ///
    /// # Errors
    /// As [`Erased::new`], or if the captured values cannot be packed.
    pub fn of_task<C, A, R>(task: &Task<C, A, R>) -> Result<Erased, Error>
    where
        C: Serialize + DeserializeOwned + Send + Sync + 'static,
        A: DeserializeOwned + 'static,
        R: Serialize + 'static,
    {
        let signature = call::task_signature::<C, A, R>();
        let state = State::new(Parcel::pack(&task.captures)?);
        let name = type_name::<fn(A) -> R>();
        Erased::here(call::task::<C, A, R>, task.function as usize, signature, Some(state), name)
    }

    /// As [`of_task`](Erased::of_task), with a function that may fail, as in [`fallible`](Erased::fallible).
    ///
    /// # Errors
    /// As [`Erased::of_task`].
    pub fn of_fallible_task<C, A, T, E>(task: &Task<C, A, Result<T, E>>) -> Result<Erased, Error>
    where
        C: Serialize + DeserializeOwned + Send + Sync + 'static,
        A: DeserializeOwned + 'static,
        T: Serialize + 'static,
        E: Into<Box<dyn StdError + Send + Sync>> + 'static,
    {
        let signature = call::fallible_task_signature::<C, A, T, E>();
        let state = State::new(Parcel::pack(&task.captures)?);
        let name = type_name::<fn(A) -> Result<T, E>>();
        let function = task.function as usize;
        Erased::here(call::fallible_task::<C, A, T, E>, function, signature, Some(state), name)
    }

    /// Refers to a function that is called with the state of the thread which runs it: the one that
    /// [`set_local_state`](super::set_local_state) gave to it. Without one, or with one of another type, a call gives
    /// [`Outcome::BadArguments`]. A call that panics leaves the state as it was at that moment.
    ///
    /// # Errors
    /// As [`Erased::new`].
    pub fn with_local_state<S, A, R>(function: fn(&mut S, A) -> R) -> Result<Erased, Error>
    where
        S: 'static,
        A: DeserializeOwned + 'static,
        R: Serialize + 'static,
    {
        let signature = call::state_signature::<S, A, R>();
        let name = type_name::<fn(&mut S, A) -> R>();
        Erased::here(call::with_state::<S, A, R>, function as usize, signature, None, name)
    }

    /// Refers to the function registered here under `name`.
    ///
    /// # Errors
    /// If none is, or two are.
    pub fn named(name: &str) -> Result<Erased, Error> {
        let found = named::find(name)?;
        let (argument, result) = found.types();
        Ok(Erased::registered(found, (argument.to_owned(), result.to_owned())))
    }

    /// Refers to a function that another program has registered under `name`. Calling it here gives
    /// [`Outcome::BadArguments`], unless it is registered here too.
    #[must_use]
    pub fn named_unchecked(name: &str) -> Erased {
        Erased::named(name).unwrap_or_else(|_| Erased::elsewhere(name.to_owned()))
    }

    pub(super) fn here(
        entry: Entry,
        function: usize,
        signature: u64,
        state: Option<State>,
        name: &'static str,
    ) -> Result<Erased, Error> {
        for address in [entry as usize, function] {
            if !image().contains(address) {
                return Err(Error::function(
                    name,
                    "its code is not in the main program but in a shared library: register it under a name",
                ));
            }
        }
        let target = Target { function, signature, state };
        Ok(Erased::made(Inner { entry: Some(entry), target, by: By::Offset }, Cow::Borrowed(name)))
    }

    fn registered(found: &named::Registration, types: (String, String)) -> Erased {
        let target = Target { function: found.address(), signature: found.signature(), state: None };
        let by = By::Name { name: found.name().to_owned(), types: Some(types) };
        Erased::made(Inner { entry: Some(found.entry), target, by }, Cow::Borrowed(found.name()))
    }

    fn elsewhere(name: String) -> Erased {
        let target = Target { function: 0, signature: 0, state: None };
        let by = By::Name { name: name.clone(), types: None };
        Erased::made(Inner { entry: None, target, by }, Cow::Owned(name))
    }

    fn made(inner: Inner, name: Cow<'static, str>) -> Erased {
        Erased { inner: Arc::new(inner), name, trusts_inputs: false }
    }

    /// Gives it a name for messages; it travels along.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<Cow<'static, str>>) -> Erased {
        self.name = name.into();
        self
    }

    /// Where the function is in this process, if it is here: for who looks up its symbol. Equal functions may share an address,
    /// and it is another one in each process, so it is neither a name nor a key.
    #[must_use]
    pub fn address(&self) -> Option<usize> {
        Some(self.inner.target.function).filter(|address| *address != 0)
    }

    /// What to call it in messages: the name given, the registered one, or else its type.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Lets inputs that come as bytes ([`call_bytes`](Erased::call_bytes), [`call_records`](Erased::call_records))
    /// refer to functions by offset.
    ///
    /// # Safety
    /// All inputs were encoded by a process that runs the same executable, and reach us unchanged: through a lane
    /// whose other end is ours, for example.
    #[must_use]
    pub unsafe fn assume_inputs_same_program(mut self) -> Erased {
        self.trusts_inputs = true;
        self
    }

    /// Decodes the argument, calls the function and encodes what it returns. Nothing unwinds out of here.
    pub fn call(&self, input: Parcel) -> Outcome {
        let mut outcome = Outcome::BadArguments(String::new());
        self.enter(Body::Parcel(&mut Some(input), &mut outcome));
        outcome
    }

    /// As [`call`](Erased::call), without descriptors: the encoded value is appended to `output`, which is
    /// unchanged unless the outcome is a value.
    #[inline]
    pub fn call_bytes(&self, input: &[u8], output: &mut Vec<u8>) -> Outcome<()> {
        self.call_plainly(input, Plainly::default(), output)
    }

    /// As [`call_bytes`](Erased::call_bytes), where the argument, the value or both are plain numbers.
    #[inline]
    pub fn call_plainly(&self, input: &[u8], plainly: Plainly, output: &mut Vec<u8>) -> Outcome<()> {
        let mut outcome = Outcome::Value(());
        let trusted = self.trusts_inputs;
        self.enter(Body::Bytes { input, plainly, trusted, output, outcome: &mut outcome });
        outcome
    }

    /// Which plain numbers the argument and the value are, as far as they are, and the function is here.
    #[must_use]
    pub fn plain_types(&self) -> [Option<Plain>; 2] {
        let mut types = [None; 2];
        self.enter(Body::Types(&mut types));
        types
    }

    /// As [`call_bytes`](Erased::call_bytes), for a ring that brings something along beside the bytes.
    pub fn call_carried(&self, input: &[u8], load: &mut dyn Carrying, output: &mut Vec<u8>) -> Outcome<()> {
        let mut outcome = Outcome::Value(());
        let trusted = self.trusts_inputs;
        let (input, plainly) = (Cow::Borrowed(input), Plainly::default());
        self.enter(Body::Carried {
            input,
            plainly,
            trusted,
            load: Some(load),
            output,
            outcome: &mut outcome,
        });
        outcome
    }

    /// As [`call_plainly`](Erased::call_plainly), for bytes that are not needed any more: see
    /// [`codec::decode_vec`](crate::codec::decode_vec).
    pub fn call_vec(&self, input: Vec<u8>, plainly: Plainly, output: &mut Vec<u8>) -> Outcome<()> {
        let mut outcome = Outcome::Value(());
        let (input, trusted) = (Cow::Owned(input), self.trusts_inputs);
        self.enter(Body::Carried { input, plainly, trusted, load: None, output, outcome: &mut outcome });
        outcome
    }

    /// Calls the function for at most `count` arguments that follow each other in `input`, which is moved past them. Each is
    /// a record: the length of its encoding, as a little-endian `u32`, and that. `sink` is told of each call when it is over.
    /// It ends early at what is no whole record, and where `sink` says so. Where arguments are plain numbers, they follow
    /// each other without lengths.
    ///
    /// `output` is room for one value at a time; what is in it does not matter.
    #[inline]
    pub fn call_records(
        &self,
        count: usize,
        input: &mut &[u8],
        plainly: Plainly,
        output: &mut Vec<u8>,
        sink: &mut dyn Records,
    ) {
        self.enter(Body::Records { count, input, plainly, trusted: self.trusts_inputs, output, sink });
    }

    #[inline]
    fn enter(&self, body: Body<'_, '_>) {
        match self.inner.entry {
            Some(entry) => entry(&self.inner.target, body),
            None => self.absent(body),
        }
    }

    #[cold]
    fn absent(&self, body: Body<'_, '_>) {
        call::refuse_with(body, &format!("no function `{}` is registered in this program", self.name));
    }
}

impl fmt::Debug for Erased {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Erased").field(&self.name).finish()
    }
}

#[derive(Serialize, Deserialize)]
enum Wire<'a> {
    Offset(Cow<'a, Place>, Cow<'a, str>, Option<StateWire<'a>>),
    Name { name: Cow<'a, str>, types: Option<(String, String)>, shown: Cow<'a, str> },
}

/// Where a function lies, in which build. The seal tells it from what was not made here (see `seal`).
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) struct Place {
    build_id: BuildId,
    entry: u64,
    function: u64,
    signature: u64,
    seal: u64,
}

impl Place {
    /// The function at `function` is of the type that `signature` stands for. In the erased form `entry` is an
    /// [`Entry`] for that type, in the typed one the function itself.
    pub(super) fn of(form: Form, entry: usize, function: usize, signature: u64) -> Result<Place, String> {
        let image = image();
        let (Some(entry), Some(function)) = (image.offset_of(entry), image.offset_of(function)) else {
            return Err("a function whose code is not in the main program cannot be sent".to_owned());
        };
        let build_id = image.build_id();
        let seal = seal(form, [entry, function, signature], build_id.as_bytes());
        let seal = seal.map_err(|error| error.to_string())?;
        Ok(Place { build_id, entry, function, signature, seal })
    }

    /// The addresses of entry and function, and the signature, after all checks.
    pub(super) fn find(&self, form: Form, trusted: bool) -> Result<(usize, usize, u64), String> {
        if !trusted {
            return Err(UNTRUSTED.to_owned());
        }
        let image = image();
        if self.build_id != image.build_id() {
            return Err(format!(
                "the function reference is from another build of the program ({}), this one is {}: register the \
                 function under a name",
                self.build_id,
                image.build_id()
            ));
        }
        let seal = seal(form, [self.entry, self.function, self.signature], self.build_id.as_bytes());
        if self.seal != seal.map_err(|error| error.to_string())? {
            return Err(DAMAGED.to_owned());
        }
        match (image.address_of(self.entry), image.address_of(self.function)) {
            (Some(entry), Some(function)) => Ok((entry, function, self.signature)),
            _ => Err("the function reference points outside of the program's code".to_owned()),
        }
    }
}

const UNTRUSTED: &str = "function references are only honoured from a peer that proved to run this very \
                         program; register a name for the function instead";

const DAMAGED: &str = "the function reference is damaged, or was made in a process of another tree, or by hand: its \
                       seal does not hold";

/// The packed captures, lent or owned.
struct StateWire<'a>(Cow2<'a>);

enum Cow2<'a> {
    Lent(&'a Parcel),
    Owned(Parcel),
}

impl Serialize for StateWire<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Cow2::Lent(parcel) => parcel.serialize(s),
            Cow2::Owned(parcel) => parcel.serialize(s),
        }
    }
}

impl<'de> Deserialize<'de> for StateWire<'_> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Parcel::deserialize(d).map(|parcel| StateWire(Cow2::Owned(parcel)))
    }
}

impl Serialize for Erased {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let shown = Cow::Borrowed(&*self.name);
        let wire = match (&self.inner.by, self.inner.entry) {
            (By::Name { name, types }, _) => {
                Wire::Name { name: Cow::Borrowed(name), types: types.clone(), shown }
            }
            (By::Offset, Some(entry)) => {
                let target = &self.inner.target;
                let place = Place::of(Form::Erased, entry as usize, target.function, target.signature)
                    .map_err(S::Error::custom)?;
                let state = target.state.as_ref().map(|state| StateWire(Cow2::Lent(&state.packed)));
                Wire::Offset(Cow::Owned(place), shown, state)
            }
            (By::Offset, None) => return Err(S::Error::custom("a reference to nothing")),
        };
        s.serialize_newtype_struct(trust::MARK, &wire)
    }
}

impl<'de> Deserialize<'de> for Erased {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Erased, D::Error> {
        let (wire, trusted): (Wire<'static>, bool) = trust::deserialize(d)?;
        match wire {
            Wire::Offset(place, shown, state) => {
                let (entry, function, signature) =
                    place.find(Form::Erased, trusted).map_err(D::Error::custom)?;
                // SAFETY: `Place::find` found the reference of this build, at code of this program and under an intact
                // seal, which is made for an `Entry` only (invariant 1).
                let entry = unsafe { transmute::<usize, Entry>(entry) };
                let state = state.map(|state| match state.0 {
                    Cow2::Owned(parcel) => Ok(State::new(parcel)),
                    Cow2::Lent(parcel) => parcel.try_clone().map(State::new),
                });
                let state = state.transpose().map_err(D::Error::custom)?;
                let target = Target { function, signature, state };
                Ok(Erased::made(Inner { entry: Some(entry), target, by: By::Offset }, shown))
            }
            Wire::Name { name, types: Some(types), shown } => {
                let found = named::find_typed(&name, &types.0, &types.1).map_err(D::Error::custom)?;
                Ok(Erased::registered(found, types).with_name(shown))
            }
            Wire::Name { name, types: None, shown } => {
                named::find(&name).map_err(D::Error::custom)?;
                Ok(Erased::named_unchecked(&name).with_name(shown))
            }
        }
    }
}
