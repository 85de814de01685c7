//! Every prefix of an operation is tried, once each.

#![expect(unsafe_code, reason = "maps memory that a forked child shares")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use procession_testkit::step::{self, Death, Options, each_instruction, each_instruction_after};
use procession_testkit::{isolated, isolated_within};
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use rustix::process::{Signal, getpid};

/// A counter that a forked child and its parent share.
#[derive(Debug)]
pub(crate) struct SharedPage(NonNull<AtomicU64>);

impl SharedPage {
    const BYTES: usize = 4096;

    fn new() -> Self {
        // SAFETY: a new mapping at an address of the kernel's choice.
        let page = unsafe {
            mmap_anonymous(ptr::null_mut(), Self::BYTES, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED)
        };
        Self(NonNull::new(page.unwrap().cast()).unwrap())
    }

    /// A mapping whose descriptor is closed.
    pub(crate) fn of_memfd(name: &str) -> Self {
        let memfd = rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&memfd, Self::BYTES as u64).unwrap();
        let both = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let page = unsafe { mmap(ptr::null_mut(), Self::BYTES, both, MapFlags::SHARED, &memfd, 0) };
        Self(NonNull::new(page.unwrap().cast()).unwrap())
    }

    pub(crate) fn counter(&self) -> &AtomicU64 {
        // SAFETY: the mapping is aligned, zeroed, larger than the counter, and lives as long as `self`.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for SharedPage {
    fn drop(&mut self) {
        // SAFETY: mapped in the constructors, and references to it end with `self`.
        unsafe { munmap(self.0.as_ptr().cast(), Self::BYTES) }.unwrap();
    }
}

fn add_twice(page: &mut SharedPage) {
    page.counter().fetch_add(1, Ordering::SeqCst);
    page.counter().fetch_add(1, Ordering::SeqCst);
}

#[test]
fn each_prefix_is_seen_in_order_and_none_is_left_out() {
    isolated!({
        let (prepare, operation) = (|_: &mut SharedPage| (), |page: &mut SharedPage, ()| add_twice(page));
        let whole = step::count(SharedPage::new, prepare, operation);
        let mut seen = Vec::new();
        let report = each_instruction_after(
            &Options::default(),
            SharedPage::new,
            prepare,
            operation,
            |death, page| {
                // The end comes first, when the way is recorded, and last, when it is found to be the only one.
                if !death.finished {
                    assert_eq!(death.instructions, seen.len() as u64);
                    seen.push(page.counter().load(Ordering::SeqCst));
                }
            },
        );
        assert_eq!(report.instructions, whole);
        assert_eq!((report.tried, seen.len() as u64), (whole + 1, whole));
        assert_eq!((report.ways, report.missed, report.open), (1, 0, 0));
        assert!(seen.is_sorted(), "{seen:?}");
        let mut distinct = seen.clone();
        distinct.dedup();
        assert_eq!(distinct, [0, 1, 2], "{seen:?}");
        println!("{report}");
    });
}

#[test]
fn what_was_recorded_dies_where_steps_lead() {
    isolated!({
        let (prepare, operation) = (|_: &mut SharedPage| (), |page: &mut SharedPage, ()| add_twice(page));
        let recorded = step::Recorded::new(SharedPage::new, prepare, operation);
        assert_eq!(recorded.instructions(), step::count(SharedPage::new, prepare, operation));
        for n in 0..=recorded.instructions() {
            let mut stepped = SharedPage::new();
            step::kill_after(n, &mut stepped, prepare, operation);
            let page = recorded.kill_after(n, SharedPage::new, prepare, operation);
            let counts = [page, stepped].map(|page| page.counter().load(Ordering::SeqCst));
            assert_eq!(counts[0], counts[1], "after {n}");
        }
    });
}

#[test]
fn preparation_is_not_stepped() {
    isolated!({
        let mut counts = Vec::new();
        let prepare = |page: &mut SharedPage| {
            for _ in 0..100_000 {
                page.counter().fetch_add(1, Ordering::SeqCst);
            }
            7
        };
        let add = |page: &mut SharedPage, seven| {
            page.counter().fetch_add(seven, Ordering::SeqCst);
        };
        let check = |death: Death, page: &mut SharedPage| {
            let count = page.counter().load(Ordering::SeqCst);
            if death.finished { assert_eq!(count, 100_007) } else { counts.push(count) }
        };
        let report = each_instruction_after(&Options::default(), SharedPage::new, prepare, add, check);
        assert!(report.instructions < 1_000, "{report}");
        counts.dedup();
        assert_eq!(counts, [100_000, 100_007]);
    });
}

/// Loops within loops, calls, and string instructions: addresses that are passed again and again.
fn work(page: &mut SharedPage, (): ()) {
    let source = [7_u8; 160];
    for round in 1..5_usize {
        let mut copy = [0_u8; 160];
        for part in copy.chunks_mut(40).take(round) {
            part.copy_from_slice(std::hint::black_box(&source[..part.len()]));
            page.counter().fetch_add(1, Ordering::SeqCst);
        }
        let _ = rustix::process::getppid();
        assert_eq!(copy[..40 * round], source[..40 * round]);
    }
}

#[test]
fn a_way_by_breakpoints_leads_where_steps_lead() {
    isolated_within("step::a_way_by_breakpoints_leads_where_steps_lead", LONG, || {
        let mut counts = Vec::new();
        let note = |death: Death, page: &mut SharedPage| {
            if !death.finished {
                counts.push((death.instructions, page.counter().load(Ordering::SeqCst)));
            }
        };
        let report = each_instruction_after(&Options::default(), SharedPage::new, |_| (), work, note);
        println!("{report}");
        assert_eq!((report.ways, report.missed, report.open), (1, 0, 0));
        let stepped = |instructions| {
            let mut page = SharedPage::new();
            let death = step::kill_after(instructions, &mut page, |_| (), work);
            assert_eq!(death, Death { instructions, finished: false });
            page.counter().load(Ordering::SeqCst)
        };
        // Around each addition.
        for pair in counts.windows(2).filter(|pair| pair[0].1 != pair[1].1) {
            for (instructions, count) in pair {
                assert_eq!(stepped(*instructions), *count, "after {instructions} instructions");
            }
        }
    });
}

/// Goes another way in each child, by the number of its parent's setups so far.
#[test]
fn places_on_other_ways_are_tried_as_well() {
    isolated!({
        let mut setups = 0_u64;
        let mut odd = 0;
        let report = each_instruction(
            &Options::default(),
            || {
                setups += 1;
                (SharedPage::new(), setups)
            },
            |(page, setups)| {
                if *setups % 3 == 0 {
                    page.counter().fetch_add(10, Ordering::SeqCst);
                    std::hint::black_box(setups.is_power_of_two());
                } else {
                    page.counter().fetch_add(1, Ordering::SeqCst);
                }
            },
            |death, (page, setups)| {
                let count = page.counter().load(Ordering::SeqCst);
                let whole = if *setups % 3 == 0 { 10 } else { 1 };
                assert!(count == whole || (count == 0 && !death.finished), "{count} after {death:?}");
                odd += u64::from(count == 10 && !death.finished);
            },
        );
        println!("{report}");
        assert!(odd > 0 && report.missed > 0, "{odd} deaths on the other way; {report}");
    });
}

#[test]
fn a_system_call_is_one_step() {
    isolated!({
        let plain = step::count(|| (), |_| (), |_, ()| {});
        let calls = step::count(
            || (),
            |_| (),
            |_, ()| {
                let _ = rustix::process::getppid();
            },
        );
        assert!(calls > plain && calls < plain + 300, "{plain} without, {calls} with");
    });
}

#[test]
fn a_stride_leaves_out_and_still_reaches_the_end() {
    isolated!({
        let options = Options { stride: 5, ..Options::default() };
        let mut last = None;
        let report = each_instruction(&options, SharedPage::new, add_twice, |death, page| {
            let count = page.counter().load(Ordering::SeqCst);
            if death.finished { assert_eq!(count, 2) } else { last = Some((death.instructions, count)) }
        });
        let last_step = (report.instructions - 1) / 5 * 5;
        assert_eq!(last, Some((last_step, 2)));
        assert_eq!(report.tried, report.instructions.div_ceil(5) + 1);
    });
}

#[test]
fn an_operation_that_fails_is_a_failure_and_so_is_an_endless_one() {
    isolated_within("step::an_operation_that_fails_is_a_failure_and_so_is_an_endless_one", LONG, || {
        let message = |operation: fn(&mut ())| {
            let options = Options { first: 400, limit: 500, ..Options::default() };
            let run = || each_instruction(&options, || (), operation, |_, ()| {});
            let panic = catch_unwind(AssertUnwindSafe(run)).unwrap_err();
            panic.downcast_ref::<String>().unwrap().clone()
        };
        let endless = message(|_| {
            loop {
                std::hint::spin_loop();
            }
        });
        assert!(endless.contains("more than 500 instructions"), "{endless}");
        let killed = message(|_| rustix::process::kill_process(getpid(), Signal::SEGV).unwrap());
        assert!(killed.contains("signal 11"), "{killed}");
        let ended = message(|_| leave());
        assert!(ended.contains("ended its process"), "{ended}");
    });
}

const LONG: Duration = Duration::from_secs(120);

fn leave() {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(3) }
}
