//! Four processes at one piece of shared data, or at what is to be done once, killed at random moments.

use crate::{steps_support::Words, storm_support::storm, support::BOUND};
use core::sync::atomic::Ordering::SeqCst;
use procession_sync::{Array, LockError, Once, OnceValue, Value};
use procession_testkit::{storm::Rng, test_name};

/// A value whose elements are the same whenever nobody is at it.
fn next(value: &mut [u64; 8]) {
    assert!(value.iter().all(|element| *element == value[0]), "{value:?}");
    for element in value {
        *element += 1;
        std::hint::black_box(&element);
        // So that many are killed in between.
        (0..10).for_each(|_| std::hint::spin_loop());
    }
}

fn repair(value: &Value<[u64; 8]>) {
    let Err(LockError::Poisoned(poisoned)) = value.lock() else { return };
    let mut guard = poisoned.into_inner();
    let most = guard[0];
    assert!(guard.iter().all(|element| *element == most || *element + 1 == most), "{:?}", *guard);
    *guard = [most; 8];
    value.clear_poison();
}

#[test]
fn a_value_survives_a_storm() {
    let work = |value: &Value<[u64; 8]>, _: &mut Rng| {
        if value.update(next).is_err() {
            repair(value);
        }
    };
    let look = |value: &Value<[u64; 8]>, rng: &mut Rng| {
        if !rng.chance(1, 8) {
            return;
        }
        match value.get() {
            Ok(found) => assert_eq!(found, [found[0]; 8]),
            Err(LockError::Poisoned(_)) => repair(value),
            Err(error) => panic!("{error}"),
        }
    };
    let alone = |value: &mut Value<[u64; 8]>, _: &mut Rng| {
        repair(value);
        value.update(next).unwrap();
    };
    storm(test_name!(), Value::new([0; 8]).unwrap(), work, look, alone);
}

#[test]
fn parts_of_an_array_survive_a_storm() {
    const LEN: u64 = 64;
    // Alone with a range as long as it has it.
    let work = |array: &Array<u64>, rng: &mut Rng| {
        let start = rng.below(LEN) as usize;
        let end = (start + 1 + rng.below(16) as usize).min(LEN as usize);
        let Ok(mut part) = array.part(start..end) else { return };
        let mark = rng.next_u64();
        let elements = part.get_mut().unwrap();
        elements.fill(mark);
        std::hint::black_box(&mut *elements);
        assert!(elements.iter().all(|element| *element == mark), "somebody else wrote here");
    };
    let look = |array: &Array<u64>, rng: &mut Rng| {
        // Free, or another's; never an error of another kind that stays.
        let _ = array.part(rng.below(LEN) as usize..LEN as usize);
    };
    let alone = |array: &mut Array<u64>, _: &mut Rng| {
        if let Err(LockError::Poisoned(poisoned)) = array.lock_timeout(BOUND) {
            array.clear_poison();
            drop(poisoned);
        }
        drop(array.lock_timeout(BOUND).unwrap());
        assert_eq!(array.chunks_mut(16).unwrap().len(), 4);
        drop(array.lock_timeout(BOUND).unwrap());
    };
    storm(test_name!(), Array::new(LEN as usize).unwrap(), work, look, alone);
}

struct Onces {
    onces: Vec<Once>,
    values: Vec<OnceValue<[u64; 8]>>,
    /// How often each function ended.
    ended: Words,
}

impl Onces {
    fn new() -> Onces {
        let onces = (0..32).map(|_| Once::new().unwrap()).collect();
        let values = (0..32).map(|_| OnceValue::new().unwrap()).collect();
        Onces { onces, values, ended: Words::new() }
    }

    fn run(&self, index: usize) {
        let ended = self.ended.word(index);
        self.onces[index].call_once_timeout(BOUND, || _ = ended.fetch_add(1, SeqCst)).unwrap();
        assert!(ended.load(SeqCst) > 0);
    }

    fn get(&self, index: usize, mark: u64) {
        let value = self.values[index].get_or_init_timeout(BOUND, || [mark; 8]).unwrap();
        assert_eq!(value, [value[0]; 8]);
        assert_eq!(self.values[index].get(), Some(value));
    }
}

#[test]
fn what_is_done_once_survives_a_storm() {
    let work = |onces: &Onces, rng: &mut Rng| {
        let index = rng.below(32) as usize;
        if rng.chance(1, 2) { onces.run(index) } else { onces.get(index, rng.next_u64()) }
    };
    let look = |_: &Onces, _: &mut Rng| {};
    let alone = |onces: &mut Onces, _: &mut Rng| {
        let done: Vec<bool> = onces.onces.iter().map(Once::is_completed).collect();
        let before: Vec<u32> = (0..32).map(|index| onces.ended.word(index).load(SeqCst)).collect();
        for index in 0..32 {
            onces.run(index);
            onces.get(index, 1);
            assert_eq!(onces.ended.word(index).load(SeqCst), before[index] + u32::from(!done[index]));
        }
        *onces = Onces::new();
    };
    storm(test_name!(), Onces::new(), work, look, alone);
}
