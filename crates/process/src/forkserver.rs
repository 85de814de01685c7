//! The fork server start method: a small, single-threaded helper forks on request.
//!
//! # Protocol
//!
//! The server is this program, executed anew and caught before `main` like any child. It is started with the first
//! request, serves the one process that started it, and ends when that process closes its socket or dies.
//!
//! A request is one byte with the child's end of a job socket as descriptor. The server clones itself with
//! `CLONE_PARENT`, so that the new process is a direct child of the asking one, and answers with a pidfd. Meanwhile the
//! asker writes the job, with the umask and small arguments in it, and larger arguments into the job socket. The clone
//! goes on as any child does (`child`); should the job not come to be, it is killed, having run nothing.
//!
//! The asker's requests exclude each other by the lock of the server's place. Before the first one it waits for a byte
//! that says that the preload hooks are done.
//!
//! # What a clone has from the server
//!
//! Environment, working directory, umask and standard streams are the asker's at the time of the request. So are user,
//! groups, `no_new_privs` and seccomp mode: a server that was started with others is replaced. Resource limits,
//! namespaces, root directory, affinity and session are those of the time when the server was started.
//!
//! # When the server is killed
//!
//! The kernel writes the pid of a clone into a page that asker and server share, before the clone runs. The asker
//! clears that word before each request. So when the socket breaks in the middle of a request:
//!
//! * the word is 0: no child came into being. A new server is started, and the request made again;
//! * it holds a pid: the child is there, and ours, not reaped by anyone; the start has succeeded.
//!
//! So a start is neither lost nor done twice, wherever the server dies. Its children are not the server's, and live
//! on.
//!
//! # When the asker is killed
//!
//! The server reads the end of its socket, and its lifeline kills it besides. A request that was made is served or
//! not; the child finds its lifeline hung up and leaves before it runs anything.
#![expect(unsafe_code, reason = "a shared page")]

mod serve;
mod surroundings;

pub(crate) use serve::{serve, server_ignores_interrupt};
pub(crate) use surroundings::ignores_interrupt;

use crate::{
    Error, Result,
    builder::Plan,
    fork,
    handle::Started,
    job::{Identity, Job, Settings, Work},
    lifeline::{self, Keeper},
    spawn,
    stdio::Slot,
};
use procession_parcel::{Bytes, Parcel, function::Erased};
use procession_sys::{Deadline, PidFd};
use rustix::{
    mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap},
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags, recvmsg, sendmsg,
    },
};
use std::{
    ffi::{OsStr, OsString},
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    ptr::NonNull,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering},
    },
    time::Duration,
};
use surroundings::{Credentials, Environment, credentials, environment, environment_is, umask};

/// What `ps` shows of the server.
const TITLE: &str = "procession: fork server";
/// How long a request may take. A server that is stopped or swamped for longer is replaced.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the preload hooks may take.
const PRELOAD_PATIENCE: Duration = Duration::from_secs(300);
/// What the server gets to leave by itself when it is no longer needed.
const LEAVE: Duration = Duration::from_secs(2);
const PAGE: usize = 4096;
/// Arguments up to this size travel in the job, which spares both sides a message.
const INLINE: usize = 4096;

/// The page that asker and server share: one word, the pid of the last clone.
struct Page(NonNull<AtomicU32>);
// SAFETY: the page holds one atomic word and stays mapped as long as this value lives.
unsafe impl Send for Page {}

impl Page {
    fn create() -> io::Result<(OwnedFd, Page)> {
        let fd = rustix::fs::memfd_create("procession-fork-server", rustix::fs::MemfdFlags::CLOEXEC)?;
        rustix::fs::ftruncate(&fd, PAGE as u64)?;
        let page = Page::map(&fd)?;
        Ok((fd, page))
    }

    fn map(fd: &OwnedFd) -> io::Result<Page> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, at an address of the kernel's choice.
        let start = unsafe { mmap(std::ptr::null_mut(), PAGE, access, MapFlags::SHARED, fd, 0) }?;
        NonNull::new(start.cast()).map(Page).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Leaves it out of clones of this process.
    fn keep_to_this_process(&self) {
        // SAFETY: mapped by `map` with this length; the mapping stays as it is.
        let _ = unsafe { madvise(self.0.as_ptr().cast(), PAGE, Advice::LinuxDontFork) };
    }

    fn word(&self) -> &AtomicU32 {
        // SAFETY: the page is mapped, aligned and zeroed when it was made; only atomics touch it.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length; no reference outlives `self`.
        let _ = unsafe { munmap(self.0.as_ptr().cast(), PAGE) };
    }
}

/// The asker's side of its server.
pub(crate) struct Server {
    pid: u32,
    pidfd: PidFd,
    socket: OwnedFd,
    page: Page,
    _keeper: Keeper,
    /// In a forked copy of the asker the server is not a child.
    owner: u32,
    /// The environment that the server, and so each clone, was executed with.
    environment: Environment,
    /// The credentials that each clone inherits.
    credentials: Credentials,
    /// Whether it has said that its preload hooks are done.
    ready: AtomicBool,
}

/// Set in the server, which starts no processes.
static SERVING: AtomicBool = AtomicBool::new(false);

pub(crate) fn is_serving() -> bool {
    SERVING.load(Ordering::Relaxed)
}

type Place = Mutex<Option<Server>>;

/// The place of this process's server; null until it is first asked for. A start holds its lock for as long as it takes,
/// so the lock is not held over forks: a forked child gets a new place.
static PLACE: AtomicPtr<Place> = AtomicPtr::new(std::ptr::null_mut());

fn place() -> &'static Place {
    let fresh = || Box::into_raw(Box::new(Mutex::new(None)));
    let mut place = PLACE.load(Ordering::Acquire);
    if place.is_null() {
        let new = fresh();
        match PLACE.compare_exchange(std::ptr::null_mut(), new, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => place = new,
            Err(other) => {
                // SAFETY: nobody else has seen it.
                drop(unsafe { Box::from_raw(new) });
                place = other;
            }
        }
    }
    // SAFETY: a place is leaked once it is in use.
    unsafe { &*place }
}

/// Waits for the place of this process's server, as long as a start takes.
fn server() -> MutexGuard<'static, Option<Server>> {
    place().lock().unwrap_or_else(PoisonError::into_inner)
}

/// In a forked child: the server goes on serving the parent. Its lifeline was closed here with all others.
pub(crate) fn forget() {
    let place = PLACE.swap(std::ptr::null_mut(), Ordering::AcqRel);
    // SAFETY: null, or a place that was leaked when it came into use.
    if let Some(place) = unsafe { place.as_ref() } {
        // If another thread of the parent was in a start, its copy of the socket stays open here.
        if let Ok(mut place) = place.try_lock() {
            drop(place.take());
        }
    }
}

/// Lets the server go, if there is one, and reaps it.
pub(crate) fn shut_down() {
    let Some(server) = server().take() else { return };
    if server.owner == std::process::id() {
        server.close();
    }
}

/// Starts this process's fork server now rather than with the first request, so that it is as small and as early as
/// can be. Not needed for anything else.
///
/// # Errors
///
/// As [`Process::spawn`](crate::Process::spawn).
pub fn start_fork_server() -> Result<()> {
    crate::boot::check_initialised(true)?;
    crate::stdio::fill_standard_streams();
    crate::children::prepare();
    let mut place = server();
    if place.as_ref().is_none_or(|server| server.pidfd.has_ended().unwrap_or(true)) {
        replace(&mut place)?;
    }
    Ok(())
}

/// The pid of this process's fork server, if one runs: for tests and for those who look at `ps`.
#[must_use]
pub fn fork_server_pid() -> Option<u32> {
    server().as_ref().filter(|server| !server.pidfd.has_ended().unwrap_or(true)).map(|server| server.pid)
}

/// Reaps a server that is dead or of no more use.
fn bury(place: &mut Option<Server>) {
    if let Some(server) = place.take().filter(|server| server.owner == std::process::id()) {
        let Server { pidfd, _keeper, .. } = server;
        let _ = pidfd.signal(libc::SIGKILL);
        // Kills it too if this process may not signal it any more.
        drop(_keeper);
        let _ = pidfd.wait(Some(Deadline::after(LEAVE)));
        let _ = pidfd.reap();
    }
}

fn replace(place: &mut Option<Server>) -> Result<()> {
    bury(place);
    *place = Some(Server::launch(environment())?);
    Ok(())
}

impl Server {
    fn launch(environment: Environment) -> Result<Server> {
        let (end, keeper) =
            lifeline::pair().map_err(|error| Error::system("create the fork server's lifeline", error))?;
        let (page_fd, page) =
            Page::create().map_err(|error| Error::system("create the fork server's page", error))?;
        let me = crate::current_process();
        let nonce = spawn::nonce()?;
        let job = Job {
            nonce,
            seal: spawn::seal_key()?,
            build: procession_parcel::function::image().build_id(),
            identity: Identity {
                name: TITLE.to_owned(),
                path: me.path().to_vec(),
                daemon: true,
                parent_pid: std::process::id(),
                parent_name: me.name().to_owned(),
                method: crate::StartMethod::Spawn,
                default_method: crate::StartMethod::default_method(),
            },
            // The children bring their own streams; the server must not keep the asker's stdout open.
            settings: Settings { stdio: [Slot::Null, Slot::Null, Slot::Keep], ..Settings::default() },
            lifeline: Some(end.into()),
            parent: None,
            #[cfg(feature = "tracing")]
            log: crate::log::Inherited::default(),
            input: None,
            work: Work::ForkServer { page: page_fd.into(), argv0: spawn::argv0() },
        };
        let parcel = Parcel::pack(&job).map_err(|error| Error::parcel("encode a job", error))?;
        drop(job);
        let (socket, theirs) = spawn::job_socket()?;
        spawn::send(&socket, &[&parcel])?;
        let program = OsString::from("/proc/self/exe");
        let (pid, pidfd) =
            spawn::execute(TITLE, &program, OsStr::new(TITLE), nonce, Some(environment.clone()), theirs)?;
        Ok(Server {
            pid,
            pidfd,
            socket,
            page,
            _keeper: keeper,
            owner: std::process::id(),
            environment,
            credentials: credentials(),
            ready: AtomicBool::new(false),
        })
    }

    /// Lets it end by itself, and reaps it.
    fn close(self) {
        // A forked process may still hold the socket, so closing it is not enough.
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
        drop(self.socket);
        if !self.pidfd.wait(Some(Deadline::after(LEAVE))).unwrap_or(false) {
            let _ = self.pidfd.signal(libc::SIGKILL);
            let _ = self.pidfd.wait(Some(Deadline::after(LEAVE)));
        }
        let _ = self.pidfd.reap();
    }

    /// Asks for a child. `Ok(None)` if the server died before it made one.
    fn request(&self, job: BorrowedFd<'_>, meanwhile: impl FnOnce()) -> Result<Option<(u32, PidFd)>> {
        self.page.word().store(0, Ordering::SeqCst);
        match self.exchange(job, meanwhile) {
            Ok((pid, pidfd)) => Ok(Some((pid, pidfd))),
            Err(Refusal::Server(errno)) => {
                match self.page.word().load(Ordering::SeqCst) {
                    0 => {}
                    // It came into being, and cannot be handed over.
                    pid => reap_by_pid(pid),
                }
                if errno == libc::EINVAL {
                    return Err(Error::unsupported(
                        "failed to fork in the fork server: invalid argument; it is the first process of a new pid \
                         namespace, which cannot make siblings: use the spawn start method",
                    ));
                }
                Err(Error::system("fork in the fork server", io::Error::from_raw_os_error(errno)))
            }
            Err(Refusal::Asker(error)) => self.child_of_the_dead(error),
        }
    }

    /// What became of a request whose answer cannot be had.
    fn child_of_the_dead(&self, error: io::Error) -> Result<Option<(u32, PidFd)>> {
        // From here on no clone can come into being.
        let _ = self.pidfd.signal(libc::SIGKILL);
        let dead = self.pidfd.wait(Some(Deadline::after(LEAVE))).unwrap_or(false);
        match self.page.word().load(Ordering::SeqCst) {
            0 if dead && self.ready.load(Ordering::Relaxed) => Ok(None),
            0 if dead && error.kind() == io::ErrorKind::TimedOut => Err(Error::unsupported(format!(
                "failed to start a process: the preload hooks of the fork server took longer than {} s",
                PRELOAD_PATIENCE.as_secs()
            ))),
            0 if dead => Ok(None),
            0 => Err(Error::system("ask the fork server for a child", error)),
            // Our child, since it was cloned with CLONE_PARENT, and not reaped, since nobody else knows of it.
            pid => match PidFd::open(pid) {
                Ok(pidfd) => Ok(Some((pid, pidfd))),
                Err(error) => {
                    reap_by_pid(pid);
                    Err(Error::system(format!("open a pidfd of process {pid}"), error))
                }
            },
        }
    }

    /// Waits for the preload hooks, or for the server's death.
    fn wait_until_ready(&self) -> Result<(), Refusal> {
        if self.ready.load(Ordering::Relaxed) {
            return Ok(());
        }
        let deadline = Deadline::after(PRELOAD_PATIENCE);
        // The end of the server is the end of the socket.
        if !procession_sys::fd::readable(self.socket.as_fd(), Some(deadline)).map_err(Refusal::Asker)? {
            return Err(Refusal::Asker(io::ErrorKind::TimedOut.into()));
        }
        let (length, _) = receive(self.socket.as_fd(), &mut [0])?;
        if length == 0 {
            return Err(Refusal::Asker(io::ErrorKind::UnexpectedEof.into()));
        }
        self.ready.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn exchange(&self, job: BorrowedFd<'_>, meanwhile: impl FnOnce()) -> Result<(u32, PidFd), Refusal> {
        self.wait_until_ready()?;
        let deadline = Deadline::after(PATIENCE);
        let fds = [job];
        let mut space = [MaybeUninit::<u8>::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&fds));
        // A place for the pidfd, so that a child that could not be watched does not come into being.
        let place = rustix::io::fcntl_dupfd_cloexec(&self.socket, 3)
            .map_err(|error| Refusal::Server(error.raw_os_error()))?;
        retry(|| sendmsg(&self.socket, &[IoSlice::new(&[REQUEST])], &mut control, SendFlags::NOSIGNAL))?;
        meanwhile();
        if !procession_sys::fd::readable(self.socket.as_fd(), Some(deadline)).map_err(Refusal::Asker)? {
            return Err(Refusal::Asker(io::ErrorKind::TimedOut.into()));
        }
        drop(place);
        let mut answer = [0_u8; 8];
        let (length, pidfd) = receive(self.socket.as_fd(), &mut answer)?;
        if length != answer.len() {
            return Err(Refusal::Asker(io::ErrorKind::UnexpectedEof.into()));
        }
        let [a, b, c, d, e, f, g, h] = answer;
        let errno = i32::from_le_bytes([e, f, g, h]);
        if errno != 0 {
            return Err(Refusal::Server(errno));
        }
        let pid = u32::from_le_bytes([a, b, c, d]);
        match pidfd {
            Some(pidfd) => Ok((pid, PidFd::from(pidfd))),
            // No descriptor was left for it here.
            None => Err(Refusal::Asker(io::Error::from_raw_os_error(libc::EMFILE))),
        }
    }
}

enum Refusal {
    /// The server says why it could not clone.
    Server(i32),
    /// The request could not be made, or the answer not be had.
    Asker(io::Error),
}

impl From<rustix::io::Errno> for Refusal {
    fn from(error: rustix::io::Errno) -> Refusal {
        Refusal::Asker(error.into())
    }
}

const REQUEST: u8 = 1;

/// Kills and reaps a child of ours that has no pidfd.
fn reap_by_pid(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
    }
}

fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            other => return other,
        }
    }
}

/// One message, and the descriptor with it. Without memory of its own: after each clone the server would copy the pages
/// of its heap that it writes.
fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> rustix::io::Result<(usize, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::<u8>::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message =
        retry(|| recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC))?;
    let mut fd = None;
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut fds) = part {
            fd = fds.next();
        }
    }
    Ok((message.bytes, fd))
}

pub(crate) fn start(mut plan: Plan, work: Erased, input: Parcel) -> Result<Started> {
    let alone = fork::is_single_threaded();
    plan.settings.ignore_interrupt = ignores_interrupt();
    // Held over the whole start: whether the environment is sent depends on the server that is asked.
    let mut place = server();
    if place.as_ref().is_some_and(|server| server.credentials != credentials()) {
        bury(&mut place);
    }
    let environment_is_here = place.as_ref().is_some_and(|server| environment_is(&server.environment, alone));
    if plan.settings.environment.is_none() && !environment_is_here {
        plan.settings.environment = Some(environment());
    }
    let (job, kept) = spawn::job(plan, [0; 16], Work::Call(work))?;
    let (ours, theirs) = spawn::job_socket()?;
    let mut sent = Ok(());
    let child = ask(&mut place, theirs.as_fd(), || sent = send_job(&ours, job, &input, alone));
    drop((place, theirs));
    let (pid, pidfd) = child?;
    if let Err(error) = sent {
        // The child has nothing to run: it waits for a job, or has seen the end of a part of one.
        let _ = pidfd.signal(libc::SIGKILL);
        let _ = pidfd.wait(Some(Deadline::after(LEAVE)));
        let _ = pidfd.reap();
        return Err(error);
    }
    Ok(kept.started(pid, pidfd, ours))
}

/// Writes what the child waits for, while the server clones.
fn send_job(socket: &OwnedFd, mut job: Job, input: &Parcel, alone: bool) -> Result<()> {
    job.settings.umask = job.settings.umask.or_else(|| umask(alone));
    let fits = input.fds().is_empty() && input.bytes().len() <= INLINE;
    job.input = fits.then(|| Bytes(input.bytes().to_vec()));
    let parcel = Parcel::pack(&job).map_err(|error| Error::parcel("encode a job", error))?;
    drop(job);
    if fits { spawn::send(socket, &[&parcel]) } else { spawn::send(socket, &[&parcel, input]) }
}

/// Has a child made, by a new server if the old one is dead. `meanwhile` runs once, while a server is at work.
fn ask(place: &mut Option<Server>, job: BorrowedFd<'_>, meanwhile: impl FnOnce()) -> Result<(u32, PidFd)> {
    /// A server that dies this often in a row is being killed on purpose.
    const TRIES: u32 = 5;
    // A server in the place of a dead one has its environment: a job that says nothing of it relies on that.
    let mut dead = None;
    let mut meanwhile = Some(meanwhile);
    for _ in 0..TRIES {
        if place.is_none() {
            *place = Some(Server::launch(dead.take().unwrap_or_else(environment))?);
        }
        if let Some(server) = place.as_ref() {
            match server.request(job, || meanwhile.take().into_iter().for_each(|meanwhile| meanwhile())) {
                Ok(Some(child)) => return Ok(child),
                Ok(None) => dead = Some(server.environment.clone()),
                Err(error) => {
                    if server.pidfd.has_ended().unwrap_or(true) {
                        bury(place);
                    }
                    return Err(error);
                }
            }
            bury(place);
        }
    }
    Err(Error::unsupported(format!("failed to start a process: the fork server died {TRIES} times in a row")))
}
