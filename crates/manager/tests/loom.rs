//! Every interleaving of the two ends of a row, asleep and awake, within a bound on preemptions, and mistakes that must be
//! found.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --release -p procession-manager --test loom --target-dir target/loom`
#![cfg(loom)]

#[path = "../src/lanes/bug.rs"]
mod bug;
#[path = "../src/lanes/ends.rs"]
#[allow(dead_code, reason = "the model uses a part of it")]
mod ends;
#[path = "../src/lanes/room.rs"]
mod room;

use bug::{Bug, plant};
use ends::{Memory, Reader, Words, Writer};
use loom::{
    cell::UnsafeCell,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{Ordering, fence},
    },
    thread,
};
use room::Room;

fn holds_within(preemptions: usize, model: fn()) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

fn holds(model: fn()) {
    holds_within(3, model);
}

/// The model must find this mistake.
fn finds_within(preemptions: usize, bug: Bug, model: fn()) {
    procession_sys::planted::finds(&bug, || {
        plant(Some(bug));
        holds_within(preemptions, model);
    });
}

fn finds(bug: Bug, model: fn()) {
    finds_within(3, bug, model);
}

/// A row whose bytes are cells: an access by one end that is not ordered after one by the other end fails the model.
struct Row<const N: usize> {
    words: Words,
    ring: [UnsafeCell<u8>; N],
}

impl<const N: usize> Memory for Arc<Row<N>> {
    const CAPACITY: usize = N;

    fn words(&self) -> &Words {
        &self.words
    }

    fn put(&self, at: usize, bytes: &[u8]) {
        for (at, &byte) in (at..).zip(bytes) {
            // SAFETY: the model fails if this is not ordered after the last access.
            self.ring[at % N].with_mut(|cell| unsafe { cell.write(byte) });
        }
    }

    fn take(&self, at: usize, len: usize, into: &mut Vec<u8>) {
        for at in at..at + len {
            // SAFETY: as there.
            into.push(self.ring[at % N].with(|cell| unsafe { cell.read() }));
        }
    }
}

fn row<const N: usize>() -> (Writer<Arc<Row<N>>>, Reader<Arc<Row<N>>>) {
    let ring = std::array::from_fn(|_| UnsafeCell::new(0));
    let row = Arc::new(Row { words: Words::default(), ring });
    (Writer::new(row.clone()), Reader::new(row))
}

/// What one side hears of its socket: bells, and the hang-up.
#[derive(Default)]
struct Socket {
    heard: Mutex<(u32, bool)>,
    more: Condvar,
}

impl Socket {
    fn ring(&self) {
        self.heard.lock().unwrap().0 += 1;
        self.more.notify_one();
    }

    fn hang_up(&self) {
        self.heard.lock().unwrap().1 = true;
        self.more.notify_one();
    }

    /// Sleeps until there is a bell, and takes all; true at the hang-up.
    fn hear(&self) -> bool {
        let mut heard = self.heard.lock().unwrap();
        while *heard == (0, false) {
            heard = self.more.wait(heard).unwrap();
        }
        let over = heard.0 == 0;
        heard.0 = 0;
        over
    }
}

/// Sends a byte, asleep as long as there is no room.
fn send<const N: usize>(writer: &Writer<Arc<Row<N>>>, byte: u8, ours: &Socket, theirs: &Socket) {
    while writer.send(&[byte], || theirs.ring()).unwrap() == 0 {
        ours.hear();
    }
}

/// Appends what comes, asleep as long as nothing does; false at the end.
fn recv<const N: usize>(
    reader: &Reader<Arc<Row<N>>>,
    into: &mut Vec<u8>,
    ours: &Socket,
    theirs: &Socket,
) -> bool {
    into.reserve_exact(8);
    loop {
        let finished = reader.is_finished();
        if reader.recv(into, usize::MAX, || theirs.ring()).unwrap() > 0 {
            return true;
        }
        if finished {
            return false;
        }
        if reader.doze(|| reader.there() != Ok(0)) && ours.hear() {
            reader.finish();
        }
        reader.wake();
    }
}

/// So many bytes through a ring of `N`: whoever has nothing to do sleeps.
fn bytes<const N: usize, const BYTES: u8>() {
    let (writer, reader) = row::<N>();
    let sockets = Arc::new((Socket::default(), Socket::default()));
    let sender = thread::spawn({
        let sockets = sockets.clone();
        move || (1..=BYTES).for_each(|byte| send(&writer, byte, &sockets.0, &sockets.1))
    });
    let mut came = Vec::new();
    while came.len() < usize::from(BYTES) {
        assert!(recv(&reader, &mut came, &sockets.1, &sockets.0));
    }
    assert_eq!(came, (1..=BYTES).collect::<Vec<_>>());
    sender.join().unwrap();
}

/// The other side has committed and dies before it rings: what it has committed is there, and then the end.
fn dies_before_the_bell() {
    let (writer, reader) = row::<2>();
    let sockets = Arc::new((Socket::default(), Socket::default()));
    let sender = thread::spawn({
        let sockets = sockets.clone();
        move || {
            writer.send(&[1], || sockets.1.ring()).unwrap();
            writer.write(&[2]).unwrap();
            sockets.1.hang_up();
        }
    });
    let mut came = Vec::new();
    while recv(&reader, &mut came, &sockets.1, &sockets.0) {}
    assert_eq!(came, [1, 2]);
    sender.join().unwrap();
}

/// A client's one thread sends more than there is room for, and reads replies meanwhile, on one socket.
fn requests_and_replies() {
    let (requests, server_reads) = row::<1>();
    let (replies, client_reads) = row::<1>();
    let sockets = Arc::new((Socket::default(), Socket::default()));
    let server = thread::spawn({
        let sockets = sockets.clone();
        move || {
            let mut came = Vec::new();
            for _ in 0..2 {
                let at = came.len();
                assert!(recv(&server_reads, &mut came, &sockets.1, &sockets.0));
                send(&replies, came[at] + 10, &sockets.1, &sockets.0);
            }
        }
    });
    let mut came = Vec::with_capacity(8);
    for byte in [1, 2] {
        while requests.send(&[byte], || sockets.1.ring()).unwrap() == 0 {
            // As `Lanes::wait_for_room` does.
            let ready = || requests.room() != Ok(0) || client_reads.there() != Ok(0);
            if client_reads.doze(ready) {
                sockets.0.hear();
            }
            client_reads.wake();
            client_reads.recv(&mut came, usize::MAX, || sockets.1.ring()).unwrap();
        }
    }
    while came.len() < 2 {
        assert!(recv(&client_reads, &mut came, &sockets.0, &sockets.1));
    }
    assert_eq!(came, [11, 12]);
    server.join().unwrap();
}

/// How many preemptions the late bell's model needs for its mistakes to be found.
const LATE_BELL: usize = 4;

/// One thread sends more than there is room for, while another one of its process reads, and takes the bells; the first bell is
/// late.
fn one_sends_while_another_reads() {
    let (writer, reader) = row::<1>();
    // Before anybody else is there, or the model would take hours: the server has given room back, and is about to ring for who
    // has found and used that room already.
    assert_eq!(writer.send(&[1], || ()), Ok(1));
    assert_eq!(writer.send(&[2], || ()), Ok(0));
    let mut came = Vec::with_capacity(8);
    assert_eq!(reader.read(&mut came, 1), Ok(1));
    assert_eq!(writer.send(&[2], || ()), Ok(1));
    let client = Arc::new((Socket::default(), Room::default(), writer));
    let server = Arc::new(Socket::default());
    let sender = thread::spawn({
        let (client, server) = (client.clone(), server.clone());
        move || {
            let (_, room, writer) = &*client;
            while writer.send(&[3], || server.ring()).unwrap() == 0 {
                room.wait(None, || writer.room() != Ok(0), || writer.wait(), || false);
            }
        }
    });
    let hearer = thread::spawn({
        let client = client.clone();
        move || {
            let (socket, room, writer) = &*client;
            while !socket.hear() {
                fence(Ordering::SeqCst);
                room.heard(|| writer.room() != Ok(0), || writer.wait());
            }
        }
    });
    ends::ring_for(&reader.memory.words().writer.waits, || client.0.ring());
    while came.len() < 3 {
        assert!(recv(&reader, &mut came, &server, &client.0));
    }
    assert_eq!(came, [1, 2, 3]);
    sender.join().unwrap();
    client.0.hang_up();
    hearer.join().unwrap();
}

#[test]
fn bytes_arrive_in_order_though_both_sleep() {
    holds(bytes::<1, 2>);
}

#[test]
fn bytes_arrive_in_order_wherever_the_ring_begins() {
    holds(bytes::<2, 3>);
}

#[test]
fn what_was_committed_before_a_death_is_read() {
    holds(dies_before_the_bell);
}

#[test]
fn who_waits_for_room_hears_of_replies_as_well() {
    holds(requests_and_replies);
}

#[test]
fn who_waits_behind_a_reader_hears_of_room() {
    holds_within(LATE_BELL, one_sends_while_another_reads);
}

#[test]
fn finds_a_commit_that_does_not_publish() {
    finds(Bug::RelaxedCommit, bytes::<1, 2>);
}

#[test]
fn finds_a_commit_before_the_bytes() {
    finds(Bug::CommitBeforeCopy, bytes::<1, 2>);
}

#[test]
fn finds_a_look_that_is_not_ordered() {
    finds(Bug::RelaxedLook, bytes::<1, 2>);
}

#[test]
fn finds_room_given_back_before_it_is_copied() {
    finds(Bug::HeadBeforeCopy, bytes::<1, 2>);
}

#[test]
fn finds_room_given_back_without_order() {
    finds(Bug::RelaxedHead, bytes::<1, 2>);
}

#[test]
fn finds_room_taken_without_order() {
    finds(Bug::RelaxedRoom, bytes::<1, 2>);
}

#[test]
fn finds_an_origin_that_moves_after_the_commit() {
    finds(Bug::OriginAfterCommit, bytes::<2, 3>);
}

#[test]
fn finds_a_flag_without_a_fence() {
    finds(Bug::NoFenceBeforeSleep, bytes::<1, 2>);
}

#[test]
fn finds_a_bell_without_a_fence() {
    finds(Bug::NoFenceBeforeBell, bytes::<1, 2>);
}

#[test]
fn finds_a_look_before_the_flag() {
    finds(Bug::LookBeforeFlag, bytes::<1, 2>);
}

#[test]
fn finds_a_writer_that_does_not_try_again() {
    finds(Bug::NoSecondTry, bytes::<1, 2>);
}

#[test]
fn finds_a_flag_that_is_cleared_after_the_bell() {
    finds(Bug::FlagClearedAfterBell, requests_and_replies);
}

#[test]
fn finds_an_end_before_what_was_committed() {
    finds(Bug::EndBeforeLook, dies_before_the_bell);
}

#[test]
fn finds_a_wait_behind_a_bell_that_was_heard_before() {
    finds_within(LATE_BELL, Bug::WaiterDoesNotAsk, one_sends_while_another_reads);
}

#[test]
fn finds_a_late_bell_that_nobody_asks_behind() {
    finds_within(LATE_BELL, Bug::HearerDoesNotAsk, one_sends_while_another_reads);
}
