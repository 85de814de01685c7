//! Local clients by way of shared memory: the same promises as on a socket, and what the memory adds to them.

use crate::hostile::frame;
use procession_channel::net::Client;
use procession_manager::{Address, Dict, Manager, Queue, Session};
use procession_process::Process;
use procession_shm::Segment;
use procession_sys::ancillary;
use procession_testkit::{isolated, storm::Rng, test_watchdog, wait::eventually};
use rustix::{
    net::RecvFlags,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use std::{
    fs::File,
    io::{IoSliceMut, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::{fs::FileExt, net::UnixStream},
    },
    time::Duration,
};

const LONG: Duration = Duration::from_secs(10);
/// Of a lane: where its reader's words and its bytes are, how many of these, and where the other lane is.
const READER: u64 = 128;
const SLEEPS: u64 = READER + 8;
const RING: u64 = 256;
const CAPACITY: u64 = 512 << 10;
/// Where the writer says which position the first byte has.
const ORIGIN: u64 = 16;
const REPLIES: u64 = RING + CAPACITY;
const LANES: u16 = 19;
const PING: u16 = 10;

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// A client that has lanes, and writes into them what it likes.
pub(crate) struct Raw {
    socket: UnixStream,
    memory: File,
    start: u64,
    sent: u64,
    heard: u64,
}

impl Raw {
    pub(crate) fn greeted(address: &Address) -> UnixStream {
        let connection = Client::new().authkey("key").connect::<(), ()>(address.clone()).unwrap();
        let mut socket = UnixStream::from(OwnedFd::from(connection));
        let hello = words(&[1, 0, u64::from(std::process::id()), 0]);
        socket.write_all(&frame(0, 1, 1, 0, &hello)).unwrap();
        let mut reply = [0; 32];
        socket.read_exact(&mut reply).unwrap();
        let mut payload = vec![0; usize::from(reply[8])];
        socket.read_exact(&mut payload).unwrap();
        socket
    }

    /// One that was offered lanes.
    fn offered(address: &Address) -> Raw {
        Raw::asked(address).expect("lanes are offered")
    }

    /// One that was offered lanes, or the socket of one that was refused some, and why.
    pub(crate) fn asked(address: &Address) -> Result<Raw, (UnixStream, String)> {
        let mut socket = Raw::greeted(address);
        socket.write_all(&frame(0, LANES, 2, 0, &[])).unwrap();
        let (mut reply, mut fds) = ([0; 32], Vec::new());
        let slices = &mut [IoSliceMut::new(&mut reply)];
        let (came, _) = ancillary::receive(socket.as_fd(), slices, RecvFlags::WAITALL, &mut fds).unwrap();
        assert_eq!(came, 32);
        if reply[4] != 0 {
            let mut text = vec![0; usize::from(reply[8])];
            socket.read_exact(&mut text).unwrap();
            return Err((socket, String::from_utf8_lossy(&text[8..]).into_owned()));
        }
        assert_eq!(fds.len(), 1, "a descriptor comes with the offer");
        let memory = File::from(fds.pop().unwrap());
        let segment = Segment::attach_any(memory.try_clone().unwrap().into()).unwrap();
        assert!(segment.len() as u64 >= 2 * REPLIES);
        let start = memory.metadata().unwrap().len() - segment.len() as u64;
        Ok(Raw { socket, memory, start, sent: 0, heard: 0 })
    }

    fn laned(address: &Address) -> Raw {
        let mut raw = Raw::offered(address);
        raw.use_them();
        raw
    }

    pub(crate) fn use_them(&mut self) {
        self.socket.write_all(&frame(1, LANES, 0, 0, &[])).unwrap();
    }

    /// Asks for a sign of life, by the lane.
    pub(crate) fn ping(&mut self) {
        self.write(&frame(0, PING, 3, 0, &[]));
        self.ring();
        assert_eq!(self.reply(), (3, 0, vec![]));
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        self.memory.write_all_at(bytes, self.start + at).unwrap();
    }

    fn word(&self, at: u64) -> u64 {
        let mut word = [0; 8];
        self.memory.read_exact_at(&mut word, self.start + at).unwrap();
        u64::from_le_bytes(word)
    }

    /// Commits bytes, without a bell.
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.put(RING + self.sent % CAPACITY, &[*byte]);
            self.sent += 1;
        }
        self.put(0, &self.sent.to_le_bytes());
    }

    /// As [`write`](Raw::write), at once.
    fn write_all(&mut self, bytes: &[u8]) {
        let at = self.sent % CAPACITY;
        let (first, second) = bytes.split_at(bytes.len().min((CAPACITY - at) as usize));
        self.put(RING + at, first);
        self.put(RING, second);
        self.sent += bytes.len() as u64;
        self.put(0, &self.sent.to_le_bytes());
    }

    fn ring(&mut self) {
        self.socket.write_all(&[0]).unwrap();
    }

    fn read(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        for byte in &mut bytes {
            eventually("a byte of a reply", LONG, || self.word(REPLIES) > self.heard);
            *byte = self.byte(self.heard);
            self.heard += 1;
        }
        self.put(REPLIES + READER, &self.heard.to_le_bytes());
        bytes
    }

    /// A byte of what was committed.
    fn byte(&self, position: u64) -> u8 {
        let offset = position.wrapping_sub(self.word(REPLIES + ORIGIN)) % CAPACITY;
        let mut byte = 0;
        let at = self.start + REPLIES + RING + offset;
        self.memory.read_exact_at(std::slice::from_mut(&mut byte), at).unwrap();
        byte
    }

    /// The next reply's request and status, and what it says.
    fn reply(&mut self) -> (u64, u16, Vec<u8>) {
        let header = self.read(32);
        let word = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().unwrap());
        let payload = self.read(word(8) as usize);
        (word(16), u16::from_le_bytes([header[4], header[5]]), payload)
    }

    /// Whether the server has hung up.
    fn ends(&mut self) -> bool {
        self.socket.set_read_timeout(Some(LONG)).unwrap();
        let mut bells = [0; 64];
        loop {
            match self.socket.read(&mut bells) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
            }
        }
    }
}

fn manager() -> (Manager, Address) {
    let name = format!("procession-lanes-{}-{:?}", std::process::id(), std::thread::current().id());
    let address = Address::Abstract(name.into_bytes());
    let manager = Manager::builder().address(address).authkey("key").max_frame(1 << 20).start().unwrap();
    let address = manager.public_address().unwrap().clone();
    (manager, address)
}

/// The lanes that this process has mapped, by their inodes.
fn maps() -> Vec<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let lanes = maps.lines().filter(|line| line.contains("procession:manager"));
    lanes.filter_map(|line| line.split_whitespace().nth(4)).map(str::to_owned).collect()
}

pub(crate) fn mapped() -> usize {
    maps().len()
}

fn state(manager: &Manager) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", manager.pid())).unwrap();
    stat.rsplit(") ").next().and_then(|rest| rest.chars().next()).unwrap()
}

/// Says that it sleeps, many times in a row: one that spins is seen to run.
fn sleeps(manager: &Manager) {
    eventually("the server sleeps", LONG, || (0..50).all(|_| state(manager) == 'S'));
}

#[test]
fn local_clients_have_lanes_and_others_do_not() {
    isolated!({
        let manager = Manager::builder().address(("127.0.0.1", 0)).authkey("key").start().unwrap();
        let far = Session::connect(manager.public_address().unwrap().clone(), "key").unwrap();
        far.dict::<u64, u64>().unwrap().set(&1, &1).unwrap();
        assert_eq!(mapped(), 0);
        let dict = manager.dict::<u64, u64>().unwrap();
        dict.set(&1, &2).unwrap();
        assert_eq!((mapped(), dict.get(&1).unwrap()), (1, Some(2)));
        sleeps(&manager);
        drop((dict, far, manager));
        assert_eq!(mapped(), 0, "they are unmapped with the last proxy");
        let manager = Manager::builder().shared_memory(false).start().unwrap();
        let dict = manager.dict::<u64, u64>().unwrap();
        dict.set(&1, &2).unwrap();
        assert_eq!((mapped(), dict.get(&1).unwrap()), (0, Some(2)));
    });
}

#[test]
fn frames_of_every_size_keep_their_order_between_threads_and_processes() {
    let _watchdog = test_watchdog();
    let manager = Manager::start().unwrap();
    let queue = manager.queue::<(u64, Vec<u8>)>().unwrap();
    let dict = manager.dict::<u64, u64>().unwrap();
    let item = |n: u64, len: u64| (n, (0..len).map(|at| (at * 7 + n) as u8).collect::<Vec<u8>>());
    let mut rng = Rng::from_env();
    // Some go in one piece, some are larger than a lane.
    let lens: Vec<u64> =
        (0..300).map(|n| if n % 4 == 0 { rng.below(1_200_000) } else { rng.below(200) }).collect();
    let child = Process::spawn(
        |(queue, lens): (Queue<(u64, Vec<u8>)>, Vec<u64>)| {
            lens.iter().zip(0..).all(|(&len, n)| {
                let (came, bytes) = queue.get().unwrap();
                came == n
                    && bytes.len() as u64 == len
                    && bytes.iter().zip(0..).all(|(&b, at)| b == (at * 7 + n) as u8)
            })
        },
        (queue.clone(), lens.clone()),
    )
    .unwrap();
    let others: Vec<_> = (0..3_u64)
        .map(|at| {
            let dict = dict.clone();
            std::thread::spawn(move || {
                for n in 0..300 {
                    dict.set(&at, &n).unwrap();
                    assert_eq!(dict.get(&at).unwrap(), Some(n));
                }
            })
        })
        .collect();
    for (&len, n) in lens.iter().zip(0..) {
        queue.put(&item(n, len)).unwrap();
    }
    others.into_iter().for_each(|other| other.join().unwrap());
    assert!(child.join().unwrap());
}

#[test]
fn what_went_by_the_socket_comes_before_what_goes_by_the_lane() {
    let _watchdog = test_watchdog();
    let (_manager, address) = manager();
    let mut raw = Raw::offered(&address);
    // Into the lane before anybody looks there; then by the socket; then the word.
    raw.write(&frame(0, PING, 11, 0, &[]));
    raw.socket.write_all(&frame(0, PING, 10, 0, &[])).unwrap();
    let mut reply = [0; 32];
    raw.socket.read_exact(&mut reply).unwrap();
    assert_eq!(reply[16], 10);
    assert_eq!(raw.word(READER), 0, "nothing of the lane is done before the word");
    // From there on no byte of the socket is a frame.
    let word = [frame(1, LANES, 0, 0, &[]), frame(0, PING, 12, 0, &[])].concat();
    raw.socket.write_all(&word).unwrap();
    assert_eq!(raw.reply(), (11, 0, vec![]));
    raw.socket.write_all(&frame(0, PING, 12, 0, &[])).unwrap();
    raw.write(&frame(0, PING, 13, 0, &[]));
    raw.ring();
    assert_eq!(raw.reply(), (13, 0, vec![]));
}

#[test]
fn lanes_are_offered_once_and_used_after_that_only() {
    let _watchdog = test_watchdog();
    let (manager, address) = manager();
    let mut raw = Raw::offered(&address);
    raw.socket.write_all(&frame(0, LANES, 3, 0, &[])).unwrap();
    let mut reply = [0; 32];
    raw.socket.read_exact(&mut reply).unwrap();
    assert_ne!(reply[4], 0, "a second time it is refused");
    let mut other = Raw::greeted(&address);
    other.write_all(&frame(1, LANES, 0, 0, &[])).unwrap();
    let mut rest = Vec::new();
    other.read_to_end(&mut rest).unwrap();
    assert!(rest.len() > 32, "it hears why it loses the connection");
    manager.ping_timeout(LONG).unwrap();
}

#[test]
fn a_hostile_lane_costs_its_client_the_connection_alone() {
    let _watchdog = test_watchdog();
    let (manager, address) = manager();
    let dict = manager.dict::<u64, u64>().unwrap();
    let mut long = frame(0, PING, 2, 0, &[]);
    long[8..16].copy_from_slice(&(1_u64 << 63).to_le_bytes());
    for bytes in [b"GET / HTTP/1.1\r\nHost: here\r\n\r\n--".to_vec(), long, frame(2, PING, 2, 0, &[])] {
        let mut raw = Raw::laned(&address);
        raw.write(&bytes);
        raw.ring();
        let (_, status, text) = raw.reply();
        assert!(status != 0 && !text.is_empty());
        assert!(raw.ends());
        dict.set(&1, &1).unwrap();
    }
    // Positions that cannot be: of what it writes, and of what it has read.
    for tail in [CAPACITY + 1, u64::MAX, 1 << 63] {
        let mut raw = Raw::laned(&address);
        raw.put(0, &tail.to_le_bytes());
        raw.ring();
        assert!(raw.ends());
        dict.set(&1, &1).unwrap();
    }
    for head in [33, 1 << 63] {
        let mut raw = Raw::laned(&address);
        raw.put(REPLIES + READER, &u64::to_le_bytes(head));
        raw.write(&frame(0, PING, 2, 0, &[]));
        raw.ring();
        assert!(raw.ends());
        dict.set(&1, &1).unwrap();
    }
    // Bytes that change all the time, under flags that do.
    let mut rng = Rng::from_env();
    for _ in 0..5 {
        let mut raw = Raw::laned(&address);
        for _ in 0..200 {
            let at = if rng.below(2) == 0 {
                rng.below(2 * REPLIES)
            } else {
                rng.below(2) * REPLIES + rng.below(18) * 8
            };
            raw.put(at / 8 * 8, &rng.below(2 * CAPACITY).to_le_bytes());
            let _ = raw.socket.write(&[0]);
        }
        dict.set(&1, &1).unwrap();
    }
    eventually("they are all gone", LONG, || manager.stats().unwrap().connections == 1);
    sleeps(&manager);
}

#[test]
fn a_client_that_fills_its_lane_and_reads_nothing_is_bounded() {
    let _watchdog = test_watchdog();
    let (manager, address) = manager();
    let value = manager.value(&vec![7_u8; 200 << 10]).unwrap();
    manager.publish("large", &value).unwrap();
    let mut raw = Raw::laned(&address);
    // Requests as long as there is room for some: each has a reply, and none is read.
    let mut request = 2;
    loop {
        // The reply says that there is no such thing, and which.
        let name = vec![b'x'; 8000];
        let payload = [&words(&[8000])[..], &name, &words(&[0, 0])].concat();
        let bytes = frame(0, 6, request, 0, &payload);
        if raw.sent + bytes.len() as u64 - raw.word(READER) > CAPACITY {
            sleeps(&manager);
            if raw.sent + bytes.len() as u64 - raw.word(READER) > CAPACITY {
                break;
            }
            continue;
        }
        request += 1;
        assert!(request < 20_000, "it is read from for ever");
        raw.write_all(&bytes);
        raw.ring();
    }
    assert!(value.get().unwrap().len() == 200 << 10, "others are served");
    sleeps(&manager);
    // All of it is answered once it reads: the bells say when there is more.
    for expected in 2..request {
        let header = {
            eventually("a reply", LONG, || {
                raw.ring();
                raw.word(REPLIES) - raw.heard >= 32
            });
            let mut header = [0; 32];
            (raw.heard..).zip(&mut header).for_each(|(at, byte)| *byte = raw.byte(at));
            header
        };
        assert_eq!(u64::from_le_bytes(header[16..24].try_into().unwrap()), expected);
        let len = 32 + u64::from_le_bytes(header[8..16].try_into().unwrap());
        eventually("the rest of it", LONG, || {
            raw.ring();
            raw.word(REPLIES) - raw.heard >= len
        });
        raw.heard += len;
        raw.put(REPLIES + READER, &raw.heard.to_le_bytes());
    }
}

#[test]
fn a_client_that_dies_behind_a_position_that_cannot_be_is_found_though_its_replies_wait() {
    let _watchdog = test_watchdog();
    let (manager, address) = manager();
    let mut raw = Raw::laned(&address);
    let connections = manager.stats().unwrap().connections;
    // So many replies that it is not read from any more: each says that there is no such thing, and which.
    let payload = [&words(&[8000])[..], &[b'x'; 8000], &words(&[0, 0])].concat();
    let mut request = 2;
    loop {
        let bytes = frame(0, 6, request, 0, &payload);
        if raw.sent + bytes.len() as u64 - raw.word(READER) > CAPACITY {
            sleeps(&manager);
            if raw.sent + bytes.len() as u64 - raw.word(READER) > CAPACITY {
                break;
            }
            continue;
        }
        raw.write_all(&bytes);
        request += 1;
        raw.ring();
    }
    raw.put(0, &u64::MAX.to_le_bytes());
    drop(raw);
    eventually("it is taken out", LONG, || manager.stats().unwrap().connections < connections);
    sleeps(&manager);
}

#[test]
fn a_frame_is_done_if_its_client_died_after_the_commit_and_not_before() {
    let _watchdog = test_watchdog();
    let (manager, address) = manager();
    let queue = manager.queue::<u64>().unwrap();
    manager.publish("here", &queue).unwrap();
    let unpublish =
        |name: &str| frame(1, 7, 0, 0, &[&words(&[name.len() as u64])[..], name.as_bytes()].concat());
    for asleep in [false, true] {
        for cut in [0, 1, 20] {
            let mut raw = Raw::laned(&address);
            let names = || manager.stats().unwrap().names;
            if asleep {
                eventually("it sleeps", LONG, || raw.word(SLEEPS) as u32 == 1);
            }
            let bytes = unpublish("here");
            raw.write(&bytes[..bytes.len() - cut]);
            // What is behind the commit is as if it was never written.
            raw.put(RING + raw.sent, &bytes[bytes.len() - cut..]);
            drop(raw);
            eventually("it is gone", LONG, || manager.stats().unwrap().connections == 1);
            assert_eq!(names(), u64::from(cut > 0), "{cut} bytes were not committed");
            manager.publish("here", &queue).unwrap();
        }
    }
}

#[test]
fn a_forked_child_leaves_its_parents_lanes_alone() {
    isolated!({
        let manager = Manager::start().unwrap();
        let dict = manager.dict::<u64, u64>().unwrap();
        dict.set(&1, &1).unwrap();
        let parents = maps();
        procession_testkit::forked(|| {
            for n in 0..2000 {
                dict.set(&2, &n).unwrap();
                assert_eq!(dict.get(&2).unwrap(), Some(n));
            }
            let own = maps();
            assert!(own.len() == 1 && own != parents, "it has its own, and let the copy of its parent's go");
        });
        for n in 0..2000 {
            dict.set(&1, &n).unwrap();
            assert_eq!(dict.get(&1).unwrap(), Some(n));
        }
        assert_eq!((mapped(), dict.get(&2).unwrap()), (1, Some(1999)));
        eventually("the child's is gone", LONG, || manager.stats().unwrap().connections == 1);
    });
}

fn use_it(manager: &Manager) {
    let dict: Dict<u64, Vec<u8>> = manager.dict().unwrap();
    dict.set(&1, &vec![1; 1100 << 10]).unwrap();
    assert_eq!(dict.get(&1).unwrap().unwrap().len(), 1100 << 10);
}

#[test]
fn a_client_without_a_descriptor_for_lanes_is_served_by_its_socket() {
    isolated!({
        let manager = Manager::start().unwrap();
        let next = std::io::stderr().as_fd().try_clone_to_owned().unwrap();
        let most = next.as_raw_fd() as u64 + 1;
        drop(next);
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: Some(most), ..limit }).unwrap();
        let dict: Dict<u64, u64> = manager.dict().unwrap();
        assert_eq!(dict.insert(&1, &1).unwrap(), None);
        setrlimit(Resource::Nofile, limit).unwrap();
        assert_eq!(mapped(), 0);
        use_it(&manager);
    });
}

#[test]
fn a_server_without_memory_for_lanes_serves_by_sockets() {
    isolated!({
        // No file may be as large as that, so there is no memory to be had.
        let no_memory =
            |()| setrlimit(Resource::Fsize, Rlimit { current: Some(4096), maximum: Some(4096) }).unwrap();
        let manager = Manager::builder().initializer(no_memory, &()).start().unwrap();
        use_it(&manager);
        assert_eq!(mapped(), 0);
    });
}
