//! A running pool, seen from other processes: [`look`].
//!
//! # Protocol
//!
//! A pool of processes, or one of threads that wants to be seen, listens on an abstract Unix socket,
//! `procession-pool/PID/NUMBER`, which the kernel takes away with its last holder: nothing is left behind, however the process
//! ends. Who connects gets one answer and then the end: [`MAGIC`], [`VERSION`], and the encoded [`Stats`]. There is nothing to
//! ask for, and nothing is read.
//!
//! Any user may try to connect, and any user may take such a name first. So both sides ask the kernel who is at the other end
//! (`SO_PEERCRED`, `unix(7)`): the pool answers its own user and root; who looks believes a socket of its own user or root's
//! whose process has the pid that was asked for.
//!
//! While nobody looks this is a descriptor in the process's [watcher](procession_process::watch). An answer is made and sent by
//! a thread of its own, [`AT_ONCE`] at a time: neither the watcher nor the pool waits for who looks.
//!
//! # When a process dies
//!
//! Who looks and dies is a write that fails. A pool's process that is stopped or dies while somebody looks is a timeout or an
//! early end for them. A copy that a `fork` made holds the socket as long as it lives; it answers nobody.

use super::Stats;
use crate::driver::Shared;
use procession_parcel::codec;
use procession_process::watch::{self, WatchId};
use rustix::net::sockopt::socket_peercred;
use std::{
    fs,
    io::{self, Read, Write},
    os::{
        fd::AsFd,
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

const MAGIC: &[u8; 6] = b"PStats";
/// It changes with everything that [`Stats`] holds.
const VERSION: u16 = 1;
/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(2);
/// How many are answered at once in one process; others are turned away.
const AT_ONCE: usize = 4;
/// No answer is larger: 64 MiB are some hundred thousand workers.
const LARGEST: u64 = 64 << 20;

/// Where a pool can be seen, if anywhere.
#[derive(Debug, Default)]
pub(crate) struct View {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    watch: Option<WatchId>,
    closed: bool,
}

impl View {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It cannot be seen any more.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        let watch = state.watch.take();
        drop(state);
        if let Some(watch) = watch {
            watch::unwatch(watch);
        }
    }
}

/// Lets a pool be seen. Where the system does not let it, it cannot be seen, and that is all.
pub(crate) fn serve(shared: &Arc<Shared>) {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let listen = || {
        let name = format!("{}{number}", prefix(std::process::id()));
        let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?)?;
        listener.set_nonblocking(true)?;
        io::Result::Ok(Arc::new(listener))
    };
    if let Ok(listener) = listen() {
        watch_for_visitors(&listener, shared);
    }
}

fn prefix(pid: u32) -> String {
    format!("procession-pool/{pid}/")
}

fn watch_for_visitors(listener: &Arc<UnixListener>, shared: &Arc<Shared>) {
    let mut state = shared.view.state();
    if state.closed {
        return;
    }
    let (door, weak) = (listener.clone(), Arc::downgrade(shared));
    let callback = Box::new(move || {
        while let Ok((visitor, _)) = door.accept() {
            answer(visitor, &weak);
        }
        if let Some(shared) = weak.upgrade() {
            watch_for_visitors(&door, &shared);
        }
    });
    state.watch = watch::watch(listener.as_fd(), callback).ok();
}

/// Answers one who looks.
fn answer(visitor: UnixStream, shared: &Weak<Shared>) {
    static ANSWERING: AtomicUsize = AtomicUsize::new(0);
    struct Turn;
    impl Drop for Turn {
        fn drop(&mut self) {
            ANSWERING.fetch_sub(1, Ordering::Relaxed);
        }
    }
    let user = socket_peercred(&visitor).map(|peer| peer.uid);
    if !user.is_ok_and(|user| user == rustix::process::geteuid() || user.is_root()) {
        return;
    }
    let busy = ANSWERING.fetch_add(1, Ordering::Relaxed) >= AT_ONCE;
    let turn = Turn;
    if busy {
        return;
    }
    let shared = shared.clone();
    let thread = thread::Builder::new().name("procession-view".to_owned());
    // Without a thread there is no answer.
    let _ = thread.spawn(move || {
        let _turn = turn;
        let Some(shared) = shared.upgrade() else { return };
        let stats = Stats::of(&shared);
        drop(shared);
        let _ = send(visitor, &stats);
    });
}

fn send(mut visitor: UnixStream, stats: &Stats) -> io::Result<()> {
    visitor.set_nonblocking(false)?;
    visitor.set_write_timeout(Some(PATIENCE))?;
    let mut message = MAGIC.to_vec();
    message.extend_from_slice(&VERSION.to_le_bytes());
    codec::encode(stats, &mut message).map_err(io::Error::other)?;
    visitor.write_all(&message)
}

/// What the pools of a running process do, the oldest first, seen from any process of the same user, or of root's, in the same
/// network namespace: pools of processes that do not want to be [hidden](crate::Builder::visible), and pools of threads that want
/// to be [visible](crate::threads::Builder::visible). It costs them as much as [`Pool::stats`](crate::Pool::stats).
///
/// ```no_run
/// for stats in procession_pool::seeing::look(4711)? {
///     println!("{stats}");
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
///
/// `NotFound` if that process has no pool that can be seen, or is not there. `TimedOut` or `WouldBlock` if it does not answer
/// within two seconds: it is stopped, or has too many visitors. `InvalidData` if it was built with another version of this
/// crate.
pub fn look(pid: u32) -> io::Result<Vec<Stats>> {
    let prefix = format!("@{}", prefix(pid));
    let sockets = fs::read_to_string("/proc/net/unix")?;
    let mut numbers: Vec<u32> = sockets
        .lines()
        .filter_map(|line| line.split_whitespace().next_back()?.strip_prefix(&prefix)?.parse().ok())
        .collect();
    numbers.sort_unstable();
    // Each connection has the name of its listener.
    numbers.dedup();
    let mut found = Vec::new();
    for number in numbers {
        match fetch(pid, number) {
            Ok(stats) => found.push(stats),
            // It has ended meanwhile, or is a stranger's.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => {}
            Err(error) => return Err(error),
        }
    }
    if found.is_empty() {
        let why = format!("process {pid} has no pool that this user can see");
        return Err(io::Error::new(io::ErrorKind::NotFound, why));
    }
    Ok(found)
}

fn fetch(pid: u32, number: u32) -> io::Result<Stats> {
    let name = format!("{}{number}", self::prefix(pid));
    let stream = UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?)?;
    let peer = socket_peercred(&stream)?;
    let is_its = u32::try_from(peer.pid.as_raw_nonzero().get()).is_ok_and(|peer| peer == pid);
    if !is_its
        || !(peer.uid == rustix::process::geteuid()
            || peer.uid.is_root()
            || rustix::process::geteuid().is_root())
    {
        return Err(io::Error::from(io::ErrorKind::NotFound));
    }
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut message = Vec::new();
    stream.take(LARGEST).read_to_end(&mut message)?;
    if message.is_empty() {
        let why = format!("process {pid} did not answer: its pool has ended, or too many look at it");
        return Err(io::Error::new(io::ErrorKind::TimedOut, why));
    }
    let wrong = |why: &str| {
        let why = format!("what process {pid} says of its pool cannot be read: {why}");
        io::Error::new(io::ErrorKind::InvalidData, why)
    };
    let rest = message.strip_prefix(MAGIC).ok_or_else(|| wrong("it is something else"))?;
    let (version, encoded) = rest.split_first_chunk::<2>().ok_or_else(|| wrong("it is cut off"))?;
    if u16::from_le_bytes(*version) != VERSION {
        return Err(wrong("it was built with another version of procession"));
    }
    codec::decode(encoded).map_err(|error| wrong(&error.to_string()))
}
