//! A message of a ring whose blocks are known by name.

use crate::heap_support::{assert_empty, of_mib};
use procession_parcel::codec;
use procession_shm::{HeapRing, SharedSlice, SharedVec};
use procession_testkit::watchdog;

type Value = (SharedVec<u8>, SharedSlice<u16>, SharedVec<u64>);

/// Sends a value: the bytes, the token and the names.
fn send(ring: &HeapRing, value: Value) -> (Vec<u8>, u64, Vec<u64>) {
    let (mut bytes, mut names) = (Vec::new(), Vec::new());
    codec::encode_with(&value, ring.carrier_out(), &mut bytes).unwrap();
    let token = ring.token().unwrap();
    ring.depart().unwrap();
    ring.names(&mut |name| names.push(name));
    ring.sent();
    (bytes, token, names)
}

#[test]
fn what_a_message_has_is_known_by_name_until_it_is_taken_or_freed() {
    let _watchdog = watchdog!();
    let heap = of_mib(4);
    let ring = HeapRing::new(&heap).unwrap();
    let value = || {
        let table = heap.vec_from(&[1_u16, 2]).unwrap().freeze().unwrap();
        (heap.vec::<u8>(100_000).unwrap(), table, heap.vec_from(&[7_u64]).unwrap())
    };
    // Nobody takes it.
    let (_, token, names) = send(&ring, value());
    assert_eq!((names.len(), heap.stats().blocks), (3, 3));
    assert!(ring.has_all(token, names.iter().copied()));
    assert!(!ring.has_all(token + 1, names.iter().copied()));
    ring.unload(token + 1, names.iter().copied());
    ring.unload(token, [u64::MAX, u64::MAX >> 1, 1, 1 << 63]);
    assert!(ring.has_all(token, names.iter().copied()));
    ring.unload(token, names.iter().copied());
    assert!(!ring.has_all(token, names.iter().copied()));
    assert_eq!(heap.stats().blocks, 0);
    // Somebody takes it; what is read-only can be received again.
    let (bytes, token, names) = send(&ring, value());
    let (numbers, table, one): Value = codec::decode_with(&bytes, ring.carrier_in()).unwrap();
    ring.keep();
    assert_eq!((numbers.len(), &table[..], one[0]), (100_000, &[1, 2][..], 7));
    let left: Vec<bool> = names.iter().map(|name| ring.has_all(token, [*name])).collect();
    assert_eq!(left.iter().filter(|left| **left).count(), 1);
    drop((numbers, one, table));
    assert_eq!(heap.stats().blocks, 1);
    assert!(codec::decode_with::<Value>(&bytes, ring.carrier_in()).is_err());
    ring.keep();
    (0..2).for_each(|_| ring.unload(token, names.iter().copied()));
    assert_empty(&heap);
    // The names of another message's blocks do nothing to them.
    let (bytes, _, names) = send(&ring, value());
    ring.unload(token, names.iter().copied());
    let (_, table, _): Value = codec::decode_with(&bytes, ring.carrier_in()).unwrap();
    ring.received();
    assert_eq!(&table[..], [1, 2]);
    drop(table);
    assert_empty(&heap);
}
