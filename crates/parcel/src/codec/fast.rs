//! Types whose encoding is a length and raw memory are copied whole, if they are what is asked for.
//!
//! serde pulls a sequence out element by element, which costs a hundred times a copy; no trick inside
//! `Deserialize` avoids that, but the type asked for is known here.

use super::de::Deserializer;
use super::fault::Fault;
use crate::Bytes;
use crate::bytes::vec_from_bytes;
use std::any::{Any, TypeId};
use std::string::FromUtf8Error;

/// The decoded value, or nothing if `T` takes the ordinary way (then nothing was read).
#[inline(always)]
pub(super) fn decode<T: 'static>(from: &mut Deserializer<'_, '_>) -> Option<Result<T, Fault>> {
    if is::<T, Vec<u8>>() {
        return Some(from.bytes().map(|bytes| same(bytes.to_vec())));
    }
    if is::<T, String>() {
        return Some(from.text().map(|text| same(text.to_owned())));
    }
    if is::<T, Vec<i8>>() {
        return Some(from.bytes().map(|bytes| same(vec_from_bytes::<i8>(bytes))));
    }
    // Of the lengths that identifiers, digests and keys have (serde has none longer than 32): each costs all other types a
    // comparison when they are compiled.
    macro_rules! arrays {
        ($($length:literal)+) => {$(
            if is::<T, [u8; $length]>() {
                return Some(from.array::<$length>().map(same));
            }
        )+};
    }
    arrays!(16 20 32);
    if cfg!(target_endian = "little") {
        if is::<T, Vec<f64>>() {
            return Some(from.elements(8).map(|bytes| same(vec_from_bytes::<f64>(bytes))));
        }
        if is::<T, Vec<f32>>() {
            return Some(from.elements(4).map(|bytes| same(vec_from_bytes::<f32>(bytes))));
        }
    }
    None
}

/// The value behind `from` in the very memory of `bytes`, if `T` is a byte string or text of just that length; else `bytes`.
///
/// Fresh memory costs more than the copy (its pages are mapped one by one), so an owned buffer is kept.
pub(super) fn in_place<T: 'static>(mut bytes: Vec<u8>, from: usize) -> Result<T, Vec<u8>> {
    if !(is::<T, Vec<u8>>() || is::<T, Bytes>() || is::<T, String>()) {
        return Err(bytes);
    }
    let mut reader = Deserializer::new(bytes.get(from..).unwrap_or_default(), None, false);
    match reader.length() {
        Ok(len) if len == reader.input.len() => {}
        // The ordinary way says what is wrong.
        _ => return Err(bytes),
    }
    let prefix = bytes.len() - reader.input.len();
    if is::<T, String>() && std::str::from_utf8(reader.input).is_err() {
        return Err(bytes);
    }
    bytes.drain(..prefix);
    if is::<T, Vec<u8>>() {
        return Ok(same(bytes));
    }
    if is::<T, Bytes>() {
        return Ok(same(Bytes(bytes)));
    }
    String::from_utf8(bytes).map(same).map_err(FromUtf8Error::into_bytes)
}

#[inline(always)]
pub(super) fn is<T: 'static, U: 'static>() -> bool {
    TypeId::of::<T>() == TypeId::of::<U>()
}

/// `value`, whose type is `T` under another name.
#[inline(always)]
pub(super) fn same<U: 'static, T: 'static>(value: U) -> T {
    let mut slot = Some(value);
    let slot: &mut dyn Any = &mut slot;
    match slot.downcast_mut::<Option<T>>().and_then(Option::take) {
        Some(value) => value,
        None => unreachable!("called only where both types have one TypeId"),
    }
}
