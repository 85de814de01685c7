//! CPython at the other end, every version on this machine.

use procession_channel::net::{Address, ByteConnection, Client, Listener, Refusal};
use procession_testkit::{python, watchdog};
use std::{
    io::{BufRead as _, BufReader},
    process::{Child, ChildStdout, Stdio},
    sync::LazyLock,
    time::Duration,
};

pub(crate) const LIMIT: Duration = Duration::from_secs(240);
const KEY: &str = "a key for both";
/// Nothing, one byte, one that CPython sends in two writes, and one larger than any buffer.
const SIZES: [usize; 4] = [0, 1, 64 << 10, 20 << 20];

/// An interpreter that runs a script and speaks in lines.
pub(crate) struct Peer {
    child: Child,
    output: BufReader<ChildStdout>,
    version: String,
}

impl Peer {
    pub(crate) fn start(python: &python::Python, script: &str, arguments: &[&str]) -> Peer {
        let prelude = "
import sys
from multiprocessing.connection import Listener, Client
from multiprocessing import AuthenticationError
def say(*words): print(*words, flush=True)
KEY = b'a key for both'
def address(text):
    if text.startswith('@'): return '\\0' + text[1:]
    if text.startswith('/'): return text
    host, port = text.rsplit(':', 1)
    return (host, int(port))
";
        let mut command = python.command();
        command.arg("-c").arg(format!("{prelude}{script}")).args(arguments);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Peer { child, output, version: python.to_string() }
    }

    #[track_caller]
    pub(crate) fn hear(&mut self) -> String {
        let mut line = String::new();
        let count = self.output.read_line(&mut line).unwrap();
        assert!(count > 0, "{} ended", self.version);
        line.trim_end().to_owned()
    }

    #[track_caller]
    pub(crate) fn expect(&mut self, line: &str) {
        assert_eq!(self.hear(), line, "{}", self.version);
    }

    #[track_caller]
    pub(crate) fn end(mut self) {
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{}: {status}", self.version);
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// As the script's `address` reads it.
pub(crate) fn text(address: &Address) -> String {
    match address {
        Address::Tcp(address) => address.to_string(),
        Address::Unix(path) => path.display().to_string(),
        Address::Abstract(name) => format!("@{}", std::str::from_utf8(name).unwrap()),
        other => panic!("{other}"),
    }
}

/// What [`text`] wrote, or the script.
pub(crate) fn address(text: &str) -> Address {
    match text.strip_prefix('@') {
        Some(name) => Address::Abstract(name.as_bytes().to_vec()),
        None if text.starts_with('/') => Address::Unix(text.into()),
        None => Address::Tcp(text.parse().unwrap()),
    }
}

fn listeners(key: Option<&str>) -> Vec<Listener> {
    let builder = || match key {
        Some(key) => Listener::builder().authkey(key).allow_md5(true),
        None => Listener::builder().without_authkey(),
    };
    let name = format!("procession-python-{}-{}", std::process::id(), key.is_some());
    vec![
        builder().bind(("127.0.0.1", 0)).unwrap(),
        builder().bind_private().unwrap(),
        builder().bind(Address::Abstract(name.into_bytes())).unwrap(),
    ]
}

/// Messages of all sizes there and back, changed on the way.
fn exchange(connection: &ByteConnection) {
    // A prime length, so that no two places of a buffer hold the same.
    static MESSAGE: LazyLock<Vec<u8>> =
        LazyLock::new(|| (0..65_521).map(|at| (at * 7 + at / 256) as u8).collect::<Vec<_>>().repeat(321));
    for size in SIZES {
        let message = &MESSAGE[..size];
        connection.send_bytes(message).unwrap();
        let answer = connection.recv_bytes().unwrap();
        assert!(answer.len() == size + 1 && answer.starts_with(message) && answer.ends_with(b"!"), "{size}");
    }
}

const EXCHANGE: &str = "
def exchange(connection):
    for _ in range(4):
        connection.send_bytes(connection.recv_bytes() + b'!')
";

#[test]
fn messages_of_all_sizes_reach_cpythons_listener_and_come_back() {
    let _watchdog = watchdog!(LIMIT);
    for python in python::find() {
        let script = "
import os, tempfile
folder = tempfile.mkdtemp()
for where in [('127.0.0.1', 0), os.path.join(folder, 'socket'), '\\0procession-their-' + str(os.getpid())]:
    for key in [KEY, None]:
        with Listener(where, authkey=key) as listener:
            at = listener.address
            at = '%s:%d' % at if isinstance(at, tuple) else at.decode() if isinstance(at, bytes) else at
            say(at.replace('\\0', '@'))
            with listener.accept() as connection:
                exchange(connection)
os.rmdir(folder)
";
        let mut peer = Peer::start(python, &format!("{EXCHANGE}{script}"), &[]);
        for _ in 0..3 {
            let with_key = Client::new().authkey(KEY).allow_md5(true);
            exchange(&with_key.connect(address(&peer.hear())).unwrap());
            exchange(&Client::new().without_authkey().connect(address(&peer.hear())).unwrap());
        }
        peer.end();
    }
}

#[test]
fn messages_of_all_sizes_come_from_cpythons_client_and_go_back() {
    let _watchdog = watchdog!(LIMIT);
    for python in python::find() {
        for key in [Some(KEY), None] {
            for listener in listeners(key) {
                let script = "
key = KEY if sys.argv[2] == 'True' else None
with Client(address(sys.argv[1]), authkey=key) as connection:
    exchange(connection)
";
                let with_key = if key.is_some() { "True" } else { "False" };
                let script = format!("{EXCHANGE}{script}");
                let peer = Peer::start(python, &script, &[&text(listener.address()), with_key]);
                exchange(&listener.accept().unwrap());
                peer.end();
            }
        }
    }
}

#[test]
fn a_wrong_key_is_refused_on_both_sides() {
    let _watchdog = watchdog!(LIMIT);
    for python in python::find() {
        let script = "
def tried(f):
    try: f()
    except AuthenticationError as error: say('refused', error)
    else: say('let in')
tried(lambda: Client(address(sys.argv[1]), authkey=b'another'))
with Listener(('127.0.0.1', 0), authkey=b'another') as listener:
    say('%s:%d' % listener.address)
    tried(listener.accept)
";
        let listener = Listener::builder().authkey(KEY).allow_md5(true).bind(("127.0.0.1", 0)).unwrap();
        let mut peer = Peer::start(python, script, &[&text(listener.address())]);
        assert_eq!(listener.accept::<(), ()>().unwrap_err().refusal(), Some(&Refusal::WrongKey));
        peer.expect("refused digest sent was rejected");
        let client = Client::new().authkey(KEY).allow_md5(true);
        let refused = client.connect::<(), ()>(address(&peer.hear())).unwrap_err();
        assert_eq!(refused.refusal(), Some(&Refusal::Rejected));
        let heard = peer.hear();
        assert!(heard.starts_with("refused digest received was wrong"), "{heard}");
        peer.end();
    }
}

#[test]
fn an_empty_key_is_a_key_for_cpython_too() {
    let _watchdog = watchdog!(LIMIT);
    // Before 3.13 its listener took an empty key for none.
    for python in python::find() {
        let listener = Listener::builder().authkey("").allow_md5(true).bind(("127.0.0.1", 0)).unwrap();
        let peer = Peer::start(
            python,
            "Client(address(sys.argv[1]), authkey=b'').send_bytes(b'in')",
            &[&text(listener.address())],
        );
        assert_eq!(listener.accept::<(), ()>().unwrap().recv_bytes().unwrap(), b"in");
        peer.end();
    }
}

#[test]
fn md5_is_refused_unless_it_is_allowed() {
    let _watchdog = watchdog!(LIMIT);
    for python in python::find() {
        let old = python.version < (3, 12, 0);
        let script = "
def tried(f):
    try: f()
    except Exception as error: say('refused', type(error).__name__)
    else: say('let in')
tried(lambda: Client(address(sys.argv[1]), authkey=KEY))
with Listener(('127.0.0.1', 0), authkey=KEY) as listener:
    say('%s:%d' % listener.address)
    tried(listener.accept)
";
        let listener = Listener::builder().authkey(KEY).bind(("127.0.0.1", 0)).unwrap();
        let mut peer = Peer::start(python, script, &[&text(listener.address())]);
        let accepted = listener.accept::<(), ()>();
        assert_eq!(
            accepted.as_ref().err().and_then(|e| e.refusal()),
            old.then_some(&Refusal::Md5),
            "{python}"
        );
        peer.expect(if old { "refused AuthenticationError" } else { "let in" });
        let connected = Client::new().authkey(KEY).connect::<(), ()>(address(&peer.hear()));
        assert_eq!(
            connected.as_ref().err().and_then(|e| e.refusal()),
            old.then_some(&Refusal::Md5),
            "{python}"
        );
        // Our client goes without an answer.
        peer.expect(if old { "refused EOFError" } else { "let in" });
        peer.end();
    }
}

#[test]
fn missing_keys_are_errors_on_both_sides() {
    let _watchdog = watchdog!(LIMIT);
    for python in python::find() {
        // Its client has no key, and says something.
        let listener = Listener::builder().authkey(KEY).bind(("127.0.0.1", 0)).unwrap();
        let script = "
import os
connection = Client(address(sys.argv[1]))
connection.send_bytes(b'hello')
try:
    first = connection.recv_bytes()
    say(first[:11].decode())
    say(connection.recv_bytes().decode())
    connection.recv_bytes()
except (EOFError, OSError):
    say('end')
";
        let mut peer = Peer::start(python, script, &[&text(listener.address())]);
        assert!(matches!(listener.accept::<(), ()>().unwrap_err().refusal(), Some(Refusal::Protocol(_))));
        for line in ["#CHALLENGE#", "#FAILURE#", "end"] {
            peer.expect(line);
        }
        peer.end();
        // Its listener has no key, ours client one: it waits for a challenge that never comes, up to its deadline.
        let script = "
with Listener(('127.0.0.1', 0)) as listener:
    say('%s:%d' % listener.address)
    connection = listener.accept()
    try: connection.recv_bytes()
    except EOFError: say('end')
";
        let mut peer = Peer::start(python, script, &[]);
        let client = Client::new().authkey(KEY).timeout(Duration::from_millis(200));
        assert!(client.connect::<(), ()>(address(&peer.hear())).unwrap_err().is_timeout());
        peer.expect("end");
        peer.end();
    }
}
