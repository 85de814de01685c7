//! What a shareable list promises, and that its bytes are CPython's.

use crate::support::{fresh, path};
use procession_parcel::Parcel;
use procession_shm::{Item, ShareableList, SharedMemory};
use procession_testkit::{storm::Rng, watchdog};

fn howdy() -> Vec<Item> {
    vec![
        "howdy".into(),
        b"HoWdY".into(),
        (-273.154).into(),
        100.into(),
        Item::None,
        true.into(),
        42.into(),
        false.into(),
    ]
}

#[test]
fn a_list_holds_what_cpythons_does_and_its_places_take_other_types() {
    let _watchdog = watchdog!();
    let list = ShareableList::create(howdy()).unwrap();
    assert_eq!((list.len(), list.is_empty()), (8, false));
    assert_eq!(list.to_vec().unwrap(), howdy());
    assert_eq!(list.format().unwrap(), "8s8sdqxxxxxx?xxxxxxxx?qxxxxxxx?");
    assert_eq!(list.get(7).unwrap(), Item::Bool(false));
    assert!(list.get(8).unwrap_err().is_out_of_range());
    assert!(list.set(8, 1).unwrap_err().is_out_of_range());

    // Any type, in the room that there is.
    list.set(3, 42).unwrap();
    list.set(4, "now text").unwrap();
    list.set(1, 1.25).unwrap();
    list.set(0, b"\0inside").unwrap();
    assert_eq!(list.get(4).unwrap(), Item::from("now text"));
    assert_eq!(list.get(0).unwrap(), Item::from(b"\0inside"));
    assert_eq!(list.format().unwrap(), "8sddq8sxxxxxxx?qxxxxxxx?");

    // Too much for it changes nothing.
    let before = list.shm().to_vec();
    let error = list.set(4, "far too many letters").unwrap_err();
    assert!(
        error.is_too_large() && error.to_string().contains("20 bytes does not fit into the 8"),
        "{error}"
    );
    assert_eq!(list.shm().to_vec(), before);

    assert_eq!((list.count(42).unwrap(), list.count("none such").unwrap()), (2, 0));
    assert_eq!((list.index(42).unwrap(), list.index("none such").unwrap()), (Some(3), None));
    assert_eq!(list.iter().next_back().unwrap().unwrap(), Item::Bool(false));
    assert_eq!(list.iter().len(), 8);
}

#[test]
fn a_list_is_copied_under_another_name_and_found_by_its_name() {
    let _watchdog = watchdog!();
    let list = ShareableList::create(howdy()).unwrap();
    let name = fresh("list-copy");
    let copy = ShareableList::create_named(&name, list.to_vec().unwrap()).unwrap();
    assert_eq!((copy.name(), copy.to_vec().unwrap()), (name.as_str(), howdy()));
    assert_ne!(copy.name(), list.name());
    let found = ShareableList::open(&name).unwrap();
    found.set(6, 666).unwrap();
    assert_eq!(copy.get(6).unwrap(), Item::Int(666));
    let view = ShareableList::open_read_only(&name).unwrap();
    assert_eq!(view.get(6).unwrap(), Item::Int(666));
    assert!(view.set(6, 1).unwrap_err().is_permission_denied());
    drop(copy);
    assert!(ShareableList::open(&name).unwrap_err().is_not_found());
}

#[test]
fn an_empty_list_is_sixteen_zero_bytes() {
    let _watchdog = watchdog!();
    let list = ShareableList::create([Item::None; 0]).unwrap();
    assert_eq!(list.shm().to_vec(), [0; 16]);
    assert_eq!((list.len(), list.is_empty(), list.format().unwrap().as_str()), (0, true, ""));
    assert!(list.get(0).unwrap_err().is_out_of_range());
    assert!(ShareableList::open(list.name()).unwrap().is_empty());
}

#[test]
fn the_bytes_are_those_that_cpython_writes() {
    let _watchdog = watchdog!();
    let mut expected = Vec::new();
    for number in [8_i64, 0, 8, 16, 24, 32, 40, 48, 56, 64] {
        expected.extend(number.to_le_bytes());
    }
    expected.extend(b"howdy\0\0\0HoWdY\0\0\0");
    expected.extend([0x58, 0x39, 0xb4, 0xc8, 0x76, 0x12, 0x71, 0xc0]);
    expected.extend(100_i64.to_le_bytes());
    expected.extend([0; 8]);
    expected.extend([0, 0, 0, 0, 0, 0, 0, 1]);
    expected.extend(42_i64.to_le_bytes());
    expected.extend([0; 8]);
    for format in ["8s", "8s", "d", "q", "xxxxxx?x", "xxxxxxx?", "q", "xxxxxxx?"] {
        expected.extend(format.bytes().chain(std::iter::repeat(0)).take(8));
    }
    expected.extend([1, 2, 0, 0, 3, 0, 0, 0]);
    let list = ShareableList::create(howdy()).unwrap();
    if cfg!(target_endian = "little") {
        assert_eq!(list.shm().to_vec(), expected);
    }
    assert_eq!(list.shm().len(), 216);
}

#[test]
fn debug_shows_the_items_and_the_name() {
    let _watchdog = watchdog!();
    let list = ShareableList::create([Item::from("a"), 1.into(), b"\x00b".into(), Item::None]).unwrap();
    assert_eq!(
        format!("{list:?}"),
        format!("ShareableList([\"a\", 1, b\"\\x00b\", None], name={:?})", list.name())
    );
}

#[test]
fn text_beyond_ascii_comes_back_whole_and_what_ends_in_a_nul_is_refused() {
    let _watchdog = watchdog!();
    let list = ShareableList::create(["日本語日本語", "é", ""]).unwrap();
    assert_eq!(list.to_vec().unwrap(), ["日本語日本語", "é", ""].map(Item::from));
    for value in [Item::from("a\0"), b"\0".into(), b"data\0\0".into()] {
        let before = list.shm().to_vec();
        let error = list.set(0, &value).unwrap_err();
        assert!(error.is_invalid() && error.to_string().contains("ends in a NUL"), "{error}");
        assert_eq!(list.shm().to_vec(), before);
        let name = fresh("nul");
        assert!(ShareableList::create_named(&name, [&value]).unwrap_err().is_invalid());
        assert!(!path(&name).exists());
    }
}

#[test]
fn a_value_takes_all_of_its_place() {
    let _watchdog = watchdog!();
    // Room for 16 bytes, although the text has 8.
    let list = ShareableList::create([Item::from("12345678"), 1.into()]).unwrap();
    list.set(0, "1234567890123456").unwrap();
    assert_eq!(list.get(0).unwrap(), Item::from("1234567890123456"));
    assert_eq!(list.get(1).unwrap(), Item::Int(1));
    list.set(0, Item::None).unwrap();
    list.set(0, "x").unwrap();
    assert_eq!((list.get(0).unwrap(), list.format().unwrap().as_str()), (Item::from("x"), "16sq"));
    for number in [i64::MIN, i64::MAX] {
        list.set(1, number).unwrap();
        assert_eq!(list.get(1).unwrap(), Item::Int(number));
    }
    let error = ShareableList::create(["x".repeat(9_999_999)]).unwrap_err();
    assert!(error.is_too_large(), "{error}");
}

#[test]
fn a_serialised_list_is_a_handle_of_constant_size_that_shares_its_items() {
    let _watchdog = watchdog!();
    let list = ShareableList::create(0..10).unwrap();
    let long = ShareableList::create(0..1_000).unwrap();
    let parcel = Parcel::pack(&list).unwrap();
    assert!(Parcel::pack(&long).unwrap().bytes().len() <= parcel.bytes().len() + 2);
    let json = serde_json::to_string(&list).unwrap();
    for copy in [parcel.unpack::<ShareableList>().unwrap(), serde_json::from_str(&json).unwrap()] {
        copy.set(0, -1).unwrap();
        assert_eq!(list.get(0).unwrap(), Item::Int(-1));
        list.set(0, 0).unwrap();
        assert_eq!(copy.to_vec().unwrap(), (0..10).map(Item::from).collect::<Vec<_>>());
    }
}

#[test]
fn a_serialised_list_that_is_gone_says_so() {
    let _watchdog = watchdog!();
    let list = ShareableList::create(0..10).unwrap();
    let json = serde_json::to_string(&list).unwrap();
    drop(list);
    let error = serde_json::from_str::<ShareableList>(&json).unwrap_err().to_string();
    assert!(error.contains("not found"), "{error}");
}

/// As CPython 3.8 lays it out: the slots' sizes.
#[test]
fn a_list_of_the_old_layout_is_read_and_changed() {
    let _watchdog = watchdog!();
    let mut bytes = Vec::new();
    for number in [3_i64, 8, 16, 8] {
        bytes.extend(number.to_ne_bytes());
    }
    bytes.extend(7_i64.to_ne_bytes());
    bytes.extend(b"old layout\0\0\0\0\0\0");
    bytes.extend(0.5_f64.to_ne_bytes());
    for format in ["q", "16s", "d"] {
        bytes.extend(format.bytes().chain(std::iter::repeat(0)).take(8));
    }
    bytes.extend([0, 1, 0]);
    let shm = SharedMemory::create(bytes.len()).unwrap();
    shm.write_at(0, &bytes).unwrap();
    let list = ShareableList::open(shm.name()).unwrap();
    assert_eq!(list.to_vec().unwrap(), [7.into(), "old layout".into(), Item::from(0.5)]);
    list.set(1, "changed").unwrap();
    list.set(2, Item::None).unwrap();
    assert_eq!(list.to_vec().unwrap(), [7.into(), "changed".into(), Item::None]);
    assert_eq!(shm.len(), bytes.len());
}

#[test]
fn a_segment_that_holds_no_list_is_refused() {
    let _watchdog = watchdog!();
    let list = |words: &[i64], size: usize| {
        let shm = SharedMemory::create(size).unwrap();
        for (index, word) in words.iter().enumerate() {
            shm.set(index * 8, *word).unwrap();
        }
        ShareableList::from_shm(shm)
    };
    let refused: [(&[i64], usize); 12] = [
        (&[], 7),
        (&[-1], 100),
        (&[i64::MAX], 100),
        (&[i64::MIN], 100),
        (&[1 << 60], 100),
        (&[2, 0, 8], 24),
        (&[2, 0, 8, 8], 1000),
        (&[2, 0, 8, -8], 1000),
        (&[2, 0, 8, i64::MAX], 1000),
        (&[2, 0, 16, 8], 1000),
        (&[1, 0, 8], 24 + 8 + 8),
        (&[2, 8, i64::MAX, 8], 1000),
    ];
    for (words, size) in refused {
        let error = list(words, size).unwrap_err();
        assert!(error.is_incompatible(), "{words:?} in {size}: {error}");
    }
    assert_eq!(list(&[1, 0, 8], 24 + 8 + 8 + 1).unwrap().len(), 1);
}

#[test]
fn hostile_bytes_in_a_list_are_errors_and_never_reach_beyond_it() {
    let _watchdog = watchdog!();
    let mut rng = Rng::from_env();
    let list = ShareableList::create([Item::from("some text here"), 1.into(), true.into()]).unwrap();
    let good = list.shm().to_vec();
    let formats: [&[u8; 8]; 8] = [
        b"99999999",
        b"9999999s",
        b"25s\0\0\0\0\0",
        b"s\0\0\0\0\0\0\0",
        b"\0\0\0\0\0\0\0\0",
        b"qq\0\0\0\0\0\0",
        b"-8s\0\0\0\0\0",
        b"\xff\xff\xff\xff\xff\xff\xff\xff",
    ];
    let at = good.len() - 3 * 9;
    for format in formats {
        list.shm().write_at(at, format).unwrap();
        let error = list.get(0).unwrap_err();
        assert!(error.is_incompatible(), "{format:?}: {error}");
        assert!(list.format().is_err());
        assert!(list.to_vec().is_err() && list.count(1).is_err() && list.index("x").is_err());
        assert!(format!("{list:?}").contains("<failed to read an item"));
        // What is put there is whole again.
        list.set(0, "mended").unwrap();
        assert_eq!(list.get(0).unwrap(), Item::from("mended"));
    }
    for code in [0_u8, 3, 4, 255] {
        list.shm().set(good.len() - 3, code).unwrap();
        assert!(list.get(0).unwrap_err().is_incompatible());
    }
    list.shm().write_at(0, &good).unwrap();
    list.shm().set(32 + 8, 0xff_u8).unwrap();
    assert!(list.get(0).unwrap_err().to_string().contains("not UTF-8"));
    // Anything at all.
    for _ in 0..20_000 {
        let mut bytes = good.clone();
        for _ in 0..=rng.below(6) {
            bytes[rng.below(good.len() as u64) as usize] = rng.next_u64() as u8;
        }
        list.shm().write_at(0, &bytes).unwrap();
        let _ = (list.to_vec(), list.format());
        if let Ok(other) = ShareableList::open(list.name()) {
            let _ = (other.to_vec(), other.format(), other.set(0, 1));
        }
    }
}
