//! What threads may do with the public types, pinned: a private field could change it without a word.

use procession_pool::{Builder, Error, Pool, Results, Task, TaskError, Tasks, Work};
use procession_testkit::{send, send_and_sync};
use std::vec::IntoIter;

#[test]
fn a_pool_is_shared_by_threads() {
    send_and_sync!(Pool, Builder, Error, TaskError, Task<u8>, Work<u8, u8>);
    send!(Tasks<u8, u8, IntoIter<u8>>, Results<u8, u8, IntoIter<u8>>);
}
