//! One value of a list.

use std::fmt;

/// A value in a [`ShareableList`](crate::ShareableList): what CPython's can hold.
///
/// Unlike Python's, values of different types are never equal: `1`, `1.0` and `true` are three.
#[derive(Clone, PartialEq)]
pub enum Item {
    /// A signed number of 64 bits.
    Int(i64),
    /// A floating-point number.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// Text.
    Str(String),
    /// Bytes.
    Bytes(Vec<u8>),
    /// Python's `None`.
    None,
}

impl Item {
    /// Text or bytes as they are stored.
    pub(super) fn bytes(&self) -> Option<&[u8]> {
        match self {
            Item::Str(text) => Some(text.as_bytes()),
            Item::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }
}

/// As the value itself shows.
impl fmt::Debug for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Item::Int(value) => value.fmt(f),
            Item::Float(value) => fmt::Debug::fmt(value, f),
            Item::Bool(value) => value.fmt(f),
            Item::Str(value) => fmt::Debug::fmt(value, f),
            Item::Bytes(value) => write!(f, "b\"{}\"", value.escape_ascii()),
            Item::None => f.write_str("None"),
        }
    }
}

macro_rules! from {
    ($($variant:ident: $($type:ty),+;)*) => {$($(
        impl From<$type> for Item {
            fn from(value: $type) -> Item {
                Item::$variant(value.into())
            }
        }
    )+)*};
}

from! {
    Int: i64, i32, i16, i8, u32, u16, u8;
    Float: f64, f32;
    Bool: bool;
    Str: String, &str, &String;
    Bytes: Vec<u8>, &[u8];
}

impl<const N: usize> From<&[u8; N]> for Item {
    fn from(bytes: &[u8; N]) -> Item {
        Item::Bytes(bytes.to_vec())
    }
}

impl<T: Into<Item>> From<Option<T>> for Item {
    fn from(value: Option<T>) -> Item {
        value.map_or(Item::None, Into::into)
    }
}

impl From<&Item> for Item {
    fn from(item: &Item) -> Item {
        item.clone()
    }
}
