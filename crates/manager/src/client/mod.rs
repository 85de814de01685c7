//! This process's connection to a server: one socket, shared by all threads.
//!
//! # Protocol
//! A caller lays down its request's number in `pending`, sends the frame, and waits for the reply. Of those who wait, one
//! reads the socket and hands out what comes; it leaves when it has its own reply, and wakes another one to read on. So no
//! thread of ours is needed, and a lone caller has no switch of threads.
//!
//! One thread sends at a time (`row`). What has no reply never waits for it: it is laid down, and the sender sends it behind
//! its own frame. So does the rest of a frame whose caller had no more time, before anything else.
//!
//! A client that was told to come back ([`Reconnect`](crate::Reconnect)), or to give signs of life, has a thread for that
//! (`keeper`). While its connection is broken, callers wait for their replies without reading.
//!
//! # Invariants
//! 1. The reader is in `State`, or in the hands of one thread that waits for a reply; so is each connection's, one after
//!    the other.
//! 2. A number is in `pending` from before its frame is sent until its reply was taken, or nobody wants it any more; what
//!    an unwanted reply brought is given back ([`Late`]).
//! 3. What was laid down goes out before any frame that is begun later: frames are never mixed.
//! 4. Once `dead` is set it stays, and everybody in `pending` is told.
//!
//! # When a process dies
//! The server's death is the end of the socket, which the reader sees at once and tells all. This process's death closes it,
//! and the server gives back what was held by way of it. A connection that is to come back breaks without that: callers
//! wait, and the server keeps what was held, for its grace. A forked child has no use for its parent's connection: it makes
//! its own (`site`).

use crate::{
    access::Access,
    error::{Error, ErrorKind, Result},
    proto::{self, Header, Kind, Op, Reader},
    wire::Wire,
};
pub(crate) use frames::{FrameReader, Payload};
use procession_parcel::{Panic, codec};
use procession_sys::Deadline;
use row::{Row, Sent};
use std::{
    collections::HashMap,
    fmt,
    os::fd::OwnedFd,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    task::Waker,
    time::Duration,
};

mod connect;
mod frames;
mod keeper;
mod later;
mod request;
mod row;
mod state;

pub(crate) use connect::connect;
#[cfg(feature = "pool")]
pub(crate) use later::Begun;
use later::Futures;
pub(crate) use request::Request;
use state::{Slot, State};

/// How long a client waits beyond a call's time for the server to say that it is over.
const SLACK: Duration = Duration::from_secs(1);
/// How long a sender waits for room before it looks whether it should read.
const SLICE: Duration = Duration::from_millis(50);

/// A payload that came.
pub(crate) struct Frame {
    status: u16,
    pub(crate) payload: Payload,
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

pub(crate) struct Client {
    /// Which of forked copies this connection belongs to (`site::generation`).
    pub(crate) generation: u32,
    /// Whether the socket stands for one lease, and goes to other processes.
    transit: bool,
    pub(crate) server_pid: u32,
    pub(crate) identity: [u8; 16],
    pub(crate) trusted: bool,
    access: Access,
    row: Mutex<Row>,
    /// For whoever waits until nobody sends.
    turn: Condvar,
    state: Mutex<State>,
    next: AtomicU64,
    /// Those who wait as futures.
    futures: Arc<Futures>,
    /// The leases of this process.
    held: Mutex<HashMap<u64, Weak<Held>>>,
    /// How to come back, if this client does.
    resume: Option<connect::Resume>,
    /// When something came or went last, where somebody asks for it.
    heard: AtomicU64,
    /// For the keeper.
    bell: Arc<keeper::Bell>,
    /// Once it is shared.
    me: OnceLock<Weak<Client>>,
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

/// Wakes a future. It is somebody else's as often as not: its executor's panic is told by the hook, and is not ours.
fn wake(waker: Waker) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| waker.wake())) {
        // Its drop might panic again.
        std::mem::forget(payload);
    }
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
        let wire = lock(&self.row).wire.clone();
        wire.socket.try_clone().map_err(|error| Error::system("keep a lease", error))
    }

    /// Shares it, and has it kept alive if it wants that.
    pub(crate) fn share(self) -> Arc<Client> {
        let client = Arc::new(self);
        let _ = client.me.set(Arc::downgrade(&client));
        if client.resume.is_some() || client.access.silence.is_some() {
            keeper::start(&client);
        }
        client
    }

    /// How long the server keeps what is this client's while it is away.
    pub(crate) fn grace(&self) -> Duration {
        self.resume.as_ref().map_or(Duration::ZERO, |resume| resume.grace)
    }

    fn note_life(&self) {
        if self.access.silence.is_some() {
            self.heard.store(Deadline::now().as_nanos(), Ordering::Relaxed);
        }
    }

    /// Asks, and waits for the reply.
    pub(crate) fn call(
        &self,
        doing: &'static str,
        request: Request<'_>,
        timeout: Option<Duration>,
    ) -> Result<Frame> {
        self.call_late(doing, request, timeout, None).map(|(frame, _)| frame)
    }

    /// As [`call`](Client::call); also gives the request's number. What comes after the time is given back by `late`.
    pub(crate) fn call_late(
        &self,
        doing: &'static str,
        mut request: Request<'_>,
        timeout: Option<Duration>,
        late: Option<Late>,
    ) -> Result<(Frame, u64)> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let frame = request.frame(Kind::Request, number);
        {
            let mut state = lock(&self.state);
            if let Some(cause) = &state.dead {
                return Err(Error::gone(doing, cause.clone()));
            }
            state.pending.insert(number, Slot::default());
        }
        let deadline = timeout.map(|timeout| Deadline::after(timeout.saturating_add(SLACK)));
        let outcome = match self.send(frame, deadline) {
            Ok(Sent::Begun(end)) => self.wait(doing, number, deadline, late).map_err(|error| {
                if error.is_server_gone() { error.in_flight(self.may_have(end)) } else { error }
            }),
            Ok(Sent::Not) => {
                let mut state = lock(&self.state);
                state.pending.remove(&number);
                return Err(match &state.dead {
                    Some(cause) => Error::gone(doing, cause.clone()),
                    None => Error::new(ErrorKind::Timeout, doing, "the server did not read in time"),
                });
            }
            // What the server said before it left is of no use, but tells why.
            Err(_) => self
                .wait(doing, number, Some(Deadline::from_nanos(0)), late)
                .map_err(|error| error.in_flight(false)),
        };
        let frame = outcome?;
        match frame.status {
            0 => Ok((frame, number)),
            status => Err(refused(doing, status, &frame.payload)),
        }
    }

    /// Hands out what a reader found, and lets the next one read.
    fn put_back(&self, reader: FrameReader, read: std::io::Result<Option<(Header, Payload)>>) {
        let (mut late, mut ack, mut has) = (None, None, 0);
        let (mut broken, mut waker) = (None, None);
        let awaited;
        {
            let mut state = lock(&self.state);
            match read {
                Ok(Some((header, payload))) => {
                    self.note_life();
                    if self.resume.is_some() {
                        has = header.object;
                        ack = state.count(payload.len());
                    }
                    late = state.deliver(&header, payload, &mut waker);
                }
                Ok(None) => {}
                Err(cause) => broken = Some((reader.wire.clone(), format!("the server is gone: {cause}"))),
            }
            // Who waits for room reads then, if nobody else does.
            awaited = reader.wire.lanes().filter(|lanes| lanes.is_awaited()).cloned();
            state.reader = Some(reader);
            state.wake_next();
        }
        if let Some(lanes) = awaited {
            lanes.tell();
        }
        if let Some(waker) = waker {
            wake(waker);
        }
        if let Some((wire, cause)) = broken {
            self.broke(&wire, &cause);
        }
        if has > 0 {
            lock(&self.row).heard(has);
        }
        if let Some(received) = ack {
            self.tell(Op::Ack, 0, |out| proto::put_u64(out, received));
        }
        match late {
            Some((op, object, argument)) => self.tell(op, object, |out| proto::put_u64(out, argument)),
            // What found no room may find some now.
            None => self.flush(),
        }
    }

    /// A wire is broken. True if that is the end, false if it may be replaced, or was.
    fn broke(&self, wire: &Arc<Wire>, cause: &str) -> bool {
        let mut state = lock(&self.state);
        if self.resume.is_none() || state.dead.is_some() {
            let wakers = state.bury(cause);
            drop(state);
            wakers.into_iter().for_each(wake);
            // Whoever reads or sends there comes back.
            wire.cut();
            self.bell.ring();
            return true;
        }
        let mut row = lock(&self.row);
        if Arc::ptr_eq(&row.wire, wire) {
            row.up = false;
            state.down.get_or_insert_with(|| cause.to_owned());
            // Whoever reads or sends there comes back.
            wire.cut();
        }
        drop((row, state));
        self.bell.ring();
        false
    }

    fn bury(&self, cause: &str) {
        let wakers = lock(&self.state).bury(cause);
        wakers.into_iter().for_each(wake);
        self.send_no_more();
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
            if state.down.is_none()
                && let Some(mut reader) = state.reader.take()
            {
                drop(state);
                let read = reader.next(deadline);
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
            if self.resume.is_some() {
                // Nobody will come back.
                self.tell(Op::Bye, 0, |_| {});
            }
            lock(&self.row).wire.cut();
            self.bell.ring();
        }
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
