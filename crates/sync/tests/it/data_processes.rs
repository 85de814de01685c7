//! Values and arrays as arguments of processes, under each start method. These are CPython's tests of them.

use procession_process::{Context, Process, StartMethod};
use procession_sync::{Array, ArrayPart, LockError, Poison, RawArray, RawValue, Value, bytemuck};
use procession_testkit::watchdog;
use std::time::Duration;

/// Makes one test per start method. Fork is refused in a process with threads, such as a test harness, so there the
/// function runs in a process of its own that was executed anew.
macro_rules! each_method {
    ($($name:ident),* $(,)?) => {
        each_method!(@module forkserver ForkServer $($name)*);
        each_method!(@module spawn Spawn $($name)*);
        each_method!(@module fork Fork $($name)*);
    };
    (@module $module:ident $method:ident $($name:ident)*) => {
        mod $module {
            $(#[test]
            fn $name() {
                super::under(procession_process::StartMethod::$method, super::$name);
            })*
        }
    };
}

each_method! {
    values_changed_by_a_child,
    raw_values_changed_by_a_child,
    arrays_changed_by_a_child,
    raw_arrays_changed_by_a_child,
    everything_doubled_by_a_child,
    no_update_is_lost,
    parts_filled_by_children,
    a_killed_childs_lock_is_poisoned,
}

fn under(method: StartMethod, body: fn(StartMethod)) {
    let _watchdog = watchdog!();
    if method == StartMethod::Fork {
        Context::new(StartMethod::Spawn).spawn(body, method).unwrap().join().unwrap();
    } else {
        body(method);
    }
}

fn run<A: serde::Serialize + serde::de::DeserializeOwned + 'static>(
    method: StartMethod,
    body: fn(A),
    argument: A,
) -> Process<()> {
    Context::new(method).spawn(body, argument).unwrap()
}

fn values_changed_by_a_child(method: StartMethod) {
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
    run(method, child, values).join().unwrap();
    assert_eq!((i.get().unwrap(), d.get().unwrap(), h.get().unwrap()), (-1, -1.5, -232));
    assert_eq!((q.get().unwrap(), c.get().unwrap()), (-(1 << 41), b'y'));
}

fn raw_values_changed_by_a_child(method: StartMethod) {
    let i = RawValue::new(7_i32).unwrap();
    let d = RawValue::new(1.25_f64).unwrap();
    let b = RawValue::new(false).unwrap();
    fn child((i, d, b): (RawValue<i32>, RawValue<f64>, RawValue<bool>)) {
        assert_eq!((i.swap(-1), d.swap(-1.5), b.swap(true)), (7, 1.25, false));
    }
    run(method, child, (i.clone(), d.clone(), b.clone())).join().unwrap();
    assert_eq!((i.load(), d.load(), b.load()), (-1, -1.5, true));
}

const SERIES: [i32; 10] = [680, 626, 934, 821, 150, 233, 548, 982, 714, 831];

/// Each element becomes the sum of all up to it.
fn sums(elements: &mut [i32]) {
    for n in 1..elements.len() {
        elements[n] += elements[n - 1];
    }
}

fn arrays_changed_by_a_child(method: StartMethod) {
    let array = Array::from_slice(&SERIES).unwrap();
    assert_eq!((array.len(), array.get(3).unwrap()), (10, SERIES[3]));
    assert_eq!(array.read(2..7).unwrap(), SERIES[2..7]);
    array.write(4, &[1, 2, 3, 4]).unwrap();
    run(method, |array: Array<i32>| sums(&mut array.lock().unwrap()), array.clone()).join().unwrap();
    let mut expected = SERIES;
    expected[4..8].copy_from_slice(&[1, 2, 3, 4]);
    sums(&mut expected);
    assert_eq!(array.to_vec().unwrap(), expected);
}

fn raw_arrays_changed_by_a_child(method: StartMethod) {
    let array = RawArray::from_slice(&SERIES).unwrap();
    fn child(array: RawArray<i32>) {
        for n in 1..array.len() {
            array[n].fetch_add(array[n - 1].load());
        }
    }
    run(method, child, array.clone()).join().unwrap();
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

fn everything_doubled_by_a_child(method: StartMethod) {
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
    run(method, child, all.clone()).join().unwrap();
    let (x, y, z, record, array, text) = all;
    assert_eq!((x.get().unwrap(), y.get().unwrap(), z.get().unwrap()), (14, 2.0 / 3.0, 1 << 34));
    assert_eq!(record.get().unwrap(), Record { x: 6, y: 4.0, z: 1 });
    assert_eq!(array.get(9).unwrap(), 18.0);
    assert_eq!(text.c_str().unwrap(), b"hellohello");
    assert_eq!((copy.0.get().unwrap().x, copy.1.get(9).unwrap()), (3, 9.0));
}

fn no_update_is_lost(method: StartMethod) {
    type Counters = (Value<u64>, Array<u32>, RawValue<u64>);
    let counters: Counters = (Value::new(0).unwrap(), Array::new(3).unwrap(), RawValue::new(0).unwrap());
    fn child((value, array, raw): Counters) {
        for n in 0..2_000 {
            value.update(|value| *value += 1).unwrap();
            array.update(n % 3, |element| *element += 1).unwrap();
            raw.fetch_add(1);
        }
    }
    let children = [0; 3].map(|_| run(method, child, counters.clone()));
    child(counters.clone());
    children.into_iter().for_each(|child| child.join().unwrap());
    assert_eq!((counters.0.get().unwrap(), counters.2.load()), (8_000, 8_000));
    assert_eq!(counters.1.to_vec().unwrap().iter().sum::<u32>(), 8_000);
}

fn parts_filled_by_children(method: StartMethod) {
    let array = Array::<u64>::new(100_000).unwrap();
    fn child(mut part: ArrayPart<u64>) {
        let start = part.range().start as u64;
        part.get_mut().unwrap().iter_mut().zip(start..).for_each(|(place, n)| *place = n);
    }
    let parts = array.chunks_mut(30_000).unwrap();
    let children: Vec<_> = parts.into_iter().map(|part| run(method, child, part)).collect();
    children.into_iter().for_each(|child| child.join().unwrap());
    assert!(array.lock().unwrap().iter().copied().eq(0..100_000));
}

fn a_killed_childs_lock_is_poisoned(method: StartMethod) {
    let values = (Value::new(0_u32).unwrap(), Array::<u8>::new(10).unwrap(), RawValue::new(false).unwrap());
    fn child((value, array, ready): (Value<u32>, Array<u8>, RawValue<bool>)) {
        let (_value, _array) = (value.lock().unwrap(), array.lock().unwrap());
        ready.store(true);
        loop {
            std::thread::park();
        }
    }
    let child = run(method, child, values.clone());
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
