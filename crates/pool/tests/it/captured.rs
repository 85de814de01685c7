//! Functions that have captured locks, segments and files.

use crate::support::wait_until;
use procession_parcel::Fd;
use procession_pool::{Pool, TaskError, Work, task};
use procession_process::StartMethod;
use procession_sync::{Array, RawValue, Value};
use procession_testkit::{Census, isolated, limits::Surroundings};
use std::{
    fs::File,
    io::{Read, Seek, SeekFrom, Write},
    sync::Mutex,
    time::Duration,
};

#[test]
fn captured_handles_reach_each_worker_and_its_replacement() {
    let _watchdog = procession_testkit::test_watchdog();
    for method in [StartMethod::Spawn, StartMethod::ForkServer] {
        let pool = Pool::builder().workers(2).start_method(method).build().unwrap();
        let (sum, count) = (Value::new(0_u64).unwrap(), RawValue::new(0_u32).unwrap());
        let (shared, raw) = (sum.clone(), count.clone());
        let add = task!(
            move |n: u64| {
                raw.fetch_add(1);
                shared.update(|sum| *sum += n).unwrap();
            };
            shared, raw
        );
        let work = Work::task(&add);
        let run = || pool.tasks_of(work.clone(), 1..=100).retry(2).chunk_size(1).collect().unwrap();
        run();
        assert_eq!((sum.get().unwrap(), count.load()), (5050, 100));
        let before = pool.worker_pids();
        for index in 0..2 {
            assert!(pool.kill_worker(index));
        }
        wait_until(|| pool.worker_pids().iter().all(|pid| !before.contains(pid)));
        run();
        assert_eq!((sum.get().unwrap(), count.load()), (10_100, 200));
    }
}

#[test]
fn functions_that_differ_by_their_handles_alone_are_kept_apart() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::new(1).unwrap();
    let work = |path: &str| {
        let file = Fd::from(File::open(path).unwrap());
        Work::task(&task!(move |_: ()| File::from(file.0.try_clone().unwrap()).read(&mut [0]).unwrap(); file))
    };
    let (null, zero) = (work("/dev/null"), work("/dev/zero"));
    for _ in 0..2 {
        assert_eq!(pool.tasks_of(null.clone(), [()]).collect().unwrap(), [0]);
        assert_eq!(pool.tasks_of(zero.clone(), [()]).collect().unwrap(), [1]);
    }
}

#[test]
fn a_captured_file_is_the_same_file() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::new(2).unwrap();
    let mut file = tempfile();
    let shared = Fd::from(file.try_clone().unwrap());
    let write = task!(
        move |byte: u8| File::from(shared.0.try_clone().unwrap()).write_all(&[byte]).unwrap();
        shared
    );
    pool.map_with(&write, b'a'..=b'z').unwrap();
    let mut text = Vec::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_end(&mut text).unwrap();
    text.sort_unstable();
    assert!(text.into_iter().eq(b'a'..=b'z'));
}

/// A file without a name.
fn tempfile() -> File {
    let path = std::env::temp_dir().join(format!("procession-pool-handles-{}", std::process::id()));
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    file
}

static HELD: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// Opens all of the descriptors that this process may have, of which there are `most` from now on.
fn fill_up(most: u64) {
    Surroundings::new().nofile(most).apply().unwrap();
    HELD.lock().unwrap().extend(std::iter::from_fn(|| File::open("/dev/null").ok()));
}

#[test]
fn a_worker_without_room_for_descriptors_says_so_and_takes_them_when_it_has() {
    let _watchdog = procession_testkit::test_watchdog();
    let pool = Pool::new(1).unwrap();
    pool.apply(fill_up, 64).unwrap();
    let value = Value::new(7_u8).unwrap();
    let read = task!(move |_: ()| value.get().unwrap(); value);
    let error = pool.map_with(&read, [()]).unwrap_err();
    let TaskError::BadArguments(why) = &error else { panic!("{error}") };
    assert!(why.contains("descriptor"), "{why}");
    // However many there are: none stays in the way of others, or of tasks.
    for n in 0..400_u32 {
        let array = Array::from_slice(&[n]).unwrap();
        assert!(pool.map_with(&task!(move |_: ()| array.get(0).unwrap(); array), [()]).is_err());
    }
    // The pool and its worker go on; what was in the way is taken later, and not for something else.
    assert_eq!(pool.apply(|n: u8| n + 1, 1).unwrap(), 2);
    pool.apply(|()| HELD.lock().unwrap().clear(), ()).unwrap();
    let other = Value::new(8_u8).unwrap();
    let read = task!(move |_: ()| other.get().unwrap(); other);
    assert_eq!(pool.map_with(&read, [()]).unwrap(), [8]);
}

#[test]
fn the_descriptors_of_functions_that_nobody_holds_are_closed() {
    isolated!({
        let pool = Pool::new(2).unwrap();
        let one = || {
            let array = Array::<u8>::new(100).unwrap();
            let work = Work::task(&task!(move |n: usize| array.get(n).unwrap(); array));
            // Twice, while it is held.
            for _ in 0..2 {
                assert_eq!(pool.tasks_of(work.clone(), 0..10).collect().unwrap(), [0; 10]);
            }
        };
        one();
        pool.apply(|()| (), ()).unwrap();
        let open = || {
            pool.tasks(|_: u8| std::fs::read_dir("/proc/self/fd").unwrap().count(), 0..4)
                .chunk_size(1)
                .collect()
                .unwrap()
        };
        let (before, theirs) = (Census::take(), open().into_iter().max());
        for _ in 0..200 {
            one();
        }
        pool.apply(|()| (), ()).unwrap();
        before.assert_settles(Duration::from_secs(10));
        // The last one may still be known, since a worker is told to forget with its next task.
        assert!(open().into_iter().max() <= theirs.map(|count| count + 8), "{theirs:?} {:?}", open());
    });
}

#[test]
fn a_function_that_could_not_be_sent_for_want_of_descriptors_is_sent_with_the_next_task() {
    isolated!({
        let pool = Pool::new(1).unwrap();
        pool.apply(|()| (), ()).unwrap();
        // So large that it takes a descriptor of its own on its way.
        let (file, bytes) = (Fd::from(File::open("/dev/zero").unwrap()), vec![7_u8; 100_000]);
        let work = Work::task(&task!(
            move |n: usize| bytes[n] + File::from(file.0.try_clone().unwrap()).read(&mut [0]).unwrap() as u8;
            file, bytes
        ));
        fill_up(100);
        let error = pool.tasks_of(work.clone(), [0]).collect().unwrap_err();
        assert!(
            matches!(&error, TaskError::BadArguments(why) if why.contains("Too many open files")),
            "{error}"
        );
        HELD.lock().unwrap().clear();
        assert_eq!(pool.tasks_of(work, [0, 1]).collect().unwrap(), [8, 8]);
    });
}
