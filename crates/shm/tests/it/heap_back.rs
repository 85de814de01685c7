//! Messages of a ring that are not committed: their blocks come back, but for those that somebody else has by then.

use crate::heap_support::{assert_empty, of_mib};
use procession_parcel::codec;
use procession_shm::{Heap, HeapRing, SharedBox, SharedStr, SharedVec};
use procession_testkit::{forked, isolated, watchdog};
use std::panic::{AssertUnwindSafe, catch_unwind};

type Load = (SharedVec<u64>, SharedBox<u64>, SharedStr);

/// A message that is about to be committed.
fn departed(heap: &Heap, ring: &HeapRing) -> (Load, Vec<u8>) {
    let mut vec = heap.vec::<u64>(10).unwrap();
    vec.fill(7);
    let load = (vec.moved(), heap.alloc(8).unwrap(), heap.str("nine").unwrap());
    let mut bytes = Vec::new();
    codec::encode_with(&load, ring.carrier_out(), &mut bytes).unwrap();
    ring.depart().unwrap();
    (load, bytes)
}

/// Whether a block's handle is closed for good.
fn is_closed<T>(read: impl FnOnce() -> T) -> bool {
    catch_unwind(AssertUnwindSafe(read)).is_err()
}

#[test]
fn what_a_peer_took_before_the_commit_is_its_own() {
    let _watchdog = watchdog!();
    let heap = of_mib(1);
    let ring = HeapRing::new(&heap).unwrap();
    let peer = ring.another().unwrap();
    let (load, bytes) = departed(&heap, &ring);
    // The second block stays where it is: these are the numbers that the message has of it.
    let (mut taken, _, _): (SharedVec<u64>, [[u8; 8]; 5], SharedStr) =
        codec::decode_with(&bytes, peer.carrier_in()).unwrap();
    peer.received();
    ring.back();
    assert!(is_closed(|| load.0[0]), "two handles stand for one block");
    assert_eq!((*load.1, &*load.2), (8, "nine"));
    drop(load);
    taken[0] = 1;
    assert_eq!(*taken, [1, 7, 7, 7, 7, 7, 7, 7, 7, 7]);
    drop(taken);
    assert_empty(&heap);
}

#[test]
fn what_was_revoked_before_the_commit_stays_freed() {
    let _watchdog = watchdog!();
    let heap = of_mib(1);
    let ring = HeapRing::new(&heap).unwrap();
    let (load, _) = departed(&heap, &ring);
    assert!(ring.revoke(&[ring.token().unwrap()]).unwrap() > 0);
    // These are the same blocks, and this process's, as before.
    let vecs: Vec<_> = (0..1000).map(|_| heap.vec_from(&[5_u64; 10]).unwrap()).collect();
    ring.back();
    assert!(is_closed(|| load.0[0]) && is_closed(|| *load.1), "two handles stand for one block");
    // Read-only: this process holds it besides the message.
    assert_eq!(&*load.2, "nine");
    drop(load);
    assert!(vecs.iter().all(|vec| **vec == [5; 10]));
    drop(vecs);
    assert_empty(&heap);
}

#[test]
fn a_forked_copy_brings_nothing_back() {
    isolated!({
        let heap = of_mib(1);
        let ring = HeapRing::new(&heap).unwrap();
        let (load, bytes) = departed(&heap, &ring);
        forked(|| ring.back());
        forked(|| {
            let another = HeapRing::new(&heap).unwrap();
            drop((another, ring.another()));
            assert!(is_closed(|| load.0[0]));
        });
        ring.sent();
        drop(load);
        let load: Load = codec::decode_with(&bytes, ring.carrier_in()).unwrap();
        ring.received();
        assert_eq!((load.0[9], *load.1, &*load.2), (7, 8, "nine"));
        drop(load);
        assert_empty(&heap);
    });
}

#[test]
fn a_ring_s_place_that_ends_brings_its_message_back() {
    let _watchdog = watchdog!();
    let heap = of_mib(1);
    let ring = HeapRing::new(&heap).unwrap();
    let one = ring.beside();
    let (load, _) = departed(&heap, &one);
    drop(one);
    assert_eq!((load.0[9], *load.1, &*load.2), (7, 8, "nine"));
    drop(load);
    assert_empty(&heap);
}
