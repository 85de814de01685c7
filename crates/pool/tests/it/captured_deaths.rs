//! Workers that die while they take a function's descriptors.

use crate::support::{Notebook, die_by, note, settled};
use procession_parcel::Fd;
use procession_pool::{Pool, TaskError, Work, task};
use procession_process::StartMethod;
use procession_testkit::{isolated, test_watchdog};
use serde::{Deserialize, Deserializer, Serialize};
use std::{
    fs::File,
    io::Read,
    time::{Duration, Instant},
};

/// Captured data of which the first few decodings end their worker.
#[derive(Clone, Debug, Serialize)]
struct Deadly {
    path: String,
    times: usize,
}

impl<'de> Deserialize<'de> for Deadly {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Deadly, D::Error> {
        let (path, times) = <(String, usize)>::deserialize(deserializer)?;
        note(&path, 1);
        if std::fs::metadata(&path).map_or(0, |data| data.len()) <= 8 * times as u64 {
            die_by(9);
        }
        Ok(Deadly { path, times })
    }
}

fn open(path: &str) -> Fd {
    Fd::from(File::open(path).unwrap())
}

/// Reads a byte, if there is one.
fn read(fd: &Fd) -> usize {
    File::from(fd.0.try_clone().unwrap()).read(&mut [0]).unwrap()
}

/// A function with descriptors before and behind what is deadly: it reads one byte of two.
fn work(notes: &Notebook, times: usize) -> Work<usize, usize> {
    let deadly = Deadly { path: notes.path(), times };
    let (zero, null) = (open("/dev/zero"), open("/dev/null"));
    let run = task!(
        move |n: usize| n + read(zero) + read(null) + usize::from(deadly.path.is_empty());
        zero, deadly, null
    );
    Work::task(&run)
}

#[test]
fn a_function_whose_taker_dies_while_it_decodes_what_is_captured_is_sent_again() {
    isolated!({
        for method in [StartMethod::ForkServer, StartMethod::Spawn] {
            let round = || {
                let pool = Pool::builder().workers(1).start_method(method).build().unwrap();
                let notes = Notebook::new();
                let work = work(&notes, 2);
                // What is captured is decoded for the first item, which was in hand.
                let found = pool.tasks_of(work.clone(), 0..20).retry(2).chunk_size(1).collect().unwrap();
                assert!(found.into_iter().eq(1..21));
                assert_eq!(notes.read().len(), 3);
                // One that is deadly every time costs what was in hand, each time.
                let notes = Notebook::new();
                let hopeless = self::work(&notes, usize::MAX / 16);
                let results = pool.tasks_of(hopeless, 0..3).chunk_size(1).collect_results();
                for result in results {
                    let error = result.unwrap_err();
                    assert!(matches!(error, TaskError::Died(_)), "{error}");
                }
                assert_eq!(notes.read().len(), 3);
                assert_eq!(pool.tasks_of(work, [1]).collect().unwrap(), [2]);
                pool.join();
            };
            // What lives as long as the program.
            round();
            let before = settled();
            round();
            before.assert_settles(Duration::from_secs(10));
        }
    });
}

#[test]
fn descriptors_that_wait_for_a_worker_that_is_killed_reach_the_next() {
    isolated!({
        let round = || {
            let pool = Pool::new(1).unwrap();
            let notes = Notebook::new();
            assert_eq!(pool.apply(|n: u8| n, 7).unwrap(), 7);
            let pid = rustix::process::Pid::from_raw(pool.worker_pids()[0].cast_signed()).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
            // They are in its socket, or will be.
            let works = [work(&notes, 0), work(&notes, 0), work(&notes, 0)];
            let tasks: Vec<_> = works.iter().map(|work| pool.submit_work(work, &5).unwrap()).collect();
            assert!(pool.kill_worker(0));
            tasks.into_iter().for_each(|task| assert_eq!(task.get().unwrap(), 6));
            assert_eq!(notes.read().len(), 3);
            pool.join();
        };
        round();
        let before = settled();
        (0..3).for_each(|_| round());
        before.assert_settles(Duration::from_secs(10));
    });
}

#[test]
fn functions_with_descriptors_reach_workers_that_are_killed_all_the_time() {
    let _watchdog = test_watchdog();
    let pool = Pool::builder().workers(2).retry(3).build().unwrap();
    let notes = Notebook::new();
    let begun = Instant::now();
    let mut rounds = 0;
    while rounds < 200 && begun.elapsed() < Duration::from_secs(10) {
        let work = work(&notes, 0);
        let task = pool.tasks_of(work, [rounds, rounds]).chunk_size(1).spawn().unwrap();
        pool.kill_worker(rounds % 2);
        assert_eq!(task.get().unwrap(), [rounds + 1, rounds + 1]);
        rounds += 1;
    }
    println!("{rounds} rounds");
}
