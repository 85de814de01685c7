//! What is in a segment, and what memory it takes.

use crate::support::{KIND, get, resident, set};
use procession_parcel::Parcel;
use procession_shm::Segment;
use procession_testkit::{Census, isolated, watchdog};
use std::time::Duration;

#[test]
fn a_new_segment_is_zero_and_takes_no_memory() {
    let _watchdog = watchdog!();
    let segment = Segment::anonymous(KIND, 64 << 20).unwrap();
    assert_eq!(segment.len(), 64 << 20);
    assert!(resident(&segment) <= 8192, "{} bytes", resident(&segment));
    assert!((0..segment.len()).step_by(1 << 20).all(|offset| get(&segment, offset) == 0));
}

#[test]
fn the_length_is_rounded_up_and_the_payload_is_aligned_to_it() {
    let _watchdog = watchdog!();
    let segment = Segment::anonymous(KIND, 1).unwrap();
    assert_eq!(segment.len(), 4096);
    assert!(segment.as_ptr().addr().get().is_multiple_of(4096));
    assert!(!segment.is_empty());
}

#[test]
fn a_segment_without_bytes_or_beyond_the_address_space_is_refused() {
    let _watchdog = watchdog!();
    for len in [0, usize::MAX, isize::MAX as usize] {
        let error = Segment::anonymous(KIND, len).unwrap_err();
        assert!(error.to_string().contains("it would be"), "{error}");
        assert!(error.os_error().is_none());
    }
}

#[test]
fn what_one_attachment_writes_the_other_reads_at_the_same_address() {
    let _watchdog = watchdog!();
    let one = Segment::anonymous(KIND, 4096).unwrap();
    let other = Segment::attach(one.fd().try_clone_to_owned().unwrap(), KIND).unwrap();
    assert!(one.same(&other));
    assert_eq!(one.as_ptr(), other.as_ptr());
    set(&one, 17, 5);
    assert_eq!(get(&other, 17), 5);
    drop(one);
    assert_eq!(get(&other, 17), 5);
}

#[test]
fn a_segment_travels_in_a_parcel() {
    let _watchdog = watchdog!();
    let segment = Segment::anonymous(KIND, 4096).unwrap();
    set(&segment, 0, 9);
    let parcel = Parcel::pack(&(1u8, &segment)).unwrap();
    drop(segment);
    let (_, arrived): (u8, Segment) = parcel.unpack().unwrap();
    arrived.check(KIND).unwrap();
    assert_eq!(get(&arrived, 0), 9);
}

#[test]
fn outside_a_parcel_a_segment_says_that_it_cannot_travel() {
    let _watchdog = watchdog!();
    let segment = Segment::anonymous(KIND, 4096).unwrap();
    let error = procession_parcel::codec::encode(&segment, &mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains("descriptor"), "{error}");
}

#[test]
fn reserved_memory_is_there_and_discarded_memory_is_zero_and_gone() {
    let _watchdog = watchdog!();
    let segment = Segment::anonymous(KIND, 1 << 20).unwrap();
    segment.reserve(0..1 << 20).unwrap();
    assert!(resident(&segment) >= 1 << 20);
    for offset in [0, 4999, 5000, 100_000, (1 << 20) - 1] {
        set(&segment, offset, 1);
    }
    segment.discard(5000..1 << 20).unwrap();
    assert!(resident(&segment) <= 16384, "{} bytes", resident(&segment));
    let left = [0, 4999, 5000, 100_000, (1 << 20) - 1].map(|offset| get(&segment, offset));
    assert_eq!(left, [1, 1, 0, 0, 0]);
}

#[test]
fn what_is_kept_for_structures_in_it_is_not_discarded() {
    let _watchdog = watchdog!();
    let segment = Segment::anonymous(KIND, 8192).unwrap();
    segment.keep_while(|_, _| false);
    set(&segment, 5000, 1);
    let error = segment.discard(4096..8192).unwrap_err().to_string();
    assert!(error.contains("structures lie in it"), "{error}");
    assert_eq!(get(&segment, 5000), 1);
}

#[test]
fn prefaulted_memory_is_there_and_keeps_its_contents() {
    let _watchdog = watchdog!();
    let segment = Segment::anonymous(KIND, 1 << 20).unwrap();
    set(&segment, 4097, 3);
    segment.prefault(100..(1 << 20) - 100).unwrap();
    segment.prefault(7..7).unwrap();
    assert_eq!(get(&segment, 4097), 3);
    assert!(resident(&segment) >= 1 << 20);
}

#[test]
fn a_range_beyond_the_end_is_refused() {
    let _watchdog = watchdog!();
    let segment = Segment::anonymous(KIND, 4096).unwrap();
    #[expect(clippy::reversed_empty_ranges, reason = "a caller's mistake is what is tested")]
    for range in [0..4097, 4097..4097, 2..1, 0..usize::MAX] {
        for result in
            [segment.reserve(range.clone()), segment.discard(range.clone()), segment.prefault(range)]
        {
            let error = result.unwrap_err().to_string();
            assert!(error.contains("not within its 4096 bytes"), "{error}");
        }
    }
}

#[test]
fn a_segment_is_mapped_once_is_left_out_of_core_dumps_and_leaves_nothing() {
    isolated!({
        let before = Census::take();
        let segment = Segment::anonymous(KIND, 4096).unwrap();
        let again: Vec<Segment> = (0..50)
            .map(|_| Segment::attach(segment.fd().try_clone_to_owned().unwrap(), KIND).unwrap())
            .collect();
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let ours: Vec<&str> = maps.split("VmFlags:").collect();
        let of_segment = ours.iter().filter(|map| map.contains("memfd:procession:test")).count();
        assert_eq!(of_segment, 1, "{maps}");
        let place = ours.iter().position(|map| map.contains("memfd:procession:test")).unwrap();
        let flags = ours[place + 1].lines().next().unwrap();
        assert!(flags.contains(" dd"), "not excluded from core dumps: {flags}");
        assert_eq!(Census::take().descriptors().len(), before.descriptors().len() + 1);
        drop((segment, again));
        before.assert_settles(Duration::from_secs(10));
    });
}

#[test]
fn threads_that_attach_and_drop_one_segment_at_once_always_see_it() {
    let _watchdog = watchdog!();
    let segment = Segment::anonymous(KIND, 4096).unwrap();
    set(&segment, 1, 42);
    let fd = segment.fd().try_clone_to_owned().unwrap();
    // From here on the mapping comes and goes.
    drop(segment);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..2_000 {
                    let segment = Segment::attach(fd.try_clone().unwrap(), KIND).unwrap();
                    assert_eq!(get(&segment, 1), 42);
                }
            });
        }
    });
}
