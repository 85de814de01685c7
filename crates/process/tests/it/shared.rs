//! Named segments, lists and heaps in children under each start method, and in threads: CPython's tests of them.

use crate::support::{BOUND, LIMIT, each_method};
use procession_process::{Process, StartMethod};
use procession_shm::{Heap, Item, ShareableList, SharedMemory, SharedMemoryManager, SharedVec};
use procession_testkit::{storm::Rng, test_name, wait::eventually};
use std::path::Path;

each_method! {
    a_segment_has_its_basics_in_a_child,
    a_list_has_its_basics_in_a_child,
    a_managers_segments_vanish_in_a_child,
    handles_travel_and_say_so_where_what_they_name_is_gone,
    free_and_used_blocks_are_the_arena_in_a_child,
}

#[test]
fn what_children_do_a_thread_does() {
    let _watchdog = procession_testkit::watchdog(test_name!(), LIMIT);
    let heap = Heap::new().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            segment_basics(());
            list_basics(());
            manager_basics(());
            heap_blocks(heap.clone());
        });
    });
    assert_eq!(blocks_of(&heap), 0);
}

fn run(method: StartMethod, body: fn(())) {
    Process::builder().start_method(method).spawn(body, ()).unwrap().join().unwrap();
}

fn exists(name: &str) -> bool {
    Path::new("/dev/shm").join(name).exists()
}

/// As `test_shared_memory_basics`, `test_shared_memory_recreate`, `test_invalid_shared_memory_cration` and
/// `test_shared_memory_name_with_embedded_null`.
fn segment_basics((): ()) {
    let shm = SharedMemory::create(512).unwrap();
    assert!((shm.len(), shm.name().starts_with("psm_"), shm.is_owner()) == (512, true, true));
    shm.set(0, 42_u8).unwrap();
    let again = SharedMemory::open(shm.name()).unwrap();
    assert_eq!((again.get::<u8>(0).unwrap(), again.len(), again.is_owner()), (42, 512, false));
    again.set(1, 4_u8).unwrap();
    drop(again);
    assert_eq!(shm.get::<u8>(1).unwrap(), 4);
    assert!(SharedMemory::create_named(shm.name(), 512).unwrap_err().is_already_exists());
    assert!(SharedMemory::create(0).is_err() && SharedMemory::create_named("a\0b", 10).is_err());
    let name = shm.name().to_owned();
    shm.unlink().unwrap();
    assert!(shm.unlink().unwrap_err().is_not_found() && !exists(&name));
    assert!(SharedMemory::open(&name).unwrap_err().is_not_found());
    assert_eq!(shm.get::<u8>(0).unwrap(), 42, "the memory lives on");
}

fn a_segment_has_its_basics_in_a_child(method: StartMethod) {
    run(method, segment_basics);
}

/// As `test_shared_memory_ShareableList_basics`.
fn list_basics((): ()) {
    let items: [Item; 6] =
        ["howdy".into(), b"HoWdY".into(), (-273.154).into(), 100.into(), Item::None, true.into()];
    let list = ShareableList::create(items.clone()).unwrap();
    assert_eq!((list.len(), list.to_vec().unwrap()), (6, items.to_vec()));
    assert!(list.get(6).is_err() && list.set(6, 0).is_err());
    list.set(3, "another").unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(list.get(3).unwrap(), "another".into());
    assert!(list.set(3, "longer than its place").is_err());
    let again = ShareableList::open(list.name()).unwrap();
    again.set(4, false).unwrap();
    assert_eq!(list.get(4).unwrap(), false.into());
    let copy = ShareableList::create(list.to_vec().unwrap()).unwrap();
    copy.set(0, "bye").unwrap();
    assert_eq!(list.get(0).unwrap(), "howdy".into());
    assert!(ShareableList::create([Item::None; 0]).unwrap().is_empty());
}

fn a_list_has_its_basics_in_a_child(method: StartMethod) {
    run(method, list_basics);
}

/// As `test_shared_memory_SharedMemoryManager_basics`.
fn manager_basics((): ()) {
    let manager = SharedMemoryManager::new();
    let names =
        [manager.create(32).unwrap().name().to_owned(), manager.list([1, 2]).unwrap().name().to_owned()];
    assert!(names.iter().all(|name| exists(name)));
    manager.shutdown();
    assert!(manager.create(32).is_err());
    let other = SharedMemoryManager::new();
    let name = other.create(32).unwrap().name().to_owned();
    drop(other);
    assert!(names.iter().chain([&name]).all(|name| !exists(name)));
}

fn a_managers_segments_vanish_in_a_child(method: StartMethod) {
    run(method, manager_basics);
}

/// As `test_shared_memory_pickle_unpickle`, `test_shared_memory_ShareableList_pickling`, and those of dead objects.
fn handles_travel_and_say_so_where_what_they_name_is_gone(method: StartMethod) {
    let shm = SharedMemory::create(64).unwrap();
    let list = ShareableList::create([0, 1]).unwrap();
    shm.write_at(0, b"parent").unwrap();
    let handles = || (shm.try_clone().unwrap(), ShareableList::open(list.name()).unwrap());
    let uses = |(shm, list): (SharedMemory, ShareableList)| {
        assert_eq!(shm.get::<[u8; 6]>(0).unwrap(), *b"parent");
        shm.write_at(0, b"child!").unwrap();
        list.set(1, 7).unwrap();
    };
    let start = |handles| Process::builder().start_method(method).spawn(uses, handles);
    start(handles()).unwrap().join().unwrap();
    assert_eq!((shm.get::<[u8; 6]>(0).unwrap(), list.get(1).unwrap()), (*b"child!", 7.into()));
    let dead = handles();
    shm.unlink().unwrap();
    list.shm().unlink().unwrap();
    let error = match start(dead) {
        Ok(child) => child.join().unwrap_err().to_string(),
        Err(error) => error.to_string(),
    };
    assert!(error.contains("psm_"), "{error}");
    assert_eq!(shm.get::<[u8; 6]>(0).unwrap(), *b"child!");
}

/// As `_TestHeap.test_heap`.
fn heap_blocks(heap: Heap) {
    let mut rng = Rng::from_env();
    let mut blocks: Vec<(SharedVec<u8>, u8)> = Vec::new();
    for round in 0..2_000_u64 {
        let bits = 1 + rng.below(14);
        let mut block = heap.vec::<u8>(rng.below(1 << bits) as usize).unwrap();
        let mark = round as u8 | 1;
        block.fill(mark);
        blocks.push((block, mark));
        if blocks.len() > 50 {
            let (block, mark) = blocks.swap_remove(rng.below(blocks.len() as u64) as usize);
            assert!(block.iter().all(|&byte| byte == mark), "nobody else wrote to it");
        }
    }
}

/// How many blocks are in use. All bytes are in use, free, or slack.
fn blocks_of(heap: &Heap) -> usize {
    let stats = heap.stats();
    assert_eq!(stats.used + stats.free + stats.slack, stats.capacity, "{stats:?}");
    stats.blocks
}

fn free_and_used_blocks_are_the_arena_in_a_child(method: StartMethod) {
    let heap = Heap::new().unwrap();
    let ours: Vec<_> = (1..=10_u8).map(|n| heap.vec::<u8>(usize::from(n) * 1_000).unwrap()).collect();
    let start = |_| Process::builder().start_method(method).spawn(heap_blocks, heap.clone()).unwrap();
    [0; 2].map(start).into_iter().for_each(|child| child.join().unwrap());
    eventually("the ended children's caches are free", BOUND, || {
        heap.sweep().unwrap();
        blocks_of(&heap) == ours.len()
    });
    drop(ours);
    assert_eq!(blocks_of(&heap), 0);
}
