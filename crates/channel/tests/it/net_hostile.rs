//! Clients that mean no good, servers that are busy elsewhere, and forked copies.

use procession_channel::net::{Address, AuthKey, Client, Handshake, Listener, Refusal};
use procession_sys::{Deadline, fd};
use procession_testkit::{forked, isolated, watchdog};
use std::{
    io::{Read as _, Write as _},
    os::{fd::AsFd, linux::net::SocketAddrExt as _, unix::net::UnixStream},
    thread,
    time::Duration,
};

const KEY: &str = "a key";
const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(30);

fn listen(name: &str, timeout: Duration, max_pending: usize) -> Listener {
    let name = format!("procession-hostile-{}-{name}", std::process::id()).into_bytes();
    let builder = Listener::builder().authkey(KEY).handshake_timeout(timeout).max_pending(max_pending);
    builder.bind(Address::Abstract(name)).unwrap()
}

fn plain(listener: &Listener) -> UnixStream {
    let Address::Abstract(name) = listener.address() else { unreachable!() };
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name).unwrap();
    UnixStream::connect_addr(&address).unwrap()
}

fn ready(listener: &Listener) -> bool {
    fd::readable(listener.as_fd(), Some(Deadline::from_nanos(0))).unwrap()
}

/// A client that speaks when it is told to.
struct Slow {
    socket: UnixStream,
    handshake: Handshake,
}

impl Slow {
    fn new(listener: &Listener) -> Slow {
        Slow { socket: plain(listener), handshake: Handshake::client(&AuthKey::new(KEY)).unwrap() }
    }

    /// Reads what the listener said, up to where it is our turn.
    fn hear(&mut self) {
        while self.handshake.output().is_empty() && self.handshake.outcome().is_none() {
            let mut buffer = vec![0; self.handshake.wanted()];
            self.socket.read_exact(&mut buffer).unwrap();
            self.handshake.input(&buffer);
        }
    }

    fn speak(&mut self) {
        while !self.handshake.output().is_empty() {
            self.socket.write_all(self.handshake.output()).unwrap();
            self.handshake.sent(self.handshake.output().len());
        }
    }

    /// Whether all is said that we have to say.
    fn is_over(&self) -> bool {
        self.handshake.outcome().is_some()
    }
}

#[test]
fn a_client_that_answered_while_nobody_accepted_is_let_in() {
    let _watchdog = watchdog!();
    // Longer than this thread is kept from the processor inside of a call.
    let time = 10 * SHORT;
    let listener = listen("busy", time, 10);
    let mut client = Slow::new(&listener);
    let let_in = loop {
        if let Some(connection) = listener.accept_timeout::<(), ()>(Duration::ZERO).unwrap() {
            break connection;
        }
        client.hear();
        client.speak();
        // The server does something else, for longer than a handshake may take.
        thread::sleep(2 * time);
    };
    client.hear();
    assert!(client.is_over());
    drop(let_in);
}

#[test]
fn a_client_that_speaks_byte_by_byte_is_refused_in_the_end() {
    let _watchdog = watchdog!();
    let listener = listen("trickle", SHORT, 10);
    let mut client = plain(&listener);
    let mut answer = [b"\0\0\0\x28{sha256}".as_slice(), &[7; 32]].concat().into_iter();
    let refused = loop {
        match listener.try_accept::<(), ()>() {
            Ok(None) => {}
            Ok(Some(_)) => unreachable!(),
            Err(error) => break error,
        }
        let _ = client.write_all(&[answer.next().unwrap()]);
        thread::sleep(2 * SHORT);
    };
    assert_eq!(refused.refusal(), Some(&Refusal::TimedOut));
}

#[test]
fn an_answer_comes_before_new_clients() {
    let _watchdog = watchdog!();
    let listener = listen("answers", LONG, 1);
    let mut client = Slow::new(&listener);
    // Up to its last word, which is held back.
    loop {
        assert!(listener.try_accept::<(), ()>().unwrap().is_none());
        client.hear();
        if client.is_over() || client.handshake.output().ends_with(b"#WELCOME#") {
            break;
        }
        client.speak();
    }
    let _crowd: Vec<_> = (0..40).map(|_| plain(&listener)).collect();
    assert!(ready(&listener));
    client.speak();
    assert!(listener.accept::<(), ()>().is_ok());
    let refused = listener.accept::<(), ()>().unwrap_err();
    assert_eq!(refused.refusal(), Some(&Refusal::Crowded));
}

#[test]
fn a_forked_copy_that_is_closed_disturbs_nobody() {
    isolated!({
        let _watchdog = watchdog!();
        let listener = listen("copy", LONG, 10);
        let _silent = plain(&listener);
        assert!(listener.try_accept::<(), ()>().unwrap().is_none());
        forked(|| listener.close());
        assert!(!ready(&listener));
        assert!(listener.accept_timeout::<(), ()>(SHORT).unwrap().is_none());
        let address = listener.address().clone();
        thread::scope(|scope| {
            scope.spawn(|| Client::new().authkey(KEY).connect::<(), ()>(address).unwrap());
            assert!(listener.accept::<(), ()>().is_ok());
        });
    });
}

#[test]
fn who_is_sent_away_is_gone_though_a_forked_child_has_a_copy() {
    isolated!({
        let _watchdog = watchdog!();
        let listener = listen("kept", SHORT, 10);
        let mut silent = plain(&listener);
        assert!(listener.try_accept::<(), ()>().unwrap().is_none());
        let (mut here, mut there) = UnixStream::pair().unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                forked(|| {
                    there.write_all(b"r").unwrap();
                    there.read_exact(&mut [0]).unwrap();
                });
            });
            here.read_exact(&mut [0]).unwrap();
            let refused = listener.accept::<(), ()>().unwrap_err();
            assert_eq!(refused.refusal(), Some(&Refusal::TimedOut));
            // It sees its end, and what it says disturbs nobody.
            silent.read_to_end(&mut Vec::new()).unwrap();
            let _ = silent.write_all(b"something");
            assert!(!ready(&listener));
            // The same with the listener itself.
            let address = listener.address().clone();
            drop(listener);
            let error = Client::new().authkey(KEY).connect::<(), ()>(address).unwrap_err();
            assert_eq!(error.os_error(), Some(rustix::io::Errno::CONNREFUSED.raw_os_error()), "{error}");
            here.write_all(b"e").unwrap();
        });
    });
}
