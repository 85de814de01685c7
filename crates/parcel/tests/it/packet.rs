//! Messages of one packet each.

use procession_parcel::{Fd, Parcel, handle::Unique, wire::Limits, wire::Received, wire::packet};
use procession_sys::Deadline;
use procession_testkit::watchdog;
use std::{fs::File, os::fd::AsFd};

fn next(socket: impl AsFd) -> Parcel {
    match packet::recv(socket, &Limits::default(), None).unwrap() {
        Received::Parcel(parcel) => parcel,
        other => panic!("{other:?}"),
    }
}

#[test]
fn parcels_arrive_one_by_one_and_untrusted() {
    let _watchdog = watchdog!();
    let (a, b) = packet::pair().unwrap();
    for len in [0, 1, packet::INLINE - 100, packet::INLINE, packet::INLINE + 1, 1 << 20] {
        let value = (vec![7_u8; len], Fd::from(File::open("/dev/null").unwrap()));
        packet::send(&a, &Parcel::pack(&value).unwrap(), None).unwrap();
        packet::send(&a, &Parcel::pack("between").unwrap(), None).unwrap();
        let parcel = next(&b);
        assert!(!parcel.is_trusted());
        assert_eq!(parcel.unpack::<(Vec<u8>, Fd)>().unwrap().0, value.0);
        assert_eq!(next(&b).unpack::<String>().unwrap(), "between");
    }
    assert!(matches!(packet::try_recv(&b, &Limits::default()).unwrap(), Received::Empty));
    drop(a);
    assert!(matches!(packet::try_recv(&b, &Limits::default()).unwrap(), Received::Closed));
    assert!(packet::send(&b, &Parcel::pack("nobody").unwrap(), None).unwrap_err().is_disconnected());
}

#[test]
fn what_is_larger_than_the_limits_stays() {
    let _watchdog = watchdog!();
    let (a, b) = packet::pair().unwrap();
    let fds: Vec<Fd> = (0..3).map(|_| File::open("/dev/null").unwrap().into()).collect();
    packet::send(&a, &Parcel::pack(&(vec![0_u8; 100], fds)).unwrap(), None).unwrap();
    for limits in [Limits { max_bytes: 50, max_fds: 3 }, Limits { max_bytes: 1000, max_fds: 2 }] {
        assert!(packet::try_recv(&b, &limits).unwrap_err().is_too_large());
    }
    assert_eq!(next(&b).fds().len(), 3);
}

#[test]
fn a_handle_with_one_owner_comes_back_only_if_it_was_not_sent() {
    let _watchdog = watchdog!();
    let (a, b) = packet::pair().unwrap();
    let unique = Unique::new(File::open("/dev/null").unwrap().into());
    while packet::send(&a, &Parcel::pack(&1).unwrap(), Some(Deadline::from_nanos(1))).is_ok() {}
    let parcel = Parcel::pack(&unique).unwrap();
    assert!(packet::send(&a, &parcel, Some(Deadline::from_nanos(1))).unwrap_err().is_timeout());
    drop(parcel);
    assert!(unique.is_here());
    drop(next(&b));
    packet::send(&a, &Parcel::pack(&unique).unwrap(), None).unwrap();
    assert!(!unique.is_here());
}
