//! Values of many bytes, which both sides keep where they are as far as they can: nobody sees a difference.

use crate::remote::{manager, quick};
use procession_manager::{Dict, List, Manager, Queue, Session};
use procession_parcel::Bytes;
use procession_testkit::{storm::Rng, test_watchdog};
use serde::{Serialize, de::DeserializeOwned};
use std::{collections::BTreeMap, fmt::Debug};

/// From where bytes are shared, not copied.
const LARGE: usize = 64 << 10;

/// A small one, or around the bound, or so large that it goes through a lane in parts.
fn len(rng: &mut Rng) -> usize {
    *rng.pick(&[0, 5, LARGE - 4, LARGE - 1, LARGE, LARGE + 1, 200_000, (1 << 20) + 7, 3 << 20])
}

/// By shared memory, by a socket, and by one to which the client may come back, so that what was sent is kept.
fn by_all_ways(test: impl Fn(&Session)) {
    test(&Manager::start().unwrap());
    let (_manager, address) = manager();
    test(&Session::connect(address, "key").unwrap());
    test(&Session::connector("key").reconnect(quick()).connect(address).unwrap());
}

fn does_what_a_map_does<T>(session: &Session, make: impl Fn(usize, u8) -> T)
where
    T: Serialize + DeserializeOwned + Clone + PartialEq + Debug + 'static,
{
    let (dict, mut model) = (session.dict::<u64, T>().unwrap(), BTreeMap::new());
    let rng = &mut Rng::from_seed(7);
    for round in 0..150_u8 {
        let (key, value) = (rng.below(4), make(len(rng), round));
        // Not by `assert_eq`, which would print them.
        let same = match rng.below(8) {
            0 | 1 => {
                dict.set(&key, &value).unwrap();
                model.insert(key, value);
                true
            }
            2 => dict.insert(&key, &value).unwrap() == model.insert(key, value),
            3 => dict.get_or_insert(&key, &value).unwrap() == *model.entry(key).or_insert(value),
            4 => dict.remove(&key).unwrap() == model.remove(&key),
            5 => {
                let other = (key + 1) % 4;
                dict.extend([(&key, &value), (&other, &value)]).unwrap();
                model.insert(key, value.clone());
                model.insert(other, value);
                true
            }
            6 => {
                let expected = if rng.below(2) == 0 { model.get(&key).cloned() } else { Some(value.clone()) };
                let fits = expected.as_ref() == model.get(&key);
                if fits {
                    model.insert(key, value.clone());
                }
                dict.compare_and_swap(&key, expected.as_ref(), Some(&value)).unwrap() == fits
            }
            _ => dict.get(&key).unwrap().as_ref() == model.get(&key),
        };
        assert!(same, "in round {round}");
    }
    let keys = [0, 1, 2, 3];
    assert!(dict.get_many(&keys).unwrap() == keys.map(|key| model.get(&key).cloned()));
    let mut all = dict.snapshot().unwrap();
    all.sort_by_key(|entry| entry.0);
    assert!(all == Vec::from_iter(model.clone()));
    while let Some((key, value)) = dict.pop_item().unwrap() {
        assert!(model.remove(&key).as_ref() == Some(&value));
    }
    assert!(model.is_empty());
}

#[test]
fn dictionaries_of_large_values_do_what_maps_do() {
    let _watchdog = test_watchdog();
    by_all_ways(|session| {
        does_what_a_map_does(session, |len, seed| (0..len).map(|n| n as u8 ^ seed).collect::<Vec<u8>>());
        does_what_a_map_does(session, |len, seed| char::from(b'a' + seed % 26).to_string().repeat(len));
    });
    let manager = Manager::start().unwrap();
    does_what_a_map_does(&manager, |len, seed| Bytes(vec![seed; len]));
    does_what_a_map_does(&manager, |len, seed| vec![u64::from(seed); len / 8]);
    does_what_a_map_does(&manager, |len, seed| (seed, vec![seed; len], Some(seed)));
}

#[test]
fn lists_queues_and_functions_take_large_values() {
    let _watchdog = test_watchdog();
    by_all_ways(|session| {
        let item = |seed: u8| vec![seed; LARGE * usize::from(seed)];
        let items: Vec<Vec<u8>> = (1..8).map(item).collect();
        let list: List<Vec<u8>> = session.list_of(&items[..5]).unwrap();
        list.extend(&items[5..]).unwrap();
        assert!(list.snapshot().unwrap() == items);
        assert!(list.set(1, &items[4]).unwrap() == items[1]);
        assert!(list.splice(2..4, [&items[0], &items[1]]).unwrap() == items[2..4]);
        assert_eq!(list.position(&items[4]).unwrap(), Some(1));
        list.repeat(2).unwrap();
        assert!(list.pop().unwrap().as_ref() == items.last());
        assert!(list.range(6..8).unwrap() == [items[6].clone(), items[0].clone()]);
        let queue: Queue<Vec<u8>> = session.queue().unwrap();
        queue.put_many(&items).unwrap();
        queue.put(&items[2]).unwrap();
        assert!(queue.get().unwrap() == items[0]);
        assert!(queue.get_many(4).unwrap() == items[1..5]);
        assert!(queue.get_many(9).unwrap() == [&items[5], &items[6], &items[2]].map(Clone::clone));
        let namespace = session.namespace().unwrap();
        namespace.set("large", &items[3]).unwrap();
        assert!(namespace.get::<Vec<u8>>("large").unwrap().as_ref() == items.get(3));
    });
    let manager = Manager::start().unwrap();
    let dict = manager.dict::<String, Vec<u8>>().unwrap();
    // The key as well.
    let key = "key".repeat(LARGE);
    dict.set(&key, &vec![1; 2 * LARGE]).unwrap();
    let doubled = |value: &mut Option<Vec<u8>>, (): ()| {
        let value = value.get_or_insert_default();
        value.extend_from_within(..);
        value.clone()
    };
    assert!(dict.update(&key, doubled, &()).unwrap() == vec![1; 4 * LARGE]);
    assert!(dict.get(&key).unwrap() == Some(vec![1; 4 * LARGE]));
    assert!(dict.keys().unwrap() == [key]);
}

/// The replies that are on their way have the value that there was.
#[test]
fn a_value_that_is_replaced_while_others_read_it_is_never_half_of_each() {
    let _watchdog = test_watchdog();
    by_all_ways(|session| {
        let dict: Dict<u8, Vec<u8>> = session.dict().unwrap();
        dict.set(&0, &vec![0; 3 << 20]).unwrap();
        const LAST: u8 = 60;
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut seen = 0;
                    while seen < LAST {
                        let value = dict.get(&0).unwrap().unwrap();
                        assert!(value[0] >= seen && value == vec![value[0]; 3 << 20]);
                        seen = value[0];
                    }
                });
            }
            for round in 1..=LAST {
                dict.set(&0, &vec![round; 3 << 20]).unwrap();
            }
        });
    });
}
