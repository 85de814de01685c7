//! The server's side of lanes ([`crate::lanes`]): who gets some, and who is looked at when.
//!
//! # Protocol
//! Lanes are *awake* or asleep. Those that are awake are looked at in turns, and their clients ring no bell. When none of them
//! has had anything to do for as long as a spin lasts, all are put to sleep: each says so in shared memory, is looked at once
//! more, and is left to the epoll, in which its socket is. One that has had nothing for some rounds of the others ([`QUIET`]) is put to
//! sleep alone. A bell wakes its lanes. So clients that are idle cost nothing, and a lone one costs a spin after its last call.
//!
//! While lanes are awake the epoll is looked at every [`LOOK`], since others are in a hurry as well. Where several are, their
//! clients on this processor get their turn then ([`Spin::give_way`]): else they would wait for the end of this one's slice, and
//! sleep, and take a bell for each call. Whoever has that turn, this side works for as long as it took before it gives the next.
//!
//! # Invariants
//! 1. Lanes in use are in `Awake::lanes`, or asleep (the client rings), or their client does not take its replies (the last try to
//!    write found no room, so it rings when there is some), or over and taken out.
//! 2. A connection whose socket has hung up is looked at until what was committed before is done, then closed.

use super::{Server, Trouble, conn::Conn, entry};
use crate::{
    error::ErrorKind,
    lanes::{self, Lanes, MOST},
    proto::{self, Header, Kind, Malformed, Reader},
};
use procession_sys::{Deadline, Spin};
use rustix::{
    event::epoll,
    net::{AddressFamily, sockopt},
};
use std::{os::fd::AsFd, sync::Arc, time::Duration};

/// How long lanes are served before the epoll is looked at.
const LOOK: Duration = Duration::from_micros(50);
/// The same where several clients are awake, who may share this processor.
const TURN_OF_MANY: Duration = Duration::from_micros(20);
/// After so many looks at lanes without anything to do some sleep, though others are awake: so many rounds where two are awake, fewer
/// where many are.
const QUIET: usize = 16384;
/// Where more lanes are awake than this, they are not spun on: a round over them takes long enough.
const FEW: usize = 32;

pub(super) struct Awake {
    lanes: Vec<Entry>,
    spin: Spin,
    /// Until when this side keeps the processor.
    mine: Deadline,
    /// How many connections have lanes, or were offered some, and how many may: each takes a descriptor that another client
    /// could connect with.
    count: usize,
    most: usize,
}

struct Entry {
    number: u64,
    lanes: Arc<Lanes>,
    quiet: u32,
}

impl Default for Awake {
    fn default() -> Awake {
        let most = MOST.min(entry::descriptors() / 8);
        Awake { lanes: Vec::new(), spin: Spin::adaptive(), mine: Deadline::from_nanos(0), count: 0, most }
    }
}

impl Awake {
    /// A connection is taken out.
    pub(super) fn forget(&mut self, conn: &Conn) {
        let some = conn.offer.is_some() || conn.wire.lanes().is_some();
        self.count -= usize::from(some);
    }

    /// Whether nobody has lanes.
    pub(super) fn is_empty(&self) -> bool {
        self.lanes.is_empty() && self.count == 0
    }
}

impl Server {
    pub(super) fn has_lanes(&self, number: u64) -> bool {
        self.conns.get(&number).is_some_and(|conn| conn.wire.lanes().is_some())
    }

    /// A client asks for lanes, or says that it uses them.
    pub(super) fn lanes(
        &mut self,
        number: u64,
        header: &Header,
        payload: &Reader<'_>,
    ) -> Result<(), Malformed> {
        payload.end()?;
        if header.kind == Kind::Request {
            if let Err(text) = self.offer(number, header.request) {
                self.world.refuse(number, header.request, &Trouble::fault(ErrorKind::Limit, text));
            }
            return Ok(());
        }
        let Some(conn) = self.conns.get_mut(&number) else { return Ok(()) };
        let unsent = self.world.peers.get(&number).is_none_or(|peer| peer.out.unsent() > 0);
        let Some(offer) = conn.offer.take_if(|_| !unsent) else {
            return Err(Malformed("it has no lanes, or has something to hear before".to_owned()));
        };
        conn.wire.use_lanes(offer);
        self.wake(number);
        Ok(())
    }

    /// The reply that offers lanes goes out here, with the memory; or the text of why there are none.
    fn offer(&mut self, number: u64, request: u64) -> Result<(), String> {
        let (Some(conn), Some(peer)) = (self.conns.get_mut(&number), self.world.peers.get(&number)) else {
            return Ok(());
        };
        let ours = rustix::process::geteuid();
        let local = !conn.wire.is_tls()
            && sockopt::socket_domain(&conn.wire) == Ok(AddressFamily::UNIX)
            && sockopt::socket_peercred(&conn.wire).is_ok_and(|peer| peer.uid == ours);
        let refuse = |cause: &str| Err(format!("there are no lanes for this client: {cause}"));
        if !self.bounds.lanes {
            return refuse("the server was told to give none");
        }
        if !local || peer.token.is_some() || conn.silence > 0 {
            return refuse("it is not local, or its connection may be replaced");
        }
        if conn.offer.is_some() || conn.wire.lanes().is_some() {
            return refuse("it was offered some before");
        }
        if peer.out.unsent() > 0 || !conn.head.is_empty() {
            return refuse("it has something to hear before");
        }
        if self.awake.count >= self.awake.most {
            return refuse("too many have some");
        }
        let (lanes, segment) = Lanes::make()?;
        let mut reply = Vec::new();
        let at = proto::begin(&mut reply);
        proto::end(&mut reply, at, Kind::Reply, 0, request, peer.received);
        match lanes::offer(conn.wire.as_fd(), &reply, &segment) {
            Ok(true) => {}
            Ok(false) => return refuse("the socket takes nothing"),
            Err(error) => return refuse(&error.to_string()),
        }
        conn.offer = Some(lanes);
        self.awake.count += 1;
        Ok(())
    }

    /// Has a connection's lanes looked at.
    fn wake(&mut self, number: u64) {
        let Some(conn) = self.conns.get_mut(&number).filter(|conn| !conn.awake) else { return };
        let Some(lanes) = conn.wire.lanes() else { return };
        lanes.wake();
        conn.awake = true;
        self.awake.lanes.push(Entry { number, lanes: lanes.clone(), quiet: 0 });
    }

    /// A bell was rung, or the socket has hung up.
    pub(super) fn hear(&mut self, number: u64) {
        let Some(conn) = self.conns.get(&number) else { return };
        let Some(lanes) = conn.wire.lanes() else { return };
        lanes.hear(conn.wire.as_fd(), false);
        if lanes.is_over() {
            // It says so for ever.
            let _ = epoll::delete(&self.epoll, &conn.wire);
        }
        // It may be that there is room.
        self.world.dirty.push(number);
        self.wake(number);
    }

    /// Serves the lanes that are awake, until they sleep; true if it is time to look at the epoll before that.
    pub(super) fn attend(&mut self) -> bool {
        if self.awake.lanes.is_empty() {
            return false;
        }
        let many = self.awake.lanes.len() > 1;
        let until = Deadline::after(if many { TURN_OF_MANY } else { LOOK });
        loop {
            let Awake { lanes, spin, .. } = &mut self.awake;
            let has_work = || lanes.iter().any(|entry| entry.lanes.has_work());
            // Others wait for their turn meanwhile.
            let spins = self.more.is_empty() && lanes.len() <= FEW;
            let found = if spins { spin.until(None, has_work) } else { has_work() };
            if found {
                self.serve_awake(until);
            } else if self.more.is_empty() {
                self.doze();
            }
            if self.awake.lanes.is_empty() {
                return false;
            }
            if self.over || !self.more.is_empty() {
                return true;
            }
            if until.passed() {
                if many && self.awake.mine.passed() {
                    self.awake.mine = Deadline::after(self.awake.spin.give_way());
                }
                return true;
            }
        }
    }

    /// Puts all lanes to sleep that have nothing to do.
    fn doze(&mut self) {
        let conns = &mut self.conns;
        self.awake.lanes.retain(|entry| {
            let stays = !entry.lanes.doze();
            if !stays && let Some(conn) = conns.get_mut(&entry.number) {
                conn.awake = false;
            }
            stays
        });
    }

    /// One round over the lanes that are awake, or the part of it that fits in; the next one begins behind it.
    fn serve_awake(&mut self, until: Deadline) {
        let quiet = (QUIET / self.awake.lanes.len().max(1)) as u32;
        let mut at = 0;
        while let Some(entry) = self.awake.lanes.get_mut(at) {
            if at > 0 && until.passed() {
                return self.awake.lanes.rotate_left(at);
            }
            let number = entry.number;
            let stays = if entry.lanes.has_work() {
                entry.quiet = 0;
                let stays = self.serve(number);
                self.settle();
                stays
            } else {
                entry.quiet += 1;
                entry.quiet <= quiet || !entry.lanes.doze()
            };
            // Nobody else takes one out.
            if stays {
                at += 1;
                continue;
            }
            self.awake.lanes.swap_remove(at);
            if let Some(conn) = self.conns.get_mut(&number) {
                conn.awake = false;
            }
        }
    }

    /// Does what is to be done for a client by way of its lanes; whether they are to be looked at again.
    fn serve(&mut self, number: u64) -> bool {
        // Its replies first: they may be what keeps its requests waiting.
        let waits = self.world.peers.get(&number).is_some_and(|peer| peer.out.unsent() > 0);
        if waits {
            self.world.dirty.push(number);
            self.settle();
        }
        if self.conns.get(&number).is_some_and(|conn| conn.yielded) {
            return true;
        }
        if self.is_full(number) {
            // It rings when it has taken some; unless it was not the lane that took no more, and nothing says that room is waited for.
            return self.more.contains(&number);
        }
        self.read(number);
        self.conns.contains_key(&number)
    }
}
