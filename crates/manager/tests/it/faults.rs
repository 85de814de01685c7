//! When the kernel refuses: each system call of the main calls fails once, and each outcome is a success or an error; the next
//! try succeeds, and nothing is left of either.

use procession_manager::Manager;
use procession_testkit::{faults::tried, isolated};
use std::time::Duration;

#[test]
fn a_manager_serves_or_refuses() {
    isolated!({
        tried(|| {
            let manager = Manager::start()?;
            let dict = manager.dict::<String, u32>()?;
            dict.insert(&"one".to_owned(), &1)?;
            assert_eq!(dict.get(&"one".to_owned())?, Some(1));
            drop(dict);
            manager.shutdown(Duration::from_secs(10))?;
            Ok(())
        });
    });
}
