//! Encoding without descriptors, compared with postcard's own.

use procession_parcel::{Bytes, Pod, codec};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Shape {
    Unit,
    New(u16),
    Tuple(i8, Option<String>),
    Struct { a: char, b: (), c: Box<[f32]> },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Marker;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Task {
    id: u64,
    name: String,
    weights: Vec<f64>,
    shapes: Vec<Shape>,
    nested: Option<Box<Task>>,
}

fn task(depth: u32) -> Task {
    Task {
        id: u64::MAX - u64::from(depth),
        name: "größer".to_owned(),
        weights: vec![1.5, f64::MIN_POSITIVE, -0.0],
        shapes: vec![
            Shape::Unit,
            Shape::New(300),
            Shape::Tuple(-7, Some("x".into())),
            Shape::Struct { a: 'ß', b: (), c: Box::new([1.0, 2.0]) },
        ],
        nested: (depth > 0).then(|| Box::new(task(depth - 1))),
    }
}

fn same<T: Serialize + DeserializeOwned + PartialEq + Debug + 'static>(value: T) {
    let mut ours = vec![0xaa];
    codec::encode(&value, &mut ours).unwrap();
    assert_eq!(ours.remove(0), 0xaa, "encode appends");
    assert_eq!(ours, postcard::to_stdvec(&value).unwrap(), "{value:?}");
    assert_eq!(codec::encoded_len(&value).unwrap(), ours.len());
    assert_eq!(codec::decode::<T>(&ours).unwrap(), value);
    for cut in 0..ours.len() {
        assert!(codec::decode::<T>(&ours[..cut]).is_err(), "{value:?} cut at {cut}");
    }
    ours.extend([1, 2, 3]);
    let (taken, rest) = codec::take::<T>(&ours).unwrap();
    assert_eq!((taken, rest), (value, &[1, 2, 3][..]));
    assert!(codec::decode::<T>(&ours).unwrap_err().to_string().contains("3 bytes follow"));
}

#[test]
fn numbers_have_the_same_bytes_as_in_postcard() {
    same((false, true));
    same([0u8, 1, 127, 128, 255]);
    same([i8::MIN, -1, 0, 1, i8::MAX]);
    same([0u16, 1, 127, 128, 0x3fff, 0x4000, u16::MAX]);
    same([i16::MIN, -64, -1, 0, 63, 64, i16::MAX]);
    same([0u32, 127, 128, 1 << 21, u32::MAX]);
    same([i32::MIN, -1, 0, 1, i32::MAX]);
    same([0u64, 127, 128, 1 << 56, 1 << 63, u64::MAX]);
    same([i64::MIN, -1, 0, 1, i64::MAX]);
    same([0u128, 127, 128, 1 << 126, u128::MAX]);
    same([i128::MIN, -1, 0, 1, i128::MAX]);
    same([0usize, usize::MAX]);
    same((1.5f32, f32::MAX, -0.0f64, f64::MIN));
    same(['a', 'ß', '€', '😀']);
}

#[test]
fn structures_have_the_same_bytes_as_in_postcard() {
    same(());
    same(Marker);
    same(task(3));
    same(Some(Some(5u8)));
    same(None::<String>);
    same(Ok::<u8, String>(3));
    same(BTreeMap::from([(1u8, "one".to_owned()), (2, "two".into())]));
    same(vec![vec![(); 3], vec![]]);
    same(std::time::Duration::from_millis(1500));
    same(Bytes(vec![1, 2, 3]));
}

#[test]
fn flat_vectors_take_the_fast_path_with_the_same_bytes() {
    same(Vec::<u8>::new());
    same((0..=255).collect::<Vec<u8>>());
    same((-128..=127).collect::<Vec<i8>>());
    same((0..1000).map(f64::from).collect::<Vec<f64>>());
    same((0..1000u16).map(f32::from).collect::<Vec<f32>>());
    same("a string, größer than one".to_owned());
    same((0..300).collect::<Vec<u32>>());
}

#[test]
fn flat_vectors_within_others_and_borrowed_ones_have_the_same_bytes() {
    same(vec![vec![1_u8, 2], vec![], vec![255; 300]]);
    same((vec![-1_i8, 1], vec![f32::NAN.to_bits(), 1], vec![1.5_f32, -0.0], Some(vec![f64::MIN, 2.5])));
    let (bytes, floats): (Vec<u8>, Vec<f64>) = (vec![9; 200], vec![1.5, f64::INFINITY]);
    let borrowed = (&bytes[3..], &&bytes, &floats[1..], Box::<[u8]>::from(&bytes[..]), [&floats; 2]);
    let mut ours = Vec::new();
    codec::encode(&borrowed, &mut ours).unwrap();
    assert_eq!(ours, postcard::to_stdvec(&borrowed).unwrap());
}

#[test]
fn a_byte_string_counts_in_depth_though_it_is_copied_whole() {
    #[derive(Serialize)]
    enum Nest {
        Within(Box<Nest>),
        Bytes(Vec<u8>),
    }
    // Each of these is one level, the bytes one more.
    let nest = |levels| (1..levels).fold(Nest::Bytes(vec![1]), |nest, _| Nest::Within(Box::new(nest)));
    let most = codec::MAX_DEPTH - 1;
    codec::encode(&nest(most), &mut Vec::new()).unwrap();
    let error = codec::encode(&nest(most + 1), &mut Vec::new()).unwrap_err().to_string();
    assert!(error.contains("nests deeper than"), "{error}");
}

#[test]
fn byte_arrays_take_the_fast_path_with_the_same_bytes() {
    fn whole_or_refused<const N: usize>()
    where
        [u8; N]: Serialize + DeserializeOwned + Debug + PartialEq,
    {
        let array: [u8; N] = std::array::from_fn(|n| (n * 9) as u8);
        same(array);
        same((array, 1_u8));
        let mut bytes = Vec::new();
        codec::encode(&array, &mut bytes).unwrap();
        assert_eq!(codec::take::<[u8; N]>(&[&bytes[..], &[7]].concat()).unwrap(), (array, &[7][..]));
        assert!(codec::decode::<[u8; N]>(&[&bytes[..], &[7]].concat()).is_err());
        assert!(codec::decode::<[u8; N]>(&bytes[1..]).is_err());
    }
    whole_or_refused::<15>();
    whole_or_refused::<16>();
    whole_or_refused::<20>();
    whole_or_refused::<31>();
    whole_or_refused::<32>();
}

#[test]
fn a_fast_vector_of_an_impossible_length_is_refused_before_memory_is_asked_for() {
    for len in [9u64, 1 << 32, u64::MAX / 8 + 1, u64::MAX] {
        let mut bytes = Vec::new();
        codec::encode(&len, &mut bytes).unwrap();
        bytes.extend([0; 8]);
        assert!(codec::decode::<Vec<u8>>(&bytes).is_err());
        assert!(codec::decode::<Vec<f64>>(&bytes).is_err());
        assert!(codec::decode::<Vec<f32>>(&bytes).is_err());
        assert!(codec::decode::<String>(&bytes).is_err());
        assert!(codec::decode::<(Bytes,)>(&bytes).is_err());
        assert!(codec::decode::<(Vec<u64>,)>(&bytes).is_err());
        assert!(codec::decode::<HashMap<u64, u64>>(&bytes).is_err());
    }
    let mut bytes = Vec::new();
    codec::encode(&(u64::MAX - 5), &mut bytes).unwrap();
    let error = codec::decode::<Vec<()>>(&bytes).unwrap_err().to_string();
    assert!(error.contains("claims"), "{error}");
}

#[test]
fn plain_data_travels_as_its_memory() {
    let mut bytes = Vec::new();
    codec::encode(&("p", Pod(vec![[1u32, 2], [3, 4]])), &mut bytes).unwrap();
    let (_, pod): (String, Pod<[u32; 2]>) = codec::decode(&bytes).unwrap();
    assert_eq!(*pod, [[1, 2], [3, 4]]);
    // Two bytes for "p", then a length of 16.
    assert!(codec::decode::<(String, Pod<[u8; 5]>)>(&bytes).is_err(), "16 bytes are no multiple of 5");
    codec::decode::<(String, Pod<()>)>(&bytes).unwrap_err();
}

#[test]
fn values_that_are_no_value_of_their_type_are_refused() {
    assert!(codec::decode::<bool>(&[2]).is_err());
    assert!(codec::decode::<Option<u8>>(&[2, 0]).is_err());
    assert!(codec::decode::<char>(&[2, b'a', b'b']).is_err());
    assert!(codec::decode::<String>(&[2, 0xff, 0xfe]).is_err());
    assert!(codec::decode::<(String,)>(&[2, 0xff, 0xfe]).is_err());
    assert!(codec::decode::<Shape>(&[4]).is_err());
    assert!(codec::decode::<u16>(&[0xff, 0xff, 0x04]).is_err(), "17 bits");
    assert!(codec::decode::<u32>(&[0xff, 0xff, 0xff, 0xff, 0x1f]).is_err());
    assert!(codec::decode::<u64>(&[0xff; 11]).is_err());
    assert!(codec::decode::<u128>(&[0xff; 20]).is_err());
}

#[derive(Debug, Serialize, Deserialize)]
enum List {
    End,
    Link(Box<List>),
}

/// Not recursive, so that the test itself does not overflow.
fn list_bytes(links: usize) -> Vec<u8> {
    let mut bytes = vec![1; links];
    bytes.push(0);
    bytes
}

#[test]
fn a_hostile_depth_is_an_error_and_no_stack_overflow() {
    // The stack that std gives to threads.
    std::thread::Builder::new()
        .stack_size(2 << 20)
        .spawn(|| {
            let mut list = codec::decode::<List>(&list_bytes(codec::MAX_DEPTH as usize / 2 - 1)).unwrap();
            let error = codec::decode::<List>(&list_bytes(4 << 20)).unwrap_err().to_string();
            assert!(error.contains("nests deeper than"), "{error}");
            for _ in 0..codec::MAX_DEPTH {
                list = List::Link(Box::new(list));
            }
            let error = codec::encode(&list, &mut Vec::new()).unwrap_err().to_string();
            assert!(error.contains("nests deeper than"), "{error}");
        })
        .unwrap()
        .join()
        .unwrap();
}

struct Grows(std::cell::Cell<u32>);

impl Serialize for Grows {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.0.set(self.0.get() + 1);
        "x".repeat(self.0.get() as usize).serialize(s)
    }
}

#[test]
fn a_value_that_changes_between_the_passes_is_an_error() {
    let mut bytes = vec![7];
    let error = codec::encode(&Grows(0.into()), &mut bytes).unwrap_err().to_string();
    assert!(error.contains("second pass"), "{error}");
    assert_eq!(bytes, [7], "nothing is left behind");
}

struct Refuses;

impl Serialize for Refuses {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("the moon is full"))
    }
}

#[derive(Serialize, Deserialize)]
struct Partial {
    #[serde(skip_serializing_if = "Option::is_none")]
    a: Option<u8>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Untagged {
    A,
}

#[test]
fn an_error_says_what_failed_on_which_type_and_why() {
    let error = codec::encode(&(1, Refuses), &mut Vec::new()).unwrap_err().to_string();
    assert!(error.contains("the moon is full") && error.contains("Refuses"), "{error}");
    let error = codec::encode(&Partial { a: None }, &mut Vec::new()).unwrap_err().to_string();
    assert!(error.contains("skip_serializing_if"), "{error}");
    let error = codec::decode::<Untagged>(&[1]).map(|Untagged::A| ()).unwrap_err();
    assert!(error.to_string().contains("untagged") && error.is_malformed(), "{error}");
    let error = codec::decode::<std::num::NonZeroU8>(&[0]).unwrap_err().to_string();
    assert!(error.contains("NonZero") && error.contains("1 bytes"), "{error}");
}
