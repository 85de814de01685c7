//! Connections: what comes in, what goes out, and their end.

use super::{HIGH, LARGE_STEP, SHARE, STEP, Server, TURN, Trouble, UNACKED, entry::Entry};
use crate::{
    error::ErrorKind,
    lanes::Lanes,
    proto::{HEADER, Header, LARGE, Malformed, Op, Reader},
    wire::{Wire, errno, make_room},
};
use bytes::Bytes;
use procession_sys::Deadline;
use rustix::{
    event::epoll::{self, EventData, EventFlags},
    io::Errno,
};
use std::collections::BTreeSet;

pub(crate) struct Conn {
    pub(super) wire: Wire,
    /// Came by the private address.
    pub(super) private: bool,
    /// What was read of frames that are not done yet.
    pub(super) input: Vec<u8>,
    /// What goes out before replies do: the handshake's part, or the answer to who comes back. And how much of it went out.
    pub(super) head: Vec<u8>,
    pub(super) head_sent: usize,
    /// Until it has said hello.
    pub(super) entry: Option<Entry>,
    /// When something came or went last, where somebody asks for that; and how long nothing may.
    pub(super) heard: u64,
    pub(super) silence: u64,
    /// When it is looked after next (`Server::watched`).
    pub(super) look: Option<u64>,
    /// Requests in `input` wait until their client has read replies.
    pub(super) held: bool,
    /// It has had its share of this turn; the rest of `input` waits in `Server::more`.
    pub(super) yielded: bool,
    /// What the epoll looks for.
    pub(super) interest: EventFlags,
    /// Lanes that it was offered, and did not say yet that it uses.
    pub(super) offer: Option<Lanes>,
    /// Its lanes are in `Server::awake`.
    pub(super) awake: bool,
}

impl Conn {
    fn note_life(&mut self) {
        if self.silence > 0 {
            self.heard = Deadline::now().as_nanos();
        }
    }

    fn unsent(&self) -> usize {
        self.head.len() - self.head_sent
    }
}

/// Whether the first frame is whole, and large enough to be kept as it is.
fn begins_large(input: &[u8]) -> bool {
    let Some((header, rest)) = input.split_first_chunk::<HEADER>() else { return false };
    Header::decode(header).is_ok_and(|header| header.len >= LARGE as u64 && header.len <= rest.len() as u64)
}

impl Server {
    pub(super) fn ready(&mut self, number: u64, flags: EventFlags) {
        if self.conns.get(&number).is_some_and(|conn| conn.wire.lanes().is_some()) {
            return self.hear(number);
        }
        if flags.contains(EventFlags::OUT) {
            // What was held back goes on in `settle`.
            self.world.dirty.push(number);
        }
        if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            self.read(number);
        }
    }

    /// Reads once, and does what was asked.
    pub(super) fn read(&mut self, number: u64) {
        let Some(conn) = self.conns.get_mut(&number).filter(|conn| !conn.yielded) else { return };
        if conn.input.is_empty() {
            // Idle connections keep no memory.
            std::mem::swap(&mut conn.input, &mut self.scratch);
        }
        let have = conn.input.len();
        let announced = conn.input.first_chunk::<HEADER>().and_then(|header| Header::decode(header).ok());
        let missing = announced.map_or(STEP, |header| {
            usize::try_from(header.len).unwrap_or(STEP).saturating_add(HEADER).saturating_sub(have)
        });
        // In larger steps where few can do that, all of this user.
        let step = if conn.wire.lanes().is_some() { LARGE_STEP } else { STEP };
        make_room(&mut conn.input, missing, step);
        match conn.wire.recv(&mut conn.input, false) {
            Ok(0) => self.close(number),
            Ok(_) => {
                conn.note_life();
                if self.enter(number) {
                    self.go_on(number);
                }
            }
            Err(error) => match errno(&error) {
                Some(Errno::AGAIN | Errno::INTR) => self.put_away(number),
                None if conn.wire.lanes().is_some() => {
                    self.world.refuse(number, 0, &Trouble::Malformed(Malformed(error.to_string())));
                    self.flush(number);
                    self.end(number);
                }
                _ => {
                    if conn.entry.is_some() {
                        self.note_refusal(number, &error.to_string());
                    }
                    self.close(number);
                }
            },
        }
    }

    /// Does what stands in a connection's input, as long as its replies are read.
    pub(super) fn go_on(&mut self, number: u64) {
        let Some(conn) = self.conns.get_mut(&number) else { return };
        let by_socket = conn.wire.lanes().is_none();
        let mut input = std::mem::take(&mut conn.input);
        // A large frame's memory is where its value is kept.
        let memory = (!self.is_full(number) && begins_large(&input)).then(|| {
            input.shrink_to(input.len() + input.len() / 4);
            Bytes::from(std::mem::take(&mut input))
        });
        let mut rest: &[u8] = memory.as_deref().unwrap_or(&input);
        let mut broken = None;
        let (mut done, mut share, mut yielded) = (0, None, false);
        while broken.is_none()
            && !self.is_full(number)
            && let Some((header, behind)) = rest.split_first_chunk::<HEADER>()
        {
            let header = match Header::decode(header) {
                Ok(header) => header,
                Err(malformed) => {
                    broken = Some((0, Trouble::Malformed(malformed)));
                    break;
                }
            };
            if header.len > self.bounds.max_frame {
                let text = format!("a frame of {} bytes, the limit is {}", header.len, self.bounds.max_frame);
                broken = Some((header.request, Trouble::fault(ErrorKind::Limit, text)));
                break;
            }
            let Some((payload, behind)) = behind.split_at_checked(header.len as usize) else { break };
            if done == SHARE || share.is_some_and(Deadline::passed) {
                yielded = true;
                break;
            }
            done += 1;
            rest = behind;
            if share.is_none() && !rest.is_empty() {
                share = Some(Deadline::after(TURN));
            }
            if header.method == Op::Resume as u16 {
                let outcome = match rest.is_empty() {
                    true => self.come_back(number, payload),
                    false => Err(Trouble::fault(ErrorKind::Invalid, "more came than who we have here")),
                };
                match outcome {
                    Ok(()) => return,
                    Err(trouble) => broken = Some((header.request, trouble)),
                }
                break;
            }
            match self.frame(number, &header, Reader::within(payload, memory.as_ref())) {
                Ok(()) => {
                    if by_socket && header.method == Op::Lanes as u16 && self.has_lanes(number) {
                        // Behind the word that it uses them are bells.
                        rest = &[];
                    }
                    if let Some(peer) = self.world.peers.get_mut(&number).filter(|peer| peer.token.is_some())
                    {
                        peer.received += 1;
                    }
                }
                Err(malformed) => broken = Some((header.request, Trouble::Malformed(malformed))),
            }
        }
        if let Some((request, trouble)) = broken {
            self.world.refuse(number, request, &trouble);
            self.flush(number);
            return self.end(number);
        }
        let left = rest.len();
        let full = self.is_full(number);
        if memory.is_some() {
            input = rest.to_vec();
        } else {
            input.drain(..input.len() - left);
        }
        if let Some(conn) = self.conns.get_mut(&number) {
            conn.input = input;
            conn.held = (full || yielded) && left > 0;
            conn.yielded = yielded;
            if yielded {
                self.more.push(number);
            }
        }
        self.put_away(number);
    }

    /// Whether a client has so many replies to read that nothing more is done for it.
    pub(super) fn is_full(&self, number: u64) -> bool {
        self.world.peers.get(&number).is_none_or(|peer| peer.out.unsent() >= HIGH)
    }

    /// Lends the memory of an empty input to the next one.
    fn put_away(&mut self, number: u64) {
        if let Some(conn) = self.conns.get_mut(&number)
            && conn.input.is_empty()
        {
            let memory = std::mem::take(&mut conn.input);
            if memory.capacity() <= 1 << 20 && memory.capacity() > self.scratch.capacity() {
                self.scratch = memory;
            }
        }
        self.watch(number);
    }

    /// Has the epoll look for what can be done.
    fn watch(&mut self, number: u64) {
        let (Some(conn), Some(peer)) = (self.conns.get_mut(&number), self.world.peers.get(&number)) else {
            return;
        };
        let unsent = peer.out.unsent() + conn.unsent();
        let mut interest = EventFlags::empty();
        if conn.wire.lanes().is_some() {
            // Bells, for room as well, and the hang-up.
            return;
        }
        interest.set(EventFlags::IN, unsent < HIGH);
        interest.set(EventFlags::OUT, (unsent > 0 && !conn.wire.is_handshaking()) || conn.wire.has_rest());
        if interest != conn.interest {
            conn.interest = interest;
            let _ = epoll::modify(&self.epoll, &conn.wire, EventData::new_u64(number), interest);
        }
    }

    pub(super) fn flush(&mut self, number: u64) {
        let (Some(conn), Some(peer)) = (self.conns.get_mut(&number), self.world.peers.get_mut(&number))
        else {
            return;
        };
        // The end is seen by reading.
        let _ = conn.wire.flush();
        let keeps = peer.out.keeps();
        let mut went = 0;
        loop {
            if went >= HIGH {
                // Others have their turn. That it was not the wire that took no more is why no bell would tell of it.
                if !self.more.contains(&number) {
                    self.more.push(number);
                }
                break;
            }
            let (bytes, head) = match conn.unsent() {
                0 => (peer.out.next(), false),
                _ => (&conn.head[conn.head_sent..], true),
            };
            if bytes.is_empty() {
                break;
            }
            let taken = match conn.wire.send(bytes) {
                Ok(taken) => taken,
                Err(error) => match errno(&error) {
                    Some(Errno::INTR) => continue,
                    Some(Errno::AGAIN) => break,
                    _ if keeps => break,
                    // Nobody will read it.
                    _ if head => bytes.len(),
                    _ => {
                        peer.out.give_up();
                        continue;
                    }
                },
            };
            if head {
                conn.head_sent += taken;
            } else {
                peer.out.advance(taken);
            }
            went += taken;
            conn.note_life();
        }
        if conn.unsent() == 0 {
            (conn.head, conn.head_sent) = (Vec::new(), 0);
        }
        // One frame may be as long as it likes: it is received, or not.
        if peer.out.is_behind(UNACKED) {
            self.note_refusal(number, "it does not say what it has received");
            return self.end(number);
        }
        peer.out.tidy(STEP, LARGE_STEP);
        self.watch(number);
    }

    /// Takes a connection away from the loop.
    pub(super) fn take_out(&mut self, number: u64) -> Option<Conn> {
        let conn = self.conns.remove(&number)?;
        self.awake.forget(&conn);
        let _ = epoll::delete(&self.epoll, &conn.wire);
        if !conn.private {
            self.publics -= 1;
        }
        self.pending.remove(&number);
        if let Some(time) = conn.look {
            self.watched.remove(&(time, number));
        }
        Some(conn)
    }

    /// A connection is over. Its client may come back, or not.
    pub(super) fn close(&mut self, number: u64) {
        let Some(conn) = self.take_out(number) else { return };
        if conn.entry.as_ref().is_some_and(|entry| entry.handshake.is_some()) {
            self.note(&format!(
                "{}: it went in the middle of the handshake",
                super::entry::whence(&conn.wire)
            ));
        }
        drop(conn);
        if !self.keep_for(number) {
            self.end_peer(number);
        }
    }

    /// A connection is over, and its client as well.
    pub(super) fn end(&mut self, number: u64) {
        drop(self.take_out(number));
        self.end_peer(number);
    }

    /// Gives back what a client had.
    pub(super) fn end_peer(&mut self, number: u64) {
        let Some(peer) = self.world.peers.get_mut(&number) else { return };
        let (parked, holds) = (std::mem::take(&mut peer.parked), std::mem::take(&mut peer.holds));
        if let Some(token) = peer.token {
            self.tokens.remove(&token);
        }
        if let Some(until) = peer.away {
            self.away.remove(&(until, number));
        }
        let issues = peer.issues;
        if parked.values().any(|parked| !self.objects.contains_key(&parked.object)) {
            // It let an object go that it waited for: nobody there knows its timers any more.
            self.world.drop_timers(number);
        }
        // Each object once, however many requests wait there.
        let waits_on: BTreeSet<u64> = parked.into_values().map(|parked| parked.object).collect();
        for object in waits_on {
            if let Some(target) = self.objects.get_mut(&object) {
                target.forget(number, object, &mut self.world);
            }
        }
        for object in holds {
            if let Some(target) = self.objects.get_mut(&object) {
                target.client_died(number, object, &mut self.world);
            }
        }
        if issues {
            for (_, (object, _)) in self.tickets.extract_if(|_, (_, issuer)| *issuer == number) {
                self.world.counts.down(object, 1);
            }
        }
        if let Some(peer) = self.world.peers.remove(&number) {
            peer.leases.into_iter().for_each(|(object, times)| self.world.counts.down(object, times));
        }
    }
}
