//! Clients that are no clients: each gets an error and loses its connection, and everybody else is served.

use procession_channel::net::Client;
use procession_manager::{Address, Manager};
use procession_testkit::{storm::Rng, test_watchdog, wait::eventually};
use std::{
    io::{Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    time::Duration,
};

const LONG: Duration = Duration::from_secs(10);

/// A connection that is let in, and says what it likes.
struct Raw(UnixStream);

impl Raw {
    fn connect(address: &Address) -> Raw {
        let connection = Client::new().authkey("key").connect::<(), ()>(address.clone()).unwrap();
        Raw(UnixStream::from(OwnedFd::from(connection)))
    }

    fn greeted(address: &Address) -> Raw {
        let mut raw = Raw::connect(address);
        // Protocol, role, pid, build.
        let words = [1, 0, u64::from(std::process::id()), 0];
        let hello: Vec<u8> = words.iter().flat_map(|word: &u64| word.to_le_bytes()).collect();
        raw.0.write_all(&frame(0, 1, 1, 0, &hello)).unwrap();
        assert_eq!(raw.status(), Some(0));
        raw
    }

    /// The next reply's status and payload; nothing at the end.
    fn reply(&mut self) -> Option<(u16, Vec<u8>)> {
        let mut header = [0; 32];
        self.0.read_exact(&mut header).ok()?;
        assert_eq!(header[..3], *b"pM\x01", "this is no frame");
        let mut payload = vec![0; u64::from_le_bytes(header[8..16].try_into().unwrap()) as usize];
        self.0.read_exact(&mut payload).ok()?;
        Some((u16::from_le_bytes([header[4], header[5]]), payload))
    }

    fn status(&mut self) -> Option<u16> {
        self.reply().map(|reply| reply.0)
    }

    /// The number of an object that was published, of a type's number.
    fn find<T>(&mut self, name: &str, kind: u64) -> u64 {
        // FNV-1a over the type's name and a zero.
        let types =
            std::any::type_name::<T>().bytes().chain([0]).fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
        let mut find = (name.len() as u64).to_le_bytes().to_vec();
        find.extend(name.as_bytes());
        find.extend([kind, types].map(u64::to_le_bytes).concat());
        self.0.write_all(&frame(0, 6, 2, 0, &find)).unwrap();
        let (status, payload) = self.reply().unwrap();
        assert_eq!(status, 0);
        u64::from_le_bytes(payload[..8].try_into().unwrap())
    }

    fn ends(&mut self) -> bool {
        while let Some((status, payload)) = self.reply() {
            assert!(status != 0 && !payload.is_empty(), "the error says something");
        }
        true
    }
}

/// A frame of the manager's protocol.
pub(crate) fn frame(kind: u8, method: u16, request: u64, object: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = b"pM\x01".to_vec();
    bytes.push(kind);
    bytes.extend(method.to_le_bytes());
    bytes.extend([0; 2]);
    for word in [payload.len() as u64, request, object] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(payload);
    bytes
}

fn manager() -> (Manager, Address) {
    let path = std::env::temp_dir().join(format!(
        "procession-manager-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    let manager = Manager::builder().address(path).authkey("key").max_frame(1 << 20).start().unwrap();
    let address = manager.public_address().unwrap().clone();
    (manager, address)
}

#[test]
fn what_is_no_frame_costs_its_sender_the_connection_alone() {
    let _watchdog = test_watchdog();
    let (manager, address) = manager();
    let dict = manager.dict::<u64, u64>().unwrap();
    let mut long = frame(0, 10, 2, 0, &[]);
    long[8..16].copy_from_slice(&(1_u64 << 63).to_le_bytes());
    let mut version = frame(0, 10, 2, 0, &[]);
    version[2] = 9;
    let mut reserved = frame(0, 10, 2, 0, &[]);
    reserved[6] = 1;
    let bad = [
        b"GET / HTTP/1.1\r\nHost: here\r\n\r\n------------".to_vec(),
        long,
        version,
        reserved,
        frame(7, 10, 2, 0, &[]),
        frame(2, 0, 2, 0, &[]),
        // A payload that is short, and one that is long.
        frame(0, 2, 2, 0, &[1, 2, 3]),
        frame(0, 10, 2, 0, &[1]),
        // A list of 2^60 items.
        frame(0, 2, 2, 0, &[2_u64, 0, 1 << 60].map(u64::to_le_bytes).concat()),
    ];
    for (n, bytes) in bad.iter().enumerate() {
        let mut raw = Raw::greeted(&address);
        raw.0.write_all(bytes).unwrap();
        assert!(raw.ends(), "{n}");
        dict.set(&1, &(n as u64)).unwrap();
        assert_eq!(dict.get(&1).unwrap(), Some(n as u64));
    }
    // Without a greeting.
    let mut raw = Raw::connect(&address);
    raw.0.write_all(&frame(0, 10, 1, 0, &[])).unwrap();
    assert!(raw.ends());
    eventually("they are gone", LONG, || manager.stats().unwrap().connections == 1);
}

#[test]
fn what_cannot_be_done_is_an_error_and_the_connection_goes_on() {
    let _watchdog = test_watchdog();
    let (manager, address) = manager();
    let dict = manager.dict::<u64, u64>().unwrap();
    let mut raw = Raw::greeted(&address);
    let requests = [
        // A method that is none, an object that is none, one of somebody else.
        frame(0, 999, 2, 0, &[]),
        frame(0, 20, 3, 1 << 40, &[]),
        frame(0, 20, 4, 17, &[]),
        // A type that is none, the server's end, a method of another type.
        frame(0, 2, 5, 0, &[99_u64, 0].map(u64::to_le_bytes).concat()),
        frame(0, 8, 6, 0, &[]),
        frame(0, 70, 7, 0, &[]),
    ];
    for request in requests {
        raw.0.write_all(&request).unwrap();
        assert_ne!(raw.status(), Some(0));
    }
    raw.0.write_all(&frame(0, 10, 8, 0, &[])).unwrap();
    assert_eq!(raw.status(), Some(0));
    dict.set(&1, &1).unwrap();
    assert!(manager.is_alive());
}

#[test]
fn half_a_frame_and_silence_delay_nobody() {
    let _watchdog = test_watchdog();
    let (manager, address) = manager();
    let dict = manager.dict::<u64, u64>().unwrap();
    let silent: Vec<Raw> = (0..50)
        .map(|n| {
            let mut raw = Raw::greeted(&address);
            raw.0.write_all(&frame(0, 10, 2, 0, &[])[..n % 32]).unwrap();
            raw
        })
        .collect();
    for n in 0..100 {
        dict.set(&n, &n).unwrap();
    }
    assert_eq!(manager.stats().unwrap().connections, 51);
    // Nobody has cost a thread.
    assert_eq!(std::fs::read_dir(format!("/proc/{}/task", manager.pid())).unwrap().count(), 1);
    drop(silent);
    eventually("they are gone", LONG, || manager.stats().unwrap().connections == 1);
}

#[test]
fn who_does_not_read_his_replies_is_not_read_from() {
    let _watchdog = test_watchdog();
    let (manager, address) = manager();
    let list = manager.list::<Vec<u8>>().unwrap();
    list.push(&vec![7; 1 << 19]).unwrap();
    manager.publish("list", &list).unwrap();
    let mut raw = Raw::greeted(&address);
    let object = raw.find::<Vec<u8>>("list", 2);
    // Two thousand times half a megabyte, of which nothing is read.
    let at = frame(0, 50, 3, object, &0_u64.to_le_bytes());
    raw.0.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    for _ in 0..2000 {
        if raw.0.write_all(&at).is_err() {
            break;
        }
    }
    for _ in 0..20 {
        assert_eq!(list.len().unwrap(), 1);
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", manager.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches("kB").trim().parse().unwrap();
    assert!(peak < 100 << 10, "{peak} kB");
}

#[test]
fn requests_that_are_sent_ahead_are_all_answered_in_order() {
    let _watchdog = test_watchdog();
    let (manager, address) = manager();
    let list = manager.list::<Vec<u8>>().unwrap();
    list.push(&vec![7; 1 << 19]).unwrap();
    manager.publish("list", &list).unwrap();
    let mut raw = Raw::greeted(&address);
    let object = raw.find::<Vec<u8>>("list", 2);
    let all: Vec<u8> = (3..203).flat_map(|n| frame(0, 50, n, object, &0_u64.to_le_bytes())).collect();
    raw.0.write_all(&all).unwrap();
    for _ in 0..200 {
        let (status, payload) = raw.reply().unwrap();
        assert!(status == 0 && payload.len() > 1 << 19);
    }
    raw.0.write_all(&frame(0, 10, 300, 0, &[])).unwrap();
    assert_eq!(raw.status(), Some(0));
}

#[test]
fn an_item_that_did_not_reach_its_taker_goes_back_to_the_front() {
    let _watchdog = test_watchdog();
    let (manager, address) = manager();
    let queue = manager.queue::<u64>().unwrap();
    manager.publish("queue", &queue).unwrap();
    queue.put_many(&[1, 2, 3]).unwrap();
    let mut raw = Raw::greeted(&address);
    let object = raw.find::<u64>("queue", 7);
    // Takes two, and is gone before it says that it has them.
    for request in [3, 4] {
        let get = [u64::MAX, 1].map(u64::to_le_bytes).concat();
        raw.0.write_all(&frame(0, 71, request, object, &get)).unwrap();
        assert_eq!(raw.status(), Some(0));
    }
    assert_eq!(queue.len().unwrap(), 1);
    drop(raw);
    eventually("they are back", LONG, || queue.len().unwrap() == 3);
    assert_eq!(queue.get_many(9).unwrap(), [1, 2, 3]);
}

#[test]
fn random_requests_leave_nothing_behind() {
    let _watchdog = test_watchdog();
    procession_testkit::isolated!({
        let mut rng = Rng::from_env_or(20_261_121);
        let methods: Vec<u8> =
            (1..=18).chain(20..=26).chain(30..=39).chain(50..=63).chain(70..=122).chain(130..=134).collect();
        for _ in 0..300 {
            let mut data = Vec::new();
            for _ in 0..rng.within(1..60) {
                let mut piece = vec![*rng.pick(&methods), rng.below(8) as u8];
                if rng.chance(1, 4) {
                    // A new object of each type: type, types, a number or an empty row.
                    piece = vec![2, 0];
                    piece.extend([rng.within(1..18), 0, rng.below(3)].map(u64::to_le_bytes).concat());
                } else {
                    for _ in 0..rng.below(6) {
                        let word = *rng.pick(&[0, 1, 2, 3, 8, 17, 18, 19, 20, 1_000_000, u64::MAX]);
                        piece.extend(word.to_le_bytes());
                    }
                    piece.extend((0..rng.below(9)).map(|_| rng.next_u64() as u8).collect::<Vec<_>>());
                }
                // Bytes as they come are rare: they end the connection.
                let what = rng.below(2) as u8
                    + if rng.chance(1, 60) { 2 } else { 0 }
                    + if rng.chance(1, 4) { 4 } else { 0 }
                    + if rng.chance(1, 10) { 8 } else { 0 };
                data.extend([what, piece.len() as u8]);
                data.extend(piece);
            }
            procession_manager::fuzz::requests(&data);
        }
        // What the fuzzer starts from, and a little beside it.
        let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/manager");
        for path in std::fs::read_dir(corpus).unwrap() {
            let input = std::fs::read(path.unwrap().path()).unwrap();
            procession_manager::fuzz::requests(&input);
            for _ in 0..40 {
                let mut input = input.clone();
                let at = rng.below(input.len() as u64) as usize;
                input[at] = rng.next_u64() as u8;
                procession_manager::fuzz::requests(&input);
            }
        }
        for len in 0..200 {
            let data: Vec<u8> = (0..len).map(|_| rng.next_u64() as u8).collect();
            procession_manager::fuzz::requests(&data);
        }
    });
}

#[test]
fn more_permits_than_there_are_numbers_do_no_harm() {
    let _watchdog = test_watchdog();
    let (manager, address) = manager();
    let mut raw = Raw::greeted(&address);
    let words = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    raw.0.write_all(&frame(0, 2, 2, 0, &words(&[11, 0, u64::MAX]))).unwrap();
    let semaphore = u64::from_le_bytes(raw.reply().unwrap().1[..8].try_into().unwrap());
    // All of them, five more, and those too; then all go back.
    let steps: [(u16, &[u64]); 4] =
        [(90, &[0, u64::MAX, 1]), (91, &[5]), (90, &[0, 5, 1]), (93, &[u64::MAX])];
    for (request, (method, payload)) in (3..).zip(steps) {
        raw.0.write_all(&frame(0, method, request, semaphore, &words(payload))).unwrap();
        assert_eq!(raw.status(), Some(0), "{method}");
    }
    drop(raw);
    manager.ping_timeout(LONG).unwrap();
}

#[test]
fn many_requests_at_once_are_all_answered() {
    let _watchdog = test_watchdog();
    let (_manager, address) = manager();
    let mut raw = Raw::greeted(&address);
    let pings: Vec<u8> = (2..20_002).flat_map(|request| frame(0, 10, request, 0, &[])).collect();
    let mut writer = raw.0.try_clone().unwrap();
    let writes = std::thread::spawn(move || writer.write_all(&pings).unwrap());
    for _ in 0..20_000 {
        assert_eq!(raw.status(), Some(0));
    }
    writes.join().unwrap();
}

#[test]
fn many_entries_are_inserted_all_or_none() {
    let _watchdog = test_watchdog();
    let (_manager, address) = manager();
    let mut raw = Raw::greeted(&address);
    let words = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    raw.0.write_all(&frame(0, 2, 2, 0, &words(&[1, 0]))).unwrap();
    let dict = u64::from_le_bytes(raw.reply().unwrap().1[..8].try_into().unwrap());
    // Key, value, and the objects in it: none, then one that does not exist.
    let entries = words(&[2, 8, 1, 8, 1, 0, 8, 2, 8, 2, 1, 1 << 40]);
    raw.0.write_all(&frame(0, 37, 3, dict, &entries)).unwrap();
    assert_ne!(raw.status(), Some(0));
    raw.0.write_all(&frame(0, 20, 4, dict, &[])).unwrap();
    assert_eq!(raw.reply().unwrap(), (0, words(&[0])));
}

#[test]
fn nobody_comes_back_as_somebody_else_or_with_what_was_never_said() {
    let _watchdog = test_watchdog();
    let (manager, address) = manager();
    let bytes = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let back = |token: &[u8], received: u64| {
        let mut raw = Raw::connect(&address);
        let payload = [&bytes(&[1, token.len() as u64]), token, &bytes(&[received])].concat();
        raw.0.write_all(&frame(0, 15, 0, 0, &payload)).unwrap();
        raw
    };
    // A client that may come back for a minute.
    let mut raw = Raw::connect(&address);
    let hello = bytes(&[1, 0, u64::from(std::process::id()), 0, 60_000_000_000, 0]);
    raw.0.write_all(&frame(0, 1, 1, 0, &hello)).unwrap();
    let (status, payload) = raw.reply().unwrap();
    // Whether it is trusted, the pid, the identity, the token, the grace.
    let token = payload[8 + 8 + 24 + 8..][..16].to_vec();
    assert_eq!((status, payload.len()), (0, 8 + 8 + 24 + 24 + 8));
    raw.0.write_all(&frame(0, 2, 2, 0, &bytes(&[7, 0, 0]))).unwrap();
    assert_eq!(raw.status(), Some(0));
    for (token, received) in [(&token[..15], 2), (&[0; 16], 2), (&[], 0), (&token, 3), (&token, u64::MAX)] {
        let mut stranger = back(token, received);
        let (status, text) = stranger.reply().unwrap();
        assert!(status != 0 && !text.is_empty());
        assert!(stranger.reply().is_none());
    }
    assert_eq!(manager.stats().unwrap().objects, 1);
    // Itself, while its old connection is still there: that one ends, and the reply that it has not heard comes again.
    let mut same = back(&token, 1);
    assert_eq!(same.reply().unwrap(), (0, bytes(&[2])));
    assert_eq!(same.status(), Some(0));
    assert!(raw.reply().is_none());
    // It has not received what was never said.
    same.0.write_all(&frame(1, 16, 0, 0, &bytes(&[100]))).unwrap();
    assert!(same.ends());
    eventually("it is gone, without a grace", LONG, || manager.stats().unwrap().objects == 0);
    assert_eq!(manager.stats().unwrap().away, 0);
    let mut late = back(&token, 1);
    assert!(late.ends());
}

#[test]
fn who_says_hello_again_loses_the_connection_and_leaves_no_second_token() {
    let _watchdog = test_watchdog();
    let (manager, address) = manager();
    let bytes = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let mut raw = Raw::connect(&address);
    // A client that may come back for a minute, and be silent for as long.
    let hello = bytes(&[1, 0, u64::from(std::process::id()), 0, 60_000_000_000, 60_000_000_000]);
    raw.0.write_all(&frame(0, 1, 1, 0, &hello)).unwrap();
    assert_eq!(raw.status(), Some(0));
    raw.0.write_all(&frame(0, 1, 2, 0, &hello)).unwrap();
    assert!(raw.ends());
    eventually("it is gone", LONG, || manager.stats().unwrap().connections == 1);
    assert_eq!(manager.stats().unwrap().away, 0);
}

/// A piece for the fuzzer: whose turn, and a request.
fn piece(what: u8, method: u8, object: u8, words: &[u64]) -> Vec<u8> {
    let payload: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    [&[what, 2 + payload.len() as u8, method, object][..], &payload].concat()
}

#[test]
fn who_lets_an_object_go_while_waiting_for_it_leaves_no_timer() {
    let _watchdog = test_watchdog();
    // An event, a wait of an hour, and no lease of it any more; then the client is gone.
    let hour = 3_600_000_000_000;
    let data = [piece(1, 2, 0, &[13, 0]), piece(1, 103, 1, &[hour]), piece(1, 4, 0, &[18, 1])].concat();
    procession_manager::fuzz::requests(&data);
}

#[test]
fn nobody_who_is_gone_is_looked_after() {
    let _watchdog = test_watchdog();
    // Comes back again and again, and may be silent for ages.
    procession_manager::fuzz::requests(&[9, 2, 0, 1].repeat(5));
    procession_manager::fuzz::requests(&[]);
}

#[test]
fn a_wrong_claim_to_come_back_takes_nothing_from_the_connection_that_is_there() {
    let _watchdog = test_watchdog();
    let (manager, address) = manager();
    let list = manager.list::<Vec<u8>>().unwrap();
    list.push(&vec![7; 1 << 19]).unwrap();
    manager.publish("list", &list).unwrap();
    let bytes = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let mut raw = Raw::connect(&address);
    let hello = bytes(&[1, 0, u64::from(std::process::id()), 0, 60_000_000_000, 0]);
    raw.0.write_all(&frame(0, 1, 1, 0, &hello)).unwrap();
    let token = raw.reply().unwrap().1[8 + 8 + 24 + 8..][..16].to_vec();
    let object = raw.find::<Vec<u8>>("list", 2);
    // More than a socket takes at once.
    let all: Vec<u8> = (3..23).flat_map(|n| frame(0, 50, n, object, &0_u64.to_le_bytes())).collect();
    raw.0.write_all(&all).unwrap();
    let (status, payload) = raw.reply().unwrap();
    assert!(status == 0 && payload.len() > 1 << 19);
    let mut wrong = Raw::connect(&address);
    let claim = [&bytes(&[1, 16]), &token[..], &bytes(&[1000])].concat();
    wrong.0.write_all(&frame(0, 15, 0, 0, &claim)).unwrap();
    assert!(wrong.ends());
    raw.0.set_read_timeout(Some(LONG)).unwrap();
    for n in 1..20 {
        let (status, payload) = raw.reply().unwrap_or_else(|| panic!("reply {n} is lost"));
        assert!(status == 0 && payload.len() > 1 << 19);
    }
}

#[test]
fn requests_of_others_and_those_that_are_none_cannot_be_given_up() {
    let _watchdog = test_watchdog();
    let (manager, address) = manager();
    let queue = manager.queue::<u64>().unwrap();
    manager.publish("queue", &queue).unwrap();
    let (mut waits, mut other) = (Raw::greeted(&address), Raw::greeted(&address));
    let object = waits.find::<u64>("queue", 7);
    let get = [u64::MAX, 1].map(u64::to_le_bytes).concat();
    waits.0.write_all(&frame(0, 71, 7, object, &get)).unwrap();
    eventually("it waits", LONG, || manager.stats().unwrap().waiting == 1);
    for request in [7, 0, object, u64::MAX] {
        other.0.write_all(&frame(0, 18, 2, 0, &request.to_le_bytes())).unwrap();
        assert_eq!(other.status(), Some(0));
    }
    assert_eq!(manager.stats().unwrap().waiting, 1);
    queue.put(&5).unwrap();
    assert_eq!(waits.status(), Some(0));
    // Its own, which is over; and half a number.
    waits.0.write_all(&frame(0, 18, 8, 0, &7_u64.to_le_bytes())).unwrap();
    assert_eq!(waits.status(), Some(0));
    waits.0.write_all(&frame(1, 18, 9, 0, &[7, 0])).unwrap();
    assert!(waits.ends());
    eventually("the item is back", LONG, || queue.len().unwrap() == 1);
}

/// What a call in a pool is asked for with.
#[cfg(feature = "pool")]
fn pool_run(function: &[u8], chunk: u64, items: &[&[u8]]) -> Vec<u8> {
    let string = |bytes: &[u8]| [&(bytes.len() as u64).to_le_bytes(), bytes].concat();
    let mut all = string(function);
    all.extend([chunk, items.len() as u64].map(u64::to_le_bytes).concat());
    items.iter().for_each(|item| all.extend(string(item)));
    all
}

#[cfg(feature = "pool")]
#[test]
fn nonsense_for_a_pool_is_an_error_and_numbers_that_are_used_again_are_other_calls() {
    use procession_parcel::{Erased, Parcel};
    let _watchdog = test_watchdog();
    let (manager, address) = manager();
    let pool = manager.pool(1).unwrap();
    manager.publish("pool", &pool).unwrap();
    let mut raw = Raw::greeted(&address);
    // A pool has no types.
    let find =
        [&4_u64.to_le_bytes()[..], b"pool", &[17, 0xcbf2_9ce4_8422_2325].map(u64::to_le_bytes).concat()];
    raw.0.write_all(&frame(0, 6, 2, 0, &find.concat())).unwrap();
    let (status, payload) = raw.reply().unwrap();
    assert_eq!(status, 0);
    let object = u64::from_le_bytes(payload[..8].try_into().unwrap());
    let pack = |function: &Erased| Parcel::pack(function).unwrap().into_parts().0;
    let square = pack(&Erased::named_unchecked("manager.tests.square"));
    let own = pack(&Erased::new(|n: u64| n + 1).unwrap());
    let number = |n: u64| {
        let mut bytes = Vec::new();
        procession_parcel::codec::encode(&n, &mut bytes).unwrap();
        bytes
    };
    let (two, three) = (number(2), number(3));
    // No function, one by its place in the program, an argument that is none.
    for (function, item) in [(&[][..], &two[..]), (&[1, 2, 3], &two), (&own, &two), (&square, &[])] {
        raw.0.write_all(&frame(0, 130, 3, object, &pool_run(function, u64::MAX, &[item]))).unwrap();
        let (status, text) = raw.reply().unwrap();
        assert!(status != 0 && !text.is_empty());
    }
    // All in one piece, and nothing at all.
    let items = [&two[..]; 100];
    raw.0.write_all(&frame(0, 130, 4, object, &pool_run(&square, u64::MAX, &items))).unwrap();
    assert_eq!(raw.reply().unwrap().1[..8], 100_u64.to_le_bytes());
    raw.0.write_all(&frame(0, 130, 5, object, &pool_run(&square, 1, &[]))).unwrap();
    assert_eq!(raw.reply().unwrap(), (0, vec![0; 8]));
    // A call that is given up, and another one of the same number: in one breath.
    for _ in 0..50 {
        let all = [
            frame(0, 130, 6, object, &pool_run(&square, 0, &[&two])),
            frame(1, 18, 0, 0, &6_u64.to_le_bytes()),
            frame(0, 130, 6, object, &pool_run(&square, 0, &[&three])),
        ];
        raw.0.write_all(&all.concat()).unwrap();
        assert_ne!(raw.status(), Some(0));
        let (status, payload) = raw.reply().unwrap();
        let text = String::from_utf8_lossy(&payload).into_owned();
        assert_eq!(status, 0, "{text}");
        let nine = number(9);
        assert_eq!(payload[16..][..nine.len()], nine, "{text}");
    }
    // As many as it likes, without a reply to read, and it is gone.
    for request in 10..2010 {
        raw.0.write_all(&frame(1, 130, request, object, &pool_run(&square, 0, &[&two]))).unwrap();
    }
    drop(raw);
    eventually("its calls are gone", LONG, || {
        let stats = manager.stats().unwrap();
        (stats.waiting, stats.connections) == (0, 1)
    });
    assert_eq!(pool.submit_named::<u64, u64>("manager.tests.square", &5).unwrap().get().unwrap(), 25);
    assert_eq!(pool.worker_pids().unwrap().len(), 1);
}

#[cfg(feature = "pool")]
#[test]
fn a_connection_that_is_closed_ends_although_a_pool_was_made_meanwhile() {
    let _watchdog = test_watchdog();
    let (manager, address) = manager();
    let mut raw = Raw::greeted(&address);
    let pool = manager.pool(2).unwrap();
    assert_eq!(pool.worker_pids().unwrap().len(), 2);
    raw.0.set_read_timeout(Some(LONG)).unwrap();
    raw.0.write_all(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n------------").unwrap();
    assert_ne!(raw.status(), Some(0));
    assert_eq!(raw.0.read(&mut [0]).unwrap(), 0, "the end");
}

#[test]
fn numbers_of_objects_and_tickets_cannot_be_guessed() {
    let _watchdog = test_watchdog();
    let (_manager, address) = manager();
    let mut raw = Raw::greeted(&address);
    let words = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let mut request = 1;
    let mut ask = |method, payload: &[u64]| {
        request += 1;
        raw.0.write_all(&frame(0, method, request, 0, &words(payload))).unwrap();
        let (status, payload) = raw.reply().unwrap();
        let number = payload.first_chunk().filter(|_| status == 0);
        number.map(|number| u64::from_le_bytes(*number))
    };
    let mut numbers = Vec::new();
    for _ in 0..50 {
        // A dictionary, and a ticket for it.
        let object = ask(2, &[1, 7]).unwrap();
        numbers.extend([object, ask(11, &[object, 1, 7]).unwrap()]);
    }
    for &number in &numbers {
        for near in [number.wrapping_sub(1), number.wrapping_add(1)] {
            assert_eq!((ask(3, &[near, 1, 7]), ask(12, &[near, 1, 7])), (None, None));
        }
    }
    numbers.sort_unstable();
    // By chance this fails once in a million times.
    assert!(numbers.windows(2).all(|two| two[1] - two[0] > 1 << 31), "{numbers:x?}");
}
