//! Work on the elements of a block with one owner, in place.

use crate::{heap::of_mib, support::each_method};
use procession_pool::{LentChunk, Pool, TaskError};
use procession_process::StartMethod;
use procession_testkit::test_watchdog;
use std::time::Duration;

each_method!(every_element_is_worked_on_once_in_place);

fn every_element_is_worked_on_once_in_place(method: StartMethod) {
    let heap = of_mib(16);
    let pool = Pool::builder().workers(2).start_method(method).heap(&heap).build().unwrap();
    let mut numbers = heap.vec::<u64>(10_001).unwrap();
    for (len, round) in [(1000, 1), (7, 2), (10_001, 3), (usize::MAX, 4)] {
        pool.par_chunks_lent(&mut numbers, len)
            .for_each(|mut chunk| chunk.iter_mut().for_each(|n| *n += 1))
            .unwrap();
        assert!(numbers.iter().all(|n| *n == round), "chunks of {len}");
    }
    let sums = pool
        .par_chunks_lent(&mut numbers, 100)
        .map(|chunk| (chunk.range(), chunk.iter().sum::<u64>()))
        .unwrap();
    assert_eq!(sums.len(), 101);
    for (index, (range, sum)) in sums.into_iter().enumerate() {
        assert_eq!((range.start, sum), (index * 100, range.len() as u64 * 4));
    }
    let factors = vec![3_u64, 5];
    let fill = |factors: &Vec<u64>, mut chunk: LentChunk<'_, u64>| {
        let start = chunk.start() as u64;
        chunk.iter_mut().zip(start..).for_each(|(place, n)| *place = n * factors[1]);
    };
    pool.par_chunks_lent(&mut numbers, 30).for_each_with(factors, fill).unwrap();
    assert!(numbers.iter().copied().eq((0..10_001).map(|n| n * 5)));
    // They still are one block, which goes on like any other.
    let numbers = pool.apply(|numbers: procession_shm::SharedVec<u64>| numbers, numbers.moved()).unwrap();
    assert_eq!((numbers[2], heap.stats().blocks), (10, 1));
    let mut none = heap.vec::<u64>(0).unwrap();
    assert_eq!(pool.par_chunks_lent(&mut none, 3).map(|chunk| chunk.len()).unwrap(), [0; 0]);
    drop((numbers, none));
    pool.join();
    assert_eq!(heap.stats().blocks, 0);
}

#[test]
fn a_worker_that_dies_in_a_chunk_costs_that_one_and_the_elements_come_back() {
    let _watchdog = test_watchdog();
    let heap = of_mib(16);
    let pool = Pool::builder().workers(2).heap(&heap).build().unwrap();
    let mut numbers = heap.vec::<u32>(100).unwrap();
    let deadly = |_: &(), mut chunk: LentChunk<'_, u32>| {
        chunk.fill(1);
        match chunk.start() {
            50 => std::process::abort(),
            70 => panic!("no 70"),
            _ => {}
        }
    };
    let results = pool.par_chunks_lent(&mut numbers, 10).results((), deadly).unwrap();
    for (index, result) in results.iter().enumerate() {
        match result {
            Ok(()) => assert!(index != 5 && index != 7),
            Err(TaskError::Died(_)) => assert_eq!(index, 5),
            Err(TaskError::Panicked(_)) => assert_eq!(index, 7),
            Err(other) => panic!("{index}: {other}"),
        }
    }
    assert_eq!(numbers[..], [1; 100]);
    pool.par_chunks_lent(&mut numbers, 10).for_each(|mut chunk| chunk.fill(2)).unwrap();
    assert_eq!((&numbers[..], heap.stats().blocks), (&[2; 100][..], 1));
}

#[test]
fn a_chunk_whose_worker_died_is_tried_again_where_the_pool_says_so() {
    let _watchdog = test_watchdog();
    let heap = of_mib(16);
    let pool = Pool::builder().workers(2).heap(&heap).retry(1).build().unwrap();
    let mut numbers = heap.vec::<u32>(1000).unwrap();
    let deadly = |mut chunk: LentChunk<'_, u32>| {
        let again = chunk[0] == 1;
        chunk.fill(1);
        if !again && chunk.start() % 50 == 0 {
            crate::support::die_by(9);
        }
        again
    };
    let again = pool.par_chunks_lent(&mut numbers, 10).map(deadly).unwrap();
    assert!(again.into_iter().enumerate().all(|(index, again)| again == (index % 5 == 0)));
    assert_eq!(numbers[..], [1; 1000]);
}

#[test]
fn nobody_writes_any_more_when_the_call_is_over() {
    let _watchdog = test_watchdog();
    let heap = of_mib(16);
    let deadline = Duration::from_millis(100);
    let pool = Pool::builder().workers(2).heap(&heap).task_deadline(deadline).build().unwrap();
    let mut numbers = heap.vec::<u32>(20).unwrap();
    let endless = |_: &(), mut chunk: LentChunk<'_, u32>| {
        loop {
            chunk[3] = std::hint::black_box(chunk[3].wrapping_add(1));
        }
    };
    let results: Vec<Result<(), TaskError>> =
        pool.par_chunks_lent(&mut numbers, 10).results((), endless).unwrap();
    let before = (numbers[3], numbers[13]);
    assert!(results.iter().all(|result| matches!(result, Err(TaskError::TimedOut { .. }))), "{results:?}");
    assert!(before.0 > 0 && before.1 > 0);
    for _ in 0..50 {
        std::thread::sleep(Duration::from_millis(1));
        assert_eq!(std::hint::black_box((numbers[3], numbers[13])), before);
    }
}

#[test]
fn workers_that_are_killed_all_the_time_harm_no_element() {
    let _watchdog = test_watchdog();
    let heap = of_mib(16);
    let pool = Pool::builder().workers(3).heap(&heap).retry(20).build().unwrap();
    let mut numbers = heap.vec::<u64>(3000).unwrap();
    let over = std::sync::atomic::AtomicBool::new(false);
    let ordering = std::sync::atomic::Ordering::Relaxed;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for turn in 0.. {
                if over.load(ordering) {
                    break;
                }
                pool.kill_worker(turn % 3);
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        for round in 1..=10_u64 {
            // What a dead worker has done in part is done again: the value says how often, the place whose it is.
            let work = |round: &u64, mut chunk: LentChunk<'_, u64>| {
                let start = chunk.start() as u64;
                for (place, n) in chunk.iter_mut().zip(start..) {
                    *place = n * 100 + round;
                }
            };
            pool.par_chunks_lent(&mut numbers, 10).for_each_with(round, work).unwrap();
            assert!(numbers.iter().zip(0..).all(|(found, n)| *found == n * 100 + round));
        }
        over.store(true, ordering);
    });
    assert_eq!(heap.stats().blocks, 1);
}

#[test]
fn elements_of_another_heap_are_refused_and_stay() {
    let _watchdog = test_watchdog();
    let (heap, other) = (of_mib(4), of_mib(4));
    let mut numbers = other.vec::<u32>(20).unwrap();
    for pool in [
        Pool::new(1).unwrap(),
        Pool::builder().workers(1).heap(&heap).build().unwrap(),
        Pool::threads(1).unwrap(),
        Pool::simulated(1),
    ] {
        let error = pool.par_chunks_lent(&mut numbers, 10).for_each(|mut chunk| chunk.fill(1)).unwrap_err();
        assert!(matches!(&error, TaskError::BadArguments(why) if why.contains("heap")), "{error}");
        assert_eq!(numbers[0], 0);
    }
}
