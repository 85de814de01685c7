//! Deaths at each step of the way of blocks through a pool: built with `--cfg crash_points`.

use crate::{
    heap::{Frame, check, develop, frame, of_mib, pool_on, wait_for_blocks},
    support::wait_until,
};
use procession_parcel::{Parcel, wire};
use procession_pool::{Pool, TaskError};
use procession_shm::{Heap, SharedSlice};
use procession_sys::crash;
use procession_testkit::{role, watchdog};
use std::{
    os::unix::{net::UnixStream, process::ExitStatusExt},
    time::Duration,
};

/// From now on this process dies there.
fn arm(point: String) {
    // SAFETY: nothing else in this process reads or writes the environment meanwhile.
    unsafe { std::env::set_var(crash::VARIABLE, point) };
}

fn develop_armed((frame, point): (Frame, String)) -> Frame {
    arm(point);
    develop(frame)
}

/// A pool of one worker, with retries.
fn pool(heap: &Heap) -> Pool {
    Pool::builder().workers(1).heap(heap).retry(1).build().unwrap()
}

/// The workers died, and what they had is free.
#[track_caller]
fn assert_died(result: Result<Frame, TaskError>, context: &str) {
    let error = result.map(drop).unwrap_err();
    assert!(matches!(&error, TaskError::Died(died) if died.attempt == 1), "{context}: {error}");
}

#[test]
fn a_worker_that_dies_while_it_decodes_takes_its_blocks_along_or_leaves_them() {
    let _watchdog = watchdog!(Duration::from_secs(200));
    let heap = of_mib(64);
    for (point, taken) in [
        ("heap.receive.attached", false),
        ("heap.receive.owned", true),
        ("heap.receive.owned:2", true),
        ("heap.hold.attached", true),
        ("heap.hold.added", true),
        ("heap.hold.added:2", true),
    ] {
        let pool = pool(&heap);
        pool.apply(arm, point.to_owned()).unwrap();
        let result = pool.apply(develop, frame(&heap, 7));
        if taken {
            assert_died(result, point);
        } else {
            check(&result.unwrap(), 7);
        }
        wait_for_blocks(&pool, &heap, 0);
        assert_eq!(pool.workers(), 1);
    }
}

#[test]
fn a_read_only_block_survives_who_dies_while_it_decodes() {
    let _watchdog = watchdog!(Duration::from_secs(200));
    let heap = of_mib(64);
    let pool = pool(&heap);
    let table = heap.vec_from(&[1_u16, 2, 3]).unwrap().freeze().unwrap();
    for point in ["heap.hold.attached", "heap.hold.slot", "heap.hold.renewed", "heap.hold.added"] {
        pool.apply(arm, point.to_owned()).unwrap();
        let same = pool.apply(|table: SharedSlice<u16>| table, table.clone()).unwrap();
        assert!(same.same(&table), "{point}");
        drop(same);
        wait_for_blocks(&pool, &heap, 1);
    }
    drop(table);
    wait_for_blocks(&pool, &heap, 0);
}

#[test]
fn a_worker_that_dies_while_it_answers_leaves_nothing_or_its_result() {
    let _watchdog = watchdog!(Duration::from_secs(200));
    let heap = of_mib(64);
    for (point, answered) in [
        ("pool.load.noted", false),
        ("heap.ring.held", false),
        ("heap.ring.held:2", false),
        ("heap.ring.departed", false),
        ("heap.ring.departed:2", false),
        ("pool.load.departed", false),
        ("lane.send.header", false),
        ("lane.send.copied", false),
        ("lane.send.committed", true),
        ("pool.load.committed", true),
    ] {
        let pool = pool(&heap);
        // One result before and one behind it, which have their blocks.
        let points = [String::new(), point.to_owned(), String::new()];
        let items = points.into_iter().zip(1..).map(|(point, n)| (frame(&heap, n), point));
        let results = pool.tasks(develop_armed, items).chunk_size(3).collect_results();
        for (n, result) in (1..).zip(results) {
            match result {
                Ok(frame) => check(&frame, n),
                result => {
                    assert!(n == 2 && !answered, "{point}, {n}: {result:?}");
                    assert_died(result, point);
                }
            }
        }
        wait_for_blocks(&pool, &heap, 0);
    }
}

#[test]
fn role_parent() {
    let Some(mut role) = role::enter(role_parent) else { return };
    let parcel = wire::recv(role.fd(), &wire::Limits::default(), None).unwrap().unwrap();
    let (point, heap): (String, Heap) = parcel.unpack().unwrap();
    let pool = pool_on(&heap, 2);
    check(&pool.apply(develop, frame(&heap, 1)).unwrap(), 1);
    if point == "pool.load.revoked" {
        // Before the worker has it: it may be dead, and looked after, as soon as it does.
        arm(point);
        let item = (frame(&heap, 2), "pool.load.departed".to_owned());
        let _ = pool.submit(develop_armed, item).unwrap().get();
    } else {
        arm(point);
        let task = pool.submit(develop, frame(&heap, 2)).unwrap();
        drop(pool.submit(develop, frame(&heap, 3)).unwrap());
        let _ = task.get();
        drop(pool.imap(develop, (0..20).map(|n| frame(&heap, n))).next());
        wait_for_blocks(&pool, &heap, 0);
    }
    panic!("it did not come to its point");
}

#[test]
fn nothing_is_left_when_the_whole_pool_dies() {
    let _watchdog = watchdog!(Duration::from_secs(200));
    for point in [
        "pool.load.noted",
        "pool.load.departed",
        "pool.load.encoded",
        "pool.load.decoded",
        "pool.load.revoked",
        "heap.ring.unloaded",
    ] {
        let heap = of_mib(64);
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut process = role::start(role_parent, &[&theirs]);
        wire::send(&ours, &Parcel::pack(&(point, &heap)).unwrap(), None).unwrap();
        let status = process.wait();
        assert_eq!(status.signal(), Some(9), "{point}: {status:?}\n{}", process.output());
        // Its workers follow within a second.
        wait_until(|| {
            heap.sweep().unwrap();
            heap.stats().blocks == 0
        });
        let stats = heap.stats();
        assert_eq!(stats.used + stats.free + stats.slack, stats.capacity, "{point}: {stats:?}");
    }
}
