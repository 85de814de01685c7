//! This process's connection to a server: one socket, shared by all threads.
//!
//! # Protocol
//! A caller lays down its request's number in `pending`, sends the frame, and waits for the reply. Of those who wait, one
//! reads the socket and hands out what comes; it leaves when it has its own reply, and wakes another one to read on. So no
//! thread of ours is needed, and a lone caller has no switch of threads.
//!
//! One thread sends at a time (`Row::busy`). What has no reply never waits for it: it is laid down in `Row::bytes`, and the
//! sender sends it behind its own frame. So does the rest of a frame whose caller had no more time, before anything else.
//!
//! # Invariants
//! 1. The reader is in `State`, or in the hands of one thread that waits for a reply.
//! 2. A number is in `pending` from before its frame is sent until its reply was taken, or nobody wants it any more; what
//!    an unwanted reply brought is given back ([`Late`]).
//! 3. What was laid down in `Row::bytes` goes out before any frame that is begun later: frames are never mixed.
//! 4. Once `dead` is set it stays, and everybody in `pending` is told.
//!
//! # When a process dies
//! The server's death is the end of the socket, which the reader sees at once and tells all. This process's death closes it,
//! and the server gives back what was held by way of it. A forked child has no use for its parent's connection: it makes
//! its own (`site`).

mod later;

use crate::{
    error::{Error, ErrorKind, Result},
    frames::FrameReader,
    proto::{self, Header, Kind, Op, Reader},
};
#[cfg(feature = "pool")]
pub(crate) use later::Begun;
use later::Futures;
use procession_channel::net;
use procession_parcel::{Panic, codec, function::image};
use procession_sys::{Deadline, fd};
use rustix::{
    event::{PollFd, PollFlags},
    io::Errno,
    net::SendFlags,
};
use std::{
    collections::HashMap,
    fmt,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    task::Waker,
    time::Duration,
};

/// How long a client waits beyond a call's time for the server to say that it is over.
const SLACK: Duration = Duration::from_secs(1);
/// How long a message without a reply may wait for room, before it is left for the next who sends or reads.
const TELL: Duration = Duration::from_secs(1);
/// How long a sender waits for room before it looks whether it should read.
const SLICE: Duration = Duration::from_millis(50);

/// A payload that came.
pub(crate) struct Frame {
    status: u16,
    pub(crate) payload: Vec<u8>,
}

/// What a connection is for.
pub(crate) const CLIENT: u64 = 0;
/// It holds one lease, in the hands of whoever has a copy of the socket.
pub(crate) const TRANSIT: u64 = 1;

/// What to send, without a reply, if a reply comes after its caller has left.
#[derive(Clone, Copy)]
pub(crate) struct Late {
    pub(crate) undo: Undo,
    pub(crate) object: u64,
    /// The reply may take longer than the call's time: it is waited for as long as the server answers pings.
    pub(crate) patient: bool,
}

/// From a reply's payload and its request's number: how to give back what it brought.
pub(crate) type Undo = fn(&mut Reader<'_>, u64) -> Option<(Op, u64)>;

#[derive(Default)]
struct Slot {
    reply: Option<Frame>,
    waiter: Option<Arc<Condvar>>,
    /// Or the future's.
    waker: Option<Waker>,
    /// The caller has left.
    late: Option<Late>,
    left: bool,
}

struct State {
    reader: Option<FrameReader>,
    pending: HashMap<u64, Slot>,
    dead: Option<String>,
}

/// What is to be sent.
#[derive(Default)]
struct Row {
    /// Somebody sends.
    busy: bool,
    /// The rest of a frame that was begun, and messages without a reply.
    bytes: Vec<u8>,
    /// A message has waited for room in vain: nobody waits for that again until something went out.
    stuck: bool,
}

pub(crate) struct Client {
    socket: OwnedFd,
    /// Which of forked copies this connection belongs to (`site::generation`).
    pub(crate) generation: u32,
    /// Whether the socket stands for one lease, and goes to other processes.
    transit: bool,
    pub(crate) server_pid: u32,
    pub(crate) identity: [u8; 16],
    pub(crate) trusted: bool,
    row: Mutex<Row>,
    /// For whoever waits until nobody sends.
    turn: Condvar,
    state: Mutex<State>,
    next: AtomicU64,
    /// Those who wait as futures.
    futures: Arc<Futures>,
    /// The leases of this process.
    held: Mutex<HashMap<u64, Weak<Held>>>,
}

/// A lease of an object: as long as it lives, the server keeps the object.
pub(crate) struct Held {
    pub(crate) client: Arc<Client>,
    pub(crate) object: u64,
    /// How often the server has granted it.
    grants: AtomicU64,
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.client.generation != crate::site::generation() {
            return;
        }
        {
            let mut held = lock(&self.client.held);
            // Another thread may have got the next lease of it already.
            if held.get(&self.object).is_some_and(|lease| lease.strong_count() == 0) {
                held.remove(&self.object);
            }
        }
        let (object, grants) = (self.object, *self.grants.get_mut());
        self.client.tell(Op::Release, 0, |out| {
            proto::put_u64(out, object);
            proto::put_u64(out, grants);
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing under these locks panics.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A request that is being written.
pub(crate) struct Request {
    pub(crate) out: Vec<u8>,
    op: Op,
    object: u64,
}

impl Request {
    pub(crate) fn new(op: Op, object: u64) -> Request {
        let mut out = Vec::with_capacity(128);
        proto::begin(&mut out);
        Request { out, op, object }
    }

    pub(crate) fn u64(mut self, number: u64) -> Request {
        proto::put_u64(&mut self.out, number);
        self
    }

    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Request {
        proto::put_bytes(&mut self.out, bytes);
        self
    }
}

/// Connects, proves who we are, and says hello.
pub(crate) fn connect(
    address: &net::Address,
    key: &net::AuthKey,
    role: u64,
    timeout: Duration,
) -> Result<Client> {
    const DOING: &str = "connect to a manager";
    let connection =
        net::Client::new().authkey(key.clone()).timeout(timeout).connect::<(), ()>(address.clone());
    let socket: OwnedFd = connection
        .map_err(|error| {
            // One that ends in the middle of the handshake has not refused anybody.
            let gone = matches!(error.refusal(), None | Some(net::Refusal::HungUp));
            let kind = if gone { ErrorKind::ServerGone } else { ErrorKind::Refused };
            Error::new(kind, DOING, error.to_string()).with_source(error)
        })?
        .into();
    let mut client = Client {
        socket,
        generation: crate::site::generation(),
        transit: role == TRANSIT,
        server_pid: 0,
        identity: [0; 16],
        trusted: false,
        row: Mutex::default(),
        turn: Condvar::new(),
        state: Mutex::new(State {
            reader: Some(FrameReader::default()),
            pending: HashMap::new(),
            dead: None,
        }),
        next: AtomicU64::new(1),
        futures: Arc::default(),
        held: Mutex::default(),
    };
    let hello = Request::new(Op::Hello, 0)
        .u64(proto::PROTOCOL)
        .u64(role)
        .u64(std::process::id().into())
        .bytes(image().build_id().as_bytes());
    let reply = client.call(DOING, hello, Some(timeout))?;
    let mut input = Reader::new(&reply.payload);
    let mut read = || Ok::<_, proto::Malformed>((input.u64()?, input.u64()?, input.bytes()?));
    let (trusted, pid, identity) = read().map_err(|error| malformed(DOING, error))?;
    let identity = identity.try_into().map_err(|_| malformed(DOING, "an identity of another length"))?;
    (client.trusted, client.server_pid, client.identity) = (trusted != 0, pid as u32, identity);
    Ok(client)
}

pub(crate) fn malformed(doing: &'static str, cause: impl fmt::Display) -> Error {
    Error::new(ErrorKind::Encoding, doing, format!("the server's reply is malformed: {cause}"))
}

impl Client {
    pub(crate) fn is_dead(&self) -> bool {
        lock(&self.state).dead.is_some()
    }

    /// The socket itself, as what stands for the lease that this connection holds.
    pub(crate) fn into_socket(self) -> Result<OwnedFd> {
        self.socket.try_clone().map_err(|error| Error::system("keep a lease", error))
    }

    /// Asks, and waits for the reply.
    pub(crate) fn call(
        &self,
        doing: &'static str,
        request: Request,
        timeout: Option<Duration>,
    ) -> Result<Frame> {
        self.call_late(doing, request, timeout, None).map(|(frame, _)| frame)
    }

    /// As [`call`](Client::call); also gives the request's number. What comes after the time is given back by `late`.
    pub(crate) fn call_late(
        &self,
        doing: &'static str,
        mut request: Request,
        timeout: Option<Duration>,
        late: Option<Late>,
    ) -> Result<(Frame, u64)> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        proto::end(&mut request.out, 0, Kind::Request, request.op as u16, number, request.object);
        {
            let mut state = lock(&self.state);
            if let Some(cause) = &state.dead {
                return Err(Error::gone(doing, cause.clone()));
            }
            state.pending.insert(number, Slot::default());
        }
        let deadline = timeout.map(|timeout| Deadline::after(timeout.saturating_add(SLACK)));
        let outcome = match self.send(&request.out, deadline) {
            Ok(true) => self.wait(doing, number, deadline, late),
            Ok(false) => {
                let mut state = lock(&self.state);
                state.pending.remove(&number);
                return Err(match &state.dead {
                    Some(cause) => Error::gone(doing, cause.clone()),
                    None => Error::new(ErrorKind::Timeout, doing, "the server did not read in time"),
                });
            }
            Err(cause) => {
                // What the server said before it left is of no use, but tells why.
                self.bury(format!("the connection to the server is gone: {cause}"));
                self.wait(doing, number, Some(Deadline::from_nanos(0)), late)
            }
        };
        let frame = outcome?;
        match frame.status {
            0 => Ok((frame, number)),
            status => Err(refused(doing, status, &frame.payload)),
        }
    }

    /// Says something that has no reply. If the server is gone there is nobody to tell.
    pub(crate) fn tell(&self, op: Op, object: u64, write: impl FnOnce(&mut Vec<u8>)) {
        let mut request = Request::new(op, object);
        write(&mut request.out);
        proto::end(&mut request.out, 0, Kind::OneWay, op as u16, 0, object);
        lock(&self.row).bytes.extend_from_slice(&request.out);
        self.flush();
    }

    /// Sends what was laid down, unless somebody sends already, who does it then.
    fn flush(&self) {
        let mut row = lock(&self.row);
        if row.busy || row.bytes.is_empty() {
            return;
        }
        row.busy = true;
        let outcome = self.send_row(row);
        self.end_turn(outcome);
    }

    /// Sends what was laid down, by the one who is `busy`.
    fn send_row<'a>(&'a self, mut row: MutexGuard<'a, Row>) -> std::io::Result<()> {
        let deadline = Deadline::after(if row.stuck { Duration::ZERO } else { TELL });
        while !row.bytes.is_empty() {
            let mut bytes = std::mem::take(&mut row.bytes);
            drop(row);
            let sent = self.push(&bytes, Some(deadline))?;
            row = lock(&self.row);
            if sent < bytes.len() {
                bytes.drain(..sent);
                bytes.append(&mut row.bytes);
                row.bytes = bytes;
                row.stuck = true;
                break;
            }
        }
        // With the lock in hand: what is laid down later finds nobody who sends.
        row.busy = false;
        Ok(())
    }

    /// Lets the next one send.
    fn end_turn(&self, outcome: std::io::Result<()>) {
        if let Err(cause) = outcome {
            self.bury(format!("the connection to the server is gone: {cause}"));
            let mut row = lock(&self.row);
            (row.busy, row.bytes) = (false, Vec::new());
        }
        self.turn.notify_one();
    }

    /// Sends a frame; false if it was not begun in time. One that was begun is sent to its end, by whoever sends next.
    fn send(&self, frame: &[u8], deadline: Option<Deadline>) -> std::io::Result<bool> {
        let mut row = lock(&self.row);
        while row.busy {
            row = match deadline {
                None => self.turn.wait(row).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) if deadline.passed() => {
                    // Perhaps this was the one that was woken.
                    self.turn.notify_one();
                    return Ok(false);
                }
                Some(deadline) => {
                    let waited = self.turn.wait_timeout(row, deadline.remaining());
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        row.busy = true;
        let before = std::mem::take(&mut row.bytes);
        drop(row);
        let mut outcome = self.push(&before, deadline);
        let (mut rest, mut begun) = (Vec::new(), false);
        match outcome {
            Ok(sent) if sent < before.len() => rest.extend_from_slice(&before[sent..]),
            Ok(_) => {
                outcome = self.push(frame, deadline);
                if let Ok(sent) = outcome {
                    begun = sent > 0;
                    if begun {
                        rest.extend_from_slice(&frame[sent..]);
                    }
                }
            }
            Err(_) => {}
        }
        let sent = match outcome {
            Ok(_) => {
                let mut row = lock(&self.row);
                // The caller's time is over: the rest goes when there is room.
                row.stuck |= !rest.is_empty();
                rest.append(&mut row.bytes);
                row.bytes = rest;
                self.send_row(row)
            }
            Err(error) => Err(error),
        };
        let failed = sent.as_ref().err().map(|error| std::io::Error::new(error.kind(), error.to_string()));
        self.end_turn(sent);
        failed.map_or(Ok(begun), Err)
    }

    /// Sends what the socket takes until the deadline; tells how much. At least once it is tried.
    fn push(&self, bytes: &[u8], deadline: Option<Deadline>) -> std::io::Result<usize> {
        let mut at = 0;
        while at < bytes.len() {
            match rustix::net::send(&self.socket, &bytes[at..], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(sent) => {
                    if at == 0 {
                        lock(&self.row).stuck = false;
                    }
                    at += sent;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if deadline.is_some_and(Deadline::passed) => break,
                Err(Errno::AGAIN) => self.wait_for_room(deadline)?,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(at)
    }

    /// The server reads from nobody who does not read its replies: so they are read meanwhile.
    fn wait_for_room(&self, deadline: Option<Deadline>) -> std::io::Result<()> {
        // In slices: who reads may leave.
        let slice = Deadline::after(SLICE);
        let slice = deadline.map_or(slice, |deadline| deadline.min(slice));
        let reader = lock(&self.state).reader.take();
        let Some(mut reader) = reader else {
            // Somebody else reads.
            return fd::writable(self.socket.as_fd(), Some(slice)).map(drop);
        };
        let mut poll = [PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::IN | PollFlags::OUT)];
        let waited = fd::wait(&mut poll, Some(slice));
        let read = match poll[0].revents().contains(PollFlags::IN) {
            true => reader.next(&self.socket, Some(Deadline::from_nanos(0))),
            false => Ok(None),
        };
        self.put_back(reader, read);
        waited.map(drop)
    }

    /// Hands out what a reader found, and lets the next one read.
    fn put_back(&self, reader: FrameReader, read: std::io::Result<Option<(Header, Vec<u8>)>>) {
        let mut late = None;
        let mut wakers = Vec::new();
        {
            let mut state = lock(&self.state);
            match read {
                Ok(Some((header, payload))) => late = state.deliver(&header, payload, &mut wakers),
                Ok(None) => {}
                Err(cause) => wakers = state.bury(format!("the server is gone: {cause}")),
            }
            state.reader = Some(reader);
            state.wake_next();
        }
        wakers.into_iter().for_each(Waker::wake);
        match late {
            Some((op, object, argument)) => self.tell(op, object, |out| proto::put_u64(out, argument)),
            // What found no room may find some now.
            None => self.flush(),
        }
    }

    fn bury(&self, cause: String) {
        let wakers = lock(&self.state).bury(cause);
        wakers.into_iter().for_each(Waker::wake);
    }

    fn wait(
        &self,
        doing: &'static str,
        number: u64,
        mut deadline: Option<Deadline>,
        late: Option<Late>,
    ) -> Result<Frame> {
        let mut state = lock(&self.state);
        loop {
            let dead = state.dead.is_some();
            let Some(slot) = state.pending.get_mut(&number) else {
                return Err(Error::gone(doing, "its request was forgotten"));
            };
            if let Some(frame) = slot.reply.take() {
                state.pending.remove(&number);
                state.wake_next();
                return Ok(frame);
            }
            let over = deadline.is_some_and(Deadline::passed);
            if over && late.is_some_and(|late| late.patient) && !dead {
                // Nobody is to leave the reading to it meanwhile.
                slot.waiter = None;
                drop(state);
                let answered = self.call(doing, Request::new(Op::Ping, 0), Some(Duration::ZERO)).is_ok();
                state = lock(&self.state);
                if answered {
                    deadline = Some(Deadline::after(SLACK));
                    continue;
                }
                // What came while nobody looked counts.
                let came = state.pending.get(&number).is_some_and(|slot| slot.reply.is_some());
                if came {
                    continue;
                }
            }
            let Some(slot) = state.pending.get_mut(&number) else { continue };
            if over {
                (slot.left, slot.late) = (true, late);
            }
            if let Some(cause) = state.dead.clone() {
                state.pending.remove(&number);
                return Err(Error::gone(doing, cause));
            }
            if over {
                state.wake_next();
                return Err(Error::new(ErrorKind::Timeout, doing, "the server did not answer in time"));
            }
            if let Some(mut reader) = state.reader.take() {
                drop(state);
                let read = reader.next(&self.socket, deadline);
                self.put_back(reader, read);
                state = lock(&self.state);
                continue;
            }
            let Some(slot) = state.pending.get_mut(&number) else { continue };
            let condvar = slot.waiter.get_or_insert_default().clone();
            state = match deadline {
                None => condvar.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let waited = condvar.wait_timeout(state, deadline.remaining());
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// The lease that a reply, or a call for one, has granted.
    pub(crate) fn granted(self: &Arc<Client>, object: u64) -> Arc<Held> {
        let mut held = lock(&self.held);
        if let Some(lease) = held.get(&object).and_then(Weak::upgrade) {
            lease.grants.fetch_add(1, Ordering::Relaxed);
            return lease;
        }
        let lease = Arc::new(Held { client: self.clone(), object, grants: AtomicU64::new(1) });
        held.insert(object, Arc::downgrade(&lease));
        lease
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // A forked child's copy of the socket must not keep the server waiting, nor end its parent's. Copies of a socket that
        // stands for a lease are what keeps that.
        if self.generation == crate::site::generation() && !self.transit {
            let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
        }
    }
}

impl State {
    /// Gives a reply to whoever waits for it; to nobody, if it has left: then tells what to do about it.
    fn deliver(
        &mut self,
        header: &Header,
        payload: Vec<u8>,
        wakers: &mut Vec<Waker>,
    ) -> Option<(Op, u64, u64)> {
        let slot = self.pending.get_mut(&header.request)?;
        if slot.left {
            let late = slot.late.take();
            self.pending.remove(&header.request);
            // A refusal brought nothing.
            let late = late.filter(|_| header.method == 0)?;
            let (op, argument) = (late.undo)(&mut Reader::new(&payload), header.request)?;
            return Some((op, late.object, argument));
        }
        slot.reply = Some(Frame { status: header.method, payload });
        if let Some(waiter) = &slot.waiter {
            waiter.notify_one();
        }
        wakers.extend(slot.waker.take());
        None
    }

    /// Somebody who waits is to read now.
    fn wake_next(&self) {
        if self.reader.is_some()
            && let Some(waiter) = self
                .pending
                .values()
                .filter(|slot| slot.reply.is_none() && !slot.left)
                .find_map(|slot| slot.waiter.as_ref())
        {
            waiter.notify_one();
        }
    }

    #[must_use]
    fn bury(&mut self, cause: String) -> Vec<Waker> {
        self.dead.get_or_insert(cause);
        self.pending.retain(|_, slot| !slot.left);
        self.pending.values().filter_map(|slot| slot.waiter.as_ref()).for_each(|waiter| waiter.notify_one());
        self.pending.values_mut().filter_map(|slot| slot.waker.take()).collect()
    }
}

fn refused(doing: &'static str, status: u16, payload: &[u8]) -> Error {
    let mut input = Reader::new(payload);
    let text = input.text().unwrap_or("it does not say why").to_owned();
    let kind = ErrorKind::of_status(status).unwrap_or(ErrorKind::Refused);
    if kind == ErrorKind::Panicked
        && !input.is_empty()
        && let Ok(more) = input.bytes()
        && let Ok(panic) = codec::decode::<Panic>(more)
    {
        return Error::panicked(doing, panic);
    }
    Error::new(kind, doing, text)
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("server", &self.server_pid).finish_non_exhaustive()
    }
}
