//! Parcels of ordinary values.

use crate::codec::Shape;
use procession_parcel::{Bytes, Fd, Parcel, RemoteError};
use std::error::Error as _;

#[test]
fn a_parcel_brings_back_what_was_packed() {
    let value = (vec![Shape::New(3), Shape::Unit], Some("text".to_owned()), [1.5f64; 4]);
    let parcel = Parcel::pack(&value).unwrap();
    assert!(parcel.fds().is_empty() && parcel.is_trusted());
    assert_eq!(parcel.unpack::<(Vec<Shape>, Option<String>, [f64; 4])>().unwrap(), value);
}

#[test]
fn large_vectors_come_back_whole() {
    let bytes: Vec<u8> = (0..8 << 20).map(|n| n as u8).collect();
    assert_eq!(Parcel::pack(&bytes).unwrap().unpack::<Vec<u8>>().unwrap(), bytes);
    let numbers: Vec<f64> = (0..1 << 20).map(f64::from).collect();
    assert_eq!(Parcel::pack(&numbers).unwrap().unpack::<Vec<f64>>().unwrap(), numbers);
    assert_eq!(Parcel::pack(&Bytes(bytes.clone())).unwrap().unpack::<Vec<u8>>().unwrap(), bytes);
}

#[test]
fn a_byte_string_that_keeps_the_parcels_memory_is_checked_like_any() {
    let cases: [&[u8]; 5] = [&[], &[3, 1, 2], &[1, 1, 2], &[0x80], &[0xff; 12]];
    for bytes in cases {
        let parcel = || Parcel::new(bytes.to_vec(), Vec::new());
        assert!(parcel().unpack::<Vec<u8>>().unwrap_err().is_malformed());
        assert!(parcel().unpack::<Bytes>().is_err() && parcel().unpack::<String>().is_err());
    }
    let error = Parcel::new(vec![2, 0xff, 0xfe], Vec::new()).unpack::<String>().unwrap_err().to_string();
    assert!(error.contains("UTF-8"), "{error}");
    let with_fd = Parcel::new(vec![1, 7], vec![crate::support::object()]);
    assert!(with_fd.unpack::<Vec<u8>>().is_err(), "a descriptor is left over");
    assert_eq!(*Parcel::new(vec![1, 7], Vec::new()).unpack::<Bytes>().unwrap(), [7]);
}

#[test]
fn unsized_values_pack() {
    assert_eq!(Parcel::pack("text").unwrap().unpack::<String>().unwrap(), "text");
    assert_eq!(Parcel::pack(&[1u32, 2][..]).unwrap().unpack::<Vec<u32>>().unwrap(), [1, 2]);
}

#[test]
fn a_parcel_of_another_type_is_an_error() {
    assert!(Parcel::pack(&"text").unwrap().unpack::<(u64, u64, u64)>().is_err());
    let error = Parcel::pack(&(1u8, 2u8)).unwrap().unpack::<u8>().unwrap_err();
    assert!(error.to_string().contains("bytes follow"), "{error}");
    assert!(Parcel::new(Vec::new(), Vec::new()).unpack::<Fd>().is_err());
}

#[test]
fn parcels_nest_with_what_they_hold() {
    let inner = Parcel::pack(&("inner", Fd::from(crate::support::object()))).unwrap();
    let outer = Parcel::pack(&(Fd::from(crate::support::object()), &inner, 5u8)).unwrap();
    assert_eq!(outer.fds().len(), 2);
    drop(inner);
    let (_, inner, five) = outer.unpack::<(Fd, Parcel, u8)>().unwrap();
    assert!(inner.is_trusted() && inner.fds().len() == 1 && five == 5);
    assert_eq!(inner.unpack::<(String, Fd)>().unwrap().0, "inner");
}

#[test]
fn a_parcel_is_no_more_trusted_than_the_one_around_it() {
    let foreign = Parcel::new(Parcel::pack(&1).unwrap().into_parts().0, Vec::new());
    let trusted = Parcel::pack(&foreign).unwrap().unpack::<Parcel>().unwrap();
    assert!(!trusted.is_trusted(), "what came from outside stays so inside of a trusted parcel");
    let own = Parcel::pack(&Parcel::pack(&1).unwrap()).unwrap();
    let (bytes, fds) = own.into_parts();
    let inner = Parcel::new(bytes, fds).unpack::<Parcel>().unwrap();
    assert!(!inner.is_trusted(), "a stranger cannot claim trust for what it sends inside");
}

#[derive(Debug)]
struct Chain(u32);

impl std::fmt::Display for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "level {}", self.0)
    }
}

impl std::error::Error for Chain {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        const LEVELS: [Chain; 3] = [Chain(0), Chain(1), Chain(2)];
        static CHAIN: [Chain; 3] = LEVELS;
        (self.0 > 0).then(|| &CHAIN[self.0 as usize - 1] as _)
    }
}

#[test]
fn a_remote_error_keeps_type_message_and_sources() {
    let error = RemoteError::of(&Chain(3)).with_backtrace("here".to_owned());
    let error = Parcel::pack(&error).unwrap().unpack::<RemoteError>().unwrap();
    assert!(error.type_name().ends_with("::Chain"));
    assert_eq!((error.message(), error.backtrace()), ("level 3", Some("here")));
    assert_eq!(error.sources(), ["level 2", "level 1", "level 0"]);
    assert_eq!(error.source().and_then(|e| e.source()).unwrap().to_string(), "level 1");
}

#[test]
fn an_error_that_is_its_own_source_ends() {
    #[derive(Debug)]
    struct Endless;
    impl std::fmt::Display for Endless {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("again")
        }
    }
    impl std::error::Error for Endless {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&Endless)
        }
    }
    let error = RemoteError::of(&Endless);
    assert!(error.sources().len() > 10);
    Parcel::pack(&error).unwrap().unpack::<RemoteError>().unwrap();
}
