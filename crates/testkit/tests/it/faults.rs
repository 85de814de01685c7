//! Each system call fails once, and each bad end is found.

use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use procession_testkit::faults::{Options, Report, each_call};
use procession_testkit::isolated;

/// What `each_call` says about an operation that is not as it should be.
fn complaint(operation: impl Fn() -> io::Result<()>) -> String {
    let brief = Duration::from_millis(300);
    let options = Options { patience: Duration::from_secs(5), settling: brief, ..Options::default() };
    let panic = catch_unwind(AssertUnwindSafe(|| each_call(&options, operation))).unwrap_err();
    panic.downcast_ref::<String>().unwrap().clone()
}

fn open() -> io::Result<File> {
    File::open("/dev/null")
}

#[test]
fn each_failure_is_tried_at_the_first_use_and_later() {
    isolated!({
        let report = each_call(&Options::default(), || {
            let (_a, _b) = (open()?, open()?);
            // The second try makes up for the failure of the first.
            open().or_else(|_| open()).map(drop)
        });
        // Three files, in two passes; the fourth `open` is only there where the third failed.
        assert_eq!((report.tried, report.refused, report.survived), (6, 4, 2), "{report}");
        let none = each_call(&Options::default(), || Ok::<(), ()>(()));
        assert_eq!(none, Report::default());
    });
}

#[test]
fn a_panic_a_hang_a_leak_and_an_operation_that_is_spoilt_are_found() {
    isolated!({
        let message = complaint(|| open().map(drop).map_err(|_| panic!("no file")));
        assert!(message.contains("openat") && message.contains("ended its process"), "{message}");

        let message = complaint(|| {
            if open().is_err() {
                loop {
                    std::hint::spin_loop();
                }
            }
            Ok(())
        });
        assert!(message.contains("it hangs"), "{message}");

        let message = complaint(|| {
            let first = open()?;
            open().inspect_err(|_| std::mem::forget(first.try_clone())).map(drop)
        });
        assert!(message.contains("in use") && message.contains("left behind"), "{message}");

        static TRIES: AtomicU32 = AtomicU32::new(0);
        let message = complaint(|| {
            if TRIES.load(Ordering::Relaxed) > 0 {
                return Err(io::ErrorKind::Other.into());
            }
            open()
                .inspect_err(|_| {
                    TRIES.fetch_add(1, Ordering::Relaxed);
                })
                .map(drop)
        });
        assert!(message.contains("the next try did not succeed"), "{message}");
    });
}
