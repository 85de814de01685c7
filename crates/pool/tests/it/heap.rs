//! Blocks of a shared heap in arguments and results.

use crate::support::{each_method, wait_until};
use procession_pool::{Pool, TaskError, Work, worker_heap};
use procession_process::StartMethod;
use procession_shm::{Heap, SharedBox, SharedSlice, SharedStr, SharedVec};
use procession_testkit::test_watchdog;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::time::Duration;

/// Some of everything, at some depth: four blocks.
#[derive(Serialize, Deserialize, Debug)]
pub(crate) struct Frame {
    pub(crate) number: u64,
    pub(crate) pixels: Option<SharedVec<u32>>,
    pub(crate) size: Box<SharedBox<[u64; 2]>>,
    pub(crate) names: Vec<SharedStr>,
    pub(crate) table: SharedSlice<u16>,
}

const PIXELS: usize = 100_000;

pub(crate) fn frame(heap: &Heap, number: u64) -> Frame {
    Frame {
        number,
        pixels: Some(heap.vec::<u32>(PIXELS).unwrap()),
        size: Box::new(heap.alloc([number, 0]).unwrap()),
        names: vec![heap.str("a name").unwrap()],
        table: heap.vec_from(&[1_u16, 2, 3]).unwrap().freeze().unwrap(),
    }
}

/// Changes it in place, and gives it back.
pub(crate) fn develop(mut frame: Frame) -> Frame {
    assert_eq!((&*frame.names[0], &frame.table[..]), ("a name", &[1, 2, 3][..]));
    let number = frame.number;
    frame.pixels.as_mut().unwrap().fill(number as u32);
    frame.size[1] = number * 2;
    frame
}

#[track_caller]
pub(crate) fn check(frame: &Frame, number: u64) {
    assert_eq!((frame.number, **frame.size), (number, [number, number * 2]));
    let pixels = frame.pixels.as_ref().unwrap();
    assert_eq!((pixels.len(), pixels[0], pixels[PIXELS - 1]), (PIXELS, number as u32, number as u32));
    assert_eq!((&*frame.names[0], &frame.table[..]), ("a name", &[1, 2, 3][..]));
}

pub(crate) fn of_mib(mib: usize) -> Heap {
    Heap::builder().cap(mib << 20).build().unwrap()
}

pub(crate) fn pool_on(heap: &Heap, workers: usize) -> Pool {
    Pool::builder().workers(workers).heap(heap).build().unwrap()
}

/// So many blocks are in use, as soon as what is under way is over. Nobody waits for that but this.
pub(crate) fn wait_for_blocks(pool: &Pool, heap: &Heap, blocks: usize) {
    wait_until(|| pool.apply(|n: u8| n, 0).unwrap() == 0 && heap.stats().blocks == blocks);
    let stats = heap.stats();
    assert_eq!(stats.used + stats.free + stats.slack, stats.capacity, "{stats:?}");
}

each_method!(blocks_go_out_and_come_back_by_reference, a_worker_allocates_what_it_returns);

fn blocks_go_out_and_come_back_by_reference(method: StartMethod) {
    let heap = of_mib(64);
    let pool = Pool::builder().workers(2).start_method(method).heap(&heap).build().unwrap();
    let (before, kept) = (heap.stats(), frame(&heap, 0));
    for (number, frame) in pool.map(develop, (0..20).map(|n| frame(&heap, n))).unwrap().iter().enumerate() {
        check(frame, number as u64);
    }
    check(&pool.apply(develop, frame(&heap, 7)).unwrap(), 7);
    check(&pool.submit(develop, frame(&heap, 8)).unwrap().get().unwrap(), 8);
    let frames = pool.map_async(develop, (0..4).map(|n| frame(&heap, n))).unwrap().get().unwrap();
    frames.iter().enumerate().for_each(|(n, frame)| check(frame, n as u64));
    for frame in pool.imap_unordered(develop, (0..20).map(|n| frame(&heap, n))) {
        let frame = frame.unwrap();
        check(&frame, frame.number);
    }
    drop((frames, kept));
    wait_for_blocks(&pool, &heap, before.blocks);
    // Plain items go as ever.
    assert_eq!(pool.map(|n: u64| n + 1, 0..1000).unwrap(), (1..1001).collect::<Vec<_>>());
    pool.join();
    assert_eq!(heap.stats(), before);
}

fn a_worker_allocates_what_it_returns(method: StartMethod) {
    let heap = of_mib(64);
    let pool = Pool::builder().workers(2).start_method(method).heap(&heap).build().unwrap();
    let make = |n: usize| worker_heap().unwrap().vec_from(&vec![n as u64; n]).unwrap();
    for (n, made) in pool.map(make, 0..50).unwrap().into_iter().enumerate() {
        assert_eq!(&made[..], vec![n as u64; n]);
    }
    wait_for_blocks(&pool, &heap, 0);
    assert!(worker_heap().is_none());
    drop(pool);
    let pool = Pool::new(1);
    // Under `fork` there is only one pool.
    if let Ok(pool) = pool {
        assert!(pool.apply(|()| worker_heap().is_none(), ()).unwrap());
    }
}

#[test]
fn the_same_memory_serves_both_sides() {
    let _watchdog = test_watchdog();
    let heap = Heap::builder().cap(1 << 20).build().unwrap();
    let pool = pool_on(&heap, 1);
    // More than half of the heap: a copy would find no room in it.
    let mut numbers = heap.vec::<u8>(600 << 10).unwrap();
    for turn in 0..20_u8 {
        numbers = pool
            .apply(
                |mut numbers: SharedVec<u8>| {
                    numbers.iter_mut().for_each(|n| *n += 1);
                    numbers
                },
                numbers.moved(),
            )
            .unwrap();
        assert!(numbers.iter().all(|n| *n == turn + 1));
    }
}

#[test]
fn one_block_goes_to_all_workers_and_stays_here() {
    let _watchdog = test_watchdog();
    let heap = of_mib(16);
    let pool = pool_on(&heap, 3);
    let table = heap.vec_from(&(0..10_000_u64).collect::<Vec<_>>()).unwrap().freeze().unwrap();
    let sum = |(table, n): (SharedSlice<u64>, usize)| (table[n], table);
    for (n, (found, same)) in
        pool.map(sum, (0..500).map(|n| (table.clone(), n))).unwrap().into_iter().enumerate()
    {
        assert!(found == n as u64 && same.same(&table));
    }
    assert_eq!((heap.stats().blocks, table[77]), (1, 77));
    drop(table);
    wait_for_blocks(&pool, &heap, 0);
}

#[test]
fn a_block_is_refused_by_a_pool_without_its_heap_and_stays_where_it_is() {
    let _watchdog = test_watchdog();
    let (heap, other) = (of_mib(4), of_mib(4));
    let length = |block: SharedVec<u8>| block.len();
    for (pool, expected) in [
        (Pool::new(1).unwrap(), "descriptor"),
        (pool_on(&other, 1), "another heap"),
        (Pool::threads(1).unwrap(), "descriptor"),
        (Pool::simulated(1), "descriptor"),
    ] {
        let block = heap.vec::<u8>(10).unwrap();
        let work = Work::function(length);
        let error = pool.submit_work(&work, &block).unwrap_err();
        assert!(matches!(&error, TaskError::BadArguments(why) if why.contains(expected)), "{error}");
        assert!(block.is_here());
        let error = pool.apply(length, block).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert!(pool.map(length, [heap.vec::<u8>(1).unwrap()]).is_err());
        assert_eq!(pool.apply(|n: u32| n, 1).unwrap(), 1);
    }
    let pool = pool_on(&heap, 1);
    // What was refused is free, or can be sent elsewhere.
    assert_eq!(pool.apply(length, heap.vec::<u8>(10).unwrap()).unwrap(), 10);
    wait_for_blocks(&pool, &heap, 0);
    let error = pool.apply(length, {
        let block = heap.vec::<u8>(10).unwrap();
        assert_eq!(block[0], 0);
        block
    });
    assert!(error.unwrap_err().to_string().contains("moved()"));
    // A block of a heap that a worker made itself.
    let foreign = pool.apply(|()| Heap::new().unwrap().alloc(7_u8).unwrap(), ()).unwrap_err();
    assert!(matches!(&foreign, TaskError::BadResult(why) if why.contains("another heap")), "{foreign}");
    wait_for_blocks(&pool, &heap, 0);
}

#[test]
fn what_nobody_asks_for_is_freed() {
    let _watchdog = test_watchdog();
    let heap = of_mib(64);
    let pool = pool_on(&heap, 2);
    // An iterator that is dropped in the middle; items are waiting, in lanes, running, and done.
    let mut results = pool.imap(develop, (0..).map(|n| frame(&heap, n))).take(3);
    check(&results.next().unwrap().unwrap(), 0);
    drop(results);
    wait_for_blocks(&pool, &heap, 0);
    // A handle, before and after the result is there.
    drop(pool.submit(develop, frame(&heap, 1)).unwrap());
    let task = pool.submit(develop, frame(&heap, 1)).unwrap();
    task.wait();
    drop(task);
    drop(pool.map_async(develop, (0..50).map(|n| frame(&heap, n))).unwrap());
    let task = pool.map_async(develop, (0..50).map(|n| frame(&heap, n))).unwrap();
    task.cancel();
    let _ = task.get();
    pool.submit(develop, frame(&heap, 1)).unwrap().detach();
    wait_for_blocks(&pool, &heap, 0);
    // An error among the results.
    let odd = |frame: Frame| {
        assert_eq!(frame.number % 2, 0);
        frame
    };
    assert!(pool.map(odd, (0..20).map(|n| frame(&heap, n))).is_err());
    assert!(pool.tasks(odd, (0..20).map(|n| frame(&heap, n))).try_collect().is_err());
    let task = pool.map_async(odd, (0..20).map(|n| frame(&heap, n))).unwrap();
    assert!(task.get().is_err());
    wait_for_blocks(&pool, &heap, 0);
    // A call that is cut short.
    let slow = |frame: Frame| {
        std::thread::sleep(Duration::from_millis(20));
        frame
    };
    let results = pool.tasks(slow, (0..50).map(|n| frame(&heap, n))).timeout(Duration::from_millis(50));
    assert!(results.collect().is_err());
    wait_for_blocks(&pool, &heap, 0);
    // A pool that ends with everything under way, while a result is held undecoded.
    let mut held = pool.imap(develop, (0..100).map(|n| frame(&heap, n)));
    check(&held.next().unwrap().unwrap(), 0);
    drop(pool.map_async(slow, (0..50).map(|n| frame(&heap, n))));
    drop(pool);
    drop(held);
    assert_eq!(heap.stats().blocks, 0);
}

#[test]
fn what_a_result_brings_along_is_there_after_its_pool_has_ended() {
    let _watchdog = test_watchdog();
    let heap = of_mib(64);
    let pool = pool_on(&heap, 2);
    let task = pool.submit(develop, frame(&heap, 5)).unwrap();
    task.wait();
    drop(pool);
    check(&task.get().unwrap(), 5);
    assert_eq!(heap.stats().blocks, 0);
}

#[test]
fn an_item_that_moved_its_blocks_is_not_tried_again_and_one_that_shares_them_is() {
    let _watchdog = test_watchdog();
    let heap = of_mib(64);
    let pool = Pool::builder().workers(1).heap(&heap).retry(5).build().unwrap();
    let counter = heap.alloc([0_u8; 16]).unwrap();
    drop(counter);
    for die in [true, false] {
        let moved = |(frame, die): (Frame, bool)| -> Frame {
            if die { crate::support::die_by(9) } else { panic!("no {}", frame.number) }
        };
        let error = pool.apply(moved, (frame(&heap, 3), die)).map(drop).unwrap_err();
        match error {
            TaskError::Died(died) if die => assert_eq!(died.attempt, 1, "{died}"),
            TaskError::Panicked(panic) if !die => assert!(panic.to_string().contains("no 3"), "{panic}"),
            other => panic!("{other}"),
        }
        wait_for_blocks(&pool, &heap, 0);
        // The third try succeeds.
        let notes = crate::support::Notebook::new();
        let shared = |(table, path, die): (SharedSlice<u16>, String, bool)| {
            crate::support::note(&path, 1);
            let tries = std::fs::metadata(&path).unwrap().len() / 8;
            match (tries, die) {
                (3.., _) => table,
                (_, true) => crate::support::die_by(9),
                (_, false) => panic!("once more"),
            }
        };
        let table = heap.vec_from(&[1_u16, 2, 3]).unwrap().freeze().unwrap();
        let found = pool.tasks(shared, [(table, notes.path(), die)]).quarantine(0).collect().unwrap();
        assert_eq!((&found[0][..], notes.read().len()), (&[1, 2, 3][..], 3));
        drop(found);
        wait_for_blocks(&pool, &heap, 0);
    }
}

#[test]
fn items_behind_one_that_kills_its_worker_keep_their_blocks() {
    let _watchdog = test_watchdog();
    let heap = of_mib(64);
    let pool = pool_on(&heap, 1);
    let deadly = |frame: Frame| {
        if frame.number % 5 == 2 {
            crate::support::die_by(9);
        }
        develop(frame)
    };
    let results = pool.tasks(deadly, (0..20).map(|n| frame(&heap, n))).chunk_size(10).collect_results();
    for (n, result) in results.into_iter().enumerate() {
        match result {
            Ok(frame) => check(&frame, n as u64),
            Err(error) => assert!(n % 5 == 2 && matches!(error, TaskError::Died(_)), "{n}: {error}"),
        }
    }
    wait_for_blocks(&pool, &heap, 0);
}

/// A field that cannot be packed or unpacked where it says so.
#[derive(Debug)]
struct Awkward(u8);

impl Serialize for Awkward {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            1 => Err(serde::ser::Error::custom("awkward")),
            2 => panic!("awkward"),
            n => n.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Awkward {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Awkward, D::Error> {
        match u8::deserialize(deserializer)? {
            3 => Err(serde::de::Error::custom("awkward")),
            4 => panic!("awkward"),
            n => Ok(Awkward(n)),
        }
    }
}

#[test]
fn an_argument_or_result_that_cannot_cross_leaves_nothing_behind() {
    let _watchdog = test_watchdog();
    let heap = of_mib(64);
    let pool = Pool::builder().workers(1).heap(&heap).retry(1).build().unwrap();
    let behind = frame(&heap, 9);
    assert_eq!(heap.stats().blocks, 4);
    // In the caller.
    let drop_it = |_: (Frame, Awkward, Frame)| ();
    let triple = |n| (frame(&heap, 1), Awkward(n), frame(&heap, 2));
    assert!(pool.apply(drop_it, triple(1)).is_err());
    assert!(pool.map(drop_it, [triple(1)]).is_err());
    let panics = || std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| pool.apply(drop_it, triple(2))));
    assert!(panics().is_err());
    wait_for_blocks(&pool, &heap, 4);
    // In the worker, on the way in.
    for n in [3, 4] {
        let error = pool.apply(drop_it, triple(n)).unwrap_err();
        assert!(matches!(error, TaskError::BadArguments(_) | TaskError::Panicked(_)), "{error}");
        wait_for_blocks(&pool, &heap, 4);
    }
    // On the way out, and in the caller again.
    let make = |n: u8| {
        let heap = worker_heap().unwrap();
        (frame(&heap, 1), Awkward(n), frame(&heap, 2))
    };
    for n in [1, 2, 3] {
        let error = pool.apply(make, n).map(drop).unwrap_err();
        assert!(matches!(error, TaskError::BadResult(_) | TaskError::Panicked(_)), "{error}");
        assert!(pool.map(make, [n, n]).is_err());
        wait_for_blocks(&pool, &heap, 4);
    }
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| pool.apply(make, 4))).is_err());
    wait_for_blocks(&pool, &heap, 4);
    assert!(pool.apply(make, 0).is_ok());
    drop(behind);
    wait_for_blocks(&pool, &heap, 0);
}

#[test]
fn workers_that_are_killed_all_the_time_leave_nothing_behind() {
    let _watchdog = test_watchdog();
    let heap = of_mib(256);
    let pool = Pool::builder().workers(2).heap(&heap).retry(3).build().unwrap();
    let table = heap.vec_from(&[1_u16, 2, 3]).unwrap().freeze().unwrap();
    let inputs = (0..600_u64).map(|n| (frame(&heap, n), table.clone()));
    let work = |(frame, table): (Frame, SharedSlice<u16>)| (develop(frame), table);
    let (mut fine, mut died) = (0, 0);
    for (n, result) in pool.tasks(work, inputs).window(32).unordered().enumerate() {
        match result {
            Ok((frame, same)) => {
                check(&frame, frame.number);
                assert!(same.same(&table));
                fine += 1;
            }
            Err(TaskError::Died(_)) => died += 1,
            Err(other) => panic!("{other}"),
        }
        if n % 20 == 0 {
            pool.kill_worker(n / 20 % 2);
        }
    }
    println!("{fine} fine, {died} died");
    assert!(fine + died == 600 && fine > 0);
    wait_for_blocks(&pool, &heap, 1);
    drop(pool);
    drop(table);
    assert_eq!(heap.stats().blocks, 0);
}

#[test]
fn a_sandbox_and_a_heap_do_not_go_together() {
    let _watchdog = test_watchdog();
    #[cfg(feature = "sandbox")]
    {
        let heap = of_mib(4);
        let sandbox = procession_pool::Sandbox::new();
        let error = Pool::builder().workers(1).heap(&heap).sandbox(sandbox).build().unwrap_err();
        assert!(error.to_string().contains("heap") || error.to_string().contains("sandbox"), "{error}");
        assert_eq!(heap.stats().blocks, 0);
    }
}
