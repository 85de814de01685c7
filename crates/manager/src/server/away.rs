//! Clients that come back: their connection ends, and what is theirs stays.
//!
//! # Protocol
//! A client asks for it when it says hello, and gets a token. From then on both sides count frames: the server those that it
//! has done, the client those that it has received, from the greeting on. The server says its number in each reply, the client
//! with `Ack`; whoever sent a frame keeps it until then.
//!
//! When the connection ends, the client is *away*: its number, its leases, its locks, its permits, its waits and what it has
//! in hand stay as they are, and what is said to it is kept. It comes back by a new connection, through the same handshakes,
//! with `Resume` in the place of `Hello`: the token, and how many frames it has. Both send what the other does not have. So
//! each request is done once, and each reply is heard once, whatever the connection does in between.
//!
//! # When a process dies
//! The death of such a client looks like a connection that broke, so what it held is given back when its grace is over, its
//! locks poisoned. One that says `Bye` will not come back. The server's death is the end of all tokens.

use super::{Server, Trouble, world::Peer};
use crate::{
    client::CLIENT,
    error::ErrorKind,
    proto::{self, Kind, Malformed, PROTOCOL, Reader},
};
use procession_sys::Deadline;
use rustix::event::epoll::{self, EventData, EventFlags};
use std::time::Duration;

/// The shortest silence that may be asked for.
const LEAST: Duration = Duration::from_secs(1);

impl Peer {
    /// The client has so many of the frames that were said to it.
    pub(super) fn ack(&mut self, received: u64) -> Result<(), Malformed> {
        let behind = received.saturating_sub(self.acked);
        let (frames, end) = proto::skip(self.out.sent(), behind);
        if frames < behind || self.token.is_none() {
            return Err(Malformed(format!("it has received {received} replies, which cannot be")));
        }
        self.out.received(end);
        self.acked += frames;
        Ok(())
    }
}

impl Server {
    /// What a client that says hello asks for besides: the token is empty where it may not come back; and the grace.
    pub(super) fn promise(
        &mut self,
        number: u64,
        role: u64,
        grace: u64,
        silence: u64,
    ) -> Result<(Vec<u8>, u64), Trouble> {
        let Some(conn) = self.conns.get_mut(&number).filter(|conn| !conn.private && role == CLIENT) else {
            return Ok((Vec::new(), 0));
        };
        let silence = if silence > 0 { silence.max(LEAST.as_nanos() as u64) } else { 0 };
        if silence > 0 {
            (conn.silence, conn.heard) = (silence, Deadline::now().as_nanos());
            let time = conn.heard.saturating_add(silence);
            self.look_at(number, time);
        }
        let grace = grace.min(u64::try_from(self.bounds.max_grace.as_nanos()).unwrap_or(u64::MAX));
        let Some(peer) = self.world.peers.get_mut(&number).filter(|_| grace > 0) else {
            return Ok((Vec::new(), 0));
        };
        let mut token = [0; 16];
        let random = rustix::rand::getrandom(&mut token[..], rustix::rand::GetRandomFlags::empty());
        if random != Ok(token.len()) {
            return Err(Trouble::fault(ErrorKind::System, "the kernel has no random numbers"));
        }
        (peer.token, peer.grace, peer.silence) = (Some(token), grace, silence);
        peer.out.keep();
        self.tokens.insert(token, number);
        Ok((token.to_vec(), grace))
    }

    /// The connection of a client is over; true if what is its stays.
    pub(super) fn keep_for(&mut self, number: u64) -> bool {
        // Those who are away are bounded, as those are who are here.
        let room = self.away.len() < self.most_publics;
        let Some(peer) = self.world.peers.get_mut(&number) else { return false };
        if peer.token.is_none() || peer.grace == 0 || !room {
            return false;
        }
        let until = Deadline::after(Duration::from_nanos(peer.grace)).as_nanos();
        peer.away = Some(until);
        self.away.insert((until, number));
        true
    }

    /// A client comes back by another connection, which takes the place of its old one.
    pub(super) fn come_back(&mut self, number: u64, payload: &[u8]) -> Result<(), Trouble> {
        let mut input = Reader::new(payload);
        let (protocol, token, received) = (input.u64()?, input.bytes()?, input.u64()?);
        input.end()?;
        if protocol != PROTOCOL {
            let text = format!("the client speaks version {protocol}, this server {PROTOCOL}");
            return Err(Trouble::fault(ErrorKind::Refused, text));
        }
        let fresh = self.conns.get(&number).is_some_and(|conn| conn.entry.is_some());
        let known = <[u8; 16]>::try_from(token).ok().and_then(|token| self.tokens.get(&token).copied());
        let Some(old) = known.filter(|_| fresh) else {
            let text = "the server does not know this client: its time to come back is over, or the server is another one";
            return Err(Trouble::fault(ErrorKind::Refused, text));
        };
        let Some(peer) = self.world.peers.get_mut(&old) else { return Ok(()) };
        // Some went out that never arrived, and some may not have gone out as far as we know.
        let sent = peer.out.set_sent(peer.out.len());
        if let Err(malformed) = peer.ack(received) {
            // Its old connection may go on.
            peer.out.set_sent(sent);
            return Err(malformed.into());
        }
        peer.out.set_sent(0);
        if let Some(until) = peer.away.take() {
            self.away.remove(&(until, old));
        }
        let (silence, has) = (peer.silence, peer.received);
        // One that broke, and did not say so yet.
        drop(self.take_out(old));
        let Some(mut conn) = self.conns.remove(&number) else { return Ok(()) };
        self.world.peers.remove(&number);
        conn.entry = None;
        conn.silence = silence;
        conn.heard = Deadline::now().as_nanos();
        conn.interest = EventFlags::IN;
        proto::begin(&mut conn.head);
        proto::put_u64(&mut conn.head, has);
        proto::end(&mut conn.head, 0, Kind::Reply, 0, 0, 0);
        let _ = epoll::modify(&self.epoll, &conn.wire, EventData::new_u64(old), conn.interest);
        // It goes by the client's number from here on.
        if let Some(time) = conn.look.take() {
            self.watched.remove(&(time, number));
        }
        let time = conn.heard.saturating_add(silence);
        self.conns.insert(old, conn);
        if silence > 0 {
            self.look_at(old, time);
        }
        self.flush(old);
        Ok(())
    }
}
