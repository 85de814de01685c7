//! Listeners and clients of ours.

use procession_channel::net::{
    self, Address, AuthKey, ByteConnection, Client, Error, Handshake, Listener, Refusal,
};
use procession_sys::Deadline;
use procession_testkit::{isolated, limits::Surroundings, role, wait::eventually, watchdog};
use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream},
    os::{fd::AsFd, linux::net::SocketAddrExt as _, unix::net::UnixStream},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

const KEY: &str = "a key";
const LONG: Duration = Duration::from_secs(60);

fn listen(address: impl net::ToAddress) -> Listener {
    Listener::builder().authkey(KEY).handshake_timeout(LONG).bind(address).unwrap()
}

fn client() -> Client {
    Client::new().authkey(KEY).timeout(LONG)
}

/// Connects from a thread, accepts here.
fn pair(
    listener: &Listener,
    client: &Client,
) -> (Result<ByteConnection, Error>, Result<ByteConnection, Error>) {
    let address = listener.address().clone();
    thread::scope(|scope| {
        let connects = scope.spawn(|| client.connect(address));
        (listener.accept(), connects.join().unwrap())
    })
}

fn abstract_name(name: &str) -> Address {
    Address::Abstract(format!("procession-test-{}-{name}", std::process::id()).into_bytes())
}

/// A plain socket to a listener, which says nothing by itself.
fn silent(listener: &Listener) -> UnixStream {
    match listener.address() {
        Address::Abstract(name) => {
            let address = std::os::unix::net::SocketAddr::from_abstract_name(name).unwrap();
            UnixStream::connect_addr(&address).unwrap()
        }
        Address::Unix(path) => UnixStream::connect(path).unwrap(),
        other => panic!("no Unix address: {other}"),
    }
}

fn has_ipv6() -> bool {
    let has = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    if !has {
        println!("skipped in part: no IPv6 on this machine");
    }
    has
}

fn each_family(test: impl Fn(&Listener)) {
    // Several tests of this process may be at it.
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("net-families-{}-{number}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    test(&listen((Ipv4Addr::LOCALHOST, 0)));
    test(&listen(("localhost", 0)));
    if has_ipv6() {
        test(&listen((Ipv6Addr::LOCALHOST, 0)));
    }
    test(&listen(folder.join("socket")));
    test(&listen(abstract_name(&format!("families-{number}"))));
    test(&Listener::builder().authkey(KEY).bind_private().unwrap());
    std::fs::remove_dir(folder).unwrap();
}

#[test]
fn messages_go_both_ways_in_every_family() {
    let _watchdog = watchdog!();
    each_family(|listener| {
        assert_eq!(listener.last_accepted(), None);
        let (ours, theirs) = pair(listener, &client());
        let (ours, theirs) = (ours.unwrap(), theirs.unwrap());
        theirs.send_bytes(b"hello").unwrap();
        assert_eq!(ours.recv_bytes().unwrap(), b"hello");
        ours.send_bytes(b"").unwrap();
        assert_eq!(theirs.recv_bytes().unwrap(), b"");
        let typed: net::ByteConnection = ours;
        let (typed, there) =
            (typed.with_types::<(u8, String), u64>(), theirs.with_types::<u64, (u8, String)>());
        typed.send(&(7, "seven".to_owned())).unwrap();
        assert_eq!(there.recv().unwrap(), (7, "seven".to_owned()));
        drop(typed);
        assert!(there.recv().unwrap_err().is_eof());
        match listener.address() {
            Address::Tcp(address) => {
                assert_ne!(address.port(), 0);
                assert!(matches!(listener.last_accepted(), Some(Address::Tcp(_))));
            }
            _ => assert_eq!(listener.last_accepted(), None),
        }
    });
}

#[test]
fn an_address_is_bound_once() {
    let _watchdog = watchdog!();
    each_family(|listener| {
        let again = Listener::builder().authkey(KEY).bind(listener.address()).unwrap_err();
        assert_eq!(again.os_error(), Some(rustix::io::Errno::ADDRINUSE.raw_os_error()), "{again}");
    });
}

#[test]
fn a_closed_listener_accepts_nobody() {
    let _watchdog = watchdog!();
    each_family(|listener| {
        thread::scope(|scope| {
            let waits = scope.spawn(|| listener.accept::<(), ()>().unwrap_err());
            let waits_as_well = scope.spawn(|| listener.accept::<(), ()>().unwrap_err());
            listener.close();
            assert!(waits.join().unwrap().is_closed() && waits_as_well.join().unwrap().is_closed());
        });
        listener.close();
        assert!(listener.try_accept::<(), ()>().unwrap_err().is_closed());
        assert!(listener.incoming::<(), ()>().next().is_none());
        assert!(client().connect::<(), ()>(listener.address()).unwrap_err().os_error().is_some());
    });
}

#[test]
fn a_client_that_was_gone_before_it_was_accepted_leaves_its_messages() {
    let _watchdog = watchdog!();
    let listener = Listener::bind(abstract_name("gone")).unwrap();
    let connection: ByteConnection = Client::new().connect(listener.address()).unwrap();
    connection.send_bytes(b"left behind").unwrap();
    drop(connection);
    let connection: ByteConnection = listener.accept().unwrap();
    assert!(connection.poll(LONG).unwrap());
    assert_eq!(connection.recv_bytes().unwrap(), b"left behind");
    assert!(connection.recv_bytes().unwrap_err().is_eof());
}

#[test]
fn what_the_listener_sends_at_once_can_be_polled_for() {
    let _watchdog = watchdog!();
    each_family(|listener| {
        let (ours, theirs) = pair(listener, &client());
        ours.unwrap().send_bytes(b"first").unwrap();
        let theirs = theirs.unwrap();
        assert!(theirs.poll(LONG).unwrap());
        assert_eq!(theirs.recv_bytes().unwrap(), b"first");
    });
}

#[test]
fn different_keys_are_errors_on_both_sides() {
    let _watchdog = watchdog!();
    each_family(|listener| {
        let (ours, theirs) = pair(listener, &client().authkey("another key"));
        assert_eq!(ours.unwrap_err().refusal(), Some(&Refusal::WrongKey));
        assert_eq!(theirs.unwrap_err().refusal(), Some(&Refusal::Rejected));
        let (ours, theirs) = pair(listener, &client());
        assert!(ours.is_ok() && theirs.is_ok());
    });
}

#[test]
fn an_empty_key_is_asked_for_like_any_other() {
    let _watchdog = watchdog!();
    let listener = Listener::builder().authkey("").bind(abstract_name("empty")).unwrap();
    let (ours, theirs) = pair(&listener, &Client::new().authkey(""));
    assert!(ours.is_ok() && theirs.is_ok());
    let (ours, theirs) = pair(&listener, &client());
    assert_eq!(ours.unwrap_err().refusal(), Some(&Refusal::WrongKey));
    assert_eq!(theirs.unwrap_err().refusal(), Some(&Refusal::Rejected));
}

#[test]
fn a_client_without_a_key_is_told_that_one_is_asked_for() {
    let _watchdog = watchdog!();
    let listener = listen(("127.0.0.1", 0));
    let (ours, theirs) = thread::scope(|scope| {
        let accepts = scope.spawn(|| listener.accept::<(), ()>());
        let theirs: ByteConnection = Client::new().without_authkey().connect(listener.address()).unwrap();
        let first = theirs.recv_bytes().unwrap_err();
        theirs.send_bytes(b"hello").unwrap();
        (accepts.join().unwrap(), first)
    });
    assert!(theirs.to_string().contains("asks for a key"), "{theirs}");
    assert!(matches!(ours.unwrap_err().refusal(), Some(Refusal::Protocol(_))));
}

#[test]
fn a_listener_without_a_key_ends_a_client_that_has_one() {
    let _watchdog = watchdog!();
    let listener = Listener::bind(abstract_name("keyless")).unwrap();
    // One that says nothing: the client's own deadline ends it.
    let (ours, theirs) = pair(&listener, &client().timeout(Duration::from_millis(50)));
    assert_eq!(theirs.unwrap_err().refusal(), Some(&Refusal::TimedOut));
    assert!(ours.unwrap().recv_bytes().unwrap_err().is_eof());
    // One that speaks first: what it says is no challenge.
    let theirs = thread::scope(|scope| {
        let connects = scope.spawn(|| client().connect::<(), ()>(listener.address()));
        let ours: ByteConnection = listener.accept().unwrap();
        ours.send_bytes(b"hello").unwrap();
        connects.join().unwrap()
    });
    assert!(matches!(theirs.unwrap_err().refusal(), Some(Refusal::Protocol(_))));
}

#[test]
fn tcp_takes_a_key_or_an_explicit_word() {
    let refused = Listener::bind(("127.0.0.1", 0)).unwrap_err();
    assert!(refused.to_string().contains("TCP needs a key"), "{refused}");
    let listener = Listener::builder().without_authkey().bind(("127.0.0.1", 0)).unwrap();
    let refused = Client::new().connect::<(), ()>(listener.address()).unwrap_err();
    assert!(refused.to_string().contains("TCP needs a key"), "{refused}");
    let (ours, theirs) = pair(&listener, &Client::new().without_authkey());
    assert!(ours.is_ok() && theirs.is_ok());
}

#[test]
fn nobody_listening_is_an_error_and_a_full_queue_a_timeout() {
    let _watchdog = watchdog!();
    let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let error = client().connect::<(), ()>(("127.0.0.1", port)).unwrap_err();
    assert_eq!(error.os_error(), Some(rustix::io::Errno::CONNREFUSED.raw_os_error()));
    let listener = Listener::builder().authkey(KEY).backlog(0).bind(abstract_name("full")).unwrap();
    let _first = silent(&listener);
    let error =
        client().timeout(Duration::from_millis(20)).connect::<(), ()>(listener.address()).unwrap_err();
    assert!(error.is_timeout(), "{error}");
    let error = Client::new().connect::<(), ()>(r"\\.\pipe\name").unwrap_err();
    assert!(error.to_string().contains("Windows"), "{error}");
}

#[test]
fn a_silent_client_is_refused_at_its_deadline() {
    let _watchdog = watchdog!();
    let listener = Listener::builder()
        .authkey(KEY)
        .handshake_timeout(Duration::from_millis(30))
        .bind(abstract_name("deadline"))
        .unwrap();
    let mut silent = silent(&listener);
    let refused = listener.accept::<(), ()>().unwrap_err();
    assert_eq!(refused.refusal(), Some(&Refusal::TimedOut));
    let mut rest = Vec::new();
    silent.read_to_end(&mut rest).unwrap();
    assert!(rest.starts_with(b"\0\0\0\x3b#CHALLENGE#{sha256}") && rest.len() == 63);
}

#[test]
fn a_client_that_hangs_up_is_refused() {
    let _watchdog = watchdog!();
    let listener = listen(abstract_name("hangs-up"));
    let mut talks = silent(&listener);
    talks.write_all(b"\0\0\0\x28{sha").unwrap();
    drop(talks);
    assert_eq!(listener.accept::<(), ()>().unwrap_err().refusal(), Some(&Refusal::HungUp));
    drop(silent(&listener));
    assert_eq!(listener.accept::<(), ()>().unwrap_err().refusal(), Some(&Refusal::HungUp));
}

#[test]
fn an_accept_ends_at_its_deadline_whoever_is_silent_meanwhile() {
    let _watchdog = watchdog!();
    let listener = listen(abstract_name("accept"));
    assert!(listener.try_accept::<(), ()>().unwrap().is_none());
    let _silent = silent(&listener);
    assert!(listener.accept_timeout::<(), ()>(Duration::from_millis(20)).unwrap().is_none());
    assert!(listener.try_accept::<(), ()>().unwrap().is_none());
}

#[test]
fn beside_five_hundred_silent_clients_every_good_one_succeeds() {
    let _watchdog = watchdog!();
    let listener = listen(abstract_name("silent"));
    let holder = silent_clients(&listener, 500);
    thread::scope(|scope| {
        let server = scope.spawn(|| {
            listener.incoming::<u32, u32>().take(100).map(Result::unwrap).for_each(|connection| {
                let number = connection.recv().unwrap();
                connection.send(&(number + 1)).unwrap();
            });
        });
        for number in 0..100 {
            let connection = client().connect::<u32, u32>(listener.address()).unwrap();
            connection.send(&number).unwrap();
            assert_eq!(connection.recv().unwrap(), number + 1);
        }
        server.join().unwrap();
    });
    assert!(format!("{listener:?}").contains("pending: Some(500)"), "{listener:?}");
    drop(holder);
}

/// A process that holds so many silent connections.
fn silent_clients(listener: &Listener, count: usize) -> role::RoleProcess {
    let mut holder = role::start(role_silent_clients, &[]);
    let Address::Abstract(name) = listener.address() else { unreachable!() };
    holder.say(std::str::from_utf8(name).unwrap());
    holder.say(&count.to_string());
    holder.expect("connected");
    holder
}

#[test]
fn one_handshake_too_many_costs_the_oldest() {
    let _watchdog = watchdog!();
    let builder = Listener::builder().authkey(KEY).handshake_timeout(LONG).max_pending(3);
    let listener = builder.bind(abstract_name("crowded")).unwrap();
    let mut silent: Vec<_> = (0..4).map(|_| silent(&listener)).collect();
    assert_eq!(listener.accept::<(), ()>().unwrap_err().refusal(), Some(&Refusal::Crowded));
    // The first one is gone, the others are waited for.
    let mut rest = Vec::new();
    silent[0].read_to_end(&mut rest).unwrap();
    let mut second = silent.remove(1);
    let mut handshake = Handshake::client(&AuthKey::new(KEY)).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| assert!(listener.accept::<(), ()>().is_ok()));
        while handshake.outcome().is_none() {
            second.write_all(handshake.output()).unwrap();
            handshake.sent(handshake.output().len());
            let mut buffer = vec![0; handshake.wanted()];
            second.read_exact(&mut buffer).unwrap();
            handshake.input(&buffer);
        }
    });
}

#[test]
fn without_descriptors_the_oldest_silent_client_gives_one_back() {
    isolated!({
        let _watchdog = watchdog!();
        let listener = listen(abstract_name("descriptors"));
        let mut holder = silent_clients(&listener, 50);
        let open = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
        if !Surroundings::new().nofile(open + 10).apply_or_skip() {
            return;
        }
        thread::scope(|scope| {
            let server = scope.spawn(|| listener.incoming::<(), ()>().next().unwrap().unwrap());
            holder.say("go on");
            holder.expect("let in");
            server.join().unwrap();
        });
    });
}

#[test]
fn role_silent_clients() {
    let Some(mut role) = role::enter(role_silent_clients) else { return };
    let name = role.hear();
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let count = role.hear().parse().unwrap();
    let _silent: Vec<_> = (0..count).map(|_| UnixStream::connect_addr(&address).unwrap()).collect();
    role.say("connected");
    role.hear();
    let _connection = client().connect::<(), ()>(Address::Abstract(name.into_bytes())).unwrap();
    role.say("let in");
    role.hear();
}

#[test]
fn threads_that_accept_share_the_clients() {
    let _watchdog = watchdog!();
    let listener = listen(("127.0.0.1", 0));
    thread::scope(|scope| {
        let servers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    listener
                        .incoming::<u32, u32>()
                        .map(|connection| connection.unwrap().recv().unwrap())
                        .collect()
                })
            })
            .collect();
        let clients: Vec<_> = (0..4)
            .map(|part| {
                let listener = &listener;
                scope.spawn(move || {
                    for number in part * 25..part * 25 + 25 {
                        let connection = client().connect::<u32, u32>(listener.address()).unwrap();
                        connection.send(&number).unwrap();
                        assert!(connection.recv().unwrap_err().is_eof());
                    }
                })
            })
            .collect();
        clients.into_iter().for_each(|client| client.join().unwrap());
        listener.close();
        let mut numbers: Vec<u32> =
            servers.into_iter().flat_map(|s| -> Vec<u32> { s.join().unwrap() }).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..100).collect::<Vec<_>>());
    });
}

#[test]
fn a_listener_is_readable_when_there_is_something_to_do() {
    let _watchdog = watchdog!();
    let listener = listen(abstract_name("readable"));
    let readable =
        |limit| procession_sys::fd::readable(listener.as_fd(), Some(Deadline::after(limit))).unwrap();
    assert!(!readable(Duration::ZERO));
    let _silent = silent(&listener);
    assert!(readable(LONG));
    assert!(listener.try_accept::<(), ()>().unwrap().is_none());
    assert!(!readable(Duration::ZERO));
}

#[test]
fn a_listener_that_welcomes_without_the_key_is_found_out() {
    let _watchdog = watchdog!();
    let fake = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = fake.local_addr().unwrap();
    thread::scope(|scope| {
        let connects = scope.spawn(|| client().connect::<(), ()>(address));
        let (mut socket, _): (TcpStream, _) = fake.accept().unwrap();
        let mut frame = |message: &[u8], answer: usize| {
            socket.write_all(&[&(message.len() as u32).to_be_bytes(), message].concat()).unwrap();
            socket.read_exact(&mut vec![0; answer]).unwrap();
        };
        frame(&[&b"#CHALLENGE#{sha256}"[..], &[7; 40]].concat(), 44);
        frame(b"#WELCOME#", 63);
        frame(&[&b"{sha256}"[..], &[0; 32]].concat(), 13);
        assert_eq!(connects.join().unwrap().unwrap_err().refusal(), Some(&Refusal::WrongKey));
    });
}

#[test]
fn a_process_of_another_user_needs_a_key() {
    isolated!({
        let _watchdog = watchdog!();
        if !rustix::process::geteuid().is_root() {
            println!("skipped: only root can play another user");
            return;
        }
        let keyless = Listener::bind(abstract_name("user")).unwrap();
        let keyed = listen(abstract_name("user-with-key"));
        let mut other = role::start(role_other_user, &[]);
        for listener in [&keyless, &keyed] {
            let Address::Abstract(name) = listener.address() else { unreachable!() };
            other.say(std::str::from_utf8(name).unwrap());
        }
        assert!(matches!(
            keyless.accept::<(), ()>().unwrap_err().refusal(),
            Some(Refusal::User { uid: Some(_) })
        ));
        // The client in turn refuses a listener of another user.
        other.expect("refused");
        assert!(keyed.accept::<(), ()>().is_ok());
        other.expect("let in");
    });
}

#[test]
fn role_other_user() {
    let Some(mut role) = role::enter(role_other_user) else { return };
    let names = [role.hear(), role.hear()].map(|name| Address::Abstract(name.into_bytes()));
    Surroundings::new().unprivileged().apply().unwrap();
    let refused = Client::new().connect::<(), ()>(&names[0]).unwrap_err();
    assert!(matches!(refused.refusal(), Some(Refusal::User { uid: Some(0) })), "{refused}");
    role.say("refused");
    client().connect::<(), ()>(&names[1]).unwrap();
    role.say("let in");
    role.hear();
}

#[test]
fn the_halves_of_the_handshake_work_by_themselves() {
    let _watchdog = watchdog!();
    let (a, b) = UnixStream::pair().unwrap();
    let key = AuthKey::new(KEY);
    for (other, good) in [(KEY, true), ("another", false)] {
        thread::scope(|scope| {
            let (key, b) = (&key, &b);
            let answers = scope
                .spawn(move || net::answer_challenge(b, &AuthKey::new(other), false, Deadline::after(LONG)));
            let delivered = net::deliver_challenge(&a, key, false, Deadline::after(LONG));
            assert_eq!((delivered.is_ok(), answers.join().unwrap().is_ok()), (good, good));
        });
    }
}

#[test]
fn signals_do_not_end_an_accept() {
    let _watchdog = watchdog!();
    let listener = Listener::builder().authkey(KEY).bind_private().unwrap();
    let mut role = role::start(role_stopped_and_continued, &[]);
    let Address::Unix(path) = listener.address() else { unreachable!() };
    role.say(path.to_str().unwrap());
    let their = role.hear();
    let pid = rustix::process::Pid::from_raw(role.pid().cast_signed()).unwrap();
    // A stop and a continuation interrupt the call that the process sleeps in.
    for _ in 0..20 {
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
        let stopped = rustix::process::WaitIdOptions::STOPPED;
        rustix::process::waitid(rustix::process::WaitId::Pid(pid), stopped).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    }
    let connection: ByteConnection = client().connect(their.as_str()).unwrap();
    connection.send_bytes(b"still there?").unwrap();
    assert_eq!(connection.recv_bytes().unwrap(), b"still there?");
    drop(connection);
    eventually("the role's end", LONG, || role.wait().success());
}

#[test]
fn role_stopped_and_continued() {
    let Some(mut role) = role::enter(role_stopped_and_continued) else { return };
    role.hear();
    let listener = Listener::builder().authkey(KEY).bind_private().unwrap();
    let Address::Unix(path) = listener.address() else { unreachable!() };
    role.say(path.to_str().unwrap());
    let connection: ByteConnection = listener.accept().unwrap();
    connection.send_bytes(&connection.recv_bytes().unwrap()).unwrap();
}
