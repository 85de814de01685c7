//! Byte strings and plain data that are copied whole, wherever they stand in a value.
#![expect(
    unsafe_code,
    reason = "copies plain data out of unaligned bytes into a vector's spare capacity; reads a reference as what it is"
)]

use serde::de::{Error as _, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr;

/// How many elements a sequence has, and their memory, if that is their encoding: a reference to bytes or floats.
#[inline(always)]
pub(crate) fn memory_of<I>(sequence: &I) -> Option<(usize, &[u8])> {
    macro_rules! elements {
        ($($element:ty)+) => {$(
            if typeid::of::<I>() == typeid::of::<&Vec<$element>>() {
                // SAFETY: it is such a reference, but for its lifetime, which is longer than that of what is returned.
                let elements = unsafe { *ptr::from_ref(sequence).cast::<&Vec<$element>>() };
                return Some((elements.len(), bytemuck::cast_slice(elements)));
            }
            if typeid::of::<I>() == typeid::of::<&[$element]>() {
                // SAFETY: as above.
                let elements = unsafe { *ptr::from_ref(sequence).cast::<&[$element]>() };
                return Some((elements.len(), bytemuck::cast_slice(elements)));
            }
        )+};
    }
    elements!(u8 i8);
    if cfg!(target_endian = "little") {
        elements!(f32 f64);
    }
    None
}

/// The bytes of a byte string or a text: what its encoding has behind their number. Nothing of another type's value.
pub(crate) fn string_of<T: ?Sized>(value: &T) -> Option<&[u8]> {
    let start = ptr::from_ref(value).cast::<u8>();
    if typeid::of::<T>() == typeid::of::<Vec<u8>>() || typeid::of::<T>() == typeid::of::<Bytes>() {
        // SAFETY: it is a `Vec<u8>`, or all that a `Bytes` has, which is transparent.
        return Some(unsafe { &*start.cast::<Vec<u8>>() });
    }
    if typeid::of::<T>() == typeid::of::<String>() {
        // SAFETY: it is one.
        return Some(unsafe { &*start.cast::<String>() }.as_bytes());
    }
    if typeid::of::<T>() == typeid::of::<[u8]>() || typeid::of::<T>() == typeid::of::<str>() {
        // SAFETY: both are bytes, one beside the other.
        return Some(unsafe { std::slice::from_raw_parts(start, size_of_val(value)) });
    }
    None
}

/// A byte string that encodes and decodes at the speed of a copy, wherever it stands in a value.
///
/// Its encoding is that of `Vec<u8>`, so either side may use either type. At the top of a value a plain
/// `Vec<u8>` is as fast.
///
/// ```
/// use procession_parcel::{Bytes, codec};
///
/// let mut encoded = Vec::new();
/// codec::encode(&("frame", Bytes(vec![7; 1000])), &mut encoded)?;
/// let (name, bytes): (String, Bytes) = codec::decode(&encoded)?;
/// assert_eq!((name.as_str(), bytes.len()), ("frame", 1000));
/// # Ok::<(), procession_parcel::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Bytes(pub Vec<u8>);

/// A vector of plain data (`bytemuck::Pod`) that encodes and decodes at the speed of a copy.
///
/// The encoding is the elements' memory as it is on this machine: both sides must share byte order and layout,
/// as processes on one machine do.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pod<T>(pub Vec<T>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Bytes, D::Error> {
        struct Whole;
        impl Visitor<'_> for Whole {
            type Value = Bytes;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a byte string")
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes(bytes.to_vec()))
            }
            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Bytes, E> {
                Ok(Bytes(bytes))
            }
        }
        d.deserialize_byte_buf(Whole)
    }
}

impl<T: bytemuck::NoUninit> Serialize for Pod<T> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bytes(bytemuck::cast_slice(&self.0))
    }
}

impl<'de, T: bytemuck::Pod> Deserialize<'de> for Pod<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Pod<T>, D::Error> {
        struct Whole<T>(PhantomData<T>);
        impl<T: bytemuck::Pod> Visitor<'_> for Whole<T> {
            type Value = Pod<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "the memory of elements of {} bytes", size_of::<T>())
            }
            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Pod<T>, E> {
                if size_of::<T>() == 0 || !bytes.len().is_multiple_of(size_of::<T>()) {
                    return Err(E::custom(format_args!(
                        "{} bytes are no whole number of elements of {} bytes",
                        bytes.len(),
                        size_of::<T>()
                    )));
                }
                Ok(Pod(vec_from_bytes(bytes)))
            }
        }
        if size_of::<T>() == 0 {
            return Err(D::Error::custom("elements without size do not travel as memory"));
        }
        d.deserialize_bytes(Whole(PhantomData))
    }
}

/// As many elements as `bytes` hold; their number must be whole, and `T` have a size.
pub(crate) fn vec_from_bytes<T: bytemuck::Pod>(bytes: &[u8]) -> Vec<T> {
    let count = bytes.len() / size_of::<T>();
    let mut vec = Vec::<T>::with_capacity(count);
    // SAFETY: the vector has room for `count` elements, which is at most `bytes.len()` bytes; fresh memory
    // does not overlap `bytes`; any bytes are a valid `T` (`Pod`).
    unsafe {
        ptr::copy_nonoverlapping(bytes.as_ptr(), vec.as_mut_ptr().cast::<u8>(), count * size_of::<T>())
    };
    // SAFETY: the copy above initialised `count` elements.
    unsafe { vec.set_len(count) };
    vec
}

impl Deref for Bytes {
    type Target = Vec<u8>;
    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for Bytes {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

impl<T> Deref for Pod<T> {
    type Target = Vec<T>;
    fn deref(&self) -> &Vec<T> {
        &self.0
    }
}

impl<T> DerefMut for Pod<T> {
    fn deref_mut(&mut self) -> &mut Vec<T> {
        &mut self.0
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Bytes {
        Bytes(bytes)
    }
}

impl<T> From<Vec<T>> for Pod<T> {
    fn from(elements: Vec<T>) -> Pod<T> {
        Pod(elements)
    }
}
