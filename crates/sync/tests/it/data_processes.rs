//! Values and arrays as arguments of threads, and of processes under each start method. These are CPython's tests of them.

use crate::{
    support::BOUND,
    ways::{Party, Way, each_way},
};
use procession_sync::{Array, ArrayPart, Deadline, LockError, Poison, RawArray, RawValue, Value, bytemuck};
use std::time::Duration;

each_way! {
    values_changed_by_a_child,
    raw_values_changed_by_a_child,
    a_held_value_or_array_is_its_holders_alone,
    arrays_changed_by_a_child,
    memory_that_a_child_uses_again_is_zero,
    raw_arrays_changed_by_a_child,
    everything_doubled_by_a_child,
    no_update_is_lost,
    parts_filled_by_children,
    a_killed_childs_lock_is_poisoned,
}

fn values_changed_by_a_child(way: Way) {
    type Values = (Value<i32>, Value<f64>, Value<i16>, Value<i64>, Value<u8>);
    let values: Values = (
        Value::new(7).unwrap(),
        Value::new(1.25).unwrap(),
        Value::new(-7).unwrap(),
        Value::new(1 << 40).unwrap(),
        Value::new(b'x').unwrap(),
    );
    fn child((i, d, h, q, c): Values) {
        assert_eq!((i.get().unwrap(), d.get().unwrap(), h.get().unwrap()), (7, 1.25, -7));
        assert_eq!((q.get().unwrap(), c.get().unwrap()), (1 << 40, b'x'));
        i.set(-1).unwrap();
        d.set(-1.5).unwrap();
        h.set(-232).unwrap();
        q.set(-(1 << 41)).unwrap();
        c.set(b'y').unwrap();
    }
    let (i, d, h, q, c) = values.clone();
    way.start(child, values).join();
    assert_eq!((i.get().unwrap(), d.get().unwrap(), h.get().unwrap()), (-1, -1.5, -232));
    assert_eq!((q.get().unwrap(), c.get().unwrap()), (-(1 << 41), b'y'));
}

fn raw_values_changed_by_a_child(way: Way) {
    let i = RawValue::new(7_i32).unwrap();
    let d = RawValue::new(1.25_f64).unwrap();
    let b = RawValue::new(false).unwrap();
    fn child((i, d, b): (RawValue<i32>, RawValue<f64>, RawValue<bool>)) {
        assert_eq!((i.swap(-1), d.swap(-1.5), b.swap(true)), (7, 1.25, false));
    }
    way.start(child, (i.clone(), d.clone(), b.clone())).join();
    assert_eq!((i.load(), d.load(), b.load()), (-1, -1.5, true));
}

/// As `_TestValue.test_getobj_getlock` and `_TestArray.test_getobj_getlock_obj`.
fn a_held_value_or_array_is_its_holders_alone(way: Way) {
    let data =
        (Value::new(5_i32).unwrap(), Array::from_slice(&SERIES).unwrap(), RawValue::new(7_i32).unwrap());
    fn child((value, array, raw): (Value<i32>, Array<i32>, RawValue<i32>)) -> bool {
        let deadline = Deadline::after(Duration::from_millis(20));
        let refused = value.try_lock().unwrap_err().is_timeout()
            && value.lock_deadline(deadline).unwrap_err().is_timeout()
            && array.try_lock().unwrap_err().is_timeout()
            && array.lock_timeout(Duration::from_millis(1)).unwrap_err().is_timeout();
        // What has no lock waits for nobody.
        refused && deadline.passed() && raw.swap(8) == 7
    }
    let held = (data.0.lock().unwrap(), data.1.lock().unwrap());
    assert!(way.start(child, data.clone()).join());
    assert_eq!(data.2.load(), 8);
    drop(held);
    let late = |(value, array): (Value<i32>, Array<i32>)| {
        let lengths = (*value.lock_timeout(BOUND).unwrap(), array.lock_timeout(BOUND).unwrap().len());
        lengths == (5, 10) && value.holder().is_none() && array.holder().is_none()
    };
    assert!(way.start(late, (data.0.clone(), data.1.clone())).join());
}

/// As `_TestArray.test_array_from_size`.
fn memory_that_a_child_uses_again_is_zero(way: Way) {
    let again = |()| {
        (0..10).all(|_| {
            let array = Array::<i32>::new(10).unwrap();
            let zero = array.to_vec().unwrap() == [0; 10];
            array.lock().unwrap().fill(5);
            zero
        })
    };
    assert!(way.start(again, ()).join());
}

const SERIES: [i32; 10] = [680, 626, 934, 821, 150, 233, 548, 982, 714, 831];

/// Each element becomes the sum of all up to it.
fn sums(elements: &mut [i32]) {
    for n in 1..elements.len() {
        elements[n] += elements[n - 1];
    }
}

fn arrays_changed_by_a_child(way: Way) {
    let array = Array::from_slice(&SERIES).unwrap();
    assert_eq!((array.len(), array.get(3).unwrap()), (10, SERIES[3]));
    assert_eq!(array.read(2..7).unwrap(), SERIES[2..7]);
    array.write(4, &[1, 2, 3, 4]).unwrap();
    way.start(|array: Array<i32>| sums(&mut array.lock().unwrap()), array.clone()).join();
    let mut expected = SERIES;
    expected[4..8].copy_from_slice(&[1, 2, 3, 4]);
    sums(&mut expected);
    assert_eq!(array.to_vec().unwrap(), expected);
}

fn raw_arrays_changed_by_a_child(way: Way) {
    let array = RawArray::from_slice(&SERIES).unwrap();
    fn child(array: RawArray<i32>) {
        for n in 1..array.len() {
            array[n].fetch_add(array[n - 1].load());
        }
    }
    way.start(child, array.clone()).join();
    let mut expected = SERIES;
    sums(&mut expected);
    assert_eq!(array.to_vec(), expected);
}

#[derive(Clone, Copy, PartialEq, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[bytemuck(crate = "procession_sync::bytemuck")]
#[repr(C)]
struct Record {
    x: i64,
    y: f64,
    z: i64,
}

fn everything_doubled_by_a_child(way: Way) {
    type All = (Value<i32>, Value<f64>, Value<i64>, Value<Record>, Array<f64>, Array<u8>);
    let all: All = (
        Value::new(7).unwrap(),
        Value::new(1.0 / 3.0).unwrap(),
        Value::new(1 << 33).unwrap(),
        Value::new(Record { x: 3, y: 2.0, z: 1 }).unwrap(),
        Array::from_slice(&std::array::from_fn::<f64, 10, _>(|n| n as f64)).unwrap(),
        Array::new(20).unwrap(),
    );
    all.5.set_c_str(b"hello").unwrap();
    fn child((x, y, z, record, array, text): All) {
        x.update(|x| *x *= 2).unwrap();
        y.update(|y| *y *= 2.0).unwrap();
        z.update(|z| *z *= 2).unwrap();
        record.update(|record| *record = Record { x: record.x * 2, y: record.y * 2.0, z: record.z }).unwrap();
        array.lock().unwrap().iter_mut().for_each(|element| *element *= 2.0);
        let twice = text.c_str().unwrap().repeat(2);
        text.set_c_str(&twice).unwrap();
    }
    let copy = (all.3.copy().unwrap(), all.4.copy().unwrap());
    way.start(child, all.clone()).join();
    let (x, y, z, record, array, text) = all;
    assert_eq!((x.get().unwrap(), y.get().unwrap(), z.get().unwrap()), (14, 2.0 / 3.0, 1 << 34));
    assert_eq!(record.get().unwrap(), Record { x: 6, y: 4.0, z: 1 });
    assert_eq!(array.get(9).unwrap(), 18.0);
    assert_eq!(text.c_str().unwrap(), b"hellohello");
    assert_eq!((copy.0.get().unwrap().x, copy.1.get(9).unwrap()), (3, 9.0));
}

fn no_update_is_lost(way: Way) {
    type Counters = (Value<u64>, Array<u32>, RawValue<u64>);
    let counters: Counters = (Value::new(0).unwrap(), Array::new(3).unwrap(), RawValue::new(0).unwrap());
    fn child((value, array, raw): Counters) {
        for n in 0..2_000 {
            value.update(|value| *value += 1).unwrap();
            array.update(n % 3, |element| *element += 1).unwrap();
            raw.fetch_add(1);
        }
    }
    let children = [0; 3].map(|_| way.start(child, counters.clone()));
    child(counters.clone());
    children.into_iter().for_each(|child| child.join());
    assert_eq!((counters.0.get().unwrap(), counters.2.load()), (8_000, 8_000));
    assert_eq!(counters.1.to_vec().unwrap().iter().sum::<u32>(), 8_000);
}

fn parts_filled_by_children(way: Way) {
    let array = Array::<u64>::new(100_000).unwrap();
    fn child(mut part: ArrayPart<u64>) {
        let start = part.range().start as u64;
        part.get_mut().unwrap().iter_mut().zip(start..).for_each(|(place, n)| *place = n);
    }
    let parts = array.chunks_mut(30_000).unwrap();
    let children: Vec<_> = parts.into_iter().map(|part| way.start(child, part)).collect();
    children.into_iter().for_each(|child| child.join());
    assert!(array.lock().unwrap().iter().copied().eq(0..100_000));
}

fn a_killed_childs_lock_is_poisoned(way: Way) {
    if way == Way::Threads {
        // A thread is not killed: what its panic leaves is another test's.
        return;
    }
    let values = (Value::new(0_u32).unwrap(), Array::<u8>::new(10).unwrap(), RawValue::new(false).unwrap());
    fn child((value, array, ready): (Value<u32>, Array<u8>, RawValue<bool>)) {
        let (_value, _array) = (value.lock().unwrap(), array.lock().unwrap());
        ready.store(true);
        loop {
            std::thread::park();
        }
    }
    let Party::Process(child) = way.start(child, values.clone()) else { unreachable!() };
    while !values.2.load() {
        std::thread::yield_now();
    }
    assert!(values.0.lock_timeout(Duration::from_millis(10)).unwrap_err().is_timeout());
    let poison = Some(Poison::Died { pid: child.pid() });
    child.kill().unwrap();
    drop(child.join());
    assert_eq!(values.0.lock().map(drop).map_err(LockError::without_guard).unwrap_err().poison(), poison);
    assert_eq!(values.1.lock().map(drop).map_err(LockError::without_guard).unwrap_err().poison(), poison);
}
