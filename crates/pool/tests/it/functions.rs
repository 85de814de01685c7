//! How long functions, and what they have captured, are kept.

use procession_parcel::{Bytes, Erased, Parcel};
use procession_pool::{
    Pool, Work,
    back::{Back, Capabilities, Envelope, Event, Events, FunctionId, Key, NoSleep, Submit, Waiter},
    task,
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

const MEGABYTE: usize = 1 << 20;

/// What a back was told of functions.
#[derive(Debug, Default)]
struct Known {
    parcels: HashMap<FunctionId, Arc<Parcel>>,
    defined: usize,
}

impl Known {
    fn bytes(&self) -> usize {
        self.parcels.values().map(|parcel| parcel.bytes().len()).sum()
    }
}

/// A back that answers every item with 1.
#[derive(Debug)]
struct Ones {
    known: Arc<Mutex<Known>>,
    tasks: Vec<(Key, u32)>,
}

impl Back for Ones {
    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }
    fn workers(&self) -> usize {
        1
    }
    fn define(&mut self, id: FunctionId, _: &Arc<Erased>, parcel: &Arc<Parcel>) {
        let mut known = self.known.lock().unwrap();
        known.defined += 1;
        assert!(known.parcels.insert(id, parcel.clone()).is_none(), "{id:?} was defined already");
    }
    fn undefine(&mut self, id: FunctionId) {
        assert!(self.known.lock().unwrap().parcels.remove(&id).is_some());
    }
    fn submit(&mut self, task: &Envelope<'_>) -> Submit {
        assert!(self.known.lock().unwrap().parcels.contains_key(&task.function));
        self.tasks.push((task.key, task.items));
        Submit::Accepted
    }
    fn poll(&mut self, events: &mut Events) {
        for (key, count) in self.tasks.drain(..) {
            let records = [1, 0, 0, 0, 1].repeat(count as usize);
            events.push(Event::Results { key, first: 0, count, records });
        }
    }
    fn waiter(&self) -> Arc<dyn Waiter> {
        Arc::new(NoSleep)
    }
    fn close(&mut self) {}
    fn terminate(&mut self) {}
    fn has_ended(&mut self) -> bool {
        true
    }
}

fn pool() -> (Pool, Arc<Mutex<Known>>) {
    let known = Arc::new(Mutex::new(Known::default()));
    (Pool::with_back(Ones { known: known.clone(), tasks: Vec::new() }), known)
}

fn heavy(bytes: usize, number: u64) -> Work<u64, u64> {
    let data = Bytes(vec![1; bytes]);
    Work::task(&task!(move |n: u64| n + number + data.len() as u64; data, number))
}

#[test]
fn captured_data_that_nobody_uses_is_not_kept_beyond_a_few_megabytes() {
    let _watchdog = procession_testkit::test_watchdog();
    let (pool, known) = pool();
    for number in 0..20 {
        assert_eq!(pool.tasks_of(heavy(MEGABYTE, number), 0..2).collect().unwrap(), [1, 1]);
        let bytes = known.lock().unwrap().bytes();
        assert!(bytes <= 4 * MEGABYTE, "{bytes} bytes are kept after {number} calls");
    }
    assert!(known.lock().unwrap().parcels.len() >= 3, "small ones are kept for a while");
    pool.tasks_of(heavy(8 * MEGABYTE, 0), 0..2).collect().unwrap();
    assert!(known.lock().unwrap().bytes() < 4 * MEGABYTE);
    // Nor are many small ones.
    for number in 0..200 {
        pool.tasks_of(heavy(10, number), 0..2).collect().unwrap();
    }
    assert!(known.lock().unwrap().parcels.len() <= 64);
}

#[test]
fn a_function_that_somebody_holds_is_sent_once_however_large() {
    let _watchdog = procession_testkit::test_watchdog();
    let (pool, known) = pool();
    let work = heavy(8 * MEGABYTE, 0);
    for n in 0..5 {
        pool.submit_work(&work, &n).unwrap().get().unwrap();
        pool.tasks_of(work.clone(), 0..2).collect().unwrap();
    }
    assert_eq!(known.lock().unwrap().defined, 1);
    // The bytes are there once: here, in the pool and in the back.
    assert!(known.lock().unwrap().bytes() > 8 * MEGABYTE);
    drop(work);
    pool.apply(|n: u64| n, 1).unwrap();
    assert!(known.lock().unwrap().bytes() < MEGABYTE, "it is given up with the next call");
}

#[test]
fn all_functions_that_somebody_holds_are_kept_and_go_when_they_are_let_go_of() {
    let _watchdog = procession_testkit::test_watchdog();
    let (pool, known) = pool();
    let held: Vec<_> = (0..500).map(|number| heavy(10, number)).collect();
    for _ in 0..2 {
        held.iter().for_each(|work| _ = pool.tasks_of(work.clone(), 0..2).collect().unwrap());
        assert_eq!(known.lock().unwrap().defined, 500);
    }
    // Also by another pool, and while it is in use.
    let (other, known_there) = self::pool();
    held.iter().for_each(|work| _ = other.tasks_of(work.clone(), 0..2).collect().unwrap());
    let mut results = pool.tasks_of(held[0].clone(), 0..100).chunk_size(1).ordered();
    results.next().unwrap().unwrap();
    drop(held);
    for (pool, known) in [(&pool, &known), (&other, &known_there)] {
        pool.apply(|n: u64| n, 1).unwrap();
        assert!(known.lock().unwrap().parcels.len() <= 66, "{}", known.lock().unwrap().parcels.len());
    }
    assert!(results.all(|result| result.is_ok()));
}
