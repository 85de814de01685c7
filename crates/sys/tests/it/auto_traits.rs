//! What threads may do with the public types, pinned: a private field could change it without a word.

use procession_sys::{Deadline, PidFd, ProcessExit, ProcessId, Spin};
use procession_testkit::send_and_sync;

#[test]
fn handles_go_to_other_threads() {
    send_and_sync!(Deadline, PidFd, ProcessExit, ProcessId, Spin);
}
