//! When the kernel refuses: each system call of the main calls fails once, and each outcome is a success or an error; the next
//! try succeeds, and nothing is left of either.

use procession_pool::Pool;
use procession_testkit::{faults::tried, isolated};

#[test]
fn a_pool_maps_or_refuses() {
    isolated!({
        tried(|| {
            let pool = Pool::new(1)?;
            assert_eq!(pool.map(|n: u64| n + 1, [1, 2, 3])?, [2, 3, 4]);
            pool.join();
            Ok(())
        });
    });
}

#[test]
fn a_call_of_a_pool_is_done_or_refused() {
    isolated!({
        tried(|| {
            let pool = Pool::new(1)?;
            assert_eq!(pool.submit(|n: u64| n + 1, 1)?.get()?, 2);
            Ok(())
        });
    });
}

#[test]
fn a_pool_of_threads_maps_or_refuses() {
    isolated!({
        tried(|| {
            let pool = Pool::threads(1)?;
            assert_eq!(pool.map(|n: u64| n + 1, [1, 2, 3])?, [2, 3, 4]);
            pool.join();
            Ok(())
        });
    });
}
