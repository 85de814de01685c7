//! What values and arrays take, and what happens where there is not enough.

use crate::support::through_a_parcel;
use procession_sync::{Array, Error, RawArray, RawValue, Value};
use procession_testkit::{Census, forked, isolated, limits::Surroundings, watchdog};
use std::{fs, time::Duration};

/// A figure of `/proc/self/status`, in bytes.
fn status(key: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[test]
fn a_hundred_thousand_values_made_and_dropped_take_no_memory() {
    isolated!({
        let cycle = || {
            let value = Value::new(1_u64).unwrap();
            let raw = RawValue::new(2_u32).unwrap();
            assert_eq!((value.get().unwrap(), raw.load()), (1, 2));
        };
        cycle();
        let (census, before) = (Census::take(), status("VmRSS"));
        (0..100_000).for_each(|_| cycle());
        let grown = status("VmRSS").saturating_sub(before);
        assert!(grown < 1 << 20, "{grown} bytes more");
        assert_eq!(census.difference(&Census::take()), None);
    });
}

#[test]
fn large_arrays_that_were_sent_leave_nothing() {
    isolated!({
        let cycle = || {
            let (array, raw) = (Array::<u64>::new(10_000).unwrap(), RawArray::<u8>::new(100_000).unwrap());
            through_a_parcel(&array).lock().unwrap().fill(1);
            through_a_parcel(&raw)[99_999].store(1);
            let mut part = through_a_parcel(&array.chunks_mut(10_000).unwrap().remove(0));
            part.get_mut().unwrap().fill(2);
        };
        cycle();
        let (census, before) = (Census::take(), status("RssShmem"));
        (0..200).for_each(|_| cycle());
        census.assert_settles(Duration::from_secs(10));
        assert!(status("RssShmem").saturating_sub(before) < 1 << 20);
    });
}

#[test]
fn a_sparse_array_of_64_gib_takes_what_is_touched() {
    isolated!({
        const LEN: usize = 64 << 30;
        let array = match Array::<u8>::new(LEN) {
            Ok(array) => array,
            Err(error) => return println!("skipped: {error}"),
        };
        for index in [0, LEN / 2, LEN - 1] {
            array.set(index, 7).unwrap();
            assert_eq!(through_a_parcel(&array).get(index).unwrap(), 7);
        }
        assert_eq!(array.read(LEN / 2 - 1..LEN / 2 + 2).unwrap(), [0, 7, 0]);
        let mut last = array.part(LEN - 10..LEN).unwrap();
        assert_eq!(last.get_mut().unwrap()[9], 7);
        assert!(status("RssShmem") < 1 << 20);
    });
}

#[test]
fn what_is_larger_than_the_address_space_is_an_error() {
    let _watchdog = watchdog!();
    for len in [usize::MAX, usize::MAX / 8, isize::MAX as usize / 8 + 1] {
        let error = Array::<u64>::new(len).unwrap_err();
        assert!(error.to_string().contains("larger than the address space"), "{error}");
        assert!(RawArray::<u64>::new(len).is_err());
    }
}

fn segment(error: &Error) -> &procession_shm::Error {
    error.segment_error().unwrap()
}

#[test]
fn a_limit_on_file_sizes_is_an_error_that_says_so() {
    isolated!({
        if !Surroundings::new().fsize(1 << 20).apply_or_skip() {
            return;
        }
        let error = Array::<u8>::new(1 << 20).unwrap_err();
        assert!(segment(&error).is_limit() && error.to_string().contains("RLIMIT_FSIZE"), "{error}");
        // A value finds room in a smaller segment.
        assert_eq!(Value::new(3).unwrap().get().unwrap(), 3);
        assert_eq!(Array::<u8>::new(1 << 19).unwrap().len(), 1 << 19);
    });
}

#[test]
fn without_address_space_the_error_says_so() {
    isolated!({
        if !Surroundings::new().address_space(1 << 30).apply_or_skip() {
            return;
        }
        let error = Array::<u8>::new(2 << 30).unwrap_err();
        assert!(segment(&error).is_no_memory() && error.to_string().contains("RLIMIT_AS"), "{error}");
        Array::<u8>::new(1 << 20).unwrap();
    });
}

#[test]
fn without_descriptors_small_values_are_made_and_large_ones_are_an_error() {
    isolated!({
        let _first = Value::new(1).unwrap();
        if !Surroundings::new().nofile(40).apply_or_skip() {
            return;
        }
        let mut files: Vec<_> = std::iter::from_fn(|| fs::File::open("/dev/null").ok()).collect();
        assert_eq!(Value::new(2).unwrap().get().unwrap(), 2);
        let error = Array::<u64>::new(10_000).unwrap_err();
        assert!(segment(&error).is_no_descriptors(), "{error}");
        files.pop();
        Array::<u64>::new(10_000).unwrap();
    });
}

#[test]
fn a_forked_child_shares_what_it_inherits_and_makes_its_own() {
    isolated!({
        let (value, array, raw) =
            (Value::new(1_u64).unwrap(), Array::<u64>::new(5_000).unwrap(), RawValue::new(1_u8).unwrap());
        forked(|| {
            value.update(|value| *value += 1).unwrap();
            array.set(4_999, 5).unwrap();
            raw.fetch_add(1);
            let own = Value::new(100_u64).unwrap();
            assert!(!own.same(&value));
            own.set(101).unwrap();
        });
        assert_eq!((value.get().unwrap(), array.get(4_999).unwrap(), raw.load()), (2, 5, 2));
        // Memory that the child may know of is not used again, so what is made later is something else.
        let fresh = Value::new(9_u64).unwrap();
        assert!(!fresh.same(&value));
    });
}
