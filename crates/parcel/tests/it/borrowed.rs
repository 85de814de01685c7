//! Lent arguments.

use procession_parcel::{EncodeArgs, EncodeAs, Parcel};
use serde::de::DeserializeOwned;

fn through<A: DeserializeOwned + 'static>(value: impl EncodeAs<A>) -> A {
    Parcel::pack(&value).unwrap().unpack().unwrap()
}

fn all_through<A: DeserializeOwned + 'static>(values: impl EncodeArgs<A>) -> A {
    Parcel::pack(&values).unwrap().unpack().unwrap()
}

#[test]
fn lent_values_arrive_as_owned_ones() {
    assert_eq!(through::<String>("text"), "text");
    assert_eq!(through::<Vec<u8>>(&[1u8, 2][..]), [1, 2]);
    assert_eq!(through::<Vec<String>>(&["a".to_owned()][..]), ["a"]);
    assert_eq!(through::<Vec<f64>>(&vec![1.5]), [1.5]);
    assert_eq!(through::<u64>(5), 5);
}

#[test]
fn tuples_mix_lent_and_owned_values() {
    let list = vec![1u16, 2];
    let back = all_through::<(String, Vec<u16>, Vec<u16>, u8)>(("a", &list[..], &list, 7));
    assert_eq!(back, ("a".to_owned(), list.clone(), list, 7));
    let twelve = all_through::<(u8, u8, u8, u8, u8, u8, u8, u8, u8, u8, u8, String)>((
        1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, "x",
    ));
    assert_eq!(twelve.11, "x");
    all_through::<()>(());
}
