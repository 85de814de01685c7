//! What became of a call.

use crate::{Panic, Parcel, RemoteError};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What became of a call in another process.
#[derive(Debug, Serialize, Deserialize)]
#[must_use = "a call may have failed"]
pub enum Outcome<V = Parcel> {
    /// The function returned; its encoded value, or the unit where the value went somewhere else.
    Value(V),
    /// The function, or the code that encodes or decodes its values, panicked.
    Panicked(Panic),
    /// The function returned an error.
    Failed(RemoteError),
    /// The arguments could not be decoded, or no such function is here: it was not called.
    BadArguments(String),
    /// The function returned, but its value could not be encoded.
    BadResult(String),
}

impl<V> Outcome<V> {
    /// The same outcome with another value.
    pub fn map<W>(self, map: impl FnOnce(V) -> W) -> Outcome<W> {
        match self {
            Outcome::Value(value) => Outcome::Value(map(value)),
            Outcome::Panicked(panic) => Outcome::Panicked(panic),
            Outcome::Failed(error) => Outcome::Failed(error),
            Outcome::BadArguments(cause) => Outcome::BadArguments(cause),
            Outcome::BadResult(cause) => Outcome::BadResult(cause),
        }
    }

    /// The value, or the outcome without one.
    ///
    /// # Errors
    /// Every outcome but [`Outcome::Value`].
    pub fn into_value(self) -> Result<V, Outcome<()>> {
        match self {
            Outcome::Value(value) => Ok(value),
            other => Err(other.map(drop)),
        }
    }

    /// Whether the function returned a value.
    #[must_use]
    pub fn is_value(&self) -> bool {
        matches!(self, Outcome::Value(_))
    }
}

impl<V> fmt::Display for Outcome<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Value(_) => f.write_str("returned"),
            Outcome::Panicked(panic) => fmt::Display::fmt(panic, f),
            Outcome::Failed(error) => write!(f, "returned an error: {error}"),
            Outcome::BadArguments(cause) => write!(f, "was not called: {cause}"),
            Outcome::BadResult(cause) => write!(f, "returned what cannot be sent: {cause}"),
        }
    }
}
