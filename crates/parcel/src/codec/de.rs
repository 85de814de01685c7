//! Bytes to values, in postcard's format. Nothing that was read is believed before it is checked.

use super::fault::Fault;
use super::{MAX_DEPTH, TOO_DEEP};
use crate::carrier::{self, Carrier};
use crate::handle::{self, Incoming};
use crate::trust;
use serde::de::{self, DeserializeSeed, IntoDeserializer, Visitor};

/// Reads values from the front of `input`.
pub(crate) struct Deserializer<'de, 'h> {
    pub(crate) input: &'de [u8],
    handles: Option<&'h mut Incoming>,
    /// What those that ask for one are offered.
    pub(crate) carrier: Option<&'h Carrier>,
    /// Whether references to functions by offset are honoured.
    trusted: bool,
    depth: u32,
    /// How many elements that take no byte a claimed length may still name.
    empty_elements: usize,
}

const ENDS_EARLY: &str = "the bytes end before the value does";

impl<'de, 'h> Deserializer<'de, 'h> {
    pub(crate) fn new(input: &'de [u8], handles: Option<&'h mut Incoming>, trusted: bool) -> Self {
        Deserializer { input, handles, carrier: None, trusted, depth: 0, empty_elements: 1 << 20 }
    }

    #[inline]
    fn byte(&mut self) -> Result<u8, Fault> {
        let (first, rest) = self.input.split_first().ok_or_else(|| Fault::new(ENDS_EARLY))?;
        self.input = rest;
        Ok(*first)
    }

    #[inline]
    fn take(&mut self, len: usize) -> Result<&'de [u8], Fault> {
        let (taken, rest) = self.input.split_at_checked(len).ok_or_else(|| Fault::new(ENDS_EARLY))?;
        self.input = rest;
        Ok(taken)
    }

    #[inline]
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let (taken, rest) = self.input.split_first_chunk::<N>().ok_or_else(|| Fault::new(ENDS_EARLY))?;
        self.input = rest;
        Ok(*taken)
    }

    #[inline]
    fn varint(&mut self, bits: u32) -> Result<u64, Fault> {
        let first = self.byte()?;
        if first < 0x80 {
            return Ok(u64::from(first));
        }
        self.varint_rest(first, bits)
    }

    #[inline]
    fn varint_rest(&mut self, first: u8, bits: u32) -> Result<u64, Fault> {
        let mut n = u64::from(first & 0x7f);
        let mut shift = 7;
        loop {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7f);
            if shift >= bits || (bits - shift < 7 && part >> (bits - shift) != 0) {
                return Err(Fault::new("a number is too large for its type"));
            }
            n |= part << shift;
            if byte < 0x80 {
                return Ok(n);
            }
            shift += 7;
        }
    }

    #[inline(never)]
    fn varint_128(&mut self) -> Result<u128, Fault> {
        let mut n = 0u128;
        let mut shift = 0;
        loop {
            let byte = self.byte()?;
            let part = u128::from(byte & 0x7f);
            if shift >= 128 || (shift == 126 && part > 3) {
                return Err(Fault::new("a number is too large for its type"));
            }
            n |= part << shift;
            if byte < 0x80 {
                return Ok(n);
            }
            shift += 7;
        }
    }

    /// A length in bytes, not yet compared with what is there ([`Self::take`] does that).
    #[inline]
    pub(crate) fn length(&mut self) -> Result<usize, Fault> {
        usize::try_from(self.varint(64)?).map_err(|_| Fault::new("a length is too large for this machine"))
    }

    /// A number of elements: no more than there are bytes, but for a few that take none.
    #[inline]
    fn count(&mut self) -> Result<usize, Fault> {
        let count = self.length()?;
        let excess = count.saturating_sub(self.input.len());
        if excess > 0 {
            self.empty_elements = self.empty_elements.checked_sub(excess).ok_or_else(|| {
                Fault::text(format!("it claims {count} elements where {} bytes are left", self.input.len()))
            })?;
        }
        Ok(count)
    }

    #[inline]
    pub(crate) fn bytes(&mut self) -> Result<&'de [u8], Fault> {
        let len = self.length()?;
        self.take(len)
    }

    /// The memory of a counted sequence of elements of `size` bytes each.
    #[inline]
    pub(crate) fn elements(&mut self, size: usize) -> Result<&'de [u8], Fault> {
        let len = self.length()?.checked_mul(size).ok_or_else(|| Fault::new(ENDS_EARLY))?;
        self.take(len)
    }

    #[inline]
    pub(crate) fn text(&mut self) -> Result<&'de str, Fault> {
        std::str::from_utf8(self.bytes()?).map_err(|e| Fault::text(format!("a string is not UTF-8: {e}")))
    }

    #[inline]
    fn nested<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, Fault>) -> Result<T, Fault> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Fault::new(TOO_DEEP));
        }
        let value = read(self)?;
        self.depth -= 1;
        Ok(value)
    }
}

fn unzigzag(n: u64) -> i64 {
    (n >> 1) as i64 ^ -((n & 1) as i64)
}

impl<'de> de::Deserializer<'de> for &mut Deserializer<'de, '_> {
    type Error = Fault;

    fn is_human_readable(&self) -> bool {
        false
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Fault> {
        Err(Fault::new(
            "its Deserialize implementation asks for a format that names its types (`untagged`, `flatten`, \
             internally tagged enums), which this one is not",
        ))
    }

    #[inline]
    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.byte()? {
            0 => visitor.visit_bool(false),
            1 => visitor.visit_bool(true),
            other => Err(Fault::text(format!("a bool is {other}"))),
        }
    }
    #[inline]
    fn deserialize_i8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_i8(self.byte()? as i8)
    }
    #[inline]
    fn deserialize_i16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_i16(unzigzag(self.varint(16)?) as i16)
    }
    #[inline]
    fn deserialize_i32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_i32(unzigzag(self.varint(32)?) as i32)
    }
    #[inline]
    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_i64(unzigzag(self.varint(64)?))
    }
    fn deserialize_i128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let n = self.varint_128()?;
        visitor.visit_i128((n >> 1) as i128 ^ -((n & 1) as i128))
    }
    #[inline]
    fn deserialize_u8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_u8(self.byte()?)
    }
    #[inline]
    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_u16(self.varint(16)? as u16)
    }
    #[inline]
    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_u32(self.varint(32)? as u32)
    }
    #[inline]
    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_u64(self.varint(64)?)
    }
    fn deserialize_u128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_u128(self.varint_128()?)
    }
    #[inline]
    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_f32(f32::from_le_bytes(self.array()?))
    }
    #[inline]
    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_f64(f64::from_le_bytes(self.array()?))
    }
    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let text = self.text()?;
        let mut chars = text.chars();
        match (chars.next(), chars.next()) {
            (Some(c), None) => visitor.visit_char(c),
            _ => Err(Fault::text(format!("a char is {} bytes long", text.len()))),
        }
    }
    #[inline]
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_borrowed_str(self.text()?)
    }
    #[inline]
    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }
    #[inline]
    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_borrowed_bytes(self.bytes()?)
    }
    #[inline]
    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_bytes(visitor)
    }
    #[inline]
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.byte()? {
            0 => visitor.visit_none(),
            1 => self.nested(|d| visitor.visit_some(d)),
            other => Err(Fault::text(format!("an option's mark is {other}"))),
        }
    }
    #[inline]
    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }
    #[inline]
    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }
    #[inline]
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        if name == handle::MARK || name == handle::MARK_SHARED {
            let index = self.varint(32)? as u32;
            let shared = name == handle::MARK_SHARED;
            return handle::give(self.handles.as_deref_mut(), index, shared, || visitor.visit_unit());
        }
        if name == trust::MARK {
            let trusted = self.trusted;
            return trust::grant(trusted, || self.nested(|d| visitor.visit_newtype_struct(d)));
        }
        if name == carrier::MARK {
            let carrier = self.carrier;
            return carrier::offer(carrier, false, || self.nested(|d| visitor.visit_newtype_struct(d)));
        }
        self.nested(|d| visitor.visit_newtype_struct(d))
    }
    #[inline]
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let left = self.count()?;
        self.nested(|d| visitor.visit_seq(Elements { from: d, left }))
    }
    #[inline]
    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Fault> {
        self.nested(|d| visitor.visit_seq(Elements { from: d, left: len }))
    }
    #[inline]
    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.deserialize_tuple(len, visitor)
    }
    #[inline]
    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let left = self.count()?;
        self.nested(|d| visitor.visit_map(Elements { from: d, left }))
    }
    #[inline]
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.deserialize_tuple(fields.len(), visitor)
    }
    #[inline]
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.nested(|d| visitor.visit_enum(d))
    }
    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_any(visitor)
    }
    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_any(visitor)
    }
}

struct Elements<'a, 'de, 'h> {
    from: &'a mut Deserializer<'de, 'h>,
    left: usize,
}

impl<'de> de::SeqAccess<'de> for Elements<'_, 'de, '_> {
    type Error = Fault;

    #[inline]
    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        seed.deserialize(&mut *self.from).map(Some)
    }
    #[inline]
    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}

impl<'de> de::MapAccess<'de> for Elements<'_, 'de, '_> {
    type Error = Fault;

    #[inline]
    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        de::SeqAccess::next_element_seed(self, seed)
    }
    #[inline]
    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        seed.deserialize(&mut *self.from)
    }
    #[inline]
    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}

impl<'de> de::EnumAccess<'de> for &mut Deserializer<'de, '_> {
    type Error = Fault;
    type Variant = Self;

    #[inline]
    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Fault> {
        let index = self.varint(32)? as u32;
        let value = seed.deserialize(IntoDeserializer::<Fault>::into_deserializer(index))?;
        Ok((value, self))
    }
}

impl<'de> de::VariantAccess<'de> for &mut Deserializer<'de, '_> {
    type Error = Fault;

    #[inline]
    fn unit_variant(self) -> Result<(), Fault> {
        Ok(())
    }
    #[inline]
    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Fault> {
        seed.deserialize(self)
    }
    #[inline]
    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Fault> {
        de::Deserializer::deserialize_tuple(self, len, visitor)
    }
    #[inline]
    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        de::Deserializer::deserialize_tuple(self, fields.len(), visitor)
    }
}
