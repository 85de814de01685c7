//! What the heap promises within one process.

use crate::heap_support::{BOUND, assert_empty, balance, of_mib, resident};
use procession_shm::{Heap, SharedVec};
use procession_testkit::{Census, isolated, storm::Rng, watchdog};
use std::sync::Barrier;

/// CPython's test of its heap: free and used blocks together are the arena, and all is free at the end.
#[test]
fn free_and_used_blocks_are_the_arena() {
    let _watchdog = watchdog!();
    let mut rng = Rng::from_env();
    let heap = of_mib(64);
    let mut blocks: Vec<(SharedVec<u8>, u8)> = Vec::new();
    for round in 0..5000_u64 {
        // As many large as small ones, by the number of their bits.
        let bits = 1 + rng.below(17);
        let size = rng.below(1 << bits) as usize;
        let mut block = heap.vec::<u8>(size).unwrap();
        assert!(block.iter().all(|&byte| byte == 0), "fresh memory is zero");
        let mark = round as u8 | 1;
        block.fill(mark);
        blocks.push((block, mark));
        if blocks.len() > 100 {
            let (block, mark) = blocks.swap_remove(rng.below(blocks.len() as u64) as usize);
            assert!(block.iter().all(|&byte| byte == mark), "nobody else wrote to it");
        }
        if round % 100 == 0 {
            assert_eq!(balance(&heap).blocks, blocks.len());
        }
    }
    drop(blocks);
    assert_empty(&heap);
}

#[test]
fn values_are_what_was_put_in_and_aligned() {
    let _watchdog = watchdog!();
    let heap = Heap::new().unwrap();
    let mut number = heap.alloc(7_u64).unwrap();
    *number += 1;
    assert_eq!(*number, 8);
    for len in [0, 1, 3, 1000, 100_000] {
        let given: Vec<u64> = (0..len).collect();
        let mut elements = heap.vec_from(&given).unwrap();
        assert_eq!(elements.as_ptr().addr() % align_of::<u64>(), 0);
        elements.reverse();
        assert!(elements.iter().rev().eq(&given));
        assert_eq!(heap.vec::<u64>(len as usize).unwrap().iter().sum::<u64>(), 0);
    }
    #[derive(Clone, Copy)]
    #[repr(C, align(256))]
    struct Wide([u8; 768]);
    // SAFETY: bytes without padding.
    unsafe impl bytemuck::Zeroable for Wide {}
    // SAFETY: as above.
    unsafe impl bytemuck::Pod for Wide {}
    let wide: Vec<_> = (0..40).map(|mark| heap.alloc(Wide([mark; 768])).unwrap()).collect();
    for (mark, wide) in wide.iter().enumerate() {
        assert_eq!(std::ptr::from_ref(&**wide).addr() % 256, 0);
        assert!(wide.0.iter().all(|&byte| usize::from(byte) == mark));
    }
    let text = heap.str("größer").unwrap();
    assert_eq!((&*text, text.len()), ("größer", 8));
    drop((number, wide, text));
    assert_empty(&heap);
}

#[test]
fn what_is_frozen_is_one_block_for_all_clones() {
    let _watchdog = watchdog!();
    let heap = of_mib(1);
    let table = heap.vec_from(&[1_u32, 2, 3]).unwrap().freeze().unwrap();
    let clones: Vec<_> = (0..10).map(|_| table.clone()).collect();
    assert!(clones.iter().all(|clone| clone.same(&table) && **clone == [1, 2, 3]));
    let stats = balance(&heap);
    assert_eq!((stats.blocks, stats.shared), (1, 1));
    drop(table);
    assert_eq!(balance(&heap).blocks, 1);
    drop(clones);
    assert_eq!(balance(&heap).blocks, 0);
    let one = heap.alloc(5_u8).unwrap().freeze().unwrap();
    assert_eq!(*one, [5]);
}

#[test]
fn threads_allocate_and_free_at_once_and_lose_nothing() {
    let _watchdog = watchdog!();
    let heap = of_mib(64);
    let barrier = Barrier::new(4);
    std::thread::scope(|scope| {
        for seed in 0..4_u64 {
            let (heap, barrier) = (&heap, &barrier);
            scope.spawn(move || {
                let mut rng = Rng::from_seed(seed);
                let mut kept = Vec::new();
                barrier.wait();
                for round in 0..5_000_u64 {
                    let mut block = heap.vec::<u64>(1 + rng.below(200) as usize).unwrap();
                    block.fill(seed << 32 | round);
                    kept.push((block, seed << 32 | round));
                    if kept.len() > 20 {
                        let (block, mark) = kept.swap_remove(rng.below(20) as usize);
                        assert!(block.iter().all(|&element| element == mark));
                    }
                }
            });
        }
    });
    assert_empty(&heap);
}

#[test]
fn large_memory_goes_back_to_the_system_when_it_is_freed() {
    let _watchdog = watchdog!();
    const MIB: u64 = 1 << 20;
    let heap = of_mib(256);
    let before = resident(&heap);
    let mut large = heap.vec::<u8>(128 << 20).unwrap();
    large.fill(1);
    assert!(resident(&heap) >= before + 128 * MIB);
    drop(large);
    assert!(resident(&heap) < before + 8 * MIB);
    // A smaller one is kept for the next, and is zero all the same.
    let mut smaller = heap.vec::<u8>(8 << 20).unwrap();
    smaller.fill(1);
    drop(smaller);
    assert!(resident(&heap) >= before + 8 * MIB);
    assert!(heap.vec::<u8>(8 << 20).unwrap().iter().all(|&byte| byte == 0));
    heap.trim().unwrap();
    assert!(resident(&heap) < before + 2 * MIB);
    assert_empty(&heap);
}

#[test]
fn a_heap_costs_two_descriptors_and_a_map_and_leaves_nothing() {
    isolated!({
        let before = Census::take();
        let heap = Heap::new().unwrap();
        let boxes: Vec<_> = (0..1000_u64).map(|number| heap.alloc(number).unwrap()).collect();
        let slices: Vec<_> =
            (0..100_u64).map(|number| heap.vec_from(&[number; 10]).unwrap().freeze().unwrap()).collect();
        let during = Census::take();
        // The segment and the membership.
        assert_eq!(during.descriptors().len(), before.descriptors().len() + 2);
        let ours = |census: &Census| {
            let maps = census.shared_mappings().iter();
            maps.filter(|(name, _)| name.contains("procession:heap")).map(|(_, count)| count).sum::<usize>()
        };
        assert_eq!((ours(&before), ours(&during)), (0, 1));
        // The handles keep the heap.
        drop(heap);
        assert_eq!((*boxes[999], slices[99][9]), (999, 99));
        drop((boxes, slices));
        before.assert_settles(BOUND);
    });
}

#[test]
fn a_full_heap_says_so_and_has_room_again_after_a_free() {
    let _watchdog = watchdog!();
    let heap = of_mib(1);
    let mut blocks = Vec::new();
    let error = loop {
        match heap.vec::<u8>(60_000) {
            Ok(block) => blocks.push(block),
            Err(error) => break error,
        }
    };
    assert_eq!(blocks.len(), 16);
    assert!(error.is_full());
    assert!(error.to_string().contains("its cap of 1048576 bytes leaves no room"), "{error}");
    assert!(heap.alloc(1_u8).unwrap_err().is_full());
    assert!(heap.vec::<u64>(usize::MAX).unwrap_err().is_full());
    blocks.swap_remove(7);
    assert!(heap.vec::<u8>(65_537).unwrap_err().is_full(), "two spans, of which one is free");
    let small: Vec<_> = (0..100).map(|number| heap.alloc(number).unwrap()).collect();
    drop((blocks, small));
    // No fragments: one block as large as the heap.
    assert_eq!(heap.vec::<u8>((1 << 20) - (64 << 10)).unwrap().len(), (1 << 20) - (64 << 10));
}

#[test]
fn an_alignment_that_cannot_be_is_refused() {
    #[derive(Clone, Copy)]
    #[repr(C, align(8192))]
    struct TooWide([u8; 8192]);
    // SAFETY: bytes without padding.
    unsafe impl bytemuck::Zeroable for TooWide {}
    // SAFETY: as above.
    unsafe impl bytemuck::Pod for TooWide {}
    let _watchdog = watchdog!();
    let heap = of_mib(1);
    let error = heap.vec::<TooWide>(1).unwrap_err().to_string();
    assert!(error.contains("alignment of 8192 bytes is more than 4096"), "{error}");
}
