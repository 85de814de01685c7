//! The server without a process: what a fuzzer gives it, and what must hold afterwards.

use super::{Bounds, FIRST, Server};
use crate::proto::{self, HEADER, Kind, Op};
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
    let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).expect("a descriptor"));
    let mut server = Server::new(
        None,
        None,
        stop,
        [0; 16],
        Bounds { max_frame: 1 << 16, lanes: false, ..Bounds::default() },
        None,
    )
    .expect("a server's descriptors");
    let mut ends: Vec<OwnedFd> = (0..2)
        .map(|which| {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let (ours, theirs) =
                socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).expect("a socket pair");
            server.let_in(theirs, which == 0);
            ours
        })
        .collect();
    let mut conns = [FIRST, FIRST + 1];
    for (end, conn) in ends.iter().zip(FIRST..) {
        let mut out = Vec::new();
        proto::begin(&mut out);
        proto::put_u64(&mut out, proto::PROTOCOL);
        proto::put_u64(&mut out, 0);
        proto::put_u64(&mut out, 1);
        // Of another build: no function is run.
        proto::put_bytes(&mut out, &image().build_id().as_bytes()[1..]);
        // A long time to come back, and to be silent.
        (0..2).for_each(|_| proto::put_u64(&mut out, u64::MAX));
        proto::end(&mut out, 0, Kind::Request, Op::Hello as u16, 0, 0);
        say(&mut server, end, conn, &out);
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
            let mut out = Vec::new();
            proto::begin(&mut out);
            out.extend_from_slice(payload);
            let kind = if what & 4 == 0 { Kind::Request } else { Kind::OneWay };
            // Objects have the numbers that follow those of the connections.
            let object = if object == 0 { 0 } else { FIRST + 1 + u64::from(object) };
            proto::end(&mut out, 0, kind, method.into(), request, object);
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
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).expect("a socket pair");
    let fresh = server.next;
    server.let_in(theirs, false);
    let knows = piece.first().is_none_or(|first| first & 1 == 0);
    let token = server.tokens.keys().next().filter(|_| knows).copied().unwrap_or_default();
    let received = piece.get(1).map_or(1, |more| u64::from(*more));
    let mut out = Vec::new();
    proto::begin(&mut out);
    proto::put_u64(&mut out, proto::PROTOCOL);
    proto::put_bytes(&mut out, &token);
    proto::put_u64(&mut out, received);
    proto::end(&mut out, 0, Kind::Request, Op::Resume as u16, 0, 0);
    say(server, &ours, fresh, &out);
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
