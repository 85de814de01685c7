//! What threads may do with the public types, pinned: a private field could change it without a word.

use procession_process::{
    Builder, Child, Context, CurrentProcess, Error, ExitStatus, Interrupts, JoinError, Parent, Process,
    Scope, Stdio, StillRunning,
};
use procession_testkit::send_and_sync;

#[test]
fn processes_are_joined_and_signalled_by_any_thread() {
    send_and_sync!(Process<String>, Child, Parent, CurrentProcess, StillRunning<String>, Scope);
    send_and_sync!(Builder, Context, Stdio, Interrupts, ExitStatus, Error, JoinError);
}
