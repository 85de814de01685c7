//! The helpers that outlive this process and tidy up after it (`procession_sys::guardian`): one for each kind of work, which
//! is one process for named segments, and one for sockets in the file system, where a program has such.
//!
//! # Protocol
//!
//! The helper is this program, executed anew and caught before `main` like any child. It has no lifeline, a session of
//! its own, so that no terminal and no signal to a group ends it, and nothing open but what it needs. It sleeps on a
//! pidfd of its owner until that has ended, whatever ended it: by then the kernel has closed the owner's descriptors, and
//! with them its locks. Then it runs its work and ends. It runs nothing else of the program's: no child hooks, no `main`.
//!
//! The fork server cannot do this beside its own work: its lifeline kills it in the moment in which its asker dies, which
//! is what keeps orphans of its preload hooks from being possible.
//!
//! # When a process dies
//!
//! * The owner before it has executed the helper: there is none. What it owned is found by others, later.
//! * The owner after that: the helper finds its job complete, or its socket ended in the middle of it; then it leaves.
//! * The helper: its zombie is reaped, and another helper started, the next time somebody asks for one.
//! * A forked child asks for a helper of its own.
#![expect(unsafe_code, reason = "signals are ignored")]

use crate::{
    Error, Result, child,
    job::{Identity, Job, Session, Settings, Work},
    spawn,
    stdio::Slot,
};
use procession_parcel::{Outcome, Parcel, function::Erased};
use procession_sys::{OverFork, PidFd, guardian, hooks};
use std::{
    ffi::{OsStr, OsString},
    io,
    os::fd::OwnedFd,
};

/// What `ps` shows of it.
const TITLE: &str = "procession: guardian";

/// This process's helpers, one for each work: two or three at most. The lock is held over every fork, and taken within no
/// other.
static GUARDIANS: OverFork<Vec<Guardian>> = OverFork::new(Vec::new());

struct Guardian {
    /// The work's address: a work of two names does the same.
    work: usize,
    /// Nothing while a thread of this process is starting it.
    pidfd: Option<PidFd>,
}

/// Offers helpers to the crates that do not know this one.
pub(crate) fn prepare() {
    hooks::around_fork(hooks::ForkHooks {
        before: Some(|| GUARDIANS.hold()),
        in_parent: Some(|| GUARDIANS.release()),
        in_child: Some(|| GUARDIANS.reset(Vec::clear)),
    });
    guardian::provide(ensure);
}

fn ensure(work: guardian::Work, argument: &str) -> io::Result<()> {
    let other = |error: Error| match error.os_error() {
        Some(errno) => io::Error::from_raw_os_error(errno),
        None => io::Error::other(error.to_string()),
    };
    let address = work as usize;
    // Not under the lock below, since it may fork.
    crate::boot::check_initialised(true).map_err(other)?;
    {
        let mut guardians = GUARDIANS.lock();
        if let Some(at) = guardians.iter().position(|guardian| guardian.work == address) {
            match &guardians[at].pidfd {
                Some(pidfd) if pidfd.has_ended()? => {
                    // Somebody has killed it.
                    let _ = pidfd.reap();
                    guardians.remove(at);
                }
                // It is there, or another thread is at it.
                _ => return Ok(()),
            }
        }
        guardians.push(Guardian { work: address, pidfd: None });
    }
    let started = start(work, argument);
    let mut guardians = GUARDIANS.lock();
    let mine = guardians.iter().position(|guardian| guardian.work == address && guardian.pidfd.is_none());
    match (started, mine) {
        (Ok(pidfd), Some(at)) => guardians[at].pidfd = Some(pidfd),
        (Ok(pidfd), None) => guardians.push(Guardian { work: address, pidfd: Some(pidfd) }),
        (Err(error), at) => {
            at.map(|at| guardians.remove(at));
            drop(guardians);
            return Err(other(error));
        }
    }
    Ok(())
}

fn start(work: guardian::Work, argument: &str) -> Result<PidFd> {
    crate::stdio::fill_standard_streams();
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
        // It must not keep the owner's streams open.
        settings: Settings {
            stdio: [Slot::Null, Slot::Null, Slot::Null],
            session: Session::Own,
            ..Settings::default()
        },
        lifeline: None,
        parent: None,
        #[cfg(feature = "tracing")]
        log: crate::log::Inherited::default(),
        input: None,
        work: Work::Guardian {
            owner: spawn::own_pidfd()?,
            work: Erased::new(work).map_err(|error| Error::parcel("refer to a function", error))?,
            argument: argument.to_owned(),
        },
    };
    let parcel = Parcel::pack(&job).map_err(|error| Error::parcel("encode a job", error))?;
    drop(job);
    let (socket, theirs) = spawn::job_socket()?;
    spawn::send(&socket, &[&parcel])?;
    let program = OsString::from("/proc/self/exe");
    let (_, pidfd) = spawn::execute(TITLE, &program, OsStr::new(TITLE), nonce, None, theirs)?;
    // What waits in the socket can be read without us.
    Ok(pidfd)
}

/// The helper's life.
pub(crate) fn serve(socket: OwnedFd, owner: OwnedFd, work: &Erased, argument: &str) -> ! {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT] {
        // SAFETY: a disposition without a handler.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    drop(socket);
    // It holds no file system that somebody wants to unmount.
    let _ = rustix::process::chdir("/");
    match PidFd::from(owner).wait(None) {
        Ok(true) => {}
        _ => child::quit(1),
    }
    let argument = Parcel::pack(&argument.to_owned());
    let done = argument.is_ok_and(|argument| matches!(work.call(argument), Outcome::Value(_)));
    child::quit(i32::from(!done))
}
