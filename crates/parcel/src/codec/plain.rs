//! Plain numbers: types whose encoding may be their bytes, all of one size, so that many of them are a run that is cut and
//! copied without a look at each.
//!
//! It is another encoding than that of [`encode`](super::encode): who uses it says so beside the bytes. Which type is one
//! is known when the program is compiled: what asks costs nothing there.

use super::fast::{is, same};
use std::any::Any;

/// Which plain number a type is: an integer, a float, or a `bool`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plain {
    /// No two types share it.
    kind: u8,
    size: u8,
}

impl Plain {
    /// How many bytes each takes.
    #[must_use]
    pub fn size(self) -> u8 {
        self.size
    }
}

macro_rules! plain {
    ($($kind:literal $number:ty),+) => {
        impl Plain {
            /// What `T` is, if it is one.
            #[inline(always)]
            #[must_use]
            pub fn of<T: 'static>() -> Option<Plain> {
                $(if is::<T, $number>() {
                    return Some(Plain { kind: $kind, size: size_of::<$number>() as u8 });
                })+
                is::<T, bool>().then_some(Plain { kind: 0, size: 1 })
            }
        }

        /// Appends the bytes of `value`, little endian; false, and nothing, if its type is no plain number.
        #[inline(always)]
        pub fn put<T: 'static>(value: &T, into: &mut Vec<u8>) -> bool {
            let value: &dyn Any = value;
            $(if is::<T, $number>() && let Some(number) = value.downcast_ref::<$number>() {
                into.extend_from_slice(&number.to_le_bytes());
                return true;
            })+
            if is::<T, bool>() && let Some(truth) = value.downcast_ref::<bool>() {
                into.push(u8::from(*truth));
                return true;
            }
            false
        }

        /// The value whose bytes these are. `None` if there are too many or too few, they mean nothing (a `bool` of 2), or
        /// `T` is no plain number.
        #[inline(always)]
        #[must_use]
        pub fn get<T: 'static>(bytes: &[u8]) -> Option<T> {
            $(if is::<T, $number>() {
                return bytes.try_into().ok().map(|bytes| same(<$number>::from_le_bytes(bytes)));
            })+
            match bytes {
                [truth @ (0 | 1)] if is::<T, bool>() => Some(same(*truth == 1)),
                _ => None,
            }
        }
    };
}
plain!(
    1 u8, 2 u16, 3 u32, 4 u64, 5 u128, 6 usize, 7 i8, 8 i16, 9 i32, 10 i64, 11 i128, 12 isize, 13 f32, 14 f64
);

/// The values whose bytes follow each other, as [`get`] gives them. What is left at the end and too short for one is passed
/// over; there are none if `T` is no plain number.
#[inline(always)]
pub fn values<T: 'static>(bytes: &[u8]) -> impl Iterator<Item = Option<T>> + '_ {
    let bytes = if Plain::of::<T>().is_some() { bytes } else { &[] };
    // The size is known to the compiler here, which makes a copy of the loop over numbers.
    bytes.chunks_exact(size_of::<T>().max(1)).map(get::<T>)
}
