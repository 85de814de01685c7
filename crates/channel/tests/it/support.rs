//! Small tools for these tests.

use procession_channel::{
    Error,
    lane::{Config, RawReceiver, RawSender, RecvError, pair, pair_in},
};
use procession_parcel::{Parcel, wire};
use procession_shm::{Heap, Segment};
use procession_sys::Deadline;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    io::IoSlice,
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

/// A lane with the smallest ring, 4096 bytes.
pub(crate) fn small() -> (RawSender, RawReceiver) {
    with_capacity(4096)
}

pub(crate) fn with_capacity(capacity: usize) -> (RawSender, RawReceiver) {
    pair(&Config { capacity, ..Config::default() }).unwrap()
}

/// A lane at `offset` of a segment.
pub(crate) fn lane_in(
    segment: &Segment,
    offset: usize,
    config: &Config,
) -> Result<(RawSender, RawReceiver), Error> {
    // SAFETY: each test puts its lanes side by side, or one where another is over.
    unsafe { pair_in(segment, offset, config) }
}

/// A deadline that has passed.
pub(crate) fn past() -> Deadline {
    Deadline::from_nanos(1)
}

pub(crate) fn soon() -> Deadline {
    Deadline::after(Duration::from_millis(20))
}

/// The next message, waiting for it.
pub(crate) fn next(receiver: &mut RawReceiver) -> Result<Vec<u8>, RecvError> {
    let mut message = Vec::new();
    while !receiver.recv(&mut message, None)? {}
    Ok(message)
}

/// What is there now, and how it ended: `None` where more may come.
pub(crate) fn drain(receiver: &mut RawReceiver) -> (Vec<Vec<u8>>, Option<RecvError>) {
    let (mut messages, mut message) = (Vec::new(), Vec::new());
    loop {
        match receiver.try_recv(&mut message) {
            Ok(true) => messages.push(message.clone()),
            Ok(false) => return (messages, None),
            Err(error) => return (messages, Some(error)),
        }
    }
}

/// Sends a value to another process.
pub(crate) fn give<T: Serialize>(socket: impl AsFd, value: &T) {
    wire::send(socket, &Parcel::pack(value).unwrap(), None).unwrap();
}

/// Takes a value that another process gave.
pub(crate) fn take<T: DeserializeOwned + 'static>(socket: impl AsFd) -> T {
    wire::recv(socket, &wire::Limits::default(), None).unwrap().unwrap().unpack().unwrap()
}

/// Bytes that depend on `seed` and on their place, so that none can stand for another.
pub(crate) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|at| (seed.wrapping_mul(31) + at * 7 + (at >> 8)) as u8).collect()
}

/// Sweeps leave nothing in the heap. Soon, since a process that another test is just starting has copies of our
/// descriptors until it executes its program, and with them claims that we have let go of.
#[track_caller]
pub(crate) fn assert_soon_empty(heap: &Heap) {
    let empty = || {
        heap.sweep().unwrap();
        heap.stats().blocks == 0
    };
    procession_testkit::wait::eventually("the heap is empty", Duration::from_secs(10), empty);
}

/// Sends a packet, or bytes of a stream, with descriptors.
pub(crate) fn raw(socket: impl AsFd, bytes: &[u8], fds: &[&OwnedFd]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    if !fds.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    }
    sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).unwrap();
}

/// A packet's header.
pub(crate) fn header(flags: u8, here: u16, body: u64, fds: u32) -> Vec<u8> {
    let mut bytes = b"pmsg\x01".to_vec();
    bytes.push(flags);
    bytes.extend(here.to_le_bytes());
    bytes.extend(body.to_le_bytes());
    bytes.extend(fds.to_le_bytes());
    bytes.extend([0; 4]);
    bytes
}
