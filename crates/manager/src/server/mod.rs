//! The server: one loop over all connections, and the objects.
//!
//! # Protocol
//! * Listeners take their clients through the handshake; who comes out of it is a connection here. Its first frame is
//!   `Hello`.
//! * A readable connection is read once, and each whole frame in what came is one request, done at once: answered, refused,
//!   parked in the object ([`World::park`]), or given to the workers. While a function works on an object, requests for
//!   that object stand in its backlog; others go on.
//! * Replies gather in `Peer::out`, and are sent as far as the socket takes them. A client that does not read its replies is
//!   not read from either: what it can make the server keep is bounded.
//! * What is no frame, or no payload, closes that connection, after a reply that says why.
//! * A local client's frames come and go by lanes in shared memory, where it could be given some (`lanes`).
//! * At a public address with TLS the handshakes, of TLS and of the key, are taken along in this loop (`entry`).
//! * A client that may come back (`away`) keeps its number, its leases and its waits when its connection ends, until its time
//!   is over.
//!
//! # Invariants
//! 1. Nothing in the loop waits but the epoll; what spins for lanes does so for a short time.
//! 2. An object exists exactly as long as its count is not zero (`value`); after each step the dead ones are taken out.
//! 3. Tables whose numbers are the server's own are hashed by a multiplication. Those of numbers that clients choose are not: they
//!    could choose them so that all fall into one place.
//! 4. A connection in `conns` is in `World::peers` as well. A peer without a connection is in `away`.

mod admin;
mod away;
mod body;
mod calls;
mod conn;
mod containers;
mod entry;
pub mod fuzz;
mod lanes;
mod locks;
mod map;
mod numbers;
mod out;
#[cfg(feature = "pool")]
mod pool;
mod queue;
mod trouble;
mod value;
mod waits;
mod work;
mod world;

use crate::{error::ErrorKind, hosting::Known};
use body::{Object, Task};
use conn::Conn;
pub(crate) use entry::Secure;
use lanes::Awake;
use numbers::Numbers;
use procession_channel::net::Listener;
use procession_sys::Deadline;
use rustc_hash::FxHashMap;
use rustix::{
    buffer::spare_capacity,
    event::epoll::{self, CreateFlags, EventData, EventFlags},
    io::Errno,
};
use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::Duration,
};
pub(crate) use trouble::Trouble;
use work::Workers;
use world::World;

const PRIVATE: u64 = 0;
const PUBLIC: u64 = 1;
const WORK: u64 = 2;
const STOP: u64 = 3;
const FIRST: u64 = 16;

/// How much is read at once.
const STEP: usize = 64 << 10;
/// The same of a local client's large frame: up to so much memory is made ready for what was announced.
const LARGE_STEP: usize = 16 << 20;
/// A client with as many bytes of replies unread is not read from.
const HIGH: usize = 4 << 20;
/// What a reply may have at least, however short frames must be.
const LEAST: u64 = 64 << 20;
/// The most requests of a client that wait at the same time.
const OUTSTANDING: usize = 16 << 10;
/// Requests up to this size are bounded by their number alone.
const SMALL: u64 = 4096;
/// How many bytes a client that may come back may leave without a word that it has them.
const UNACKED: usize = 64 << 20;
/// How long a peer over a network may be silent before the kernel asks and gives it up, where nobody says.
pub(crate) const SILENCE: Duration = Duration::from_secs(35);
/// How long it may take nothing of what was sent to it: it may be stopped, or have nobody who reads, and yet be there.
pub(crate) const UNREAD: Duration = Duration::from_secs(140);
/// How many requests of a client are done, and for how long, before others have their turn.
const SHARE: usize = 1024;
const TURN: Duration = Duration::from_millis(2);
/// How many clients are let in before others have their turn.
const BATCH: usize = 64;
/// How long no client is let in after there was no descriptor for one.
const PAUSE: Duration = Duration::from_millis(100);

/// What the loop does with a request.
pub(crate) enum Answer {
    Now,
    Later,
    Work(Box<Task>),
}

/// What bounds the server.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Bounds {
    pub(crate) max_frame: u64,
    /// At the public address; what the descriptors allow otherwise.
    pub(crate) max_connections: Option<usize>,
    /// How long a client that went may have to come back.
    pub(crate) max_grace: Duration,
    /// Whether local clients get lanes.
    pub(crate) lanes: bool,
    /// How many bytes of what its calls came to a client may leave unread.
    pub(crate) max_unread: u64,
    /// Whether clients of the public address may end pools.
    pub(crate) public_pool_end: bool,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            max_frame: 1 << 30,
            max_connections: None,
            max_grace: Duration::from_secs(60),
            lanes: true,
            max_unread: 1 << 30,
            public_pool_end: false,
        }
    }
}

pub(crate) struct Server {
    epoll: OwnedFd,
    listeners: [Option<Listener>; 2],
    paused: Option<Deadline>,
    stop: Arc<OwnedFd>,
    workers: Workers,
    bounds: Bounds,
    identity: [u8; 16],
    /// TLS at the public address.
    secure: Option<Secure>,
    conns: FxHashMap<u64, Conn>,
    /// How many of them came by the public address, and how many may.
    publics: usize,
    most_publics: usize,
    /// Those that have not proved the key yet, where that is done here: the oldest first.
    pending: BTreeSet<u64>,
    /// (time, connection): when to look after one that has to say hello, or to give signs of life.
    watched: BTreeSet<(u64, u64)>,
    /// (time, client): whose connection broke, and how long they may come back.
    away: BTreeSet<(u64, u64)>,
    /// How clients that come back are known.
    tokens: HashMap<[u8; 16], u64>,
    /// Why connections were refused: the last ones; and how many.
    refusals: VecDeque<String>,
    refused: u64,
    objects: FxHashMap<u64, Object>,
    names: HashMap<String, u64>,
    /// The types whose methods go by name.
    pub(crate) known: Known,
    /// Tickets that were not redeemed: the object, and the connection that issued it.
    tickets: HashMap<u64, (u64, u64)>,
    world: World,
    /// The next connection's number.
    next: u64,
    /// Where those of objects and tickets come from.
    numbers: Option<Numbers>,
    /// The object that was made last.
    made: u64,
    scratch: Vec<u8>,
    /// Connections whose input, or output, is to be gone on with in the next turn.
    more: Vec<u64>,
    /// Lanes that clients ring no bell for.
    awake: Awake,
    over: bool,
}

impl Drop for Server {
    fn drop(&mut self) {
        for (_, object) in self.objects.drain() {
            if let Some(hosted) = object.body.into_rubbish() {
                work::discard(hosted);
            }
        }
    }
}

impl Server {
    pub(crate) fn new(
        private: Option<Listener>,
        public: Option<Listener>,
        stop: Arc<OwnedFd>,
        identity: [u8; 16],
        bounds: Bounds,
        secure: Option<Secure>,
    ) -> io::Result<Server> {
        let workers = Workers::new()?;
        let world = World::new(&bounds, workers.completer());
        let server = Server {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            listeners: [private, public],
            paused: None,
            stop,
            workers,
            bounds,
            identity,
            secure,
            conns: FxHashMap::default(),
            publics: 0,
            most_publics: bounds.max_connections.unwrap_or_else(entry::most_connections),
            pending: BTreeSet::new(),
            watched: BTreeSet::new(),
            away: BTreeSet::new(),
            tokens: HashMap::new(),
            refusals: VecDeque::new(),
            refused: 0,
            objects: FxHashMap::default(),
            names: HashMap::new(),
            known: Known::default(),
            tickets: HashMap::new(),
            world,
            next: FIRST,
            numbers: Some(Numbers::new()),
            made: 0,
            scratch: Vec::new(),
            more: Vec::new(),
            awake: Awake::default(),
            over: false,
        };
        let add = |fd: rustix::fd::BorrowedFd<'_>, number| {
            epoll::add(&server.epoll, fd, EventData::new_u64(number), EventFlags::IN)
        };
        add(server.workers.event().as_fd(), WORK)?;
        add(server.stop.as_fd(), STOP)?;
        for (listener, number) in server.listeners.iter().zip([PRIVATE, PUBLIC]) {
            if let Some(listener) = listener {
                add(listener.as_fd(), number)?;
            }
        }
        Ok(server)
    }

    /// Serves until somebody says that it is over.
    pub(crate) fn run(&mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(256);
        while !self.over {
            self.turn(&mut events, true)?;
        }
        Ok(())
    }

    /// Does what there is to do, after waiting for some if it `waits`; false if there was nothing.
    fn turn(&mut self, events: &mut Vec<epoll::Event>, waits: bool) -> io::Result<bool> {
        let busy = self.attend();
        if self.over {
            return Ok(true);
        }
        let now = (busy || !waits || !self.more.is_empty()).then(|| Deadline::from_nanos(0));
        let looks = [self.watched.first(), self.away.first()].into_iter().flatten();
        let looks = looks.map(|(time, _)| Deadline::from_nanos(*time));
        let next = self.world.next_deadline().into_iter().chain(looks).chain(self.paused).chain(now).min();
        events.clear();
        let timeout = Deadline::timespec(next);
        match epoll::wait(&self.epoll, spare_capacity(events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &*events {
            match event.data.u64() {
                number @ (PRIVATE | PUBLIC) => self.accept(number),
                WORK => self.take_back(),
                STOP => self.over = true,
                conn => self.ready(conn, event.flags),
            }
            self.settle();
        }
        self.pass_time();
        self.settle();
        let more = std::mem::take(&mut self.more);
        let found = busy || !events.is_empty() || !more.is_empty();
        for number in more {
            if let Some(conn) = self.conns.get_mut(&number) {
                conn.yielded = false;
                self.world.dirty.push(number);
                self.go_on(number);
                self.settle();
            }
        }
        Ok(found)
    }

    fn pass_time(&mut self) {
        let now = Deadline::now();
        while let Some((object, conn, request)) = self.world.next_expired(now) {
            match self.objects.get_mut(&object) {
                Some(target) => target.expire(conn, request, object, &mut self.world),
                // Its last lease was let go while this waited.
                None => {
                    self.world.unpark(conn, request);
                    let gone = Trouble::fault(ErrorKind::ObjectGone, "the object is not there any more");
                    self.world.refuse(conn, request, &gone);
                }
            }
        }
        self.look_after(now);
        if self.paused.is_some_and(|until| until <= now) {
            self.paused = None;
            self.listen(true);
        }
    }

    fn listen(&self, on: bool) {
        for (listener, number) in self.listeners.iter().zip([PRIVATE, PUBLIC]) {
            let Some(listener) = listener else { continue };
            let _ = if on {
                epoll::add(&self.epoll, listener, EventData::new_u64(number), EventFlags::IN)
            } else {
                epoll::delete(&self.epoll, listener)
            };
        }
    }

    fn accept(&mut self, number: u64) {
        for _ in 0..BATCH {
            let Some(Some(listener)) = self.listeners.get(number as usize) else { return };
            match listener.try_accept::<(), ()>() {
                Ok(Some(connection)) => self.let_in(connection.into(), number == PRIVATE),
                Ok(None) => return,
                Err(error) if error.is_refused() => self.note(&error.to_string()),
                Err(_) => {
                    // No descriptor, or no memory: the listener stays readable. Those who are in are served meanwhile.
                    self.paused = Some(Deadline::after(PAUSE));
                    self.listen(false);
                    return;
                }
            }
        }
    }

    /// Sends what was said, and takes dead objects out.
    fn settle(&mut self) {
        self.bury();
        while let Some(number) = self.world.dirty.pop() {
            self.flush(number);
            if self.conns.get(&number).is_some_and(|conn| conn.held && !conn.yielded) && !self.is_full(number)
            {
                self.go_on(number);
                self.bury();
            }
        }
    }

    fn bury(&mut self) {
        while let Some(object) = self.world.counts.next_dead() {
            // The user's own `drop` takes its time, or panics.
            if let Some(hosted) = self.objects.remove(&object).and_then(|object| object.body.into_rubbish()) {
                self.workers.discard(hosted);
            }
        }
        self.world.rubbish.drain(..).for_each(|rubbish| self.workers.discard(rubbish));
    }
}
