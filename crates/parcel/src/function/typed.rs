//! A function with its types.
#![expect(unsafe_code, reason = "turns a checked address back into a function of the type it was")]

use super::erased::Place;
use super::named;
use super::seal::Form;
use super::signature::signature;
use crate::error::Error;
use crate::trust;
use serde::de::{DeserializeOwned, Error as _};
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::any::type_name;
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::mem::transmute;

/// A function `fn(A) -> R` that can be sent.
///
/// ```
/// use procession_parcel::{Parcel, function::Function};
///
/// fn double(n: u64) -> u64 {
///     n * 2
/// }
///
/// let parcel = Parcel::pack(&Function::from(double as fn(u64) -> u64))?;
/// let function: Function<u64, u64> = parcel.unpack()?;
/// assert_eq!(function.call(21), 42);
/// # Ok::<(), procession_parcel::Error>(())
/// ```
pub struct Function<A, R> {
    function: fn(A) -> R,
    /// The name it goes by, if it was found by one.
    name: Option<&'static str>,
}

struct Marker<A, R>(PhantomData<fn(A) -> R>);

fn typed_signature<A: 'static, R: 'static>() -> u64 {
    signature::<Marker<A, R>, A, R>()
}

impl<A: 'static, R: 'static> Function<A, R> {
    /// Refers to `function`. Whether it can be sent shows when it is packed.
    #[must_use]
    pub fn new(function: fn(A) -> R) -> Function<A, R> {
        Function { function, name: None }
    }

    /// Calls the function, here.
    pub fn call(&self, argument: A) -> R {
        (self.function)(argument)
    }

    /// The function itself.
    #[must_use]
    pub fn as_fn(&self) -> fn(A) -> R {
        self.function
    }
}

impl<A, R> Function<A, R>
where
    A: DeserializeOwned + 'static,
    R: Serialize + 'static,
{
    /// Refers to the function registered here under `name`; the reference goes by that name.
    ///
    /// # Errors
    /// If none is registered, or two are, or one of other types.
    pub fn named(name: &str) -> Result<Function<A, R>, Error> {
        Function::of_registration(named::find_typed(name, type_name::<A>(), type_name::<R>())?)
    }
}

impl<A: 'static, R: 'static> Function<A, R> {
    fn of_registration(found: &named::Registration) -> Result<Function<A, R>, Error> {
        if found.signature() != super::call::plain_signature::<A, R>() {
            return Err(Error::function(found.name(), "it has other types, though of the same names"));
        }
        // SAFETY: the signature says that the registered function is an `fn(A) -> R`.
        let function = unsafe { transmute::<usize, fn(A) -> R>(found.address()) };
        Ok(Function { function, name: Some(found.name()) })
    }
}

impl<A: 'static, R: 'static> From<fn(A) -> R> for Function<A, R> {
    fn from(function: fn(A) -> R) -> Function<A, R> {
        Function::new(function)
    }
}

impl<A, R> Clone for Function<A, R> {
    fn clone(&self) -> Function<A, R> {
        *self
    }
}

impl<A, R> Copy for Function<A, R> {}

impl<A, R> fmt::Debug for Function<A, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Function").field(&self.name.unwrap_or(type_name::<fn(A) -> R>())).finish()
    }
}

#[derive(Serialize, Deserialize)]
enum Wire<'a> {
    Offset(Place),
    Name { name: Cow<'a, str>, argument: Cow<'a, str>, result: Cow<'a, str> },
}

impl<A: 'static, R: 'static> Serialize for Function<A, R> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let wire = match self.name {
            Some(name) => Wire::Name {
                name: name.into(),
                argument: type_name::<A>().into(),
                result: type_name::<R>().into(),
            },
            None => {
                let address = self.function as usize;
                let place = Place::of(Form::Typed, address, address, typed_signature::<A, R>());
                Wire::Offset(place.map_err(S::Error::custom)?)
            }
        };
        s.serialize_newtype_struct(trust::MARK, &wire)
    }
}

impl<'de, A: 'static, R: 'static> Deserialize<'de> for Function<A, R> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Function<A, R>, D::Error> {
        let (wire, trusted): (Wire<'static>, bool) = trust::deserialize(d)?;
        match wire {
            Wire::Offset(place) => {
                let (_, function, signature) = place.find(Form::Typed, trusted).map_err(D::Error::custom)?;
                if signature != typed_signature::<A, R>() {
                    return Err(D::Error::custom(format_args!(
                        "the function reference is not to a `{}`",
                        type_name::<fn(A) -> R>()
                    )));
                }
                // SAFETY: `Place::find` found the reference of this build and under an intact seal, so this program
                // made it from a function of the type that the signature stands for, which is this one.
                let function = unsafe { transmute::<usize, fn(A) -> R>(function) };
                Ok(Function { function, name: None })
            }
            Wire::Name { name, argument, result } => {
                let found = named::find_typed(&name, &argument, &result).map_err(D::Error::custom)?;
                Function::of_registration(found).map_err(D::Error::custom)
            }
        }
    }
}
