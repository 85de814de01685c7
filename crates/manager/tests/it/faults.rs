//! When the kernel refuses: each system call of the main calls fails once, and each outcome is a success or an error; the next
//! try succeeds, and nothing is left of either.

use procession_manager::Manager;
use procession_testkit::{
    faults::{Options, each_call},
    isolated,
};
use std::{error::Error, time::Duration};

type Outcome = Result<(), Box<dyn Error>>;

/// Some of the failures have to be errors: else none was met.
fn tried(operation: fn() -> Outcome) {
    let report = each_call(&Options::default(), operation);
    println!("{report}");
    assert!(report.refused > 0, "{report}");
}

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
