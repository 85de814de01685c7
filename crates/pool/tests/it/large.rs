//! Arguments and results that are larger than a message, a lane, and whatever is kept for the next one.

use procession_pool::{Pool, TaskError};
use procession_testkit::test_watchdog;
use std::time::Duration;

/// Around the sizes at which something changes: a piece of 64 KiB, half a lane, a lane.
fn sizes() -> Vec<usize> {
    let around = |size: usize| size - 64..size + 8;
    let mut sizes: Vec<usize> = [0, 1, 1 << 20, (1 << 22) + 5].to_vec();
    for edge in [64 << 10, 128 << 10, 256 << 10] {
        sizes.extend(around(edge).step_by(5));
        sizes.extend(edge - 6..edge + 2);
    }
    sizes
}

fn pattern(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * 7 + i / 251 + n) as u8).collect()
}

#[test]
fn buffers_of_every_size_come_back_as_they_went() {
    let _watchdog = test_watchdog();
    for pool in crate::support::pools(2) {
        let back = pool.map(|bytes: Vec<u8>| bytes, sizes().into_iter().map(pattern)).unwrap();
        for (n, bytes) in sizes().into_iter().zip(back) {
            assert!(bytes == pattern(n), "{n} bytes");
        }
        let made = pool.tasks(pattern, sizes()).chunk_size(3).unordered().map(Result::unwrap);
        made.for_each(|bytes| assert!(bytes == pattern(bytes.len()), "{} bytes", bytes.len()));
    }
}

#[test]
fn large_items_of_every_kind_go_there_and_back() {
    let _watchdog = test_watchdog();
    for pool in crate::support::pools(1) {
        for n in [70_000, 300_000, 1 << 20] {
            let text = "äbc".repeat(n / 4);
            assert_eq!(pool.apply(|text: String| text + "!", text.clone()).unwrap(), text.clone() + "!");
            let pair = (n as u64, pattern(n));
            let result = pool.apply(|(n, bytes): (u64, Vec<u8>)| (bytes, n), pair.clone());
            assert_eq!(result.unwrap(), (pair.1, pair.0));
            let numbers: Vec<f64> = (0..n / 8).map(|n| n as f64).collect();
            assert_eq!(pool.apply(|numbers: Vec<f64>| numbers, numbers.clone()).unwrap(), numbers);
            let task = pool.submit(|bytes: Vec<u8>| bytes, pattern(n)).unwrap();
            assert!(task.get().unwrap() == pattern(n));
            // Small ones before and behind it, in the same task; with a limit, so that each is watched.
            let items = [10, n, 11, n + 1, 12].map(pattern);
            let tasks = pool.tasks(|bytes: Vec<u8>| bytes, items.clone()).chunk_size(5);
            assert!(tasks.deadline(Duration::from_secs(50)).collect().unwrap() == items);
            let all = pool.map_async(|bytes: Vec<u8>| bytes, items.clone()).unwrap();
            assert!(all.get().unwrap() == items);
        }
    }
}

#[test]
fn a_large_item_that_cannot_be_decoded_is_its_own_error() {
    let _watchdog = test_watchdog();
    for pool in crate::support::pools(1) {
        // Bytes that are no text.
        #[derive(serde::Serialize)]
        struct Bytes(Vec<u8>);
        impl<'de> serde::Deserialize<'de> for Bytes {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
                String::deserialize(deserializer).map(|text| Bytes(text.into()))
            }
        }
        let good = || Bytes(vec![b'a'; 300_000]);
        let bad = || Bytes(vec![0xff; 300_000]);
        let length = |bytes: Bytes| bytes.0.len();
        let results = pool.tasks(length, [good(), bad(), good()]).collect_results();
        assert!(matches!(&results[..], [Ok(300_000), Err(TaskError::BadArguments(_)), Ok(300_000)]));
        let make = |bad: bool| Bytes(vec![if bad { 0xff } else { b'a' }; 300_000]);
        let results = pool.tasks(make, [false, true, false]).collect_results();
        assert!(matches!(&results[..], [Ok(_), Err(TaskError::BadResult(_)), Ok(_)]));
        let panics = |_: Vec<u8>| -> () { panic!("{}", "long ".repeat(100_000)) };
        assert!(matches!(pool.apply(panics, pattern(300_000)), Err(TaskError::Panicked(_))));
    }
}

#[test]
fn large_items_are_retried_when_their_worker_dies() {
    let _watchdog = test_watchdog();
    let pool = Pool::builder().workers(2).retry(20).build().unwrap();
    let tasks = pool.tasks(|bytes: Vec<u8>| bytes, (0..60).map(|n| pattern(400_000 + n)));
    for (n, result) in tasks.quarantine(0).ordered().enumerate() {
        assert!(result.unwrap() == pattern(400_000 + n));
        if n % 7 == 0 {
            pool.kill_worker(n % 2);
        }
    }
}
