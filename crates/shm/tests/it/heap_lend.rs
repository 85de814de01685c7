//! A block that is lent to the ends of a ring, part by part.

use crate::heap_support::{assert_empty, give, of_mib, start, take};
use procession_shm::{Heap, HeapRing, Lending, LentPart, Loan, SharedVec};
use procession_testkit::{role, watchdog};
use std::{
    os::unix::net::UnixStream,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Duration,
};

fn enter(ring: &HeapRing, loan: Loan, index: u64) -> Result<LentPart<u32>, procession_shm::Error> {
    // SAFETY: all loans here are of `u32`, by the ring that they are used with.
    unsafe { ring.enter(loan, index) }
}

#[test]
fn parts_are_disjoint_and_the_owner_has_what_was_written() {
    let _watchdog = watchdog!();
    let heap = of_mib(4);
    let ring = HeapRing::new(&heap).unwrap();
    for len in [1, 9, 10, 11, 100_000] {
        let mut numbers = heap.vec::<u32>(len).unwrap();
        let lending = ring.lend(&mut numbers, 10).unwrap();
        let loan = lending.loan();
        assert_eq!(loan.parts(), len.div_ceil(10) as u64);
        for index in 0..loan.parts() {
            let mut part = enter(&ring, loan, index).unwrap();
            assert_eq!(part.range().start, index as usize * 10);
            let numbers = part.range();
            part.elements().iter_mut().zip(numbers).for_each(|(place, n)| *place += n as u32);
        }
        assert!(enter(&ring, loan, loan.parts()).is_err());
        assert!(enter(&ring, loan, u64::MAX).is_err());
        drop(lending);
        assert!(numbers.iter().copied().eq(0..len as u32));
        assert!(enter(&ring, loan, 0).unwrap_err().to_string().contains("over"));
        assert_eq!(heap.stats().blocks, 1);
    }
    let mut none = heap.vec::<u32>(0).unwrap();
    let lending = ring.lend(&mut none, 3).unwrap();
    assert_eq!(lending.loan().parts(), 0);
    drop(lending);
    assert!(none.is_here());
    drop(none);
    assert_empty(&heap);
}

#[test]
fn the_owner_waits_until_nobody_is_in_a_part() {
    let _watchdog = watchdog!();
    let heap = of_mib(4);
    let ring = HeapRing::new(&heap).unwrap();
    let mut numbers = heap.vec::<u32>(20).unwrap();
    let lending = ring.lend(&mut numbers, 10).unwrap();
    let loan = lending.loan();
    let (entered, entry) = mpsc::channel();
    let left = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut part = enter(&ring, loan, 1).unwrap();
            entered.send(()).unwrap();
            // Long enough that a loan which does not wait ends first.
            std::thread::sleep(Duration::from_millis(100));
            part.elements().fill(7);
            left.store(true, Ordering::Release);
            drop(part);
        });
        entry.recv().unwrap();
        drop(lending);
        assert!(left.load(Ordering::Acquire));
    });
    assert_eq!(numbers[10..], [7; 10]);
}

#[test]
fn one_part_has_one_user_at_a_time() {
    let _watchdog = watchdog!();
    let heap = of_mib(4);
    let ring = HeapRing::new(&heap).unwrap();
    let mut numbers = heap.vec::<u32>(20).unwrap();
    let lending = ring.lend(&mut numbers, 10).unwrap();
    let part = enter(&ring, lending.loan(), 1).unwrap();
    // This process, and another one.
    assert!(enter(&ring, lending.loan(), 1).unwrap_err().to_string().contains("somebody else"));
    let (mut child, socket) = start(role_worker);
    give(&socket, &(ring.another().unwrap(), lending.loan(), 1_u64));
    assert!(!take::<bool>(&socket));
    drop(enter(&ring, lending.loan(), 0).unwrap());
    drop(part);
    give(&socket, &(ring.another().unwrap(), lending.loan(), 1_u64));
    assert!(take::<bool>(&socket));
    child.kill();
    // It was in the part, and died there.
    drop(enter(&ring, lending.loan(), 1).unwrap());
    drop(lending);
    assert_eq!(numbers[10], 1);
}

/// Enters parts that it is told, and says whether it could; it stays in them.
#[test]
fn role_worker() {
    let Some(mut role) = role::enter(role_worker) else { return };
    let socket = UnixStream::from(role.fd());
    let mut parts = Vec::new();
    loop {
        let (ring, loan, index): (HeapRing, Loan, u64) = take(&socket);
        let entered = enter(&ring, loan, index).map(|mut part| {
            part.elements()[0] += 1;
            part
        });
        give(&socket, &entered.is_ok());
        parts.push((entered.ok(), ring));
    }
}

#[test]
fn a_loan_that_is_leaked_leaves_the_handle_empty() {
    let _watchdog = watchdog!();
    let heap = of_mib(4);
    let ring = HeapRing::new(&heap).unwrap();
    let mut numbers = heap.vec::<u32>(20).unwrap();
    let lending = ring.lend(&mut numbers, 10).unwrap();
    let loan = lending.loan();
    std::mem::forget::<Lending<'_, u32>>(lending);
    assert!(!numbers.is_here());
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| numbers[0])).is_err());
    assert!(ring.lend(&mut numbers, 10).is_err());
    let mut bytes = Vec::new();
    assert!(procession_parcel::codec::encode_with(&numbers, ring.carrier_out(), &mut bytes).is_err());
    ring.back();
    assert!(procession_parcel::Parcel::pack(&numbers).is_err());
    drop(enter(&ring, loan, 1).unwrap());
    drop(numbers);
    // It may be in use: it stays, until nobody has an end of the ring.
    heap.sweep().unwrap();
    assert_eq!(heap.stats().blocks, 1);
    drop(ring);
    assert_empty(&heap);
}

#[test]
fn what_a_dead_owner_lent_is_not_freed_while_somebody_can_be_in_it() {
    let _watchdog = watchdog!();
    let (mut child, socket) = start(role_owner);
    let (heap, ring, loan): (Heap, HeapRing, Loan) = take(&socket);
    let mut part = enter(&ring, loan, 0).unwrap();
    child.kill();
    heap.sweep().unwrap();
    assert_eq!(heap.stats().blocks, 1);
    part.elements().fill(3);
    // A later part can still be entered: nobody has said that the loan is over.
    drop(enter(&ring, loan, 1).unwrap());
    drop(part);
    heap.sweep().unwrap();
    assert_eq!(heap.stats().blocks, 1);
    drop(ring);
    assert_empty(&heap);
}

#[test]
fn role_owner() {
    let Some(mut role) = role::enter(role_owner) else { return };
    let socket = UnixStream::from(role.fd());
    let heap = of_mib(4);
    let ring = HeapRing::new(&heap).unwrap();
    let mut numbers = heap.vec::<u32>(20).unwrap();
    let lending = ring.lend(&mut numbers, 10).unwrap();
    give(&socket, &(&heap, ring.another().unwrap(), lending.loan()));
    role.hear();
    drop(lending);
}

#[test]
fn what_is_not_here_or_lies_elsewhere_is_not_lent() {
    let _watchdog = watchdog!();
    let (heap, other) = (of_mib(4), of_mib(4));
    let ring = HeapRing::new(&heap).unwrap();
    let mut numbers = other.vec::<u32>(20).unwrap();
    assert!(ring.lend(&mut numbers, 10).unwrap_err().to_string().contains("another heap"));
    let mut numbers = heap.vec::<u32>(20).unwrap();
    let parcel = procession_parcel::Parcel::pack(&numbers).unwrap();
    assert!(ring.lend(&mut numbers, 10).unwrap_err().to_string().contains("sent"));
    let there: SharedVec<u32> = parcel.unpack().unwrap();
    ring.release();
    let mut there = there;
    assert!(ring.lend(&mut there, 10).unwrap_err().to_string().contains("gone"));
    assert_eq!(there[0], 0);
}
