//! Dictionaries, lists, sets, namespaces, values, arrays.

use procession_manager::{Dict, ErrorKind, List, Manager};
use procession_testkit::test_watchdog;
use std::sync::Arc;

fn s(text: &str) -> String {
    text.to_owned()
}

#[test]
fn a_dictionary_does_what_pythons_does() {
    let _watchdog = test_watchdog();
    let manager = Manager::start().unwrap();
    let dict = manager.dict::<u64, String>().unwrap();
    let letters: Vec<(u64, String)> =
        (65..70).map(|n| (n, char::from_u32(n as u32).unwrap().to_string())).collect();
    for (n, letter) in &letters {
        assert_eq!(dict.insert(n, letter).unwrap(), None);
    }
    assert_eq!(dict.snapshot().unwrap(), letters);
    assert_eq!(dict.keys().unwrap(), [65, 66, 67, 68, 69]);
    assert_eq!(dict.values().unwrap(), ["A", "B", "C", "D", "E"]);
    assert_eq!(dict.insert(&65, &s("a")).unwrap().as_deref(), Some("A"));
    assert_eq!(dict.get(&65).unwrap().as_deref(), Some("a"));
    assert_eq!(dict.get(&1).unwrap(), None);
    assert!(dict.contains_key(&66).unwrap() && !dict.contains_key(&1).unwrap());
    assert_eq!(dict.get_or_insert(&66, &s("x")).unwrap(), "B");
    assert_eq!(dict.get_or_insert(&1, &s("x")).unwrap(), "x");
    assert_eq!(dict.pop_item().unwrap(), Some((1, s("x"))));
    assert_eq!(dict.remove(&67).unwrap().as_deref(), Some("C"));
    assert_eq!(dict.remove(&67).unwrap(), None);
    assert_eq!(dict.get_many(&[65, 67]).unwrap(), [Some(s("a")), None]);
    dict.extend([(&7, &s("seven")), (&8, &s("eight"))]).unwrap();
    assert_eq!(dict.len().unwrap(), 6);
    assert_eq!(dict.remove_many(&[7, 8, 9]).unwrap(), 2);
    dict.clear().unwrap();
    assert!(dict.is_empty().unwrap() && dict.pop_item().unwrap().is_none());
}

#[test]
fn an_iterator_ends_with_an_error_where_the_dictionary_changes() {
    let _watchdog = test_watchdog();
    let manager = Manager::start().unwrap();
    let dict = manager.dict::<u64, Vec<u8>>().unwrap();
    let value = vec![7; 100_000];
    for n in 0..10 {
        dict.set(&n, &value).unwrap();
    }
    let all: Result<Vec<_>, _> = dict.iter().collect();
    assert_eq!(all.unwrap().iter().map(|entry| entry.0).collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
    let mut iter = dict.iter();
    assert_eq!(iter.next().unwrap().unwrap().0, 0);
    // Another value of a key is no change of the dictionary.
    dict.set(&9, &vec![1]).unwrap();
    assert_eq!(dict.iter().last().unwrap().unwrap(), (9, vec![1]));
    dict.set(&10, &value).unwrap();
    let rest: Vec<_> = iter.collect();
    assert_eq!(rest.last().unwrap().as_ref().unwrap_err().kind(), ErrorKind::Changed);
    assert!(rest.len() < 10);
}

#[test]
fn updates_by_functions_and_by_comparison_lose_nothing() {
    let _watchdog = test_watchdog();
    let manager = Manager::start().unwrap();
    let dict = Arc::new(manager.dict::<String, u64>().unwrap());
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let dict = dict.clone();
            std::thread::spawn(move || {
                for _ in 0..50 {
                    if thread % 2 == 0 {
                        dict.update(&s("n"), |n, by: u64| *n = Some(n.unwrap_or(0) + by), &1).unwrap();
                    } else {
                        loop {
                            let old = dict.get("n").unwrap();
                            let new = old.unwrap_or(0) + 1;
                            if dict.compare_and_swap(&s("n"), old.as_ref(), Some(&new)).unwrap() {
                                break;
                            }
                        }
                    }
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(dict.get("n").unwrap(), Some(200));
    // None takes it away; a result comes back.
    let old = dict.update(&s("n"), |n: &mut Option<u64>, ()| n.take(), &()).unwrap();
    assert_eq!((old, dict.len().unwrap()), (Some(200), 0));
    assert!(!dict.compare_and_swap(&s("n"), Some(&1), Some(&2)).unwrap());
    assert!(dict.compare_and_swap(&s("n"), None, Some(&2)).unwrap());
    assert!(dict.compare_and_swap(&s("n"), Some(&2), None).unwrap());
    assert!(dict.is_empty().unwrap());
}

#[test]
fn a_panic_in_an_update_is_that_calls_error_and_changes_nothing() {
    let _watchdog = test_watchdog();
    let manager = Manager::start().unwrap();
    let value = manager.value(&1_u64).unwrap();
    let error = value
        .update(
            |n, ()| -> u64 {
                *n = 2;
                panic!("no {n}")
            },
            &(),
        )
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Panicked);
    assert!(error.panic().unwrap().message().contains("no 2"));
    assert_eq!(value.get().unwrap(), 1);
    assert_eq!(
        value
            .update(
                |n, by: u64| {
                    *n += by;
                    *n
                },
                &4
            )
            .unwrap(),
        5
    );
}

#[test]
fn a_list_does_what_pythons_does() {
    let _watchdog = test_watchdog();
    let manager = Manager::start().unwrap();
    let a = manager.list_of(&(0..10).collect::<Vec<u64>>()).unwrap();
    assert_eq!(a.snapshot().unwrap(), (0..10).collect::<Vec<_>>());
    let b = manager.list::<u64>().unwrap();
    b.extend(&[0, 1, 2, 3, 4]).unwrap();
    assert_eq!(b.get(2).unwrap(), Some(2));
    assert_eq!(b.range(2..10).unwrap(), [2, 3, 4]);
    b.repeat(2).unwrap();
    assert_eq!(b.snapshot().unwrap(), [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]);
    b.extend(&a.snapshot().unwrap()[..2]).unwrap();
    assert_eq!(b.len().unwrap(), 12);
    assert_eq!(b.splice(10.., &[]).unwrap(), [0, 1]);
    assert_eq!(b.position(&3).unwrap(), Some(3));
    assert_eq!(b.position_in(&3, 4..).unwrap(), Some(8));
    assert_eq!(b.position(&99).unwrap(), None);
    assert_eq!((b.count(&4).unwrap(), b.contains(&4).unwrap()), (2, true));
    b.reverse().unwrap();
    assert_eq!(b.get(0).unwrap(), Some(4));
    b.sort().unwrap();
    assert_eq!(b.snapshot().unwrap(), [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]);
    b.update_all(|items, ()| items.sort_by(|a, b| b.cmp(a)), &()).unwrap();
    assert_eq!(b.pop().unwrap(), Some(0));
    assert_eq!(b.remove(0).unwrap(), 4);
    assert_eq!(b.remove(100).unwrap_err().kind(), ErrorKind::NotFound);
    assert!(b.remove_item(&4).unwrap() && !b.remove_item(&4).unwrap());
    b.insert(0, &77).unwrap();
    assert_eq!(b.set(0, &78).unwrap(), 77);
    assert_eq!(b.set(100, &1).unwrap_err().kind(), ErrorKind::NotFound);
    b.swap(0, 1).unwrap();
    assert_eq!(b.range(..2).unwrap(), [3, 78]);
    assert!(b.compare_and_swap(1, &78, &5).unwrap() && !b.compare_and_swap(1, &78, &5).unwrap());
    assert_eq!(
        b.update(
            1,
            |n, by: u64| {
                *n += by;
                *n
            },
            &2
        )
        .unwrap(),
        7
    );
    b.clear().unwrap();
    assert_eq!((b.pop().unwrap(), b.is_empty().unwrap()), (None, true));
}

#[test]
fn an_iterator_of_a_list_ends_and_sees_what_was_changed_ahead_of_it() {
    let _watchdog = test_watchdog();
    let manager = Manager::start().unwrap();
    let a = manager.list_of(&(0..10).collect::<Vec<u64>>()).unwrap();
    let mut iter = a.iter();
    assert_eq!(iter.by_ref().map(Result::unwrap).collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
    assert!(iter.next().is_none());
    let iter = a.iter();
    a.set(0, &100).unwrap();
    assert_eq!(iter.map(Result::unwrap).collect::<Vec<_>>()[..2], [100, 1]);
}

#[test]
fn proxies_nest_and_live_as_long_as_they_can_be_reached() {
    let _watchdog = test_watchdog();
    let manager = Manager::start().unwrap();
    let outer = manager.list::<List<u64>>().unwrap();
    {
        let inner = manager.list_of(&[1, 2, 3]).unwrap();
        outer.push(&inner).unwrap();
        inner.push(&4).unwrap();
    }
    let inner = outer.get(0).unwrap().unwrap();
    assert_eq!(inner.snapshot().unwrap(), [1, 2, 3, 4]);
    inner.push(&5).unwrap();
    assert_eq!(outer.snapshot().unwrap()[0].len().unwrap(), 5);
    assert_eq!(manager.stats().unwrap().objects, 2);
    // What comes out of its only place lives on.
    outer.push(&manager.list_of(&[9]).unwrap()).unwrap();
    assert_eq!(outer.pop().unwrap().unwrap().snapshot().unwrap(), [9]);
    // It lives on when what holds it is gone.
    outer.clear().unwrap();
    drop(outer);
    assert_eq!(inner.len().unwrap(), 5);
    drop(inner);
    procession_testkit::wait::eventually("all are gone", std::time::Duration::from_secs(10), || {
        manager.stats().unwrap().objects == 0
    });
    // Dictionaries of dictionaries, and queues in both.
    let dict = manager.dict::<String, Dict<String, u64>>().unwrap();
    dict.set(&s("a"), &manager.dict().unwrap()).unwrap();
    dict.get("a").unwrap().unwrap().set(&s("x"), &1).unwrap();
    let kept = dict.get("a").unwrap().unwrap();
    assert_eq!(kept.get("x").unwrap(), Some(1));
    dict.clear().unwrap();
    assert_eq!(kept.get("x").unwrap(), Some(1));
    let queues = manager.list::<procession_manager::Queue<String>>().unwrap();
    queues.push(&manager.queue().unwrap()).unwrap();
    queues.get(0).unwrap().unwrap().put(&s("in")).unwrap();
    assert_eq!(queues.get(0).unwrap().unwrap().get().unwrap(), "in");
    // Another manager's object cannot be kept.
    let other = Manager::start().unwrap();
    let error = outer_of(&manager).push(&other.list().unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Encoding);
    assert!(error.to_string().contains("another manager"), "{error}");
}

fn outer_of(manager: &Manager) -> List<List<u64>> {
    manager.list().unwrap()
}

#[test]
fn a_set_a_namespace_a_value_and_an_array_have_their_methods() {
    let _watchdog = test_watchdog();
    let manager = Manager::start().unwrap();
    let set = manager.set::<String>().unwrap();
    assert!(set.insert(&s("a")).unwrap() && !set.insert(&s("a")).unwrap());
    set.extend(&[s("b"), s("c")]).unwrap();
    assert_eq!(set.snapshot().unwrap(), ["a", "b", "c"]);
    assert!(set.contains("b").unwrap() && set.remove("b").unwrap() && !set.remove("b").unwrap());
    assert_eq!(set.pop().unwrap().as_deref(), Some("c"));
    assert_eq!(set.remove_many(&[s("a"), s("z")]).unwrap(), 1);
    assert!(set.is_empty().unwrap() && set.len().unwrap() == 0);

    let names = manager.namespace().unwrap();
    names.set("name", &s("Bob")).unwrap();
    names.set("job", &7_u32).unwrap();
    names.set("proxy", &set).unwrap();
    assert_eq!(names.get::<String>("name").unwrap().as_deref(), Some("Bob"));
    assert_eq!(names.get::<u64>("job").unwrap_err().kind(), ErrorKind::WrongType);
    assert_eq!(names.get::<procession_manager::Set<String>>("proxy").unwrap().unwrap(), set);
    assert_eq!(names.names().unwrap(), ["name", "job", "proxy"]);
    assert!(names.remove("job").unwrap() && !names.remove("job").unwrap());
    assert_eq!(names.get::<u32>("job").unwrap(), None);

    let value = manager.value(&1.5_f64).unwrap();
    value.set(&2.5).unwrap();
    assert_eq!((value.replace(&3.5).unwrap(), value.get().unwrap()), (2.5, 3.5));

    let array = manager.array(&[1_i32, 2, 3, 4]).unwrap();
    assert_eq!((array.len().unwrap(), array.get(2).unwrap()), (4, 3));
    assert_eq!(array.set(2, &9).unwrap(), 3);
    array.write(0, &[7, 8]).unwrap();
    assert_eq!(array.snapshot().unwrap(), [7, 8, 9, 4]);
    assert_eq!(array.read(1..3).unwrap(), [8, 9]);
    assert_eq!(array.write(3, &[1, 2]).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(array.get(4).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(
        array
            .update(
                0,
                |n, by: i32| {
                    *n += by;
                    *n
                },
                &3
            )
            .unwrap(),
        10
    );
}

#[test]
fn large_values_and_many_of_them_come_back_whole() {
    let _watchdog = test_watchdog();
    let manager = Manager::start().unwrap();
    let list = manager.list::<Vec<u8>>().unwrap();
    let large: Vec<u8> = (0..20_000_000_u32).map(|n| (n / 7) as u8).collect();
    list.push(&large).unwrap();
    assert_eq!(list.get(0).unwrap().unwrap(), large);
    let dict = manager.dict::<u64, String>().unwrap();
    let many: Vec<_> = (0..50_000_u64).map(|n| (n, n.to_string())).collect();
    dict.extend(many.iter().map(|(n, text)| (n, text))).unwrap();
    assert_eq!(dict.snapshot().unwrap(), many);
    assert_eq!(dict.iter().map(Result::unwrap).collect::<Vec<_>>(), many);
}
