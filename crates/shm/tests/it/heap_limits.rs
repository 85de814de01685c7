//! Too little of something: a typed error, nothing left behind, and success once there is room.

use crate::heap_support::{BOUND, assert_empty, of_mib};
use procession_parcel::Parcel;
use procession_shm::{Heap, SharedBox};
use procession_testkit::{Census, isolated, limits::Surroundings};
use std::fs::File;

#[test]
fn without_descriptors_a_heap_an_allocation_and_a_pack_are_errors() {
    isolated!({
        if !Surroundings::new().nofile(40).apply_or_skip() {
            return;
        }
        let exhaust = || -> Vec<File> { std::iter::from_fn(|| File::open("/dev/null").ok()).collect() };
        let mut files = exhaust();
        assert!(Heap::new().unwrap_err().is_no_descriptors());
        files.pop();
        let heap = of_mib(1);
        let error = heap.alloc(1_u8).unwrap_err();
        assert!(error.is_no_descriptors(), "{error}");
        files.pop();
        let value = heap.alloc(1_u8).unwrap();
        let shared = heap.str("text").unwrap();
        for error in [Parcel::pack(&value).unwrap_err(), Parcel::pack(&shared).unwrap_err()] {
            assert!(error.to_string().contains("no descriptor is left"), "{error}");
        }
        // A descriptor for the way, but none for the copy in the parcel.
        files.pop();
        assert!(Parcel::pack(&value).is_err());
        assert_eq!(*value, 1, "it stays here");
        drop(files);
        let value: SharedBox<u8> = Parcel::pack(&value.moved()).unwrap().unpack().unwrap();
        assert_eq!(*value, 1);
        drop((value, shared));
        assert_empty(&heap);
    });
}

#[test]
fn little_address_space_makes_a_smaller_heap() {
    isolated!({
        if !Surroundings::new().address_space(1 << 30).apply_or_skip() {
            return;
        }
        let before = Census::take();
        let heap = Heap::new().unwrap();
        let capacity = heap.stats().capacity;
        assert!((32 << 20..1 << 30).contains(&capacity), "{capacity}");
        assert_eq!(heap.vec::<u8>(1 << 20).unwrap().len(), 1 << 20);
        let error = Heap::builder().cap(2 << 30).build().unwrap_err();
        assert!(error.is_no_memory(), "{error}");
        drop(heap);
        before.assert_settles(BOUND);
    });
}

#[test]
fn a_limit_on_file_sizes_makes_a_smaller_heap() {
    isolated!({
        if !Surroundings::new().fsize(100 << 20).apply_or_skip() {
            return;
        }
        let heap = Heap::new().unwrap();
        assert!(heap.stats().capacity >= 32 << 20, "{:?}", heap.stats());
        assert!(Heap::builder().cap(100 << 20).build().unwrap_err().is_limit());
    });
}

#[test]
fn a_limit_below_any_heap_is_an_error() {
    isolated!({
        if !Surroundings::new().fsize(1 << 20).apply_or_skip() {
            return;
        }
        assert!(Heap::new().unwrap_err().is_limit());
    });
}

#[test]
fn full_memory_is_an_error_now_and_no_signal_later() {
    isolated!({
        let heap = of_mib(8);
        let kept = heap.alloc(3_u64).unwrap();
        if !Surroundings::new().fail(libc::SYS_fallocate, libc::ENOSPC).apply_or_skip() {
            return;
        }
        assert!(heap.vec::<u8>(1 << 20).unwrap_err().is_no_space());
        // No slab of this class is there yet.
        assert!(heap.vec::<u8>(4096).unwrap_err().is_no_space());
        assert_eq!((*kept, heap.stats().blocks), (3, 1));
        let lazy = Heap::builder().cap(8 << 20).overcommit(true).build().unwrap();
        assert_eq!(lazy.vec::<u8>(1 << 20).unwrap().len(), 1 << 20);
    });
}

#[test]
fn without_proc_an_allocation_is_an_error_that_says_so() {
    isolated!({
        if !Surroundings::new().no_proc().apply_or_skip() {
            return;
        }
        let error = of_mib(1).alloc(1_u8).unwrap_err();
        assert!(error.is_unsupported() && error.to_string().contains("is /proc mounted?"), "{error}");
    });
}

#[test]
fn a_kernel_without_memfd_create_is_an_error_that_says_so() {
    isolated!({
        if Surroundings::new().fail(libc::SYS_memfd_create, libc::ENOSYS).apply_or_skip() {
            assert!(Heap::new().unwrap_err().is_unsupported());
        }
    });
}
