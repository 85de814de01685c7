//! Small tools for these tests.

use procession_parcel::{Parcel, wire};
use procession_testkit::wait::eventually;
use serde::{Serialize, de::DeserializeOwned};
use std::{os::fd::OwnedFd, os::unix::net::UnixStream, time::Duration};

/// For what must happen soon: an order of magnitude more than it ever takes.
pub(crate) const BOUND: Duration = Duration::from_secs(10);

/// A value in a socket, for a role to [`take`].
pub(crate) fn given<T: Serialize>(value: &T) -> UnixStream {
    let (here, there) = UnixStream::pair().unwrap();
    wire::send(&here, &Parcel::pack(value).unwrap(), None).unwrap();
    there
}

/// Takes the value that lies in a socket.
pub(crate) fn take<T: DeserializeOwned + 'static>(socket: OwnedFd) -> T {
    wire::recv(socket, &wire::Limits::default(), None).unwrap().unwrap().unpack().unwrap()
}

/// The same value by way of a parcel.
pub(crate) fn through_a_parcel<T: Serialize + DeserializeOwned + 'static>(value: &T) -> T {
    Parcel::pack(value).unwrap().unpack().unwrap()
}

/// Waits for a state of the shared memory.
#[track_caller]
pub(crate) fn soon(what: &str, seen: impl FnMut() -> bool) {
    eventually(what, BOUND, seen);
}
