//! Values to bytes and back, without descriptors: what rings carry.
//!
//! The format is [postcard](https://postcard.jamesmunns.com/wire-format)'s: compact, stable, little-endian,
//! not self-describing. The implementation is our own, for three reasons: an error keeps the text that the
//! type's own serde implementation gave, nesting is bounded, so that hostile bytes cannot overflow the stack,
//! and descriptors and trust belong to the very (de)serialiser at work instead of to whatever runs meanwhile.
//!
//! Encoding makes two passes, one that counts and one that writes into memory of exactly that size; so
//! `Serialize` runs twice, and `Vec<u8>` or `Vec<f64>` is copied as fast as memory allows. Decoding does the
//! same for these types at the top of a value; elsewhere [`Bytes`](crate::Bytes) and [`Pod`](crate::Pod) do.
//!
//! Runs of numbers have an encoding of their own: [`plain`].
//!
//! A handle (what carries a descriptor) is refused with an error that says so: a ring carries bytes only.

mod de;
mod fast;
mod fault;
mod output;
pub mod plain;
mod ser;

pub(crate) use de::Deserializer;
pub(crate) use fault::Fault;

use crate::carrier::Carrier;
use crate::error::{Error, Kind};
use crate::handle::{Incoming, Outgoing};
use output::Sizer;
use ser::Serializer;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::any::type_name;

/// How deep values may nest (structs, options, enums, sequences, each counting one).
///
/// A linked list of boxes is the only kind of honest value that meets it: send a `Vec` instead.
pub const MAX_DEPTH: u32 = 512;

const TOO_DEEP: &str = "it nests deeper than 512 levels";

/// Appends the encoded `value` to `into`.
///
/// # Errors
/// If the value holds a handle, nests deeper than [`MAX_DEPTH`], or its `Serialize` implementation fails;
/// `into` is unchanged then.
#[inline]
pub fn encode<T: Serialize + ?Sized>(value: &T, into: &mut Vec<u8>) -> Result<(), Error> {
    encode_raw(value, None, into).map_err(|fault| encode_error::<T>(fault))
}

/// As [`encode`], for a ring that brings a [`carrier`](crate::carrier) along.
///
/// # Errors
/// As [`encode`], and those of values that the carrier does not suit.
#[inline]
pub fn encode_with<T: Serialize + ?Sized>(
    value: &T,
    carrier: &Carrier,
    into: &mut Vec<u8>,
) -> Result<(), Error> {
    encode_carried(value, carrier, into).map_err(|fault| encode_error::<T>(fault))
}

pub(crate) fn encode_carried<T: Serialize + ?Sized>(
    value: &T,
    carrier: &Carrier,
    into: &mut Vec<u8>,
) -> Result<(), Fault> {
    let mut sizer = Serializer::new(Sizer::default(), None);
    sizer.carrier = Some(carrier);
    value.serialize(&mut sizer)?;
    output::append(into, sizer.output.size, |writer| {
        let mut serializer = Serializer::new(writer, None);
        serializer.carrier = Some(carrier);
        value.serialize(&mut serializer)?;
        Ok((serializer.output, ()))
    })
}

/// How many bytes [`encode`] would append.
///
/// # Errors
/// As [`encode`].
#[inline]
pub fn encoded_len<T: Serialize + ?Sized>(value: &T) -> Result<usize, Error> {
    size(value, None).map_err(|fault| encode_error::<T>(fault))
}

/// The bytes of a value that is a byte string or a text (`Vec<u8>`, [`Bytes`](crate::Bytes), `[u8]`, `String`, `str`), and nothing
/// of others: its encoding is their number, as that of a `usize`, and then they. So who writes one into a ring need not copy it
/// before.
///
/// ```
/// use procession_parcel::codec;
///
/// assert_eq!(codec::byte_string("text"), Some(&b"text"[..]));
/// assert_eq!(codec::byte_string(&[1_u16, 2]), None);
/// ```
#[must_use]
pub fn byte_string<T: ?Sized>(value: &T) -> Option<&[u8]> {
    crate::bytes::string_of(value)
}

/// Decodes a value from the whole of `bytes`.
///
/// # Errors
/// If the bytes are not the encoding of a `T`, or more bytes follow it; if it holds a handle or refers to a
/// function by its offset.
#[inline]
pub fn decode<T: DeserializeOwned + 'static>(bytes: &[u8]) -> Result<T, Error> {
    decode_raw(bytes, None, false).map_err(|fault| decode_error::<T>(bytes.len(), fault))
}

/// As [`decode`], for a ring that brings a [`carrier`](crate::carrier) along.
///
/// # Errors
/// As [`decode`], and those of values that the carrier does not suit.
#[inline]
pub fn decode_with<T: DeserializeOwned + 'static>(bytes: &[u8], carrier: &Carrier) -> Result<T, Error> {
    decode_carried(bytes, carrier, false).map_err(|fault| decode_error::<T>(bytes.len(), fault))
}

pub(crate) fn decode_carried<T: DeserializeOwned + 'static>(
    bytes: &[u8],
    carrier: &Carrier,
    trusted: bool,
) -> Result<T, Fault> {
    let mut deserializer = Deserializer::new(bytes, None, trusted);
    deserializer.carrier = Some(carrier);
    let value = match fast::decode(&mut deserializer) {
        Some(value) => value?,
        None => T::deserialize(&mut deserializer)?,
    };
    if !deserializer.input.is_empty() {
        return Err(trailing(deserializer.input.len()));
    }
    Ok(value)
}

/// Decodes a value from the bytes behind `from`, which are not needed any more: a byte string or a text that is all of the
/// value keeps their memory, since fresh memory costs more than to move them.
///
/// # Errors
/// As [`decode`].
pub fn decode_vec<T: DeserializeOwned + 'static>(bytes: Vec<u8>, from: usize) -> Result<T, Error> {
    let len = bytes.len().saturating_sub(from);
    decode_vec_raw(bytes, from, false).map_err(|fault| decode_error::<T>(len, fault))
}

pub(crate) fn decode_vec_raw<T: DeserializeOwned + 'static>(
    bytes: Vec<u8>,
    from: usize,
    trusted: bool,
) -> Result<T, Fault> {
    match fast::in_place(bytes, from) {
        Ok(value) => Ok(value),
        Err(bytes) => decode_raw(bytes.get(from..).unwrap_or_default(), None, trusted),
    }
}

/// Decodes a value from the front of `bytes` and returns what follows it.
///
/// # Errors
/// As [`decode`], but for the bytes that follow.
#[inline]
pub fn take<T: DeserializeOwned + 'static>(bytes: &[u8]) -> Result<(T, &[u8]), Error> {
    take_raw(bytes, None, false).map_err(|fault| decode_error::<T>(bytes.len(), fault))
}

#[inline]
fn size<T: Serialize + ?Sized>(value: &T, handles: Option<&mut Outgoing>) -> Result<usize, Fault> {
    let mut sizer = Serializer::new(Sizer::default(), handles);
    value.serialize(&mut sizer)?;
    Ok(sizer.output.size)
}

#[inline]
pub(crate) fn encode_raw<T: Serialize + ?Sized>(
    value: &T,
    mut handles: Option<&mut Outgoing>,
    into: &mut Vec<u8>,
) -> Result<(), Fault> {
    let size = size(value, handles.as_deref_mut())?;
    if let Some(handles) = handles.as_deref_mut() {
        handles.second_pass();
    }
    output::append(into, size, |writer| {
        let mut serializer = Serializer::new(writer, handles);
        value.serialize(&mut serializer)?;
        Ok((serializer.output, ()))
    })
}

#[inline]
pub(crate) fn take_raw<'b, T: DeserializeOwned + 'static>(
    bytes: &'b [u8],
    handles: Option<&mut Incoming>,
    trusted: bool,
) -> Result<(T, &'b [u8]), Fault> {
    let mut deserializer = Deserializer::new(bytes, handles, trusted);
    let value = match fast::decode(&mut deserializer) {
        Some(value) => value?,
        None => T::deserialize(&mut deserializer)?,
    };
    Ok((value, deserializer.input))
}

#[inline]
pub(crate) fn decode_raw<T: DeserializeOwned + 'static>(
    bytes: &[u8],
    handles: Option<&mut Incoming>,
    trusted: bool,
) -> Result<T, Fault> {
    let (value, rest) = take_raw(bytes, handles, trusted)?;
    if !rest.is_empty() {
        return Err(trailing(rest.len()));
    }
    Ok(value)
}

/// As [`decode_raw`], where the bytes are no longer needed: a byte string keeps their memory.
pub(crate) fn decode_owned<T: DeserializeOwned + 'static>(
    bytes: Vec<u8>,
    handles: &mut Incoming,
    trusted: bool,
) -> Result<T, Error> {
    let bytes = match fast::in_place(bytes, 0) {
        Ok(value) => return Ok(value),
        Err(bytes) => bytes,
    };
    decode_raw(&bytes, Some(handles), trusted).map_err(|fault| decode_error::<T>(bytes.len(), fault))
}

#[cold]
pub(crate) fn trailing(bytes: usize) -> Fault {
    Fault::text(format!("{bytes} bytes follow the value: it was encoded from another type"))
}

#[cold]
pub(crate) fn encode_error<T: ?Sized>(fault: Fault) -> Error {
    Kind::Encode { type_name: type_name::<T>(), cause: fault.into_text() }.into()
}

#[cold]
pub(crate) fn decode_error<T>(bytes: usize, fault: Fault) -> Error {
    Kind::Decode { type_name: type_name::<T>(), bytes, cause: fault.into_text() }.into()
}
