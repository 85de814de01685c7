//! The server without a process: what a fuzzer gives it, and what must hold afterwards.

mod lanes;

use super::{Bounds, FIRST, Server};
use crate::proto::{self, HEADER, Kind, Op};
pub use lanes::lanes;
use procession_parcel::function::image;
use rustix::{
    event::{EventfdFlags, eventfd},
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, socketpair},
};
use std::{os::fd::OwnedFd, sync::Arc};

/// Two clients say what `data` holds; then they are gone. The second one is of a public address, and may come back.
///
/// The first byte of each piece says whose turn it is and what it is: a frame with a good header, whose method, object and
/// payload are the fuzzer's, or bytes as they come; or that the connection breaks, and another one says that it is the same
/// client's.
///
/// # Panics
///
/// If a timer, a wait, or an object that nobody refers to is left.
pub fn requests(data: &[u8]) {
    let mut server = server(false);
    let mut ends: Vec<OwnedFd> = (0..2).map(|which| let_in(&mut server, which == 0)).collect();
    let mut conns = [FIRST, FIRST + 1];
    for (end, conn) in ends.iter().zip(FIRST..) {
        // A long time to come back, and to be silent.
        say(&mut server, end, conn, &hello(&[u64::MAX; 2]));
    }
    let mut rest = data;
    let mut request = 1;
    while let Some((&[what, len], behind)) = rest.split_first_chunk::<2>() {
        let (piece, behind) = behind.split_at(behind.len().min(usize::from(len)));
        rest = behind;
        let which = usize::from(what & 1);
        let conn = conns[which];
        if what & 8 != 0 && which == 1 {
            ends[1] = come_back(&mut server, &mut conns[1], piece);
        } else if what & 2 != 0 {
            say(&mut server, &ends[which], conn, piece);
        } else if let Some((&[method, object], payload)) = piece.split_first_chunk::<2>() {
            let kind = if what & 4 == 0 { Kind::Request } else { Kind::OneWay };
            // Objects have the numbers that follow those of the connections.
            let object = if object == 0 { 0 } else { FIRST + 1 + u64::from(object) };
            let out = frame(kind, method.into(), request, object, payload);
            request += 1;
            say(&mut server, &ends[which], conn, &out);
        }
    }
    ends.clear();
    // Those who are away are gone as well.
    conns.into_iter().chain([FIRST + 1]).for_each(|conn| {
        server.end(conn);
    });
    server.settle();
    is_empty(&mut server);
}

fn server(lanes: bool) -> Server {
    let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).expect("a descriptor"));
    let bounds = Bounds { max_frame: 1 << 16, lanes, ..Bounds::default() };
    let mut server = Server::new(None, None, stop, [0; 16], bounds, None).expect("a server's descriptors");
    // So that an input can name objects.
    server.numbers = None;
    server
}

/// A connection, which gets the next number: the client's end.
fn let_in(server: &mut Server, private: bool) -> OwnedFd {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).expect("a socket pair");
    server.let_in(theirs, private);
    ours
}

/// What a client says first.
fn hello(asks: &[u64]) -> Vec<u8> {
    let mut payload = Vec::new();
    [proto::PROTOCOL, 0, 1].into_iter().for_each(|word| proto::put_u64(&mut payload, word));
    // Of another build: no function is run.
    proto::put_bytes(&mut payload, &image().build_id().as_bytes()[1..]);
    asks.iter().for_each(|word| proto::put_u64(&mut payload, *word));
    frame(Kind::Request, Op::Hello as u16, 0, 0, &payload)
}

fn frame(kind: Kind, method: u16, request: u64, object: u64, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    proto::begin(&mut out);
    out.extend_from_slice(payload);
    proto::end(&mut out, 0, kind, method, request, object);
    out
}

/// What must hold once everybody is gone.
fn is_empty(server: &mut Server) {
    for object in std::mem::take(&mut server.names).into_values() {
        server.world.counts.down(object, 1);
    }
    server.settle();
    assert!(server.world.peers.is_empty() && server.conns.is_empty() && server.tokens.is_empty());
    assert!(server.publics == 0 && server.pending.is_empty());
    assert!(server.watched.is_empty() && server.away.is_empty(), "somebody who is gone is looked after");
    assert!(server.world.next_deadline().is_none(), "a timer is left");
    assert_eq!(server.world.counts.len(), server.objects.len(), "an object and its count part");
}

/// The second client's connection breaks, and another one comes; `piece` says what it claims to have received, and whether
/// it knows the token.
fn come_back(server: &mut Server, conn: &mut u64, piece: &[u8]) -> OwnedFd {
    server.close(*conn);
    let fresh = server.next;
    let ours = let_in(server, false);
    let knows = piece.first().is_none_or(|first| first & 1 == 0);
    let token = server.tokens.keys().next().filter(|_| knows).copied().unwrap_or_default();
    let received = piece.get(1).map_or(1, |more| u64::from(*more));
    let mut payload = Vec::new();
    proto::put_u64(&mut payload, proto::PROTOCOL);
    proto::put_bytes(&mut payload, &token);
    proto::put_u64(&mut payload, received);
    say(server, &ours, fresh, &frame(Kind::Request, Op::Resume as u16, 0, 0, &payload));
    if server.conns.contains_key(conn) {
        assert!(!server.conns.contains_key(&fresh), "one connection stands for two clients");
    }
    ours
}

fn say(server: &mut Server, end: &OwnedFd, conn: u64, bytes: &[u8]) {
    let mut rest = bytes;
    loop {
        if let Ok(sent) = rustix::net::send(end, rest, SendFlags::NOSIGNAL) {
            rest = &rest[sent..];
        }
        server.read(conn);
        server.settle();
        let mut replies = [0; 8 * HEADER];
        while rustix::net::recv(end, &mut replies, RecvFlags::empty()).is_ok_and(|(came, _)| came > 0) {
            server.flush(conn);
        }
        if rest.is_empty() || !server.conns.contains_key(&conn) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{LARGE, Type};

    #[test]
    fn what_comes_with_a_large_frame_and_is_behind_it_is_kept() {
        let _watchdog = procession_testkit::watchdog!();
        let mut server = server(false);
        let end = let_in(&mut server, true);
        say(&mut server, &end, FIRST, &hello(&[]));
        let mut list = Vec::new();
        [Type::List as u64, 0, 1].into_iter().for_each(|word| proto::put_u64(&mut list, word));
        proto::put_value(&mut list, &vec![7; LARGE - 5 * 8], &[]);
        assert_eq!(list.len(), LARGE);
        let mut frames = frame(Kind::Request, Op::Create as u16, 3, 0, &list);
        frames.extend(frame(Kind::Request, Op::Ping as u16, 4, 0, &[]));
        // Room for more than the first.
        server.scratch = Vec::with_capacity(4 * LARGE);
        for part in [&frames[..frames.len() - 5], &frames[frames.len() - 5..]] {
            assert_eq!(rustix::net::send(&end, part, SendFlags::NOSIGNAL), Ok(part.len()));
            server.read(FIRST);
            server.settle();
        }
        let mut replies = [0; 4 * HEADER];
        let came = rustix::net::recv(&end, &mut replies, RecvFlags::empty()).unwrap().0;
        assert_eq!(proto::skip(&replies[..came], 9).0, 2, "replies");
    }
}
