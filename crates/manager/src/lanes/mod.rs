//! The way of a local client: two lanes in shared memory, one for each direction, and the socket beside them.
//!
//! A call over a socket costs four system calls and two switches; over lanes none, as long as both sides are awake.
//!
//! # States of a connection
//!
//! | state | frames go | next |
//! |---|---|---|
//! | greeted | by the socket | the client asks for lanes (`Op::Lanes`, a request): offered, or refused, which changes nothing |
//! | offered | by the socket | the client has the memory, and says so (`Op::Lanes`, without a reply): laned. It cannot map it, and says nothing: as greeted, for good |
//! | laned | by the lanes, all of them, in both directions | the socket hangs up: ended |
//! | ended | what was committed until then is read, and nothing more | – |
//!
//! The server makes the memory, of a fixed and sealed size, and hands it over by descriptor beside its reply. Lanes are for those
//! who come by a Unix socket, as the same user, to keep their connection until it ends: neither who may come back
//! ([`Reconnect`](crate::Reconnect)) nor a lease in transit has some. A server has lanes for [`MOST`] clients, or fewer
//! where it may have few descriptors; others are served by their sockets.
//!
//! # Protocol
//! A lane carries the bytes that the socket carried before: frames one behind the other, a large one in parts. So there is one
//! order in each direction, on one way at any time:
//!
//! * The client asks for lanes before anybody else has the connection, and sends nothing between that and the word that it has
//!   them. That is the last frame by the socket; whatever it sends later is in the lane.
//! * Nothing is on its way to the client when it says so: the offer was the reply to the only request there was. The server
//!   offers only where everything before has gone out, and what it says later is in the lane.
//!
//! From then on a byte on the socket is a *bell*, and says nothing but "look"; the hang-up says what it always did.
//!
//! * Who has nothing to read sets `sleeps` in its lane, looks once more, and sleeps until the socket can be read. Who has
//!   committed looks at `sleeps`; if it was set, it clears it and sends a byte.
//! * Who has no room sets `waits`, looks once more, and sleeps likewise. Who has given room back looks at that.
//!
//! A client's threads take turns in reading, as they do on a socket; only who reads takes bells, and tells who waits for room
//! meanwhile (`room.rs`). The server looks at the lanes
//! that are *awake* as long as they have something (`server/lanes.rs`), then sleeps in its epoll, where all sockets are: each
//! client has a bell of its own, and none can ring another's or keep it from ringing.
//!
//! # Invariants
//! 1. Of who sleeps and who commits at the same time, one sees the other: both have a full fence between the word that they write
//!    and the one that they read. A flag that was cleared means a byte on the socket, or one about to be there: it stays until
//!    who sleeps takes it. A socket that takes no byte has some that were not read. A model has all interleavings of that
//!    (`tests/loom.rs`).
//! 2. Nothing from the shared memory is used before it was copied and checked (`ends.rs`, `row.rs`). What is behind the copy is what is
//!    behind a socket: the same lengths are bounded, the same frames are refused. A position that cannot be ends the connection.
//! 3. Who hangs up by itself, not by its death, reads nothing after that. So once a side has found that the other one hung up first,
//!    that one's `head` does not move any more, and what lies behind it was never read.
//! 4. No loop is as long as the other side likes: one look costs at most one lane's bytes, and the server's spin is bounded by
//!    its clock. A client that does not take its replies is not read from, and not looked at until it rings.
//!
//! # When a process dies
//! * **The client**, before a commit: the bytes were never written. After it, be it before the bell: the socket hangs up, and the
//!   server reads what was committed until then before it ends the connection. So a frame that was committed whole is done, and
//!   one in parts of which some are missing is not, as on a socket.
//! * **The server**, likewise: its replies that were committed are heard, then the connection is gone. A request that it has not
//!   copied out whole, as its `head` says, was not done; another one may have been: the error says which
//!   ([`Error::may_have_run`](crate::Error::may_have_run)).
//! * **Between offer and use**: nothing has changed, and the socket's end is the end. The memory goes with the last who has it.
//! * **A forked child** has a copy of the mapping and the socket. It uses neither: it sees by the generation that the client is
//!   its parent's, and connects itself (`site`). It unmaps its copy with the client's.

mod agree;
mod bug;
mod ends;
mod room;
mod row;

pub(crate) use agree::{agree, offer};
/// For the fuzzer.
pub(crate) use row::{CAPACITY, RING, ROW, WORDS};

use ends::{Corrupt, Reader, Writer};
use procession_shm::Segment;
use procession_sys::{Deadline, Spin, fd};
use room::Room;
use row::{KIND, Place, SIZE};
use rustix::{
    io::Errno,
    net::{RecvFlags, SendFlags, Shutdown},
};
use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
    sync::atomic::{AtomicBool, Ordering, fence},
};

/// How many clients have lanes at a time.
pub(crate) const MOST: usize = 256;
/// So much of a large frame is copied before the other side hears of it: both sides copy at the same time.
const PART: usize = 64 << 10;
/// What frames of a usual size take of a row.
const USUAL: usize = 8 << 10;

/// One side's ends of both lanes.
pub(crate) struct Lanes {
    reader: Reader<Place>,
    writer: Writer<Place>,
    /// Something could not be written for lack of room.
    short: AtomicBool,
    /// For who waits for some while another thread reads.
    room: Room,
    /// The other side has hung up, before we did.
    gone: AtomicBool,
    /// We have hung up.
    cut: AtomicBool,
}

fn corrupt(_: Corrupt) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a position in the shared memory that cannot be")
}

impl Lanes {
    /// The server's side, and the memory for the client's.
    pub(crate) fn make() -> Result<(Lanes, Segment), String> {
        let made = Segment::anonymous(KIND, SIZE).and_then(|segment| {
            // A lack of memory is an error here, and a signal later: what every call uses.
            for row in [0, ROW] {
                segment.reserve(row..row + USUAL)?;
            }
            Ok(segment)
        });
        let segment = made.map_err(|error| error.to_string())?;
        let lanes = Lanes::of(&segment, true).ok_or("the segment is too small")?;
        Ok((lanes, segment))
    }

    /// The client's side; nothing if there is no memory for it, or it is of another build.
    pub(crate) fn attach(fd: OwnedFd) -> Option<Lanes> {
        let segment = Segment::attach(fd, KIND).ok()?;
        Lanes::of(&segment, false)
    }

    fn of(segment: &Segment, server: bool) -> Option<Lanes> {
        let (reader, writer) =
            (Reader::new(Place::new(segment, !server)?), Writer::new(Place::new(segment, server)?));
        let [short, gone, cut] = [const { AtomicBool::new(false) }; 3];
        Some(Lanes { reader, writer, short, room: Room::default(), gone, cut })
    }

    /// Whether a look is worth while: something came, or the other side is gone, or its words make no sense.
    pub(crate) fn has_news(&self) -> bool {
        self.reader.there() != Ok(0) || self.reader.is_finished()
    }

    /// Whether what had no room may have some now.
    pub(crate) fn has_room(&self) -> bool {
        self.writer.room() != Ok(0) || self.reader.is_finished()
    }

    /// Whether there is something to do: to read, or to write for who had no room.
    pub(crate) fn has_work(&self) -> bool {
        self.has_news() || (self.short.load(Ordering::Relaxed) && self.has_room())
    }

    /// Appends some of what came, as far as `into` has room; 0 is the end. Never waits: `AGAIN`.
    pub(crate) fn recv(&self, socket: BorrowedFd<'_>, into: &mut Vec<u8>) -> io::Result<usize> {
        // Before the look: nothing is committed after it.
        let finished = self.reader.is_finished();
        let came = self.reader.recv(into, PART, || self.ring(socket)).map_err(corrupt)?;
        if came == 0 {
            return if finished { Ok(0) } else { Err(Errno::AGAIN.into()) };
        }
        // That was a full fence. As long as more comes nobody may hear the bell that told of room.
        if self.room.is_awaited() && self.has_room() {
            self.room.tell();
        }
        Ok(came)
    }

    /// Takes some of the bytes, or `AGAIN`: then a bell tells of room.
    pub(crate) fn send(&self, socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
        if self.reader.is_finished() {
            return Err(Errno::PIPE.into());
        }
        let bytes = &bytes[..bytes.len().min(PART)];
        let taken = self.writer.send(bytes, || self.ring(socket)).map_err(|nonsense| {
            // Nobody would look any more: both sides are told.
            self.hang_up(socket);
            corrupt(nonsense)
        })?;
        self.short.store(taken == 0, Ordering::Relaxed);
        if taken == 0 { Err(Errno::AGAIN.into()) } else { Ok(taken) }
    }

    /// About to sleep: whether there is nothing to do.
    pub(crate) fn doze(&self) -> bool {
        self.reader.doze(|| self.has_work())
    }

    /// Awake: no bell is needed.
    pub(crate) fn wake(&self) {
        self.reader.wake();
    }

    /// Takes the bells that were rung, and finds out whether the other side is gone.
    pub(crate) fn hear(&self, socket: BorrowedFd<'_>, waits: bool) {
        let flags = if waits { RecvFlags::empty() } else { RecvFlags::DONTWAIT };
        let mut bells = [0; 256];
        match rustix::net::recv(socket, &mut bells[..], flags) {
            Ok((came, _)) if came > 0 => {}
            Err(Errno::AGAIN | Errno::INTR) => {}
            // It has, or we have.
            Ok(_) | Err(Errno::CONNRESET) => {
                self.gone.fetch_or(!self.cut.load(Ordering::SeqCst), Ordering::SeqCst);
                self.reader.finish();
            }
            // That tells nothing of the other side.
            Err(_) => self.reader.finish(),
        }
        fence(Ordering::SeqCst);
        self.room.heard(|| self.has_room(), || self.writer.wait());
    }

    /// Whether somebody waits for room behind the one who reads. To be asked where that one stops, under the lock under which
    /// `wait_behind` looks for that.
    pub(crate) fn is_awaited(&self) -> bool {
        self.room.is_awaited()
    }

    /// Has those look who wait so.
    pub(crate) fn tell(&self) {
        self.room.tell();
    }

    /// Waits until there is room, while another thread reads; or until it does not, or the deadline.
    pub(crate) fn wait_behind(&self, deadline: Option<Deadline>, nobody_reads: impl Fn() -> bool) {
        if !Spin::adaptive().until(deadline, || self.has_room()) {
            self.room.wait(deadline, || self.has_room(), || self.writer.wait(), nobody_reads);
        }
    }

    /// To be said before this side hangs up.
    pub(crate) fn note_cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
    }

    /// Reads no more, and hangs up.
    fn hang_up(&self, socket: BorrowedFd<'_>) {
        self.note_cut();
        self.reader.stop();
        let _ = rustix::net::shutdown(socket, Shutdown::Both);
    }

    /// How many bytes were ever committed.
    pub(crate) fn written(&self) -> u64 {
        self.writer.written()
    }

    /// Whether the other side may have what lies before `end`, or may still read it.
    pub(crate) fn may_have(&self, end: u64) -> bool {
        !self.gone.load(Ordering::SeqCst) || self.writer.may_be_read(end)
    }

    /// Has the other side look.
    fn ring(&self, socket: BorrowedFd<'_>) {
        loop {
            match rustix::net::send(socket, &[0], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                // Bells that were not heard; or nobody is there any more, which reading tells.
                Ok(_) | Err(Errno::AGAIN | Errno::PIPE | Errno::CONNRESET) => return,
                // Without a bell somebody might sleep for ever: it is the connection's end, as for a frame.
                Err(_) => return self.hang_up(socket),
            }
        }
    }

    /// Whether the other side is gone.
    pub(crate) fn is_over(&self) -> bool {
        self.reader.is_finished()
    }

    /// Waits until there is something to read, or the end; false at the deadline. For who reads.
    pub(crate) fn wait(
        &self,
        socket: BorrowedFd<'_>,
        spin: &mut Spin,
        deadline: Option<Deadline>,
    ) -> io::Result<bool> {
        loop {
            let over = deadline.is_some_and(Deadline::passed);
            if if over { self.has_news() } else { spin.until(deadline, || self.has_news()) } {
                return Ok(true);
            }
            if !self.reader.doze(|| self.has_news()) {
                self.reader.wake();
                continue;
            }
            let came = match deadline {
                // It takes the bell as well.
                None => true,
                Some(_) => fd::readable(socket, deadline)?,
            };
            if came {
                self.hear(socket, deadline.is_none());
            }
            self.reader.wake();
            if !came {
                return Ok(self.has_news());
            }
        }
    }

    /// Waits until there is room, or something to read, or the end; or until the deadline. For who reads as well.
    pub(crate) fn wait_for_room(&self, socket: BorrowedFd<'_>, deadline: Deadline) -> io::Result<()> {
        let ready = || self.has_room() || self.has_news();
        if Spin::adaptive().until(Some(deadline), ready) {
            return Ok(());
        }
        self.writer.wait();
        if self.reader.doze(ready) && fd::readable(socket, Some(deadline))? {
            self.hear(socket, false);
        }
        self.reader.wake();
        Ok(())
    }
}

impl std::fmt::Debug for Lanes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lanes")
            .field("capacity", &CAPACITY)
            .field("over", &self.is_over())
            .finish_non_exhaustive()
    }
}
