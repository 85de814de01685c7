//! Who comes in: TLS and the key at a public address, the number of connections, and the time for a greeting.
//!
//! # Protocol
//! Without TLS the listener has taken a connection through the key's handshake before it is here. With TLS it comes as it
//! was accepted: the handshake of TLS and, within, that of the key go on in the loop as bytes come, beside everything else.
//! The oldest that has not proved the key goes where there are too many.
//!
//! Whoever is refused hears why, as far as the protocol got; and the server keeps the reason ([`Session::refusals`]).
//!
//! [`Session::refusals`]: crate::Session::refusals

use super::{Server, Trouble, conn::Conn, world::Peer};
use crate::{error::ErrorKind, wire::Wire};
use procession_channel::net::{AuthKey, Handshake};
use procession_sys::Deadline;
use rustix::{
    event::epoll::{self, EventData, EventFlags},
    net::{AddressFamily, sockopt},
};
use std::{os::fd::OwnedFd, time::Duration};

/// How long somebody at the public address may take for the key, and for the greeting.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many may be about to prove the key.
const PENDING: usize = 1024;
/// How many are heard beyond the most that are served, to be told so.
const SURPLUS: usize = 64;
/// How many reasons are kept.
const REASONS: usize = 16;

/// What stands before a connection's first request.
pub(crate) struct Entry {
    /// The key's, until it was proved.
    pub(super) handshake: Option<Handshake>,
    until: u64,
    /// One too many: its greeting is refused.
    surplus: bool,
}

/// TLS at the public address, and the key that is proved within.
pub(crate) struct Secure {
    #[cfg(feature = "tls")]
    pub(crate) config: std::sync::Arc<rustls::ServerConfig>,
    pub(crate) key: AuthKey,
}

/// Where a connection comes from.
pub(super) fn whence(wire: &Wire) -> String {
    match rustix::net::getpeername(wire)
        .ok()
        .flatten()
        .and_then(|name| std::net::SocketAddr::try_from(name).ok())
    {
        Some(address) => address.to_string(),
        None => "a local process".to_owned(),
    }
}

/// How many connections the descriptors allow at the public address: the rest is for this tree.
pub(super) fn most_connections() -> usize {
    (descriptors() / 4 * 3).max(16)
}

/// How many descriptors this process may have.
pub(super) fn descriptors() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.map_or(usize::MAX, |limit| limit as usize)
}

impl Server {
    /// A connection that was accepted.
    pub(super) fn let_in(&mut self, socket: OwnedFd, private: bool) {
        let number = self.next;
        self.next += 1;
        if !private && self.publics >= self.most_publics.saturating_add(SURPLUS) {
            return self.note(&format!(
                "{} connections are there, the limit is {}",
                self.publics, self.most_publics
            ));
        }
        let handshake = match &self.secure {
            Some(secure) if !private => match Handshake::listener(&secure.key) {
                Ok(handshake) => Some(handshake),
                Err(_) => return,
            },
            _ => None,
        };
        let Some(wire) = self.wire(socket, handshake.is_some()) else { return };
        let interest = EventFlags::IN;
        if epoll::add(&self.epoll, &wire, EventData::new_u64(number), interest).is_err() {
            return;
        }
        // A client that vanished without a word is noticed.
        wire.watch_peer(super::SILENCE, super::UNREAD);
        let enters = handshake.is_some();
        let entry = (!private).then(|| Entry {
            handshake,
            until: Deadline::after(PATIENCE).as_nanos(),
            surplus: self.publics >= self.most_publics,
        });
        // Of other sockets the kernel tells a pid of 0, which is none.
        let local = sockopt::socket_domain(&wire) == Ok(AddressFamily::UNIX);
        let peer = local.then(|| sockopt::socket_peercred(&wire).ok()).flatten();
        let pid = peer.map_or(0, |peer| peer.pid.as_raw_nonzero().get() as u32);
        self.world.peers.insert(number, Peer { pid, ..Peer::default() });
        let look = entry.as_ref().map(|entry| entry.until);
        self.publics += usize::from(entry.is_some());
        let conn = Conn {
            wire,
            private,
            input: Vec::new(),
            head: Vec::new(),
            head_sent: 0,
            entry,
            heard: 0,
            silence: 0,
            look: None,
            held: false,
            yielded: false,
            interest,
            offer: None,
            awake: false,
        };
        self.conns.insert(number, conn);
        if let Some(time) = look {
            self.look_at(number, time);
        }
        if enters {
            self.pending.insert(number);
            if self.pending.len() > PENDING
                && let Some(oldest) = self.pending.pop_first()
            {
                self.note_refusal(oldest, "too many were about to prove the key, and this was the oldest");
                self.end(oldest);
            }
            self.enter(number);
        }
    }

    #[cfg(feature = "tls")]
    fn wire(&mut self, socket: OwnedFd, within: bool) -> Option<Wire> {
        match &self.secure {
            Some(secure) if within => match crate::tls::Tunnel::server(&secure.config) {
                Ok(tunnel) => Some(Wire::within(socket, tunnel)),
                Err(cause) => {
                    self.note(&cause);
                    None
                }
            },
            _ => Some(Wire::plain(socket)),
        }
    }

    #[cfg(not(feature = "tls"))]
    fn wire(&mut self, socket: OwnedFd, _: bool) -> Option<Wire> {
        Some(Wire::plain(socket))
    }

    /// Takes a handshake on by what came; true where there is none any more.
    pub(super) fn enter(&mut self, number: u64) -> bool {
        let Some(conn) = self.conns.get_mut(&number) else { return false };
        let Some(Entry { handshake: Some(handshake), .. }) = &mut conn.entry else { return true };
        let outcome = loop {
            conn.head.extend_from_slice(handshake.output());
            handshake.sent(handshake.output().len());
            if let Some(outcome) = handshake.outcome() {
                break outcome;
            }
            let wanted = handshake.wanted().min(conn.input.len());
            if wanted == 0 {
                self.flush(number);
                return false;
            }
            handshake.input(&conn.input[..wanted]);
            conn.input.drain(..wanted);
        };
        if let Some(entry) = &mut conn.entry {
            entry.handshake = None;
        }
        self.pending.remove(&number);
        self.flush(number);
        if let Err(refusal) = &outcome {
            self.note_refusal(number, &refusal.to_string());
            self.end(number);
        }
        outcome.is_ok()
    }

    /// Whether there is a place for who says hello.
    pub(super) fn admit(&mut self, number: u64) -> Result<(), Trouble> {
        let Some(conn) = self.conns.get_mut(&number) else { return Ok(()) };
        if conn.entry.as_ref().is_some_and(|entry| entry.surplus) {
            let text = format!(
                "the server has {} connections at its public address, and takes no more",
                self.most_publics
            );
            self.note_refusal(number, &text);
            return Err(Trouble::fault(ErrorKind::Limit, text));
        }
        conn.entry = None;
        Ok(())
    }

    /// Has a connection looked after at this time, and not when it would have been.
    pub(super) fn look_at(&mut self, number: u64, time: u64) {
        let Some(conn) = self.conns.get_mut(&number) else { return };
        if let Some(old) = conn.look.replace(time) {
            self.watched.remove(&(old, number));
        }
        self.watched.insert((time, number));
    }

    /// Looks after those whose time may be over.
    pub(super) fn look_after(&mut self, now: Deadline) {
        let now = now.as_nanos();
        while let Some(&(time, number)) = self.watched.first().filter(|(time, _)| *time <= now) {
            self.watched.remove(&(time, number));
            let Some(conn) = self.conns.get(&number) else { continue };
            let next = match &conn.entry {
                Some(entry) if entry.until > now => entry.until,
                Some(_) => {
                    let text = "no greeting came in time";
                    self.note_refusal(number, text);
                    self.end(number);
                    continue;
                }
                None if conn.silence == 0 => continue,
                None => conn.heard.saturating_add(conn.silence),
            };
            if next <= now {
                // As if its connection had broken.
                self.close(number);
            } else {
                self.look_at(number, next);
            }
        }
        while let Some(&(time, number)) = self.away.first().filter(|(time, _)| *time <= now) {
            self.away.remove(&(time, number));
            if self.world.peers.get(&number).is_some_and(|peer| peer.away == Some(time)) {
                self.end_peer(number);
            }
        }
    }

    pub(super) fn note_refusal(&mut self, number: u64, cause: &str) {
        if let Some(conn) = self.conns.get(&number) {
            self.note(&format!("{}: {cause}", whence(&conn.wire)));
        }
    }

    /// Keeps why somebody was refused.
    pub(super) fn note(&mut self, cause: &str) {
        self.refused += 1;
        if self.refusals.len() == REASONS {
            self.refusals.pop_front();
        }
        self.refusals.push_back(cause.to_owned());
    }
}
