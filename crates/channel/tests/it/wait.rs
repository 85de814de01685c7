//! Waits for many things at once.

use crate::{
    support::soon,
    ways::{Party, Way, each_way},
};
use procession_channel::{
    Waitable,
    connection::{Connection, Pipe, PipeReceiver, PipeSender},
    wait, wait_deadline,
};
use procession_parcel::Fd;
use procession_process::Process;
use procession_testkit::{isolated, limits::Surroundings, watchdog};
use std::{
    cell::RefCell,
    collections::BTreeMap,
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixListener,
    },
    time::{Duration, Instant},
};

const BOUND: Duration = Duration::from_secs(20);

each_way! {
    four_writers_are_read_to_their_ends,
    four_slow_writers_are_read_to_their_ends,
    four_sockets_are_read_to_their_ends,
    ends_and_sentinels_are_waited_for_together,
}

fn writes((sender, id, slow): (PipeSender<(u32, u32)>, u32, bool)) {
    for number in 0..10 {
        if slow {
            std::thread::sleep(Duration::from_millis(u64::from((id * 7 + number * 13) % 10)));
        }
        sender.send(&(id, number)).unwrap();
    }
}

fn read_all(way: Way, slow: bool) {
    let mut readers = Vec::new();
    let parties: Vec<Party<()>> = (0..4)
        .map(|id| {
            let (receiver, sender) = Pipe::one_way().unwrap();
            readers.push(receiver);
            way.start(writes, (sender, id, slow))
        })
        .collect();
    let mut next = BTreeMap::<u32, u32>::new();
    while !readers.is_empty() {
        let all: Vec<&dyn Waitable> = readers.iter().map(|reader| reader as &dyn Waitable).collect();
        let ready = wait(&all, BOUND).unwrap();
        assert!(!ready.is_empty() && ready.is_sorted());
        for index in ready.into_iter().rev() {
            match readers[index].recv() {
                Ok((id, number)) => {
                    let expected = next.entry(id).or_default();
                    assert_eq!(number, *expected);
                    *expected += 1;
                }
                Err(error) => {
                    assert!(error.is_eof(), "{error}");
                    readers.remove(index);
                }
            }
        }
    }
    assert_eq!(next, (0..4).map(|id| (id, 10)).collect());
    parties.into_iter().for_each(Party::join);
}

/// As `TestWait.test_wait`.
fn four_writers_are_read_to_their_ends(way: Way) {
    read_all(way, false);
}

/// As `TestWait.test_wait_slow`.
fn four_slow_writers_are_read_to_their_ends(way: Way) {
    read_all(way, true);
}

fn writes_to_a_socket((address, slow): (std::net::SocketAddr, bool)) {
    let mut socket = TcpStream::connect(address).unwrap();
    for number in 0..10 {
        if slow {
            std::thread::sleep(Duration::from_millis(number % 10));
        }
        writeln!(socket, "{number}").unwrap();
    }
}

/// As `TestWait.test_wait_socket` and `test_wait_socket_slow`.
fn four_sockets_are_read_to_their_ends(way: Way) {
    for slow in [false, true] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let parties: Vec<Party<()>> =
            (0..4).map(|_| way.start(writes_to_a_socket, (address, slow))).collect();
        let mut sockets: Vec<(TcpStream, Vec<u8>)> = Vec::new();
        let (mut accepted, mut ended) = (0, 0);
        while ended < 4 {
            // The listener is one of those that are waited for.
            let mut all: Vec<&dyn Waitable> =
                sockets.iter().map(|(socket, _)| socket as &dyn Waitable).collect();
            all.push(&listener);
            let ready = wait(&all, BOUND).unwrap();
            assert!(!ready.is_empty());
            let listening = all.len() - 1;
            for index in ready.into_iter().rev() {
                if index == listening {
                    sockets.push((listener.accept().unwrap().0, Vec::new()));
                    accepted += 1;
                    continue;
                }
                let mut buffer = [0; 32];
                let came = sockets[index].0.read(&mut buffer).unwrap();
                sockets[index].1.extend_from_slice(&buffer[..came]);
                if came == 0 {
                    assert_eq!(sockets.remove(index).1, b"0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n");
                    ended += 1;
                }
            }
        }
        assert_eq!(accepted, 4);
        parties.into_iter().for_each(Party::join);
    }
}

/// As `TestWait.test_wait_integer`.
fn ends_and_sentinels_are_waited_for_together(way: Way) {
    let (end, theirs) = Pipe::<(), u8>::duplex().unwrap();
    let sends_when_told = |end: Connection<u8, ()>| {
        end.recv().unwrap();
        end.send(&7).unwrap();
        end.recv().unwrap();
    };
    let child = way.start(sends_when_told, theirs);
    let (idle, _kept) = Pipe::<u8>::one_way().unwrap();
    let Party::Process(process) = &child else {
        // A thread has no sentinel.
        end.send(&()).unwrap();
        assert_eq!(wait(&[&idle, &end], BOUND).unwrap(), [1]);
        end.send(&()).unwrap();
        assert_eq!(end.recv().unwrap(), 7);
        return child.join();
    };
    let sentinel = process.sentinel();
    assert_eq!(wait_deadline(&[&sentinel, &idle, &end], Some(soon())).unwrap(), [0_usize; 0]);
    end.send(&()).unwrap();
    assert_eq!(wait(&[&sentinel, &idle, &end], BOUND).unwrap(), [2]);
    assert_eq!(end.recv().unwrap(), 7);
    end.send(&()).unwrap();
    assert_eq!(wait(&[&sentinel, &idle], BOUND).unwrap(), [0]);
    assert_eq!(wait(&[&idle, &end, &sentinel], None).unwrap(), [1, 2], "the end, and the process's");
    child.join();
}

/// As `TestWait.test_wait_timeout` and `test_neg_timeout`.
#[test]
fn a_wait_ends_at_its_timeout() {
    let _watchdog = watchdog!();
    let (receiver, sender) = Pipe::<u8>::one_way().unwrap();
    let (other, _kept) = Pipe::<u8>::one_way().unwrap();
    let before = Instant::now();
    assert!(wait(&[&receiver, &other], Duration::from_millis(200)).unwrap().is_empty());
    assert!(before.elapsed() >= Duration::from_millis(200));
    assert!(wait(&[&receiver, &other], Duration::ZERO).unwrap().is_empty());
    sender.send(&1).unwrap();
    assert_eq!(wait(&[&receiver, &other], BOUND).unwrap(), [0]);
    assert!(wait(&[], Duration::from_millis(1)).unwrap().is_empty());
    assert!(wait(&[], None).unwrap().is_empty(), "nothing to wait for");
}

#[test]
fn the_order_is_that_of_the_list_and_an_object_may_be_there_twice() {
    let _watchdog = watchdog!();
    let (a, to_a) = Pipe::<u8>::one_way().unwrap();
    let (b, _to_b) = Pipe::<u8>::one_way().unwrap();
    let (c, to_c) = Pipe::<u8>::one_way().unwrap();
    to_c.send(&1).unwrap();
    to_a.send(&1).unwrap();
    assert_eq!(wait(&[&c, &a, &b, &c], BOUND).unwrap(), [0, 1, 3]);
    assert_eq!(wait(&[&b, &a, &c], BOUND).unwrap(), [1, 2]);
}

#[test]
fn a_listener_is_ready_when_somebody_connects() {
    let _watchdog = watchdog!();
    let folder = std::env::temp_dir().join(format!("procession-wait-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    let path = folder.join("socket");
    let unix = UnixListener::bind(&path).unwrap();
    let tcp = TcpListener::bind("[::1]:0").or_else(|_| TcpListener::bind("127.0.0.1:0")).unwrap();
    assert!(wait(&[&unix, &tcp], Duration::ZERO).unwrap().is_empty());
    let _client = std::os::unix::net::UnixStream::connect(&path).unwrap();
    std::fs::remove_dir_all(folder).unwrap();
    assert_eq!(wait(&[&tcp, &unix], BOUND).unwrap(), [1]);
    let _client = TcpStream::connect(tcp.local_addr().unwrap()).unwrap();
    assert_eq!(wait(&[&tcp, &unix], BOUND).unwrap(), [0, 1]);
}

#[test]
fn thousands_are_waited_for_in_one_call() {
    let _watchdog = watchdog!();
    isolated!({
        // More than this process may have descriptors: the same ends several times.
        if !Surroundings::new().nofile(1_000).apply_or_skip() {
            return;
        }
        let pipes: Vec<(PipeReceiver<u32>, PipeSender<u32>)> =
            (0..400).map(|_| Pipe::one_way().unwrap()).collect();
        for (index, (_, sender)) in pipes.iter().enumerate().filter(|(index, _)| index % 100 == 33) {
            sender.send(&(index as u32)).unwrap();
        }
        let all: Vec<&dyn Waitable> =
            (0..4_000).map(|index| &pipes[index % 400].0 as &dyn Waitable).collect();
        let expected: Vec<usize> = (0..4_000).filter(|index| index % 100 == 33).collect();
        assert_eq!(wait(&all, BOUND).unwrap(), expected);
        assert_eq!(wait(&all[..900], BOUND).unwrap(), expected[..9]);
    });
}

/// As `TestInvalidHandle.test_invalid_handles`, by a descriptor that was closed behind its owner's back.
#[test]
fn a_closed_descriptor_is_an_error() {
    let _watchdog = watchdog!();
    isolated!({
        let (receiver, sender) = Pipe::<Fd>::one_way().unwrap();
        let fd = OwnedFd::from(sender);
        // SAFETY: the number stays free, since this process does nothing else now.
        let stale = unsafe { BorrowedFd::borrow_raw(std::os::fd::AsRawFd::as_raw_fd(&fd)) };
        drop(fd);
        let error = wait(&[&stale], Duration::from_secs(1)).unwrap_err();
        assert!(error.to_string().contains("not open"), "{error}");
        drop(receiver);
    });
}

/// An object as a queue is one: what is in it is in memory, and its descriptor tells only while somebody waits.
struct InMemory {
    items: RefCell<u32>,
    log: RefCell<Vec<&'static str>>,
    signal: OwnedFd,
    after_a_slice: bool,
}

impl InMemory {
    fn new(after_a_slice: bool) -> InMemory {
        let signal = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap();
        InMemory { items: RefCell::new(0), log: RefCell::default(), signal, after_a_slice }
    }

    fn log(&self) -> Vec<&'static str> {
        self.log.take()
    }
}

impl Waitable for InMemory {
    fn prepare(&self) -> io::Result<BorrowedFd<'_>> {
        self.log.borrow_mut().push("prepare");
        Ok(self.signal.as_fd())
    }

    fn is_ready(&self, readable: bool) -> bool {
        self.log.borrow_mut().push(if readable { "signalled" } else { "look" });
        if readable {
            rustix::io::read(&self.signal, &mut [0; 8]).unwrap();
        }
        if self.after_a_slice && self.log.borrow().len() > 2 {
            *self.items.borrow_mut() = 1;
        }
        *self.items.borrow() > 0
    }

    fn needs_slices(&self) -> bool {
        true
    }

    fn finish(&self) {
        self.log.borrow_mut().push("finish");
    }
}

struct Refuses;

impl Waitable for Refuses {
    fn prepare(&self) -> io::Result<BorrowedFd<'_>> {
        Err(io::Error::other("no descriptor"))
    }

    fn finish(&self) {
        panic!("it was not prepared");
    }
}

#[test]
fn an_object_of_its_own_kind_is_prepared_looked_at_and_finished() {
    let _watchdog = watchdog!();
    let (idle, _kept) = Pipe::<u8>::one_way().unwrap();
    // Ready before the wait: its descriptor says nothing.
    let object = InMemory::new(false);
    *object.items.borrow_mut() = 1;
    assert_eq!(wait(&[&idle, &object], None).unwrap(), [1]);
    assert_eq!(object.log(), ["prepare", "look", "finish"]);
    // Signalled for nothing, and not signalled at all: looked at again after a slice.
    let object = InMemory::new(true);
    rustix::io::write(&object.signal, &1_u64.to_ne_bytes()).unwrap();
    assert_eq!(wait(&[&object, &idle], BOUND).unwrap(), [0]);
    assert_eq!(object.log(), ["prepare", "signalled", "look", "finish"]);
    // At the timeout, and after an error of another one.
    let object = InMemory::new(false);
    assert!(wait_deadline(&[&object], Some(soon())).unwrap().is_empty());
    assert_eq!(object.log().last(), Some(&"finish"));
    assert!(wait(&[&object, &Refuses], None).is_err());
    assert_eq!(object.log(), ["prepare", "finish"]);
}

#[test]
fn a_process_is_waited_for_by_its_sentinel() {
    let _watchdog = watchdog!();
    let sleeps = |()| -> () { std::thread::sleep(Duration::from_secs(1000)) };
    let processes: Vec<Process<()>> = (0..3).map(|_| Process::spawn(sleeps, ()).unwrap()).collect();
    let sentinels: Vec<BorrowedFd<'_>> = processes.iter().map(Process::sentinel).collect();
    let all: Vec<&dyn Waitable> = sentinels.iter().map(|sentinel| sentinel as &dyn Waitable).collect();
    assert!(wait(&all, Duration::ZERO).unwrap().is_empty());
    processes[1].kill().unwrap();
    assert_eq!(wait(&all, BOUND).unwrap(), [1]);
}
