//! A value under a lock.

use crate::support::{BOUND, given, take, through_a_parcel};
use procession_parcel::Parcel;
use procession_sync::{Lock, LockError, Poison, RawValue, Value, bytemuck};
use procession_testkit::{
    role,
    storm::{Rng, delay, kills},
    watchdog,
};
use std::time::Duration;

#[derive(Clone, Copy, PartialEq, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[bytemuck(crate = "procession_sync::bytemuck")]
#[repr(C)]
struct Point {
    x: f64,
    y: f64,
}

#[test]
fn role_holder() {
    let Some(mut role) = role::enter(role_holder) else { return };
    let value: Value<[u64; 4]> = take(role.fd());
    let mut guard = value.lock().unwrap();
    guard[0] = 7;
    guard[1] = 7;
    role.say("half");
    role.hear();
}

#[test]
fn role_counter() {
    let Some(mut role) = role::enter(role_counter) else { return };
    let (value, acknowledged): (Value<u64>, RawValue<u64>) = take(role.fd());
    role.say("ready");
    loop {
        // A killed one poisons the value; what it guards is one word, whole at any time.
        let mut guard = match value.lock() {
            Ok(guard) => guard,
            Err(LockError::Poisoned(poisoned)) => {
                value.clear_poison();
                poisoned.into_inner()
            }
            Err(error) => panic!("{error}"),
        };
        *guard += 1;
        drop(guard);
        acknowledged.fetch_add(1);
    }
}

#[test]
fn one_value_is_seen_by_all_handles() {
    let _watchdog = watchdog!();
    let value = Value::new(5_i32).unwrap();
    let (clone, packed) = (value.clone(), through_a_parcel(&value));
    assert!(value.same(&clone) && value.same(&packed) && !value.same(&Value::new(5).unwrap()));
    clone.set(-1).unwrap();
    assert_eq!(packed.get().unwrap(), -1);
    assert_eq!(packed.update(|value| core::mem::replace(value, 9)).unwrap(), -1);
    *value.lock().unwrap() += 1;
    assert_eq!(clone.get().unwrap(), 10);
    assert_eq!(
        value.update(|value| *value = value.wrapping_add(i32::MAX)).map(|()| value.get().unwrap()).unwrap(),
        { 10_i32.wrapping_add(i32::MAX) }
    );
}

#[test]
fn a_structure_with_the_derive_is_a_value() {
    let _watchdog = watchdog!();
    let point = Value::new(Point { x: 1.0, y: 2.0 }).unwrap();
    through_a_parcel(&point).update(|point| point.x *= 2.0).unwrap();
    assert_eq!(point.get().unwrap(), Point { x: 2.0, y: 2.0 });
    // One that is too large for a slot among others.
    let large = Value::new([7_u16; 10_000]).unwrap();
    assert!(through_a_parcel(&large).get().unwrap() == [7; 10_000]);
}

#[test]
fn a_copy_is_independent() {
    let _watchdog = watchdog!();
    let value = Value::new(1_u8).unwrap();
    let copy = value.copy().unwrap();
    value.set(2).unwrap();
    assert_eq!((copy.get().unwrap(), copy.same(&value)), (1, false));
}

#[test]
fn no_update_by_threads_is_lost() {
    let _watchdog = watchdog!();
    let value = Value::new(0_u64).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..5_000).for_each(|_| value.update(|value| *value += 1).unwrap()));
        }
    });
    assert_eq!(value.get().unwrap(), 20_000);
}

#[test]
fn a_held_value_is_waited_for_no_longer_than_asked() {
    let _watchdog = watchdog!();
    let value = Value::new(0_u64).unwrap();
    let guard = value.lock().unwrap();
    assert_eq!(value.holder().unwrap().pid, std::process::id());
    assert!(matches!(value.get(), Err(LockError::AlreadyHeld)));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            assert!(value.try_lock().unwrap_err().is_timeout());
            assert!(value.lock_timeout(Duration::from_millis(20)).unwrap_err().is_timeout());
            let deadline = procession_sync::Deadline::after(Duration::from_millis(20));
            assert!(value.lock_deadline(deadline).unwrap_err().is_timeout());
        });
    });
    drop(guard);
    assert!(value.lock_timeout(BOUND).is_ok());
}

#[test]
fn a_death_under_the_lock_poisons_and_leaves_valid_bits() {
    let _watchdog = watchdog!();
    let value = Value::new([0_u64; 4]).unwrap();
    let mut other = role::start(role_holder, &[&given(&value)]);
    other.expect("half");
    let pid = other.pid();
    other.kill();
    let error = value.get().unwrap_err();
    assert_eq!(error.poison(), Some(Poison::Died { pid }));
    assert_eq!(value.poison(), Some(Poison::Died { pid }));
    let LockError::Poisoned(poisoned) = error else { panic!("{error}") };
    assert_eq!(poisoned.into_inner(), [7, 7, 0, 0]);
    // Not changed by those who do not look.
    assert!(
        value.set([1; 4]).is_err() && value.update(|_| panic!("called")).is_err() && value.copy().is_err()
    );
    let Err(LockError::Poisoned(poisoned)) = value.lock() else { panic!() };
    let mut guard = poisoned.into_inner();
    *guard = [1, 2, 3, 4];
    value.clear_poison();
    drop(guard);
    assert_eq!(value.get().unwrap(), [1, 2, 3, 4]);
}

#[test]
fn a_panic_under_the_lock_poisons() {
    let _watchdog = watchdog!();
    let value = Value::new(1_u32).unwrap();
    let other = value.clone();
    std::thread::spawn(move || other.update(|_| panic!("in the middle"))).join().unwrap_err();
    assert_eq!(value.get().unwrap_err().poison(), Some(Poison::Panicked { pid: std::process::id() }));
}

#[test]
fn another_type_or_form_is_refused() {
    let _watchdog = watchdog!();
    fn as_another<T: serde::Serialize, U: serde::de::DeserializeOwned + 'static>(value: &T) -> String {
        match Parcel::pack(value).unwrap().unpack::<U>() {
            Ok(_) => panic!("taken for another"),
            Err(error) => error.to_string(),
        }
    }
    let value = Value::new(1_i32).unwrap();
    let error = as_another::<_, Value<f32>>(&value);
    assert!(error.contains("`f32` of 4 bytes, but another type, of 4 bytes"), "{error}");
    assert!(as_another::<_, Value<i64>>(&value).contains("`i64` of 8 bytes, but another type, of 4 bytes"));
    as_another::<_, Value<[i32; 1]>>(&value);
    as_another::<_, procession_sync::Array<i32>>(&value);
    as_another::<_, RawValue<i32>>(&value);
    as_another::<_, Lock>(&value);
    as_another::<_, Value<i32>>(&Lock::new().unwrap());
    as_another::<_, Value<i32>>(&procession_sync::Array::from_slice(&[1_i32]).unwrap());
    as_another::<_, RawValue<u32>>(&RawValue::new(1_i32).unwrap());
    as_another::<_, RawValue<u32>>(&RawValue::new(1.0_f32).unwrap());
}

#[test]
fn no_acknowledged_update_is_lost_in_a_storm() {
    let _watchdog = watchdog!();
    let mut rng = Rng::from_env();
    let (value, acknowledged) = (Value::new(0_u64).unwrap(), RawValue::new(0_u64).unwrap());
    let start = || {
        let mut counter = role::start(role_counter, &[&given(&(&value, &acknowledged))]);
        counter.expect("ready");
        counter
    };
    let mut killed = 0;
    let mut counters = [start(), start()];
    for round in 0..kills(120) / 10 {
        delay(rng.duration(Duration::from_millis(5)));
        let counter = &mut counters[round as usize % 2];
        counter.kill();
        killed += 1;
        // One of them at the most has counted and not yet said so; the others still do.
        *counter = start();
    }
    counters.iter_mut().for_each(|counter| counter.kill());
    killed += 2;
    let (value, acknowledged) = match value.get() {
        Ok(value) => (value, acknowledged.load()),
        Err(LockError::Poisoned(poisoned)) => (poisoned.into_inner(), acknowledged.load()),
        Err(error) => panic!("{error}"),
    };
    println!("{value} counted, {acknowledged} acknowledged, {killed} killed");
    assert!(acknowledged <= value && value <= acknowledged + killed);
    assert!(acknowledged > 0);
}
