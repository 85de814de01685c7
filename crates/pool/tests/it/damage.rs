//! Workers that write where they should not.

use crate::support::{Notebook, note, wait_until};
use procession_channel::lane::Config;
use procession_parcel::Bytes;
use procession_pool::{Pool, Work, task};
use std::time::Duration;

/// The size of each ring, and of what a segment has before its first lane.
const RING: usize = 256 * 1024;
const HEADER: usize = 4096;

/// Where this worker's lanes are mapped: that of its tasks first, then that of its results.
fn lanes() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps.lines().find(|line| line.contains("worker lanes")).unwrap();
    usize::from_str_radix(line.split('-').next().unwrap(), 16).unwrap() + HEADER
}

fn footprint() -> usize {
    Config { capacity: RING, ..Config::default() }.footprint()
}

fn scribble((n, _): (u64, Bytes)) -> u64 {
    if n % 50 == 49 {
        let head = (lanes() + 128) as *mut u64;
        // SAFETY: the mapping is writable, and what is in it is checked by whoever uses it: that is tested here.
        unsafe { head.write_volatile(3) };
        std::thread::sleep(Duration::from_millis(2));
    }
    n
}

#[test]
fn a_worker_that_damages_its_lane_of_tasks_gives_errors_and_no_wrong_result() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::new(1).unwrap();
    let items = (0..400_u64).map(|n| (n, Bytes(vec![0; 20_000])));
    let mut failed = 0;
    for (index, result) in pool.tasks(scribble, items).chunk_size(1).ordered().enumerate() {
        match result {
            Ok(value) => assert_eq!(value, index as u64),
            Err(error) => {
                assert_eq!(error.death().unwrap().item, index as u64);
                failed += 1;
            }
        }
    }
    assert!(failed < 100, "{failed} of 400 failed");
    assert_eq!(pool.map(|n: u64| n, 0..10).unwrap().len(), 10);
}

#[test]
fn what_a_worker_may_have_run_before_its_results_were_damaged_is_not_run_again() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::new(1).unwrap();
    // So that nothing is left to be told of when the damage is done.
    pool.apply(|n: u64| n, 0).unwrap();
    let (notebook, gate) = (Notebook::new(), Notebook::new());
    let (path, open) = (notebook.path(), gate.path());
    let work = task!(move |n: u64| {
        wait_until(|| std::fs::metadata(open).unwrap().len() > 0);
        if n == 9 {
            let ring = lanes() + 2 * footprint() - RING;
            // SAFETY: as above. Every result that nobody has taken yet is in there.
            unsafe { (ring as *mut u8).write_bytes(0xff, HEADER) };
        }
        note(path, n);
        n
    }; path, open);
    let mut results = pool.tasks_of(Work::task(&work), 0..10).chunk_size(10).ordered();
    assert!(results.next_timeout(Duration::ZERO).is_err());
    note(gate.path(), 1);
    // Nobody takes anything in until all have been run.
    notebook.wait_for(10);
    let results: Vec<_> = results.collect();
    assert_eq!(results.len(), 10);
    for (index, result) in results.iter().enumerate() {
        match result {
            Ok(value) => assert_eq!(*value, index as u64),
            Err(error) => assert!(error.to_string().contains("was damaged"), "{error}"),
        }
    }
    assert!(results[9].is_err(), "there was no damage");
    assert_eq!(notebook.read(), (0..10).collect::<Vec<_>>(), "each was run once");
    assert_eq!(pool.map(|n: u64| n, 0..10).unwrap().len(), 10);
}
