//! Hosted pools.

use crate::ways::{Way, each_way};
use procession_manager::{Address, ErrorKind, Manager, PoolProxy, Session};
use procession_parcel::register;
use procession_process::{Process, StartMethod};
use procession_testkit::{test_watchdog, wait::eventually};
use std::{path::PathBuf, time::Duration};

const LONG: Duration = Duration::from_secs(20);

fn square(n: u64) -> u64 {
    n * n
}

register! {
    "manager.tests.square" => square as fn(u64) -> u64,
}

/// Waits for a file, however long that takes.
fn wait_for(path: PathBuf) -> u32 {
    while !path.exists() && !procession_pool::cancelled() {
        std::thread::sleep(Duration::from_millis(1));
    }
    std::process::id()
}

fn path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("procession-manager-pool-{name}-{}", std::process::id()))
}

fn a_hosted_pool_works_for_all_clients(way: Way) {
    let manager = Manager::start().unwrap();
    let pool = manager.pool(2).unwrap();
    let parties: Vec<_> = (0..3)
        .map(|n| {
            way.start(
                |(pool, n): (PoolProxy, u64)| {
                    assert_eq!(pool.apply(square, &n).unwrap(), n * n);
                    let all = pool.map(square, 0..100).unwrap();
                    assert_eq!(all, (0..100).map(square).collect::<Vec<_>>());
                },
                (pool.clone(), n),
            )
        })
        .collect();
    parties.into_iter().for_each(|party| party.join());
    let workers = pool.worker_pids().unwrap();
    assert_eq!(workers.len(), 2);
    let ran = pool.apply(|()| std::process::id(), &()).unwrap();
    assert!(workers.contains(&ran));
}
each_way!(a_hosted_pool_works_for_all_clients);

#[test]
fn results_come_in_order_as_handles_and_as_they_are_taken() {
    let _watchdog = test_watchdog();
    let manager = Manager::start().unwrap();
    let pool = manager.pool(2).unwrap();
    let gate = path("handles");
    let late = pool.submit(wait_for, &gate).unwrap();
    let other = pool.submit(square, &7).unwrap();
    assert_eq!(other.get().unwrap(), 49);
    let late = late.get_timeout(Duration::from_millis(10)).unwrap_err();
    std::fs::write(&gate, "").unwrap();
    assert!(late.get_timeout(LONG).unwrap().unwrap() > 0);
    std::fs::remove_file(&gate).unwrap();
    let many = pool.map_chunks(square, 0..10, 3).unwrap();
    assert_eq!(
        pool.imap(square, 0.., 4).take(20).map(Result::unwrap).sum::<u64>(),
        (0..20).map(square).sum()
    );
    assert_eq!(many.get().unwrap(), (0..10).map(square).collect::<Vec<_>>());
    assert_eq!(pool.map(square, []).unwrap(), []);
}

#[test]
fn a_call_that_blocks_stands_in_no_other_calls_way() {
    let _watchdog = test_watchdog();
    let manager = Manager::start().unwrap();
    let (pool, dict) = (manager.pool(1).unwrap(), manager.dict::<u64, u64>().unwrap());
    let gate = path("blocks");
    let blocked = pool.submit(wait_for, &gate).unwrap();
    for n in 0..100 {
        dict.set(&n, &n).unwrap();
    }
    std::fs::write(&gate, "").unwrap();
    blocked.get().unwrap();
    std::fs::remove_file(&gate).unwrap();
}

#[test]
fn a_panic_a_death_and_what_cannot_be_decoded_are_the_calls_errors() {
    let _watchdog = test_watchdog();
    let manager = Manager::start().unwrap();
    let pool = manager.pool(2).unwrap();
    let odd = |n: u64| -> u64 { if n == 3 { panic!("no {n}") } else { n } };
    let error = pool.map(odd, 0..5).unwrap_err();
    assert!(error.panic().unwrap().message().contains("no 3"), "{error}");
    let error = pool.apply(|()| -> () { std::process::abort() }, &()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Lost);
    assert!(error.to_string().contains("SIGABRT"), "{error}");
    let error = pool.submit_named::<u64, u64>("manager.tests.nothing", &1).unwrap().get().unwrap_err();
    assert!(error.to_string().contains("manager.tests.nothing"), "{error}");
    assert_eq!(pool.map(square, 0..3).unwrap(), [0, 1, 4]);
}

#[test]
fn a_client_that_dies_takes_back_its_calls() {
    let _watchdog = test_watchdog();
    let manager = Manager::start().unwrap();
    let pool = manager.pool(1).unwrap();
    let client = Process::spawn(
        |pool: PoolProxy| -> () {
            let never = path("never");
            let all: Vec<_> = (0..10).map(|_| pool.submit(wait_for, &never).unwrap()).collect();
            // The server has them all once it has answered something else.
            pool.worker_pids().unwrap();
            drop(all.into_iter().map(std::mem::ManuallyDrop::new).collect::<Vec<_>>());
            std::process::abort();
        },
        pool.clone(),
    )
    .unwrap();
    assert!(client.join().is_err());
    // Its only worker would be busy for ever otherwise.
    assert_eq!(pool.submit(square, &3).unwrap().get_timeout(LONG).unwrap().unwrap(), 9);
    // As does one that gives them up.
    let given_up = pool.submit(wait_for, &path("never")).unwrap();
    given_up.cancel();
    assert_eq!(pool.submit(square, &4).unwrap().get_timeout(LONG).unwrap().unwrap(), 16);
    eventually("nobody waits", LONG, || manager.stats().unwrap().waiting == 0);
}

/// A MiB, once there is a file.
fn large((gate, n): (PathBuf, u8)) -> Vec<u8> {
    wait_for(gate);
    vec![n; 1 << 20]
}

#[test]
fn results_that_nobody_reads_are_bounded_by_their_bytes() {
    let _watchdog = test_watchdog();
    let builder = Manager::builder().max_unread(8 << 20).address(("127.0.0.1", 0)).authkey("key");
    let manager = builder.start().unwrap();
    let pool = manager.pool(2).unwrap();
    let gate = path("unread");
    let tasks: Vec<_> = (0..20).map(|n| pool.submit(large, &(gate.clone(), n)).unwrap()).collect();
    // Another connection: it reads nothing of this one's.
    let other = Session::connect(manager.public_address().unwrap().clone(), "key").unwrap();
    eventually("all are there", LONG, || other.stats().unwrap().waiting == 20);
    std::fs::write(&gate, "").unwrap();
    eventually("all are done", LONG, || other.stats().unwrap().waiting == 0);
    std::fs::remove_file(&gate).unwrap();
    let mut came = 0;
    for (task, n) in tasks.into_iter().zip(0..) {
        match task.get() {
            Ok(bytes) => {
                assert!(bytes == vec![n; 1 << 20]);
                came += 1;
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Limit);
                assert!(error.to_string().contains("was done"), "{error}");
                assert!(error.to_string().contains(&(8 << 20).to_string()), "{error}");
            }
        }
    }
    // What lies in the lane is with the client.
    assert!((7..=9).contains(&came), "{came}");
    assert_eq!(pool.apply(square, &3).unwrap(), 9);
}

#[test]
fn a_pool_is_closed_joined_and_ended() {
    let _watchdog = test_watchdog();
    let manager = Manager::start().unwrap();
    let pool = manager.pool(1).unwrap();
    let gate = path("join");
    let call = pool.submit(wait_for, &gate).unwrap();
    assert_eq!(pool.join(None).unwrap_err().kind(), ErrorKind::Invalid);
    pool.close().unwrap();
    assert_eq!(pool.apply(square, &1).unwrap_err().kind(), ErrorKind::Refused);
    assert!(!pool.join(Some(Duration::from_millis(10))).unwrap());
    std::fs::write(&gate, "").unwrap();
    assert!(pool.join(None).unwrap());
    call.get().unwrap();
    std::fs::remove_file(&gate).unwrap();

    let ended = manager.pool(1).unwrap();
    let stuck = ended
        .submit(
            |()| -> () {
                loop {
                    std::thread::park()
                }
            },
            &(),
        )
        .unwrap();
    let pids = ended.worker_pids().unwrap();
    ended.terminate().unwrap();
    assert_eq!(stuck.get().unwrap_err().kind(), ErrorKind::Refused);
    assert!(ended.worker_pids().unwrap_err().to_string().contains("terminated"));
    let is_there = |pid: &u32| std::path::Path::new(&format!("/proc/{pid}")).exists();
    eventually("its workers are gone", LONG, || !pids.iter().any(is_there));
    // The last proxy takes the workers along.
    let pids = pool.worker_pids().unwrap();
    drop(pool);
    eventually("its workers are gone", LONG, || !pids.iter().any(is_there));
    drop(ended);
    eventually("nothing is left", LONG, || manager.stats().unwrap().objects == 0);
}

#[test]
fn a_remote_client_calls_what_is_registered_in_a_pool_that_was_published() {
    let _watchdog = test_watchdog();
    let manager = Manager::builder().address(("127.0.0.1", 0)).authkey("key").start().unwrap();
    let pool = manager.pool(1).unwrap();
    manager.publish("pool", &pool).unwrap();
    let child = Process::builder()
        .start_method(StartMethod::Spawn)
        .spawn(
            |address: Address| {
                let session = Session::connect(address, "key").unwrap();
                assert_eq!(session.pool(1).unwrap_err().kind(), ErrorKind::Refused);
                let pool = session.find::<PoolProxy>("pool").unwrap();
                let task = pool.map_named::<u64, u64>("manager.tests.square", [2, 3]).unwrap();
                assert_eq!(task.get().unwrap(), [4, 9]);
                // A reference into this program is none over a network.
                assert_eq!(pool.apply(square, &2).unwrap_err().kind(), ErrorKind::Encoding);
            },
            manager.public_address().unwrap().clone(),
        )
        .unwrap();
    child.join().unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn a_remote_client_ends_a_pool_only_where_it_may() {
    let _watchdog = test_watchdog();
    for may in [false, true] {
        let builder = Manager::builder().address(("127.0.0.1", 0)).authkey("key");
        let builder = if may { builder.public_pool_end(true) } else { builder };
        let manager = builder.start().unwrap();
        let pool = manager.pool(1).unwrap();
        manager.publish("pool", &pool).unwrap();
        let session = Session::connect(manager.public_address().unwrap().clone(), "key").unwrap();
        let theirs = session.find::<PoolProxy>("pool").unwrap();
        let after = |end: fn(&PoolProxy) -> procession_manager::Result<()>| {
            let ended = end(&theirs);
            if !may {
                let error = ended.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Refused);
                assert!(error.to_string().contains("own tree"), "{error}");
                assert_eq!(pool.apply(square, &3).unwrap(), 9);
                let task = theirs.map_named::<u64, u64>("manager.tests.square", [4]).unwrap();
                return assert_eq!(task.get().unwrap(), [16]);
            }
            ended.unwrap();
            assert_eq!(pool.apply(square, &3).unwrap_err().kind(), ErrorKind::Refused);
        };
        after(PoolProxy::close);
        after(PoolProxy::terminate);
        // Its name may be all that keeps it.
        let other = session.list::<u64>().unwrap();
        for taken in [session.publish("pool", &other), session.unpublish("pool").map(drop)] {
            assert_eq!(
                taken.map_err(|error| error.kind()),
                if may { Ok(()) } else { Err(ErrorKind::Refused) }
            );
        }
        assert_eq!(session.find::<PoolProxy>("pool").is_ok(), !may);
        pool.terminate().unwrap();
    }
}
