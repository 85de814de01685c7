//! The memory and the descriptors that queues take.

use procession_channel::queue::{Policy, PutError, Queue, Trouble};
use procession_parcel::Bytes;
use procession_testkit::{isolated, limits::Surroundings, watchdog};
use std::os::unix::fs::MetadataExt;

/// The bytes of memory that this process's queues have.
fn memory() -> u64 {
    let mut bytes = 0;
    for entry in std::fs::read_dir("/proc/self/fd").unwrap() {
        let path = entry.unwrap().path();
        let target = std::fs::read_link(&path).unwrap_or_default();
        if target.to_string_lossy().contains("procession:queue") {
            bytes += std::fs::metadata(&path).unwrap().blocks() * 512;
        }
    }
    bytes
}

#[test]
fn memory_is_given_back_after_a_burst_and_a_part_is_kept() {
    isolated!({
        for policy in [Policy::Report, Policy::Redeliver] {
            let queue = Queue::builder().memory(256 << 20).policy(policy).build().unwrap();
            let empty = memory();
            assert!(empty < 100_000, "a queue takes {empty} bytes at first");
            for _ in 0..1000 {
                queue.put(Bytes(vec![1; 64 << 10])).unwrap();
            }
            assert!(memory() > 60 << 20);
            for _ in 0..1000 {
                queue.get().unwrap();
            }
            let left = memory();
            assert!(left < 2 << 20, "{left} bytes are left after a burst");
            // Nothing new is taken by what goes round and round.
            for _ in 0..1000 {
                queue.put(Bytes(vec![1; 64 << 10])).unwrap();
                queue.get().unwrap();
            }
            let around = memory();
            assert!(around < 2 << 20, "{around} bytes are used by one item at a time");
        }
    });
}

#[test]
fn a_queue_costs_a_descriptor_and_its_consumers_one_more() {
    isolated!({
        let count = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let before = count();
        let queue = Queue::unbounded().unwrap();
        queue.put(1).unwrap();
        assert_eq!(count(), before + 1);
        queue.get().unwrap();
        assert_eq!(count(), before + 2);
        for n in 0..1000 {
            queue.clone().put(n).unwrap();
            queue.get().unwrap();
        }
        assert_eq!(count(), before + 2);
        drop(queue);
        assert_eq!(count(), before);
    });
}

#[test]
fn no_descriptor_for_a_consumer_is_an_error_and_the_item_stays() {
    isolated!({
        let queue = Queue::unbounded().unwrap();
        queue.put(1).unwrap();
        let ran = Surroundings::new().nofile(0).run_or_skip(|| {
            let error = queue.try_get().unwrap_err();
            assert!(error.to_string().contains("could not become a member"), "{error}");
            assert!(Queue::<u32>::unbounded().is_err());
            queue.put(2).unwrap();
        });
        if ran {
            assert_eq!((queue.get().unwrap(), queue.get().unwrap()), (1, 2));
        }
    });
}

#[test]
fn a_lack_of_memory_is_the_puts_error_and_the_item_comes_back() {
    isolated!({
        let queue = Queue::unbounded().unwrap();
        queue.put(vec![1_u8; 1000]).unwrap();
        let ran = Surroundings::new().fail(libc_fallocate(), 28).run_or_skip(|| {
            // What fits into the memory that is there goes in.
            queue.put(vec![2_u8; 1000]).unwrap();
            match queue.put(vec![3_u8; 300_000]) {
                Err(PutError::Unusable(item, Trouble::NoMemory(28))) => assert_eq!(item.len(), 300_000),
                other => panic!("{other:?}"),
            }
            queue.put(vec![4_u8; 1000]).unwrap();
        });
        if ran {
            assert_eq!((0..3).map(|_| queue.get().unwrap()[0]).collect::<Vec<_>>(), [1, 2, 4]);
        }
    });
}

/// The number of the system call.
fn libc_fallocate() -> i64 {
    if cfg!(target_arch = "x86_64") { 285 } else { 47 }
}

#[test]
fn a_limit_of_file_sizes_is_an_error_and_no_signal() {
    isolated!({
        Surroundings::new().fsize(1 << 20).run_or_skip(|| {
            let error = Queue::<u32>::unbounded().unwrap_err().to_string();
            assert!(error.contains("RLIMIT_FSIZE"), "{error}");
        });
    });
}

#[test]
fn as_many_claims_as_there_are_records_can_be_open() {
    let _watchdog = watchdog!();
    let queue = Queue::unbounded().unwrap();
    let mut claims = Vec::new();
    for n in 0..16_384_u32 {
        queue.put(n).unwrap();
        claims.push(queue.claim().unwrap());
    }
    queue.put(1).unwrap();
    let error = queue.claim().unwrap_err();
    assert!(error.to_string().contains("too many items are in hand"), "{error}");
    claims.pop();
    assert_eq!(*queue.claim().unwrap(), 1);
}
