//! What threads may do with the public types, pinned: a private field could change it without a word.

use procession_parcel::{
    Bytes, Erased, Error, Fd, Function, Outcome, Panic, Parcel, Pod, RemoteError, Task, handle::Unique,
};
use procession_testkit::send_and_sync;
use std::rc::Rc;

#[test]
fn what_crosses_processes_crosses_threads_too() {
    send_and_sync!(Bytes, Erased, Error, Fd, Outcome, Panic, Parcel, Pod<u8>, RemoteError, Unique);
    send_and_sync!(Task<String, u8, u8>);
}

#[test]
fn a_reference_to_a_function_does_not_care_for_its_types() {
    send_and_sync!(Function<Rc<u8>, Rc<u8>>);
}
