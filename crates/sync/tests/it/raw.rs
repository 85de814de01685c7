//! Atomics that processes share.

use crate::support::through_a_parcel;
use procession_sync::{Atomic, AtomicNumber, RawArray, RawValue};
use procession_testkit::watchdog;
use std::sync::atomic::Ordering;

fn round_trip<T: Atomic>(one: T, other: T) {
    let raw = RawValue::new(one).unwrap();
    let again = through_a_parcel(&raw);
    assert!(raw.same(&again));
    assert_eq!(again.load(), one);
    again.store(other);
    assert_eq!(raw.swap(one), other);
    assert_eq!(raw.compare_exchange(other, one), Err(one));
    assert_eq!(raw.compare_exchange(one, other), Ok(one));
    assert_eq!(raw.update(|_| one), other);
    let copy = raw.copy().unwrap();
    raw.store(other);
    assert_eq!((copy.load(), raw.load()), (one, other));
}

fn counts<T: AtomicNumber>(numbers: [T; 3]) {
    let [two, three, five] = numbers;
    let raw = RawValue::new(two).unwrap();
    assert_eq!(raw.fetch_add(three), two);
    assert_eq!(raw.fetch_sub(two), five);
    assert_eq!(raw.fetch_max(five), three);
    assert_eq!(raw.fetch_min(two), five);
    assert_eq!(raw.load(), two);
}

#[test]
fn every_type_is_loaded_and_stored_at_once() {
    let _watchdog = watchdog!();
    round_trip(1_u8, u8::MAX);
    round_trip(1_u16, u16::MAX);
    round_trip(1_u32, u32::MAX);
    round_trip(1_u64, u64::MAX);
    round_trip(1_usize, usize::MAX);
    round_trip(-1_i8, i8::MIN);
    round_trip(-1_i16, i16::MIN);
    round_trip(-1_i32, i32::MIN);
    round_trip(-1_i64, i64::MIN);
    round_trip(-1_isize, isize::MIN);
    round_trip(true, false);
    round_trip(1.5_f32, f32::INFINITY);
    round_trip(-1.5_f64, f64::MIN_POSITIVE);
    counts([2_u8, 3, 5]);
    counts([2_i64, 3, 5]);
    counts([2.0_f64, 3.0, 5.0]);
    let nan = RawValue::new(f64::NAN).unwrap();
    assert!(nan.compare_exchange(f64::NAN, 0.0).is_ok(), "floats are compared by their bits");
    let bits = RawValue::new(0b1100_u8).unwrap();
    assert_eq!((bits.fetch_and(0b0110), bits.fetch_or(1), bits.fetch_xor(0b0101)), (0b1100, 0b0100, 0b0101));
    assert_eq!(bits.load(), 0);
}

#[test]
fn integers_wrap_around() {
    let _watchdog = watchdog!();
    let raw = RawValue::new(i32::MAX).unwrap();
    raw.fetch_add(1);
    assert_eq!(raw.load(), i32::MIN);
}

#[test]
fn a_byte_that_is_no_bool_is_true() {
    let _watchdog = watchdog!();
    let raw = RawValue::new(false).unwrap();
    raw.as_std().store(0x80, Ordering::Relaxed);
    assert!(raw.load());
}

#[test]
fn an_array_is_a_slice_of_atomics() {
    let _watchdog = watchdog!();
    let array = RawArray::from_slice(&[1_u16, 2, 3]).unwrap();
    let again = through_a_parcel(&array);
    again[1].fetch_add(40);
    assert_eq!((array.to_vec(), array.len()), (vec![1, 42, 3], 3));
    let copy = array.copy().unwrap();
    array.copy_from_slice(&[7, 8, 9]);
    assert_eq!((copy.to_vec(), again.to_vec()), (vec![1, 42, 3], vec![7, 8, 9]));
    assert!(again.get(3).is_none());
    assert!(RawArray::<u64>::new(0).unwrap().is_empty());
    // In a segment of its own.
    let large = RawArray::<u64>::new(100_000).unwrap();
    through_a_parcel(&large)[99_999].store(5);
    assert_eq!((large[99_999].load(), large[0].load()), (5, 0));
}

#[test]
fn no_update_by_threads_is_lost() {
    let _watchdog = watchdog!();
    let (sum, array) = (RawValue::new(0.0_f64).unwrap(), RawArray::<u32>::new(8).unwrap());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for n in 0..5_000 {
                    sum.fetch_add(0.5);
                    array[n % 8].fetch_add(1);
                }
            });
        }
    });
    assert_eq!(sum.load(), 10_000.0);
    assert_eq!(array.to_vec(), [2_500; 8]);
}
