//! For the tests of your program: processes that die where you say, system calls that fail where you say, and a count of
//! what is left behind.
//!
//! With the feature `testing`, in `Cargo.toml`:
//!
//! ```toml
//! [dev-dependencies]
//! procession = { version = "0.1", features = ["testing"] }
//! ```
//!
//! # A hang is a failure, with a report
//!
//! A [`watchdog!`] at the top of a test aborts it when its time is over, and prints where each thread and each process
//! stood. `PROCESSION_TEST_TIMEOUT` (in seconds, 60 is what everything is meant for) stretches all limits on a slow machine.
//!
//! ```
//! use procession::testing::watchdog;
//! use std::time::Duration;
//!
//! let watchdog = watchdog!(Duration::from_secs(30));
//! watchdog.on_expiry(|| "the queue had 3 items".to_owned()); // a line of your own for the report
//! ```
//!
//! # Nothing is left behind
//!
//! A [`Census`] counts descriptors, shared memory, threads, children and names, and tells the difference between two moments.
//! It counts the whole process: in a test harness, which runs tests side by side, inside of [`isolated!`], which runs one
//! test's body in a process of its own.
//!
//! ```
//! use procession::{prelude::*, testing::Census};
//! use std::time::Duration;
//!
//! fn work() -> Result<u64, Box<dyn std::error::Error>> {
//!     let shared = Value::new(1_u64)?;
//!     let child = Process::spawn(|shared: Value<u64>| shared.update(|n| *n += 1).is_ok(), shared.clone())?;
//!     Ok(if child.join()? { shared.get()? } else { 0 })
//! }
//!
//! work()?; // the first use makes what stays: a fork server, memory for small things
//! let before = Census::take();
//! assert_eq!(work()?, 2);
//! assert_eq!(before.remainder(Duration::from_secs(10)), None); // it waits for what ends by itself
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Death after n instructions
//!
//! What survives a death has to be right wherever it came. [`step::each_instruction`] forks a process for each n, kills it
//! after n instructions of an operation, and lets you look at what it has left. A stride makes it quick.
//!
//! ```
//! use procession::{
//!     prelude::*,
//!     testing::step::{Options, each_instruction},
//! };
//!
//! let report = each_instruction(
//!     &Options { stride: 50, ..Options::default() },
//!     || Value::new([0_u32; 2]).unwrap(),               // anew for each death
//!     |pair| pair.update(|p| *p = [1, 1]).unwrap(),     // in the process that is killed
//!     |death, pair| match pair.lock() {                 // here, after its death
//!         Ok(pair) => assert!(*pair == [1, 1] || *pair == [0, 0] && !death.finished),
//!         Err(LockError::Poisoned(_)) => assert!(!death.finished), // and the error says who died
//!         Err(error) => panic!("{error:?}"),
//!     },
//! );
//! assert!(report.tried > 1);
//! ```
//!
//! # Each system call fails
//!
//! [`faults::each_call`] runs an operation once for each of its system calls and each error that the kernel may give there
//! (no descriptors, no memory, a signal): it has to end in success or an error, to succeed at the next try, and to leave
//! nothing.
//!
//! ```
//! use procession::{Queue, testing::faults::{Options, each_call}};
//!
//! let report = each_call(&Options::default(), || {
//!     let queue = Queue::bounded(2)?;
//!     queue.put(7).map_err(|error| error.to_string())?;
//!     assert_eq!(queue.get()?, 7);
//!     Ok::<(), Box<dyn std::error::Error>>(())
//! });
//! assert!(report.refused > 0 && report.survived > 0, "{report}");
//! ```
//!
//! # A pool where everything goes wrong, by a seed
//!
//! [`Pool::simulated`](crate::Pool::simulated) runs your functions in the calling thread, and simulates workers that die,
//! answers that are late or lost, and time. The same seed is the same run, thousands of them take a second.
//!
//! ```
//! # #[cfg(feature = "pool")] {
//! use procession::{Pool, testing::simulated::Faults};
//!
//! for seed in 0..50 {
//!     let pool = Pool::simulated_builder(seed).faults(Faults { death: 0.1, ..Faults::SOME }).build();
//!     // What your program does with a pool goes here.
//!     let total: u64 = pool.tasks(|n: u64| n * n, 0..20).retry(100).quarantine(0).collect()?.into_iter().sum();
//!     assert_eq!(total, 2470, "seed {seed}");
//! }
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The crate `procession-testkit` has more: roles, limits, the system calls that an operation makes, other interpreters.

#[cfg(feature = "pool")]
#[doc(inline)]
pub use procession_pool::simulated;
#[doc(inline)]
pub use procession_testkit::{
    Census, Watchdog, census, faults, forked, isolated, isolated_within, step, storm, test_name,
    test_timeout, test_watchdog, wait, watchdog,
};
