//! A row of elements under a lock.

use crate::support::{given, take, through_a_parcel};
use procession_sync::{Array, LockError, Poison};
use procession_testkit::{role, watchdog};
use std::{panic::catch_unwind, time::Duration};

#[test]
fn role_writer() {
    let Some(mut role) = role::enter(role_writer) else { return };
    let array: Array<u32> = take(role.fd());
    let mut guard = array.lock().unwrap();
    guard[..3].fill(7);
    role.say("half");
    role.hear();
}

#[test]
fn elements_and_ranges_are_read_and_written_under_the_lock() {
    let _watchdog = watchdog!();
    let array = Array::from_slice(&[1_i32, 2, 3, 4, 5]).unwrap();
    let again = through_a_parcel(&array);
    assert!(array.same(&again) && !array.is_empty());
    again.set(0, -1).unwrap();
    assert_eq!(again.update(4, |last| core::mem::replace(last, 9)).unwrap(), 5);
    again.write(1, &[20, 30]).unwrap();
    assert_eq!((array.len(), array.to_vec().unwrap()), (5, vec![-1, 20, 30, 4, 9]));
    assert_eq!((array.get(2).unwrap(), array.read(1..4).unwrap()), (30, vec![20, 30, 4]));
    array.lock().unwrap().reverse();
    assert_eq!(again.to_vec().unwrap(), [9, 4, 30, 20, -1]);
    array.copy_from_slice(&[0; 5]).unwrap();
    assert_eq!(again.to_vec().unwrap(), [0; 5]);
}

#[test]
fn what_is_not_within_the_array_panics_and_poisons_nothing() {
    let _watchdog = watchdog!();
    let array = Array::from_slice(&[1_u8, 2, 3]).unwrap();
    let refused: [&(dyn Fn() + std::panic::RefUnwindSafe); 7] = [
        &|| drop(array.get(3)),
        &|| drop(array.set(usize::MAX, 0)),
        &|| drop(array.update(3, |_| ())),
        &|| drop(array.read(2..4)),
        &|| drop(array.write(2, &[1, 2])),
        &|| drop(array.write(usize::MAX, &[1, 2])),
        &|| drop(array.copy_from_slice(&[1, 2])),
    ];
    for refused in refused {
        catch_unwind(refused).unwrap_err();
    }
    assert_eq!(array.to_vec().unwrap(), [1, 2, 3]);
}

#[test]
fn memory_that_is_used_again_is_zero() {
    let _watchdog = watchdog!();
    for len in [1, 15, 16, 500, 5_000] {
        for _ in 0..3 {
            let array = Array::<u64>::new(len).unwrap();
            assert!(array.to_vec().unwrap().iter().all(|&element| element == 0));
            array.lock().unwrap().fill(u64::MAX);
        }
    }
}

#[test]
fn a_copy_is_independent() {
    let _watchdog = watchdog!();
    let array = Array::from_slice(&[1.5_f64, 2.5]).unwrap();
    let copy = array.copy().unwrap();
    array.set(0, 0.0).unwrap();
    assert_eq!(copy.to_vec().unwrap(), [1.5, 2.5]);
}

#[test]
fn a_byte_array_is_text_up_to_its_first_zero() {
    let _watchdog = watchdog!();
    let array = Array::from_slice(b"hello").unwrap();
    assert_eq!(array.c_str().unwrap(), b"hello");
    array.set_c_str(b"hi").unwrap();
    assert_eq!((array.c_str().unwrap(), array.to_vec().unwrap()), (b"hi".to_vec(), b"hi\0lo".to_vec()));
    array.set_c_str(b"world").unwrap();
    assert_eq!(array.c_str().unwrap(), b"world");
    catch_unwind(|| array.set_c_str(b"worlds")).unwrap_err();
    assert_eq!(array.to_vec().unwrap(), b"world");
}

#[test]
fn a_death_under_the_lock_poisons_and_leaves_valid_elements() {
    let _watchdog = watchdog!();
    let array = Array::from_slice(&[1_u32; 6]).unwrap();
    let mut other = role::start(role_writer, &[&given(&array)]);
    other.expect("half");
    assert!(array.try_lock().unwrap_err().is_timeout());
    assert!(array.lock_timeout(Duration::from_millis(20)).unwrap_err().is_timeout());
    let pid = other.pid();
    other.kill();
    let Err(LockError::Poisoned(poisoned)) = array.to_vec() else { panic!("not poisoned") };
    assert_eq!((poisoned.cause(), poisoned.into_inner()), (Poison::Died { pid }, vec![7, 7, 7, 1, 1, 1]));
    assert!(array.set(0, 0).is_err());
    array.clear_poison();
    assert_eq!(array.get(5).unwrap(), 1);
}

#[test]
fn huge_pages_are_a_wish() {
    let _watchdog = watchdog!();
    let array = Array::<u8>::builder().huge_pages(true).zeroed::<u32>(1 << 20).unwrap();
    array.set((1 << 20) - 1, 3).unwrap();
    assert_eq!(through_a_parcel(&array).get((1 << 20) - 1).unwrap(), 3);
    let small = Array::<u8>::builder().huge_pages(true).copy_of(&[1, 2]).unwrap();
    assert_eq!(small.to_vec().unwrap(), [1, 2]);
}
