//! References to functions that were written by hand, or come from another tree.

use crate::functions::{call, double, through, vouched_for};
use procession_parcel::function::{Function, adopt_seal_key, image, seal_key};
use procession_parcel::{Erased, Parcel, codec};
use procession_testkit::{forked, isolated};
use std::io::{Read, Write};

/// The form in which references travel, as anybody can write it.
#[derive(serde::Serialize, serde::Deserialize, Clone, Copy)]
struct Place {
    build_id: [u8; 20],
    entry: u64,
    function: u64,
    signature: u64,
    seal: u64,
}

#[derive(serde::Serialize, serde::Deserialize)]
enum TypedWire {
    Offset(Place),
}

#[derive(serde::Serialize)]
enum ErasedWire {
    Offset(Place, &'static str, Option<()>),
}

impl Place {
    /// As a hash without a key would seal it, which whoever reads this crate can work out.
    fn sealed_by_hand(mut self) -> Place {
        let mut state = 0x70c3_15ef_d1a2_66b5u64;
        let words = [self.entry, self.function, self.signature];
        for word in words.into_iter().chain(self.build_id.map(u64::from)) {
            let mixed = (state ^ word).wrapping_mul(0x9fb2_1c65_1e98_df25);
            state = mixed ^ (mixed >> 32);
        }
        self.seal = state;
        self
    }
}

fn boxed(n: u64) -> Box<u64> {
    Box::new(n)
}

fn place_of_boxed() -> Place {
    let genuine = Parcel::pack(&Function::<u64, Box<u64>>::new(boxed)).unwrap();
    assert!(genuine.is_trusted());
    let TypedWire::Offset(place) = genuine.unpack().unwrap();
    place
}

#[test]
fn a_reference_made_by_hand_is_refused_in_a_trusted_parcel_too() {
    let place = place_of_boxed();
    let written = |place| Parcel::pack(&TypedWire::Offset(place)).unwrap();
    let genuine: Function<u64, Box<u64>> = written(place).unpack().unwrap();
    assert_eq!(*genuine.call(7), 7);

    let other = (double as *const () as usize - image().base()) as u64;
    for forged in [Place { entry: other, function: other, ..place }, Place { function: other, ..place }] {
        for forged in [forged, forged.sealed_by_hand()] {
            let parcel = written(forged);
            assert!(
                parcel.is_trusted(),
                "what a Serialize implementation writes is packed like anything else"
            );
            let error = parcel.unpack::<Function<u64, Box<u64>>>().unwrap_err().to_string();
            assert!(error.contains("damaged"), "{error}");
        }
    }
}

/// Asks our deserialiser for trust on behalf of another format's, which reads what `bytes` say.
struct Relay<D>(D);

impl<'de, D: serde::Deserializer<'de>> serde::Deserializer<'de> for Relay<D> {
    type Error = D::Error;
    fn deserialize_any<V: serde::de::Visitor<'de>>(self, _: V) -> Result<V::Value, D::Error> {
        unreachable!("a reference is a newtype struct")
    }
    fn deserialize_newtype_struct<V>(self, name: &'static str, visitor: V) -> Result<V::Value, D::Error>
    where
        V: serde::de::Visitor<'de>,
    {
        struct Swap<V>(V);
        impl<'de, V: serde::de::Visitor<'de>> serde::de::Visitor<'de> for Swap<V> {
            type Value = V::Value;
            fn expecting(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                Ok(())
            }
            fn visit_newtype_struct<D: serde::Deserializer<'de>>(self, d: D) -> Result<V::Value, D::Error> {
                let bytes = <Vec<u8> as serde::Deserialize>::deserialize(d)?.leak();
                let mut other = postcard::Deserializer::from_bytes(bytes);
                self.0.visit_newtype_struct(&mut other).map_err(serde::de::Error::custom)
            }
        }
        self.0.deserialize_newtype_struct(name, Swap(visitor))
    }
    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct seq tuple
        tuple_struct map struct enum identifier ignored_any
    }
}

#[derive(Debug)]
struct Relayed(Function<u64, Box<u64>>);

impl<'de> serde::Deserialize<'de> for Relayed {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Relayed, D::Error> {
        Function::deserialize(Relay(d)).map(Relayed)
    }
}

#[test]
fn trust_that_was_handed_on_makes_no_reference_by_hand_good() {
    let place = place_of_boxed();
    let relayed = |place| {
        let mut bytes = Vec::new();
        codec::encode(&TypedWire::Offset(place), &mut bytes).unwrap();
        Parcel::pack(&bytes).unwrap().unpack::<Relayed>()
    };
    assert_eq!(*relayed(place).unwrap().0.call(7), 7, "this is a way to have trust");
    let other = (double as *const () as usize - image().base()) as u64;
    let forged = Place { entry: other, function: other, ..place }.sealed_by_hand();
    let error = relayed(forged).unwrap_err().to_string();
    assert!(error.contains("damaged"), "{error}");
}

#[test]
fn a_typed_reference_does_not_pass_for_an_erased_one() {
    let parcel = Parcel::pack(&ErasedWire::Offset(place_of_boxed(), "boxed", None)).unwrap();
    let error = parcel.unpack::<Erased>().unwrap_err().to_string();
    assert!(error.contains("damaged"), "{error}");
}

/// A reference and the key that seals it, from a copy of this process that was forked before there was a key here.
fn from_another_tree() -> (Vec<u8>, [u8; 16]) {
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    forked(|| {
        let bytes = Parcel::pack(&Erased::new(double).unwrap()).unwrap().into_parts().0;
        // SAFETY: for the process below, which runs the same program.
        let key = unsafe { seal_key() }.unwrap();
        writer.write_all(&key).unwrap();
        writer.write_all(&bytes).unwrap();
    });
    drop(writer);
    let (mut key, mut bytes) = ([0; 16], Vec::new());
    reader.read_exact(&mut key).unwrap();
    reader.read_to_end(&mut bytes).unwrap();
    (bytes, key)
}

#[test]
fn a_reference_from_another_tree_is_refused_until_the_key_is_shared() {
    isolated!({
        let (bytes, key) = from_another_tree();
        // SAFETY: the key of a process of this program, through a pipe that nobody else has.
        unsafe { adopt_seal_key(key) }.unwrap();
        assert_eq!(call::<u64>(&vouched_for(bytes).unpack().unwrap(), 21u64), 42);
        let (bytes, key) = (from_another_tree().0, key);
        assert_eq!(call::<u64>(&vouched_for(bytes).unpack().unwrap(), 21u64), 42);
        // SAFETY: as above.
        unsafe { adopt_seal_key(key) }.unwrap();
    });
}

#[test]
fn a_key_comes_too_late_once_there_is_one() {
    isolated!({
        let (bytes, key) = from_another_tree();
        let error = vouched_for(bytes.clone()).unpack::<Erased>().unwrap_err().to_string();
        assert!(error.contains("damaged"), "{error}");
        // SAFETY: as above.
        let error = unsafe { adopt_seal_key(key) }.unwrap_err().to_string();
        assert!(error.contains("one of its own"), "{error}");
        // And what was sealed here still holds.
        assert_eq!(call::<u64>(&through(&Erased::new(double).unwrap()), 21u64), 42);
        assert!(vouched_for(bytes).unpack::<Erased>().is_err());
    });
}
