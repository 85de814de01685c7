//! What objects see of the server: connections, those who wait, and the clock.
//!
//! # Invariants
//! 1. A waiter is in one object's queue exactly as long as its request stands in its connection's `parked`, and its timer,
//!    if it has one, in `timers`. [`World::answer`] and [`World::forget`] end all three together.
//! 2. A reply grants the leases of the proxies inside of it, in the same step.

use super::{
    Bounds, LEAST, Trouble,
    map::Seen,
    out::Out,
    value::{Counts, Value},
    work::Completer,
};
use crate::{error::ErrorKind, proto::FOREVER};
use procession_sys::Deadline;
use rustc_hash::FxHashMap;
use std::{
    any::Any,
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

/// A connection's state, as objects see it.
#[derive(Default)]
pub(crate) struct Peer {
    /// Who it is, for messages.
    pub(crate) pid: u32,
    /// Whether it is of this tree, so that its references to functions are honoured.
    pub(crate) trusted: bool,
    pub(crate) greeted: bool,
    pub(crate) out: Out,
    /// How often each object was leased to it.
    pub(crate) leases: FxHashMap<u64, u64>,
    /// Requests that wait.
    pub(crate) parked: HashMap<u64, Parked>,
    /// Objects that this client holds something of.
    pub(crate) holds: BTreeSet<u64>,
    /// Requests that were handed to the workers or wait for an object that is at work.
    pub(crate) queued: usize,
    /// How many bytes those have that wait for whatever it is.
    pub(crate) kept: u64,
    /// It has issued tickets.
    pub(crate) issues: bool,
    /// How it is known if it comes back (`away`). Then `out` is kept until it was received.
    pub(crate) token: Option<[u8; 16]>,
    /// How many of its frames were done; 0 where they are not counted. How many of those said to it were taken off `out`.
    pub(crate) received: u64,
    pub(crate) acked: u64,
    /// How long it may be away, and until when it may, now; how long it may say nothing. In nanoseconds.
    pub(crate) grace: u64,
    pub(crate) away: Option<u64>,
    pub(crate) silence: u64,
}

/// A request that waits.
#[derive(Clone, Copy)]
pub(crate) struct Parked {
    pub(crate) object: u64,
    bytes: u64,
}

/// Who waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Waiter {
    pub(crate) conn: u64,
    pub(crate) request: u64,
    timer: Option<(u64, u64)>,
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    pub(crate) conn: u64,
    pub(crate) request: u64,
    pub(crate) object: u64,
    /// How many bytes came with it.
    pub(crate) bytes: u64,
}

pub(crate) struct World {
    pub(crate) peers: FxHashMap<u64, Peer>,
    pub(crate) counts: Counts,
    /// About how many bytes a reply may have that repeats what is kept, or a list that is repeated; and the requests of one
    /// client that wait.
    pub(crate) limit: u64,
    /// How many bytes of results a client may leave unread.
    #[cfg_attr(not(feature = "pool"), allow(dead_code, reason = "only pools have such"))]
    max_unread: u64,
    /// Whether clients that are not of this tree may end pools.
    #[cfg_attr(not(feature = "pool"), allow(dead_code, reason = "only pools have such"))]
    pub(crate) public_pool_end: bool,
    /// (time, number) to (object, connection, request).
    timers: BTreeMap<(u64, u64), (u64, u64, u64)>,
    next_timer: u64,
    /// Connections with something to send.
    pub(crate) dirty: Vec<u64>,
    /// What takes its time to be dropped.
    pub(crate) rubbish: Vec<Box<dyn Any + Send>>,
    /// For what pools have done.
    #[cfg_attr(not(feature = "pool"), allow(dead_code, reason = "only pools do so"))]
    pub(crate) completer: Completer,
}

/// Leases that a reply hands out, counted from the moment at which they are written: what the proxies were taken out of may be
/// dropped before the reply is complete.
pub(crate) struct Grants {
    objects: Vec<u64>,
    counts: Counts,
}

impl Grants {
    pub(crate) fn new(counts: &Counts) -> Grants {
        Grants { objects: Vec::new(), counts: counts.clone() }
    }

    fn add(&mut self, object: u64) {
        if self.counts.up(object) {
            self.objects.push(object);
        }
    }
}

impl Drop for Grants {
    fn drop(&mut self) {
        // Those of a reply that was not sent.
        self.objects.drain(..).for_each(|object| self.counts.down(object, 1));
    }
}

/// A reply that is being written.
pub(crate) struct Reply<'a> {
    out: &'a mut Out,
    grants: &'a mut Grants,
}

impl<'a> Reply<'a> {
    pub(crate) fn new(out: &'a mut Out, grants: &'a mut Grants) -> Reply<'a> {
        Reply { out, grants }
    }

    pub(crate) fn u64(&mut self, number: u64) {
        self.out.put_u64(number);
    }

    pub(crate) fn bool(&mut self, flag: bool) {
        self.u64(u64::from(flag));
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.out.put_bytes(bytes);
    }

    fn grant(&mut self, refs: &[u64]) {
        refs.iter().for_each(|&object| self.grants.add(object));
    }

    /// An entry's value.
    pub(crate) fn seen(&mut self, seen: &Seen<'_>) {
        self.out.put_value(seen.value, seen.large, seen.refs);
        self.grant(seen.refs);
    }

    pub(crate) fn value(&mut self, value: &Value) {
        self.out.put_value(&value.bytes, value.bytes.large(), value.ids());
        self.grant(value.ids());
    }

    /// A value, or that there is none.
    pub(crate) fn option(&mut self, value: Option<&Value>) {
        self.bool(value.is_some());
        if let Some(value) = value {
            self.value(value);
        }
    }

    /// The value of an entry, or that there is none.
    pub(crate) fn entry(&mut self, entry: Option<Seen<'_>>) {
        self.bool(entry.is_some());
        if let Some(seen) = entry {
            self.seen(&seen);
        }
    }

    /// How much was written so far.
    pub(crate) fn len(&self) -> usize {
        self.out.len()
    }

    /// A place for a number that is known later.
    pub(crate) fn later(&mut self) -> usize {
        self.out.later()
    }

    pub(crate) fn fill(&mut self, at: usize, number: u64) {
        self.out.fill(at, number);
    }

    pub(crate) fn lease(&mut self, object: u64) {
        self.u64(object);
        self.grants.add(object);
    }
}

impl Peer {
    /// A request was handed to the workers, or waits for an object that is at work.
    pub(crate) fn queue(&mut self, caller: &Caller) {
        self.queued += 1;
        self.kept += caller.bytes;
    }

    /// It does not any more.
    pub(crate) fn unqueue(&mut self, caller: &Caller) {
        self.queued = self.queued.saturating_sub(1);
        self.kept = self.kept.saturating_sub(caller.bytes);
    }
}

impl World {
    pub(crate) fn new(bounds: &Bounds, completer: Completer) -> World {
        World {
            peers: FxHashMap::default(),
            counts: Counts::default(),
            limit: bounds.max_frame.max(LEAST),
            max_unread: bounds.max_unread,
            public_pool_end: bounds.public_pool_end,
            timers: BTreeMap::new(),
            next_timer: 0,
            dirty: Vec::new(),
            rubbish: Vec::new(),
            completer,
        }
    }

    pub(crate) fn pid(&self, conn: u64) -> u32 {
        self.peers.get(&conn).map_or(0, |peer| peer.pid)
    }

    /// Notes that a client holds something of an object, or no longer.
    pub(crate) fn holds(&mut self, conn: u64, object: u64, holds: bool) {
        if let Some(peer) = self.peers.get_mut(&conn) {
            if holds {
                peer.holds.insert(object);
            } else {
                peer.holds.remove(&object);
            }
        }
    }

    /// Gives a connection its leases of what a reply to it holds.
    pub(crate) fn grant(&mut self, conn: u64, mut grants: Grants) {
        let Some(peer) = self.peers.get_mut(&conn) else { return };
        for object in grants.objects.drain(..) {
            *peer.leases.entry(object).or_default() += 1;
        }
    }

    /// Takes leases of an object back from a connection.
    pub(crate) fn revoke(&mut self, conn: u64, object: u64, times: u64) {
        let Some(peer) = self.peers.get_mut(&conn) else { return };
        let Some(has) = peer.leases.get_mut(&object) else { return };
        let times = times.min(*has);
        *has -= times;
        if *has == 0 {
            peer.leases.remove(&object);
        }
        self.counts.down(object, times);
    }

    /// Parks a request, for `timeout` nanoseconds.
    pub(crate) fn park(&mut self, caller: Caller, timeout: u64) -> Waiter {
        let timer = (timeout != FOREVER).then(|| {
            self.next_timer += 1;
            let key = (Deadline::after(Duration::from_nanos(timeout)).as_nanos(), self.next_timer);
            self.timers.insert(key, (caller.object, caller.conn, caller.request));
            key
        });
        if let Some(peer) = self.peers.get_mut(&caller.conn) {
            peer.parked.insert(caller.request, Parked { object: caller.object, bytes: caller.bytes });
            peer.kept += caller.bytes;
        }
        Waiter { conn: caller.conn, request: caller.request, timer }
    }

    /// Takes the time away from a waiter that goes on to wait for something else.
    pub(crate) fn without_timer(&mut self, waiter: Waiter) -> Waiter {
        if let Some(key) = waiter.timer {
            self.timers.remove(&key);
        }
        Waiter { timer: None, ..waiter }
    }

    /// Takes the time away from all that a connection waits for, by going through those of everybody.
    pub(crate) fn drop_timers(&mut self, conn: u64) {
        self.timers.retain(|_, (_, of, _)| *of != conn);
    }

    pub(crate) fn forget(&mut self, waiter: Waiter) {
        if let Some(key) = waiter.timer {
            self.timers.remove(&key);
        }
        self.unpark(waiter.conn, waiter.request);
    }

    /// A request does not wait any more.
    pub(crate) fn unpark(&mut self, conn: u64, request: u64) {
        if let Some(peer) = self.peers.get_mut(&conn)
            && let Some(parked) = peer.parked.remove(&request)
        {
            peer.kept = peer.kept.saturating_sub(parked.bytes);
        }
    }

    /// Ends a wait with what `write` says; false if its client is gone.
    pub(crate) fn answer(&mut self, waiter: Waiter, write: impl FnOnce(&mut Reply<'_>)) -> bool {
        self.forget(waiter);
        self.reply(waiter.conn, waiter.request, write)
    }

    pub(crate) fn reply(&mut self, conn: u64, request: u64, write: impl FnOnce(&mut Reply<'_>)) -> bool {
        let Some(peer) = self.peers.get_mut(&conn) else { return false };
        let mut grants = Grants::new(&self.counts);
        let at = peer.out.begin();
        write(&mut Reply::new(&mut peer.out, &mut grants));
        peer.out.end(at, 0, request, peer.received);
        self.dirty.push(conn);
        self.grant(conn, grants);
        true
    }

    /// Whether a client has room for results of so many bytes behind what it has not read yet; or why not.
    #[cfg_attr(not(feature = "pool"), allow(dead_code, reason = "only pools have such"))]
    pub(crate) fn may_keep(&self, conn: u64, bytes: u64) -> Result<(), String> {
        let Some(peer) = self.peers.get(&conn) else { return Ok(()) };
        let (unread, limit) = (peer.out.unsent() as u64, self.max_unread);
        if unread.saturating_add(bytes) <= limit {
            return Ok(());
        }
        Err(format!("the results have {bytes} bytes, and {unread} wait to be read: the limit is {limit}"))
    }

    /// Ends a wait with an error.
    pub(crate) fn fail(&mut self, waiter: Waiter, kind: ErrorKind, text: &str) {
        self.forget(waiter);
        self.refuse(waiter.conn, waiter.request, &Trouble::fault(kind, text));
    }

    pub(crate) fn refuse(&mut self, conn: u64, request: u64, trouble: &Trouble) {
        let Some(peer) = self.peers.get_mut(&conn) else { return };
        write_refusal(&mut peer.out, request, trouble, peer.received);
        self.dirty.push(conn);
    }

    pub(crate) fn next_deadline(&self) -> Option<Deadline> {
        self.timers.first_key_value().map(|((time, _), _)| Deadline::from_nanos(*time))
    }

    /// The next wait whose time is over: object, connection, request.
    pub(crate) fn next_expired(&mut self, now: Deadline) -> Option<(u64, u64, u64)> {
        let entry = self.timers.first_entry()?;
        if entry.key().0 > now.as_nanos() {
            return None;
        }
        Some(entry.remove())
    }
}

pub(crate) fn write_refusal(out: &mut Out, request: u64, trouble: &Trouble, has: u64) {
    let at = out.begin();
    out.put_bytes(trouble.text().as_bytes());
    if let Trouble::Fault(fault) = trouble
        && let Some(more) = &fault.more
    {
        out.put_bytes(more);
    }
    out.end(at, trouble.kind().status(), request, has);
}
