//! Death at every instruction: what the dead had is free after a sweep, what others have is whole.

use crate::heap_support::{assert_empty, balance, of_mib};
use procession_parcel::{Parcel, codec};
use procession_shm::{Heap, HeapRing, SharedStr, SharedVec};
use procession_testkit::{
    forked, isolated_within,
    step::{Death, Options, Report, each_instruction, each_instruction_after},
};
use std::time::Duration;

fn isolated(name: &str, body: impl FnOnce()) {
    isolated_within(name, Duration::from_secs(300), body);
}

struct World {
    heap: Heap,
    ours: SharedVec<u64>,
    text: SharedStr,
}

fn world() -> World {
    let heap = of_mib(1);
    let ours = heap.vec_from(&[5; 10]).unwrap();
    let text = heap.str("ours").unwrap();
    World { heap, ours, text }
}

/// After a death: the survivor's are whole, and nothing else is left.
fn check(_: Death, world: &mut World) {
    world.heap.sweep().unwrap();
    assert_eq!(balance(&world.heap).blocks, 2);
    assert_eq!((&*world.ours, &*world.text), (&[5; 10][..], "ours"));
    // The heap goes on.
    let next = world.heap.vec_from(&[6_u64; 10]).unwrap();
    let large = world.heap.vec_from(&[7_u8; 150_000]).unwrap();
    assert!(next.iter().all(|&element| element == 6) && large.iter().all(|&byte| byte == 7));
    drop((next, large));
    assert_eq!(balance(&world.heap).blocks, 2);
}

/// Kills `operation` after each number of instructions; it begins where this process has joined and has a slab.
fn each(thin: u64, operation: impl Fn(&Heap)) -> Report {
    let join = |world: &mut World| drop(world.heap.alloc(1_u64).unwrap());
    each_instruction_after(&Options::one_of(thin), world, join, |world, ()| operation(&world.heap), check)
}

#[test]
fn a_process_dies_at_every_instruction_of_an_allocation_and_a_free() {
    isolated("heap_steps::a_process_dies_at_every_instruction_of_an_allocation_and_a_free", || {
        let report = each(61, |heap| drop(heap.alloc(1_u64).unwrap()));
        println!("allocate and free: {report}");
    });
}

#[test]
fn a_process_dies_at_every_instruction_of_a_new_slab() {
    isolated("heap_steps::a_process_dies_at_every_instruction_of_a_new_slab", || {
        // Another class than the one that is there, and not so large that a copy is one long string instruction.
        let report = each(1499, |heap| drop(heap.alloc([1_u8; 1500]).unwrap()));
        println!("allocate from a new slab: {report}");
    });
}

#[test]
fn a_process_dies_at_every_instruction_of_a_large_block() {
    isolated("heap_steps::a_process_dies_at_every_instruction_of_a_large_block", || {
        let report = each(599, |heap| _ = heap.vec::<u8>(3 * 64 * 1024).unwrap().len());
        println!("allocate and free a large block: {report}");
    });
}

#[test]
fn a_process_dies_at_every_instruction_of_a_way_through_a_parcel() {
    isolated("heap_steps::a_process_dies_at_every_instruction_of_a_way_through_a_parcel", || {
        let report = each(2999, |heap| {
            let block = heap.alloc(1_u64).unwrap();
            let parcel = Parcel::pack(&block).unwrap();
            drop(parcel.unpack::<procession_shm::SharedBox<u64>>().unwrap());
        });
        println!("pack and unpack: {report}");
    });
}

#[test]
fn a_process_dies_at_every_instruction_of_the_life_of_a_shared_block() {
    isolated("heap_steps::a_process_dies_at_every_instruction_of_the_life_of_a_shared_block", || {
        let report = each(4999, |heap| {
            let text = heap.str("shared").unwrap();
            let parcel = Parcel::pack(&text).unwrap();
            drop(text);
            drop(parcel.unpack::<SharedStr>().unwrap());
        });
        println!("share, pack and unpack: {report}");
    });
}

#[test]
fn a_process_dies_at_every_instruction_of_a_way_through_a_ring() {
    isolated("heap_steps::a_process_dies_at_every_instruction_of_a_way_through_a_ring", || {
        let report = each(9973, |heap| {
            let ring = HeapRing::new(heap).unwrap();
            let load = (heap.alloc(1_u64).unwrap(), heap.str("text").unwrap());
            let mut bytes = Vec::new();
            codec::encode_with(&load, ring.carrier_out(), &mut bytes).unwrap();
            ring.depart().unwrap();
            ring.sent();
            drop(load);
            type Load = (procession_shm::SharedBox<u64>, SharedStr);
            drop(codec::decode_with::<Load>(&bytes, ring.carrier_in()).unwrap());
            ring.received();
        });
        println!("through a ring that dies too: {report}");
    });
}

/// Kills one end of a ring of which another end lives; it has the world and, in `bytes`, a message.
fn each_of_two(thin: u64, operation: impl Fn(&World, &HeapRing, &[u8]), sent: bool) {
    let setup = || {
        let world = world();
        let ring = HeapRing::new(&world.heap).unwrap();
        let block = world.heap.vec_from(&[9_u64; 10]).unwrap();
        let mut bytes = Vec::new();
        codec::encode_with(&block, ring.carrier_out(), &mut bytes).unwrap();
        if sent {
            ring.depart().unwrap();
            ring.sent();
        } else {
            ring.back();
        }
        drop(block);
        (world, ring, bytes)
    };
    let (mut there, mut gone) = (0, 0);
    let join = |(world, ..): &mut (World, HeapRing, Vec<u8>)| drop(world.heap.alloc(1_u64).unwrap());
    let report = each_instruction_after(
        &Options::one_of(thin),
        setup,
        join,
        |(world, ring, bytes), ()| operation(world, ring, bytes),
        |death, (world, ring, bytes)| {
            world.heap.sweep().unwrap();
            // Whoever is left gets the block whole, or not at all.
            match codec::decode_with::<SharedVec<u64>>(bytes, ring.carrier_in()) {
                Ok(block) => {
                    assert!(sent && *block == [9; 10]);
                    there += 1;
                }
                Err(_) => gone += 1,
            }
            ring.received();
            ring.release();
            check(death, world);
        },
    );
    println!("{report}; the block was there after {there} of the deaths, and not after {gone}");
    assert!(gone > 0 && (!sent || there > 0));
}

#[test]
fn a_receiver_dies_at_every_instruction_of_a_decoding() {
    isolated("heap_steps::a_receiver_dies_at_every_instruction_of_a_decoding", || {
        each_of_two(
            1499,
            |_, ring, bytes| {
                let block: SharedVec<u64> = codec::decode_with(bytes, ring.carrier_in()).unwrap();
                assert_eq!(*block, [9; 10]);
                ring.received();
            },
            true,
        );
    });
}

#[test]
fn a_sender_dies_at_every_instruction_of_a_departure_and_a_return() {
    isolated("heap_steps::a_sender_dies_at_every_instruction_of_a_departure_and_a_return", || {
        each_of_two(
            9973,
            |world, ring, _| {
                let block = world.heap.vec_from(&[8_u64; 10]).unwrap();
                let mut bytes = Vec::with_capacity(256);
                codec::encode_with(&block, ring.carrier_out(), &mut bytes).unwrap();
                ring.depart().unwrap();
                ring.back();
            },
            false,
        );
    });
}

#[test]
fn a_sweeper_dies_at_every_instruction() {
    isolated("heap_steps::a_sweeper_dies_at_every_instruction", || {
        // Of the class of which a slab has the fewest blocks, since a sweep looks at each.
        let long = "x".repeat(8000);
        let setup = || {
            let heap = of_mib(1);
            let ours = heap.vec_from(&[5_u8; 8000]).unwrap();
            let text = heap.str(&long).unwrap();
            // One that dies with a block of each kind: the end of a process is as good as its death.
            forked(|| {
                std::mem::forget((heap.vec::<u8>(8000), heap.vec::<u8>(100_000), heap.str(&long)));
            });
            (heap, ours, text)
        };
        let report = each_instruction(
            &Options::one_of(4999),
            setup,
            |(heap, ..)| _ = heap.sweep().unwrap(),
            |_, (heap, ours, text)| {
                heap.sweep().unwrap();
                assert_eq!(balance(heap).blocks, 2);
                assert!(**ours == [5; 8000] && **text == *long);
                drop(heap.vec::<u8>(800_000).unwrap());
            },
        );
        println!("sweep: {report}");
    });
}

#[test]
fn the_world_is_empty_when_it_is_dropped() {
    let World { heap, ours, text } = world();
    drop((ours, text));
    assert_empty(&heap);
}
