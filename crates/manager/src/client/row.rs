//! What a client sends.
//!
//! # Two ways
//! * A connection that ends once and for all: `Row::bytes` has what could not be sent at once, and what was sent is forgotten.
//! * One that may come back ([`Reconnect`](crate::Reconnect)): every frame is laid down in `Row::bytes`, and stays there until
//!   the server has said that it has it. After the connection broke, what the server does not have is sent again, from a
//!   frame's begin. So each frame is done once: the server counts those it has done, and says how many.
//!
//! # Invariants
//! 1. Whoever set `busy` sends, and nobody else; it has `bytes` in hand meanwhile, and what is laid down then goes behind.
//! 2. `bytes[..sent]` went out on `wire`. With `keeps`, `bytes` begins with frame number `acked`; without,
//!    that part is taken off now and then.
//! 3. What is laid down is sent by the one who is busy, by the next who sends or reads, or by a thread that waits for room
//!    ([`Client::drain`]): it needs no further call.

use super::{Client, FrameReader, Request, SLICE, lock, request::Parts};
use crate::{
    proto::{self, Kind, Op},
    wire::{Wire, errno},
};
use procession_sys::{Deadline, fd};
use rustix::{
    event::{PollFd, PollFlags},
    io::Errno,
};
use std::{
    io,
    os::fd::AsFd,
    sync::{Arc, MutexGuard, PoisonError},
    time::Duration,
};

/// How long a message without a reply may wait for room, before it is left to others.
const TELL: Duration = Duration::from_secs(1);
/// How long the thread that waits for room waits before it looks whether it is still needed.
const LOOK: Duration = Duration::from_secs(1);

/// What is to be sent.
pub(super) struct Row {
    pub(super) wire: Arc<Wire>,
    /// The wire takes something. A broken one is replaced, or not.
    pub(super) up: bool,
    /// Somebody sends.
    pub(super) busy: bool,
    /// How many wait until nobody does.
    waiting: usize,
    /// Frames, or the rest of one that was begun.
    bytes: Vec<u8>,
    sent: usize,
    /// What was sent is kept until the server has it.
    keeps: bool,
    /// How many frames the server has, as far as it has said.
    has: u64,
    /// How many frames were taken off the front of `bytes`, and how many bytes.
    acked: u64,
    base: u64,
    /// How many bytes were ever laid down.
    laid: u64,
    /// The most bytes, counted from the first, that ever went out.
    pushed: u64,
    /// A message has waited for room in vain: nobody waits for that again until something went out.
    stuck: bool,
    /// A thread waits for room.
    draining: bool,
}

impl Row {
    pub(super) fn new(wire: Arc<Wire>) -> Row {
        Row {
            wire,
            up: true,
            busy: false,
            waiting: 0,
            bytes: Vec::new(),
            sent: 0,
            keeps: false,
            has: 0,
            acked: 0,
            base: 0,
            laid: 0,
            pushed: 0,
            stuck: false,
            draining: false,
        }
    }

    fn lay(&mut self, frame: Parts<'_>) {
        frame.copy(0, &mut self.bytes);
        self.laid += frame.len() as u64;
    }

    fn has_more(&self) -> bool {
        self.bytes.len() > self.sent || self.wire.has_rest()
    }

    /// Takes off what the server has.
    fn trim(&mut self) {
        let (frames, at) = proto::skip(&self.bytes[..self.sent], self.has - self.acked);
        self.acked += frames;
        self.bytes.drain(..at);
        self.base += at as u64;
        self.sent -= at;
    }

    /// The server has said how many frames it has.
    pub(super) fn heard(&mut self, has: u64) {
        self.has = self.has.max(has);
        if !self.busy {
            self.trim();
        }
    }

    /// Goes on with another wire, behind what the server has; false if that is nonsense. Nobody is busy.
    pub(super) fn replace(&mut self, wire: Arc<Wire>, has: u64) -> bool {
        // Some may have gone out of which the broken wire did not say so.
        self.sent = self.bytes.len();
        self.heard(has);
        self.wire = wire;
        (self.sent, self.stuck) = (0, false);
        self.up = self.acked == has;
        self.up
    }

    /// Nothing will be sent any more.
    fn give_up(&mut self) {
        (self.bytes, self.sent, self.up) = (Vec::new(), 0, false);
    }
}

/// What became of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sent {
    /// The caller's time was over before it was begun.
    Not,
    /// It goes out: up to this byte of all that are kept, or of all in the lane; 0 where neither is.
    Begun(u64),
}

impl Client {
    /// From here on frames are kept: the greeting was the first, and its reply.
    pub(super) fn keep_frames(&self) {
        let mut row = lock(&self.row);
        (row.keeps, row.acked, row.has, row.laid, row.pushed) = (true, 1, 1, 0, 0);
        lock(&self.state).received = 1;
    }

    /// Says something that has no reply. If the server is gone there is nobody to tell.
    pub(crate) fn tell(&self, op: Op, object: u64, write: impl FnOnce(&mut Vec<u8>)) {
        let mut request = Request::new(op, object);
        write(&mut request.out);
        lock(&self.row).lay(request.frame(Kind::OneWay, 0));
        self.flush();
    }

    /// Has a frame sent by whoever sends next, at once if nobody does; tells up to where it goes, as [`Sent::Begun`] does.
    pub(super) fn lay_down(&self, frame: Parts<'_>) -> u64 {
        let mut row = lock(&self.row);
        row.lay(frame);
        let end = match row.wire.lanes() {
            _ if row.keeps => row.laid,
            Some(lanes) if !row.busy => lanes.written() + (row.bytes.len() - row.sent) as u64,
            // It is not known how much the one who sends has in hand.
            _ => 0,
        };
        drop(row);
        self.flush();
        end
    }

    /// Sends what was laid down, unless somebody sends already, who does it then.
    pub(super) fn flush(&self) {
        let mut row = lock(&self.row);
        if row.busy || !row.up || !row.has_more() {
            return;
        }
        row.busy = true;
        let deadline = Deadline::after(if row.stuck { Duration::ZERO } else { TELL });
        let wire = row.wire.clone();
        let outcome = self.send_row(row, Some(deadline));
        self.end_turn(&wire, outcome);
    }

    /// Sends what was laid down, by the one who is `busy`, who is it no longer then.
    fn send_row<'a>(&'a self, mut row: MutexGuard<'a, Row>, deadline: Option<Deadline>) -> io::Result<()> {
        while row.has_more() {
            let (mut bytes, from) = (std::mem::take(&mut row.bytes), std::mem::take(&mut row.sent));
            let wire = row.wire.clone();
            drop(row);
            let mut sent = from;
            let pushed = self.push(&wire, Parts::whole(&bytes), &mut sent, deadline);
            row = lock(&self.row);
            row.pushed = row.pushed.max(row.base + sent as u64);
            if !row.keeps && sent > bytes.len() / 2 {
                // Not each time: what is left of a large frame may go out in many small steps.
                bytes.drain(..sent);
                sent = 0;
            }
            bytes.append(&mut row.bytes);
            (row.bytes, row.sent) = (bytes, sent);
            if row.keeps {
                row.trim();
            }
            let clean = pushed?;
            if row.sent < row.bytes.len() && deadline.is_none_or(|deadline| !deadline.passed()) {
                continue;
            }
            if row.sent < row.bytes.len() || !clean {
                row.stuck = true;
                self.drain(&mut row);
                break;
            }
        }
        // With the lock in hand: what is laid down later finds nobody who sends.
        row.busy = false;
        Ok(())
    }

    /// Has a thread wait for room: a lock that was let go must not stay taken until somebody calls again.
    fn drain(&self, row: &mut Row) {
        let Some(me) = self.me.get().filter(|_| !row.draining) else { return };
        let me = me.clone();
        let drain = move || {
            loop {
                let Some(client) = me.upgrade() else { return };
                let wire = {
                    let mut row = lock(&client.row);
                    if !row.up || !row.has_more() {
                        row.draining = false;
                        return;
                    }
                    row.wire.clone()
                };
                // As long as the client is there for others.
                if wire.lanes().is_some() {
                    let _ = client.wait_for_room(&wire, None);
                    client.flush();
                    continue;
                }
                drop(client);
                let _ = fd::writable(wire.as_fd(), Some(Deadline::after(LOOK)));
                let Some(client) = me.upgrade() else { return };
                client.flush();
            }
        };
        row.draining = std::thread::Builder::new().name("manager: sender".to_owned()).spawn(drain).is_ok();
    }

    /// Lets the next one send.
    fn end_turn(&self, wire: &Arc<Wire>, outcome: io::Result<()>) {
        let ends = outcome
            .err()
            .map(|cause| self.broke(wire, &format!("the connection to the server is gone: {cause}")));
        let mut row = lock(&self.row);
        if let Some(ends) = ends {
            row.busy = false;
            if ends {
                row.give_up();
            }
        }
        // A system call, whether anybody waits or not.
        if row.waiting > 0 {
            self.turn.notify_one();
        }
    }

    /// The server is gone for good.
    pub(super) fn send_no_more(&self) {
        let mut row = lock(&self.row);
        if !row.busy {
            row.give_up();
        }
    }

    /// Whether the server, which is gone, may have the whole of a frame that ended there ([`Sent::Begun`]).
    pub(super) fn may_have(&self, end: u64) -> bool {
        let row = lock(&self.row);
        match row.wire.lanes() {
            // Who sends has yet to say how far that went.
            _ if row.keeps => row.busy || end <= row.pushed,
            Some(lanes) => lanes.may_have(end),
            None => true,
        }
    }

    /// Sends a frame. One that was begun is sent to its end, by whoever sends next.
    pub(super) fn send(&self, frame: Parts<'_>, deadline: Option<Deadline>) -> io::Result<Sent> {
        let mut row = lock(&self.row);
        if row.keeps {
            row.lay(frame);
            let end = row.laid;
            if row.busy || !row.up {
                return Ok(Sent::Begun(end));
            }
            row.busy = true;
            let wire = row.wire.clone();
            // Whoever waits for the reply reads meanwhile; and there is the thread that waits for room.
            let deadline = deadline.unwrap_or_else(|| Deadline::after(TELL));
            let outcome = self.send_row(row, Some(deadline));
            self.end_turn(&wire, outcome);
            return Ok(Sent::Begun(end));
        }
        while row.busy {
            row.waiting += 1;
            row = match deadline {
                None => self.turn.wait(row).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) if deadline.passed() => {
                    row.waiting -= 1;
                    // Perhaps this was the one that was woken.
                    self.turn.notify_one();
                    return Ok(Sent::Not);
                }
                Some(deadline) => {
                    let waited = self.turn.wait_timeout(row, deadline.remaining());
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
            row.waiting -= 1;
        }
        row.busy = true;
        let (before, wire) = (std::mem::take(&mut row.bytes), row.wire.clone());
        let (mut sent_before, mut sent) = (std::mem::take(&mut row.sent), 0);
        drop(row);
        let mut outcome = self.push(&wire, Parts::whole(&before), &mut sent_before, deadline);
        let mut rest = before[sent_before..].to_vec();
        if outcome.is_ok() && rest.is_empty() {
            outcome = self.push(&wire, frame, &mut sent, deadline);
        }
        let (begun, whole) = (sent > 0, sent == frame.len());
        let end = wire.lanes().map_or(0, |lanes| lanes.written() + (frame.len() - sent) as u64);
        if begun {
            frame.copy(sent, &mut rest);
        }
        let tried = outcome.is_ok();
        let sent = match outcome {
            Ok(_) => {
                let mut row = lock(&self.row);
                // The caller's time is over: the rest goes when there is room.
                row.stuck |= !rest.is_empty();
                rest.append(&mut row.bytes);
                row.bytes = rest;
                let deadline = Deadline::after(if row.stuck { Duration::ZERO } else { TELL });
                self.send_row(row, Some(deadline))
            }
            Err(error) => Err(error),
        };
        let failed = sent.as_ref().err().map(|error| io::Error::new(error.kind(), error.to_string()));
        self.end_turn(&wire, sent);
        // What broke behind it tells nothing of it, nor what broke while its rest was sent with what is behind that.
        if whole || (begun && tried) {
            return Ok(Sent::Begun(end));
        }
        failed.map_or(Ok(Sent::Not), Err)
    }

    /// Sends what the wire takes of `bytes` from `at` on until the deadline; tells whether all of that went out. How much it took is
    /// in `at`, of a wire that broke as well: the server may have that. At least once it is tried.
    fn push(
        &self,
        wire: &Arc<Wire>,
        bytes: Parts<'_>,
        at: &mut usize,
        deadline: Option<Deadline>,
    ) -> io::Result<bool> {
        let mut first = true;
        loop {
            let outcome = match *at < bytes.len() {
                true => wire.send(bytes.rest(*at)),
                false if wire.flush()? => return Ok(true),
                false => Err(Errno::AGAIN.into()),
            };
            match outcome {
                Ok(sent) => {
                    if first {
                        lock(&self.row).stuck = false;
                        self.note_life();
                        first = false;
                    }
                    *at += sent;
                }
                Err(error) => match errno(&error) {
                    Some(Errno::INTR) => {}
                    Some(Errno::AGAIN) if deadline.is_some_and(Deadline::passed) => {
                        return Ok(!wire.has_rest());
                    }
                    Some(Errno::AGAIN) => self.wait_for_room(wire, deadline)?,
                    _ => return Err(error),
                },
            }
        }
    }

    /// The server reads from nobody who does not read its replies: so they are read meanwhile.
    fn wait_for_room(&self, wire: &Arc<Wire>, deadline: Option<Deadline>) -> io::Result<()> {
        // Who reads may leave: it tells of that by lanes only, so a socket is waited for in slices.
        let slice = Deadline::after(SLICE);
        let slice = deadline.map_or(slice, |deadline| deadline.min(slice));
        let Some(mut reader) = self.take_reader(wire) else {
            // Somebody else reads.
            let Some(lanes) = wire.lanes() else {
                return fd::writable(wire.as_fd(), Some(slice)).map(drop);
            };
            // It takes the bells as well, and tells.
            lanes.wait_behind(deadline, || lock(&self.state).reader.is_some());
            return Ok(());
        };
        if let Some(lanes) = wire.lanes() {
            let waited = lanes.wait_for_room(wire.as_fd(), slice);
            let read = if lanes.has_news() { reader.next(Some(Deadline::from_nanos(0))) } else { Ok(None) };
            self.put_back(reader, read);
            return waited;
        }
        let mut poll = [PollFd::from_borrowed_fd(wire.as_fd(), PollFlags::IN | PollFlags::OUT)];
        let waited = fd::wait(&mut poll, Some(slice));
        let read = match poll[0].revents().contains(PollFlags::IN) {
            true => reader.next(Some(Deadline::from_nanos(0))),
            false => Ok(None),
        };
        self.put_back(reader, read);
        waited.map(drop)
    }

    fn take_reader(&self, wire: &Arc<Wire>) -> Option<FrameReader> {
        let mut state = lock(&self.state);
        match &state.reader {
            Some(reader) if state.down.is_none() && Arc::ptr_eq(&reader.wire, wire) => state.reader.take(),
            _ => None,
        }
    }
}
