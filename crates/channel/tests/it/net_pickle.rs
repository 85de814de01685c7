//! Pickles of plain values, and of everything else.

use crate::net_python::{LIMIT, Peer, address, text};
use procession_channel::net::{
    Client, Listener,
    pickle::{dumps, loads, loads_value},
};
use procession_parcel::Bytes;
use procession_testkit::{isolated, python, watchdog};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const KEY: &str = "a key for both";

#[derive(Serialize, Deserialize, PartialEq, Debug)]
struct Sample {
    name: String,
    numbers: Vec<i64>,
    pair: (bool, f64),
    nothing: Option<u8>,
    raw: Bytes,
    by_name: BTreeMap<String, u32>,
}

fn sample() -> Sample {
    Sample {
        name: "größe".to_owned(),
        numbers: vec![0, -1, 255, 65_536, i64::MAX, i64::MIN],
        pair: (true, 0.1),
        nothing: None,
        raw: Bytes(vec![0, 1, 255]),
        by_name: BTreeMap::from([("a".to_owned(), 1), ("b".to_owned(), 2)]),
    }
}

#[test]
fn plain_values_go_to_cpython_and_come_back() {
    let _watchdog = watchdog!(LIMIT);
    for python in python::find() {
        let script = "
connection = Client(address(sys.argv[1]), authkey=KEY)
value = connection.recv()
assert value == {'name': 'größe', 'numbers': [0, -1, 255, 65536, 2**63 - 1, -2**63], 'pair': (True, 0.1),
    'nothing': None, 'raw': b'\\x00\\x01\\xff', 'by_name': {'a': 1, 'b': 2}}, value
connection.send(value)
shared = ['same'] * 3
everything = [None, True, 2**200, 1.5, 'text', b'bytes', (), (1,), [], {}, {1, 2}, frozenset([3]), shared, shared,
    {'deep': [[[{'er': ('x', 'y', 'z', 'w')}]]]}, list(range(3000)), 'long' * 100]
connection.send(everything)
echoed = connection.recv()
assert echoed == everything, echoed
for number in range(100): connection.send(number)
assert connection.recv() is None
";
        let listener = Listener::builder().authkey(KEY).allow_md5(true).bind(("127.0.0.1", 0)).unwrap();
        let peer = Peer::start(python, script, &[&text(listener.address())]);
        let connection = listener.accept::<(), ()>().unwrap();
        connection.send_pickle(&sample()).unwrap();
        assert_eq!(connection.recv_pickle::<Sample>().unwrap(), sample(), "{python}");
        let everything = connection.recv_pickle_value().unwrap();
        connection.send_pickle_value(&everything).unwrap();
        for number in 0..100 {
            assert_eq!(connection.recv_pickle::<u32>().unwrap(), number);
        }
        connection.send_pickle(&()).unwrap();
        peer.end();
    }
}

#[test]
fn loading_executes_nothing_and_the_connection_goes_on() {
    isolated!({
        let _watchdog = watchdog!(LIMIT);
        let proof = std::env::temp_dir().join("executed");
        for python in python::find() {
            let script = "
import os
class Evil:
    def __reduce__(self): return (os.system, ('touch ' + sys.argv[1],))
class Plain: pass
with Listener(('127.0.0.1', 0), authkey=KEY) as listener:
    say('%s:%d' % listener.address)
    connection = listener.accept()
    for value in [Evil(), [1, (2, Evil())], Plain(), Plain, os.system, 1 + 2j, range(3)]: connection.send(value)
    connection.send_bytes(b\"cos\\nsystem\\n(S'touch \" + sys.argv[1].encode() + b\"'\\ntR.\")
    connection.send('still here')
    assert connection.recv() == 'me too'
";
            let mut peer = Peer::start(python, script, &[proof.to_str().unwrap()]);
            let client = Client::new().authkey(KEY).allow_md5(true);
            let connection = client.connect::<(), ()>(address(&peer.hear())).unwrap();
            for _ in 0..8 {
                let error = connection.recv_pickle_value().unwrap_err();
                assert!(error.is_malformed() && error.to_string().contains("only plain values"), "{error}");
            }
            assert_eq!(connection.recv_pickle::<String>().unwrap(), "still here");
            connection.send_pickle("me too").unwrap();
            peer.end();
            assert!(!proof.exists());
        }
    });
}

/// What a pickle is refused for.
#[track_caller]
fn refused(pickle: &[u8]) -> String {
    loads_value(pickle).unwrap_err().to_string()
}

#[test]
fn names_calls_and_references_are_refused_in_every_form() {
    let names: [&[u8]; 5] = [
        b"cos\nsystem\n.",
        b"(ios\nsystem\n.",
        b"\x8c\x02os\x8c\x06system\x93.",
        b"\x82\x01.",
        b"\x84\x01\0\0\0.",
    ];
    for pickle in names {
        assert!(refused(pickle).contains("the name of a class or function"), "{}", pickle.escape_ascii());
    }
    for pickle in [&b"N)R."[..], b"N)\x81.", b"N)}\x92.", b"(No.", b"N}b."] {
        assert!(refused(pickle).contains("a call"), "{}", pickle.escape_ascii());
    }
    for pickle in [&b"Pid\n."[..], b"NQ.", b"\x97.", b"\x98."] {
        assert!(refused(pickle).contains("elsewhere"), "{}", pickle.escape_ascii());
    }
}

#[test]
fn values_that_would_burst_are_refused() {
    // Nested lists, deeper than a stack is.
    let deep = [vec![b']'; 200_000], vec![b'a'; 199_999], vec![b'.']].concat();
    assert!(refused(&deep).contains("deeper than 128"));
    let deep = [b")".to_vec(), vec![0x85; 200_000], vec![b'.']].concat();
    assert!(refused(&deep).contains("deeper than 128"));
    let as_deep_as_may_be = [b")".to_vec(), vec![0x85; 128], vec![b'.']].concat();
    loads_value(&as_deep_as_may_be).unwrap();
    // Beginnings without an end: a reader makes room behind each.
    assert!(refused(&vec![b'('; 1 << 20]).contains("deeper than 128"));
    let as_deep_as_may_be = [vec![b'('; 129], vec![b't'; 129], vec![b'.']].concat();
    loads_value(&as_deep_as_may_be).unwrap();
    // A pair of pairs of pairs: a short pickle for 2 to the power of 60 values.
    let mut bomb = b"K\x01q\x00".to_vec();
    for level in 0..60 {
        bomb.extend([b'h', level, 0x86, b'q', level + 1]);
    }
    bomb.push(b'.');
    assert!(refused(&bomb).contains("spread out"), "{}", refused(&bomb));
    // A list that contains itself, at once and over a corner.
    assert!(refused(b"]q\x00h\x00a.").contains("contains itself"));
    assert!(
        refused(b"]q\x00]q\x01h\x00ah\x01a.").contains("contains itself"),
        "{}",
        refused(b"]q\x00]q\x01h\x00ah\x01a.")
    );
    // Announced and not there.
    assert!(refused(b"B\xff\xff\xff\xffabc").contains("4294967295"));
    assert!(refused(b"\x8e\xff\xff\xff\xff\xff\xff\xff\xffabc").contains("are left"));
    assert!(refused(&[&b"L"[..], &[b'9'; 5000], b"L\n."].concat()).contains("5001 digits"));
}

#[test]
fn what_is_no_pickle_is_refused() {
    let good = dumps(&sample()).unwrap();
    assert_eq!(loads::<Sample>(&good).unwrap(), sample());
    for end in 0..good.len() {
        assert!(loads::<Sample>(&good[..end]).is_err(), "{end}");
    }
    for pickle in [&b""[..], b".", b"NN.", b"(.", b"NN", b"N.N", b"h\x00.", b"a.", b"\xff."] {
        assert!(loads_value(pickle).is_err(), "{}", pickle.escape_ascii());
    }
    assert!(loads::<u32>(&dumps("text").unwrap()).is_err());
}
