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
//!
//! # Invariants
//! 1. Nothing in the loop waits but the epoll.
//! 2. An object exists exactly as long as its count is not zero (`value`); after each step the dead ones are taken out.
//! 3. A connection is in `conns` and `World::peers`, or in neither.

mod admin;
mod body;
mod containers;
pub mod fuzz;
mod locks;
mod map;
#[cfg(feature = "pool")]
mod pool;
mod queue;
mod trouble;
mod value;
mod waits;
mod work;
mod world;

use crate::{
    error::ErrorKind,
    hosting::Known,
    proto::{self, HEADER, Header, Kind, Malformed, Op, Reader},
    ship,
};
use body::{Apply, Deferred, Object, Run, Task};
use procession_channel::net::Listener;
use procession_sys::Deadline;
use rustix::{
    buffer::spare_capacity,
    event::epoll::{self, CreateFlags, EventData, EventFlags},
    io::Errno,
    net::{AddressFamily, RecvFlags, SendFlags, sockopt},
};
use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::Duration,
};
pub(crate) use trouble::Trouble;
use work::{Call, Workers};
use world::{Caller, Grants, Peer, Reply, World, write_refusal};

const PRIVATE: u64 = 0;
const PUBLIC: u64 = 1;
const WORK: u64 = 2;
const STOP: u64 = 3;
const FIRST: u64 = 16;

/// How much is read at once.
const STEP: usize = 64 << 10;
/// A client with as many bytes of replies unread is not read from.
const HIGH: usize = 4 << 20;
/// What a reply may have at least, however short frames must be.
const LEAST: u64 = 64 << 20;
/// The most requests of a client that wait at the same time.
const OUTSTANDING: usize = 16 << 10;
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

struct Conn {
    socket: OwnedFd,
    /// Came by the private address.
    private: bool,
    /// What was read of frames that are not done yet.
    input: Vec<u8>,
    /// Requests in `input` wait until their client has read replies.
    held: bool,
    /// It has had its share of this turn; the rest of `input` waits in `Server::more`.
    yielded: bool,
    /// What the epoll looks for.
    interest: EventFlags,
}

/// What bounds the server.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Bounds {
    pub(crate) max_frame: u64,
}

pub(crate) struct Server {
    epoll: OwnedFd,
    listeners: [Option<Listener>; 2],
    paused: Option<Deadline>,
    stop: Arc<OwnedFd>,
    workers: Workers,
    bounds: Bounds,
    identity: [u8; 16],
    conns: HashMap<u64, Conn>,
    objects: HashMap<u64, Object>,
    names: HashMap<String, u64>,
    /// The types whose methods go by name.
    pub(crate) known: Known,
    /// Tickets that were not redeemed: the object, and the connection that issued it.
    tickets: HashMap<u64, (u64, u64)>,
    world: World,
    next: u64,
    scratch: Vec<u8>,
    /// Connections whose input is to be gone on with in the next turn.
    more: Vec<u64>,
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
    ) -> io::Result<Server> {
        let workers = Workers::new()?;
        let world = World::new(bounds.max_frame.max(LEAST), workers.completer());
        let server = Server {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            listeners: [private, public],
            paused: None,
            stop,
            workers,
            bounds,
            identity,
            conns: HashMap::new(),
            objects: HashMap::new(),
            names: HashMap::new(),
            known: Known::default(),
            tickets: HashMap::new(),
            world,
            next: FIRST,
            scratch: Vec::new(),
            more: Vec::new(),
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
            let now = (!self.more.is_empty()).then(|| Deadline::from_nanos(0));
            let next = self.world.next_deadline().into_iter().chain(self.paused).chain(now).min();
            events.clear();
            let timeout = Deadline::timespec(next);
            match epoll::wait(&self.epoll, spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
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
            for number in std::mem::take(&mut self.more) {
                if let Some(conn) = self.conns.get_mut(&number) {
                    conn.yielded = false;
                    self.go_on(number);
                    self.settle();
                }
            }
        }
        Ok(())
    }

    fn pass_time(&mut self) {
        let now = Deadline::now();
        while let Some((object, conn, request)) = self.world.next_expired(now) {
            if let Some(target) = self.objects.get_mut(&object) {
                target.expire(conn, request, object, &mut self.world);
            }
        }
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
                Err(error) if error.is_refused() => {}
                Err(_) => {
                    // No descriptor, or no memory: the listener stays readable. Those who are in are served meanwhile.
                    self.paused = Some(Deadline::after(PAUSE));
                    self.listen(false);
                    return;
                }
            }
        }
    }

    fn let_in(&mut self, socket: OwnedFd, private: bool) {
        let number = self.next;
        self.next += 1;
        let interest = EventFlags::IN;
        if epoll::add(&self.epoll, &socket, EventData::new_u64(number), interest).is_err() {
            return;
        }
        // A client that vanished without a word is noticed. Unix sockets know no such thing, and need none.
        if sockopt::set_socket_keepalive(&socket, true).is_ok() {
            let _ = sockopt::set_tcp_keepidle(&socket, Duration::from_secs(15));
            let _ = sockopt::set_tcp_keepintvl(&socket, Duration::from_secs(5));
            let _ = sockopt::set_tcp_keepcnt(&socket, 4);
        }
        // Of other sockets the kernel tells a pid of 0, which is none.
        let local = sockopt::socket_domain(&socket) == Ok(AddressFamily::UNIX);
        let peer = local.then(|| sockopt::socket_peercred(&socket).ok()).flatten();
        let pid = peer.map_or(0, |peer| peer.pid.as_raw_nonzero().get() as u32);
        self.world.peers.insert(number, Peer { pid, ..Peer::default() });
        self.conns.insert(
            number,
            Conn { socket, private, input: Vec::new(), held: false, yielded: false, interest },
        );
    }

    fn ready(&mut self, number: u64, flags: EventFlags) {
        if flags.contains(EventFlags::OUT) {
            // What was held back goes on in `settle`.
            self.world.dirty.push(number);
        }
        if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            self.read(number);
        }
    }

    /// Reads once, and does what was asked.
    fn read(&mut self, number: u64) {
        let Some(conn) = self.conns.get_mut(&number).filter(|conn| !conn.yielded) else { return };
        if conn.input.is_empty() {
            // Idle connections keep no memory.
            std::mem::swap(&mut conn.input, &mut self.scratch);
        }
        let have = conn.input.len();
        let missing = conn
            .input
            .first_chunk::<HEADER>()
            .and_then(|header| Header::decode(header).ok())
            .map_or(STEP, |header| {
                usize::try_from(header.len).unwrap_or(STEP).saturating_add(HEADER) - have.min(HEADER)
            });
        // It grows with what has come, not with what was announced.
        conn.input.reserve(missing.min(STEP.max(have)).max(4096));
        let came = rustix::net::recv(&conn.socket, spare_capacity(&mut conn.input), RecvFlags::DONTWAIT);
        match came {
            Ok((_, 0)) => self.close(number),
            Ok(_) => self.go_on(number),
            Err(Errno::AGAIN | Errno::INTR) => self.put_away(number),
            Err(_) => self.close(number),
        }
    }

    /// Does what stands in a connection's input, as long as its replies are read.
    fn go_on(&mut self, number: u64) {
        let Some(conn) = self.conns.get_mut(&number) else { return };
        let input = std::mem::take(&mut conn.input);
        let mut rest: &[u8] = &input;
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
            share = share.or_else(|| Some(Deadline::after(TURN)));
            rest = behind;
            if let Err(malformed) = self.frame(number, &header, payload) {
                broken = Some((header.request, Trouble::Malformed(malformed)));
            }
        }
        if let Some((request, trouble)) = broken {
            self.world.refuse(number, request, &trouble);
            self.flush(number);
            return self.close(number);
        }
        let left = rest.len();
        let full = self.is_full(number);
        if let Some(conn) = self.conns.get_mut(&number) {
            conn.input = input;
            conn.input.drain(..conn.input.len() - left);
            conn.held = (full || yielded) && left > 0;
            conn.yielded = yielded;
            if yielded {
                self.more.push(number);
            }
        }
        self.put_away(number);
    }

    /// Whether a client has so many replies to read that nothing more is done for it.
    fn is_full(&self, number: u64) -> bool {
        self.world.peers.get(&number).is_none_or(|peer| peer.out.len() - peer.sent >= HIGH)
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
        let unsent = peer.out.len() - peer.sent;
        let mut interest = EventFlags::empty();
        interest.set(EventFlags::IN, unsent < HIGH);
        interest.set(EventFlags::OUT, unsent > 0);
        if interest != conn.interest {
            conn.interest = interest;
            let _ = epoll::modify(&self.epoll, &conn.socket, EventData::new_u64(number), interest);
        }
    }

    fn flush(&mut self, number: u64) {
        let (Some(conn), Some(peer)) = (self.conns.get(&number), self.world.peers.get_mut(&number)) else {
            return;
        };
        while peer.sent < peer.out.len() {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::send(&conn.socket, &peer.out[peer.sent..], flags) {
                Ok(sent) => peer.sent += sent,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                // The end is seen by reading.
                Err(_) => peer.sent = peer.out.len(),
            }
        }
        if peer.sent == peer.out.len() {
            peer.sent = 0;
            if peer.out.capacity() > STEP {
                peer.out = Vec::new();
            }
            peer.out.clear();
        } else if peer.sent > HIGH.max(peer.out.len() / 2) {
            peer.out.drain(..peer.sent);
            peer.sent = 0;
        }
        self.watch(number);
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

    fn close(&mut self, number: u64) {
        let Some(conn) = self.conns.remove(&number) else { return };
        let _ = epoll::delete(&self.epoll, &conn.socket);
        drop(conn);
        let Some(peer) = self.world.peers.get_mut(&number) else { return };
        let (parked, holds) = (std::mem::take(&mut peer.parked), std::mem::take(&mut peer.holds));
        for (request, object) in parked {
            if let Some(target) = self.objects.get_mut(&object) {
                target.forget(number, request, object, &mut self.world);
            }
        }
        for object in holds {
            if let Some(target) = self.objects.get_mut(&object) {
                target.client_died(number, object, &mut self.world);
            }
        }
        for (_, (object, _)) in self.tickets.extract_if(|_, (_, issuer)| *issuer == number) {
            self.world.counts.down(object, 1);
        }
        if let Some(peer) = self.world.peers.remove(&number) {
            peer.leases.into_iter().for_each(|(object, times)| self.world.counts.down(object, times));
        }
    }

    /// One request. An error closes the connection.
    fn frame(&mut self, conn: u64, header: &Header, payload: &[u8]) -> Result<(), Malformed> {
        if header.kind == Kind::Reply {
            return Err(Malformed("a reply, where only requests come".to_owned()));
        }
        let Some(peer) = self.world.peers.get(&conn) else { return Ok(()) };
        let op = Op::of(header.method);
        if !peer.greeted && op != Some(Op::Hello) {
            return Err(Malformed("the first request is not a greeting".to_owned()));
        }
        let caller = Caller { conn, request: header.request, object: header.object };
        let refusal = match op {
            None => Trouble::fault(ErrorKind::Invalid, format!("there is no method {}", header.method)),
            _ if peer.parked.contains_key(&header.request) => {
                return Err(Malformed("its number is that of a request that still waits".to_owned()));
            }
            _ if peer.parked.len() + peer.queued >= OUTSTANDING => Trouble::fault(
                ErrorKind::Limit,
                format!("{OUTSTANDING} requests of this client wait already"),
            ),
            Some(op) => return self.request(caller, op, header.kind == Kind::Request, payload),
        };
        if header.kind == Kind::Request {
            self.world.refuse(conn, header.request, &refusal);
        }
        Ok(())
    }

    fn request(&mut self, caller: Caller, op: Op, replies: bool, payload: &[u8]) -> Result<(), Malformed> {
        let Some(peer) = self.world.peers.get_mut(&caller.conn) else { return Ok(()) };
        if caller.object != 0
            && let Some(object) = self.objects.get_mut(&caller.object)
            && object.busy
        {
            peer.queued += 1;
            object.backlog.push_back(Deferred { caller, op, replies, payload: payload.to_vec() });
            return Ok(());
        }
        // What is said to this client meanwhile comes behind this reply.
        let leased = peer.leases.contains_key(&caller.object);
        let mut out = std::mem::take(&mut peer.out);
        let mut grants = Grants::new(&self.world.counts);
        let at = proto::begin(&mut out);
        let mut input = Reader::new(payload);
        let mut reply = Reply::new(&mut out, &mut grants);
        let answer = if caller.object == 0 {
            self.admin(caller, op, &mut input, &mut reply)
        } else {
            match self.objects.get_mut(&caller.object) {
                Some(object) if leased => object.handle(op, caller, &mut input, &mut reply, &mut self.world),
                _ => Err(Trouble::fault(ErrorKind::ObjectGone, "the object is not there any more")),
            }
        };
        let (mut work, mut broken) = (None, Ok(()));
        match answer {
            Ok(Answer::Now) if replies => proto::end(&mut out, at, Kind::Reply, 0, caller.request, 0),
            Ok(Answer::Now | Answer::Later) => out.truncate(at),
            Ok(Answer::Work(task)) => {
                out.truncate(at);
                work = Some(task);
            }
            Err(trouble) => {
                out.truncate(at);
                grants = Grants::new(&self.world.counts);
                match trouble {
                    Trouble::Malformed(malformed) => broken = Err(malformed),
                    trouble if replies => write_refusal(&mut out, caller.request, &trouble),
                    _ => {}
                }
            }
        }
        if let Some(peer) = self.world.peers.get_mut(&caller.conn) {
            let between = std::mem::replace(&mut peer.out, out);
            peer.out.extend_from_slice(&between);
        }
        self.world.dirty.push(caller.conn);
        self.world.grant(caller.conn, grants);
        if let Some(task) = work {
            self.start(caller, replies, *task);
        }
        broken
    }

    /// Gives a function to the workers.
    fn start(&mut self, mut caller: Caller, replies: bool, task: Task) {
        let Task { run, job, apply } = task;
        let trusted = self.world.peers.get(&caller.conn).is_some_and(|peer| peer.trusted);
        if let Apply::New = apply {
            // The object was made for this.
            caller.object = self.next - 1;
        }
        let Some(object) = self.objects.get_mut(&caller.object) else { return };
        let run = match run {
            Run::Shipped(trampoline) => ship::trampoline(&trampoline, trusted),
            Run::Known(run) => Ok(run),
        };
        match run {
            Ok(run) => {
                object.busy = true;
                self.world.counts.up(caller.object);
                if let Some(peer) = self.world.peers.get_mut(&caller.conn) {
                    peer.queued += 1;
                }
                self.workers.run(Call { caller, replies, apply }, run, job);
            }
            Err(text) => {
                object.apply(&apply, job.state);
                self.world.refuse(caller.conn, caller.request, &Trouble::fault(ErrorKind::Refused, text));
                if let Apply::New = apply {
                    self.world.counts.up(caller.object);
                    self.world.counts.down(caller.object, 1);
                }
            }
        }
    }

    /// Takes back what functions have left.
    fn take_back(&mut self) {
        for (Call { caller, replies, apply }, done) in self.workers.done() {
            #[cfg(feature = "pool")]
            if let Apply::Pool = apply {
                if let Some(Object { body: body::Body::Pool(pool), .. }) =
                    self.objects.get_mut(&caller.object)
                {
                    pool.finished(caller, done, &mut self.world);
                }
                continue;
            }
            if let Some(peer) = self.world.peers.get_mut(&caller.conn) {
                peer.queued = peer.queued.saturating_sub(1);
            }
            let ended = matches!(apply, Apply::Object | Apply::New) || done.outcome.is_ok();
            if let Some(object) = self.objects.get_mut(&caller.object) {
                object.busy = false;
                if ended {
                    object.apply(&apply, done.state);
                }
            }
            match done.outcome {
                Ok(value) if replies => {
                    self.world.reply(caller.conn, caller.request, |reply| match apply {
                        Apply::New => reply.lease(caller.object),
                        _ => reply.parts(&value, &[]),
                    });
                }
                Err(failure) if replies => {
                    let trouble = trouble::failed(failure);
                    self.world.refuse(caller.conn, caller.request, &trouble);
                }
                _ => {}
            }
            self.run_backlog(caller.object);
            self.world.counts.down(caller.object, 1);
        }
    }

    fn run_backlog(&mut self, number: u64) {
        while let Some(object) = self.objects.get_mut(&number)
            && !object.busy
            && let Some(Deferred { caller, op, replies, payload }) = object.backlog.pop_front()
        {
            let Some(peer) = self.world.peers.get_mut(&caller.conn) else { continue };
            peer.queued = peer.queued.saturating_sub(1);
            if let Err(malformed) = self.request(caller, op, replies, &payload) {
                self.world.refuse(caller.conn, caller.request, &Trouble::Malformed(malformed));
                self.flush(caller.conn);
                self.close(caller.conn);
            }
        }
    }
}
