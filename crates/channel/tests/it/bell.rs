//! Bells by themselves.

use crate::support::{past, soon};
use procession_channel::{Bell, Waited};
use procession_parcel::Parcel;
use procession_shm::{Kind, Segment};
use procession_sys::Spin;
use procession_testkit::watchdog;
use std::sync::atomic::{AtomicU32, Ordering};

#[test]
fn many_ringers_wake_one_sleeper_and_no_change_is_missed() {
    const RINGERS: u32 = 4;
    const ROUNDS: u32 = 2_000;
    let _watchdog = watchdog!();
    let bell = Bell::new().unwrap();
    let (count, seen) = (AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for _ in 0..RINGERS {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    count.fetch_add(1, Ordering::Release);
                    bell.ring();
                }
            });
        }
        let mut last = 0;
        while last < RINGERS * ROUNDS {
            assert!(bell.wait_while(None, &mut Spin::none(), || count.load(Ordering::Acquire) == last));
            last = count.load(Ordering::Acquire);
            seen.store(last, Ordering::Relaxed);
        }
    });
    assert_eq!(seen.into_inner(), RINGERS * ROUNDS);
}

#[test]
fn a_ring_wakes_all_sleepers() {
    let _watchdog = watchdog!();
    let bell = Bell::new().unwrap();
    let (ready, woken) = (AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                bell.wait_while(None, &mut Spin::none(), || ready.load(Ordering::Acquire) == 0);
                woken.fetch_add(1, Ordering::Relaxed);
            });
        }
        ready.store(1, Ordering::Release);
        bell.ring();
    });
    assert_eq!(woken.into_inner(), 4);
}

#[test]
fn a_change_without_a_ring_is_found_after_a_slice() {
    let _watchdog = watchdog!();
    let bell = Bell::new().unwrap();
    let mut looks = 0;
    // Nobody rings: the change is there when the sleeper looks for the third time.
    let waited = bell.wait_while(None, &mut Spin::none(), || {
        looks += 1;
        looks < 3
    });
    assert!(waited && looks == 3);
}

#[test]
fn a_slice_ends_for_the_sake_of_those_who_look_after_the_owners() {
    let _watchdog = watchdog!();
    let bell = Bell::new().unwrap();
    assert_eq!(bell.wait_slice(None, &mut Spin::none(), || true), Waited::Slice);
    assert_eq!(bell.wait_slice(Some(past()), &mut Spin::none(), || true), Waited::Deadline);
    assert_eq!(bell.wait_slice(Some(past()), &mut Spin::none(), || false), Waited::Ready);
    let deadline = soon();
    assert!(!bell.wait_while(Some(deadline), &mut Spin::adaptive(), || true));
    assert!(deadline.passed());
}

#[test]
fn a_deadline_comes_also_where_others_ring_all_the_time() {
    let _watchdog = watchdog!();
    let bell = Bell::new().unwrap();
    let over = AtomicU32::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while over.load(Ordering::Relaxed) == 0 {
                bell.ring();
            }
        });
        assert!(!bell.wait_while(Some(soon()), &mut Spin::none(), || true));
        over.store(1, Ordering::Relaxed);
    });
}

#[test]
fn a_bell_travels_in_a_parcel_and_stays_the_same_place() {
    let _watchdog = watchdog!();
    let segment = Segment::anonymous(Kind::new("bells", 1, 1), 4096).unwrap();
    // SAFETY: the segment is this test's, and nothing else lies in it.
    let bell = unsafe { Bell::in_segment(&segment, 3 * Bell::SIZE) }.unwrap();
    let arrived: Bell = Parcel::pack(&bell).unwrap().unpack().unwrap();
    assert!(arrived.place().0.same(&segment));
    assert_eq!(arrived.place().1, 3 * Bell::SIZE);
}

#[test]
fn a_bell_outside_its_segment_is_refused() {
    let _watchdog = watchdog!();
    let segment = Segment::anonymous(Kind::new("bells", 1, 1), 4096).unwrap();
    for offset in [4096, 4096 - 64, 8, usize::MAX & !127] {
        // SAFETY: as above.
        let error = unsafe { Bell::in_segment(&segment, offset) }.unwrap_err().to_string();
        assert!(error.contains("not within the segment's 4096"), "{error}");
    }
}
