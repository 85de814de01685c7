//! Death at every instruction: what the dead had is free after a sweep, what others have is whole.

use crate::heap_support::{assert_empty, balance, of_mib};
use procession_parcel::Parcel;
use procession_shm::{Heap, SharedStr, SharedVec};
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
