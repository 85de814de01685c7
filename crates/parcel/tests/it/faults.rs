//! When the kernel refuses: each system call of packing and unpacking fails once, and each outcome is a success or an error;
//! the next try succeeds, and nothing is left of either.

use procession_parcel::{
    Bytes, Fd, Parcel,
    wire::{self, Limits},
};
use procession_sys::Deadline;
use procession_testkit::{
    faults::{Options, each_call},
    isolated,
};
use std::{error::Error, fs::File, io::Read, os::unix::net::UnixStream, time::Duration};

#[test]
fn a_parcel_is_packed_sent_and_unpacked_or_refused() {
    isolated!({
        let report = each_call(&Options::default(), || {
            let (left, right) = UnixStream::pair()?;
            let value = (7_u32, Fd::from(File::open("/proc/self/stat")?), Bytes::from(vec![1; 100_000]));
            let soon = || Some(Deadline::after(Duration::from_secs(10)));
            wire::send(&left, &Parcel::pack(&value)?, soon())?;
            let parcel = wire::recv(&right, &Limits::default(), soon())?.ok_or("nothing came")?;
            let (number, file, bytes) = parcel.unpack::<(u32, Fd, Bytes)>()?;
            assert_eq!((number, bytes.len()), (7, 100_000));
            assert_ne!(File::from(file).read(&mut [0; 10])?, 0);
            Ok::<(), Box<dyn Error>>(())
        });
        println!("{report}");
        assert!(report.refused > 0, "{report}");
    });
}
