//! Work on shared arrays, in place.

use procession_pool::{Pool, TaskError, task};
use procession_shm::Heap;
use procession_sync::{Array, ArrayChunk, LockError, Poison};

#[test]
fn every_element_is_worked_on_once_in_place() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::new(2).unwrap();
    let array = Array::<u64>::new(10_001).unwrap();
    for (len, round) in [(1000, 1), (7, 2), (10_001, 3), (usize::MAX, 4)] {
        pool.for_each_chunk(&array, len, |mut chunk| chunk.iter_mut().for_each(|n| *n += 1)).unwrap();
        assert!(array.to_vec().unwrap().iter().all(|n| *n == round), "chunks of {len}");
    }
    let sums = pool.map_slices(&array, 100, |chunk| (chunk.start(), chunk.iter().sum::<u64>())).unwrap();
    assert_eq!(sums.len(), 101);
    for (index, sum) in sums.into_iter().enumerate() {
        assert_eq!(sum, (index * 100, if index < 100 { 400 } else { 4 }));
    }
}

#[test]
fn a_function_on_chunks_may_capture_data() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::new(2).unwrap();
    let (array, factor) = (Array::<u32>::new(1000).unwrap(), 3_u32);
    let fill = task!(
        move |mut chunk: ArrayChunk<u32>| {
            let start = chunk.start() as u32;
            chunk.iter_mut().zip(start..).for_each(|(place, n)| *place = n * factor);
            start
        };
        factor
    );
    assert_eq!(pool.par_chunks_mut(&array, 300).map_with(&fill).unwrap(), [0, 300, 600, 900]);
    assert!(array.to_vec().unwrap().into_iter().eq((0..1000).map(|n| n * 3)));
}

#[test]
fn an_array_without_elements_has_no_chunks_and_chunks_have_elements() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::new(1).unwrap();
    let array = Array::<u8>::new(5).unwrap();
    assert!(
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| pool.par_chunks_mut(&array, 0))).is_err()
    );
    let Ok(none) = Array::<u8>::new(0) else { return };
    assert_eq!(pool.map_slices(&none, 3, |chunk| chunk.len()).unwrap(), [0; 0]);
}

#[test]
fn what_somebody_else_has_is_an_error_of_its_chunk_alone() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::new(2).unwrap();
    let array = Array::<u32>::new(100).unwrap();
    let part = array.part(25..26).unwrap();
    let results = pool.par_chunks_mut(&array, 10).tasks(|mut chunk| chunk.fill(1)).collect_results();
    drop(part);
    for (index, result) in results.into_iter().enumerate() {
        match result {
            Ok(()) => assert_ne!(index, 2),
            Err(TaskError::Failed(error)) => assert_eq!(index, 2, "{error}"),
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(array.to_vec().unwrap().into_iter().sum::<u32>(), 90);
}

#[test]
fn a_worker_that_dies_on_a_chunk_costs_that_one_and_the_array_says_so() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::new(2).unwrap();
    let array = Array::<u32>::new(100).unwrap();
    let results = pool.par_chunks_mut(&array, 10).tasks(|mut chunk| {
        chunk.fill(1);
        if chunk.start() == 50 {
            std::process::abort();
        }
    });
    let results = results.chunk_size(1).collect_results();
    let failed = results.iter().filter(|result| result.is_err()).count();
    assert!(failed == 1 && matches!(&results[5], Err(TaskError::Died(_))), "{results:?}");
    assert!(matches!(array.to_vec(), Err(LockError::Poisoned(_))));
    assert!(
        array.poison().is_some_and(|poison| matches!(poison, Poison::Died { .. })),
        "{:?}",
        array.poison()
    );
    array.clear_poison();
    // The elements are free again.
    pool.for_each_chunk(&array, 10, |mut chunk| chunk.fill(2)).unwrap();
    assert_eq!(array.to_vec().unwrap(), [2; 100]);
}

#[test]
fn frozen_elements_are_read_in_place_by_all_workers() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::new(2).unwrap();
    let heap = Heap::new().unwrap();
    let numbers: Vec<u64> = (0..100_000).collect();
    let slice = heap.vec_from(&numbers).unwrap().freeze().unwrap();
    for _ in 0..2 {
        let sums =
            pool.map_slices(&slice, 30_000, |chunk| (chunk.range(), chunk.iter().sum::<u64>())).unwrap();
        assert_eq!(sums.len(), 4);
        for (range, sum) in sums {
            assert_eq!(sum, numbers[range].iter().sum::<u64>());
        }
    }
    // As captured data of any task as well.
    let table = slice.clone();
    let at = task!(move |n: usize| table[n]; table);
    assert_eq!(pool.map_with(&at, [5, 99_999]).unwrap(), [5, 99_999]);
    pool.join();
    drop((slice, at));
    heap.sweep().unwrap();
    assert_eq!(heap.stats().blocks, 0, "{:?}", heap.stats());
}

#[test]
fn workers_keep_the_elements_mapped_as_long_as_their_chunks_are_there() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::new(1).unwrap();
    let array = Array::<u64>::new(10_000).unwrap();
    let mappings = || {
        let count = |()| {
            let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
            maps.lines().filter(|line| line.contains("memfd:")).count()
        };
        // What is not held any more is forgotten with the next task.
        [(); 3].map(|()| pool.apply(count, ()).unwrap())[2]
    };
    let before = mappings();
    let chunks = pool.par_chunks_mut(&array, 1000);
    for round in 0..3 {
        chunks.for_each(|mut chunk| chunk.iter_mut().for_each(|n| *n += 1)).unwrap();
        assert_eq!(mappings(), before + 1, "in round {round}");
    }
    // Another function, of the same and of another type.
    chunks.for_each(|mut chunk| chunk.iter_mut().for_each(|n| *n *= 2)).unwrap();
    assert_eq!(chunks.map(|chunk| chunk.iter().sum::<u64>()).unwrap(), [6000; 10]);
    assert_eq!(chunks.map(|chunk| chunk[0]).unwrap(), [6; 10]);
    assert_eq!(mappings(), before + 1);
    drop(chunks);
    assert_eq!(mappings(), before);
    assert_eq!(array.to_vec().unwrap(), [6; 10_000]);
}
