//! Deaths at each step of the heap's protocols: built with `--cfg crash_points`.

use crate::heap_support::{assert_empty, balance, give, start, take};
use procession_parcel::{Parcel, codec};
use procession_shm::{Heap, HeapRing, Loan, SharedBox, SharedSlice, SharedStr, SharedVec};
use procession_sys::crash;
use procession_testkit::{role, watchdog};
use std::{
    os::unix::{net::UnixStream, process::ExitStatusExt},
    time::Duration,
};

/// From now on this process dies at `point`.
fn arm(point: &str) {
    // SAFETY: this is the only thread of the role that reads or writes the environment; the other one is the
    // harness's, which waits for this one.
    unsafe { std::env::set_var(crash::VARIABLE, point) };
}

fn died(process: &mut role::RoleProcess, point: &str) {
    let status = process.wait();
    assert_eq!(status.signal(), Some(9), "at {point}: {status:?}\n{}", process.output());
}

/// Memory is taken when it is touched, so that a large block costs nothing.
fn heap() -> Heap {
    Heap::builder().cap(64 << 20).overcommit(true).build().unwrap()
}

/// Everything that one does with a heap, once a point was chosen to die at.
fn live(heap: Heap, socket: &UnixStream) {
    let came: SharedVec<u64> = take(socket);
    let shared: SharedStr = take(socket);
    let number = heap.alloc(1_u64).unwrap();
    drop(heap.vec::<u8>(40 << 20).unwrap());
    let slabs: Vec<_> = (0..20).map(|_| heap.vec::<u8>(8000).unwrap()).collect();
    drop(slabs);
    // Back from a parcel that was not delivered, and through one that was.
    let mut number = number.moved();
    drop(Parcel::pack(&number).unwrap());
    *number += 1;
    let number: SharedBox<u64> = Parcel::pack(&number).unwrap().unpack().unwrap();
    let table = number.moved().freeze().unwrap();
    drop(Parcel::pack(&table).unwrap());
    let parcel = Parcel::pack(&table).unwrap();
    drop(table);
    drop(parcel.unpack::<SharedSlice<u64>>().unwrap());
    // What stays makes its slab an abandoned one.
    give(socket, &heap.alloc(9_u64).unwrap());
    drop((came, shared, heap));
}

#[test]
fn role_living() {
    let Some(mut role) = role::enter(role_living) else { return };
    let socket = UnixStream::from(role.fd());
    let (point, heap): (String, Heap) = take(&socket);
    arm(&point);
    live(heap, &socket);
}

#[test]
fn one_that_dies_at_any_step_leaves_nothing_for_good() {
    let _watchdog = watchdog!(Duration::from_secs(120));
    let points = [
        "heap.take.head",
        "heap.take.len",
        "heap.take.tail",
        "heap.take.tail:300",
        "heap.give.discarded",
        "heap.give.tail",
        "heap.give.tail:300",
        "heap.give.len",
        "heap.give.head",
        "heap.slab.made",
        "heap.slab.adopted",
        "heap.slab.given",
        "heap.slab.abandoned",
        "heap.allocate.owned",
        "heap.allocate.large",
        "heap.free.word",
        "heap.send.locked",
        "heap.send.transit",
        "heap.send.back",
        "heap.receive.attached",
        "heap.receive.owned",
        "heap.receive.owned:2",
        "heap.share.taken",
        "heap.share.set",
        "heap.share.shared",
        "heap.share.held",
        "heap.hold.locked",
        "heap.hold.slot",
        "heap.hold.slot:2",
        "heap.hold.renewed",
        "heap.hold.renewed:2",
        "heap.hold.transit",
        "heap.hold.attached",
        "heap.hold.added",
        "heap.hold.cleared",
        "heap.hold.cleared:2",
        "heap.hold.ended",
        "heap.finish.block",
        "heap.finish.freed",
    ];
    for point in points {
        let heap = heap();
        // A slab that nobody owns: its owner sent a block in it, and died.
        let (mut maker, socket) = start(role_living);
        give(&socket, &("none", &heap));
        give(&socket, &heap.vec_from(&[1_u64; 10]).unwrap());
        let kept = heap.str("kept").unwrap();
        give(&socket, &kept);
        let ours: SharedBox<u64> = take(&socket);
        assert!(maker.wait().success(), "{}", maker.output());

        let (mut process, socket) = start(role_living);
        give(&socket, &(point, &heap));
        give(&socket, &heap.vec_from(&[2_u64; 10]).unwrap());
        give(&socket, &kept);
        died(&mut process, point);
        // What it sent before its death lies in the socket, and goes with it.
        drop(socket);
        heap.sweep().unwrap();
        assert_eq!(balance(&heap).blocks, 2, "at {point}");
        assert_eq!((*ours, &*kept), (9, "kept"), "at {point}");
        // All of the heap can be used.
        let all = heap.vec::<u8>((64 << 20) - (1 << 20)).unwrap();
        drop((ours, kept, all));
        assert_empty(&heap);
    }
}

#[test]
fn role_left() {
    let Some(mut role) = role::enter(role_left) else { return };
    let socket = UnixStream::from(role.fd());
    let (heap, held): (Heap, SharedStr) = take(&socket);
    let left = (heap.alloc(1_u64).unwrap(), heap.vec::<u8>(1 << 20).unwrap(), heap.str("left").unwrap());
    role.say("ready");
    role.hear();
    arm("heap.share.taken");
    let _ = heap.str("dies");
    drop((left, held));
}

#[test]
fn role_sweeper() {
    let Some(mut role) = role::enter(role_sweeper) else { return };
    let socket = UnixStream::from(role.fd());
    let (point, heap): (String, Heap) = take(&socket);
    arm(&point);
    heap.sweep().unwrap();
}

#[test]
fn a_sweeper_that_dies_leaves_its_work_to_the_next() {
    let _watchdog = watchdog!(Duration::from_secs(120));
    let points = [
        "heap.sweep.small",
        "heap.sweep.block",
        "heap.sweep.slab",
        "heap.sweep.record",
        "heap.sweep.ended",
        "heap.sweep.done",
        "heap.give.tail",
        "heap.give.len",
        "heap.give.head",
        "heap.hold.cleared",
        "heap.finish.block",
        "heap.finish.freed",
        "heap.slab.abandoned",
    ];
    for point in points {
        let heap = heap();
        let held = heap.str("held").unwrap();
        let (mut left, socket) = start(role_left);
        give(&socket, &(&heap, &held));
        left.expect("ready");
        drop(held);
        left.say("die");
        died(&mut left, "heap.share.taken");
        assert!(balance(&heap).blocks > 3, "at {point}");
        let (mut process, socket) = start(role_sweeper);
        give(&socket, &(point, &heap));
        died(&mut process, point);
        assert_empty(&heap);
        drop(heap.vec::<u8>((64 << 20) - (1 << 20)).unwrap());
    }
}

/// What goes through a ring in these tests.
type Load = (SharedVec<u64>, SharedBox<u64>, SharedStr);

#[test]
fn role_ring() {
    let Some(mut role) = role::enter(role_ring) else { return };
    let socket = UnixStream::from(role.fd());
    let (point, heap, ring): (String, Heap, HeapRing) = take(&socket);
    arm(&point);
    drop(HeapRing::new(&heap).unwrap());
    let load: Load = (heap.vec(100_000).unwrap(), heap.alloc(1).unwrap(), heap.str("text").unwrap());
    let mut bytes = Vec::new();
    for refused in [true, false] {
        bytes.clear();
        codec::encode_with(&load, ring.carrier_out(), &mut bytes).unwrap();
        give(&socket, &ring.token());
        ring.depart().unwrap();
        if refused { ring.back() } else { ring.sent() }
    }
    drop(load);
    let load: Load = codec::decode_with(&bytes, ring.carrier_in()).unwrap();
    ring.received();
    drop((load, ring, heap));
    // Other steps of a ring's life are passed through by now.
    arm("none");
}

#[test]
fn one_that_dies_at_any_step_of_a_way_through_a_ring_leaves_what_can_be_revoked() {
    let _watchdog = watchdog!(Duration::from_secs(120));
    let points = [
        "heap.ring.locked",
        "heap.ring.entered",
        "heap.ring.held",
        "heap.ring.held:2",
        "heap.ring.departed",
        "heap.ring.departed:2",
        "heap.ring.departed:3",
        "heap.ring.back",
        "heap.ring.back:2",
        "heap.receive.owned",
        "heap.receive.owned:2",
        "heap.hold.attached",
        "heap.hold.added",
    ];
    for revoked in [true, false] {
        for point in points {
            let heap = heap();
            let ring = HeapRing::new(&heap).unwrap();
            let (mut process, socket) = start(role_ring);
            give(&socket, &(point, &heap, &ring.another().unwrap()));
            died(&mut process, point);
            heap.sweep().unwrap();
            if revoked {
                // Nobody committed anything, so this is what a ring does that recovers a dead sender.
                while let Ok(Some(parcel)) =
                    procession_parcel::wire::recv(&socket, &procession_parcel::wire::Limits::default(), None)
                {
                    let token: Option<u64> = parcel.unpack().unwrap();
                    ring.revoke(&[token.unwrap()]).unwrap();
                }
                assert_eq!(balance(&heap).blocks, 0, "at {point}");
                drop(ring);
            } else {
                let left = balance(&heap);
                assert!(left.blocks <= 3, "at {point}: {left:?}");
                drop(ring);
            }
            // A process that another test is just starting may have a copy of the claim still.
            let limit = Duration::from_secs(10);
            procession_testkit::wait::eventually("the ring is gone", limit, || {
                heap.sweep().unwrap();
                heap.stats().blocks == 0
            });
            assert_empty(&heap);
            drop(heap.vec::<u8>((64 << 20) - (1 << 20)).unwrap());
        }
    }
}

#[test]
fn role_lender() {
    let Some(mut role) = role::enter(role_lender) else { return };
    let socket = UnixStream::from(role.fd());
    let (point, heap, ring): (String, Heap, HeapRing) = take(&socket);
    arm(&point);
    let mut numbers = heap.vec::<u64>(1000).unwrap();
    drop(ring.lend(&mut numbers, 100).unwrap());
    drop((numbers, ring, heap));
    arm("none");
}

#[test]
fn what_a_lender_that_dies_at_any_step_has_lent_lives_as_long_as_the_ring() {
    let _watchdog = watchdog!(Duration::from_secs(120));
    for point in ["heap.lend.lent", "heap.lend.closed", "heap.lend.alone"] {
        let heap = heap();
        let ring = HeapRing::new(&heap).unwrap();
        let (mut process, socket) = start(role_lender);
        give(&socket, &(point, &heap, &ring.another().unwrap()));
        died(&mut process, point);
        heap.sweep().unwrap();
        assert_eq!(balance(&heap).blocks, 1, "at {point}");
        drop(ring);
        assert_empty(&heap);
    }
}

#[test]
fn role_borrower() {
    let Some(mut role) = role::enter(role_borrower) else { return };
    let socket = UnixStream::from(role.fd());
    let (point, ring, loan): (String, HeapRing, Loan) = take(&socket);
    arm(&point);
    // SAFETY: the loan is of `u64`, by this ring.
    let mut part = unsafe { ring.enter::<u64>(loan, 3) }.unwrap();
    part.elements().fill(3);
    drop(part);
    arm("none");
}

#[test]
fn one_that_dies_at_any_step_in_a_part_is_out_of_it() {
    let _watchdog = watchdog!(Duration::from_secs(120));
    let (heap, none) = (heap(), 0);
    let ring = HeapRing::new(&heap).unwrap();
    let mut numbers = heap.vec::<u64>(1000).unwrap();
    for (point, written) in [("heap.lend.locked", none), ("heap.lend.entered", none), ("heap.lend.left", 3)] {
        let lending = ring.lend(&mut numbers, 100).unwrap();
        let (mut process, socket) = start(role_borrower);
        give(&socket, &(point, &ring.another().unwrap(), lending.loan()));
        died(&mut process, point);
        // SAFETY: the loan is of `u64`, by this ring.
        drop(unsafe { ring.enter::<u64>(lending.loan(), 3) }.unwrap());
        drop(lending);
        assert_eq!((numbers[299], numbers[300], numbers[399]), (0, written, written), "at {point}");
        assert_eq!(balance(&heap).blocks, 1);
    }
    drop(numbers);
    assert_empty(&heap);
}
