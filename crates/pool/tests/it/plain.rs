//! Items and values that are plain numbers, which go without a length of their own each.

use crate::support::{Notebook, die_by, note, pools, wait_until};
use procession_parcel::register;
use procession_pool::{Pool, TaskError, Work, task};
use std::{fmt::Debug, time::Duration};

/// More items than a message to a worker holds, whatever their size.
const MANY: u64 = 70_000;

fn same<T>(value: T) -> T {
    value
}

fn come_back<T, U>(pool: &Pool, values: &[T], bits: fn(&T) -> U)
where
    T: Copy + serde::Serialize + serde::de::DeserializeOwned + 'static,
    U: PartialEq + Debug,
{
    for count in [values.len(), 3000] {
        let items = || values.iter().copied().cycle().take(count);
        let wanted: Vec<U> = items().map(|value| bits(&value)).collect();
        let all = pool.map(same::<T>, items()).unwrap();
        assert_eq!(all.iter().map(bits).collect::<Vec<_>>(), wanted);
        let iterated: Vec<U> = pool.imap(same::<T>, items()).map(|value| bits(&value.unwrap())).collect();
        assert_eq!(iterated, wanted);
    }
}

#[test]
fn the_extremes_of_each_plain_number_come_back() {
    let _watchdog = procession_testkit::test_watchdog();
    macro_rules! integers {
        ($pool:expr, $($number:ty)+) => {
            $(come_back(&$pool, &[<$number>::MIN, 0, 1, <$number>::MAX / 3, <$number>::MAX], |n| *n);)+
        };
    }
    for pool in pools(2) {
        integers!(pool, u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize);
        come_back(&pool, &[f32::MIN, -0.0, f32::MIN_POSITIVE, f32::INFINITY, f32::NAN], |n| n.to_bits());
        come_back(&pool, &[f64::MIN, -0.0, f64::MIN_POSITIVE, f64::INFINITY, -f64::NAN], |n| n.to_bits());
        come_back(&pool, &[true, false, false], |truth| *truth);
    }
}

#[test]
fn an_empty_input_has_no_values() {
    let _watchdog = procession_testkit::test_watchdog();
    for pool in pools(2) {
        assert!(pool.map(same::<u64>, []).unwrap().is_empty());
        assert!(pool.imap_unordered(same::<bool>, []).next().is_none());
        assert_eq!(pool.map(same::<u64>, [7]).unwrap(), [7], "and it goes on");
    }
}

#[test]
fn a_plain_number_on_one_side_goes_with_anything_on_the_other() {
    let _watchdog = procession_testkit::test_watchdog();
    for pool in pools(2) {
        let texts = pool.map(|n: u64| n.to_string(), 0..MANY).unwrap();
        assert!(texts.iter().enumerate().all(|(n, text)| *text == n.to_string()));
        let numbers = pool.map(|text: String| text.parse::<u32>().unwrap(), texts).unwrap();
        assert!(numbers.into_iter().eq(0..MANY as u32));
        let sizes = pool.map(|n: u16| u128::from(n) << 100, 0..1000).unwrap();
        assert!(sizes.into_iter().eq((0..1000_u128).map(|n| n << 100)));
        let none: Vec<()> = pool.map(|_: u8| (), 0..200).unwrap();
        assert_eq!(none.len(), 200);
        let nested = pool.map(|n: Option<u64>| n.is_some(), [Some(1), None, Some(u64::MAX)]).unwrap();
        assert_eq!(nested, [true, false, true]);
        // Arguments that are too large for a piece, among others.
        let large = (0..40).map(|n| vec![0_u8; n * 10_000]);
        let lengths = pool.map(|bytes: Vec<u8>| bytes.len(), large).unwrap();
        assert!(lengths.into_iter().eq((0..40).map(|n| n * 10_000)));
        let sums = pool.starmap(|a, b| a + b, [(1_u64, 2_u64), (3, 4)]).unwrap();
        assert_eq!(sums, [3, 7]);
    }
}

/// Values of several calls, of different layouts, follow each other in one message of one worker.
#[test]
fn calls_of_all_kinds_take_turns_at_one_worker() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::new(1).unwrap();
    let mut plain = pool.tasks(|n: u32| u64::from(n) << 32, 0..5000).chunk_size(3).ordered();
    let mut texts = pool.tasks(|n: u32| format!("{n}!"), 0..5000).chunk_size(2).ordered();
    let mut bytes = pool.tasks(|text: String| text.len() as u8, (0..5000).map(|n| n.to_string())).ordered();
    for n in 0..5000_u32 {
        assert_eq!(plain.next().unwrap().unwrap(), u64::from(n) << 32);
        assert_eq!(texts.next().unwrap().unwrap(), format!("{n}!"));
        assert_eq!(usize::from(bytes.next().unwrap().unwrap()), n.to_string().len());
    }
    assert!(plain.next().is_none() && texts.next().is_none() && bytes.next().is_none());
}

#[test]
fn a_panic_in_the_middle_of_a_chunk_is_that_items_error() {
    let _watchdog = procession_testkit::test_watchdog();
    fn picky(n: u64) -> u64 {
        assert!(n % 20_000 != 12_345, "{n} is not liked");
        n * 3
    }
    for pool in pools(2) {
        let results = pool.tasks(picky, 0..MANY).chunk_size(50_000).collect_results();
        assert_eq!(results.len() as u64, MANY);
        let mut failed = Vec::new();
        for (n, result) in (0..).zip(results) {
            match result {
                Ok(value) => assert_eq!(value, n * 3),
                Err(TaskError::Panicked(panic)) => {
                    assert!(panic.to_string().contains(&format!("{n} is not liked")), "{panic}");
                    failed.push(n);
                }
                Err(other) => panic!("{n}: {other}"),
            }
        }
        assert_eq!(failed, [12_345, 32_345, 52_345]);
    }
}

#[test]
fn a_death_in_the_middle_of_a_chunk_costs_the_item_in_hand() {
    let _watchdog = procession_testkit::test_watchdog();
    const DEADLY: [u64; 3] = [0, 23_456, MANY - 1];
    fn deadly(n: u64) -> u64 {
        if DEADLY.contains(&n) { die_by(9) } else { n * 3 }
    }
    let pool = Pool::new(2).unwrap();
    // Watched, since it has a limit; and not.
    for limit in [None, Some(Duration::from_secs(100))] {
        let tasks = pool.tasks(deadly, 0..MANY).chunk_size(50_000);
        let tasks = if let Some(limit) = limit { tasks.deadline(limit) } else { tasks };
        let results = tasks.collect_results();
        assert_eq!(results.len() as u64, MANY);
        let mut lost = Vec::new();
        for (n, result) in (0..).zip(results) {
            match result {
                Ok(value) => assert_eq!(value, n * 3),
                Err(error) => {
                    assert_eq!(error.death().unwrap().item, n);
                    lost.push(n);
                }
            }
        }
        assert_eq!(lost, DEADLY);
    }
}

#[test]
fn an_item_in_the_middle_of_a_chunk_is_tried_again_with_its_own_argument() {
    let _watchdog = procession_testkit::test_watchdog();
    thread_local! {
        static SEEN: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
    }
    // It panics in each worker once, so it is tried again, and comes to the same.
    fn shy(n: u64) -> u64 {
        assert!(n != 23_456 || SEEN.replace(true), "not at once");
        n * 3
    }
    for pool in pools(2) {
        let values = pool.tasks(shy, 0..MANY).chunk_size(50_000).retry(4).collect().unwrap();
        assert!(values.into_iter().eq((0..MANY).map(|n| n * 3)));
    }
}

#[test]
fn plain_numbers_go_with_limits_cancels_states_and_a_timeline() {
    let _watchdog = procession_testkit::test_watchdog();
    let file = std::env::temp_dir().join(format!("procession-plain-{}.json", std::process::id()));
    let pool = Pool::builder().workers(2).worker_state(|()| 0_u64, ()).timeline(&file).build().unwrap();
    let triple = Work::with_state(|seen: &mut u64, n: u64| {
        *seen += 1;
        n * 3
    });
    let tasks = || pool.tasks_of(triple.clone(), 0..20_000).chunk_size(9000);
    for tasks in [tasks(), tasks().cancellable(true), tasks().deadline(Duration::from_secs(100))] {
        assert!(tasks.collect().unwrap().into_iter().eq((0..20_000).map(|n| n * 3)));
    }
    assert_eq!(tasks().spawn().unwrap().get().unwrap().len(), 20_000);
    pool.join();
    std::fs::remove_file(file).unwrap();
}

/// The value for which there is no room goes as a message of its own.
#[test]
fn values_that_found_no_room_come_like_all_others() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::new(1).unwrap();
    let worker = pool.worker_pids()[0];
    let (notebook, gate) = (Notebook::new(), Notebook::new());
    let (path, open) = (notebook.path(), gate.path());
    let work = task!(move |n: u32| {
        if n == 0 {
            wait_until(|| std::fs::metadata(open).unwrap().len() > 0);
        }
        // After this it sleeps only once the lane of results is full: that of tasks holds more items than that values.
        if n == 1_000 {
            note(path, 1);
        }
        u64::from(n) * 3
    }; path, open);
    let mut results = pool.tasks_of(Work::task(&work), 0..60_000).chunk_size(60_000).ordered();
    assert!(results.next_timeout(Duration::ZERO).is_err());
    note(gate.path(), 1);
    notebook.wait_for(1);
    // Nobody takes anything in until it waits for room.
    wait_until(|| {
        let stat = std::fs::read_to_string(format!("/proc/{worker}/stat")).unwrap();
        stat.rsplit(')').next().unwrap().trim_start().starts_with('S')
    });
    assert!(results.map(Result::unwrap).eq((0..60_000).map(|n| n * 3)));
}

fn successor(n: u64) -> u64 {
    n + 1
}
register!("tests.plain-successor" => successor as fn(u64) -> u64);

/// Narrower types than the registered function's are encoded alike, and go as they always did: a plain number must be of
/// the very type.
#[test]
fn a_named_function_may_be_asked_for_by_types_that_are_encoded_alike() {
    let _watchdog = procession_testkit::test_watchdog();
    for pool in pools(2) {
        let exact: Work<u64, u64> = Work::named("tests.plain-successor");
        assert_eq!(pool.tasks_of(exact, 0..1000).collect().unwrap()[999], 1000);
        let narrow: Work<u32, u16> = Work::named("tests.plain-successor");
        assert_eq!(pool.tasks_of(narrow, 0..1000).collect().unwrap()[999], 1000);
        let half: Work<u32, u64> = Work::named("tests.plain-successor");
        assert_eq!(pool.tasks_of(half, 0..1000).collect().unwrap()[999], 1000);
    }
}
