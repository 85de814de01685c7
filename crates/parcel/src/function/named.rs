//! Functions that go by a name, for peers of other builds or other machines.
#![expect(
    unsafe_code,
    reason = "keeps functions of many types in one list; `linkme` places it in a link section"
)]
#![allow(clippy::undocumented_unsafe_blocks, reason = "linkme's own expansion")]

use super::call::{self, Entry};
use crate::error::Error;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::any::type_name;
use std::fmt;
use std::mem::transmute;

/// All functions registered in this program, put together by the linker.
#[doc(hidden)]
#[linkme::distributed_slice]
pub static REGISTRY: [Registration];

/// A function under a name; made by [`register!`](crate::register).
pub struct Registration {
    name: &'static str,
    pub(super) entry: Entry,
    function: fn(),
    signature: fn() -> u64,
    types: fn() -> (&'static str, &'static str),
}

impl Registration {
    /// Registers `function` as `name`. Use [`register!`](crate::register), which puts it into the list too.
    #[must_use]
    pub const fn new<A, R>(name: &'static str, function: fn(A) -> R) -> Registration
    where
        A: DeserializeOwned + 'static,
        R: Serialize + 'static,
    {
        Registration {
            name,
            entry: call::plain::<A, R>,
            // SAFETY: both are function pointers; the result is only ever turned back, never called.
            function: unsafe { transmute::<fn(A) -> R, fn()>(function) },
            signature: call::plain_signature::<A, R>,
            types: || (type_name::<A>(), type_name::<R>()),
        }
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The names of the argument's and the result's types.
    #[must_use]
    pub fn types(&self) -> (&'static str, &'static str) {
        (self.types)()
    }

    pub(super) fn address(&self) -> usize {
        self.function as usize
    }

    pub(super) fn signature(&self) -> u64 {
        (self.signature)()
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (argument, result) = self.types();
        write!(f, "{:?} => fn({argument}) -> {result}", self.name)
    }
}

/// All functions registered in this program.
#[must_use]
pub fn registered() -> &'static [Registration] {
    &REGISTRY
}

/// The function of this name.
pub(super) fn find(name: &str) -> Result<&'static Registration, Error> {
    let mut found = registered().iter().filter(|registration| registration.name == name);
    let first = found
        .next()
        .ok_or_else(|| Error::function(name, "no function of that name is registered in this program"))?;
    match found.next() {
        Some(_) => Err(Error::function(name, "two functions are registered under that name")),
        None => Ok(first),
    }
}

/// The function of this name, if its types have the names that the sender gave.
pub(super) fn find_typed(name: &str, argument: &str, result: &str) -> Result<&'static Registration, Error> {
    let found = find(name)?;
    let types = found.types();
    if types != (argument, result) {
        return Err(Error::function(
            name,
            format!("it is fn({}) -> {} here, fn({argument}) -> {result} at the sender", types.0, types.1),
        ));
    }
    Ok(found)
}
