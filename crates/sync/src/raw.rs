//! [`RawValue`] and [`RawArray`]: atomics, without a lock.
//!
//! Layout: [`data`](crate::data). Every access is one of the processor's atomic operations on one element, or a loop
//! around a compare-and-swap, so there is nothing to guard.
//!
//! # When a process dies
//!
//! Each element is as it was before its last operation, or after it.
#![expect(unsafe_code, reason = "atomics are reached through a pointer into a mapping")]

use crate::{
    Error,
    data::{Body, Form, RawWords},
};
use core::{
    fmt,
    ops::Deref,
    slice,
    sync::atomic::{
        AtomicI8, AtomicI16, AtomicI32, AtomicI64, AtomicIsize, AtomicU8, AtomicU16, AtomicU32, AtomicU64,
        AtomicUsize,
        Ordering::{AcqRel, Acquire, Release},
    },
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

mod sealed {
    pub trait Sealed {}
}

/// What the processor changes at once: integers of 8 to 64 bits, `bool`, `f32` and `f64`.
pub trait Atomic: Copy + PartialEq + Send + Sync + fmt::Debug + sealed::Sealed + 'static {
    /// The atomic of `std` that it is kept in. `bool` is kept in a byte, a float as its bits.
    type Std: Send + Sync + 'static;

    #[doc(hidden)]
    fn load(place: &Self::Std) -> Self;
    #[doc(hidden)]
    fn store(place: &Self::Std, value: Self);
    #[doc(hidden)]
    fn swap(place: &Self::Std, value: Self) -> Self;
    #[doc(hidden)]
    fn compare_exchange(place: &Self::Std, current: Self, new: Self) -> Result<Self, Self>;
}

/// What can be added to. Integers wrap around, as atomics do.
pub trait AtomicNumber: Atomic {
    #[doc(hidden)]
    fn fetch_add(place: &Self::Std, value: Self) -> Self;
    #[doc(hidden)]
    fn fetch_sub(place: &Self::Std, value: Self) -> Self;
    #[doc(hidden)]
    fn fetch_max(place: &Self::Std, value: Self) -> Self;
    #[doc(hidden)]
    fn fetch_min(place: &Self::Std, value: Self) -> Self;
}

/// What is bits: integers.
pub trait AtomicBits: Atomic {
    #[doc(hidden)]
    fn fetch_and(place: &Self::Std, value: Self) -> Self;
    #[doc(hidden)]
    fn fetch_or(place: &Self::Std, value: Self) -> Self;
    #[doc(hidden)]
    fn fetch_xor(place: &Self::Std, value: Self) -> Self;
}

/// Loads and stores of `$value`, which is kept in a `$std` as `$kept`.
macro_rules! atomic {
    ($value:ty, $std:ty, $to:expr, $from:expr) => {
        impl sealed::Sealed for $value {}
        impl Atomic for $value {
            type Std = $std;

            #[inline]
            fn load(place: &$std) -> $value {
                $from(place.load(Acquire))
            }
            #[inline]
            fn store(place: &$std, value: $value) {
                place.store($to(value), Release);
            }
            #[inline]
            fn swap(place: &$std, value: $value) -> $value {
                $from(place.swap($to(value), AcqRel))
            }
            #[inline]
            fn compare_exchange(place: &$std, current: $value, new: $value) -> Result<$value, $value> {
                place.compare_exchange($to(current), $to(new), AcqRel, Acquire).map($from).map_err($from)
            }
        }
    };
}

macro_rules! integers {
    ($($value:ty => $std:ty),* $(,)?) => {$(
        atomic!($value, $std, core::convert::identity, core::convert::identity);
        impl AtomicNumber for $value {
            #[inline]
            fn fetch_add(place: &$std, value: $value) -> $value {
                place.fetch_add(value, AcqRel)
            }
            #[inline]
            fn fetch_sub(place: &$std, value: $value) -> $value {
                place.fetch_sub(value, AcqRel)
            }
            #[inline]
            fn fetch_max(place: &$std, value: $value) -> $value {
                place.fetch_max(value, AcqRel)
            }
            #[inline]
            fn fetch_min(place: &$std, value: $value) -> $value {
                place.fetch_min(value, AcqRel)
            }
        }
        impl AtomicBits for $value {
            #[inline]
            fn fetch_and(place: &$std, value: $value) -> $value {
                place.fetch_and(value, AcqRel)
            }
            #[inline]
            fn fetch_or(place: &$std, value: $value) -> $value {
                place.fetch_or(value, AcqRel)
            }
            #[inline]
            fn fetch_xor(place: &$std, value: $value) -> $value {
                place.fetch_xor(value, AcqRel)
            }
        }
    )*};
}

macro_rules! floats {
    ($($value:ty => $std:ty),* $(,)?) => {$(
        atomic!($value, $std, <$value>::to_bits, <$value>::from_bits);
        impl AtomicNumber for $value {
            fn fetch_add(place: &$std, value: $value) -> $value {
                update(place, |old: $value| old + value)
            }
            fn fetch_sub(place: &$std, value: $value) -> $value {
                update(place, |old: $value| old - value)
            }
            fn fetch_max(place: &$std, value: $value) -> $value {
                update(place, |old: $value| old.max(value))
            }
            fn fetch_min(place: &$std, value: $value) -> $value {
                update(place, |old: $value| old.min(value))
            }
        }
    )*};
}

integers! {
    u8 => AtomicU8, u16 => AtomicU16, u32 => AtomicU32, u64 => AtomicU64, usize => AtomicUsize,
    i8 => AtomicI8, i16 => AtomicI16, i32 => AtomicI32, i64 => AtomicI64, isize => AtomicIsize,
}
floats! { f32 => AtomicU32, f64 => AtomicU64 }
// Another process may write any byte: those that no `bool` has mean true.
atomic!(bool, AtomicU8, u8::from, |byte| byte != 0);

/// Changes `place` until nobody comes in between; gives what was there before.
#[inline]
fn update<T: Atomic>(place: &T::Std, mut change: impl FnMut(T) -> T) -> T {
    let mut old = T::load(place);
    loop {
        match T::compare_exchange(place, old, change(old)) {
            Ok(old) => return old,
            Err(found) => old = found,
        }
    }
}

/// A number that is loaded and stored at once: what a [`RawValue`] holds, and a [`RawArray`] many of.
///
/// Loads are `Acquire`, stores `Release`, and what does both is both: what a process wrote before it stored is seen by who
/// loads that. For other orderings there is the atomic of `std`: [`as_std`](Atom::as_std).
#[repr(transparent)]
pub struct Atom<T: Atomic>(T::Std);

impl<T: Atomic> Atom<T> {
    /// What it is now.
    #[inline]
    #[must_use]
    pub fn load(&self) -> T {
        T::load(&self.0)
    }

    /// Makes it `value`.
    #[inline]
    pub fn store(&self, value: T) {
        T::store(&self.0, value);
    }

    /// Makes it `value`, and gives what it was.
    #[inline]
    pub fn swap(&self, value: T) -> T {
        T::swap(&self.0, value)
    }

    /// Makes it `new` if it is `current`, and gives what it was. Floats are compared by their bits.
    ///
    /// # Errors
    ///
    /// It is not `current` but this.
    #[inline]
    pub fn compare_exchange(&self, current: T, new: T) -> Result<T, T> {
        T::compare_exchange(&self.0, current, new)
    }

    /// Changes it, and gives what it was. `change` is called again when somebody else was faster.
    #[inline]
    pub fn update(&self, change: impl FnMut(T) -> T) -> T {
        update(&self.0, change)
    }

    /// The atomic of `std` that it is.
    #[inline]
    #[must_use]
    pub fn as_std(&self) -> &T::Std {
        &self.0
    }
}

impl<T: AtomicNumber> Atom<T> {
    /// Adds to it, and gives what it was. Integers wrap around.
    #[inline]
    pub fn fetch_add(&self, value: T) -> T {
        T::fetch_add(&self.0, value)
    }

    /// Subtracts from it, and gives what it was. Integers wrap around.
    #[inline]
    pub fn fetch_sub(&self, value: T) -> T {
        T::fetch_sub(&self.0, value)
    }

    /// Makes it the larger one, and gives what it was.
    #[inline]
    pub fn fetch_max(&self, value: T) -> T {
        T::fetch_max(&self.0, value)
    }

    /// Makes it the smaller one, and gives what it was.
    #[inline]
    pub fn fetch_min(&self, value: T) -> T {
        T::fetch_min(&self.0, value)
    }
}

impl<T: AtomicBits> Atom<T> {
    /// Keeps the bits that `value` has, and gives what it was.
    #[inline]
    pub fn fetch_and(&self, value: T) -> T {
        T::fetch_and(&self.0, value)
    }

    /// Sets the bits that `value` has, and gives what it was.
    #[inline]
    pub fn fetch_or(&self, value: T) -> T {
        T::fetch_or(&self.0, value)
    }

    /// Flips the bits that `value` has, and gives what it was.
    #[inline]
    pub fn fetch_xor(&self, value: T) -> T {
        T::fetch_xor(&self.0, value)
    }
}

impl<T: Atomic> fmt::Debug for Atom<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.load().fmt(f)
    }
}

/// A number that processes share, without a lock: an atomic.
///
/// It has the methods of [`Atom`]. Clones stand for the same number; they go to other processes inside parcels.
///
/// ```
/// use procession_sync::RawValue;
///
/// let hits = RawValue::new(7_u64)?;
/// assert_eq!(hits.fetch_add(1), 7);
/// assert_eq!(hits.load(), 8);
/// # Ok::<(), procession_sync::Error>(())
/// ```
///
/// # From Python
///
/// `RawValue('i', 7)` and `Value('i', 7, lock=False)`. There, an increment can be lost; here there is
/// [`fetch_add`](Atom::fetch_add). A structure without a lock does not exist: see [`Value`](crate::Value).
///
/// # When a process dies
///
/// What it stored is stored. The number lives as long as any process has a handle.
pub struct RawValue<T> {
    body: Body<RawWords, T>,
}

/// A row of numbers that processes share, without a lock: atomics.
///
/// It is a slice of [`Atom`]s: `array[3].fetch_add(1)`, `array.len()`, `array.iter()`. Each is changed at once, but not
/// all of them; an [`Array`](crate::Array) has a lock for that. Clones stand for the same numbers; they go to other
/// processes inside parcels. Memory: as for [`Array`](crate::Array).
///
/// ```
/// use procession_sync::RawArray;
///
/// let histogram = RawArray::<u32>::new(256)?;
/// for byte in *b"hello" {
///     histogram[usize::from(byte)].fetch_add(1);
/// }
/// assert_eq!(histogram[usize::from(b'l')].load(), 2);
/// # Ok::<(), procession_sync::Error>(())
/// ```
///
/// # When a process dies
///
/// As for [`RawValue`].
pub struct RawArray<T> {
    body: Body<RawWords, T>,
}

impl<T: Atomic> RawValue<T> {
    /// A number of its own.
    ///
    /// # Errors
    ///
    /// No memory for it: see [`Segment::anonymous`](procession_shm::Segment::anonymous).
    pub fn new(value: T) -> Result<RawValue<T>, Error> {
        let raw = RawValue { body: Body::new(Form::One, 1, false)? };
        raw.store(value);
        Ok(raw)
    }

    /// A new number of its own that is equal now.
    ///
    /// # Errors
    ///
    /// As [`new`](RawValue::new).
    pub fn copy(&self) -> Result<RawValue<T>, Error> {
        RawValue::new(self.load())
    }
}

impl<T: Atomic> RawArray<T> {
    /// `len` numbers that are 0, or `false`.
    ///
    /// # Errors
    ///
    /// As [`Array::new`](crate::Array::new).
    pub fn new(len: usize) -> Result<RawArray<T>, Error> {
        Ok(RawArray { body: Body::new(Form::Row, len, false)? })
    }

    /// An array with these numbers.
    ///
    /// # Errors
    ///
    /// As [`new`](RawArray::new).
    pub fn from_slice(numbers: &[T]) -> Result<RawArray<T>, Error> {
        let array = RawArray::new(numbers.len())?;
        array.copy_from_slice(numbers);
        Ok(array)
    }

    /// All numbers, loaded one by one.
    #[must_use]
    pub fn to_vec(&self) -> Vec<T> {
        self.iter().map(Atom::load).collect()
    }

    /// Stores all numbers, one by one.
    ///
    /// # Panics
    ///
    /// The lengths differ.
    pub fn copy_from_slice(&self, numbers: &[T]) {
        assert_eq!(numbers.len(), self.len(), "as many numbers as the array has");
        self.iter().zip(numbers).for_each(|(place, &number)| place.store(number));
    }

    /// A new array of its own whose numbers are equal now.
    ///
    /// # Errors
    ///
    /// As [`new`](RawArray::new).
    pub fn copy(&self) -> Result<RawArray<T>, Error> {
        let copy = RawArray::new(self.len())?;
        copy.iter().zip(self.iter()).for_each(|(to, from)| to.store(from.load()));
        Ok(copy)
    }
}

impl<T: Atomic> Deref for RawValue<T> {
    type Target = Atom<T>;

    #[inline]
    fn deref(&self) -> &Atom<T> {
        const { assert!(size_of::<T>() == size_of::<T::Std>() && align_of::<T::Std>() == size_of::<T>()) };
        // SAFETY: an element is there, as large as its atomic and aligned to its size (the row starts at a multiple of
        // 8); it stays mapped as long as `self`; any bytes are an atomic, and every process accesses it as one.
        unsafe { self.body.start().cast().as_ref() }
    }
}

impl<T: Atomic> Deref for RawArray<T> {
    type Target = [Atom<T>];

    #[inline]
    fn deref(&self) -> &[Atom<T>] {
        const { assert!(size_of::<T>() == size_of::<T::Std>() && align_of::<T::Std>() == size_of::<T>()) };
        // SAFETY: as in `RawValue`, for all elements.
        unsafe { slice::from_raw_parts(self.body.start().as_ptr().cast(), self.body.len()) }
    }
}

macro_rules! handles {
    ($($name:ident $form:ident),*) => {$(
        impl<T> $name<T> {
            /// Whether both stand for the same numbers.
            #[must_use]
            pub fn same(&self, other: &Self) -> bool {
                self.body.handle().same(other.body.handle())
            }
        }

        impl<T> Clone for $name<T> {
            fn clone(&self) -> Self {
                $name { body: self.body.clone() }
            }
        }

        /// Only inside a parcel.
        impl<T> Serialize for $name<T> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                self.body.serialize(serializer)
            }
        }

        impl<'de, T: Atomic> Deserialize<'de> for $name<T> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$name<T>, D::Error> {
                Ok($name { body: Body::deserialize(Form::$form, deserializer)? })
            }
        }
    )*};
}

handles!(RawValue One, RawArray Row);

impl<T: Atomic> fmt::Debug for RawValue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RawValue").field(&**self).finish()
    }
}

impl<T: Atomic> fmt::Debug for RawArray<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawArray")
            .field("type", &core::any::type_name::<T>())
            .field("len", &self.len())
            .finish()
    }
}
