//! The helper that outlives this process and tidies up after it (`procession_sys::guardian`).
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
    sync::atomic::{AtomicU32, Ordering},
};

/// What `ps` shows of it.
const TITLE: &str = "procession: guardian";

/// This process's helper. The lock is held over every fork, and taken within no other.
static GUARDIAN: OverFork<Option<PidFd>> = OverFork::new(None);
/// The process whose thread is starting one, or 0.
static STARTING: AtomicU32 = AtomicU32::new(0);

/// Offers helpers to the crates that do not know this one.
pub(crate) fn prepare() {
    hooks::around_fork(hooks::ForkHooks {
        before: Some(|| GUARDIAN.hold()),
        in_parent: Some(|| GUARDIAN.release()),
        in_child: Some(|| GUARDIAN.reset(|guardian| *guardian = None)),
    });
    guardian::provide(ensure);
}

fn ensure(work: guardian::Work, argument: &str) -> io::Result<()> {
    let other = |error: Error| match error.os_error() {
        Some(errno) => io::Error::from_raw_os_error(errno),
        None => io::Error::other(error.to_string()),
    };
    {
        let mut guardian = GUARDIAN.lock();
        if let Some(pidfd) = guardian.as_ref() {
            if !pidfd.has_ended()? {
                return Ok(());
            }
            // Somebody has killed it.
            let _ = pidfd.reap();
            *guardian = None;
        }
    }
    crate::boot::check_initialised(true).map_err(other)?;
    let me = std::process::id();
    let before = STARTING.load(Ordering::Relaxed);
    // Another thread of this process is at it. (In a forked child the number is another process's.)
    if before == me || STARTING.compare_exchange(before, me, Ordering::AcqRel, Ordering::Relaxed).is_err() {
        return Ok(());
    }
    let started = start(work, argument);
    if let Ok(pidfd) = started {
        *GUARDIAN.lock() = Some(pidfd);
        STARTING.store(0, Ordering::Release);
        return Ok(());
    }
    STARTING.store(0, Ordering::Release);
    started.map(drop).map_err(other)
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
