//! Frames that nobody of ours would send.

use crate::support::{object, open_copies};
use crate::wire::{PACKETS, STREAM, pair, recv};
use procession_parcel::wire::{self, Limits};
use procession_parcel::{Error, Parcel};
use procession_testkit::watchdog;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::io::retry_on_intr;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketType, sendmsg};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

/// The bytes of a header, written as the protocol says and not by the code under test.
fn header(flags: u16, fds: u32, body: u64) -> Vec<u8> {
    let mut bytes = b"prcparcl".to_vec();
    bytes.extend(1u16.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes.extend(fds.to_le_bytes());
    bytes.extend(body.to_le_bytes());
    bytes.extend([0; 8]);
    bytes
}

fn put(socket: &OwnedFd, bytes: &[u8], fds: &[&OwnedFd]) {
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    }
    let sent = retry_on_intr(|| sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL));
    assert_eq!(sent.unwrap(), bytes.len());
}

/// What a receiver says to these messages, after which the sender closes.
fn answer(kind: SocketType, messages: &[(&[u8], &[&OwnedFd])]) -> Result<Option<Parcel>, Error> {
    let (a, b) = pair(kind);
    for (bytes, fds) in messages {
        put(&a, bytes, fds);
    }
    drop(a);
    recv(&b)
}

#[test]
fn a_frame_cut_at_any_byte_is_an_error_that_says_so() {
    let _watchdog = watchdog!();
    let one = object();
    let mut frame = header(0, 3, 9);
    frame.extend(*b"some text");
    for cut in 1..frame.len() {
        let error = answer(STREAM, &[(&frame[..cut], &[&one, &one, &one])]).unwrap_err();
        assert!(error.is_cut_off() && error.is_disconnected() && error.is_torn(), "{cut}: {error}");
    }
    let parcel = answer(STREAM, &[(&frame, &[&one, &one, &one])]).unwrap().unwrap();
    assert_eq!((parcel.bytes(), parcel.fds().len()), (&b"some text"[..], 3));
    drop(parcel);
    for cut in 1..32 {
        let error = answer(PACKETS, &[(&frame[..cut], &[&one, &one, &one])]).unwrap_err();
        assert!(error.is_malformed(), "{cut}: {error}");
    }
    for cut in 32..frame.len() {
        let error = answer(PACKETS, &[(&frame[..cut], &[&one, &one, &one])]).unwrap_err();
        assert!(error.is_cut_off(), "{cut}: {error}");
    }
    assert_eq!(open_copies(&one), 1);
}

#[test]
fn a_frame_that_comes_byte_by_byte_is_whole() {
    let one = object();
    let mut frame = header(0, 2, 4);
    frame.extend(*b"text");
    let mut messages: Vec<(&[u8], &[&OwnedFd])> = frame.chunks(1).map(|byte| (byte, &[][..])).collect();
    let fds = [&one, &one];
    messages[0].1 = &fds;
    let parcel = answer(STREAM, &messages).unwrap().unwrap();
    assert_eq!((parcel.bytes(), parcel.fds().len()), (&b"text"[..], 2));
}

#[test]
fn a_header_with_a_wrong_bit_is_refused() {
    let _watchdog = watchdog!();
    let one = object();
    for kind in [STREAM, PACKETS] {
        for bit in 0..32 * 8 {
            let mut bytes = header(0, 1, 0);
            bytes[bit / 8] ^= 1 << (bit % 8);
            answer(kind, &[(&bytes, &[&one])]).expect_err(&format!("bit {bit}"));
        }
    }
    assert_eq!(open_copies(&one), 1);
}

#[test]
fn a_frame_beyond_the_limits_is_refused_by_its_header() {
    let _watchdog = watchdog!();
    let limits = Limits { max_bytes: 100, max_fds: 2 };
    for kind in [STREAM, PACKETS] {
        for (bytes, fds, ok) in [(100, 2, true), (101, 0, false), (0, 3, false), (40_000, 1, false)] {
            let (a, b) = pair(kind);
            let fds = (0..fds).map(|_| object()).collect();
            wire::send(&a, &Parcel::new(vec![0; bytes], fds), None).unwrap();
            let result = wire::recv(&b, &limits, None);
            assert_eq!(result.is_ok(), ok);
            assert!(result.map_or_else(|error| error.is_too_large(), |_| true));
        }
        // Nothing but the announcement comes, and no memory is asked for.
        for body in [1 << 40, u64::MAX] {
            assert!(answer(kind, &[(&header(0, 0, body), &[])]).unwrap_err().is_too_large());
        }
        assert!(answer(kind, &[(&header(0, u32::MAX, 0), &[])]).unwrap_err().is_too_large());
        assert!(answer(kind, &[(&header(0, 0, 3 << 30), &[])]).unwrap_err().is_cut_off());
    }
}

#[test]
fn descriptors_that_do_not_match_the_header_are_refused_and_closed() {
    let _watchdog = watchdog!();
    let one = object();
    for kind in [STREAM, PACKETS] {
        for (announced, fds) in [(0, 1), (1, 0), (1, 2), (3, 2), (253, 252)] {
            let fds = vec![&one; fds];
            let error = answer(kind, &[(&header(0, announced, 0), &fds)]).unwrap_err();
            assert!(error.is_malformed(), "{announced} announced: {error}");
        }
        // Too many in a further message, and none.
        for further in [[&one, &one].as_slice(), &[]] {
            let error = answer(kind, &[(&header(0, 254, 0), &[&one; 253]), (&[0], further)]).unwrap_err();
            assert!(error.is_malformed(), "{error}");
        }
        let error = answer(kind, &[(&header(0, 254, 0), &[&one; 253]), (&[1], &[&one])]).unwrap_err();
        assert!(error.is_malformed(), "the filler is not zero: {error}");
    }
    // With each byte of a header.
    let bytes = header(0, 5, 0);
    let fifty = [&one; 50];
    let messages: Vec<(&[u8], &[&OwnedFd])> = bytes.chunks(1).map(|byte| (byte, &fifty[..])).collect();
    let error = answer(STREAM, &messages).unwrap_err().to_string();
    assert!(error.contains("at most 253 belong"), "it stops before all have come: {error}");
    assert_eq!(open_copies(&one), 1);
}

#[test]
fn packets_that_do_not_fit_their_frame_are_refused() {
    let _watchdog = watchdog!();
    let mut long = header(0, 0, 3);
    long.extend(*b"four");
    assert!(answer(PACKETS, &[(&long, &[])]).unwrap_err().is_malformed());
    assert!(answer(PACKETS, &[(&header(0, 0, 3), &[]), (b"four", &[])]).unwrap_err().is_malformed());
    let mut huge = header(0, 0, 100_000);
    huge.resize(32 + wire::SPILL + 1, 0);
    assert!(answer(PACKETS, &[(&huge, &[])]).unwrap_err().is_malformed());
    let parcel = answer(PACKETS, &[(&header(0, 0, 4), &[]), (b"fo", &[]), (b"ur", &[])]).unwrap();
    assert_eq!(parcel.unwrap().bytes(), b"four");
}

fn memfd(size: u64, seals: SealFlags) -> OwnedFd {
    let fd = memfd_create("hostile", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&fd, size).unwrap();
    // Not a hole.
    rustix::io::pwrite(&fd, &vec![0; size as usize], 0).unwrap();
    fcntl_add_seals(&fd, seals).unwrap();
    fd
}

#[test]
fn a_body_in_a_memfd_is_read_only_if_it_is_sealed_and_of_the_announced_size() {
    let _watchdog = watchdog!();
    let all = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    let sealed = memfd(5000, all);
    for kind in [STREAM, PACKETS] {
        let parcel = answer(kind, &[(&header(1, 1, 5000), &[&sealed])]).unwrap().unwrap();
        assert_eq!((parcel.bytes(), parcel.fds().len()), (&[0; 5000][..], 0));
        for size in [0, 4999, 5001, 1 << 30] {
            assert!(answer(kind, &[(&header(1, 1, size), &[&sealed])]).unwrap_err().is_malformed(), "{size}");
        }
        for missing in [SealFlags::SHRINK, SealFlags::GROW, SealFlags::WRITE] {
            let fd = memfd(5000, all - missing);
            let error = answer(kind, &[(&header(1, 1, 5000), &[&fd])]).unwrap_err();
            assert!(error.to_string().contains("sealed"), "{missing:?}: {error}");
        }
        for fd in [object(), std::fs::File::open("/dev/zero").unwrap().into()] {
            assert!(answer(kind, &[(&header(1, 1, 0), &[&fd])]).unwrap_err().is_malformed());
        }
        assert!(answer(kind, &[(&header(1, 0, 10), &[])]).unwrap_err().is_malformed(), "no memfd at all");
    }
    assert_eq!(open_copies(&sealed), 1);
}

#[test]
fn a_body_that_is_a_hole_takes_no_memory() {
    let _watchdog = watchdog!();
    let fd = memfd_create("hostile", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&fd, 3 << 30).unwrap();
    fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE).unwrap();
    for kind in [STREAM, PACKETS] {
        let error = answer(kind, &[(&header(1, 1, 3 << 30), &[&fd])]).unwrap_err();
        assert!(error.is_malformed() && error.to_string().contains("holes"), "{error}");
    }
    assert_eq!(open_copies(&fd), 1);
}

#[test]
fn what_follows_a_frame_stays_in_the_socket() {
    let (a, b) = pair(STREAM);
    let mut frame = header(0, 0, 2);
    frame.extend(*b"okNEXT");
    put(&a, &frame, &[]);
    assert_eq!(recv(&b).unwrap().unwrap().bytes(), b"ok");
    let mut rest = [0; 10];
    let (len, _) = rustix::net::recv(&b, &mut rest, RecvFlags::empty()).unwrap();
    assert_eq!(&rest[..len], b"NEXT");
}
