//! Carriers: offered to who asks for one, in the ring's own message only.

use procession_parcel::{
    Parcel,
    carrier::{self, Carrier, offered},
    codec,
};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error as _, Visitor},
    ser::Error as _,
};
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU32, Ordering},
};

/// What the carrier of these tests is.
#[derive(Default)]
struct Table(AtomicU32, Mutex<Vec<bool>>);

/// A number, of which the ring's message has the place in a table, and a parcel has the number.
#[derive(PartialEq, Debug)]
struct Number(u32);

struct Packing(u32);

impl Serialize for Packing {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let Some(offer) = offered() else { return self.0.serialize(s) };
        // It was taken: whatever is packed meanwhile has none.
        let inner = Parcel::pack(&Number(self.0)).map_err(S::Error::custom)?;
        assert_eq!(inner.unpack::<u32>().unwrap(), self.0);
        let table = offer.carrier.downcast::<Table>().map_err(|_| S::Error::custom("another carrier"))?;
        table.0.store(self.0, Ordering::Relaxed);
        table.1.lock().unwrap().push(offer.writes);
        0_u8.serialize(s)
    }
}

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        carrier::serialize(&Packing(self.0), s)
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Number, D::Error> {
        struct Unpacking;
        impl<'de> Visitor<'de> for Unpacking {
            type Value = Number;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number")
            }
            fn visit_newtype_struct<D: Deserializer<'de>>(self, d: D) -> Result<Number, D::Error> {
                let Some(offer) = offered() else { return u32::deserialize(d).map(Number) };
                let table =
                    offer.carrier.downcast::<Table>().map_err(|_| D::Error::custom("another carrier"))?;
                u8::deserialize(d)?;
                Ok(Number(table.0.load(Ordering::Relaxed)))
            }
        }
        carrier::deserialize(Unpacking, d)
    }
}

#[test]
fn a_carrier_is_offered_to_who_asks_in_its_own_message() {
    let table = Arc::new(Table::default());
    let carrier: Carrier = table.clone();
    let value = (1_u8, Some(Number(70_000)), "text".to_owned());
    let mut bytes = Vec::new();
    codec::encode_with(&value, &carrier, &mut bytes).unwrap();
    // First it was counted, then written, in one byte.
    assert_eq!(*table.1.lock().unwrap(), [false, true]);
    assert_eq!(bytes, [1, 1, 0, 4, b't', b'e', b'x', b't']);
    let back: (u8, Option<Number>, String) = codec::decode_with(&bytes, &carrier).unwrap();
    assert_eq!(back, value);
    assert!(offered().is_none());
}

#[test]
fn where_there_is_no_carrier_none_is_offered() {
    let value = vec![Number(7), Number(70_000)];
    let mut bytes = Vec::new();
    codec::encode(&value, &mut bytes).unwrap();
    assert_eq!(codec::decode::<Vec<Number>>(&bytes).unwrap(), value);
    assert_eq!(Parcel::pack(&value).unwrap().unpack::<Vec<Number>>().unwrap(), value);
}

#[test]
fn bytes_that_follow_a_message_are_refused() {
    let carrier: Carrier = Arc::new(Table::default());
    let error = codec::decode_with::<u8>(&[1, 2], &carrier).unwrap_err();
    assert!(error.to_string().contains("follow"), "{error}");
}
