//! Lanes whose other side is the fuzzer: it writes what it likes into the shared memory, at any place, and rings, or not.
//!
//! Both sides run in one thread, turn by turn, so that an input means the same each time. What a peer does in the middle of a
//! copy is not among it: what was copied is any bytes then, and these are here as well.

use super::{frame, hello, is_empty, let_in, server};
use crate::{
    client::FrameReader,
    lanes::{self, CAPACITY, Lanes, RING, ROW, WORDS},
    proto::{HEADER, Header, Kind, Op},
    server::{FIRST, Server},
    wire::Wire,
};
use procession_shm::Segment;
use procession_sys::{Deadline, ancillary};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, shutdown, socketpair,
};
use std::{
    fs::File,
    io::IoSliceMut,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::FileExt,
    },
    sync::Arc,
};

/// After so many turns a server has done all that it was given.
const TURNS: usize = 1000;
/// How many hostile clients come one after the other.
const CLIENTS: usize = 8;

/// The first byte says who is hostile: a client, by whose side an honest one has lanes as well, or a server. Then come pieces: two
/// bytes that say what is done, and with how many bytes, and those.
///
/// # Panics
///
/// If one that is honest is not served, a server does not come to rest, or something of who is gone is left.
pub fn lanes(data: &[u8]) {
    match data.split_first() {
        Some((how, rest)) if how & 1 == 0 => hostile_client(rest),
        Some((how, rest)) => hostile_server(how >> 1, rest),
        None => {}
    }
}

/// The memory, as the other side has it.
struct Memory {
    file: File,
    start: u64,
    /// Where the row begins in which it writes, and the one in which it reads.
    writes: u64,
    reads: u64,
    /// Bytes that it has committed.
    sent: u64,
}

impl Memory {
    fn of(segment: &Segment, server: bool) -> Memory {
        let file = File::from(segment.fd().try_clone_to_owned().expect("a descriptor"));
        let start = file.metadata().expect("its size").len() - segment.len() as u64;
        let (writes, reads) = if server { (ROW as u64, 0) } else { (0, ROW as u64) };
        Memory { file, start, writes, reads, sent: 0 }
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        self.file.write_all_at(bytes, self.start + at).expect("the memory takes it");
    }

    fn word(&self, at: u64) -> u64 {
        let mut word = [0; 8];
        self.file.read_exact_at(&mut word, self.start + at).expect("the memory has it");
        u64::from_le_bytes(word)
    }

    /// For how many bytes there is room.
    fn room(&self) -> usize {
        let head = self.word(self.writes + WORDS[3] as u64);
        CAPACITY.saturating_sub(usize::try_from(self.sent.wrapping_sub(head)).unwrap_or(CAPACITY))
    }

    /// Writes bytes where the next ones go, if there is room, and commits them, or not.
    fn write(&mut self, bytes: &[u8], commits: bool) {
        let [tail, _, origin, ..] = WORDS.map(|at| self.writes + at as u64);
        if bytes.len() > self.room() {
            return;
        }
        let at = (self.sent.wrapping_sub(self.word(origin)) % CAPACITY as u64) as usize;
        let (first, second) = bytes.split_at(bytes.len().min(CAPACITY - at));
        let ring = self.writes + RING as u64;
        self.put(ring + at as u64, first);
        self.put(ring, second);
        if commits {
            self.sent = self.sent.wrapping_add(bytes.len() as u64);
            self.put(tail, &self.sent.to_le_bytes());
        }
    }

    /// One of the words, of either row, is set, or changed by so much.
    fn set(&self, piece: &[u8], changes: bool) {
        let Some((&which, value)) = piece.split_first() else { return };
        let row = if which & 0x80 == 0 { self.writes } else { self.reads };
        let at = row + WORDS[usize::from(which) % WORDS.len()] as u64;
        // A short one is small, and may be negative.
        let mut bytes = [value.last().map_or(0, |last| if last & 0x80 == 0 { 0 } else { 0xff }); 8];
        let len = value.len().min(8);
        bytes[..len].copy_from_slice(&value[..len]);
        let value = u64::from_le_bytes(bytes);
        let value = if changes { self.word(at).wrapping_add(value) } else { value };
        self.put(at, &value.to_le_bytes());
    }

    /// Bytes anywhere behind the segment's header.
    fn scribble(&self, piece: &[u8]) {
        let Some((at, bytes)) = piece.split_first_chunk::<4>() else { return };
        let room = 2 * ROW as u64 - bytes.len() as u64;
        self.put(u64::from(u32::from_le_bytes(*at)) % room, bytes);
    }

    /// Says that all was read.
    fn read_all(&self) {
        let [tail, _, _, head, _] = WORDS.map(|at| self.reads + at as u64);
        self.put(head, &self.word(tail).to_le_bytes());
    }
}

/// What a piece is.
struct Piece<'a> {
    what: u8,
    bytes: &'a [u8],
}

/// All of them, one after the other.
fn pieces(mut rest: &[u8]) -> impl Iterator<Item = Piece<'_>> {
    std::iter::from_fn(move || {
        let (&[what, len], behind) = rest.split_first_chunk::<2>()?;
        let (bytes, behind) = behind.split_at(behind.len().min(usize::from(len)));
        rest = behind;
        Some(Piece { what, bytes })
    })
}

impl Piece<'_> {
    /// Does what has to do with the memory and the bells alone; false if it is something else.
    fn is_done(&self, memory: &mut Memory, socket: &OwnedFd, frame: impl FnOnce(&[u8]) -> Vec<u8>) -> bool {
        let commits = self.what & 0x10 == 0;
        match self.what & 7 {
            0 => {
                let frame = frame(self.bytes);
                // One, or as many as there is room for.
                let times = if self.what & 0x40 == 0 { 1 } else { memory.room() / frame.len().max(1) };
                memory.write(&frame.repeat(times), commits);
            }
            1 => memory.write(self.bytes, commits),
            2 => memory.set(self.bytes, self.what & 8 != 0),
            3 => memory.scribble(self.bytes),
            4 => {
                let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                let _ =
                    rustix::net::send(socket, if self.bytes.is_empty() { &[0] } else { self.bytes }, flags);
            }
            5 => memory.read_all(),
            _ => return false,
        }
        true
    }
}

/// Lets the server work until there is nothing left to do.
fn rest(server: &mut Server) {
    let mut events = Vec::with_capacity(16);
    for _ in 0..TURNS {
        if !server.turn(&mut events, false).expect("an epoll") {
            return;
        }
    }
    panic!("the server does not come to rest");
}

/// The client's end of a connection, and what it was offered.
fn offered(server: &mut Server) -> (OwnedFd, OwnedFd) {
    let socket = let_in(server, true);
    let mut fds = Vec::new();
    for request in [hello(&[]), frame(Kind::Request, Op::Lanes as u16, 2, 0, &[])] {
        rustix::net::send(&socket, &request, SendFlags::NOSIGNAL).expect("it takes it");
        rest(server);
        let mut reply = [0; 4096];
        ancillary::receive(socket.as_fd(), &mut [IoSliceMut::new(&mut reply)], RecvFlags::DONTWAIT, &mut fds)
            .expect("a reply");
    }
    (socket, fds.pop().expect("lanes are offered"))
}

fn uses_them(socket: &OwnedFd) {
    let word = frame(Kind::OneWay, Op::Lanes as u16, 0, 0, &[]);
    let _ = rustix::net::send(socket, &word, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
}

/// A client as it should be.
struct Honest {
    socket: OwnedFd,
    lanes: Lanes,
    asked: u64,
}

impl Honest {
    fn new(server: &mut Server) -> Honest {
        let (socket, fd) = offered(server);
        let lanes = Lanes::attach(fd).expect("the memory");
        uses_them(&socket);
        Honest { socket, lanes, asked: 0 }
    }

    /// Asks, sleeps, and has the reply.
    fn ask(&mut self, server: &mut Server) {
        self.asked += 1;
        let request = frame(Kind::Request, Op::Ping as u16, self.asked, 0, &[]);
        self.lanes.send(self.socket.as_fd(), &request).expect("there is room");
        assert!(self.lanes.doze(), "nothing came");
        rest(server);
        let bell = rustix::net::recv(&self.socket, &mut [0; 64][..], RecvFlags::DONTWAIT);
        assert!(bell.is_ok_and(|(came, _)| came > 0), "who sleeps is rung for");
        self.lanes.wake();
        let mut reply = Vec::with_capacity(4096);
        self.lanes.recv(self.socket.as_fd(), &mut reply).expect("a reply");
        let header = Header::decode(reply.first_chunk::<HEADER>().expect("a whole one")).expect("a good one");
        assert_eq!((header.kind, header.method, header.request), (Kind::Reply, 0, self.asked));
    }
}

/// A hostile client, in each state.
struct Hostile {
    socket: OwnedFd,
    memory: Memory,
}

impl Hostile {
    /// How far it comes: to the offer, to the use, or to what it does by itself.
    fn new(server: &mut Server, how: u8) -> Hostile {
        let (socket, fd) = offered(server);
        let segment = Segment::attach_any(fd).expect("the memory");
        if how & 1 == 0 {
            uses_them(&socket);
        }
        if how & 2 == 0 {
            rest(server);
        }
        Hostile { socket, memory: Memory::of(&segment, false) }
    }
}

fn hostile_client(data: &[u8]) {
    let mut server = server(true);
    let mut honest = Honest::new(&mut server);
    let mut hostile = Hostile::new(&mut server, 0);
    // Those that have shut their side down, or hung up, while the next one is there.
    let mut gone = Vec::new();
    let mut request = 2;
    for piece in pieces(data) {
        let asked = piece.is_done(&mut hostile.memory, &hostile.socket, |bytes| {
            request += 1;
            asked(&piece, bytes, request)
        });
        if asked {
            continue;
        }
        let how = piece.bytes.first().copied().unwrap_or_default();
        if piece.what & 7 == 6 || gone.len() == CLIENTS {
            rest(&mut server);
            honest.ask(&mut server);
            continue;
        }
        let which = if how & 4 == 0 { Shutdown::Both } else { Shutdown::Write };
        let _ = shutdown(&hostile.socket, which);
        // Perhaps nobody has heard of that yet.
        hostile.memory.write(&frame(Kind::Request, Op::Unpublish as u16, 0, 0, &[]), true);
        let next = Hostile::new(&mut server, how);
        gone.push(std::mem::replace(&mut hostile, next));
        if how & 8 == 0 {
            gone.iter_mut().for_each(|one| {
                let _ = shutdown(&one.socket, Shutdown::Both);
            });
        }
    }
    rest(&mut server);
    honest.ask(&mut server);
    drop((gone, hostile));
    rest(&mut server);
    assert_eq!(server.conns.len(), 1, "who is gone is taken out");
    honest.ask(&mut server);
    drop(honest);
    rest(&mut server);
    assert!(server.awake.is_empty(), "lanes are counted, or looked at, of nobody");
    is_empty(&mut server);
}

/// A request, whose method, object and payload are the fuzzer's.
fn asked(piece: &Piece<'_>, bytes: &[u8], request: u64) -> Vec<u8> {
    let Some((&[method, object], payload)) = bytes.split_first_chunk::<2>() else { return Vec::new() };
    let kind = if piece.what & 8 == 0 { Kind::Request } else { Kind::OneWay };
    // Objects have the numbers that follow those of the connections, of which there are two at first.
    let object = if object == 0 { 0 } else { FIRST + 1 + u64::from(object) };
    let payload = payload.repeat(if piece.what & 0x20 == 0 { 1 } else { 64 });
    frame(kind, method.into(), request, object, &payload)
}

/// A reply, to whatever was asked or not.
fn answered(piece: &Piece<'_>, bytes: &[u8]) -> Vec<u8> {
    let Some((&[request, status], payload)) = bytes.split_first_chunk::<2>() else { return Vec::new() };
    let payload = payload.repeat(if piece.what & 0x20 == 0 { 1 } else { 512 });
    frame(Kind::Reply, status.into(), request.into(), 0, &payload)
}

/// What a client reads and writes, and where nothing of it may wait: its time is always over.
///
/// `how` says whether the offer brings a descriptor, and of what; the first piece changes the offer, the second one the
/// segment's header.
fn hostile_server(how: u8, data: &[u8]) {
    let over = Deadline::from_nanos(0);
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).expect("a socket pair");
    let (_, segment) = Lanes::make().expect("memory");
    let mut memory = Memory::of(&segment, true);
    let mut pieces = pieces(data);
    let edits = |piece: Option<Piece<'_>>| piece.map_or(Vec::new(), |piece| piece.bytes.to_vec());
    let mut reply = frame(Kind::Reply, 0, 7, 0, &[]);
    for edit in edits(pieces.next()).chunks_exact(2) {
        let at = usize::from(edit[0]) % reply.len();
        reply[at] = edit[1];
    }
    for edit in edits(pieces.next()).chunks_exact(2) {
        memory.file.write_all_at(&edit[1..], u64::from(edit[0])).expect("the memory takes it");
    }
    match how & 3 {
        0 => drop(lanes::offer(theirs.as_fd(), &reply, &segment)),
        1 => {
            let other = Segment::anonymous(procession_shm::Kind::new("other", 1, 1), 4096).expect("memory");
            drop(lanes::offer(theirs.as_fd(), &reply, &other));
        }
        _ => drop(rustix::net::send(&theirs, &reply, SendFlags::NOSIGNAL)),
    }
    let wire = Arc::new(Wire::plain(ours));
    let agreed = lanes::agree(&wire, 7, over);
    assert_eq!(agreed.is_ok_and(|agreed| agreed), wire.lanes().is_some());
    let Some(lanes) = wire.lanes().cloned() else { return };
    // The requests that it was sent by the socket.
    let _ = rustix::net::recv(&theirs, &mut [0; 4096][..], RecvFlags::DONTWAIT);
    let mut reader = FrameReader::new(wire.clone());
    for piece in pieces {
        if piece.is_done(&mut memory, &theirs, |bytes| answered(&piece, bytes)) {
            continue;
        }
        if piece.what & 7 == 7 {
            let how = piece.bytes.first().copied().unwrap_or_default();
            let _ = shutdown(&theirs, if how & 1 == 0 { Shutdown::Both } else { Shutdown::Write });
            continue;
        }
        // What a client does, in each way.
        if piece.what & 8 != 0 {
            let _ = wire.send(&[7; 10_000][..piece.bytes.len() * 30]);
        }
        if piece.what & 0x10 != 0 {
            let _ = lanes.wait_for_room(wire.as_fd(), over);
        }
        let mut frames = 0;
        loop {
            match reader.next(Some(over)) {
                Ok(Some(_)) => frames += 1,
                Ok(None) => break,
                // It ends the connection for a client.
                Err(_) => return,
            }
            // Nothing came beside what a row has, and the frame that was not whole.
            assert!(frames <= CAPACITY / HEADER + 1, "more came than was committed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::HIGH;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// Whether a request is read that came while a client took a large reply as fast as that went out; nothing if it did not: then
    /// the server has found no room, and has a bell for that.
    fn is_read_behind_a_large_reply() -> Option<bool> {
        let mut server = server(true);
        let (socket, fd) = offered(&mut server);
        let mut memory = Memory::of(&Segment::attach_any(fd).expect("the memory"), false);
        uses_them(&socket);
        while !server.conns[&FIRST].awake {
            server.turn(&mut Vec::with_capacity(16), false).expect("an epoll");
        }
        memory.write(&frame(Kind::Request, Op::Ping as u16, 3, 0, &[]), true);
        // Three steps of one, as the server takes them.
        server.world.peers.get_mut(&FIRST).expect("the client").out.put_bytes(&vec![0; 3 * HIGH]);
        server.world.dirty.push(FIRST);
        let (memory, over) = (&memory, &AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    memory.read_all();
                }
            });
            server.settle();
            rest(&mut server);
            over.store(true, Ordering::Relaxed);
        });
        let had_room = memory.word(memory.reads + WORDS[1] as u64) as u32 == 0;
        had_room.then(|| memory.room() == CAPACITY)
    }

    #[test]
    fn a_request_behind_a_reply_that_is_taken_as_it_goes_out_is_read() {
        let _watchdog = procession_testkit::watchdog!();
        if std::thread::available_parallelism().is_ok_and(|many| many.get() == 1) {
            println!("skipped: nobody reads while the server writes on one processor");
            return;
        }
        let read = std::iter::repeat_with(is_read_behind_a_large_reply).find_map(|read| read);
        assert_eq!(read, Some(true));
    }
}
