//! Plain values as pickles, for CPython at the other end.
//!
//! Loading a pickle here executes nothing. It is looked through first (`inspect`), instruction by instruction: one that names
//! a class or a function, or calls something, is an error, and so is a pickle that nests too deep or stands for far more than
//! its own length. Then the `serde-pickle` crate makes the value, which knows no functions to call.
//!
//! **That holds for this side only.** CPython's `recv` executes what a pickle says, so a Python peer must trust whoever knows
//! the key.

use super::inspect::inspect;
use crate::connection::{Connection, ConnectionError, Kind};
use procession_sys::Deadline;
use serde::{Serialize, de::DeserializeOwned};
use serde_pickle::{DeOptions, SerOptions, Value};
use std::{io, time::Duration};

/// The longest pickle that is received: as a value it takes several times as much.
const LONGEST: u64 = 256 << 20;

const SEND: &str = "send a pickle";
const RECV: &str = "receive a pickle";

/// A value as a pickle of protocol 3, which every Python 3 loads.
///
/// A struct becomes a dictionary, a tuple a tuple, `Vec<T>` a list, `None` and `()` None; for Python's `bytes` use
/// [`Bytes`](procession_parcel::Bytes), since a `Vec<u8>` is a list of numbers.
///
/// # Errors
///
/// If the value's `Serialize` implementation fails.
pub fn dumps<T: Serialize + ?Sized>(value: &T) -> io::Result<Vec<u8>> {
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidInput, error);
    serde_pickle::to_vec(&value, SerOptions::new()).map_err(invalid)
}

/// The plain value that a pickle of any protocol stands for; nothing is executed.
///
/// Into a type of yours; [`loads_value`] takes every plain value.
///
/// # Errors
///
/// If it is no pickle, is not plain (instances, classes, functions, `bytearray` before protocol 5), nests deeper than 128, is
/// by far larger spread out than as a pickle, has more than 8 million items, contains itself, or does not fit the type.
pub fn loads<T: DeserializeOwned>(pickle: &[u8]) -> io::Result<T> {
    let invalid = |error: String| io::Error::new(io::ErrorKind::InvalidData, error);
    let pickle = inspect(pickle).map_err(|found| invalid(format!("the pickle holds {found}")))?;
    serde_pickle::from_slice(&pickle, DeOptions::new()).map_err(|error| invalid(error.to_string()))
}

/// Any plain value as a pickle of protocol 3: sets and numbers of any size too, which serde does not know.
///
/// # Errors
///
/// If the value cannot be a pickle.
pub fn dumps_value(value: &Value) -> io::Result<Vec<u8>> {
    let invalid = |error| io::Error::new(io::ErrorKind::InvalidInput, error);
    serde_pickle::value_to_vec(value, SerOptions::new()).map_err(invalid)
}

/// As [`loads`], for any plain value: sets and numbers of any size too, which serde does not know.
///
/// # Errors
///
/// As [`loads`].
pub fn loads_value(pickle: &[u8]) -> io::Result<Value> {
    let invalid = |error: String| io::Error::new(io::ErrorKind::InvalidData, error);
    let pickle = inspect(pickle).map_err(|found| invalid(format!("the pickle holds {found}")))?;
    serde_pickle::value_from_slice(&pickle, DeOptions::new()).map_err(|error| invalid(error.to_string()))
}

/// Messages for CPython's `send` and `recv`, in place of this connection's own types.
impl<S, R> Connection<S, R> {
    /// Sends a value as a [pickle](dumps), which CPython's `recv` gives out.
    ///
    /// # Errors
    ///
    /// If the value cannot be a pickle; as [`send_bytes`](Connection::send_bytes).
    pub fn send_pickle<T: Serialize + ?Sized>(&self, value: &T) -> Result<(), ConnectionError> {
        let pickle = dumps(value).map_err(|error| ConnectionError::io(SEND, error))?;
        self.send_bytes(&pickle)
    }

    fn max_pickle(&self) -> u64 {
        self.max_message().min(LONGEST)
    }

    /// Receives what CPython's `send` sent, if it is a plain value; [nothing is executed](loads).
    ///
    /// # Errors
    ///
    /// If the message is no such pickle: it is gone then, and the next can be received; as
    /// [`recv_bytes`](Connection::recv_bytes), where more than 256 MiB are too large: take these as bytes, and [`loads`]
    /// them.
    pub fn recv_pickle<T: DeserializeOwned>(&self) -> Result<T, ConnectionError> {
        load(&self.recv_bytes_max(self.max_pickle())?)
    }

    /// As [`recv_pickle`](Connection::recv_pickle), for `timeout` at most: then `None`.
    ///
    /// # Errors
    ///
    /// As [`recv_pickle`](Connection::recv_pickle).
    pub fn recv_pickle_timeout<T: DeserializeOwned>(
        &self,
        timeout: Duration,
    ) -> Result<Option<T>, ConnectionError> {
        let deadline = Some(Deadline::after(timeout));
        self.recv_bytes_within(self.max_pickle(), deadline)?.map(|pickle| load(&pickle)).transpose()
    }

    /// Sends any plain value as a [pickle](dumps_value).
    ///
    /// # Errors
    ///
    /// As [`send_pickle`](Connection::send_pickle).
    pub fn send_pickle_value(&self, value: &Value) -> Result<(), ConnectionError> {
        let pickle = dumps_value(value).map_err(|error| ConnectionError::io(SEND, error))?;
        self.send_bytes(&pickle)
    }

    /// Receives any plain value; [nothing is executed](loads).
    ///
    /// # Errors
    ///
    /// As [`recv_pickle`](Connection::recv_pickle).
    pub fn recv_pickle_value(&self) -> Result<Value, ConnectionError> {
        loads_value(&self.recv_bytes_max(self.max_pickle())?).map_err(malformed)
    }
}

fn malformed(error: io::Error) -> ConnectionError {
    ConnectionError::new(RECV, Kind::Malformed(error.to_string()))
}

fn load<T: DeserializeOwned>(pickle: &[u8]) -> Result<T, ConnectionError> {
    loads(pickle).map_err(malformed)
}
