//! When the kernel refuses: each system call of the main calls fails once, and each outcome is a success or an error; the next
//! try succeeds, and nothing is left of either.

use procession_shm::{Heap, Item, Kind, Segment, ShareableList, SharedMemory, signature};
use procession_testkit::{faults::tried, isolated};

#[test]
fn a_segment_is_made_or_refused() {
    isolated!({
        tried(|| {
            let segment = Segment::anonymous(Kind::new("faults", 7, signature(&[1])), 1 << 16)?;
            segment.reserve(0..1 << 12)?;
            Ok(())
        });
    });
}

#[test]
fn a_heap_gives_memory_or_refuses() {
    isolated!({
        tried(|| {
            let heap = Heap::new()?;
            let block = heap.vec_from(&[7_u8; 5000])?;
            assert_eq!(block.len(), 5000);
            Ok(())
        });
    });
}

#[test]
fn named_memory_is_made_and_attached_or_refused() {
    isolated!({
        tried(|| {
            let memory = SharedMemory::create(100)?;
            let other = SharedMemory::open(memory.name())?;
            other.set(4, 7_u32)?;
            assert_eq!(memory.get::<u32>(4)?, 7);
            Ok(())
        });
    });
}

#[test]
fn a_list_is_made_or_refused() {
    isolated!({
        tried(|| {
            let list = ShareableList::create([Item::from(1), "two".into()])?;
            assert_eq!(list.len(), 2);
            Ok(())
        });
    });
}
