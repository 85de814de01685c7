//! Functions with captured values, which are data and sent as such.
#![expect(unsafe_code, reason = "turns a checked address back into a function of the type it was")]

use super::erased::Place;
use super::seal::Form;
use super::signature::signature;
use crate::trust;
use serde::de::{DeserializeOwned, Error as _};
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::any::type_name;
use std::fmt;
use std::marker::PhantomData;
use std::mem::transmute;

/// A function and the values it needs besides its argument; made by [`task!`](crate::task).
pub struct Task<C, A, R> {
    pub(super) captures: C,
    pub(super) function: fn(&C, A) -> R,
}

impl<C, A, R> Task<C, A, R> {
    /// A task of a function that takes the captured values by reference, and its argument.
    #[must_use]
    pub fn new(captures: C, function: fn(&C, A) -> R) -> Task<C, A, R> {
        Task { captures, function }
    }

    /// Runs it, here.
    pub fn call(&self, argument: A) -> R {
        (self.function)(&self.captures, argument)
    }

    /// The captured values.
    #[must_use]
    pub fn captures(&self) -> &C {
        &self.captures
    }
}

impl<C: Clone, A, R> Clone for Task<C, A, R> {
    fn clone(&self) -> Task<C, A, R> {
        Task { captures: self.captures.clone(), function: self.function }
    }
}

impl<C: Copy, A, R> Copy for Task<C, A, R> {}

struct Marker<C, A, R>(PhantomData<fn(C, A) -> R>);

fn task_signature<C: 'static, A: 'static, R: 'static>() -> u64 {
    signature::<Marker<C, A, R>, A, R>()
}

/// A task can be sent with its types, inside of another one's captured values for example; the same rules hold as for
/// a [`Function`](super::Function).
impl<C: Serialize + 'static, A: 'static, R: 'static> Serialize for Task<C, A, R> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let address = self.function as usize;
        let place = Place::of(Form::Typed, address, address, task_signature::<C, A, R>());
        s.serialize_newtype_struct(trust::MARK, &(place.map_err(S::Error::custom)?, &self.captures))
    }
}

impl<'de, C: DeserializeOwned + 'static, A: 'static, R: 'static> Deserialize<'de> for Task<C, A, R> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Task<C, A, R>, D::Error> {
        let ((place, captures), trusted): ((Place, C), bool) = trust::deserialize(d)?;
        let (_, function, signature) = place.find(Form::Typed, trusted).map_err(D::Error::custom)?;
        if signature != task_signature::<C, A, R>() {
            let wanted = type_name::<fn(&C, A) -> R>();
            return Err(D::Error::custom(format_args!("the function reference is not to a `{wanted}`")));
        }
        // SAFETY: `Place::find` found the reference of this build and under an intact seal, so this program made it from
        // a function of the type that the signature stands for, which is this one.
        let function = unsafe { transmute::<usize, fn(&C, A) -> R>(function) };
        Ok(Task { captures, function })
    }
}

impl<C: fmt::Debug, A, R> fmt::Debug for Task<C, A, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").field("captures", &self.captures).finish_non_exhaustive()
    }
}
