//! Small tools for the tests of the heap.

use procession_parcel::{Parcel, wire};
use procession_shm::{Heap, HeapStats};
use procession_testkit::role;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    os::{fd::AsFd, unix::net::UnixStream},
    time::{Duration, Instant},
};

pub(crate) const BOUND: Duration = Duration::from_secs(10);

/// A heap of so many MiB.
pub(crate) fn of_mib(mib: usize) -> Heap {
    Heap::builder().cap(mib << 20).build().unwrap()
}

/// Sends a value to another process.
pub(crate) fn give<T: Serialize>(socket: impl AsFd, value: &T) {
    wire::send(socket, &Parcel::pack(value).unwrap(), None).unwrap();
}

/// Takes a value that another process gave.
pub(crate) fn take<T: DeserializeOwned + 'static>(socket: impl AsFd) -> T {
    wire::recv(socket, &wire::Limits::default(), None).unwrap().unwrap().unpack().unwrap()
}

/// Starts a role with a socket between it and us.
pub(crate) fn start<F: Fn()>(role: F) -> (role::RoleProcess, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (role::start(role, &[&theirs]), ours)
}

/// The counts, which must add up.
pub(crate) fn balance(heap: &Heap) -> HeapStats {
    let stats = heap.stats();
    assert_eq!(stats.used + stats.free + stats.slack, stats.capacity, "{stats:?}");
    stats
}

/// After a sweep nothing is left.
///
/// Not always after the first: a process that a test beside this one forks has copies of this process's descriptors, so
/// of all parcels too, until it executes its program.
#[track_caller]
pub(crate) fn assert_empty(heap: &Heap) {
    let end = Instant::now() + BOUND;
    loop {
        heap.sweep().unwrap();
        let stats = balance(heap);
        if (stats.blocks, stats.used, stats.in_transit, stats.shared) == (0, 0, 0, 0) {
            return;
        }
        assert!(Instant::now() < end, "{stats:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The memory that a heap has, in bytes.
pub(crate) fn resident(heap: &Heap) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let file = std::fs::File::from(heap.as_fd().try_clone_to_owned().unwrap());
    file.metadata().unwrap().blocks() * 512
}
