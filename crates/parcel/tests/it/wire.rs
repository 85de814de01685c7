//! Parcels over sockets whose other end is well-behaved, alive or dead.

use crate::support::{closes_on_exec, identity, object, open_copies};
use procession_parcel::wire::{self, Limits, Received};
use procession_parcel::{Fd, Parcel};
use procession_sys::Deadline;
use procession_testkit::limits::Surroundings;
use procession_testkit::{isolated, watchdog};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair, sockopt};
use std::os::fd::OwnedFd;
use std::time::Duration;

pub(crate) const STREAM: SocketType = SocketType::STREAM;
pub(crate) const PACKETS: SocketType = SocketType::SEQPACKET;

pub(crate) fn pair(kind: SocketType) -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap()
}

pub(crate) fn recv(socket: &OwnedFd) -> Result<Option<Parcel>, procession_parcel::Error> {
    wire::recv(socket, &Limits::default(), None)
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 7 + n / 251) as u8).collect()
}

fn soon() -> Option<Deadline> {
    Some(Deadline::after(Duration::from_millis(30)))
}

#[test]
fn parcels_of_any_size_arrive_whole_and_in_order() {
    let _watchdog = watchdog!();
    let sizes = [0, 1, 31, 32, 33, 4000, 4096, wire::SPILL - 1, wire::SPILL, wire::SPILL + 1, 5 << 20];
    for kind in [STREAM, PACKETS] {
        let (a, b) = pair(kind);
        for size in sizes {
            wire::send(&a, &Parcel::new(bytes(size), Vec::new()), None).unwrap();
            let parcel = recv(&b).unwrap().unwrap();
            assert!(parcel.bytes() == bytes(size) && parcel.fds().is_empty(), "{size} bytes, {kind:?}");
            assert!(!parcel.is_trusted());
        }
        // Several at once, as far as the buffer holds them.
        for size in sizes {
            wire::send(&a, &Parcel::new(bytes(size / 4), Vec::new()), None).unwrap();
        }
        for size in sizes {
            assert!(recv(&b).unwrap().unwrap().bytes() == bytes(size / 4), "{size} bytes, {kind:?}");
        }
        drop(a);
        assert!(recv(&b).unwrap().is_none());
        assert!(recv(&b).unwrap().is_none(), "the end stays");
    }
}

#[test]
fn a_large_parcel_needs_no_reader() {
    let _watchdog = watchdog!();
    for kind in [STREAM, PACKETS] {
        let (a, b) = pair(kind);
        wire::send(&a, &Parcel::new(bytes(20 << 20), Vec::new()), None).unwrap();
        drop(a);
        assert!(recv(&b).unwrap().unwrap().bytes() == bytes(20 << 20));
        assert!(recv(&b).unwrap().is_none());
    }
}

#[test]
fn any_number_of_descriptors_arrives_and_closes_on_exec() {
    isolated!({
        let _watchdog = watchdog!();
        rustix::process::setrlimit(
            rustix::process::Resource::Nofile,
            rustix::process::Rlimit { current: Some(4000), maximum: Some(4000) },
        )
        .unwrap();
        let (one, other) = (object(), object());
        for kind in [STREAM, PACKETS] {
            for count in [0, 1, 252, 253, 254, 506, 507, 1000] {
                for size in [0, 100, wire::SPILL + 1] {
                    let (a, b) = pair(kind);
                    let fds = (0..count).map(|n| if n % 3 == 0 { &one } else { &other });
                    let fds = fds.map(|fd| fd.try_clone().unwrap()).collect();
                    wire::send(&a, &Parcel::new(bytes(size), fds), None).unwrap();
                    wire::send(&a, &Parcel::pack("next").unwrap(), None).unwrap();
                    let parcel = recv(&b).unwrap().unwrap();
                    assert!(parcel.bytes() == bytes(size), "{count} descriptors, {size} bytes, {kind:?}");
                    assert_eq!(parcel.fds().len(), count);
                    for (n, fd) in parcel.fds().iter().enumerate() {
                        assert!(closes_on_exec(fd));
                        assert_eq!(identity(fd), identity(if n % 3 == 0 { &one } else { &other }));
                    }
                    assert_eq!(recv(&b).unwrap().unwrap().unpack::<String>().unwrap(), "next");
                }
            }
        }
        assert_eq!((open_copies(&one), open_copies(&other)), (1, 1));
    });
}

#[test]
fn without_memfds_a_large_body_goes_inline() {
    isolated!({
        let _watchdog = watchdog!();
        let without = Surroundings::new().fail(libc::SYS_memfd_create, libc::ENOSYS);
        if !without.apply_or_skip() {
            return;
        }
        for kind in [STREAM, PACKETS] {
            let (a, b) = pair(kind);
            let reader = std::thread::spawn(move || recv(&b).unwrap().unwrap());
            let fds = (0..300).map(|_| object()).collect();
            wire::send(&a, &Parcel::new(bytes(5 << 20), fds), None).unwrap();
            let parcel = reader.join().unwrap();
            assert!(parcel.bytes() == bytes(5 << 20) && parcel.fds().len() == 300);
        }
    });
}

#[test]
fn an_old_kernel_without_the_noexec_seal_still_gets_a_memfd() {
    isolated!({
        let _watchdog = watchdog!();
        let old = Surroundings::new().fail_with_flags(
            libc::SYS_memfd_create,
            1,
            libc::MFD_NOEXEC_SEAL,
            libc::EINVAL,
        );
        if !old.apply_or_skip() {
            return;
        }
        let (a, b) = pair(STREAM);
        // No reader: it would block if it went inline.
        wire::send(&a, &Parcel::new(bytes(5 << 20), Vec::new()), None).unwrap();
        assert!(recv(&b).unwrap().unwrap().bytes() == bytes(5 << 20));
    });
}

#[test]
fn a_file_size_limit_kills_nobody() {
    isolated!({
        let _watchdog = watchdog!();
        if !Surroundings::new().fsize(1 << 20).apply_or_skip() {
            return;
        }
        let (a, b) = pair(STREAM);
        let reader = std::thread::spawn(move || recv(&b).unwrap().unwrap());
        wire::send(&a, &Parcel::new(bytes(2 << 20), Vec::new()), None).unwrap();
        assert!(reader.join().unwrap().bytes() == bytes(2 << 20));
    });
}

#[test]
fn packets_fit_into_a_small_socket_buffer() {
    let _watchdog = watchdog!();
    let (a, b) = pair(PACKETS);
    sockopt::set_socket_send_buffer_size(&a, 1).unwrap();
    let reader = std::thread::spawn(move || recv(&b).unwrap().unwrap());
    wire::send(&a, &Parcel::new(bytes(wire::SPILL), Vec::new()), None).unwrap();
    assert!(reader.join().unwrap().bytes() == bytes(wire::SPILL));
}

#[test]
fn no_room_for_descriptors_is_an_error_that_says_so_and_closes_them() {
    isolated!({
        let _watchdog = watchdog!();
        for kind in [STREAM, PACKETS] {
            let (a, b) = pair(kind);
            let one = object();
            let fds = (0..20).map(|_| one.try_clone().unwrap()).collect();
            let parcel = Parcel::new(bytes(10), fds);
            wire::send(&a, &parcel, None).unwrap();
            let open = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
            let limit = |current| {
                let maximum = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
                let limit = rustix::process::Rlimit { current: Some(current), maximum };
                rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
            };
            limit(open + 5);
            let error = recv(&b).unwrap_err();
            limit(1000);
            assert!(error.is_out_of_descriptors() && error.is_torn(), "{error}");
            assert!(error.to_string().contains(&format!("{} open", open + 5)), "{error}");
            drop(parcel);
            assert_eq!(open_copies(&one), 1);
        }
    });
}

#[test]
fn packing_without_descriptors_left_is_an_error_that_says_so() {
    isolated!({
        let fds: Vec<Fd> = (0..8).map(|_| Fd::from(object())).collect();
        let open = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
        if !Surroundings::new().nofile(open + 3).apply_or_skip() {
            return;
        }
        let error = Parcel::pack(&fds).unwrap_err();
        assert!(error.is_out_of_descriptors() && error.os_error() == Some(libc::EMFILE), "{error}");
        assert_eq!(Parcel::pack(&fds[0]).unwrap().fds().len(), 1, "what was opened is closed again");
    });
}

#[test]
fn a_deadline_ends_a_receive_and_a_send() {
    let _watchdog = watchdog!();
    for kind in [STREAM, PACKETS] {
        let (a, b) = pair(kind);
        let error = wire::recv(&b, &Limits::default(), soon()).unwrap_err();
        assert!(error.is_timeout() && !error.is_torn(), "{error}");
        // Nobody reads, so the buffer fills up.
        let error = loop {
            match wire::send(&a, &Parcel::new(bytes(20_000), Vec::new()), soon()) {
                Ok(()) => {}
                Err(error) => break error,
            }
        };
        assert!(error.is_timeout(), "{error}");
        let first = recv(&b).unwrap().unwrap();
        assert!(first.bytes() == bytes(20_000), "what was sent before is there");
    }
}

#[test]
fn sending_to_a_closed_end_is_an_error_and_no_signal() {
    for kind in [STREAM, PACKETS] {
        let (a, b) = pair(kind);
        drop(b);
        let error = wire::send(&a, &Parcel::pack("x").unwrap(), None).unwrap_err();
        assert!(error.is_disconnected(), "{error}");
    }
}

#[test]
fn an_end_that_closed_without_reading_is_closed() {
    for kind in [STREAM, PACKETS] {
        let (a, b) = pair(kind);
        wire::send(&b, &Parcel::pack("never read").unwrap(), None).unwrap();
        drop(a);
        assert!(recv(&b).unwrap().is_none());
    }
}

#[test]
fn trying_tells_nothing_yet_from_closed() {
    let _watchdog = watchdog!();
    for kind in [STREAM, PACKETS] {
        let (a, b) = pair(kind);
        let limits = Limits::default();
        assert!(matches!(wire::try_recv(&b, &limits).unwrap(), Received::Empty));
        for size in [0, 10, wire::SPILL, wire::SPILL + 1] {
            let fds = (0..300).map(|_| object()).collect();
            wire::send(&a, &Parcel::new(bytes(size), fds), None).unwrap();
            let Received::Parcel(parcel) = wire::try_recv(&b, &limits).unwrap() else { panic!("{size}") };
            assert!(parcel.bytes() == bytes(size) && parcel.fds().len() == 300);
        }
        assert!(matches!(wire::try_recv(&b, &limits).unwrap(), Received::Empty));
        drop(a);
        assert!(matches!(wire::try_recv(&b, &limits).unwrap(), Received::Closed));
    }
}

#[test]
fn what_is_no_unix_socket_is_refused() {
    let error = wire::send(object(), &Parcel::pack("x").unwrap(), None).unwrap_err();
    assert!(error.to_string().contains("should be a Unix socket"), "{error}");
    let (a, _b) = pair(SocketType::DGRAM);
    assert!(wire::send(&a, &Parcel::pack("x").unwrap(), None).is_err());
}
