//! Starting, connecting, ending; and who dies with whom.

use crate::ways::{Way, each_way};
use procession_manager::{AuthKey, Dict, ErrorKind, Manager, Session};
use procession_process::{Process, StartMethod};
use procession_testkit::{Census, test_watchdog, wait::eventually};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(10);

#[test]
fn a_manager_starts_serves_and_ends_under_each_start_method() {
    let _watchdog = test_watchdog();
    for method in [StartMethod::Spawn, StartMethod::ForkServer] {
        let manager = Manager::builder().start_method(method).name("keeper").start().unwrap();
        assert_eq!(manager.name(), "keeper");
        assert_eq!(manager.server_pid().unwrap(), manager.pid());
        let dict = manager.dict::<String, u64>().unwrap();
        dict.set(&"a".to_owned(), &1).unwrap();
        assert_eq!(dict.get("a").unwrap(), Some(1));
        assert!(manager.is_alive());
        assert!(manager.shutdown(LONG).unwrap().success());
        assert!(manager.shutdown(LONG).unwrap().success(), "again does nothing");
        assert_eq!(dict.get("a").unwrap_err().kind(), ErrorKind::ServerGone);
        assert!(manager.dict::<u8, u8>().unwrap_err().is_server_gone());
    }
}

fn serve_a_child(way: Way) {
    let manager = Manager::start().unwrap();
    let dict = manager.dict::<u64, String>().unwrap();
    let party = way.start(
        |(session, dict): (Session, Dict<u64, String>)| {
            dict.set(&7, &"seven".to_owned()).unwrap();
            let own = session.dict::<u64, u64>().unwrap();
            own.set(&1, &2).unwrap();
            own.get(&1).unwrap()
        },
        (manager.session(), dict.clone()),
    );
    assert_eq!(party.join(), Some(2));
    assert_eq!(dict.get(&7).unwrap().as_deref(), Some("seven"));
    // What the child made is gone with it.
    if way != Way::Threads {
        eventually("its leases end", LONG, || manager.stats().unwrap().objects == 1);
    }
}
each_way!(serve_a_child);

#[test]
fn a_dropped_manager_ends_its_server_and_leaves_nothing() {
    let _watchdog = test_watchdog();
    procession_testkit::isolated(procession_testkit::test_name!(), || {
        // The fork server, the hooks.
        drop(Manager::start().unwrap());
        let before = Census::take();
        for _ in 0..3 {
            let manager = Manager::start().unwrap();
            let list = manager.list_of(&[1, 2, 3]).unwrap();
            assert_eq!(list.len().unwrap(), 3);
            let pid = manager.pid();
            drop(manager);
            assert!(!std::path::Path::new(&format!("/proc/{pid}/exe")).exists());
        }
        before.assert_settles(LONG);
    });
}

#[test]
fn a_killed_server_is_an_error_for_every_client_at_once() {
    let _watchdog = test_watchdog();
    let manager = Manager::start().unwrap();
    let (dict, queue) = (manager.dict::<u64, u64>().unwrap(), manager.queue::<u64>().unwrap());
    let child = Process::spawn(
        |queue: procession_manager::Queue<u64>| queue.get().unwrap_err().is_server_gone(),
        queue.clone(),
    )
    .unwrap();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let queue = queue.clone();
            std::thread::spawn(move || queue.get().unwrap_err().kind())
        })
        .collect();
    eventually("all wait", LONG, || manager.stats().unwrap().waiting == 5);
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(manager.pid() as i32).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    for thread in threads {
        assert_eq!(thread.join().unwrap(), ErrorKind::ServerGone);
    }
    assert!(child.join().unwrap());
    assert!(dict.get(&1).unwrap_err().is_server_gone());
    assert!(manager.shutdown(LONG).unwrap().signal().is_some());
}

#[test]
fn a_server_dies_with_its_owner() {
    let _watchdog = test_watchdog();
    let (receiver, sender) = procession_channel::connection::Pipe::<u32>::one_way().unwrap();
    let owner = Process::builder()
        .spawn(
            |sender: procession_channel::connection::PipeSender<u32>| {
                let manager = Manager::start().unwrap();
                sender.send(&manager.pid()).unwrap();
                std::thread::park();
            },
            sender,
        )
        .unwrap();
    let pid = receiver.recv().unwrap();
    let pidfd = procession_testkit::storm::pidfd(pid).unwrap();
    owner.kill().unwrap();
    assert!(procession_testkit::wait::ended(&pidfd, LONG).unwrap());
}

#[test]
fn an_interrupt_does_not_end_a_server() {
    let _watchdog = test_watchdog();
    let manager = Manager::start().unwrap();
    let pid = rustix::process::Pid::from_raw(manager.pid() as i32).unwrap();
    for _ in 0..3 {
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    }
    let dict = manager.dict::<u64, u64>().unwrap();
    dict.set(&1, &1).unwrap();
    assert!(manager.is_alive());
}

#[test]
fn an_initialiser_runs_once_in_the_server_before_it_listens() {
    let _watchdog = test_watchdog();
    let path = std::env::temp_dir().join(format!("procession-manager-init-{}", std::process::id()));
    let note = |path: std::path::PathBuf| {
        let count: u32 = std::fs::read_to_string(&path).map_or(0, |text| text.lines().count() as u32);
        std::fs::write(&path, format!("{}\n", std::process::id()).repeat(count as usize + 1)).unwrap();
    };
    let manager = Manager::builder().initializer(note, &path).start().unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{}\n", manager.pid()));
    std::fs::remove_file(&path).unwrap();
    let error = Manager::builder().initializer(|()| -> () { panic!("not today") }, &()).start().unwrap_err();
    assert!(error.to_string().contains("not today"), "{error}");
}

#[test]
fn remote_clients_find_what_was_published_and_need_the_key() {
    let _watchdog = test_watchdog();
    let manager = Manager::builder().address(("127.0.0.1", 0)).authkey("key").start().unwrap();
    let queue = manager.queue::<String>().unwrap();
    manager.publish("jobs", &queue).unwrap();
    let address = manager.public_address().unwrap().clone();
    let child = Process::builder()
        .start_method(StartMethod::Spawn)
        .spawn(
            |address: procession_manager::Address| {
                let session = Session::connect(address, "key").unwrap();
                let queue = session.find::<procession_manager::Queue<String>>("jobs").unwrap();
                queue.put(&"hällo".to_owned()).unwrap();
                let wrong = session.find::<procession_manager::Queue<u64>>("jobs").unwrap_err().kind();
                let absent = session.find::<procession_manager::Queue<u64>>("nothing").unwrap_err().kind();
                let value = session.value(&5_u64).unwrap();
                let function = value.update(|n, ()| *n += 1, &()).unwrap_err().kind();
                assert!(value.compare_and_swap(&5, &6).unwrap() && value.get().unwrap() == 6);
                // A proxy goes on to another process, with the key and a lease of its own.
                let next = |value: procession_manager::Value<u64>| value.get().unwrap();
                assert_eq!(Process::spawn(next, value).unwrap().join().unwrap(), 6);
                [wrong, absent, function] == [ErrorKind::WrongType, ErrorKind::NotFound, ErrorKind::Refused]
            },
            address.clone(),
        )
        .unwrap();
    assert_eq!(queue.get().unwrap(), "hällo");
    assert!(child.join().unwrap());
    let refused = Session::connect(address.clone(), "other").unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused);
    assert!(manager.unpublish("jobs").unwrap() && !manager.unpublish("jobs").unwrap());
    // The port can be had again at once.
    drop(manager);
    let again = Manager::builder().address(address.clone()).authkey(AuthKey::new("key")).start().unwrap();
    assert_eq!(again.public_address(), Some(&address));
}

#[test]
fn a_server_runs_in_a_thread_of_this_process() {
    let _watchdog = test_watchdog();
    let server = Manager::builder().bind().unwrap();
    let (session, stopper) = (server.session(), server.stopper());
    let thread = std::thread::spawn(move || server.serve_forever());
    let list = session.list::<u8>().unwrap();
    list.push(&1).unwrap();
    assert_eq!(session.server_pid().unwrap(), std::process::id());
    stopper.stop();
    thread.join().unwrap().unwrap();
    assert!(list.push(&1).unwrap_err().is_server_gone());
}
