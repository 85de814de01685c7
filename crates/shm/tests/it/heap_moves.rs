//! The way of blocks through parcels, and between processes.

use crate::heap_support::{BOUND, assert_empty, balance, give, of_mib, start, take};
use procession_parcel::{Parcel, wire};
use procession_shm::{Heap, SharedBox, SharedSlice, SharedStr, SharedVec};
use procession_testkit::{Census, isolated, role, wait::eventually, watchdog};
use std::{os::unix::net::UnixStream, panic::AssertUnwindSafe};

fn panics(body: impl FnOnce()) -> String {
    let panic = std::panic::catch_unwind(AssertUnwindSafe(body)).unwrap_err();
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap()
}

#[test]
fn role_worker() {
    let Some(mut role) = role::enter(role_worker) else { return };
    let socket = UnixStream::from(role.fd());
    let mut first = None;
    loop {
        match role.hear().as_str() {
            "double" => {
                let mut block: SharedVec<u64> = take(&socket);
                first.get_or_insert(block.as_ptr().addr());
                block.iter_mut().for_each(|element| *element *= 2);
                give(&socket, &block.moved());
            }
            "allocate" => {
                let heap: Heap = take(&socket);
                give(&socket, &heap.vec_from(&[5_u8; 100_000]).unwrap());
                give(&socket, &heap.str("from the worker").unwrap());
                give(&socket, &heap.alloc(77_u32).unwrap());
            }
            "hold" => {
                let held: Vec<SharedSlice<u64>> = take(&socket);
                role.say(&held.iter().map(|slice| slice.iter().sum::<u64>()).sum::<u64>().to_string());
                role.hear();
                drop(held);
                role.say("dropped");
            }
            "keep" => {
                let kept: (SharedVec<u64>, SharedSlice<u64>, SharedStr) = take(&socket);
                role.say("kept");
                role.hear();
                drop(kept);
            }
            _ => return,
        }
        role.say("done");
    }
}

#[test]
fn a_block_goes_there_and_back_without_a_copy() {
    let _watchdog = watchdog!();
    let heap = of_mib(256);
    let (mut worker, socket) = start(role_worker);
    for len in [1, 1000, 1 << 20] {
        let mut block = heap.vec::<u64>(len).unwrap();
        block.fill(21);
        let place = block.as_mut_ptr().cast_const();
        let parcel = Parcel::pack(&block).unwrap();
        assert!(parcel.bytes().len() < 64 && parcel.fds().len() == 1, "{parcel:?}");
        wire::send(&socket, &parcel, None).unwrap();
        drop(parcel);
        assert!(!block.is_here());
        worker.say("double");
        let back: SharedVec<u64> = take(&socket);
        worker.expect("done");
        assert_eq!(back.as_ptr(), place, "the very same memory");
        assert!(back.len() == len && back.iter().all(|&element| element == 42));
        // The empty handle frees nothing.
        drop(block);
        assert!(back.iter().all(|&element| element == 42));
    }
    assert_empty(&heap);
}

#[test]
fn another_process_allocates_and_hands_over() {
    let _watchdog = watchdog!();
    let heap = of_mib(16);
    let (mut worker, socket) = start(role_worker);
    worker.say("allocate");
    give(&socket, &heap);
    let block: SharedVec<u8> = take(&socket);
    let text: SharedStr = take(&socket);
    let number: SharedBox<u32> = take(&socket);
    worker.expect("done");
    assert!(block.iter().all(|&byte| byte == 5) && block.len() == 100_000);
    assert_eq!((&*text, *number), ("from the worker", 77));
    worker.kill();
    // They are ours: the death of who made them changes nothing.
    heap.sweep().unwrap();
    assert_eq!(balance(&heap).blocks, 3);
    assert_eq!((&*text, *number, block[99_999]), ("from the worker", 77, 5));
    drop((block, text, number));
    assert_empty(&heap);
}

#[test]
fn a_second_pack_fails_and_so_does_an_access() {
    let _watchdog = watchdog!();
    let heap = of_mib(1);
    let mut value = heap.alloc(1_u64).unwrap();
    let parcel = Parcel::pack(&value).unwrap();
    let error = Parcel::pack(&value).unwrap_err().to_string();
    assert!(error.contains("only once, and has been packed already"), "{error}");
    assert!(!value.is_here());
    assert!(panics(|| _ = *value).contains("was sent to another process"));
    assert!(panics(|| *value = 2).contains("was sent to another process"));
    let arrived: SharedBox<u64> = parcel.unpack().unwrap();
    assert_eq!(*arrived, 1);
    let error = value.freeze().unwrap_err().to_string();
    assert!(error.contains("was sent to another process"), "{error}");
    drop(arrived);
    assert_empty(&heap);
}

#[test]
fn a_reference_that_may_be_in_use_keeps_a_block_here() {
    let _watchdog = watchdog!();
    let heap = of_mib(1);
    let mut value = heap.alloc(1_u64).unwrap();
    assert_eq!(*value, 1);
    let error = Parcel::pack(&value).unwrap_err().to_string();
    assert!(error.contains("may still be in use: pass `value.moved()`"), "{error}");
    // A mutable access shows that no other reference is left.
    *value = 2;
    drop(Parcel::pack(&value).unwrap());
    assert_eq!(*value, 2);
    let value = value.moved();
    let arrived: SharedBox<u64> = Parcel::pack(&value).unwrap().unpack().unwrap();
    assert_eq!(*arrived, 2);
}

#[test]
fn an_undelivered_parcel_gives_the_block_back_unless_a_copy_was_faster() {
    let _watchdog = watchdog!();
    let heap = of_mib(1);
    let mut value = heap.alloc(1_u64).unwrap();
    for round in 0..3 {
        let parcel = Parcel::pack(&value).unwrap();
        assert!(!value.is_here());
        drop(parcel);
        assert!(value.is_here());
        *value += round;
    }
    assert_eq!(*value, 4);
    // A pack that fails behind the block leaves it here.
    let value = value.moved();
    let unpackable = serde_fails::Fails;
    assert!(Parcel::pack(&(&value, unpackable)).is_err());
    assert_eq!((*value, balance(&heap).in_transit), (4, 0));
    let value = value.moved();
    let parcel = Parcel::pack(&value).unwrap();
    let copy = parcel.try_clone().unwrap();
    let arrived: SharedBox<u64> = copy.unpack().unwrap();
    let error = parcel.unpack::<SharedBox<u64>>().unwrap_err().to_string();
    assert!(error.contains("another copy of the parcel brought it"), "{error}");
    assert!(!value.is_here());
    drop(value);
    assert_eq!(*arrived, 4);
    drop(arrived);
    assert_empty(&heap);
}

mod serde_fails {
    pub(crate) struct Fails;
    impl serde::Serialize for Fails {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("on purpose"))
        }
    }
}

#[test]
fn a_parcel_that_is_lost_frees_its_block() {
    let _watchdog = watchdog!();
    let heap = of_mib(1);
    let (near, far) = UnixStream::pair().unwrap();
    give(&near, &heap.alloc(1_u64).unwrap());
    give(&near, &heap.vec::<u8>(100_000).unwrap());
    give(&near, &heap.str("lost").unwrap());
    heap.sweep().unwrap();
    let stats = balance(&heap);
    assert_eq!((stats.blocks, stats.in_transit), (3, 2), "alive in the socket's queue: {stats:?}");
    drop((near, far));
    assert_empty(&heap);
    // Parts that nobody puts together again.
    let value = heap.alloc(1_u64).unwrap();
    drop(Parcel::pack(&value).unwrap().into_parts());
    drop(value);
    assert_empty(&heap);
}

#[test]
fn shared_blocks_have_many_holders_and_die_with_the_last() {
    let _watchdog = watchdog!();
    let heap = of_mib(16);
    let tables: Vec<SharedSlice<u64>> =
        (1..=10).map(|len| heap.vec_from(&vec![1; len * 1000]).unwrap().freeze().unwrap()).collect();
    let mut workers: Vec<_> = (0..3).map(|_| start(role_worker)).collect();
    for (worker, socket) in &mut workers {
        worker.say("hold");
        give(&*socket, &tables);
        worker.expect("55000");
    }
    drop(tables);
    let held = || {
        heap.sweep().unwrap();
        balance(&heap).shared
    };
    assert_eq!(held(), 10);
    // One lets go, one dies.
    workers[0].0.say("drop");
    workers[0].0.expect("dropped");
    assert_eq!(held(), 10);
    workers[1].0.kill();
    assert_eq!(held(), 10);
    workers[2].0.say("drop");
    workers[2].0.expect("dropped");
    assert_empty(&heap);
}

#[test]
fn copies_of_a_parcel_all_bring_a_shared_block_to_one_place() {
    isolated!({
        let heap = of_mib(1);
        let text = heap.str("for all").unwrap();
        let parcel = Parcel::pack(&text).unwrap();
        let copies: Vec<Parcel> = (0..50).map(|_| parcel.try_clone().unwrap()).collect();
        let texts: Vec<SharedStr> = copies.into_iter().map(|copy| copy.unpack().unwrap()).collect();
        drop((text, parcel));
        assert!(texts.iter().all(|text| &**text == "for all" && text.as_ptr() == texts[0].as_ptr()));
        drop(texts);
        assert_eq!(balance(&heap).blocks, 0, "without a sweep");
        // Many parcels, one after the other, do not pile up.
        let text = heap.str("again").unwrap();
        for _ in 0..2_000 {
            let other: SharedStr = Parcel::pack(&text).unwrap().unpack().unwrap();
            assert_eq!(&*other, "again");
        }
        drop(text);
        assert_empty(&heap);
    });
}

#[test]
fn as_many_holders_as_there_can_be_are_an_error_and_a_loss_makes_room() {
    isolated!({
        let heap = of_mib(1);
        let text = heap.str("popular").unwrap();
        let mut parts = Vec::new();
        let error = loop {
            match Parcel::pack(&text) {
                Ok(parcel) => parts.push(parcel.into_parts()),
                Err(error) => break error.to_string(),
            }
        };
        let expected = ["1024 processes and parcels hold it, which is all that can", "no descriptor is left"];
        assert!(expected.iter().any(|text| error.contains(text)), "{error}");
        parts.truncate(100);
        let other: SharedStr = Parcel::pack(&text).unwrap().unpack().unwrap();
        assert_eq!(&*other, "popular");
        drop((text, other, parts));
        assert_empty(&heap);
    });
}

#[test]
fn the_dead_give_back_what_they_owned_and_held() {
    let _watchdog = watchdog!();
    let heap = of_mib(16);
    let (mut worker, socket) = start(role_worker);
    let mine = heap.vec_from(&[1_u64; 10]).unwrap().freeze().unwrap();
    worker.say("keep");
    give(&socket, &(heap.vec::<u64>(50_000).unwrap(), &mine, heap.str("kept").unwrap()));
    worker.expect("kept");
    heap.sweep().unwrap();
    assert_eq!(balance(&heap).blocks, 3);
    worker.kill();
    eventually("what it had is free", BOUND, || {
        heap.sweep().unwrap();
        balance(&heap).blocks == 1
    });
    assert_eq!(*mine, [1; 10]);
    drop(mine);
    assert_empty(&heap);
}

#[test]
fn pressure_sweeps_by_itself() {
    isolated!({
        let heap = of_mib(2);
        let (near, far) = UnixStream::pair().unwrap();
        give(&near, &heap.vec::<u8>(2 << 20).unwrap());
        assert!(heap.alloc(1_u8).unwrap_err().is_full());
        drop((near, far));
        assert_eq!(heap.vec::<u8>(1 << 20).unwrap().len(), 1 << 20);
    });
}

#[test]
fn a_forked_copy_of_the_process_has_the_values_but_not_the_blocks() {
    isolated!({
        let heap = of_mib(16);
        let mut value = heap.alloc(1_u64).unwrap();
        let text = heap.str("parent's").unwrap();
        let parcel = Parcel::pack(&heap.vec_from(&[9_u8; 10]).unwrap()).unwrap();
        procession_testkit::isolated::forked(|| {
            assert!(panics(|| _ = *value).contains("forked from"));
            assert!(panics(|| _ = text.len()).contains("forked from"));
            assert!(Parcel::pack(&value).is_err() && Parcel::pack(&text).is_err() && !value.is_here());
            // It is a process of its own in the heap, and may take what a parcel brings.
            let own = heap.vec_from(&[3_u8; 1000]).unwrap();
            assert!(own.iter().all(|&byte| byte == 3));
            let taken: SharedVec<u8> = parcel.try_clone().unwrap().unpack().unwrap();
            assert_eq!(*taken, [9; 10]);
            drop((own, taken));
        });
        *value += 1;
        assert_eq!((*value, &*text), (2, "parent's"));
        assert!(parcel.unpack::<SharedVec<u8>>().is_err(), "the child was faster");
        drop((value, text));
        assert_empty(&heap);
    });
}

#[test]
fn hand_over_leaves_no_descriptor_behind() {
    isolated!({
        let heap = of_mib(16);
        let warm = heap.alloc(1_u8).unwrap();
        let before = Census::take();
        let texts: Vec<SharedStr> = (0..20).map(|number| heap.str(&number.to_string()).unwrap()).collect();
        for round in 0..50_u64 {
            let value: SharedBox<u64> = Parcel::pack(&heap.alloc(round).unwrap()).unwrap().unpack().unwrap();
            assert_eq!(*value, round);
            let copies: Vec<SharedStr> = Parcel::pack(&texts).unwrap().unpack().unwrap();
            assert_eq!(&*copies[19], "19");
            let gone: SharedBox<u64> = Parcel::pack(&value.moved()).unwrap().unpack().unwrap();
            drop(Parcel::pack(&gone).unwrap());
        }
        before.assert_settles(BOUND);
        drop((texts, warm));
        assert_empty(&heap);
    });
}
