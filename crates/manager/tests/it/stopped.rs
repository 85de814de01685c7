//! A server that is stopped, and clients whose time is over meanwhile.

use procession_manager::{ErrorKind, Lock, Manager, Session, Waited};
use procession_testkit::{isolated, test_watchdog, wait::eventually};
use rustix::process::{Pid, Signal, kill_process};
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(20);

fn signal(manager: &Manager, signal: Signal) {
    kill_process(Pid::from_raw(manager.pid() as i32).unwrap(), signal).unwrap();
}

#[test]
fn a_frame_that_is_cut_off_by_its_time_goes_on_later() {
    let _watchdog = test_watchdog();
    let manager = Manager::start().unwrap();
    let (queue, value) = (manager.queue::<Vec<u8>>().unwrap(), manager.value(&5_u64).unwrap());
    signal(&manager, Signal::STOP);
    let large = vec![7; 10 << 20];
    assert_eq!(queue.put_timeout(&large, SHORT).unwrap_err().kind(), ErrorKind::Timeout);
    // This one is not begun.
    assert_eq!(queue.put_timeout(&large, SHORT).unwrap_err().kind(), ErrorKind::Timeout);
    assert!(manager.ping_timeout(SHORT).unwrap_err().is_timeout());
    drop(value.clone());
    signal(&manager, Signal::CONT);
    assert_eq!(value.get().unwrap(), 5);
    assert!(queue.get().unwrap() == large);
    assert!(queue.is_empty().unwrap());
}

#[test]
fn a_stopped_server_is_ended_whoever_sends() {
    let _watchdog = test_watchdog();
    let manager = Manager::start().unwrap();
    let queue = manager.queue::<Vec<u8>>().unwrap();
    signal(&manager, Signal::STOP);
    let sender = std::thread::spawn(move || queue.put(&vec![7; 10 << 20]).unwrap_err().is_server_gone());
    assert!(manager.ping_timeout(SHORT).unwrap_err().is_timeout());
    let begin = Instant::now();
    assert!(manager.shutdown(Duration::from_millis(100)).unwrap().signal().is_some());
    assert!(begin.elapsed() < LONG);
    assert!(sender.join().unwrap());
}

#[test]
fn a_late_reply_is_undone_by_who_waits_for_room() {
    let _watchdog = test_watchdog();
    let manager = Manager::start().unwrap();
    let (lock, queue) = (manager.lock().unwrap(), manager.queue::<Vec<u8>>().unwrap());
    signal(&manager, Signal::STOP);
    assert!(lock.lock_timeout(SHORT).is_err());
    let large = vec![7; 10 << 20];
    let sent = {
        let (queue, large) = (queue.clone(), large.clone());
        std::thread::spawn(move || queue.put(&large).unwrap())
    };
    assert!(manager.ping_timeout(SHORT).unwrap_err().is_timeout());
    signal(&manager, Signal::CONT);
    sent.join().unwrap();
    assert!(queue.get().unwrap() == large);
    eventually("the lock is given back", LONG, || !lock.is_locked().unwrap());
}

#[test]
fn a_lock_that_was_taken_again_too_late_is_let_go_once() {
    let _watchdog = test_watchdog();
    let manager = Manager::start().unwrap();
    let lock = manager.rlock().unwrap();
    let guard = lock.lock().unwrap();
    signal(&manager, Signal::STOP);
    assert!(lock.lock_timeout(SHORT).is_err());
    signal(&manager, Signal::CONT);
    manager.stats().unwrap();
    assert!(lock.is_locked().unwrap());
    drop(guard);
    eventually("it is free", LONG, || !lock.is_locked().unwrap());
}

#[test]
fn a_wait_for_a_condition_ends_though_the_server_is_stopped() {
    let _watchdog = test_watchdog();
    let manager = Manager::start().unwrap();
    let ready = manager.condition().unwrap();
    let mut guard = ready.lock().unwrap();
    signal(&manager, Signal::STOP);
    assert!(ready.wait_timeout(&mut guard, SHORT).unwrap_err().is_timeout());
    signal(&manager, Signal::CONT);
    assert_eq!(ready.notify_one(&guard).unwrap_err().kind(), ErrorKind::NotOwner);
    // Its wait is over as well: until then the lock is free, too.
    let idle = || !ready.rlock().is_locked().unwrap() && manager.stats().unwrap().waiting == 0;
    eventually("it is free", LONG, idle);
    drop(guard);
    // A server that works is waited for as long as another one has the lock.
    let mut guard = ready.lock().unwrap();
    let (said, heard) = std::sync::mpsc::channel();
    let other = {
        let ready = ready.clone();
        std::thread::spawn(move || {
            let _guard = ready.lock().unwrap();
            said.send(()).unwrap();
            std::thread::sleep(Duration::from_millis(2500));
        })
    };
    eventually("it waits", LONG, || manager.stats().unwrap().waiting == 1);
    assert_eq!(ready.wait_timeout(&mut guard, Duration::from_millis(100)).unwrap(), Waited::TimedOut);
    heard.recv().unwrap();
    other.join().unwrap();
}

#[test]
fn what_is_let_go_while_the_server_is_stopped_is_free_when_it_goes_on() {
    let _watchdog = test_watchdog();
    let path = std::env::temp_dir().join(format!("procession-manager-stopped-{}", std::process::id()));
    let manager = Manager::builder().address(path).authkey("key").start().unwrap();
    let (lock, queue) = (manager.lock().unwrap(), manager.queue::<Vec<u8>>().unwrap());
    manager.publish("lock", &lock).unwrap();
    // Another connection, which alone calls again.
    let other = Session::connect(manager.public_address().unwrap().clone(), "key").unwrap();
    let theirs = other.find::<Lock>("lock").unwrap();
    let guard = lock.lock().unwrap();
    signal(&manager, Signal::STOP);
    assert_eq!(queue.put_timeout(&vec![7; 10 << 20], SHORT).unwrap_err().kind(), ErrorKind::Timeout);
    drop(guard);
    signal(&manager, Signal::CONT);
    assert!(theirs.lock_timeout(LONG).unwrap().is_some());
}

/// How often a thread of this process has gone to sleep, by its name; nothing while it is awake.
fn sleeps(name: &str) -> Option<u64> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    tasks.flatten().find_map(|task| {
        let status = std::fs::read_to_string(task.path().join("status")).ok()?;
        let field = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key))?;
            line.strip_prefix(':').map(str::trim)
        };
        let asleep = field("Name")? == name && field("State")?.starts_with('S');
        asleep.then(|| field("voluntary_ctxt_switches")?.parse().ok())?
    })
}

#[test]
fn who_waits_for_room_behind_one_who_reads_sleeps_until_there_is_some() {
    isolated!({
        for leaves in [false, true] {
            let manager = Manager::start().unwrap();
            let (queue, idle) = (manager.queue::<Vec<u8>>().unwrap(), manager.queue::<u64>().unwrap());
            // It reads, for whoever.
            let reads = std::thread::spawn({
                let idle = idle.clone();
                move || if leaves { idle.get_timeout(SHORT).is_ok() } else { idle.get().is_ok() }
            });
            eventually("it waits", LONG, || manager.stats().unwrap().waiting == 1);
            signal(&manager, Signal::STOP);
            let sends = std::thread::Builder::new().name("sends".to_owned()).spawn({
                let queue = queue.clone();
                move || queue.put(&vec![7; 3 << 20]).unwrap()
            });
            if leaves {
                // Its time is over, and that of the server's answer: now who sends reads.
                eventually("it leaves", LONG, || reads.is_finished());
            } else {
                eventually("it sleeps", LONG, || {
                    sleeps("sends").is_some_and(|before| {
                        // How often it wakes meanwhile is what is asked: a hundred times, if it looked once a millisecond.
                        std::thread::sleep(Duration::from_millis(100));
                        sleeps("sends").is_some_and(|after| after - before < 10)
                    })
                });
            }
            signal(&manager, Signal::CONT);
            sends.unwrap().join().unwrap();
            assert!(queue.get().unwrap() == vec![7; 3 << 20]);
            if !leaves {
                idle.put(&5).unwrap();
            }
            assert_eq!(reads.join().unwrap(), !leaves);
        }
    });
}

#[test]
fn who_waits_for_room_behind_one_who_reads_hears_of_the_servers_death() {
    let _watchdog = test_watchdog();
    let manager = Manager::start().unwrap();
    let (queue, idle) = (manager.queue::<Vec<u8>>().unwrap(), manager.queue::<u64>().unwrap());
    let reads = std::thread::spawn(move || idle.get().unwrap_err());
    eventually("it waits", LONG, || manager.stats().unwrap().waiting == 1);
    signal(&manager, Signal::STOP);
    let sends = std::thread::Builder::new().name("dies".to_owned());
    let sends = sends.spawn(move || queue.put(&vec![7; 3 << 20]).unwrap_err()).unwrap();
    eventually("it waits for room", LONG, || sleeps("dies").is_some());
    signal(&manager, Signal::KILL);
    let error = sends.join().unwrap();
    assert!(error.is_server_gone() && !error.may_have_run(), "{error}");
    assert!(reads.join().unwrap().may_have_run());
}
