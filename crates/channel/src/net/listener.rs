//! Listeners: many handshakes at once, in whoever calls `accept`.
//!
//! # Protocol
//!
//! One epoll holds the listening socket, every client whose handshake is under way, a timer for the oldest of these, and an
//! event that says that the listener was closed. Whoever accepts waits for the epoll, takes the lock, and takes each handshake
//! that can go on as far as it goes without waiting; the first one that comes to its end is what the call returns. What else
//! is ready stays so (it is level-triggered), for this thread's next call or for another thread's. Nobody waits under the lock.
//!
//! # Invariants
//!
//! 1. A client's number, its key in the table, is its datum in the epoll; numbers are never used again.
//! 2. All handshakes have the same time: the smallest number has the earliest deadline, and the timer is set to it. A client
//!    that has answered while nobody accepted gets its time again, and a new number: at most [`AGAIN`] times.
//! 3. At most `max_pending` clients are in the table; a new one makes the oldest go. So silent clients cost their descriptors,
//!    in bounded number, and delay nobody.
//! 4. Who is out of the table is out of the epoll, whoever has a copy of its socket (a forked child has one of each).
//!
//! # When a process dies
//!
//! A client's death is the end of its socket: its handshake is refused (`HungUp`). The listener's death closes everything; for
//! its path see `paths`.

use super::{
    address::{Address, ToAddress},
    error::{Error, Refusal},
    handshake::Handshake,
    mac::AuthKey,
    paths::{self, Bound},
    socket::{self, Step},
};
use procession_sys::{Deadline, fd};
use rustix::{
    event::{EventfdFlags, epoll, eventfd},
    io::Errno,
    net::{SocketFlags, sockopt},
    time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    },
};
use std::{
    collections::BTreeMap,
    fmt, io,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

const LISTENING: u64 = 0;
const TIMER: u64 = 1;
const CLOSED: u64 = 2;
const FIRST_CLIENT: u64 = 16;
/// How often a client's time begins again: it speaks so often in a handshake.
const AGAIN: u32 = 3;
/// How often `accept` goes on at its deadline, where there is always something to do.
const ROUNDS: u32 = 64;
/// How many clients are taken from the kernel's queue before others have their turn.
const BATCH: usize = 32;

const ACCEPT: &str = "accept a client at";

/// What a listener does with its clients; [`Listener::builder`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it binds"]
pub struct Builder {
    pub(super) key: Option<AuthKey>,
    open: bool,
    allow_md5: bool,
    backlog: i32,
    handshake_timeout: Duration,
    max_pending: usize,
}

impl Builder {
    /// The key that clients must know. CPython's peers take the same as `authkey`.
    pub fn authkey(mut self, key: impl Into<AuthKey>) -> Builder {
        self.key = Some(key.into());
        self
    }

    /// Lets everybody in who reaches a TCP port. Without this, and without a key, binding to TCP is an error.
    ///
    /// A Unix socket without a key lets in processes of the same user, and needs no such call.
    pub fn without_authkey(mut self) -> Builder {
        self.key = None;
        self.open = true;
        self
    }

    /// Whether MD5 will do, which CPython up to 3.11 uses. Not by default; see [`Handshake::allow_md5`].
    pub fn allow_md5(mut self, allow: bool) -> Builder {
        self.allow_md5 = allow;
        self
    }

    /// How many clients the kernel queues before they are accepted: 1024 by default, and at most what
    /// `/proc/sys/net/core/somaxconn` says. A client that finds the queue full waits.
    pub fn backlog(mut self, clients: u32) -> Builder {
        self.backlog = i32::try_from(clients).unwrap_or(i32::MAX);
        self
    }

    /// How long a client has for its handshake, 10 seconds by default.
    pub fn handshake_timeout(mut self, timeout: Duration) -> Builder {
        self.handshake_timeout = timeout;
        self
    }

    /// How many handshakes may be under way, 1024 by default and at least 1: one more, and the oldest is refused. Each costs a
    /// descriptor; where these run out before, the oldest goes too.
    pub fn max_pending(mut self, clients: usize) -> Builder {
        self.max_pending = clients.max(1);
        self
    }

    /// Binds to an address, the first of several that can be had. With port 0 the kernel chooses one: see
    /// [`Listener::address`].
    ///
    /// A path is unlinked when the listener is dropped, and at the process's exit; SIGKILL leaves it.
    ///
    /// # Errors
    ///
    /// If the address is in use or is none; TCP without a key, unless [asked for](Builder::without_authkey); what
    /// `socket(2)`, `bind(2)` and `listen(2)` report.
    pub fn bind(self, address: impl ToAddress) -> Result<Listener, Error> {
        let addresses = address.to_addresses().map_err(|error| Error::io("listen", "", error))?;
        let mut outcome = Err(Error::invalid("listen", "", "no address"));
        for address in addresses {
            outcome = self.bind_to(&address);
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    /// Binds to a new path, in a folder of mode 0700 made for this process. Nothing of it stays behind: it goes with the
    /// listener, at the process's exit, and after SIGKILL by the process's helper or by the next process that makes one.
    ///
    /// # Errors
    ///
    /// What `mkdir(2)`, `flock(2)`, `socket(2)`, `bind(2)` and `listen(2)` report.
    pub fn bind_private(self) -> Result<Listener, Error> {
        let failed = |error: io::Error| Error::io("listen", "at a private path", error);
        let socket = socket::new(&Address::Unix(Default::default())).map_err(failed)?;
        let (path, bound) = paths::bind_in_private(true, |path| {
            rustix::net::bind(&socket, &Address::Unix(path.to_owned()).to_socket()?)?;
            Ok(rustix::net::listen(&socket, self.backlog)?)
        })
        .map_err(failed)?;
        self.listen(socket, Address::Unix(path), Some(bound))
    }

    fn bind_to(&self, address: &Address) -> Result<Listener, Error> {
        if self.key.is_none() && !self.open && !address.is_local() {
            return Err(Error::invalid(
                "listen",
                format!("at {address}"),
                "TCP needs a key: `authkey(key)`, or `without_authkey()` to let everybody in",
            ));
        }
        let failed = |error: io::Error| Error::io("listen", format!("at {address}"), error);
        let socket = socket::new(address).map_err(failed)?;
        let name = address.to_socket().map_err(failed)?;
        let listen = || -> io::Result<()> {
            rustix::net::bind(&socket, &name)?;
            Ok(rustix::net::listen(&socket, self.backlog)?)
        };
        let bound = match address {
            Address::Unix(path) => Some(paths::bind_at(path, |_| listen()).map_err(failed)?),
            Address::Tcp(_) => {
                // A port whose last connections are still being forgotten by the kernel can be bound again.
                sockopt::set_socket_reuseaddr(&socket, true).map_err(|error| failed(error.into()))?;
                listen().map_err(failed)?;
                None
            }
            Address::Abstract(_) => {
                listen().map_err(failed)?;
                None
            }
        };
        let address = rustix::net::getsockname(&socket).ok().and_then(Address::from_socket);
        let address = address.unwrap_or_else(|| Address::Abstract(Vec::new()));
        self.clone().listen(socket, address, bound)
    }

    fn listen(self, socket: OwnedFd, address: Address, bound: Option<Bound>) -> Result<Listener, Error> {
        let failed = |error: Errno| Error::io("listen", format!("at {address}"), error);
        rustix::io::ioctl_fionbio(&socket, true).map_err(failed)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed)?;
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags).map_err(failed)?;
        let closed = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(failed)?;
        for (fd, number) in [(&socket, LISTENING), (&timer, TIMER), (&closed, CLOSED)] {
            epoll::add(&epoll, fd, epoll::EventData::new_u64(number), epoll::EventFlags::IN)
                .map_err(failed)?;
        }
        let open = Open { bound, socket, clients: BTreeMap::new(), next: FIRST_CLIENT, timer };
        Ok(Listener {
            options: self,
            owner: std::process::id(),
            address,
            epoll,
            closed,
            state: Mutex::new(State { open: Some(open), last: None }),
        })
    }
}

/// A place where clients connect, one connection each.
///
/// Frames and handshakes are CPython's: its `multiprocessing.connection.Client` can be the other end.
///
/// Handshakes do not stand in each other's way: any number of silent clients is waited for at once, inside
/// [`accept`](Listener::accept), by whichever thread calls it.
#[must_use = "a listener that is dropped listens no more"]
pub struct Listener {
    options: Builder,
    owner: u32,
    address: Address,
    epoll: OwnedFd,
    closed: OwnedFd,
    state: Mutex<State>,
}

struct State {
    open: Option<Open>,
    last: Option<Address>,
}

struct Open {
    /// Goes before the socket: once that is closed, its inode's number can be somebody else's.
    bound: Option<Bound>,
    socket: OwnedFd,
    clients: BTreeMap<u64, Pending>,
    next: u64,
    timer: OwnedFd,
}

/// A client whose handshake is under way.
struct Pending {
    socket: OwnedFd,
    peer: Option<Address>,
    handshake: Handshake,
    deadline: Deadline,
    /// How often its time began again.
    again: u32,
    writes: bool,
}

/// A client that was let in.
pub(super) struct Accepted {
    pub(super) socket: OwnedFd,
    pub(super) peer: Option<Address>,
}

impl Listener {
    /// How a listener is made.
    pub fn builder() -> Builder {
        Builder {
            key: None,
            open: false,
            allow_md5: false,
            backlog: 1024,
            handshake_timeout: Duration::from_secs(10),
            max_pending: 1024,
        }
    }

    /// Binds to an address of the Unix family, for processes of the same user; others, and TCP, need
    /// [a key](Builder::authkey).
    ///
    /// # Errors
    ///
    /// As [`Builder::bind`].
    pub fn bind(address: impl ToAddress) -> Result<Listener, Error> {
        Listener::builder().bind(address)
    }

    /// Where it listens: with the port that the kernel chose.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Where the last accepted client came from; nothing before, and for clients without a name, as those of Unix sockets
    /// are.
    #[must_use]
    pub fn last_accepted(&self) -> Option<Address> {
        self.state().last.clone()
    }

    /// Closes it: clients that are not accepted yet are sent away, its path is unlinked, and every `accept`, those that wait
    /// already included, is an error from now on. Again does nothing.
    ///
    /// A forked copy closes no more than its own descriptors.
    pub fn close(&self) {
        let Some(mut open) = self.state().open.take() else { return };
        if !self.is_ours() {
            return;
        }
        drop(open.bound.take());
        // Copies in forked children must not keep anybody waiting.
        for client in std::mem::take(&mut open.clients).into_values() {
            self.send_away(&client.socket);
        }
        self.send_away(&open.socket);
        // It stays readable, so nobody misses it. A counter that is full has told it before.
        let _ = rustix::io::write(&self.closed, &1_u64.to_ne_bytes());
    }

    /// Ends a socket for all copies of it.
    fn send_away(&self, socket: &OwnedFd) {
        let _ = epoll::delete(&self.epoll, socket);
        let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
    }

    /// Whether this is the process that made it, and no forked copy.
    fn is_ours(&self) -> bool {
        self.owner == std::process::id()
    }

    pub(super) fn accept_until(&self, deadline: Option<Deadline>) -> Result<Option<Accepted>, Error> {
        let mut rounds = 0;
        loop {
            if let Some(accepted) = self.go_on()? {
                return Ok(Some(accepted));
            }
            if deadline.is_some_and(Deadline::passed) {
                rounds += 1;
                if rounds > ROUNDS {
                    return Ok(None);
                }
            }
            match fd::readable(self.epoll.as_fd(), deadline) {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                Err(error) => return Err(Error::io(ACCEPT, self.address.to_string(), error)),
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock leaves the table half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what can be done without waiting, up to the first client that is let in or refused.
    fn go_on(&self) -> Result<Option<Accepted>, Error> {
        if !self.is_ours() {
            let what = "it belongs to the process that made it, and this one is a forked copy";
            return Err(Error::invalid(ACCEPT, self.address.to_string(), what));
        }
        let mut guard = self.state();
        let State { open, last } = &mut *guard;
        let Some(open) = open else { return Err(Error::closed(ACCEPT, self.address.to_string())) };
        let mut events = [MaybeUninit::uninit(); 64];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let (events, _) = match epoll::wait(&self.epoll, &mut events, Some(&now)) {
            Ok(events) => events,
            Err(Errno::INTR) => return Ok(None),
            Err(error) => return Err(self.failed(error)),
        };
        // Those who have waited longest first: then clients who answer, and new ones last.
        let mut numbers: Vec<u64> = events.iter().map(|event| event.data.u64()).collect();
        numbers.sort_unstable_by_key(|number| match *number {
            LISTENING => u64::MAX,
            TIMER => u64::MAX - 1,
            number => number,
        });
        for number in numbers {
            let outcome = match number {
                LISTENING => self.take_in(open)?,
                TIMER => self.expire(open)?,
                number => self.client(open, number)?,
            };
            if let Some(outcome) = outcome {
                let accepted = outcome?;
                last.clone_from(&accepted.peer);
                return Ok(Some(accepted));
            }
        }
        Ok(None)
    }

    fn failed(&self, error: Errno) -> Error {
        Error::io(ACCEPT, self.address.to_string(), error)
    }

    fn refused(&self, peer: Option<&Address>, refusal: Refusal) -> Error {
        let from = peer.map(|peer| format!(" from {peer}")).unwrap_or_default();
        Error::refused(ACCEPT, format!("{}{from}", self.address), refusal)
    }

    /// Takes clients from the kernel's queue.
    fn take_in(&self, open: &mut Open) -> Result<Option<Result<Accepted, Error>>, Error> {
        for _ in 0..BATCH {
            let (socket, peer) = match rustix::net::acceptfrom_with(&open.socket, SocketFlags::CLOEXEC) {
                Ok(accepted) => accepted,
                Err(Errno::AGAIN) => return Ok(None),
                // A client that is gone already, or whose network was: see accept(2).
                Err(
                    Errno::INTR
                    | Errno::CONNABORTED
                    | Errno::PROTO
                    | Errno::NETDOWN
                    | Errno::NOPROTOOPT
                    | Errno::HOSTDOWN
                    | Errno::NONET
                    | Errno::HOSTUNREACH
                    | Errno::OPNOTSUPP
                    | Errno::NETUNREACH,
                ) => continue,
                Err(error @ (Errno::MFILE | Errno::NFILE)) => {
                    // Silent clients hold descriptors; the oldest gives one back.
                    return match self.evict(open, Refusal::Crowded)? {
                        None => Err(self.failed(error)),
                        outcome => Ok(outcome),
                    };
                }
                Err(error) => return Err(self.failed(error)),
            };
            let peer = peer.and_then(Address::from_socket);
            socket::without_delay(socket.as_fd(), &self.address);
            let Some(key) = &self.options.key else {
                if self.address.is_local()
                    && let Err(refusal) = socket::check_user(socket.as_fd())
                {
                    self.send_away(&socket);
                    return Ok(Some(Err(self.refused(peer.as_ref(), refusal))));
                }
                return Ok(Some(Ok(Accepted { socket, peer })));
            };
            let handshake = Handshake::listener(key)
                .map_err(|error| Error::io(ACCEPT, self.address.to_string(), error))?
                .allow_md5(self.options.allow_md5);
            let deadline = Deadline::after(self.options.handshake_timeout);
            let client = Pending { socket, peer, handshake, deadline, again: 0, writes: false };
            let number = open.next;
            open.next += 1;
            let data = epoll::EventData::new_u64(number);
            epoll::add(&self.epoll, &client.socket, data, epoll::EventFlags::IN)
                .map_err(|e| self.failed(e))?;
            let first = open.clients.is_empty();
            open.clients.insert(number, client);
            if first {
                open.set_timer();
            }
            let outcome = self.client(open, number)?;
            if outcome.is_some() {
                return Ok(outcome);
            }
            if open.clients.len() > self.options.max_pending {
                return self.evict(open, Refusal::Crowded);
            }
        }
        Ok(None)
    }

    /// Takes one client's handshake further.
    fn client(&self, open: &mut Open, number: u64) -> Result<Option<Result<Accepted, Error>>, Error> {
        // One that an earlier event of the same batch has ended.
        let Some(client) = open.clients.get_mut(&number) else { return Ok(None) };
        // It may have answered at once, while nobody was here to take it further.
        let spoke =
            client.deadline.passed() && client.again < AGAIN && socket::has_input(client.socket.as_fd());
        let writes = match socket::step(client.socket.as_fd(), &mut client.handshake) {
            Step::Read => false,
            Step::Write => true,
            Step::Over(outcome) => {
                let client = open.remove(number);
                return Ok(client.map(|client| match outcome {
                    Ok(()) => {
                        // The connection may be duplicated, and a duplicate keeps a socket in the epoll.
                        let _ = epoll::delete(&self.epoll, &client.socket);
                        Ok(Accepted { socket: client.socket, peer: client.peer })
                    }
                    Err(refusal) => {
                        self.send_away(&client.socket);
                        Err(self.refused(client.peer.as_ref(), refusal))
                    }
                }));
            }
        };
        if writes != client.writes {
            client.writes = writes;
            let interest = if writes { epoll::EventFlags::OUT } else { epoll::EventFlags::IN };
            epoll::modify(&self.epoll, &client.socket, epoll::EventData::new_u64(number), interest)
                .map_err(|error| self.failed(error))?;
        }
        if spoke {
            self.renew(open, number)?;
        }
        Ok(None)
    }

    /// Gives a client that has spoken its time again.
    fn renew(&self, open: &mut Open, number: u64) -> Result<(), Error> {
        let Some(mut client) = open.remove(number) else { return Ok(()) };
        client.again += 1;
        client.deadline = Deadline::after(self.options.handshake_timeout);
        let number = open.next;
        open.next += 1;
        let interest = if client.writes { epoll::EventFlags::OUT } else { epoll::EventFlags::IN };
        let data = epoll::EventData::new_u64(number);
        epoll::modify(&self.epoll, &client.socket, data, interest).map_err(|error| self.failed(error))?;
        open.clients.insert(number, client);
        open.set_timer();
        Ok(())
    }

    /// Refuses the oldest client if its time is over.
    fn expire(&self, open: &mut Open) -> Result<Option<Result<Accepted, Error>>, Error> {
        match open.clients.first_key_value() {
            Some((_, oldest)) if oldest.deadline.passed() => self.evict(open, Refusal::TimedOut),
            _ => {
                open.set_timer();
                Ok(None)
            }
        }
    }

    /// Takes the oldest client as far as it goes, and refuses it if that is not the end. Nothing if there is no client.
    fn evict(&self, open: &mut Open, refusal: Refusal) -> Result<Option<Result<Accepted, Error>>, Error> {
        let Some(number) = open.oldest() else { return Ok(None) };
        let outcome = self.client(open, number)?;
        if outcome.is_some() {
            return Ok(outcome);
        }
        // Its time may have begun again.
        let number = if refusal == Refusal::TimedOut { Some(number) } else { open.oldest() };
        Ok(number.and_then(|number| open.remove(number)).map(|client| {
            self.send_away(&client.socket);
            Err(self.refused(client.peer.as_ref(), refusal))
        }))
    }
}

impl Open {
    fn oldest(&self) -> Option<u64> {
        self.clients.first_key_value().map(|(number, _)| *number)
    }

    fn remove(&mut self, number: u64) -> Option<Pending> {
        let first = self.clients.first_key_value().is_some_and(|(first, _)| *first == number);
        let client = self.clients.remove(&number);
        if first {
            self.set_timer();
        }
        client
    }

    /// Sets the timer to the oldest client's deadline, or to none.
    fn set_timer(&self) {
        let nanos = self.clients.first_key_value().map_or(0, |(_, client)| client.deadline.as_nanos());
        let nanos = nanos.min(i64::MAX as u64) as i64;
        let none = Timespec { tv_sec: 0, tv_nsec: 0 };
        let at = Timespec { tv_sec: nanos / 1_000_000_000, tv_nsec: nanos % 1_000_000_000 };
        let times = Itimerspec { it_interval: none, it_value: at };
        // It fails for an impossible time only.
        let _ = timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &times);
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.close();
    }
}

/// Readable when something can be done: a client came, a handshake can go on or its time is over, or the listener was
/// closed. Whether anybody is let in, `try_accept` tells.
impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pending = self.state().open.as_ref().map(|open| open.clients.len());
        f.debug_struct("Listener")
            .field("address", &self.address)
            .field("pending", &pending)
            .finish_non_exhaustive()
    }
}
