//! What threads may do with the public types, pinned: a private field could change it without a word.

use procession_shm::{
    Error, Heap, Item, Lending, Loan, Segment, ShareableList, SharedBox, SharedMemory, SharedMemoryManager,
    SharedSlice, SharedStr, SharedVec,
};
use procession_testkit::send_and_sync;

#[test]
fn memory_and_what_lies_in_it_go_to_other_threads() {
    send_and_sync!(Error, Heap, Item, Segment, ShareableList, SharedMemory, SharedMemoryManager);
    send_and_sync!(SharedBox<u8>, SharedSlice<u8>, SharedStr, SharedVec<u8>, Lending<'static, u8>, Loan);
}
