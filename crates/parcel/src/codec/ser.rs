//! Values to bytes, in postcard's format.

use super::fault::Fault;
use super::output::Output;
use super::{MAX_DEPTH, TOO_DEEP};
use crate::bytes::memory_of;
use crate::carrier::{self, Carrier};
use crate::handle::{self, Outgoing};
use serde::ser::{self, Serialize};
use std::fmt::{self, Display, Write as _};

/// Writes one value into `output`; descriptors go into `handles`, where there is a place for them.
pub(crate) struct Serializer<'h, O> {
    pub(crate) output: O,
    pub(crate) handles: Option<&'h mut Outgoing>,
    /// What those that ask for one are offered.
    pub(crate) carrier: Option<&'h Carrier>,
    depth: u32,
}

type Done = Result<(), Fault>;

impl<'h, O: Output> Serializer<'h, O> {
    pub(crate) fn new(output: O, handles: Option<&'h mut Outgoing>) -> Self {
        Serializer { output, handles, carrier: None, depth: 0 }
    }

    #[inline]
    fn varint(&mut self, n: u64) -> Done {
        self.output.varint(n)
    }

    #[inline(never)]
    fn varint_128(&mut self, mut n: u128) -> Done {
        while n >= 0x80 {
            self.output.push(n as u8 | 0x80)?;
            n >>= 7;
        }
        self.output.push(n as u8)
    }

    #[inline]
    fn enter(&mut self) -> Done {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Fault::new(TOO_DEEP));
        }
        Ok(())
    }

    #[inline]
    fn leave(&mut self) {
        self.depth -= 1;
    }
}

fn zigzag(n: i64) -> u64 {
    ((n << 1) ^ (n >> 63)) as u64
}

impl<O: Output> ser::Serializer for &mut Serializer<'_, O> {
    type Ok = ();
    type Error = Fault;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = Self;
    type SerializeStruct = Self;
    type SerializeStructVariant = Self;

    fn is_human_readable(&self) -> bool {
        false
    }

    #[inline]
    fn serialize_bool(self, v: bool) -> Done {
        self.output.push(u8::from(v))
    }
    #[inline]
    fn serialize_i8(self, v: i8) -> Done {
        self.output.push(v as u8)
    }
    #[inline]
    fn serialize_i16(self, v: i16) -> Done {
        self.varint(u64::from(((v << 1) ^ (v >> 15)) as u16))
    }
    #[inline]
    fn serialize_i32(self, v: i32) -> Done {
        self.varint(u64::from(((v << 1) ^ (v >> 31)) as u32))
    }
    #[inline]
    fn serialize_i64(self, v: i64) -> Done {
        self.varint(zigzag(v))
    }
    fn serialize_i128(self, v: i128) -> Done {
        self.varint_128(((v << 1) ^ (v >> 127)) as u128)
    }
    #[inline]
    fn serialize_u8(self, v: u8) -> Done {
        self.output.push(v)
    }
    #[inline]
    fn serialize_u16(self, v: u16) -> Done {
        self.varint(u64::from(v))
    }
    #[inline]
    fn serialize_u32(self, v: u32) -> Done {
        self.varint(u64::from(v))
    }
    #[inline]
    fn serialize_u64(self, v: u64) -> Done {
        self.varint(v)
    }
    fn serialize_u128(self, v: u128) -> Done {
        self.varint_128(v)
    }
    #[inline]
    fn serialize_f32(self, v: f32) -> Done {
        self.output.extend(&v.to_le_bytes())
    }
    #[inline]
    fn serialize_f64(self, v: f64) -> Done {
        self.output.extend(&v.to_le_bytes())
    }
    fn serialize_char(self, v: char) -> Done {
        self.serialize_str(v.encode_utf8(&mut [0; 4]))
    }
    #[inline]
    fn serialize_str(self, v: &str) -> Done {
        self.serialize_bytes(v.as_bytes())
    }
    #[inline]
    fn serialize_bytes(self, v: &[u8]) -> Done {
        self.varint(v.len() as u64)?;
        self.output.extend(v)
    }
    #[inline]
    fn serialize_none(self) -> Done {
        self.output.push(0)
    }
    #[inline]
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Done {
        self.output.push(1)?;
        self.enter()?;
        value.serialize(&mut *self)?;
        self.leave();
        Ok(())
    }
    fn serialize_unit(self) -> Done {
        Ok(())
    }
    fn serialize_unit_struct(self, _: &'static str) -> Done {
        Ok(())
    }
    #[inline]
    fn serialize_unit_variant(self, _: &'static str, index: u32, _: &'static str) -> Done {
        self.varint(u64::from(index))
    }
    #[inline]
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, name: &'static str, value: &T) -> Done {
        if name == handle::MARK || name == handle::MARK_SHARED {
            let index = handle::take_offer(self.handles.as_deref_mut(), O::WRITES)?;
            return self.varint(u64::from(index));
        }
        self.enter()?;
        if name == carrier::MARK {
            carrier::offer(self.carrier, O::WRITES, || value.serialize(&mut *self))?;
        } else {
            value.serialize(&mut *self)?;
        }
        self.leave();
        Ok(())
    }
    #[inline]
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        index: u32,
        _: &'static str,
        value: &T,
    ) -> Done {
        self.varint(u64::from(index))?;
        self.enter()?;
        value.serialize(&mut *self)?;
        self.leave();
        Ok(())
    }
    #[inline]
    fn serialize_seq(self, len: Option<usize>) -> Result<Self, Fault> {
        let len = len.ok_or_else(|| {
            Fault::new("a sequence whose length is not known beforehand (collect it into a Vec first)")
        })?;
        self.varint(len as u64)?;
        self.enter()?;
        Ok(self)
    }
    #[inline]
    fn collect_seq<I>(self, sequence: I) -> Done
    where
        I: IntoIterator,
        I::Item: Serialize,
    {
        if let Some((len, memory)) = memory_of(&sequence) {
            ser::Serializer::serialize_seq(&mut *self, Some(len))?;
            self.output.extend(memory)?;
            return ser::SerializeSeq::end(self);
        }
        let mut items = sequence.into_iter();
        let len = match items.size_hint() {
            (least, most) if most == Some(least) => most,
            _ => None,
        };
        let mut seq = self.serialize_seq(len)?;
        items.try_for_each(|item| ser::SerializeSeq::serialize_element(&mut seq, &item))?;
        ser::SerializeSeq::end(seq)
    }
    #[inline]
    fn serialize_tuple(self, _: usize) -> Result<Self, Fault> {
        self.enter()?;
        Ok(self)
    }
    #[inline]
    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self, Fault> {
        self.enter()?;
        Ok(self)
    }
    #[inline]
    fn serialize_tuple_variant(
        self,
        _: &'static str,
        index: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self, Fault> {
        self.varint(u64::from(index))?;
        self.enter()?;
        Ok(self)
    }
    #[inline]
    fn serialize_map(self, len: Option<usize>) -> Result<Self, Fault> {
        let len = len.ok_or_else(|| {
            Fault::new("a map whose length is not known beforehand (serde's `flatten` makes such)")
        })?;
        self.varint(len as u64)?;
        self.enter()?;
        Ok(self)
    }
    #[inline]
    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, Fault> {
        self.enter()?;
        Ok(self)
    }
    #[inline]
    fn serialize_struct_variant(
        self,
        _: &'static str,
        index: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self, Fault> {
        self.varint(u64::from(index))?;
        self.enter()?;
        Ok(self)
    }

    fn collect_str<T: Display + ?Sized>(self, value: &T) -> Done {
        let mut text = String::new();
        write!(text, "{value}").map_err(|fmt::Error| Fault::new("its Display implementation failed"))?;
        self.serialize_str(&text)
    }
}

macro_rules! elements {
    ($($compound:ident :: $element:ident),*) => {$(
        impl<O: Output> ser::$compound for &mut Serializer<'_, O> {
            type Ok = ();
            type Error = Fault;
            #[inline]
            fn $element<T: Serialize + ?Sized>(&mut self, value: &T) -> Done {
                value.serialize(&mut **self)
            }
            #[inline]
            fn end(self) -> Done {
                self.leave();
                Ok(())
            }
        }
    )*};
}

elements!(
    SerializeSeq::serialize_element,
    SerializeTuple::serialize_element,
    SerializeTupleStruct::serialize_field,
    SerializeTupleVariant::serialize_field
);

macro_rules! fields {
    ($($compound:ident),*) => {$(
        impl<O: Output> ser::$compound for &mut Serializer<'_, O> {
            type Ok = ();
            type Error = Fault;
            #[inline]
            fn serialize_field<T: Serialize + ?Sized>(&mut self, _: &'static str, value: &T) -> Done {
                value.serialize(&mut **self)
            }
            #[cold]
            fn skip_field(&mut self, name: &'static str) -> Done {
                Err(Fault::text(format!(
                    "field `{name}` is skipped for some values only (`skip_serializing_if`), which a format \
                     without field names cannot express"
                )))
            }
            #[inline]
            fn end(self) -> Done {
                self.leave();
                Ok(())
            }
        }
    )*};
}

fields!(SerializeStruct, SerializeStructVariant);

impl<O: Output> ser::SerializeMap for &mut Serializer<'_, O> {
    type Ok = ();
    type Error = Fault;
    #[inline]
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Done {
        key.serialize(&mut **self)
    }
    #[inline]
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Done {
        value.serialize(&mut **self)
    }
    #[inline]
    fn end(self) -> Done {
        self.leave();
        Ok(())
    }
}
